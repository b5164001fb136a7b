"""Filmstrips of skeletons, the weights of their frames, and the weights against the truth."""

import json
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.systems.skeleton import prediction, show
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.labels import Labels
from sightword.systems.skeleton.predict import BatchScores, as_predictions
from sightword.systems.skeleton.show import Heading, strip
from sightword.systems.skeleton.weight import effective_frames, on_frames, weights_against_truth

CROSS = JointSet("cross", ("head", "left_hand", "right_hand", "hip"), ((1, 2),), ((0, 3), (0, 1), (0, 2), (1, 2)))
POSE = np.array([[32.0, 5], [60, 20], [4, 20], [32, 60]])  # head, left hand, right hand, hip
CLASSES = ("sit", "stand", "bow")


def film(length=8, persons=0):
    points = np.repeat(POSE[None], length, 0)
    points = points if not persons else np.repeat(points[None], persons, 0)
    return points, np.ones(points.shape[:-1])


def pixels(image, colour, least=0):
    """How many pixels have a colour, below so many rows."""
    wanted = np.array(Image.new("RGB", (1, 1), colour))[0, 0]
    return int((np.asarray(image)[least:] == wanted).all(-1).sum())


def bars(image):
    """Height of the weight bar in each column of a strip without a heading."""
    rows = np.asarray(image)[show.MARGIN + show.HEIGHT + 15 : -30, show.MARGIN + show.AXIS :]
    return (rows == np.array(Image.new("RGB", (1, 1), show.WEIGHT))[0, 0]).all(-1).sum(0)


# ------------------------------------------------------------------------------------------------------------ weights


def test_effective_frames_are_one_where_one_frame_has_all_and_all_where_all_weigh_alike():
    weights = torch.tensor([[0.0, 1, 0, 0], [0.25, 0.25, 0.25, 0.25], [5, 5, 0, 0], [9, 9, 9, 9]])
    assert effective_frames(weights) == pytest.approx([1, 4, 2, 4])


def test_a_feature_stands_for_the_frames_it_covers():
    assert on_frames(np.array([1.0, 2, 3]), 6).tolist() == [1, 1, 2, 2, 3, 3]
    assert on_frames(np.array([1.0, 2, 3]), 3).tolist() == [1, 2, 3]
    assert on_frames(np.array([[1.0, 2]]), 5).tolist() == [[1, 1, 1, 2, 2]]


def test_weights_on_the_key_moments_are_found_to_be_there():
    key = torch.tensor([[0.0, 0, 1, 1, 0, 0, 0, 0]])
    found = weights_against_truth(torch.tensor([[1.0, 5, 1, 1]]), key)
    assert found["key_auc"] == 1
    assert found["key_weight"] == pytest.approx(5 / 8)
    assert found["key_frames"] == 0.25
    assert (found["frames"], found["key_views"]) == (4, 1)
    assert weights_against_truth(torch.tensor([[5.0, 1, 5, 5]]), key)["key_auc"] == 0


def test_mean_pooling_is_chance_and_has_the_share_of_the_frames():
    key = (torch.arange(48) < 18).float().expand(3, -1)
    found = weights_against_truth(torch.full((3, 24), 0.37), key)
    assert found["key_auc"] == 0.5
    assert found["key_weight"] == pytest.approx(found["key_frames"]) == pytest.approx(18 / 48)
    assert found["effective_frames"] == pytest.approx(24)


def test_the_area_is_the_loop_of_its_definition():
    rng = np.random.default_rng(0)
    weights, key = rng.random((5, 6)), (rng.random((5, 12)) < 0.4).astype(float)
    key[:, :2] = [0, 1]
    areas = []
    for row, truth in zip(weights.repeat(2, 1), key, strict=True):
        pairs = [(a, b) for a, x in zip(row, truth, strict=True) if x for b, y in zip(row, truth, strict=True) if not y]
        areas.append(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs))
    assert weights_against_truth(weights, key)["key_auc"] == pytest.approx(sum(areas) / 5)


def test_unknown_and_one_sided_views_are_left_out():
    key = np.array([[np.nan] * 4, [0.0] * 4, [1.0] * 4, [0, 0, 1, 1]])
    found = weights_against_truth(np.tile([1.0, 3], (4, 1)), key)
    assert found["key_views"] == 1
    assert found["key_auc"] == 1
    nothing = weights_against_truth(np.ones((2, 2)), np.full((2, 4), np.nan))
    assert nothing == {"effective_frames": pytest.approx(2), "frames": 2}


