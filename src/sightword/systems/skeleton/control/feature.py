"""Joints of a recording, normalised: centred at the hips, in units of the trunk, at a fixed number of moments.

Legend: N recordings; T frames of a recording; L moments, equally spaced; V joints; C = 3 of 3-D recordings, else 2.
"""

from collections.abc import Sequence

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import Recordings
from sightword.systems.skeleton.data import best_persons
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.sequence import SkeletonSequence

NEEDED = ("left_hip", "right_hip", "left_shoulder", "right_shoulder")


def poses(recordings: Recordings, rows: Sequence[int], joints: JointSet, moments: int, depth: bool) -> np.ndarray:
    """Return normalised joints (N, L, V, C) float32 of the person with the highest scores in each recording.

    depth: whether 3-D recordings keep their three coordinates; otherwise their front view is read, as networks read it.
    Where a joint is missing it is interpolated in time; one that is never there is at the hips, all of a recording
    without any joint. Raises SightwordError for joints without hips and shoulders, and for 2-D and 3-D in one file.
    """
    if missing := [name for name in NEEDED if name not in joints.joints]:
        raise SightwordError(
            f"the joints of {joints.name} have no {', '.join(missing)}, which joints are centred and scaled by. Pass "
            "joints=<the file's joint set>"
        )
    found = [_person(recordings[row], depth) for row in rows]
    if len({points.shape[2] for points, _ in found}) > 1:
        raise SightwordError(f"{recordings.path} has 2-D and 3-D recordings. Add depth=false to read front views")
    return np.stack([resampled(_normalised(*one, joints), moments) for one in found]).astype(np.float32)


def _person(sequence: SkeletonSequence, depth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Joints (T, V, C) of the person with the highest scores, and whether each is there (T, V)."""
    points = sequence.points
    if depth and sequence.depth is not None:
        points = np.concatenate([points, sequence.depth[..., None]], axis=-1)
    best = best_persons(sequence.scores, 1)
    return points[best][0], sequence.scores[best][0] > 0


def _normalised(points: np.ndarray, there: np.ndarray, joints: JointSet) -> np.ndarray:
    """Joints (T, V, C), centred at the hips in each frame, in units of the median trunk."""
    points = _filled(points, there)
    at = {name: points[:, joints.joints.index(name)] for name in NEEDED}
    hips = (at["left_hip"] + at["right_hip"]) / 2
    shoulders = (at["left_shoulder"] + at["right_shoulder"]) / 2
    trunk = float(np.median(np.linalg.norm(shoulders - hips, axis=-1)))
    present = np.asarray(there.any(0))  # (V,)
    centred = np.where(present[None, :, None], points - hips[:, None], 0)
    return centred / trunk if trunk > 1e-6 else np.zeros_like(centred)


def _filled(points: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Joints (T, V, C) with those that are missing in some frames interpolated between the frames that have them."""
    filled, times = points.copy(), np.arange(len(points))
    for joint in np.flatnonzero(there.any(0) & ~there.all(0)):
        known = there[:, joint]
        for axis in range(points.shape[2]):
            filled[:, joint, axis] = np.interp(times, times[known], points[known, joint, axis])
    return filled


def resampled(points: np.ndarray, moments: int) -> np.ndarray:
    """Return L equally spaced moments of (T, …), by linear interpolation; the first and last stay."""
    at = np.linspace(0, len(points) - 1, moments)
    before = np.floor(at).astype(int)
    after = np.minimum(before + 1, len(points) - 1)
    part = (at - before).reshape(-1, *([1] * (points.ndim - 1)))
    return points[before] * (1 - part) + points[after] * part


def velocities(points: np.ndarray, step: int = 1) -> np.ndarray:
    """Return how far joints (N, L, V, C) move in `step` moments: (N, L - step, V, C)."""
    return points[:, step:] - points[:, :-step]


def joint_distances(points: np.ndarray) -> np.ndarray:
    """Return the distance of each pair of joints: (N, L, V, C) → (N, L, V · (V - 1) / 2)."""
    first, second = np.triu_indices(points.shape[2], 1)
    return np.linalg.norm(points[:, :, first] - points[:, :, second], axis=-1)
