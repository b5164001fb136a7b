"""Exports of 3D Scanner App: frame_NNNNN.{jpg, json}, depth_NNNNN.png, conf_NNNNN.png.

cameraPoseARFrame has 16 numbers row by row, camera-to-world with OpenGL axes; intrinsics has 9, of the full image.
Depth is in millimetres, confidence 0 to 2. The app has no published description: this is what others' readers read.
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
    checked,
    confident,
    depth_file,
    four,
    from_opengl,
    pinhole,
)


def read(source: Path, options: Options) -> Capture:
    """Return an export. Raises SightwordError if it has no frame."""
    candidates, left_out = [], []
    for camera in sorted(source.glob("frame_*.json")):
        number = camera.stem.removeprefix("frame_")
        color, depth, sure = (
            source / name for name in (f"{camera.stem}.jpg", f"depth_{number}.png", f"conf_{number}.png")
        )
        if lost := [path.name for path in (color, depth) if not path.is_file()]:
            left_out.append(f"{camera.stem}: {lost[0]} is missing")
            continue
        files = camera, color, depth, sure
        candidates.append(Candidate(camera.stem, partial(_shot, *files, options)))
    left_out += [
        f"{color.stem}: {color.stem}.json is missing"
        for color in sorted(source.glob("frame_*.jpg"))
        if not color.with_suffix(".json").is_file()
    ]
    if not candidates and not left_out:
        raise SightwordError(f"{source} has no frame_NNNNN.json")
    assumed = {
        "axes": "OpenGL",
        "poses": "camera-to-world, row by row",
        "depth": f"{options.depth_scale or 1000:g} units per metre",
        "intrinsics": "of each frame",
        "confidence": "1 of 2 or more, where there is one",
    }
    return Capture(candidates, assumed, left_out)


def _shot(camera: Path, color: Path, depth: Path, sure: Path, options: Options) -> Shot:
    values = read_json(camera, most=1 << 20)
    nine = np.array(values.sequence("intrinsics", least=9).all_numbers()[:9]).reshape(3, 3)
    K = pinhole(*(options.intrinsics or nine[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()))
    pose = checked(from_opengl(four(values.numbers("cameraPoseARFrame"))))
    mask = confident(sure) if sure.is_file() else None
    return Shot(color, K, depth_file(depth, options.depth_scale or 1000.0), pose, mask=mask)
