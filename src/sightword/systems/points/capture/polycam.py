"""Raw exports of Polycam: keyframes/{images, cameras, depth, confidence}/<time>, corrected_ where poses were refined.

A camera is JSON with fx fy cx cy width height and t_00 … t_23, three rows of camera-to-world with OpenGL axes. Depth is
in millimetres and smaller than colour; confidence is 0, 127 or 255.
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
    by_number,
    checked,
    confident,
    depth_file,
    four,
    from_opengl,
    pinhole,
)


def read(source: Path, options: Options) -> Capture:
    """Return an export. Raises SightwordError if it has no keyframes."""
    folder = source / "keyframes"
    corrected = (folder / "corrected_cameras").is_dir() and (folder / "corrected_images").is_dir()
    start = "corrected_" if corrected else ""
    colors = by_number(folder / f"{start}images", ".jpg", ".jpeg", ".png")
    cameras = by_number(folder / f"{start}cameras", ".json")
    depths, sure = by_number(folder / "depth", ".png"), by_number(folder / "confidence", ".png")
    if not colors:
        raise SightwordError(
            f"{folder}/{start}images contains no images. Export raw data from Polycam's developer mode"
        )
    if not depths:
        raise SightwordError(f"{folder}/depth contains no images. Record with LiDAR, or import a COLMAP model")
    candidates, left_out = [], []
    for time, color in colors.items():
        if time not in cameras or time not in depths:
            left_out.append(f"{color.name}: its {'camera' if time not in cameras else 'depth'} is missing")
            continue
        files = color, cameras[time], depths[time], sure.get(time)
        candidates.append(Candidate(color.name, partial(_shot, *files, options)))
    assumed = {
        "axes": "OpenGL",
        "poses": f"camera-to-world, of {start}cameras",
        "depth": f"{options.depth_scale or 1000:g} units per metre",
        "intrinsics": "of each frame",
        "confidence": "127 of 255 or more" if sure else "none",
    }
    return Capture(candidates, assumed, left_out)


def _shot(color: Path, camera: Path, depth: Path, sure: Path | None, options: Options) -> Shot:
    values = read_json(camera, most=1 << 20)
    rows = [values.number(f"t_{row}{column}") for row in range(3) for column in range(4)]
    K = pinhole(*(options.intrinsics or (values.number(name) for name in ("fx", "fy", "cx", "cy"))))
    size = values.integer("height", least=1), values.integer("width", least=1)
    metres = depth_file(depth, options.depth_scale or 1000.0)
    return Shot(
        color, K, metres, checked(from_opengl(four(np.array(rows)))), size, mask=confident(sure) if sure else None
    )
