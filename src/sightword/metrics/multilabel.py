"""Metrics of images with several labels each.

Legend: N images, C classes, T thresholds. Scores are probabilities (a sigmoid's), targets and predictions are bool.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

# Legend: N images, C classes, T thresholds. Scores are probabilities (a sigmoid's), targets and predictions are bool.

THRESHOLDS = np.linspace(0.05, 0.95, 19)  # as the official code has them, with numpy's rounding: 0.5 is a bit less


def f1(predicted: Tensor, targets: Tensor, average: str | None = "macro") -> Tensor:
    """Harmonic mean of precision and recall, 2tp / (2tp + fp + fn), as sklearn's `f1_score`.

    predicted, targets: (N, C) → scalar float64. "macro": each class, then their mean. "micro": all decisions as one
    class. "samples": each image, then their mean. None: of each class, (C,), for the mean over a subset of them.
    A class, or an image, with neither a label nor a prediction counts 0, as in sklearn; torchmetrics leaves such
    classes out of "macro".
    """
    _same_decisions(predicted, targets)
    if average not in (None, "macro", "micro", "samples"):
        raise ValueError(f"average is macro, micro, samples or None; got {average!r}")
    predicted, targets = predicted.bool(), targets.bool()
    both, either = (predicted & targets).double(), predicted.double() + targets.double()  # (N, C)
    if average == "micro":
        return _dice(both.sum(), either.sum())
    if average == "samples":
        return _dice(both.sum(1), either.sum(1)).mean()
    classes = _dice(both.sum(0), either.sum(0))  # (C,)
    return classes if average is None else classes.mean()


def precision_recall(predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each class tp / (tp + fp) and tp / (tp + fn), as sklearn: 0 where nothing was predicted, or nothing is there.

    predicted, targets: (N, C) → two of (C,) float64.
    """
    _same_decisions(predicted, targets)
    predicted, targets = predicted.bool(), targets.bool()
    both = (predicted & targets).double().sum(0)
    return both / predicted.double().sum(0).clamp_min(1), both / targets.double().sum(0).clamp_min(1)


def best_threshold(scores: Tensor, targets: Tensor) -> float:
    """The one threshold of the official Intentonomy evaluation: of 0.05, 0.10 … 0.95 the first with the best macro F1.

    scores, targets: (N, C), of the validation images; test images are then judged by `scores > threshold`, strictly.
    """
    return float(THRESHOLDS[int(_swept(scores, targets).mean(1).argmax())])  # argmax: the first of equals


def class_thresholds(scores: Tensor, targets: Tensor) -> Tensor:
    """A threshold for each class by its own F1, (C,) float64. It overfits where a class has few positives."""
    best = _swept(scores, targets).argmax(0).cpu()
    return torch.from_numpy(THRESHOLDS)[best].to(scores.device)


def average_precision(scores: Tensor, targets: Tensor, interpolated: bool = False) -> Tensor:
    """How well a class's scores rank its images, without any threshold: the area under precision over recall.

    scores, targets: (N, C) → (C,) float64; NaN for a class without positives, whose recall is not defined.
    interpolated=False: the step sum Σ (R_n - R_n-1) P_n, as sklearn. True: precision at a recall is the best at that
    recall or any higher one, as PASCAL VOC from 2010 on; what papers on Intentonomy call mAP, never the smaller one.
    Images of equal score are one step, so their order does not matter (the VOC code has no such rule).
    """
    _same_decisions(scores, targets)
    scores, order = scores.sort(dim=0, descending=True)
    hits = targets.bool().gather(0, order).double()  # (N, C), the best ranked first
    ranks = torch.arange(1, len(hits) + 1, device=hits.device)[:, None]
    precision = hits.cumsum(0) / ranks
    last = torch.ones_like(hits, dtype=torch.bool)  # of a run of equal scores
    last[:-1] = scores[1:] != scores[:-1]
    ends = torch.where(last, ranks - 1, len(hits)).flip(0).cummin(0).values.flip(0)  # (N, C), where each run ends
    precision = precision.gather(0, ends)
    if interpolated:
        precision = precision.flip(0).cummax(0).values.flip(0)
    return (hits * precision).sum(0) / hits.sum(0)


def mean_average_precision(scores: Tensor, targets: Tensor, interpolated: bool = False) -> Tensor:
    """The mean of `average_precision` over the classes that have positives; NaN where none has."""
    return average_precision(scores, targets, interpolated).nanmean()


class Decisions:
    """Gathers scores and targets over batches: F1 and AP are no means of batches'. On the CPU, 5 bytes a class."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor]] = []

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """scores, targets: (B, C); B may be 0."""
        if scores.shape != targets.shape or scores.ndim != 2:
            raise ValueError(f"scores and targets are (N, C), these {tuple(scores.shape)} and {tuple(targets.shape)}")
        # copies: the caller may reuse its memory
        self._rows.append((scores.detach().float().cpu().clone(), targets.detach().bool().cpu().clone()))

    @property
    def scores(self) -> Tensor:
        """(N, C) float32"""
        return torch.cat([scores for scores, _ in self._rows]) if self._rows else torch.empty(0, 0)

    @property
    def targets(self) -> Tensor:
        """(N, C) bool"""
        return torch.cat([targets for _, targets in self._rows]) if self._rows else torch.empty(0, 0, dtype=torch.bool)

    def __len__(self) -> int:
        return sum(len(scores) for scores, _ in self._rows)

    def reduce(self) -> "Decisions":
        """New Decisions with the rows of all ranks (a collective: call it on every one), rank by rank."""
        total = Decisions()
        total._rows = list(self._rows)
        if distributed.is_available() and distributed.is_initialized():
            ranks: list[Any] = [None] * distributed.get_world_size()
            mine = (self.scores.numpy(), self.targets.numpy()) if self._rows else None
            distributed.all_gather_object(ranks, mine)  # as many rows as a rank has, which need not be the same
            total._rows = [(torch.from_numpy(s), torch.from_numpy(t)) for s, t in filter(None, ranks)]
        return total


def _dice(both: Tensor, either: Tensor) -> Tensor:
    """2·both / either; 0 for 0 / 0."""
    return 2 * both / either.clamp_min(1)


def _swept(scores: Tensor, targets: Tensor) -> Tensor:
    """F1 of each class at each of the official thresholds, (T, C)."""
    _same_decisions(scores, targets)
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ValueError("thresholds are for probabilities, and some scores are not in [0, 1]: apply the sigmoid first")
    scores = scores.double()  # float32 would move the thresholds
    return torch.stack([f1(scores > threshold, targets, None) for threshold in THRESHOLDS.tolist()])


def _same_decisions(scores: Tensor, targets: Tensor) -> None:
    if scores.shape != targets.shape or scores.ndim != 2 or not scores.numel():
        shapes = f"{tuple(scores.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"scores (or predictions) and targets are both (N, C) of at least one image; these: {shapes}")
