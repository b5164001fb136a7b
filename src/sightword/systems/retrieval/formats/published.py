"""The three published data sets of persons and captions, in their own formats.

Each has one JSON file, a list with one record per image. A record states its split; the folders do not.

    cuhk_pedes   CUHK-PEDES/reid_raw.json        split, captions, file_path below imgs/, id from 1            Li 2017
    icfg_pedes   ICFG-PEDES/ICFG-PEDES.json      the same, one caption, id from 0, no validation split        Ding 2021
    rstpreid     RSTPReid/data_captions.json     split, captions (two), img_path below imgs/, id from 0       Zhu 2021

Any other data set in one of these formats is read too, by `split`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sightword.storage.fields import Fields
from sightword.systems.retrieval.config import PUBLISHED


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


def instead(root: Path, dataset: str) -> str:
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


def foreign(entry: Fields, name: str, dataset: str) -> str:
    """A hint for the message: which data set the record may be of."""
    if name == "split" and "file_path" in entry:
        return " (as in caption_all.json, which is not the file with splits)"
    others = [other for other, layout in FORMATS.items() if other != dataset and layout.path in entry]
    return f" (as in dataset={others[0]})" if others and name == FORMATS[dataset].path else ""
