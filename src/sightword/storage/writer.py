"""Write JSON that any reader accepts (UTF-8, null for numbers that are not finite) and PNGs that state their writer."""

import base64
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.errors import SightwordError, printable
from sightword.storage.atomic import write_atomically
from sightword.version import MARK, VERSION

if TYPE_CHECKING:
    from PIL.Image import Image


def write_json(file: str | Path, value: object, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Write a value of mappings, lists, texts, numbers and None. NaN and infinities become null.

    Raises SightwordError if the file cannot be written, for example on a full disk; an older file is then unchanged.
    Raises TypeError for a value of another type: that is a defect of the caller.
    """
    text = json.dumps(finite(value), indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair, as in a file's name that is not UTF-8, is written as JSON's own escape of it.
    raw = (text + "\n").encode("utf-8", errors="backslashreplace")
    try:
        with write_atomically(file) as part:
            part.write_bytes(raw)
    except OSError as error:
        raise SightwordError(printable(f"{file} cannot be written: {error.strerror or error}")) from error


def write_png(image: "Image", file: Path, origin: str = "", **options: int) -> None:
    """Write an image as PNG, atomically, with a text that says that this package wrote it: it is never read as data.

    origin: what the text says; empty: the version. options: of Pillow's PNG writer, as compress_level=1.
    """
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(MARK, origin or f"written by sightword {VERSION}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as part:
        image.save(part, "PNG", pnginfo=text, **options)


def png_data_uri(image: "Image") -> str:
    """Return an image as a data URI of a PNG, for the src of an <img> in HTML."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def finite(value: object) -> object:
    """Return the value with None in place of each float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
