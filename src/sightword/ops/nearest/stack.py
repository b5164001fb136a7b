"""Codebooks side by side, ready to be multiplied, and how far a float32 product of them may be off.

Legend: as in `exact`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Metric = Literal["euclidean", "cosine"]

LANES = 64  # argmax is scalar on CPU and amax is not: amax over lanes, argmax over what is left


class Stack(NamedTuple):
    """Codebooks side by side, ready to be multiplied. score(x, e) = (x - centre)·e + bias grows as e comes nearer."""

    codes: Tensor  # (D, ΣK) float32; each book padded to whole lanes
    bias: Tensor  # (ΣK,) float32; -inf on the padding
    centre: Tensor | None  # (D,): offset features would cancel without it; shifting both sides changes no distance
    spans: list[tuple[int, int]]  # columns of each book
    reach: list[float]  # largest |e| of each book, for the rounding bound


def stack_of(books: Sequence[Tensor], metric: Metric, dtype: torch.dtype) -> Stack:
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
    """How much two float32 scores of a row may be off together: the worst case of a dot product, γ ≈ D·2⁻²⁴.

    length: |x| of each row; reach: the largest |e|.
    """
    return 2 * (channels + 8) * 2.0**-24 * (length * reach + reach**2 / 2)


def unit(x: Tensor) -> Tensor:
    """x (..., D) scaled to length one; zero stays zero."""
    return torch.nn.functional.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)


@contextmanager
def true_float32() -> Iterator[None]:
    """Keep a float32 product a float32 product, though the caller allows TF32 (GPU) or bf16 (CPU) for speed."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was chosen per backend, and PyTorch refuses to mix the two ways
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


@contextmanager
def _ieee(backend: Any) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before
