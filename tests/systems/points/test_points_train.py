"""From posed frames to points that answer, by the command line: trained, resumed, measured, exported."""

import json
import shutil

import numpy as np
import pytest
import torch
from made import assert_same

from sightword.cli.main import main
from sightword.engine.predictor import load
from sightword.engine.run import restore
from sightword.miniature import room
from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.points.system import SYSTEM

EXPERIMENTS = ["bifusion_mini", "lift_mini"]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    room.write_rooms(root, frames=3, color=(48, 64), depth=(36, 48), voxel=0.15, splits=room.FEW)
    return root


def words_of(rooms, clip, out, name, **more):
    values = {"system.clip": clip, "system.labels": rooms, "system.clip_size": "[32,48]", "data.root": rooms}
    lists = {"scenes": "train", "val_scenes": "val", "test_scenes": "test"}
    values |= {f"data.{key}": rooms / "meta_data" / f"scannetv2_{split}.txt" for key, split in lists.items()}
    values |= {"data.cache": rooms / "clip", "data.points": 300, "data.frames": 2, "optim.warmup": 2}
    values |= {"trainer.steps": 4, "trainer.val_every": 4, "trainer.log_every": 1, "trainer.accelerator": "cpu"}
    values |= {"out": out, "name": "it"} | more
    return [f"experiment=points/{name}", *(f"{key}={value}" for key, value in values.items())]


@pytest.fixture(scope="module")
def trained(rooms, random_clip, tmp_path_factory):
    """Experiment → its run's folder."""
    out = tmp_path_factory.mktemp("runs")
    for name in EXPERIMENTS:
        assert main(["train", *words_of(rooms, random_clip[0], out, name)]) == 0
    return {name: out / "points" / name / "it" for name in EXPERIMENTS}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_and_measures_clip_beside_it(trained, name):
    best = json.loads((trained[name] / "summary.json").read_text())["best"]
    for measure in ("clip_accuracy", "text_accuracy", "clip_miou", "text_miou", "majority", "coverage"):
        assert 0 <= best[f"val/{measure}"] <= 100


def test_a_run_that_goes_on_ends_as_if_it_had_not_been_stopped(rooms, random_clip, trained, tmp_path):
    words = words_of(rooms, random_clip[0], tmp_path, "bifusion_mini", **{"trainer.steps": 2})
    assert main(["train", *words]) == 0
    run = tmp_path / "points" / "bifusion_mini" / "it"
    assert main(["train", f"resume={run}", "trainer.steps=4"]) == 0
    straight, resumed = (
        read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (trained["bifusion_mini"], run)
    )
    for key in ("state_dict", "optimizer_states", "batches"):
        assert_same(straight[key], resumed[key])


def test_the_test_rooms_are_measured_and_drawn(trained):
    assert main(["evaluate", f"run={trained['bifusion_mini']}", "split=test"]) == 0
    report = json.loads((trained["bifusion_mini"] / "evaluation_test.json").read_text())
    assert "nothing was chosen on it" in report["protocol"]["split"]
    assert (trained["bifusion_mini"] / "evaluation_test_images" / "answers.png").stat().st_size > 1000


def test_what_is_exported_says_what_the_run_says(trained, tmp_path):
    assert main(["export", f"run={trained['bifusion_mini']}", f"out={tmp_path}"]) == 0
    task, config, _ = restore(trained["bifusion_mini"])
    batch = next(iter(SYSTEM.held_out(config.data, config.seed, "val", task, {})))
    with torch.no_grad():
        own, other = (each.encode(batch)[0] for each in (task, load(tmp_path).task))
    assert torch.equal(own.text, other.text)


def test_ask_answers_the_same_by_a_run_and_by_its_export_wherever_it_lies(
    rooms, random_clip, trained, tmp_path, capsys
):
    run, scene = trained["bifusion_mini"], rooms / "2D" / room.name_of(room.SPLITS["test"][0])
    assert main(["export", f"run={run}", f"out={tmp_path / 'export'}"]) == 0
    shutil.move(tmp_path / "export", tmp_path / "elsewhere")
    for model, out in ((run, "by_run"), (tmp_path / "elsewhere", "by_export")):
        capsys.readouterr()
        assert main(["ask", f"scene={scene}", f"model={model}", f"out={tmp_path / out}", "a chair, a bed"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0].startswith("answered by the trained encoder's fused features: ")
        assert told[0].endswith(" of them seen by no frame and with an answer too")
    one, other = (np.load(tmp_path / out / "scores.npz") for out in ("by_run", "by_export"))
    assert np.array_equal(one["cosines"], other["cosines"])
    assert (one["best"] >= 0).all()
    assert json.loads((tmp_path / "by_run" / "answer.json").read_text())["features"] == "fused"


@pytest.mark.parametrize("given", ["tower=vit_b16", "tag=openai", "token_type=qq", "size=", "dtype=fp32"])
def test_a_model_and_another_clip_are_refused_even_if_it_is_the_default(trained, given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["ask", "scene=s", f"model={trained['lift_mini']}", given, "a chair"]) == 2
    told = capsys.readouterr().err
    assert "uses the CLIP that it was trained with. Leave out tower=, tag=, token_type=, size= and dtype=" in told
    assert told.count("\n") == 1


def test_a_model_of_another_system_or_none_is_one_line(rooms, trained, tmp_path, capsys):
    scene = rooms / "2D" / room.name_of(room.SPLITS["test"][0])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"system": "intent"}')
    lines = {tmp_path / "other": "is a model of intent. Pass one of points", tmp_path: "is neither a run directory"}
    lines[trained["lift_mini"] / "no"] = "config.json does not exist"
    for model, line in lines.items():
        assert main(["ask", f"scene={scene}", f"model={model}", f"out={tmp_path / 'o'}", "a chair"]) == 2
        told = capsys.readouterr().err
        assert line in told
        assert told.count("\n") == 1
