"""The formats that are read, how one is recognised, and which files are a recording."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from sightword.errors import MissingFileError, SightwordError
from sightword.systems.skeleton.formats import (
    alphapose,
    array,
    coco,
    kinect,
    kpfiles,
    mediapipe,
    mhad,
    mmpose,
    ntu,
    openpose,
    yolo,
)
from sightword.systems.skeleton.formats.format import Format, Source, read_start
from sightword.systems.skeleton.formats.frame import split_number

FORMATS: tuple[Format, ...] = (  # what is recognised by less comes later
    openpose.FORMAT,
    alphapose.FORMAT,
    coco.FORMAT,
    mmpose.VIDEO,
    mmpose.IMAGES,
    mediapipe.FORMAT,
    yolo.FORMAT,
    ntu.FORMAT,
    kinect.FORMAT,
    mhad.FORMAT,
    kpfiles.FORMAT,
    array.FORMAT,
)
NAMES = tuple(made.name for made in FORMATS)
SUFFIXES = {suffix for made in FORMATS for suffix in made.suffixes}
LOOKED_AT, MOST_LOOKED_AT = 10, 20_000  # files of each folder by which they are recognised; of all folders
MOST_FILES = 2_000_000  # of a folder


def format_named(name: str) -> Format:
    """Return a format by its name. Raises SightwordError, which lists the names."""
    for made in FORMATS:
        if made.name == name:
            return made
    raise SightwordError(f"format={name!r} is not a format. Pass one of {', '.join(NAMES)}, or leave it out")


def recognise_format(path: Path) -> Format | None:
    """Return the format of a file, or of the files in a folder, by their content; None for one that is not known.

    Raises SightwordError for a folder with files of several formats.
    """
    if path.is_file():
        start = read_start(path)
        return next((made for made in FORMATS if made.recognises(start)), None)
    found: dict[str, Path] = {}
    seen = Counter[Path]()
    for file in islice(_files(path), MOST_LOOKED_AT):
        seen[file.parent] += 1
        if seen[file.parent] <= LOOKED_AT and (made := recognise_format(file)):
            found.setdefault(made.name, file)
    if len(found) > 1:
        told = ", ".join(f"{name} ({file.relative_to(path)})" for name, file in found.items())
        raise SightwordError(f"{path} has files of several formats: {told}. Choose by format=, or a folder of one")
    return format_named(next(iter(found))) if found else None


def refuse_foreign(path: Path) -> None:
    """Raise SightwordError, with the command that converts it, if a file or folder is of one of the formats."""
    if made := recognise_format(path):
        needs = " size=<height>x<width>" if made.unsized else ""
        typed = shlex.join([f"annotations={path}", f"out={path.stem or 'annotations'}.pkl"])
        raise SightwordError(
            f"{path} is {made.what}, not annotations in pyskl's form. Convert it: sightword convert {typed}{needs}"
        )


def sources(path: Path, made: Format) -> tuple[list[Source], list[Path]]:
    """Return the recordings of a file or folder, in order, and the files of such a suffix that are none.

    Of a folder each file is a recording, named by its path in it without the suffix. Where a file is a frame, those of
    a folder and a stem are one.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else [file for file in _files(path) if file.suffix.lower() in made.suffixes]
    if made.frames and path.is_file():
        raise SightwordError(f"{path} is one frame. Pass the folder of the frames: {path.parent}")
    if made.frames:
        found, other = _grouped(files, root, made)
    else:
        known = [file for file in files if path.is_file() or made.recognises(read_start(file))]
        found = [Source(file.relative_to(root).with_suffix("").as_posix(), (file,)) for file in known]
        other = sorted(set(files) - set(known))
    if not found:
        raise SightwordError(f"{path} has no files of the format {made.name}, {made.what}")
    return found, other


def _grouped(files: Sequence[Path], root: Path, made: Format) -> tuple[list[Source], list[Path]]:
    """Recordings of files that are a frame each, in the order of the frames' numbers."""
    groups: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
    other: list[Path] = []
    for file in files:
        if not file.stem.endswith(made.stem) or (number := split_number(file.stem.removesuffix(made.stem)))[1] is None:
            other.append(file)
        else:
            groups.setdefault((file.parent, number[0]), []).append((number[1], file))
    found = []
    alone = Counter(folder for folder, _ in groups)
    for (folder, stem), numbered in groups.items():
        name = folder.relative_to(root).as_posix()
        parts = [] if name == "." else [name]
        if alone[folder] > 1 or not parts:  # the stem tells recordings of one folder apart
            parts.append(stem.strip("_-. ") or (root.resolve().name if not parts else "frames"))
        if len({number for number, _ in numbered}) < len(numbered):
            raise SightwordError(f"{folder}: several files of {stem or 'one stem'} have the same number of a frame")
        found.append(Source("/".join(parts), tuple(file for _, file in sorted(numbered))))
    return found, other


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder whose suffix may be one of a format, in order. Links to folders are not followed."""
    count = 0
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                count += 1
                if count > MOST_FILES:
                    raise SightwordError(f"{folder} has more than {MOST_FILES:,} files. Convert its folders one by one")
                yield Path(here, name)
