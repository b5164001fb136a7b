"""Image-text alignment: contrastive objectives, hard negatives and patch alignment.

    scores = scale · image @ text.T  (B, B): row j is image j against every text, column k text k against every image

Labels: Y_jk = 1 where row j and column k have the same id, so one identity may have several rows. Q is Y with its rows
divided by their sums. All objectives are computed in float32 at the least, also under autocast.

Where an image has parts (the frames of a film), `patch_alignment` lets a text say how much each part counts, before
the two are compared. `negatives` chooses other rows that a row is to be told apart from.

Legend: B rows of a batch (with `gather`, of all ranks); N columns; D width; T parts of an image; L texts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx

from sightword.errors import SightwordError


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
    stands first: false positives cost −log eps nats per unit, about 18, false negatives cost little. So its
    gradient all but vanishes where the positives have little of P, and it cannot align encoders that start
    unaligned: see `positive_share`. Jiang and Ye 2023 (IRRA, arXiv 2303.12501), section 3.3.
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
        raise SightwordError(
            f"images and texts are both (B, D), row by row; these are {tuple(image.shape)} and {tuple(text.shape)}"
        )
    with torch.autocast(image.device.type, enabled=False):
        products: Tensor = scale * _wide(image) @ _wide(text).T
    return products


def shares(ids: Tensor, columns: Tensor | None = None) -> Tensor:
    """Q, (B, N) float64: row j has equal shares where `columns` (N,) have the id of j, adding up to one.

    columns: None, the rows themselves. A row whose id no column has is all zeros.
    """
    same = (ids[:, None] == (ids if columns is None else columns)).double()
    return same / same.sum(1, keepdim=True).clamp(min=1)


# ----------------------------------------------------------------------------------------------------- soft targets


def blend(targets: Tensor, believed: Tensor, alpha: float) -> Tensor:
    """(1 − alpha) · targets + alpha · softmax(believed): labels softened by the predictions of another network.

    targets: (B, N), rows that add up to one; believed: (B, N) scores of a momentum encoder. Li et al. 2021
    (ALBEF, arXiv 2107.07651), equation 6.
    """
    return (1 - alpha) * targets.to(believed.dtype) + alpha * believed.softmax(1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Scalar: −Σ_k targets_jk · log softmax(logits)_jk, the mean over rows j. Both (B, N).

    As torch's, but a column may be left out by the most negative finite number, where torch's own makes NaN of −inf.
    """
    return -(targets.to(logits.dtype) * logits.log_softmax(1)).sum(1).mean()


# -------------------------------------------------------------------------------------------------------- negatives


class Negatives(NamedTuple):
    """For each row a column of another id."""

    columns: Tensor  # (B,) int64; of no meaning where not valid
    valid: Tensor  # (B,) bool: whether any column has another id


@torch.no_grad()
def negatives(logits: Tensor, ids: Tensor, way: str = "sample", generator: torch.Generator | None = None) -> Negatives:
    """A column of another id for each row, hard ones first: who looks right and is not.

    logits: (B, N) scores; ids: (B,) of rows and columns alike (N = B). way: sample (with the probabilities of the
    softmax over the columns of other ids, as ALBEF's code does) or hardest (the best scored of them, as its words
    are). Columns of the same id are −inf before the softmax: taken out after it, a sharp one would leave rows with
    nothing to draw from. A row of NaN draws evenly. Nothing here waits for a GPU.
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
    """Parts of an image summed up as a text would have it."""

    vectors: Tensor  # (B, D), or (B, L, D) for each text
    weights: Tensor  # (B, T), or (B, L, T): what each part counted


def patch_alignment(
    parts: Tensor,
    texts: Tensor,
    target: str = "norm",
    weight: str = "softmax",
    gain: float = 1.0,
    final_norm: bool = True,
) -> Aligned:
    """Sums of an image's parts, weighted by how much each is like the image's own text. The paired form.

        s_bt = cos(parts_bt, texts_b);  a = softmax_T(gain · s) or σ(gain · s);  vectors_b = Σ_t a_bt · parts_bt

    parts: (B, T, D); texts: (B, D), neither needs to be of length one. target: what is summed, the parts at length one
    (norm) or as they are (raw). final_norm: bring the sum to length one; without, σ makes its length grow with T.
    The cosines lie in [−1, 1], so with gain 1 a softmax is nearly the mean and σ stays in [0.27, 0.73]: see
    `effective`. At training time the true text is in every score of its row, at test time it is not known: the
    per-class form has no such leak. Mukhoti et al. 2023 (PACL, arXiv 2212.04994); norm is the published
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
    gain: float = 1.0,
    final_norm: bool = True,
) -> Aligned:
    """As `patch_alignment`, once for every text: (B, L, D) of texts (L, D). Row b, l is the paired form of b and l."""
    _check_parts(parts, texts, paired=False)
    with torch.autocast(parts.device.type, enabled=False):
        unit = F.normalize(_wide(parts), dim=-1)
        weights = _part_weights(torch.einsum("btd,ld->blt", unit, F.normalize(_wide(texts), dim=-1)), weight, gain)
        vectors = torch.einsum("blt,btd->bld", weights, _summed(parts, unit, target))
        return Aligned(F.normalize(vectors, dim=-1) if final_norm else vectors, weights)


def effective(weights: Tensor) -> Tensor:
    """Over how many parts weights (…, T) spread, (…): exp of their entropy; T where all are equal, 1 if one has all."""
    each = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    entropy: Tensor = torch.special.entr(each).sum(-1)
    return entropy.exp()


def _part_weights(cosines: Tensor, weight: str, gain: float) -> Tensor:
    if weight not in ("softmax", "sigmoid"):
        raise SightwordError(f"parts are weighted by softmax or sigmoid; got {weight!r}")
    return (gain * cosines).softmax(-1) if weight == "softmax" else (gain * cosines).sigmoid()


def _summed(parts: Tensor, unit: Tensor, target: str) -> Tensor:
    if target not in ("norm", "raw"):
        raise SightwordError(f"what is summed is norm or raw; got {target!r}")
    return unit if target == "norm" else _wide(parts)


def _check_parts(parts: Tensor, texts: Tensor, paired: bool) -> None:
    fits = parts.ndim == 3 and texts.ndim == 2 and parts.shape[2] == texts.shape[1]
    if not fits or (paired and len(parts) != len(texts)):
        form = "one text a row, (B, D)" if paired else "texts (L, D)"
        raise SightwordError(f"parts are (B, T, D) and {form}; these are {tuple(parts.shape)} and {tuple(texts.shape)}")


# ------------------------------------------------------------------------------------------------------------ ranks


def gather(rows: Tensor) -> Tensor:
    """Rows (B, …) of all ranks, rank by rank, (ranks · B, …); the gradient finds its way back to each rank's own.

    Every rank has as many. A loss of what is gathered is the same on each, and where gradients are then averaged over
    ranks, as DistributedDataParallel does, N ranks with B rows train as one with N·B. A collective: every rank calls
    it. Alone, it gives what it is given.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """all_gather, and on the way back the sum of the gradients of all ranks for a rank's rows."""

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
        raise SightwordError(f"ids are one a row, ({len(logits)},); these are {tuple(ids.shape)}")
