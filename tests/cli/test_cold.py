"""A command imports only what it uses. Each is executed in a process of its own, which lists its modules at the end."""

import json
import os
import subprocess
import sys

import pytest

from sightword.cli.main import main

HEAVY = {"lightning", "torchmetrics", "torchvision", "sklearn", "matplotlib", "scipy", "skimage", "lpips"}
HEAVY |= {"torch._dynamo", "torch.distributed.tensor", "sympy", "transformers", "timm", "open_clip", "pandas"}
PROGRAM = """
import json, sys
from sightword.cli.main import main
status = main(sys.argv[1:])
print(json.dumps([status, list(sys.modules)]))
"""


def imported(tmp_path, *argv):
    """Return the heavy modules that a command imports."""
    command = [sys.executable, "-c", PROGRAM, *map(str, argv)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr[-3000:]
    return HEAVY & set(modules)


def test_a_question_to_a_scene(world, tmp_path):
    scene = sorted((world["root"] / "rooms" / "2D").iterdir())[0]
    given = [f"scene={scene}", f"tower={world['clip']}", "dtype=fp32", "frames=1", f"out={tmp_path / 'ask'}", "chair"]
    assert imported(tmp_path, "ask", *given) == set()


def trained(world, out, experiment):
    """Train an experiment for one batch. Return its run."""
    from worlds import arguments_of

    assert main(["train", *arguments_of(experiment, world), "trainer.steps=1", f"out={out}", "name=it"]) == 0
    return out / experiment / "it"


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return {name: trained(world, out, name) for name in ("intent/stage1", "retrieval/irra_mini", "skeleton/slowonly")}


def test_an_explanation_of_a_photo(runs, photos, tmp_path):
    model = [f"model={runs['intent/stage1']}", "checkpoint=last"]
    given = [*model, f"image={photos / '0.png'}", f"out={tmp_path / 'show'}"]
    assert imported(tmp_path, "show", *given) == {"matplotlib"}  # which draws its charts


def test_a_sentence_to_a_gallery(runs, photos, tmp_path):
    model = [f"model={runs['retrieval/irra_mini']}", "checkpoint=last"]
    assert main(["index", *model, f"images={photos}", f"out={tmp_path / 'gallery'}"]) == 0
    given = [*model, f"index={tmp_path / 'gallery'}", f"out={tmp_path / 'search.png'}", "a woman in a red coat"]
    assert imported(tmp_path, "search", *given) == set()


def test_the_action_of_a_recording(runs, world, tmp_path):
    given = [f"model={runs['skeleton/slowonly']}", "checkpoint=last", f"out={tmp_path / 'recognised'}"]
    annotations = world["root"] / "motion" / "annotations.pkl"
    assert imported(tmp_path, "recognise", *given, f"annotations={annotations}") == {"matplotlib"}
