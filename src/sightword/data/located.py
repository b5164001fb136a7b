"""Where the images are that a file of labels or captions names, if nobody says so.

The file's own folder, those below it, then the folder above and those below that: the nearest that has any of them.
First by whole paths, then by their last parts, if these are unique. Absolute paths are below a folder that they share.
What was found is told, as it may be a copy.
"""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sightword.errors import MissingFileError, SightwordError

PROBED, FOLDERS = 20, 200  # images that are looked for, and folders that they are looked for in
#: Names of the field that says which image a record is of, in small letters.
IMAGE_FIELDS = (
    *("image", "file_name", "file_path", "img_path", "filepath", "path", "image_path", "filename", "image_name"),
)


class Located(NamedTuple):
    """Where the images of a file are."""

    folder: Path
    flat: bool = False  # by the last part of their paths
    found: bool = True  # whether any of those that were looked for is there

    def name(self, path: str) -> str:
        """Return the path of an image below the folder."""
        whole = PurePosixPath(path)
        if whole.is_absolute() and whole.is_relative_to(self.folder.as_posix()):
            return whole.relative_to(self.folder.as_posix()).as_posix()
        return whole.name if self.flat else path

    def __str__(self) -> str:
        if not self.found:
            return f"no image found in {self.folder} (images= names their folder)"
        return f"images in {self.folder}{' by the last part of their paths' if self.flat else ''}"


def locate(file: Path, paths: Sequence[str], given: Path | None = None, split: str = "") -> Located:
    """Return the folder that most of some images are found in: `given`, or one that is near the file.

    paths: as the file has them, with slashes. split: if the file is of one split; a folder whose name says it, too,
    counts more. Raises SightwordError if two folders that are equally near have different files of the same names, or
    if the given one does not exist.
    """
    probed = paths[:: max(1, len(paths) // PROBED)][:PROBED]
    if given is not None:
        if not given.is_dir():
            raise MissingFileError(f"images={given} is not a folder. Pass the folder that paths of images are below")
        exact, flat = (Located(given, way, _hits(Located(given, way), probed) > 0) for way in (False, True))
        return flat if _hits(flat, probed) > _hits(exact, probed) and _are_unique(paths) else exact
    if paths and all(PurePosixPath(path).is_absolute() for path in paths):
        place = Located(Path(os.path.commonpath([PurePosixPath(path).parent for path in paths])))
        if _hits(place, probed):
            return place
    for places, whole in _places(file, paths, split):
        best, most = places[0], 0
        for place in places:
            hits = _hits(place, probed)
            if hits and hits == most and not _are_alike(best, place, probed):
                raise SightwordError(
                    f"the images of {file} may be in {best.folder} or in {place.folder}: both have files of these "
                    "names. Pass images="
                )
            if hits > most:
                best, most = place, hits
        if most and (not whole or most == len(probed)):
            return best
    return Located(file.parent, False, False)


def most_found(file: Path, paths: Sequence[str]) -> int:
    """Return how many of some images are found at the best place in the file's own folder or directly below it."""
    probed = paths[:: max(1, len(paths) // PROBED)][:PROBED]
    near = [place for places, whole in _places(file, paths, "") if not whole for place in places]
    return max(_hits(place, probed) for place in near)


def _hits(place: Located, paths: Sequence[str]) -> int:
    return sum((place.folder / place.name(path)).is_file() for path in paths)


def _are_alike(one: Located, other: Located, paths: Sequence[str]) -> bool:
    """Return whether two places mean the same files."""
    pairs = [(one.folder / one.name(path), other.folder / other.name(path)) for path in paths]
    return all(not b.is_file() or (a.is_file() and a.samefile(b)) for a, b in pairs)


def _are_unique(paths: Sequence[str]) -> bool:
    return len({PurePosixPath(path).name for path in set(paths)}) == len(set(paths))


def _places(file: Path, paths: Sequence[str], split: str) -> list[tuple[list[Located], bool]]:
    """Return where images may be, the nearest first, and whether all that are looked for have to be found there."""
    own = file.parent
    below, beside = _folders(own, split), [own.parent, *_folders(own.parent, split)]
    ways = (False, True) if _are_unique(paths) else (False,)
    places = []
    for flat in ways:
        places += [([Located(own, flat)], False), ([Located(place, flat) for place in below], False)]
    places += [([Located(place, flat) for place in beside], True) for flat in ways]
    return [(some, whole) for some, whole in places if some]


def _folders(above: Path, split: str) -> list[Path]:
    """Return the folders in a folder; of a file whose name says a split only those that say it too, if there are."""
    found = [folder for folder in sorted(above.glob("*")) if folder.is_dir() and not folder.name.startswith(".")]
    said = [folder for folder in found if split and split in folder.name.lower()]
    return (said or found)[:FOLDERS]
