"""3-D recordings drawn from several sides, turned; people held out."""

import numpy as np
import pytest
import torch

from sightword.data.loader import Draw
from sightword.errors import SightwordError
from sightword.systems.skeleton.config import SkeletonConfig, SkeletonData
from sightword.systems.skeleton.data import (
    EvalViews,
    TrainViews,
    Turn,
    View,
    hold_out_people,
    measured,
    mirror,
    projected,
    rotation,
)
from sightword.systems.skeleton.heatmap import Heatmaps
from sightword.systems.skeleton.joints import joint_set
from sightword.systems.skeleton.sequence import parse_annotation, to_sequence

JOINTS = joint_set("msr20")._replace(projections=("front", "side", "top"))
NAMES = [f"a{action:02d}_s{person:02d}_e01" for action in range(3) for person in (1, 3, 5, 7, 9)]


def recording(deep=True, frames=12, seed=0):
    rng = np.random.default_rng(seed)
    row = {"frame_dir": "a01_s01_e01", "label": 0, "keypoint": rng.normal(0, 1, (1, frames, 20, 3 if deep else 2))}
    if not deep:
        row |= {"img_shape": (300, 300), "keypoint": 300 * rng.random((1, frames, 20, 2))}
    return to_sequence(parse_annotation(row))


def data_of(**values):
    small = {"frames": 6, "size": [16, 16], "test_size": [16, 16], "short_side": 20, "persons": 1}
    return SkeletonData(annotations="a.pkl", **{**small, **values})


def test_depth_grows_away_from_the_viewer_in_the_unit_of_the_front_view():
    points = np.random.default_rng(0).normal(0, 1, (1, 4, 20, 3))
    row = {"frame_dir": "a", "label": 0, "keypoint": points}
    made = to_sequence(parse_annotation(row))
    moved = points.copy()
    moved[..., 2] += 0  # a Kinect's z is the distance to it
    order = np.argsort(points[0, 0, :, 2])
    assert (np.argsort(made.depth[0, 0]) == order).all()
    scale = np.ptp(made.points[..., 1]) / np.ptp(points[..., 1])
    assert np.ptp(made.depth) == pytest.approx(scale * np.ptp(points[..., 2]), rel=1e-4)
    assert recording(deep=False).depth is None


def test_a_quarter_turn_shows_from_the_front_what_is_seen_from_the_side():
    rng = np.random.default_rng(0)
    solid, scores = rng.normal(0, 100, (1, 4, 20, 3)).astype(np.float32), np.ones((1, 4, 20), np.float32)
    side = projected(solid, scores, "side")
    turned = projected(solid, scores, "front", Turn(np.pi / 2))
    np.testing.assert_allclose(turned.points, side.points, atol=1e-3)
    np.testing.assert_allclose(rotation(Turn(0.3, -0.2, 0.1)) @ rotation(Turn(0.3, -0.2, 0.1)).T, np.eye(3), atol=1e-6)


def test_a_mirrored_body_is_the_same_from_the_side_with_its_joints_exchanged():
    points = np.random.default_rng(0).random((1, 3, 20, 2)).astype(np.float32)
    view, flipped = View(points, np.ones((1, 3, 20), np.float32), (16, 16)), JOINTS.flipped()
    np.testing.assert_array_equal(mirror(view, flipped, plane="side").points, points[:, :, flipped])
    np.testing.assert_array_equal(mirror(view, flipped, plane="top").points[..., 0], 15 - points[:, :, flipped, 0])


def test_each_projection_has_heatmaps_of_its_own():
    data = data_of(turn=30.0, tilt=5.0, jitter=0.02, span=0.7, fade=0.5)
    views = TrainViews(data, JOINTS)(recording(), Draw(0, 0))
    assert views.view.points.shape == (1, 6, 60, 2)
    heatmaps = Heatmaps(JOINTS.drawn(), "limb")
    assert heatmaps.channels == 3 * len(JOINTS.limbs)
    points, scores = torch.from_numpy(views.view.points)[None], torch.from_numpy(views.view.scores)[None]
    assert heatmaps(points, scores, (16, 16)).flatten(3).amax((0, 2, 3)).min() > 0.1
    again = TrainViews(data, JOINTS)(recording(), Draw(0, 0))
    np.testing.assert_array_equal(again.view.points, views.view.points)


def test_views_of_a_test_are_turned_evenly_and_the_middle_one_is_not():
    turned = EvalViews(data_of(test_turn=40.0), JOINTS, 3, False)(recording(frames=6), Draw(0, 0)).view
    plain = EvalViews(data_of(), JOINTS, 3, False)(recording(frames=6), Draw(0, 0)).view
    same = [np.allclose(turned.points[:, part], plain.points[:, part], atol=0.1) for part in (slice(6), slice(6, 12))]
    assert same == [False, True]


def test_images_cannot_be_turned():
    with pytest.raises(SightwordError, match=r"a01_s01_e01 has no depth"):
        TrainViews(data_of(turn=30.0), joint_set("msr20"))(recording(deep=False), Draw(0, 0))


def test_images_have_an_empty_side_view_which_is_said_and_training_can_be_used_to_it(capsys):
    loader = measured(data_of(num_workers=0, test_turn=30.0), JOINTS, [recording(deep=False)], [0], "test")
    assert "2-D: heatmaps of the side and top stay empty" in capsys.readouterr().err
    (batch,) = loader
    there = batch.scores.unflatten(-1, (3, 20)).amax((0, 1, 2, 3, 5))
    assert there.tolist() == [1, 0, 0]
    flat = TrainViews(data_of(flat=1.0), JOINTS)(recording(), Draw(0, 0)).view.scores
    assert flat.reshape(6, 3, 20).max((0, 2)).tolist() == [1, 0, 0]


def test_people_are_held_out_whole_and_each_fold_has_others():
    seen = []
    for fold in range(5):
        data = data_of(person=r"s\d+", hold_out=0.2, fold=fold)
        train, held = hold_out_people(range(15), NAMES, data)
        people = [{NAMES[row][4:7] for row in rows} for rows in (train, held)]
        assert not people[0] & people[1]
        assert sorted(train + held) == list(range(15))
        seen += people[1]
    assert sorted(seen) == ["s01", "s03", "s05", "s07", "s09"]


@pytest.mark.parametrize(
    ("pattern", "part"),
    [("(", "is not a pattern"), ("P\\d+", "finds nobody in the name a00"), ("a", "finds one person")],
)
def test_a_pattern_that_finds_no_people_is_named(pattern, part):
    with pytest.raises(SightwordError, match=part.replace("(", r"\(")):
        hold_out_people(range(15), NAMES, data_of(person=pattern))


@pytest.mark.parametrize(
    "values", [{"projections": []}, {"projections": ["front", "front"]}, {"projections": ["back"]}]
)
def test_projections_that_do_not_exist_are_refused(values):
    with pytest.raises(SightwordError, match=r"system.projections"):
        SkeletonConfig(**values)
