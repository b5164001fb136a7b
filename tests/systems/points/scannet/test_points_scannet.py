import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.miniature import room
from sightword.systems.points.lift.geometry import back_project, project
from sightword.systems.points.scannet.check import check_scannet
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.label import read_classes
from sightword.systems.points.scannet.reader import (
    find_scenes,
    read_color,
    read_depth,
    read_matrix,
    read_scene,
    read_scenes_file,
    scene_folder,
)

NAME = "scene0000_00"
REAL = Path(os.environ.get("SIGHTWORD_RGBD", "?"))  # a scene's folder of posed frames


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A room in six frames."""
    root = tmp_path_factory.mktemp("rooms")
    room.write_scene(root, 0, frames=6, color=(72, 96), depth=(48, 64), voxel=0.2)
    room.write_classes(root / "3D")
    return root


@pytest.fixture
def root(written, tmp_path):
    """A copy that may be spoiled."""
    return shutil.copytree(written, tmp_path / "set")


def _said(call, *args, **options):
    """The message of a ValueError, which is one line."""
    with pytest.raises(ValueError) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --------------------------------------------------------------------------------------------------------- reading


def test_frames_come_with_their_own_intrinsics_and_true_poses(written):
    scene = read_scene(written, NAME)
    studio = room.furnish(0)
    assert [frame.index for frame in scene.frames] == [0, 20, 40, 60, 80, 100]
    assert scene.skipped == []
    for frame, pose in zip(scene.frames, room.orbit(studio, 6), strict=True):
        assert np.abs(frame.pose.numpy() - pose).max() < 1e-6
        rotation = frame.pose[:3, :3]
        assert (rotation @ rotation.T - torch.eye(3)).abs().max() < 1e-12  # six digits of text alone leave 1e-6
        assert np.abs(frame.K_color.numpy() - room.intrinsics((72, 96))).max() < 1e-6
        assert np.abs(frame.K_depth.numpy() - room.intrinsics((48, 64))).max() < 1e-6
        assert read_color(frame).size == (96, 72)
        assert read_depth(frame).shape == (48, 64)
    exact = room.view(studio, room.Camera(room.intrinsics((48, 64)), room.orbit(studio, 6)[2], (48, 64))).depth
    assert np.abs(read_depth(scene.frames[2]).numpy() - exact).max() < 6e-4


def test_so_many_frames_are_spread_evenly_and_named_ones_are_those(written):
    def indices(frames):
        return [frame.index for frame in read_scene(written, NAME, frames).frames]

    assert indices(1) == [0]
    assert indices(2) == [0, 100]
    assert indices(3) == [0, 40, 100]
    assert indices(99) == [0, 20, 40, 60, 80, 100]
    assert indices([60, 20]) == [20, 60]
    assert "there is no frame 7" in _said(read_scene, written, NAME, [7])
    assert "frames=0 is too small" in _said(read_scene, written, NAME, 0)


def test_every_layout_gives_the_same_frames(written, tmp_path):
    usual = read_scene(written, NAME)
    folder = written / "2D" / NAME
    shutil.copytree(folder, tmp_path / "plain" / NAME)
    shutil.copytree(folder, tmp_path / "scans" / "scans" / NAME)
    flat = tmp_path / "flat" / "posed_images" / NAME
    flat.mkdir(parents=True)
    for frame in usual.frames:
        shutil.copy(frame.color, flat / f"{frame.index:05d}.jpg")
        shutil.copy(frame.depth, flat / f"{frame.index:05d}.png")
        shutil.copy(folder / "pose" / f"{frame.index}.txt", flat / f"{frame.index:05d}.txt")
    shutil.copy(folder / "intrinsic" / "intrinsic_color.txt", flat / "intrinsic.txt")
    for root in (tmp_path / "plain", tmp_path / "scans", tmp_path / "flat", tmp_path / "plain" / NAME):
        assert find_scenes(root) == [NAME]
        scene = read_scene(root, NAME)
        for one, other in zip(scene.frames, usual.frames, strict=True):
            assert one.index == other.index
            assert torch.equal(one.pose, other.pose)
            assert (one.K_color - other.K_color).abs().max() < 1e-5
            assert (one.K_depth - other.K_depth).abs().max() < 1e-5
    assert read_scene(tmp_path / "plain" / NAME).name == NAME


def test_intrinsics_of_another_size_are_told_by_their_middle(root):
    """scannet200-mv's colour frames are resized, its intrinsic_color is not: the depth's, resized, are right."""
    file = root / "2D" / NAME / "intrinsic" / "intrinsic_color.txt"
    np.savetxt(file, np.diag((27.0, 27, 1, 1)) @ np.diag((1.0, 1, 1, 1)) + _middle(647.8, 483.8))
    assert np.abs(read_scene(root, NAME).frames[0].K_color.numpy() - room.intrinsics((72, 96))).max() < 1e-5


def _middle(cx, cy):
    matrix = np.zeros((4, 4))
    matrix[0, 2], matrix[1, 2] = cx, cy
    return matrix


def test_one_of_the_two_intrinsics_is_enough_and_scannets_own_text_will_do(root):
    folder = root / "2D" / NAME
    usual = read_scene(root, NAME).frames[0]
    (folder / "intrinsic" / "intrinsic_depth.txt").unlink()
    found = read_scene(root, NAME).frames[0]
    assert (found.K_depth - usual.K_depth).abs().max() < 1e-5
    shutil.rmtree(folder / "intrinsic")
    assert "has no intrinsics" in _said(read_scene, root, NAME)
    K = room.intrinsics((48, 64))
    lines = {"axisAlignment": "1 0 0 0", "fx_depth": K[0, 0], "fy_depth": K[1, 1], "mx_depth": K[0, 2]}
    text = "".join(f"{key} = {value}\n" for key, value in {**lines, "my_depth": K[1, 2]}.items())
    (root / "3D" / NAME / f"{NAME}.txt").write_text(text)
    found = read_scene(root, NAME).frames[0]
    assert (found.K_depth - usual.K_depth).abs().max() < 1e-5
    assert (found.K_color - usual.K_color).abs().max() < 1e-5


def test_classes_are_read_from_scannets_table(written):
    classes = read_classes(written / "3D")
    assert classes[1 + room.WORDS.index("chair")] == "chair"
    assert "beach" not in classes.values()
    assert "names the classes" in _said(read_classes, written / "2D" / NAME / "color")


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_lost_pose_and_a_missing_file_are_left_out_and_reported(root):
    folder = root / "2D" / NAME
    (folder / "pose" / "20.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (folder / "depth" / "60.png").unlink()
    (folder / "pose" / "80.txt").write_text("hello")
    scene = read_scene(root, NAME)
    assert [frame.index for frame in scene.frames] == [0, 40, 100]
    assert len(scene.skipped) == 3
    assert "frame 20" in scene.skipped[0]
    assert "not finite" in scene.skipped[0]
    assert scene.skipped[1] == "frame 60: its depth is missing"
    assert "80.txt does not contain a matrix" in scene.skipped[2]
    assert "frame 20" in _said(read_scene, root, NAME, [0, 20])
    for file in (folder / "pose").glob("*"):
        file.write_text("-inf -inf -inf -inf\n" * 4)
    assert "none of 6 frames can be used" in _said(read_scene, root, NAME)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pose: pose[:3], "expected 4 x 4"),
        (lambda pose: pose * [[-1], [1], [1], [1]], "mirrors"),
        (lambda pose: pose * [[2], [2], [2], [1]], "scales"),
        (lambda pose: pose.T, "expected 0 0 0 1"),
    ],
)
def test_a_pose_that_is_no_motion_is_not_used(root, spoil, said):
    file = root / "2D" / NAME / "pose" / "0.txt"
    np.savetxt(file, spoil(np.loadtxt(file)))
    assert said in read_scene(root, NAME).skipped[0]


def test_depth_must_be_16_bit_millimetres(root, tmp_path):
    path = tmp_path / "0.png"
    metres = read_depth(read_scene(root, NAME).frames[0]).numpy()
    Image.fromarray(np.rint(metres).astype(np.uint16)).save(path)
    assert "Depth is in millimetres" in _said(read_depth, path)
    Image.fromarray((metres * 50).astype(np.uint8)).save(path)
    assert "one channel of 16 bits" in _said(read_depth, path)
    Image.fromarray(metres, mode="F").save(tmp_path / "0.tif")
    assert "one channel of 16 bits" in _said(read_depth, tmp_path / "0.tif")
    path.write_bytes(b"")
    assert "empty file" in _said(read_depth, path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    assert "not readable" in _said(read_depth, path)
    assert "no such file" in _said(read_depth, tmp_path / "no.png")
    Image.fromarray(np.array([[0, 1500], [65535, 500]], np.uint16)).save(path)
    assert read_depth(path).tolist() == [[0, 1.5], [0, 0.5]]


def test_intrinsics_that_cannot_be_right_are_refused(root):
    folder = root / "2D" / NAME / "intrinsic"
    (folder / "intrinsic_color.txt").unlink()
    np.savetxt(folder / "intrinsic_depth.txt", np.array([(577.9, 0, 319.5), (0, 577.9, 239.5), (0, 0, 1)]))
    assert "(319.5, 239.5), and the depth frames are 64 x 48" in _said(read_scene, root, NAME)
    np.savetxt(folder / "intrinsic_depth.txt", np.eye(3) * 0)
    assert "not a pinhole camera" in _said(read_scene, root, NAME)
    (folder / "intrinsic_depth.txt").write_text("1 2\n3\n")
    assert "does not contain a matrix" in _said(read_scene, root, NAME)


def test_what_is_not_there_is_named(root, tmp_path):
    assert "does not exist" in _said(find_scenes, tmp_path / "no")
    assert "is a file" in _said(find_scenes, root / "3D" / "scannetv2-labels.combined.tsv")
    assert "contains no scene" in _said(find_scenes, root / "3D")
    assert "scene scene0009_00 is not under" in _said(read_scene, root, "scene0009_00")
    assert NAME in _said(read_scene, root, "scene0009_00")
    assert "Name one" in _said(read_scene, root)
    for hostile in ("../2D", "a/b", "..", "/etc", "x" * 300):
        assert "not the name of a scene" in _said(scene_folder, root, hostile)
    shutil.rmtree(root / "2D" / NAME / "color")
    assert "none of 6 frames can be used" in _said(read_scene, root, NAME)


def test_a_list_of_scenes_is_names_one_a_line(tmp_path):
    file = tmp_path / "scannetv2_train_debug.txt"
    file.write_text("scene0000_00\n\n# these are small\nscene0001_01 # twice\r\nscene0001_01\n")
    assert read_scenes_file(file) == ["scene0000_00", "scene0001_01"]
    file.write_text("\n#\n")
    assert "names no scene" in _said(read_scenes_file, file)
    file.write_text("../../etc\n")
    assert "not the name of a scene" in _said(read_scenes_file, file)
    file.write_bytes(b"\xff\xfe\0")
    assert "is UTF-16, expected UTF-8" in _said(read_scenes_file, file)
    assert "does not exist" in _said(read_scenes_file, tmp_path / "no.txt")
    assert "is a folder, expected a file" in _said(read_scenes_file, tmp_path)


def test_a_matrix_file_of_a_gigabyte_is_not_read(tmp_path):
    with open(tmp_path / "0.txt", "wb") as file:
        file.truncate(1 << 30)
    assert "1,073,741,824 bytes" in _said(read_matrix, tmp_path / "0.txt", (4, 4))


# ----------------------------------------------------------------------------------------------------------- check


def test_a_whole_set_has_no_problem(written):
    report = check_scannet(str(written))
    assert report.errors == []
    assert report.count == 12
    assert any("9 labels" in finding.message for finding in report.findings if finding.level == "note")


def test_the_check_names_what_is_missing_damaged_or_of_another_size(root, tmp_path):
    folder = root / "2D" / NAME
    (folder / "depth" / "20.png").unlink()
    (folder / "color" / "40.jpg").write_bytes(b"not a picture")
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(folder / "depth" / "60.png")
    Image.open(folder / "color" / "80.jpg").resize((50, 40)).save(folder / "color" / "80.jpg")
    (folder / "pose" / "100.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (tmp_path / "list.txt").write_text(f"{NAME}\nscene0009_00\n")
    report = check_scannet(str(root), str(tmp_path / "list.txt"))
    said = problems(report)
    for part in (
        "frame 20: its depth is missing",
        "40.jpg is not readable as an image",
        "frame 60: its depth is 0 everywhere",
        "frame 80: its colour is 50 x 40, the first is 96 x 72",
        "scene scene0009_00 is not under",
    ):
        assert part in said
    assert len(report.errors) == 5
    assert any("1 frames have a pose that is not finite" in finding.message for finding in report.findings)


def problems(report):
    """The messages of a report's errors."""
    return "\n".join(finding.message for finding in report.errors)


