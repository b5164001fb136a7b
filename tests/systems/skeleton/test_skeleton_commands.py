"""The verbs of the recognition of actions, on a run that knows the answers."""

import csv
import json
import sys
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from sightword.cli.main import main
from sightword.data.check import Report
from sightword.engine import system as system_module

LENGTH, JOINTS = 8, 17


class Joints(NamedTuple):
    name: str
    joints: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]


class Batch(NamedTuple):
    points: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    frames: torch.Tensor
    key: torch.Tensor
    size: tuple[int, int]
    split: str


@dataclass
class SkeletonConfig:
    recognise_by: str = "text"
    labels: str = "labels.json"


@dataclass
class SkeletonData:
    annotations: str = "own.pkl"
    test: str = "xsub_val"
    frames: int = LENGTH
    test_clips: int = 10
    test_flip: bool = True
    test_size: tuple[int, int] = (64, 48)


@dataclass
class Config:
    experiment: str = "skeleton/visece_pacl"
    system: SkeletonConfig = field(default_factory=SkeletonConfig)
    data: SkeletonData = field(default_factory=SkeletonData)


class Answers:
    """Recordings with the numbers 0 to N-1; recording n is of class n modulo C, every fifth is taken for the next."""

    def __init__(self, count=50, classes=6, pacl=True):
        self.count, self.pacl = count, pacl
        self.classes = tuple(f"action {number}" for number in range(classes))
        self.labels = np.arange(count) % classes
        self.asked: list[str] = []

    def reads(self):
        limbs = tuple((a, a + 1) for a in range(JOINTS - 1))
        return {"joints": Joints("line", tuple("abcdefghijklmnopq"), (), limbs), "classes": self.classes}

    def to(self, device):
        return self

    def protocol(self):
        classes = f"{len(self.classes)} of labels.json"
        return {"split": "val: chosen on it", "views": "0", "classes": classes, "probabilities": "softmax of cosines"}

    def weights_of(self, batch):
        said = (batch.index + (batch.index % 5 == 4)) % len(self.classes)
        scores = torch.nn.functional.one_hot(said, len(self.classes)).float() * 0.88 + 0.12 / len(self.classes)
        weights = torch.tensor([1.0, 1, 2, 4]).expand(len(said), 1, -1)
        return scores, weights if self.pacl else None

    def loader(self, data, split, joints, classes):
        self.asked.append(data.test)
        if self.labels.max() >= len(classes):
            raise ValueError(f"label {self.labels.max()} is outside the {len(classes)} classes")
        for index in torch.arange(self.count).split(16):
            points = torch.arange(JOINTS).float()[:, None].expand(len(index), 1, 1, LENGTH, -1, 2)
            frames = torch.arange(LENGTH).expand(len(index), 1, -1)
            labels = torch.from_numpy(self.labels)[index]
            yield Batch(points, points[..., 0] * 0 + 1, labels, index, frames, (frames >= 4).float(), (64, 64), split)


@pytest.fixture
def world(monkeypatch):
    """The rooms that `recognise` asks, of which it is told what to give back."""
    answers, config = Answers(), Config()

    def read_annotations(path):
        names = [f"clip{number:03}" for number in range(answers.count)]
        splits = {"": range(answers.count), "xsub_val": range(answers.count)}
        return SimpleNamespace(names=names, labels=answers.labels, split=splits.__getitem__, path=path)

    def restore(folder, checkpoint, config):
        return answers, config, folder

    rooms = {
        "annotations": {"read_annotations": read_annotations},
        "data": {"split_loader": lambda *given, **known: answers.loader(*given, **known)},
    }
    for name, content in rooms.items():
        room = ModuleType(name)
        vars(room).update(content)
        monkeypatch.setitem(sys.modules, f"sightword.systems.skeleton.{name}", room)
        monkeypatch.setattr(f"sightword.systems.skeleton.{name}", room, raising=False)
    monkeypatch.setattr("sightword.engine.run.read_config", lambda folder: replace(config))
    monkeypatch.setattr("sightword.engine.run.restore", restore)
    monkeypatch.setattr(system_module, "system_names", lambda: ["skeleton"])
    return SimpleNamespace(answers=answers, config=config)


def told(capsys, *words):
    """What a verb prints, line by line."""
    status = main(list(words))
    out, err = capsys.readouterr()
    assert status == 0, err
    return out.splitlines()


