"""Three published sets of people and sentences about them, and whether a copy of one is whole.

One JSON list of records each; the record says its split, the folders say nothing.

    cuhk_pedes   CUHK-PEDES/reid_raw.json        split, captions, file_path below imgs/, id from 1         Li 2017
    icfg_pedes   ICFG-PEDES/ICFG-PEDES.json      the same, one caption, id from 0, no validation split     Ding 2021
    rstpreid     RSTPReid/data_captions.json     split, captions (two), img_path below imgs/, id from 0    Zhu 2021

Any other set in one of these forms is read too. Legend: M images, C captions of a split.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sightword.systems.retrieval.config import DATASETS

if TYPE_CHECKING:
    from sightword.data.check import Report

SPLITS = ("train", "val", "test")
KINDS = {str: "a text", int: "a whole number", list: "a list"}  # of a field, as users are told


class Format(NamedTuple):
    """How a set is published."""

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
    """The images of a split and what is said of them, in the order of the file."""

    name: str
    images: list[Path]  # M
    pids: np.ndarray  # (M,) int64: in train 0 to P - 1, without gaps and in the order of the file's ids; else as read
    captions: list[str]  # C
    caption_image: np.ndarray  # (C,) int64, the row of `images` that a caption describes

    @property
    def caption_pids(self) -> np.ndarray:
        """(C,) int64"""
        return self.pids[self.caption_image]


class Record(NamedTuple):
    """One image, as published."""

    split: str  # train | val | test
    id: int
    path: str  # below imgs/, with slashes
    captions: list[str]  # those that say something
    blank: int  # those that say nothing


# ----------------------------------------------------------------------------------------------------------- reading


def read_pedes(root: str | Path, dataset: str, split: str, hold_out: int = 100) -> Split:
    """One split: train, val or test.

    root: the folder with imgs/ and the JSON file, or the one above it.
    hold_out: where the file has no validation split, so many of its training identities are that: always the same
    ones, whatever the run's seed, and none of them is in train.
    ValueError if a file is missing, foreign or damaged, and if images are not there.
    """
    if split not in SPLITS:
        raise ValueError(f"a split is {', '.join(SPLITS)}; got {split!r}")
    file = annotation_file(root, dataset)
    records = read_records(file, dataset)
    records = [r for r in (records if split == "test" else held_out(records, hold_out)) if r.split == split]
    if not records:
        told = f"sightword check dataset={dataset} root={root} counts what there is"
        raise ValueError(f"{file} has no record of split {split}: {told}")
    made = _split(split, records, image_folder(file))
    missing = [path for path in made.images if not path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(made.images)} images of {split} are not there, the first is {missing[0]}: "
            f"sightword check dataset={dataset} root={root} names them all"
        )
    return made


def annotation_file(root: str | Path, dataset: str) -> Path:
    """The JSON file of a set. ValueError that says what lies there instead."""
    if dataset not in FORMATS:
        raise ValueError(f"a data set of people is {', '.join(FORMATS)}; got {dataset!r}")
    if not str(root):
        raise ValueError("data.root is not set: give the folder with imgs/ and the JSON file, or the one above it")
    token_type, root = FORMATS[dataset], Path(root).expanduser()
    for folder in (root, root / token_type.folder):
        for name in token_type.files:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(
        f"{root} has no {' or '.join(token_type.files)}, nor has {token_type.folder} in it{_instead(root, dataset)}: data.root is "
        f"the folder that holds it, and imgs/"
    )


def image_folder(file: Path) -> Path:
    """Where the images of a set lie, by its JSON file."""
    return file.parent / "imgs"


def _instead(root: Path, dataset: str) -> str:
    """What else a folder has, in a few words."""
    for other, token_type in FORMATS.items():
        for name in token_type.files:
            if other != dataset and ((root / name).is_file() or (root / token_type.folder / name).is_file()):
                return f" (it has {name}, which is dataset={other})"
    for folder in (root, root / FORMATS[dataset].folder):
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        if "caption_all.json" in names:
            return " (it has caption_all.json, which has no splits and is not the file that results are reported on)"
        if names:
            return f" (it has {', '.join(names[:3])})"
    return "" if root.exists() else " (there is no such folder)"


def read_records(file: str | Path, dataset: str) -> list[Record]:
    """All records of a JSON file. ValueError, one line with the file and the record, at the first that is not right."""
    file = Path(file)
    records = []
    for number, entry in enumerate(_entries(file)):
        try:
            record = _record(entry, dataset)
            if not record.captions:
                raise _Malformed(f"has no caption{' that says something' if record.blank else ''}")
            records.append(record)
        except _Malformed as error:
            raise ValueError(f"{file}: record {number} {error}") from None
    return records


def held_out(records: Sequence[Record], hold_out: int) -> list[Record]:
    """The records with a validation split: their own, or `hold_out` training identities (`read_pedes` says which)."""
    records = list(records)
    if any(record.split == "val" for record in records):
        return records
    ids = np.unique([record.id for record in records if record.split == "train"])
    if not 0 < hold_out < len(ids):
        raise ValueError(
            f"data.hold_out={hold_out} of {len(ids)} training identities: the set has no validation split, hold out at "
            "least one identity and leave at least one"
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


class _Malformed(Exception):
    """What is wrong with a record, without its number and its file's name."""


def _entries(file: Path) -> list[Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file} is not there") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
        raise ValueError(f"{file}: not JSON ({error}): download it again") from None
    if not isinstance(content, list) or not content:
        what = "an empty list" if content == [] else f"a {type(content).__name__}"
        raise ValueError(f"{file} is {what}: a list of records, one an image, is wanted")
    return content


