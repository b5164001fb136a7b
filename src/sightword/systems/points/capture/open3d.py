"""Recordings of Open3D and Redwood: color/ (image/, rgb/), depth/, and a trajectory of the n-th frames.

    trajectory.log      per frame a line of three integers, then 4 rows of a camera-to-world matrix
    trajectory.json     Open3D's: world-to-camera, column by column, with intrinsics
    intrinsic.json      Open3D's: width, height, intrinsic_matrix, column by column

Depth is in millimetres and registered to colour.
"""

from functools import partial
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json
from sightword.systems.points.capture.frame import (
    Candidate,
    Capture,
    Options,
    Shot,
    Size,
    by_number,
    checked,
    cloud_in,
    depth_file,
    from_world,
    inner,
    numbers,
    pinhole,
    table,
)

PRIMESENSE = (525.0, 525.0, 319.5, 239.5)
CLOUDS = ("scene.ply", "integrated.ply", "scene/integrated.ply", "mesh.ply")


def read(source: Path, options: Options) -> Capture:
    """Return a recording. Raises SightwordError for a trajectory that is missing or damaged."""
    colors = _images(source, "color", "image", "rgb")
    depths = _images(source, "depth")
    if colors.keys() != depths.keys() and len(colors) != len(depths):
        raise SightwordError(f"{source} has {len(colors)} colour and {len(depths)} depth images, whose numbers differ")
    pairs = (
        [(colors[number], depths[number]) for number in colors]
        if colors.keys() == depths.keys()
        else list(zip(colors.values(), depths.values(), strict=True))
    )
    poses, K, size, where = _trajectory(source, options)
    candidates = [
        Candidate(color.name, partial(_shot, color, depth, poses[at], K, size, options))
        for at, (color, depth) in enumerate(pairs)
        if at in poses
    ]
    left_out = [
        f"{color.name}: the trajectory has no pose {at}" for at, (color, _) in enumerate(pairs) if at not in poses
    ]
    cloud = inner(source, *CLOUDS)
    assumed = {
        "axes": "OpenCV",
        "poses": f"{where}; the n-th pose is that of the n-th pair of images",
        "depth": f"{options.depth_scale or 1000:g} units per metre, registered to colour",
        "intrinsics": " ".join(f"{value:g}" for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])),
        "cloud": cloud.name if cloud else "none",
    }
    return Capture(candidates, assumed, left_out, cloud_in(cloud))


def _shot(color: Path, depth: Path, pose: np.ndarray, K: np.ndarray, size: Size | None, options: Options) -> Shot:
    return Shot(color, K, depth_file(depth, options.depth_scale or 1000.0), checked(pose), size)


def _images(source: Path, *names: str) -> dict[int, Path]:
    folder = inner(source, *names)
    found = by_number(folder, ".png", ".jpg", ".jpeg") if folder else {}
    if folder is None or not found:
        raise SightwordError(f"{source} has no images in {' or '.join(f'{name}/' for name in names)}")
    return found


def _trajectory(source: Path, options: Options) -> tuple[dict[int, np.ndarray], np.ndarray, Size | None, str]:
    """Frame → pose, K and the size that it belongs to, and how the poses were read."""
    file = inner(source, "trajectory.json")
    logs = [*sorted(source.glob("*.log")), *sorted((source / "scene").glob("*.log"))]
    if not logs and file is None:
        raise SightwordError(f"{source} has no trajectory.log and no trajectory.json")
    K, size = _intrinsics(source)
    if logs:
        log = next((path for path in logs if path.name == "trajectory.log"), logs[0])
        poses, where = _log(log), f"camera-to-world, of {log.name}"
    else:
        assert file is not None
        poses = {}
        for number, camera in enumerate(read_json(file).mappings("parameters", least=1)):
            poses[number] = from_world(_columns(camera.numbers("extrinsic"), 4, file))
            if "intrinsic" in camera and number == 0:
                K, size = _pinhole(camera.mapping("intrinsic"), file)
        where = f"world-to-camera, column by column, of {file.name}"
    if options.intrinsics:
        K, size = pinhole(*options.intrinsics), None
    return poses, pinhole(*PRIMESENSE) if K is None else K, size if K is not None else (480, 640), where


def _log(file: Path) -> dict[int, np.ndarray]:
    rows = table(file, 3)
    if not rows or len(rows) % 5:
        raise SightwordError(f"{file} has {len(rows)} lines, expected five per frame: three integers, then a matrix")
    found = {}
    for start in range(0, len(rows), 5):
        values = np.array([numbers(row, file) for row in rows[start + 1 : start + 5]])
        if values.shape != (4, 4):
            raise SightwordError(f"{file}: the matrix after line {start + 1} is not 4 x 4")
        found[int(numbers(rows[start][:1], file)[0])] = values
    return found


def _intrinsics(source: Path) -> tuple[np.ndarray | None, Size | None]:
    file = inner(source, "intrinsic.json", "camera_intrinsic.json", "intrinsics.json")
    return _pinhole(read_json(file), file) if file else (None, None)


def _pinhole(fields: Fields, file: Path) -> tuple[np.ndarray, Size]:
    K = _columns(fields.numbers("intrinsic_matrix"), 3, file)
    size = fields.integer("height", least=1), fields.integer("width", least=1)
    return pinhole(K[0, 0], K[1, 1], K[0, 2], K[1, 2]), size


def _columns(values: list[float], side: int, file: Path) -> np.ndarray:
    if len(values) != side * side:
        raise SightwordError(f"{file}: a matrix has {len(values)} numbers, expected {side * side}")
    return np.array(values).reshape(side, side).T
