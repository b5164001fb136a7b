"""Recordings of other tools become scenes: each layout is written from one rendered room and read back."""

import importlib.util
import json
import shutil

import capture_layouts as layouts
import numpy as np
import pytest
from PIL import Image

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.systems.points.capture.frame import Options
from sightword.systems.points.capture.write import REPORT, import_capture
from sightword.systems.points.scannet.check import check_scannet
from sightword.systems.points.scannet.reader import find_scenes, read_color, read_depth, read_scene

NONE = Options()


def installed(name):
    return importlib.util.find_spec(name) is not None


def lz4(raw):
    import lz4.block

    return lz4.block.compress(raw, store_size=False)


def lzfse(raw):
    import lzfse as codec

    return codec.compress(raw)


needs_cv2 = pytest.mark.skipif(not installed("cv2"), reason="needs OpenCV")
needs_lz4 = pytest.mark.skipif(not installed("lz4"), reason="needs lz4")
needs_lzfse = pytest.mark.skipif(not installed("lzfse"), reason="needs lzfse")


@pytest.fixture(scope="module")
def frames():
    return layouts.rendered()


@pytest.fixture(scope="module")
def kinect():
    """The room by a camera of 640 x 480 with the focal length of published sets, half as large."""
    return layouts.rendered(4, (120, 160), (120, 160), focal=525 / 480)


def imported(source, out, name="", most=200, options=NONE):
    done = import_capture(source, out, name, most, options)
    return done, read_scene(out)


def same_poses(scene, frames, places=1e-6):
    assert len(scene.frames) == len(frames)
    for got, frame in zip(scene.frames, frames, strict=True):
        np.testing.assert_allclose(got.pose.numpy(), frame.pose, atol=places)


def typed(K):
    return Options(tuple(layouts.four_of(K)))


CASES = {
    "tum": (layouts.tum, "tum", True),
    "icl": (layouts.icl, "icl", True),
    "redwood": (layouts.redwood, "open3d", False),
    "open3d": (layouts.open3d, "open3d", False),
    "replica": (layouts.replica, "replica", False),
    "nerfstudio": (layouts.nerfstudio, "nerfstudio", False),
    "polycam": (layouts.polycam, "polycam", False),
    "arkitscenes": (layouts.arkitscenes, "arkitscenes", False),
    "3dscanner": (layouts.scanner3d, "3dscanner", False),
    "record3d": (lambda folder, frames: layouts.record3d(folder / "a.r3d", frames), "record3d", False),
    "sens": (lambda folder, frames: layouts.sens(folder / "scene0000_00.sens", frames), "sens", False),
    "sens, raw depth": (lambda folder, frames: layouts.sens(folder / "scene0000_00.sens", frames, 0), "sens", False),
    "scannetpp": (layouts.scannetpp, "scannetpp", False),
    "scannetpp, deflate": (lambda folder, frames: layouts.scannetpp(folder, frames, "deflate"), "scannetpp", False),
    "scannetpp, lz4": (lambda folder, frames: layouts.scannetpp(folder, frames, "lz4", lz4), "scannetpp", False),
    "stray": (lambda folder, frames: layouts.stray(folder, frames, layouts.write_video), "stray", False),
    "record3d, lzfse": (lambda folder, frames: layouts.record3d(folder / "a.r3d", frames, lzfse), "record3d", False),
}
MARKS = {"stray": needs_cv2, "scannetpp, lz4": needs_lz4, "record3d, lzfse": needs_lzfse}


