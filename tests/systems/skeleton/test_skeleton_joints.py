"""Joint sets: the named ones are whole, and one of a file has to fit itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from sightword.systems.skeleton.joints import JOINT_SETS, joint_set


def write(path: Path, **told: Any) -> Path:
    path.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize("made", JOINT_SETS.values(), ids=JOINT_SETS)
def test_the_named_sets_are_symmetric_and_in_one_piece(made):
    order = made.flipped()
    assert [order[row] for row in order] == list(range(len(made.joints)))
    mirrored = {frozenset((order[a], order[b])) for a, b in made.limbs}
    assert mirrored == {frozenset(limb) for limb in made.limbs}
    for name, other in zip(made.joints, (made.joints[row] for row in order), strict=True):
        swapped = {"left": name.replace("left", "right"), "righ": name.replace("right", "left")}
        assert other == swapped.get(name[:4], name)
    reached = {0}
    for _ in made.joints:
        reached |= {end for limb in made.limbs if reached & set(limb) for end in limb}
    assert reached == set(range(len(made.joints)))


@pytest.mark.parametrize(
    ("name", "joints"),
    [
        ("coco17", 17),
        ("openpose18", 18),
        ("body25", 25),
        ("ntu25", 25),
        ("halpe26", 26),
        ("h36m17", 17),
        ("openpose17", 17),
        ("kinect20", 20),
        ("msr20", 20),
        ("mhad20", 20),
        ("mediapipe33", 33),
    ],
)
def test_sets_have_the_joints_their_names_say(name, joints):
    assert len(joint_set(name).joints) == joints == len(set(joint_set(name).joints))


def test_coco_is_mirrored_as_pyskl_mirrors_it():
    made = joint_set("coco17")
    left, right = [1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]  # left_kp, right_kp of its configs
    assert sorted(made.pairs) == list(zip(left, right, strict=True))
    assert len(made.limbs) == 17
    assert made.limbs[4] == (0, 5)
    assert made.limbs[16] == (11, 12)


def test_kinect_sets_have_the_same_body_in_two_orders():
    sdk, msr = joint_set("kinect20"), joint_set("msr20")
    limbs = [{frozenset((made.joints[a], made.joints[b])) for a, b in made.limbs} for made in (sdk, msr)]
    assert limbs[0] == limbs[1]
    assert (sdk.joints[:4], sdk.joints[11]) == (("hip_centre", "spine", "shoulder_centre", "head"), "right_hand")
    assert (msr.joints[0], msr.joints[6], msr.joints[19]) == ("left_shoulder", "hip_centre", "head")


def test_mediapipe_has_the_left_at_odd_numbers_and_coco_by_its_published_ones():
    joints = joint_set("mediapipe33").joints
    assert all(joints[row].startswith("left_") for row in range(7, 33, 2))
    coco = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
    assert tuple(joints[row] for row in coco) == joint_set("coco17").joints


def test_openpose17_is_openpose18_without_its_neck():
    assert joint_set("openpose17").joints == tuple(j for j in joint_set("openpose18").joints if j != "neck")


def test_ntu_and_halpe_joints_stand_where_their_documents_put_them():
    ntu, halpe = joint_set("ntu25").joints, joint_set("halpe26").joints
    assert (ntu[3], ntu[4], ntu[11], ntu[20], ntu[24]) == (
        "head",
        "left_shoulder",
        "right_hand",
        "spine_shoulder",
        "right_thumb",
    )
    assert (halpe[17], halpe[19], halpe[20], halpe[25]) == ("head", "hip", "left_big_toe", "right_heel")


def test_a_file_may_name_or_number_its_ends_and_leave_pairs_to_names(tmp_path):
    joints = ["head", "left_hand", "right_hand"]
    made = joint_set(write(tmp_path / "puppet.json", joints=joints, limbs=[["head", "left_hand"], [0, 2]]))
    assert made[:4] == ("puppet", tuple(joints), ((1, 2),), ((0, 1), (0, 2)))
    told = joint_set(write(tmp_path / "x.json", joints=["a", "b"], limbs=[["a", "b"]], pairs=[["a", "b"]]))
    assert told.flipped() == [1, 0]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"joints": ["a", "b"], "pairs": [["a", "c"]]}, "has 'c' among its pairs, and its 2 joints are a, b"),
        ({"joints": ["a", "b"], "pairs": [[0, 2]]}, "has 2 among its pairs"),
        ({"joints": ["a", "b", "c"], "pairs": [[0, 1], [1, 2]]}, "has 'b' twice in its pairs"),
        ({"joints": ["a"], "pairs": [["a", "a"]]}, "has 'a' twice in its pairs"),
        ({"joints": ["a", "b"], "pairs": [["a", "b", "a"]]}, "not a list of .joint, joint."),
        ({"joints": ["a", "b"], "limbs": [["a", "z"]]}, "has 'z' among its limbs"),
        ({"joints": ["a", "b"], "limbs": [["a", "a"]]}, "limb from 'a' to itself"),
        ({"joints": ["a", "b"], "limbs": [["a", "b"], ["b", "a"]]}, "lists a limb twice"),
        (
            {"joints": ["head", "left_eye", "right_eye"], "limbs": [["head", "left_eye"]]},
            "has the limb head-left_eye and not its mirror image head-right_eye: its pairs do not fit its limbs",
        ),
        ({"joints": ["a", "a"]}, "names the joint 'a' twice"),
        ({"joints": []}, "joints: expected a list of at least 1, got an empty list"),
        ({"limbs": []}, "has no joints"),
    ],
)
def test_pairs_and_limbs_that_do_not_fit_are_one_line(tmp_path, told, message):
    with pytest.raises(ValueError, match=message) as caught:
        joint_set(write(tmp_path / "puppet.json", **told))
    assert "\n" not in str(caught.value)
    assert "puppet.json" in str(caught.value)


def test_a_name_that_is_no_set_is_told_which_there_are(tmp_path):
    with pytest.raises(ValueError, match="joints='coco' is not a joint set. Pass one of coco17, openpose18"):
        joint_set("coco")
    with pytest.raises(ValueError, match="does not exist"):
        joint_set(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="ends in the middle of its JSON"):
        joint_set(tmp_path / "x.json")
