"""Recordings of skeletons as pyskl publishes them: a pickle, or the .npz that `write_npz` makes of one.

    {"split": {name: [frame_dir, …]}, "annotations": [{frame_dir, label, keypoint, keypoint_score, img_shape, …}, …]}

A bare list of annotations, older files have it, is a set without splits. 2-D sets have keypoint (M, T, V, 2) and
keypoint_score (M, T, V), or keypoint (M, T, V, 3) with the score behind x and y. 3-D sets have keypoint (M, T, V, 3)
and neither scores nor img_shape: they are seen from the front. `key_moments` (T,) bool is the small world's own.

Legend: M persons, T frames, V joints of a recording; N recordings.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sightword.data.check import Report
from sightword.storage.atomic import write_atomically
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.pickled import read_plain

THERE = 1e-3  # least score of a joint that is there; pyskl draws none below it
CANVAS = 1000  # pixels of the longer side on which a 3-D recording is seen

Row = Mapping[str, Any]  # one annotation


class Clip(NamedTuple):
    """A whole recording. A joint is there where its score is above 0, whatever its coordinates are."""

    name: str
    label: int
    points: np.ndarray  # (M, T, V, 2) float32, x and y in pixels of the picture; finite everywhere
    scores: np.ndarray  # (M, T, V) float32, 0 where a joint is not there
    shape: tuple[int, int]  # h, w of the picture
    key: np.ndarray | None  # (T,) bool, the frames in which the action itself happens, where somebody knows


class Recordings:
    """All recordings of a file, made into clips when asked for.

    Raises ValueError, one line with the file and the recording, at the first that is malformed.
    """

    def __init__(self, path: str | Path, rows: Sequence[Row], splits: Mapping[str, Sequence[str]]) -> None:
        if not len(rows):
            raise ValueError(f"{path} has no recordings")
        self.path, self.rows, self.splits = Path(path), rows, {name: list(names) for name, names in splits.items()}
        told = []
        for number, row in enumerate(rows):
            try:
                told.append(_outline(row))
            except _Malformed as error:
                raise ValueError(f"{path}: recording {number} {error}; sightword check names all such") from None
        self.names = [outline.name for outline in told]
        self.labels = np.array([outline.label for outline in told])  # (N,) int64
        self.num_joints = told[0].joints  # V
        if other := next((outline for outline in told if outline.joints != self.num_joints), None):
            raise ValueError(f"{path}: {told[0].name} has {self.num_joints} joints, {other.name} has {other.joints}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Clip:
        return _clip(self.rows[index], self.names[index], int(self.labels[index]))

    def split(self, name: str) -> list[int]:
        """Numbers of the recordings in a split, in the order of the file; of all if the name is empty.

        ValueError says which splits there are.
        """
        if not name:
            return list(range(len(self)))
        wanted = set(self._listed(name))
        found = [number for number, own in enumerate(self.names) if own in wanted]
        if not found:
            raise ValueError(f"{self.path}: not one of the {len(wanted)} recordings of split {name} is in the file")
        return found

    def absent(self, name: str) -> list[str]:
        """What a split names and the file has not."""
        there = set(self.names)
        return [own for own in self._listed(name) if own not in there] if name else []

    def broken(self) -> list[str]:
        """Those with key points or scores that are no numbers; in a clip these are missing."""
        parts = (
            (name, row["keypoint"], row.get("keypoint_score")) for name, row in zip(self.names, self.rows, strict=True)
        )
        return [
            name
            for name, points, scores in parts
            if not np.isfinite(points).all() or (scores is not None and not np.isfinite(scores).all())
        ]

    def _listed(self, name: str) -> list[str]:
        if name not in self.splits:
            there = ", ".join(self.splits)
            what = f"the splits {there}" if there else "no splits; an empty name means all of its recordings"
            raise ValueError(f"{self.path} has no split {name!r}, it has {what}")
        return self.splits[name]


def read_annotations(path: str | Path) -> Recordings:
    """A .pkl of pyskl's or an .npz of ours; nothing in it is executed. ValueError, one line, says what is wrong."""
    return Recordings(path, *_contents(path))


