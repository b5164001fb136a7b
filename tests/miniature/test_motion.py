"""Synthetic skeleton sequences: what distinguishes their actions, what does not, and the file in pyskl's format."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from sightword.miniature import motion
from sightword.miniature.motion import (
    ACTIONS,
    SHAPE,
    STAND,
    UNSEEN,
    Body,
    Pose,
    Sizes,
    angles_of,
    annotations,
    body_of,
    eased,
    film,
    write_motion,
)

USUAL = Body(2.0, 0.3, 0.1, 0.05, 0.2, 0.15, 0.25, 0.25, 0.1, 1.0, 1.0)
SMALL = Sizes(train=2, val=1, test=1, clips=3)
NOSE, LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_WRIST, RIGHT_WRIST = 0, 5, 6, 9, 10
LEFT_HIP, LEFT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = 11, 13, 15, 16


def stood(**angles: object) -> np.ndarray:
    """(17, 3): the usual body, its arms and legs straight but for what is said."""
    straight = dict.fromkeys(("upper", "plane", "lower", "across", "thigh", "apart", "knee"), (0, 0))
    return USUAL.joints(angles_of(Pose(**straight | angles))[None])[0]


def filmed(name: str, number: int = 0, camera: int = 1, hard: float = 0.0) -> motion.Clip:
    rng = np.random.default_rng([9, number])
    return film((ACTIONS | UNSEEN)[name], body_of(rng), rng, camera, hard)


@pytest.fixture(scope="module")
def small() -> dict:
    return annotations(SMALL, seed=3)


def test_a_body_that_stands_has_its_lengths_and_its_feet_on_the_ground() -> None:
    joints = stood()
    assert joints[LEFT_ANKLE] == pytest.approx([0.1, 0.1, 0])  # half a hip aside; an ankle is 5 % of 2 m high
    assert joints[LEFT_HIP] == pytest.approx([0.1, 1.1, 0])
    assert joints[LEFT_SHOULDER] == pytest.approx([0.2, 1.7, 0])
    assert joints[RIGHT_WRIST] == pytest.approx([-0.2, 1.0, 0])
    assert joints[NOSE, 1] > joints[LEFT_SHOULDER, 1]
    assert joints[NOSE, 2] > 0


def test_arms_and_trunk_and_knees_go_where_their_angles_say() -> None:
    aside = stood(upper=(90, 0), lower=(180, 0))
    assert aside[LEFT_WRIST] == pytest.approx([0.6, 2.0, 0])
    forward = stood(upper=(90, 90), plane=(90, 90), lower=(90, 90), across=(90, 90))
    assert forward[RIGHT_WRIST] == pytest.approx([-0.2, 1.7, 0.7])
    bowed = stood(bow=90)
    assert bowed[LEFT_SHOULDER] == pytest.approx([0.2, 1.1, 0.6])
    seated = stood(thigh=(90, 90), knee=(90, 90))
    assert seated[LEFT_ANKLE, 2] == pytest.approx(0)  # the feet stay, the hips go back
    assert seated[LEFT_HIP] == pytest.approx([0.1, 0.6, -0.5])
    assert stood(lift=10)[LEFT_ANKLE, 1] - joints_height() == pytest.approx(0.2)


def joints_height() -> float:
    return float(stood()[LEFT_ANKLE, 1])


def test_a_turn_brings_the_acting_shoulder_forward() -> None:
    turned = stood(turn=30)
    assert turned[LEFT_SHOULDER, 2] == pytest.approx(0.1)
    assert turned[RIGHT_SHOULDER, 2] == pytest.approx(-0.1)


def test_easing_passes_through_every_pose_and_is_still_before_and_after() -> None:
    rows = np.array([[0.0], [10.0], [4.0]])
    found = eased(rows, np.array([2.0, 4.0, 8.0]), np.array([0, 2, 3, 4, 6, 8, 11]))[:, 0]
    assert found == pytest.approx([0, 0, 5, 10, 7, 4, 4])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("raising both arms", "lowering both arms"),
        ("sitting down", "standing up"),
        ("raising one arm", "lowering one arm"),
    ],
)
def test_two_actions_are_each_other_reversed_in_time(one: str, other: str) -> None:
    forth, back = (ACTIONS | UNSEEN)[one], (ACTIONS | UNSEEN)[other]
    assert (forth.start, *forth.poses, forth.end) == (back.start, *back.poses, back.end)[::-1]
    assert forth.start != forth.end
    assert forth.repeats == back.repeats == 1
    rows = np.stack([angles_of(pose) for pose in (forth.start, *forth.poses, forth.end)])
    times = np.linspace(0, 30, len(rows))
    there, again = eased(rows, times, np.arange(31)), eased(rows[::-1], times, np.arange(31))
    assert there == pytest.approx(again[::-1])


def test_every_other_action_begins_and_ends_standing_so_its_ends_tell_nothing() -> None:
    same = [name for name, action in ACTIONS.items() if action.start == action.end == STAND]
    assert len(same) == len(ACTIONS) - 4


def test_the_same_pixels_move_up_or_down_as_the_action_says() -> None:
    for number in range(5):
        for name, sign in (("raising both arms", -1), ("lowering both arms", 1)):
            clip = filmed(name, number)
            wrists = clip.points[0, :, [LEFT_WRIST, RIGHT_WRIST], 1].astype(float)
            assert (sign * (wrists[:, -1] - wrists[:, 0]) > 30).all()
        hips = filmed("sitting down", number).points[0, :, LEFT_HIP, 1].astype(float)
        assert hips[-1] > hips[0] + 10


def speed(clip: motion.Clip) -> np.ndarray:
    """(T - 1,) float: how far the fastest joint goes, in pixels."""
    return np.linalg.norm(np.diff(clip.points[0].astype(float), axis=0), axis=-1).max(-1)


@pytest.mark.parametrize("name", [*ACTIONS, *UNSEEN])
def test_it_happens_in_the_key_moments_and_little_outside_them(name: str) -> None:
    for number in range(4):
        clip = filmed(name, number)
        inside = clip.key[1:] & clip.key[:-1]
        moved = speed(clip)
        assert moved[inside].mean() > 2 * moved[~inside].mean(), number
        assert clip.key[0] == clip.key[-1] == False  # noqa: E712
        assert np.abs(np.diff(clip.key.astype(int))).sum() == 2  # one stretch


def test_either_side_may_act_and_the_other_rests() -> None:
    acting = []
    for number in range(30):
        points = filmed("waving one hand", number).points[0].astype(float)
        went = np.ptp(points[:, [LEFT_WRIST, RIGHT_WRIST], 1], axis=0)
        assert went.max() > 2 * went.min()
        acting.append(int(went.argmax()))
    assert 8 < sum(acting) < 22


def test_the_left_hand_is_on_the_right_from_the_front_and_the_cameras_see_both_sides() -> None:
    noses = []
    for camera in range(3):
        points = filmed("bowing", 0, camera).points[0, 0].astype(float)
        assert points[LEFT_SHOULDER, 0] > points[RIGHT_SHOULDER, 0]
        noses.append(points[NOSE, 0] - points[[LEFT_SHOULDER, RIGHT_SHOULDER], 0].mean())
    assert noses[0] < 0 < noses[2]  # looks to the left of the picture, and to its right


def test_exact_clips_have_one_person_all_seen_and_hard_ones_misses_and_hidden_limbs() -> None:
    exact = filmed("marching", 1)
    assert exact.points.shape[0] == 1
    assert exact.scores.min() >= 0.59
    clips = [filmed("marching", number, hard=1.0) for number in range(60)]
    scores = np.concatenate([clip.scores.reshape(-1) for clip in clips]).astype(float)
    assert 0.005 < (scores == 0).mean() < 0.015
    assert 0.02 < (scores < 0.3).mean() < 0.08
    assert {len(clip.points) for clip in clips} == {1, 2}
    for clip in clips:
        assert (clip.points[clip.scores == 0] == 0).all()
        assert np.isfinite(clip.points.astype(float)).all()


def test_the_length_tells_nothing_of_the_action(small: dict) -> None:
    lengths: dict[int, list[int]] = {}
    for entry in annotations(Sizes(7, 0, 0), seed=3)["annotations"]:
        lengths.setdefault(entry["label"], []).append(entry["total_frames"])
    means = [np.mean(each) for each in lengths.values()]
    assert np.std(means) < 1.6 * np.std(lengths[0]) / np.sqrt(len(lengths[0]))  # as chance has it


def test_splits_share_no_subject_and_the_unseen_actions_are_in_none(small: dict) -> None:
    split = small["split"]
    assert {name: len(each) for name, each in split.items()} == {
        "xsub_train": 72,
        "xsub_val": 36,
        "xsub_test": 36,
        "xview_val": 48,
        "xview_train": 96,
        "unseen": 24,
    }
    subjects = [{name[8:12] for name in split[f"xsub_{each}"]} for each in ("train", "val", "test")]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 4
    cameras = [{name[4:8] for name in split[f"xview_{each}"]} for each in ("train", "val")]
    assert not cameras[0] & cameras[1]
    seen = {name for key, names in split.items() if key != "unseen" for name in names}
    assert not seen & set(split["unseen"])
    assert seen | set(split["unseen"]) == {entry["frame_dir"] for entry in small["annotations"]}


def test_annotations_are_as_pyskl_has_them_and_know_the_key_moments(small: dict) -> None:
    for entry in small["annotations"]:
        people, frames = entry["keypoint"].shape[:2]
        assert entry["keypoint"].shape == (people, frames, 17, 2)
        assert entry["keypoint_score"].shape == (people, frames, 17)
        assert entry["keypoint"].dtype == entry["keypoint_score"].dtype == np.float16
        assert entry["total_frames"] == frames
        assert 20 < frames < 160
        assert entry["img_shape"] == entry["original_shape"] == SHAPE
        assert entry["key_moments"].shape == (frames,)
        assert entry["key_moments"].dtype == bool
        assert 0.2 < entry["key_moments"].mean() < 0.85
    counted = np.bincount([e["label"] for e in small["annotations"] if e["frame_dir"] not in small["split"]["unseen"]])
    assert counted.tolist() == [12] * 12


def test_unseen_actions_are_made_of_words_that_the_others_have() -> None:
    known = {word for action in ACTIONS.values() for prompt in action.prompts for word in prompt.split()}
    for name, action in UNSEEN.items():
        assert name not in ACTIONS
        for prompt in action.prompts:
            assert set(prompt.split()) <= known, prompt
    prompts = [prompt for table in (ACTIONS, UNSEEN) for action in table.values() for prompt in action.prompts]
    assert len(set(prompts)) == len(prompts)
    assert {word for prompt in prompts for word in prompt.split()} == set(motion.vocabulary())
    assert all(action.prompts[0] == name for name, action in (ACTIONS | UNSEEN).items())


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    sizes = Sizes(1, 1, 0, 1)
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_motion(tmp_path / name, sizes, seed)
    write_motion(tmp_path / "one", sizes, 1)  # over what is there
    found = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("one", "again", "other")]
    assert found[0] == found[1]
    assert set(found[0]) == {"README.md", "annotations.pkl", "labels.json", "unseen.json"}
    assert found[0]["annotations.pkl"] != found[2]["annotations.pkl"]
    with open(tmp_path / "one" / "annotations.pkl", "rb") as file:
        read = pickle.load(file)
    assert len(read["annotations"]) == 12 * 2 + 4
    labels = json.loads(found[0]["labels.json"])
    assert list(labels) == list(ACTIONS)
    assert labels["bowing"][0] == "bowing"


def test_a_clip_depends_on_its_own_name_not_on_how_many_there_are(small: dict) -> None:
    more = {e["frame_dir"]: e for e in annotations(SMALL._replace(clips=4), seed=3)["annotations"]}
    for entry in small["annotations"][::7]:
        assert (more[entry["frame_dir"]]["keypoint"] == entry["keypoint"]).all()


def test_nothing_is_drawn_from_a_global_generator() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    annotations(Sizes(1, 0, 0, 1))
    assert np.random.get_state()[1].tolist() == before
