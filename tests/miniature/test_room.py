"""The rooms are the oracle of `points`: its tests rest on their depth, labels and visibility."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.miniature import room
from sightword.miniature.room import (
    DEEP,
    HIGH,
    WIDE,
    WORDS,
    Camera,
    furnish,
    intrinsics,
    orbit,
    photo,
    scan,
    seen,
    view,
)
from sightword.miniature.scene import OBJECTS, ROOMS, boxes_of

SIZE = (48, 64)


@pytest.fixture(scope="module")
def studio():
    return furnish(0)


@pytest.fixture(scope="module")
def cameras(studio):
    return [Camera(intrinsics(SIZE), pose, SIZE) for pose in orbit(studio, 6)]


@pytest.fixture(scope="module")
def cloud(studio):
    return scan(studio, voxel=0.1, looks=8)


def _back(camera, depth):
    """Pixels to points in the world, written out."""
    v, u = np.indices(depth.shape)
    x = (u - camera.K[0, 2]) / camera.K[0, 0] * depth
    y = (v - camera.K[1, 2]) / camera.K[1, 1] * depth
    points = np.stack([x, y, depth, np.ones_like(depth)], -1).reshape(-1, 4)
    return (points @ camera.pose.T)[:, :3]


def test_a_room_is_the_same_each_time_and_another_for_another_seed(studio, cameras):
    again, other = furnish(0), furnish(1)
    assert again.stands == studio.stands
    assert again.places == studio.places
    assert (photo(again, cameras[0]) == photo(studio, cameras[0])).all()
    assert other.stands != studio.stands


def test_a_room_has_every_indoor_thing_and_all_three_places(studio, cloud):
    for seed in range(8):
        some = furnish(seed)
        assert {stand.word for stand in some.stands} == {w for w, thing in OBJECTS.items() if thing.where != "outdoors"}
        assert sorted(some.places) == sorted(ROOMS)
    shown = {WORDS[label - 1] for label in cloud.label.unique().tolist()}
    assert shown == {*studio.places, *(stand.word for stand in studio.stands)}


def test_things_neither_overlap_nor_leave_the_room_nor_stand_where_the_camera_walks():
    for seed in range(8):
        studio = furnish(seed)
        corners = [boxes_of(*stand)[0].reshape(-1, 3) for stand in studio.stands]
        for points in corners:
            assert (np.abs(points) <= (WIDE / 2 + 1e-6, DEEP / 2 + 1e-6, HIGH)).all()
            assert np.hypot(*points[:, :2].T).min() > room.WALK + 0.2
        for one, other in itertools.combinations(corners, 2):
            apart = [_apart(one, other, turn) for turn in np.linspace(0, np.pi, 36, endpoint=False)]
            assert max(apart) > -0.2  # discs leave a little at their corners


def _apart(one, other, turn):
    """Metres between two things along a direction on the floor."""
    a, b = (points[:, :2] @ (np.cos(turn), np.sin(turn)) for points in (one, other))
    return max(a.min() - b.max(), b.min() - a.max())


def test_every_ray_ends_on_a_surface(studio, cameras):
    """On the shell, or on a face of a box and outside no other of its faces: by the boxes' corners, not by their
    planes."""
    for camera in cameras[:3]:
        found = view(studio, camera)
        points, instances = _back(camera, found.depth), found.instances.ravel()
        shell = points[instances == 0]
        gaps = np.abs(np.stack([shell[:, 0] ** 2 - WIDE**2 / 4, shell[:, 1] ** 2 - DEEP**2 / 4, shell[:, 2],
                                shell[:, 2] - HIGH]))  # fmt: skip
        assert gaps.min(0).max() < 1e-9
        for number in np.unique(instances[instances > 0]):
            corners = boxes_of(*studio.stands[number - 1])[0]
            inside = points[instances == number]
            assert (inside >= corners.min((0, 1)) - 1e-9).all()
            assert (inside <= corners.max((0, 1)) + 1e-9).all()
            assert (found.labels.ravel()[instances == number] == 1 + WORDS.index(studio.stands[number - 1].word)).all()


def test_a_box_is_hit_where_its_plane_is():
    """By hand: a bed's mattress from straight above, at the height that its boxes say."""
    bare = furnish(0)
    stands = (room.Stand("bed", (0.0, 0.0, 0.0), 0.0, 1.0),)
    light = room.Light(np.array((0, 0, 1.0)), 0.8)
    studio = bare._replace(stands=stands, solids=room._solids(stands, light))
    pose = np.diag((1.0, -1, -1, 1))
    pose[2, 3] = 2.2
    camera = Camera(intrinsics((9, 9), 0.4), pose, (9, 9))
    found = view(studio, camera)
    assert found.depth[4, 4] == pytest.approx(2.2 - 0.56 * OBJECTS["bed"].size[2])
    assert found.instances[4, 4] == 1
    assert found.depth[0, 0] == pytest.approx(2.2)
    assert WORDS[found.labels[0, 0] - 1] in ROOMS


