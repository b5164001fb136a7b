"""The method's functions by their published names, and its chain."""

import pytest
import torch
import torch.nn.functional as F
from box_room import surface, views

from sightword.systems.points.lift.geometry import lift, link, to_grid
from sightword.systems.points.lift.uv_index import (
    PatchChain,
    UVIndex,
    build_uv_index,
    build_uv_index_batch,
    sample_img_feat,
)

ROOM = views(5)
XYZ = surface(2000)
SCENE = torch.zeros(len(XYZ), dtype=torch.int64)
HEIGHT, WIDTH = ROOM.depth.shape[1:]


def features(channels, h=9, w=12, count=5, seed=0):
    return torch.randn(count, channels, h, w, generator=torch.Generator().manual_seed(seed))


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


def test_an_index_may_be_made_by_hand():
    """conf 0 is not seen, whatever valid says."""
    index = UVIndex(torch.zeros(2, 2), torch.tensor([True, True]), torch.tensor([1.0, 0.0]), (4, 4))
    found = sample_img_feat(torch.ones(3, 2, 2), index)
    assert found.tolist() == [[1, 1, 1], [0, 0, 0]]
