"""Files of other tools and data sets to recordings in pyskl's form: `sightword convert`.

What a format leaves open is stated by options, what was assumed is in the notes of the result. Labels come from a file,
from the names of folders, or from names of a published form; recordings without one are as welcome.

Legend: M persons, T frames, V joints of a recording.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.reader import read_csv, read_json
from sightword.systems.skeleton.annotations import Contents, Recordings
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.formats.format import Format, Made, Options
from sightword.systems.skeleton.formats.known import sources
from sightword.systems.skeleton.formats.naming import NTU, parts_of, stated_by
from sightword.systems.skeleton.joints import JointSet, joint_set
from sightword.systems.skeleton.sequence import UNKNOWN, VIEWS, Annotation, few, is_deep, to_sequence

FOLDERS = "folders"  # labels=folders: each folder of recordings is a class


class Imported(NamedTuple):
    """What was read."""

    contents: Contents
    notes: list[str]  # what was assumed, a line each
    classes: tuple[str, ...]  # names of the labels; empty if they came as numbers, or not at all


def read_foreign(path: Path, made: Format, options: Options, labels: str = "") -> Imported:
    """Read all recordings of a file or folder, with a progress bar. labels: a file, "folders", or nothing.

    Raises SightwordError, with the file, at the first that is not of the format, and for labels that fit nothing.
    """
    from tqdm import tqdm

    found, other = sources(path, made)
    told = tqdm(found, f"reading {made.name}", unit=" recordings", disable=None if len(found) > 1 else True)
    read = [one for source in told for one in made.read(source, options)]
    notes = [f"read from {path} as {made.name}: {made.what}", *_counted(read)]
    if other:
        notes.append(f"{len(other)} files are of another kind and were not read, the first is {other[0].name}")
    if twice := [name for name, count in Counter(one.name for one in read).items() if count > 1]:
        raise SightwordError(f"{path}: {len(twice)} recordings have the name of another: {few(twice, 3)}")
    names = [one.name for one in read]
    numbers, splits, classes = [one.label for one in read], dict[str, list[str]](), tuple[str, ...]()
    if labels:
        numbers, classes = labels_of(names, labels, notes)
    if (stated := stated_by(names))[2]:
        numbers, splits = (numbers if labels else stated[0]), stated[1]
        notes.append(stated[2])
    if nameless := sum(number < 0 for number in numbers):
        notes.append(f"{nameless} of {len(read)} recordings have no label")
    rows = [_row(one, number) for one, number in zip(read, numbers, strict=True)]
    return Imported(Contents(rows, splits, _joints(read, path)), notes, classes)


def looks_mirrored(names: Sequence[str], made: Format, contents: Contents) -> bool:
    """Return whether key points in images have names of NTU RGB+D, whose colour video is mirrored."""
    flat = any(isinstance(row, Mapping) and "img_shape" in row for row in contents.rows)
    return flat and parts_of(names, NTU) is not None


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


def settled(recordings: Recordings, swapped: bool = False) -> list[Annotation]:
    """Return recordings as pyskl has them, whatever they were read by: 2-D in pixels, 3-D in the frame of a Kinect.

    swapped: the video was mirrored: left and right joints are exchanged, and x is turned over.
    """
    flipped = recordings.joints.flipped() if swapped and recordings.joints else None
    return [_settled(row, recordings.reading, flipped) for row in recordings.rows]


def _settled(row: Annotation, reading: Reading, flipped: Sequence[int] | None) -> Annotation:
    made = to_sequence(row, reading)
    if not is_deep(row, reading):
        points = made.points
        if flipped is not None:
            points = points[:, :, flipped] * np.float32([-1, 1]) + np.float32([made.shape[1] - 1, 0])
        scores = made.scores if flipped is None else made.scores[:, :, flipped]
        points = points * np.asarray(scores > 0)[..., None]
        return row._replace(points=points, scores=scores, shape=made.shape)
    (right, sign), (down, turned) = VIEWS[reading.up or "y"]
    axes = np.zeros((3, 3), np.float32)  # rows: x to the left of the camera, y up, z away, in the axes of the file
    axes[0, right], axes[1, down] = -sign, -turned
    axes[2] = np.cross(axes[0], axes[1])
    axes[0] *= -1 if reading.mirrored else 1
    points = np.where(made.scores[..., None] > 0, np.nan_to_num(row.points.astype(np.float32)), 0)
    scores = None if bool((made.scores > 0).all(-1).any()) and row.scores is None else row.scores
    return row._replace(points=points @ axes.T, scores=scores, shape=None)


def _row(one: Made, label: int) -> dict[str, object]:
    """A recording as pyskl's row."""
    row: dict[str, object] = {"frame_dir": one.name, "keypoint": one.points}
    row |= {"label": label} if label >= 0 else {}
    row |= {} if one.scores is None else {"keypoint_score": one.scores}
    return row if one.shape is None else row | {"img_shape": one.shape, "original_shape": one.shape}


def _counted(read: Sequence[Made]) -> list[str]:
    """Each note once, with how many recordings it is true of if not of all."""
    counts = Counter(note for one in read for note in one.notes)
    return [
        note if count == len(read) else f"{note} ({count} of {len(read)} recordings)" for note, count in counts.items()
    ]


def _joints(read: Sequence[Made], path: Path) -> JointSet | None:
    """The joint set of all recordings; of one that nobody is in it says nothing."""
    sets = {one.joints.joints: one.joints for one in read if one.joints is not None and one.points.size}
    if len(sets) > 1:
        raise SightwordError(
            f"{path}: recordings have several joint sets, {few(made.name for made in sets.values())}. Convert each alone"
        )
    return next(iter(sets.values()), None)


def _stated_labels(file: Path) -> dict[str, str]:
    if file.suffix == ".json":
        fields = read_json(file, missing="labels= is a CSV of recording,label, JSON, or folders")
        values = {name: fields.value(name) for name in fields}
        if wrong := next(
            (name for name, value in values.items() if isinstance(value, dict | list | bool | float)), None
        ):
            raise fields.error("expected a number or a name", wrong)
        return {name: str(value).strip() for name, value in values.items() if value not in (None, "")}
    if file.suffix != ".csv":
        raise SightwordError(
            f"labels={file} is not a file of labels. Pass a CSV with the columns recording,label, JSON {{recording: "
            "label}, or folders"
        )
    rows = read_csv(file, ["recording", "label"], missing="labels= is a CSV of recording,label, JSON, or folders").rows
    return {row.text("recording"): row.text("label") for row in rows if "label" in row}


def given_joints(name: str) -> JointSet | None:
    """Return the joint set that was typed."""
    return joint_set(name) if name else None