def _each_pose(root, change):
    for file in (root / "2D" / NAME / "pose").glob("*.txt"):
        np.savetxt(file, change(np.loadtxt(file)))


def test_the_check_sees_inverted_poses_and_names_the_option(root):
    _each_pose(root, np.linalg.inv)
    report = check_scannet(str(root))
    assert "poses are world-to-camera" in problems(report)
    assert report.errors[0].fix == "Pass poses=w2c"
    assert check_scannet(str(root), convention=Convention(poses="w2c")).errors == []


def test_the_check_sees_poses_in_millimetres(root):
    def scaled(pose):
        pose[:3, 3] *= 1000
        return pose

    _each_pose(root, scaled)
    assert check_scannet(str(root)).errors[0].fix == "Pass pose_scale=0.001"


def test_the_check_sees_depth_in_other_units(root):
    for file in (root / "2D" / NAME / "depth").glob("*.png"):
        depth = np.asarray(Image.open(file)).astype(float)
        Image.fromarray((depth * 10).clip(0, 65000).astype(np.uint16)).save(file)
    assert check_scannet(str(root)).errors[0].fix == "Pass depth_scale=10000"


def test_the_check_refuses_poses_of_another_scene(root):
    rng = np.random.default_rng(0)

    def other(pose):
        pose[:3, :3] = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        pose[:3, :3] *= np.sign(np.linalg.det(pose[:3, :3]))
        return pose

    _each_pose(root, other)
    assert "do not belong to these frames" in problems(check_scannet(str(root)))


