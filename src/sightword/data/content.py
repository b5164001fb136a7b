"""Items of a data set by their content: whatever their names, equal items are one.

Legend: N files.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

WHOLE = 2**20  # bytes of a file that is read whole
PIECES, PIECE = 16, 2**16  # of a larger one: so many pieces of so many bytes, evenly spaced, the first and the last too

KeyT = TypeVar("KeyT", bound=Hashable)


class Item(NamedTuple):
    """What a split of a data set is made of: an image, a recording, a scene."""

    name: str  # unique in its data set: a path below its root with slashes, or a name
    files: tuple[Path, ...] = ()  # the files that it is read from
    facts: str = ""  # what annotations say about it: labels, captions, a person
    content: str = ""  # a digest of its content, if it is not that of its files


def digest_of(files: Iterable[Path], facts: str = "") -> str:
    """Return 32 hexadecimal digits for the bytes of files, and a text.

    Of a file over 1 MiB, its size and 16 pieces of 64 KiB are digested. Raises OSError if a file cannot be read.
    """
    digest = hashlib.blake2b(facts.encode("utf-8", errors="surrogateescape"), digest_size=16)
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for number in range(PIECES):
                file.seek(number * (size - PIECE) // (PIECES - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def stamp_of(files: Iterable[Path]) -> str:
    """Return sizes and times of change of files, which tell cheaply that nothing changed. OSError if one is missing."""
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in map(os.stat, files))


def equal_files(paths: Sequence[Path]) -> list[int]:
    """Return for each of N files the number of the first that has the same bytes, a link to it included.

    Only files of equal size are read. A file that cannot be read equals no other.
    """
    sizes = [_size(path) for path in paths]
    times = Counter(sizes)
    keys: list[Hashable] = [
        number if size is None or times[size] == 1 else (size, _content(path))
        for number, (size, path) in enumerate(zip(sizes, paths, strict=True))
    ]
    return first_of(keys)


def first_of(keys: Sequence[KeyT]) -> list[int]:
    """Return for each key the number of the first that is equal."""
    first: dict[KeyT, int] = {}
    return [first.setdefault(key, number) for number, key in enumerate(keys)]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _content(path: Path) -> str:
    try:
        return digest_of([path])
    except OSError:
        return str(path)
