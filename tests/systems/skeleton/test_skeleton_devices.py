"""A model that was trained on the joints of one device, and recordings of another."""

import numpy as np
import pytest
from devices import ACTIONS, by_estimator, by_kinect, write_devices

import sightword
from sightword.cli.main import main
from sightword.systems.skeleton.annotations import Contents, Recordings, read_annotations
from sightword.systems.skeleton.correspondence import corresponding, sources_of
from sightword.systems.skeleton.joints import JOINT_SETS

KINECT, ESTIMATOR = JOINT_SETS["kinect20"], JOINT_SETS["mediapipe33"]


def test_a_joint_that_a_set_lacks_is_placed_at_the_nearest_that_it_has():
    sources = sources_of(KINECT, ESTIMATOR)
    found = {joint: [ESTIMATOR.joints[row] for row in rows] for joint, rows in zip(KINECT.joints, sources, strict=True)}
    assert found["left_wrist"] == ["left_wrist"]
    assert found["head"] == ["left_ear", "right_ear"]
    assert found["right_hand"] == ["right_index", "right_pinky"]
    assert found["hip_centre"] == ["left_hip", "right_hip"]
    assert found["left_foot"] == ["left_foot_index"]


def test_every_set_gives_every_other_its_trunk_and_limbs():
    for wanted in JOINT_SETS.values():
        for source in JOINT_SETS.values():
            for joint, rows in zip(wanted.joints, sources_of(wanted, source), strict=True):
                assert rows, f"{joint} of {wanted.name} in {source.name}"
                names = [source.joints[row] for row in rows]
                side = joint.split("_")[0]
                if side in ("left", "right"):
                    other = {"left": "right_", "right": "left_"}[side]
                    assert not [name for name in names if name.startswith(other)]


def test_a_mean_of_several_joints_is_missing_if_one_of_them_is():
    points = np.array([[[[0.0, 0], [4, 2]], [[0, 0], [4, 2]]]])  # (1, 2, 2, 2)
    scores = np.array([[[0.5, 0.9], [0.0, 0.9]]])
    found, sure = corresponding(points, scores, ((1,), (0, 1), ()))
    assert found[0, 0].tolist() == [[4, 2], [2, 1], [0, 0]]
    np.testing.assert_allclose(sure[0], [[0.9, 0.7, 0], [0.9, 0, 0]])


def test_both_devices_show_a_left_hand_on_the_same_side_of_the_view():
    rows = [by_kinect(ACTIONS[0], 0, 0), by_estimator(ACTIONS[0], 0, 0)]
    for row, joints in zip(rows, (KINECT, ESTIMATOR), strict=True):
        read = Recordings("here.pkl", Contents([row], {}, joints))
        read.fit(KINECT)
        left, right = (read[0].points[0, :, KINECT.joints.index(f"{side}_shoulder"), 0] for side in ("left", "right"))
        assert (left > right).all(), joints.name


def test_what_stands_for_missing_joints_is_said(tmp_path, capsys):
    write_devices(tmp_path, people=1, others=1, repeats=1)
    read = read_annotations(tmp_path / "estimator.pkl")
    read.fit(KINECT)
    assert not read.lacking()
    assert read.placed()[0] == "hip_centre at the mean of left_hip, right_hip"
    assert read.placed()[-1] == "right_foot at right_foot_index"


def test_a_model_of_a_kinects_joints_names_other_people_on_images(tmp_path, capsys):
    files = write_devices(tmp_path, people=8, others=4, repeats=3)
    small = ["data.frames=8", "data.size=[16,16]", "data.test_size=[16,16]", "data.test_views=1", "data.flip=0"]
    argv = [f"data.annotations={tmp_path / 'kinect.pkl'}", "data.train=train", "data.val=others", "data.test=others"]
    argv += [*small, "system.joints=kinect20", f"system.labels={files['labels']}", "trainer.steps=60"]
    argv += ["trainer.val_every=1000", "trainer.images_every=1000", f"out={tmp_path / 'runs'}", "name=first"]
    assert main(["train", "experiment=skeleton/slowonly_mini", *argv]) == 0
    recognizer = sightword.load(tmp_path / "runs" / "skeleton" / "slowonly_mini" / "first")
    capsys.readouterr()
    found = recognizer(str(tmp_path / "estimator.pkl"), split="others", labelled=True)
    assert "joints that it does not have are placed at others: hip_centre at" in capsys.readouterr().err
    right = np.mean([one.label == one.best for one in found])
    assert right == pytest.approx(0.9, abs=0.2), "chance is 0.25; with joints missing it was far lower"
    assert len({one.action for one in found}) == len(ACTIONS)
