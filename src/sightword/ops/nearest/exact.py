"""Exact search for the nearest code, in a few megabytes of memory for any size of the problem.

A plain look-up writes an N×K matrix of distances and reads it several times; at 65536 × 16384 that is 4 GiB per
copy. This search processes the rows in one small tile: a matrix product fills it, and a two-level maximum reads it
once.

The tile is computed in float32, where the order of two codes at nearly equal distances may be wrong. The lead over the
second-best score shows which rows are within float32 rounding error (a few in a million for real features), and only
these are decided in float64. So the result is that of float64 on every device, for every tile size, number of threads
and autocast setting.

Tie rule: codes whose distances agree to the rounding of float64 are tied, and the lowest id wins.

Legend: N rows, D channels, K codes, S codebooks, R rows of a tile, L lanes (codes that one first-level
maximum covers).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from importlib.util import find_spec
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from sightword.errors import Diverged, SightwordError

Metric = Literal["euclidean", "cosine"]

MANY = 8192  # least number of codes for which a GPU uses the Triton kernel; see `ops.nearest.triton` for the reason

TILE = 2**20  # scores a tile holds: 4 MiB, which stays in a core's share of the cache
LANES = 64  # argmax is not vectorised on CPU but amax is: amax over the lanes, then argmax over their peaks


class Stack(NamedTuple):
    """Codebooks side by side, ready to be multiplied. score(x, e) = (x - centre)·e + bias grows as e comes nearer."""

    codes: Tensor  # (D, ΣK) float32; each book padded to whole lanes
    bias: Tensor  # (ΣK,) float32; -inf on the padding
    centre: Tensor | None  # (D,): offset features would cancel without it; shifting both sides changes no distance
    spans: list[tuple[int, int]]  # columns of each book
    reach: list[float]  # largest |e| of each book, for the rounding bound


def nearest(x: Tensor, codes: Tensor, metric: Metric = "euclidean") -> Tensor:
    """Return the id of the nearest of codes (K, D) for every vector of x (..., D): (...), int64, without gradient.

    Euclidean is the smallest distance, cosine the largest cosine of the angle; neither needs normalised input.
    Raises SightwordError if the numbers of channels differ, and Diverged if x is not finite.
    """
    return nearest_in_each(x, [codes], metric)[0]


@torch.no_grad()
def nearest_in_each(x: Tensor, books: Sequence[Tensor], metric: Metric = "euclidean") -> list[Tensor]:
    """Return `nearest` for several codebooks [(K_s, D)] at once: x is read, centred and multiplied only once."""
    for codes in books:
        if codes.dim() != 2 or codes.shape[1] != x.shape[-1] or not len(codes):
            raise SightwordError(
                f"codes must be (K, {x.shape[-1]}) to fit x {tuple(x.shape)}, got {tuple(codes.shape)}"
            )
    rows = x.reshape(-1, x.shape[-1])  # (N, D)
    with torch.autocast(x.device.type, enabled=False), true_float32():
        stack = stack_of(books, metric, reduce(torch.promote_types, (t.dtype for t in (x, *books)), torch.float32))
        propose = _propose_on_gpu if _triton_pays(rows, stack) else _propose
        ids, uncertain = propose(rows, stack)  # (S, N) int64, (S, N) bool
        for codes, book_ids, mask in zip(books, ids, uncertain, strict=True):
            which = mask.nonzero().squeeze(1)
            if len(which):
                book_ids[which] = _decide_in_float64(rows[which], codes, metric)
    return [book_ids.view(x.shape[:-1]) for book_ids in ids]


def _propose(rows: Tensor, stack: Stack) -> tuple[Tensor, Tensor]:
    """Return float32 winners (S, N), and whether the runner-up is within float32 rounding error (S, N)."""
    ids = torch.empty(len(stack.spans), len(rows), dtype=torch.int64, device=rows.device)
    uncertain = torch.empty_like(ids, dtype=torch.bool)
    height = max(16, TILE // len(stack.bias))
    tile = rows.new_empty(min(height, len(rows)), len(stack.bias), dtype=torch.float32)
    for first in range(0, len(rows), height):
        some = slice(first, first + height)
        x = (rows[some] if stack.centre is None else rows[some] - stack.centre).float()  # (R, D)
        scores = torch.addmm(stack.bias, x, stack.codes, out=tile[: len(x)])  # (R, ΣK)
        length = x.norm(dim=1)
        for book, (start, stop) in enumerate(stack.spans):
            ids[book, some], margin = _winner(scores[:, start:stop])
            uncertain[book, some] = ~(margin > rounding(length, stack.reach[book], x.shape[1]))
    return ids, uncertain


def _winner(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the column of the best score of each row (R, K), the first of equals, and its lead over the second.

    Overwrites the winners in `scores`.
    """
    lanes = scores.view(len(scores), scores.shape[1] // LANES, LANES)  # (R, K/L, L)
    peaks = lanes.amax(2)
    best, lane = peaks.max(1)
    inside = lanes[torch.arange(len(lanes), device=lanes.device), lane]  # (R, L), a copy
    column = inside.argmax(1)
    peaks.scatter_(1, lane[:, None], -math.inf)
    inside.scatter_(1, column[:, None], -math.inf)
    return lane * LANES + column, best - torch.maximum(peaks.amax(1), inside.amax(1))


def _decide_in_float64(rows: Tensor, codes: Tensor, metric: Metric) -> Tensor:
    """Return the nearest ids in float64, the lowest of tied ids. rows: (N, D), processed in small blocks."""
    e, centre = codes.double(), codes.double().mean(0)
    e = e - centre if metric == "euclidean" else unit(e)
    bias = e.square().sum(1).mul(-0.5) if metric == "euclidean" else e.new_zeros(len(e))
    reach, ids = e.norm(dim=1).max(), []
    for some in torch.split(rows, max(1, TILE // 2 // len(e))):
        x = some.double() - centre if metric == "euclidean" else unit(some.double())  # (R, D)
        scores = torch.addmm(bias, x, e.t())  # (R, K)
        best = scores.amax(1, keepdim=True)
        if not best.isfinite().all():
            raise Diverged("vectors or codes are not finite: the run has diverged (lower the learning rate)")
        slack = 2 * (x.shape[1] + 8) * 2.0**-53 * (x.norm(dim=1, keepdim=True) * reach + reach**2 / 2)
        ids.append((scores >= best - slack).to(torch.int8).argmax(1))
    return torch.cat(ids)


def _triton_pays(rows: Tensor, stack: Stack) -> bool:
    return rows.is_cuda and len(stack.bias) >= MANY and find_spec("triton") is not None


def _propose_on_gpu(rows: Tensor, stack: Stack) -> tuple[Tensor, Tensor]:
    """Return the same as `_propose`, computed by the Triton kernel."""
    from sightword.ops.nearest.triton import winners

    ids, margin, length = winners(rows, stack.codes, stack.bias, stack.centre, stack.spans)
    bounds = torch.stack([rounding(length, reach, rows.shape[1]) for reach in stack.reach])  # (S, N)
    return ids, ~(margin > bounds)


# ------------------------------------------------------------------------------------------------ codebooks, rounding


def stack_of(books: Sequence[Tensor], metric: Metric, dtype: torch.dtype) -> Stack:
    """Return codebooks [(K_s, D)] as one stack; centred or normalised in `dtype`, kept in float32."""
    columns, biases, spans, start = [], [], [], 0
    centre = torch.cat(list(books)).to(dtype).mean(0) if metric == "euclidean" else None
    for codes in books:
        codes = codes.to(dtype) - centre if centre is not None else unit(codes.to(dtype))
        bias = codes.double().square().sum(1).mul(-0.5) if centre is not None else codes.new_zeros(len(codes))
        pad = -len(codes) % LANES
        columns.append(torch.nn.functional.pad(codes.float(), (0, 0, 0, pad)))
        biases.append(torch.nn.functional.pad(bias.float(), (0, pad), value=-math.inf))
        spans.append((start, start + len(codes) + pad))
        start = spans[-1][1]
    reach = torch.stack([column.norm(dim=1).max() for column in columns]).tolist()
    return Stack(torch.cat(columns).t().contiguous(), torch.cat(biases), centre, spans, reach)


def rounding(length: Tensor, reach: float, channels: int) -> Tensor:
    """Return a bound on the error of the difference of two float32 scores of a row: γ ≈ D·2⁻²⁴ per dot product.

    length: |x| of each row; reach: the largest |e|.
    """
    return 2 * (channels + 8) * 2.0**-24 * (length * reach + reach**2 / 2)


def unit(x: Tensor) -> Tensor:
    """Return x (..., D) scaled to length one; zero stays zero."""
    return torch.nn.functional.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute float32 products in full float32, even if the caller allows TF32 (GPU) or bf16 (CPU) for speed."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # precision was set per backend, and PyTorch refuses to mix the two APIs
        with _ieee(torch.backends.cuda.matmul), _ieee(torch.backends.mkldnn.matmul):  # type: ignore[attr-defined]
            yield
        return
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Backend(Protocol):
    fp32_precision: str


@contextmanager
def _ieee(backend: _Backend) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before
