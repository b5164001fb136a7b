"""Classes that are never trained: how they are stated, that training does not see them, and how they are measured."""

import json

import numpy as np
import pytest
import torch
from made import assert_same
from skeleton_fakes import LABELS, batch_for, measure, task_for, write_world

from sightword.cli.main import main
from sightword.engine.run import read_config
from sightword.errors import SightwordError
from sightword.metrics.zeroshot import best_gamma, outcome
from sightword.miniature import motion, tower
from sightword.systems.skeleton.config import SkeletonConfig, SkeletonData
from sightword.systems.skeleton.data import items
from sightword.systems.skeleton.labels import Labels
from sightword.systems.skeleton.unseen import check_unseen, numbers_of, published, with_unseen
from sightword.systems.skeleton.zeroshot.report import gammas
from sightword.systems.skeleton.zeroshot.score import score_run

TEN = Labels.of({f"action {number}": [f"words {number}"] for number in range(10)}, "ten.json")
SIXTY = Labels.of({f"action {number}": [f"words {number}"] for number in range(60)}, "sixty.json")


# ---------------------------------------------------------------------------------------------------------- stating


def test_classes_are_stated_by_name_number_list_file_or_at_random(tmp_path):
    np.save(tmp_path / "ru3.npy", np.array([7, 2, 5]))
    assert numbers_of(["action 3", "8"], TEN, "data.unseen") == [3, 8]
    assert numbers_of([str(tmp_path / "ru3.npy")], TEN, "data.unseen") == [2, 5, 7]
    assert numbers_of(["ntu60-5"], SIXTY, "data.unseen") == [10, 11, 19, 26, 56]
    drawn = numbers_of(["random-4-1"], TEN, "data.unseen_val", [0, 1, 2])
    assert len(set(drawn)) == 4
    assert not {0, 1, 2} & set(drawn)
    assert drawn == numbers_of(["random-4-1"], TEN, "data.unseen_val", [0, 1, 2])


def test_published_lists_are_of_the_sizes_that_their_names_state():
    sizes = {name: (known.classes, len(set(known.unseen))) for name, known in published().items()}
    assert sizes == {"ntu60-5": (60, 5), "ntu60-12": (60, 12), "ntu120-10": (120, 10), "ntu120-24": (120, 24)}
    assert all(min(known.unseen) >= 0 and max(known.unseen) < known.classes for known in published().values())


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("dancing", "names the class 'dancing', which is none of ten.json and no list: ntu60-5"),
        ("10", "10 has class 10, and the 10 classes of ten.json are 0 to 9"),
        ("-1", "names the class '-1'"),
        ("ntu60-5", "is for 60 classes .*, and ten.json has 10"),
        ("random-11-0", "draws 11 of 10 classes"),
        ("random-0-0", "draws 0 of 10"),
        ("gone.npy", "gone.npy cannot be read: No such file"),
    ],
)
def test_what_states_no_class_is_a_line(entry, said):
    with pytest.raises(SightwordError, match=said):
        numbers_of([entry], TEN, "data.unseen")


def test_a_class_is_stated_once():
    for entries, taken in ((["1", "action 1"], []), (["1"], [1])):
        with pytest.raises(SightwordError, match="'action 1' twice, or another list has it"):
            numbers_of(entries, TEN, "data.unseen", taken)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("rs5.npy", np.arange(5), "by its name a list of seen classes"),
        ("ru5.npy", np.array([0.5, 1]), "holds float64"),
        ("ru5.npy", np.zeros((2, 2), int), r"holds int64 \(2, 2\)"),
        ("ru5.npy", np.array([1, 60]), "has class 60"),
        ("ru5.npy", np.array([{"a": 1}]), "is not an array of numbers"),
    ],
)
def test_a_file_that_holds_no_numbers_of_classes_is_a_line(tmp_path, name, array, said):
    np.save(tmp_path / name, array, allow_pickle=True)
    with pytest.raises(SightwordError, match=said):
        numbers_of([str(tmp_path / name)], SIXTY, "data.unseen")


def test_a_header_that_states_more_than_the_file_has_is_refused_before_anything_is_allocated(tmp_path):
    np.save(tmp_path / "ru5.npy", np.arange(5))
    content = (tmp_path / "ru5.npy").read_bytes().replace(b"(5,), ", b"(5000000000000,), ".ljust(6))[:-40]
    (tmp_path / "ru5.npy").write_bytes(content)
    with pytest.raises(SightwordError, match=r"ru5\.npy"):
        numbers_of([str(tmp_path / "ru5.npy")], SIXTY, "data.unseen")


