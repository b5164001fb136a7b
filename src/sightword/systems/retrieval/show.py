"""What a network finds and what it reads: strips of the best images, and how far a score falls if a word is changed.

Legend: C captions; N images; D width of the embedding; n probes, captions of which one word is changed.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sightword.data.image import read_image
from sightword.data.loader import mix
from sightword.metrics.ranking import best
from sightword.viz.write import write_picture
from sightword.systems.retrieval.pedes import Split
from sightword.viz.style import FAINT, GREY, INK

Family = tuple[tuple[str, ...], ...]  # words that can stand for each other, those of one meaning in one tuple

HEIGHT, WIDEST, NARROWEST = 168, 224, 64  # pixels of an image in a strip
RIGHT, WRONG = "#1a7f37", "#cf222e"
FRAME, GAP, MARGIN = 4, 8, 12
TEXT, SMALL = 15, 12

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
CONTROL = "same meaning"  # a word for another of the same tuple: what a change costs that changes nothing


# ------------------------------------------------------------------------------------------------------------- strips


class Shown(NamedTuple):
    """An image in a strip."""

    image: Image.Image | None  # None: it cannot be read
    score: float
    right: bool | None = None  # whether it is the person; None: nobody knows

    @classmethod
    def of(cls, path: str | Path, score: float, right: bool | None = None) -> "Shown":
        try:
            return cls(read_image(path), score, right)
        except ValueError:
            return cls(None, score, right)


def strip(sentence: str, found: Sequence[Shown], own: Image.Image | None = None) -> Image.Image:
    """The best images of a sentence, best first, under it: right ones framed and ticked in green, wrong ones in red.

    own: the image that the sentence was written of, set apart at the left.
    """
    tiles = [_tile(shown.image, _colour(shown.right), shown.right) for shown in found]
    first = [] if own is None else [_tile(own, INK, None)]
    images = [*first, *tiles]
    apart = 2 * GAP if first else 0
    width = max(420, 2 * MARGIN + apart + sum(tile.width + GAP for tile in images) - GAP)
    lines = wrapped(sentence, width - 2 * MARGIN, TEXT)
    top = MARGIN + len(lines) * (TEXT + 6) + 6
    page = Image.new("RGB", (width, top + HEIGHT + 2 * FRAME + SMALL + 8 + MARGIN), "white")
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + number * (TEXT + 6)), line, INK, _font(TEXT))
    x = MARGIN
    labels = [*["written of"] * len(first), *(f"{n}  {shown.score:.3f}" for n, shown in enumerate(found, 1))]
    for tile, label in zip(images, labels, strict=True):
        page.paste(tile, (x, top))
        pen.text((x + tile.width / 2, top + tile.height + 4), label, GREY, _font(SMALL), anchor="ma")
        x += tile.width + GAP + (apart if label == "written of" else 0)
    return page


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Strips below each other, a rule between two."""
    width = max(page.width for page in pages)
    whole = Image.new("RGB", (width, sum(page.height for page in pages)), "white")
    pen, y = ImageDraw.Draw(whole), 0
    for page in pages:
        if y:
            pen.line((MARGIN, y, width - MARGIN, y), FAINT)
        whole.paste(page, (0, y + (1 if y else 0)))
        y += page.height
    return whole


class Question(NamedTuple):
    """A caption, and the best images for it."""

    caption: str
    own: Path  # the image it was written of
    found: list[tuple[Path, float, bool]]  # path, cosine, whether it shows the same person

    def strip(self) -> Image.Image:
        return strip(self.caption, [Shown.of(*one) for one in self.found], Shown.of(self.own, 1.0).image)

    def as_dict(self) -> dict[str, Any]:
        found = [{"image": str(path), "score": score, "right": right} for path, score, right in self.found]
        return {"caption": self.caption, "written_of": str(self.own), "found": found}


