"""Phase 4: an image's hidden cells are predicted as VQ ids from what is left of it and its text. Training only.

    masked image and text → SharedEncoder.condition → memory (B, N + L, D) ┐
                                                                           ├ T5Decoder → logits (B, h·w, K) → loss
    ids of visible cells, MASK elsewhere ──────────────────────────────────┘

Which cells are hidden comes with the batch, as cells of the codes and as an image with nothing in them; the whole image
is never looked at. Document 001, phase 4.

Legend: B batch; h, w codes of an image; N, L tokens of image and text; D width; K codes.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.storage.cache import digest
from sightword.towers.t5 import T5Decoder
from sightword.towers.vq.image import inference_weights

NOT_COUNTED = -100  # 0 is a code


class LazyCodes:
    """The network that codes images, where no cache has them: opened when it is first asked, kept in no checkpoint."""

    def __init__(self, weights: str, layout: str, num_codes: int, grid: tuple[int, int]) -> None:
        """weights, layout: as `open_tokenizer` takes them. num_codes, grid: what it is to have and to give."""
        self.weights, self.layout, self.num_codes, self.grid = weights, layout, num_codes, grid
        self._open: Any = None

    @property
    def factor(self) -> int:
        """Pixels of a side of a code."""
        return int(self._network().factor)

    @property
    def digest(self) -> str:
        """Of its weights, as the header of a cache has it that `sightword tokenize` wrote."""
        return digest(inference_weights(self._network()))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to ids (B, h·w)."""
        ids = self._network().to(images.device).encode(images)  # (B, h, w)
        if tuple(ids.shape[1:]) != self.grid:
            raise ValueError(
                f"{self.weights} codes images of {images.shape[2]}×{images.shape[3]} pixels as {ids.shape[1]} × "
                f"{ids.shape[2]}, system.vq_grid is {list(self.grid)}: set it to what the tokenizer gives"
            )
        return ids.flatten(1)

    def _network(self) -> Any:
        if self._open is None:
            from sightword.towers.vq.published import open_tokenizer

            network = open_tokenizer(self.weights, self.layout).eval().requires_grad_(False)
            if network.num_codes != self.num_codes:
                raise ValueError(
                    f"{self.weights} has {network.num_codes} codes, system.num_codes is {self.num_codes}: set it so"
                )
            self._open = network
        return self._open


class Generator(nn.Module):
    """A decoder of image codes and what is asked of it."""

    def __init__(
        self, decoder: T5Decoder, way: str = "parallel", target: str = "hidden", show_codes: bool = True
    ) -> None:
        """way: all codes at once (parallel), or each from those before it (autoregressive).

        target: the codes of hidden cells, or those of the whole image. show_codes: in parallel, whether the decoder
        is given the codes of visible cells; with the whole image as target it never is, they would be the answer.
        """
        super().__init__()
        self.decoder, self.way, self.target = decoder, way, target
        self.show_codes = show_codes and target == "hidden"

    def forward(self, memory: Tensor, mask: Tensor | None, ids: Tensor, hidden: Tensor) -> Tensor:
        """Scalar: the mean cross-entropy of the codes that count, over ln K; 1 is knowing nothing.

        memory: (B, M, D) with its mask (B, M). ids, hidden: (B, h·w), int64 and bool.
        """
        each, counted = self.each(memory, mask, ids, hidden)
        return each.sum() / counted.sum().clamp(min=1) / math.log(self.decoder.num_codes)

    def each(self, memory: Tensor, mask: Tensor | None, ids: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats of each code (B, h·w), 0 where it does not count, and bool (B, h·w) where it does."""
        self._check(ids, hidden)
        if self.way == "autoregressive":
            logits = self.decoder.autoregressive(memory, mask, ids)  # (B, h·w, K)
        else:
            unknown = hidden if self.show_codes else torch.ones_like(hidden)
            logits = self.decoder.parallel(memory, mask, ids, unknown)
        counted = hidden if self.target == "hidden" else torch.ones_like(hidden)
        labels = ids.masked_fill(~counted, NOT_COUNTED)
        return F.cross_entropy(logits.mT, labels, ignore_index=NOT_COUNTED, reduction="none"), counted

    def _check(self, ids: Tensor, hidden: Tensor) -> None:
        h, w = self.decoder.grid_bias.grid
        if ids.ndim != 2 or ids.shape[1] != h * w:
            raise ValueError(
                f"an image has {tuple(ids.shape[1:])} codes in data.vq_codes and {h} × {w} in system.vq_grid: set the "
                "grid that the codes were written with"
            )
        if hidden.shape != ids.shape:
            raise ValueError(
                f"the mask has {tuple(hidden.shape)} cells, the codes {tuple(ids.shape)}: they are of two grids"
            )


def other_texts(pids: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the next one, in a circle, of another person: rows (B,), and bool (B,) where there is one."""
    number = torch.arange(len(pids), device=pids.device)
    ahead = (number - number[:, None]) % len(pids)  # (B, B), of row to row
    different = pids[:, None] != pids
    return ahead.masked_fill(~different, len(pids)).argmin(1), different.any(1)