def _contents(path: str | Path) -> tuple[Sequence[Row], dict[str, list[str]]]:
    """The annotations and the splits of a file."""
    path = Path(path).expanduser()
    if path.suffix == ".npz":
        return _read_npz(path)
    content = read_plain(path)
    if isinstance(content, list):
        content = {"annotations": content}
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        has = f"a dictionary of {_few(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds {has}: a dictionary with 'annotations' and 'split' is wanted, or a list")
    splits = content.get("split") or {}
    if not isinstance(splits, dict) or not all(
        isinstance(names, list | tuple | np.ndarray) for names in splits.values()
    ):
        raise ValueError(f"{path}: 'split' is a dictionary, from a name to a list of frame_dirs")
    return rows, {str(name): [str(own) for own in names] for name, names in splits.items()}


# ------------------------------------------------------------------------------------------------------ one recording


class _Malformed(Exception):
    """What is wrong with a recording, without its number and its file's name."""


class _Outline(NamedTuple):
    """What can be said of a recording before its numbers are looked at."""

    name: str
    label: int
    joints: int  # V


def _outline(row: Any) -> _Outline:
    if not isinstance(row, Mapping):
        raise _Malformed(f"is of type {type(row).__name__}, not a dictionary")
    name = row.get("frame_dir", row.get("filename"))
    if not isinstance(name, str) or not name:
        raise _Malformed(f"has no 'frame_dir' but {_few(row)}")
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 2**31:
        raise _Malformed(f"({name}) has the label {label!r:.40}: a whole number from 0 on is wanted")
    points: Any = row.get("keypoint")
    if points is None and "raw_file" in row:
        raise _Malformed(f"({name}) has its key points in another file, {row['raw_file']}, which is not read")
    if not _numbers(points) or points.ndim != 4 or points.shape[3] not in (2, 3):
        raise _Malformed(f"({name}) has {_shape(points)} under 'keypoint': (persons, frames, joints, 2 or 3) is wanted")
    persons, frames, joints, _ = points.shape
    if not points.size:
        raise _Malformed(f"({name}) has no {'frames' if not frames else 'persons' if not persons else 'joints'}")
    total = row.get("total_frames", frames)
    if not isinstance(total, int) or total != frames:
        raise _Malformed(f"({name}) has total_frames={total!r:.40} and key points of {frames} frames")
    _look_at_rest(row, name)
    return _Outline(name, label, joints)


def _look_at_rest(row: Row, name: str) -> None:
    """What goes with the key points."""
    points, scores, shape = row["keypoint"], row.get("keypoint_score"), row.get("img_shape")
    if scores is not None and (not _numbers(scores) or scores.shape != points.shape[:3]):
        raise _Malformed(f"({name}) has {_shape(scores)} under 'keypoint_score', and key points {points.shape}")
    if shape is None and points.shape[3] == 2:
        raise _Malformed(f"({name}) has no 'img_shape' but {_few(row)}: the height and width of the picture")
    if shape is not None and not _is_size(shape):
        raise _Malformed(f"({name}) has img_shape={shape!r:.40}: a height and a width are wanted")
    key = row.get("key_moments")
    if key is not None and not (isinstance(key, np.ndarray) and key.shape == points.shape[1:2]):
        raise _Malformed(f"({name}) has {_shape(key)} under 'key_moments', and {points.shape[1]} frames")


def _clip(row: Row, name: str, label: int) -> Clip:
    with np.errstate(over="ignore"):
        points = row["keypoint"].astype(np.float32)
    given, shape = row.get("keypoint_score"), row.get("img_shape")
    if given is not None:
        scores = given.astype(np.float32)
    elif points.shape[3] == 3 and shape is not None:
        scores = points[..., 2].copy()
    else:  # nothing but zeros is the only way these have of saying that a joint is not there
        scores = points.any(-1).astype(np.float32)
    finite = np.isfinite(points)
    there = finite[..., 0] & finite[..., 1] & (scores >= THERE)  # as no NaN is; several times faster than all(-1)
    if not there.all():
        scores = np.where(there, scores, np.float32(0))
        points = np.where(finite, points, np.float32(0))
    if shape is None:
        points, shape = _from_the_front(points, there)
    key = row.get("key_moments")
    size = (int(shape[0]), int(shape[1]))
    return Clip(name, label, points[..., :2], scores, size, None if key is None else np.asarray(key, dtype=bool))