@pytest.mark.parametrize("case", [pytest.param(name, marks=MARKS.get(name, ())) for name in CASES])
def test_a_recording_is_recognised_and_read_back_as_it_was_written(case, frames, tmp_path):
    write, name, by_hand = CASES[case]
    source = tmp_path / "recording"
    write(source, frames)
    file = source / "a.r3d" if name == "record3d" else source
    done, scene = imported(file, tmp_path / "scene", options=typed(frames[0].K) if by_hand else NONE)
    assert done.format == name
    assert (done.frames, done.left_out) == (len(frames), [])
    wanted = frames
    if name == "icl":  # fy was typed above 0: the poses are those of the file
        mirror = np.diag((1.0, -1.0, 1.0, 1.0))
        wanted = [frame._replace(pose=mirror @ frame.pose @ mirror) for frame in frames]
    same_poses(scene, wanted)
    for got, frame in zip(scene.frames, frames, strict=True):
        depth = read_depth(got).numpy()
        of_depth = frame.K_depth
        if name in ("tum", "icl", "open3d", "replica"):
            expected, of_depth = layouts.sized(frame), frame.K
        elif name == "scannetpp":
            expected = np.kron(frame.depth, np.ones((4, 4)))
            of_depth = layouts.room.intrinsics((192, 256))
        else:
            expected = frame.depth
        sure = slice(None) if name != "polycam" else slice(4, None)
        np.testing.assert_allclose(depth[:, sure], expected[:, sure], atol=0.00061)
        np.testing.assert_allclose(got.K_depth, of_depth, atol=1e-5)
        if name != "arkitscenes":
            np.testing.assert_allclose(got.K_color, frame.K, atol=1e-5)
            difference = np.asarray(read_color(got)).astype(int) - frame.color
            assert np.abs(difference).mean() < (8 if name == "stray" else 1e-9)


def test_a_sequence_of_7_scenes_has_its_two_cameras_apart(tmp_path, frames):
    layouts.seven_scenes(tmp_path / "seq-01", frames)
    done, scene = imported(tmp_path / "seq-01", tmp_path / "scene")
    assert done.format == "7scenes"
    same_poses(scene, frames)
    place = scene.frames[0].place.numpy()
    np.testing.assert_allclose(place[:3, 3], (0.025, 0, 0), atol=1e-9)
    assert scene.frames[0].K_color[0, 0] * 480 / 96 == pytest.approx(525)


def test_the_negative_focal_length_of_icl_is_turned_over_with_its_poses(tmp_path, kinect):
    layouts.icl(tmp_path / "living", kinect)
    fx, fy, cx, cy = layouts.four_of(kinect[0].K)
    _, scene = imported(tmp_path / "living", tmp_path / "scene", options=Options((fx, -fy, cx, cy)))
    same_poses(scene, kinect)


# --------------------------------------------------------------------------------------------------------- TUM


@pytest.mark.parametrize(("number", "focal", "k1"), [(1, 517.3, 0.2624), (2, 520.9, 0.2312), (3, 535.4, 0.0)])
def test_intrinsics_of_tum_are_known_by_the_folder(tmp_path, kinect, number, focal, k1):
    source = tmp_path / f"rgbd_dataset_freiburg{number}_desk"
    layouts.tum(source, kinect)
    _, scene = imported(source, tmp_path / "scene")
    assert scene.frames[0].K_color[0, 0] == pytest.approx(focal / 4)
    assert scene.frames[0].distortion[0] == pytest.approx(k1)


def test_intrinsics_of_an_unknown_tum_recording_are_asked_for(tmp_path, kinect):
    layouts.tum(tmp_path / "mine", kinect)
    with pytest.raises(SightwordError, match=r"Pass intrinsics=fx,fy,cx,cy"):
        imported(tmp_path / "mine", tmp_path / "scene")
    assert not (tmp_path / "scene").exists()


def test_a_frame_of_tum_without_a_pose_in_time_is_left_out(tmp_path, kinect):
    layouts.tum(tmp_path / "fr3", kinect)
    lines = (tmp_path / "fr3" / "groundtruth.txt").read_text().splitlines()
    (tmp_path / "fr3" / "groundtruth.txt").write_text("\n".join(lines[:-1]) + "\n")
    done, _ = imported(tmp_path / "fr3", tmp_path / "scene")
    assert done.frames == 3
    assert "no pose within 0.02 s" in done.left_out[0]


