"""A run directory carries the files that its model is made of, and predicts wherever it is copied."""

import json
import os
import shutil

import pytest
import torch
import worlds

from sightword.cli.main import main
from sightword.engine import input as inputs
from sightword.engine.run import read_config, restore
from sightword.errors import MissingFileError, SightwordError

EXPERIMENTS = ["intent/stage1", "retrieval/phase3_mini", "skeleton/visece_pacl_mini", "points/bifusion_mini"]


@pytest.fixture
def movable(world, tmp_path):
    """A copy of the small worlds that a test can rename away."""
    shutil.copytree(world["root"], tmp_path / "world", symlinks=True)
    shutil.copytree(world["clip"], tmp_path / "clip")
    return world | {"root": tmp_path / "world", "clip": tmp_path / "clip"}


def trained(experiment, world, out):
    arguments = worlds.arguments_of(experiment, world)
    assert main(["train", *arguments, f"out={out}", "name=it", "trainer.steps=1"]) == 0
    return out / experiment / "it"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_copied_run_is_restored_with_everything_else_renamed_away(experiment, movable, tmp_path, monkeypatch):
    run = trained(experiment, movable, tmp_path / "runs")
    before = restore(run, "last").task.state_dict()
    shutil.copytree(run, tmp_path / "elsewhere" / "model")
    for name in ("runs", "world", "clip"):
        (tmp_path / name).rename(tmp_path / f"{name}_gone")
    monkeypatch.chdir(tmp_path / "elsewhere")
    task = restore(type(run)("model"), "last").task
    after = task.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if isinstance(value, torch.Tensor))
    if hasattr(task, "open_tower"):
        assert task.open_tower().embed_dim > 0
    if hasattr(task, "clip"):
        assert task.clip.encoder().grid


def test_what_the_user_names_instead_counts_more(movable, tmp_path):
    run = trained("skeleton/visece_pacl_mini", movable, tmp_path / "runs")
    config = read_config(run)
    other = tmp_path / "other.json"
    shutil.copy(config.system.labels, other)
    assert inputs.with_inputs(config, run).system.labels == str(run / "inputs" / "labels" / "labels.json")
    config.system.labels = str(other)
    assert inputs.with_inputs(config, run).system.labels == str(other)


def test_a_file_changed_in_place_later_does_not_reach_the_run(movable, tmp_path):
    run = trained("skeleton/visece_pacl_mini", movable, tmp_path / "runs")
    labels = movable["root"] / "motion" / "labels.json"
    before = labels.read_text()
    labels.write_text("{}")
    assert (run / "inputs" / "labels" / "labels.json").read_text() == before


def test_a_missing_file_of_a_run_is_a_line(movable, tmp_path):
    run = trained("skeleton/visece_pacl_mini", movable, tmp_path / "runs")
    (run / "inputs" / "labels" / "labels.json").unlink()
    with pytest.raises(MissingFileError, match=r"labels\.json, which the run needs, is missing\. Copy the run"):
        restore(run, "last")


def test_a_large_file_is_linked_and_an_unlinkable_one_stays_outside_by_its_digest(movable, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LARGE", 1000)
    run = trained("skeleton/visece_pacl_mini", movable, tmp_path / "runs")
    weights = run / "inputs" / "text" / "model.safetensors"
    assert weights.stat().st_ino == (movable["root"] / "bert" / "model.safetensors").stat().st_ino

    def refused(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(inputs, "MOST", 2000)
    outside = trained("skeleton/visece_pacl_mini", movable, tmp_path / "others")
    assert not (outside / "inputs" / "text").exists()
    assert json.loads((outside / "inputs" / "inputs.json").read_text())["text"]["files"]
    restore(outside, "last")
    with (movable["root"] / "bert" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SightwordError, match="is not the file that .* was trained with"):
        restore(outside, "last")
    shutil.rmtree(movable["root"] / "bert")
    with pytest.raises(MissingFileError, match=r"system\.text of .* is not in its directory"):
        restore(outside, "last")
