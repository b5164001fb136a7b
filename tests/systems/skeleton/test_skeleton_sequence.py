"""From an annotation to key points in pixels: the view of 3-D sets, and the order of axes."""

import numpy as np
import pytest
from posed import moving, recording, solid

from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import Contents, Recordings
from sightword.systems.skeleton.axes import guess_axes
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.sequence import VIEWS, parse_annotation, to_sequence


def columns(sequence, joints, part):
    """Of the left and of the right one, (T,) each."""
    return (sequence.points[0, :, joints.joints.index(f"{side}_{part}"), 0] for side in ("left", "right"))


@pytest.mark.parametrize("made", JOINT_SETS.values(), ids=JOINT_SETS)
def test_who_faces_a_kinect_has_the_left_hand_at_smaller_x_and_on_the_right_of_the_view(made):
    body = moving(made, 0)
    rows = [made.joints.index(f"{side}_wrist") for side in ("left", "right")]
    assert (body[:, :, rows[0], 0] < body[:, :, rows[1], 0]).all()
    seen = to_sequence(parse_annotation(solid(made, 0)))
    for part in ("shoulder", "wrist", "hip", "ankle"):
        left, right = columns(seen, made, part)
        assert (left > right).all(), "as in a photograph of somebody who faces the camera"


def test_a_camera_with_y_down_sees_the_same_as_a_kinect():
    made = JOINT_SETS["mediapipe33"]
    body = moving(made, 0).astype(np.float32)
    kinect = to_sequence(parse_annotation(solid(made, 0)))
    camera = to_sequence(parse_annotation(solid(made, 0) | {"keypoint": body * [-1, -1, 1]}), Reading(up="-y"))
    np.testing.assert_allclose(camera.points, kinect.points, atol=0.01)


@pytest.mark.parametrize("up", VIEWS)
def test_a_view_is_a_turn_of_a_right_handed_frame_with_its_axis_upwards(up):
    (right, sign), (down, turned) = VIEWS[up]
    across, along = np.eye(3)[right] * sign, np.eye(3)[down] * turned
    forward = np.cross(across, along)
    assert forward["xyz".index("y" if "z" in up else "z")] == 1
    assert along["xyz".index(up[-1])] == (1 if up.startswith("-") else -1)


@pytest.mark.parametrize("axes", ["TMVC", "MVTC", "CTVM", "MCTV", "TVC", "VTC", "CTV"])
@pytest.mark.parametrize("total", [True, False])
def test_another_order_of_axes_is_named_and_read(axes, total):
    rows = [recording(number, frames=21 + number) for number in range(4)]
    moved = []
    for row in rows:
        arrays = {"keypoint": (row["keypoint"], axes), "keypoint_score": (row["keypoint_score"], axes.replace("C", ""))}
        for key, (array, order) in arrays.items():
            array = array if "M" in axes else array[0]
            own = [axis for axis in "MTVC"[: 4 if key == "keypoint" else 3] if axis in axes]
            arrays[key] = array.transpose([own.index(axis) for axis in order])
        moved.append(row | arrays | ({} if total else {"total_frames": None}))
    moved = [{name: value for name, value in row.items() if value is not None} for row in moved]
    assert guess_axes(rows) == ""
    with pytest.raises(SightwordError, match=rf"key points have the shape .*\. axes={axes} \(in training data\.axes="):
        Recordings("x.pkl", Contents(moved, {}))
    read = Recordings("x.pkl", Contents(moved, {}), Reading(axes=axes))
    for one, row in zip(read, rows, strict=True):
        np.testing.assert_array_equal(one.points, row["keypoint"])
        np.testing.assert_array_equal(one.scores, row["keypoint_score"])


def test_a_set_of_a_joint_file_has_any_number_of_joints_and_its_axes_are_left_alone():
    assert guess_axes([recording(number, joints=9) for number in range(4)]) == ""
    assert guess_axes([recording(0, persons=9, frames=5)]) == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axes": "XYZ"}, "axes='XYZ' is not an order of axes"),
        ({"coordinates": "metres"}, "coordinates='metres' is none of"),
        ({"up": "north"}, "up='north' is none of"),
        ({"score_range": -1}, "score_range=-1 is not a score"),
    ],
)
def test_a_reading_that_is_none_is_refused(values, message):
    with pytest.raises(SightwordError, match=message):
        Reading(**values)


def test_a_direction_that_images_do_not_have_is_refused():
    with pytest.raises(SightwordError, match="up=z: images have no third axis"):
        Recordings("x.pkl", Contents([recording(0)], {}), Reading(up="z"))
    row = solid(JOINT_SETS["msr20"], 0)
    with pytest.raises(SightwordError, match="coordinates=normalised: these recordings are 3-D"):
        Recordings("x.pkl", Contents([row], {}), Reading(coordinates="normalised"))
    with pytest.raises(SightwordError, match="coordinates=3d: key points have two numbers"):
        Recordings("x.pkl", Contents([recording(0)], {}), Reading(coordinates="3d"))
