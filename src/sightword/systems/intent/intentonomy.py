"""Read Intentonomy's annotations as they are published, and check a copy of the data set (Jia et al., CVPR 2021).

    intentonomy_{train,val,test}2020.json
        categories   {id, name}
        images       {id, filename "low/<id>.jpg", …}
        annotations  {image_id, category_ids_softprob: for each class, the fraction of annotators who chose it}  train
                     {image_id, category_ids: the classes}                                                   val, test

The classes are those that the file lists, so any other data set in this format can be read too.

Legend: N images; C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.data.check import find_bad_images, find_doubles, missing_images
from sightword.data.finding import CheckReport, Finding
from sightword.engine.class_name import columns_of, difference
from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json

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

# Two partitions of the 28 classes in the authors' evaluation, by class name: difficulty, and the visual cue.
HARDNESS: Mapping[str, str] = {
    **dict.fromkeys(("Attractive", "FineDesignLearnArt-Arch", "NatBeauty"), "easy"),
    **dict.fromkeys(
        (
            "BeatCompete",
            "CreativeUnique",
            "CuriousAdventurousExcitingLife",
            "EnjoyLife",
            "FineDesignLearnArt-Culture",
            "GoodParentEmoCloseChild",
            "Happy",
            "HardWorking",
            "Harmony",
            "Health",
            "InLove",
            "InLoveAnimal",
            "ManagableMakePlan",
            "ShareFeelings",
            "ThngsInOrdr",
        ),
        "medium",
    ),
    **dict.fromkeys(
        (
            "Communicate",
            "EasyLife",
            "FineDesignLearnArt-Art",
            "InspirOthrs",
            "PassionAbSmthing",
            "Playful",
            "SocialLifeFriendship",
            "SuccInOccupHavGdJob",
            "TchOthrs",
            "WorkILike",
        ),
        "hard",
    ),
}
_OBJECT = (
    "Attractive",
    "CreativeUnique",
    "GoodParentEmoCloseChild",
    "Happy",
    "HardWorking",
    "InLoveAnimal",
    "SocialLifeFriendship",
)
_CONTEXT = ("FineDesignLearnArt-Arch", "FineDesignLearnArt-Art")
CUE: Mapping[str, str] = {
    name: "object" if name in _OBJECT else "context" if name in _CONTEXT else "other" for name in CLASSES
}


def subsets_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return easy, medium, hard, object, context and other → their classes, in the order of `names`.

    Empty unless `names` are Intentonomy's 28, in whatever order: the partitions are of these alone.
    """
    if sorted(names) != sorted(CLASSES):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for partition in (HARDNESS, CUE):
        for subset in dict.fromkeys(partition.values()):
            found[subset] = tuple(name for name in names if partition[name] == subset)
    return found


class Annotations(NamedTuple):
    """One split, in the order of its annotations."""

    ids: list[str]  # N, of the images
    files: list[str]  # N, below the folder of images
    targets: Tensor  # (N, C) float32: fractions k/3 in train, 0 or 1 elsewhere
    names: list[str]  # C, by class id
    unlabelled: list[str] = []  # files in the list of images without an annotation; not among the N

    def for_classes(self, classes: Sequence[str], source: str | Path) -> "Annotations":
        """Return the same with the columns of a model's classes, matched by name.

        source: the file, for the message. Raises SightwordError unless both have the same names.
        """
        if self.names == list(classes):
            return self
        columns = columns_of(classes, self.names, str(source))
        return self._replace(targets=self.targets[:, columns], names=list(classes))


def annotation_file(root: str | Path, split: str) -> Path:
    """Return the file of a split. Raises SightwordError unless the split is train, val or test."""
    if split not in SPLITS:
        raise SightwordError(f"split={split!r} is none of {', '.join(SPLITS)}")
    return Path(root).expanduser() / f"intentonomy_{split}2020.json"


def read_annotations(file: str | Path) -> Annotations:
    """Read a split. Raises SightwordError, with the file and the place in it, if it is not as published."""
    expected = ", ".join(annotation_file("", split).name for split in SPLITS)
    fields = read_json(
        file,
        missing=f"data.root is the folder with {expected}",
        damaged="Download the file again, or correct this entry",
    )
    categories = _categories(fields)
    column = {category: number for number, category in enumerate(sorted(categories))}
    file_of = _files(fields)
    ids, targets, seen = list[str](), list[list[float]](), set[str]()
    for entry in fields.mappings("annotations", least=1):
        image = entry.text("image_id")
        if image not in file_of:
            raise entry.error(f"{image!r} is none of the {len(file_of)} images", "image_id")
        if image in seen:
            raise entry.error(f"{image!r} is annotated twice", "image_id")
        seen.add(image)
        ids.append(image)
        targets.append(_row(entry, column))
    return Annotations(
        ids,
        [file_of[image] for image in ids],
        torch.tensor(targets, dtype=torch.float32),  # (N, C)
        [categories[category] for category in column],
        [name for image, name in file_of.items() if image not in seen],
    )


