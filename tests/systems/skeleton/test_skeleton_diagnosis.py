"""Key points that are not read as they were meant: each is named, and the option that is offered reads it right."""

import numpy as np
import pytest
from posed import flat, moving, recording, solid

from sightword.miniature.motion import SHAPE, Sizes, annotations
from sightword.systems.skeleton.annotations import Contents, Recordings
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.diagnosis import diagnose
from sightword.systems.skeleton.joints import JOINT_SETS

COCO = JOINT_SETS["coco17"]
BOX = np.array([SHAPE[1], SHAPE[0]])
NAMES = {name: row for row, name in enumerate(COCO.joints)}


@pytest.fixture(scope="module")
def mini():
    """A small set of `sightword mini`: 44 recordings of 16 actions."""
    return annotations(Sizes(1, 1, 1, 1))["annotations"]


def findings(rows, own=COCO, **reading):
    """Of rows that are read by a model with the joints `own`."""
    read = Recordings("x.pkl", Contents(rows, {}), Reading(**reading))
    return diagnose(read.rows, read.reading, read.source or own)


def points_of(rows, own, **reading):
    read = Recordings("x.pkl", Contents(rows, {}), Reading(**reading))
    read.fit(own)
    return [(one.points, one.scores, one.shape) for one in read]


def damaged(rows, change):
    """Copies of annotations with their key points changed, in single precision."""
    return [dict(row, keypoint=change(row["keypoint"].astype(np.float32)).astype(np.float32)) for row in rows]


def scored(rows, change):
    return [dict(row, keypoint_score=change(row["keypoint_score"].astype(np.float32))) for row in rows]


def some(share):
    """A place for joints, in a fraction of all."""
    return lambda points: np.random.default_rng(0).random((*points.shape[:3], 1)) < share


def as_openpose(points):
    return points[:, :, [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]]


def as_human36m(points):
    """COCO's joints as Human3.6M's."""
    place = {name: points[:, :, row] for name, row in NAMES.items()}
    middle = {part: (place[f"left_{part}"] + place[f"right_{part}"]) / 2 for part in ("hip", "shoulder", "eye")}
    place |= {"root": middle["hip"], "thorax": middle["shoulder"], "spine": (middle["hip"] + middle["shoulder"]) / 2}
    place["head"] = middle["eye"] * 1.3 - middle["shoulder"] * 0.3
    return np.stack([place[name] for name in JOINT_SETS["h36m17"].joints], 2)


# ------------------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("count", [1, 3, 10, 44])
def test_an_undamaged_set_has_no_finding_however_small(mini, count):
    for start in range(0, len(mini) - count + 1, 4):
        assert findings(mini[start : start + count]) == []


@pytest.mark.parametrize("made", JOINT_SETS.values(), ids=JOINT_SETS)
@pytest.mark.parametrize("of", [flat, solid])
def test_undamaged_sets_of_all_joints_have_no_finding(made, of):
    for numbers in (range(12), range(3), [0]):
        rows = [of(made, number) for number in numbers]
        assert findings(rows, made) == []
        assert findings(rows, None) == [], "the set is found among those of as many joints"


def test_what_is_unusual_and_right_has_no_finding(mini):
    rows = scored(mini, lambda scores: scores * 1.2)  # of heatmaps
    rows[0] = dict(rows[0], keypoint=rows[0]["keypoint"][::-1], keypoint_score=rows[0]["keypoint_score"][::-1])
    rows[1] = {name: value for name, value in rows[1].items() if name != "keypoint_score"}
    rows[2] = dict(rows[2], label=None)
    assert findings(rows) == []


# --------------------------------------------------------------------------------------------------------- what is not

