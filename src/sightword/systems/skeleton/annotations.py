"""Skeleton sequences as pyskl publishes them: a pickle, or the .npz that `write_npz` makes of one.

    {"split": {name: [frame_dir, …]}, "annotations": [{frame_dir, label, keypoint, keypoint_score, img_shape, …}, …]}

A bare list of annotations, as in older files, is a set without splits. 2-D sets have keypoint (M, T, V, 2) and
keypoint_score (M, T, V), or keypoint (M, T, V, 3) with the score behind x and y. 3-D sets have keypoint (M, T, V, 3)
and neither scores nor img_shape: their front view is read. A label can be missing. "joints" beside "annotations", which
pyskl does not have, states the joint set: its name or a list of joints. `key_moments` (T,) bool is the synthetic
dataset's own.

Legend: M persons, T frames, V joints of a recording; N recordings.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.atomic import write_atomically
from sightword.systems.skeleton.axes import describe_axes, first_shape, guess_axes
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.correspondence import Sources, placed, sources_of
from sightword.systems.skeleton.formats.known import refuse_foreign
from sightword.systems.skeleton.joints import JOINT_SETS, JointSet, joint_set, other_joints, stated_joints
from sightword.systems.skeleton.pickled import read_plain
from sightword.systems.skeleton.sequence import (
    AS_PYSKL,
    Annotation,
    Empty,
    Malformed,
    SkeletonSequence,
    few,
    is_deep,
    parse_annotation,
    to_sequence,
)

ESSENTIAL = ("_shoulder", "_elbow", "_wrist", "_hip", "_knee", "_ankle")  # joints that a model cannot do without


class Contents(NamedTuple):
    """What a file has, its annotations not checked."""

    rows: Sequence[object]
    splits: dict[str, list[str]]
    joints: JointSet | None = None  # the file's, if it states one


class Recordings(Sequence[SkeletonSequence]):
    """All recordings of a file, converted one at a time as a `Reading` says.

    Raises SightwordError, with the file and the recording, at the first that is malformed. Recordings that have nothing
    in them are left out.
    """

    def __init__(self, path: str | Path, contents: Contents, reading: Reading = AS_PYSKL) -> None:
        if not len(contents.rows):
            raise SightwordError(f"{path} has no recordings")
        self.path, self.splits, self.reading = Path(path), contents.splits, reading
        self.source = joint_set(reading.joints) if reading.joints else contents.joints  # of the file; None: unknown
        self.joints = self.source  # of the recordings as they come
        self.sources: Sources | None = None  # which of the file's joints give each; None: as in the file
        self.rows, malformed = parse_rows(contents.rows, reading)
        known = len(self.source.joints) if self.source else 0
        if _may_be_turned(self.rows, malformed, reading) and (axes := guess_axes(contents.rows, known)):
            told = describe_axes(axes, first_shape(contents.rows))
            raise SightwordError(f"{path}: {told}. axes={axes} (in training data.axes={axes}) reads it")
        self.left_out = [str(error) for _, error in malformed if isinstance(error, Empty)]
        if wrong := next(((number, error) for number, error in malformed if not isinstance(error, Empty)), None):
            raise SightwordError(
                f"{path}: recording {wrong[0]} {wrong[1]}. sightword check dataset=pyskl path={path} names all such"
            )
        if not self.rows:
            raise SightwordError(f"{path}: every recording is empty, the first {self.left_out[0]}")
        self.names = [row.name for row in self.rows]
        self.labels = np.array([row.label for row in self.rows])  # (N,) int64, -1 if it is not known
        self.num_joints = self.rows[0].points.shape[2]  # V of the recordings as they come
        if other := next((row for row in self.rows if row.points.shape[2] != self.num_joints), None):
            raise SightwordError(
                f"{path}: {self.names[0]} has {self.num_joints} joints, {other.name} has {other.points.shape[2]}"
            )

        check_dimensions(self.rows, reading)

    def fit(self, joints: JointSet) -> None:
        """Have recordings come with these joints, found by their names if the file has another set.

        A joint that the file lacks is placed at others, see `correspondence`, or is missing.

        Raises SightwordError if the file has another number of joints than its set, or lacks shoulders, elbows, wrists,
        hips, knees or ankles that these joints have.
        """
        source = self.source or joints
        if (count := self.rows[0].points.shape[2]) != len(source.joints):
            raise SightwordError(f"{self.path} {other_joints(count, source, joints)}")
        self.joints, self.sources, self.num_joints = joints, None, len(joints.joints)
        if source.joints == joints.joints:
            return
        self.sources = sources_of(joints, source)
        missing = self.lacking()
        if not set(joints.joints) & set(source.joints) or any(joint.endswith(ESSENTIAL) for joint in missing):
            raise SightwordError(
                f"{self.path} has the joints of {source.name}, and these of {joints.name} are not among them: "
                f"{few(missing)}. Train a model with system.joints={source.name}"
            )

    def lacking(self) -> list[str]:
        """Return the names of the joints that nothing in the file stands for; their scores are 0."""
        joints = self.joints.joints if self.joints else ()
        return [joint for joint, rows in zip(joints, self.sources or (), strict=False) if not rows]

    def placed(self) -> list[str]:
        """Return at which joints of the file those are placed that it does not have."""
        if self.sources is None or self.joints is None or self.source is None:
            return []
        return placed(self.joints, self.source, self.sources)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> SkeletonSequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[SkeletonSequence]: ...
    def __getitem__(self, index: int | slice) -> SkeletonSequence | list[SkeletonSequence]:
        if isinstance(index, slice):
            return [to_sequence(row, self.reading, self.sources) for row in self.rows[index]]
        return to_sequence(self.rows[index], self.reading, self.sources)

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

    def _listed(self, name: str) -> list[str]:
        if name not in self.splits:
            there = ", ".join(self.splits)
            what = f"the splits {there}" if there else "no splits; an empty name means all of its recordings"
            raise SightwordError(f"{self.path} has no split {name!r}, it has {what}")
        return self.splits[name]


def read_annotations(path: str | Path, reading: Reading = AS_PYSKL) -> Recordings:
    """Read a .pkl of pyskl's or an .npz of ours; nothing in it is executed. Raises SightwordError."""
    return Recordings(path, read_contents(path), reading)


