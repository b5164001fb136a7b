"""Items of a data set by their content: whatever their names, equal items are one.

Legend: N files.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

WHOLE = 2**20  # bytes of a file that is read whole
PIECES, PIECE = 16, 2**16  # of a larger one: so many pieces of so many bytes, evenly spaced, the first and the last too


class Item(NamedTuple):
    """What a split of a data set is made of: an image, a recording, a scene."""

    name: str  # unique in its data set: a path below its root with slashes, or a name
    files: tuple[Path, ...] = ()  # the files that it is read from
    facts: str = ""  # what annotations say about it: labels, captions, a person
    content: str = ""  # a digest of its content, if it is not that of its files


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """Return paths below the deepest folder that they share, with slashes: the same wherever a data set lies."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    shared = os.path.commonpath(folders) if folders else ""
    return [Path(os.path.abspath(path)).relative_to(shared).as_posix() for path in paths]


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

    A file that cannot be read, or is empty, equals no other.
    """
    copies, links = doubles_of(paths)
    first = {path: group[0] for group in links for path in group}
    alike = {path: group[0] for group in copies for path in group}
    number = {path: at for at, path in reversed(list(enumerate(paths)))}
    places = (first.get(path, path) for path in paths)
    return [number[alike.get(place, place)] for place in places]


def doubles_of(paths: Sequence[Path]) -> tuple[list[list[Path]], list[list[Path]]]:
    """Return groups of files with equal bytes, and groups of links to one file. Reads only files of equal size.

    Of a group of links, only the first is among the files with equal bytes.
    """
    places = _grouped(paths, _place)
    links = [group for group in places if len(group) > 1]
    sizes = _grouped([group[0] for group in places], os.path.getsize)
    same = [group for group in sizes if len(group) > 1 and os.path.getsize(group[0])]  # an empty file is unreadable
    copies = [group for size in same for group in _grouped(size, _bytes) if len(group) > 1]
    return copies, links


def _grouped(paths: Iterable[Path], key: Callable[[Path], object]) -> list[list[Path]]:
    """Return the files that exist, in groups of equal keys, in their order."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            groups[key(path)].append(path)
        except OSError:
            continue
    return list(groups.values())


def _place(path: Path) -> object:
    stat = path.stat()
    return (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.realpath(path)


def _bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).digest()
