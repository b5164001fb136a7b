"""Skeleton sequences as pyskl publishes them: a pickle, or the .npz that `write_npz` makes of one.

    {"split": {name: [frame_dir, …]}, "annotations": [{frame_dir, label, keypoint, keypoint_score, img_shape, …}, …]}

A bare list of annotations, as in older files, is a set without splits. 2-D sets have keypoint (M, T, V, 2) and
keypoint_score (M, T, V), or keypoint (M, T, V, 3) with the score behind x and y. 3-D sets have keypoint (M, T, V, 3)
and neither scores nor img_shape: their front view is read. `key_moments` (T,) bool is the synthetic dataset's own.

Legend: M persons, T frames, V joints of a recording; N recordings.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard, overload

import numpy as np

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.atomic import write_atomically
from sightword.systems.skeleton.pickled import read_plain

THERE = 1e-3  # least score of a joint that is there; pyskl draws none below it
CANVAS = 1000  # pixels of the longer side of the front view of a 3-D recording


class SkeletonSequence(NamedTuple):
    """A whole recording. A joint is there if its score is above 0, whatever its coordinates are."""

    name: str
    label: int
    points: np.ndarray  # (M, T, V, 2) float32, x and y in pixels of the image; finite everywhere
    scores: np.ndarray  # (M, T, V) float32, 0 for a joint that is not there
    shape: tuple[int, int]  # h, w of the image
    key: np.ndarray | None  # (T,) bool, the frames in which the action itself happens, if that is known


class Annotation(NamedTuple):
    """One recording as the file has it, its form checked."""

    name: str
    label: int
    points: np.ndarray  # (M, T, V, 2 or 3), any numbers
    scores: np.ndarray | None  # (M, T, V)
    shape: tuple[int, int] | None
    key: np.ndarray | None  # (T,)


class Recordings(Sequence[SkeletonSequence]):
    """All recordings of a file, converted one at a time.

    Raises SightwordError, with the file and the recording, at the first that is malformed.
    """

    def __init__(self, path: str | Path, rows: Sequence[object], splits: Mapping[str, Sequence[str]]) -> None:
        if not len(rows):
            raise SightwordError(f"{path} has no recordings")
        self.path, self.splits = Path(path), {name: list(names) for name, names in splits.items()}
        self.rows: list[Annotation] = []
        for number, row in enumerate(rows):
            try:
                self.rows.append(parse_annotation(row))
            except Malformed as error:
                raise SightwordError(
                    f"{path}: recording {number} {error}. sightword check dataset=pyskl path={path} names all such"
                ) from None
        self.names = [row.name for row in self.rows]
        self.labels = np.array([row.label for row in self.rows])  # (N,) int64
        self.num_joints = self.rows[0].points.shape[2]  # V
        if other := next((row for row in self.rows if row.points.shape[2] != self.num_joints), None):
            raise SightwordError(
                f"{path}: {self.names[0]} has {self.num_joints} joints, {other.name} has {other.points.shape[2]}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> SkeletonSequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[SkeletonSequence]: ...
    def __getitem__(self, index: int | slice) -> SkeletonSequence | list[SkeletonSequence]:
        if isinstance(index, slice):
            return [to_sequence(row) for row in self.rows[index]]
        return to_sequence(self.rows[index])

    def split(self, name: str) -> list[int]:
        """Return the numbers of the recordings in a split, in the order of the file; of all if the name is empty.

        Raises SightwordError, which names the splits, if there is no such split.
        """
        if not name:
            return list(range(len(self)))
        listed = set(self._listed(name))
        found = [number for number, own in enumerate(self.names) if own in listed]
        if not found:
            raise SightwordError(f"{self.path}: none of the {len(listed)} recordings of split {name} is in the file")
        return found

    def absent(self, name: str) -> list[str]:
        """Return the names in a split that the file does not contain."""
        there = set(self.names)
        return [own for own in self._listed(name) if own not in there] if name else []

    def content(self, row: int) -> str:
        """Return a digest of a recording's key points and scores."""
        digest = hashlib.blake2b(repr(self.rows[row].points.shape).encode(), digest_size=16)
        for array in (self.rows[row].points, self.rows[row].scores):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def broken(self) -> list[str]:
        """Return the names of recordings with key points or scores that are not finite; these are read as missing."""
        return [
            row.name
            for row in self.rows
            if not np.isfinite(row.points).all() or (row.scores is not None and not np.isfinite(row.scores).all())
        ]

    def _listed(self, name: str) -> list[str]:
        if name not in self.splits:
            there = ", ".join(self.splits)
            what = f"the splits {there}" if there else "no splits; an empty name means all of its recordings"
            raise SightwordError(f"{self.path} has no split {name!r}, it has {what}")
        return self.splits[name]


