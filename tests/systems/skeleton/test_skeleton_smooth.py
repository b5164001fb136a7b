"""The one-euro filter on key points: calm at rest, without delay in motion, untouched where nobody is."""

import numpy as np

from sightword.systems.skeleton.video.smooth import body_size, smooth

FPS = 30.0
BODY = np.random.default_rng(0).uniform(0, 300, (17, 2))


def noisy(path: np.ndarray, noise: float = 2.0) -> np.ndarray:
    """A body along x positions (T,), with noise in pixels: (1, T, V, 2)."""
    places = BODY + np.stack([path, np.zeros_like(path)], -1)[:, None]
    return (places + np.random.default_rng(1).normal(0, noise, places.shape))[None].astype(np.float32)


def jitter(points: np.ndarray) -> float:
    return float(np.abs(np.diff(points[0, 10:], axis=0)).mean())


def test_joints_at_rest_are_calmer():
    points = noisy(np.zeros(90))
    smoothed = smooth(points, np.ones((1, 90, 17)), FPS)
    assert jitter(smoothed) < jitter(points) / 2
    assert np.abs(smoothed[0, 20:].mean(0) - BODY).max() < 1.5


def test_quick_motion_is_not_delayed_by_a_frame():
    speed = 15.0  # pixels a frame: 1.5 body sizes a second
    points = noisy(speed * np.arange(60.0), noise=0)
    late = points[0, 20:, :, 0] - smooth(points, np.ones((1, 60, 17)), FPS)[0, 20:, :, 0]
    assert 0 <= late.mean() < speed / 10


def test_missing_joints_stay_and_do_not_pull_others():
    points, scores = noisy(np.zeros(60)), np.ones((1, 60, 17))
    scores[0, 20:40, 3] = 0
    points[0, 20:40, 3] = 0
    smoothed = smooth(points, scores, FPS)
    assert not smoothed[0, 20:40, 3].any()
    assert np.abs(smoothed[0, 40:, 3] - BODY[3]).max() < 6
    others = [joint for joint in range(17) if joint != 3]
    alone = smooth(noisy(np.zeros(60)), np.ones((1, 60, 17)), FPS)  # joint 3 counts in the size of the body
    np.testing.assert_allclose(smoothed[:, :, others], alone[:, :, others], atol=0.5)


def test_who_comes_back_elsewhere_is_there_at_once():
    points, scores = noisy(np.zeros(90), noise=0), np.ones((1, 90, 17))
    points[0, 60:] += 400
    scores[0, 15:60] = 0
    assert np.abs(smooth(points, scores, FPS)[0, 60] - points[0, 60]).max() < 20


def test_persons_are_smoothed_on_their_own_and_nobody_is_no_error():
    two = np.concatenate([noisy(np.zeros(30)), noisy(9 * np.arange(30.0))])
    scores = np.ones((2, 30, 17))
    np.testing.assert_array_equal(smooth(two, scores, FPS)[1:], smooth(two[1:], scores[1:], FPS))
    np.testing.assert_array_equal(smooth(two, scores * 0, FPS), two)
    assert smooth(two[:0], scores[:0], FPS).shape == (0, 30, 17, 2)


def test_the_size_of_a_body_is_that_of_the_joints_that_are_there():
    points, there = np.zeros((3, 3, 2)), np.ones((3, 3), bool)
    points[:, 1], points[:, 2] = (10, 40), (9999, 0)
    there[:, 2] = False
    assert body_size(points, there) == 40