def test_a_new_run_keeps_names_in_system_and_numbers_in_data(tmp_path):
    world = write_world(tmp_path)
    made, data = with_unseen(SkeletonConfig(**world), SkeletonData(unseen=["sit down"], unseen_val=["0"]))
    assert (made.unseen, made.unseen_val) == (["sit down"], ["raise arms"])
    assert (data.unseen, data.unseen_val) == (["2"], ["0"])
    check_unseen(made, data, Labels.of(LABELS, "labels"))
    with pytest.raises(SightwordError, match="not what the run was trained without: sit down"):
        check_unseen(made, SkeletonData(unseen=["1"], unseen_val=["0"]), Labels.of(LABELS, "labels"))


def test_what_cannot_be_trained_is_refused(tmp_path):
    world = write_world(tmp_path)
    with pytest.raises(SightwordError, match="a classifier cannot name them"):
        with_unseen(SkeletonConfig(**world, recognise_by="classifier"), SkeletonData(unseen=["0"]))
    with pytest.raises(SightwordError, match="leave 1 of the 4 classes"):
        with_unseen(SkeletonConfig(**world), SkeletonData(unseen=["0", "1"], unseen_val=["2"]))
    with pytest.raises(SightwordError, match="follows from data.unseen"):
        with_unseen(SkeletonConfig(**world, unseen=["sit down"]), SkeletonData())


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "variant",
    [
        {"contrast": "classes", "pool": "before"},
        {"contrast": "classes", "frames": "pacl"},
        {"contrast": "batch", "frame_linear": True},
        {"contrast": "batch", "frame_linear": True, "momentum": 0.9, "queue": 8},
        {"contrast": "batch", "frame_linear": True, "momentum": 0.9, "queue": 8, "queue_texts": True},
    ],
)
def test_the_loss_does_not_depend_on_the_words_of_unseen_classes(tmp_path, variant):
    world = write_world(tmp_path)
    losses = []
    for words in ("sitting down", "a person stands"):
        (tmp_path / "labels.json").write_text(json.dumps({**LABELS, "sit down": [words]}))
        task = task_for(world, unseen=["sit down"], **variant).train()
        torch.manual_seed(0)
        losses.append(task.losses(batch_for((0, 1, 3, 1))))
    assert_same(losses[0], losses[1])


def test_labels_behind_an_unseen_class_keep_their_own_texts(tmp_path):
    world = write_world(tmp_path)
    task = task_for(world, unseen=["lower arms"], contrast="classes", dropout=0.0).eval()
    batch = batch_for((0, 2, 3))
    found = task.losses(batch)["cls_loss"].detach()
    scores = measure(task, [batch])[0].score(batch).scores[:, [0, 2, 3]]
    expected = -(scores / scores.sum(1, keepdim=True)).log().diagonal().mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-4)


def test_validation_names_seen_classes_alone_and_test_reports_both_sides(tmp_path):
    task = task_for(write_world(tmp_path), unseen=["sit down"], unseen_val=["raise arms"], contrast="classes").eval()
    evaluator, found = measure(task, [batch_for((1, 3, 1, 3), split="val")])
    assert set(evaluator._measured.scores.argmax(1).tolist()) <= {1, 3}
    assert "less 2 that are not trained" in evaluator.protocol()["classes"]
    assert "zsl" not in found
    evaluator, found = measure(task, [batch_for((1, 2, 2, 3), split="test")])
    assert found["zsl"] == 100  # one unseen class: nothing else can be predicted among the unseen
    assert set(found) <= evaluator.metric_names()
    assert "sit down" in evaluator.protocol()["unseen"]


# ------------------------------------------------------------------------------------------------- by the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps on 7 of 12 classes, with 3 unseen and 2 validation classes."""
    root = tmp_path_factory.mktemp("unseen")
    motion.write_motion(root / "motion", motion.Sizes(train=2, val=1, test=2, clips=1))
    tower.write_bert(root / "bert", [" ".join(motion.vocabulary())])
    values = {"system.text": root / "bert", "system.labels": root / "motion" / "labels.json"}
    values |= {"data.annotations": root / "motion" / "annotations.pkl", "data.frames": 8, "data.batch_size": 4}
    values |= {"trainer.steps": 12, "trainer.val_every": 12, "trainer.accelerator": "cpu", "data.test_views": 1}
    values |= {"data.unseen": "[bowing,random-2-0]", "data.unseen_val": "[random-2-1]", "out": root, "name": "it"}
    argv = [f"{key}={value}" for key, value in values.items()]
    assert main(["train", "experiment=skeleton/visece_mean", "scale=mini", *argv]) == 0
    return root / "skeleton" / "visece_mean" / "it"