def test_a_list_that_leads_out_of_the_recording_is_refused(tmp_path, kinect):
    layouts.tum(tmp_path / "fr3", kinect[:1])
    file = tmp_path / "fr3" / "rgb.txt"
    file.write_text(file.read_text().replace("rgb/", "../../rgb/"))
    with pytest.raises(SightwordError, match="leads out of"):
        imported(tmp_path / "fr3", tmp_path / "scene")


# --------------------------------------------------------------------------------------------------------- COLMAP


@pytest.mark.parametrize("binary", [False, True])
def test_a_model_of_colmap_becomes_a_scene_of_its_points(tmp_path, frames, binary):
    layouts.colmap(tmp_path / "project", frames, binary, scale=4.0)
    done, scene = imported(tmp_path / "project", tmp_path / "scene", options=Options(scale=4.0))
    assert (done.format, done.frames) == ("colmap", 6)
    same_poses(scene, frames)
    np.testing.assert_allclose(scene.frames[0].K_color, frames[0].K, atol=1e-9)
    for got, frame in zip(scene.frames, frames, strict=True):
        depth = read_depth(got).numpy()
        known = depth > 0
        assert 0.003 < known.mean() < 0.5
        near = np.asarray(Image.fromarray(frame.depth.astype(np.float32)).resize(depth.shape[::-1], 0))
        assert (np.abs(depth - near)[known] < 0.02 * near[known]).mean() > 0.75  # the rest is beside edges
    assert (tmp_path / "scene" / "points.ply").is_file()


def test_a_model_without_scale_gets_one_and_says_so(tmp_path, frames):
    layouts.colmap(tmp_path / "project", frames, scale=30.0)
    done, scene = imported(tmp_path / "project", tmp_path / "scene")
    assert "the source has no scale" in done.assumed["scale"]
    depths = np.concatenate([read_depth(frame).numpy().ravel() for frame in scene.frames])
    assert np.median(depths[depths > 0]) == pytest.approx(2.0, rel=0.1)


def test_of_several_models_the_largest_is_taken(tmp_path, frames):
    layouts.colmap(tmp_path / "project", frames[:2])
    shutil.move(tmp_path / "project" / "sparse" / "0", tmp_path / "small")
    layouts.colmap(tmp_path / "project", frames)
    shutil.move(tmp_path / "project" / "sparse" / "0", tmp_path / "project" / "sparse" / "1")
    shutil.move(tmp_path / "small", tmp_path / "project" / "sparse" / "0")
    done, _ = imported(tmp_path / "project", tmp_path / "scene")
    assert done.frames == 6
    assert "the largest of 2" in done.assumed["model"]


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_a_model_that_is_cut_off_is_named(tmp_path, frames, name):
    layouts.colmap(tmp_path / "project", frames, binary=True)
    file = tmp_path / "project" / "sparse" / "0" / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(SightwordError, match=f"{name}.bin"):
        imported(tmp_path / "project", tmp_path / "scene")


# ----------------------------------------------------------------------------------------------------- other layouts


def test_masks_of_nerfstudio_take_depth_away(tmp_path, frames):
    layouts.nerfstudio(tmp_path / "data", frames, masked=True)
    _, scene = imported(tmp_path / "data", tmp_path / "scene")
    depth = read_depth(scene.frames[0]).numpy()
    assert not depth[:24].any()
    assert (depth[24:] > 0).all()


def test_confidence_of_polycam_takes_depth_away(tmp_path, frames):
    layouts.polycam(tmp_path / "raw", frames, corrected=False)
    _, scene = imported(tmp_path / "raw", tmp_path / "scene")
    depth = read_depth(scene.frames[0]).numpy()
    assert not depth[:, :4].any()
    assert (depth[:, 4:] > 0).all()


def test_frames_keep_the_intrinsics_of_their_own(tmp_path, frames):
    changed = [frame._replace(K=frame.K @ np.diag([1 + 0.01 * at] * 2 + [1])) for at, frame in enumerate(frames)]
    layouts.nerfstudio(tmp_path / "data", changed, per_frame=True)
    _, scene = imported(tmp_path / "data", tmp_path / "scene")
    for got, frame in zip(scene.frames, changed, strict=True):
        np.testing.assert_allclose(got.K_color, frame.K, atol=1e-9)
        assert got.K_depth[0, 0] == pytest.approx(frame.K[0, 0] / 2)


