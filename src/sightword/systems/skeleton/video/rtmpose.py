"""RTMPose and RTMO by rtmlib: COCO's 17 joints (Jiang et al. 2023; Lu et al. 2024).

rtmlib's own `Body` and `PoseTracker` are not used. Without a detection `Body` takes the whole frame for a person, and
it replaces a given RTMO file by its download; `PoseTracker` gives no ids. Here frames without a detection have no
people, and `follow` gives the ids.

Legend: P persons, V = 17 joints.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.skeleton.joints import JOINT_SETS

MODES = ("lightweight", "balanced", "performance")
DETECTOR_SIDE, POSE_SIZE = 640, (256, 192)  # where an .onnx file leaves the size of its input open
# rtmlib's own requirements bring two more packages with OpenCV, which overwrite the files of each other
NEEDED = "pip install onnxruntime tqdm opencv-python-headless && pip install --no-deps rtmlib"


class Detector(Protocol):
    """rtmlib's YOLOX."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR → (P, 4) left, top, right, bottom."""


class TopDown(Protocol):
    """rtmlib's RTMPose."""

    def __call__(self, image: np.ndarray, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 BGR and boxes (P, 4) → (P, 17, 2) pixels and (P, 17) maxima of SimCC."""


class OneStage(Protocol):
    """rtmlib's RTMO."""

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 BGR → (P, 17, 2) pixels and (P, 17)."""


class Boxed:
    """A detector and RTMPose as one network."""

    def __init__(self, detector: Detector, pose: TopDown) -> None:
        self.detector, self.pose = detector, pose

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.asarray(self.detector(image)).reshape(-1, 4)
        if not len(boxes):  # RTMPose would take the whole frame
            return np.zeros((0, 17, 2)), np.zeros((0, 17))
        return self.pose(image, bboxes=boxes)


class RTMPose:
    """People in the frames of a video: an `Estimator`, see `pose`."""

    joints = JOINT_SETS["coco17"]

    def __init__(self, network: OneStage, name: str) -> None:
        self.network, self.name = network, name

    def start(self) -> None:
        """Begin another video; each frame is searched on its own."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (P, V, 3). Maxima of SimCC can be above 1: they are cut there."""
        points, scores = self.network(np.ascontiguousarray(image[..., ::-1]))
        points, scores = np.asarray(points), np.asarray(scores)
        if points.shape[1:] != (17, 2):
            raise SightwordError(
                f"{self.name} gives {points.shape[1]} joints. Pass a network of COCO's 17, as rtmpose-m body7"
            )
        return np.concatenate([points, np.clip(scores, 0, 1)[..., None]], axis=-1).astype(np.float32)


def downloaded(pose: str) -> RTMPose:
    """Return rtmpose, rtmpose-lightweight, rtmpose-balanced or rtmpose-performance; rtmlib downloads it once."""
    mode = pose.partition("-")[2] or "balanced"
    if mode not in MODES:
        raise SightwordError(f"pose={pose!r} is none of rtmpose, {', '.join(f'rtmpose-{mode}' for mode in MODES)}")
    _check_installed()
    from rtmlib import Body

    with _quiet():
        try:
            body = Body(mode=mode, backend="onnxruntime", device="cpu")
        except Exception as error:  # rtmlib's download fails in any of the ways that urllib has
            raise SightwordError(
                f"pose={pose}: rtmlib could not download its networks ({error}). Pass a folder that has a detector's "
                "and RTMPose's .onnx, as pose=models"
            ) from None
    return RTMPose(Boxed(body.det_model, body.pose_model), f"RTMPose ({mode})")


class Onnx(NamedTuple):
    """What an .onnx file says of itself."""

    file: Path
    size: tuple[int, int]  # height, width of its input; 0 where it is open
    outputs: tuple[str, ...]


def from_files(path: Path) -> RTMPose:
    """Return the networks in a folder, below it, or beside a file: a detector with RTMPose, or RTMO alone.

    They are told apart by their outputs: RTMPose has simcc_x and simcc_y, RTMO has keypoints. Of several the one that
    `path` names is used. Raises SightwordError if it is not clear which.
    """
    _check_installed()
    files = sorted((path if path.is_dir() else path.parent).rglob("*.onnx"))
    found = [_opened(file) for file in files]
    poses = [one for one in found if {"simcc_x", "simcc_y"} <= set(one.outputs)]
    alone = [one for one in found if "keypoints" in one.outputs]
    detectors = [one for one in found if one not in poses and one not in alone]
    chosen = [one for one in (*poses, *alone) if one.file == path] or [*poses, *alone]
    if len(chosen) != 1 or (chosen[0] in poses and len(detectors) != 1):
        raise SightwordError(
            f"pose={path} has {len(poses)} networks of RTMPose, {len(alone)} of RTMO and {len(detectors)} detectors. "
            "Expected one RTMPose and one detector, or one RTMO: name its .onnx, or a folder with these alone"
        )
    from rtmlib import RTMO, YOLOX
    from rtmlib import RTMPose as TopDownPose

    pose = chosen[0]
    height, width = (side or usual for side, usual in zip(pose.size, POSE_SIZE, strict=True))
    with _quiet():
        if pose in alone:
            side = (pose.size[0] or DETECTOR_SIDE, pose.size[1] or DETECTOR_SIDE)
            return RTMPose(RTMO(str(pose.file), model_input_size=side), f"RTMO ({pose.file.name})")
        detector = detectors[0]
        side = (detector.size[0] or DETECTOR_SIDE, detector.size[1] or DETECTOR_SIDE)
        boxes = YOLOX(str(detector.file), model_input_size=side)
        points = TopDownPose(str(pose.file), model_input_size=(width, height))
    return RTMPose(Boxed(boxes, points), f"RTMPose ({pose.file.name})")


def _opened(file: Path) -> Onnx:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        reason = str(error).partition("\n")[0][:160]
        raise SightwordError(f"{file} cannot be opened by onnxruntime ({reason}). Download it again") from None
    shape = session.get_inputs()[0].shape
    height, width = (side if isinstance(side, int) else 0 for side in shape[-2:])
    return Onnx(file, (height, width), tuple(output.name for output in session.get_outputs()))


def _check_installed() -> None:
    try:
        import onnxruntime  # noqa: F401
        import rtmlib  # noqa: F401
    except ImportError as error:
        raise SightwordError(f"RTMPose needs rtmlib and onnxruntime ({error}): {NEEDED}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(sys.stderr):  # rtmlib prints there what it loads; the output is ours
        yield
