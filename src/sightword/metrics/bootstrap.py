"""Confidence intervals by a hierarchical cluster bootstrap: clusters of items and seeds are drawn, both with
replacement, and the same ones for all runs that are compared.

Items of a cluster (captions of one person) are drawn together, as they are not independent. A run's metric of a draw is
computed with weights, how often each item was drawn; nothing is copied. Intervals are percentiles, as rare classes
vanish in some draws and a metric such as F1 is then no smooth function of the weights (Davison and Hinkley 1997, 2.4,
3.8). Percentiles over a few seeds are far too narrow, so the shares of seeds are spread as Student's t asks. With few
clusters they are too narrow by about √((n − 1)/n).

Legend: D draws; N items; G clusters; S seeds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

DRAWS = 2000
LEVEL = 0.95
NORMAL = 1.96  # the normal quantile of LEVEL
CELLS = 2**22  # of weights (D, N) that are in memory at once

Metric = Callable[[np.ndarray], np.ndarray]  # weights (D, N) → (D,)


class Interval(NamedTuple):
    """An estimate with the ends of its interval; NaN where nothing can be said."""

    value: float
    low: float
    high: float


def item_weights(clusters: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield how often each item is drawn, (d, N) float64, in blocks of the D draws. clusters: (N,), of each item.

    As many clusters are drawn as there are, so the number of items varies with their sizes.
    """
    names, which = np.unique(clusters, return_inverse=True)
    rng, count = np.random.default_rng([seed, 0]), len(names)
    block = max(1, CELLS // max(len(clusters), count, 1))
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)  # (d, G)
        yield times[:, which].astype(np.float64)


def drawn_values(metrics: Sequence[Metric], clusters: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Return each metric of each draw of items, (len(metrics), D): all metrics of the same draws."""
    blocks = [np.stack([metric(weights) for metric in metrics]) for weights in item_weights(clusters, draws, seed)]
    return np.concatenate(blocks, axis=1)


def seed_weights(count: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Return the share of each of S seeds in each draw, (S, D), in sum 1; the same for the same number of seeds.

    Their distances from 1/S are those of drawing with replacement, times √(S/(S − 1)) and the ratio of Student's t to
    the normal quantile: where seeds alone differ, intervals are then about those of a t-test. A share may be below 0.
    """
    rng = np.random.default_rng([seed, 1])
    shares = rng.multinomial(count, np.full(count, 1 / count), size=draws).T / count
    if count < 2:
        return shares
    wider = math.sqrt(count / (count - 1)) * float(stdtrit(count - 1, (1 + LEVEL) / 2)) / NORMAL
    return 1 / count + (shares - 1 / count) * wider


def interval_of(values: Sequence[float], drawn: np.ndarray, seed: int = 0) -> Interval:
    """Return the mean over seeds with its interval. values: (S,), of all items; drawn: (S, D), of the draws."""
    low, high = np.nanquantile(_over_seeds(drawn, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))


def share_beyond_zero(drawn: np.ndarray, seed: int = 0) -> float:
    """Return the two-sided p of a difference (S, D): twice the smaller share of draws at or beyond 0, at most 1.

    One draw is added to each side: a p of 0 cannot be seen in D draws.
    """
    means = _over_seeds(drawn, seed)
    known = means[~np.isnan(means)]
    side = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (side + 1) / (len(known) + 1)))


def _over_seeds(drawn: np.ndarray, seed: int) -> np.ndarray:
    """(S, D) → (D,), the mean over the seeds that each draw has."""
    return (drawn * seed_weights(len(drawn), drawn.shape[1], seed)).sum(0)


def holm(shares: Sequence[float]) -> list[float]:
    """Return the p of each of several comparisons, adjusted so that any false one has the level of one (Holm 1979).

    NaN counts as 1.
    """
    shares = [1.0 if math.isnan(each) else each for each in shares]
    order = np.argsort(shares, kind="stable")
    adjusted = np.maximum.accumulate([min(1.0, (len(shares) - n) * shares[at]) for n, at in enumerate(order)])
    found = np.empty(len(shares))
    found[order] = adjusted
    return [float(each) for each in found]
