"""What words that mean nothing reach: random unit vectors as words, and the words of another stream.

Each control goes the way of the model's own words (areas of nearest vectors, or presence), and gets a head of its own,
fitted like that of the own words. The names of shuffled words are judged in `word.py`, as a head does not read names.

Legend: B images; N patches; K words; D dimension.
"""

import torch
from torch import Tensor

from sightword.ops.nearest import unit
from sightword.systems.intent.calibration import MIDDLE, SLOPE
from sightword.systems.intent.faithful.reading import AreaWords, PresentWords, Probe, Tokens, Words

DRAWS = 3  # of random vectors


class AreaProbe(Probe):
    """Areas (B, K) of the nearest of other vectors, stream by stream."""

    def __init__(self, name: str, vectors: dict[str, Tensor]) -> None:
        self.name, self.vectors = name, vectors

    def __call__(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        parts = []
        for stream, own in self.vectors.items():
            nearest = (unit(tokens[stream]) @ own.to(pooled).T).argmax(2)  # (B, N)
            counts = torch.zeros(len(nearest), len(own), device=nearest.device)
            parts.append(counts.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=counts.dtype)))
        return torch.cat(parts, 1) / next(iter(tokens.values())).shape[1]


class CosineProbe(Probe):
    """Cosines (B, K) of other vectors with the pooled vector; `presence_like` makes presence of them."""

    def __init__(self, name: str, vectors: Tensor) -> None:
        self.name, self.vectors = name, vectors

    def __call__(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        return unit(pooled) @ self.vectors.to(pooled).T


def presence_like(cosines: Tensor, train: Tensor) -> Tensor:
    """Return presence (M, K) of cosines (M, K) by the curve of words without labels. train: cosines of training."""
    return (SLOPE * ((cosines - train.mean(0)) / train.std(0).clamp_min(1e-6) - MIDDLE)).sigmoid()


def probes_of(words: Words, seed: int) -> list[Probe]:
    """Return the controls that a kind of model has: random_0, random_1, …, and other_stream for a model of areas."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Probe] = []
    vectors = word_vectors(words)
    dim = next(iter(vectors.values())).shape[1]
    for draw in range(DRAWS):
        random = {name: unit(torch.randn(len(own), dim, generator=generator)) for name, own in vectors.items()}
        if isinstance(words, PresentWords):
            found.append(CosineProbe(f"random_{draw}", torch.cat(list(random.values()))))
        else:
            found.append(AreaProbe(f"random_{draw}", random))
    if isinstance(words, AreaWords) and len(vectors) > 1:
        names = list(vectors)
        rotated = {name: vectors[other] for name, other in zip(names, [*names[1:], names[0]], strict=True)}
        found.append(AreaProbe("other_stream", rotated))
    return found


def word_vectors(words: Words) -> dict[str, Tensor]:
    """Return stream → one vector for each of its words (K, D)."""
    if isinstance(words, PresentWords):
        return {name: words.model.of(name).vectors.cpu() for name in words.streams}
    assert isinstance(words, AreaWords)
    found = {}
    for stream in words.streams:
        codes, column = words.model.book(stream).codes().detach().cpu(), words.column[stream][:-1]
        found[stream] = unit(torch.stack([codes[column == number].mean(0) for number in words.of(stream)]))
    return found


def by_word(words: Words, strength: Tensor) -> Tensor:
    """Return (M, K): the strengths (M, T) of a word's own terms together, without pairs."""
    single = torch.tensor([len(own) == 1 for own in words.members])
    return strength[:, single] @ words.containing()[:, single].T
