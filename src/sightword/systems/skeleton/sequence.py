"""One recording: its form in a file, and how it becomes key points in pixels of an image.

A `Reading` states the conventions of a file. Without one they are pyskl's: 2-D in pixels, y downwards; 3-D as a Kinect
gives it, x to the sensor's left, y upwards, z away from the sensor. Whoever faces a Kinect has the left hand at smaller
x, so x and y both change sign in the front view, and the left hand is on the right of the image, as in any photograph.

Legend: M persons, T frames, V joints of a recording.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeGuard

import numpy as np

from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.correspondence import Sources, corresponding

THERE = 1e-3  # least score of a joint that is there; pyskl draws none below it
CANVAS = 1000  # pixels of the longer side of the front view of a 3-D recording
FASTEST = 1000  # frames in a second that are believed
UNKNOWN = -1  # the label of a recording whose class is not known
AXES = "MTVC"
AS_PYSKL = Reading()

# of a 3-D recording: which axis, with which sign, points to the right of the front view, and which down. The sensor
# looks along +z, and along +y if z is up; each view is a turn of a right-handed frame, so that nobody is mirrored
VIEWS: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "y": ((0, -1), (1, -1)),
    "-y": ((0, 1), (1, 1)),
    "z": ((0, 1), (2, -1)),
    "-z": ((0, -1), (2, 1)),
    "x": ((1, 1), (0, -1)),
    "-x": ((1, -1), (0, 1)),
}


class SkeletonSequence(NamedTuple):
    """A whole recording. A joint is there if its score is above 0, whatever its coordinates are."""

    name: str
    label: int  # -1 if it is not known
    points: np.ndarray  # (M, T, V, 2) float32, x and y in pixels of the image; finite everywhere
    scores: np.ndarray  # (M, T, V) float32, 0 for a joint that is not there
    shape: tuple[int, int]  # h, w of the image
    key: np.ndarray | None  # (T,) bool, the frames in which the action itself happens, if that is known
    fps: float | None = None  # frames in a second, if that is known
    ids: tuple[int, ...] | None = None  # (M,) who each person is, if somebody said so
    depth: np.ndarray | None = None  # (M, T, V) float32 in pixels, away from the viewer; None: a recording of images


class Annotation(NamedTuple):
    """One recording as the file has it, its form checked."""

    name: str
    label: int  # -1 if it is not known
    points: np.ndarray  # (M, T, V, 2 or 3), any numbers
    scores: np.ndarray | None  # (M, T, V)
    shape: tuple[int, int] | None
    key: np.ndarray | None  # (T,)
    fps: float | None = None  # frames in a second
    ids: tuple[int, ...] | None = None  # (M,) who each person is


class Malformed(Exception):
    """What is wrong with a recording, without its number and the name of its file."""


class Empty(Malformed):
    """A recording without frames, persons or joints, which readers leave out."""


# --------------------------------------------------------------------------------------------------------------- form


def parse_annotation(row: object, axes: str = "") -> Annotation:
    """Return an annotation whose form is right, its numbers not looked at. axes: of its arrays, as `Reading.axes`.

    Raises Malformed, and Empty for a recording that has nothing in it.
    """
    if not isinstance(row, Mapping):
        raise Malformed(f"is of type {type(row).__name__}, not a dictionary")
    name = row.get("frame_dir", row.get("filename"))
    if not isinstance(name, str) or not name:
        raise Malformed(f"has no 'frame_dir' but {few(row)}")
    label = row.get("label")
    label = UNKNOWN if label is None else label
    if isinstance(label, bool) or not isinstance(label, int) or not UNKNOWN <= label < 2**31:
        raise Malformed(f"({name}) has the label {label!r:.40}: expected a whole number from 0 on, or none")
    points = row.get("keypoint")
    if points is None and "raw_file" in row:
        raise Malformed(f"({name}) has its key points in another file, {row['raw_file']}: sightword convert reads it")
    points = ordered_axes(points, axes) if _numbers(points) else points
    if not _numbers(points) or points.ndim != 4 or (points.size and points.shape[3] not in (2, 3)):
        raise Malformed(f"({name}) has {_shape(points)} under 'keypoint': expected (persons, frames, joints, 2 or 3)")
    persons, frames, _, _ = points.shape
    if not points.size:
        raise Empty(f"({name}) has no {'frames' if not frames else 'persons' if not persons else 'joints'}")
    total = row.get("total_frames", frames)
    if not isinstance(total, int) or total != frames:
        raise Malformed(f"({name}) has total_frames={total!r:.40} and key points of {frames} frames")
    return _with_the_rest(row, Annotation(name, label, points, None, None, None), axes)


def ordered_axes(array: np.ndarray, axes: str) -> np.ndarray:
    """Return an array with its axes as M, T, V and, if it has coordinates, C. axes: as they are, for example TMVC.

    An array with another number of axes is returned as it is.
    """
    axes = axes or AXES
    named = axes if array.ndim == len(axes) else axes.replace("C", "")
    if array.ndim != len(named) or named in (AXES, AXES[:-1]):
        return array
    moved = array.transpose([named.index(axis) for axis in AXES if axis in named])
    return moved if "M" in named else moved[None]


def _with_the_rest(row: Mapping[str, object], made: Annotation, axes: str) -> Annotation:
    """The annotation with what accompanies its key points."""
    name, points = made.name, made.points
    scores, shape, key = (row.get(part) for part in ("keypoint_score", "img_shape", "key_moments"))
    scores = ordered_axes(scores, axes) if _numbers(scores) else scores
    if scores is not None and (not _numbers(scores) or scores.shape != points.shape[:3]):
        raise Malformed(f"({name}) has {_shape(scores)} under 'keypoint_score', and key points {points.shape}")
    if shape is None and points.shape[3] == 2:
        raise Malformed(f"({name}) has no 'img_shape' but {few(row)}: the height and width of the image")
    size = None if shape is None else _size(shape)
    if shape is not None and size is None:
        raise Malformed(f"({name}) has img_shape={shape!r:.40}: expected a height and a width")
    if key is not None and not (isinstance(key, np.ndarray) and key.shape == points.shape[1:2]):
        raise Malformed(f"({name}) has {_shape(key)} under 'key_moments', and {points.shape[1]} frames")
    return made._replace(scores=scores, shape=size, key=key, fps=_rate(row.get("fps")), ids=_ids(row, points.shape[0]))


def _rate(value: object) -> float | None:
    """Frames in a second; None for what cannot be that, as files of others may have anything under this name."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if 0 < value <= FASTEST else None


