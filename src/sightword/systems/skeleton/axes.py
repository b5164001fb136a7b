"""Which axis of a file's key points is which: persons M, frames T, joints V, coordinates C.

The joints are as many in all recordings, and as many as a named set has; frames are as many as total_frames says, and
otherwise vary; coordinates are two or three; persons are few.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.sequence import AXES

LOOKED_AT = 50  # recordings
PERSONS = 10  # of a recording; more are frames
LIKELY = ("TMVC", "MVTC", "CTVM", "MCTV", "CMTV", "TVC", "VTC", "CTV")  # orders in use, tried first
WORDS = {"M": "persons", "T": "frames", "V": "joints", "C": "coordinates"}


def guess_axes(rows: Sequence[object], joints: int = 0) -> str:
    """Return the order of the axes of `keypoint`, as TMVC, if it is certainly not MTVC; empty if it can be.

    joints: V, if the set of the file is known; 0: that of any named set.
    """
    looked = [row for row in rows[:: max(1, len(rows) // LOOKED_AT)] if isinstance(row, Mapping)]
    found = [(row["keypoint"].shape, row.get("total_frames")) for row in looked if _is_array(row.get("keypoint"))]
    known = {joints} if joints else {len(made.joints) for made in JOINT_SETS.values()}
    sizes = {len(shape) for shape, _ in found}
    if len(sizes) != 1 or not sizes <= {3, 4} or (sizes == {4} and _fits(AXES, found, known)):
        return ""
    named = [axes for axes in LIKELY if {len(axes)} == sizes]
    others = ["".join(axes) for axes in permutations(AXES[-sizes.pop() :])]
    return next((axes for axes in [*named, *others] if axes != AXES and _fits(axes, found, known)), "")


def describe_axes(axes: str, shape: Sequence[int]) -> str:
    """Return what is wrong with key points of this shape, for a message. axes: theirs."""
    return (
        f"key points have the shape {tuple(shape)}: {', '.join(WORDS[axis] for axis in axes)}, expected "
        "persons, frames, joints, coordinates"
    )


def first_shape(rows: Sequence[object]) -> tuple[int, ...]:
    """Return the shape of the first key points."""
    arrays = (row.get("keypoint") for row in rows if isinstance(row, Mapping))
    return next((array.shape for array in arrays if isinstance(array, np.ndarray)), ())


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.size > 0


def _fits(axes: str, found: Sequence[tuple[tuple[int, ...], object]], known: set[int]) -> bool:
    sizes = [dict(zip(axes, shape, strict=True)) for shape, _ in found]
    if len({size["V"] for size in sizes}) != 1 or sizes[0]["V"] not in known:
        return False
    if not all(size["C"] in (2, 3) and size.get("M", 1) <= max(PERSONS, size["T"]) for size in sizes):
        return False
    return all(total is None or total == size["T"] for size, (_, total) in zip(sizes, found, strict=True))
