"""Phase 4: an image's hidden cells are predicted as VQ ids from what is left of it and its text. Training only.

    masked image and text → SharedEncoder.condition → memory (B, N + L, D) ┐
                                                                           ├ T5Decoder → logits (B, h·w, K) → loss
    ids of visible cells, MASK elsewhere ──────────────────────────────────┘

A cell is as many pixels as a patch of the image tower or a code of the tokenizer has, whichever is more, so that
neither ever sees part of a hidden one. Document 001, phase 4.

Legend: B batch; H, W pixels; h, w codes of an image; N, L tokens of image and text; D width; K codes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.towers.t5 import T5Decoder

NOT_COUNTED = -100  # 0 is a code


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


def text_gain(true: Tensor, other: Tensor, counted: Tensor) -> Tensor:
    """(B,) nats: how much worse each image's codes are predicted with another's text. What phase 4 is measured by.

    true, other: (B, h·w) cross-entropies of `Generator.each`; counted: (B, h·w) bool. Above 0 the text is made use of.
    """
    return (other - true).sum(1) / counted.sum(1).clamp(min=1)


def other_texts(pids: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the next one, in a circle, of another person: rows (B,), and bool (B,) where there is one."""
    number = torch.arange(len(pids), device=pids.device)
    ahead = (number - number[:, None]) % len(pids)  # (B, B), of row to row
    different = pids[:, None] != pids
    return ahead.masked_fill(~different, len(pids)).argmin(1), different.any(1)


# ------------------------------------------------------------------------------------------------------ hidden cells


def cell_size(patch: int, factor: int) -> int:
    """Pixels of a side of a cell: the larger of the image tower's patch and the tokenizer's factor."""
    large, small = max(patch, factor), min(patch, factor)
    if large % small:
        raise ValueError(
            f"patches of {patch} pixels and codes of {factor} do not lie in one grid: a hidden cell would show part of "
            "itself to one of them; take a tokenizer whose factor divides the patch, or is a multiple of it"
        )
    return large


def draw_hidden(cells: tuple[int, int], share: float, generator: torch.Generator) -> Tensor:
    """Bool (rows, columns): a `share` of the cells, one at least, drawn without order by the generator alone."""
    if not 0 < share <= 1:
        raise ValueError(f"data.hide is the share of cells that are hidden, in (0, 1]; got {share}")
    number = cells[0] * cells[1]
    hidden = torch.zeros(number, dtype=torch.bool)
    hidden[torch.randperm(number, generator=generator)[: max(1, round(share * number))]] = True
    return hidden.view(cells)


def hide(images: Tensor, hidden: Tensor) -> Tensor:
    """Images (…, 3, H, W) in [-1, 1] with hidden cells (rows, columns) at 0, a mid grey."""
    return images.masked_fill(_stretched(hidden, (images.shape[-2], images.shape[-1])), 0.0)


def hidden_codes(hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which of the h·w codes lie in hidden cells (rows, columns): (h·w,) bool."""
    return _stretched(hidden, grid).flatten()


def _stretched(hidden: Tensor, size: tuple[int, int]) -> Tensor:
    times = [side // cells for side, cells in zip(size, hidden.shape, strict=True)]
    if any(side % cells for side, cells in zip(size, hidden.shape, strict=True)):
        raise ValueError(
            f"cells of {'×'.join(map(str, hidden.shape))} do not divide {'×'.join(map(str, size))} evenly: the "
            "image's size, the patch and data.vq_codes must agree"
        )
    return hidden.repeat_interleave(times[0], 0).repeat_interleave(times[1], 1)
