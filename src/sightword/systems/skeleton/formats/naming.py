"""Labels of recordings: from a file, from the names of folders, or from names of a published form.

What names of a published form state, the class and the usual splits:

S001C002P003R002A013    NTU RGB+D: setup, camera, person, repetition, action
a13_s03_t02, _e02       UTD-MHAD and MSR-Action3D: action, subject, trial
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from sightword.errors import SightwordError
from sightword.storage.reader import read_csv, read_json
from sightword.systems.skeleton.formats.known import SUFFIXES
from sightword.systems.skeleton.sequence import UNKNOWN, few

FOLDERS = "folders"  # labels=folders: each folder of recordings is a class
MISSING = "labels= is a CSV of recording,label, JSON {recording: label}, or folders"

NTU = re.compile(r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<person>\d{3})R\d{3}A(?P<action>\d{3})")
SUBJECT = re.compile(r"(?<![A-Za-z0-9])a(?P<action>\d{1,2})_s(?P<person>\d{1,2})_[te]\d{1,2}(?![0-9])")

# training persons of cross-subject in the two editions of NTU RGB+D, as its publication lists them
NTU_60 = {1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38}
NTU_120 = NTU_60 | {
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94),
    *(95, 97, 98, 100, 103),
}

Parts = Mapping[str, int]
Rule = Callable[[Parts], bool]  # whether a recording is one to train on


def parts_of(names: Sequence[str], pattern: re.Pattern[str]) -> list[Parts] | None:
    """Return the numbers in each name; None if one does not have them."""
    found = [pattern.search(name) for name in names]
    if not names or None in found:
        return None
    return [{key: int(value) for key, value in one.groupdict().items()} for one in found if one is not None]


def people_by(names: Sequence[str], pattern: str, key: str) -> list[str]:
    """Return the part of each name that a regular expression finds: the person. key: for messages, as person.

    Raises SightwordError for what is no pattern, or finds nothing in a name.
    """
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise SightwordError(f"{key}={pattern!r} is not a pattern: {error}. Pass one, as P\\d+") from None
    if unknown := [name for name, one in zip(names, found, strict=True) if one is None]:
        raise SightwordError(f"{key}={pattern!r} finds nobody in the name {unknown[0]}. Change it")
    return [one.group() for one in found if one is not None]


def stated_by(names: Sequence[str]) -> tuple[list[int], dict[str, list[str]], str]:
    """Return labels, splits and what was assumed; nothing if the names are not all of one published form."""
    if (parts := parts_of(names, NTU)) is not None:
        many = any(one["setup"] > 17 or one["action"] > 60 for one in parts)
        rules: dict[str, Rule] = {"xsub": lambda one: one["person"] in (NTU_120 if many else NTU_60)}
        rules |= {"xset": lambda one: one["setup"] % 2 == 0} if many else {"xview": lambda one: one["camera"] != 1}
        told = f"names are those of NTU RGB+D{' 120' if many else ''}: labels are A - 1, splits {' and '.join(rules)}"
    elif (parts := parts_of(names, SUBJECT)) is not None:
        rules = {"xsub": lambda one: one["person"] % 2 == 1}
        told = "names state action and subject: labels are a - 1, split xsub trains on odd subjects"
    else:
        return [], {}, ""
    splits: dict[str, list[str]] = {}
    for split, rule in rules.items():
        for part, wanted in (("train", True), ("val", False)):
            chosen = [name for name, one in zip(names, parts, strict=True) if rule(one) is wanted]
            splits |= {f"{split}_{part}": chosen} if chosen else {}
    return [one["action"] - 1 for one in parts], splits, told


def labels_of(names: Sequence[str], labels: str, notes: list[str]) -> tuple[list[int], tuple[str, ...]]:
    """Return the label of each recording, -1 for one without, and the names of the classes if labels are names.

    labels: "folders", a CSV with the columns recording and label, or JSON {recording: label}. Labels are numbers, or
    names, which get the numbers of their alphabetical order. Raises SightwordError if no recording has one.
    """
    if labels == FOLDERS:
        if outside := [name for name in names if "/" not in name]:
            raise SightwordError(
                f"labels=folders: {outside[0]} is in no folder. Put the recordings of a class into one"
            )
        stated = {name: name.split("/")[0] for name in names}
        notes.append("the outermost folder of a recording is its class")
    else:
        stated = _stated_labels(Path(labels).expanduser())
    stated = {name: label for name, label in stated.items() if label != str(UNKNOWN)}
    given = {name: stated[name] for name in names if name in stated}
    if not given:
        raise SightwordError(
            f"labels={labels} has none of the {len(names)} recordings. Theirs are names as {few(names, 3)}; the file "
            f"has {few(stated, 3)}"
        )
    if unused := [name for name in stated if name not in set(names)]:
        notes.append(f"{len(unused)} labels are of recordings that are not here, the first is {unused[0]}")
    if all(label.isdecimal() for label in stated.values()) and labels != FOLDERS:
        return [int(given.get(name, UNKNOWN)) for name in names], ()
    classes = tuple(sorted(set(stated.values())))
    rows = {label: row for row, label in enumerate(classes)}
    notes.append(f"labels are the {len(classes)} classes in alphabetical order: {few(classes)}")
    return [rows[given[name]] if name in given else UNKNOWN for name in names], classes


def _stated_labels(file: Path) -> dict[str, str]:
    if file.suffix == ".json":
        stated = read_json(file, missing=MISSING)
        values = {name: stated.value(name) for name in stated}
        if wrong := next(
            (name for name, value in values.items() if isinstance(value, dict | list | bool | float)), None
        ):
            raise stated.error("expected a number or a name", wrong)
        return {_bare(name): str(value).strip() for name, value in values.items() if value not in (None, "")}
    if file.suffix != ".csv":
        raise SightwordError(
            f"labels={file} is not a file of labels. Pass a CSV with the columns recording,label, JSON {{recording: "
            "label}, or folders"
        )
    rows = read_csv(file, ["recording", "label"], missing=MISSING).rows
    found: dict[str, str] = {}
    for row in rows:
        name = _bare(row.text("recording"))
        if found.get(name, row.text("label", "")) != row.text("label", ""):
            raise row.error(f"{name[:60]} has another label above", "recording")
        found |= {name: row.text("label")} if "label" in row else {}
    return found


def _bare(name: str) -> str:
    """The name of a recording without the suffix of its file."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix()
