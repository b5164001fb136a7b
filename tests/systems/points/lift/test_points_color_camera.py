"""Colour that has a camera of its own: points get the features of what this camera shows, and none beside its image."""

import numpy as np
import pytest
import torch
from box_room import depth_of, intrinsics, orbit, surface
from lift_fakes import write_rooms
from PIL import Image

from sightword.systems.points.lift.cloud import measured
from sightword.systems.points.lift.geometry import ColorCamera, Views, distorted, lift, link, project
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.reader import color_cameras, read_scene, views_of

SIZE = (60, 80)


def room_views(K_color, offset=(0.0, 0.0, 0.0), distortion=(0.0,) * 5, count=2):
    K, poses = intrinsics(SIZE), orbit(count)
    depth = torch.stack([depth_of(pose, K, SIZE) for pose in poses]).float()
    place = torch.eye(4).repeat(count, 1, 1)
    place[:, :3, 3] = torch.tensor(offset)
    color = ColorCamera(K_color.float().expand(count, 3, 3), place, torch.tensor(distortion).expand(count, 5))
    plain = Views(depth, K.float().expand(count, 3, 3), poses.float(), torch.zeros(count, dtype=torch.int64))
    return plain, plain._replace(color=color), poses


def zoomed(factor):
    K = intrinsics(SIZE).clone()
    K[0, 0] *= factor
    K[1, 1] *= factor
    return K


def test_a_point_stands_where_the_colour_camera_has_it():
    plain, own, poses = room_views(zoomed(1.1), (0.025, -0.01, 0.0))
    xyz = surface(4000)
    scene = torch.zeros(len(xyz), dtype=torch.int64)
    links, usual = link(xyz, scene, own), link(xyz, scene, plain)
    assert 0.6 * len(usual.point) < len(links.point) < len(usual.point)  # narrower: what it does not show is missing
    for view in (0, 1):
        at = links.view == view
        moved = poses[view].clone()
        moved[:3, 3] += poses[view][:3, :3] @ torch.tensor([0.025, -0.01, 0.0]).double()
        uv, _ = project(xyz[links.point[at]], zoomed(1.1), moved)
        assert (uv - links.uv[at]).abs().max() < 1e-3
        assert set(links.point[at].tolist()) <= set(usual.point[usual.view == view].tolist())


def test_the_depths_own_camera_given_as_colours_changes_nothing():
    plain, own, _ = room_views(zoomed(1.0))
    xyz = surface(2000)
    scene = torch.zeros(len(xyz), dtype=torch.int64)
    one, other = link(xyz, scene, plain), link(xyz, scene, own)
    assert torch.equal(one.point, other.point)
    assert (one.uv - other.uv).abs().max() < 1e-3
    assert torch.equal(one.conf, other.conf)


def test_features_are_those_of_the_colour_image_at_the_points_place():
    """A map whose value is its column: what is lifted is the column in which the colour camera has the point."""
    _, own, poses = room_views(zoomed(1.2), (0.03, 0.0, 0.0), count=1)
    xyz = surface(1500)
    links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64), own)
    maps = torch.arange(SIZE[1]).float().expand(1, 1, *SIZE)
    found = lift(maps, links, len(xyz))[links.point, 0]
    moved = poses[0].clone()
    moved[:3, 3] += poses[0][:3, 0] * 0.03
    wanted = project(xyz[links.point], zoomed(1.2), moved)[0][:, 0].clamp(0, SIZE[1] - 1)
    assert (found - wanted).abs().max() < 1e-2


def test_a_lens_bends_as_opencv_has_it_and_only_as_far_as_it_grows():
    plane = torch.tensor([[0.3, -0.2], [0.0, 0.0], [1.5, 0.0]])
    bent, valid = distorted(plane, torch.tensor([-0.3, 0.1, 0.01, -0.02, 0.0]).expand(3, 5))
    r = 0.13
    factor = 1 - 0.3 * r + 0.1 * r**2
    x = 0.3 * factor + 2 * 0.01 * 0.3 * -0.2 - 0.02 * (r + 2 * 0.09)
    y = -0.2 * factor + 0.01 * (r + 2 * 0.04) + 2 * -0.02 * 0.3 * -0.2
    assert bent[0].tolist() == pytest.approx([x, y], abs=1e-6)
    assert bent[1].tolist() == [0, 0]
    folded, grows = distorted(plane, torch.tensor([-0.3, 0.0, 0.0, 0.0, 0.0]).expand(3, 5))
    assert valid.tolist()[:2] == [True, True]
    assert grows.tolist() == [True, True, False]  # 1 − 0.9 r² is below 0 at 1.5: the image of the lens has ended
    assert folded.isfinite().all()


@pytest.fixture
def scene_root(tmp_path):
    write_rooms(tmp_path, (0,), frames=2)
    return tmp_path


def test_the_same_camera_is_no_camera_of_its_own(scene_root):
    scene = read_scene(scene_root, "scene0000_00")
    assert color_cameras(scene.frames, (36, 48)) is None
    assert views_of(scene.frames).color is None


def test_colours_own_intrinsics_poses_and_distortion_are_read(scene_root):
    folder = scene_root / "2D" / "scene0000_00"
    K = np.loadtxt(folder / "intrinsic" / "intrinsic_color.txt")
    K[[0, 1], [0, 1]] *= 0.9
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", K)
    (folder / "intrinsic" / "distortion_color.txt").write_text("0.1 -0.05 0 0\n")
    (folder / "pose_color").mkdir()
    for index in (0, 20):
        pose = np.loadtxt(folder / "pose" / f"{index}.txt")
        pose[:3, 3] += pose[:3, 0] * 0.04
        np.savetxt(folder / "pose_color" / f"{index}.txt", pose)
    scene = read_scene(scene_root, "scene0000_00")
    color = views_of(scene.frames).color
    assert color is not None
    assert color.K[0, 0, 0].item() == pytest.approx(K[0, 0] * 36 / 48, rel=1e-5)
    assert color.place[:, :3, 3].tolist() == [pytest.approx([0.04, 0, 0], abs=1e-5)] * 2
    assert color.distortion[0].tolist() == pytest.approx([0.1, -0.05, 0, 0, 0])
    said = read_scene(scene_root, "scene0000_00", convention=Convention(color_offset="0,0.02,0")).frames[0]
    assert said.place[:3, 3].tolist() == pytest.approx([0.04, 0.02, 0], abs=1e-5)


def test_points_that_the_colour_camera_does_not_show_have_no_colour(scene_root):
    folder = scene_root / "2D" / "scene0000_00"
    K = np.loadtxt(folder / "intrinsic" / "intrinsic_color.txt")
    K[[0, 1], [0, 1]] *= 2
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", K)
    Image.new("RGB", (64, 48), (200, 10, 30)).save(folder / "color" / "0.jpg", quality=100)
    points = measured(read_scene(scene_root, "scene0000_00").frames[0])
    known = points[:, 3:].isfinite().all(1)
    assert 0.2 < known.float().mean() < 0.3  # twice the focal length: a quarter of the view
    assert (points[known, 3:] - torch.tensor([200.0, 10.0, 30.0])).abs().max() < 4
