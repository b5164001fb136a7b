"""ARKitScenes: lowres_wide/, lowres_depth/, confidence/, lowres_wide_intrinsics/<name>.pincam and lowres_wide.traj.

Files are named by the scene's number and the time. The .traj has a line of time, axis · angle and translation for each
pose, world-to-camera with OpenCV axes. A .pincam is width height fx fy cx cy. Depth is in millimetres.
"""

from functools import partial
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.points.capture.frame import (
    Candidate,
    Capture,
    Options,
    Shot,
    checked,
    cloud_in,
    confident,
    depth_file,
    from_world,
    nearest,
    numbers,
    pinhole,
    table,
)

WITHIN = 0.005  # seconds between an image and its pose


def read(source: Path, options: Options) -> Capture:
    """Return a recording. Raises SightwordError for a trajectory that is missing or damaged."""
    traj = next(iter(sorted(source.glob("*.traj"))), None)
    if traj is None:
        raise SightwordError(f"{source} has no lowres_wide.traj")
    rows = np.array([numbers(row[:7], traj) for row in table(traj, 7)]).reshape(-1, 7)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    colors, depths = _timed(source / "lowres_wide", ".png"), _timed(source / "lowres_depth", ".png")
    cameras, sure = _timed(source / "lowres_wide_intrinsics", ".pincam"), _timed(source / "confidence", ".png")
    if not colors:
        raise SightwordError(f"{source}/lowres_wide contains no <scene>_<time>.png")
    candidates, left_out = [], []
    times = {name: np.array(sorted(files)) for name, files in (("depth", depths), ("camera", cameras), ("sure", sure))}
    for time, color in colors.items():
        at = nearest(rows[:, 0], time, WITHIN)
        depth, camera, known = (
            _at(files, times[name], time) for name, files in (("depth", depths), ("camera", cameras), ("sure", sure))
        )
        if at is None or depth is None or camera is None:
            lost = "pose" if at is None else "depth" if depth is None else "intrinsics"
            left_out.append(f"{color.name}: no {lost} within {1000 * WITHIN:g} ms")
            continue
        files = color, depth, camera, known
        candidates.append(Candidate(color.name, partial(_shot, *files, rows[at], options)))
    mesh = next(iter(sorted(source.glob("*_3dod_mesh.ply"))), None)
    assumed = {
        "axes": "OpenCV",
        "poses": "world-to-camera, rotation as axis · angle; inverted",
        "depth": f"{options.depth_scale or 1000:g} units per metre",
        "intrinsics": "of each frame",
        "confidence": "1 of 2 or more" if sure else "none",
        "times": f"nearest, within {1000 * WITHIN:g} ms",
        "cloud": mesh.name if mesh else "none",
    }
    return Capture(candidates, assumed, left_out, cloud_in(mesh))


def _timed(folder: Path, suffix: str) -> dict[float, Path]:
    """Time → file of those named <scene>_<time>."""
    found = {}
    for path in folder.glob(f"*{suffix}"):
        try:
            found[float(path.stem.rpartition("_")[2])] = path
        except ValueError:
            continue
    return dict(sorted(found.items()))


def _at(files: dict[float, Path], times: np.ndarray, time: float) -> Path | None:
    at = nearest(times, time, WITHIN)
    return None if at is None else files[float(times[at])]


def _shot(color: Path, depth: Path, camera: Path, sure: Path | None, row: np.ndarray, options: Options) -> Shot:
    values = numbers(table(camera, 6)[0], camera)
    K = pinhole(*(options.intrinsics or values[2:6]))
    metres = depth_file(depth, options.depth_scale or 1000.0)
    pose = np.eye(4)
    pose[:3, :3] = _rotation(row[1:4])
    pose[:3, 3] = row[4:7]
    size = int(values[1]), int(values[0])
    return Shot(color, K, metres, checked(from_world(checked(pose))), size, mask=confident(sure) if sure else None)


def _rotation(turn: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of an axis times an angle, by Rodrigues' formula."""
    angle = float(np.linalg.norm(turn))
    x, y, z = turn / max(angle, 1e-12)
    cross = np.array([(0, -z, y), (z, 0, -x), (-y, x, 0)])
    found: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return found
