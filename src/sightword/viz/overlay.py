"""Overlays on an image: maps of codes, of classes, and of signed values.

Legend: K codes or classes; h, w tokens per side. Arrays, or tensors on any device.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw

from sightword.viz.font import LABEL, cut, draw_text
from sightword.viz.style import AGAINST, FOR, GREY, INK, OTHER, Array, Colour, as_numpy, category_colours, rgb


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


def areas(ids: Array, words: Sequence[str], strength: Array | None = None) -> dict[str, float]:
    """Return the fraction of the area of each word, the largest first; words without area are left out.

    ids: (h, w), indices into `words`. strength: (h, w); patches of strength 0 do not count.
    """
    values = as_numpy(ids)
    if values.ndim != 2 or values.min() < 0 or values.max() >= len(words):
        raise ValueError(f"ids are (h, w) from 0 to {len(words) - 1}, these are {values.shape}, up to {values.max()}")
    counted = None if strength is None else as_numpy(strength).ravel() > 0
    shares = np.bincount(values.ravel(), counted, len(words)) / values.size
    return {words[number]: float(shares[number]) for number in np.argsort(-shares, kind="stable") if shares[number]}


def shared_colours(panels: Sequence[Mapping[str, float]], top: int = 5) -> dict[str, Colour]:
    """Return the colours of the `top` words of each panel of a figure, so that a word has one colour in all of them.

    panels: `areas` of each. Ten words at most have a colour, those with the most area in all panels.
    """
    total: Counter[str] = Counter()
    for panel in panels:
        total.update(dict(islice(panel.items(), top)))
    return category_colours(word for word, _ in total.most_common())


def class_map(
    ids: Array,
    words: Sequence[str],
    image: Image.Image,
    strength: Array | None = None,
    colours: Mapping[str, Colour] | None = None,
    top: int = 5,
    opacity: float = 0.65,
) -> Image.Image:
    """Draw a class map over an image: the colour of each patch's word, and below a legend with fractions of the area.

    ids: (h, w), indices into `words`. strength: (h, w) in [0, 1], confidence; where it is low the image shows through,
    and where it is 0 the legend does not count the patch. colours: word → colour, such as `shared_colours`; None gives
    colours to the `top` words. All other words are one grey, and the last line of the legend.
    """
    shares = areas(ids, words, strength)
    given = shared_colours([shares], top) if colours is None else colours
    palette = np.array([given.get(word, rgb(OTHER)) for word in words], np.uint8)
    values = as_numpy(ids)
    sure = np.ones(values.shape) if strength is None else np.clip(as_numpy(strength), 0, 1)
    paint = Image.fromarray(palette[values]).resize(image.size, Image.Resampling.NEAREST)
    cover = Image.fromarray(np.rint(255 * opacity * sure).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    painted = Image.composite(paint, image.convert("RGB"), cover)
    named = min(top, len(words)) if colours is None else len(given.keys() & set(words))
    # as high as the longest legend, so that maps of the same words have the same size
    return _with_legend(painted, shares, given, named + (len(words) > named))


def _with_legend(
    image: Image.Image, shares: Mapping[str, float], colours: Mapping[str, Colour], rows: int
) -> Image.Image:
    """Return the image with a legend of so many rows below. shares: fractions of the area, largest first."""
    lines = [(word, share, colours[word]) for word, share in shares.items() if word in colours]
    others = [share for word, share in shares.items() if word not in colours]
    lines += [(f"{len(others)} other word{'s' * (len(others) > 1)}", sum(others), rgb(OTHER))] if others else []
    line, square = LABEL + 8, LABEL
    page = Image.new("RGB", (image.width, image.height + 8 + line * rows), "white")
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    for number, (word, share, colour) in enumerate(lines):
        y = image.height + 8 + line * number
        pen.rectangle((0, y + 1, square, y + 1 + square), fill=colour, outline=GREY)
        draw_text(pen, (square + 8, y), cut(word, image.width - square - 52), INK)
        draw_text(pen, (image.width - 1, y), f"{100 * share:.0f} %", GREY, anchor="ra")
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
