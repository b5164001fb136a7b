"""Which frames a clip has and where its joints go: the published numbers, and pyskl's own results in parity mode.

The reference is written from the formulas of the published pipeline, in float64 and without any of our functions.
"""

import math
from typing import Any

import numpy as np
import pytest
from posed import recording

from sightword.systems.skeleton.data import (
    View,
    best_persons,
    compact,
    crop,
    draw_crop,
    fade,
    mirror,
    resize,
    resize_short,
    sample_test,
    sample_train,
)
from sightword.systems.skeleton.joints import joint_set

FLIPPED = joint_set("coco17").flipped()


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def view_of(number: int = 0, persons: int = 2, **other: Any) -> View:
    row = recording(number, persons=persons, **other)
    return View(row["keypoint"].astype(np.float32), row["keypoint_score"].astype(np.float32), (480, 640))


# -------------------------------------------------------------------------------------------------------------- frames


def pyskl_test_frames(total: int, length: int, clips: int) -> np.ndarray:
    """UniformSampleFrames in test mode, with its reseeded global generator."""
    state = np.random.get_state()
    np.random.seed(255)
    drawn = []
    for clip in range(clips):
        np.random.rand()
        np.random.randint(1)
        if total < length:
            start = clip if total < clips else clip * total // clips
            frames = [start + step for step in range(length)]
        elif total < 2 * length:
            jumps = set(np.random.choice(length + 1, total - length, replace=False).tolist())
            frames = [step + sum(jump <= step for jump in jumps) for step in range(length)]
        else:
            edges = [i * total // length for i in range(length + 1)]
            frames = [edge + offset for edge, offset in zip(edges, np.random.randint(np.diff(edges)), strict=False)]
        drawn.append([frame % total for frame in frames])
    np.random.set_state(state)
    return np.array(drawn)


@pytest.mark.parametrize("total", [1, 4, 10, 11, 12, 13, 18, 23, 24, 25, 100, 1000])
def test_test_frames_are_pyskls_own_with_its_seed(total):
    ours = sample_test(total, 12, 10, np.random.RandomState(255))
    np.testing.assert_array_equal(ours, pyskl_test_frames(total, 12, 10))
    assert ours.shape == (10, 12)


def test_sampling_leaves_the_global_generator_alone():
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    sample_test(100, 12, 10, np.random.RandomState(255))
    sample_train(100, 12, seeded())
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("total", [24, 25, 47, 100])
def test_a_long_recording_gives_a_frame_of_each_stretch(total):
    edges = [i * total // 12 for i in range(13)]
    seen = np.array([sample_train(total, 12, seeded(seed)) for seed in range(400)])
    for step in range(12):
        assert set(seen[:, step].tolist()) == set(range(edges[step], edges[step + 1]))


@pytest.mark.parametrize("total", [12, 13, 18, 23])
def test_a_recording_less_than_twice_as_long_leaves_a_few_frames_out_anywhere(total):
    seen = [sample_train(total, 12, seeded(seed)) for seed in range(300)]
    assert all((np.diff(frames) >= 1).all() and frames[0] >= 0 and frames[-1] < total for frames in seen)
    assert all((np.diff(frames) <= 2).all() for frames in seen)
    assert len({tuple(frames) for frames in seen}) > (1 if total > 12 else 0)
    assert set(np.concatenate(seen)) == set(range(total))


def test_a_short_recording_is_looped_from_anywhere():
    seen = [sample_train(5, 12, seeded(seed)) for seed in range(100)]
    assert all((np.diff(frames) % 5 == 1).all() for frames in seen)
    assert {int(frames[0]) for frames in seen} == set(range(5))
    assert sample_train(1, 3, seeded()).tolist() == [0, 0, 0]


def test_the_persons_seen_best_are_kept_in_their_order():
    scores = np.array([0.2, 0.9, 0.1, 0.5])[:, None, None] * np.ones((4, 3, 2))
    assert best_persons(scores, 2).tolist() == [1, 3]
    assert best_persons(scores, 4) == slice(None)


# -------------------------------------------------------------------------------------------------------------- places


def pyskl_compact(points: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """PoseCompact(hw_ratio=1, allow_imgpad=True): a coordinate of 0 is missing, whatever its score."""
    points = points.astype(np.float64)
    x, y = points[..., 0], points[..., 1]
    if not (x != 0).any() or not (y != 0).any():
        return points, shape
    low = np.array([x[x != 0].min(), y[y != 0].min()])
    high = np.array([x[x != 0].max(), y[y != 0].max()])
    if (high - low < 10).any():
        return points, shape
    centre, half = (low + high) / 2, (high - low) / 2 * 1.25
    half[:] = half.max()
    low, high = np.trunc(centre - half), np.trunc(centre + half)
    moved = np.where(points != 0, points - low, points)
    width, height = (high - low).astype(int).tolist()
    return moved, (height, width)


def pyskl_scaled(points: np.ndarray, shape: tuple[int, int], to: tuple[int, int]) -> np.ndarray:
    return points * np.array([to[1] / shape[1], to[0] / shape[0]], np.float32).astype(np.float64)


def pyskl_flip(points: np.ndarray, scores: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    points = points.copy()
    points[..., 0][points[..., 0] != 0] = width - points[..., 0][points[..., 0] != 0]
    order = list(range(17))
    for left, right in zip(range(1, 17, 2), range(2, 17, 2), strict=True):
        order[left], order[right] = right, left
    return points[:, :, order], scores[:, :, order]


def with_zeros(view: View) -> View:
    """Some coordinates exactly 0, with scores and without; some scores 0 with coordinates far away."""
    points, scores = view.points.copy(), view.scores.copy()
    points[0, 3, 2], points[0, 5, 7, 0], points[1, :, 9] = 0, 0, 0
    scores[1, :, 9], scores[0, 8, 4] = 0, 0
    points[0, 8, 4] = [-200, 900]
    return view._replace(points=points, scores=scores)


@pytest.mark.parametrize("number", range(8))
def test_parity_is_pyskls_train_pipeline(number):
    view, rng = with_zeros(view_of(number)), seeded(number)
    ours = resize_short(compact(view, parity=True), 64)
    box = draw_crop(ours.size, (0.56, 1.0), (0.75, 4 / 3), rng)
    ours = mirror(resize(crop(ours, box), (56, 48)), FLIPPED, parity=True)

    points, shape = pyskl_compact(view.points, view.size)
    short = 64 / min(shape)
    to = (int(shape[0] * short + 0.5), int(shape[1] * short + 0.5))
    points = pyskl_scaled(points, shape, to)
    left, top, right, bottom = box
    points = pyskl_scaled(points - np.array([left, top]), (bottom - top, right - left), (56, 48))
    points, scores = pyskl_flip(points, view.scores, 48)
    np.testing.assert_allclose(ours.points, points, rtol=1e-6, atol=1e-6 * 56)
    np.testing.assert_array_equal(ours.scores, scores)
    assert ours.size == (56, 48)


@pytest.mark.parametrize("number", range(4))
def test_parity_is_pyskls_test_pipeline(number):
    view = with_zeros(view_of(number))
    ours = resize(compact(view, parity=True), (64, 64))
    points, shape = pyskl_compact(view.points, view.size)
    np.testing.assert_allclose(ours.points, pyskl_scaled(points, shape, (64, 64)), rtol=1e-6, atol=1e-6 * 64)


def test_a_joint_is_there_by_its_score_and_not_by_its_place():
    clean, odd = view_of(), view_of()
    odd.points[0, 0, 0], odd.scores[0, 0, 0] = [-500, 2000], 0  # a wrong guess
    moved = compact(odd)
    assert moved.size == compact(odd._replace(points=np.where(odd.scores[..., None] > 0, odd.points, 300))).size
    assert compact(odd, parity=True).size != moved.size
    clean.points[0, 0, 0] = 0  # in the picture's corner, and seen there
    assert compact(clean).points.min() > 0
    assert compact(clean, parity=True).size[0] < compact(clean).size[0]


def test_the_box_is_a_quarter_larger_square_and_in_whole_pixels():
    points = np.array([[100, 50], [140.5, 70], [120, 61]], np.float32)[None, None]
    moved = compact(View(points, np.ones((1, 1, 3), np.float32), (480, 640)))
    # half of 40.5 · 1.25 is 25.3125, about (120.25, 60): from 94.9375, 34.6875 to 145.5625, 85.3125
    assert moved.size == (85 - 34, 145 - 94)
    np.testing.assert_array_equal(moved.points, points - np.float32([94, 34]))
    still = View(points[:, :, ::2] * [1, 0.5], np.ones((1, 1, 2), np.float32), (480, 640))  # 5.5 pixels high
    assert compact(still) is still
    gone = View(points, np.zeros((1, 1, 3), np.float32), (480, 640))
    assert compact(gone) is gone


def test_short_sides_are_brought_to_64_as_mmcv_rounds():
    view = view_of()
    assert resize_short(view, 64).size == (64, 85)
    assert resize_short(view._replace(size=(650, 480)), 64).size == (87, 64)  # 86.67
    np.testing.assert_allclose(resize_short(view, 64).points[..., 1], view.points[..., 1] * (64 / 480), rtol=1e-6)


def test_crops_have_the_published_areas_and_shapes():
    boxes = np.array([draw_crop((64, 80), (0.56, 1.0), (0.75, 4 / 3), seeded(seed)) for seed in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert boxes[:, 2].max() == 80
    assert boxes[:, 3].max() == 64
    area, shape = width * height / (64 * 80), width / height
    assert 0.55 < area.min() < 0.58
    assert 0.95 < area.max() <= 1
    assert 0.73 < shape.min() < 0.85  # of a picture that is wider than high, the high ones fit only where small
    assert 1.30 < shape.max() < 1.36
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0


def test_faded_scores_are_lower_by_the_same_factor_in_all_frames_of_a_joint():
    view = view_of()
    there = view.scores > 0
    lows = []
    for seed in range(50):
        factors = fade(view, 0.5, seeded(seed)).scores[there] / view.scores[there]
        assert 0.5 <= factors.min() <= factors.max() <= 1 + 1e-6
        lows.append(factors.min())
    assert min(lows) < 0.6
    assert max(lows) > 0.85
    first = fade(view, 0.5, seeded(1))
    ratio = np.where(there, first.scores / np.where(there, view.scores, 1), np.nan)
    assert np.nanmax(np.nanmax(ratio, (0, 1)) - np.nanmin(ratio, (0, 1))) < 1e-6
    assert first.points is view.points
    assert (first.scores[~there] == 0).all()


def test_a_picture_that_no_crop_fits_gives_its_middle_square():
    assert draw_crop((10, 100), (0.9, 1.0), (0.75, 4 / 3), seeded()) == (45, 0, 55, 10)
    assert draw_crop((100, 11), (0.9, 1.0), (0.75, 4 / 3), seeded()) == (0, 44, 11, 55)


def test_a_mirrored_clip_is_the_mirrored_picture_with_left_and_right_changed():
    view = view_of()._replace(size=(64, 56))
    mirrored = mirror(view, FLIPPED)
    np.testing.assert_array_equal(mirrored.points[:, :, 1, 0], 55 - view.points[:, :, 2, 0])
    np.testing.assert_array_equal(mirrored.points[..., 1], view.points[:, :, FLIPPED, 1])
    np.testing.assert_array_equal(mirrored.scores[:, :, 16], view.scores[:, :, 15])
    again = mirror(mirrored, FLIPPED)
    np.testing.assert_allclose(again.points, view.points, atol=1e-4)
    # a drawn pixel and its mirror image: the centre of pixel 0 comes to that of pixel W - 1
    assert (
        mirror(View(np.zeros((1, 1, 17, 2), np.float32), view.scores[:1, :1], (8, 8)), FLIPPED).points[0, 0, 0, 0] == 7
    )
    parity = mirror(view, FLIPPED, parity=True)
    np.testing.assert_allclose(parity.points[..., 0] - mirrored.points[..., 0], 1, atol=1e-4)


def test_nothing_changes_what_it_is_given():
    view = view_of()
    points, scores = view.points.copy(), view.scores.copy()
    for parity in (False, True):
        made = compact(view, parity=parity)
        mirror(resize(crop(resize_short(made, 64), (3, 4, 50, 60)), (56, 56)), FLIPPED, parity)
        mirror(view, FLIPPED, parity)
    np.testing.assert_array_equal(view.points, points)
    np.testing.assert_array_equal(view.scores, scores)


def test_the_draws_of_a_crop_do_not_depend_on_how_many_fail():
    first, second = seeded(3), seeded(3)
    draw_crop((64, 64), (0.56, 1.0), (0.75, 4 / 3), first)
    draw_crop((10, 100), (0.9, 1.0), (0.75, 4 / 3), second)
    assert math.isclose(first.random(), second.random())
