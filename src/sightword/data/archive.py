"""Files in tar archives, read where they lie: nothing is unpacked, and no name in an archive becomes a path on disk.

A file in an archive is named by a path below the archive's own, as `shards/00000.tar/000000001.jpg`.
"""

import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sightword.errors import MissingFileError, SightwordError

SUFFIX = ".tar"
LARGEST = 2**30  # bytes of one file in an archive


class Place(NamedTuple):
    """Where the bytes of a file in an archive are."""

    offset: int
    size: int


def archive_of(path: str | Path) -> tuple[Path, str] | None:
    """Return the archive and the name in it that a path means; None for any other path."""
    before, found, name = Path(path).as_posix().rpartition(f"{SUFFIX}/")
    return (Path(f"{before}{SUFFIX}"), name) if found and Path(f"{before}{SUFFIX}").is_file() else None


@cache
def read_index(archive: Path) -> Mapping[str, Place]:
    """Return the regular files of an archive that is not compressed, as name → place, in their order.

    Of several files of one name the last counts, as for tar itself. Raises SightwordError if it is damaged.
    """
    found = {}
    try:
        with tarfile.open(archive, "r:") as opened:
            for info in opened:
                if info.isreg() and not info.issparse():
                    found[info.name] = Place(info.offset_data, info.size)
    except FileNotFoundError:
        raise MissingFileError(f"{archive} does not exist") from None
    except (tarfile.TarError, OSError, ValueError) as error:
        told = "an archive that is compressed cannot be read by position: unpack its .gz first, keep the .tar"
        raise SightwordError(f"{archive} is not a whole tar archive ({error}). Fetch it again; {told}") from error
    last = max(found.values(), default=None)
    if last and last.offset + last.size > archive.stat().st_size:
        raise SightwordError(f"{archive} is cut short: its last file ends behind the archive's end. Fetch it again")
    return found


def is_there(path: Path) -> bool:
    """Return whether a path names a file, on disk or in an archive."""
    if path.is_file():
        return True
    inside = archive_of(path)
    return inside is not None and inside[1] in read_index(inside[0])


def read_member(archive: Path, name: str) -> bytes:
    """Return the bytes of a file in an archive. Raises SightwordError if there is none, or it is over 1 GiB."""
    place = read_index(archive).get(name)
    if place is None:
        raise MissingFileError(f"{archive} contains no file {name!r}")
    if place.size > LARGEST:
        raise SightwordError(f"{name!r} in {archive} has {place.size:,} bytes, at most {LARGEST:,} are read")
    with archive.open("rb") as opened:
        opened.seek(place.offset)
        return opened.read(place.size)
