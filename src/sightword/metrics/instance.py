"""Average precision of instances by the rules of ScanNet's benchmark.

A scene's truth is one number for each point, label · 1000 + instance, and 0 or a label that is not measured is void. A
prediction is a mask, a label and a score. The rules, for each class and each threshold of overlap:

* A predicted mask of fewer than 100 points is left out. So is a true instance; what overlaps it is then ignored.
* True instances are taken in the order of their numbers. Each takes the predictions of its class with a larger IoU
  that no earlier instance took. The best score is a hit, all others are false.
* A prediction that overlaps no true instance so much is false, unless a larger fraction of its points than the
  threshold is void or belongs to instances that are too small.
* AP is the area under precision over recall, all predictions of one score at once, with trapezoids in recall.

AP is the mean over the thresholds 0.50, 0.55 … 0.90, as ScanNet's evaluation script has them; AP50 and AP25 are those
of one threshold. Source: evaluate_semantic_instance.py of github.com/ScanNet/ScanNet.

Legend: N points of a scene; P predictions; G true instances; C classes; T thresholds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

OVERLAPS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.25)  # the last is not part of AP
LEAST = 100  # points of an instance
SCALE = 1000  # of a label in a number of the truth


class Predictions(NamedTuple):
    """Predicted instances of a scene."""

    masks: np.ndarray  # (P, N) bool
    labels: np.ndarray  # (P,) int64
    scores: np.ndarray  # (P,) float64


class Overlaps(NamedTuple):
    """What predictions and true instances of a scene have in common."""

    common: np.ndarray  # (P, G) points
    void: np.ndarray  # (P,) points of a prediction without a label that is measured
    size: np.ndarray  # (P,) points
    labels: np.ndarray  # (P,)
    scores: np.ndarray  # (P,)
    true_size: np.ndarray  # (G,)
    true_labels: np.ndarray  # (G,)


class Precision(NamedTuple):
    """AP of each class, NaN for a class without a true instance; fractions."""

    ap: np.ndarray  # (C,)
    ap50: np.ndarray  # (C,)
    ap25: np.ndarray  # (C,)


def overlaps(truth: np.ndarray, found: Predictions, labels: Sequence[int]) -> Overlaps:
    """Return the overlaps of a scene. truth: (N,) label · 1000 + instance. labels: those that are measured.

    Raises ValueError if the masks have another number of points than the truth.
    """
    if found.masks.ndim != 2 or found.masks.shape[1] != len(truth):
        raise ValueError(f"masks {found.masks.shape} do not fit {len(truth)} points")
    measured = np.isin(truth // SCALE, labels)
    numbers, at = np.unique(np.where(measured, truth, -1), return_inverse=True)
    kept = np.flatnonzero((found.masks.sum(1) >= LEAST) & np.isin(found.labels, labels))
    rows = [np.bincount(at.ravel()[mask], minlength=len(numbers)) for mask in found.masks[kept]]
    common = np.array(rows, np.int64).reshape(-1, len(numbers))
    some = numbers >= 0
    return Overlaps(
        common[:, some],
        common[:, ~some].sum(1),
        found.masks[kept].sum(1),
        found.labels[kept],
        found.scores[kept],
        np.bincount(at.ravel(), minlength=len(numbers))[some],
        numbers[some] // SCALE,
    )


def average_precision(scenes: Sequence[Overlaps], labels: Sequence[int]) -> Precision:
    """Return the AP of each class over scenes."""
    table = np.array([[_of_class(scenes, label, limit) for limit in OVERLAPS] for label in labels])  # (C, T)
    return Precision(table[:, :-1].mean(1), table[:, OVERLAPS.index(0.5)], table[:, OVERLAPS.index(0.25)])


def agnostic(truth: np.ndarray, found: Predictions, labels: Sequence[int]) -> tuple[np.ndarray, Predictions]:
    """Return truth and predictions of a scene with one label, 1: how well instances are found, whatever they are.

    Raises ValueError for a scene of a thousand instances or more.
    """
    kept = np.unique(truth[np.isin(truth // SCALE, labels)])
    if len(kept) >= SCALE:
        raise ValueError(f"a scene has {len(kept)} instances")
    places = np.searchsorted(kept, truth).clip(max=max(len(kept) - 1, 0))
    one = np.where(kept[places] == truth, SCALE + places, 0) if len(kept) else np.zeros_like(truth)
    return one, found._replace(labels=np.ones_like(found.labels))


def _of_class(scenes: Sequence[Overlaps], label: int, limit: float) -> float:
    hits, scores, missed, wanted, predicted = [], [], 0, 0, 0
    for scene in scenes:
        right, score, lost = _matched(scene, scene.labels == label, scene.true_labels == label, limit)
        hits += right
        scores += score
        missed += lost
        wanted += int(((scene.true_labels == label) & (scene.true_size >= LEAST)).sum())
        predicted += int((scene.labels == label).sum())
    if not wanted:
        return np.nan
    return _area(np.array(hits, bool), np.array(scores), missed) if predicted and hits else 0.0


def _matched(scene: Overlaps, own: np.ndarray, true: np.ndarray, limit: float) -> tuple[list[bool], list[float], int]:
    """Return whether each counted prediction is a hit, its score, and the number of instances that none hits."""
    common, size, scores = scene.common[np.ix_(own, true)], scene.size[own], scene.scores[own]
    true_size = scene.true_size[true]
    iou = common / (size[:, None] + true_size - common)
    hits: list[bool] = []
    counted: list[float] = []
    missed, taken = 0, np.zeros(len(size), bool)
    for number in np.flatnonzero(true_size >= LEAST):
        rivals = np.flatnonzero((iou[:, number] > limit) & ~taken)
        if not len(rivals):
            missed += 1
            continue
        taken[rivals[0]] = True  # the others are false here, and may still be taken by a later instance
        best = scores[rivals].max()
        counted += [best, *np.delete(scores[rivals], scores[rivals].argmax()).tolist()]
        hits += [True] + [False] * (len(rivals) - 1)
    ignored = (scene.void[own] + common[:, true_size < LEAST].sum(1)) / np.maximum(size, 1)
    false = ~(iou > limit).any(1) & (ignored <= limit)
    return hits + [False] * int(false.sum()), counted + scores[false].tolist(), missed


def _area(hits: np.ndarray, scores: np.ndarray, missed: int) -> float:
    """Return the area under precision over recall."""
    order = np.argsort(scores, kind="stable")
    hits, scores = hits[order], scores[order]
    starts = np.unique(scores, return_index=True)[1]  # the lowest score first
    right = hits.sum() - np.concatenate([[0], np.cumsum(hits)])[starts]  # of the predictions of at least this score
    precision = np.append(right / (len(hits) - starts), 1.0)
    recall = np.append(right / max(int(hits.sum()) + missed, 1), 0.0)
    around = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ ((around[:-2] - around[2:]) / 2))
