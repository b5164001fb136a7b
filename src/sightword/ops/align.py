"""Image-text alignment: contrastive objectives, hard negatives and patch alignment.

    scores = scale · image @ text.T  (B, B): row j is image j against every text, column k text k against every image

Labels: Y_jk = 1 where row j and column k have the same id, so one identity may have several rows. Q is Y with its rows
divided by their sums. All objectives are computed in float32 at the least, also under autocast.

Where an image has parts (such as the frames of a film), `patch_alignment` weights the parts by their similarity to a
text before the two are compared. `negatives` chooses a non-matching column for each row.

Legend: B rows of a batch (with `gather`, of all ranks); N columns; D channels; T parts of an image; L texts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx

from sightword.errors import SightwordError


def itc(image: Tensor, text: Tensor, scale: float | Tensor = 50.0, ids: Tensor | None = None) -> Tensor:
    """Return the image-text contrastive loss, scalar: the mean of the cross-entropies of both directions with Q.

    image, text: (B, D) unit vectors. ids: (B,), equal ids are positives that share the target (the identity-aware
    form); None: row j belongs to column j alone, so other captions of one person count as negatives. Radford et al.
    2021 (CLIP), figure 3.
    """
    logits = scores(image, text, scale)
    ids = torch.arange(len(logits), device=logits.device) if ids is None else ids
    _check_ids(ids, logits)
    targets = shares(ids).to(logits.dtype)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def sdm(image: Tensor, text: Tensor, ids: Tensor, scale: float | Tensor = 50.0, eps: float = 1e-8) -> Tensor:
    """Return the similarity distribution matching loss, scalar: KL(P ‖ Q) of image to text plus that of text to image.

    mean_j Σ_k P_jk · (log P_jk − log(Q_jk + eps)), P the softmax of a row of scores, and the same of the columns; the
    sum of both, not their mean. image, text: (B, D) unit vectors; ids: (B,), equal ids are positives. The prediction
    stands first: false positives cost −log eps nats per unit, about 18, false negatives cost little. So its
    gradient all but vanishes where the positives have little of P, and it cannot align encoders that start
    unaligned: see `positive_share`. Jiang and Ye 2023 (IRRA, arXiv 2303.12501), section 3.3.
    """
    logits = scores(image, text, scale)
    _check_ids(ids, logits)
    log_q = (shares(ids).to(logits.dtype) + eps).log()  # symmetric, as the ids of rows and columns are the same
    both = [each.log_softmax(1) for each in (logits, logits.T)]
    return torch.stack([(each.exp() * (each - log_q)).sum(1).mean() for each in both]).sum()


@torch.no_grad()
def positive_share(image: Tensor, text: Tensor, ids: Tensor, scale: float | Tensor = 50.0) -> Tensor:
    """Return the fraction of P on positives, scalar in [0, 1], the mean over rows and both directions.

    image, text: (B, D) unit vectors; ids: (B,). For encoders that are not aligned it is about the fraction of positives
    in a batch. `sdm` has a useful gradient only once it is larger.
    """
    logits = scores(image, text, scale)
    _check_ids(ids, logits)
    same = ids[:, None] == ids
    return (((logits.softmax(1) + logits.T.softmax(1)) * same).sum(1) / 2).mean()


def scores(image: Tensor, text: Tensor, scale: float | Tensor = 50.0) -> Tensor:
    """Return the scaled products (B, B) of vectors (B, D), in float32 at the least."""
    if image.shape != text.shape or image.ndim != 2:
        raise SightwordError(
            f"images and texts are both (B, D), row by row; these are {tuple(image.shape)} and {tuple(text.shape)}"
        )
    with torch.autocast(image.device.type, enabled=False):
        products: Tensor = scale * _wide(image) @ _wide(text).T
    return products


def shares(ids: Tensor, columns: Tensor | None = None) -> Tensor:
    """Return Q, (B, N) float64: row j is uniform over the columns with the id of j, and sums to one.

    columns: the ids (N,) of the columns; None: those of the rows. A row without a column of its id is all zeros.
    """
    same = (ids[:, None] == (ids if columns is None else columns)).double()
    return same / same.sum(1, keepdim=True).clamp(min=1)


# ----------------------------------------------------------------------------------------------------- soft targets


def blend(targets: Tensor, believed: Tensor, alpha: float) -> Tensor:
    """Return (1 − alpha) · targets + alpha · softmax(believed): labels softened by another network's predictions.

    targets: (B, N), rows that add up to one; believed: (B, N) scores of a momentum encoder. Li et al. 2021
    (ALBEF, arXiv 2107.07651), equation 6.
    """
    return (1 - alpha) * targets.to(believed.dtype) + alpha * believed.softmax(1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return −Σ_k targets_jk · log softmax(logits)_jk, scalar, the mean over rows j. Both are (B, N).

    Unlike torch's function it allows a column to be excluded: set its logits to the most negative finite number (−inf
    gives NaN).
    """
    return -(targets.to(logits.dtype) * logits.log_softmax(1)).sum(1).mean()


# -------------------------------------------------------------------------------------------------------- negatives


class Negatives(NamedTuple):
    """A column of another id for each row."""

    columns: Tensor  # (B,) int64; undefined where not valid
    valid: Tensor  # (B,) bool: whether any column has another id


