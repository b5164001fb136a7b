"""What every reader of a layout yields: frames by one record, whatever the files were; and what the readers share.

A reader, `read(source, options)`, lists the frames that have all their parts, and reads each when it is asked for, so
that of a long recording only the chosen frames are decoded.

Legend: H, W pixels. Poses are (4, 4) float64 camera-to-world, OpenCV axes, metres.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from sightword.errors import SightwordError
from sightword.storage.fields import Items
from sightword.storage.ply import Cloud, read_ply
from sightword.storage.reader import read_text
from sightword.systems.points.capture.lens import Lens
from sightword.systems.points.scannet.pose import inverse, rotations
from sightword.systems.points.scannet.reader import stored_depth

Size = tuple[int, int]  # H, W
Key = TypeVar("Key")

OPENGL = np.diag((1.0, -1.0, -1.0, 1.0))  # of a camera: its axes are its own inverse
MIRROR_Y = np.diag((1.0, -1.0, 1.0, 1.0))
LONGEST = 1 << 27  # bytes of a text file with poses
UNREAL = 1e6  # metres from the origin: no camera stands there
UNSURE = {2: 1, 255: 127}  # greatest confidence that a sensor gives → least that is kept
MOST_PIXELS = 1 << 26  # of a depth image


class Shot(NamedTuple):
    """One posed RGB-D frame of a capture."""

    color: Path | bytes | np.ndarray  # an image file, its content, or pixels (H, W, 3) uint8
    K_color: np.ndarray  # (3, 3), pixel middles are whole numbers
    depth: np.ndarray  # (H, W) float32 metres along z, 0 unknown
    pose: np.ndarray  # of the depth camera
    color_size: Size | None = None  # of the images that K_color belongs to; None: of this image
    K_depth: np.ndarray | None = None  # (3, 3) of the depth image; None: K_color, resized to it
    pose_color: np.ndarray | None = None  # of the colour camera; None: that of depth
    lens: Lens = Lens()  # of colour
    depth_lens: Lens = Lens()  # of depth
    mask: np.ndarray | None = None  # (h, w) bool, of any size: where depth is kept


class Candidate(NamedTuple):
    """A frame that has all its parts."""

    name: str  # in the source
    read: Callable[[], Shot]  # raises SightwordError for a frame that is damaged
    size: Size | None = None  # of its colour, where the source says so


class Capture(NamedTuple):
    """A recording whose frames can be read."""

    candidates: Sequence[Candidate]  # in the order of time
    assumed: dict[str, str]  # what was taken for granted: axes, pose direction, depth unit …
    left_out: Sequence[str] = ()  # a line for each frame that lacks a part
    cloud: Cloud | None = None  # in the world of the poses
    files: Sequence[tuple[Path, str]] = ()  # to copy: the file, and its name with {name} for that of the scene


class Options(NamedTuple):
    """What a user says where the files do not."""

    intrinsics: tuple[float, float, float, float] | None = None  # fx, fy, cx, cy of colour
    depth_scale: float | None = None  # units of the depth files per metre
    scale: float | None = None  # metres per unit of the poses


# -------------------------------------------------------------------------------------------------------------- poses


def pose_of(quaternion: Sequence[float] | np.ndarray, place: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the (4, 4) of a quaternion x, y, z, w and a position. Raises SightwordError for one of length 0."""
    values = np.asarray(quaternion, np.float64)
    length = float(np.linalg.norm(values))
    if not 0.5 < length < 2:
        raise SightwordError(f"its quaternion has length {length:.3g}, expected 1")
    pose = np.eye(4)
    pose[:3, :3] = rotations(values / length)
    pose[:3, 3] = place
    return checked(pose)


def from_opengl(pose: np.ndarray) -> np.ndarray:
    """Return a pose with OpenCV axes of one with OpenGL's."""
    return pose @ OPENGL


def from_world(pose: np.ndarray) -> np.ndarray:
    """Return the camera-to-world of a world-to-camera."""
    return inverse(pose)


def checked(pose: np.ndarray) -> np.ndarray:
    """Return a pose. Raises SightwordError if it is not finite, is no rigid motion, or is beyond any place."""
    if not np.isfinite(pose).all():
        raise SightwordError("its pose is not finite")
    if abs(np.linalg.det(pose[:3, :3]) - 1) > 0.05:
        raise SightwordError(f"its pose is not a rotation (determinant {np.linalg.det(pose[:3, :3]):.3g})")
    if np.abs(pose[:3, 3]).max() > UNREAL:
        raise SightwordError(f"its camera is {np.abs(pose[:3, 3]).max():.3g} m away")
    return pose


