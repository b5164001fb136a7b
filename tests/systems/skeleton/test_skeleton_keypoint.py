"""Plain arrays of key points: what is predicted of them, and what is refused in one line."""

import re

import numpy as np
import pytest
import torch
from posed import recording
from skeleton_fakes import LABELS, system, write_world

from sightword.errors import SightwordError
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.heatmap import Heatmaps
from sightword.systems.skeleton.joints import joint_set
from sightword.systems.skeleton.keypoint import annotation_of
from sightword.systems.skeleton.labels import read_labels
from sightword.systems.skeleton.predict import ActionRecognizer
from sightword.systems.skeleton.sequence import parse_annotation, to_sequence
from sightword.systems.skeleton.task import assemble

COCO, SIZE = joint_set("coco17"), (480, 640)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    config = system(write_world(tmp_path_factory.mktemp("keypoint")), contrast="classes")
    torch.manual_seed(0)
    task = assemble(config, COCO, Heatmaps(COCO), read_labels(config.labels))
    views = {"frames": 8, "test_size": [16, 16], "test_views": 2, "num_workers": 0, "batch_size": 2}
    return ActionRecognizer.from_task(task, SkeletonData(**views))


@pytest.fixture
def keypoints():
    """(1, 20, 17, 3), in pixels of 480×640, the third channel being scores."""
    row = recording(0)
    return np.concatenate([row["keypoint"], row["keypoint_score"][..., None]], axis=-1).astype(np.float32)


def same(one, other):
    return one.scores.tolist() == other.scores.tolist()


def test_an_array_with_scores_is_the_same_as_its_recording(recognizer, keypoints):
    sequence = to_sequence(parse_annotation(recording(0)))
    expected = recognizer(sequence)
    assert expected.action in LABELS
    for given in (keypoints, keypoints[0], torch.from_numpy(keypoints), keypoints.astype(np.float64)):
        found = recognizer(given, size=SIZE)
        assert same(found, expected)
        assert (found.name, found.label, found.truth) == ("recording", None, "")
    assert found.plot().width > 300


def test_without_scores_a_joint_at_zero_is_not_there_and_others_are_sure(keypoints):
    points = keypoints[..., :2].copy()
    points[0, 3, 5] = 0
    found = to_sequence(annotation_of(points, SIZE, COCO, "x"))
    assert found.scores.shape == (1, 20, 17)
    assert found.scores[0, 3, 5] == 0
    assert found.scores.sum() == 20 * 17 - 1
    assert found.shape == SIZE


def test_many_arrays_give_a_list_and_may_stand_beside_sequences(recognizer, keypoints):
    sequence = to_sequence(parse_annotation(recording(1)))
    found = recognizer([keypoints, sequence, keypoints[0, :10]], size=SIZE)
    assert [one.name for one in found] == ["recording 0", "S001", "recording 2"]
    alone = recognizer(keypoints, size=SIZE)
    np.testing.assert_allclose(found[0].scores, alone.scores, rtol=1e-5)  # a batch of another size
    assert recognizer([], size=SIZE) == []


def test_an_array_of_bodies_upside_down_is_reported_and_predicted(recognizer, keypoints, capsys):
    recognizer(keypoints, size=SIZE)
    assert not capsys.readouterr().err
    recognizer([keypoints * [1, -1, 1] + [0, 479, 0]] * 3, size=SIZE)
    assert capsys.readouterr().err == "key points: heads are below feet: y points up\n"


