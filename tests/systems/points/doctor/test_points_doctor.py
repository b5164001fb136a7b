"""The doctor names what is wrong with the geometry of a scene, and raises nothing where nothing is wrong."""

import shutil

import numpy as np
import pytest
import torch
from lift_fakes import Source
from PIL import Image

from sightword.errors import SightwordError
from sightword.miniature import room
from sightword.systems.points.doctor.diagnosis import UNPROVEN, diagnose, require_sound
from sightword.systems.points.doctor.up import upwards
from sightword.systems.points.lift.extract import Job, extract
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.pose import camera_to_world, quaternions, rotations
from sightword.systems.points.scannet.reader import read_scene

NAME = "scene0000_00"
GL = np.diag((1.0, -1, -1, 1))
MIRROR = np.diag((1.0, -1, 1, 1))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A room in eight frames."""
    root = tmp_path_factory.mktemp("rooms")
    room.write_scene(root, 0, frames=8, color=(72, 96), depth=(60, 80), voxel=0.2)
    return root


@pytest.fixture
def folder(written, tmp_path):
    """A copy that may be damaged."""
    shutil.copytree(written, tmp_path / "set")
    return tmp_path / "set" / "2D" / NAME


def poses(folder, change):
    files = sorted((folder / "pose").glob("*.txt"), key=lambda file: int(file.stem))
    for file, pose in zip(files, change(np.stack([np.loadtxt(file) for file in files])), strict=True):
        np.savetxt(file, pose)


def depths(folder, change):
    for file in (folder / "depth").glob("*.png"):
        values = change(np.asarray(Image.open(file)).astype(float))
        Image.fromarray(np.rint(values).clip(0, 65534).astype(np.uint16)).save(file)


def cameras(folder, change, *parts):
    for part in parts or ("color", "depth"):
        file = folder / "intrinsic" / f"intrinsic_{part}.txt"
        np.savetxt(file, change(np.loadtxt(file)))


def read_in_the_other_order(pose):
    """Quaternions x y z w that were taken for w x y z."""
    x, y, z, w = quaternions(pose[:, :3, :3]).T
    pose[:, :3, :3] = rotations(np.stack([y, z, w, x], -1))
    return pose


def along_rays(values):
    K = room.intrinsics(values.shape)
    v, u = np.indices(values.shape)
    return values * np.sqrt(((u - K[0, 2]) / K[0, 0]) ** 2 + ((v - K[1, 2]) / K[1, 1]) ** 2 + 1)


def resized(K, factor):
    K = K.copy()
    K[:2, :2] *= factor
    K[:2, 2] = (K[:2, 2] + 0.5) * factor - 0.5
    return K


def further(pose, factor):
    pose[:, :3, 3] *= factor
    return pose


DAMAGES = {
    "axes=opengl": lambda folder: poses(folder, lambda pose: pose @ GL),
    "axes=opengl poses=w2c": lambda folder: poses(folder, lambda pose: np.linalg.inv(pose @ GL)),
    "axes=unity": lambda folder: poses(folder, lambda pose: MIRROR @ pose @ MIRROR),
    "quaternion=xyzw": lambda folder: poses(folder, read_in_the_other_order),
    "depth_scale=5000": lambda folder: depths(folder, lambda values: 5 * values),
    "depth=ray": lambda folder: depths(folder, along_rays),
    "intrinsics_size=84x112": lambda folder: cameras(folder, lambda K: resized(K, 1.4), "depth"),
    "shift=-1": lambda folder: poses(folder, lambda pose: np.roll(pose, -1, 0)),
    "pose_scale=3.333": lambda folder: poses(folder, lambda pose: further(pose, 0.3)),
    "turn=90": lambda folder: [
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file) for file in (folder / "color").glob("*.jpg")
    ],
}


@pytest.mark.parametrize("option", DAMAGES)
def test_a_damage_is_named_by_the_option_that_undoes_it(folder, option):
    DAMAGES[option](folder)
    errors = [finding for finding in diagnose(read_scene(folder)) if finding.level == "error"]
    assert [finding.fix.split(" (or")[0] for finding in errors] == [f"Pass {option}"]
    said = Convention(**{name: _typed(name, value) for name, value in (part.split("=") for part in option.split())})
    assert [f for f in diagnose(read_scene(folder, convention=said)) if f.level != "note"] == []


def _typed(name, value):
    kind = type(getattr(Convention(), name))
    return kind(value)


def test_a_wrong_focal_length_is_told_with_the_factor_that_fits(folder):
    cameras(folder, lambda K: K @ np.diag((1.3, 1.3, 1, 1)), "depth")
    (error,) = [finding for finding in diagnose(read_scene(folder)) if finding.level == "error"]
    assert "focal length" in error.message
    assert float(error.fix.removeprefix("Pass focal_scale=")) == pytest.approx(1 / 1.3, abs=0.02)


def test_shuffled_poses_are_refused_and_no_option_is_offered(folder):
    poses(folder, lambda pose: pose[np.random.default_rng(0).permutation(len(pose))])
    (error,) = [finding for finding in diagnose(read_scene(folder)) if finding.level == "error"]
    assert error.kind == "poses of other frames"
    assert "=" not in error.fix


def test_colour_in_another_order_than_depth_is_doubted(folder):
    files = sorted((folder / "color").iterdir(), key=lambda file: int(file.stem))
    pictures = [file.read_bytes() for file in files]
    for file, picture in zip(files, [pictures[at] for at in (3, 6, 1, 7, 0, 4, 2, 5)], strict=True):
        file.write_bytes(picture)
    found = [one for one in diagnose(read_scene(folder)) if one.kind == "colour of other frames"]
    assert "colour may be of other frames than depth and poses" in str(found[0])


def test_a_right_room_raises_nothing_also_in_part(written):
    scene = read_scene(written, NAME)
    for at in (range(8), range(5), range(0, 8, 2), (0, 1, 3, 4, 6)):
        found = diagnose(scene._replace(frames=[scene.frames[number] for number in at]))
        assert [finding for finding in found if finding.level == "error"] == []
    assert [finding for finding in diagnose(scene) if finding.level != "note"] == []


def test_few_frames_and_a_single_wall_cannot_be_told(written, tmp_path):
    scene = read_scene(written, NAME)
    (few,) = diagnose(scene._replace(frames=scene.frames[:3]))
    assert few.kind == UNPROVEN
    assert "cannot tell" in few.message
    wall = shutil.copytree(written / "2D" / NAME, tmp_path / "wall")
    depths(wall, lambda values: 0 * values + 2000)
    poses(wall, lambda pose: np.stack([_aside(number) for number in range(len(pose))]))
    assert [finding.kind for finding in diagnose(read_scene(wall))] == [UNPROVEN]


def _aside(number):
    pose = np.eye(4)
    pose[0, 3] = 0.1 * number
    return pose


def test_constant_depth_under_cameras_that_turn_is_an_error(folder):
    depths(folder, lambda values: 0 * values + 1500)
    (error,) = diagnose(read_scene(folder))
    assert (error.level, error.kind) == ("error", "constant depth")


def test_commands_stop_unless_told_to_trust(folder, tmp_path):
    DAMAGES["axes=opengl"](folder)
    with pytest.raises(SightwordError, match=r"OpenGL axes.*axes=opengl.*trust=true"):
        require_sound(folder, Convention())
    with pytest.raises(SightwordError, match=r"Pass data\.axes=opengl.*data\.trust=true"):
        require_sound(folder, Convention(), prefix="data.")
    require_sound(folder, Convention(), trust=True)
    require_sound(folder, Convention(axes="opengl"))
    root = folder.parent.parent
    with pytest.raises(SightwordError, match="axes=opengl"):
        extract(Source(), "value", root, [NAME], tmp_path / "out")
    for job, trusted in ((Job(trust=True), True), (Job(convention=Convention(axes="opengl")), False)):
        assert extract(Source(), "value", root, [NAME], tmp_path / "out", job=job).done == [NAME]
        report = (tmp_path / "out" / NAME / "report.json").read_text()
        assert ('"trusted": true' in report) == trusted
        assert ('"axes": "opengl"' in report) != trusted  # lifted again: by other options are other files


def test_files_that_were_put_right_are_judged_again(folder):
    DAMAGES["axes=opengl"](folder)
    with pytest.raises(SightwordError, match="axes=opengl"):
        require_sound(folder, Convention())
    DAMAGES["axes=opengl"](folder)
    require_sound(folder, Convention())


def test_the_colour_cameras_place_and_focal_length_are_found(tmp_path):
    """Colour rendered with 0.9 of the focal length, from 4 cm beside the depth camera."""
    room.write_scene(tmp_path, 1, frames=12, color=(96, 128), depth=(96, 128), voxel=0.3)
    folder = tmp_path / "2D" / room.name_of(1)
    studio, K = room.furnish(1), room.intrinsics((96, 128))
    K[[0, 1], [0, 1]] *= 0.9
    for file in (folder / "pose").glob("*.txt"):
        pose = np.loadtxt(file)
        pose[:3, 3] += 0.04 * pose[:3, 0]
        picture = room.photo(studio, room.Camera(K, pose, (96, 128)))
        Image.fromarray(np.asarray(picture).astype(np.uint8)).save(folder / "color" / f"{file.stem}.jpg", quality=95)
    (found,) = [finding for finding in diagnose(read_scene(folder)) if finding.kind == "colour camera"]
    options = dict(part.split("=") for part in found.fix.split(", or")[0].removeprefix("Pass ").split())
    assert float(options["color_focal_scale"]) == pytest.approx(0.9, abs=0.015)
    place = np.array([float(value) for value in options["color_offset"].split(",")])
    assert np.abs(place - (0.04, 0, 0)).max() < 0.016


def test_every_convention_undoes_what_it_names():
    rng = np.random.default_rng(0)
    true = np.tile(np.eye(4), (5, 1, 1))
    true[:, :3, :3] = rotations(np.linalg.qr(rng.standard_normal((5, 4, 4)))[0][:, 0])
    true[:, :3, 3] = rng.standard_normal((5, 3))
    w2c = np.linalg.inv(true)
    for files, said in (
        (true @ GL, Convention(axes="opengl")),
        (w2c, Convention(poses="w2c")),
        (np.linalg.inv(true @ GL), Convention(poses="w2c", axes="opengl")),
        (MIRROR @ true @ MIRROR, Convention(axes="unity")),
        (read_in_the_other_order(true.copy()), Convention(quaternion="xyzw")),
        (further(true.copy(), 1000), Convention(pose_scale=0.001)),
    ):
        assert np.abs(camera_to_world(files, said) - true).max() < 1e-9, said
    assert torch.equal(torch.from_numpy(camera_to_world(true, Convention())), torch.from_numpy(true))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"axes": "x,y,y"}, "axes='x,y,y'"),
        ({"poses": "inverse"}, "poses='inverse'"),
        ({"depth_scale": 0.0}, "depth_scale=0.0"),
        ({"turn": "45"}, "turn='45'"),
        ({"color_offset": "1,2"}, "color_offset='1,2'"),
        ({"mesh": "feet"}, "mesh='feet'"),
        ({"intrinsics_size": "big"}, "intrinsics_size"),
    ],
)
def test_a_convention_that_does_not_exist_is_one_line(values, word):
    with pytest.raises(SightwordError) as error:
        Convention(**values)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_vertical_of_a_world_is_told_and_drawn(folder):
    scene = read_scene(folder)
    (note,) = [finding for finding in diagnose(scene) if finding.kind == "vertical"]
    assert "z is up" in note.message
    assert upwards(scene.frames) == [0, 0, 1]


def test_turned_colour_is_named_by_single_frames_where_poses_cannot_be_judged(folder):
    for part in ("color", "depth", "pose"):
        for file in sorted((folder / part).iterdir())[3:]:
            file.unlink()
    assert {finding.kind for finding in diagnose(read_scene(folder))} == {"undecided geometry"}
    for file in (folder / "color").iterdir():
        with Image.open(file) as image:
            image.transpose(Image.Transpose.ROTATE_180).save(file, quality=95)
    (error,) = [finding for finding in diagnose(read_scene(folder)) if finding.level == "error"]
    assert error.fix == "Pass turn=180"
    assert diagnose(read_scene(folder, convention=Convention(turn="180")))[0].kind == "undecided geometry"
