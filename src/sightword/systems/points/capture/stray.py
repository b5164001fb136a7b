"""Stray Scanner: rgb.mp4, odometry.csv, camera_matrix.csv, depth/NNNNNN.png in millimetres, confidence/NNNNNN.png.

Poses are camera-to-world with OpenCV axes already, quaternion x y z w. Intrinsics belong to the video's frames.
"""

from functools import partial
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.fields import Row
from sightword.storage.reader import read_csv
from sightword.systems.points.capture.film import Film
from sightword.systems.points.capture.frame import (
    Candidate,
    Capture,
    Options,
    Shot,
    array_file,
    by_number,
    confident,
    depth_file,
    numbers,
    pinhole,
    pose_of,
    table,
)

PLACE, TURN, CAMERA = ("x", "y", "z"), ("qx", "qy", "qz", "qw"), ("fx", "fy", "cx", "cy")


def read(source: Path, options: Options) -> Capture:
    """Return a recording. Raises SightwordError for files that are missing or damaged, or without a video decoder."""
    rows = read_csv(source / "odometry.csv", ("frame", *PLACE, *TURN)).rows
    depths, sure = by_number(source / "depth", ".png", ".npy"), by_number(source / "confidence", ".png")
    film = Film(source / "rgb.mp4")
    K = _matrix(source, options)
    candidates, left_out = [], []
    for row in rows:
        number = row.integer("frame", least=0)
        if number not in depths:
            left_out.append(f"frame {number}: its depth is missing")
            continue
        camera = (
            K
            if options.intrinsics or not all(name in row for name in CAMERA)
            else pinhole(*(row.number(name) for name in CAMERA))
        )
        parts = row, number, camera, depths[number], sure.get(number)
        candidates.append(Candidate(f"frame {number}", partial(_shot, film, *parts, options)))
    posed = {row.integer("frame") for row in rows}
    left_out += [f"frame {number}: odometry.csv has no pose of it" for number in sorted(depths.keys() - posed)]
    assumed = {
        "axes": "OpenCV",
        "poses": "camera-to-world, quaternion x y z w",
        "depth": f"{options.depth_scale or 1000:g} units per metre",
        "intrinsics": "of the video's frames; a rotation in its header is not applied",
        "confidence": "1 of 2 or more" if sure else "none",
    }
    return Capture(candidates, assumed, left_out)


def _shot(film: Film, row: Row, number: int, K: np.ndarray, depth: Path, sure: Path | None, options: Options) -> Shot:
    pose = pose_of([row.number(name) for name in TURN], [row.number(name) for name in PLACE])
    unit = options.depth_scale or 1000.0
    values = (
        depth_file(depth, unit) if depth.suffix == ".png" else array_file(depth).astype(np.float32) / np.float32(unit)
    )
    return Shot(film.pixels(number), K, values, pose, mask=confident(sure) if sure else None)


def _matrix(source: Path, options: Options) -> np.ndarray:
    if options.intrinsics:
        return pinhole(*options.intrinsics)
    file = source / "camera_matrix.csv"
    rows = [numbers(row, file) for row in table(file, 3)]
    if len(rows) != 3:
        raise SightwordError(f"{file} has {len(rows)} rows, expected a matrix of 3 x 3")
    return pinhole(rows[0][0], rows[1][1], rows[0][2], rows[1][2])
