"""Images to discrete codes and back: VQ-VAE and VQ-GAN. Source: document 003."""
