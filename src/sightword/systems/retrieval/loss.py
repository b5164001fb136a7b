"""Heads that are trained beside the alignment and not kept: identity loss, masked language modelling, generation.

Phase 4, generation: an image's hidden cells are predicted as VQ ids from what is left of it and its text.

    masked image and text → SharedEncoder.condition → memory (B, N + L, D) ┐
                                                                           ├ T5Decoder → logits (B, h·w, K) → loss
    ids of visible cells, MASK elsewhere ──────────────────────────────────┘

Which cells are hidden comes with the batch, as a mask over the ids and as an image with nothing in these cells. The
whole image never enters the networks.

Legend: B batch; P persons; L text tokens; N image tokens; D their width; V vocabulary; h, w VQ ids of an image;
K codes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.ops.init import init_linear
from sightword.towers.t5 import T5Decoder

IGNORED = -100  # the label that cross-entropy passes over; 0 is an id


class IdentityHead(nn.Module):
    """Classifies persons: one linear layer for images and texts, so that both must lie where it expects a person.

    Zheng et al. 2020 (dual-path CNN), as IRRA has it.
    """

    def __init__(self, width: int, count: int) -> None:
        """count: P."""
        super().__init__()
        self.linear = nn.Linear(width, count)
        init_linear(self.linear, 0.001)

    def forward(self, image: Tensor, text: Tensor, pids: Tensor) -> Tensor:
        """Return the mean cross-entropy of both, a scalar. image, text: (B, E), not brought to length one; pids: (B,).

        Raises SightwordError if a person is none of the P, which is only looked at on a CPU: a GPU would be waited for.
        """
        on_cpu = pids.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_cpu and not 0 <= int(pids.min()) <= int(pids.max()) < self.linear.out_features:
            raise SightwordError(
                f"person {int(pids.max())} is none of the {self.linear.out_features} of the identity loss. "
                "Set system.num_ids to the number of training identities"
            )
        both = [F.cross_entropy(self.linear(vectors).float(), pids) for vectors in (image, text)]
        return torch.stack(both).mean()


class MaskedLanguage(nn.Module):
    """Masked language modelling given the image. Jiang and Ye 2023 (IRRA), implicit relation reasoning.

        x = MHA(q = LN(text), k = v = LN(image)), no residual → blocks → LN → linear → QuickGELU → LN → linear (B, L, V)

    Padding is not attended to; in IRRA's code it is.
    """

    def __init__(self, width: int, image_width: int, vocabulary: int, layers: int = 4, heads: int = 8) -> None:
        """width, image_width: D of the text's and of the image's tokens."""
        super().__init__()
        if width % heads:
            raise SightwordError(
                f"system.mlm_heads={heads} does not divide the width of the text's tokens, {width}. Choose a divisor"
            )
        self.text_norm, self.image_norm = nn.LayerNorm(width), nn.LayerNorm(image_width)
        self.cross = nn.MultiheadAttention(width, heads, kdim=image_width, vdim=image_width, batch_first=True)
        self.blocks = nn.ModuleList([Block(width, heads, layers) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.dense, self.dense_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.words = nn.Linear(width, vocabulary)
        for linear in (self.dense, self.words):
            init_linear(linear, width**-0.5 * 0.5)

    def forward(self, text: Tensor, mask: Tensor | None, image: Tensor) -> Tensor:
        """Tokens of texts (B, L, D) with their mask, and of images (B, N, ·), to logits (B, L, V)."""
        return self._logits(self._related(text, mask, image))

    def loss(self, text: Tensor, mask: Tensor | None, image: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy over masked tokens, a scalar. labels: (B, L), -100 where nothing is masked.

        Logits are computed for masked tokens only: those of all tokens of a batch would be a gigabyte.
        """
        masked = labels != IGNORED
        return masked_language_loss(self._logits(self._related(text, mask, image)[masked]), labels[masked])

    def _related(self, text: Tensor, mask: Tensor | None, image: Tensor) -> Tensor:
        keys = self.image_norm(image)
        x = self.cross(self.text_norm(text), keys, keys, need_weights=False)[0]  # (B, L, D)
        padding = None if mask is None else ~mask
        for block in self.blocks:
            x = block(x, padding)
        return x  # (B, L, D)

    def _logits(self, x: Tensor) -> Tensor:
        """(…, D) to (…, V)"""
        logits: Tensor = self.words(self.dense_norm(quick_gelu(self.dense(self.norm(x)))))
        return logits


