"""The nearest points within a radius, exactly, without a matrix of all pairs, and the same on CPU and GPU.

Points are sorted into cells a radius wide, z fastest: the 27 cells around a query are then nine ranges of the sorted
points, and one sort of the pairs that are near enough ranks them all. Source: document 004, 8 ("ball query").

Legend: M queries, N points, P pairs.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS = 2**22  # of a query and a point of the cells around it that are looked at together: some 200 MB
SLACK = 1.001  # a cell to the radius: what float32 rounds into the ball must not be two cells away


@torch.no_grad()
def ball_query(
    query: Tensor,
    points: Tensor,
    radius: float,
    k: int,
    query_scene: Tensor | None = None,
    point_scene: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest of points (N, 3) within `radius` metres of every query (M, 3): their rows and which are real.

    Both (M, k): int64, nearest first and of equals the lowest row, 0 where there are fewer than k; and bool. A query
    that is one of the points is its own neighbour. query_scene (M,), point_scene (N,): int64 from 0 on, neighbours are
    of one scene. Distances are dx² + dy² + dz² in float32, so every device gives the same rows.
    """
    _check(query, points, radius, k, query_scene, point_scene)
    index = torch.zeros(len(query), k, dtype=torch.int64, device=query.device)
    mask = torch.zeros(len(query), k, dtype=torch.bool, device=query.device)
    if not len(query) or not len(points):
        return index, mask
    query, points = query.float(), points.float()
    query_cell, point_cell, strides = _cells(query, points, radius * SLACK, query_scene, point_scene)
    ordered, order = point_cell.sort(stable=True)
    rows = query_cell.argsort(stable=True)  # queries of a cell together, so that they read the same points
    first, count = _ranges(query_cell[rows], ordered, strides)  # (M, 9)
    ours, theirs = query[rows].T.contiguous(), points[order].T.contiguous()  # (3, M), (3, N): planes are read faster
    for start, stop in _parts(count.sum(1)):
        found = _near(ours[:, start:stop], theirs, first[start:stop], count[start:stop], radius)
        _rank(*found, order, rows[start:stop], index, mask)
    return index, mask


def _cells(
    query: Tensor, points: Tensor, width: float, query_scene: Tensor | None, point_scene: Tensor | None
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Numbers of the cells of queries (M,) and points (N,), and how far apart neighbours along x and along y are.

    In float64, so that a cell's edge is where it should be. An empty layer around a scene keeps ranges from wrapping.
    """
    low = torch.minimum(query.amin(0), points.amin(0)).double()
    span = (torch.maximum(query.amax(0), points.amax(0)).double() - low).div(width).add(3).tolist()
    scenes = [
        torch.zeros(len(xyz), dtype=torch.int64, device=xyz.device) if scene is None else scene
        for xyz, scene in ((query, query_scene), (points, point_scene))
    ]
    if math.prod(span) * (1 + max(int(scene.max()) for scene in scenes)) >= 2**62:
        across = " × ".join(f"{length:.3g}" for length in span)
        raise ValueError(f"points spread over {across} radii: are both in metres, or is one point far out?")
    wide, deep, high = (int(length) for length in span)
    places = [((xyz.double() - low) / width).long().unbind(1) for xyz in (query, points)]
    cells = [
        ((scene * wide + x + 1) * deep + y + 1) * high + z + 1 for scene, (x, y, z) in zip(scenes, places, strict=True)
    ]
    return cells[0], cells[1], (deep * high, high)


def _ranges(cells: Tensor, ordered: Tensor, strides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the nine columns of three cells begin among the ordered cells of points, and how many points are in each.

    cells: (M,) sorted ones of queries; both results (M, 9) int64.
    """
    each, inverse = torch.unique_consecutive(cells, return_inverse=True)
    steps = torch.arange(-1, 2, device=cells.device)
    around = (steps[:, None] * strides[0] + steps * strides[1]).flatten()  # (9,)
    column = each + around[:, None]  # (9, U): in order along a row, which is how a search is quick
    first = torch.searchsorted(ordered, column - 1)
    count = torch.searchsorted(ordered, column + 1, right=True) - first
    return first.T[inverse], count.T[inverse]


def _parts(count: Tensor) -> Iterator[tuple[int, int]]:
    """Stretches of queries that have at most PAIRS points around them, or are one. count: (M,)."""
    ends = count.cumsum(0)
    start = done = 0
    while start < len(count):
        stop = max(start + 1, int(torch.searchsorted(ends, done + PAIRS, right=True)))
        yield start, stop
        start, done = stop, int(ends[stop - 1])


def _near(ours: Tensor, theirs: Tensor, first: Tensor, count: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Row of ours (3, M), place among theirs (3, N) and squared distance of the pairs within the radius, all (P,)."""
    many, flat = count.sum(1), count.flatten()
    row = torch.repeat_interleave(many)
    place = torch.repeat_interleave(first.flatten() - flat.cumsum(0) + flat, flat)
    place += torch.arange(len(place), device=place.device)
    square = torch.zeros(len(row), device=row.device)
    for a, b in zip(ours, theirs, strict=True):
        square += a.index_select(0, row).sub_(b.index_select(0, place)).square_()
    near = (square <= radius**2).nonzero().squeeze(1)
    return row[near], place[near], square[near]


def _rank(row: Tensor, place: Tensor, square: Tensor, order: Tensor, rows: Tensor, index: Tensor, mask: Tensor) -> None:
    """Write the k nearest of each row into index and mask (M, k), at rows[row]."""
    point = order[place]
    key = (row << 32) | square.view(torch.int32)  # a float's bits grow with it
    key, by = key.sort()
    if (key[1:] == key[:-1]).any():  # as far away: by the points' own order
        by = point.argsort(stable=True)
        by = by[((row << 32) | square.view(torch.int32))[by].argsort(stable=True)]
    row, point = row[by], point[by]
    counts = torch.bincount(row, minlength=len(rows))
    rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    first = (rank < index.shape[1]).nonzero().squeeze(1)
    at = rows[row[first]], rank[first]
    index[at], mask[at] = point[first], True


def _check(
    query: Tensor, points: Tensor, radius: float, k: int, query_scene: Tensor | None, point_scene: Tensor | None
) -> None:
    for name, xyz, scene in (("query", query, query_scene), ("points", points, point_scene)):
        if xyz.dim() != 2 or xyz.shape[1] != 3:
            raise ValueError(f"{name} must be (·, 3), got {tuple(xyz.shape)}")
        if scene is not None and scene.shape != xyz.shape[:1]:
            raise ValueError(f"{name} {tuple(xyz.shape)} and its scene {tuple(scene.shape)} differ in length")
        if not xyz.isfinite().all():
            raise ValueError(f"{name} has coordinates that are not finite: drop those rows (unknown depth gives them)")
    if (query_scene is None) != (point_scene is None):
        raise ValueError(
            "queries or points have scenes and the others none: give query_scene and point_scene, or neither"
        )
    if radius <= 0 or k < 1:
        raise ValueError(f"radius must be above 0 and k at least 1, got {radius} and {k}")