def read_contents(path: str | Path) -> Contents:
    """Return what a file has, its annotations not checked. Raises SightwordError."""
    path = Path(path).expanduser()
    if path.suffix == ".npz":
        return _read_npz(path)
    try:
        content = read_plain(path)
    except SightwordError:
        refuse_foreign(path)
        raise
    if isinstance(content, list):
        content = {"annotations": content}
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(rows, list):
        has = f"a dictionary of {few(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise SightwordError(f"{path} holds {has}. Expected a dictionary with 'annotations' and 'split', or a list")
    if rows and isinstance(rows[0], dict) and "raw_file" in rows[0]:
        refuse_foreign(path)
    splits = content.get("split") or {}
    if not isinstance(splits, dict) or not all(
        isinstance(names, list | tuple | np.ndarray) for names in splits.values()
    ):
        raise SightwordError(f"{path}: 'split' is a dictionary, from a name to a list of frame_dirs")
    named = {str(name): [str(own) for own in names] for name, names in splits.items()}
    return Contents(rows, named, stated_joints(content.get("joints"), path))


def _may_be_turned(rows: Sequence[Annotation], malformed: Sequence[object], reading: Reading) -> bool:
    """Return whether the axes may be in another order than the reading has: then they are worth a look."""
    shapes = [row.points.shape for row in rows]
    joints = {shape[2] for shape in shapes}
    named = joints <= {len(made.joints) for made in JOINT_SETS.values()} and len(joints) == 1
    return not reading.axes and bool(malformed or not named or any(shape[0] > shape[1] for shape in shapes))


def check_dimensions(rows: Sequence[Annotation], reading: Reading) -> None:
    """Raise SightwordError for a reading of 2-D that is given for 3-D, or the reverse."""
    deep = [is_deep(row, reading) for row in rows]
    if reading.coordinates == "3d" and not all(deep):
        raise SightwordError(
            f"coordinates=3d: key points have two numbers, the first in {rows[deep.index(False)].name}"
        )
    if reading.coordinates in ("pixels", "normalised", "centred") and all(deep):
        raise SightwordError(f"coordinates={reading.coordinates}: these recordings are 3-D, they have no img_shape")
    if reading.up[-1:] == "z" and not all(deep):
        raise SightwordError(
            f"up={reading.up}: images have no third axis, and {rows[deep.index(False)].name} is of one"
        )


