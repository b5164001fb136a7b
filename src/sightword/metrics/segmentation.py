"""Metrics of points or pixels that are one of C classes: accuracy and IoU, from counts that batches and ranks add up.

Legend: C classes. Counts are (C, K) int64, rows true, columns predicted; K ≥ C, and a column past C is no class: an
element without a prediction, which is wrong for its own class and a false positive of none.
"""

import torch
from torch import Tensor


def accuracy(counts: Tensor) -> Tensor:
    """Return the fraction of elements that are classified correctly, of counts (C, K): scalar float64; NaN of none."""
    return counts.diagonal().sum().double() / counts.sum()


def class_iou(counts: Tensor) -> Tensor:
    """Return the IoU of each class, tp / (tp + fp + fn), of counts (C, K): (C,) float64.

    NaN for a class without elements, also where others are mistaken for it.
    """
    hits, own = counts.diagonal().double(), counts.sum(1).double()
    predicted = counts[:, : len(counts)].sum(0).double()
    return torch.where(own > 0, hits / (own + predicted - hits), torch.nan)


def mean_iou(counts: Tensor) -> Tensor:
    """Return the mean of `class_iou` over the classes that have elements: scalar float64; NaN where none has."""
    return class_iou(counts).nanmean()
