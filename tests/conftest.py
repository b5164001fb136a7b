"""What every test needs: one thread (two fight on a small machine), and small things to train."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

torch.set_num_threads(1)

SMALL_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever a run before it asked for; besides, a process forked from one that used two waits for ever."""
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


def write_clip(folder, vision=(), **options):
    """A CLIP of random weights in open_clip's own format, and open_clip's own network."""
    import open_clip

    config = {**SMALL_CLIP, **options, "vision_cfg": {**SMALL_CLIP["vision_cfg"], **dict(vision)}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms start as zeros and ones, which hide mistakes
                parameter.data += 0.1 * torch.randn_like(parameter)
    folder.mkdir(parents=True)
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return model


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory):
    """(folder, open_clip's network) of a small CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip") / "small"
    return folder, write_clip(folder)


@pytest.fixture(scope="session")
def small_clip():
    """The folder of the tiny CLIP that knows the small world's words: trained once on a machine, half a minute."""
    from sightword.miniature.clip import tiny_clip

    return tiny_clip()


@pytest.fixture(scope="session")
def world(tmp_path_factory, random_clip, photos):
    """Data for every system, so small that any experiment trains on it in a second: see `worlds`."""
    from worlds import write_worlds

    return write_worlds(tmp_path_factory.mktemp("world"), random_clip[0], photos)