def test_the_check_sees_a_damaged_cloud_and_one_that_is_elsewhere(root):
    from sightword.storage.ply import write_ply
    from sightword.systems.points.lift.cloud import read_cloud

    file = root / "3D" / NAME / f"{NAME}_vh_clean_2.ply"
    cloud = read_cloud(file)
    write_ply(file, cloud._replace(xyz=cloud.xyz + 20))
    assert "does not stand where the frames saw surfaces" in problems(check_scannet(str(root)))
    write_ply(file, cloud._replace(xyz=cloud.xyz * 1000))
    assert check_scannet(str(root)).errors[0].fix == "Pass mesh=0.001"
    assert check_scannet(str(root), convention=Convention(mesh="0.001")).errors == []
    file.write_bytes(file.read_bytes()[:500])
    assert "its header states" in problems(check_scannet(str(root)))


def test_two_files_of_one_index_are_left_out_and_named(root):
    folder = root / "2D" / NAME / "color"
    shutil.copy(folder / "20.jpg", folder / "000020.jpg")
    scene = read_scene(root, NAME)
    assert [frame.index for frame in scene.frames] == [0, 40, 60, 80, 100]
    assert scene.skipped == ["frame 20: 000020.jpg and 20.jpg are both its colour; keep one of them"]
    assert "frame 20 is left out: 000020.jpg and 20.jpg" in problems(check_scannet(str(root)))


