"""Recordings in pyskl's form, small and drawn at random."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("waving", "bowing", "sitting down")


def recording(number: int, frames: int = 20, persons: int = 1, joints: int = 17, **other: Any) -> dict[str, Any]:
    """One annotation: a body about (300, 200) in a picture of 480 x 640, half precision as published."""
    rng = np.random.default_rng(number)
    body = rng.normal(size=(joints, 2)) * [40, 90] + [300, 200]
    points = body + rng.normal(size=(persons, frames, joints, 2)) * 8
    made = {
        "frame_dir": f"S{number:03d}",
        "label": number % len(CLASSES),
        "img_shape": (480, 640),
        "original_shape": (480, 640),
        "total_frames": frames,
        "keypoint": points.astype(np.float16),
        "keypoint_score": rng.uniform(0.3, 1, points.shape[:3]).astype(np.float16),
    }
    return {name: value for name, value in (made | other).items() if value is not None}


def content(count: int = 12, **other: Any) -> dict[str, Any]:
    """A set of which the last quarter is xsub_val; recordings differ in length."""
    rows = [recording(number, frames=10 + 3 * number, **other) for number in range(count)]
    names = [row["frame_dir"] for row in rows]
    return {"split": {"xsub_train": names[: count * 3 // 4], "xsub_val": names[count * 3 // 4 :]}, "annotations": rows}


def write(path: Path, made: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(made, protocol))
    return path