def test_a_run_is_trained_without_recordings_of_unseen_classes_and_says_so(run):
    config = read_config(run)
    left_out = {int(number) for number in config.data.unseen + config.data.unseen_val}
    assert len(config.system.unseen) == 3
    assert "bowing" in config.system.unseen
    found = items(config.data, ["train", "val", "test"])
    assert {int(one.facts) for one in found["train"] + found["val"]} == set(range(12)) - left_out
    assert {int(one.facts) for one in found["test"]} == set(range(12)) - {int(n) for n in config.data.unseen_val}
    recorded = json.loads((run / "data.json").read_text())["splits"]
    assert set(recorded["train"]) == {one.name for one in found["train"]}


def test_zeroshot_writes_every_way_with_intervals_and_chance(run, tmp_path, capsys):
    assert main(["zeroshot", f"runs={run}", "draws=20", f"out={tmp_path / 'z'}"]) == 0
    report = json.loads((tmp_path / "z" / "zeroshot.json").read_text())
    ways = [row["way"] for row in report["table"]]
    assert ways[:1] == ["as they are"]
    assert len(ways) in (2, 4)  # γ is left out where it helps nobody
    for row in report["table"]:
        assert row["chance"] == pytest.approx(33.33)
        assert 0 <= row["zsl_low"] <= row["zsl_high"] <= 100
    assert "chance (33.33 %)" in capsys.readouterr().out
    assert (tmp_path / "z" / "zeroshot_curve.png").exists()
    assert main(["evaluate", f"run={run}", "split=test", f"out={tmp_path / 'e.json'}"]) == 0
    metrics = json.loads((tmp_path / "e.json").read_text())["metrics"]
    assert {"zsl", "gzsl_seen", "gzsl_unseen", "gzsl_h"} <= set(metrics)


def test_gamma_is_chosen_on_validation_classes_and_never_on_the_unseen(run):
    scored = score_run(run)
    assert not set(np.array(scored.val.classes)[scored.val.unseen]) & set(
        np.array(scored.test.classes)[scored.test.unseen]
    )
    assert set(scored.val.names).isdisjoint(scored.test.names)
    other = scored._replace(test=scored.test._replace(cosines=scored.test.cosines[::-1]))
    assert gammas(scored) == gammas(other)
    if found := gammas(scored):
        assert found["calibrated"] == best_gamma(outcome(scored.val.cosines, scored.val.labels, scored.val.unseen))


def test_gamma_of_another_run_is_taken_and_said(run, tmp_path, capsys):
    found = gammas(score_run(run))
    code = main(["zeroshot", f"runs={run}", f"gamma_from={run}", "draws=5", f"out={tmp_path}"])
    assert code == (0 if found else 2)
    if found:
        report = json.loads((tmp_path / "zeroshot.json").read_text())
        assert f"those of {run}" in report["protocol"]["calibrated"]
        used = {row["way"]: row["gamma"] for row in report["table"] if row["gamma"]}
        assert used == pytest.approx(found, abs=1e-3)
    else:
        assert "gives no γ" in capsys.readouterr().err


def test_other_words_for_the_same_classes_can_be_tried_and_other_classes_cannot(run, tmp_path, capsys):
    words = json.loads((run.parents[2] / "motion" / "labels.json").read_text())
    (tmp_path / "words.json").write_text(json.dumps({name: prompts[:1] for name, prompts in words.items()}))
    (tmp_path / "others.json").write_text(json.dumps(dict(list(words.items())[1:])))
    again = ["zeroshot", f"runs={run}", "draws=5"]
    assert main([*again, f"labels={tmp_path / 'words.json'}", f"out={tmp_path / 'a'}"]) == 0
    assert "words.json" in json.loads((tmp_path / "a" / "zeroshot.json").read_text())["protocol"]["texts"]
    assert main([*again, f"labels={tmp_path / 'others.json'}", f"out={tmp_path / 'b'}"]) == 2
    assert "has other classes" in capsys.readouterr().err
    assert main(["evaluate", f"run={run}", "data.unseen=[bowing]", f"out={tmp_path / 'e.json'}"]) == 2
    assert "of a run are numbers of classes" in capsys.readouterr().err
