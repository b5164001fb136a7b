"""Overlays on an image: maps of codes, of classes, and of signed values.

Legend: K codes or classes; h, w tokens per side. Arrays, or tensors on any device.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sightword.viz.style import AGAINST, FOR, GREY, INK, LABEL, Array, as_numpy, font_of


def code_colours(ids: np.ndarray) -> np.ndarray:
    """Return a colour for each code, ids (…) → (…, 3) uint8: a fixed one per id, dissimilar for neighbouring ids.

    Hue, lightness and chroma advance by three irrational steps (a generalised golden ratio), so the first K ids are
    spread evenly for any K. The colours are in OKLCH, where equal steps look equal (Björn Ottosson, 2020). Its ranges
    barely leave sRGB, so no two of the first 1024 codes are clipped to the same colour.
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
    """Draw ids (h, w) of [0, K) as squares, each id in its own colour (`code_colours`).

    scale: pixels per token. size: (width, height) of the whole figure instead, such as that of the encoded image.
    """
    values = as_numpy(ids)
    if values.ndim != 2:
        raise ValueError(f"a map of codes is (h, w), this is {values.shape}")
    if values.min() < 0 or values.max() >= num_codes:
        raise ValueError(f"ids run from {values.min()} to {values.max()}, the codebook has {num_codes} codes")
    small = Image.fromarray(code_colours(values))
    return small.resize(size or (small.width * scale, small.height * scale), Image.Resampling.NEAREST)


def word_colours(words: Sequence[str]) -> np.ndarray:
    """Return a colour for each word, (K, 3) uint8. A word has the same colour in every figure."""
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
    """Draw a class map over an image: the colour of each patch's word, and below a legend with fractions of the area.

    ids: (h, w), indices into `words`. strength: (h, w) in [0, 1], confidence; where it is low the image shows through,
    and where it is 0 the legend does not count the patch. colours: (K, 3) uint8, `word_colours` if None.
    top: number of words in the legend; its last line sums up all others.
    """
    values = as_numpy(ids)
    if values.ndim != 2 or values.min() < 0 or values.max() >= len(words):
        raise ValueError(f"ids are (h, w) from 0 to {len(words) - 1}, these are {values.shape}, up to {values.max()}")
    palette = word_colours(words) if colours is None else as_numpy(colours)
    sure = np.ones(values.shape) if strength is None else np.clip(as_numpy(strength), 0, 1)
    paint = Image.fromarray(palette[values].astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    cover = Image.fromarray(np.rint(255 * opacity * sure).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    painted = Image.composite(paint, image.convert("RGB"), cover)
    shares = np.bincount(values.ravel(), sure.ravel() > 0, len(words)) / values.size
    return _with_legend(painted, shares, words, palette, top)


def _with_legend(
    image: Image.Image, shares: np.ndarray, words: Sequence[str], palette: np.ndarray, top: int
) -> Image.Image:
    """Return the image with a legend below. shares: (K,) fractions of the area. palette: (K, 3) uint8."""
    order = [int(number) for number in np.argsort(-shares, kind="stable") if shares[number]]
    rest = shares[order[top:]].sum()
    lines = [(words[number], shares[number], tuple(palette[number].tolist())) for number in order[:top]]
    lines += [(f"{len(order) - top} other words", rest, (255, 255, 255))] if rest else []
    line, square = LABEL + 8, LABEL
    # as high as the longest legend, so that maps of the same words have the same size
    page = Image.new(
        "RGB", (image.width, image.height + 8 + line * (min(top, len(words)) + (len(words) > top))), "white"
    )
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    for number, (word, share, colour) in enumerate(lines):
        y = image.height + 8 + line * number
        pen.rectangle((0, y + 1, square, y + 1 + square), fill=colour, outline=GREY)
        pen.text((square + 8, y), word, INK, font_of(LABEL))
        pen.text((image.width - 1, y), f"{100 * share:.0f} %", GREY, font_of(LABEL), anchor="ra")
    return page


def heat_map(values: Array, image: Image.Image, limit: float | None = None) -> Image.Image:
    """Draw signed values (h, w) over an image: red positive, blue negative, transparent at zero.

    limit: absolute value of the full colour; None takes the largest of this figure. Give figures that are compared the
    same limit.
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