def _record(entry: Any, dataset: str) -> Record:
    """One record in the set's form; captions that say nothing are counted."""
    path = _path(_field(entry, FORMATS[dataset].path, str, dataset))
    captions = _field(entry, "captions", list, dataset)
    if bad := [caption for caption in captions if not isinstance(caption, str)]:
        raise _Malformed(f"({path}) has the caption {_short(bad[0])}, which is no text")
    id_ = _field(entry, "id", int, dataset)
    if isinstance(id_, bool) or not 0 <= id_ < 2**63:
        raise _Malformed(f"({path}) has the id {id_}: ids are whole numbers from 0 or 1 on")
    split = _field(entry, "split", str, dataset)
    told = [caption.strip() for caption in captions if caption.strip()]
    # IRRA, cuhkpedes.py: what is neither train nor test is val
    return Record(split if split in ("train", "test") else "val", id_, path, told, len(captions) - len(told))


def _path(path: str) -> str:
    """Below imgs/, whatever slashes it was written with."""
    parts = PurePosixPath(path.replace("\\", "/"))
    if not path or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise _Malformed(f"has the path {path!r}, which is not one below imgs/")
    return parts.as_posix()


def _field(entry: Any, name: str, kind: type, dataset: str) -> Any:
    if not isinstance(entry, dict):
        raise _Malformed(f"is {_short(entry)}, not an object with fields")
    if name not in entry:
        raise _Malformed(f"has no {name!r}{_foreign(entry, name, dataset)} but {', '.join(map(str, entry))}")
    if not isinstance(entry[name], kind):
        raise _Malformed(f"has {name!r}: {_short(entry[name])}, {KINDS[kind]} is wanted")
    return entry[name]


def _foreign(entry: Mapping[str, Any], name: str, dataset: str) -> str:
    """Whose record it may be."""
    if name == "split" and "file_path" in entry:
        return " (as in caption_all.json, which is not the file with splits)"
    others = [other for other, token_type in FORMATS.items() if other != dataset and token_type.path in entry]
    return f" (as in dataset={others[0]})" if others and name == FORMATS[dataset].path else ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"


# ------------------------------------------------------------------------------------------------------------- check


def check_pedes(root: str, dataset: str) -> "Report":
    """Is a set whole? Every record is read, every image that one names is decoded once.

    Problems are records that cannot be read, captions that say nothing, images that are missing or broken, listed
    twice or in two splits, and identities in two splits. Counts beside the published ones are no problem but notes.
    """
    from sightword.data.check import Report, problems_of

    file = annotation_file(root, dataset)
    records, problems = _readable(file, dataset)
    if not records:
        raise ValueError(problems[0])
    folder = image_folder(file)
    named = list(dict.fromkeys(record.path for record in records))
    there = [path for path in named if (folder / path).is_file()]
    problems += [f"{folder / path} is missing" for path in named if not (folder / path).is_file()]
    problems += _misfits(records) + problems_of([folder / path for path in there], f"check {folder}")
    return Report(len(named), problems, _counted(records, dataset))


def _readable(file: Path, dataset: str) -> tuple[list[Record], list[str]]:
    """The records that can be read, and a line for each that cannot, or that has a caption without a word.

    And one for each split of a name that is none of the three: it is read as val, which is most likely not meant.
    """
    records, problems, foreign = [], [], Counter[str]()
    for number, entry in enumerate(_entries(file)):
        try:
            record = _record(entry, dataset)
        except _Malformed as error:
            problems.append(f"{file}: record {number} {error}")
            continue
        if record.blank or not record.captions:
            what = f"{record.blank} captions that say nothing" if record.blank else "no caption"
            problems.append(f"{file}: record {number} ({record.path}) has {what}")
        records.append(record)
        foreign.update({entry["split"]} - set(SPLITS))
    told = [f"{file}: {count} records have the split {_short(name)}, read as val" for name, count in foreign.items()]
    return records, problems + told


def _misfits(records: Sequence[Record]) -> list[str]:
    """Images that are listed twice, identities that are in two splits: a line each."""
    lines = [f"{path} is listed twice" for path in _repeated(record.path for record in records)]
    splits: dict[int, set[str]] = {}
    for record in records:
        splits.setdefault(record.id, set()).add(record.split)
    for id_, found in splits.items():
        if len(found) > 1:
            lines.append(f"identity {id_} is in {' and in '.join(split for split in SPLITS if split in found)}")
    return lines


def _counted(records: Sequence[Record], dataset: str) -> list[str]:
    """A line for each split: what was found, beside what is published."""
    published, lines = FORMATS[dataset].published, []
    for split in SPLITS:
        found = [record for record in records if record.split == split]
        ids = {record.id for record in found}
        counts = (len(ids), len(found), sum(len(record.captions) for record in found))
        if not found and split not in published:
            lines.append(f"{split}: not in this set; training holds identities out (data.hold_out)")
            continue
        known = published.get(split)
        beside = "as published" if counts == known else f"published: {_told(known) if known else 'no such split'}"
        gaps = f"; ids {min(ids)} to {max(ids)} with gaps" if ids and max(ids) - min(ids) + 1 != len(ids) else ""
        lines.append(f"{split}: {_told(counts)} ({beside}){gaps}")
    return lines


def _told(counts: tuple[int, int, int]) -> str:
    return "{} identities, {} images, {} captions".format(*counts)


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
