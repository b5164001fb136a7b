"""Colours of all figures, and the conversion of tensors to arrays."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Union

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


Array = Union[np.ndarray, "Tensor"]
Colour = tuple[int, int, int]  # red, green and blue, 0 to 255

INK, GREY, FAINT = "#24292f", "#6e7781", "#e6e8eb"
FOR, AGAINST = (214, 60, 40), (36, 98, 200)  # positive and negative contributions

# Colours of categories. Their smallest CIEDE2000 distance from each other, from OTHER and from white is 15 under
# simulated protanopia and deuteranopia, and 24 otherwise (tests/viz/test_style.py).
PALETTE = (
    "#002dc6",  # blue
    "#ca820e",  # ochre
    "#6d304f",  # plum
    "#097a50",  # green
    "#b51300",  # red
    "#e2db20",  # yellow
    "#00c3e2",  # cyan
    "#6084ff",  # light blue
    "#72c885",  # mint
    "#007387",  # teal
)
OTHER = "#8c8c8c"  # of all categories that have no colour


def category_colours(names: Iterable[str]) -> dict[str, Colour]:
    """Return the colours of the first ten names, given by rank; whatever has no colour is to be drawn as OTHER."""
    return dict(zip(dict.fromkeys(names), map(rgb, PALETTE), strict=False))


def legend_of(names: Sequence[str], kind: str) -> dict[str, Colour]:
    """Return the entries of a legend: `category_colours`, and if names are left, one like "3 other classes".

    names: different ones, by rank. kind: what they are, in the plural.
    """
    key = category_colours(names)
    others = len(names) - len(key)
    return key | ({f"{others} other {kind}": rgb(OTHER)} if others else {})


def rgb(colour: str) -> Colour:
    """Return the parts of a colour "#rrggbb"."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def as_numpy(values: Array) -> np.ndarray:
    """Return an array or a tensor of any device as an array; floating point tensors as float32."""
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()
