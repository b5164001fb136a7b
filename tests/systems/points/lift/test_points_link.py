"""Features carried to points: along sparse links, in any batch, as one grid_sample per frame would."""

import pytest
import torch
import torch.nn.functional as F
from box_room import surface, views

from sightword.systems.points.lift import link as links_of
from sightword.systems.points.lift.geometry import project, to_grid, visible
from sightword.systems.points.lift.uv_index import PatchChain, UVIndex, build_uv_index, build_uv_index_batch, sample_img_feat
from sightword.systems.points.lift.geometry import Views, lift, link

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
    project_ = links_of.project
    monkeypatch.setattr(links_of, "project", lambda xyz, *rest: looked.append(len(xyz)) or project_(xyz, *rest))
    monkeypatch.setattr(links_of, "PAIRS", 1000)
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


# ------------------------------------------------------------------------------------------- the document's functions


def test_build_uv_index_projects_under_a_pixel_and_knows_the_field_of_view():
    index = build_uv_index(XYZ, ROOM.K[0], ROOM.pose[0], (HEIGHT, WIDTH))
    assert index.uv.shape == (2000, 2)
    assert index.valid.shape == index.conf.shape == (2000,)
    camera = (XYZ.double() - ROOM.pose[0, :3, 3].double()) @ ROOM.pose[0, :3, :3].double()
    pixels = camera @ ROOM.K[0].double().T
    pixels = pixels[:, :2] / pixels[:, 2:]
    torch.testing.assert_close(index.uv[index.valid].double(), pixels[index.valid], atol=1e-2, rtol=0)
    u, v = pixels.T
    known = (camera[:, 2] > 0.1) & (u >= -0.5) & (u < WIDTH - 0.5) & (v >= -0.5) & (v < HEIGHT - 0.5)
    assert torch.equal(index.valid, known)
    assert (index.uv[~index.valid] == -1).all()
    hidden = build_uv_index(XYZ, ROOM.K[0], ROOM.pose[0], depth=ROOM.depth[0])
    assert 0 < hidden.valid.sum() < index.valid.sum()
    assert not (hidden.valid & ~index.valid).any()
    assert torch.equal(hidden.conf > 0, hidden.valid)


def test_a_batch_of_indices_is_each_alone():
    points = torch.stack([surface(300, seed) for seed in range(5)])
    index = build_uv_index_batch(points, ROOM.K, ROOM.pose, depth=ROOM.depth)
    assert index.uv.shape == (5, 300, 2)
    maps = features(8)
    features_ = sample_img_feat(maps, index)
    assert features_.shape == (5, 300, 8)
    for number in range(5):
        alone = build_uv_index(points[number], ROOM.K[number], ROOM.pose[number], depth=ROOM.depth[number])
        assert torch.equal(alone.valid, index.valid[number])
        torch.testing.assert_close(alone.uv, index.uv[number])
        torch.testing.assert_close(sample_img_feat(maps[number], alone), features_[number])


def test_views_of_a_scene_are_merged_as_links_merge_them():
    points = torch.stack([XYZ[:1000], XYZ[1000:]])
    K, pose, depth = (torch.stack([x, x]) for x in (ROOM.K, ROOM.pose, ROOM.depth))
    index = build_uv_index_batch(points, K, pose, depth=depth)
    assert index.uv.shape == (2, 5, 1000, 2)
    for lens in (ROOM.K[0], K[:, 0]):  # one for all, one a scene
        assert torch.equal(build_uv_index_batch(points, lens, pose, depth=depth).uv, index.uv)
    maps = features(8)
    found = sample_img_feat(torch.stack([maps, maps]), index)
    torch.testing.assert_close(found.flatten(0, 1), lift(maps, link(XYZ, SCENE, ROOM), len(XYZ)))


