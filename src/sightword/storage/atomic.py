"""Atomic writes: write a temporary file in the same folder, flush, rename."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WINDOWS = os.name == "nt"


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; if the block ends without an error, rename it to `path`.

    After an error `path` is as it was.

    with write_atomically("notes.txt") as beside:
        beside.write_text("…")

    Raises OSError with the name `path`, for example on a full disk. For tensors use `checkpoint.write_weights`.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # by the umask; some writers (safetensors) would give access to the owner only
        yield beside
        beside.chmod(mode)
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)  # the rename itself
    except OSError as error:
        # the error has no file name, or that of the temporary file: give the name that the user knows
        if error.errno is None or error.filename not in (None, str(beside), beside):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file or folder to the disk. Windows flushes no folder, and a file only if it is open for writing."""
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
