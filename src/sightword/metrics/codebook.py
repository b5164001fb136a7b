"""How well a codebook is used.

Legend: K codes in a codebook. An accumulator's `reduce()` returns a new one over all ranks and leaves the old one
counting its own.
"""

import math
from collections import deque

import torch
from torch import Tensor

from sightword.metrics.gather import over_ranks


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
        total.counts = over_ranks(self.counts)
        return total


def bits_per_pixel(num_codes: int, tokens: int, pixels: int) -> float:
    """What an image costs as ids of fixed length: `tokens` ids out of `num_codes` for `pixels` pixels (H * W)."""
    return tokens * math.log2(num_codes) / pixels