def _categories(fields: Fields) -> dict[int, str]:
    """Category id → name. Raises SightwordError if an id or a name is listed twice."""
    found: dict[int, str] = {}
    for entry in fields.mappings("categories", least=1):
        number, name = entry.integer("id"), entry.text("name")
        if number in found:
            raise entry.error(f"{number} is listed twice", "id")
        if name in found.values():
            raise entry.error(f"{name!r} is listed twice. Give each class a name of its own", "name")
        found[number] = name
    return found


def _files(fields: Fields) -> dict[str, str]:
    """Image id → file. Raises SightwordError if an id or a file is listed twice."""
    found: dict[str, str] = {}
    files: set[str] = set()
    for entry in fields.mappings("images"):
        image, file = entry.text("id"), entry.text("filename")
        if image in found or file in files:
            raise entry.error(
                f"{image if image in found else file!r} is listed twice", "id" if image in found else "filename"
            )
        found[image] = file
        files.add(file)
    return found


def _row(entry: Fields, column: Mapping[int, int]) -> list[float]:
    """C numbers of one annotation, in either of the two forms."""
    if "category_ids_softprob" in entry:
        shares = entry.sequence("category_ids_softprob")
        if len(shares) != len(column):
            raise entry.error(
                f"expected {len(column)} fractions, one per category, got {len(shares)}", "category_ids_softprob"
            )
        return [shares.number(number, least=0, most=1) for number in range(len(shares))]
    row = [0.0] * len(column)
    for category in entry.integers("category_ids"):
        if category not in column:
            raise entry.error(
                f"there is no category {category}; they are {min(column)} to {max(column)}", "category_ids"
            )
        row[column[category]] = 1.0
    return row


# ------------------------------------------------------------------------------------------------------------- check


def check_intentonomy(root: str, images: str = "") -> CheckReport:
    """Read the annotations and decode each image that they name once, with a progress bar on a terminal.

    root: the folder with the annotations. images: the folder with low/<id>.jpg; root if empty.
    """
    splits, findings = _readable_splits(root)
    folder = Path(images or root).expanduser()
    files = [folder / file for notes in splits.values() for file in notes.files]
    existing = [file for file in files if file.is_file()]
    findings += missing_images(files, "images")
    for split, notes in splits.items():
        findings += [_unlabelled(folder / file, split) for file in notes.unlabelled]
    findings += [*find_leaks(splits), *find_doubles(list(dict.fromkeys(existing)))]
    findings += [*find_bad_images(existing, f"check {folder}"), *_statistics(splits, folder)]
    return CheckReport(len(files), tuple(findings))


def _readable_splits(root: str) -> tuple[dict[str, Annotations], list[Finding]]:
    """The splits that can be read, and a finding for each that cannot. Raises SightwordError if none can."""
    splits: dict[str, Annotations] = {}
    findings = []
    for split in SPLITS:
        file = annotation_file(root, split)
        try:
            splits[split] = read_annotations(file)
        except SightwordError as error:
            findings.append(Finding("error", "unreadable annotations", str(error), (str(file),)))
    if not splits:
        raise SightwordError(findings[0].message)
    return splits, findings


def _unlabelled(file: Path, split: str) -> Finding:
    return Finding("error", "images without an annotation", f"{file} is in {split} without an annotation", (str(file),))


def find_leaks(splits: Mapping[str, Annotations]) -> list[Finding]:
    """Return the images that are in two splits, and the splits whose categories differ; readers report the same."""
    found: list[Finding] = []
    home: dict[str, str] = {}  # image id → the first split that contains it
    first = next(iter(splits))
    for split, notes in splits.items():
        for image in notes.ids:
            if image in home:
                told = f"image {image} is in {home[image]} and in {split}"
                found.append(Finding("error", "images in two splits", told, (image,)))
        home |= dict.fromkeys(notes.ids, split)
        if told := difference(splits[first].names, notes.names):
            found.append(Finding("error", "categories that differ", f"{split}: {told.replace('the model', first)}"))
    return found


def _statistics(splits: Mapping[str, Annotations], folder: Path) -> list[Finding]:
    """The images of each split, then each class with its positives (a fraction above 0)."""
    notes = []
    for split, annotations in splits.items():
        existing = sum((folder / file).is_file() for file in annotations.files)
        each = float((annotations.targets > 0).sum() / len(annotations.ids))
        told = f"{split}: {existing} of {len(annotations.ids)} images exist, {each:.2f} labels each"
        notes.append(Finding("note", f"size of {split}", told))
    names = list(dict.fromkeys(name for annotations in splits.values() for name in annotations.names))
    width = len(str(len(names) - 1))
    positives = {
        split: dict(zip(annotations.names, (annotations.targets > 0).sum(0).tolist(), strict=True))
        for split, annotations in splits.items()
    }
    for number, name in enumerate(names):
        counts = ", ".join(f"{split} {each[name]}" for split, each in positives.items() if name in each)
        notes.append(Finding("note", f"images of {name}", f"{number:>{width}} {name}: {counts}"))
    return notes
