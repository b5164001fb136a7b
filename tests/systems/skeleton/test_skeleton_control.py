"""Controls without a video encoder: what their features ignore, how settings are chosen, what the command writes."""

import json

import numpy as np
import pytest

from sightword.cli.main import main
from sightword.engine.item_result import read_items
from sightword.errors import SightwordError
from sightword.miniature import motion
from sightword.systems.skeleton.annotations import Contents, Recordings
from sightword.systems.skeleton.control import ddnet, linear
from sightword.systems.skeleton.control.feature import joint_distances, poses, resampled, velocities
from sightword.systems.skeleton.control.people import folds, people_of
from sightword.systems.skeleton.joints import joint_set

KINECT = joint_set("kinect20")


def solid(count=3, frames=9, seed=0, move=0.0, scale=1.0, missing=()):
    """Annotations of 3-D joints, moved and scaled as a whole; some joints of some frames are missing."""
    points = np.random.default_rng(seed).normal(size=(count, 1, frames, 20, 3)) * scale + move
    for row, frame, joint in missing:
        points[row, 0, frame, joint] = np.nan
    rows = [
        {"frame_dir": f"clip{n}", "label": n, "keypoint": one, "total_frames": frames} for n, one in enumerate(points)
    ]
    return Recordings("made.pkl", Contents(rows, {}, KINECT))


def world(**given):
    made = solid(**given)
    made.fit(KINECT)
    return poses(made, range(len(made)), KINECT, 8, depth=True)


# --------------------------------------------------------------------------------------------------------- features


def test_where_a_person_stands_and_how_tall_it_is_makes_no_difference():
    np.testing.assert_allclose(world(), world(move=5.0, scale=3.0), atol=1e-4)


def test_depth_is_kept_or_left_out():
    made = solid()
    made.fit(KINECT)
    assert poses(made, [0, 1], KINECT, 8, depth=True).shape == (2, 8, 20, 3)
    assert poses(made, [0, 1], KINECT, 8, depth=False).shape == (2, 8, 20, 2)


def test_a_missing_joint_is_interpolated_and_one_that_is_never_there_is_at_the_hips():
    head = KINECT.joints.index("head")
    whole, gap = world(), world(missing=[(0, 4, head)])
    assert np.abs(gap[0] - whole[0])[:, [j for j in range(20) if j != head]].max() < 1e-5
    gone = world(missing=[(1, frame, head) for frame in range(9)])
    assert np.isfinite(gone).all()
    assert not gone[1, :, head].any()


def test_a_recording_without_any_joint_is_finite():
    found = world(missing=[(2, frame, joint) for frame in range(9) for joint in range(20)])
    assert not found[2].any()


