"""What a person's corrections do: macro F1 after the least certain words are replaced by the truth (Koh et al. 2020).

Legend: R images whose words are known; K words; T terms; C intents.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.systems.intent.faithful.head import Head, Labelled, fit_head, macro_f1
from sightword.systems.intent.faithful.reading import Reading, Words
from sightword.systems.intent.faithful.word import Known

COUNTS = (0, 1, 2, 4, -1)  # words replaced; −1 is all


class Point(NamedTuple):
    """Macro F1 in [0, 1] after so many words of each image were corrected."""

    words: int  # −1: all
    macro_f1: float


def corrected_presence(present: Tensor, known: Known, count: int) -> Tensor:
    """Return presence (R, K) with the `count` least certain words of each image replaced by the truth; −1: all.

    Words that the truth does not speak of stay as they are.
    """
    doubt = (present - 0.5).abs().masked_fill(~known.spoken, torch.inf)
    most = int(known.spoken.sum())
    order = doubt.argsort(1)[:, : most if count < 0 else min(count, most)]
    return present.scatter(1, order, known.shown.float().gather(1, order))


def intervention(words: Words, reading: Reading, known: Known, threshold: float) -> list[Point]:
    """Return the curve of the model's own head. threshold: the one of the run, whatever is corrected."""
    weight, bias = words.head()
    before, strength = reading.present[known.rows], reading.strength[known.rows]
    targets = reading.targets[known.rows]
    points = []
    for count in COUNTS:
        after = corrected_presence(before, known, count)
        logits = words.corrected(strength, before, after) @ weight.T + bias if count else strength @ weight.T + bias
        points.append(Point(count, macro_f1(logits, targets, threshold)))
    return points


def independent(words: Words, splits: Sequence[tuple[Reading, Known]]) -> list[Point] | None:
    """Return the curve of a head that was learned on true words, 0 or 1, of the training images.

    splits: of train, val and the measured split. None unless the truth speaks of half of the training images or more.
    Its threshold is chosen on the words that the model says for validation images, as at k = 0.
    """
    (train, own), (val, own_val), (test, own_test) = splits
    if len(own.rows) < len(train.names) / 2 or not len(own_val.rows) or not len(own_test.rows):
        return None
    spoken = own.spoken
    x = _with_pairs(words, (own.shown & spoken).float(), spoken)
    on_val = _with_pairs(words, _said(val.present[own_val.rows]), spoken)
    head = fit_head(Labelled(x, train.targets[own.rows]), Labelled(on_val, val.targets[own_val.rows]))
    return [_point(words, head, test, own_test, spoken, count) for count in COUNTS]


def _point(words: Words, head: Head, test: Reading, known: Known, spoken: Tensor, count: int) -> Point:
    x = _with_pairs(words, _said(corrected_presence(test.present[known.rows], known, count)), spoken)
    return Point(count, head.score(Labelled(x, test.targets[known.rows])))


def _said(present: Tensor) -> Tensor:
    return (present > 0.5).float()


def _with_pairs(words: Words, shown: Tensor, spoken: Tensor) -> Tensor:
    """Return (R, T'): the words that the truth speaks of, then the pairs of a model that reads pairs."""
    pairs = [own for own in words.members if len(own) == 2 and bool(spoken[list(own)].all())]
    products = [shown[:, one] * shown[:, other] for one, other in pairs]
    return torch.cat([shown[:, spoken], torch.stack(products, 1)], 1) if products else shown[:, spoken]
