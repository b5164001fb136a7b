"""Codes, classes and signed values laid over an image.

Legend: K codes; h, w tokens a side. Arrays or tensors on any device.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sightword.viz.style import AGAINST, FOR, GREY, INK, LABEL, Array, as_numpy, font_of


def code_colours(ids: np.ndarray) -> np.ndarray:
    """A colour for each code: the same id always gets the same, near ids get unlike ones. ids (…) → (…, 3) uint8.

    Hue, lightness and chroma walk by three irrational steps (the golden ratio's cousin in three dimensions), so any
    first K ids are spread evenly. In OKLCH, where equal steps look equal (Björn Ottosson, 2020); the ranges are the
    widest that hardly leave sRGB, so that no two of the first 1024 codes are cut to one colour.
    """
    g = 1.2207440846057596  # the real root of x^4 = x + 1
    walk = (ids[..., None].astype(np.float64) * (1 / g, 1 / g**2, 1 / g**3) + 0.5) % 1
    hue, light, chroma = 2 * np.pi * walk[..., 0], 0.48 + 0.36 * walk[..., 1], 0.04 + 0.10 * walk[..., 2]
    lab = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], -1)
    cones = (lab @ _OKLAB_TO_CONES.T) ** 3
    linear = np.clip(cones @ _CONES_TO_RGB.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(srgb * 255).astype(np.uint8)


_OKLAB_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def code_map(ids: Array, num_codes: int, scale: int = 16, size: tuple[int, int] | None = None) -> Image.Image:
    """Which code stands where: ids (h, w), each id in its own colour (`code_colours`), each token a square.

    scale: pixels per token. size: (width, height) of the whole instead, say that of the image it was made from.
    """
    values = as_numpy(ids)
    if values.ndim != 2:
        raise ValueError(f"a map of codes is (h, w), this is {values.shape}")
    if values.min() < 0 or values.max() >= num_codes:
        raise ValueError(f"ids run from {values.min()} to {values.max()}, the codebook has {num_codes} codes")
    small = Image.fromarray(code_colours(values))
    return small.resize(size or (small.width * scale, small.height * scale), Image.Resampling.NEAREST)


def word_colours(words: Sequence[str]) -> np.ndarray:
    """A colour for each word, (K, 3) uint8: a word has the same in every picture."""
    return code_colours(np.array([zlib.crc32(word.encode()) % 2**16 for word in words]))


def class_map(
    ids: Array,
    words: Sequence[str],
    image: Image.Image,
    strength: Array | None = None,
    colours: Array | None = None,
    top: int = 5,
    opacity: float = 0.65,
) -> Image.Image:
    """Which word each patch of an image is nearest to: its colour laid over the patch, and a legend by area below.

    ids: (h, w), indices into `words`. strength: (h, w) in [0, 1], how sure; where it is low the image shines through,
    and where it is 0 the legend does not count the patch.
    colours: (K, 3) uint8, `word_colours` if None. top: words in the legend, the others together are its last line.
    """
    values = as_numpy(ids)
    if values.ndim != 2 or values.min() < 0 or values.max() >= len(words):
        raise ValueError(f"ids are (h, w) from 0 to {len(words) - 1}, these are {values.shape}, up to {values.max()}")
    palette = word_colours(words) if colours is None else as_numpy(colours)
    sure = np.ones(values.shape) if strength is None else np.clip(as_numpy(strength), 0, 1)
    paint = Image.fromarray(palette[values].astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    cover = Image.fromarray(np.rint(255 * opacity * sure).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    picture = Image.composite(paint, image.convert("RGB"), cover)
    shares = np.bincount(values.ravel(), sure.ravel() > 0, len(words)) / values.size
    return _with_legend(picture, shares, words, palette, top)


def _with_legend(
    picture: Image.Image, shares: np.ndarray, words: Sequence[str], palette: np.ndarray, top: int
) -> Image.Image:
    """shares: (K,) of the area."""
    order = [int(number) for number in np.argsort(-shares, kind="stable") if shares[number]]
    rest = shares[order[top:]].sum()
    lines = [(words[number], shares[number], tuple(palette[number].tolist())) for number in order[:top]]
    lines += [(f"{len(order) - top} other words", rest, (255, 255, 255))] if rest else []
    line, square = LABEL + 8, LABEL
    page = Image.new(
        "RGB", (picture.width, picture.height + 8 + line * (min(top, len(words)) + (len(words) > top))), "white"
    )
    page.paste(picture, (0, 0))
    pen = ImageDraw.Draw(page)
    for number, (word, share, colour) in enumerate(lines):
        y = picture.height + 8 + line * number
        pen.rectangle((0, y + 1, square, y + 1 + square), fill=colour, outline=GREY)
        pen.text((square + 8, y), word, INK, font_of(LABEL))
        pen.text((picture.width - 1, y), f"{100 * share:.0f} %", GREY, font_of(LABEL), anchor="ra")
    return page


def heat_map(values: Array, image: Image.Image, limit: float | None = None) -> Image.Image:
    """Signed values (h, w) laid over an image: red for, blue against, clear where they are zero.

    limit: the value of full colour, the largest there is if None; give one limit to pictures that are compared.
    """
    signed = as_numpy(values).astype(np.float64)
    if signed.ndim != 2:
        raise ValueError(f"a heat map is (h, w), this is {signed.shape}")
    share = np.clip(signed / (limit or np.abs(signed).max() or 1.0), -1, 1)
    colours = np.where(share[..., None] > 0, FOR, AGAINST).astype(np.uint8)
    paint = Image.fromarray(colours).resize(image.size, Image.Resampling.NEAREST)
    cover = Image.fromarray(np.rint(220 * np.abs(share)).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    grey = image.convert("L").convert("RGB")
    return Image.composite(paint, Image.blend(grey, image.convert("RGB"), 0.35), cover)
