"""Intentonomy's annotations as they are published, and whether a copy of the set is whole (Jia et al., CVPR 2021).

    intentonomy_{train,val,test}2020.json
        categories   {id, name}
        images       {id, filename "low/<id>.jpg", …}
        annotations  {image_id, category_ids_softprob: a share of the three annotators for each class}    train
                     {image_id, category_ids: the classes}                                                val, test

The classes are the file's own, so any other set in this form is read too. Legend: N images, C classes.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sightword.data.check import Report, problems_of

SPLITS = ("train", "val", "test")

CLASSES = (
    "Attractive",
    "BeatCompete",
    "Communicate",
    "CreativeUnique",
    "CuriousAdventurousExcitingLife",
    "EasyLife",
    "EnjoyLife",
    "FineDesignLearnArt-Arch",
    "FineDesignLearnArt-Art",
    "FineDesignLearnArt-Culture",
    "GoodParentEmoCloseChild",
    "Happy",
    "HardWorking",
    "Harmony",
    "Health",
    "InLove",
    "InLoveAnimal",
    "InspirOthrs",
    "ManagableMakePlan",
    "NatBeauty",
    "PassionAbSmthing",
    "Playful",
    "ShareFeelings",
    "SocialLifeFriendship",
    "SuccInOccupHavGdJob",
    "TchOthrs",
    "ThngsInOrdr",
    "WorkILike",
)

# Two partitions of the 28 classes, from the authors' evaluation: how hard, and what the eye goes by.
SUBSETS: Mapping[str, tuple[int, ...]] = {
    "easy": (0, 7, 19),
    "medium": (1, 3, 4, 6, 9, 10, 11, 12, 13, 14, 15, 16, 18, 22, 26),
    "hard": (2, 5, 8, 17, 20, 21, 23, 24, 25, 27),
    "object": (0, 3, 10, 11, 12, 16, 23),
    "context": (7, 8),
    "other": (1, 2, 4, 5, 6, 9, 13, 14, 15, 17, 18, 19, 20, 21, 22, 24, 25, 26, 27),
}


class Annotations(NamedTuple):
    """One split, in the order of its annotations."""

    ids: list[str]  # N, of the images
    files: list[str]  # N, below the folder of images
    targets: Tensor  # (N, C) float32: shares k/3 in train, 0 or 1 elsewhere
    names: list[str]  # C, by class id
    unlabelled: list[str] = []  # files that the list of images names and no annotation does; they are no part of N


def annotation_file(root: str | Path, split: str) -> Path:
    if split not in SPLITS:
        raise ValueError(f"a split is {', '.join(SPLITS)}; got {split!r}")
    return Path(root).expanduser() / f"intentonomy_{split}2020.json"


def read_annotations(file: str | Path) -> Annotations:
    """ValueError, one line with the file and the entry, for whatever is not as published."""
    file = Path(file)
    try:
        return _parse(_load(file))
    except _Malformed as error:
        raise ValueError(f"{file}: {error}") from None


class _Malformed(Exception):
    """What is wrong, without the file's name."""


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        expected = ", ".join(annotation_file("", split).name for split in SPLITS)
        raise ValueError(f"{file} is not there: data.root is the folder with {expected}") from None
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise _Malformed(f"not JSON ({error}): download it again") from None


def _parse(content: Any) -> Annotations:
    categories = {_field(entry, "id", int): _field(entry, "name", str) for entry in _field(content, "categories", list)}
    if not categories:
        raise _Malformed("its categories are none")
    column = {category: number for number, category in enumerate(sorted(categories))}
    file_of = _files(_field(content, "images", list))
    annotations = _field(content, "annotations", list)
    if not annotations:
        raise _Malformed("it annotates no image")
    ids = [_field(entry, "image_id", str) for entry in annotations]
    if lost := next((image for image in ids if image not in file_of), None):
        raise _Malformed(f"image {lost} is annotated and not among its {len(file_of)} images")
    if twice := _repeated(ids):
        raise _Malformed(f"image {twice} is annotated twice")
    targets = torch.tensor([_row(entry, column) for entry in annotations], dtype=torch.float32)  # (N, C)
    annotated = set(ids)
    return Annotations(
        ids,
        [file_of[image] for image in ids],
        targets,
        [categories[category] for category in column],
        [file for image, file in file_of.items() if image not in annotated],
    )


