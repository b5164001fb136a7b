"""Following people: who is who from frame to frame."""

import numpy as np
import pytest

from sightword.errors import SightwordError
from sightword.systems.skeleton.track import Tracks, follow

BODY = np.random.default_rng(0).uniform((0, 0), (60, 180), (17, 2))  # joints of somebody 60 × 180 pixels large


def person(x: float, y: float = 100, score: float = 0.9) -> np.ndarray:
    """Somebody whose box begins at x, y: (V, 3)."""
    return np.column_stack([BODY + np.array([x, y]), np.full(17, score)]).astype(np.float32)


def frame(*people: np.ndarray) -> np.ndarray:
    return np.stack(people) if people else np.zeros((0, 17, 3), np.float32)


def lefts(tracks: Tracks, number: int) -> np.ndarray:
    """x of a person's first joint in each frame, without that of the body itself; NaN where nobody is seen."""
    return np.where(tracks.scores[number, :, 0] > 0, tracks.points[number, :, 0, 0] - BODY[0, 0], np.nan)


@pytest.mark.parametrize("speed", [3, 8, 15])
def test_people_who_cross_keep_their_ids(speed):
    right, left = np.arange(0, 600, speed), np.arange(600, 0, -speed)
    tracks = follow([frame(person(a), person(b)) for a, b in zip(right, left, strict=True)])
    assert sorted(tracks.ids) == [1, 2]
    np.testing.assert_allclose(lefts(tracks, tracks.ids.index(1)), right, atol=1e-3)
    np.testing.assert_allclose(lefts(tracks, tracks.ids.index(2)), left, atol=1e-3)


def test_the_order_of_detections_does_not_matter():
    rng = np.random.default_rng(1)
    frames = [frame(person(3.0 * t), person(500), person(200 + t, 400)) for t in range(40)]
    tracks = follow([one[rng.permutation(3)] for one in frames], people=3)
    found = sorted((lefts(tracks, row) for row in range(3)), key=lambda x: x[0])
    np.testing.assert_allclose(found, [3.0 * np.arange(40), 200 + np.arange(40), np.full(40, 500)], atol=1e-3)


def test_who_comes_back_in_time_is_the_same_person_and_later_another():
    def away(frames: int) -> Tracks:
        return follow([frame(person(100))] * 5 + [frame()] * frames + [frame(person(120))] * 5, patience=30)

    back = away(29)
    assert (len(back.ids), back.scores.shape) == (1, (1, 39, 17))
    assert not back.scores[0, 5:34].any()
    assert not back.points[0, 5:34].any()
    assert away(30).ids == (1, 2)


def test_who_stops_after_an_occlusion_is_not_lost_to_the_expected_movement():
    walk = [frame(person(10.0 * t)) for t in range(10)]
    assert follow([*walk, *[frame()] * 20, *[frame(person(90.0))] * 3]).ids == (1,)


def test_a_jump_beyond_the_gate_is_another_person():
    assert len(follow([frame(person(0)), frame(person(300))]).ids) == 2
    assert len(follow([frame(person(0)), frame(person(20))]).ids) == 1


def test_persons_are_ordered_by_motion_times_score_and_the_first_are_kept():
    frames = [
        frame(person(600), person(100 + 8.0 * abs(t % 10 - 5)), person(300 + 8.0 * abs(t % 10 - 5), score=0.3))
        for t in range(40)
    ]
    tracks = follow(frames)
    assert tracks.ids == (2, 3)  # who stands still is left out
    assert follow(frames, people=3).ids == (2, 3, 1)
    passing = [frame(person(600 + t % 3, 300), person(60.0 * t)) for t in range(3)]
    passing += [frame(person(600 + 4.0 * abs(t % 10 - 5), 300)) for t in range(200)]
    assert follow(passing, people=1).ids == (1,)  # the other passes by in three frames


def test_frames_without_people_and_recordings_without_frames_have_no_persons():
    assert follow([frame()] * 4) == Tracks(
        pytest.approx(np.zeros((0, 4, 17, 2))), pytest.approx(np.zeros((0, 4, 17))), ()
    )
    assert follow([]).points.shape == (0, 0, 0, 2)
    tracks = follow([np.zeros((0, 0, 3)), frame(person(5)), np.zeros((0, 0, 3))])
    assert tracks.scores.shape == (1, 3, 17)


def test_joints_that_are_no_numbers_or_have_no_score_are_not_there():
    broken = person(50)
    broken[3] = np.nan
    broken[4] = (1e9, 1e9, 0)  # far away, and without a score: it makes no box
    tracks = follow([frame(person(50)), frame(broken), frame(person(50)), frame(person(0) * 0)])
    assert tracks.ids == (1,)
    assert np.flatnonzero(tracks.scores[0, 1] == 0).tolist() == [3, 4]
    assert not tracks.points[0, 1, 3:5].any()
    assert not tracks.scores[0, 3].any()


def test_frames_of_another_form_are_refused_by_their_number():
    with pytest.raises(SightwordError, match=r"frame 1 has the shape \(17, 3\). Expected \(persons, joints, 3\)"):
        follow([frame(person(0)), person(0)])
    with pytest.raises(SightwordError, match="frame 1 has 5 joints and others have 17"):
        follow([frame(person(0)), np.ones((1, 5, 3))])