@torch.no_grad()
def negatives(logits: Tensor, ids: Tensor, way: str = "sample", generator: torch.Generator | None = None) -> Negatives:
    """Return a column of another id for each row; those with high scores (hard negatives) are preferred.

    logits: (B, N) scores; ids: (B,) of rows and columns alike (N = B). way: sample (with the probabilities of the
    softmax over the columns of other ids, as in ALBEF's code) or hardest (the highest score among them, as in its
    paper). Columns of the same id are −inf before the softmax. If they were removed after it, a sharp softmax could
    leave a row without any probability. A row of NaN draws uniformly. Does not synchronise with a GPU.
    """
    if way not in ("sample", "hardest"):
        raise SightwordError(f"negatives are chosen by sample or hardest; got {way!r}")
    _check_ids(ids, logits)
    other = ids[:, None] != ids  # (B, N)
    valid = other.any(1)
    scored = _wide(logits).nan_to_num().masked_fill(~other, -torch.inf)
    if way == "hardest":
        return Negatives(scored.argmax(1), valid)
    weights = torch.where(valid[:, None], scored.softmax(1), 1.0)
    return Negatives(torch.multinomial(weights, 1, generator=generator)[:, 0], valid)


# -------------------------------------------------------------------------------------------------- patch alignment


class Aligned(NamedTuple):
    """Sums of the parts of an image, weighted by a text."""

    vectors: Tensor  # (B, D), or (B, L, D) for each text
    weights: Tensor  # (B, T), or (B, L, T): the weight of each part


def patch_alignment(
    parts: Tensor,
    texts: Tensor,
    target: str = "norm",
    weight: str = "softmax",
    gain: float | Tensor = 1.0,
    final_norm: bool = True,
) -> Aligned:
    """Return sums of an image's parts, weighted by their similarity to the image's own text: the paired form.

        s_bt = cos(parts_bt, texts_b);  a = softmax_T(gain · s) or σ(gain · s);  vectors_b = Σ_t a_bt · parts_bt

    parts: (B, T, D); texts: (B, D), not necessarily unit vectors. target: sum the parts as unit vectors (norm) or as
    they are (raw). final_norm: scale the sum to length one; otherwise with σ its length grows with T.
    The cosines lie in [−1, 1], so with gain 1 a softmax is nearly the mean and σ stays in [0.27, 0.73]: see
    `effective`. In training the weights of a row depend on its true text, which is not known at test time. The
    per-class form does not have this leak. Mukhoti et al. 2023 (PACL, arXiv 2212.04994); norm is the published
    form, raw a variant.
    """
    _check_parts(parts, texts, paired=True)
    with torch.autocast(parts.device.type, enabled=False):
        unit = F.normalize(_wide(parts), dim=-1)
        weights = _part_weights(torch.einsum("btd,bd->bt", unit, F.normalize(_wide(texts), dim=-1)), weight, gain)
        vectors = torch.einsum("bt,btd->bd", weights, _summed(parts, unit, target))
        return Aligned(F.normalize(vectors, dim=-1) if final_norm else vectors, weights)


def patch_alignment_classes(
    parts: Tensor,
    texts: Tensor,
    target: str = "norm",
    weight: str = "softmax",
    gain: float | Tensor = 1.0,
    final_norm: bool = True,
) -> Aligned:
    """Return `patch_alignment` of every image with every text: (B, L, D) for texts (L, D)."""
    _check_parts(parts, texts, paired=False)
    with torch.autocast(parts.device.type, enabled=False):
        unit = F.normalize(_wide(parts), dim=-1)
        weights = _part_weights(torch.einsum("btd,ld->blt", unit, F.normalize(_wide(texts), dim=-1)), weight, gain)
        vectors = torch.einsum("blt,btd->bld", weights, _summed(parts, unit, target))
        return Aligned(F.normalize(vectors, dim=-1) if final_norm else vectors, weights)


def effective(weights: Tensor) -> Tensor:
    """Return the effective number of parts of weights (…, T), (…): exp of their entropy, from 1 to T (all equal)."""
    each = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    entropy: Tensor = torch.special.entr(each).sum(-1)
    return entropy.exp()


def _part_weights(cosines: Tensor, weight: str, gain: float | Tensor) -> Tensor:
    if weight not in ("softmax", "sigmoid"):
        raise SightwordError(f"parts are weighted by softmax or sigmoid; got {weight!r}")
    return (gain * cosines).softmax(-1) if weight == "softmax" else (gain * cosines).sigmoid()


def _summed(parts: Tensor, unit: Tensor, target: str) -> Tensor:
    if target not in ("norm", "raw"):
        raise SightwordError(f"target is norm or raw, got {target!r}")
    return unit if target == "norm" else _wide(parts)


def _check_parts(parts: Tensor, texts: Tensor, paired: bool) -> None:
    fits = parts.ndim == 3 and texts.ndim == 2 and parts.shape[2] == texts.shape[1]
    if not fits or (paired and len(parts) != len(texts)):
        expected = "one text a row, (B, D)" if paired else "texts (L, D)"
        raise SightwordError(
            f"parts are (B, T, D) and {expected}; these are {tuple(parts.shape)} and {tuple(texts.shape)}"
        )


# ------------------------------------------------------------------------------------------------------------ ranks


def gather(rows: Tensor) -> Tensor:
    """Return the rows (B, …) of all ranks, rank by rank: (ranks · B, …). The gradient flows back to each rank's rows.

    Every rank must have the same number of rows. A loss of the result is the same on each rank. If gradients are then
    averaged over ranks, as in DistributedDataParallel, N ranks with B rows train as one with N·B. A collective: every
    rank must call it. A single process gets its own rows back.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """all_gather whose backward pass sums the gradients of all ranks for each rank's rows."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        found = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(_world())]
        distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: FunctionCtx, *slopes: Tensor) -> Tensor:
        total = slopes[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(_world())[distributed.get_rank()]


def _world() -> int:
    return distributed.get_world_size()


def _wide(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def _check_ids(ids: Tensor, logits: Tensor) -> None:
    if ids.shape != logits.shape[:1]:
        raise SightwordError(f"ids are one per row, ({len(logits)},); these are {tuple(ids.shape)}")
