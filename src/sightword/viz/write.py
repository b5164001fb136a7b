"""Write figures to files, with the plotted values beside them."""

from pathlib import Path
from typing import TYPE_CHECKING

from sightword.storage.writer import write_json, write_png

if TYPE_CHECKING:
    from PIL.Image import Image


def write_picture(picture: "Image", file: Path, values: object = None) -> list[Path]:
    """Write a figure as PNG and, if given, the plotted values as JSON beside it. Return the files."""
    write_png(picture, file)
    if values is None:
        return [file]
    write_json(file.with_suffix(".json"), values, indent=1)
    return [file, file.with_suffix(".json")]
