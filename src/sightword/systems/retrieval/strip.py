"""A strip: a sentence above its best images, in a row."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from sightword.data.image import ImageLike, open_image
from sightword.viz.font import draw_text, font_of
from sightword.viz.style import FAINT, GREY, INK

HEIGHT, WIDEST, NARROWEST = 168, 224, 64  # pixels of an image in a strip
RIGHT, WRONG = "#1a7f37", "#cf222e"
FRAME, GAP, MARGIN = 4, 8, 12
TEXT, SMALL = 15, 12


class Shown(NamedTuple):
    """An image in a strip."""

    image: Image.Image | None  # None: it cannot be read
    score: float
    right: bool | None = None  # whether it shows the person; None: unknown
    unsure: bool = False  # below the threshold

    @classmethod
    def of(cls, image: ImageLike, score: float, right: bool | None = None, unsure: bool = False) -> "Shown":
        try:
            return cls(open_image(image), score, right, unsure)
        except ValueError:
            return cls(None, score, right, unsure)


def strip(sentence: str, found: Sequence[Shown], own: Image.Image | None = None) -> Image.Image:
    """Return a sentence above its best images, best first: right ones framed and ticked in green, wrong ones in red.

    An unsure one has a question mark behind its score. own: the image that the sentence describes, set apart left.
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
        draw_text(pen, (MARGIN, MARGIN + number * (TEXT + 6)), line, INK, TEXT)
    x = MARGIN
    labels = [*["described"] * len(first), *(_label(n, shown) for n, shown in enumerate(found, 1))]
    for tile, label in zip(images, labels, strict=True):
        page.paste(tile, (x, top))
        draw_text(pen, (x + tile.width / 2, top + tile.height + 4), label, GREY, SMALL, anchor="ma")
        x += tile.width + GAP + (apart if label == "described" else 0)
    return page


def _label(number: int, shown: Shown) -> str:
    return f"{number}  {shown.score:.3f}{' ?' if shown.unsure else ''}"


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


def _tile(image: Image.Image | None, colour: str, right: bool | None) -> Image.Image:
    """An image at the strip's height in a frame, with a tick or a cross that is legible without colour, too."""
    if image is None:
        image = Image.new("RGB", (NARROWEST, HEIGHT), FAINT)
        draw_text(ImageDraw.Draw(image), (NARROWEST / 2, HEIGHT / 2), "not\nreadable", GREY, SMALL, "mm")
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


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Return the lines of a text, at most `width` pixels wide each; a word that is wider is cut."""
    face, lines = font_of(text, size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if face.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
