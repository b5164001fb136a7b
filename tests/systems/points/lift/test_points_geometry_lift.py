"""Features carried to points: along sparse correspondences, in any batch, as one grid_sample per frame would."""

import pytest
import torch
import torch.nn.functional as F
from box_room import surface, views

from sightword.systems.points.lift import geometry
from sightword.systems.points.lift.geometry import Views, lift, link, project, to_grid, visible

ROOM = views(5)
XYZ = surface(2000)
SCENE = torch.zeros(len(XYZ), dtype=torch.int64)
HEIGHT, WIDTH = ROOM.depth.shape[1:]


def features(channels, h=9, w=12, count=5, seed=0):
    return torch.randn(count, channels, h, w, generator=torch.Generator().manual_seed(seed))


def frame_by_frame(maps, xyz, views):
    """The peer: one grid_sample of all points per frame, its mask, and a weighted mean. In float64."""
    total, weight = torch.zeros(len(xyz), maps.shape[1]).double(), torch.zeros(len(xyz), 1).double()
    for number in range(len(maps)):
        uv, z = project(xyz, views.K[number], views.pose[number])
        conf = visible(uv, z, views.depth[number]).conf[:, None].double()
        grid = to_grid(uv, views.depth.shape[1:]).double()[None, None]
        read = F.grid_sample(maps[number : number + 1].double(), grid, padding_mode="border", align_corners=False)
        total += torch.where(conf > 0, conf * read[0, :, 0].T, 0)
        weight += conf
    return torch.where(weight > 0, total / weight, 0)


def merged(*rooms):
    return Views(*(torch.cat(parts) for parts in list(zip(*rooms, strict=True))[:4]))


def test_links_are_those_of_every_pair_and_sorted():
    found = link(XYZ, SCENE, ROOM)
    uv, z = project(XYZ, ROOM.K, ROOM.pose)
    ok, conf = visible(uv, z, ROOM.depth)
    point, view = ok.T.nonzero().unbind(1)
    assert torch.equal(found.point, point)
    assert torch.equal(found.view, view)
    assert torch.equal(found.uv, uv[view, point])
    assert torch.equal(found.conf, conf[view, point])
    assert torch.equal(found.counts, ok.sum(0))
    assert found.size == (HEIGHT, WIDTH)
    assert 0.05 < ok.float().mean() < 0.5


@pytest.mark.parametrize(("h", "w"), [(14, 14), (9, 12), (1, 1), (1, 5), (60, 80)])
def test_lifting_is_one_grid_sample_per_frame_and_mask(h, w):
    maps = features(6, h, w)
    found = lift(maps, link(XYZ, SCENE, ROOM), len(XYZ))
    torch.testing.assert_close(found.double(), frame_by_frame(maps, XYZ, ROOM), atol=1e-4, rtol=0)


def test_what_nothing_sees_is_zero():
    behind_the_wall = torch.tensor([[-1.0, 2, 1], [3.0, 2.5, 2.55], [2.9, 2.4, 0.5]])  # and inside the pillar
    xyz = torch.cat([behind_the_wall, XYZ])
    found = link(xyz, torch.zeros(len(xyz)).long(), ROOM)
    features_ = lift(features(4) + 5, found, len(xyz))
    assert found.counts[0] == found.counts[2] == 0
    assert not features_[[0, 2]].any()
    assert (features_[found.counts > 0].abs().sum(1) > 0).all()


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_is_scene_by_scene(shuffle):
    """Exactly: the same bits. Scenes of unlike sizes, one without a view and one without a point, in any order."""
    rooms = [views(3, scene=0), views(5, scene=2), views(2, scene=5)]
    clouds = {0: surface(800, 1), 1: surface(50, 2), 2: surface(300, 3)}
    xyz = torch.cat(list(clouds.values()))
    scene = torch.cat([torch.full((len(points),), number) for number, points in clouds.items()])
    order = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(0)) if shuffle else torch.arange(len(xyz))
    maps = features(8, count=10)
    together = lift(maps, link(xyz[order], scene[order], merged(*rooms)), len(xyz))
    assert (together[scene[order] == 0] != 0).any()
    for number, room, own in ((0, rooms[0], maps[:3]), (2, rooms[1], maps[3:8])):
        points = xyz[order][scene[order] == number]
        alone = lift(own, link(points, torch.full((len(points),), number), room), len(points))
        assert torch.equal(together[scene[order] == number], alone)
    assert not together[scene[order] == 1].any()


