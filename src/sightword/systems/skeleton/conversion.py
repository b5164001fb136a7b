"""Files of other tools and data sets to recordings in pyskl's form: `sightword convert`.

What a format leaves open is stated by options, what was assumed is in the notes of the result. Labels come from a file,
from the names of folders, or from names of a published form; recordings without one are as welcome.

Legend: M persons, T frames, V joints of a recording.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import MissingFileError, SightwordError
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_json, read_text
from sightword.systems.skeleton.annotations import Contents, Recordings, read_contents
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.diagnosis import say_findings
from sightword.systems.skeleton.formats.format import Format, Made, Options
from sightword.systems.skeleton.formats.known import NAMES, format_named, recognise_format, sources
from sightword.systems.skeleton.formats.naming import NTU, labels_of, parts_of, stated_by
from sightword.systems.skeleton.joints import JointSet, joint_set
from sightword.systems.skeleton.sequence import AS_PYSKL, VIEWS, Annotation, few, is_deep, to_sequence
from sightword.systems.skeleton.writer import notes_of, row_of, write_annotations

MIRRORED = (
    "names are those of NTU RGB+D, whose colour video is mirrored: an estimator calls left there what the Kinect calls "
    "right. Add mirrored_video=true to use it beside 3-D or other videos; pyskl's own 2-D files are as it is now"
)


class Imported(NamedTuple):
    """What was read."""

    contents: Contents
    notes: list[str]  # what was assumed, a line each
    classes: tuple[str, ...]  # names of the labels; empty if they came as numbers, or not at all


class Wanted(NamedTuple):
    """What a user states."""

    made: str = ""  # the name of a format; empty: recognised by the content
    labels: str = ""  # a file, "folders", or nothing
    size: tuple[int, int] | None = None  # h, w of the images
    people: int = 2  # most persons that are kept of a recording
    world: bool = False  # MediaPipe's world landmarks
    mirrored_video: bool = False  # left and right were estimated in a mirrored video


class Converted(NamedTuple):
    """What was written."""

    recordings: Recordings
    notes: list[str]
    labels: Path | None  # the names of the classes, a line each


def convert(path: Path, file: Path, wanted: Wanted, reading: Reading = AS_PYSKL) -> Converted:
    """Write the recordings of any known format as `file`, .pkl or .npz, after the checks that every reader makes.

    What was assumed is written beside it, `<file>.json`, and so are the names of the classes if labels came as names.
    Raises SightwordError for a file of no known format, and if a result would be wrong as it is read.
    """
    _refuse_others(path, file)
    imported = _read(path, wanted, reading)
    notes = imported.notes
    recordings = Recordings(path, imported.contents, reading)
    if recordings.joints is not None:
        recordings.fit(recordings.joints)
    notes += [f"left out: recording {text}" for text in recordings.left_out]
    say_findings(recordings)
    notes += _settings(wanted, reading)
    if wanted.mirrored_video and (recordings.joints is None or any(is_deep(row, reading) for row in recordings.rows)):
        what = "3-D recordings (mirrored=true is)" if recordings.joints else "unknown joints. Name them by joints="
        raise SightwordError(f"mirrored_video=true is not for {what}")
    rows = settled(recordings, wanted.mirrored_video)
    if file.suffix == ".npz" and any(row.shape is None for row in rows):
        notes.append("3-D is written as its front view; a file that ends in .pkl keeps it")
    absent = {
        str(row["frame_dir"]) for row in imported.contents.rows if isinstance(row, Mapping) and "frame_dir" in row
    }
    absent -= {row.name for row in rows}
    splits = {name: [own for own in names if own not in absent] for name, names in recordings.splits.items()}
    classes = _write_classes(file, imported.classes)
    write_annotations([row_of(row) for row in rows], file, splits, recordings.source, notes)
    return Converted(recordings, notes, classes)


def next_command(done: Converted, file: Path) -> str:
    """Return what to type next: training where there are labels, recognition where there are none."""
    if not (done.recordings.labels >= 0).all():
        return f"sightword recognise model=<run> {shlex.quote(f'annotations={file}')}"
    joints = done.recordings.source
    parts = [shlex.quote(f"data.annotations={file}")]
    parts.append(shlex.quote(f"system.labels={done.labels}") if done.labels else "system.labels=<file of labels>")
    if joints is not None and joints.name != "coco17":
        parts.append(f"system.joints={joints.name}")
    splits = list(done.recordings.splits)
    train = next((name for name in splits if name.endswith("train")), "")
    if train != "xsub_train":
        parts += [f"data.train={train}", f"data.test={train.removesuffix('train') + 'val' if train else ''}"]
    return f"sightword train experiment=skeleton/visece {' '.join(parts)}"


def _refuse_others(path: Path, file: Path) -> None:
    """Raise SightwordError for a file that is not to be written: of another kind, or somebody else's."""
    if file.suffix not in (".pkl", ".npz"):
        raise SightwordError(f"out={file} does not end in .npz or .pkl. Pass a file name that does, or a folder")
    if file.exists() and path.exists() and file.samefile(path):
        raise SightwordError(f"out={file} is the file that is read. Pass another name")
    if (beside := notes_of(file)).exists():
        try:
            ours = "written by" in read_json(beside)
        except SightwordError:
            ours = False
        if not ours:
            raise SightwordError(
                f"{beside} exists and is not ours: what was assumed would be written there. Change out="
            )


