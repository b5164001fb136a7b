"""Three published data sets of persons and captions, read in their own formats.

Each has one JSON file, a list with one record per image. A record states its split; the folders do not.

    cuhk_pedes   CUHK-PEDES/reid_raw.json        split, captions, file_path below imgs/, id from 1            Li 2017
    icfg_pedes   ICFG-PEDES/ICFG-PEDES.json      the same, one caption, id from 0, no validation split        Ding 2021
    rstpreid     RSTPReid/data_captions.json     split, captions (two), img_path below imgs/, id from 0       Zhu 2021

Any other data set in one of these formats is read too; other formats are in `formats`.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json_list
from sightword.systems.retrieval.config import PUBLISHED
from sightword.systems.retrieval.record import SPLITS, Listing, Record

USUAL_PATH = re.compile(r"[\w\-.]+(/[\w\-.]+)*", re.ASCII)


class Format(NamedTuple):
    """How a data set is published."""

    folder: str
    files: tuple[str, ...]  # names of the JSON file; the first is the usual one
    path: str  # the field with the image's path below imgs/
    published: Mapping[str, tuple[int, int, int]]  # split → identities, images, captions


FORMATS: Mapping[str, Format] = {
    "cuhk_pedes": Format(
        "CUHK-PEDES",
        ("reid_raw.json",),
        "file_path",
        {"train": (11003, 34054, 68126), "val": (1000, 3078, 6158), "test": (1000, 3074, 6156)},
    ),
    "icfg_pedes": Format(
        "ICFG-PEDES",
        ("ICFG-PEDES.json", "ICFG_PEDES.json"),
        "file_path",
        {"train": (3102, 34674, 34674), "test": (1000, 19848, 19848)},
    ),
    "rstpreid": Format(
        "RSTPReid",
        ("data_captions.json",),
        "img_path",
        {"train": (3701, 18505, 37010), "val": (200, 1000, 2000), "test": (200, 1000, 2000)},
    ),
}
assert tuple(FORMATS) == PUBLISHED


def annotation_file(root: str | Path, dataset: str) -> Path:
    """Return the JSON file of a data set. Raises SightwordError that names what the folder has instead."""
    if dataset not in FORMATS:
        raise SightwordError(f"dataset={dataset!r} is none of {', '.join(FORMATS)}")
    if not str(root):
        raise SightwordError("data.root is not set. Pass the folder with imgs/ and the JSON file, or the one above it")
    layout, root = FORMATS[dataset], Path(root).expanduser()
    for folder in (root, root / layout.folder):
        for name in layout.files:
            if (folder / name).is_file():
                return folder / name
    raise SightwordError(
        f"{root} has no {' or '.join(layout.files)}, nor has {layout.folder} in it{_instead(root, dataset)}. Set "
        "data.root to the folder that has this file and imgs/"
    )


def image_folder(file: Path) -> Path:
    """Return the folder with the images of a data set. file: its JSON file."""
    return file.parent / "imgs"


def _instead(root: Path, dataset: str) -> str:
    """A hint for the message: which other file the folder has."""
    for other, layout in FORMATS.items():
        for name in layout.files:
            if other != dataset and ((root / name).is_file() or (root / layout.folder / name).is_file()):
                return f" (it has {name}, which is dataset={other})"
    for folder in (root, root / FORMATS[dataset].folder):
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        if "caption_all.json" in names:
            return " (it has caption_all.json, which has no splits and is not the file that results are reported on)"
        if names:
            return f" (it has {', '.join(names[:3])})"
    return "" if root.exists() else " (the folder does not exist)"


# ------------------------------------------------------------------------------------------------------------ records


def read_listing(root: str | Path, dataset: str) -> Listing:
    """Return all records of a data set, and an error for each that cannot be read.

    Raises SightwordError if the file is missing or of another data set, or no record can be read.
    """
    file = annotation_file(root, dataset)
    entries, records, problems = read_json_list(file), [], []
    if not len(entries):
        raise SightwordError(f"{file} is an empty list: expected a list of records, one an image")
    for number, values in enumerate(entries.plain()):
        try:
            record = _usual_record(values, FORMATS[dataset].path) or read_record(entries.mapping(number), dataset)
        except SightwordError as error:
            problems.append(error)
            continue
        records.append(record._replace(place=f"[{number}]."))
    if not records:
        raise problems[0]
    return Listing(file, image_folder(file), records, tuple(problems))


def _usual_record(values: object, path_field: str) -> Record | None:
    """The record of ASCII values of the right types, five times as fast as `read_record`; None for any other."""
    if not isinstance(values, dict):
        return None
    path, captions, id_, split = (values.get(name) for name in (path_field, "captions", "id", "split"))
    if not (isinstance(path, str) and isinstance(captions, list) and split in SPLITS and type(id_) is int):
        return None
    if not (0 <= id_ < 2**63 and USUAL_PATH.fullmatch(path) and ".." not in path):
        return None
    kept = [caption.strip() for caption in captions if isinstance(caption, str) and caption.isascii()]
    if len(kept) < len(captions) or not all(kept):
        return None
    return Record(split, id_, path, kept, 0)


def read_record(entry: Fields, dataset: str) -> Record:
    """Return one record in the data set's format; captions without a word are counted and left out."""
    for name in (FORMATS[dataset].path, "captions", "id", "split"):
        if name not in entry:
            raise entry.error(f"is missing{_foreign(entry, name, dataset)}; there are {', '.join(entry)}", name)
    path = _path(entry, FORMATS[dataset].path)
    captions = entry.texts("captions")
    id_ = entry.integer("id", least=0, most=2**63 - 1)
    split = entry.text("split")
    kept = [caption.strip() for caption in captions if caption.strip()]
    return Record(split, id_, path, kept, len(captions) - len(kept))


def _path(entry: Fields, name: str) -> str:
    """Below imgs/, whatever slashes it was written with."""
    path = entry.text(name)
    parts = PurePosixPath(path.replace("\\", "/"))
    if not path or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise entry.error(f"{path!r} is not a path below imgs/", name)
    return parts.as_posix()


def _foreign(entry: Fields, name: str, dataset: str) -> str:
    """A hint for the message: which data set the record may be of."""
    if name == "split" and "file_path" in entry:
        return " (as in caption_all.json, which is not the file with splits)"
    others = [other for other, layout in FORMATS.items() if other != dataset and layout.path in entry]
    return f" (as in dataset={others[0]})" if others and name == FORMATS[dataset].path else ""
