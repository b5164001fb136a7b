"""An exported recognizer is a folder of its own: elsewhere, without the run's files, it predicts the same bits."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from exported import moved_and_loaded
from made import write_clip
from posed import content, write
from skeleton_fakes import LABELS, UNSEEN, VARIANTS, system, write_world

import sightword
from sightword.engine.predictor import Training
from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_weights, write_weights
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.heatmap import Heatmaps
from sightword.systems.skeleton.joints import joint_set
from sightword.systems.skeleton.labels import read_labels
from sightword.systems.skeleton.predict import ActionRecognizer
from sightword.systems.skeleton.task import assemble, make_task
from sightword.towers import bert

COCO = joint_set("coco17")
SMALL = {"frames": 8, "test_size": [16, 16], "test_views": 2, "num_workers": 0, "batch_size": 2}


def recognizer_of(world, **values):
    config = system(world, **values)
    torch.manual_seed(0)
    task = assemble(config, COCO, Heatmaps(COCO), read_labels(config.labels)).eval()
    return ActionRecognizer.from_task(task, SkeletonData(**SMALL))


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path / "own")


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "x.pkl", content(4))


def bits(predictions):
    return [(one.name, one.scores.tolist(), one.points.tolist()) for one in predictions]


@pytest.mark.parametrize("name", ["slowonly", "visece_pacl"])
def test_an_export_elsewhere_predicts_the_same_bits_without_the_files_of_the_run(
    name, world, file, tmp_path, monkeypatch
):
    one = recognizer_of(world, **VARIANTS[name])
    one.training = Training("skeleton/visece", "last", {"val/top1": 50.0}, {"views": "1 view"})
    expected = bits(one(file))
    others = None if name == "slowonly" else bits(one.for_classes(UNSEEN)(file))
    again = moved_and_loaded(one, tmp_path, monkeypatch)
    assert isinstance(again, ActionRecognizer)
    assert bits(again(file)) == expected
    assert (again.data.frames, again.data.test_views, again.data.annotations) == (8, 2, "")
    assert (again.classes, again.training) == (tuple(LABELS), one.training)
    if others is not None:
        assert bits(again.for_classes(UNSEEN)(file)) == others
    assert str(tmp_path) not in (tmp_path / "moved" / "config.json").read_text()
    assert "| val/top1 | 50 |" in (tmp_path / "moved" / "README.md").read_text()
    assert bits(pickle.loads(pickle.dumps(again))(file)) == expected
    again.save_pretrained(tmp_path / "second")
    assert bits(sightword.load(tmp_path / "second")(file)) == expected


def test_a_file_is_predicted_as_a_whole_or_by_split(world, file):
    one = recognizer_of(world, **VARIANTS["slowonly"])
    recordings = read_annotations(file)
    assert bits(one(file)) == bits(one(str(file))) == bits(one(recordings)) == bits(one(recordings[:4]))
    assert [found.name for found in one(file, split="xsub_val")] == recordings.splits["xsub_val"]
    with pytest.raises(SightwordError, match="has no split 'val', it has the splits xsub_train, xsub_val"):
        one(file, split="val")
    with pytest.raises(SightwordError, match=r"size=\(4, 4\) is of key points as arrays"):
        one(file, size=(4, 4))


def test_key_points_that_are_nan_in_a_file_are_reported(world, tmp_path, capsys):
    made = content(2)
    made["annotations"][1]["keypoint"][0, 0, 0] = np.nan
    found = recognizer_of(world, **VARIANTS["slowonly"])(write(tmp_path / "nan.pkl", made))
    assert np.isfinite(found[1].scores).all()
    assert (
        "1 of 2 recordings have key points that are NaN: read as missing; the first is S001" in capsys.readouterr().err
    )


def test_a_model_on_the_hub_is_read_from_the_cache_by_its_id(world, file, tmp_path, monkeypatch):
    commit, one = "0" * 40, recognizer_of(world, **VARIANTS["visece"])
    place = tmp_path / "hub" / "models--owner--actions"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    one.save_pretrained(place / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    again = sightword.load("owner/actions", cache_dir=tmp_path / "hub")
    assert bits(again(file)) == bits(one(file))
    torch.testing.assert_close(again.for_classes(UNSEEN).bank, one.for_classes(UNSEEN).bank, rtol=0, atol=0)


def test_a_published_text_encoder_that_was_not_trained_stays_a_name(world, tmp_path, monkeypatch):
    """The preset stands for a published BERT whose files are in a folder of the test."""
    monkeypatch.setitem(bert.presets, "bert_test", world["text"])
    world = {**world, "text": "bert_test"}
    frozen, trained = (recognizer_of(world, freeze_text=freeze, **VARIANTS["visece"]) for freeze in (True, False))
    frozen.save_pretrained(tmp_path / "frozen")
    trained.save_pretrained(tmp_path / "trained")
    told = json.loads((tmp_path / "frozen" / "config.json").read_text())["text"]
    assert (told["name"], len(told["weights"])) == ("bert_test", 16)
    assert sorted(os.listdir(tmp_path / "frozen")) == ["README.md", "config.json", "model.safetensors"]
    assert (tmp_path / "trained" / "text" / "model.safetensors").is_file()
    expected = frozen.for_classes(UNSEEN).bank
    assert torch.equal(sightword.load(tmp_path / "frozen").for_classes(UNSEEN).bank, expected)
    weights = tmp_path / "own" / "bert" / "model.safetensors"
    write_weights(weights, {name: value * 1.001 for name, value in read_weights(weights).items()}, {"format": "pt"})
    with pytest.raises(SightwordError, match=f"and the model was exported with {told['weights']}"):
        sightword.load(tmp_path / "frozen").for_classes(UNSEEN)
    assert torch.equal(sightword.load(tmp_path / "trained").for_classes(UNSEEN).bank, expected)


@pytest.mark.parametrize("length", [0, 20])
def test_the_trained_text_encoder_of_a_clip_is_in_the_export(world, tmp_path, length):
    write_clip(tmp_path / "own" / "clip")
    one = recognizer_of(world | {"text": str(tmp_path / "own" / "clip")}, text_length=length, **VARIANTS["visece"])
    with torch.no_grad():
        one.model.text.text.text_projection.mul_(1.5).add_(0.01)  # as training would
    expected = one.for_classes(UNSEEN).bank
    one.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "own" / "clip")
    again = sightword.load(tmp_path / "model")
    # not bit for bit: torch folds a product with weights that need gradients, and some processors then sum otherwise
    torch.testing.assert_close(again.for_classes(UNSEEN).bank, expected, rtol=0, atol=1e-6)
    assert again.tower().tokenizer.length == (length or 77)


@pytest.mark.parametrize("name", ["slowonly", "visece_mo", "visece_itm"])
def test_the_weights_of_an_export_have_the_names_and_values_of_the_task(name, world, tmp_path):
    config = system(world, **VARIANTS[name])
    task = assemble(config, COCO, Heatmaps(COCO), read_labels(config.labels)).eval()
    ActionRecognizer.from_task(task).save_pretrained(tmp_path / "model")
    found, expected = sightword.load(tmp_path / "model").task_weights(), task.state_dict()
    kept = {name for name in expected if name.startswith("model.") and not name.startswith("model.matching.")}
    assert found.keys() == kept
    assert all(torch.equal(found[name], expected[name]) for name in kept)


def test_metrics_of_trained_classes_are_not_those_of_others(world):
    one = recognizer_of(world, **VARIANTS["visece"])
    one.training = Training("skeleton/visece", "best", {"val/top1": 50.0})
    assert one.for_classes(UNSEEN).training == Training("skeleton/visece", "best")


@pytest.mark.parametrize("name", ["slowonly", "visece_pacl"])
def test_an_export_has_its_projections_segments_and_trained_gain(name, world, tmp_path, monkeypatch):
    rows = [
        {"frame_dir": f"a{n}", "label": n, "keypoint": np.random.default_rng(n).normal(0, 1, (1, 20, 20, 3))}
        for n in range(3)
    ]
    solid = write(tmp_path / "solid.pkl", {"annotations": rows, "split": {}, "joints": "msr20"})
    values = {"projections": ["front", "side"], "segments": 3, "stem": 3, "stem_stride": 2, "motion": [1, 2], "grid": 2}
    config = system(world, joints="msr20", **{**VARIANTS[name], "pacl_learn_gain": name != "slowonly"}, **values)
    torch.manual_seed(0)
    data = SkeletonData(**{**SMALL, "frames": 12, "test_turn": 20.0})
    one = ActionRecognizer.from_task(make_task(config).eval(), data)
    expected = bits(one(solid))
    again = moved_and_loaded(one, tmp_path, monkeypatch)
    assert bits(again(solid)) == expected
    assert (again.joints.projections, again.data.test_turn) == (("front", "side"), 20.0)
    assert one(solid)[0].points.shape[2] == 20, "the front view alone is shown"