class Block(nn.Module):
    """A block of a transformer that normalises first, as CLIP's: attention, then an MLP with QuickGELU."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        """depth: how many blocks there are; the more, the smaller each one's contribution starts."""
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.attention.out_proj, self.down):
            nn.init.normal_(layer.weight, std=(2 * depth * width) ** -0.5)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """x: (B, L, D); padding: (B, L) bool, True where nothing is to be attended to."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, normed, key_padding_mask=padding, need_weights=False)[0]
        return x + self.down(quick_gelu(self.up(self.mlp_norm(x))))


def masked_language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (…, V) over labels (…) that are not -100, a scalar; 0 without any."""
    logits = _wide(logits).flatten(0, -2)
    total = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def quick_gelu(x: Tensor) -> Tensor:
    """Return OpenAI's approximation of GELU, which CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


# --------------------------------------------------------------------------------------------------------- generation


class Generator(nn.Module):
    """A decoder of VQ ids, and its loss on those of hidden cells."""

    def __init__(
        self, decoder: T5Decoder, way: str = "parallel", target: str = "hidden", show_ids: bool = True
    ) -> None:
        """way: all ids at once (parallel), or each given those before it (autoregressive).

        target: the ids of hidden cells, or those of the whole image. show_ids: in parallel, whether the decoder is
        given the ids of visible cells; with the whole image as target it never is, they would be the answer.
        """
        super().__init__()
        self.decoder, self.way, self.target = decoder, way, target
        self.show_ids = show_ids and target == "hidden"

    def forward(self, memory: Tensor, mask: Tensor | None, ids: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean cross-entropy of the ids that count, over ln K, a scalar; 1 is chance.

        memory: (B, M, D) with its mask (B, M). ids, hidden: (B, h·w), int64 and bool.
        """
        each, counted = self.each(memory, mask, ids, hidden)
        return each.sum() / counted.sum().clamp(min=1) / math.log(self.decoder.num_codes)

    def each(self, memory: Tensor, mask: Tensor | None, ids: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each id in nats (B, h·w), 0 where it does not count, and where it does, bool."""
        self._check(ids, hidden)
        if self.way == "autoregressive":
            logits = self.decoder.autoregressive(memory, mask, ids)  # (B, h·w, K)
        else:
            unknown = hidden if self.show_ids else torch.ones_like(hidden)
            logits = self.decoder.parallel(memory, mask, ids, unknown)
        counted = hidden if self.target == "hidden" else torch.ones_like(hidden)
        labels = ids.masked_fill(~counted, IGNORED)
        return F.cross_entropy(logits.mT, labels, ignore_index=IGNORED, reduction="none"), counted

    def _check(self, ids: Tensor, hidden: Tensor) -> None:
        h, w = self.decoder.grid_bias.grid
        if ids.ndim != 2 or ids.shape[1] != h * w:
            raise SightwordError(
                f"an image has {tuple(ids.shape[1:])} ids in data.vq_ids and {h} × {w} in system.vq_grid. Set the grid "
                "that the ids were written with"
            )
        if hidden.shape != ids.shape:
            raise SightwordError(f"the mask has {tuple(hidden.shape)} cells and there are {tuple(ids.shape)} ids")


def other_texts(pids: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row the next, in a circle, of another person: rows (B,), and whether there is one, bool (B,)."""
    number = torch.arange(len(pids), device=pids.device)
    ahead = (number - number[:, None]) % len(pids)  # (B, B), of row to row
    different = pids[:, None] != pids
    return ahead.masked_fill(~different, len(pids)).argmin(1), different.any(1)
