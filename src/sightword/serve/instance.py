"""The things that a text query found in a scene: connected groups of points, each with a box, a size and a confidence.

Legend: N points.
"""

from typing import NamedTuple

import numpy as np
import torch

from sightword.systems.points.ask import SceneAnswer
from sightword.systems.points.place import connected

LEAST = 12  # points of a thing
SHARE = 0.1  # of the largest thing's points: smaller groups are specks
LINK = 0.1  # metres: the side of the cells whose neighbours are joined; at 0.15 two chairs at one table are one
CONFIDENT = 0.5  # least score of a point of a thing: the query has more than all other texts together
INSIDE = (0.01, 0.99)  # quantiles of a thing's points that its box spans, so that a stray point does not widen it


class Thing(NamedTuple):
    """A connected group of the points that a query fits best."""

    points: int
    confidence: float  # mean score of its points among the texts, in [0, 1]
    cosine: float  # mean cosine of its best points
    centre: tuple[float, float, float]  # metres
    low: tuple[float, float, float]  # corners of its box, metres
    high: tuple[float, float, float]
    size: tuple[float, float, float]  # of the box, metres
    unsure: bool  # it is below the threshold, or the query does not fit the scene


def things_of(answer: SceneAnswer, number: int) -> tuple[list[Thing], torch.Tensor]:
    """Return the things that a query found, the largest first, and the number of each point's thing, (N,), −1 for none.

    Those below the threshold are unsure, and so are all if the query does not fit the scene.
    """
    of_point = torch.full((len(answer.points),), -1)
    own = torch.nonzero((answer.best == number) & (answer.scores[:, number] >= CONFIDENT))[:, 0]
    if not len(own):
        return [], of_point
    groups = connected(answer.points[own].numpy(), LINK)
    counts = np.bincount(groups)
    found: list[tuple[Thing, torch.Tensor]] = []
    for group in np.argsort(-counts, kind="stable"):
        if counts[group] < max(LEAST, SHARE * counts.max()):
            break
        rows = own[torch.from_numpy(groups == group)]
        found.append((_thing(answer, number, rows), rows))
    for place, (_, rows) in enumerate(found):
        of_point[rows] = place
    return [thing for thing, _ in found], of_point


def _thing(answer: SceneAnswer, number: int, rows: torch.Tensor) -> Thing:
    points, cosines = answer.points[rows], answer.cosines[rows, number]
    few = max(1, len(rows) // 4)
    low, high = (points.quantile(share, 0) for share in INSIDE)
    middle = (low + high) / 2
    best = float(cosines.topk(few).values.mean())
    unsure = answer.fits[number] is False or (answer.threshold is not None and best < answer.threshold)
    return Thing(
        points=len(rows),
        confidence=round(float(answer.scores[rows, number].mean()), 4),
        cosine=round(best, 4),
        centre=_metres(middle),
        low=_metres(low),
        high=_metres(high),
        size=_metres(high - low),
        unsure=unsure,
    )


def _metres(values: torch.Tensor) -> tuple[float, float, float]:
    x, y, z = (round(value, 3) for value in values.tolist())
    return x, y, z
