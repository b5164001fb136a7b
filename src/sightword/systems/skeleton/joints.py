"""Sets of joints as data: what they are called, which are left and right of each other, which are joined by a limb.

    coco17      COCO, and so HRNet and all 2-D sets of pyskl        body25      OpenPose's BODY_25
    openpose18  OpenPose's COCO model                               halpe26     AlphaPose, RTMPose with feet
    ntu25       Kinect v2: the 3-D sets of NTU RGB+D                h36m17      Human3.6M, and so most lifters to 3-D

Another set is a JSON file: {"joints": [names], "limbs": [[end, end], …]} with names or numbers as ends. Left and right
are told by names that begin so, or by "pairs": [[left, right], …].
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class JointSet(NamedTuple):
    """V joints, numbered in the order in which key points come."""

    name: str
    joints: tuple[str, ...]  # V names
    pairs: tuple[tuple[int, int], ...]  # left, right
    limbs: tuple[tuple[int, int], ...]  # ends

    def flipped(self) -> list[int]:
        """V: which joint stands where after a mirror; mirrored = points[..., flipped, :]."""
        order = list(range(len(self.joints)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return order

    def flipped_limbs(self) -> list[int]:
        """The same of limbs, derived from the pairs."""
        order = self.flipped()
        number = {frozenset(limb): row for row, limb in enumerate(self.limbs)}
        return [number[frozenset((order[a], order[b]))] for a, b in self.limbs]


def joint_set(name: str | Path) -> JointSet:
    """A set by its name, or from a JSON file. ValueError, one line, where pairs or limbs do not fit the joints."""
    if str(name) in JOINT_SETS:
        return JOINT_SETS[str(name)]
    path = Path(name).expanduser()
    if path.suffix != ".json":
        raise ValueError(f"joints are {', '.join(JOINT_SETS)}, or a JSON file {{joints, limbs, pairs}}; got {name!r}")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there: it should be a JSON file {{joints, limbs, pairs}}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
        raise ValueError(f"{path}: not JSON ({error})") from None
    try:
        return _of(path.stem, told)
    except _Malformed as error:
        raise ValueError(f"{path} {error}") from None


class _Malformed(Exception):
    """What is wrong with a set, without its file's name."""


def _of(name: str, told: Any) -> JointSet:
    joints = told.get("joints") if isinstance(told, Mapping) else None
    if not isinstance(joints, list) or not joints or not all(isinstance(joint, str) for joint in joints):
        raise _Malformed('has no list of names under "joints"')
    if twice := [joint for row, joint in enumerate(joints) if joint in joints[:row]]:
        raise _Malformed(f"names the joint {twice[0]!r} twice")
    limbs = _ends(told.get("limbs", []), joints, "limbs")
    pairs = _ends(told["pairs"], joints, "pairs") if "pairs" in told else _sides(joints)
    return _fitting(JointSet(name, tuple(joints), pairs, limbs))