def test_a_data_set_without_depth_says_what_to_import_instead(tmp_path, frames):
    layouts.nerfstudio(tmp_path / "data", frames)
    file = tmp_path / "data" / "transforms.json"
    top = json.loads(file.read_text())
    for frame in top["frames"]:
        del frame["depth_file_path"]
    file.write_text(json.dumps(top))
    with pytest.raises(SightwordError, match="format=colmap"):
        imported(tmp_path / "data", tmp_path / "scene")


def test_a_sens_file_that_is_cut_off_gives_the_frames_before(tmp_path, frames):
    layouts.sens(tmp_path / "a.sens", frames)
    raw = (tmp_path / "a.sens").read_bytes()
    (tmp_path / "a.sens").write_bytes(raw[: int(0.7 * len(raw))])
    done, _ = imported(tmp_path / "a.sens", tmp_path / "scene")
    assert 1 <= done.frames < 6
    assert "cut off" in done.left_out[0]
    assert done.frames + len(done.left_out) == len(frames)


def test_a_sens_file_of_another_version_is_refused(tmp_path):
    (tmp_path / "a.sens").write_bytes(b"\x03\0\0\0" + bytes(500))
    with pytest.raises(SightwordError, match="version 3"):
        imported(tmp_path / "a.sens", tmp_path / "scene")


def test_the_mesh_and_labels_beside_a_sens_file_come_along(tmp_path, frames):
    layouts.sens(tmp_path / "in" / "scene0000_00.sens", frames)
    for end in (".txt", "_vh_clean_2.ply", "_vh_clean_2.labels.ply"):
        (tmp_path / "in" / f"scene0000_00{end}").write_text("content")
    imported(tmp_path / "in", tmp_path / "hall")
    assert (tmp_path / "hall" / "hall_vh_clean_2.labels.ply").read_text() == "content"
    assert (tmp_path / "hall" / "hall.txt").is_file()


def test_a_damaged_frame_is_left_out_and_named(tmp_path, frames):
    layouts.replica(tmp_path / "office0", frames)
    (tmp_path / "office0" / "results" / "depth000002.png").write_bytes(b"nothing")
    (tmp_path / "office0" / "results" / "frame000003.jpg").write_bytes(b"")
    done, scene = imported(tmp_path / "office0", tmp_path / "scene")
    assert [frame.index for frame in scene.frames] == [0, 1, 4, 5]
    assert [line.split(":")[0] for line in done.left_out] == ["frame000002.jpg", "frame000003.jpg"]


def _without_poses(name, frames, source):
    """Write a recording whose even frames have lost their poses."""
    if name == "3dscanner":
        layouts.scanner3d(source, frames)
        for number in range(0, len(frames), 2):
            (source / f"frame_{number:05d}.json").unlink()
        return
    layouts.nerfstudio(source, frames)
    top = json.loads((source / "transforms.json").read_text())
    (source / "transforms.json").write_text(json.dumps({**top, "frames": top["frames"][1::2]}))


@pytest.mark.parametrize("name", ["3dscanner", "nerfstudio"])
def test_images_that_have_lost_their_poses_are_counted(tmp_path, frames, name):
    _without_poses(name, frames, tmp_path / "in")
    done, _ = imported(tmp_path / "in", tmp_path / "scene")
    assert (done.format, done.frames, len(done.left_out)) == (name, 3, 3)
    assert done.left_out[0].startswith("frame_00000")


def test_a_sens_file_beside_an_unknown_folder_is_not_offered(tmp_path, frames):
    layouts.sens(tmp_path / "a.sens", frames)
    (tmp_path / "in").mkdir()
    with pytest.raises(SightwordError, match="no files of a known layout"):
        imported(tmp_path / "in", tmp_path / "scene")