def test_what_one_camera_sees_another_sees_at_the_same_place_unless_something_is_between(studio, cameras):
    """Two frames agree in depth wherever visibility says that the same point is seen: under 1 cm."""
    errors = []
    for one, other in itertools.permutations(cameras, 2):
        fine = Camera(intrinsics((192, 256)), other.pose, (192, 256))
        points = _back(one, view(studio, one).depth)
        points = points[seen(studio, points, fine)]
        local = (points - fine.pose[:3, 3]) @ fine.pose[:3, :3]
        u, v = (np.rint(local[:, i] / local[:, 2] * fine.K[i, i] + fine.K[i, 2]).astype(int) for i in (0, 1))
        errors.append(np.abs(view(studio, fine).depth[v, u] - local[:, 2]))
    errors = np.concatenate(errors)
    assert len(errors) > 5_000
    assert np.median(errors) < 0.01


def test_a_camera_sees_what_it_has_measured_and_nothing_behind_it(studio, cameras):
    for camera in cameras[:3]:
        points = _back(camera, view(studio, camera).depth)
        assert seen(studio, points, camera).all()
        at = camera.pose[:3, 3]
        assert not seen(studio, at + 1.02 * (points - at), camera).any()
        assert not seen(studio, at - 0.5 * (points - at), camera).any()


def test_the_scan_lies_on_surfaces_in_the_labels_of_the_frames(studio, cameras, cloud):
    xyz = cloud.xyz.double().numpy()
    shown = 0
    for camera in cameras:
        fine = Camera(intrinsics((192, 256)), camera.pose, (192, 256))
        rows = np.flatnonzero(seen(studio, xyz, fine))
        local = (xyz[rows] - fine.pose[:3, 3]) @ fine.pose[:3, :3]
        u, v = (np.rint(local[:, i] / local[:, 2] * fine.K[i, i] + fine.K[i, 2]).astype(int) for i in (0, 1))
        found = view(studio, fine)
        assert (found.labels[v, u] == cloud.label[rows].numpy()).mean() > 0.97
        assert (found.instances[v, u] == cloud.instance[rows].numpy()).mean() > 0.97
        shown += len(rows)
    assert shown > 0.5 * len(xyz)


def test_no_two_points_of_a_scan_share_a_voxel(cloud):
    cells = torch.floor((cloud.xyz.double() - torch.from_numpy(room.LOW)) / 0.1 + 1e-5)
    assert len(cells.unique(dim=0)) > 0.999 * len(cells)


def test_half_of_what_is_seen_is_no_single_thing(studio):
    """No class has so much of a room that answering it always would be a good answer."""
    for seed in range(5):
        label = scan(furnish(seed), voxel=0.1, looks=8).label
        assert label.bincount().max() / len(label) < 0.4


def test_what_is_written_is_what_is_seen_and_the_same_again(tmp_path):
    sizes = {"frames": 3, "color": (36, 48), "depth": (24, 32), "voxel": 0.3}
    studio = room.write_scene(tmp_path, 1, **sizes)
    folder = tmp_path / "2D" / "scene0001_00"
    for number, pose in enumerate(orbit(studio, 3)):
        camera = Camera(intrinsics((24, 32)), pose, (24, 32))
        found, name = view(studio, camera), str(number * room.STEP)
        depth = np.asarray(Image.open(folder / "depth" / f"{name}.png"))
        assert depth.dtype == np.uint16
        assert np.abs(depth / 1000 - found.depth).max() <= 0.0005 + 1e-9
        assert (np.asarray(Image.open(folder / "label" / f"{name}.png")) == found.labels).all()
        assert (np.asarray(Image.open(folder / "instance" / f"{name}.png")) == found.instances).all()
        assert Image.open(folder / "color" / f"{name}.jpg").size == (48, 36)
        assert np.abs(np.loadtxt(folder / "pose" / f"{name}.txt") - pose).max() < 1e-6
    before = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.rglob("*.*")}
    room.write_scene(tmp_path, 1, **sizes)
    assert before == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.rglob("*.*")}


def test_noise_and_holes_are_as_many_as_asked(studio, cameras):
    depth = view(studio, cameras[0]).depth
    said = room._measured(np.random.default_rng(0), depth, 0.002, 0.1)
    assert 0.07 < (said == 0).mean() < 0.13
    error = (said / 1000 - depth)[said > 0] / depth[said > 0] ** 2
    assert 0.0018 < error.std() < 0.0022


def test_the_tiny_clip_knows_the_things_of_a_room(studio, small_clip):
    """The share of patches it names right, of nine words, is well above always saying the most frequent one."""
    from sightword import image_tower, text_tower
    from sightword.towers.prompt import word_vectors

    tower = image_tower(str(small_clip), form="value")
    words = [word for word in WORDS if (OBJECTS.get(word) or room.PLACES[word]).where != "outdoors"]
    to_words = torch.nn.functional.normalize(word_vectors(text_tower(str(small_clip)), words), dim=-1)
    right, labels = [], []
    for seed in range(2):
        some, size = furnish(seed), (96, 128)
        for pose in orbit(some, 4):
            camera = Camera(intrinsics(size), pose, size)
            image = torch.from_numpy(photo(some, camera)).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                tokens = torch.nn.functional.normalize(tower(tower.normalise(image)).tokens[0], dim=-1)
            truth = view(some, camera).labels[4::8, 4::8].ravel()
            found = np.array([1 + WORDS.index(word) for word in words])[(tokens @ to_words.T).argmax(-1).numpy()]
            right.append(found == truth)
            labels.append(truth)
    most = np.bincount(np.concatenate(labels)).max() / len(np.concatenate(labels))
    assert np.concatenate(right).mean() > 1.4 * most
