"""Colours, fonts and text that all pictures share, and the way from a tensor to an array."""

from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor


Array = Union[np.ndarray, "Tensor"]
Point = tuple[float, float]

INK, GREY, FAINT = "#24292f", "#6e7781", "#e6e8eb"
LINES = ("#2f6fde", "#e0672b", "#2b9b6b", "#a64fc4", "#c98a00", "#d6336c", "#0f8ea8", "#7a5c3e")
LABEL, TITLE = 12, 14  # text sizes in pixels
SMOOTH = 3  # how many times too large charts are drawn


def as_numpy(values: Array) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


FOR, AGAINST = (214, 60, 40), (36, 98, 200)  # what speaks for something, and against it


def cut(text: str, width: float, size: int = LABEL) -> str:
    """The text, or as much of its beginning as fits into `width` pixels, and an ellipsis. size: of the letters."""
    font = font_of(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def slanted_text(text: str) -> Image.Image:
    line = Image.new("RGB", (round(font_of(LABEL).getlength(text)) + 2, LABEL + 4), "white")
    ImageDraw.Draw(line).text((0, 0), text, INK, font_of(LABEL))
    return line.rotate(50, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def inverse(value: int) -> int:
    return 255 - value


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