@needs_cv2
def test_frames_of_stray_scanner_that_have_lost_their_poses_are_counted(tmp_path, frames):
    layouts.stray(tmp_path / "in", frames, layouts.write_video)
    rows = (tmp_path / "in" / "odometry.csv").read_text().splitlines()
    (tmp_path / "in" / "odometry.csv").write_text("\n".join(rows[:-2]))
    done, _ = imported(tmp_path / "in", tmp_path / "scene")
    assert done.frames == len(frames) - 2
    assert done.left_out[0] == "frame 4: odometry.csv has no pose of it"


def test_a_photo_with_a_quarter_turn_in_exif_is_turned_as_its_intrinsics_are(tmp_path, frames):
    upright = frames[:1]
    layouts.nerfstudio(tmp_path / "data", upright)
    file = tmp_path / "data" / "images" / "frame_00000.jpg"
    lying = Image.fromarray(upright[0].color).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(file, quality=95, exif=exif)
    _, scene = imported(tmp_path / "data", tmp_path / "scene")
    shown = np.asarray(read_color(scene.frames[0])).astype(int)
    assert np.abs(shown - upright[0].color).mean() < 5


def test_the_image_of_a_fisheye_lens_is_rectified(tmp_path, frames):
    layouts.nerfstudio(tmp_path / "data", frames[:1])
    file = tmp_path / "data" / "transforms.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"camera_model": "OPENCV_FISHEYE", "k1": 0.05}))
    imported(tmp_path / "data", tmp_path / "scene")
    report = json.loads((tmp_path / "scene" / REPORT).read_text())
    assert "rectified" in report["notes"][0]
    assert not (tmp_path / "scene" / "intrinsic" / "distortion_color.txt").exists()


# -------------------------------------------------------------------------------------------------- what is written


def test_frames_are_chosen_evenly_and_what_was_assumed_is_kept(tmp_path, frames):
    layouts.replica(tmp_path / "office0", frames)
    done, scene = imported(tmp_path / "office0", tmp_path / "scene", most=3)
    assert [frame.index for frame in scene.frames] == [0, 2, 5]
    report = json.loads((tmp_path / "scene" / REPORT).read_text())
    assert report["format"] == "replica"
    assert report["assumed"] == done.assumed
    assert report["frames"][1] == {"index": 2, "source": "frame000002.jpg"}


def test_colour_files_are_copied_as_they_are(tmp_path, frames):
    layouts.replica(tmp_path / "office0", frames)
    imported(tmp_path / "office0", tmp_path / "scene")
    assert (tmp_path / "scene" / "color" / "1.jpg").read_bytes() == frames[1].jpeg


@pytest.mark.parametrize("name", ["notes.txt", REPORT])
def test_a_folder_with_files_is_not_written_to(tmp_path, frames, name):
    layouts.replica(tmp_path / "office0", frames)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / name).write_text("mine")
    with pytest.raises(SightwordError, match="Pass another folder"):
        imported(tmp_path / "office0", tmp_path / "scene")
    assert (tmp_path / "scene" / name).read_text() == "mine"


def test_nothing_is_left_of_an_import_that_fails(tmp_path, frames):
    layouts.replica(tmp_path / "office0", frames)
    for file in (tmp_path / "office0" / "results").glob("depth*"):
        file.write_bytes(b"")
    with pytest.raises(SightwordError, match="no frame can be used"):
        imported(tmp_path / "office0", tmp_path / "scene")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["office0"]


# ------------------------------------------------------------------------------------------------------- recognising


def test_two_layouts_in_one_folder_are_asked_about(tmp_path, frames):
    layouts.nerfstudio(tmp_path / "data", frames)
    layouts.colmap(tmp_path / "data", frames)
    with pytest.raises(SightwordError, match="format=nerfstudio or format=colmap"):
        imported(tmp_path / "data", tmp_path / "scene")
    assert imported(tmp_path / "data", tmp_path / "scene", "nerfstudio")[0].frames == 6


