"""Which network finds people in the frames of a video: one interface, and its choice from `pose=`.

    pose=node_modules/@mediapipe/pose       a folder of .tflite files: BlazePose, 33 joints; the full network
    pose=…/pose_landmark_heavy.tflite       that network, its detector in the same folder
    pose=rtmpose, rtmpose-lightweight, …    RTMPose by rtmlib, COCO's 17 joints; rtmlib downloads the networks
    pose=models                             a folder of .onnx files: RTMPose with a detector, or RTMO

Legend: P persons, V joints.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.video import blazepose, rtmpose

NPM = "@mediapipe/pose@0.5.1675469404"


class Estimator(Protocol):
    """Finds people in frames that come one after the other."""

    name: str
    joints: JointSet

    def start(self) -> None:
        """Begin another video."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (P, V, 3) float32: x and y in pixels, score in [0, 1]; P can be 0, its order any."""


def estimator_of(pose: str | Path, threads: int = 1) -> Estimator:
    """Return the estimator that `pose` names, see above. threads: of a CPU, for BlazePose.

    Raises SightwordError, with what to type, if files are missing or what runs them is not installed.
    """
    if str(pose).partition("-")[0] == "rtmpose" and not Path(pose).exists():
        return rtmpose.downloaded(str(pose))
    path = Path(pose).expanduser()
    if not path.exists():
        raise SightwordError(
            f"pose={pose} does not exist. Fetch BlazePose's networks by: npm install {NPM} and pass "
            "pose=node_modules/@mediapipe/pose, or pass pose=rtmpose"
        )
    folder = path if path.is_dir() else path.parent
    landmarks = _first(folder, blazepose.LANDMARKS) if path.is_dir() else path
    if path.suffix == ".onnx" or (landmarks is None and any(folder.rglob("*.onnx"))):
        return rtmpose.from_files(path)
    detector = _first(folder, blazepose.DETECTORS)
    if landmarks is None or detector is None:
        lacking = blazepose.LANDMARKS if landmarks is None else blazepose.DETECTORS
        raise SightwordError(
            f"pose={pose} has no {' and no '.join(lacking[:2])}. Fetch BlazePose's networks by: npm install {NPM} and "
            "pass pose=node_modules/@mediapipe/pose"
        )
    return blazepose.BlazePose(landmarks, detector, threads)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these files that a folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
