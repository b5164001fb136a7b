"""Triton kernel for `exact`: the best and second-best score of every row, without writing a score to memory.

Each program keeps a block of rows, runs over the codes of one book and remembers, for every row, the best score,
its id and the runner-up. `nearest` decides the rows within float32 rounding error in float64, so the kernel and the
plain search give the same ids. The products are float32 (`input_precision="ieee"`), also where the caller allows TF32.

Not yet measured on a GPU. That it pays from 8192 codes (`exact.MANY`) is an estimate from bytes and operations: an
N×K matrix written and read several times, against none. Below that, the plain search is used.

Legend: as in `exact`. Blocks: ROWS × CODES scores at a time, CHANNELS of each product.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CODES, CHANNELS, WARPS = 64, 128, 16, 8  # larger blocks, or fewer warps, spill registers


def winners(
    rows: Tensor, codes: Tensor, bias: Tensor, centre: Tensor | None, spans: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the float32 winners (S, N) of rows (N, D), their lead over the runner-up (S, N), and |x - centre| (N,).

    codes: (D, ΣK), bias: (ΣK,), centre: (D,), spans: the columns of each book, as `exact.Stack` has them.
    """
    count, dim = rows.shape
    ids = torch.empty(len(spans), count, dtype=torch.int64, device=rows.device)
    margin = torch.empty(len(spans), count, device=rows.device)
    length = torch.empty(count, device=rows.device)
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]  # the rows' device need not be the current one
        for book, (start, stop) in enumerate(spans if count else ()):
            _winners[(triton.cdiv(count, ROWS),)](
                rows,
                codes,
                bias,
                rows if centre is None else centre,
                ids[book],
                margin[book],
                length,
                count,
                start,
                stop,
                codes.stride(0),
                rows.stride(0),
                rows.stride(1),
                D=dim,
                CENTRED=centre is not None,
                ROWS=ROWS,
                CODES=CODES,
                CHANNELS=CHANNELS,
                num_warps=WARPS,
            )
    return ids, margin, length


@triton.jit  # type: ignore[untyped-decorator]
def _rows(  # type: ignore[no-untyped-def]
    x, centre, row, count, d, row_stride, channel_stride, D: tl.constexpr, CENTRED: tl.constexpr
):
    """Load channels d (C,) of rows (R,), centred, as float32; zero outside. The centre has the wider dtype."""
    some = tl.load(
        x + row[:, None].to(tl.int64) * row_stride + d[None, :] * channel_stride,
        mask=(row[:, None] < count) & (d[None, :] < D),
        other=0.0,
    )
    if CENTRED:
        some -= tl.load(centre + d, mask=d < D, other=0.0)[None, :]
    return some.to(tl.float32)  # (R, C)


@triton.jit  # type: ignore[untyped-decorator]
def _squares(  # type: ignore[no-untyped-def]
    x,
    centre,
    row,
    count,
    row_stride,
    channel_stride,
    D: tl.constexpr,
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Return |x - centre|² of rows (R,), float32."""
    square = tl.zeros((ROWS,), tl.float32)
    for first in range(0, D, CHANNELS):
        d = first + tl.arange(0, CHANNELS)
        some = _rows(x, centre, row, count, d, row_stride, channel_stride, D, CENTRED)
        square += tl.sum(some * some, 1)
    return square


@triton.jit  # type: ignore[untyped-decorator]
def _winners(  # type: ignore[no-untyped-def]
    x,  # (N, D), any strides
    codes,  # (D, ΣK)
    bias,  # (ΣK,), -inf on the padding
    centre,  # (D,), not read unless CENTRED
    ids,  # (N,) out
    margin,  # (N,) out
    length,  # (N,) out
    count,
    start,
    stop,
    code_stride,
    row_stride,
    channel_stride,
    D: tl.constexpr,
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    best = tl.full((ROWS,), -float("inf"), tl.float32)
    second = tl.full((ROWS,), -float("inf"), tl.float32)
    winner = tl.zeros((ROWS,), tl.int32)
    for left in range(start, stop, CODES):
        column = left + tl.arange(0, CODES)
        inside = column < stop
        scores = tl.zeros((ROWS, CODES), tl.float32)
        for first in range(0, D, CHANNELS):
            d = first + channel
            some = _rows(x, centre, row, count, d, row_stride, channel_stride, D, CENTRED)
            e = tl.load(
                codes + d[:, None].to(tl.int64) * code_stride + column[None, :],
                mask=(d[:, None] < D) & inside[None, :],
                other=0.0,
            )
            scores = tl.dot(some, e, scores, input_precision="ieee")
        scores += tl.load(bias + column, mask=inside, other=-float("inf"))[None, :]
        top, where = tl.max(scores, 1, return_indices=True, return_indices_tie_break_left=True)
        rest = tl.max(tl.where(column[None, :] == left + where[:, None], -float("inf"), scores), 1)
        # Of the two bests one loses; the runner-up is the best of the loser and both runners-up.
        second = tl.maximum(tl.maximum(second, rest), tl.minimum(best, top))
        winner = tl.where(top > best, left - start + where, winner)  # an equal of a later block is no better
        best = tl.maximum(best, top)

    tl.store(ids + row, winner.to(tl.int64), mask=row < count)
    tl.store(margin + row, best - second, mask=row < count)
    square = _squares(x, centre, row, count, row_stride, channel_stride, D, CENTRED, ROWS, CHANNELS)
    tl.store(
        length + row, tl.sqrt(square), mask=row < count
    )  # not finite where x is not: then the row counts as uncertain