@pytest.mark.parametrize("weights", [np.zeros((2, 3)), np.full((2, 3), -1.0), np.ones(3), np.full((1, 3), np.nan)])
def test_what_are_no_weights_is_one_line(weights):
    with pytest.raises(ValueError, match=r"weights are \(N, T'\)"):
        effective_frames(weights)


# ------------------------------------------------------------------------------------------------------------- strips


def test_left_right_and_middle_have_their_colours():
    assert show._limb_colours(CROSS) == [show.MIDDLE, show.LEFT, show.RIGHT, show.MIDDLE]
    picture = strip(*film(), CROSS, legend=False)
    assert min(pixels(picture, colour) for colour in (show.LEFT, show.RIGHT, show.MIDDLE)) > 50


def test_a_joint_that_is_not_there_is_not_drawn_and_an_unsure_one_is_pale():
    points, scores = film()
    scores[:, 1] = 0
    assert pixels(strip(points, scores, CROSS, legend=False), show.LEFT) == 0
    scores[:, 1] = 0.2
    points[:, 1] = np.nan
    assert pixels(strip(points, scores, CROSS, legend=False), show.LEFT) == 0
    points, scores = film()
    scores[:, 1] = 0.2
    pale = strip(points, scores, CROSS, legend=False)
    assert pixels(pale, show.LEFT) == 0
    assert pixels(pale, show._pale(show.LEFT, 0.2)) > 50


def test_a_wild_guess_does_not_make_the_figure_small():
    points, scores = film()
    plain = pixels(strip(points, scores, CROSS, legend=False), show.RIGHT)
    points[3, 3], scores[3, 3] = [5000, 5000], 0.1
    assert pixels(strip(points, scores, CROSS, legend=False), show.RIGHT) > 0.8 * plain


def test_a_second_person_is_drawn_and_one_who_is_never_there_is_not():
    points, scores = film(persons=2)
    points[1] += [80, 0]
    scores[1] = 0
    alone, first = strip(points, scores, CROSS), strip(points[0], scores[0], CROSS)
    assert np.array_equal(np.asarray(alone), np.asarray(first))
    scores[1] = 1
    assert (np.asarray(strip(points, scores, CROSS)) != np.asarray(first)).any()


