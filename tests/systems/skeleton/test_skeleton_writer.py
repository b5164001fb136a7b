"""Writing annotations: what readers get back, and what is refused before anything is written."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.pickled import read_plain
from sightword.systems.skeleton.sequence import Annotation
from sightword.systems.skeleton.writer import Row, row_of, write_annotations


def made(name: str, label: int = -1, persons: int = 2, joints: int = 33) -> Annotation:
    rng = np.random.default_rng(len(name))
    points = rng.uniform(0, 1919, (persons, 7, joints, 2)).astype(np.float32)
    return Annotation(
        name, label, points, rng.uniform(0.01, 1, (persons, 7, joints)).astype(np.float32), (1080, 1920), None
    )


def solid(name: str) -> Annotation:
    return Annotation(name, 3, np.random.default_rng(0).normal(size=(1, 5, 25, 3)), None, None, None)


@pytest.mark.parametrize("ending", [".pkl", ".npz"])
def test_what_is_written_is_read_again(tmp_path, ending):
    rows = [row_of(made("a"), fps=29.97, ids=[1, 4]), row_of(made("bb", 5), fps=30.0, ids=[2, 3])]
    joints = JOINT_SETS["mediapipe33"]
    read = read_annotations(write_annotations(rows, tmp_path / f"new/x{ending}", {"test": ["bb"]}, joints))
    assert (read.names, read.labels.tolist(), read.splits) == (["a", "bb"], [-1, 5], {"test": ["bb"]})
    assert read.joints == joints
    for sequence, one in zip(read, (made("a"), made("bb")), strict=True):
        np.testing.assert_array_equal(sequence.points, one.points, strict=True)
        np.testing.assert_array_equal(sequence.scores, one.scores, strict=True)
        assert sequence.shape == (1080, 1920)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"x{ending}"]


def test_a_pickle_has_the_form_of_pyskl_with_plain_values(tmp_path):
    file = write_annotations([row_of(made("a", 2), fps=25.0, ids=[1, 2]), row_of(made("bb"))], tmp_path / "x.pkl")
    content = pickle.loads(file.read_bytes())
    assert set(content) == {"split", "annotations"}
    labelled, bare = content["annotations"]
    assert list(labelled) == [
        *("frame_dir", "total_frames", "img_shape", "original_shape", "label", "keypoint", "keypoint_score"),
        *("fps", "ids"),
    ]
    assert "label" not in bare
    assert (labelled["total_frames"], labelled["img_shape"]) == (7, (1080, 1920))
    plain = read_plain(file)
    assert isinstance(plain, dict)
    np.testing.assert_array_equal(plain["annotations"][0]["keypoint"], labelled["keypoint"])
    assert plain["annotations"][0]["ids"] == [1, 2]


def test_3d_recordings_are_written_without_an_image(tmp_path):
    file = write_annotations([row_of(solid("a"))], tmp_path / "x.pkl", joints=JOINT_SETS["ntu25"])
    row = pickle.loads(file.read_bytes())["annotations"][0]
    assert (set(row), row["keypoint"].dtype) == ({"frame_dir", "total_frames", "label", "keypoint"}, np.float32)
    assert read_annotations(file)[0].points.shape == (1, 5, 25, 2)


def test_half_precision_is_used_only_where_it_loses_nothing():
    whole = made("a")._replace(points=np.full((1, 2, 3, 2), 640.5, np.float32), scores=np.ones((1, 2, 3)))
    assert [row_of(whole)[key].dtype for key in ("keypoint", "keypoint_score")] == [np.float16, np.float16]
    assert row_of(made("a"))["keypoint"].dtype == np.float32


def test_recordings_without_persons_are_written_and_left_out_by_readers(tmp_path):
    rows = [row_of(made("nobody", persons=0)), row_of(made("a"))]
    read = read_annotations(write_annotations(rows, tmp_path / "x.pkl"))
    assert (read.names, len(read.left_out)) == (["a"], 1)


def test_what_was_assumed_stands_beside_the_file(tmp_path):
    write_annotations([row_of(made("a"))], tmp_path / "x.pkl", notes=["people=2 were kept"])
    told = json.loads((tmp_path / "x.pkl.json").read_text())
    assert (told["notes"], told["recordings"]) == (["people=2 were kept"], 1)


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        ([row_of(made("a"))], "x.json", r"x.json is not a file of annotations.*\.pkl or \.npz"),
        ([], "x.pkl", "there are no recordings to write"),
        ([row_of(made("a")), row_of(made("a"))], "x.pkl", "1 names are those of several recordings: a"),
        ([row_of(made("a")) | {"img_shape": None}], "x.pkl", "recording 0 .*has no 'img_shape'"),
        ([row_of(made("a")) | {"total_frames": 9}], "x.npz", "total_frames=9 and key points of 7"),
    ],
)
def test_what_readers_would_refuse_is_not_written(tmp_path: Path, rows: list[Row], name: str, message: str):
    with pytest.raises(SightwordError, match=message):
        write_annotations(rows, tmp_path / name)
    assert not list(tmp_path.iterdir())
