"""Exact search of a large gallery in memory: half precision finds candidates, and exact products rank them.

A product with a gallery is bound by memory, so half the bytes are half the time. Rounding to half precision changes a
score by no more than `error`. So every row whose rounded score is within twice that of the k-th best may be among the k
best, and no other row is: these are compared again, in float64 and then rounded to float32.

Legend: G gallery rows, Q queries, D dimension.
"""

from functools import cached_property

import torch
from torch import Tensor

HALF = 2.0**-11  # of a number: how far float16 rounds it
TINY = 2.0**-24  # the least number of float16, which smaller ones are rounded to, up or down
PIECE = 4096  # rows
MARGIN = 1.25  # for what accumulation in float32 and the rounding of norms add


class Shortlist:
    """A gallery with a copy in half precision.

    Its own memory: 2 D bytes a row. `rows` itself may be a mapped file: only candidates are read from it.
    """

    def __init__(self, rows: Tensor) -> None:
        """rows: (G, D) float32, finite; norms up to 1 are usual, any below 100 is right."""
        self.rows, self.half = rows, rows.half()
        self.norm = float(rows.norm(dim=1).max()) if len(rows) else 0.0

    def __len__(self) -> int:
        return len(self.rows)

    @torch.no_grad()
    def search(self, query: Tensor, k: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return scores (k,) float32 and row numbers (k,) of the highest inner products, best first.

        query: (D,) float32. among: (n,) ascending row numbers that are searched; None: all. Returns fewer than k where
        there are fewer rows. Of equal scores the lower row comes first.
        """
        k = min(k, len(self.half) if among is None else len(among))
        if not k:
            return query.new_empty(0), torch.empty(0, dtype=torch.int64)
        rounded = self._rounded(query.half(), among)
        least = torch.topk(rounded, k, sorted=True).values[-1] - 2 * self.error(query)
        found = torch.nonzero(rounded >= least)[:, 0]
        rows = found if among is None else among[found]
        scores = (self.rows[rows].double() @ query.double()).float()
        order = torch.argsort(scores, descending=True, stable=True)[:k]
        return scores[order], rows[order]

    def _rounded(self, query: Tensor, among: Tensor | None) -> Tensor:
        """Scores (G,) or (n,) of the half-precision copies; chosen rows are copied in pieces that a cache holds."""
        if among is None:
            return torch.mv(self.half, query).float()
        pieces = (self.half.index_select(0, piece) for piece in among.split(PIECE))
        return torch.cat([torch.mv(piece, query) for piece in pieces]).float()

    @torch.no_grad()
    def moments(self, queries: Tensor, among: Tensor | None = None) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the scores of each query (Q, D) with all rows, or with those chosen.

        Of all rows, by their mean and their second moments: no row is read again.
        """
        asked = queries.double()
        if among is None:
            centre, second = self._spread
            mean, squares = asked @ centre, torch.einsum("qd,de,qe->q", asked, second, asked)
        else:
            scores = [queries @ self.rows.index_select(0, piece).T for piece in among.split(PIECE)]
            found = torch.cat(scores, 1).double()
            mean, squares = found.mean(1), found.square().mean(1)
        deviation = (squares - mean.square()).clamp_min(0).sqrt()
        return list(zip(mean.tolist(), deviation.tolist(), strict=True))

    @cached_property
    def _spread(self) -> tuple[Tensor, Tensor]:
        """The mean (D,) of the rows, and of their outer products (D, D), float64."""
        dim = self.rows.shape[1]
        total, second = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        for piece in self.rows.split(PIECE):
            total += piece.double().sum(0)
            second += (piece.T @ piece).double()
        return total / len(self.rows), second / len(self.rows)

    def error(self, query: Tensor) -> float:
        """Return how far a rounded score may be from the exact one: both factors and the score are rounded."""
        length, root = float(query.norm()), query.numel() ** 0.5
        relative = 3 * HALF * length * self.norm
        return MARGIN * (relative + TINY * root * (length + self.norm))
