"""Metrics of items that are one of C classes.

Legend: N items, C classes. A confusion matrix has the true class in its rows and the predicted one in its columns.
"""

import torch
from torch import Tensor

# Legend: N items, C classes. A confusion matrix has the true class in its rows and the predicted one in its columns.


def top_k(scores: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """The share of items whose label is among the k best scores. scores: (N, C), labels: (N,) → scalar float64.

    Classes of equal score share the places they stand on: a network that gives all of them the same has k / C, not
    1 or 0 by the order they happen to be in. NaN is never right. NaN without items, 1 where k is C or more.
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
    """How often a class was taken for another. predicted, labels: (N,) → (C, C) int64, rows true, columns predicted.

    Sums of them are the matrix of all items, so batches and ranks can be added.
    """
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise ValueError(f"predictions and labels are (N,); these {tuple(predicted.shape)} and {tuple(labels.shape)}")
    _in_classes("labels", labels, classes)
    _in_classes("predictions", predicted, classes)
    cells = labels.long() * classes + predicted.long()
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Of each class the share that is told right, its recall. (C, C) → (C,) float64; NaN where a class has no item."""
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is (C, C), this is {tuple(confusion.shape)}")
    counts = confusion.double()
    return counts.diagonal() / counts.sum(1)


def mean_class_accuracy(confusion: Tensor) -> Tensor:
    """The mean of `class_accuracy` over the classes that have items; scalar float64, NaN where none has.

    pyskl and mmaction2 take the mean over the classes that are true or predicted, so there a wrong guess of a class
    without items adds a 0; the two agree where every class has items.
    """
    return class_accuracy(confusion).nanmean()


def _in_classes(name: str, values: Tensor, classes: int) -> None:
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= classes):
        raise ValueError(f"{name} run from {int(values.min())} to {int(values.max())}, and there are {classes} classes")