MISTAKES = {
    "no size": (lambda k: k, None, r"Pass size=\(height, width\) in pixels"),
    "size of one": (lambda k: k, (1, 1), r"size=\(1, 1\) is not a height and width in pixels"),
    "one number": (lambda k: k, (480,), r"size=\(480,\) is not a height and width"),
    "normalised": (lambda k: k[..., :2] / [640, 480], SIZE, "they look normalised. Pass pixels, x times width"),
    "from -1 to 1": (lambda k: k[..., :2] / [320, 240] - 1, SIZE, "they look normalised"),
    "NaN": (lambda k: np.where(np.arange(17)[:, None] == 3, np.nan, k), SIZE, "20 of 340 key points are NaN or inf"),
    "nobody": (lambda k: k * 0, SIZE, "all key points are 0: there is no joint"),
    "x and y first": (lambda k: np.moveaxis(k, -1, 0), SIZE, r"shape \(3, 1, 20, 17\) are not understood"),
    "flat": (lambda k: k[0, ..., :2].reshape(20, 34), SIZE, r"shape \(20, 34\) are not understood"),
    "no frames": (lambda k: k[:, :0], SIZE, r"shape \(1, 0, 17, 3\) are not understood"),
    "a batch": (lambda k: k[None], SIZE, r"A batch is a list of such arrays"),
    "joints before frames": (lambda k: k.swapaxes(1, 2), SIZE, "20 joints, .* trained on 17.* Axis 1 has as many"),
    "frames before persons": (lambda k: k.swapaxes(0, 1), SIZE, "20 persons and 1 frames. Pass persons first: keyp"),
    "OpenPose": (lambda k: np.pad(k, [(0, 0)] * 2 + [(0, 8), (0, 0)]), SIZE, "25 joints.* be body25 or ntu25"),
    "whole body": (lambda k: np.pad(k, [(0, 0)] * 2 + [(0, 116), (0, 0)]), SIZE, r"133 joints.*pass keypoints\[\.\.\."),
    "percent": (lambda k: k * [1, 1, 100], SIZE, "third channel of the key points is from .* if scores are in percent"),
    "depth": (lambda k: k - [0, 0, 2], SIZE, r"If it is a depth, pass keypoints\[\.\.\., :2\]"),
    "channels first": (
        lambda k: np.concatenate([k, k]).transpose(3, 1, 2, 0),
        SIZE,
        r"are the axes x y score, frames, joints, persons\? Pass keypoints\.transpose\(3, 1, 2, 0\)",
    ),
    "width first": (
        lambda k: k + np.array([1000, 0, 0]),
        (1920, 1080),
        r"outside of images of 1920×1080 pixels \(height×width\)",
    ),
    "texts": (lambda k: k.astype(str), SIZE, "key points are numbers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_an_array_is_one_line(recognizer, keypoints, name):
    spoil, size, line = MISTAKES[name]
    with pytest.raises(SightwordError, match=line) as error:
        recognizer(spoil(keypoints), size=size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["frames before persons", "whole body", "channels first", "depth"])
def test_the_remedy_in_a_message_gives_what_was_meant(recognizer, keypoints, name):
    spoil, size, _ = MISTAKES[name]
    with pytest.raises(SightwordError) as error:
        recognizer(spoil(keypoints), size=size)
    remedy = re.search(r"pass (?:persons first: )?(keypoints[.\[][^;]*[)\]])", str(error.value), re.IGNORECASE)[1]
    meant = eval(remedy, {"keypoints": spoil(keypoints)})
    expected = keypoints[..., :2] if name == "depth" else keypoints
    found = recognizer(meant, size=size)
    np.testing.assert_allclose(found.scores, recognizer(expected, size=size).scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "more", "line"),
    [
        ("clip.mp4", {}, r"clip\.mp4 is not a file of key points \(\.mp4; .*compute key points with a pose estimator"),
        ("nowhere.pkl", {}, r"nowhere\.pkl does not exist"),
        (["a.pkl", "b.pkl"], {}, "recording 0 is a str, expected a SkeletonSequence or an array"),
        ([[[0.0, 1.0]]], {"size": SIZE}, r"recording 0 is a list, .* Pass np\.asarray"),
        ([], {"split": "test"}, "split='test' is a split of an annotation file"),
    ],
)
def test_what_is_no_recording_is_one_line(recognizer, given, more, line):
    with pytest.raises(SightwordError, match=line) as error:
        recognizer(given, **more)
    assert "\n" not in str(error.value)


def test_arrays_have_no_labels(recognizer, keypoints):
    with pytest.raises(SightwordError, match="none of the recordings has a label. Remove labelled=True"):
        recognizer([keypoints], size=SIZE, labelled=True)