def _ids(row: Mapping[str, object], persons: int) -> tuple[int, ...] | None:
    """Who each person is; None unless that is a whole number for each."""
    ids = row.get("ids")
    if not isinstance(ids, list | tuple) or not all(isinstance(one, int) for one in ids):
        return None
    return tuple(ids) if len(set(ids)) == persons == len(ids) else None


def _numbers(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def _size(value: object) -> tuple[int, int] | None:
    sides = list(value) if isinstance(value, list | tuple | np.ndarray) else []
    if len(sides) != 2 or not all(isinstance(side, int | float | np.number) and 1 <= side < 2**20 for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def _shape(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.40}"


# --------------------------------------------------------------------------------------------------------- conversion


def to_sequence(row: Annotation, reading: Reading = AS_PYSKL, sources: Sources | None = None) -> SkeletonSequence:
    """Return an annotation as float32 arrays in which what is not finite is a joint that is not there.

    sources: which joints of the file give each joint; None: as they come.
    """
    with np.errstate(over="ignore"):
        points = row.points.astype(np.float32)
    deep = is_deep(row, reading)
    scores = _scores(row, points, deep)
    if reading.score_range:
        scores = np.clip(scores / np.float32(reading.score_range), 0, 1)
    finite = np.isfinite(points)
    there = finite[..., 0] & finite[..., 1] & (scores >= THERE)  # as no NaN is; several times faster than all(-1)
    if reading.missing is not None:
        there &= (points[..., :2] != np.float32(reading.missing)).any(-1)
    if not there.all():
        scores = np.where(there, scores, np.float32(0))
        points = np.where(finite, points, np.float32(0))
    points, shape = _from_the_front(points, there, reading) if deep else _in_pixels(points, row.shape, reading)
    key = None if row.key is None else np.asarray(row.key, dtype=bool)
    if sources is not None:
        points, scores = corresponding(points, scores, sources)
    scores = scores.astype(np.float32, copy=False)
    depth = points[..., 2] if deep else None
    return SkeletonSequence(row.name, row.label, points[..., :2], scores, shape, key, row.fps, row.ids, depth)


def is_deep(row: Annotation, reading: Reading = AS_PYSKL) -> bool:
    """Return whether a recording is read as 3-D: so if it says nothing of an image, or if the reading says so."""
    return row.points.shape[3] == 3 and (row.shape is None or reading.coordinates == "3d")


def _scores(row: Annotation, points: np.ndarray, deep: bool) -> np.ndarray:
    """The scores of joints, (M, T, V) float32. points: of the row, as float32."""
    if row.scores is not None:
        return row.scores.astype(np.float32)
    if points.shape[3] == 3 and not deep:
        return points[..., 2].copy()
    # nothing but zeros is the only way in which these files state that a joint is not there
    there = np.asarray(points.any(-1))
    if deep and not there.all():
        there |= _origin(points, there)
    return np.asarray(there, dtype=np.float32)


def _origin(points: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Where (M, T, V) is a joint the origin of 3-D coordinates about it: always at 0, and amid the others."""
    body = np.asarray(there.any(2))  # (M, T)
    always = np.asarray(body.any(1))[:, None] & ~np.asarray(there.any(1))  # (M, V)
    if not always.any():
        return np.zeros_like(there)
    low, high = (ends(points, axis=2) for ends in (np.nanmin, np.nanmax))  # (M, T, 3), with the zeros
    amid = np.asarray(((low < 0) & (high > 0)).all(-1)) & body
    return always[:, None] & amid[..., None]


def _in_pixels(
    points: np.ndarray, shape: tuple[int, int] | None, reading: Reading
) -> tuple[np.ndarray, tuple[int, int]]:
    """x and y (M, T, V, 2 or 3) as the reading states them → in pixels, y downwards, and the image's h, w."""
    assert shape is not None  # parse_annotation refuses 2-D points without the size of their image
    points, (height, width) = points[..., :2], shape
    if reading.up in ("x", "-x"):
        points = points[..., ::-1]
    if reading.coordinates == "centred":
        points = (points + 1) / 2
    if reading.coordinates in ("normalised", "centred"):
        points = points * np.array([width, height], dtype=np.float32)
    if reading.up in ("x", "y"):
        points = points * np.array([1, -1], dtype=np.float32) + np.array([0, height - 1], dtype=np.float32)
    if reading.mirrored:
        points = points * np.array([-1, 1], dtype=np.float32) + np.array([width - 1, 0], dtype=np.float32)
    return points, shape


def _from_the_front(points: np.ndarray, there: np.ndarray, reading: Reading) -> tuple[np.ndarray, tuple[int, int]]:
    """x, y, z (M, T, V, 3) in any unit → x, y and depth in pixels, y downwards, and the image's h, w.

    There is no perspective, and the recording as a whole fills the image. Depth is from the middle of the recording.
    """
    (right, sign), (down, turned) = VIEWS[reading.up or "y"]
    away, forward = _away((right, sign), (down, turned))
    signs = np.array([-sign if reading.mirrored else sign, turned, forward], dtype=np.float32)
    solid = points[..., [right, down, away]] * signs
    seen = solid[there] if there.any() else np.zeros((1, 3), np.float32)
    low, extent = seen.min(0), np.ptp(seen[:, :2], axis=0)
    low[2] += np.ptp(seen[:, 2]) / 2
    scale = np.float32(CANVAS - 1) / max(extent.max(), np.float32(1e-6))
    height, width = (int(side) + 1 for side in np.ceil(extent[::-1] * scale))
    return (solid - low) * scale * there[..., None], (height, width)


def _away(right: tuple[int, int], down: tuple[int, int]) -> tuple[int, int]:
    """Return which axis, with which sign, points away from the viewer of a right-handed frame."""
    axes = np.zeros((2, 3), dtype=np.int64)
    for row, (axis, sign) in zip(axes, (right, down), strict=True):
        row[axis] = sign
    away = np.cross(axes[0], axes[1])
    axis = int(np.abs(away).argmax())
    return axis, int(away[axis])


def few(names: Iterable[object], most: int = 8) -> str:
    """Return the first names as a text, with the number of the others; "nothing" for none."""
    short = [str(name)[:40] for name in names]
    return ", ".join(short[:most]) + (f" and {len(short) - most} more" if len(short) > most else "") or "nothing"
