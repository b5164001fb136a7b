"""Sets of joints as data: their names, which are left and right of each other, which are joined by a limb.

    coco17      COCO, and so HRNet and all 2-D sets of pyskl        body25      OpenPose's BODY_25
    openpose18  OpenPose's COCO model                               halpe26     AlphaPose, RTMPose with feet
    ntu25       Kinect v2: the 3-D sets of NTU RGB+D                h36m17      Human3.6M, and so most lifters to 3-D
    kinect20    Kinect v1's SDK: UTKinect                           msr20       MSR-Action3D, an order of its own
    openpose17  openpose18 without its neck                         mediapipe33 MediaPipe's, or BlazePose's, landmarks
    mhad20      UTD-MHAD: kinect20 with the trunk from the head down

halpe26 is also the body part of Halpe-136.

Another set is a JSON file: {"joints": [names], "limbs": [[end, end], …]} with names or numbers as ends. Left and right
follow from names that begin with left_ and right_, or are listed as "pairs": [[left, right], …].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json

Ends = tuple[tuple[int, int], ...]


class JointSet(NamedTuple):
    """V joints, numbered in the order in which key points come."""

    name: str
    joints: tuple[str, ...]  # V names
    pairs: Ends  # left, right
    limbs: Ends  # both ends
    projections: tuple[str, ...] = ("front",)  # the planes in which a model draws them: front, side, top

    def flipped(self) -> list[int]:
        """Return which joint stands where after a mirror, (V,); mirrored = points[..., flipped, :]."""
        order = list(range(len(self.joints)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return order

    def drawn(self) -> "JointSet":
        """Return the set that heatmaps draw: these joints and limbs once for each projection, plane after plane."""
        planes, count = len(self.projections), len(self.joints)
        if planes == 1:
            return self
        moved = [[(a + plane * count, b + plane * count) for a, b in self.limbs] for plane in range(planes)]
        names = tuple(f"{joint}.{plane}" for plane in self.projections for joint in self.joints)
        return self._replace(joints=names, pairs=(), limbs=tuple(limb for each in moved for limb in each))


def joint_set(name: str | Path) -> JointSet:
    """Return a set by its name, or from a JSON file. Raises SightwordError if pairs or limbs do not fit the joints."""
    if str(name) in JOINT_SETS:
        return JOINT_SETS[str(name)]
    path = Path(name).expanduser()
    if path.suffix != ".json":
        raise SightwordError(
            f"joints={str(name)!r} is not a joint set. Pass one of {', '.join(JOINT_SETS)}, or a JSON file "
            "{joints, limbs, pairs}"
        )
    fields = read_json(path, missing="joints= is a JSON file {joints, limbs, pairs}")
    return joint_set_of(fields, path.stem)


def stated_joints(value: object, path: Path) -> JointSet | None:
    """Return the set that a file states, by its name or as a list of joints; None if it states none.

    Raises SightwordError if it is neither. No other file is opened for it.
    """
    if value is None:
        return None
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if names and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        known = next((made for made in JOINT_SETS.values() if made.joints == names), None)
        return known or JointSet(path.name, names, _sides(names), ())
    if isinstance(value, str) and value in JOINT_SETS:
        return JOINT_SETS[value]
    raise SightwordError(
        f"{path} states joints={value!r:.60}, expected one of {', '.join(JOINT_SETS)} or a list of names. Override it "
        "by joints=, or data.joints= in training"
    )


def other_joints(count: int, source: JointSet, wanted: JointSet) -> str:
    """Return, as the rest of a sentence, that a file has `count` joints and not those of `source`, and what to do."""
    told = f"has {count} joints and {source.name} has {len(source.joints)}"
    alike = [made for made in JOINT_SETS.values() if len(made.joints) == count]
    if names := [made.name for made in alike if set(wanted.joints) <= set(made.joints)]:
        return f"{told}. Those of {wanted.name} are among {' or '.join(names)}: read the file by joints={names[0]}"
    sets = f", as {' or '.join(made.name for made in alike)}" if alike else ""
    return f"{told}. Train with system.joints= a set of {count} joints{sets}, or a JSON file"


def joint_set_of(fields: Fields, name: str) -> JointSet:
    """Return the set in a file's fields `joints`, `limbs` and `pairs`. Raises SightwordError as `joint_set` does."""
    joints = fields.texts("joints", least=1)
    try:
        limbs = _numbered(_ends(fields, "limbs"), joints, "limbs")
        pairs = _numbered(_ends(fields, "pairs"), joints, "pairs") if "pairs" in fields else _sides(joints)
        return _fitting(JointSet(name, tuple(joints), pairs, limbs))
    except _Malformed as error:
        raise fields.error(str(error)) from None


class _Malformed(Exception):
    """What is wrong with a set, without the name of its file."""


def _ends(fields: Fields, key: str) -> list[list[object]]:
    """Lists of two joints each, as names or numbers."""
    items = fields.sequence(key, optional=True)
    found = [items.value(number) for number in range(len(items))]
    if not all(isinstance(ends, list) and len(ends) == 2 for ends in found):
        raise _Malformed(f'has {key} that are not a list of [joint, joint], as "{key}": [["left_hip", "left_knee"]]')
    return [ends for ends in found if isinstance(ends, list)]