def test_files_that_are_not_numbered_or_not_images_are_named(root):
    folder = root / "2D" / NAME
    for file in list((folder / "depth").glob("*.png")):
        np.save(file.with_suffix(".npy"), np.zeros((48, 64)))
        file.unlink()
    assert "found depth/0.npy and 5 more" in _said(read_scene, root, NAME)
    for part in ("color", "depth", "pose"):
        for file in list((folder / part).glob("*")):
            file.rename(file.with_name(f"frame_{file.name}"))
    assert "found color/frame_0.jpg and 5 more" in _said(read_scene, root, NAME)


@pytest.mark.parametrize("stored", [True, False])
def test_colour_with_an_exif_quarter_turn_lies_as_depth_does(root, stored):
    """Stored as depth lies, or turned with the tag that turns it back: the shape of the depth tells."""
    file = root / "2D" / NAME / "color" / "0.jpg"
    before = np.asarray(read_color(read_scene(root, NAME, [0]).frames[0])).astype(int)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(file).convert("RGB")
    (image if stored else image.transpose(Image.Transpose.ROTATE_90)).save(file, quality=95, exif=exif)
    frame = read_scene(root, NAME, [0]).frames[0]
    after = np.asarray(read_color(frame)).astype(int)
    assert after.shape == before.shape
    assert np.abs(after - before).mean() < 6
    assert np.abs(frame.K_color.numpy() - room.intrinsics((72, 96))).max() < 1e-6


# ----------------------------------------------------------------------------------------------------- real frames


@pytest.mark.skipif(not REAL.is_dir(), reason="SIGHTWORD_RGBD: 20 frames of 7-Scenes, 0 to 190")
def test_real_frames_are_read_without_options_and_fit():
    assert find_scenes(REAL) == ["room"]
    assert check_scannet(str(REAL)).errors == []
    scene = read_scene(REAL)
    assert [frame.index for frame in scene.frames] == list(range(0, 200, 10))
    for one, other in zip(scene.frames[:4], scene.frames[1:5], strict=True):
        uv, z = project(back_project(read_depth(one), one.K_depth, one.pose), other.K_depth, other.pose)
        depth = read_depth(other)
        h, w = depth.shape
        u, v = uv.nan_to_num(-1e6).round().long().unbind(-1)
        inside = (u >= 0) & (u < w) & (v >= 0) & (v < h) & (z > 0.1)
        found = depth[v[inside], u[inside]]
        assert (z[inside] - found)[found > 0].abs().median() < 0.012
