"""Pairs of words as terms of their own: a dog that is at a beach says more than a dog and a beach.

In a config a pair is written "coco:dog & places:beach". At full size there are more pairs than images, so only the best
on the training images are taken.

Legend: M images; K words of all streams; C classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.systems.intent.presence import Pair

BETWEEN, PLACES = " & ", "places"
LEAST = 0.5  # expected number of training images with both words, below which a pair is not taken
RIDGE = 1e-3  # times the number of images: of the words' own least-squares fit


def named_pairs(written: Sequence[str], words: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Return pairs as columns. words: stream → its words. Raises SightwordError for one that is not of these words."""
    columns = {f"{stream}:{word}": (stream, word) for stream, own in words.items() for word in own}
    number = {name: column for column, name in enumerate(columns)}
    found = []
    for each in written:
        parts = [part.strip() for part in each.split(BETWEEN.strip())]
        if len(parts) != 2 or not set(parts) <= number.keys():
            example = BETWEEN.join(f"{stream}:{own[0]}" for stream, own in list(words.items())[:2])
            raise SightwordError(
                f"system.pair_words has {each!r}, which is no pair of words of the anchors. Write pairs as {example!r}"
            )
        one, other = parts
        found.append(Pair(number[one], number[other], pair_name(columns[one], columns[other])))
    return found


def pair_name(one: tuple[str, str], other: tuple[str, str]) -> str:
    """Return the name of a pair of (stream, word): "dog and beach". A place is the second."""
    if one[0] == PLACES:
        one, other = other, one
    return f"{one[1]} and {other[1]}"


def best_pairs(strength: Tensor, targets: Tensor, words: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """Return the `count` pairs of words of different streams that explain most of what single words leave, as written.

    strength: (M, K) in [0, 1], what each word counts in the training images; targets: (M, C). The score of a pair is
    the squared covariance of its product with the residuals of a linear fit on single words, summed over classes, over
    the variance of the product.
    """
    x = torch.cat([strength, torch.ones(len(strength), 1)], 1).double()
    y = targets.double()
    ridge = RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0
    residual = y - x @ torch.linalg.solve(x.T @ x + ridge, x.T @ y)  # (M, C)
    streams = [stream for stream, own in words.items() for _ in own]
    names = [f"{stream}:{word}" for stream, own in words.items() for word in own]
    scores: list[tuple[float, str]] = []
    for first in range(len(names) - 1):
        later = [k for k in range(first + 1, len(names)) if streams[k] != streams[first]]
        if not later:
            continue
        product = x[:, first, None] * x[:, later]  # (M, L)
        spread = (product - product.mean(0)).square().sum(0)
        gain = (residual.T @ product).square().sum(0) / spread.clamp_min(1e-9)
        enough = (product.sum(0) >= LEAST).tolist()
        found = zip(later, gain.tolist(), enough, strict=True)
        scores += [(value, f"{names[first]}{BETWEEN}{names[k]}") for k, value, taken in found if taken]
    scores.sort(key=lambda each: (-each[0], each[1]))
    return [name for _, name in scores[:count]]
