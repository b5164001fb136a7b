"""Whatever happens every so many batches happens in every experiment, twice past each cadence, and disturbs nothing.

A defect that shows after an hour of training is looked for in a second: logging, images, checkpoints and validation at
2 and at 3 batches, with gradients of two batches in one step, under both loops (with a discriminator and without).
"""

import csv
import math

import pytest
from worlds import arguments_of

from sightword.cli.compose import compose_config
from sightword.engine import run as runs
from sightword.engine.start import start
from sightword.engine.system import experiments
from sightword.storage.checkpoint import read_checkpoint
from sightword.viz import cloud

STEPS = 7
CADENCES = {
    "log and save at 2, images and validation at 3": {"log": 2, "save": 2, "images": 3, "val": 3},
    "log and save at 3, images and validation at 2": {"log": 3, "save": 3, "images": 2, "val": 2},
}


def multiples(every):
    return list(range(every, STEPS + 1, every))


@pytest.mark.parametrize("cadence", CADENCES.values(), ids=CADENCES)
@pytest.mark.parametrize("experiment", [name for name, _ in experiments()])
def test_an_experiment_trains_past_every_cadence(experiment, cadence, world, tmp_path, monkeypatch):
    monkeypatch.setattr(cloud, "SHRINK", 1)  # a quarter of the pixels: to draw is most of what a tiny room costs
    every = [f"trainer.{name}_every={batches}" for name, batches in cadence.items()]
    arguments = [*arguments_of(experiment, world), *every, f"trainer.steps={STEPS}", "optim.accumulate=2"]
    result = start(compose_config([*arguments, f"out={tmp_path}", "name=it"]))
    folder = tmp_path / experiment / "it"
    assert result.finished
    assert result.folder == folder
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained = {int(row["step"]): float(row["train/total_loss"]) for row in rows if row["train/total_loss"]}
    validated = [int(row["step"]) for row in rows if any(row[name] for name in row if name.startswith("val/"))]
    assert list(trained) == multiples(cadence["log"])
    assert all(math.isfinite(loss) for loss in trained.values())
    assert validated == sorted({*multiples(cadence["val"]), STEPS})
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["batches"] == STEPS
    drawn = {int(file.stem.rpartition("_")[2]) for file in folder.glob("images/train_*.png")}
    assert drawn <= set(multiples(cadence["images"]))
    assert {name.removeprefix("val/") for name in result.metrics} <= runs.make_evaluator(
        runs.read_config(folder), runs.restore(folder, "last").task
    ).metric_names()
