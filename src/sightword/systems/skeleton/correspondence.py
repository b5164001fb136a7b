"""Which joints of one set stand for the joints of another, by their names.

A joint that a file does not have is placed where it is nearly: the middle of the hips at the mean of both hips, a hand
at its fingers or its wrist. A model that was trained with such a joint in every frame names everything alike without
it: its network's statistics are of heatmaps that are never empty.

Legend: V joints of the file; V' of the set that is wanted.
"""

from collections.abc import Mapping

import numpy as np

from sightword.systems.skeleton.joints import JointSet

_SHOULDERS, _HIPS = "left_shoulder+right_shoulder", "left_hip+right_hip"
_HIP_CENTRE = f"hip_centre root mid_hip hip spine_base {_HIPS}"
_CHEST = f"shoulder_centre spine_shoulder thorax neck {_SHOULDERS}"
_SPINE = f"spine spine_mid {_SHOULDERS}+{_HIPS}"

#: Joint → what stands for it, the best first; + is the mean of several. A dot is the joint's own side.
NEAR: Mapping[str, str] = {
    **dict.fromkeys(("hip_centre", "root", "mid_hip", "hip", "spine_base"), _HIP_CENTRE),
    **dict.fromkeys(("shoulder_centre", "spine_shoulder", "thorax"), _CHEST),
    **dict.fromkeys(("spine", "spine_mid"), _SPINE),
    "neck": f"neck shoulder_centre spine_shoulder thorax {_SHOULDERS}",
    "head": "head left_ear+right_ear nose",
    "nose": "nose head",
    ".eye": ".eye .eye_inner+.eye_outer nose head",
    **dict.fromkeys((".eye_inner", ".eye_outer"), ".eye_inner+.eye_outer .eye nose head"),
    ".ear": ".ear head nose",
    ".mouth": ".mouth nose head",
    ".hand": ".hand .index+.pinky .hand_tip .wrist",
    ".hand_tip": ".hand_tip .index .hand .wrist",
    **dict.fromkeys((".thumb", ".index", ".pinky"), ".index+.pinky .hand .wrist"),
    ".foot": ".foot .foot_index .big_toe .ankle",
    **dict.fromkeys((".foot_index", ".big_toe", ".small_toe"), ".foot_index .big_toe .foot .ankle"),
    ".heel": ".heel .ankle",
}

Sources = tuple[tuple[int, ...], ...]  # V' times the joints of the file whose mean a joint is; none: it is missing


def sources_of(joints: JointSet, source: JointSet) -> Sources:
    """Return which joints of `source` give each of `joints`: that of the same name, or those of `NEAR`."""
    rows = {joint: row for row, joint in enumerate(source.joints)}
    return tuple(_rows(joint, rows) for joint in joints.joints)


def _rows(joint: str, rows: Mapping[str, int]) -> tuple[int, ...]:
    if joint in rows:
        return (rows[joint],)
    side, _, part = joint.partition("_")
    sided = side in ("left", "right")
    for choice in NEAR.get(f".{part}" if sided else joint, "").split():
        parts = [f"{side}_{one[1:]}" if one.startswith(".") else one for one in choice.split("+")]
        if all(one in rows for one in parts):
            return tuple(rows[one] for one in parts)
    return ()


def placed(joints: JointSet, source: JointSet, sources: Sources) -> list[str]:
    """Return what stands for the joints that `source` does not have, as "head: mean of left_ear, right_ear"."""
    told = []
    for joint, rows in zip(joints.joints, sources, strict=True):
        names = [source.joints[row] for row in rows]
        if names and names != [joint]:
            told.append(f"{joint} at {'the mean of ' if names[1:] else ''}{', '.join(names)}")
    return told


def corresponding(points: np.ndarray, scores: np.ndarray, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
    """(M, T, V, C), (M, T, V) of a file → (M, T, V', C), (M, T, V') of another set.

    A mean of several has the mean of their scores, and is missing where one of them is.
    """
    shape = (*scores.shape[:2], len(sources))
    found, sure = np.zeros((*shape, points.shape[3]), points.dtype), np.zeros(shape, scores.dtype)
    single = [(joint, rows[0]) for joint, rows in enumerate(sources) if len(rows) == 1]
    if single:
        to, which = map(list, zip(*single, strict=True))
        found[:, :, to], sure[:, :, to] = points[:, :, which], scores[:, :, which]
    for joint, rows in enumerate(sources):
        if len(rows) > 1:
            which = list(rows)
            own = scores[:, :, which]  # (M, T, several)
            found[:, :, joint], sure[:, :, joint] = points[:, :, which].mean(2), own.mean(2) * (own > 0).all(2)
    return found, sure
