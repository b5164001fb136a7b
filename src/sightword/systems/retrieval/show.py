"""Figures of what a model finds and what it reacts to: the best images of a caption, and scores with one word changed.

Legend: C captions; N images; D width of the embedding; n probes, captions of which one word is changed.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sightword.data.image import read_image
from sightword.data.loader import mix
from sightword.errors import SightwordError
from sightword.metrics.ranking import best
from sightword.storage.atomic import write_picture
from sightword.systems.retrieval.pedes import Split
from sightword.viz.style import FAINT, GREY, INK

Family = tuple[tuple[str, ...], ...]  # words that can replace each other, synonyms in one tuple

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
CONTROL = "same meaning"  # a word replaced by a synonym, which should not change the score


# ------------------------------------------------------------------------------------------------------------- strips


class Shown(NamedTuple):
    """An image in a strip."""

    image: Image.Image | None  # None: it cannot be read
    score: float
    right: bool | None = None  # whether it shows the person; None: unknown

    @classmethod
    def of(cls, path: str | Path, score: float, right: bool | None = None) -> "Shown":
        try:
            return cls(read_image(path), score, right)
        except ValueError:
            return cls(None, score, right)


def strip(sentence: str, found: Sequence[Shown], own: Image.Image | None = None) -> Image.Image:
    """Return a sentence above its best images, best first: right ones framed and ticked in green, wrong ones in red.

    own: the image that the sentence describes, set apart at the left.
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
    labels = [*["described"] * len(first), *(f"{n}  {shown.score:.3f}" for n, shown in enumerate(found, 1))]
    for tile, label in zip(images, labels, strict=True):
        page.paste(tile, (x, top))
        pen.text((x + tile.width / 2, top + tile.height + 4), label, GREY, _font(SMALL), anchor="ma")
        x += tile.width + GAP + (apart if label == "described" else 0)
    return page


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Return strips below each other, with a line between two."""
    width = max(page.width for page in pages)
    whole = Image.new("RGB", (width, sum(page.height for page in pages)), "white")
    pen, y = ImageDraw.Draw(whole), 0
    for page in pages:
        if y:
            pen.line((MARGIN, y, width - MARGIN, y), FAINT)
        whole.paste(page, (0, y + (1 if y else 0)))
        y += page.height
    return whole


class Query(NamedTuple):
    """A caption, and the best images for it."""

    caption: str
    own: Path  # the image that the caption describes
    found: list[tuple[Path, float, bool]]  # path, cosine, whether it shows the same person

    def strip(self) -> Image.Image:
        """Return the caption above its best images."""
        return strip(self.caption, [Shown.of(*one) for one in self.found], Shown.of(self.own, 1.0).image)

    def as_dict(self) -> dict[str, object]:
        """Return plain values, fit for JSON."""
        found = [{"image": str(path), "score": score, "right": right} for path, score, right in self.found]
        return {"caption": self.caption, "written_of": str(self.own), "found": found}


def search(
    captions: Sequence[str],
    caption_image: np.ndarray,
    text_embeddings: Tensor,
    images: Sequence[Path],
    pids: np.ndarray,
    image_embeddings: Tensor,
    numbers: Sequence[int],
    top: int = 10,
) -> list[Query]:
    """Return the `top` images for the captions of these numbers.

    captions, caption_image (C,), text_embeddings (C, D), images, pids (N,), image_embeddings (N, D): of one split.
    """
    chosen = list(numbers)
    scores, rows = best(text_embeddings[chosen], image_embeddings, top)
    queries = []
    for number, values, places in zip(chosen, scores.tolist(), rows.tolist(), strict=True):
        own = int(caption_image[number])
        found = [(images[row], value, bool(pids[row] == pids[own])) for value, row in zip(values, places, strict=True)]
        queries.append(Query(captions[number], images[own], found))
    return queries


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread: the same ones each time."""
    return [number * count // min(most, count) for number in range(min(most, count))]


def _tile(image: Image.Image | None, colour: str, right: bool | None) -> Image.Image:
    """An image at the strip's height in a frame, with a tick or a cross that is legible without colour, too."""
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
    encode: Callable[[list[str]], Tensor],
    split: Split,
    texts: Tensor,
    images: Tensor,
    folder: Path,
    strips: int = 6,
    captions: int = 1000,
) -> list[Path]:
    """Write strips.png and word_swaps.png of a split, each with its values as JSON. Return the files.

    encode: texts to unit rows (n, E). texts, images: the unit rows (C, E) and (M, E) of the split.
    strips: how many captions are shown with their best images. captions: how many have a word changed.
    """
    chosen = spread(len(split.captions), strips)
    queries = search(split.captions, split.caption_image, texts, split.images, split.pids, images, chosen)
    swaps = sensitivity(encode, split.captions, images[split.caption_image], captions)
    page = stacked([query.strip() for query in queries])
    return [
        *write_picture(page, folder / "strips.png", [query.as_dict() for query in queries]),
        *write_picture(swaps.plot(), folder / "word_swaps.png", swaps.as_dict()),
    ]


