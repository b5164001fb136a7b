"""What `check` says of a file every command says that reads it, and each takes the option that reads it right."""

import csv

import numpy as np
import pytest
import torch
from foreign_files import bodies, write_alphapose
from posed import CLASSES, flat, write
from skeleton_fakes import system, write_world

from sightword.cli.main import main
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.heatmap import Heatmaps
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.labels import read_labels
from sightword.systems.skeleton.predict import ActionRecognizer
from sightword.systems.skeleton.task import assemble

COCO = JOINT_SETS["coco17"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An exported classifier of three classes, not trained."""
    folder = tmp_path_factory.mktemp("reading")
    config = system(write_world(folder), recognise_by="classifier")
    torch.manual_seed(0)
    task = assemble(config, COCO, Heatmaps(COCO), read_labels(config.labels))
    views = {"frames": 8, "test_size": [16, 16], "test_views": 2, "num_workers": 0}
    ActionRecognizer.from_task(task, SkeletonData(**views)).save_pretrained(folder / "export")
    return folder / "export"


def file_of(path, change=lambda row: row, count=12, **more):
    rows = [change(flat(COCO, number)) for number in range(count)]
    names = [row["frame_dir"] for row in rows]
    return write(path / "x.pkl", {"split": {"train": names[:8], "val": names[8:]}, "annotations": rows} | more)


def normalised(row):
    return row | {"keypoint": row["keypoint"] / [640, 480]}


def percent(row):
    return row | {"keypoint_score": row["keypoint_score"] * 100}


def recognised(model, file, out, *argv):
    """The status of the command, and the rows of its table."""
    status = main(["recognise", f"model={model}", f"annotations={file}", f"out={out}", *argv])
    table = out / "recognised.csv"
    return status, list(csv.DictReader(table.open(encoding="utf-8"))) if table.exists() else []


def trained(file, tmp_path, *argv):
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    own = [f"data.annotations={file}", f"system.labels={tmp_path / 'labels.txt'}", "data.train=train", "data.val=val"]
    own += ["data.test=val", "data.frames=8", "data.batch_size=4", "system.base=4", "trainer.steps=2"]
    own += ["trainer.val_every=2", "trainer.accelerator=cpu", f"out={tmp_path / 'runs'}", "name=it"]
    return main(["train", "experiment=skeleton/slowonly_mini", *own, *argv])


@pytest.mark.parametrize(
    ("damage", "said", "option"),
    [
        (normalised, "within [0, 1], not pixels", "coordinates=normalised"),
        (percent, "percent, not 0 to 1", "score_range=100"),
        (lambda row: row | {"keypoint": row["keypoint"] * [1, -1] + [0, 479]}, "heads are below feet", "up=y"),
    ],
)
def test_check_recognise_and_train_say_the_same_and_take_the_same_option(damage, said, option, model, tmp_path, capsys):
    expected = recognised(model, file_of(tmp_path), tmp_path / "right")
    assert (expected[0], capsys.readouterr().err) == (0, "")
    file = file_of(tmp_path, damage)
    with pytest.raises(SystemExit) as stopped:
        main(["check", "dataset=pyskl", f"path={file}"])
    assert stopped.value.code == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if said in line)
    assert line.endswith(f": {option}")
    assert recognised(model, file, tmp_path / "wrong") == (2, [])
    error = capsys.readouterr().err
    assert line.removesuffix(f": {option}") in error
    assert f"{option} reads it" in error
    assert trained(file, tmp_path) == 2
    assert f"data.{option} reads it" in capsys.readouterr().err
    assert recognised(model, file, tmp_path / "read", option) == expected
    assert main(["check", "dataset=pyskl", f"path={file}", option]) == 0
    assert said not in capsys.readouterr().out


def test_a_run_keeps_how_its_file_is_read(tmp_path, capsys):
    file = file_of(tmp_path, normalised)
    assert trained(file, tmp_path, "data.coordinates=normalised") == 0
    run = tmp_path / "runs" / "skeleton" / "slowonly_mini" / "it"
    assert main(["evaluate", f"run={run}"]) == 0
    assert main(["recognise", f"model={run}", f"out={tmp_path / 'out'}"]) == 0
    assert main(["recognise", f"model={run}", f"out={tmp_path / 'out'}", f"annotations={file}"]) == 2
    assert "was trained on recordings read with coordinates=normalised" in capsys.readouterr().err


def test_scores_of_zero_are_refused_by_every_command(model, tmp_path, capsys):
    file = file_of(tmp_path, lambda row: row | {"keypoint_score": row["keypoint_score"] * 0})
    assert recognised(model, file, tmp_path / "out") == (2, [])
    assert "12 of 12 recordings have not one joint that is there" in capsys.readouterr().err
    assert trained(file, tmp_path) == 2


def test_own_recordings_without_labels_are_recognised_and_not_trained_on(model, tmp_path, capsys):
    file = file_of(tmp_path, lambda row: {key: value for key, value in row.items() if key != "label"})
    status, table = recognised(model, file, tmp_path / "out")
    assert (status, len(table), {row["truth"] for row in table}) == (0, 12, {""})
    assert "has no labels: predictions are not compared with any" in capsys.readouterr().err
    assert trained(file, tmp_path) == 2
    assert "8 of 8 recordings in train have no label, the first is S000. sightword recognise names" in (
        capsys.readouterr().err
    )


def test_a_file_of_which_some_have_labels_is_recognised_and_not_trained_on(model, tmp_path, capsys):
    def partly(row):
        return {key: value for key, value in row.items() if key != "label" or row["frame_dir"] > "S005"}

    file = file_of(tmp_path, partly)
    assert main(["convert", f"annotations={file}", f"out={tmp_path / 'x.npz'}"]) == 0
    for each in (file, tmp_path / "x.npz"):
        status, table = recognised(model, each, tmp_path / "out")
        assert (status, len(table), sum(row["truth"] != "" for row in table)) == (0, 12, 6)
        assert main(["check", "dataset=pyskl", f"path={each}"]) == 0
        assert "6 recordings have no label" in capsys.readouterr().out
        assert trained(each, tmp_path) == 2
        assert "6 of 8 recordings in train have no label, the first is S000" in capsys.readouterr().err


def test_files_of_other_tools_are_named_with_the_command_that_converts_them(model, tmp_path, capsys):
    file = write_alphapose(tmp_path / "clip.json", bodies())
    assert recognised(model, file, tmp_path / "out") == (2, [])
    error = capsys.readouterr().err
    assert f"sightword convert annotations={file} out=clip.pkl size=<height>x<width>" in error
    assert trained(file, tmp_path) == 2
    assert main(["convert", f"annotations={file}", f"out={tmp_path / 'clip.pkl'}", "size=480x640"]) == 0
    status, table = recognised(model, tmp_path / "clip.pkl", tmp_path / "out")
    assert (status, [row["recording"] for row in table]) == (0, ["clip"])


def test_an_empty_recording_is_left_out_and_named_by_every_command(model, tmp_path, capsys):
    def emptied(row):
        return row | {"keypoint": row["keypoint"][:0], "keypoint_score": None} if row["frame_dir"] == "S003" else row

    file = file_of(tmp_path, emptied)
    status, table = recognised(model, file, tmp_path / "out")
    assert (status, len(table)) == (0, 11)
    assert "a recording is left out: it (S003) has no persons" in capsys.readouterr().err
    assert trained(file, tmp_path) == 0
    assert "a recording is left out: it (S003) has no persons" in capsys.readouterr().err


def test_another_joint_set_is_read_by_the_names_of_its_joints(model, tmp_path, capsys):
    expected = recognised(model, file_of(tmp_path), tmp_path / "right")
    other = JOINT_SETS["mediapipe33"]
    order = [other.joints.index(joint) for joint in COCO.joints]

    def moved(row):
        points, scores = np.full((1, 20, 33, 2), [320.0, 240.0]), np.zeros((1, 20, 33))
        points[:, :, order], scores[:, :, order] = row["keypoint"], row["keypoint_score"]
        return row | {"keypoint": points, "keypoint_score": scores}

    capsys.readouterr()
    assert recognised(model, file_of(tmp_path, moved), tmp_path / "wrong") == (2, [])
    assert "Those of coco17 are among mediapipe33: read the file by joints=mediapipe33" in capsys.readouterr().err
    assert recognised(model, file_of(tmp_path, moved), tmp_path / "option", "joints=mediapipe33") == expected
    assert recognised(model, file_of(tmp_path, moved, joints="mediapipe33"), tmp_path / "stated") == expected


def test_convert_writes_pixels_whatever_was_read(model, tmp_path):
    expected = recognised(model, file_of(tmp_path), tmp_path / "right")
    file = file_of(tmp_path, normalised)
    assert main(["convert", f"annotations={file}", f"out={tmp_path / 'x.npz'}"]) == 2
    assert main(["convert", f"annotations={file}", f"out={tmp_path / 'x.npz'}", "coordinates=normalised"]) == 0
    assert recognised(model, tmp_path / "x.npz", tmp_path / "converted") == expected
