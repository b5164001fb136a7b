"""What every test needs: one thread (two fight on a small machine), and small things to train."""

import os
from shutil import which

import numpy as np
import pytest
import torch
from made import write_clip
from PIL import Image

torch.set_num_threads(1)

CHROMIUM = os.environ.get("CHROMIUM") or which("chromium") or which("chromium-browser") or which("google-chrome")
OPTIONS = [
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--ignore-gpu-blocklist",
]


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


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window, for tests marked `browser`."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra: pip install 'sightword[browser]'")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium, or CHROMIUM= its path")
    options = [*OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()
