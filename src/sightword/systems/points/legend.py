"""Points in the colours of their classes, and what the colours mean."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

NONE = 205  # the grey of a point without a class
SQUARE, GAP, LINE = 13, 18, 22  # pixels
INK = (40, 40, 40)


def palette_of(count: int) -> np.ndarray:
    """(C, 3) uint8: neighbours in the list are far apart in hue, and bright and dark take turns."""
    turns = [((0.61 + number * 0.618) % 1, *((0.7, 0.92), (0.9, 0.6))[number % 2]) for number in range(count)]
    colours = np.array([colorsys.hsv_to_rgb(*turn) for turn in turns]).reshape(-1, 3)
    return np.rint(255 * colours).astype(np.uint8)


def coloured(numbers: Tensor, palette: np.ndarray) -> np.ndarray:
    """(N,) classes, -1 for none, to (N, 3) uint8. palette: (C, 3) uint8."""
    at = numbers.cpu().numpy()
    return np.where(at[:, None] >= 0, palette[at], np.uint8(NONE)).astype(np.uint8)


def keyed(image: Image.Image, words: Sequence[str], palette: np.ndarray) -> Image.Image:
    """An image with a key below it: a square of each colour and its word, and grey for none."""
    font = ImageFont.load_default(size=13)
    entries = [*zip(words, map(tuple, palette.tolist()), strict=True), ("none", (NONE,) * 3)]
    places, x, y = [], 0, image.height + 12
    for word, _ in entries:
        width = SQUARE + 6 + round(font.getlength(word))
        if x and x + width > image.width:
            x, y = 0, y + LINE
        places.append((x, y))
        x += width + GAP
    page = Image.new("RGB", (image.width, y + LINE), "white")
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    for (x, y), (word, colour) in zip(places, entries, strict=True):
        pen.rectangle((x, y, x + SQUARE, y + SQUARE), colour, outline=INK)
        pen.text((x + SQUARE + 6, y + SQUARE / 2), word, INK, font, anchor="lm")
    return page
