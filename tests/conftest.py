"""What every test needs: one thread (two fight on a small machine), and small things to train."""

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of eight small pictures in colour, each unlike the others."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((50, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def tiny(photos):
    """The words that make any tokenizer experiment take a second: appended to sightword train experiment=…"""
    return [
        f"data.root={photos}",
        "data.image_size=16",
        "data.batch_size=2",
        "data.num_workers=0",
        "data.crops=2",
        "system.latent_channels=8",
        "system.encoder_channels=[8,8]",
        "system.decoder_channels=[8,8]",
        "system.num_res_blocks=1",
        "system.num_embeddings=16",
        "system.use_lpips=false",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.threads=1",
        "trainer.log_every=1",
    ]


def assert_same(one, other):
    """Two checkpoints hold the same numbers: weights, averages, optimisers, counters."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other
