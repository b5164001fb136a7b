"""Three published data sets of persons and captions, read in their own formats, with the VQ ids of their images.

Each has one JSON file, a list with one record per image. A record states its split; the folders do not.

    cuhk_pedes   CUHK-PEDES/reid_raw.json        split, captions, file_path below imgs/, id from 1            Li 2017
    icfg_pedes   ICFG-PEDES/ICFG-PEDES.json      the same, one caption, id from 0, no validation split        Ding 2021
    rstpreid     RSTPReid/data_captions.json     split, captions (two), img_path below imgs/, id from 0       Zhu 2021

Any other data set in one of these formats is read too. Legend: M images, C captions of a split; h·w ids of an image.
"""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import torch
from torch import Tensor

from sightword.data.content import Item
from sightword.data.finding import Finding
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.fields import Fields, Items
from sightword.storage.reader import read_json_list
from sightword.systems.retrieval.config import DATASETS
from sightword.towers.vq.ids import IdCache, View, tokenize_command

SPLITS = ("train", "val", "test")
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
assert tuple(FORMATS) == DATASETS


class Split(NamedTuple):
    """The images of a split and their captions, in the order of the file."""

    name: str
    images: list[Path]  # M
    pids: np.ndarray  # (M,) int64: in train 0 to P - 1, without gaps and in the order of the file's ids; else as read
    captions: list[str]  # C
    caption_image: np.ndarray  # (C,) int64, the row of `images` that a caption describes

    @property
    def caption_pids(self) -> np.ndarray:
        """The person of each caption, (C,) int64."""
        return self.pids[self.caption_image]


class Record(NamedTuple):
    """One image, as published."""

    split: str  # as written; train, val or test in what `read_records` returns
    id: int
    path: str  # below imgs/, with slashes
    captions: list[str]  # without the blank ones
    blank: int  # captions without a word


# ------------------------------------------------------------------------------------------------------------ a split


def read_pedes(root: str | Path, dataset: str, split: str, hold_out: int = 100, names: Names | None = None) -> Split:
    """Return one split: train, val or test.

    root: the folder with imgs/ and the JSON file, or the folder above it.
    hold_out: if the file has no validation split, this many of its training identities become it: always the same
    ones, whatever the run's seed, and none of them is in train.
    names: the images of each split that are used, as paths below imgs/; None or a missing split: all.
    Raises SightwordError if a file is missing, damaged or of another data set, and if images are missing.
    """
    if split not in SPLITS:
        raise SightwordError(f"split={split!r} is none of {', '.join(SPLITS)}")
    file = annotation_file(root, dataset)
    records = read_records(file, dataset)
    for finding in find_misfits(records) if split != "val" else []:  # a training reads val and train: said once
        shards.say(f"{finding.level}: {finding}")
    records = _of_split(records, split, hold_out, names or {})
    check = f"sightword check dataset={dataset} root={root}"
    if not records:
        raise SightwordError(f"{file} has no record of split {split}. {check} counts what there is")
    found = _split(split, records, image_folder(file))
    if missing := [path for path in found.images if not path.is_file()]:
        raise SightwordError(
            f"{len(missing)} of {len(found.images)} images of {split} are missing, the first is {missing[0]}. {check} "
            "names all of them"
        )
    return found


def _of_split(records: Sequence[Record], split: str, hold_out: int, names: Names) -> list[Record]:
    if split in names:
        used = set(names[split])
        sides = {split} if split == "test" or _has_validation(records) else {"train"}
        return [record for record in records if record.split in sides and record.path in used]
    divided = records if split == "test" else held_out(records, hold_out)
    return [record for record in divided if record.split == split]


def items(root: str | Path, dataset: str, splits: Sequence[str], hold_out: int = 100) -> dict[str, list[Item]]:
    """Return the images of some splits that exist, with their persons and captions as facts."""
    file = annotation_file(root, dataset)
    folder, records = image_folder(file), read_records(file, dataset)
    return {
        split: [
            Item(record.path, (folder / record.path,), "\n".join([str(record.id), *record.captions]))
            for record in _of_split(records, split, hold_out, {})
            if (folder / record.path).is_file()
        ]
        for split in splits
    }


def has_validation(root: str | Path, dataset: str) -> bool:
    """Return whether the file of a data set states a validation split."""
    return _has_validation(read_records(annotation_file(root, dataset), dataset))