READ = {  # a damage of coordinates, what it is called, and the option that undoes it
    "normalised": (lambda p: p / BOX, "normalised coordinates", {"coordinates": "normalised"}),
    "from -1 to 1": (lambda p: p / BOX * 2 - 1, "normalised coordinates", {"coordinates": "centred"}),
    "y up": (lambda p: p * [1, -1] + [0, SHAPE[0] - 1], "the axis that points up", {"up": "y"}),
    "x and y exchanged": (lambda p: p[..., ::-1], "the axis that points up", {"up": "-x"}),
    "mirrored": (lambda p: p * [-1, 1] + [SHAPE[1] - 1, 0], "left and right", {"mirrored": True}),
    "OpenPose's order": (as_openpose, "the order of the joints", {"joints": "openpose17"}),
}


@pytest.mark.parametrize("name", READ)
def test_a_damage_is_named_and_its_option_undoes_it(mini, name):
    damage, kind, option = READ[name]
    rows = damaged(mini, damage)
    rows = scored(rows, damage) if "joints" in option else rows
    (found,) = findings(rows)
    typed = " ".join(f"{key}={str(value).lower() if value is True else value}" for key, value in option.items())
    assert (found.kind, found.fix) == (kind, typed)
    for row, (points, scores, shape) in zip(mini, points_of(rows, COCO, **option), strict=True):
        assert shape == SHAPE
        there = row["keypoint_score"] >= 1e-3
        np.testing.assert_array_equal(scores > 0, there)
        np.testing.assert_allclose(points[there], row["keypoint"][there], atol=2e-3)
    assert findings(rows, **option) == []


