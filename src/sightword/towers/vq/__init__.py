"""Image tokenizers: a VQ-VAE's networks, and published ones."""
