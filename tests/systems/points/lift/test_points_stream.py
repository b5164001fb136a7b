import pytest
import torch
from points_fakes import batch_of, wall

from sightword.systems.points.lift.geometry import link
from sightword.systems.points.lift.stream import Slice, VoxelMap, segment_means, slices


def blob(centre, count=40, seed=0, size=0.2):
    """Points in a cube."""
    return torch.tensor(centre) + size * (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 0.5)


def frame(*blobs, channels=4, seed=0):
    """Blobs (centre, feature axis): a frame with one mask each."""
    xyz = torch.cat([blob(centre, seed=seed + number) for number, (centre, _) in enumerate(blobs)])
    axis = torch.tensor([axis for _, axis in blobs]).repeat_interleave(40)
    mask = torch.arange(len(blobs)).repeat_interleave(40)
    return Slice(xyz, torch.nn.functional.one_hot(axis, channels).float(), None, mask)


def test_a_voxel_has_the_weighted_mean_of_all_that_was_seen_in_it():
    world = VoxelMap(2, voxel=1.0)
    world.add(Slice(torch.tensor([[0.2, 0.2, 0.2], [0.4, 0.2, 0.2]]), torch.tensor([[1.0, 0], [0, 1]])))
    world.add(Slice(torch.tensor([[0.6, 0.2, 0.2]]), torch.tensor([[5.0, 5.0]]), torch.tensor([2.0])))
    assert len(world) == 1
    torch.testing.assert_close(world.features, torch.tensor([[11 / 4, 11 / 4]]))
    torch.testing.assert_close(world.xyz, torch.tensor([[(0.2 + 0.4 + 1.2) / 4, 0.2, 0.2]]))


def test_the_map_answers_where_it_has_seen_something():
    world = VoxelMap(4, voxel=0.1)
    world.add(frame(((0.0, 0.0, 0.0), 2)))
    features, instance, found = world.at(torch.tensor([[0.01, 0.01, 0.01], [3.0, 0, 0]]))
    assert found.tolist() == [True, False]
    assert instance.tolist() == [0, -1]
    torch.testing.assert_close(features, torch.tensor([[0, 0, 1.0, 0], [0, 0, 0, 0]]))


def test_the_order_of_points_within_a_frame_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    one, other = VoxelMap(4, voxel=0.1, cap=60), VoxelMap(4, voxel=0.1, cap=60)
    for number in range(12):
        xyz = torch.rand(200, 3, generator=generator) * 0.6 + 0.05 * number
        features, weight = torch.randn(200, 4, generator=generator), torch.rand(200, generator=generator)
        mask = torch.randint(-1, 4, (200,), generator=generator)
        order = torch.randperm(200, generator=generator)
        named = one.add(Slice(xyz, features, weight, mask))
        shuffled = other.add(Slice(xyz[order], features[order], weight[order], mask[order]))
        assert torch.equal(named[order], shuffled)
    for name in ("xyz", "features", "instance"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert [i[:3] for i in one.instances] == [i[:3] for i in other.instances]
    assert one.dropped > 0


def test_instances_keep_their_names_and_count_their_frames():
    """Three frames of two things, one that comes later, one that is seen once: four instances, not nine."""
    world = VoxelMap(4, voxel=0.05)
    left, right, later, once = ((0.0, 0, 0), 0), ((1.0, 0, 0), 1), ((2.0, 0, 0), 2), ((3.0, 0, 0), 3)
    names = [
        world.add(part).view(-1, 40)
        for part in (frame(left, right, once), frame(right, left, later, seed=5), frame(left, later, right, seed=9))
    ]
    assert all((group == group[:, :1]).all() for group in names)
    assert [group[:, 0].tolist() for group in names] == [[0, 1, 2], [1, 0, 3], [0, 3, 1]]
    assert {i.number: i.frames for i in world.instances} == {0: 3, 1: 3, 2: 1, 3: 2}
    assert sum(i.voxels for i in world.instances) == len(world)
    for instance in world.instances:
        assert instance.voxels == int((world.instance == instance.number).sum())


def test_a_thing_in_the_same_place_that_looks_otherwise_is_another():
    world = VoxelMap(4, voxel=0.05)
    world.add(frame(((0.0, 0, 0), 0)))
    assert world.add(frame(((0.0, 0, 0), 1)))[0] == 1
    alike = VoxelMap(4, voxel=0.05)
    alike.add(frame(((0.0, 0, 0), 0)))
    assert alike.add(frame(((0.0, 0, 0), 0), seed=3))[0] == 0


def test_two_masks_never_become_one_instance_in_a_frame():
    """Both overlap the first frame's; the one that overlaps more gets its name."""
    world = VoxelMap(4, voxel=0.05)
    first = frame(((0.0, 0, 0), 0))
    world.add(first)
    halves = first._replace(mask=(first.xyz[:, 0] > 0.03).long())
    names = world.add(halves)
    larger = int(halves.mask.float().mean() > 0.5)
    assert set(names[halves.mask == larger].tolist()) == {0}
    assert set(names[halves.mask != larger].tolist()) == {1}


def test_frames_may_differ_in_size_and_a_second_scene_begins_anew():
    world = VoxelMap(4, voxel=0.05)
    world.add(frame(((0.0, 0, 0), 0), ((1.0, 0, 0), 1)))
    world.add(frame(((0.0, 0, 0), 0)))
    world.reset()
    assert (len(world), world.frames, world.instances) == (0, 0, [])
    assert world.add(frame(((5.0, 0, 0), 0)))[0] == 0


def test_two_thousand_frames_stay_within_the_cap():
    """A walk along a corridor of things, half a metre each: a frame sees a metre of it, the next 5 cm further on."""
    world = VoxelMap(4, voxel=0.25, cap=100)
    generator = torch.Generator().manual_seed(0)
    most = 0
    for number in range(2000):
        xyz = torch.rand(160, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.5])
        xyz[:, 0] += 0.05 * number
        thing = (xyz[:, 0] / 0.5).floor().long()
        world.add(Slice(xyz, torch.nn.functional.one_hot(thing % 4, 4).float(), None, thing))
        most = max(most, len(world))
        assert len(world._weight) <= 100
    assert most == 100
    assert (world.frames, world.dropped) == (2000, 404 * 8 - 100)
    # what is left is the end of the walk; what was seen longest ago was dropped, and forgotten
    assert float(world.xyz[:, 0].min()) > 0.05 * 1999 + 1 - 100 / 32 - 0.5
    assert sum(i.voxels for i in world.instances) == int((world.instance >= 0).sum())
    # 202 things were passed: a name for each, not one for each in every frame
    assert world._next == 202
    assert [i.number for i in world.instances] == list(range(202 - len(world.instances), 202))
    assert all(25 <= i.frames <= 31 for i in world.instances[:-3])