def ask(
    captions: Sequence[str],
    caption_image: np.ndarray,
    text_embeddings: Tensor,
    images: Sequence[Path],
    pids: np.ndarray,
    image_embeddings: Tensor,
    numbers: Sequence[int],
    top: int = 10,
) -> list[Question]:
    """The `top` images for the captions of these numbers.

    captions, caption_image (C,), text_embeddings (C, D), images, pids (N,), image_embeddings (N, D): of one split.
    """
    chosen = list(numbers)
    scores, rows = best(text_embeddings[chosen], image_embeddings, top)
    questions = []
    for number, values, places in zip(chosen, scores.tolist(), rows.tolist(), strict=True):
        own = int(caption_image[number])
        found = [(images[row], value, bool(pids[row] == pids[own])) for value, row in zip(values, places, strict=True)]
        questions.append(Question(captions[number], images[own], found))
    return questions


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread: the same ones each time."""
    return [number * count // min(most, count) for number in range(min(most, count))]


def _tile(image: Image.Image | None, colour: str, right: bool | None) -> Image.Image:
    """An image at the strip's height in a frame, with a tick or a cross that does not need the colour to be told."""
    if image is None:
        image = Image.new("RGB", (NARROWEST, HEIGHT), FAINT)
        ImageDraw.Draw(image).text((NARROWEST / 2, HEIGHT / 2), "not\nreadable", GREY, _font(SMALL), anchor="mm")
    width = min(WIDEST, max(NARROWEST, round(image.width * HEIGHT / image.height)))
    scale = min(width / image.width, HEIGHT / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    tile = Image.new("RGB", (width + 2 * FRAME, HEIGHT + 2 * FRAME), colour)
    tile.paste("white", (FRAME, FRAME, FRAME + width, FRAME + HEIGHT))
    small = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    tile.paste(small, (FRAME + (width - size[0]) // 2, FRAME + (HEIGHT - size[1]) // 2))
    if right is not None:
        _mark(tile, colour, right)
    return tile


def _mark(tile: Image.Image, colour: str, right: bool) -> None:
    side = 20
    badge = Image.new("RGB", (side * 4, side * 4), colour)  # drawn large and reduced, for smooth lines
    strokes = [[(16, 42), (34, 60), (64, 22)]] if right else [[(22, 22), (58, 58)], [(58, 22), (22, 58)]]
    for stroke in strokes:
        ImageDraw.Draw(badge).line(stroke, "white", 11, joint="curve")
    tile.paste(badge.resize((side, side), Image.Resampling.BOX), (tile.width - side, 0))


def _colour(right: bool | None) -> str:
    return {None: FAINT, True: RIGHT, False: WRONG}[right]


# ------------------------------------------------------------------------------------------------------------ a split


def draw(
    embed: Callable[[Sequence[str]], Tensor],
    split: Split,
    texts: Tensor,
    images: Tensor,
    folder: Path,
    strips: int = 6,
    captions: int = 1000,
) -> list[Path]:
    """Write strips.png and word_swaps.png of a split, each with its numbers as JSON: which files.

    texts, images: the embeddings (C, E) and (M, E) of its captions and images. strips: how many captions are shown
    with their best images. captions: how many have a word changed, which `embed` is asked for.
    """
    chosen = spread(len(split.captions), strips)
    asked = ask(split.captions, split.caption_image, texts, split.images, split.pids, images, chosen)
    swaps = sensitivity(embed, split.captions, images[split.caption_image], captions)
    page = stacked([question.strip() for question in asked])
    return [
        *write_picture(page, folder / "strips.png", [question.as_dict() for question in asked]),
        *write_picture(swaps.picture(), folder / "word_swaps.png", swaps.as_dict()),
    ]


# -------------------------------------------------------------------------------------------------------- word swaps


class Probe(NamedTuple):
    """A caption of which one word is changed."""

    number: int  # of the caption
    kind: str
    before: str
    after: str
    text: str


def probes_of(captions: Sequence[str], seed: int = 0) -> list[Probe]:
    """Of each caption one probe for each kind of word it has: which word, and what it becomes, is drawn by the seed."""
    found = []
    for number, caption in enumerate(captions):
        rng = np.random.default_rng(mix(seed, number))
        for kind in [*KINDS, CONTROL]:
            if places := _places(caption, kind):
                start, end, others = places[rng.integers(len(places))]
                before, after = caption[start:end], others[rng.integers(len(others))]
                found.append(Probe(number, kind, before.lower(), after, _replaced(caption, start, end, after)))
    return found


def _places(caption: str, kind: str) -> list[tuple[int, int, list[str]]]:
    """(start, end, words that may stand there instead) of each word of a kind."""
    families = KINDS[kind] if kind != CONTROL else tuple(family for each in KINDS.values() for family in each)
    found = []
    for family in families:
        for meaning in family:
            same = kind == CONTROL
            for word in meaning:
                others = [other for other in meaning if other != word] if same else []
                others = others if same else [other[0] for other in family if other is not meaning]
                pattern = rf"(?<![\w-]){re.escape(word)}(?![\w-])"
                found += [(*m.span(), others) for m in re.finditer(pattern, caption, re.IGNORECASE) if others]
    return sorted(found, key=lambda place: place[0])


def _replaced(caption: str, start: int, end: int, word: str) -> str:
    """With its capital, and with the article that the new word takes."""
    head, old, tail = caption[:start], caption[start:end], caption[end:]
    if old[0].isupper():
        word = word.capitalize()
    if article := re.search(r"(?<!\w)(a|an)(\s+)$", head, re.IGNORECASE):
        right = "an" if word[0].lower() in "aeiou" else "a"
        right = right.capitalize() if article[1][0].isupper() else right
        head = head[: article.start()] + right + article[2]
    return head + word + tail


class Sensitivity(NamedTuple):
    """What each probe does to the score of the caption's own image."""

    captions: list[str]
    probes: list[Probe]
    plain: np.ndarray  # (n,) cosine of the caption and its own image
    swapped: np.ndarray  # (n,) cosine of the changed caption and the same image

    @property
    def falls(self) -> np.ndarray:
        """(n,)"""
        return self.plain - self.swapped

    def rows(self) -> list[dict[str, Any]]:
        """Of each kind: how many captions, their mean score, how far it falls, that mean's error, and how often."""
        found = []
        for kind in [*KINDS, CONTROL]:
            here = np.array([probe.kind == kind for probe in self.probes], dtype=bool)
            if not here.any():
                continue
            falls, count = self.falls[here], int(here.sum())
            error = float(falls.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0
            row = {
                "kind": kind,
                "captions": count,
                "score": float(self.plain[here].mean()),
                "fall": float(falls.mean()),
            }
            found.append(row | {"error": error, "fell": float((falls > 0).mean())})
        return found

    def measures(self) -> dict[str, float]:
        """fall_<kind>: how far the score of the own image falls, in cosine."""
        return {f"fall_{row['kind'].replace(' ', '_')}": row["fall"] for row in self.rows()}

    def pairs(self) -> list[dict[str, Any]]:
        """Of each word and what it became: how often, and how far the score falls; the most frequent first."""
        falls: dict[tuple[str, str, str], list[float]] = {}
        for probe, fall in zip(self.probes, self.falls.tolist(), strict=True):
            falls.setdefault((probe.kind, probe.before, probe.after), []).append(fall)
        found = [
            {"kind": kind, "before": before, "after": after, "captions": len(each), "fall": sum(each) / len(each)}
            for (kind, before, after), each in falls.items()
        ]
        return sorted(found, key=lambda pair: (-pair["captions"], pair["kind"], pair["before"], pair["after"]))

    def examples(self) -> dict[str, Probe]:
        """Of each kind the probe whose fall is the middle one: no better and no worse than most."""
        found = {}
        for row in self.rows():
            here = [number for number, probe in enumerate(self.probes) if probe.kind == row["kind"]]
            here.sort(key=lambda number: self.falls[number])
            found[row["kind"]] = self.probes[here[len(here) // 2]]
        return found

    def as_dict(self) -> dict[str, Any]:
        """What the picture shows, in numbers, and each probe."""
        probes = [
            {**probe._asdict(), "caption": self.captions[probe.number], "score": float(a), "swapped": float(b)}
            for probe, a, b in zip(self.probes, self.plain, self.swapped, strict=True)
        ]
        told = f"fall: cosine of a caption and its own image, less that with one word changed; {CONTROL}: a synonym"
        return {"what": told, "kinds": self.rows(), "pairs": self.pairs(), "probes": probes}

    def picture(self, width: int = 860) -> Image.Image:
        """The table, a bar for each fall, and of each kind an example."""
        return _table(self, width)


@torch.no_grad()
def sensitivity(
    encode: Callable[[list[str]], Tensor], captions: Sequence[str], own: Tensor, most: int = 1000, seed: int = 0
) -> Sensitivity:
    """Change one word of each caption and see how far the score of its own image falls.

    encode: texts to unit rows (n, D). own: (C, D), unit rows of the image that each caption was written of.
    most: captions, evenly spread over all. ValueError if not one has a word of `KINDS`.
    """
    chosen = spread(len(captions), most)
    some, images = [captions[number] for number in chosen], own[chosen].cpu().float()
    probes = probes_of(some, seed)
    if not probes:
        raise ValueError(f"not one of {len(some)} captions has a word to change: a colour, a side, a garment, a bag")
    plain, swapped = encode(some).cpu().float(), encode([probe.text for probe in probes]).cpu().float()
    numbers = [probe.number for probe in probes]
    before = (plain[numbers] * images[numbers]).sum(1).numpy()
    return Sensitivity(some, probes, before, (swapped * images[numbers]).sum(1).numpy())


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
    page = Image.new("RGB", (width, y + MARGIN), "white")
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN), "One word changed: how far does the score of its own image fall?", INK, _font(TEXT + 1))
    y = tops[0] - SMALL - 14
    for place, head in zip(COLUMNS, ("word of a", "captions", "score", "fall"), strict=True):
        pen.text((place, y), head, GREY, _font(SMALL), anchor="la" if place == MARGIN else "ra")
    pen.text((width - MARGIN, y), "captions whose score fell", GREY, _font(SMALL), anchor="ra")
    ends = (min(0.0, *(row["fall"] for row in rows), 0.0), max(0.0, *(row["fall"] for row in rows), 1e-9))
    for top, row in zip(tops, rows, strict=True):
        pen.line((MARGIN, top - 6, width - MARGIN, top - 6), FAINT)
        _row(pen, row, top, ends, width)
        for number, line in enumerate(told[row["kind"]]):
            pen.text((MARGIN + 12, top + TEXT + 8 + number * (SMALL + 5)), line, GREY, _font(SMALL))
    return page


def _row(pen: ImageDraw.ImageDraw, row: Mapping[str, Any], top: int, ends: tuple[float, float], width: int) -> None:
    name = row["kind"] if row["kind"] != CONTROL else f"{CONTROL} (control)"
    pen.text((MARGIN, top), name, INK, _font(TEXT))
    texts = (f"{row['captions']:,}", f"{row['score']:.3f}", f"{row['fall']:+.3f} ± {row['error']:.3f}")
    for place, text in zip(COLUMNS[1:], texts, strict=True):
        pen.text((place, top), text, INK, _font(TEXT), anchor="ra")
    zero, end = (BARS[0] + (BARS[1] - BARS[0]) * (at - ends[0]) / (ends[1] - ends[0]) for at in (0.0, row["fall"]))
    colour = GREY if row["kind"] == CONTROL else RIGHT if row["fall"] > 0 else WRONG
    pen.rectangle((min(zero, end), top + 3, max(zero, end), top + TEXT + 1), colour)
    pen.line((zero, top, zero, top + TEXT + 4), GREY)
    pen.text((width - MARGIN, top), f"{100 * row['fell']:.0f} %", INK, _font(TEXT), anchor="ra")


def _example(found: Sensitivity, probe: Probe) -> str:
    number = found.probes.index(probe)
    scores = f"{found.plain[number]:.3f}, then {found.swapped[number]:.3f}"
    return f"“{probe.before}” became “{probe.after}” ({scores}): {probe.text}"


# ------------------------------------------------------------------------------------------------------- text, files


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Lines of a text that are at most so many pixels wide; a word that is wider is cut."""
    font, lines = _font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)