SCORES = {
    "percent": (lambda s: s * 100, "score_range=100", 1.0),
    "up to 6": (lambda s: s * 6, "score_range=1", None),
    "visibility": (lambda s: (s > 0.3) * 1.0 + (s > 0.6), "score_range=2", None),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_another_range_are_named(mini, name):
    change, fix, factor = SCORES[name]
    rows = scored(mini, change)
    (found,) = findings(rows)
    assert (found.level, found.kind, found.fix) == ("error", "the range of the scores", fix)
    option = {"score_range": float(fix.partition("=")[2])}
    assert findings(rows, **option) == []
    for row, (_, scores, _) in zip(mini, points_of(rows, COCO, **option), strict=True):
        assert scores.max() <= 1
        if factor:
            np.testing.assert_allclose(scores, row["keypoint_score"] * (row["keypoint_score"] >= 1e-3), rtol=1e-5)


def test_scores_that_are_all_zero_are_an_error_and_a_few_such_recordings_a_warning(mini):
    (found,) = findings(scored(mini, lambda scores: scores * 0))
    assert (found.level, found.kind, found.count) == ("error", "recordings without a joint", len(mini))
    rows = [*mini[:5], *scored(mini[5:6], lambda scores: scores * 0)]
    (found,) = findings(rows)
    assert (found.level, found.files) == ("warning", (mini[5]["frame_dir"],))


@pytest.mark.parametrize("place", [-1, 0])
def test_missing_joints_written_as_a_place_are_named_and_read_as_missing(mini, place):
    lost = some(0.05)
    rows = damaged(mini, lambda points: np.where(lost(points), place, points))
    (found,) = findings(rows)
    assert (found.level, found.kind, found.fix) == ("error", "missing joints", f"missing={place}")
    for row, (_, scores, _) in zip(rows, points_of(rows, COCO, missing=float(place)), strict=True):
        assert not scores[(row["keypoint"] == place).all(-1)].any()
        assert scores.any()


def test_a_joint_that_never_moves_is_named(mini):
    rows = damaged(mini, lambda points: np.where((np.arange(17) == 4)[:, None], [320, 240], points))
    (found,) = findings(rows)
    assert (found.level, found.kind) == ("warning", "joints that never move")
    assert "right_ear at (320, 240)" in found.message


def test_human36m_in_a_coco_run_is_named_and_read_with_eyes_and_ears_at_the_nose(mini):
    rows = damaged(mini, as_human36m)
    found = findings(rows)
    assert (found[0].level, found[0].fix) == ("error", "joints=h36m17")
    read = Recordings("x.pkl", Contents(rows, {}, JOINT_SETS["h36m17"]))  # as if the file had stated it
    read.fit(COCO)
    assert not read.lacking()
    assert read.placed()[0] == "left_eye at nose"
    assert diagnose(read.rows, read.reading, read.source) == []
    knee = NAMES["left_knee"]
    np.testing.assert_allclose(read[0].points[:, :, knee], mini[0]["keypoint"][:, :, knee], atol=1e-3)
    np.testing.assert_array_equal(read[0].points[:, :, 1], read[0].points[:, :, NAMES["nose"]])


def test_an_order_of_no_known_set_is_an_error_unless_it_is_stated(mini):
    rows = damaged(mini, lambda points: points[:, :, np.random.default_rng(1).permutation(17)])
    (found,) = findings(rows)
    assert found.level == "error"
    assert "are not in its order or of openpose17, h36m17" in found.message
    assert {one.level for one in findings(rows, joints="coco17")} == {"warning"}


def test_two_damages_are_both_named(mini):
    rows = damaged(mini, lambda points: [0, 1] + as_human36m(points) / BOX * [1, -1])
    assert [one.fix for one in findings(rows)] == ["coordinates=normalised", "joints=h36m17", "up=y"]


def test_a_shape_with_its_sides_exchanged_and_one_of_other_images_are_told():
    rows = [flat(COCO, number, img_shape=(640, 480)) for number in range(5)]
    rows = damaged(rows, lambda points: np.add(points, [280, -60]))
    (found,) = findings(rows)
    assert (found.level, found.kind) == ("warning", "joints outside of the image")
    assert "is img_shape (width, height)? It is (height, width)" in found.message
    (found,) = findings([dict(row, img_shape=(120, 160)) for row in rows])
    assert "of 120×160 (height×width): img_shape is of other images" in found.message


def test_frames_and_joints_exchanged_are_told_by_jumps():
    rows = [flat(COCO, number, frames=17) for number in range(12)]
    moved = [row["keypoint"] + np.arange(17)[:, None, None] * [3, 0] for row in rows]  # a walk
    rows = [dict(row, keypoint=points.swapaxes(1, 2)) for row, points in zip(rows, moved, strict=True)]
    assert "frames and joints exchanged" in [one.kind for one in findings(rows)]
    assert findings(rows, axes="MVTC") == []


def test_people_who_lie_are_a_possibility_and_not_an_error():
    rows = damaged([flat(COCO, number) for number in range(5)], lambda p: (p - [320, 240]) @ [[0, 1], [-1, 0]] + 320)
    (found,) = findings(rows)
    assert (found.level, found.message) == ("warning", "heads are beside feet: people lie, or x and y are exchanged")
    rows = [solid(MSR, number) for number in range(5)]
    (found,) = findings(damaged(rows, lambda points: points @ [[1, 0, 0], [0, 0.5, -0.87], [0, 0.87, 0.5]]), MSR)
    assert (found.level, found.fix) == ("warning", "")
    assert "bodies do not stand along y: they lie or bend" in found.message
    (found,) = findings(damaged(rows, lambda points: points @ [[1, 0, 0], [0, 0, -1], [0, 1, 0]]), MSR)
    assert found.level == "warning", "five recordings may lie"
    assert "points up, or people lie" in found.message
    rows = [solid(MSR, number) for number in range(12)]
    (found,) = findings(damaged(rows, lambda points: points @ [[1, 0, 0], [0, 0, -1], [0, 1, 0]]), MSR)
    assert (found.level, found.fix) == ("error", "up=-z")


def test_what_an_option_states_outright_is_no_error(mini):
    rows = damaged(mini, lambda points: points * [1, -1] + [0, SHAPE[0] - 1])
    assert [one.level for one in findings(rows)] == ["error"]
    assert [one.level for one in findings(rows, up="-y")] == ["warning"]


# ----------------------------------------------------------------------------------------------------------------- 3-D

NTU, MSR = JOINT_SETS["ntu25"], JOINT_SETS["msr20"]
SOLID = {
    "y down": (lambda p: p * [-1, -1, 1], "the axis that points up", {"up": "-y"}),
    "z up": (lambda p: np.stack([-p[..., 0], p[..., 2], p[..., 1]], -1), "the axis that points up", {"up": "z"}),
    "x up": (
        lambda p: np.stack([p[..., 1], p[..., 0], p[..., 2]], -1) * [1, -1, 1],
        "the axis that points up",
        {"up": "x"},
    ),
    "mirrored": (lambda p: p * [-1, 1, 1], "left and right", {"mirrored": True}),
}


@pytest.mark.parametrize("name", SOLID)
def test_axes_of_3d_are_named_and_their_option_gives_the_same_front_view(name):
    damage, kind, option = SOLID[name]
    rows = [solid(MSR, number) for number in range(5)]
    bad = damaged(rows, damage)
    (found,) = findings(bad, MSR)
    assert (found.kind, found.fix) == (kind, " ".join(f"{key}={str(value).lower()}" for key, value in option.items()))
    for (points, *_), (expected, *_) in zip(points_of(bad, MSR, **option), points_of(rows, MSR), strict=True):
        np.testing.assert_allclose(points, expected, atol=0.01)


def test_heads_below_feet_is_said():
    (found,) = findings(damaged([solid(MSR, 0)], lambda points: points * [-1, -1, 1]), MSR)
    assert found.message == "heads are below feet with up=y: -y points up"


@pytest.mark.parametrize("unit", [1, 1000])
def test_3d_with_a_shape_filled_in_is_named_and_read_as_3d(unit):
    rows = damaged([solid(MSR, number) for number in range(5)], lambda points: points * unit)
    filled = [dict(row, img_shape=(480, 640)) for row in rows]
    (found,) = findings(filled, MSR)
    assert (found.level, found.kind, found.fix) == ("error", "3-D read as 2-D", "coordinates=3d")
    for (points, *_), (expected, *_) in zip(
        points_of(filled, MSR, coordinates="3d"), points_of(rows, MSR), strict=True
    ):
        np.testing.assert_array_equal(points, expected)


def test_scores_behind_pixels_without_a_shape_are_not_3d(mini):
    both = [np.concatenate([row["keypoint"], row["keypoint_score"][..., None]], -1) for row in mini]
    rows = [recording(number, len(one[0]), keypoint=one, keypoint_score=None) for number, one in enumerate(both)]
    rows = [{name: value for name, value in row.items() if name != "img_shape"} for row in rows]
    (found,) = findings(rows)
    assert (found.level, found.kind) == ("error", "2-D read as 3-D")
    assert "Add img_shape, (height, width) of the images" in found.message


def test_the_two_orders_of_a_kinect_are_told_apart():
    rows = [solid(MSR, number) for number in range(5)]
    (found,) = findings(rows, JOINT_SETS["kinect20"])
    assert (found.level, found.fix) == ("error", "joints=msr20")
    (points, *_), *_ = points_of(rows, JOINT_SETS["kinect20"], joints="msr20")
    order = [MSR.joints.index(joint) for joint in JOINT_SETS["kinect20"].joints]
    np.testing.assert_array_equal(points, points_of(rows, MSR)[0][0][:, :, order])


def test_a_joint_that_is_the_origin_of_3d_coordinates_is_there():
    rows = [solid(MSR, number) for number in range(3)]
    centred = damaged(rows, lambda points: points - points[:, :, [MSR.joints.index("hip_centre")]])
    assert findings(centred, MSR) == []
    assert points_of(centred, MSR)[0][1].all()
    away = damaged(rows, lambda points: np.where((np.arange(20) == 6)[:, None], 0, points))
    assert not points_of(away, MSR)[0][1][:, :, 6].any()


def test_a_body_faces_a_kinect_as_the_helper_says():
    points = moving(NTU, 0)
    left, right = (points[..., NTU.joints.index(f"{side}_shoulder"), 0] for side in ("left", "right"))
    assert (left < right).all()