def test_the_least_recently_seen_goes_first_and_of_one_frame_the_least_seen():
    world = VoxelMap(1, voxel=1.0, cap=3)
    at = torch.tensor([[0.5, 0.5, 0.5]])
    for x in (0, 1, 2):
        world.add(Slice(at + torch.tensor([x, 0, 0]), torch.ones(1, 1)))
    world.add(Slice(at, torch.ones(1, 1)))  # the first is seen again
    world.add(Slice(at + torch.tensor([3, 0, 0]), torch.ones(1, 1)))
    assert world.xyz[:, 0].tolist() == [0.5, 2.5, 3.5]
    many = at + torch.tensor([[10.0, 0, 0], [11, 0, 0], [12, 0, 0], [13, 0, 0]])
    world.add(Slice(many, torch.ones(4, 1), torch.tensor([1.0, 0.5, 2.0, 3.0])))
    assert world.xyz[:, 0].tolist() == [10.5, 12.5, 13.5]
    assert world.dropped == 1 + 3 + 1


def test_points_that_are_not_finite_are_left_out_and_no_point_is_a_frame():
    world = VoxelMap(1, voxel=1.0)
    xyz = torch.tensor([[0.5, 0.5, 0.5], [torch.nan, 0, 0], [1.5, 0, 0]])
    names = world.add(Slice(xyz, torch.tensor([[1.0], [1.0], [torch.inf]]), None, torch.tensor([0, 0, 1])))
    assert names.tolist() == [0, -1, -1]
    assert len(world) == 1
    assert world.add(Slice(torch.empty(0, 3), torch.empty(0, 1))).shape == (0,)
    assert world.frames == 2


def test_wrong_frames_are_refused_in_one_line():
    world = VoxelMap(4)
    for part, match in (
        (Slice(torch.zeros(3, 3), torch.zeros(3, 5)), r"features \(n, 4\)"),
        (Slice(torch.full((1, 3), 1e7), torch.zeros(1, 4)), "Coordinates are in metres"),
    ):
        with pytest.raises(ValueError, match=match) as error:
            world.add(part)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cap ≥ 1"):
        VoxelMap(4, cap=0)


def test_an_encoders_batch_becomes_frames_in_order():
    xyz, _, scene, views, _, _ = batch_of(wall(60, views=3))
    links = link(xyz, scene, views)
    masks = torch.zeros(3, *views.depth.shape[1:], dtype=torch.int64)
    masks[:, :, :8] = -1
    found = list(slices(xyz, torch.randn(60, 4), links, 3, masks))
    assert len(found) == 3
    for view, (part, points) in enumerate(found):
        assert torch.equal(points, links.point[links.view == view])
        assert torch.equal(part.xyz, xyz[points])
        left = links.uv[links.view == view][:, 0].round() < 8
        assert torch.equal(part.mask == -1, left)
    world = VoxelMap(4)
    assert [len(world.add(part)) for part, _ in found] == [len(points) for _, points in found]


def test_means_of_segments_leave_out_what_is_of_none():
    found = segment_means(torch.tensor([[1.0], [3.0], [100.0], [5.0]]), torch.tensor([0, 0, -1, 2]))
    assert found.tolist() == [[2.0], [0.0], [5.0]]