def _sides(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs by names: left_knee, right_knee."""
    rows = {joint: row for row, joint in enumerate(joints)}
    rights = {row: rows.get(f"right_{joint[5:]}") for joint, row in rows.items() if joint.startswith("left_")}
    return tuple((left, right) for left, right in rights.items() if right is not None)


def _ends(told: Any, joints: Sequence[str], field: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(told, list) or not all(isinstance(ends, list) and len(ends) == 2 for ends in told):
        raise _Malformed(f'has {field} that are no list of [joint, joint], as "{field}": [["left_hip", "left_knee"]]')
    rows = {joint: row for row, joint in enumerate(joints)} | {row: row for row in range(len(joints))}
    for end in (end for ends in told for end in ends):
        if isinstance(end, bool) or not isinstance(end, str | int) or end not in rows:
            raise _Malformed(f"has {end!r} among its {field}, and its {len(joints)} joints are {_listed(joints)}")
    return tuple((rows[a], rows[b]) for a, b in told)


def _listed(joints: Sequence[str]) -> str:
    return ", ".join(joints) if len(joints) <= 6 else f"{joints[0]} (0) to {joints[-1]} ({len(joints) - 1})"


def _fitting(made: JointSet) -> JointSet:
    """ValueError where a mirrored body would not have the joints and limbs that the body has."""
    paired = [joint for pair in made.pairs for joint in pair]
    if twice := [joint for row, joint in enumerate(paired) if joint in paired[:row]]:
        raise _Malformed(f"has {made.joints[twice[0]]!r} twice in its pairs: each joint has one opposite")
    order, there = made.flipped(), {frozenset(limb) for limb in made.limbs}
    if len(there) < len(made.limbs):
        raise _Malformed("lists a limb twice")
    for a, b in made.limbs:
        if a == b:
            raise _Malformed(f"has a limb from {made.joints[a]!r} to itself")
        if frozenset((order[a], order[b])) not in there:
            ends, others = (f"{made.joints[i]}-{made.joints[j]}" for i, j in ((a, b), (order[a], order[b])))
            raise _Malformed(f"has the limb {ends} and not its mirror image {others}: its pairs do not fit its limbs")
    return made


# -------------------------------------------------------------------------------------------------------------- named

_ARMS = "left_shoulder-left_elbow left_elbow-left_wrist right_shoulder-right_elbow right_elbow-right_wrist "
_LEGS = "left_hip-left_knee left_knee-left_ankle right_hip-right_knee right_knee-right_ankle "
_FACE = "nose-left_eye nose-right_eye left_eye-left_ear right_eye-right_ear "
_TOES = "left_ankle-left_big_toe right_ankle-right_big_toe left_big_toe-left_small_toe right_big_toe-right_small_toe "
_HEELS = "left_ankle-left_heel right_ankle-right_heel "
_NECK = "neck-nose neck-left_shoulder neck-right_shoulder "

_COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle "
)
_OPENPOSE = "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
_BELOW = "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear "

_NAMED: Mapping[str, tuple[str, str]] = {  # joints in their order, limbs
    "coco17": (  # limbs in the order of pyskl's limb heatmaps, so that its checkpoints fit
        _COCO,
        "nose-left_eye nose-right_eye left_eye-left_ear right_eye-right_ear nose-left_shoulder "
        "left_shoulder-left_elbow left_elbow-left_wrist nose-right_shoulder right_shoulder-right_elbow "
        "right_elbow-right_wrist left_shoulder-left_hip left_hip-left_knee left_knee-left_ankle "
        "right_shoulder-right_hip right_hip-right_knee right_knee-right_ankle left_hip-right_hip",
    ),
    "openpose18": (
        f"{_OPENPOSE}{_BELOW}",
        f"{_NECK}{_ARMS}neck-left_hip neck-right_hip {_LEGS}{_FACE}",
    ),
    "body25": (
        f"{_OPENPOSE}mid_hip {_BELOW}left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel",
        f"{_NECK}{_ARMS}neck-mid_hip mid_hip-left_hip mid_hip-right_hip {_LEGS}{_FACE}{_TOES}{_HEELS}",
    ),
    "ntu25": (
        "spine_base spine_mid neck head left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow "
        "right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot "
        "spine_shoulder left_hand_tip left_thumb right_hand_tip right_thumb",
        f"spine_base-spine_mid spine_mid-spine_shoulder spine_shoulder-neck neck-head {_ARMS}{_LEGS}"
        "spine_shoulder-left_shoulder spine_shoulder-right_shoulder left_wrist-left_hand right_wrist-right_hand "
        "left_hand-left_thumb right_hand-right_thumb left_thumb-left_hand_tip right_thumb-right_hand_tip "
        "spine_base-left_hip spine_base-right_hip left_ankle-left_foot right_ankle-right_foot",
    ),
    "halpe26": (
        f"{_COCO}head neck hip left_big_toe right_big_toe left_small_toe right_small_toe left_heel right_heel",
        f"head-neck {_NECK}{_ARMS}neck-hip hip-left_hip hip-right_hip {_LEGS}{_FACE}{_TOES}{_HEELS}",
    ),
    "h36m17": (
        "root right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax nose head left_shoulder "
        "left_elbow left_wrist right_shoulder right_elbow right_wrist",
        f"root-spine spine-thorax thorax-nose nose-head {_ARMS}thorax-left_shoulder thorax-right_shoulder "
        f"root-left_hip root-right_hip {_LEGS}",
    ),
}

JOINT_SETS: dict[str, JointSet] = {
    name: _of(name, {"joints": joints.split(), "limbs": [limb.split("-") for limb in limbs.split()]})
    for name, (joints, limbs) in _NAMED.items()
}
