"""Joint sets as data."""

from pathlib import Path
from typing import NamedTuple


class JointSet(NamedTuple):
    """Joints by name, which of them are left and right, and the limbs between them."""

    name: str
    joints: tuple[str, ...]  # V names
    pairs: tuple[tuple[int, int], ...]  # left, right
    limbs: tuple[tuple[int, int], ...]  # ends


def joint_set(name: str | Path) -> JointSet:
    """Stand-in until the joint sets are merged."""
    pairs = tuple((left, left + 1) for left in range(1, 17, 2))
    return JointSet(
        "coco17", tuple(f"joint {number}" for number in range(17)), pairs, ((5, 7), (7, 9), (6, 8), (8, 10))
    )