def test_many_pairs_are_looked_at_in_parts(monkeypatch):
    wanted = link(XYZ, SCENE, ROOM)
    looked = []
    project_ = geometry.project
    monkeypatch.setattr(geometry, "project", lambda xyz, *rest: looked.append(len(xyz)) or project_(xyz, *rest))
    monkeypatch.setattr(geometry, "SEEN_PAIRS", 1000)
    found = link(XYZ, SCENE, ROOM)
    assert max(looked) == 200
    assert all(torch.equal(one, other) for one, other in zip(found[:5], wanted[:5], strict=True))


def test_no_points_and_no_views_are_no_links():
    none = link(XYZ[:0], SCENE[:0], ROOM)
    assert lift(features(4), none, 0).shape == (0, 4)
    nowhere = link(XYZ, SCENE + 7, ROOM)
    assert len(nowhere.point) == 0
    assert lift(features(4), nowhere, len(XYZ)).abs().sum() == 0


def test_masks_reject_pixels_and_keep_to_a_points_own():
    mask = torch.zeros(ROOM.depth.shape, dtype=torch.int64)
    mask[:, :, : WIDTH // 2] = -1
    mask[:, HEIGHT // 2 :, WIDTH // 2 :] = 3
    masked = ROOM._replace(mask=mask)
    every, kept = link(XYZ, SCENE, ROOM), link(XYZ, SCENE, masked)
    right = (every.uv[:, 0] + 0.5).floor() >= WIDTH // 2
    assert 0.2 < right.float().mean() < 0.8
    assert torch.equal(kept.uv, every.uv[right])
    own = torch.arange(len(XYZ)) % 3 * 2 - 1  # -1 none of its own, 1 of nobody's, 3 that of the lower right
    chosen = link(XYZ, SCENE, masked, point_mask=own)
    below = (kept.uv[:, 1] + 0.5).floor() >= HEIGHT // 2
    fits = (own[kept.point] == -1) | ((own[kept.point] == 3) & below)
    assert torch.equal(chosen.point, kept.point[fits])
    assert not (own[chosen.point] == 1).any()


def test_gradients_reach_the_maps():
    maps = features(3, 5, 6).double().requires_grad_()
    found = link(XYZ[:200], SCENE[:200], ROOM)
    found = found._replace(uv=found.uv.double(), conf=found.conf.double())
    assert torch.autograd.gradcheck(lambda m: lift(m, found, 200), maps, fast_mode=True)


def test_half_precision_maps_stay_half():
    found = link(XYZ, SCENE, ROOM)
    maps = features(16)
    lifted = lift(maps.bfloat16(), found, len(XYZ))
    assert lifted.dtype == torch.bfloat16
    torch.testing.assert_close(lifted.float(), lift(maps, found, len(XYZ)), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"K": ROOM.K[0]}, r"5 views have a K of \(5, 3, 3\), got \(3, 3\)"),
        ({"mask": torch.zeros(5, 3, 3)}, "masks .* are not the size of the depth"),
    ],
)
def test_views_that_do_not_fit_are_named(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        link(XYZ, SCENE, ROOM._replace(**change))


def test_other_misfits_are_named():
    with pytest.raises(ValueError, match=r"Views\(mask="):
        link(XYZ, SCENE, ROOM, point_mask=SCENE)
    with pytest.raises(ValueError, match=r"points are \(N, 3\)"):
        link(XYZ, SCENE[:5], ROOM)
    with pytest.raises(ValueError, match="of 2000 points, not 7"):
        lift(features(4), link(XYZ, SCENE, ROOM), 7)


@pytest.mark.gpu
def test_a_gpu_lifts_the_same():
    on_gpu = Views(*(field.cuda() for field in ROOM[:4]))
    found, wanted = link(XYZ.cuda(), SCENE.cuda(), on_gpu), link(XYZ, SCENE, ROOM)
    assert len(found.point) == pytest.approx(len(wanted.point), abs=5)
    near = lift(features(8).cuda(), found, len(XYZ)).cpu()
    close = torch.isclose(near, lift(features(8), wanted, len(XYZ)), atol=1e-3).all(1)
    assert close.float().mean() > 0.99
