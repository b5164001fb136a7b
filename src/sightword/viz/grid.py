"""Arrange images: grids, inputs above reconstructions, titled rows.

Legend: N images, H height, W width. Images are (N, 3, H, W) in [-1, 1], tensors on any device or arrays.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from sightword.viz.font import TITLE, cut, draw_text, length
from sightword.viz.style import GREY, INK, Array, as_numpy

WIDEST_TITLE = 240


def grid(images: Array, columns: int, pad: int = 2, scale: int = 1) -> Image.Image:
    """Draw images (N, 3, H, W) in rows of `columns` on white, `pad` pixels apart, each enlarged `scale` times."""
    tiles = _tiles(images, scale)
    columns = max(1, min(columns, len(tiles)))
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    page = Image.new("RGB", (columns * (width + pad) + pad, rows * (height + pad) + pad), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        page.paste(tile, (pad + column * (width + pad), pad + row * (height + pad)))
    return page


def pairs(
    inputs: Array,
    reconstructions: Array,
    columns: int,
    labels: tuple[str, str] = ("input", "reconstruction"),
    scale: int | None = None,
) -> Image.Image:
    """Draw each reconstruction below its input, both (N, 3, H, W), with the rows labelled at the left.

    scale: enlargement, a whole number; None enlarges small images to at least 64 pixels a side.
    """
    if inputs.shape != reconstructions.shape:
        raise ValueError(f"inputs are {tuple(inputs.shape)}, reconstructions {tuple(reconstructions.shape)}")
    scale = scale or max(1, math.ceil(64 / min(inputs.shape[-2:])))
    rows = [_tiles(images, scale) for images in (inputs, reconstructions)]
    width, height = rows[0][0].size
    columns = max(1, min(columns, len(rows[0])))
    blocks = math.ceil(len(rows[0]) / columns)

    margin, pad, gap = 12, 3, 14
    gutter = margin + math.ceil(max(map(length, labels))) + 8
    block = 2 * height + pad
    page = Image.new(
        "RGB",
        (gutter + columns * (width + pad) - pad + margin, 2 * margin + blocks * (block + gap) - gap),
        "white",
    )
    pen = ImageDraw.Draw(page)
    for which, tiles in enumerate(rows):
        for number, tile in enumerate(tiles):
            at, column = divmod(number, columns)
            top = margin + at * (block + gap) + which * (height + pad)
            page.paste(tile, (gutter + column * (width + pad), top))
            if column == 0:
                draw_text(pen, (gutter - 8, top + height / 2), labels[which], GREY, anchor="rm")
    return page


def titled(images: Mapping[str, Image.Image], gap: int = 16, columns: int = 0) -> Image.Image:
    """Draw images side by side on white, each below its title, `gap` pixels apart, tops aligned.

    A title wider than its image widens the column, up to `WIDEST_TITLE` pixels. columns: images in a row; 0: all.
    """
    shown = list(images.items())
    step = columns or len(shown)
    rows = [_titled_row(shown[start : start + step], gap) for start in range(0, len(shown), step)]
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height + gap for row in rows) - gap), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height + gap
    return page


def _titled_row(images: Sequence[tuple[str, Image.Image]], gap: int) -> Image.Image:
    above = 24
    titles = [cut(title, max(image.width, WIDEST_TITLE), TITLE) for title, image in images]
    widths = [
        max(image.width, math.ceil(length(title, TITLE))) for title, (_, image) in zip(titles, images, strict=True)
    ]
    height = above + max(image.height for _, image in images)
    page = Image.new("RGB", (sum(widths) + gap * (len(images) - 1), height), "white")
    pen, left = ImageDraw.Draw(page), 0
    for title, (_, image), width in zip(titles, images, widths, strict=True):
        draw_text(pen, (left, 0), title, INK, TITLE)
        page.paste(image, (left, above))
        left += width + gap
    return page


def _tiles(images: Array, scale: int) -> list[Image.Image]:
    """Return one PIL image per image (N, 3, H, W) of [-1, 1], enlarged; NaN as 0, other values clamped."""
    pixels = as_numpy(images)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) == 0:
        raise ValueError(f"images are (N, 3, H, W) with N at least 1, these are {pixels.shape}")
    eight = np.rint((np.clip(np.nan_to_num(pixels.astype(np.float32)), -1, 1) + 1) * 127.5).astype(np.uint8)
    eight = eight.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)  # (N, H, W, 3)
    return [Image.fromarray(np.ascontiguousarray(tile)) for tile in eight]