def test_a_folder_that_is_no_recording_is_refused_with_what_to_do(tmp_path, frames):
    (tmp_path / "set" / "empty").mkdir(parents=True)
    with pytest.raises(SightwordError, match="Pass format="):
        imported(tmp_path / "set", tmp_path / "scene")
    layouts.seven_scenes(tmp_path / "set" / "seq-01", frames)
    with pytest.raises(SightwordError, match="pass src=.*seq-01"):
        imported(tmp_path / "set", tmp_path / "scene")
    imported(tmp_path / "set" / "seq-01", tmp_path / "scene")
    with pytest.raises(SightwordError, match="already"):
        imported(tmp_path / "scene", tmp_path / "other")
    with pytest.raises(SightwordError, match="does not exist"):
        imported(tmp_path / "nowhere", tmp_path / "other")
    with pytest.raises(SightwordError, match="is a 7-Scenes sequence: pass src=.*seq-01"):
        (tmp_path / "set" / "seq-01" / "depth").mkdir()
        imported(tmp_path / "set" / "seq-01" / "depth", tmp_path / "other")
    (tmp_path / "scan.zip").write_bytes(b"PK")
    with pytest.raises(SightwordError, match="Unpack it"):
        imported(tmp_path / "scan.zip", tmp_path / "other")
    with pytest.raises(SightwordError, match="unknown"):
        imported(tmp_path / "scene", tmp_path / "other", "ply")


@pytest.mark.parametrize(
    ("case", "title"), [("tum", "a TUM"), ("redwood", "an Open3D"), ("polycam", "a raw export of Polycam")]
)
def test_a_command_that_meets_a_recording_says_how_to_import_it(tmp_path, frames, case, title):
    CASES[case][0](tmp_path / "mine", frames)
    with pytest.raises(SightwordError, match=f"mine is {title}.*sightword import src=.*mine out=mine_imported"):
        find_scenes(tmp_path / "mine")


# -------------------------------------------------------------------------------------------------------- the doctor


@pytest.fixture(scope="module")
def many():
    return layouts.rendered(14, (48, 64), (48, 64))


def test_poses_in_other_axes_than_the_format_says_are_named_by_the_doctor(tmp_path, many):
    layouts.polycam(tmp_path / "raw", [frame._replace(pose=frame.pose @ layouts.GL) for frame in many])
    imported(tmp_path / "raw", tmp_path / "scene")
    assert "axes=opengl" in str(check_scannet(str(tmp_path / "scene")).errors[0])


def test_frames_of_very_different_cameras_are_not_judged_by_one(tmp_path, many):
    zoomed = [frame._replace(K=np.diag([1 + at / 40] * 2 + [1]) @ frame.K) for at, frame in enumerate(many)]
    layouts.nerfstudio(tmp_path / "data", zoomed, per_frame=True)
    imported(tmp_path / "data", tmp_path / "scene")
    assert "focal lengths of its frames" in str(check_scannet(str(tmp_path / "scene")))


# -------------------------------------------------------------------------------------------------- the command line


def test_the_command_imports_and_names_what_comes_next(tmp_path, many, capsys):
    layouts.replica(tmp_path / "office0", many)
    assert main(["import", f"src={tmp_path / 'office0'}", f"out={tmp_path / 'scene'}"]) == 0
    said = capsys.readouterr().out
    assert "is a Replica sequence of NICE-SLAM; taken for granted" in said
    assert "6553.5 units per metre" in said
    assert f"sightword ask scene={tmp_path / 'scene'}" in said


def test_the_command_ends_with_1_where_the_doctor_finds_an_error(tmp_path, many, capsys):
    layouts.replica(tmp_path / "office0", many)
    assert main(["import", f"src={tmp_path / 'office0'}", f"out={tmp_path / 'scene'}", "depth_scale=1000"]) == 1
    said = capsys.readouterr()
    assert "Pass depth_scale=" in said.out
    assert "is written, but does not fit together" in said.err