def four(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return (4, 4) of 12 or 16 numbers, row by row. Raises SightwordError for another count."""
    flat = np.asarray(values, np.float64).ravel()
    if flat.size not in (12, 16):
        raise SightwordError(f"its pose has {flat.size} numbers, expected 12 or 16")
    pose = np.eye(4)
    pose[: flat.size // 4] = flat.reshape(-1, 4)
    if np.isfinite(pose).all() and np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-3:
        raise SightwordError("its pose does not end with 0 0 0 1: it may be transposed")
    pose[3] = (0, 0, 0, 1)
    return pose


def rows_of(items: Items) -> list[list[float]]:
    """Return a list of lists of numbers."""
    return [items.sequence(at).all_numbers() for at in range(len(items))]


# ------------------------------------------------------------------------------------------------------------ cameras


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """Return K (3, 3). Raises SightwordError for a focal length that is not above 0."""
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0 and fy > 0):
        raise SightwordError(f"its intrinsics are {fx:g} {fy:g} {cx:g} {cy:g}, expected focal lengths above 0")
    return np.array([(fx, 0, cx), (0, fy, cy), (0, 0, 1)], np.float64)


def resized(K: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """Return K of an image of size `old` (H, W) resized to `new`: x' = (x + 0.5) · s − 0.5."""
    sy, sx = new[0] / old[0], new[1] / old[1]
    return np.array([(sx, 0, (sx - 1) / 2), (0, sy, (sy - 1) / 2), (0, 0, 1)]) @ K


# -------------------------------------------------------------------------------------------------------------- files


def depth_file(path: Path, unit: float) -> np.ndarray:
    """Return the depth (H, W) float32 in metres of a PNG of 16 bits; 0 and 65535 are unknown."""
    return stored_depth(path, unit).numpy()


def array_file(path: Path) -> np.ndarray:
    """Return the array of a .npy; nothing in it is executed. Raises SightwordError for a damaged or too large one."""
    if path.stat().st_size > 8 * MOST_PIXELS:
        raise SightwordError(f"{path} has {path.stat().st_size:,} bytes, at most {8 * MOST_PIXELS:,} are read")
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SightwordError(f"{path} is not readable as .npy ({' '.join(str(error).split())[:60]})") from None
    return found


def confident(path: Path) -> np.ndarray:
    """Return where a confidence image (H, W) is at least 1 of 2, or 127 of 255. Raises SightwordError for no image."""
    try:
        with Image.open(path) as image:
            image.load()
            values = np.asarray(image)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like
        raise SightwordError(f"{path} is not readable as an image ({type(error).__name__})") from None
    return surely(values[..., 0] if values.ndim == 3 else values)


def surely(values: np.ndarray) -> np.ndarray:
    """Return where confidences are at least 1 of 2, or 127 of 255; the greatest value tells which it is."""
    kept: np.ndarray = values >= UNSURE[2 if values.max(initial=0) <= 2 else 255]
    return kept


def table(path: Path, columns: int, missing: str = "") -> list[list[str]]:
    """Return the words of a text file's lines, without those that begin with #. Raises SightwordError for a line that
    has fewer than `columns`."""
    rows = []
    for number, line in enumerate(read_text(path, most=LONGEST, missing=missing).splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < columns:
            raise SightwordError(f"{path}, line {number}: {len(words)} values, expected {columns}")
        rows.append(words)
    return rows


def numbers(words: Sequence[str], path: Path) -> list[float]:
    """Return words as numbers. Raises SightwordError with the file for a word that is none."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise SightwordError(f"{path}: {' '.join(str(error).split())[:60]}, expected numbers") from None


def nearest(times: np.ndarray, time: float, within: float) -> int | None:
    """Return which of `times`, ascending, is nearest to a time; None if it is further away than `within` seconds."""
    if not len(times):
        return None
    at = int(np.searchsorted(times, time))
    best = min((place for place in (at - 1, at) if 0 <= place < len(times)), key=lambda place: abs(times[place] - time))
    return best if abs(times[best] - time) <= within else None


def cloud_in(file: Path | None) -> Cloud | None:
    """Return the vertices of a .ply, None if there is no such file. Raises SightwordError for a damaged one."""
    return read_ply(file) if file is not None and file.is_file() else None


def inner(source: Path, *names: str) -> Path | None:
    """Return the first of some files or folders of a source that exists."""
    return next((path for name in names if (path := source / name).exists()), None)


def by_number(folder: Path, *suffixes: str) -> dict[int, Path]:
    """Return number → file of those in a folder whose names end with digits, in the order of the numbers."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*")):
        digits = path.stem[len(path.stem.rstrip("0123456789")) :]
        if path.suffix.lower() in suffixes and digits and len(digits) < 19:
            found[int(digits)] = path
    return dict(sorted(found.items()))
