"""Intent logits as exact sums over words that are present: calibrated presence, a linear head, pairs of words.

    pooled (B, D) → cosines with words → z → presence p (B, K) → terms p^s, and products of pairs (B, T) → head → (B, C)
    tokens (B, N, D) → cosines → z (B, N, K) → softmax over patches a (B, N, K): where each word is

A histogram of patches tells how large a dog is; presence tells whether there is one. The sum stays exact:

    logit_c = b_c + Σ_w v_cw·t_w = b_c + Σ_w Σ_n v_cw·t_w·a_wn        t_w = p_w^s, Σ_n a_wn = 1

Legend: B batch; N patches; D dimension; K words of a stream, or of all; P pairs; T = K + P terms; C classes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sightword.ops.nearest import unit
from sightword.systems.intent.calibration import POOLED, POOLED_SHARE, UNLABELLED_Z, Calibration, Z

PAIRS = "pairs"  # the name under which pairs stand beside the streams


class Pair(NamedTuple):
    """Two words of different streams, by their columns among all words."""

    first: int
    second: int
    name: str


class StreamWords(nn.Module):
    """The words of a stream with their calibration, all frozen."""

    vectors: Tensor  # (K, D), of length one
    mean: Tensor  # (K,) of cosines with patch tokens, and so on
    std: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor
    slope: Tensor
    middle: Tensor

    def __init__(self, vectors: Tensor, calibration: Calibration, stream: str, token_type: str) -> None:
        super().__init__()
        patch, pooled = calibration.of(stream, token_type), calibration.of(stream, POOLED)
        curve = calibration.presence(stream)
        self.labelled = calibration.labelled
        values = {"vectors": vectors.float(), "mean": patch.mean, "std": patch.std}
        values |= {"pooled_mean": pooled.mean, "pooled_std": pooled.std, "slope": curve.slope, "middle": curve.middle}
        for name, value in values.items():
            self.register_buffer(name, value.detach().clone())

    def __len__(self) -> int:
        return len(self.vectors)

    def z(self, tokens: Tensor) -> Tensor:
        """Return z (B, N, K) of patch tokens (B, N, D)."""
        return (unit(tokens.float()) @ self.vectors.T - self.mean) / self.std

    def pooled_z(self, pooled: Tensor) -> Tensor:
        """Return z (B, K) of pooled vectors (B, D)."""
        return (unit(pooled.float()) @ self.vectors.T - self.pooled_mean) / self.pooled_std

    def presence(self, pooled: Tensor) -> Tensor:
        """Return the probability (B, K) in [0, 1] that an image shows each word. pooled: (B, D)."""
        return (self.slope * (self.pooled_z(pooled) - self.middle)).sigmoid()

    def named(self, tokens: Tensor, pooled: Tensor, gate: bool = True) -> Tensor:
        """Return the word of each patch (B, N) int64; K, the number of words, is nothing.

        gate: words of presence above 0.5 take part, and the best is named where its z is above 1.5. Otherwise, and if
        presence was not calibrated with labels, the best z + 0.5·z_pooled, where it is above 2.
        """
        z, whole = self.z(tokens), self.pooled_z(pooled)
        if gate and self.labelled:
            here = (whole > self.middle)[:, None]  # (B, 1, K)
            best, word = z.masked_fill(~here, -torch.inf).max(-1)
            return word.masked_fill(~(best > Z), len(self))
        best, word = (z + POOLED_SHARE * whole[:, None]).max(-1)
        return word.masked_fill(~(best > UNLABELLED_Z), len(self))


def stream_words(
    vectors: Mapping[str, Tensor], calibration: Calibration, token_types: Mapping[str, str]
) -> dict[str, StreamWords]:
    """Return stream → its words. vectors: stream → (K, D); token_types: stream → the type of its patch tokens."""
    return {name: StreamWords(own, calibration, name, token_types[name]) for name, own in vectors.items()}


class PresenceModel(nn.Module):
    """Words that are present, and pairs of them, through a linear head.

    Terms are not standardised: a word that hardly ever fires has a tiny deviation, and would move a logit by hundreds.
    """

    first: Tensor  # (P,) int64, columns of words
    second: Tensor  # (P,)

    def __init__(
        self,
        words: Mapping[str, StreamWords],
        num_classes: int,
        pairs: Sequence[Pair] = (),
        hard: bool = False,
        sharpness: float = 1.0,
        temperature: float = 0.25,
    ) -> None:
        """words: stream → its words. hard: presence is 0 or 1, by p > 0.5; otherwise p^sharpness: above 1, doubtful
        words count less. temperature: of the softmax over patches, in units of z.
        """
        super().__init__()
        self.words = nn.ModuleDict(words)
        self.hard, self.sharpness, self.temperature = hard, sharpness, temperature
        self.register_buffer("first", torch.tensor([pair.first for pair in pairs], dtype=torch.int64))
        self.register_buffer("second", torch.tensor([pair.second for pair in pairs], dtype=torch.int64))
        self.head = nn.Linear(sum(map(len, words.values())), num_classes)
        self.pair_head = nn.Linear(len(pairs), num_classes, bias=False) if pairs else None
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if self.pair_head is not None:
            nn.init.zeros_(self.pair_head.weight)

    @property
    def streams(self) -> list[str]:
        return list(self.words)

    @property
    def sizes(self) -> list[int]:
        """K of each stream."""
        return [len(self.of(stream)) for stream in self.streams]

    def of(self, stream: str) -> StreamWords:
        return cast(StreamWords, self.words[stream])

    def presence(self, pooled: Tensor) -> Tensor:
        """Return the calibrated probability (B, K) of the words of all streams, stream by stream. pooled: (B, D)."""
        return torch.cat([self.of(stream).presence(pooled) for stream in self.streams], 1)

    def strength(self, presence: Tensor) -> Tensor:
        """Return what a word counts (B, K) in [0, 1]: 0 or 1, or p^sharpness. presence: (B, K)."""
        return (presence > 0.5).to(presence) if self.hard else presence**self.sharpness

    def terms(self, presence: Tensor) -> Tensor:
        """Return the terms (B, T) of presence (B, K), which may have been corrected by a person: words, then pairs."""
        strength = self.strength(presence)
        return torch.cat([strength, strength[:, self.first] * strength[:, self.second]], 1)

    def weight(self) -> Tensor:
        """Return (C, T): what a term of strength 1 adds to each logit."""
        return self.head.weight if self.pair_head is None else torch.cat([self.head.weight, self.pair_head.weight], 1)

    def bias(self) -> Tensor:
        """Return (C,): the logits without any word."""
        return self.head.bias

    def from_presence(self, presence: Tensor) -> Tensor:
        """Return logits (B, C) of presence (B, K)."""
        return self.terms(presence) @ self.weight().T + self.head.bias

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits (B, C) of pooled vectors (B, D)."""
        return self.from_presence(self.presence(pooled))

    # ------------------------------------------------------------------------------------------------------- inside

    def contributions(self, presence: Tensor) -> Tensor:
        """Return (B, T, C): what each term adds to each logit. With `bias` they sum to the logits, exactly."""
        return self.terms(presence)[..., None] * self.weight().T

    def attention(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return where each term is (B, N, T), of sum 1 over patches. tokens: stream → (B, N, D).

        A pair is where its two words are: the mean of both maps.
        """
        maps = [(self.of(name).z(tokens[name]) / self.temperature).softmax(1) for name in self.streams]
        words = torch.cat(maps, 2)  # (B, N, K)
        return torch.cat([words, (words[..., self.first] + words[..., self.second]) / 2], 2)

    def attribute(self, tokens: Mapping[str, Tensor], pooled: Tensor) -> dict[str, Tensor]:
        """Return stream → (B, N, C), and "pairs": what each patch adds to each logit. With `bias` they sum to them."""
        where, added = self.attention(tokens), self.contributions(self.presence(pooled))
        names = [*self.streams, *([PAIRS] if self.pair_head is not None else [])]
        sizes = [*self.sizes, *([len(self.first)] if self.pair_head is not None else [])]
        parts = zip(names, where.split(sizes, 2), added.split(sizes, 1), strict=True)
        return {name: share @ each for name, share, each in parts}

    def named(self, tokens: Mapping[str, Tensor], pooled: Tensor, gate: bool = True) -> dict[str, Tensor]:
        """Return stream → the word of each patch (B, N); K of the stream is nothing."""
        return {name: self.of(name).named(tokens[name], pooled, gate) for name in self.streams}

    def l1(self) -> Tensor:
        """Return Σ |weight| over terms and classes: small ones go to 0, so that fewer words speak."""
        return self.weight().abs().sum()