def test_a_bar_is_as_high_as_its_feature_weighs():
    found = bars(strip(*film(), CROSS, weights=torch.tensor([1.0, 2, 4, 1]), legend=False))
    width = (len(found) - show.MARGIN) // 4
    heights = [int(found[width * feature + width // 2]) for feature in range(4)]
    assert heights[2] > show.BARS - 3
    assert heights[1] == pytest.approx(heights[2] / 2, abs=2)
    assert heights[0] == heights[3] == pytest.approx(heights[2] / 4, abs=2)


def test_the_scale_of_the_weights_does_not_matter():
    one, other = (strip(*film(), CROSS, weights=np.array([1.0, 3]) * factor) for factor in (1, 0.01))
    assert np.array_equal(np.asarray(one), np.asarray(other))


def test_key_moments_are_underlined_where_they_are_known():
    points, scores = film()
    key = np.array([0, 0, 1, 1, 1, 1, 0, 0.0])
    picture = strip(points, scores, CROSS, key=key, legend=False)
    wanted = np.array(Image.new("RGB", (1, 1), show.KEY))[0, 0]
    columns = np.flatnonzero((np.asarray(picture) == wanted).all(-1).any(0))
    track = picture.width - 2 * show.MARGIN - show.AXIS
    assert len(columns) == pytest.approx(track / 2, abs=3)
    assert columns[0] == pytest.approx(show.MARGIN + show.AXIS + track / 4, abs=2)
    for unknown in (None, np.full(8, np.nan), np.zeros(8)):
        assert pixels(strip(points, scores, CROSS, key=unknown, legend=False), show.KEY) == 0


@pytest.mark.parametrize("length", [1, 2, 7, 12, 16, 48, 100])
def test_poses_stand_evenly_and_each_shows_a_frame_of_its_place(length):
    strip(*film(length), CROSS, weights=np.ones(max(1, length // 2)))
    page = show._Film(length, None, True, True, True)
    frames, places = zip(*map(page.pose, range(page.poses)), strict=True)
    assert len(set(frames)) == len(frames) == min(length, show.MOST_POSES)
    for frame, place in zip(frames, places, strict=True):
        assert page.x(frame) <= place + 1e-6
        assert place <= page.x(frame + 1) + 1e-6
    assert np.ptp(np.diff(places)) < 1e-6 if length > 2 else True


def test_the_heading_says_right_in_green_and_wrong_in_red():
    right, wrong, unknown = (
        strip(*film(), CROSS, heading=Heading("S001", "sit", 0.6, truth, (("bow", 0.3),)), legend=False)
        for truth in ("sit", "stand", "")
    )
    assert pixels(right, show.RIGHT_ANSWER) > 10 > pixels(right, show.WRONG_ANSWER)
    assert pixels(wrong, show.WRONG_ANSWER) > 10 > pixels(wrong, show.RIGHT_ANSWER)
    assert pixels(unknown, show.RIGHT_ANSWER) == pixels(unknown, show.WRONG_ANSWER) == 0
    long = strip(*film(), CROSS, heading=Heading("S001" * 90, "sit", 0.6), legend=False)
    assert long.size == right.size


def test_points_of_other_joints_are_one_line():
    points, scores = film()
    with pytest.raises(ValueError, match=r"V = 4; got \(1, 8, 3, 2\) and \(1, 8, 3\)"):
        strip(points[:, :3], scores[:, :3], CROSS)


# --------------------------------------------------------------------------------------------------------- recordings


class Batch(NamedTuple):
    points: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    frames: torch.Tensor
    key: torch.Tensor
    size: tuple[int, int]
    split: str


def batch(labels, views=2, length=8):
    count = len(labels)
    points = torch.from_numpy(POSE).float().expand(count, views, 1, length, 4, 2)
    frames = torch.arange(length).expand(count, views, length)
    key = (frames >= 4).float()
    index = torch.arange(count)
    return Batch(points, points[..., 0] * 0 + 1, torch.tensor(labels), index, frames, key, (64, 64), "test")


def predicted(said, made, names, pacl=True, labelled=True):
    """The predictions of a batch: each recording has the class that is said, and each view other weights."""
    count, views = made.points.shape[:2]
    chances = torch.full((count, 3), 0.2)
    chances[torch.arange(count), torch.tensor(said)] = 0.6
    weights = torch.tensor([[1.0, 3], [9, 1]]).expand(count, -1, -1)[:, :views]
    labels = Labels(CLASSES, tuple((name,) for name in CLASSES), "labels.json")
    return as_predictions(BatchScores(chances, weights if pacl else None), made, names, labels, CROSS, labelled)


def test_a_prediction_shows_the_first_view_with_its_own_weights():
    one, two = predicted([2, 0], batch([2, 1]), ["a", "b"])
    assert (one.name, one.label, one.best, two.best) == ("a", 2, 2, 0)
    assert one.weights.tolist() == [1, 3]
    assert one.points.shape == (1, 8, 4, 2)
    assert one.ranked(2) == [("bow", pytest.approx(0.6)), ("sit", pytest.approx(0.2))]
    assert prediction.heading_of(two).right is False
    assert prediction.heading_of(two).truth == "stand"
    unseen = predicted([2], batch([7]), ["a"], pacl=False, labelled=False)[0]
    assert (unseen.label, unseen.weights, prediction.heading_of(unseen).right) == (None, None, None)


def test_images_and_their_numbers_are_written_and_the_counts_are_of_all(tmp_path):
    found = predicted([0, 0, 1], batch([0, 1, 1]), ["a", "b", "c"])
    light, counts = (
        [found[0], *(one.without_poses() for one in found[1:])],
        prediction.confusion_of(found, len(CLASSES)),
    )
    files = prediction.draw(light, tmp_path / "new", counts)
    assert [file.name for file in files] == ["strips.png", "strips.json", "confusion.png", "confusion.json"]
    assert all(Image.open(file).width > 100 for file in files[::2])
    (told,) = json.loads(files[1].read_text())
    assert told["weights"] == [1, 3]
    assert told["key"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert told["effective_frames"] == pytest.approx(math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))))
    assert json.loads(files[3].read_text())["counts"] == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_if_no_class_is_known_there_is_no_confusion(tmp_path):
    found = predicted([0], batch([5]), ["a"], labelled=False)
    assert [file.name for file in prediction.draw(found, tmp_path)] == ["strips.png", "strips.json"]
    assert prediction.confusion_of(found, len(CLASSES)).sum() == 0
