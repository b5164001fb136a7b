"""The base classes of all pretrained encoders: freezing, precision, preprocessing, and what is refused.

Nothing here is part of a forward pass that succeeds: `forward` calls `check` to explain an input that does not fit.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor, nn

from sightword.errors import SightwordError, printable
from sightword.towers.preprocess import Preprocess
from sightword.towers.tokenizer import TextTokenizer


class Encoded(NamedTuple):
    """The output of every tower."""

    tokens: Tensor  # (B, N, D)
    pooled: Tensor  # (B, E)
    mask: Tensor | None = None  # (B, N) bool, True where a token is real


class Tower(nn.Module):
    """A pretrained encoder. It computes in the dtype of its weights and returns float32.

    Change its precision with `tower.to(torch.bfloat16)`. A frozen tower has no parameter with requires_grad, but a
    gradient still passes through it to an input that requires one (`inputs_embeds`, a learned prompt).
    """

    name: str  # what it was loaded from
    domain: str = ""  # of what it was trained on: "drawn" if `sightword mini` wrote it, see `storage.domain`
    width: int  # D, of the tokens
    embed_dim: int  # E, of the pooled vector
    frozen = False

    def freeze(self) -> Self:
        """Turn gradients off and stay in eval mode: a parent's `train()` does not turn dropout on again."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode as any module does, but keep a frozen tower in eval mode."""
        return super().train(mode and not self.frozen)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights and of the computation; the output is float32."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights; `encode` moves images and texts to it."""
        return next(self.parameters()).device


class ImageTower(Tower):
    """Tower from images (B, 3, H, W) to `Encoded`: N = h·w tokens, rows first, without class token; no mask."""

    preprocess: Preprocess
    patch: tuple[int, int]  # pixels (height, width) of one token
    architecture: dict[str, object]  # plain data: what its outputs depend on besides weights and preprocessing

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return the grid (h, w) of tokens of an image of `size` (H, W); None: the tower's own size."""
        height, width = size or self.preprocess.size
        return height // self.patch[0], width // self.patch[1]

    def token_types(self, images: Tensor, names: Sequence[str]) -> dict[str, Encoded]:
        """Return several types of tokens from one forward pass; by default only post, those after the last norm."""
        if others := [name for name in names if name != "post"]:
            raise SightwordError(f"{self.name} has post tokens and no {', '.join(others)}")
        return {"post": self(images)}

    def normalise(self, images: Tensor) -> Tensor:
        """Return images (..., 3, H, W) in [-1, 1], as `sightword.data` gives them, in this tower's units; any H, W.

        float32, whatever the images are. Each image tower has its own, so that a batch passes through one file.
        """
        raise NotImplementedError

    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode images after the tower's own preprocessing."""
        if not len(pictures):
            raise SightwordError("no image to encode: give one or more")
        return self(self.preprocess.batch(pictures).to(self.device))

    def check(self, images: Tensor) -> None:
        """Raise SightwordError unless these are images that cut into whole patches."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise SightwordError(f"expected images float (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if any(side % patch or not side for side, patch in zip(images.shape[2:], self.patch, strict=True)):
            size, patch = "×".join(map(str, images.shape[2:])), "×".join(map(str, self.patch))
            raise SightwordError(
                f"images of {size} pixels do not cut into patches of {patch}; {self.name} needs multiples"
            )


class TextTower(Tower):
    """Tower from ids (B, L) and their mask (B, L) to `Encoded`, with that mask."""

    tokenizer: TextTokenizer

    def encode(self, texts: Sequence[str], truncate: bool = False) -> Encoded:
        """Encode texts with the tower's own tokenizer; one that is too long is an error unless `truncate`."""
        ids, mask = self.tokenizer(texts, truncate=truncate)
        return self(ids.to(self.device), mask.to(self.device))

    def untrained(self) -> frozenset[int]:
        """Return the ids that no text of the encoder's training had, where its weights tell."""
        return frozenset()

    def unknown_words(self, texts: str | Iterable[str]) -> tuple[str, ...]:
        """Return the words of texts that the encoder cannot know; see `TextTokenizer.unknown_words`."""
        return self.tokenizer.unknown_words(texts, self.untrained())

    def check_words(self, texts: str | Iterable[str]) -> tuple[str, ...]:
        """Return the unknown words of texts. Raises SightwordError for a text of which no word is known."""
        several, untrained = [texts] if isinstance(texts, str) else list(texts), self.untrained()
        for text in several:
            if self.tokenizer.is_unknown(text, untrained):
                raise SightwordError(
                    f"no word of {printable(text)!r} is in the vocabulary of {self.name}. Use words that it was "
                    "trained on, in their language"
                )
        return self.tokenizer.unknown_words(several, untrained)

    def vocabulary(self) -> int:
        """Return the number of ids, which count from 0."""
        return self.tokenizer.vocab_size

    def check(self, ids: Tensor, mask: Tensor | None) -> None:
        """Raise SightwordError unless these are ids, one or more and not too many, and their mask.

        The range of ids is checked on the CPU only, as reading values of a GPU tensor would wait for the GPU.
        """
        if ids.ndim != 2 or ids.is_floating_point():
            raise SightwordError(f"expected ids, integers (B, L), got {ids.dtype} {tuple(ids.shape)}")
        if mask is not None and mask.shape != ids.shape:
            raise SightwordError(f"the mask is {tuple(mask.shape)}, the ids are {tuple(ids.shape)}")
        if not ids.numel():
            raise SightwordError(f"ids are {tuple(ids.shape)}: give one text or more, each of one token or more")
        if readable(ids) and not 0 <= (worst := int(ids.max() if ids.min() >= 0 else ids.min())) < self.vocabulary():
            raise SightwordError(f"id {worst} is not one of the {self.vocabulary()} tokens of {self.name}")
        if ids.shape[1] > self.tokenizer.length:
            raise SightwordError(
                f"texts of {ids.shape[1]} tokens; the context of {self.name} is {self.tokenizer.length}"
            )


def readable(tensor: Tensor) -> bool:
    """Return whether values can be read without cost: on the CPU and outside a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
