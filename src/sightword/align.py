"""Bringing images and texts that belong together near each other: objectives of two lists of vectors.

    scores = scale · image @ text.T  (B, B): row j is image j against every text, column k text k against every image

Labels: Y_jk = 1 where row j and column k have the same id, so one identity may have several rows. Q is Y with its rows
divided by their sums. All objectives are computed in float32 at the least, whatever autocast says.

Legend: B rows of a batch (with `gather`, of all ranks); D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed


def itc(image: Tensor, text: Tensor, scale: float | Tensor = 50.0, ids: Tensor | None = None) -> Tensor:
    """Image-text contrast: scalar, the mean of the cross-entropies of Q and either direction's softmax.

    image, text: (B, D) unit vectors. ids: (B,), equal ids are positives that share the target (the identity-aware
    form); None: row j belongs to column j alone, so other captions of one person count as negatives. Radford et al.
    2021 (CLIP), figure 3.
    """
    logits = scores(image, text, scale)
    ids = torch.arange(len(logits), device=logits.device) if ids is None else ids
    _check_ids(ids, logits)
    wanted = shares(ids).to(logits.dtype)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


def sdm(image: Tensor, text: Tensor, ids: Tensor, scale: float | Tensor = 50.0, eps: float = 1e-8) -> Tensor:
    """Similarity distribution matching: scalar, KL(P ‖ Q) of image to text plus that of text to image.

    mean_j Σ_k P_jk · (log P_jk − log(Q_jk + eps)), P the softmax of a row of scores, and the same of the columns; the
    sum of both, not their mean. image, text: (B, D) unit vectors; ids: (B,), equal ids are positives. The prediction
    stands first: what is wrongly believed costs −log eps nats a unit, about 18, what is missed costs little. So its
    gradient all but vanishes where the positives have little of P, and it cannot bring together towers that know
    nothing of each other: see `positive_share`. Jiang and Ye 2023 (IRRA, arXiv 2303.12501), section 3.3.
    """
    logits = scores(image, text, scale)
    _check_ids(ids, logits)
    wanted = (shares(ids).to(logits.dtype) + eps).log()  # symmetric, as the ids of rows and columns are the same
    both = [each.log_softmax(1) for each in (logits, logits.T)]
    return torch.stack([(each.exp() * (each - wanted)).sum(1).mean() for each in both]).sum()


@torch.no_grad()
def positive_share(image: Tensor, text: Tensor, ids: Tensor, scale: float | Tensor = 50.0) -> Tensor:
    """Scalar in [0, 1]: how much of P lies on positives, the mean over rows and both directions.

    image, text: (B, D) unit vectors; ids: (B,). About the share of positives in a batch for towers that are not
    aligned; `sdm` learns from where this is no longer small.
    """
    logits = scores(image, text, scale)
    _check_ids(ids, logits)
    same = ids[:, None] == ids
    return (((logits.softmax(1) + logits.T.softmax(1)) * same).sum(1) / 2).mean()


def scores(image: Tensor, text: Tensor, scale: float | Tensor = 50.0) -> Tensor:
    """Scaled products (B, B) of vectors (B, D), in float32 at the least."""
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(
            f"images and texts are both (B, D), row by row; these are {tuple(image.shape)} and {tuple(text.shape)}"
        )
    with torch.autocast(image.device.type, enabled=False):
        return scale * _wide(image) @ _wide(text).T


def shares(ids: Tensor) -> Tensor:
    """Q, (B, B) float64: row j has equal shares where ids (B,) are those of j, adding up to one."""
    same = (ids[:, None] == ids).double()
    return same / same.sum(1, keepdim=True)


def gather(rows: Tensor) -> Tensor:
    """Rows (B, …) of all ranks, rank by rank, (ranks · B, …); the gradient finds its way back to each rank's own.

    Every rank has as many. A loss of what is gathered is the same on each, and where gradients are then averaged over
    ranks, as DistributedDataParallel does, N ranks with B rows train as one with N·B. A collective: every rank calls
    it. Alone, it gives what it is given.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """all_gather, and on the way back the sum of what all ranks ask of a rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        found = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(_world())]
        distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        total = slopes[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(_world())[distributed.get_rank()]


def _world() -> int:
    return distributed.get_world_size()


def _wide(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def _check_ids(ids: Tensor, logits: Tensor) -> None:
    if ids.shape != logits.shape[:1]:
        raise ValueError(f"ids are one a row, ({len(logits)},); these are {tuple(ids.shape)}")