def _has_validation(records: Sequence[Record]) -> bool:
    return any(record.split == "val" for record in records)


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


def held_out(records: Sequence[Record], hold_out: int) -> list[Record]:
    """Return the records with a validation split: their own, or `hold_out` training identities (see `read_pedes`)."""
    records = list(records)
    if _has_validation(records):
        return records
    ids = np.unique([record.id for record in records if record.split == "train"])
    if not 0 < hold_out < len(ids):
        raise SightwordError(
            f"data.hold_out={hold_out} of {len(ids)} training identities: the data set has no validation split. Hold "
            "out at least one identity and leave at least one"
        )
    held = set(np.random.default_rng(0).choice(ids, hold_out, replace=False).tolist())
    return [
        record._replace(split="val") if record.split == "train" and record.id in held else record for record in records
    ]


def _split(name: str, records: Sequence[Record], folder: Path) -> Split:
    pids = np.array([record.id for record in records], dtype=np.int64)
    if name == "train":
        pids = np.unique(pids, return_inverse=True)[1].astype(np.int64)
    counts = [len(record.captions) for record in records]
    return Split(
        name,
        [folder / record.path for record in records],
        pids,
        [caption for record in records for caption in record.captions],
        np.repeat(np.arange(len(records)), counts),
    )


# ------------------------------------------------------------------------------------------------------------ records


def read_entries(file: Path) -> Items:
    """Return the entries of a JSON file, one an image. Raises SightwordError unless it is a list with an entry."""
    entries = read_json_list(file)
    if not len(entries):
        raise SightwordError(f"{file} is an empty list: expected a list of records, one an image")
    return entries


def read_records(file: Path, dataset: str) -> list[Record]:
    """Return all records of a JSON file.

    Raises SightwordError with the record's number at the first wrong one, and the command that names all.
    """
    entries, records = read_entries(file), []
    for number, values in enumerate(entries.plain()):
        try:
            record = _usual_record(values, FORMATS[dataset].path) or read_record(entries.mapping(number), dataset)
            if not record.captions:
                what = "has no caption with a word" if record.blank else "has no caption"
                raise entries.mapping(number).error(what, "captions")
            if record.split not in SPLITS:
                raise entries.mapping(number).error(unknown_split(record.split), "split")
        except SightwordError as error:
            check = f"sightword check dataset={dataset} {shlex.quote(f'root={file.parent}')}"
            raise SightwordError(f"{error}. {check} names all such records") from error
        records.append(record)
    return records


def unknown_split(name: str) -> str:
    """Return what is wrong with a split of this name, and what to do."""
    near = {"gallery": "test", "query": "test", "dev": "val", "valid": "val", "validation": "val"}.get(name.lower())
    near = near or (name.lower() if name.lower() in SPLITS else None)
    meant = f'Write "{near}" for it if that is meant, or' if near else f"Write one of {', '.join(SPLITS)} for it, or"
    return f"{name!r} is none of {', '.join(SPLITS)}. {meant} leave such records out"


def find_misfits(records: Sequence[Record]) -> list[Finding]:
    """Return what records say that does not fit together; readers and checks report the same.

    Errors: identities in two splits, images that are listed twice. Warnings: paths that differ in their spelling
    alone, captions that several people share.
    """
    return [*_repeated_images(records), *_spread_identities(records), *_shared_captions(records)]


def _repeated_images(records: Sequence[Record]) -> list[Finding]:
    counts = Counter(record.path for record in records)
    found = []
    if twice := [path for path, count in counts.items() if count > 1]:
        message = f"{len(twice)} of {len(counts)} images are listed twice, {twice[0]} the first"
        found.append(Finding("error", "images listed twice", message, tuple(twice), len(twice)))
    spelt: dict[str, list[str]] = {}
    for path in counts:
        spelt.setdefault(normalize("NFC", path).casefold(), []).append(path)
    if several := [paths for paths in spelt.values() if len(paths) > 1]:
        one, other = several[0][:2]
        message = f"{len(several)} paths are spelt in several ways, {one!r} and {other!r} the first"
        files = tuple(path for paths in several for path in paths)
        found.append(Finding("warning", "paths spelt in several ways", message, files, len(several)))
    return found


