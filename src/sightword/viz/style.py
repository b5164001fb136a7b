"""Colours, fonts and text of all figures, and the conversion of tensors to arrays."""

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
SMOOTH = 3  # charts are drawn so many times too large, then reduced


def as_numpy(values: Array) -> np.ndarray:
    """Return an array or a tensor of any device as an array; floating point tensors as float32."""
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


FOR, AGAINST = (214, 60, 40), (36, 98, 200)  # positive and negative contributions, RGB


def cut(text: str, width: float, size: int = LABEL) -> str:
    """Return the text, shortened with an ellipsis to at most `width` pixels. size: of the font, in pixels."""
    font = font_of(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def slanted_text(text: str) -> Image.Image:
    """Return an image of the text, turned by 50 degrees, on white."""
    line = Image.new("RGB", (round(font_of(LABEL).getlength(text)) + 2, LABEL + 4), "white")
    ImageDraw.Draw(line).text((0, 0), text, INK, font_of(LABEL))
    return line.rotate(50, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def inverse(value: int) -> int:
    """Return the inverse of an 8-bit grey value."""
    return 255 - value


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return PIL's own font in a size in pixels."""
    return ImageFont.load_default(size=size)
