"""TUM RGB-D recordings, and ICL-NUIM's in the same form.

    rgb.txt, depth.txt      time path                         or associations.txt: time path time path
    groundtruth.txt         time tx ty tz qx qy qz qw, c2w    ICL-NUIM: <name>.gt.freiburg

Depth has 5000 units per metre and is registered to colour. Intrinsics are in no file: those of TUM are known by the
camera's number in the folder's name. ICL-NUIM's fy is negative: read as it is, its world would be left-handed; with fy
above 0 and the world mirrored (M P M, M = diag(1, −1, 1, 1)) everything agrees as before.
"""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.points.capture.frame import (
    MIRROR_Y,
    Candidate,
    Capture,
    Options,
    Shot,
    Size,
    depth_file,
    inner,
    nearest,
    numbers,
    pinhole,
    pose_of,
    table,
)
from sightword.systems.points.capture.lens import Lens

UNIT = 5000.0
WITHIN = 0.02  # seconds between colour, depth and pose
CAMERAS = {
    "1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": ((535.4, 539.2, 320.1, 247.6), ()),
}
SIZE = (480, 640)
ICL = (481.2, -480.0, 319.5, 239.5)


class _Camera(NamedTuple):
    K: np.ndarray
    lens: Lens
    mirrored: bool
    size: Size | None  # of the images that K belongs to; None: of these
    source: str


def read(source: Path, options: Options) -> Capture:
    """Return a recording of TUM. Raises SightwordError for lists that are missing or damaged."""
    return _read(source, options, _tum_camera(source, options))


def read_icl(source: Path, options: Options) -> Capture:
    """Return a recording of ICL-NUIM. Raises SightwordError for lists that are missing or damaged."""
    return _read(source, options, _icl_camera(options))


def _read(source: Path, options: Options, camera: _Camera) -> Capture:
    unit = options.depth_scale or UNIT
    colours, depths = _lists(source)
    times, poses = _poses(source)
    depth_times = np.array([time for time, _ in depths])
    candidates, left_out = [], []
    taken: set[int] = set()
    for time, color in colours:
        at, place = nearest(depth_times, time, WITHIN), nearest(times, time, WITHIN)
        placed = None if at is None else nearest(times, depths[at][0], WITHIN)
        if at is None or at in taken or place is None or placed is None:
            lost = "depth" if at is None or at in taken else "pose"
            left_out.append(f"{color}: no {lost} within {WITHIN} s")
            continue
        taken.add(at)
        rows = poses[placed], poses[place]
        candidates.append(Candidate(color, partial(_shot, source, color, depths[at][1], rows, unit, camera)))
    assumed = {
        "axes": "OpenCV",
        "poses": "camera-to-world, quaternion x y z w; of depth and of colour each by its own time",
        "depth": f"{unit:g} units per metre, registered to colour",
        "intrinsics": camera.source,
        "times": f"nearest, within {WITHIN} s",
    }
    return Capture(candidates, assumed, left_out)


def _shot(
    source: Path, color: str, depth: str, rows: tuple[np.ndarray, np.ndarray], unit: float, camera: _Camera
) -> Shot:
    pose, own = (pose_of(row[3:], row[:3]) for row in rows)
    if camera.mirrored:
        pose, own = (MIRROR_Y @ each @ MIRROR_Y for each in (pose, own))
    values = depth_file(_below(source, depth), unit)
    return Shot(_below(source, color), camera.K, values, pose, camera.size, None, own, camera.lens)


def _below(source: Path, name: str) -> Path:
    """The file of a list. Raises SightwordError for a path that leads out of the recording."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise SightwordError(f"{name!r} leads out of {source}")
    return source / path


def _lists(source: Path) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """Time and path of colours and of depths, by time."""
    if (source / "rgb.txt").is_file() and (source / "depth.txt").is_file():
        return _listed(source / "rgb.txt", 0), _listed(source / "depth.txt", 0)
    file = inner(source, "associations.txt", "associate.txt", "association.txt")
    if file is None:
        raise SightwordError(f"{source} has no rgb.txt and depth.txt, and no associations.txt: expected lists of files")
    first, second = _listed(file, 0), _listed(file, 2)
    return (second, first) if "depth" in first[0][1] else (first, second)


def _listed(file: Path, column: int) -> list[tuple[float, str]]:
    rows = table(file, column + 2)
    if not rows:
        raise SightwordError(f"{file} names no image")
    found = [(numbers(row[column : column + 1], file)[0], row[column + 1]) for row in rows]
    return sorted(found)


def _poses(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (P,), ascending, and poses (P, 7): tx ty tz qx qy qz qw."""
    file = inner(source, "groundtruth.txt") or next(iter(sorted(source.glob("*.gt.freiburg"))), None)
    if file is None:
        raise SightwordError(f"{source} has no groundtruth.txt: expected time tx ty tz qx qy qz qw in each line")
    values = np.array([numbers(row[:8], file) for row in table(file, 8)])
    if not len(values):
        raise SightwordError(f"{file} contains no pose")
    values = values[np.isfinite(values).all(1)]
    values = values[np.argsort(values[:, 0], kind="stable")]
    return values[:, 0], values[:, 1:]


def _tum_camera(source: Path, options: Options) -> _Camera:
    if options.intrinsics:
        return _camera(options.intrinsics, (), "as typed, without distortion")
    found = re.search(r"(?:freiburg|fr)([123])", source.resolve().name.lower())
    if not found:
        raise SightwordError(
            f"intrinsics of {source} are in no file, and its name has no freiburg1, 2 or 3. "
            "Pass intrinsics=fx,fy,cx,cy; for ICL-NUIM format=icl"
        )
    values, bent = CAMERAS[found[1]]
    return _camera(values, bent, f"freiburg{found[1]}'s colour camera, {'with its' if bent else 'without'} distortion")


def _icl_camera(options: Options) -> _Camera:
    if options.intrinsics:
        return _camera(options.intrinsics, (), "as typed")
    return _camera(ICL, (), "ICL-NUIM's, with fy = −480 turned over")


def _camera(values: tuple[float, float, float, float], bent: tuple[float, ...], source: str) -> _Camera:
    fx, fy, cx, cy = values
    lens = Lens("opencv", bent) if bent else Lens()
    return _Camera(pinhole(fx, abs(fy), cx, cy), lens, fy < 0, None if source.startswith("as typed") else SIZE, source)
