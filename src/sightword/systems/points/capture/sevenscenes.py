"""7-Scenes: seq-XX/frame-XXXXXX.{color.png, depth.png, pose.txt}, poses camera-to-world of the depth camera.

Depth is in millimetres, 65535 and 0 are unknown. Colour is not registered to depth: its focal length is 525 pixels,
that of depth 585, and its camera stands 25 mm to the right, measured on the set's frames by their correlation.
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
    depth_file,
    pinhole,
    resized,
)
from sightword.systems.points.scannet.reader import read_matrix

DEPTH, COLOR = (585.0, 585.0, 320.0, 240.0), (525.0, 525.0, 320.0, 240.0)
ASIDE = 0.025  # metres by which the colour camera stands right of the depth camera
SIZE = (480, 640)


def read(source: Path, options: Options) -> Capture:
    """Return a sequence. Raises SightwordError if it has no frame."""
    candidates, left_out = [], []
    for pose in sorted(source.glob("frame-*.pose.txt")):
        name = pose.name.removesuffix(".pose.txt")
        color, depth = source / f"{name}.color.png", source / f"{name}.depth.png"
        if lost := [path.name for path in (color, depth) if not path.is_file()]:
            left_out.append(f"{name}: {lost[0]} is missing")
            continue
        candidates.append(Candidate(name, partial(_shot, pose, color, depth, options)))
    if not candidates and not left_out:
        raise SightwordError(f"{source} has no frame-XXXXXX.pose.txt. Pass one sequence, such as {source}/seq-01")
    assumed = {
        "axes": "OpenCV",
        "poses": "camera-to-world, of the depth camera",
        "depth": f"{options.depth_scale or 1000:g} units per metre, 65535 unknown",
        "intrinsics": "depth 585 585 320 240; colour as typed, or 525 525 320 240",
        "colour camera": f"{1000 * ASIDE:g} mm right of the depth camera: they are not registered",
    }
    return Capture(candidates, assumed, left_out)


def _shot(pose: Path, color: Path, depth: Path, options: Options) -> Shot:
    placed = checked(read_matrix(pose, (4, 4)))
    aside = np.eye(4)
    aside[0, 3] = ASIDE
    values = depth_file(depth, options.depth_scale or 1000.0)
    return Shot(
        color,
        pinhole(*(options.intrinsics or COLOR)),
        values,
        placed,
        SIZE,
        resized(pinhole(*DEPTH), SIZE, (values.shape[0], values.shape[1])),
        placed @ aside,
    )