def _files(images: list[Any]) -> dict[str, str]:
    """Image id → file; each once."""
    ids = [_field(entry, "id", str) for entry in images]
    files = [_field(entry, "filename", str) for entry in images]
    for names in (ids, files):
        if twice := _repeated(names):
            raise _Malformed(f"image {twice} is listed twice")
    return dict(zip(ids, files, strict=True))


def _row(entry: dict[str, Any], column: Mapping[int, int]) -> list[float]:
    """C numbers of one annotation, whichever of the two forms it has."""
    image = entry["image_id"]
    if "category_ids_softprob" in entry:
        shares = _field(entry, "category_ids_softprob", list)
        if len(shares) != len(column):
            raise _Malformed(f"image {image} has {len(shares)} shares for {len(column)} categories")
        if bad := [share for share in shares if not (isinstance(share, int | float) and 0 <= share <= 1)]:
            raise _Malformed(f"image {image} has the share {bad[0]!r}: they are numbers from 0 to 1")
        return shares
    row = [0.0] * len(column)
    for category in _field(entry, "category_ids", list):
        if not isinstance(category, int) or category not in column:
            raise _Malformed(f"image {image} has category {category!r}; there are {min(column)} to {max(column)}")
        row[column[category]] = 1.0
    return row


def _field(entry: Any, name: str, kind: type) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise _Malformed(f"{name!r} is missing in {_short(entry)}")
    if not isinstance(entry[name], kind):
        raise _Malformed(f"{name!r} is no {kind.__name__} but {_short(entry[name])}")
    return entry[name]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


# ------------------------------------------------------------------------------------------------------------- check


def check_intentonomy(root: str, images: str = "") -> Report:
    """Intentonomy: its annotations are read, every image that they name is decoded once.

    root: the folder with the annotations. images: the folder with low/<id>.jpg; root if empty.
    """
    splits, problems = _readable_splits(root)
    folder = Path(images or root).expanduser()
    there: list[Path] = []
    named = 0
    for split, notes in splits.items():
        files = [folder / file for file in notes.files]
        named += len(files)
        there += [file for file in files if file.is_file()]
        problems += [f"{file} is missing ({split})" for file in files if not file.is_file()]
        problems += [f"{folder / file} is in {split} without an annotation" for file in notes.unlabelled]
    problems += _leaks(splits) + problems_of(there, f"check {folder}")
    return Report(named, problems, _statistics(splits, folder))


def _readable_splits(root: str) -> tuple[dict[str, Annotations], list[str]]:
    """The splits that can be read, and a line for each that cannot. ValueError if there is none."""
    splits, problems = {}, []
    for split in SPLITS:
        try:
            splits[split] = read_annotations(annotation_file(root, split))
        except ValueError as error:
            problems.append(str(error))
    if not splits:
        raise ValueError(problems[0])
    return splits, problems


def _leaks(splits: Mapping[str, Annotations]) -> list[str]:
    """What no two splits of one set may do: share images, or differ in classes."""
    lines: list[str] = []
    home: dict[str, str] = {}  # image id → the first split that has it
    first = next(iter(splits))
    for split, notes in splits.items():
        lines += [f"image {image} is in {home[image]} and in {split}" for image in notes.ids if image in home]
        home |= dict.fromkeys(notes.ids, split)
        if notes.names != splits[first].names:
            lines.append(f"the categories of {split} are not those of {first}")
    return lines


def _statistics(splits: Mapping[str, Annotations], folder: Path) -> list[str]:
    """Images of each split, then each class with its positives (a share above 0)."""
    lines = []
    for split, notes in splits.items():
        there = sum((folder / file).is_file() for file in notes.files)
        each = float((notes.targets > 0).sum() / len(notes.ids))
        lines.append(f"{split}: {there} of {len(notes.ids)} images are there, {each:.2f} labels each")
    names = next(iter(splits.values())).names
    width = len(str(len(names) - 1))
    positives = {split: (notes.targets > 0).sum(0).tolist() for split, notes in splits.items()}
    for number, name in enumerate(names):
        counts = ", ".join(f"{split} {each[number]}" for split, each in positives.items() if number < len(each))
        lines.append(f"{number:>{width}} {name}: {counts}")
    return lines