def parse_rows(rows: Sequence[object], reading: Reading) -> tuple[list[Annotation], list[tuple[int, Malformed]]]:
    """Return the annotations in the right form, and the numbers of the others with what is wrong."""
    whole: list[Annotation] = []
    malformed: list[tuple[int, Malformed]] = []
    for number, row in enumerate(rows):
        try:
            whole.append(parse_annotation(row, reading.axes))
        except Malformed as error:
            malformed.append((number, error))
    return whole, malformed


# ---------------------------------------------------------------------------------------------------------------- npz


def write_npz(recordings: Recordings, path: str | Path) -> Path:
    """Write the same sequences to a compressed file that can hold arrays only; half precision if nothing is lost.

    names, labels, persons (M), frames (T), shapes: (N, …). points (Σ M·T, V, 2), scores (Σ M·T, V): all recordings one
    after the other. key (Σ T,) int8: 1 and 0, -1 if it is not known; empty if it is known of none. joints (V,): names,
    if the set is known. fps (N,): frames in a second, 0 if unknown; none if unknown of all. split/<name>: names.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise SightwordError(f"out={path} does not end in .npz. Give a file name that does")
    sequences = list(recordings)
    joints = sequences[0].points.shape[2]
    known = any(one.key is not None for one in sequences)
    keys = [np.full(one.points.shape[1], -1) if one.key is None else one.key for one in sequences] if known else []
    arrays = {
        "names": np.array(recordings.names),
        "labels": recordings.labels,
        "persons": np.array([one.points.shape[0] for one in sequences]),
        "frames": np.array([one.points.shape[1] for one in sequences]),
        "shapes": np.array([one.shape for one in sequences]),
        "points": halved(np.concatenate([one.points.reshape(-1, joints, 2) for one in sequences])),
        "scores": halved(np.concatenate([one.scores.reshape(-1, joints) for one in sequences])),
        "key": np.concatenate(keys).astype(np.int8) if keys else np.zeros(0, np.int8),
    }
    if any(one.fps for one in sequences):
        arrays["fps"] = np.array([one.fps or 0 for one in sequences], np.float64)
    if recordings.joints is not None:
        arrays["joints"] = np.array(recordings.joints.joints)
    splits = {f"split/{name}": np.array(names, dtype=np.str_) for name, names in recordings.splits.items()}
    with write_atomically(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays, **splits)  # type: ignore[arg-type]
    return path


def halved(values: np.ndarray) -> np.ndarray:
    """Return float16 where nothing is lost by it, else the values as they are; float64 as float32."""
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half, values) else values


def _read_npz(path: Path) -> Contents:
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        splits = {name[6:]: arrays[name].tolist() for name in arrays if name.startswith("split/")}
        joints = arrays["joints"].tolist() if "joints" in arrays else None
        return Contents(list(_unpacked(arrays)), splits, stated_joints(joints, path))
    except KeyError as error:
        raise SightwordError(
            f"{path} has the arrays {few(arrays)} and no array {error}. sightword convert writes such files of pickles"
        ) from None
    except (ValueError, TypeError, IndexError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise SightwordError(f"{path} is not a complete .npz of recordings ({reason}). Convert it again") from None


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Iterator[object]:
    """The recordings, each a piece of the long arrays."""
    at = then = 0
    columns = [arrays[name].tolist() for name in ("names", "labels", "persons", "frames", "shapes")]
    columns.append(arrays["fps"].tolist() if "fps" in arrays else [None] * len(arrays["names"]))
    for name, label, persons, frames, shape, fps in zip(*columns, strict=True):
        piece, times = slice(at, at := at + persons * frames), slice(then, then := then + frames)
        key = arrays["key"][times]
        yield {
            "frame_dir": name,
            "label": label,
            "keypoint": arrays["points"][piece].reshape(persons, frames, -1, 2),
            "keypoint_score": arrays["scores"][piece].reshape(persons, frames, -1),
            "img_shape": shape,
            "key_moments": None if not len(key) or key[0] < 0 else key > 0,
            "fps": fps,
        }
