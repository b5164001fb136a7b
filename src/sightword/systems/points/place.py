"""Where in a scene a text fits: connected groups of the points that it fits best, each a place of its own.

Legend: N points; M of them selected; G occupied cells.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BEST = 0.02  # fraction of a scene's points that say where a thing is, and whether it is there
LINK = 0.15  # metres: the side of the cells whose 26 neighbours are joined
LEAST = 0.05  # of a text's points: smaller groups are not places
NEAR = 0.9  # of the best group's score: groups below are not places


class Place(NamedTuple):
    """A group of points that a text fits."""

    at: tuple[float, float, float]  # metres: the middle of its best points
    points: int
    score: float  # mean cosine of its best points


def peak(cosines: Tensor, count: int) -> float:
    """Return the mean of the `count` highest cosines (N,), or of all if they are fewer; −1 without any."""
    return float(cosines.topk(min(count, len(cosines))).values.mean()) if len(cosines) else -1.0


def places(xyz: Tensor, cosines: Tensor, count: int) -> tuple[Place, ...]:
    """Return the places of a text, best first. xyz: (M, 3) in metres and cosines (M,), of the points that it fits best.

    count: how many of a group's best points make its score and its middle.
    """
    if not len(xyz):
        return ()
    groups = torch.from_numpy(connected(xyz.numpy(), LINK))
    found = []
    for number, points in enumerate(torch.bincount(groups).tolist()):
        if points < LEAST * len(xyz):
            continue
        own = groups == number
        best = cosines[own].topk(min(count, points)).indices
        x, y, z = xyz[own][best].median(0).values.tolist()
        found.append(Place((x, y, z), points, peak(cosines[own], count)))
    highest = max((place.score for place in found), default=0.0)
    return tuple(sorted((p for p in found if p.score >= NEAR * highest), key=lambda p: -p.score))


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
