"""Whole files or none: write beside, flush, rename."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Write to the path given; when the block ends well it is on disk under its name, otherwise nothing has changed.

    with write_atomically("notes.txt") as beside:
        beside.write_text("…")

    Raises OSError with the name of the file, as on a full disk. Tensors are written by `checkpoint.write_weights`.
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
    except OSError as error:
        # a write that fails has no name in it, or that of the file beside: name the one that the user knows
        if error.errno is None or error.filename not in (None, str(beside), beside):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
