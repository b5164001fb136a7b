"""Metrics of codebook usage: perplexity, usage rate, bits per pixel.

Legend: K codes in a codebook. `reduce()` returns a new accumulator over all ranks and leaves the old one as it is.
"""

import math
from collections import deque

import torch
from torch import Tensor

from sightword.metrics.gather import over_ranks


def perplexity(counts: Tensor) -> Tensor:
    """Return the perplexity of code usage: exp of its entropy in nats, in [1, K]; K if all are used alike.

    counts: (..., K) how often each code was used → (...) float64; 0 where nothing was counted.
    """
    counts = counts.double()
    total = counts.sum(-1, keepdim=True)
    share = counts / total.clamp_min(1)
    entropy = -torch.special.xlogy(share, share).sum(-1)
    return entropy.exp() * (total.squeeze(-1) > 0)


def usage(counts: Tensor) -> Tensor:
    """Return the fraction of codes that were used at least once. counts: (..., K) → (...) float64 in [0, 1]."""
    return (counts > 0).double().mean(-1)


class CodeUsage:
    """Counter of how often each of K codes is used, to detect dead codes and codebook collapse.

    One batch of N tokens can show at most N / K of the codes: 256 tokens never more than a quarter of 1024 codes. Count
    over an epoch, or over a sliding `window` of updates, before you judge. Between codebooks of different size compare
    perplexity / K, not perplexity.

    The counts stay on the device of the ids; nothing here synchronises with it until you take `float(…perplexity())`.
    With a window, the ids of the last `window` updates are kept (4 bytes per token), whatever K is.
    """

    def __init__(self, num_codes: int, window: int | None = None) -> None:
        if num_codes < 1 or (window is not None and window < 1):
            raise ValueError(f"a codebook has at least 1 code and a window 1 update: {num_codes}, {window}")
        self.num_codes, self.window = num_codes, window
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.counts = torch.zeros(self.num_codes, dtype=torch.int64)  # (K,)
        self._recent: deque[Tensor] = deque()

    def update(self, ids: Tensor) -> None:
        """Count ids, integers in [0, K) of any shape."""
        ids = ids.detach().flatten()
        self.counts = self.counts.to(ids.device)
        self._add(ids, 1)
        if self.window is None:
            return
        self._recent.append(ids.to(torch.int32, copy=True))
        if len(self._recent) > self.window:
            self._add(self._recent.popleft().to(ids.device), -1)

    def _add(self, ids: Tensor, times: int) -> None:
        """Add `times` to the count of each id, without bincount, which waits for a GPU to find the largest id."""
        ids = ids.long()
        self.counts.scatter_add_(0, ids, torch.full_like(ids, times))

    def perplexity(self) -> Tensor:
        """Return the perplexity of the counts, a scalar float64; see `perplexity`."""
        return perplexity(self.counts)

    def usage(self) -> Tensor:
        """Return the fraction of codes in use, a scalar float64; see `usage`."""
        return usage(self.counts)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Return the ids of each update in the window, so that a resumed run reports what an uninterrupted one does."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Restore what `state_dict` returned."""
        self.reset()
        for ids in state["recent"]:
            self.update(ids)

    def reduce(self) -> "CodeUsage":
        """Return a new CodeUsage with the counts of all ranks (a collective: call it on every rank)."""
        total = CodeUsage(self.num_codes)
        total.counts = over_ranks(self.counts)
        return total


def bits_per_pixel(num_codes: int, tokens: int, pixels: int) -> float:
    """Return the bits per pixel of an image of H * W `pixels`, stored as `tokens` ids of log2(num_codes) bits."""
    return tokens * math.log2(num_codes) / pixels
