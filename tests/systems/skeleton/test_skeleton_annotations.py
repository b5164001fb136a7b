"""pyskl's files: what a recording becomes, what an .npz keeps of it, and what the check says of a bad one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posed import content, recording, write

from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import read_annotations, write_npz
from sightword.systems.skeleton.check import check_pyskl
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.joints import JOINT_SETS


def errors(path: Path | str, classes: int = 0) -> list[str]:
    """The messages of what the check finds wrong."""
    return [finding.message for finding in check_pyskl(str(path), classes).errors]


def notes(path: Path | str) -> list[str]:
    return [finding.message for finding in check_pyskl(str(path)).findings if finding.level == "note"]


def one(path: Path, **other: Any) -> Path:
    """A file with a good recording and one that is like it but for `other`."""
    return write(path / "x.pkl", {"split": {}, "annotations": [recording(0), recording(1, **other)]})


# ------------------------------------------------------------------------------------------------------------ reading


def test_a_recording_becomes_a_sequence(tmp_path):
    made = content()
    read = read_annotations(write(tmp_path / "x.pkl", made))
    assert (len(read), read.num_joints) == (12, 17)
    np.testing.assert_array_equal(read.labels, [row["label"] for row in made["annotations"]])
    for clip, row in zip(read, made["annotations"], strict=True):
        assert (clip.name, clip.label, clip.shape, clip.key) == (row["frame_dir"], row["label"], (480, 640), None)
        np.testing.assert_array_equal(clip.points, row["keypoint"].astype(np.float32), strict=True)
        np.testing.assert_array_equal(clip.scores, row["keypoint_score"].astype(np.float32), strict=True)


def test_a_split_is_those_it_names_in_the_order_of_the_file(tmp_path):
    made = content(6)
    made["split"]["odd"] = ["S005", "S001", "gone", "S003"]
    read = read_annotations(write(tmp_path / "x.pkl", made))
    assert read.split("odd") == [1, 3, 5]
    assert read.absent("odd") == ["gone"]
    assert read.split("") == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="has no split 'val', it has the splits xsub_train, xsub_val, odd"):
        read.split("val")


def test_a_bare_list_has_no_splits(tmp_path):
    read = read_annotations(write(tmp_path / "x.pkl", content(3)["annotations"]))
    assert read.split("") == [0, 1, 2]
    with pytest.raises(ValueError, match="has no split 'xsub_train', it has no splits; an empty name means all"):
        read.split("xsub_train")


def test_joints_without_score_or_number_are_not_there(tmp_path):
    points, scores = (recording(1)[name].copy() for name in ("keypoint", "keypoint_score"))
    points[0, 0, 0, 1], points[0, 0, 1, 0], scores[0, 0, 2], scores[0, 0, 3] = np.nan, np.inf, np.nan, 0.0005
    points[0, 1, 4] = 0  # a place like any other
    clip = read_annotations(one(tmp_path, keypoint=points, keypoint_score=scores))[1]
    there = np.ones((1, 20, 17), bool)
    there[0, 0, :4] = False
    np.testing.assert_array_equal(clip.scores > 0, there)
    assert np.isfinite(clip.points).all()
    assert clip.scores[0, 1, 4] == scores[0, 1, 4]


def test_a_score_behind_x_and_y_is_read_as_one(tmp_path):
    row = recording(1)
    both = np.concatenate([row["keypoint"], row["keypoint_score"][..., None]], axis=-1)
    clip = read_annotations(one(tmp_path, keypoint=both, keypoint_score=None))[1]
    np.testing.assert_array_equal(clip.points, row["keypoint"])
    np.testing.assert_array_equal(clip.scores, row["keypoint_score"])


def test_without_scores_a_joint_is_there_unless_it_is_all_zeros(tmp_path):
    points = recording(1)["keypoint"].copy()
    points[0, :, 3], points[0, :, 4, 0] = 0, 0
    clip = read_annotations(one(tmp_path, keypoint=points, keypoint_score=None))[1]
    np.testing.assert_array_equal(clip.scores[0, 0], np.arange(17) != 3)


def test_a_3d_recording_is_seen_from_the_front(tmp_path):
    points = np.zeros((2, 2, 17, 3), np.float32)  # the second person is not there
    points[0, :, :] = [0.5, -0.5, 3]
    points[0, 0, 0], points[0, 1, 1] = [1.5, 1.5, 4], [0.5, 1.5, 2]  # metres, y upwards
    row = recording(1, frames=2, keypoint=points, keypoint_score=None, img_shape=None)
    clip = read_annotations(write(tmp_path / "x.pkl", [row]))[0]
    assert clip.shape == (1000, 501)  # as high as 2 m, as wide as 1 m
    np.testing.assert_allclose(clip.points[0, 0, 0], [0, 0], atol=1e-3)  # x is to the sensor's left
    np.testing.assert_allclose(clip.points[0, 1, 1], [499.5, 0], atol=1e-3)
    np.testing.assert_allclose(clip.points[0, 1, 2], [499.5, 999], atol=1e-3)
    assert clip.scores[0].all()
    assert not clip.scores[1].any()
    assert not clip.points[1].any()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"frame_dir": None}, "has no 'frame_dir' but label, img_shape"),
        ({"label": "3"}, r"\(S001\) has the label '3': expected a whole number from 0 on, or none"),
        ({"label": -2}, "has the label -2"),
        ({"label": 2**70}, "has the label 1180"),
        ({"label": 1.5}, "has the label 1.5"),
        ({"keypoint": None}, "has None under 'keypoint'"),
        ({"keypoint": None, "raw_file": "kp/1.pkl"}, "has its key points in another file, kp/1.pkl"),
        ({"keypoint": [[1, 2]]}, r"has \[\[1, 2\]\] under 'keypoint'"),
        (
            {"keypoint": np.zeros((20, 17, 2))},
            r"has float64 \(20, 17, 2\) under 'keypoint': expected \(persons, frames",
        ),
        ({"keypoint": np.zeros((1, 20, 17, 4))}, r"\(1, 20, 17, 4\) under 'keypoint'"),
        ({"keypoint": np.array(["a"])}, "under 'keypoint'"),
        ({"total_frames": 19}, "has total_frames=19 and key points of 20 frames"),
        ({"keypoint_score": np.ones((1, 20, 16))}, r"\(1, 20, 16\) under 'keypoint_score', and key points \(1, 20, 17"),
        ({"img_shape": None}, "has no 'img_shape' but frame_dir"),
        ({"img_shape": (480,)}, r"has img_shape=\(480,\)"),
        ({"img_shape": (0, 640)}, r"has img_shape=\(0, 640\)"),
        ({"img_shape": "480"}, "has img_shape='480'"),
        ({"key_moments": np.ones(3, bool)}, r"has bool \(3,\) under 'key_moments', and 20 frames"),
    ],
)
def test_a_malformed_recording_is_one_line_that_names_it(tmp_path, other, message):
    file = one(tmp_path, **other)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(file)
    assert "x.pkl: recording 1 " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [line for line in errors(file) if line.startswith("recording 1 ")]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "has no recordings"),
        ({"annotations": []}, "has no recordings"),
        ([3], "recording 0 is of type int, not a dictionary"),
        ({"split": {}}, "holds a dictionary of split. Expected a dictionary with 'annotations'"),
        ("text", "holds a str. Expected a dictionary with 'annotations'"),
        ({"split": ["a"], "annotations": [recording(0)]}, "'split' is a dictionary"),
        ({"split": {"a": "S000"}, "annotations": [recording(0)]}, "'split' is a dictionary"),
        ([recording(0), recording(1, joints=18)], "S000 has 17 joints, S001 has 18"),
    ],
)
def test_another_content_is_one_line(tmp_path, made, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(tmp_path / "x.pkl", made))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "what"), [((1, 0, 17, 2), "frames"), ((0, 20, 17, 2), "persons"), ((1, 20, 0, 2), "joints")]
)
def test_a_recording_with_nothing_in_it_is_left_out_and_named(tmp_path, shape, what):
    file = one(tmp_path, keypoint=np.zeros(shape), total_frames=shape[1])
    read = read_annotations(file)
    assert (read.names, read.left_out) == (["S000"], [f"(S001) has no {what}"])
    assert errors(file) == [f"recording 1 (S001) has no {what}: it is left out"]
    with pytest.raises(ValueError, match=r"every recording is empty, the first \(S001\) has no"):
        read_annotations(write(tmp_path / "y.pkl", [recording(1, keypoint=np.zeros(shape), total_frames=shape[1])]))


@pytest.mark.parametrize("label", [None, -1])
def test_a_recording_without_a_label_is_read_and_noted(tmp_path, label):
    file = one(tmp_path, label=label)
    assert read_annotations(file).labels.tolist() == [0, -1]
    assert errors(file) == []
    assert "1 recordings have no label: recognise names them, training needs labels" in notes(file)


def test_a_file_can_state_its_joints_by_name_or_as_a_list(tmp_path):
    made = content(3)
    for stated in ("h36m17", list(JOINT_SETS["h36m17"].joints)):
        read = read_annotations(write(tmp_path / "x.pkl", made | {"joints": stated}))
        assert read.source == JOINT_SETS["h36m17"]
        again = read_annotations(write_npz(read, tmp_path / "x.npz"))
        assert again.source == JOINT_SETS["h36m17"]
    assert read_annotations(write(tmp_path / "x.pkl", made)).source is None
    for wrong in ("somebody's", ["a", "a"], 17):
        with pytest.raises(
            SightwordError, match=r"x\.pkl states joints=.*, expected one of coco17.* or a list of names"
        ):
            read_annotations(write(tmp_path / "x.pkl", made | {"joints": wrong}))


# ---------------------------------------------------------------------------------------------------------------- npz


def test_an_npz_gives_the_same_sequences(tmp_path):
    made = content(6)
    made["annotations"] += [recording(7, persons=3), recording(8, frames=2, key_moments=np.array([True, False]))]
    made["annotations"][0]["keypoint"][0, 0, 0] = np.nan
    first = read_annotations(write(tmp_path / "x.pkl", made))
    again = read_annotations(write_npz(first, tmp_path / "x.npz"))
    assert again.splits == first.splits
    assert (again.names, again.labels.tolist(), len(again)) == (first.names, first.labels.tolist(), 8)
    for one, other in zip(first, again, strict=True):
        assert one[:2] == other[:2]
        assert one.shape == other.shape
        np.testing.assert_array_equal(one.points, other.points, strict=True)
        np.testing.assert_array_equal(one.scores, other.scores, strict=True)
        np.testing.assert_equal(one.key, other.key)
    with np.load(tmp_path / "x.npz") as file:
        assert file["points"].dtype == np.float16  # nothing is lost


def test_full_precision_and_3d_survive_an_npz(tmp_path):
    rows = [recording(0), recording(1, keypoint=recording(1)["keypoint"].astype(np.float64) / 3)]
    rows += [recording(2, keypoint=np.random.default_rng(0).normal(size=(1, 20, 17, 3)), keypoint_score=None)]
    del rows[2]["img_shape"]
    first = read_annotations(write(tmp_path / "x.pkl", rows))
    again = read_annotations(write_npz(first, tmp_path / "x.npz"))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.points, other.points, strict=True)
        assert one.shape == other.shape
    assert again.splits == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("labels"), "has the arrays names, .* and no array 'labels'"),
        (lambda arrays: arrays.update(points=arrays["points"][:-1]), "not a complete .npz of recordings"),
        (lambda arrays: arrays.update(labels=arrays["labels"][:-1]), "not a complete .npz of recordings"),
        (lambda arrays: arrays.update(persons=np.array([object()])), "not a complete .npz of recordings"),
    ],
)
def test_a_foreign_npz_is_one_line(tmp_path, change, message):
    write_npz(read_annotations(write(tmp_path / "x.pkl", content(3))), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    change(arrays)
    np.savez(tmp_path / "y.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(tmp_path / "y.npz")
    assert "\n" not in str(caught.value)
    (tmp_path / "z.npz").write_bytes((tmp_path / "y.npz").read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"z\.npz is not a complete .npz"):
        read_annotations(tmp_path / "z.npz")


# -------------------------------------------------------------------------------------------------------------- check


def test_a_whole_file_has_no_problems_and_is_described(tmp_path):
    file = write(tmp_path / "x.pkl", content())
    report = check_pyskl(str(file), classes=3)
    assert (report.count, report.errors) == (12, [])
    assert any(note.startswith("17 joints, read as coco17: left and right limbs differ by ") for note in notes(file))
    assert "3 classes with 4 to 4 recordings each" in notes(file)
    assert "split xsub_train: 9 recordings" in notes(file)
    assert str(report).endswith("12 recordings, all readable")


def test_the_check_names_what_training_would_stumble_over(tmp_path):
    made = content(8)
    rows = made["annotations"]
    rows[1]["keypoint"][0, 2, :3] = np.nan
    rows[2]["label"] = 3
    rows[3]["keypoint_score"][:] = 0
    rows[4]["keypoint_score"][:] = 90
    rows[6]["frame_dir"] = "S005"
    rows[7] = recording(7, joints=18)
    made["split"] |= {"xsub_val": ["S000", "S007", "gone"], "test": []}
    assert errors(write(tmp_path / "x.pkl", made), classes=3) == [
        "1 names are the frame_dir of several recordings: S005",
        "1 recordings have other joints than most: S007 18, most 17",
        "1 recordings have a label outside the list of 3 classes, 0 to 2: S002 has 3",
        "1 of 7 recordings have key points that are NaN: read as missing; the first is S001",
        "1 of 7 recordings have not one joint that is there: all scores, or all coordinates, are 0; the first is S003",
        "1 of 7 recordings have scores up to 90, expected 0 to 1; the first is S004",
        "split xsub_val names 1 recordings that are absent or malformed: gone",
        "split test is empty",
        "splits xsub_train and xsub_val share 1 recordings: S000",
    ]


def test_the_check_tells_how_it_reads_what_is_unusual(tmp_path):
    rows = [recording(n, joints=25, keypoint=np.ones((1, 20, 25, 3)), keypoint_score=None) for n in (0, 1)]
    for row in rows:
        del row["img_shape"]
    told = notes(write(tmp_path / "x.pkl", rows))
    assert "25 joints, as body25 or ntu25" in told
    assert "2 recordings are 3-D: their front view is read, depth is left out" in told
    assert "2 recordings have no scores of their own: a joint is there unless all its numbers are 0" in told
    assert any(note.startswith("no splits: data.train=") for note in told)


def test_a_joint_set_that_is_not_the_files_is_an_error(tmp_path):
    file = write(tmp_path / "x.pkl", content())
    assert errors(file) == []
    (found,) = check_pyskl(str(file), reading=Reading(joints="msr20")).errors
    assert found.message.startswith("the file has 17 joints and msr20 has 20. Train with system.joints= a set of 17")
