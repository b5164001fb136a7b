"""BlazePose: the geometry of its regions, and the real networks on photographs that scikit-image has.

The networks are in npm's package @mediapipe/pose; `make test-real` fetches them. SIGHTWORD_POSE names another folder.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from filmed import animate
from PIL import Image
from skimage import data

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.video.blazepose import (
    ANCHORS,
    BlazePose,
    Person,
    Picture,
    Region,
    distinct,
    merged,
    middles,
    near,
    refined,
)
from sightword.systems.skeleton.video.extraction import skeletons_of
from sightword.systems.skeleton.video.pose import estimator_of

# ----------------------------------------------------------------------------------------------------------- geometry


def region(x: float = 50, y: float = 60, up: tuple[float, float] = (0, -20)) -> Region:
    return Region(np.array([x, y], float), np.array(up, float))


def test_anchors_are_the_middles_of_the_cells_row_by_row():
    assert ANCHORS.shape == (2254, 2)
    np.testing.assert_allclose(ANCHORS[[0, 1, 2, 56]], np.array([[0.5, 0.5], [0.5, 0.5], [1.5, 0.5], [0.5, 1.5]]) / 28)
    np.testing.assert_allclose(ANCHORS[-1], 6.5 / 7)


def test_the_top_of_a_crop_is_where_the_region_points():
    axes = region(up=(20, 0)).axes()  # the head is to the right
    np.testing.assert_allclose(axes @ [0, -1], [25, 0])
    np.testing.assert_allclose(axes @ [1, 0], [0, 25])
    np.testing.assert_allclose(region().axes(), [[25, 0], [0, 25]])


@pytest.mark.parametrize("black", [True, False])
def test_a_crop_has_the_pixels_of_its_square(black):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)
    cut = Picture(image).crop(region(50, 40, (0, -16)), 40, black)  # 40 pixels a side
    np.testing.assert_allclose(cut, image[20:60, 30:70], atol=1e-3)
    turned = Picture(image).crop(region(50, 40, (16, 0)), 40, black)
    np.testing.assert_allclose(turned, np.rot90(image[20:60, 30:70]), atol=1e-3)


def test_outside_of_the_frame_is_black_for_the_detector_and_its_border_for_landmarks():
    image = np.full((40, 40, 3), 200, np.uint8)
    over = region(0, 20, (0, -16))
    assert set(np.unique(Picture(image).crop(over, 40, black=True)[:, :19])) == {0.0}
    assert set(np.unique(Picture(image).crop(over, 40))) == {200.0}


def test_large_regions_average_pixels():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(Picture(stripes).crop(region(200, 200, (0, -160)), 40) - 100).max() < 1


def test_overlapping_detections_are_one_weighed_by_score():
    places = np.zeros((3, 6, 2))
    places[:, 0] = [(0.5, 0.5), (0.52, 0.5), (0.9, 0.5)]
    places[:, 1] = 0.2
    found = merged(places, np.array([0.9, 0.6, 0.8]))
    assert len(found) == 2
    np.testing.assert_allclose(found[0][0], [0.508, 0.5])
    np.testing.assert_allclose(found[1][0], [0.9, 0.5])
    assert merged(places[:0], np.zeros(0)) == []


def test_squares_cover_a_length_and_overlap_by_half():
    for length, side in ((1920, 960), (1080, 960), (100, 50), (101, 50), (99, 100)):
        at = middles(length, side)
        assert at[0] - side / 2 <= 0
        assert at[-1] + side / 2 >= length
        assert (np.diff(at) <= side / 2 + 1e-9).all()
    assert len(middles(1920, 960)) == 3


def test_landmarks_move_to_the_heat_about_them_if_there_is_any():
    heat = np.full((64, 64, 39), -20.0)
    heat[20, 31, 0] = 5
    heat[20, 31, 1] = -1
    heat[50, 50, 2] = 5  # too far away
    places = np.tile(np.array([30.2, 21.7]) / 64, (39, 1))
    places[3] = (1.2, -0.1)
    moved = refined(places, heat)
    np.testing.assert_allclose(moved[0] * 64, [31, 20], atol=0.01)
    np.testing.assert_array_equal(moved[1:], places[1:])


def test_who_is_found_twice_is_one_person():
    def person(x: float) -> Person:
        return Person(np.column_stack([np.full((33, 2), x), np.ones(33)]), region(x))

    assert len(distinct([person(50), person(51), person(90)])) == 2
    assert near(region(50), region(53))
    assert not near(region(50), region(58))


# ------------------------------------------------------------------------------------------------------ real networks


@pytest.fixture(scope="module")
def pose() -> Path:
    """The folder of the networks; what needs them is skipped where they are not."""
    folder = Path(os.environ.get("SIGHTWORD_POSE", Path(__file__).parents[3] / "node_modules/@mediapipe/pose"))
    if not folder.is_dir():
        pytest.skip("no networks of BlazePose: make test-real fetches them")
    pytest.importorskip("ai_edge_litert")
    return folder


@pytest.fixture(scope="module")
def estimator(pose: Path) -> BlazePose:
    found = estimator_of(pose)
    assert isinstance(found, BlazePose)
    return found


def cameraman(right: int = 0) -> np.ndarray:
    """A man with a camera, who looks to the right; the frame moves to the left by some pixels."""
    image = np.repeat(data.camera()[:, :, None], 3, axis=2)
    return np.ascontiguousarray(np.pad(image, ((0, 0), (200, 200), (0, 0)), "edge")[:, 200 - right : 712 - right])


@pytest.mark.real
def test_a_person_is_found_with_the_sides_where_they_are(estimator):
    estimator.start()
    (person,) = estimator(data.astronaut())
    names = estimator.joints.joints
    at = {name: person[names.index(name)] for name in ("nose", "left_shoulder", "right_shoulder", "left_ankle")}
    np.testing.assert_allclose(at["nose"][:2], [222, 128], atol=12)
    np.testing.assert_allclose(at["left_shoulder"][:2], [300, 250], atol=25)  # of somebody who faces the camera
    np.testing.assert_allclose(at["right_shoulder"][:2], [97, 243], atol=25)
    assert at["nose"][2] > 0.9
    assert at["left_ankle"][2] == 0  # below the frame


@pytest.mark.real
def test_nobody_is_found_where_nobody_is(estimator):
    for image in (data.coffee(), data.rocket(), np.zeros((50, 40, 3), np.uint8)):
        estimator.start()
        assert estimator(np.ascontiguousarray(image)).shape == (0, 33, 3)


@pytest.mark.real
def test_a_small_person_is_found(estimator):
    frame = np.full((480, 640, 3), 150, np.uint8)
    frame[200:300, 300:400] = np.asarray(Image.fromarray(data.astronaut()).resize((100, 100)))
    estimator.start()
    assert estimator.search(Picture(frame), thorough=False) == []
    (person,) = estimator(frame)
    np.testing.assert_allclose(person[0, :2], [300 + 222 * 100 / 512, 200 + 128 * 100 / 512], atol=6)


@pytest.mark.real
def test_joints_move_with_the_frame(estimator):
    estimator.start()
    path = [round(100 * np.sin(time / 8)) for time in range(50)]
    found = [estimator(cameraman(right)) for right in path]
    assert [len(people) for people in found] == [1] * 50
    points = np.concatenate(found)
    sure = points[:, :, 2].min(0) > 0.5
    assert sure.sum() >= 10
    still = points[:, sure, :2] - np.array([(right, 0) for right in path])[:, None]
    error = np.linalg.norm(still - np.median(still, axis=0), axis=-1)
    assert np.median(error) < 4  # pixels, of a body of about 300
    estimator.start()
    np.testing.assert_array_equal(estimator(cameraman(path[0])), found[0])  # nothing of the last video is left


@pytest.mark.real
def test_somebody_who_comes_later_is_found(estimator):
    estimator.start()
    height, width = 512, 1024
    for time in range(14):
        image = np.full((height, width, 3), 120, np.uint8)
        image[:, :512] = cameraman()
        if time >= 2:
            image[:, 512:] = data.astronaut()
        people = estimator(image)
    assert sorted(people[:, 0, 0] > 512) == [False, True]


@pytest.mark.real
def test_the_command_reads_a_video_of_a_real_person(pose, tmp_path, capsys):
    animate(tmp_path / "man.webp", [cameraman(4 * time) for time in range(20)], 40)
    words = [f"video={tmp_path}/man.webp", f"out={tmp_path}/man.pkl", f"pose={pose}/pose_landmark_lite.tflite"]
    assert main(["skeletons", *words, "vis=1"]) == 0
    told = capsys.readouterr()
    assert "man: person 1, 20 frames at 25 a second, 0.8 s" in told.out
    assert "XNNPACK" not in told.err
    read = read_annotations(tmp_path / "man.pkl")
    assert read.source is not None
    assert (read.names, read.source.name, read[0].points.shape[:2]) == (["man"], "mediapipe33", (1, 20))
    (overlay,) = (tmp_path / "man_vis").glob("man.overlay.*")
    assert overlay.stat().st_size > 1000
    with Image.open(tmp_path / "man_vis/man.png") as strip:
        assert strip.width > 1000


@pytest.mark.real
def test_a_video_of_a_real_person_is_mirrored_back(estimator, tmp_path):
    frames = [np.ascontiguousarray(data.astronaut()[:, ::-1]) for _ in range(1)]
    shifted = [np.roll(frames[0], shift, axis=1) for shift in range(0, 20, 2)]
    made = skeletons_of(animate(tmp_path / "selfie.webp", shifted), estimator, mirrored=True)
    left, right = (made.joints.joints.index(f"{side}_shoulder") for side in ("left", "right"))
    points = made.annotation.points[0]
    assert (points[:, left, 0] > points[:, right, 0] + 100).all()


@pytest.mark.real
def test_files_that_are_not_the_networks_are_refused(pose, tmp_path):
    for name in ("pose_landmark_full.tflite", "pose_solution_packed_assets.data"):
        (tmp_path / name).write_bytes((pose / "pose_landmark_lite.tflite").read_bytes())
    with pytest.raises(SightwordError, match="it is not the network that its name says"):
        estimator_of(tmp_path)
    (tmp_path / "pose_solution_packed_assets.data").write_bytes(b"x" * 100)
    with pytest.raises(SightwordError, match="is not a .tflite file"):
        estimator_of(tmp_path)
    cut = (pose / "pose_solution_packed_assets.data").read_bytes()[:50_000]
    (tmp_path / "pose_solution_packed_assets.data").write_bytes(cut)
    with pytest.raises(SightwordError, match="cannot be run by ai-edge-litert"):
        estimator_of(tmp_path)
