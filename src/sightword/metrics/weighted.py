"""Metrics of items that count with weights, many draws of weights at a time, in numpy: for resampling.

An item of weight 2 counts as two equal items, one of weight 0 is left out. With all weights 1 the values equal those of
the torch functions of the same names (multilabel, classes, segmentation).

Legend: D draws; N items; C classes. weights: (D, N) float64. Values are (D,) float64, NaN where nothing is measured.
"""

import numpy as np


def mean(values: np.ndarray, weights: np.ndarray, some: np.ndarray | None = None) -> np.ndarray:
    """Return the weighted mean of values (N,). some: (N,) bool, the items that count; None: all."""
    if some is not None:
        values, weights = values[some], weights[:, some]
    return _ratio(weights @ values.astype(np.float64), weights.sum(1))


def f1(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray, average: str = "macro") -> np.ndarray:
    """Return the F1 score, 2tp / (2tp + fp + fn). predicted, targets: (N, C) bool. average: macro, micro or samples.

    A class or an image with neither a label nor a prediction scores 0.
    """
    both = (predicted & targets).astype(np.float64)  # (N, C)
    either = predicted.astype(np.float64) + targets
    if average == "samples":
        return mean(_dice(both.sum(1), either.sum(1)), weights)
    if average == "micro":
        return _dice(weights @ both.sum(1), weights @ either.sum(1))
    return class_f1(predicted, targets, weights).mean(1)


def class_f1(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the F1 score of each class, (D, C). predicted, targets: (N, C) bool."""
    both = (predicted & targets).astype(np.float64)
    return _dice(weights @ both, weights @ (predicted.astype(np.float64) + targets))


def mean_average_precision(
    scores: np.ndarray, targets: np.ndarray, weights: np.ndarray, interpolated: bool = False
) -> np.ndarray:
    """Return the mean of average precision over the classes with positives. scores (N, C), targets (N, C) bool."""
    each = [_average_precision(scores[:, c], targets[:, c], weights, interpolated) for c in range(scores.shape[1])]
    return nanmean(np.stack(each, 1))


def _average_precision(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray, interpolated: bool) -> np.ndarray:
    """The area under the precision-recall curve of one class; items of equal score form one step.

    Precision rises at positives alone, so only theirs is computed. P positives.
    """
    order = np.argsort(-scores, kind="stable")
    falling, positives = -scores[order], np.flatnonzero(targets[order])  # (N,), (P,) the best ranked first
    ends = np.searchsorted(falling, falling[positives], side="right") - 1  # (P,) where each one's run of equals ends
    counts = weights[:, order]
    hits = counts[:, positives]  # (D, P)
    found = hits.cumsum(1)[:, np.searchsorted(positives, ends, side="right") - 1]
    precision = _ratio(found, counts.cumsum(1)[:, ends], 0.0)
    if interpolated:
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return _ratio((hits * precision).sum(1), hits.sum(1))


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return how far each item's label is among the k best scores, (N,) in [0, 1]; classes of equal score share ranks.

    scores: (N, C), labels: (N,).
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    better, equal = (~(scores <= own)).sum(1), np.maximum((scores == own).sum(1), 1)
    return np.clip((k - better) / equal, 0, 1)


def mean_class_accuracy(right: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of the recalls over the classes that have items. right: (N,) bool, labels: (N,)."""
    own = np.eye(int(labels.max(initial=0)) + 1)[labels]  # (N, C)
    return nanmean(_ratio(weights @ (own * right[:, None]), weights @ own))


def accuracy(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the fraction of elements classified correctly. counts: (N, C, K), rows true, columns predicted, K ≥ C."""
    return _ratio(weights @ _hits(counts).sum(1), weights @ counts.sum((1, 2)).astype(np.float64))


def mean_iou(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean IoU over the classes that have elements; counts of items, as above, are added up first."""
    own = weights @ counts.sum(2).astype(np.float64)  # (D, C)
    said = weights @ counts[:, :, : counts.shape[1]].sum(1).astype(np.float64)
    hits = weights @ _hits(counts)
    return nanmean(np.where(own > 0, _ratio(hits, own + said - hits), np.nan))


def nanmean(values: np.ndarray) -> np.ndarray:
    """Return the mean of (D, C) over what is not NaN, (D,); NaN where nothing is left."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(1), known.sum(1))


def _hits(counts: np.ndarray) -> np.ndarray:
    """(N, C, K) → (N, C)."""
    return np.diagonal(counts, axis1=1, axis2=2).astype(np.float64)


def _ratio(part: np.ndarray, whole: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), otherwise), where=whole != 0)


def _dice(both: np.ndarray, either: np.ndarray) -> np.ndarray:
    """2·both / either; 0 for 0 / 0."""
    return _ratio(2 * both, either, 0.0)
