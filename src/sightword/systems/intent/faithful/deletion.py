"""Does a logit fall by what a word is said to add, if the word's pixels are removed? Slope and rank correlation.

The pixels of the patches where a word was found are replaced by the image's mean colour, and the image goes through the
encoder again. As a control, as many patches at random places are removed.

Legend: N patches, h·w; T terms; C intents.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.faithful.reading import Words, tokens_of

WORDS = 3  # of the likeliest intent of an image, those that add most to it
LEAST = 3  # pairs below which no slope is computed


class Removed(NamedTuple):
    """One word removed from one image."""

    image: str
    intent: str
    word: str
    stream: str
    patches: int
    contribution: float  # what the word, and the pairs with it, add to the logit
    fall: float  # of the logit
    random_fall: float  # of the logit, if as many patches at random places are removed


class Deletion(NamedTuple):
    """All removals together."""

    removed: list[Removed]
    slope: float | None  # of the fall against the contribution, least squares
    rank_correlation: float | None  # Spearman's
    mean_contribution: float | None
    mean_fall: float | None
    mean_random_fall: float | None


@torch.no_grad()
def delete_words(words: Words, images: Sequence[tuple[str, Callable[[], Image.Image]]], seed: int) -> Deletion:
    """Remove words from images. images: name, and a function that opens it as RGB."""
    generator, removed = torch.Generator().manual_seed(seed), list[Removed]()
    for name, opened in images:
        removed += _of_image(words, name, opened(), generator)
    return summed_up(removed)


def by_stream(removed: Sequence[Removed]) -> dict[str, list[Removed]]:
    """Return stream → the removals of its words."""
    found: dict[str, list[Removed]] = {}
    for each in removed:
        found.setdefault(each.stream, []).append(each)
    return found


def summed_up(removed: list[Removed]) -> Deletion:
    """Return the statistics of removals."""
    if len(removed) < LEAST:
        return Deletion(removed, None, None, None, None, None)
    contribution, fall, random = (
        torch.tensor([getattr(each, name) for each in removed], dtype=torch.float64)
        for name in ("contribution", "fall", "random_fall")
    )
    means = (float(each.mean()) for each in (contribution, fall, random))
    return Deletion(removed, _slope(contribution, fall), _slope(_ranks(contribution), _ranks(fall), True), *means)


def _of_image(words: Words, name: str, image: Image.Image, generator: torch.Generator) -> list[Removed]:
    device = words.task.threshold.device
    tower = words.task.tower.on(device)
    pixels = tower.preprocess.signed()(image)[None].to(device)  # (1, 3, H, W) in [-1, 1]
    weight, bias = words.head()
    tokens, pooled = _encoded(words, pixels)
    strength = words.strength(tokens, pooled)[0].cpu()
    logits = weight @ strength + bias
    intent = int(logits.argmax())
    adds = words.containing() @ (weight[intent] * strength)  # (K,)
    h, w = tower.grid((pixels.shape[2], pixels.shape[3]))
    found = []
    for word in adds.topk(min(WORDS, len(adds))).indices.tolist():
        where = words.found(tokens, pooled, word)[0].cpu()
        count = int(where.sum())
        if float(adds[word]) <= 0 or not 0 < count < h * w:
            continue
        elsewhere = torch.zeros(h * w, dtype=torch.bool)
        elsewhere[torch.randperm(h * w, generator=generator)[:count]] = True
        both = torch.cat([_without(pixels, mask.view(h, w)) for mask in (where, elsewhere)])
        after = words.strength(*_encoded(words, both)).cpu() @ weight[intent] + bias[intent]  # (2,)
        fall, random = (float(logits[intent] - value) for value in after)
        stream, text = words.words[word]
        found.append(Removed(name, words.task.classes[intent], text, stream, count, float(adds[word]), fall, random))
    return found


def _encoded(words: Words, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    batch = IntentBatch(torch.zeros(len(pixels), len(words.task.classes)), [""] * len(pixels), pixels)
    tokens, pooled = tokens_of(words.task, batch)
    return dict(tokens), pooled


def _without(pixels: Tensor, where: Tensor) -> Tensor:
    """Return pixels (1, 3, H, W) with the patches of a mask (h, w) in the image's mean colour."""
    size = (pixels.shape[2], pixels.shape[3])
    mask = (
        torch.nn.functional.interpolate(where[None, None].float(), size=size, mode="nearest").bool().to(pixels.device)
    )
    return torch.where(mask, pixels.mean((2, 3), keepdim=True), pixels)


def _slope(x: Tensor, y: Tensor, scaled: bool = False) -> float | None:
    """Return the slope of y on x, or with `scaled` their correlation; None if x does not vary."""
    x, y = x - x.mean(), y - y.mean()
    below = float(x.square().sum())
    below = (below * float(y.square().sum())) ** 0.5 if scaled else below
    return float((x * y).sum()) / below if below > 0 else None


def _ranks(values: Tensor) -> Tensor:
    """Return ranks; equal values share the mean of theirs."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[inverse]
