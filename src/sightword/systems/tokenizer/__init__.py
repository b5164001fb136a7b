"""Image tokenizers, VQ-VAE and VQ-GAN: encode images as discrete codes and decode them."""
