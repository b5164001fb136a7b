"""Zero-shot accuracies: among unseen classes (ZSL), and among all classes (GZSL) with calibrated stacking.

    A_S, A_U   accuracy of recordings of seen and of unseen classes, each predicted among all classes
    H          2 · A_S · A_U / (A_S + A_U)
    γ          is subtracted from the scores of seen classes before the argmax (Chao et al. 2016, arXiv 1605.04253)
    AUSUC      area under the curve of (A_U, A_S) as γ runs from −∞ to ∞

All accuracies are over items, not over classes. Legend: N items, C classes. Scores are of any scale, higher is better.
"""

from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError


class Accuracies(NamedTuple):
    """Accuracies of generalised zero-shot recognition, fractions in [0, 1]; NaN without items on one side."""

    seen: float  # A_S
    unseen: float  # A_U
    harmonic: float  # H


class Outcome(NamedTuple):
    """What decides every accuracy, of each item."""

    of_unseen: np.ndarray  # (N,) bool, whether the item's class is unseen
    right: np.ndarray  # (N,) bool, whether it is predicted correctly among the classes of its own side
    margin: np.ndarray  # (N,) float64, best seen score − best unseen score: a seen class is predicted if it is above γ
    weight: np.ndarray  # (N,) float64, how often the item counts


def outcome(scores: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> Outcome:
    """Return the outcome of scores (N, C) for labels (N,). unseen: (C,) bool, True for classes that were not trained.

    Raises SightwordError unless both sides have a class, and for a label that is not one of the classes.
    """
    unseen = np.asarray(unseen, dtype=bool)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or unseen.shape != scores.shape[1:]:
        raise ValueError(f"scores (N, C), labels (N,), unseen (C,); got {scores.shape}, {labels.shape}, {unseen.shape}")
    if not unseen.any() or unseen.all():
        raise SightwordError(f"{int(unseen.sum())} of {len(unseen)} classes are unseen. Both sides need a class")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(unseen):
        raise SightwordError(f"labels run from {labels.min()} to {labels.max()}, and there are {len(unseen)} classes")
    if not np.isfinite(scores).all():
        raise SightwordError("some scores are not finite: the model's weights are broken")
    best = [np.where(side, scores, -np.inf) for side in (~unseen, unseen)]
    own = unseen[labels]
    right = np.where(own, best[1].argmax(1), best[0].argmax(1)) == labels
    margin = best[0].max(1).astype(np.float64) - best[1].max(1)
    return Outcome(own, right, margin, np.ones(len(labels)))


def zero_shot(found: Outcome) -> float:
    """Return the accuracy of items of unseen classes, predicted among unseen classes (ZSL)."""
    return _mean(found.right, found.weight * found.of_unseen)


def generalised(found: Outcome, gamma: float = 0.0) -> Accuracies:
    """Return A_S, A_U and H. gamma: γ, in the unit of the scores."""
    to_seen = found.margin > gamma
    seen = _mean(found.right & to_seen, found.weight * ~found.of_unseen)
    unseen = _mean(found.right & ~to_seen, found.weight * found.of_unseen)
    return Accuracies(seen, unseen, _harmonic(seen, unseen))


def curve(found: Outcome) -> np.ndarray:
    """Return (γ, A_U, A_S) for every γ at which one of them changes, from −∞ on: (P, 3) float64."""
    order = np.argsort(found.margin, kind="stable")
    right, weight, unseen = found.right[order], found.weight[order], found.of_unseen[order]
    margin = found.margin[order]
    totals = [max(float((weight * side).sum()), 1e-300) for side in (~unseen, unseen)]
    gained = np.concatenate([[0.0], np.cumsum(weight * (right & unseen))]) / totals[1]
    lost = np.concatenate([[0.0], np.cumsum(weight * (right & ~unseen))]) / totals[0]
    last = np.append(margin[1:] != margin[:-1], True) if len(margin) else np.zeros(0, bool)
    kept = np.concatenate([[True], last])  # equal margins change sides at once
    at = np.concatenate([[-np.inf], margin])
    return np.stack([at, gained, lost[-1] - lost], axis=1)[kept]


def ausuc(found: Outcome) -> float:
    """Return the area under the curve of (A_U, A_S), in [0, 1]."""
    _, unseen, seen = curve(found).T
    return float(((unseen[1:] - unseen[:-1]) * (seen[1:] + seen[:-1]) / 2).sum())


def best_gamma(found: Outcome) -> float:
    """Return γ with the highest H, in the middle of the range of γ that gives it. Give it validation classes only.

    Raises SightwordError if no γ gives an H above 0.
    """
    points = curve(found)
    heights = np.array([_harmonic(seen, unseen) for _, unseen, seen in points])
    best = int(heights.argmax())
    if not heights[best] > 0:
        raise SightwordError("no γ names both seen and validation classes correctly: H is 0 for each")
    start = points[best, 0]
    end = points[best + 1, 0] if best + 1 < len(points) else np.inf
    if not np.isfinite(start):
        return float(end) - 1e-6 if np.isfinite(end) else 0.0
    return float((start + end) / 2) if np.isfinite(end) else float(start)


def without_class_means(scores: np.ndarray) -> np.ndarray:
    """Return scores (N, C) less each class's mean over the items, which needs no labels but all items: transductive.

    It counters hubness: a class whose text is near to everything has a high mean.
    """
    return scores - scores.mean(0, keepdims=True)


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    total = float(weight.sum())
    return float((values * weight).sum()) / total if total else float("nan")


def _harmonic(seen: float, unseen: float) -> float:
    if np.isnan(seen + unseen):
        return float("nan")
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0