def read_annotations(path: str | Path) -> Recordings:
    """Read a .pkl of pyskl's or an .npz of ours; nothing in it is executed. Raises SightwordError."""
    return Recordings(path, *read_contents(path))


def read_contents(path: str | Path) -> tuple[Sequence[object], dict[str, list[str]]]:
    """Return the annotations and the splits of a file, the annotations not checked. Raises SightwordError."""
    path = Path(path).expanduser()
    if path.suffix == ".npz":
        return _read_npz(path)
    content = read_plain(path)
    if isinstance(content, list):
        content = {"annotations": content}
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(rows, list):
        has = f"a dictionary of {few(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise SightwordError(f"{path} holds {has}. Expected a dictionary with 'annotations' and 'split', or a list")
    splits = content.get("split") or {}
    if not isinstance(splits, dict) or not all(
        isinstance(names, list | tuple | np.ndarray) for names in splits.values()
    ):
        raise SightwordError(f"{path}: 'split' is a dictionary, from a name to a list of frame_dirs")
    return rows, {str(name): [str(own) for own in names] for name, names in splits.items()}


# ------------------------------------------------------------------------------------------------------ one recording


class Malformed(Exception):
    """What is wrong with a recording, without its number and the name of its file."""


def parse_annotation(row: object) -> Annotation:
    """Return an annotation whose form is right, its numbers not looked at. Raises Malformed."""
    if not isinstance(row, Mapping):
        raise Malformed(f"is of type {type(row).__name__}, not a dictionary")
    name = row.get("frame_dir", row.get("filename"))
    if not isinstance(name, str) or not name:
        raise Malformed(f"has no 'frame_dir' but {few(row)}")
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 2**31:
        raise Malformed(f"({name}) has the label {label!r:.40}: expected a whole number from 0 on")
    points = row.get("keypoint")
    if points is None and "raw_file" in row:
        raise Malformed(f"({name}) has its key points in another file, {row['raw_file']}, which is not read")
    if not _numbers(points) or points.ndim != 4 or points.shape[3] not in (2, 3):
        raise Malformed(f"({name}) has {_shape(points)} under 'keypoint': expected (persons, frames, joints, 2 or 3)")
    persons, frames, _, _ = points.shape
    if not points.size:
        raise Malformed(f"({name}) has no {'frames' if not frames else 'persons' if not persons else 'joints'}")
    total = row.get("total_frames", frames)
    if not isinstance(total, int) or total != frames:
        raise Malformed(f"({name}) has total_frames={total!r:.40} and key points of {frames} frames")
    return _with_the_rest(row, Annotation(name, label, points, None, None, None))


def _with_the_rest(row: Mapping[str, object], made: Annotation) -> Annotation:
    """The annotation with what accompanies its key points."""
    name, points = made.name, made.points
    scores, shape, key = (row.get(part) for part in ("keypoint_score", "img_shape", "key_moments"))
    if scores is not None and (not _numbers(scores) or scores.shape != points.shape[:3]):
        raise Malformed(f"({name}) has {_shape(scores)} under 'keypoint_score', and key points {points.shape}")
    if shape is None and points.shape[3] == 2:
        raise Malformed(f"({name}) has no 'img_shape' but {few(row)}: the height and width of the image")
    size = None if shape is None else _size(shape)
    if shape is not None and size is None:
        raise Malformed(f"({name}) has img_shape={shape!r:.40}: expected a height and a width")
    if key is not None and not (isinstance(key, np.ndarray) and key.shape == points.shape[1:2]):
        raise Malformed(f"({name}) has {_shape(key)} under 'key_moments', and {points.shape[1]} frames")
    return made._replace(scores=scores, shape=size, key=key)


