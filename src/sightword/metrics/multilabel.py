"""Metrics of images with several labels each.

Legend: N images, C classes, T thresholds. Scores are probabilities (a sigmoid's), targets and predictions are bool.
"""

import numpy as np
import torch
from torch import Tensor, distributed

from sightword.errors import SightwordError

THRESHOLDS = np.linspace(0.05, 0.95, 19)  # as in Intentonomy's code, with numpy's rounding: 0.5 is slightly less


def f1(predicted: Tensor, targets: Tensor, average: str | None = "macro") -> Tensor:
    """Return the F1 score, 2tp / (2tp + fp + fn), as sklearn's `f1_score`. predicted, targets: (N, C) → scalar float64.

    average: "macro" is the mean over classes; "micro" pools all decisions; "samples" is the mean over images; None
    returns the score of each class, (C,). A class or an image with neither a label nor a prediction scores 0, as in
    sklearn; torchmetrics excludes such classes from "macro".
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
    """Return precision tp / (tp + fp) and recall tp / (tp + fn) of each class, (C,) float64 each.

    predicted, targets: (N, C). As in sklearn, 0 for a class without predictions, or without labels.
    """
    _same_decisions(predicted, targets)
    predicted, targets = predicted.bool(), targets.bool()
    both = (predicted & targets).double().sum(0)
    return both / predicted.double().sum(0).clamp_min(1), both / targets.double().sum(0).clamp_min(1)


def best_threshold(scores: Tensor, targets: Tensor) -> float:
    """Return the threshold of the Intentonomy evaluation: the first of 0.05, 0.10 … 0.95 with the best macro F1.

    scores, targets: (N, C), of the validation images. Test images are then predicted by `scores > threshold`, strictly.
    Raises SightwordError for a score outside [0, 1].
    """
    return float(THRESHOLDS[int(_swept(scores, targets).mean(1).argmax())])  # argmax: the first of equals


def average_precision(scores: Tensor, targets: Tensor, interpolated: bool = False) -> Tensor:
    """Return the average precision of each class: the area under its precision-recall curve.

    scores, targets: (N, C) → (C,) float64; NaN for a class without positives, whose recall is undefined.
    interpolated=False: the step sum Σ (R_n - R_n-1) P_n, as in sklearn. True: the precision at a recall is the highest
    at that recall or above, as in PASCAL VOC since 2010; papers on Intentonomy report this one, which is never smaller.
    Images of equal score form one step, so their order has no effect (the VOC code has no such rule).
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
    """Return the mean of `average_precision` over the classes with positives; NaN if there are none."""
    return average_precision(scores, targets, interpolated).nanmean()


class Decisions:
    """Scores and targets of all batches, as F1 and AP are no means over batches. On the CPU, 5 bytes per item."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor]] = []

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Add the rows of a batch. scores, targets: (B, C); B may be 0."""
        if scores.shape != targets.shape or scores.ndim != 2:
            raise ValueError(f"scores and targets are (N, C), these {tuple(scores.shape)} and {tuple(targets.shape)}")
        # copies: the caller may reuse its memory
        self._rows.append((scores.detach().float().cpu().clone(), targets.detach().bool().cpu().clone()))

    @property
    def scores(self) -> Tensor:
        """Return the scores of all rows, (N, C) float32."""
        return torch.cat([scores for scores, _ in self._rows]) if self._rows else torch.empty(0, 0)

    @property
    def targets(self) -> Tensor:
        """Return the targets of all rows, (N, C) bool."""
        return torch.cat([targets for _, targets in self._rows]) if self._rows else torch.empty(0, 0, dtype=torch.bool)

    def __len__(self) -> int:
        return sum(len(scores) for scores, _ in self._rows)

    def reduce(self) -> "Decisions":
        """Return new Decisions with the rows of all ranks, rank by rank (a collective: call it on every rank)."""
        total = Decisions()
        total._rows = list(self._rows)
        if distributed.is_available() and distributed.is_initialized():
            ranks: list[tuple[np.ndarray, np.ndarray] | None] = [None] * distributed.get_world_size()
            mine = (self.scores.numpy(), self.targets.numpy()) if self._rows else None
            distributed.all_gather_object(ranks, mine)  # as many rows as a rank has, which need not be the same
            total._rows = [(torch.from_numpy(s), torch.from_numpy(t)) for s, t in filter(None, ranks)]
        return total


def _dice(both: Tensor, either: Tensor) -> Tensor:
    """Return 2·both / either; 0 for 0 / 0."""
    return 2 * both / either.clamp_min(1)


def _swept(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the F1 of each class at each of the official thresholds, (T, C)."""
    _same_decisions(scores, targets)
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        if bool(scores.isnan().any()):
            raise SightwordError("some scores are NaN: the training has diverged. Lower the learning rate, optim.lr")
        raise SightwordError("thresholds are for probabilities, some scores are not in [0, 1]. Apply the sigmoid first")
    scores = scores.double()  # float32 would move the thresholds
    return torch.stack([f1(scores > threshold, targets, None) for threshold in THRESHOLDS.tolist()])


def _same_decisions(scores: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless both are (N, C) of at least one image."""
    if scores.shape != targets.shape or scores.ndim != 2 or not scores.numel():
        shapes = f"{tuple(scores.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"scores (or predictions) and targets are both (N, C) of at least one image; these: {shapes}")
