"""Parse the size of an image, as 256 or 384x128. No torch here."""

import re

from sightword.errors import SightwordError


def size_of(text: str | int) -> tuple[int, int]:
    """Return (H, W) in pixels of "384x128", height first, or of "256", a square.

    Raises SightwordError for anything else.
    """
    found = re.fullmatch(r"(\d+)(?:[x×](\d+))?", str(text).strip())
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not min(size):
        raise SightwordError(f"size={text!r} is not a size. Pass 256 for a square, or height x width as 384x128")
    return size