def _spread_identities(records: Sequence[Record]) -> list[Finding]:
    splits: dict[int, set[str]] = {}
    for record in records:
        splits.setdefault(record.id, set()).add(record.split)
    spread = [id_ for id_, found in splits.items() if len(found) > 1]
    if not spread:
        return []
    both = " and in ".join(sorted(splits[spread[0]], key=lambda name: (name not in SPLITS, name)))
    message = f"{len(spread)} of {len(splits)} identities are in two splits, identity {spread[0]} in {both} the first"
    return [Finding("error", "identities in two splits", message, (), len(spread))]


def _shared_captions(records: Sequence[Record]) -> list[Finding]:
    people: dict[str, set[int]] = {}
    for record in records:
        for caption in record.captions:
            people.setdefault(caption.casefold(), set()).add(record.id)
    shared = {caption: len(ids) for caption, ids in people.items() if len(ids) > 1}
    if not shared:
        return []
    most = max(shared, key=lambda caption: shared[caption])
    told = most if len(most) <= 60 else f"{most[:59]}…"
    message = (
        f"{len(shared)} of {len(people)} captions are of several people each, most of all {told!r} of {shared[most]}"
    )
    return [
        Finding("warning", "captions of several people", message, (), len(shared), "a search cannot tell these apart")
    ]


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


# ------------------------------------------------------------------------------------------------------------ VQ ids


def tokenizing(size: tuple[int, int], images: str | Path = "…/imgs", out: str | Path = "…") -> str:
    """Return the command that writes the ids of whole images, resized to size (H, W)."""
    return tokenize_command("", "", images, out, View(*size))


class ImageIds:
    """VQ ids of the whole images of a data set, resized to one size, as `sightword tokenize` keeps them.

    The whole image, without a crop, because the image encoder is given the whole image, too.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], expect: Mapping[str, object] | None = None) -> None:
        """size: H, W of the images that the encoder is given. expect: more of the cache's header, as {"num_codes": 64}.

        Raises SightwordError if the cache is of images of another size, of crops, or by another tokenizer.
        """
        self.cache = IdCache(path, expect)
        header = self.cache.header
        shape = header["shapes"].get("ids", [])
        if len(shape) != 2 or not header["num_codes"]:
            raise SightwordError(
                f"{path} contains no ids of images but {', '.join(header['shapes'])}. Write them with "
                f"{tokenizing(size)}"
            )
        found, wanted = header["preprocessing"], {"resize": f"{size[0]}x{size[1]}, bicubic", "crop": "none"}
        if any(found.get(name) != value for name, value in wanted.items()):
            raise SightwordError(
                f"{path} has ids of images resized to {found.get('resize')} (crop: {found.get('crop')}), expected "
                f"whole images of {size[0]}x{size[1]}. Write them with {tokenizing(size)}, or change data.image_size"
            )
        self.size = size
        self.grid: tuple[int, int] = (shape[0], shape[1])  # h, w

    def rows(self, images: Sequence[Path], folder: Path) -> Tensor:
        """Return the ids of images, (M, h·w) int32, rows of the grid first; a batch converts them to int64.

        folder: the images' own, imgs/. Raises SightwordError, with the first image's name, if images have no ids, as
        those that were replaced since.
        """
        keys = self._keys_of_paths(images, folder) if self.cache.is_old else list(map(self._key, images))
        there = self.cache.keys()
        if missing := [path for path, key in zip(images, keys, strict=True) if key not in there]:
            replaced = sum(map(self.cache.is_indexed, missing))
            told = f" ({replaced} changed since they were encoded)" if replaced else ""
            raise SightwordError(
                f"{len(missing)} of {len(images)} images have no ids in {self.cache.out}, as "
                f"{missing[0].relative_to(folder)}{told}. "
                f"This computes them, and only them: {tokenizing(self.size, folder, self.cache.out)}"
            )
        rows = [self.cache.rows.get(key, "ids").reshape(-1) for key in keys]
        return torch.from_numpy(np.stack(rows).astype(np.int32))

    def _key(self, image: Path) -> str:
        return self.cache.key_of(image.absolute())

    def _keys_of_paths(self, images: Sequence[Path], folder: Path) -> list[str]:
        """The keys in a cache of an earlier version: paths below imgs/, or below one of the two folders above."""
        for above in (folder, folder.parent, folder.parent.parent):
            keys = [path.relative_to(above).as_posix() for path in images]
            if keys[0] in self.cache or keys[-1] in self.cache:
                break
        return keys
