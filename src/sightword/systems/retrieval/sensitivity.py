"""Sensitivity of a model to single words: how far the score of a caption's own image falls when one word is changed.

Legend: C captions; D width of the embedding; n probes, captions in which one word is changed.
"""

import math
import re
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sightword.data.loader import mix
from sightword.errors import SightwordError
from sightword.systems.retrieval.strip import MARGIN, RIGHT, SMALL, TEXT, WRONG, wrapped
from sightword.viz.font import draw_text
from sightword.viz.style import FAINT, GREY, INK

Family = tuple[tuple[str, ...], ...]  # words that can replace each other, synonyms in one tuple

COLOURS: Family = (
    ("black",),
    ("white",),
    ("grey", "gray"),
    ("red", "crimson", "scarlet"),
    ("blue", "navy"),
    ("green",),
    ("yellow",),
    ("orange",),
    ("pink",),
    ("purple", "violet"),
    ("brown",),
    ("beige", "cream", "khaki", "tan"),
)
SIDES: Family = (("left",), ("right",))
GARMENTS: tuple[Family, ...] = (
    (("t-shirt", "tee"), ("shirt", "blouse"), ("jacket",), ("coat",), ("sweater", "jumper", "pullover"), ("hoodie",)),
    (("trousers", "pants", "slacks"), ("jeans",), ("shorts",), ("leggings", "tights")),
    (("skirt",), ("dress",)),
    (("sneakers", "trainers"), ("boots",), ("sandals",)),
)
BAGS: Family = (("backpack", "rucksack"), ("handbag", "purse"), ("suitcase",), ("umbrella",))
KINDS: dict[str, tuple[Family, ...]] = {"colour": (COLOURS,), "side": (SIDES,), "garment": GARMENTS, "bag": (BAGS,)}
WORD = re.compile(r"[\w-]+")
CONTROL = "same meaning"  # a word replaced by a synonym, which should not change the score


class Probe(NamedTuple):
    """A caption in which one word is changed."""

    number: int  # of the caption
    kind: str
    before: str
    after: str
    text: str


def probes_of(captions: Sequence[str], seed: int = 0) -> list[Probe]:
    """Return one probe per caption and kind of word that it has. The seed draws which word, and what replaces it.

    Replacements are words of the captions, where there are any: a model reacts to words that it has never seen, too.
    """
    found, known = [], {word for caption in captions for word in WORD.findall(caption.lower())}
    for number, caption in enumerate(captions):
        rng = np.random.default_rng(mix(seed, number))
        for kind in [*KINDS, CONTROL]:
            if places := _places(caption, kind, known):
                start, end, others = places[rng.integers(len(places))]
                before, after = caption[start:end], others[rng.integers(len(others))]
                found.append(Probe(number, kind, before.lower(), after, _replaced(caption, start, end, after)))
    return found


def _places(caption: str, kind: str, known: Set[str]) -> list[tuple[int, int, list[str]]]:
    """(start, end, possible replacements) of each word of a kind."""
    families = KINDS[kind] if kind != CONTROL else tuple(family for each in KINDS.values() for family in each)
    found = []
    for family in families:
        for meaning in family:
            same = kind == CONTROL
            for word in meaning:
                others = [other for other in meaning if other != word] if same else []
                others = others if same else [_usual(other, known) for other in family if other is not meaning]
                others = [other for other in others if other in known] or others
                pattern = rf"(?<![\w-]){re.escape(word)}(?![\w-])"
                found += [(*m.span(), others) for m in re.finditer(pattern, caption, re.IGNORECASE) if others]
    return sorted(found, key=lambda place: place[0])


def _usual(meaning: tuple[str, ...], known: Set[str]) -> str:
    """Return the first word of a meaning that is known, or its first."""
    return next((word for word in meaning if word in known), meaning[0])


def _replaced(caption: str, start: int, end: int, word: str) -> str:
    """The caption with another word, capitalised as the old one, after the article that the new one takes."""
    head, old, tail = caption[:start], caption[start:end], caption[end:]
    if old[0].isupper():
        word = word.capitalize()
    if article := re.search(r"(?<!\w)(a|an)(\s+)$", head, re.IGNORECASE):
        right = "an" if word[0].lower() in "aeiou" else "a"
        right = right.capitalize() if article[1][0].isupper() else right
        head = head[: article.start()] + right + article[2]
    return head + word + tail


class Above(TypedDict):
    """How far the score falls more than for a word of the same meaning."""

    above: float | None  # fall less that of the control; None without a control
    low: float | None  # 95 % interval of that difference, by bootstrap over persons
    high: float | None


class KindRow(Above):
    """The effect of changing one kind of word."""

    kind: str
    captions: int
    score: float  # mean cosine of the captions and their own images
    fall: float  # mean difference when the word is changed
    error: float  # standard error of that mean
    fell: float  # fraction of captions whose score fell