def _numbered(found: Sequence[Sequence[object]], joints: Sequence[str], key: str) -> Ends:
    rows: dict[object, int] = {joint: row for row, joint in enumerate(joints)} | {r: r for r in range(len(joints))}
    for end in (end for ends in found for end in ends):
        if isinstance(end, bool) or not isinstance(end, str | int) or end not in rows:
            raise _Malformed(f"has {end!r} among its {key}, and its {len(joints)} joints are {_listed(joints)}")
    return tuple((rows[a], rows[b]) for a, b in found)


def _sides(joints: Sequence[str]) -> Ends:
    """Pairs by names: left_knee, right_knee."""
    rows = {joint: row for row, joint in enumerate(joints)}
    rights = {row: rows.get(f"right_{joint[5:]}") for joint, row in rows.items() if joint.startswith("left_")}
    return tuple((left, right) for left, right in rights.items() if right is not None)


def _listed(joints: Sequence[str]) -> str:
    return ", ".join(joints) if len(joints) <= 6 else f"{joints[0]} (0) to {joints[-1]} ({len(joints) - 1})"


def _fitting(made: JointSet) -> JointSet:
    """The set, of which a mirrored body has the joints and limbs that the body has."""
    if twice := [joint for row, joint in enumerate(made.joints) if joint in made.joints[:row]]:
        raise _Malformed(f"names the joint {twice[0]!r} twice")
    paired = [joint for pair in made.pairs for joint in pair]
    if repeated := [joint for row, joint in enumerate(paired) if joint in paired[:row]]:
        raise _Malformed(f"has {made.joints[repeated[0]]!r} twice in its pairs: each joint has one opposite")
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

_KINECT = (  # of the first Kinect, whatever the order of the joints
    f"head-shoulder_centre shoulder_centre-left_shoulder shoulder_centre-right_shoulder shoulder_centre-spine "
    f"spine-hip_centre hip_centre-left_hip hip_centre-right_hip {_ARMS}left_wrist-left_hand right_wrist-right_hand "
    f"{_LEGS}left_ankle-left_foot right_ankle-right_foot"
)

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
    "openpose17": (
        f"{_OPENPOSE.replace('neck ', '')}{_BELOW}",
        f"nose-left_shoulder nose-right_shoulder {_ARMS}left_shoulder-left_hip right_shoulder-right_hip "
        f"left_hip-right_hip {_LEGS}{_FACE}",
    ),
    "kinect20": (
        "hip_centre spine shoulder_centre head left_shoulder left_elbow left_wrist left_hand right_shoulder "
        "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle "
        "right_foot",
        _KINECT,
    ),
    "msr20": (
        "left_shoulder right_shoulder shoulder_centre spine left_hip right_hip hip_centre left_elbow right_elbow "
        "left_wrist right_wrist left_hand right_hand left_knee right_knee left_ankle right_ankle left_foot right_foot "
        "head",
        _KINECT,
    ),
    "mhad20": (
        "head shoulder_centre spine hip_centre left_shoulder left_elbow left_wrist left_hand right_shoulder "
        "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle "
        "right_foot",
        _KINECT,
    ),
    "mediapipe33": (
        "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear "
        "left_mouth right_mouth left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky "
        "right_pinky left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle "
        "right_ankle left_heel right_heel left_foot_index right_foot_index",
        "nose-left_eye_inner left_eye_inner-left_eye left_eye-left_eye_outer left_eye_outer-left_ear "
        "nose-right_eye_inner right_eye_inner-right_eye right_eye-right_eye_outer right_eye_outer-right_ear "
        "left_mouth-right_mouth nose-left_mouth nose-right_mouth left_shoulder-right_shoulder "
        f"left_shoulder-left_hip right_shoulder-right_hip left_hip-right_hip nose-left_shoulder nose-right_shoulder "
        f"{_ARMS}left_wrist-left_pinky left_wrist-left_index left_pinky-left_index left_wrist-left_thumb "
        "right_wrist-right_pinky right_wrist-right_index right_pinky-right_index right_wrist-right_thumb "
        f"{_LEGS}{_HEELS}left_heel-left_foot_index left_ankle-left_foot_index right_heel-right_foot_index "
        "right_ankle-right_foot_index",
    ),
    "h36m17": (
        "root right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax nose head left_shoulder "
        "left_elbow left_wrist right_shoulder right_elbow right_wrist",
        f"root-spine spine-thorax thorax-nose nose-head {_ARMS}thorax-left_shoulder thorax-right_shoulder "
        f"root-left_hip root-right_hip {_LEGS}",
    ),
}


def _named(name: str, joints: Sequence[str], limbs: Sequence[str]) -> JointSet:
    ends = _numbered([limb.split("-") for limb in limbs], joints, "limbs")
    return _fitting(JointSet(name, tuple(joints), _sides(joints), ends))


JOINT_SETS: dict[str, JointSet] = {
    name: _named(name, joints.split(), limbs.split()) for name, (joints, limbs) in _NAMED.items()
}