def test_moments_are_equally_spaced_and_a_single_frame_stays():
    assert resampled(np.arange(5.0)[:, None], 9)[:, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert resampled(np.array([[7.0]]), 3).tolist() == [[7.0]] * 3


def test_distances_and_velocities_are_of_pairs_and_steps():
    points = np.zeros((1, 4, 3, 2))
    points[0, :, 1, 0] = [3, 3, 3, 6]
    points[0, :, 2, 1] = 4
    assert joint_distances(points)[0, 0].tolist() == [3, 4, 5]
    assert velocities(points, 2)[0, :, 1, 0].tolist() == [0, 3]


def test_joints_without_hips_are_a_line():
    with pytest.raises(SightwordError, match="have no left_hip, right_hip"):
        poses(solid(), [0], KINECT._replace(name="line", joints=tuple("abcdefghijklmnopqrst")), 8, depth=True)


# ----------------------------------------------------------------------------------------------------------- people


def test_people_are_known_by_published_names_or_by_a_pattern():
    assert people_of(["a01_s02_e01", "a03_s10_e02"])[0] == ["person 2", "person 10"]
    assert people_of(["S001C001P003R001A002"])[0] == ["person 3"]
    assert people_of(["jo-wave", "al-sit"], "^[a-z]+")[0] == ["jo", "al"]
    parts, how = people_of([f"clip{number}" for number in range(10)])
    assert len(set(parts)) == 5
    assert "optimistic" in how
    with pytest.raises(SightwordError, match="finds nobody in the name b"):
        people_of(["a1", "b"], r"\d")
    with pytest.raises(SightwordError, match="is not a pattern"):
        people_of(["a1"], "(")


def test_every_person_is_held_out_once_and_whole():
    people = ["a", "b", "a", "c", "b", "d"]
    held = folds(people, 10)
    assert len(held) == 4
    assert (np.sum(held, axis=0) == 1).all()
    assert all(len({people[n] for n in np.flatnonzero(each)}) == 1 for each in held)
    assert len(folds(people, 2)) == 2
    with pytest.raises(SightwordError, match="nobody can be held out"):
        folds(["a", "a"], 3)


# --------------------------------------------------------------------------------------------------------- learning


def made_classes(count=60, classes=3, seed=0):
    """Joints (N, 8, 5, 2) whose class is which joint moves, labels and people."""
    rng = np.random.default_rng(seed)
    labels, people = np.arange(count) % classes, [f"p{n // 12}" for n in range(count)]
    points = rng.normal(size=(count, 1, 5, 2)) * 0.3 + rng.normal(size=(count, 8, 5, 2)) * 0.05
    points[np.arange(count), :, labels, 0] += np.linspace(0, 2, 8)
    return points.astype(np.float32), labels, people


def test_ridge_learns_and_agrees_with_the_normal_equations():
    points, labels, people = made_classes()
    features = linear.features_of(points)
    strength, tried = linear.chosen_strength(features, labels, people, 3)
    assert tried[strength] == max(tried.values()) > 90
    x = (features - features.mean(0)) / (features.std(0) + 1e-6)
    targets = np.eye(3)[labels]
    penalty = strength * features.shape[1] * np.eye(features.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (targets - targets.mean(0)))
    found = linear.Ridge(features, labels, 3).scores(features, strength)
    np.testing.assert_allclose(found, x @ weights + targets.mean(0), atol=1e-5)


def test_the_network_learns_and_a_seed_gives_the_same_again():
    points, labels, _ = made_classes()
    recipe = ddnet.Recipe(12, 0.05, filters=8, rate=5e-3)
    network, course = ddnet.trained(points[:48], labels[:48], 3, recipe, 1, (points[48:], labels[48:]))
    again, _ = ddnet.trained(points[:48], labels[:48], 3, recipe, 1)
    assert course[-1] > 0.8
    assert len(course) == 12
    np.testing.assert_array_equal(ddnet.probabilities(network, points[48:]), ddnet.probabilities(again, points[48:]))


# -------------------------------------------------------------------------------------------- by the command line


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("motion")
    motion.write_motion(root, motion.Sizes(train=3, val=1, test=1, clips=1))
    return root


def control(small, *more):
    given = {"annotations": small / "annotations.pkl", "labels": small / "labels.json", "joints": "coco17"}
    return main(["control", *(f"{key}={value}" for key, value in given.items()), *more])


def test_the_command_writes_what_an_evaluation_writes(small, tmp_path, capsys):
    assert control(small, "test=xsub_test", f"out={tmp_path}") == 0
    report = json.loads((tmp_path / "evaluation_test.json").read_text())
    found = read_items(tmp_path / report["items"]["file"])
    assert found.digest == report["items"]["digest"]
    right = found.arrays["predicted"] == found.arrays["label"]
    assert report["metrics"]["top1"] == pytest.approx(100 * right.mean())
    assert report["held_out_accuracy"][report["chosen"]] == max(report["held_out_accuracy"].values())
    assert "nothing was chosen on it" in report["protocol"]["split"]
    assert "on people held out  chosen" in capsys.readouterr().out


def test_runs_are_compared_on_the_same_recordings_alone(small, tmp_path, capsys):
    run = tmp_path / "run"
    assert control(small, "test=xsub_test", f"out={run}") == 0
    report = json.loads((run / "evaluation_test.json").read_text())
    report |= {"checkpoint": "gone.ckpt", "checkpoint_digest": "", "overrides": []}  # as sightword evaluate writes it
    (run / "evaluation_test.json").write_text(json.dumps(report))
    capsys.readouterr()
    assert control(small, "test=xsub_test", f"beside={run}", f"out={tmp_path / 'a'}") == 0
    assert "+0.0 points [+0.0, +0.0], not told apart from the control" in capsys.readouterr().out
    assert control(small, "test=xsub_val", f"beside={run}", f"out={tmp_path / 'b'}") == 2
    assert "recordings that are not these" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert control(small, "test=xsub_test", f"beside={tmp_path / 'c'}", f"out={tmp_path / 'b'}") == 2
    assert "has no evaluation of test. Write it first: sightword evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["train=xsub_train", "test=xsub_train"], "share all recordings"),
        (["train=", "test=xsub_test"], "share 12 recordings"),
        (["test=nowhere"], "no split 'nowhere'"),
        (["method=forest"], "method"),
        (["joints=kinect20"], "joints"),
    ],
)
def test_what_cannot_be_measured_is_a_line(small, tmp_path, capsys, more, said):
    assert control(small, *more, f"out={tmp_path}") == 2
    assert said in capsys.readouterr().err


def test_a_run_directory_is_not_written_into(small, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("experiment: skeleton/visece\n")
    assert control(small, f"out={tmp_path}") == 2
    assert "is a run directory" in capsys.readouterr().err
