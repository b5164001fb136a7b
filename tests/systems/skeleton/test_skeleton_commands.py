"""The commands of the recognition of actions, with a predictor that knows the answers."""

import csv
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from posed import content, write

from sightword.cli.main import main
from sightword.data.finding import CheckReport, Finding
from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.config import Reading, SkeletonData
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.labels import Labels
from sightword.systems.skeleton.predict import ActionPrediction, ActionRecognizer

LENGTH, JOINTS = 8, 17
LINE = JointSet("line", tuple("abcdefghijklmnopq"), (), tuple((a, a + 1) for a in range(JOINTS - 1)))


class Answers:
    """Recordings with the numbers 0 to N-1; recording n is of class n modulo K, every fifth is taken for the next."""

    def __init__(self, count=50, classes=6, pacl=True):
        self.count, self.pacl, self.joints, self.classifier = count, pacl, LINE, False
        self.classes = tuple(f"action {number}" for number in range(classes))
        self.labels = Labels(self.classes, tuple((name,) for name in self.classes), "labels.json")
        self.true = np.arange(count) % classes
        self.data = SkeletonData(annotations="own.pkl", frames=LENGTH, test_views=10, test_size=[64, 48])
        self.asked, self.annotations, self.splits, self.readings = [], [], [], []
        self.unknown_words = ()

    def recordings(self, path, reading):
        self.annotations.append(str(path))
        self.readings.append(reading)
        names = [f"clip{number:03}" for number in range(self.count)]
        return SimpleNamespace(names=names, labels=self.true, split=self.split, path=path)

    def split(self, name):
        self.splits.append(name)
        return range(self.count)

    def to(self, device):
        return self

    def describe_probabilities(self):
        return "softmax of cosines"

    def for_classes(self, labels):
        if self.classifier:
            raise SightwordError("this model is a classifier. Other classes need one as of skeleton/visece")
        self.asked.append(labels)
        return self

    def stream(self, recordings, rows, labelled, workers):
        assert recordings.names
        assert not labelled or self.true[list(rows)].max() < len(self.classes)
        for index in rows:
            said = (index + (index % 5 == 4)) % len(self.classes)
            scores = np.full(len(self.classes), 0.12 / len(self.classes), np.float32)
            scores[said] += 0.88
            points = np.broadcast_to(np.arange(JOINTS, dtype=np.float32)[:, None], (1, LENGTH, JOINTS, 2))
            frames = np.arange(LENGTH)
            yield ActionPrediction(
                name=recordings.names[index],
                classes=self.classes,
                scores=scores,
                label=int(self.true[index]) if labelled else None,
                joints=self.joints,
                points=points,
                joint_scores=np.ones((1, LENGTH, JOINTS), np.float32),
                frames=frames,
                key=(frames >= 4).astype(np.float32),
                weights=np.array([1.0, 1, 2, 4]) if self.pacl else None,
            )


@pytest.fixture
def world(monkeypatch):
    """What `recognise` opens."""
    answers, models = Answers(), []

    def from_pretrained(path, checkpoint):
        models.append((path, checkpoint))
        return answers

    monkeypatch.setattr(ActionRecognizer, "from_pretrained", from_pretrained)
    return SimpleNamespace(answers=answers, models=models)


@pytest.fixture
def stand_in(monkeypatch):
    """A module of the system, replaced."""

    def replace(name, **content):
        room = ModuleType(name)
        vars(room).update(content)
        monkeypatch.setitem(sys.modules, f"sightword.systems.skeleton.{name}", room)
        monkeypatch.setattr(f"sightword.systems.skeleton.{name}", room, raising=False)

    return replace


def told(capsys, *argv):
    """What a command prints, line by line."""
    status = main(list(argv))
    out, err = capsys.readouterr()
    assert status == 0, err
    return out.splitlines()