def _read(path: Path, wanted: Wanted, reading: Reading) -> Imported:
    """The recordings of a foreign file, or of one in pyskl's form."""
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    made = format_named(wanted.made) if wanted.made else recognise_format(path) if path.suffix != ".npz" else None
    if made:
        _refuse_unused(wanted, made, path)
    if reading.axes and made and made.name != "npy":
        raise SightwordError(f"axes={reading.axes} is for format=npy; {path} is {made.what}. Leave it out")
    if made is None:
        if path.is_dir():
            raise SightwordError(f"{path} has no files of a known format. These are read: {', '.join(NAMES)}")
        contents = read_contents(path)
        _refuse_unused(wanted, None, path)  # now it is known to be pyskl's
        notes, classes = [f"read from {path} as annotations in pyskl's form", *_earlier(path)], tuple[str, ...]()
        if wanted.labels:
            rows = [dict(row) if isinstance(row, Mapping) else {} for row in contents.rows]
            names = [str(row.get("frame_dir", row.get("filename"))) for row in rows]
            numbers, classes = labels_of(names, wanted.labels, notes)
            contents = contents._replace(rows=[row | {"label": n} for row, n in zip(rows, numbers, strict=True)])
        return Imported(contents, notes, classes)
    joints = joint_set(reading.joints) if reading.joints else None
    imported = read_foreign(path, made, Options(wanted.size, wanted.people, wanted.world, joints), wanted.labels)
    names = [str(row["frame_dir"]) for row in imported.contents.rows if isinstance(row, Mapping)]
    if looks_mirrored(names, imported.contents) and not wanted.mirrored_video:
        shards.say(MIRRORED)
        imported.notes.append(MIRRORED)
    return imported


def _earlier(path: Path) -> list[str]:
    """What was assumed when these annotations were made, if that stands beside them."""
    if not notes_of(path).exists():
        return []
    try:
        beside = read_json(notes_of(path))
        return beside.texts("notes", optional=True) if "written by" in beside else []
    except SightwordError:
        return []  # another program's


def _refuse_unused(wanted: Wanted, made: Format | None, path: Path) -> None:
    """Raise SightwordError for an option that does nothing for this format: it was meant for something."""
    typed = {"size": wanted.size is not None, "people": wanted.people != Wanted().people, "world": wanted.world}
    if unused := [key for key, given in typed.items() if given and key not in (made.takes if made else ())]:
        what = made.what if made else "annotations in pyskl's form"
        raise SightwordError(f"{unused[0]}= does nothing for {path}, which is {what}. Leave it out")


def _settings(wanted: Wanted, reading: Reading) -> list[str]:
    """The options that were typed, and what they did."""
    default = Reading()
    keys = [field.name for field in fields(Reading) if getattr(reading, field.name) != getattr(default, field.name)]
    typed = [f"{key}={getattr(reading, key)}" for key in keys]
    notes = [f"read with {' '.join(typed)}"] if typed else []
    return notes + (
        ["the video was mirrored: left and right are exchanged, x is turned over"] if wanted.mirrored_video else []
    )


def _write_classes(file: Path, classes: Sequence[str]) -> Path | None:
    """Write the names of the classes, a line each, beside the annotations. Raises SightwordError if they are others."""
    if not classes:
        return None
    path, text = file.with_name(f"{file.stem}_labels.txt"), "".join(f"{name}\n" for name in classes)
    if path.exists() and read_text(path) != text:
        raise SightwordError(f"{path} exists and has other classes. Move it, or change out=")
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


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


def looks_mirrored(names: Sequence[str], contents: Contents) -> bool:
    """Return whether key points in images have names of NTU RGB+D, whose colour video is mirrored."""
    flat = any(isinstance(row, Mapping) and "img_shape" in row for row in contents.rows)
    return flat and parts_of(names, NTU) is not None


def settled(recordings: Recordings, swapped: bool = False) -> list[Annotation]:
    """Return recordings as pyskl has them, whatever they were read by: 2-D in pixels, 3-D in the frame of a Kinect.

    swapped: the video was mirrored: left and right joints are exchanged, and x is turned over.
    """
    flipped = recordings.joints.flipped() if swapped and recordings.joints else None
    return [_settled(row, recordings.reading, flipped) for row in recordings.rows]


def _settled(row: Annotation, reading: Reading, flipped: Sequence[int] | None) -> Annotation:
    made = to_sequence(row, reading)
    if not is_deep(row, reading):
        if flipped is None:
            return row._replace(points=made.points, scores=made.scores, shape=made.shape)
        points, scores = made.points[:, :, flipped], made.scores[:, :, flipped]
        points[..., 0] = np.where(scores > 0, made.shape[1] - 1 - points[..., 0], 0)
        return row._replace(points=points, scores=scores, shape=made.shape)
    (right, sign), (down, turned) = VIEWS[reading.up or "y"]
    axes = np.zeros((3, 3), np.float32)  # rows: x to the left of the camera, y up, z away, in the axes of the file
    axes[0, right], axes[1, down] = -sign, -turned
    axes[2] = np.cross(axes[0], axes[1])
    axes[0] *= -1 if reading.mirrored else 1
    there = made.scores[..., None] > 0
    solid = np.where(there, np.nan_to_num(row.points.astype(np.float32)), np.float32(0))
    return row._replace(points=solid @ axes.T, scores=None if row.scores is None else made.scores, shape=None)


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
            f"{path}: recordings have several joint sets, {few(made.name for made in sets.values())}. Convert each set "
            "alone, or pass the right one by joints="
        )
    return next(iter(sets.values()), None)
