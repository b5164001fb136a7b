"""Recordings in pyskl's form, small and drawn at random, of bodies with any set of joints."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from sightword.systems.skeleton.joints import JOINT_SETS, JointSet

CLASSES = ("waving", "bowing", "sitting down")

# where a joint of somebody stands who faces a Kinect 2.5 m away: metres, x to the sensor's left, y up, z away from it.
# Of pairs x is that of the right side: the left has -x
PLACES = {
    **dict.fromkeys(("hip_centre", "root", "mid_hip", "hip", "spine_base"), (0, 0.92, 0)),
    **dict.fromkeys(("spine", "spine_mid"), (0, 1.15, 0.02)),
    **dict.fromkeys(("thorax", "shoulder_centre", "spine_shoulder"), (0, 1.42, 0)),
    "neck": (0, 1.47, 0),
    "head": (0, 1.68, 0.02),
    "nose": (0, 1.6, -0.1),
    "eye": (0.03, 1.64, -0.08),
    "eye_inner": (0.02, 1.64, -0.09),
    "eye_outer": (0.05, 1.64, -0.07),
    "ear": (0.08, 1.62, 0),
    "mouth": (0.02, 1.55, -0.09),
    "shoulder": (0.18, 1.4, 0),
    "hip": (0.1, 0.9, 0),
    "elbow": (0.25, 1.12, 0.05),
    "wrist": (0.27, 0.87, -0.05),
    "hand": (0.27, 0.79, -0.07),
    "hand_tip": (0.27, 0.7, -0.08),
    "thumb": (0.22, 0.8, -0.1),
    "pinky": (0.3, 0.79, -0.06),
    "index": (0.26, 0.77, -0.1),
    "knee": (0.11, 0.48, -0.02),
    "ankle": (0.11, 0.08, 0.02),
    **dict.fromkeys(("foot", "foot_index", "big_toe"), (0.11, 0.03, -0.17)),
    "small_toe": (0.15, 0.03, -0.15),
    "heel": (0.11, 0.03, 0.06),
}


def figure(joints: JointSet) -> np.ndarray:
    """(V, 3) of somebody who faces a Kinect."""
    found = []
    for joint in joints.joints:
        side, _, part = joint.partition("_")
        x, y, z = PLACES[part if side in ("left", "right") else "mid_hip" if joint == "hip" else joint]
        found.append((-x if side == "left" else x, y, z + 2.5))
    return np.array(found)


def moving(joints: JointSet, number: int, frames: int = 20) -> np.ndarray:
    """(1, T, V, 3) of the same, who sways and lifts one arm or the other; bodies differ by their number."""
    rng = np.random.default_rng(number)
    body = figure(joints) * [rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1), 1]
    points = np.tile(body, (1, frames, 1, 1))
    lift = np.sin(np.linspace(0, 3, frames)) * rng.uniform(0.2, 0.6)
    arm = [row for row, joint in enumerate(joints.joints) if joint.startswith("left_") == (number % 2 == 0)]
    arm = [row for row in arm if joints.joints[row].endswith(("wrist", "hand", "thumb", "hand_tip", "index"))]
    points[0, :, arm, 1] += lift
    points += 0.1 * np.sin(np.linspace(0, 2, frames))[:, None, None] * [1, 0, 0.3]
    return points + rng.normal(size=points.shape) * 0.004


def solid(joints: JointSet, number: int, frames: int = 20, **other: Any) -> dict[str, Any]:
    """One 3-D annotation."""
    points = moving(joints, number, frames).astype(np.float32)
    return recording(number, frames, keypoint=points, keypoint_score=None, img_shape=None, **other)


def flat(joints: JointSet, number: int, frames: int = 20, **other: Any) -> dict[str, Any]:
    """One 2-D annotation of the same, as a camera at the place of the Kinect has it: left is on the right."""
    points = moving(joints, number, frames)[..., :2] * [-200, -200] + [320, 420]
    scores = np.random.default_rng(number).uniform(0.6, 1, points.shape[:3])
    return recording(number, frames, keypoint=points, keypoint_score=scores, **other)


def recording(number: int, frames: int = 20, persons: int = 1, joints: int = 17, **other: Any) -> dict[str, Any]:
    """One annotation: a body about (300, 200) in a picture of 480 x 640, half precision as published."""
    rng = np.random.default_rng(number)
    own = next((made for made in JOINT_SETS.values() if len(made.joints) == joints), None)
    place = rng.normal(size=(joints, 2))
    body = place * [40, 90] if own is None else place * 2 + (figure(own)[:, :2] - [0, 0.9]) * -200
    points = body + [300, 200] + rng.normal(size=(persons, frames, joints, 2)) * 8
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
