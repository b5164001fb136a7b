"""The objectives besides generation: which of ITC and SDM is trained, naming the person, and hidden words.

Legend: B batch; E width of the common space; P persons; L text tokens; N image tokens; D their width; V vocabulary.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.ops import align
from sightword.towers.base import readable

KEPT = 0.95  # of the running mean, each batch
NOT_HIDDEN = -100


class Alignment(nn.Module):
    """ITC, SDM, both, or ITC until enough of the softmax lies on positives and SDM from then on.

    SDM alone hardly begins with towers that know nothing of each other, as its gradient vanishes where positives are
    unlikely (see `align.sdm`). When to switch is part of the state, so a resumed run does as an undisturbed one.
    """

    positive: Tensor  # (), running mean of `align.positive_share`
    switched: Tensor  # (), 1 once SDM has taken over, before that 0

    def __init__(
        self,
        kind: str = "itc_then_sdm",
        scale: float = 50.0,
        switch_at: float = 0.5,
        switch_by: int = 0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """switch_at: the share that is enough. switch_by: the batch to switch at in any case, 0 for none."""
        super().__init__()
        self.kind, self.scale, self.switch_at, self.switch_by = kind, scale, switch_at, switch_by
        self._weights = {"itc_loss": 1.0, "sdm_loss": 1.0, **(weights or {})}
        self.register_buffer("positive", torch.zeros(()))
        self.register_buffer("switched", torch.zeros(()))

    def forward(self, image: Tensor, text: Tensor, ids: Tensor, batch: int = 0) -> dict[str, Tensor]:
        """Raw terms of unit rows (B, E) and their persons (B,); batch: how many were trained before."""
        self._look(align.positive_share(image, text, ids, self.scale), batch)
        terms = {}
        if self.kind != "sdm":
            terms["itc_loss"] = align.itc(image, text, self.scale, ids)
        if self.kind != "itc":
            terms["sdm_loss"] = align.sdm(image, text, ids, self.scale)
        return terms

    def weights(self) -> dict[str, float | Tensor]:
        """What the terms weigh now."""
        weights: dict[str, float | Tensor] = dict(self._weights)
        if self.kind == "itc_then_sdm":  # on the device: asking which it is would wait for a GPU
            weights["itc_loss"] = weights["itc_loss"] * (1 - self.switched)
            weights["sdm_loss"] = weights["sdm_loss"] * self.switched
        return weights

    @torch.no_grad()
    def _look(self, positive: Tensor, batch: int) -> None:
        due = self.positive >= self.switch_at  # of the batches before this one
        if self.switch_by and batch >= self.switch_by:
            due = torch.ones_like(due)
        self.switched.copy_(torch.maximum(self.switched, due.to(self.switched)))
        self.positive.lerp_(positive.to(self.positive), 1 - KEPT)


class IdentityHead(nn.Module):
    """Which of P persons: one linear layer for images and texts, so that both must lie where it expects them.

    Zheng et al. 2020 (dual-path CNN), as IRRA has it.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, count)
        nn.init.normal_(self.linear.weight, std=0.001)
        nn.init.zeros_(self.linear.bias)

    def forward(self, image: Tensor, text: Tensor, pids: Tensor) -> Tensor:
        """Scalar: the mean cross-entropy of both. image, text: (B, E), not brought to length one; pids: (B,)."""
        if readable(pids) and not 0 <= int(pids.min()) <= int(pids.max()) < self.linear.out_features:
            raise ValueError(
                f"person {int(pids.max())} is not one of {self.linear.out_features}: set system.num_ids to the number "
                "of training identities"
            )
        both = [F.cross_entropy(self.linear(vectors).float(), pids) for vectors in (image, text)]
        return torch.stack(both).mean()


class MaskedLanguage(nn.Module):
    """Hidden words of a text, read off its image. Jiang and Ye 2023 (IRRA), implicit relation reasoning.

        x = MHA(q = LN(text), k = v = LN(image)), no residual → blocks → LN → linear → QuickGELU → LN → linear (B, L, V)

    Padding is not attended to; in IRRA's code it is.
    """

    def __init__(self, width: int, image_width: int, vocabulary: int, layers: int = 4, heads: int = 8) -> None:
        """width, image_width: D of the text's and of the image's tokens."""
        super().__init__()
        if width % heads:
            raise ValueError(
                f"{heads} heads do not divide the width of the text's tokens, {width}: set system.mlm_heads"
            )
        self.text_norm, self.image_norm = nn.LayerNorm(width), nn.LayerNorm(image_width)
        self.cross = nn.MultiheadAttention(width, heads, kdim=image_width, vdim=image_width, batch_first=True)
        self.blocks = nn.ModuleList([Block(width, heads, layers) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.dense, self.dense_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.words = nn.Linear(width, vocabulary)
        for linear in (self.dense, self.words):
            nn.init.normal_(linear.weight, std=width**-0.5 * 0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, text: Tensor, mask: Tensor | None, image: Tensor) -> Tensor:
        """Tokens of texts (B, L, D) with their mask, and of images (B, N, ·), to logits (B, L, V)."""
        return self._named(self._related(text, mask, image))

    def loss(self, text: Tensor, mask: Tensor | None, image: Tensor, labels: Tensor) -> Tensor:
        """Scalar: the mean cross-entropy over hidden words. labels: (B, L), -100 where nothing is hidden.

        Only hidden words are compared with the vocabulary: of all words, a batch's logits would be a gigabyte.
        """
        hidden = labels != NOT_HIDDEN
        return masked_language_loss(self._named(self._related(text, mask, image)[hidden]), labels[hidden])

    def _related(self, text: Tensor, mask: Tensor | None, image: Tensor) -> Tensor:
        keys = self.image_norm(image)
        x = self.cross(self.text_norm(text), keys, keys, need_weights=False)[0]  # (B, L, D)
        padding = None if mask is None else ~mask
        for block in self.blocks:
            x = block(x, padding)
        return x  # (B, L, D)

    def _named(self, x: Tensor) -> Tensor:
        """(…, D) to (…, V)"""
        return self.words(self.dense_norm(quick_gelu(self.dense(self.norm(x)))))


class Block(nn.Module):
    """A block of a transformer that normalises first, as CLIP's: attention, then an MLP with QuickGELU."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        """depth: how many blocks there are; what each adds starts the smaller."""
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
    """Scalar: the mean cross-entropy over labels (…) that are not -100, of logits (…, V); 0 if there are none."""
    logits = _wide(logits).flatten(0, -2)
    total = F.cross_entropy(logits, labels.flatten(), ignore_index=NOT_HIDDEN, reduction="sum")
    return total / (labels != NOT_HIDDEN).sum().clamp(min=1)


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's approximation, which CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
