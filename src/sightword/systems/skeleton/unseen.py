"""Which classes are never trained, for zero-shot recognition: what `data.unseen` and `data.unseen_val` may state.

    bend, "golf swing"    names of classes, or their numbers from 0 on
    ntu60-5               a published list: SynSE's of NTU RGB+D 60 and 120 (`unseen.json`)
    ru5.npy               a file of numbers as SA-DVAE publishes it: ru<n>.npy, and rv<n>_<k>.npy for validation classes
    random-5-0            5 classes drawn at random with the seed 0, of those that are not taken yet

Validation classes are taken out of the seen ones, to choose γ of calibrated stacking without the unseen classes.
"""

import re
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.reader import read_json
from sightword.systems.skeleton.config import SkeletonConfig, SkeletonData
from sightword.systems.skeleton.labels import Labels, read_labels

FILE = Path(__file__).with_name("unseen.json")
RANDOM = re.compile(r"random-(\d{1,4})-(\d{1,9})")
LARGEST = 2**20  # bytes of an .npy with numbers of classes
LEAST = 2  # seen classes


class PublishedList(NamedTuple):
    """Unseen classes that a publication used."""

    classes: int  # of the data set
    unseen: list[int]
    source: str


@cache
def published() -> dict[str, PublishedList]:
    """Return the published lists by name."""
    content = read_json(FILE)
    lists = {name: content.mapping(name) for name in content}
    return {
        name: PublishedList(each.integer("classes"), each.integers("unseen"), each.text("source"))
        for name, each in lists.items()
    }


def with_unseen(system: SkeletonConfig, data: SkeletonData) -> tuple[SkeletonConfig, SkeletonData]:
    """Return a new run's configs in which `data` has the numbers of its unseen classes and `system` their names.

    Prints the names. Raises SightwordError for a class that does not exist, and for a model without a text encoder.
    """
    if not data.unseen and not data.unseen_val:
        if system.unseen or system.unseen_val:
            raise SightwordError("system.unseen follows from data.unseen. Set data.unseen, and data.unseen_val")
        return system, data
    if system.recognise_by == "classifier":
        raise SightwordError(
            "data.unseen leaves classes out, and a classifier cannot name them. Set system.recognise_by=text"
        )
    labels = read_labels(system.labels)
    unseen = numbers_of(data.unseen, labels, "data.unseen")
    chosen = numbers_of(data.unseen_val, labels, "data.unseen_val", unseen)
    if len(labels.classes) - len(unseen) - len(chosen) < LEAST:
        raise SightwordError(
            f"data.unseen and data.unseen_val leave {len(labels.classes) - len(unseen) - len(chosen)} of the "
            f"{len(labels.classes)} classes of {labels.source} to train on. Leave {LEAST} or more"
        )
    names = [[labels.classes[number] for number in each] for each in (unseen, chosen)]
    shards.say(f"unseen classes, never trained: {', '.join(names[0]) or 'none'}")
    if chosen:
        shards.say(f"validation classes, not trained either: {', '.join(names[1])}")
    system = replace(system, unseen=names[0], unseen_val=names[1])
    return system, replace(data, unseen=[str(each) for each in unseen], unseen_val=[str(each) for each in chosen])


def left_out_of(data: SkeletonData, split: str) -> set[int]:
    """Return the classes whose recordings a split does not have: of test the validation classes, else the unseen, too.

    Raises SightwordError for names, which only a new run turns into numbers.
    """
    stated = data.unseen_val + (data.unseen if split != "test" else [])
    if other := [entry for entry in stated if not entry.isascii() or not entry.isdigit()]:
        raise SightwordError(f"data.unseen and data.unseen_val of a run are numbers of classes, got {other[0]!r:.60}")
    return {int(entry) for entry in stated}


def check_unseen(system: SkeletonConfig, data: SkeletonData, labels: Labels) -> None:
    """Raise SightwordError unless the unseen classes of the data are those that the system was made with."""
    for stated, names, key in (
        (data.unseen, system.unseen, "data.unseen"),
        (data.unseen_val, system.unseen_val, "data.unseen_val"),
    ):
        numbers = [labels.classes.index(name) for name in names if name in labels.classes]
        if len(numbers) != len(names) or stated != [str(number) for number in numbers]:
            raise SightwordError(
                f"{key}={stated} is not what the run was trained without: {', '.join(names) or 'nothing'}. "
                "Remove the change; other classes need a new training"
            )


def numbers_of(entries: Sequence[str], labels: Labels, key: str, taken: Collection[int] = ()) -> list[int]:
    """Return the numbers of classes, ascending. key: for messages. taken: numbers that must not be among them.

    Raises SightwordError for an entry that names no class, or that names one twice or one that is taken.
    """
    found: list[int] = []
    for entry in entries:
        found += _numbers(entry, labels, key, {*taken, *found})
    if twice := [number for number in found if found.count(number) > 1 or number in taken]:
        raise SightwordError(f"{key} has the class {labels.classes[twice[0]]!r} twice, or another list has it too")
    return sorted(found)


def _numbers(entry: str, labels: Labels, key: str, taken: set[int]) -> list[int]:
    count = len(labels.classes)
    if entry in labels.classes:
        return [labels.classes.index(entry)]
    if drawn := RANDOM.fullmatch(entry):
        free = [number for number in range(count) if number not in taken]
        wanted, seed = map(int, drawn.groups())
        if not 0 < wanted <= len(free):
            raise SightwordError(f"{key}={entry!r} draws {wanted} of {len(free)} classes. Draw fewer, at least one")
        return np.random.default_rng(seed).choice(free, wanted, replace=False).tolist()
    if entry in published():
        known = published()[entry]
        if known.classes != count:
            raise SightwordError(
                f"{key}={entry!r} is for {known.classes} classes ({known.source}), and {labels.source} has {count}"
            )
        return known.unseen
    numbers = _read_npy(Path(entry).expanduser(), key) if entry.endswith(".npy") else _one(entry, labels, key)
    if outside := [number for number in numbers if not 0 <= number < count]:
        raise SightwordError(
            f"{key}: {entry} has class {outside[0]}, and the {count} classes of {labels.source} are 0 to {count - 1}"
        )
    return numbers


def _one(entry: str, labels: Labels, key: str) -> list[int]:
    if not re.fullmatch(r"\d{1,9}", entry):
        raise SightwordError(
            f"{key} names the class {entry!r:.60}, which is none of {labels.source} and no list: "
            f"{', '.join(published())}, random-<count>-<seed>, or an .npy file. Classes are named as "
            f"{labels.classes[0]!r}, or by number"
        )
    return [int(entry)]


def _read_npy(file: Path, key: str) -> list[int]:
    """The numbers in an .npy; nothing in it is executed."""
    if re.match(r"rs\d", file.name):
        raise SightwordError(
            f"{key}={file} is by its name a list of seen classes (rs: seen, ru: unseen, rv: validation). Give ru…"
        )
    try:
        if file.stat().st_size > LARGEST:
            raise SightwordError(f"{key}={file} has {file.stat().st_size} bytes: too many for numbers of classes")
        array = np.load(file, mmap_mode="r", allow_pickle=False)  # mapped: a header that states too much is refused
    except OSError as error:
        raise SightwordError(f"{key}={file} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SightwordError(f"{key}={file} is not an array of numbers as np.save writes it: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim != 1 or not array.size:
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise SightwordError(f"{key}={file} holds {what}: expected whole numbers of classes in one row")
    return array.astype(np.int64).tolist()
