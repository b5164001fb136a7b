"""Parse the size of an image, as 256 or 384x128, height first. No torch here."""

import re

from sightword.errors import SightwordError

LISTED = "one side, 256, or height x width, 384x128"


def read_size(text: str) -> int | tuple[int, int]:
    """Return one side in pixels, of "256", or (H, W), of "384x128". Raises SightwordError for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})(?:[x×]([0-9]{1,6}))?", text)
    if not found or not int(found[1]) or (found[2] and not int(found[2])):
        raise SightwordError(f"{text!r} is not a size in pixels. Pass {LISTED}")
    return (int(found[1]), int(found[2])) if found[2] else int(found[1])


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return a size as (height, width)."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: int | tuple[int, int]) -> str:
    """Return a size as it is typed: 256, or 384x128."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
