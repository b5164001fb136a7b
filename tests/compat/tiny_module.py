"""A tiny `VQVAEModel`, a quiet Trainer on the CPU, and images in memory."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from sightword.compat.lightning import VQVAEModel

TINY = {"latent_channels": 8, "encoder_channels": (8, 8), "decoder_channels": (8, 8), "num_res_blocks": 1}
TINY |= {"num_embeddings": 16, "embedding_dim": 8, "use_lpips": False, "log_every_n_steps": 1}
GAN = {"lambda_gan": 0.5, "disc_layers": 1}


def model_of(kind=VQVAEModel, **options):
    torch.manual_seed(0)
    return kind(**(TINY | options))


def trainer_of(logger=None, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", devices=1, logger=logger or False, **(quiet | options))


def images_of(count, seed=0):
    """Images (count, 3, 16, 16) in [-1, 1]."""
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def loader_of(count, batch_size, wrap=lambda images: images):
    """Batches in order. wrap: what a batch of images is given as."""
    return DataLoader([wrap(batch) for batch in images_of(count).split(batch_size)], batch_size=None)
