"""Replica as NICE-SLAM renders it: results/frameNNNNNN.jpg, results/depthNNNNNN.png and traj.txt, 16 numbers a line.

Poses are camera-to-world with OpenCV axes (NICE-SLAM's loader turns them itself), depth has 6553.5 units per metre.
"""

from functools import partial
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.reader import read_json
from sightword.systems.points.capture.frame import (
    Candidate,
    Capture,
    Options,
    Shot,
    Size,
    checked,
    cloud_in,
    depth_file,
    four,
    inner,
    numbers,
    pinhole,
    table,
)

UNIT = 6553.5
CAMERA, SIZE = (600.0, 600.0, 599.5, 339.5), (680, 1200)


def read(source: Path, options: Options) -> Capture:
    """Return a sequence. Raises SightwordError for a trajectory that is missing or damaged."""
    results = source / "results"
    colors, depths = _numbered(results, "frame"), _numbered(results, "depth")
    poses = [four(numbers(row[:16], source / "traj.txt")) for row in table(source / "traj.txt", 16)]
    if not colors:
        raise SightwordError(f"{results} has no frameNNNNNN.jpg")
    K, size, unit, where = _camera(source, options)
    candidates, left_out = [], []
    for number, color in colors.items():
        if number not in depths or number >= len(poses):
            left_out.append(f"{color.name}: no {'depth' if number not in depths else 'pose'}")
            continue
        candidates.append(Candidate(color.name, partial(_shot, color, depths[number], poses[number], K, size, unit)))
    mesh = source.resolve().parent / f"{source.resolve().name}_mesh.ply"
    assumed = {
        "axes": "OpenCV",
        "poses": "camera-to-world; line n is frame n",
        "depth": f"{unit:g} units per metre",
        "intrinsics": where,
        "cloud": mesh.name if mesh.is_file() else "none",
    }
    return Capture(candidates, assumed, left_out, cloud_in(mesh))


def _shot(color: Path, depth: Path, pose: np.ndarray, K: np.ndarray, size: Size | None, unit: float) -> Shot:
    return Shot(color, K, depth_file(depth, unit), checked(pose), size)


def _numbered(folder: Path, start: str) -> dict[int, Path]:
    """Return number → image of those whose names are a word and a number."""
    found = {}
    for path in sorted(folder.glob(f"{start}*")):
        digits = path.stem.removeprefix(start)
        if digits.isdecimal() and path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            found[int(digits)] = path
    return found


def _camera(source: Path, options: Options) -> tuple[np.ndarray, tuple[int, int] | None, float, str]:
    """K, the size that it belongs to, the unit of depth, and where they are from."""
    if options.intrinsics:
        return pinhole(*options.intrinsics), None, options.depth_scale or UNIT, "as typed"
    file = inner(source, "cam_params.json", "../cam_params.json")
    if file is None:
        return pinhole(*CAMERA), SIZE, options.depth_scale or UNIT, "600 600 599.5 339.5 of 1200 x 680"
    camera = read_json(file).mapping("camera")
    K = pinhole(*(camera.number(name) for name in ("fx", "fy", "cx", "cy")))
    size = camera.integer("h", least=1), camera.integer("w", least=1)
    return K, size, options.depth_scale or camera.number("scale", UNIT), file.name
