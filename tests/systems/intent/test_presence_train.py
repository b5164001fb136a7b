"""Words that are present, by the command line: calibrate, train, evaluate, show, export, load."""

import json
import shutil

import pytest
import torch
from PIL import Image

import sightword
from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.miniature import scene
from sightword.miniature.contents import write_vocabulary
from sightword.miniature.intent import write_intents
from sightword.systems.intent.calibration import Calibration
from sightword.systems.intent.intentonomy import annotation_file, read_annotations


@pytest.fixture(scope="module")
def world(tmp_path_factory, small_clip):
    """A small Intentonomy, scenes with labels of words, anchors and tokens."""
    root = tmp_path_factory.mktemp("presence")
    write_intents(root / "data", train=160, val=60, test=20)
    write_vocabulary(root / "vocabulary")
    scene.write(root / "scenes", count=40, seed=scene.HELD_OUT)
    for argv in (
        ["anchors", f"tower={small_clip}", f"out={root / 'anchors'}", f"vocabulary={root / 'vocabulary'}"],
        ["cache", f"tower={small_clip}", f"images={root / 'data'}", f"out={root / 'tokens'}", "token_type=value,joint"],
    ):
        assert main(argv) == 0
    return root


def trained(world, clip, experiment, *more):
    values = {"system.tower": clip, "system.semantic_anchors_path": world / "anchors", "data.root": world / "data"}
    values |= {"system.calibration_labels": world / "scenes" / "captions.json", "data.cache": world / "tokens"}
    values |= {"data.ids": "", "out": world / "runs", "name": "it", "trainer.epochs": 12, "trainer.accelerator": "cpu"}
    argv = [f"{key}={value}" for key, value in values.items()]
    return main(["train", f"experiment=intent/{experiment}", "scale=mini", *argv, *more])


@pytest.fixture(scope="module")
def runs(world, small_clip):
    """Experiment → its run."""
    for experiment in ("presence", "pairs"):
        assert trained(world, small_clip, experiment) == 0
    return {name: world / "runs" / "intent" / name / "it" for name in ("presence", "pairs")}


@pytest.fixture
def picture(world):
    file = read_annotations(annotation_file(world / "data", "test")).files[0]
    return world / "data" / file


def best(run):
    return json.loads((run / "summary.json").read_text())["best"]


def test_presence_learns_and_pairs_learn_more(runs):
    words, pairs = best(runs["presence"]), best(runs["pairs"])
    assert words["val/macro_f1"] > 2.5 * words["val/all_ones_macro_f1"]
    assert pairs["val/map"] > words["val/map"]


def test_training_calibrates_beside_the_anchors_on_the_training_images(world, runs):
    found = Calibration.read(world / "anchors" / "calibration.safetensors")
    assert (found.meta["images"], found.meta["labelled"]) == (160, 40)
    assert set(found.moments["coco"]) == {"value", "joint", "pooled"}


def test_a_run_is_evaluated_on_test(runs, capsys):
    assert main(["evaluate", f"run={runs['pairs']}", "split=test"]) == 0
    assert "macro_f1" in capsys.readouterr().out


def test_an_export_elsewhere_gives_the_same_scores_and_an_exact_sum(runs, picture, tmp_path):
    assert main(["export", f"run={runs['pairs']}", f"out={tmp_path / 'exported'}"]) == 0
    shutil.move(tmp_path / "exported", tmp_path / "moved")
    (one, other) = (sightword.load(place)(picture) for place in (runs["pairs"], tmp_path / "moved"))
    assert one.scores == pytest.approx(other.scores, abs=1e-6)
    inside = other.explanation
    assert torch.allclose(sum(p.sum((0, 1)) for p in inside.parts.values()) + inside.bias, inside.logits, atol=1e-4)
    assert inside.terms(3) == pytest.approx({name: float(v[3]) for name, v in _terms(inside).items()})
    assert any(name.endswith("(pair)") for name in inside.terms(0))
    assert set(one.presence) == {"actions", "coco", "places"}
    assert one.to_dict()["presence"]["coco"].keys() == set(scene.OBJECTS)


def _terms(inside):
    return {f"{n} ({'pair' if s == 'pairs' else s})": v for (s, n), v in inside.added.items()}


def test_a_copied_run_predicts_without_the_folder_of_the_anchors(runs, world, picture, tmp_path):
    before = sightword.load(runs["presence"])(picture).scores
    shutil.copytree(runs["presence"], tmp_path / "run")
    (world / "anchors").rename(world / "hidden")
    try:
        assert sightword.load(tmp_path / "run")(picture).scores == pytest.approx(before)
    finally:
        (world / "hidden").rename(world / "anchors")


