"""RTMPose by rtmlib: its classes on tiny networks in the real files' form; no weights are fetched."""

from pathlib import Path

import numpy as np
import pytest

from sightword.errors import SightwordError
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.video.pose import estimator_of
from sightword.systems.skeleton.video.rtmpose import Boxed, RTMPose

FRAME = np.zeros((480, 640, 3), np.uint8)
BOX = np.array([100, 50, 220, 290])  # left, top, right, bottom: in the ratio of RTMPose's input, so nothing is padded


def test_a_frame_without_a_detection_has_no_people():
    def whole_frame(image: np.ndarray, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("without boxes rtmlib takes the whole frame for a person")

    nobody = RTMPose(Boxed(lambda image: np.array([]), whole_frame), "x")
    assert nobody(FRAME).shape == (0, 17, 3)


def test_frames_are_given_as_bgr_and_maxima_above_one_are_cut():
    seen: list[np.ndarray] = []

    def network(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(image)
        return np.full((1, 17, 2), 5.0), np.linspace(-0.1, 1.5, 17)[None]

    red = FRAME.copy()
    red[..., 0] = 255
    (person,) = RTMPose(network, "x")(red)
    assert seen[0][0, 0].tolist() == [0, 0, 255]
    assert (person[:, 2].min(), person[:, 2].max(), person.dtype) == (0, 1, np.float32)


def test_networks_of_other_joints_are_refused():
    whole_body = RTMPose(lambda image: (np.zeros((1, 133, 2)), np.zeros((1, 133))), "rtmw")
    with pytest.raises(SightwordError, match="rtmw gives 133 joints"):
        whole_body(FRAME)


def test_what_is_not_installed_is_said_with_what_to_type(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rtmlib", None)
    with pytest.raises(SightwordError, match="RTMPose needs rtmlib and onnxruntime .* --no-deps rtmlib"):
        estimator_of("rtmpose")


def test_modes_are_listed():
    with pytest.raises(SightwordError, match="'rtmpose-huge' is none of rtmpose, rtmpose-lightweight"):
        estimator_of("rtmpose-huge")


# ---------------------------------------------------------------------------------------------------- rtmlib's classes


def network(file: Path, size: tuple[int, int], **outputs: np.ndarray) -> None:
    """Write a network that gives the same for every image."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("input", kind, ["batch", 3, *size])
    made = [helper.make_tensor_value_info(name, kind, value.shape) for name, value in outputs.items()]
    kept = [onnx.numpy_helper.from_array(value.astype(np.float32), f"{name}_is") for name, value in outputs.items()]
    nodes = [helper.make_node("Identity", [f"{name}_is"], [name]) for name in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], made, kept), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(file))


def top_down(folder: Path, boxes: list[list[float]]) -> Path:
    """A detector of these boxes with scores (in pixels of its input), and RTMPose: joint j at column 10j, row 20j."""
    pytest.importorskip("rtmlib")
    network(folder / "det/end2end.onnx", (640, 640), dets=np.array([boxes]), labels=np.zeros((1, len(boxes))))
    x, y = np.zeros((1, 17, 384)), np.zeros((1, 17, 512))
    for joint in range(17):
        x[0, joint, 10 * joint], y[0, joint, 20 * joint] = 0.8, 0.9
    network(folder / "pose/end2end.onnx", (256, 192), simcc_x=x, simcc_y=y)
    return folder


@pytest.mark.real
def test_a_folder_of_a_detector_and_rtmpose_gives_joints_in_pixels(tmp_path):
    estimator = estimator_of(top_down(tmp_path, [[*BOX, 0.9], [0, 0, 10, 10, 0.1]]))
    assert (estimator.joints, estimator.name) == (JOINT_SETS["coco17"], "RTMPose (end2end.onnx)")
    people = estimator(FRAME)
    assert people.shape == (1, 17, 3)  # the second box is not sure
    centre, size = (BOX[:2] + BOX[2:]) / 2, 1.25 * (BOX[2:] - BOX[:2])
    size = np.array([size[1] * 192 / 256, size[1]])  # enlarged to the ratio of the input
    expected = centre - size / 2 + np.arange(17)[:, None] * [10, 20] / np.array([384, 512]) * size
    np.testing.assert_allclose(people[0, :, :2], expected, atol=1)
    np.testing.assert_allclose(people[0, :, 2], 0.8, atol=0.1)


@pytest.mark.real
def test_a_detector_that_is_not_sure_finds_nobody(tmp_path):
    assert len(estimator_of(top_down(tmp_path, [[*BOX, 0.2]]))(FRAME)) == 0


@pytest.mark.real
def test_rtmo_is_told_by_its_outputs(tmp_path):
    pytest.importorskip("rtmlib")
    points = np.concatenate([np.full((1, 1, 17, 2), 100.0), np.full((1, 1, 17, 1), 0.7)], -1)
    network(tmp_path / "x.onnx", (640, 640), dets=np.array([[[*BOX, 0.9]]]), keypoints=points)
    estimator = estimator_of(tmp_path / "x.onnx")
    assert estimator.name == "RTMO (x.onnx)"
    np.testing.assert_allclose(estimator(FRAME)[0, 0], [100, 100, 0.7], atol=1)


@pytest.mark.real
def test_folders_that_leave_a_choice_are_refused(tmp_path):
    folder = top_down(tmp_path, [[*BOX, 0.9]])
    (folder / "second.onnx").write_bytes((folder / "pose/end2end.onnx").read_bytes())
    with pytest.raises(SightwordError, match="has 2 networks of RTMPose, 0 of RTMO and 1 detectors"):
        estimator_of(folder)
    (folder / "broken.onnx").write_bytes(b"x")
    with pytest.raises(SightwordError, match=r"broken.onnx cannot be opened by onnxruntime"):
        estimator_of(folder)