def _from_the_front(points: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """x, y, z (M, T, V, 3), y upwards, in any unit: x and y in pixels, y downwards, and the picture's h, w.

    Depth is left out (no perspective), and the recording as a whole fills the picture.
    """
    flat = points[..., :2] * np.array([1, -1], dtype=np.float32)
    seen = flat[there] if there.any() else np.zeros((1, 2), np.float32)
    low, extent = seen.min(0), np.ptp(seen, axis=0)
    scale = np.float32(CANVAS - 1) / max(extent.max(), np.float32(1e-6))
    height, width = (int(side) + 1 for side in np.ceil(extent[::-1] * scale))
    return (flat - low) * scale * there[..., None], (height, width)


def _numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def _is_size(value: Any) -> bool:
    sides = list(value) if isinstance(value, list | tuple | np.ndarray) else []
    return len(sides) == 2 and all(isinstance(side, int | float | np.number) and 1 <= side < 2**20 for side in sides)


def _shape(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.40}"


def _few(names: Iterable[Any], most: int = 8) -> str:
    names = [str(name)[:40] for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


# ---------------------------------------------------------------------------------------------------------------- npz


def write_npz(recordings: Recordings, path: str | Path) -> Path:
    """The same clips in one compressed file that can hold nothing but arrays; half precision where nothing is lost.

    names, labels, persons (M), frames (T), shapes: (N, …). points (Σ M·T, V, 2), scores (Σ M·T, V): all recordings one
    after the other. key (Σ T,) int8: 1 and 0, -1 where nobody knows; empty if nobody does. split/<name>: names.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path} should end in .npz")
    clips = [recordings[index] for index in range(len(recordings))]
    known = any(clip.key is not None for clip in clips)
    keys = [np.full(clip.points.shape[1], -1) if clip.key is None else clip.key for clip in clips] if known else []
    arrays = {
        "names": np.array(recordings.names),
        "labels": recordings.labels,
        "persons": np.array([clip.points.shape[0] for clip in clips]),
        "frames": np.array([clip.points.shape[1] for clip in clips]),
        "shapes": np.array([clip.shape for clip in clips]),
        "points": _halved(np.concatenate([clip.points.reshape(-1, recordings.num_joints, 2) for clip in clips])),
        "scores": _halved(np.concatenate([clip.scores.reshape(-1, recordings.num_joints) for clip in clips])),
        "key": np.concatenate(keys).astype(np.int8) if keys else np.zeros(0, np.int8),
    }
    splits = {f"split/{name}": np.array(names, dtype=np.str_) for name, names in recordings.splits.items()}
    with write_atomically(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays, **splits)  # type: ignore[arg-type]
    return path


def _halved(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half, values) else values


def _read_npz(path: Path) -> tuple[list[Row], dict[str, list[str]]]:
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        splits = {name[6:]: arrays[name].tolist() for name in arrays if name.startswith("split/")}
        return list(_unpacked(arrays)), splits
    except KeyError as error:
        raise ValueError(f"{path} has no array {error}: sightword convert writes such files") from None
    except (ValueError, TypeError, IndexError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no whole .npz of recordings ({reason}): convert again") from None


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """The recordings, each a piece of the long arrays."""
    at = then = 0
    columns = [arrays[name].tolist() for name in ("names", "labels", "persons", "frames", "shapes")]
    for name, label, persons, frames, shape in zip(*columns, strict=True):
        piece, times = slice(at, at := at + persons * frames), slice(then, then := then + frames)
        key = arrays["key"][times]
        yield {
            "frame_dir": name,
            "label": label,
            "keypoint": arrays["points"][piece].reshape(persons, frames, -1, 2),
            "keypoint_score": arrays["scores"][piece].reshape(persons, frames, -1),
            "img_shape": shape,
            "key_moments": None if not len(key) or key[0] < 0 else key > 0,
        }


# -------------------------------------------------------------------------------------------------------------- check


class RecordingReport(Report):
    """A report on recordings."""

    def __str__(self) -> str:
        verdict = f"{len(self.problems)} problems" if self.problems else "all readable"
        return "\n".join([*self.notes, *self.problems, f"{self.found} recordings, {verdict}"])


def check_pyskl(path: str, classes: int = 0) -> RecordingReport:
    """Is a file of skeletons whole? Every number of every recording is looked at.

    classes: how many the label list has, 0 if there is none. Problems are malformed recordings, key points that are
    not numbers, recordings without a single joint, labels outside the list, names given twice, splits that name what
    is absent or share recordings. Counts, and what is read in a way one may not expect, are notes.
    """
    rows, splits = _contents(path)
    outlines: dict[int, _Outline] = {}
    problems: list[str] = []
    for number, row in enumerate(rows):
        try:
            outlines[number] = _outline(row)
            problems += [f"recording {number} ({outlines[number].name}) {what}" for what in _odd_numbers(row, classes)]
        except _Malformed as error:
            problems.append(f"recording {number} {error}")
    whole = list(outlines.values())
    problems += [f"{name} is the frame_dir of {n} recordings" for name, n in _counts(o.name for o in whole) if n > 1]
    usual = next((joints for joints, _ in Counter(o.joints for o in whole).most_common(1)), 0)
    problems += [f"{o.name} has {o.joints} joints, most have {usual}" for o in whole if o.joints != usual]
    problems += _split_problems({o.name for o in whole}, splits)
    return RecordingReport(len(rows), problems, _notes([rows[n] for n in outlines], whole, splits, usual))


def _odd_numbers(row: Row, classes: int) -> Iterable[str]:
    """What a recording in the right form can still have wrong."""
    points, scores = row["keypoint"], row.get("keypoint_score")
    broken = ~np.isfinite(points).all(-1)
    if scores is not None:
        broken |= ~np.isfinite(scores)
    if broken.any():
        frames = np.unique(broken.nonzero()[1])
        yield f"has {broken.sum()} key points that are no numbers (NaN), first in frame {frames[0]}: read as missing"
    if not _clip(row, "", 0).scores.any():
        yield "has not one joint that is there"
    if classes and row["label"] >= classes:
        yield f"has the label {row['label']}, and the list has {classes} classes, 0 to {classes - 1}"
    if scores is not None and (most := np.fmax.reduce(scores, axis=None, initial=0)) > 2:  # fmax passes NaN over
        yield f"has scores up to {most:.4g}: they are shares of 1"


def _split_problems(there: set[str], splits: Mapping[str, Sequence[str]]) -> list[str]:
    problems = []
    for name, listed in splits.items():
        if absent := [own for own in listed if own not in there]:
            problems.append(
                f"split {name} names {len(absent)} recordings that are absent or malformed: {_few(absent, 3)}"
            )
        if not listed:
            problems.append(f"split {name} is empty")
    for name, listed in splits.items():
        stem = name.removesuffix("train")
        for other in (f"{stem}val", f"{stem}test"):
            if stem != name and (both := sorted(set(listed) & set(splits.get(other, [])))):
                problems.append(f"splits {name} and {other} share {len(both)} recordings: {_few(both, 3)}")
    return problems


def _notes(
    rows: Sequence[Row], outlines: Sequence[_Outline], splits: Mapping[str, Sequence[str]], joints: int
) -> list[str]:
    if not rows:
        return []
    fitting = [made.name for made in JOINT_SETS.values() if len(made.joints) == joints]
    shapes = np.array([row["keypoint"].shape for row in rows])
    labels = Counter(outline.label for outline in outlines)
    notes = [
        f"{joints} joints, as {' or '.join(fitting) or 'no named set: give system.joints a JSON file'}",
        f"{shapes[:, 1].min()} to {shapes[:, 1].max()} frames, {shapes[:, 0].min()} to {shapes[:, 0].max()} persons",
        f"{len(labels)} classes with {min(labels.values())} to {max(labels.values())} recordings each",
    ]
    if gaps := sorted(set(range(max(labels))) - set(labels)):
        notes.append(f"no recording has label {_few(gaps)}")
    if many := sum(row.get("img_shape") is None for row in rows):
        notes.append(f"{many} recordings are 3-D without a picture: they are seen from the front, depth is left out")
    if many := sum(row.get("keypoint_score") is None for row in rows):
        notes.append(f"{many} recordings have no scores of their own: a joint is there unless all its numbers are 0")
    notes += [f"split {name}: {len(listed)} recordings" for name, listed in splits.items()]
    if not splits:
        notes.append("no splits: data.train= and data.test= left empty mean all recordings")
    elif outside := {outline.name for outline in outlines} - {name for listed in splits.values() for name in listed}:
        notes.append(f"{len(outside)} recordings are in no split: {_few(sorted(outside), 3)}")
    return notes


def _counts(names: Iterable[str]) -> list[tuple[str, int]]:
    return list(Counter(names).items())