def test_sample_img_feat_is_grid_sample_and_zero_where_not_valid():
    f_map = features(256, 56, 56, count=1)
    index = build_uv_index(XYZ, ROOM.K[0], ROOM.pose[0], (HEIGHT, WIDTH))
    found = sample_img_feat(f_map[0], index)
    assert found.shape == (2000, 256)
    grid = to_grid(index.uv, (HEIGHT, WIDTH))
    read = F.grid_sample(f_map, grid[None, None], align_corners=False, padding_mode="border")[0, :, 0].T
    torch.testing.assert_close(found, read * index.valid[:, None], atol=1e-4, rtol=0)
    torch.testing.assert_close(sample_img_feat(f_map[0], index.uv, (HEIGHT, WIDTH)), read, atol=1e-4, rtol=0)


def test_calls_that_cannot_be_answered_say_what_to_give():
    with pytest.raises(ValueError, match=r"give size=\(H, W\)"):
        build_uv_index(XYZ, ROOM.K[0], ROOM.pose[0])
    with pytest.raises(ValueError, match="resize one"):
        build_uv_index(XYZ, ROOM.K[0], ROOM.pose[0], (3, 4), ROOM.depth[0])
    with pytest.raises(ValueError, match="build_uv_index_batch"):
        build_uv_index(XYZ[None], ROOM.K[0], ROOM.pose[0], (3, 4))
    with pytest.raises(ValueError, match="build_uv_index_batch"):
        build_uv_index(XYZ, ROOM.K[0], ROOM.pose, (3, 4))
    with pytest.raises(ValueError, match=r"\(B, N, 3\) go with poses"):
        build_uv_index_batch(XYZ, ROOM.K[0], ROOM.pose[0], (3, 4))
    with pytest.raises(ValueError, match="give each view its own"):
        build_uv_index_batch(XYZ[None], ROOM.K[0], ROOM.pose[None], depth=ROOM.depth)
    with pytest.raises(ValueError, match="do not say of which image"):
        sample_img_feat(features(4)[0], torch.zeros(5, 2))
    with pytest.raises(ValueError, match="same leading axes"):
        sample_img_feat(features(4), torch.zeros(5, 2), (3, 4))


# ----------------------------------------------------------------------------------------------- the document's chain


def test_the_chain_has_the_documents_widths_and_its_folded_form_equals_it():
    torch.manual_seed(0)
    chain = PatchChain()
    maps, found = features(768, 14, 14), link(XYZ, SCENE, ROOM)
    assert chain.expand.weight.shape[:2] == (256, 192)
    shapes = []
    chain.expand.register_forward_hook(lambda module, x, y: shapes.append(tuple(y.shape)))
    literal, folded = chain(maps, found, len(XYZ)), chain.folded()(maps, found, len(XYZ))
    assert shapes == [(5, 256, 28, 28)]
    assert literal.shape == (2000, 128)
    assert literal.dtype == torch.float32
    torch.testing.assert_close(folded, literal, atol=2e-6, rtol=0)
    assert not literal[found.counts == 0].any()
    assert literal[found.counts > 0].abs().sum(1).min() > 0


def test_the_chain_trains_and_takes_half_precision_tokens():
    chain, found = PatchChain(16, 8, 4), link(XYZ, SCENE, ROOM)
    chain(features(16, 4, 4).bfloat16(), found, len(XYZ)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in chain.parameters())
    with pytest.raises(ValueError, match=r"PixelShuffle\(2\)"):
        PatchChain(6)


@pytest.mark.gpu
def test_a_gpu_lifts_the_same():
    on_gpu = Views(*(field.cuda() for field in ROOM[:4]))
    found, wanted = link(XYZ.cuda(), SCENE.cuda(), on_gpu), link(XYZ, SCENE, ROOM)
    assert len(found.point) == pytest.approx(len(wanted.point), abs=5)
    near = lift(features(8).cuda(), found, len(XYZ)).cpu()
    close = torch.isclose(near, lift(features(8), wanted, len(XYZ)), atol=1e-3).all(1)
    assert close.float().mean() > 0.99


def test_an_index_may_be_made_by_hand():
    """conf 0 is not seen, whatever valid says."""
    index = UVIndex(torch.zeros(2, 2), torch.tensor([True, True]), torch.tensor([1.0, 0.0]), (4, 4))
    found = sample_img_feat(torch.ones(3, 2, 2), index)
    assert found.tolist() == [[1, 1, 1], [0, 0, 0]]