def to_sequence(row: Annotation) -> SkeletonSequence:
    """Return an annotation as float32 arrays in which what is not finite is a joint that is not there."""
    with np.errstate(over="ignore"):
        points = row.points.astype(np.float32)
    shape, scores = row.shape, _scores(row, points)
    finite = np.isfinite(points)
    there = finite[..., 0] & finite[..., 1] & (scores >= THERE)  # as no NaN is; several times faster than all(-1)
    if not there.all():
        scores = np.where(there, scores, np.float32(0))
        points = np.where(finite, points, np.float32(0))
    if shape is None:
        points, shape = _from_the_front(points, there)
    key = None if row.key is None else np.asarray(row.key, dtype=bool)
    return SkeletonSequence(row.name, row.label, points[..., :2], scores, shape, key)


def _scores(row: Annotation, points: np.ndarray) -> np.ndarray:
    """The scores of joints, (M, T, V) float32. points: of the row, as float32."""
    if row.scores is not None:
        return row.scores.astype(np.float32)
    if points.shape[3] == 3 and row.shape is not None:
        return points[..., 2].copy()
    # nothing but zeros is the only way in which these files state that a joint is not there
    return np.asarray(points.any(-1), dtype=np.float32)


def _from_the_front(points: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """x, y, z (M, T, V, 3), y upwards, in any unit → x and y in pixels, y downwards, and the image's h, w.

    Depth is left out (no perspective), and the recording as a whole fills the image.
    """
    flat = points[..., :2] * np.array([1, -1], dtype=np.float32)
    seen = flat[there] if there.any() else np.zeros((1, 2), np.float32)
    low, extent = seen.min(0), np.ptp(seen, axis=0)
    scale = np.float32(CANVAS - 1) / max(extent.max(), np.float32(1e-6))
    height, width = (int(side) + 1 for side in np.ceil(extent[::-1] * scale))
    return (flat - low) * scale * there[..., None], (height, width)


def _numbers(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def _size(value: object) -> tuple[int, int] | None:
    sides = list(value) if isinstance(value, list | tuple | np.ndarray) else []
    if len(sides) != 2 or not all(isinstance(side, int | float | np.number) and 1 <= side < 2**20 for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def _shape(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.40}"


def few(names: Iterable[object], most: int = 8) -> str:
    """Return the first names as a text, with the number of the others; "nothing" for none."""
    short = [str(name)[:40] for name in names]
    return ", ".join(short[:most]) + (f" and {len(short) - most} more" if len(short) > most else "") or "nothing"


# ---------------------------------------------------------------------------------------------------------------- npz


def write_npz(recordings: Recordings, path: str | Path) -> Path:
    """Write the same sequences to a compressed file that can hold arrays only; half precision if nothing is lost.

    names, labels, persons (M), frames (T), shapes: (N, …). points (Σ M·T, V, 2), scores (Σ M·T, V): all recordings one
    after the other. key (Σ T,) int8: 1 and 0, -1 if it is not known; empty if it is known of none. split/<name>: names.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise SightwordError(f"out={path} does not end in .npz. Give a file name that does")
    sequences = list(recordings)
    known = any(one.key is not None for one in sequences)
    keys = [np.full(one.points.shape[1], -1) if one.key is None else one.key for one in sequences] if known else []
    arrays = {
        "names": np.array(recordings.names),
        "labels": recordings.labels,
        "persons": np.array([one.points.shape[0] for one in sequences]),
        "frames": np.array([one.points.shape[1] for one in sequences]),
        "shapes": np.array([one.shape for one in sequences]),
        "points": _halved(np.concatenate([one.points.reshape(-1, recordings.num_joints, 2) for one in sequences])),
        "scores": _halved(np.concatenate([one.scores.reshape(-1, recordings.num_joints) for one in sequences])),
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


def _read_npz(path: Path) -> tuple[list[object], dict[str, list[str]]]:
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        splits = {name[6:]: arrays[name].tolist() for name in arrays if name.startswith("split/")}
        return list(_unpacked(arrays)), splits
    except KeyError as error:
        raise SightwordError(f"{path} has no array {error}. sightword convert writes such files") from None
    except (ValueError, TypeError, IndexError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise SightwordError(f"{path} is not a complete .npz of recordings ({reason}). Convert it again") from None


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Iterator[object]:
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
