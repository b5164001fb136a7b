"""Codebooks whose patches may be named nothing: the area reading, with the calibrated rule instead of the nearest code.

Legend: B batch; N patches; D dimension; K words of a stream, whose number is the id of nothing.
"""

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.systems.intent.model import MultiStream, Read
from sightword.systems.intent.presence import StreamWords


class NothingMultiStream(MultiStream):
    """A `MultiStream` of one code per word, where a patch without any word has the id K and adds nothing."""

    def __init__(
        self,
        words: Mapping[str, StreamWords],
        num_classes: int = 28,
        fusion: str = "sum",
        center: bool = True,
        standardise: bool = True,
        gate: bool = True,
    ) -> None:
        """words: stream → its words. gate: only words that are present take part, see `StreamWords.named`."""
        vectors = {name: own.vectors for name, own in words.items()}
        super().__init__(vectors, num_classes, fusion, center, standardise)
        self.words, self.gated = nn.ModuleDict(words), gate

    def forward(self, tokens: Mapping[str, Tensor], pooled: Tensor | None = None) -> Read:
        """tokens: stream → (B, N, D); pooled: (B, D)."""
        if pooled is None:
            raise SightwordError("a model with system.nothing needs the pooled vectors, too")
        ids = self.named(tokens, pooled)
        means = {name: self.pool(name, self.count(name, ids[name])) for name in self.streams}
        logits, gates, fused = self.classify(means)
        return Read(logits, ids, gates, fused, logits.new_zeros(()))

    def named(self, tokens: Mapping[str, Tensor], pooled: Tensor) -> dict[str, Tensor]:
        """Return stream → the word of each patch (B, N); K is nothing."""
        return {name: self.of(name).named(tokens[name], pooled, self.gated) for name in self.streams}

    def of(self, stream: str) -> StreamWords:
        return cast(StreamWords, self.words[stream])

    def size(self, stream: str) -> int:
        return super().size(stream) + 1

    def values(self, stream: str) -> Tensor:
        """Return what each word adds to the sum (K + 1, D); the last row, of nothing, is zero."""
        return F.pad(super().values(stream), (0, 0, 0, 1))