# -------------------------------------------------------------------------------------------------------- word swaps


class Probe(NamedTuple):
    """A caption in which one word is changed."""

    number: int  # of the caption
    kind: str
    before: str
    after: str
    text: str


def probes_of(captions: Sequence[str], seed: int = 0) -> list[Probe]:
    """Return one probe per caption and kind of word that it has. The seed draws which word, and what replaces it."""
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
    """(start, end, possible replacements) of each word of a kind."""
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
    """The caption with another word, capitalised as the old one, after the article that the new one takes."""
    head, old, tail = caption[:start], caption[start:end], caption[end:]
    if old[0].isupper():
        word = word.capitalize()
    if article := re.search(r"(?<!\w)(a|an)(\s+)$", head, re.IGNORECASE):
        right = "an" if word[0].lower() in "aeiou" else "a"
        right = right.capitalize() if article[1][0].isupper() else right
        head = head[: article.start()] + right + article[2]
    return head + word + tail


class KindRow(TypedDict):
    """What changing one kind of word does."""

    kind: str
    captions: int
    score: float  # mean cosine of the captions and their own images
    fall: float  # mean difference when the word is changed
    error: float  # standard error of that mean
    fell: float  # share of captions whose score fell


class SwapRow(TypedDict):
    """What changing one word into one other does."""

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
            }
            found.append(row)
        return found

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
        told = f"fall: cosine of a caption and its own image, less that with one word changed; {CONTROL}: a synonym"
        return {"what": told, "kinds": self.rows(), "pairs": self.pairs(), "probes": probes}

    def plot(self, width: int = 860) -> Image.Image:
        """Return a table with a bar for each fall, and an example of each kind."""
        return _table(self, width)


@torch.no_grad()
def sensitivity(
    encode: Callable[[list[str]], Tensor], captions: Sequence[str], own: Tensor, most: int = 1000, seed: int = 0
) -> Sensitivity:
    """Measure how far the score of a caption's own image falls when one word is changed.

    encode: texts to unit rows (n, D). own: (C, D), unit rows of the image that each caption describes.
    most: captions, evenly spread over all. Raises SightwordError if none has a word of `KINDS`.
    """
    chosen = spread(len(captions), most)
    some, images = [captions[number] for number in chosen], own[chosen].cpu().float()
    probes = probes_of(some, seed)
    if not probes:
        raise SightwordError(f"none of {len(some)} captions has a word to change: a colour, a side, a garment, a bag")
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


def _row(pen: ImageDraw.ImageDraw, row: KindRow, top: int, ends: tuple[float, float], width: int) -> None:
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
    """Return the lines of a text, at most `width` pixels wide each; a word that is wider is cut."""
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


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
