"""Metrics of items that are one of C classes.

Legend: N items, C classes. A confusion matrix has the true class in its rows and the predicted one in its columns.
"""

import torch
from torch import Tensor

from sightword.errors import SightwordError


def top_k(scores: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Return the fraction of items whose label is among the k best scores, a scalar float64 in [0, 1].

    scores: (N, C). labels: (N,) integers in [0, C). Classes with equal scores share their ranks, so a network that
    gives every class the same score gets k / C, whatever the order of the classes. A label whose score is NaN counts
    as wrong. Returns NaN for N = 0. Raises SightwordError for a label outside [0, C).
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or k < 1:
        shapes = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"scores are (N, C), labels (N,) and k at least 1; these are {shapes}, and {k}")
    _in_classes("labels", labels, scores.shape[1])
    own = scores.gather(1, labels.long()[:, None])  # (N, 1)
    better = (~(scores <= own)).sum(1)
    equal = (scores == own).sum(1).clamp_min(1)
    return ((k - better).double() / equal).clamp(0, 1).mean()


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return how often each class was predicted for each true class: (C, C) int64, rows true, columns predicted.

    predicted, labels: (N,) integers in [0, C). Matrices of batches or ranks add up to the matrix of all their items.
    Raises SightwordError for a class outside [0, C).
    """
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise ValueError(f"predictions and labels are (N,); these {tuple(predicted.shape)} and {tuple(labels.shape)}")
    _in_classes("labels", labels, classes)
    _in_classes("predictions", predicted, classes)
    cells = labels.long() * classes + predicted.long()
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Return the recall of each class from a confusion matrix: (C, C) → (C,) float64; NaN for a class without items."""
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is (C, C), this is {tuple(confusion.shape)}")
    counts = confusion.double()
    return counts.diagonal() / counts.sum(1)


def mean_class_accuracy(confusion: Tensor) -> Tensor:
    """Return the mean of `class_accuracy` over the classes that have items, a scalar float64; NaN if none has.

    pyskl and mmaction2 average over the classes that are true or predicted, so there a wrong prediction of a class
    without items adds a 0. The two agree where every class has items.
    """
    return class_accuracy(confusion).nanmean()


def _in_classes(name: str, values: Tensor, classes: int) -> None:
    """Raise SightwordError if an index is not that of a class."""
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= classes):
        low, high = int(values.min()), int(values.max())
        raise SightwordError(f"{name} run from {low} to {high}, and there are {classes} classes")
