"""The trust protocol: six questions to a trained intent model whose reasons are words.

1 words          are the words right?                               needs the truth
2 absent         how much do words add that the image does not show? needs the truth
3 intervention   does a person's correction help?                   needs the truth
4 controls       what do words reach that mean nothing?
5 deletion       does a logit fall by what a word is said to add?   needs the images
6 size           how many words speak for an intent, and how much of what the encoder knows is in them?

Nothing is trained on or chosen on the measured split: heads are fitted on train, thresholds and steps chosen on val.

Legend: M images; K words; T terms; C intents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sightword.errors import SightwordError
from sightword.metrics.multilabel import f1
from sightword.systems.intent.concept import plain
from sightword.systems.intent.evaluate import on_grid
from sightword.systems.intent.faithful.control import by_word, presence_like, probes_of
from sightword.systems.intent.faithful.deletion import Deletion, delete_words
from sightword.systems.intent.faithful.head import Labelled, fit_head, macro_f1
from sightword.systems.intent.faithful.intervention import Point, independent, intervention
from sightword.systems.intent.faithful.reading import PresentWords, Reading, Words
from sightword.systems.intent.faithful.truth import Maps, Truth
from sightword.systems.intent.faithful.word import (
    Counted,
    Known,
    Patches,
    absent_share,
    image_words,
    known_of,
    patch_words,
    shuffled_orders,
    with_maps,
)

HIDDEN = 256  # of the network that reads the encoder's features without words
SPEAKS = 0.01  # of a logit at full strength: a smaller weight counts as zero
SPLITS = ("train", "val")


class Given(NamedTuple):
    """What a protocol is made of."""

    words: Words
    readings: Mapping[str, Reading]  # train, val and the measured split
    split: str
    files: Mapping[str, Path]  # id of an image → its file, of all splits; it may not exist
    truth: Truth | None = None
    maps: Maps | None = None
    deletions: int = 100  # images that words are removed from
    seed: int = 0


@dataclass(frozen=True)
class Right:
    """Questions 1 to 3, with the truth."""

    images: int  # whose words are known
    by_image: Mapping[str, Counted]  # stream → precision and recall
    by_patch: Mapping[str, Patches]
    absent: Mapping[str, float | None]  # stream, pairs, all → share of contributions
    shuffled: Mapping[str, float | None]  # the same figures with the names of words shuffled: see `_shuffled`
    curve: Sequence[Point]
    independent: Sequence[Point] | None
    mapped: bool  # whether there are label maps


class Control(NamedTuple):
    """Macro F1 in [0, 1] of a head that was fitted on one kind of features."""

    name: str
    macro_f1: float
    features: int


@dataclass(frozen=True)
class Report:
    """The answers."""

    split: str
    images: int
    classes: tuple[str, ...]
    kind: str  # how words count in this model
    certainty: str
    macro_f1: float  # of the run, at its threshold
    sum_error: float  # the largest difference of a logit and its sum
    constant_f1: float  # of saying yes to everything
    right: Right | None
    truth: str  # how it was read, or why there is none
    controls: Sequence[Control]
    deletion: Deletion | None
    terms: int  # T
    speaking: float  # terms an intent whose weight is not zero, the mean over intents
    completeness: Mapping[str, float | None]  # against features without words: linear, network
    examples: Sequence["Example"]


class Example(NamedTuple):
    """An image for a person to look at."""

    file: Path
    words: Sequence[tuple[str, bool | None]]  # that the model says, the surest first; whether the image shows it
    missed: Sequence[str]  # that the image shows and the model does not say
    intents: Sequence[tuple[str, float, bool]]  # the likeliest, score, whether it is a label


def judge(given: Given) -> Report:
    """Return the answers. Raises SightwordError if the run has no threshold, or the truth is of other images."""
    words, test = given.words, given.readings[given.split]
    threshold = words.task.threshold
    if bool(threshold.isnan()):
        raise SightwordError("the run has no threshold yet: no validation has chosen one. Train it further")
    chosen = on_grid(float(threshold))
    words.learn(given.readings["val"].strength, given.readings["val"].present)
    weight, bias = words.head()
    own = macro_f1(test.logits, test.targets, chosen)
    right = None if given.truth is None else _right(given, given.truth, chosen)
    constant = float(f1(torch.ones_like(test.targets), test.targets))
    controls = _controls(given)
    return Report(
        given.split,
        len(test.names),
        words.task.classes,
        words.kind,
        words.certainty,
        own,
        float((test.strength @ weight.T + bias - test.logits).abs().max()),
        constant,
        right,
        _told(given),
        controls,
        _deletion(given),
        len(words.members),
        float((weight.abs() > SPEAKS).sum(1).float().mean()),
        _completeness(own, constant, controls),
        _examples(given),
    )


def _told(given: Given) -> str:
    """Return how the truth was read, and which words it and the model do not share."""
    if given.truth is None:
        return "none was given: pass truth=, the words that some images really show"
    own = {plain(word.text): word.text for word in given.words.words}
    unused = sorted(given.truth.names - own.keys())
    unknown = [text for name, text in own.items() if name not in given.truth.names]
    lines = [given.truth.how, "a word that is not listed for an image is absent from it"]
    if unused:
        lines.append(f"{len(unused)} of its words are none of the model's: {_some(unused)}")
    if unknown:
        lines.append(f"{len(unknown)} of the model's words are never listed and not judged: {_some(unknown)}")
    return "; ".join(lines)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _known(given: Given, split: str, truth: Truth) -> Known:
    reading = given.readings[split]
    return known_of(given.words, reading, truth, [given.files[name].stem for name in reading.names])


def _right(given: Given, truth: Truth, threshold: float) -> Right:
    words, test = given.words, given.readings[given.split]
    known = _known(given, given.split, truth)
    if not len(known.rows):
        some = ", ".join(list(truth.shown)[:3])
        raise SightwordError(
            f"the truth speaks of none of the {len(test.names)} images of {given.split}; it has {some}, …, they are "
            f"{given.files[test.names[0]].stem}, …: names of files without suffix"
        )
    if not bool(known.spoken.any()):
        raise SightwordError(
            f"the truth speaks of none of the model's words. It has {', '.join(sorted(truth.names)[:5])}"
        )
    if given.maps is not None:
        tower = words.task.tower.on(words.task.threshold.device)
        paths = [given.files[test.names[row]] for row in known.rows.tolist()]
        covered = [given.maps.covered(path, tower.preprocess, tower.grid()) for path in paths]
        known = with_maps(known, words, covered, given.maps.words)
    others = [(given.readings[split], _known(given, split, truth)) for split in SPLITS]
    return Right(
        len(known.rows),
        image_words(words, test, known),
        patch_words(words, test, known),
        absent_share(words, test, known),
        _shuffled(given, known),
        intervention(words, test, known, threshold),
        independent(words, [*others, (test, known)]),
        given.maps is not None,
    )


def _shuffled(given: Given, known: Known) -> dict[str, float | None]:
    """Return precision per image and patch, and the share of absent words, with shuffled names; means over shuffles."""
    words, test = given.words, given.readings[given.split]
    rows: dict[str, list[float]] = {}
    for order in shuffled_orders(words, given.seed):
        mixed = known.shuffled(order)
        found = {f"image/{name}": each.precision for name, each in image_words(words, test, mixed).items()}
        found |= {f"patch/{name}": each.in_image for name, each in patch_words(words, test, mixed).items()}
        found["absent"] = absent_share(words, test, mixed)["all"]
        for name, value in found.items():
            if value is not None:
                rows.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in rows.items()}


def _controls(given: Given) -> list[Control]:
    """Return heads of own words, random vectors (the mean of three), another stream, and features without words."""
    words, readings = given.words, given.readings
    found = [_fitted(given, "own words", {name: by_word(words, each.strength) for name, each in readings.items()})]
    if any(len(own) == 2 for own in words.members):
        found.append(_fitted(given, "own words and pairs", {name: each.strength for name, each in readings.items()}))
    drawn: list[Control] = []
    for probe in probes_of(words, given.seed):
        features = {name: each.extra[probe.name] for name, each in readings.items()}
        if isinstance(words, PresentWords):
            train = features["train"]
            features = {name: presence_like(own, train) for name, own in features.items()}
        control = _fitted(given, probe.name, features)
        (drawn if probe.name.startswith("random") else found).append(control)
    mean = sum(each.macro_f1 for each in drawn) / len(drawn)
    found.insert(1, Control("random vectors", mean, drawn[0].features))
    without = {name: each.features for name, each in readings.items()}
    found.append(_fitted(given, "no words, linear", without))
    found.append(_fitted(given, "no words, network", without, HIDDEN))
    return found


def _fitted(given: Given, name: str, features: Mapping[str, Tensor], hidden: int = 0) -> Control:
    sets = {split: Labelled(features[split], given.readings[split].targets) for split in features}
    head = fit_head(sets["train"], sets["val"], hidden, given.seed)
    return Control(name, head.score(sets[given.split]), features[given.split].shape[1])


def _completeness(own: float, constant: float, controls: Sequence[Control]) -> dict[str, float | None]:
    """Return (F1 of words − F1 of a constant) / (F1 of features − F1 of a constant) (Yeh et al. 2020)."""
    found: dict[str, float | None] = {}
    for control in controls:
        if control.name.startswith("no words"):
            gain = control.macro_f1 - constant
            found[control.name.removeprefix("no words, ")] = (own - constant) / gain if gain > 0 else None
    return found


def _deletion(given: Given) -> Deletion | None:
    """Return None if no image exists."""
    names = [name for name in given.readings[given.split].names if given.files[name].is_file()]
    step = max(1, len(names) // max(1, given.deletions))
    chosen = names[::step][: given.deletions]
    if not chosen:
        return None
    return delete_words(
        given.words, [(given.files[name].name, _opener(given.files[name])) for name in chosen], given.seed
    )


def _opener(file: Path) -> Callable[[], Image.Image]:
    from sightword.data.image import read_image

    return lambda: read_image(file)


EXAMPLES = 12


def _examples(given: Given) -> list[Example]:
    """Return images for a person to look at, evenly spaced: their words, and their likeliest intents."""
    test = given.readings[given.split]
    rows = [row for row, name in enumerate(test.names) if given.files[name].is_file()]
    rows = rows[:: max(1, len(rows) // EXAMPLES)][:EXAMPLES]
    known = None if given.truth is None else _known(given, given.split, given.truth)
    return [_example(given, row, known) for row in rows]


def _example(given: Given, row: int, known: Known | None) -> Example:
    words, test = given.words, given.readings[given.split]
    shown: dict[int, bool] = {}  # of the words that the truth speaks of
    if known is not None and row in (rows := known.rows.tolist()):
        own = known.shown[rows.index(row)].tolist()
        shown = {word: own[word] for word in known.spoken.nonzero().flatten().tolist()}
    sure = test.present[row]
    said = sorted((sure > 0.5).nonzero().flatten().tolist(), key=lambda word: -float(sure[word]))
    scores = test.logits[row].sigmoid()
    top = scores.topk(min(3, len(scores))).indices.tolist()
    return Example(
        given.files[test.names[row]],
        [(words.words[word].text, shown.get(word)) for word in said],
        [words.words[word].text for word, is_shown in shown.items() if is_shown and word not in said],
        [(words.task.classes[c], float(scores[c]), bool(test.targets[row, c])) for c in top],
    )