def test_show_tells_presence_nothing_and_pairs(runs, picture, tmp_path):
    assert main(["show", f"model={runs['pairs']}", f"image={picture}", f"out={tmp_path}"]) == 0
    maps = json.loads((tmp_path / "maps.json").read_text())["streams"]["coco"]
    words = {word for row in maps["words"] for word in row}
    assert words <= {*scene.OBJECTS, "nothing"}
    for row, sure in zip(maps["words"], maps["presence_of_word"], strict=True):
        for word, value in zip(row, sure, strict=True):
            assert value == pytest.approx(maps["presence"].get(word, 0), abs=1e-3)
            assert word == "nothing" or value > 0.5
    table = json.loads((tmp_path / "table.json").read_text())["words"]
    assert "pairs" in table
    assert Image.open(tmp_path / "reasons.png").width > 600


def test_pairs_start_from_words(world, runs, small_clip):
    more = [f"init_from={runs['presence']}", "init_strict=false", "trainer.epochs=1", "name=from", "optim.lr=0"]
    assert trained(world, small_clip, "pairs", *more) == 0
    told = json.loads((world / "runs" / "intent" / "pairs" / "from" / "init.json").read_text())
    assert "model.head.weight" in told["matched"]
    assert set(told["missing"]) | set(told["shapes"]) == {"model.first", "model.second", "model.pair_head.weight"}


def test_area_with_nothing_trains_on_tokens(world, small_clip):
    ids = f"data.ids={world / 'ids'}"
    assert trained(world, small_clip, "stage1", "system.nothing=gate", "trainer.epochs=2", ids) == 0
    rows = (world / "runs" / "intent" / "stage1" / "it" / "summary.json").read_text()
    assert "macro_f1" in rows
    assert not (world / "ids").exists()


def test_without_labels_the_command_says_which_rule_holds(world, tmp_path, capsys):
    file = tmp_path / "own.safetensors"
    argv = [f"anchors={world / 'anchors'}", f"tokens={world / 'tokens'}", f"root={world / 'data'}", f"out={file}"]
    assert main(["calibrate", *argv]) == 0
    assert "as there are no labels" in capsys.readouterr().out
    assert not Calibration.read(file).labelled


def test_a_calibration_without_labels_is_refused_where_labels_are_named(world, small_clip, tmp_path, capsys):
    file = tmp_path / "own.safetensors"
    argv = [f"anchors={world / 'anchors'}", f"tokens={world / 'tokens'}", f"out={file}"]
    assert main(["calibrate", *argv]) == 0
    assert trained(world, small_clip, "presence", f"system.calibration={file}", "name=other") != 0
    assert "was written without labels" in capsys.readouterr().err


def test_a_file_of_others_is_not_overwritten(world, tmp_path, capsys):
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"not ours")
    assert main(["calibrate", f"anchors={world / 'anchors'}", f"tokens={world / 'tokens'}", f"out={file}"]) != 0
    assert file.read_bytes() == b"not ours"
    assert str(file) in capsys.readouterr().err


def test_labels_are_not_lost_and_a_root_of_other_images_is_refused(world, runs, capsys):
    argv = ["calibrate", f"anchors={world / 'anchors'}", f"tokens={world / 'tokens'}"]
    assert main(argv) != 0
    assert "was made with labels, which would be lost" in capsys.readouterr().err
    write_intents(world / "other", train=2, val=2, test=2, seed=99)
    assert main([*argv, f"root={world / 'other'}", f"out={world / 'x.safetensors'}"]) != 0
    assert "has none of the training images of root=" in capsys.readouterr().err


def test_weights_of_another_calibration_are_refused(world, runs, tmp_path):
    task = sightword.load(runs["presence"]).task
    state = {name: value + 0.1 if name.endswith("middle") else value for name, value in task.state_dict().items()}
    with pytest.raises(SightwordError, match="trained with another calibration"):
        task.load_state_dict(state)


def test_tokens_of_another_encoder_are_refused(world, runs, small_clip, tmp_path, capsys):
    found = Calibration.read(world / "anchors" / "calibration.safetensors")
    found.meta = {**found.meta, "tower": "0123456789abcdef"}
    found.write(tmp_path / "other.safetensors")
    assert trained(world, small_clip, "presence", f"system.calibration={tmp_path / 'other.safetensors'}", "name=x") != 0
    assert "made with an image encoder of weights 0123456789abcdef" in capsys.readouterr().err