def rows(folder):
    with open(folder / "recognised.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_forty_recordings_are_told_and_all_are_in_the_table(world, tmp_path, capsys):
    lines = told(capsys, "recognise", "model=r", f"out={tmp_path}")
    assert lines[0].split() == ["clip000", "action", "0", "0.90"]
    assert lines[4].split() == ["clip004", "action", "5", "0.90", "it", "is", "action", "4"]
    assert lines[40] == "… and 10 more, in the table"
    table = rows(tmp_path)
    assert len(table) == 50
    assert (table[4]["recording"], table[4]["truth"], table[4]["right"]) == ("clip004", "action 4", "0")
    assert (table[4]["class_1"], table[4]["probability_1"]) == ("action 5", "0.900000")
    assert "probability_5" in table[4]


def test_the_metrics_stand_beside_the_protocol(world, tmp_path, capsys):
    lines = told(capsys, "recognise", "model=r", f"out={tmp_path}", "strips=2")
    assert "  top1                 80" in lines
    views = "10 of 8 frames at 64×48 of each recording, each mirrored too; probabilities averaged"
    assert lines[-4:-1] == [f"  views: {views}", "  probabilities: softmax of cosines", "  classes: 6 of labels.json"]
    assert not [line for line in lines if "chosen on it" in line], "which split a run was chosen on is not known here"
    report = json.loads((tmp_path / "recognised.json").read_text())
    metrics = report["metrics"]
    assert metrics["top1"] == pytest.approx(80)
    assert metrics["chance"] == pytest.approx(100 / 6)
    assert metrics["key_weight"] == pytest.approx(6 / 8)
    assert report["protocol"]["views"] == views
    assert [one["name"] for one in json.loads((tmp_path / "strips.json").read_text())] == ["clip000", "clip025"]
    assert lines[-1].startswith("50 recordings; written to ")
    assert all(file in lines[-1] for file in ("recognised.csv", "strips.png", "confusion.png"))


def test_every_recording_is_read_unless_a_split_is_named(world, tmp_path, capsys):
    told(capsys, "recognise", "model=r", f"out={tmp_path}")
    told(capsys, "recognise", "model=r", "split=xsub_val", f"out={tmp_path}")
    assert world.answers.splits == ["", "xsub_val"]


def test_other_labels_and_another_file_reach_the_model(world, tmp_path, capsys):
    (tmp_path / "new.json").write_text('{"wave": ["waving"]}')
    argv = [f"labels={tmp_path}/new.json", "annotations=mine.npz", "checkpoint=last", f"out={tmp_path}"]
    told(capsys, "recognise", "model=r", *argv)
    assert [labels.classes for labels in world.answers.asked] == [("wave",)]
    assert world.answers.annotations == ["mine.npz"]
    assert world.models == [("r", "last")]
    told(capsys, "recognise", "model=r", f"out={tmp_path}")
    assert world.answers.annotations == ["mine.npz", "own.pkl"]


def test_a_model_without_annotations_needs_some(world, tmp_path, capsys):
    world.answers.data = SkeletonData()
    assert main(["recognise", "model=r", f"out={tmp_path}"]) == 2
    assert "annotations=<file>" in capsys.readouterr().err


def test_own_annotations_are_read_as_in_training_and_others_as_typed(world, tmp_path, capsys):
    world.answers.data = SkeletonData(annotations="own.pkl", up="z", score_range=100)
    for argv in ([], ["annotations=mine.npz"], ["annotations=mine.npz", "up=-y"], ["up=y"]):
        assert main(["recognise", "model=r", f"out={tmp_path}", *argv]) == 0
    told = capsys.readouterr().err
    assert world.answers.readings == [Reading(up="z", score_range=100), Reading(), Reading(up="-y"), Reading(up="y")]
    assert told.count("was trained on recordings read with up=z score_range=100; mine.npz is read without") == 1


def test_recordings_without_labels_are_named_and_not_compared(world, tmp_path, capsys):
    world.answers.true = np.full(50, -1)
    assert main(["recognise", "model=r", f"out={tmp_path}"]) == 0
    out, err = capsys.readouterr()
    assert "has no labels: predictions are not compared with any" in err
    assert "top1" not in out
    assert {row["truth"] + row["right"] for row in rows(tmp_path)} == {""}


def test_a_classifier_refuses_other_labels_in_one_line(world, tmp_path, capsys):
    world.answers.classifier = True
    (tmp_path / "new.json").write_text('{"wave": ["waving"]}')
    assert main(["recognise", "model=r", f"labels={tmp_path}/new.json", f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "classifier" in error
    assert "skeleton/visece" in error
    assert not (tmp_path / "out").exists()
    assert told(capsys, "recognise", "model=r", f"out={tmp_path / 'out'}")


def test_labels_of_another_list_are_unknown_when_told_so(world, tmp_path, capsys):
    world.answers.classes = world.answers.classes[:3]
    assert main(["recognise", "model=r", f"out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "label 5 and there are 3 classes" in error
    assert "truth=false" in error
    lines = told(capsys, "recognise", "model=r", "truth=false", f"out={tmp_path}")
    assert not [line for line in lines if "top1" in line or "it is" in line]
    assert {row["truth"] + row["right"] for row in rows(tmp_path)} == {""}
    assert not (tmp_path / "confusion.png").exists()
    assert "class_4" not in rows(tmp_path)[0], "of three classes there is no fourth"


def test_a_run_without_frame_weights_has_strips_all_the_same(world, tmp_path, capsys):
    world.answers.pacl = False
    lines = told(capsys, "recognise", "model=r", f"out={tmp_path}", "strips=1")
    assert not [line for line in lines if "key_auc" in line]
    assert "weights" not in json.loads((tmp_path / "strips.json").read_text())[0]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["recognise"], "needs model="),
        (["recognise", "model=r", "top=0"], "top='0' is not a whole number from 1 on. Pass 1 or more"),
        (["recognise", "model=r", "strips=-1"], "strips='-1' is not a whole number from 0 on"),
        (["recognise", "model=r", f"out={__file__}"], "is a file. Pass a folder"),
        (["convert", "annotations=a.pkl", "out=a.txt"], "out=a.txt does not end in .npz or .pkl"),
    ],
)
def test_a_mistake_is_one_line(words, part, world, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert part in error


def test_convert_says_where_and_what_next(tmp_path, capsys):
    write(tmp_path / "a.pkl", content(8))
    file = tmp_path / "new" / "a.npz"
    lines = told(capsys, "convert", f"annotations={tmp_path / 'a.pkl'}", f"out={file}")
    assert lines[-2].startswith(f"8 recordings written to {file}")
    assert f"data.annotations={file}" in lines[-1]
    assert len(read_annotations(file)) == 8


def test_check_takes_a_file_as_path_or_as_root(stand_in, capsys):
    asked = []
    stand_in("check", check_pyskl=lambda path, classes, reading: (asked.append((path, classes)), CheckReport(3))[1])
    for words in (["path=a.pkl"], ["root=a.pkl"], ["path=a.pkl", "classes=60"]):
        assert main(["check", "dataset=pyskl", *words]) == 0
    assert asked == [("a.pkl", 0), ("a.pkl", 0), ("a.pkl", 60)]
    wrong = Finding("error", "malformed recordings", "recording 1 has no label")
    stand_in("check", check_pyskl=lambda path, classes, reading: CheckReport(3, (wrong,)))
    with pytest.raises(SystemExit) as stopped:
        main(["check", "dataset=pyskl", "path=a.pkl"])
    assert stopped.value.code == 1
    capsys.readouterr()
    for words, part in (([], "needs root=…, or path=…"), (["root=a", "path=b"], "give one")):
        assert main(["check", "dataset=pyskl", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert part in error


def test_words_at_the_prompt_are_classes(world, tmp_path, capsys):
    told(capsys, "recognise", "model=r", "labels=waving, sitting down", f"out={tmp_path}", "truth=false")
    (labels,) = world.answers.asked
    assert (labels.classes, labels.prompts) == (("waving", "sitting down"), (("waving",), ("sitting down",)))
