"""The objects that a text query finds in a scene: connected groups of the points that it fits best.

Legend: N points; M of them selected; K objects; G occupied cells.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BEST = 0.02  # fraction of a scene's points that say where a thing is, and whether it is there
LINK = 0.15  # metres: the side of the cells whose 26 neighbours are joined
LEAST = 0.05  # of a text's points: smaller groups are not objects
NEAR = 0.9  # of the best group's score: groups below are not objects
SMALL = 0.05  # metres: a group whose longest side is shorter is a crumb, not an object
TRIM = 0.02  # of an object's points that its box leaves out on each side: strays

Metres = tuple[float, float, float]


class FoundObject(NamedTuple):
    """A connected group of points that a text fits."""

    centre: Metres  # of its best points
    low: Metres  # of its box, along the axes of the world
    high: Metres
    points: int
    score: float  # mean cosine of its best points: what a threshold is compared with
    confidence: float  # mean probability of the text at these points, among the texts that compete

    @property
    def size(self) -> Metres:
        """The sides of its box, in metres."""
        x, y, z = (high - low for low, high in zip(self.low, self.high, strict=True))
        return x, y, z

    def to_dict(self) -> dict[str, object]:
        """Return plain values, its size too."""
        return self._asdict() | {"size": self.size}


def peak(cosines: Tensor, count: int) -> float:
    """Return the mean of the `count` highest cosines (N,), or of all if they are fewer; −1 without any."""
    return float(cosines.topk(min(count, len(cosines))).values.mean()) if len(cosines) else -1.0


def find_objects(
    xyz: Tensor, cosines: Tensor, chances: Tensor, count: int, least: float = -1.0
) -> tuple[tuple[FoundObject, ...], Tensor]:
    """Return the K objects of a text, best first, and the object of each point, (M,) int64; −1: of none.

    xyz: (M, 3) in metres, cosines (M,) and probabilities (M,), of the points that it fits best. count: how many of a
    group's best points make its score and its centre. least: score that an object other than the best has to reach.
    Groups smaller than `SMALL` are no objects, not even the best.
    """
    object_of = torch.full((len(xyz),), -1, dtype=torch.int64)
    if not len(xyz):
        return (), object_of
    groups = torch.from_numpy(connected(xyz.numpy(), LINK))
    found = []
    for number, points in enumerate(torch.bincount(groups).tolist()):
        if points >= LEAST * len(xyz):
            own = groups == number
            found.append((number, _described(xyz[own], cosines[own], chances[own], count)))
    found = [pair for pair in found if max(pair[1].size) >= SMALL]
    found.sort(key=lambda pair: -pair[1].score)
    highest = found[0][1].score if found else 0.0
    kept = [pair for place, pair in enumerate(found) if not place or pair[1].score >= max(NEAR * highest, least)]
    for place, (number, _) in enumerate(kept):
        object_of[groups == number] = place
    return tuple(each for _, each in kept), object_of


def _described(xyz: Tensor, cosines: Tensor, chances: Tensor, count: int) -> FoundObject:
    best = cosines.topk(min(count, len(cosines))).indices
    x, y, z = xyz[best].median(0).values.tolist()
    low, high = torch.quantile(xyz.double(), torch.tensor([TRIM, 1 - TRIM], dtype=torch.float64), dim=0).tolist()
    return FoundObject((x, y, z), tuple(low), tuple(high), len(xyz), peak(cosines, count), float(chances[best].mean()))


def connected(xyz: np.ndarray, link: float) -> np.ndarray:
    """Return the number of each point's group, (M,) int64 from 0: points in the same or in neighbouring cells."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    cells = np.floor((xyz - xyz.min(0)) / link).astype(np.int64) + 1  # so that every neighbour's index is positive
    sides = cells.max(0) + 2
    occupied, cell_of = np.unique(np.ravel_multi_index(tuple(cells.T), tuple(sides)), return_inverse=True)
    strides = np.array([sides[1] * sides[2], sides[2], 1])
    half = [step for step in np.ndindex(3, 3, 3) if step > (1, 1, 1)]  # each pair of neighbours once
    rows, columns = [], []
    for step in half:
        there = occupied + (np.array(step) - 1) @ strides
        at = np.searchsorted(occupied, there).clip(max=len(occupied) - 1)
        rows.append(np.flatnonzero(occupied[at] == there))
        columns.append(at[rows[-1]])
    pairs = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(pairs[0]), bool), pairs), shape=(len(occupied), len(occupied)))
    groups: np.ndarray = connected_components(graph, directed=False)[1]
    return groups.astype(np.int64)[cell_of.ravel()]
