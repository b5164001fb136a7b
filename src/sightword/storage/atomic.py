"""Whole files or none: write beside, flush, rename."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Write to the path given; when the block ends well it is on disk under its name, otherwise nothing has changed.

    with write_atomically("model.safetensors") as beside:
        save_file(weights, beside)
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # what the umask gives; some writers (safetensors) would keep all others out
        yield beside
        beside.chmod(mode)
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)  # the rename itself
    finally:
        beside.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_picture(picture: "Image", file: Path, twin: Any = None) -> list[Path]:
    """Write a picture as PNG and, beside it, what it shows as JSON. The files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as part:
        picture.save(part, "PNG")
    if twin is None:
        return [file]
    with write_atomically(file.with_suffix(".json")) as part:
        part.write_text(json.dumps(twin, indent=1) + "\n", encoding="utf-8")
    return [file, file.with_suffix(".json")]
