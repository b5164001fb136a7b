"""A server of all five systems, trained for two batches each on worlds of a handful of items."""

import time
from importlib.util import find_spec

import pytest

#: Without the extra `serve` nothing here can be imported; `[dev]` brings it, so that CI always tests the server.
collect_ignore_glob = [] if all(map(find_spec, ("fastapi", "python_multipart", "httpx"))) else ["test_*.py"]

EXPERIMENTS = (
    "tokenizer/mini",
    "intent/stage1",
    "retrieval/phase3_mini",
    "skeleton/visece_pacl_mini",
    "points/bifusion_mini",
)


@pytest.fixture(scope="session")
def runs(world, tmp_path_factory):
    """System → a run that was trained for two batches."""
    from worlds import arguments_of

    from sightword.cli.train import train_in

    found = {}
    for experiment in EXPERIMENTS:
        system = experiment.split("/")[0]
        folder = tmp_path_factory.mktemp("served") / system
        assert train_in(folder, [*arguments_of(experiment, world), "trainer.steps=2"])
        found[system] = folder
    return found


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of an exported tokenizer that was not trained."""
    from sightword.systems.tokenizer.config import TokenizerConfig
    from sightword.systems.tokenizer.predict import ImageTokenizer
    from sightword.systems.tokenizer.system import SYSTEM

    sizes = {"encoder_channels": [8, 8], "decoder_channels": [8, 8], "num_res_blocks": 1, "latent_channels": 8}
    config = TokenizerConfig(**sizes, num_embeddings=16, embedding_dim=8, use_lpips=False)
    folder = tmp_path_factory.mktemp("exported") / "model"
    ImageTokenizer.from_task(SYSTEM.task(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sources(world):
    from sightword.serve.setting import Sources

    root = world["root"]
    return Sources(
        images={"intent": (root / "intent",), "tokenizer": (world["photos"],)},
        gallery=(root / "people" / "CUHK-PEDES" / "imgs",),
        clips=root / "motion" / "annotations.pkl",
        scenes=(root / "rooms",),
    )


@pytest.fixture(scope="session")
def settings(runs, sources):
    from sightword.serve.setting import Limits, Settings

    limits = Limits(
        body=1 << 20, json=1 << 18, pixels=100_000, items=4, top=20, points=500, galleries=2, keypoints=20_000
    )
    return Settings(tuple(map(str, runs.values())), sources, port=80, names=("testserver",), limits=limits)


@pytest.fixture(scope="session")
def client(settings):
    """A client of the server, whose models are loaded."""
    from fastapi.testclient import TestClient

    from sightword.serve.app import make_app

    with TestClient(make_app(settings)) as opened:
        until = time.monotonic() + 120
        while opened.get("/readyz").status_code != 200:
            assert time.monotonic() < until, opened.get("/readyz").json()
            time.sleep(0.05)
        yield opened