class SwapRow(TypedDict):
    """The effect of changing one word into one other."""

    kind: str
    before: str
    after: str
    captions: int
    fall: float


class Sensitivity(NamedTuple):
    """How each probe changes the score of the caption's own image."""

    captions: list[str]
    probes: list[Probe]
    plain: np.ndarray  # (n,) cosine of the caption and its own image
    swapped: np.ndarray  # (n,) cosine of the changed caption and the same image
    persons: np.ndarray  # (n,) int64, whom a probe's caption describes: probes of one person are not independent

    @property
    def falls(self) -> np.ndarray:
        """How far the score falls, (n,)."""
        return self.plain - self.swapped

    def rows(self) -> list[KindRow]:
        """Return one row per kind that occurs."""
        found: list[KindRow] = []
        for kind in [*KINDS, CONTROL]:
            here = np.array([probe.kind == kind for probe in self.probes], dtype=bool)
            if not here.any():
                continue
            falls, count = self.falls[here], int(here.sum())
            error = float(falls.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0
            row: KindRow = {
                "kind": kind,
                "captions": count,
                "score": float(self.plain[here].mean()),
                "fall": float(falls.mean()),
                "error": error,
                "fell": float((falls > 0).mean()),
                **self._above(kind),
            }
            found.append(row)
        return found

    def _above(self, kind: str) -> Above:
        """Return how far a kind falls below the control, with its interval: 2000 draws of persons, seeded."""
        sums = [self._sums(each) for each in (kind, CONTROL)]  # (2, P) each: falls, probes
        if not all(each[1].any() for each in sums):
            return {"above": None, "low": None, "high": None}
        persons = sums[0].shape[1]
        drawn = np.random.default_rng(0).multinomial(persons, np.full(persons, 1 / persons), 2000)  # (2000, P)
        with np.errstate(invalid="ignore"):  # a draw without any probe of a kind
            means = [(drawn @ each[0]) / (drawn @ each[1]) for each in sums]
        low, high = np.nanpercentile(means[0] - means[1], (2.5, 97.5)).tolist()
        above = [float(each[0].sum() / each[1].sum()) for each in sums]
        return {"above": above[0] - above[1], "low": low, "high": high}

    def _sums(self, kind: str) -> np.ndarray:
        """Return the sum of the falls of a kind and their number, for each person, (2, P)."""
        here = np.array([probe.kind == kind for probe in self.probes], dtype=bool)
        person = np.unique(self.persons, return_inverse=True)[1].reshape(-1)
        count = int(person.max()) + 1
        return np.stack(
            [np.bincount(person[here], weight, count) for weight in (self.falls[here], np.ones(here.sum()))]
        )

    def metrics(self) -> dict[str, float]:
        """Return fall_<kind>: how far the score of the own image falls, in cosine."""
        return {f"fall_{row['kind'].replace(' ', '_')}": row["fall"] for row in self.rows()}

    def pairs(self) -> list[SwapRow]:
        """Return one row per word and replacement, the most frequent first."""
        falls: dict[tuple[str, str, str], list[float]] = {}
        for probe, fall in zip(self.probes, self.falls.tolist(), strict=True):
            falls.setdefault((probe.kind, probe.before, probe.after), []).append(fall)
        found: list[SwapRow] = [
            {"kind": kind, "before": before, "after": after, "captions": len(each), "fall": sum(each) / len(each)}
            for (kind, before, after), each in falls.items()
        ]
        return sorted(found, key=lambda pair: (-pair["captions"], pair["kind"], pair["before"], pair["after"]))

    def examples(self) -> dict[str, Probe]:
        """Return for each kind the probe whose fall is the median."""
        found = {}
        for row in self.rows():
            here = [number for number, probe in enumerate(self.probes) if probe.kind == row["kind"]]
            here.sort(key=lambda number: self.falls[number])
            found[row["kind"]] = self.probes[here[len(here) // 2]]
        return found

    def as_dict(self) -> dict[str, object]:
        """Return the values that the figure shows, and each probe."""
        probes = [
            {**probe._asdict(), "caption": self.captions[probe.number], "score": float(a), "swapped": float(b)}
            for probe, a, b in zip(self.probes, self.plain, self.swapped, strict=True)
        ]
        told = (
            f"fall: cosine of a caption and its own image, less that with one word changed; {CONTROL}: a synonym; "
            "above: fall less that of the control, with a 95 % interval by bootstrap over persons"
        )
        return {"what": told, "kinds": self.rows(), "pairs": self.pairs(), "probes": probes}

    def plot(self, width: int = 860) -> Image.Image:
        """Return a table with a bar for each fall, and an example of each kind."""
        return _table(self, width)


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread: the same ones each time."""
    return [number * count // min(most, count) for number in range(min(most, count))]


@torch.no_grad()
def sensitivity(
    encode: Callable[[list[str]], Tensor],
    captions: Sequence[str],
    own: Tensor,
    most: int = 1000,
    seed: int = 0,
    persons: np.ndarray | None = None,
) -> Sensitivity:
    """Measure how far the score of a caption's own image falls when one word is changed.

    encode: texts to unit rows (n, D). own: (C, D), unit rows of the image that each caption describes.
    most: captions, evenly spread over all. persons: (C,), whom each describes; None: each somebody else.
    Raises SightwordError if none has a word of `KINDS`.
    """
    chosen = spread(len(captions), most)
    some, images = [captions[number] for number in chosen], own[chosen].cpu().float()
    probes = probes_of(some, seed)
    if not probes:
        raise SightwordError(f"none of {len(some)} captions has a word to change: a colour, a side, a garment, a bag")
    plain, swapped = encode(some).cpu().float(), encode([probe.text for probe in probes]).cpu().float()
    numbers = [probe.number for probe in probes]
    before = (plain[numbers] * images[numbers]).sum(1).numpy()
    persons = np.array(chosen) if persons is None else persons[chosen]
    return Sensitivity(some, probes, before, (swapped * images[numbers]).sum(1).numpy(), persons[numbers])


COLUMNS = (MARGIN, 210, 300, 420)  # of the table: the left end of the first, the right ends of the others
BARS = (440, 690)


def _table(found: Sensitivity, width: int) -> Image.Image:
    rows, examples = found.rows(), found.examples()
    tops, y = [], MARGIN + 2 * (TEXT + 8) + SMALL + 12
    told = {
        row["kind"]: wrapped(_example(found, examples[row["kind"]]), width - 2 * MARGIN - 12, SMALL) for row in rows
    }
    for row in rows:
        tops.append(y)
        y += TEXT + 8 + len(told[row["kind"]]) * (SMALL + 5) + 12
    page = Image.new("RGB", (width, y + MARGIN + SMALL + 8), "white")
    pen = ImageDraw.Draw(page)
    draw_text(pen, (MARGIN, MARGIN), "One word changed: how far does the score of its own image fall?", INK, TEXT + 1)
    y = tops[0] - SMALL - 14
    for place, head in zip(COLUMNS, ("word of a", "captions", "score", "fall"), strict=True):
        draw_text(pen, (place, y), head, GREY, SMALL, anchor="la" if place == MARGIN else "ra")
    draw_text(pen, (width - MARGIN, y), "captions whose score fell", GREY, SMALL, anchor="ra")
    ends = (min(0.0, *(row["fall"] for row in rows), 0.0), max(0.0, *(row["fall"] for row in rows), 1e-9))
    star = "* falls more than the control: the 95 % interval of the difference, over persons, is above 0"
    draw_text(pen, (MARGIN, page.height - MARGIN - SMALL), star, GREY, SMALL)
    for top, row in zip(tops, rows, strict=True):
        pen.line((MARGIN, top - 6, width - MARGIN, top - 6), FAINT)
        _row(pen, row, top, ends, width)
        for number, line in enumerate(told[row["kind"]]):
            draw_text(pen, (MARGIN + 12, top + TEXT + 8 + number * (SMALL + 5)), line, GREY, SMALL)
    return page


def _row(pen: ImageDraw.ImageDraw, row: KindRow, top: int, ends: tuple[float, float], width: int) -> None:
    name = row["kind"] if row["kind"] != CONTROL else f"{CONTROL} (control)"
    draw_text(pen, (MARGIN, top), name, INK, TEXT)
    texts = (f"{row['captions']:,}", f"{row['score']:.3f}", f"{row['fall']:+.3f} ± {row['error']:.3f}")
    for place, text in zip(COLUMNS[1:], texts, strict=True):
        draw_text(pen, (place, top), text, INK, TEXT, anchor="ra")
    if (row["low"] or 0) > 0:
        draw_text(pen, (COLUMNS[-1] + 3, top), "*", INK, TEXT)
    zero, end = (BARS[0] + (BARS[1] - BARS[0]) * (at - ends[0]) / (ends[1] - ends[0]) for at in (0.0, row["fall"]))
    colour = GREY if row["kind"] == CONTROL else RIGHT if row["fall"] > 0 else WRONG
    pen.rectangle((min(zero, end), top + 3, max(zero, end), top + TEXT + 1), colour)
    pen.line((zero, top, zero, top + TEXT + 4), GREY)
    draw_text(pen, (width - MARGIN, top), f"{100 * row['fell']:.0f} %", INK, TEXT, anchor="ra")


def _example(found: Sensitivity, probe: Probe) -> str:
    number = found.probes.index(probe)
    scores = f"{found.plain[number]:.3f}, then {found.swapped[number]:.3f}"
    return f"“{probe.before}” became “{probe.after}” ({scores}): {probe.text}"
