"""Measures of how well pictures come back, how well a codebook is used and how well labels are told.

Legend: B batch, H height, W width, K codes in a codebook. Per-image values are kept apart until the end, because the
mean of batch means weighs a short last batch wrongly and PSNR is not linear. An accumulator's `reduce()` returns a
new one over all ranks and leaves the old one counting its own.
"""

import math
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from sightword.checkpoint import read_weights

PSNR_CEILING = 100.0


# --------------------------------------------------------------------------------------------------- codebook usage


def perplexity(counts: Tensor) -> Tensor:
    """How many codes are in use, as if all were used alike: exp of the entropy in nats, 1 to K.

    counts: (..., K) how often each code was used → (...) float64; 0 where nothing was counted.
    """
    counts = counts.double()
    total = counts.sum(-1, keepdim=True)
    share = counts / total.clamp_min(1)
    entropy = -torch.special.xlogy(share, share).sum(-1)
    return entropy.exp() * (total.squeeze(-1) > 0)


def usage(counts: Tensor) -> Tensor:
    """The share of codes used at least once. counts: (..., K) → (...) float64 in [0, 1]."""
    return (counts > 0).double().mean(-1)


class CodeUsage:
    """Counts how often each of K codes is used, to tell whether a codebook is alive.

    One batch of N tokens can show at most N / K of the codes: 256 tokens of a book of 1024 never more than a quarter,
    however healthy the book. So count over an epoch, or over a running `window` of the last updates, before judging;
    and compare perplexity / K between books, not perplexity.

    Stays on the device of the ids and never waits for it: ask `float(usage.perplexity())` when a number is needed.
    With a window it keeps the ids of that many updates (4 bytes a token), whatever K is.
    """

    def __init__(self, num_codes: int, window: int | None = None) -> None:
        if num_codes < 1 or (window is not None and window < 1):
            raise ValueError(f"a codebook has at least 1 code and a window 1 update: {num_codes}, {window}")
        self.num_codes, self.window = num_codes, window
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(self.num_codes, dtype=torch.int64)  # (K,)
        self._recent: deque[Tensor] = deque()

    def update(self, ids: Tensor) -> None:
        """ids: integers in [0, K), any shape."""
        ids = ids.detach().flatten()
        self.counts = self.counts.to(ids.device)
        self._add(ids, 1)
        if self.window is None:
            return
        self._recent.append(ids.to(torch.int32, copy=True))
        if len(self._recent) > self.window:
            self._add(self._recent.popleft().to(ids.device), -1)

    def _add(self, ids: Tensor, times: int) -> None:
        # not bincount: on a GPU that waits for the largest id
        ids = ids.long()
        self.counts.scatter_add_(0, ids, torch.full_like(ids, times))

    def perplexity(self) -> Tensor:
        """Scalar float64, see `perplexity`."""
        return perplexity(self.counts)

    def usage(self) -> Tensor:
        """Scalar float64, see `usage`."""
        return usage(self.counts)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The window's ids, an update each, so that a resumed run reports what an undisturbed one would."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        self.reset()
        for ids in state["recent"]:
            self.update(ids)

    def reduce(self) -> "CodeUsage":
        """A new CodeUsage with the counts of all ranks (a collective: call it on every one); a copy when alone."""
        total = CodeUsage(self.num_codes)
        total.counts = _over_ranks(self.counts)
        return total


class Mean:
    """The mean of per-image values over batches and ranks, in float64, on their device."""

    def __init__(self) -> None:
        self.sum = torch.zeros(2, dtype=torch.float64)  # (sum of the values, their number)

    def update(self, values: Tensor) -> None:
        """values: any shape, each counts alike."""
        values = values.detach().double()
        number = torch.full((), values.numel(), dtype=torch.float64, device=values.device)
        self.sum = self.sum.to(values.device) + torch.stack([values.sum(), number])

    def value(self) -> Tensor:
        """Scalar float64; NaN before the first update."""
        return self.sum[0] / self.sum[1]

    def reduce(self) -> "Mean":
        """A new Mean over the values of all ranks (a collective: call it on every one)."""
        total = Mean()
        total.sum = _over_ranks(self.sum)
        return total


def _over_ranks(values: Tensor) -> Tensor:
    """The sum over the ranks there are now, on the device of `values`; a copy when there is no process group."""
    total = values.clone()
    if distributed.is_available() and distributed.is_initialized():
        if distributed.get_backend() == "nccl" and not total.is_cuda:  # a rank that has counted nothing yet
            total = total.cuda()
        distributed.all_reduce(total)
    return total.to(values.device)