def rows(folder):
    with open(folder / "recognised.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_forty_recordings_are_told_and_all_are_in_the_table(world, tmp_path, capsys):
    lines = told(capsys, "recognise", "run=r", f"out={tmp_path}")
    assert lines[0].split() == ["clip000", "action", "0", "0.90"]
    assert lines[4].split() == ["clip004", "action", "5", "0.90", "it", "is", "action", "4"]
    assert lines[40] == "… and 10 more, in the table"
    table = rows(tmp_path)
    assert len(table) == 50
    assert (table[4]["recording"], table[4]["truth"], table[4]["right"]) == ("clip004", "action 4", "0")
    assert (table[4]["class_1"], table[4]["probability_1"]) == ("action 5", "0.900000")
    assert "probability_5" in table[4]


def test_the_measures_stand_beside_the_protocol(world, tmp_path, capsys):
    lines = told(capsys, "recognise", "run=r", f"out={tmp_path}", "strips=2")
    assert "  top1                 80" in lines
    views = "10 of 8 frames at 64×48 of each recording, each mirrored too; probabilities averaged"
    assert lines[-4:-1] == [f"  views: {views}", "  probabilities: softmax of cosines", "  classes: 6 of labels.json"]
    assert not [line for line in lines if "chosen on it" in line], "which split a run was chosen on is not known here"
    report = json.loads((tmp_path / "recognised.json").read_text())
    measures = report["measures"]
    assert measures["top1"] == pytest.approx(80)
    assert measures["chance"] == pytest.approx(100 / 6)
    assert measures["key_weight"] == pytest.approx(6 / 8)
    assert report["protocol"]["views"] == views
    assert [one["name"] for one in json.loads((tmp_path / "strips.json").read_text())] == ["clip000", "clip025"]
    assert lines[-1].startswith("50 recordings; written to ")
    assert all(file in lines[-1] for file in ("recognised.csv", "strips.png", "confusion.png"))


def test_every_recording_is_read_unless_a_split_is_named(world, tmp_path, capsys):
    told(capsys, "recognise", "run=r", f"out={tmp_path}")
    told(capsys, "recognise", "run=r", "split=xsub_val", f"out={tmp_path}")
    assert world.answers.asked == ["", "xsub_val"]


def test_other_labels_and_another_file_reach_the_run(world, tmp_path, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(
        "sightword.engine.run.restore", lambda f, c, config: (given.append(config), (world.answers, config, f))[1]
    )
    told(capsys, "recognise", "run=r", "labels=new.json", "annotations=mine.npz", f"out={tmp_path}")
    assert (given[0].system.labels, given[0].data.annotations) == ("new.json", "mine.npz")
    assert world.config.system.labels == "labels.json"


def test_a_classifier_refuses_other_labels_in_one_line(world, tmp_path, capsys):
    world.config.system.recognise_by = "classifier"
    assert main(["recognise", "run=r", "labels=new.json", f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "classifier" in error
    assert "skeleton/visece" in error
    assert not (tmp_path / "out").exists()
    assert told(capsys, "recognise", "run=r", f"out={tmp_path / 'out'}")


def test_labels_of_another_list_are_unknown_when_told_so(world, tmp_path, capsys):
    world.answers.classes = world.answers.classes[:3]
    assert main(["recognise", "run=r", f"out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "label 5 and there are 3 classes" in error
    assert "truth=false" in error
    lines = told(capsys, "recognise", "run=r", "truth=false", f"out={tmp_path}")
    assert not [line for line in lines if "top1" in line or "it is" in line]
    assert {row["truth"] + row["right"] for row in rows(tmp_path)} == {""}
    assert not (tmp_path / "confusion.png").exists()
    assert "class_4" not in rows(tmp_path)[0], "of three classes there is no fourth"


def test_a_run_without_frame_weights_has_strips_all_the_same(world, tmp_path, capsys):
    world.answers.pacl = False
    lines = told(capsys, "recognise", "run=r", f"out={tmp_path}", "strips=1")
    assert not [line for line in lines if "key_auc" in line]
    assert "weights" not in json.loads((tmp_path / "strips.json").read_text())[0]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["recognise"], "needs run="),
        (["recognise", "run=r", "top=0"], "top is at least 1"),
        (["recognise", "run=r", "strips=-1"], "strips is at least 0"),
        (["convert", "annotations=a.pkl", "out=a.pkl"], ".npz"),
    ],
)
def test_a_mistake_is_one_line(words, part, world, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert part in error


def test_a_run_of_another_system_is_refused(world, capsys):
    world.config.experiment = "tokenizer/mini"
    assert main(["recognise", "run=r"]) == 2
    assert "names no actions" in capsys.readouterr().err


def test_convert_says_where_and_what_next(world, tmp_path, capsys):
    written = []
    room = sys.modules["sightword.systems.skeleton.annotations"]
    room.read_annotations = lambda path: ["a clip", "another"]
    room.write_npz = lambda recordings, file: written.append((recordings, file))
    lines = told(capsys, "convert", "annotations=a.pkl", f"out={tmp_path / 'new' / 'a.npz'}")
    assert written == [(["a clip", "another"], tmp_path / "new" / "a.npz")]
    assert lines[0].startswith("2 recordings written to")
    assert lines[1].endswith(f"data.annotations={tmp_path / 'new' / 'a.npz'}")


def test_check_takes_a_file_as_path_or_as_root(world, capsys):
    asked = []
    room = sys.modules["sightword.systems.skeleton.annotations"]
    room.check_pyskl = lambda path, classes: (asked.append((path, classes)), Report(3, []))[1]
    for words in (["path=a.pkl"], ["root=a.pkl"], ["path=a.pkl", "classes=60"]):
        assert main(["check", "dataset=pyskl", *words]) == 0
    assert asked == [("a.pkl", 0), ("a.pkl", 0), ("a.pkl", 60)]
    room.check_pyskl = lambda path, classes: Report(3, ["clip001 has no label"])
    with pytest.raises(SystemExit) as stopped:
        main(["check", "dataset=pyskl", "path=a.pkl"])
    assert stopped.value.code == 1
    capsys.readouterr()
    for words, part in (([], "needs root=…, or path=…"), (["root=a", "path=b"], "give one")):
        assert main(["check", "dataset=pyskl", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert part in error