def gathered(kind: type[Any], parts: list[Any]) -> Any:
    """Rows of all ranks (a collective) as one: in the order of their field `number`; None if there is not one row.

    kind: of the parts, a NamedTuple whose fields are tensors on the CPU with as many rows, `number` (N,) among them.
    A rank may have none.
    """
    rows = [part._asdict() for part in parts]
    if distributed.is_available() and distributed.is_initialized():
        ranks: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(ranks, [{k: v.numpy() for k, v in row.items()} for row in rows])
        rows = [{k: torch.from_numpy(v) for k, v in row.items()} for rank in ranks for row in rank]
    if not rows:
        return None
    whole = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    order = whole["number"].argsort(stable=True)
    return kind(**{name: values[order] for name, values in whole.items()})


# ---------------------------------------------------------------------------------------------------------- pictures


def quantise8(x: Tensor) -> Tensor:
    """[-1, 1] → [0, 1] as an 8 bit file would hold it: clamped, rounded to 255ths (truncating would darken)."""
    return x.detach().float().clamp(-1, 1).add(1).mul(127.5).round().div(255)


def psnr(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal to noise ratio of each image, in dB. x, y: (B, …) in a range of width `data_range` → (B,) float32.

    At most 100 dB, so that one identical pair does not make a mean infinite (one level in one value of a 256 x 256
    image is 101 dB).
    """
    _same_shape(x, y)
    error = (x.float() - y.float()).square().flatten(1).mean(1) / data_range**2
    return -10 * error.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()


def mean_colour_psnr(x: Tensor) -> Tensor:
    """What `psnr` gives if each image is replaced by its own mean colour: the floor that a model has to beat.

    x: (B, 3, H, W) in [0, 1] → (B,) dB.
    """
    return psnr(x, x.mean((2, 3), keepdim=True).expand_as(x))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian window 11, sigma 1.5, range 1, mean over RGB.

    x, y: (B, 3, H, W) in [0, 1] → (B,) float32. Raises ValueError for a side under 11, where no window fits.
    The border is mirrored, as in torchmetrics, whose numbers these are (to 2e-5, without its 7 seconds of imports and
    without convolutions, which TF32 or autocast would spoil: the variances are differences of near numbers). skimage
    leaves a border of 5 pixels out of the mean instead, which moves the third decimal of a small image. LlamaGen's
    0.675 is with range 2 on the same [0, 1] images: not comparable.
    """
    _same_shape(x, y)
    if min(x.shape[-2:]) < 11:
        raise ValueError(f"SSIM's window is 11 x 11 pixels, the images are {x.shape[-2]} x {x.shape[-1]}")
    x, y = x.float(), y.float()
    mean_x, mean_y = _blur(x), _blur(y)  # (B, 3, H, W), as all that follow
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean around every pixel, sigma 1.5 over 11 x 11, the border mirrored. (B, C, H, W) → the same."""
    height, width = x.shape[-2:]
    bell = [math.exp(-(at**2) / (2 * 1.5**2)) for at in range(-5, 6)]
    weights = [value / sum(bell) for value in bell]
    x = F.pad(x, (5, 5, 5, 5), mode="reflect")
    x = sum((w * x[..., i : i + width] for i, w in enumerate(weights)), x.new_zeros(()))
    return sum((w * x[..., i : i + height, :] for i, w in enumerate(weights)), x.new_zeros(()))


def frechet_distance(weights: str) -> Any:
    """torchmetrics' Fréchet distance of images (B, 3, H, W) in [0, 1], by Inception features (Heusel et al. 2017).

    weights: torch-fidelity's file of Inception v3, read from disk only. Raises ValueError if it
    is none, or the package is not installed.
    """
    state = read_weights(weights)
    from torchmetrics.image.fid import FrechetInceptionDistance

    with TemporaryDirectory() as folder:  # torch-fidelity unpickles whatever it is given: give it tensors only
        torch.save(state, Path(folder) / "inception.pth")
        try:
            return FrechetInceptionDistance(
                2048, normalize=True, feature_extractor_weights_path=f"{folder}/inception.pth"
            )
        except ModuleNotFoundError as error:
            raise ValueError("rFID needs torch-fidelity: pip install 'sightword[fid]'") from error


def bits_per_pixel(num_codes: int, tokens: int, pixels: int) -> float:
    """What an image costs as ids of fixed length: `tokens` ids out of `num_codes` for `pixels` pixels (H * W)."""
    return tokens * math.log2(num_codes) / pixels


def _same_shape(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ValueError(f"the images compared differ in shape: {tuple(x.shape)} and {tuple(y.shape)}")


# ------------------------------------------------------------------------------------------------------- multi-label
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


# ---------------------------------------------------------------------------------------------------- one of C classes
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
