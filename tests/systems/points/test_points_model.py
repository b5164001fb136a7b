import math

import points_fakes
import pytest
import torch
import torch.nn.functional as F
from points_fakes import batch_of, wall

from sightword.systems.points.lift.geometry import link
from sightword.systems.points.model import (
    BiFusionEncoder,
    FusionGate,
    ReduceByChain,
    TinySA2D,
    TinySAModule,
    build_geo_pe,
    centred,
)


def encoder(seed=0, **values):
    torch.manual_seed(seed)
    return BiFusionEncoder(8, **{"dim": 16, "heads": 2, "radius": 0.3, "k": 6, "use_amp": False, **values})


# ---------------------------------------------------------------------------------------------------- the 3-D branch


def test_geo_pe_is_sines_and_cosines_of_waves_that_halve():
    found = build_geo_pe(torch.tensor([[1.6, 0.0, 0.8]]), bands=2, longest=6.4)
    quarter = math.pi / 2  # 1.6 m of 6.4 m
    phases = [quarter, 2 * quarter, 0, 0, quarter / 2, quarter]
    wanted = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
    torch.testing.assert_close(found, torch.tensor([wanted]), atol=1e-6, rtol=0)
    assert build_geo_pe(torch.zeros(5, 3)).shape == (5, 36)


def test_a_scene_is_centred_over_its_own_floor():
    xyz = torch.tensor([[0.0, 0, 1], [2, 4, 3], [10, 10, -1]])
    found = centred(xyz, torch.tensor([0, 0, 1]), 2)
    assert found.tolist() == [[-1, -2, 0], [1, 2, 2], [0, 0, 0]]


def test_attention_of_a_point_is_softmax_over_its_real_neighbours():
    torch.manual_seed(0)
    layer = TinySAModule(8, heads=2).double()
    x, xyz = torch.randn(5, 8).double(), torch.randn(5, 3).double()
    index = torch.tensor([[0, 1, 2], [1, 4, 0], [2, 0, 0], [3, 0, 0], [4, 3, 2]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    normed = layer.norm(x)
    query, (key, value) = layer.query(normed), layer.key_value(normed).chunk(2, dim=1)
    rows = []
    for n in range(5):
        some = index[n][mask[n]]
        offset = (xyz[some] - xyz[n]) / 0.5
        bias = layer.bias(torch.cat([offset, offset.norm(dim=1, keepdim=True)], 1))  # (neighbours, heads)
        parts = []
        for head in range(2):
            at = slice(4 * head, 4 * head + 4)
            scores = key[some][:, at] @ query[n, at] / 2 + bias[:, head]
            parts.append(scores.softmax(0) @ value[some][:, at] if len(some) else torch.zeros(4).double())
        rows.append(torch.cat(parts))
    wanted = x + layer.out(torch.stack(rows))
    wanted = wanted + layer.mlp(wanted)
    torch.testing.assert_close(layer(x, xyz, index, mask, 0.5), wanted)


def test_points_that_attend_in_parts_are_as_points_that_attend_at_once(monkeypatch):
    model, scene = encoder(), batch_of(wall(40))
    whole = model(*scene[:5])
    monkeypatch.setattr("sightword.systems.points.model.ROWS", 7)
    torch.testing.assert_close(model(*scene[:5]).point, whole.point, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------- the 2-D branch


def test_a_neck_keeps_the_shape_and_every_cell_sees_every_other():
    torch.manual_seed(0)
    neck, maps = TinySA2D(8, heads=2), torch.randn(2, 8, 4, 6)
    found = neck(maps)
    assert found.shape == maps.shape
    maps[0, :, 0, 0] += 1
    change = (neck(maps) - found).abs().amax(1)
    assert (change[0] > 0).all()
    assert (change[1] == 0).all()


@pytest.mark.parametrize("upsample", [1, 2, 4])
def test_upsampled_maps_have_so_many_cells(upsample):
    model = encoder(upsample=upsample)
    xyz, rgb, scene, views, maps, pooled = batch_of(wall(30))
    assert model(xyz, rgb, scene, views, maps, pooled).maps.shape == (3, 16, 3 * upsample, 4 * upsample)


def test_the_documents_chain_before_sampling_is_the_chain_after_it():
    torch.manual_seed(0)
    chain = ReduceByChain(8, 16)
    xyz, _, scene, views, maps, _ = batch_of(wall(50))
    from sightword.systems.points.lift.geometry import lift

    links = link(xyz, scene, views)
    seen = links.counts > 0
    assert 0 < seen.sum() < 50
    with torch.no_grad():
        torch.testing.assert_close(
            lift(chain(maps), links, 50)[seen], chain.chain(maps, links, 50)[seen], atol=1e-5, rtol=0
        )


def test_an_encoder_by_the_chain_gives_points_of_the_same_width():
    model = encoder(chain=True)
    assert model(*batch_of(wall(30))[:5]).point.shape == (30, 16)


# --------------------------------------------------------------------------------------------------------- the gate


def test_the_gate_gives_exactly_the_geometry_where_nothing_was_seen():
    torch.manual_seed(0)
    gate, f3, f2 = FusionGate(16), torch.randn(40, 16), torch.randn(40, 16)
    weight = torch.rand(40) * (torch.arange(40) % 2)
    f2[2] = torch.nan  # whatever stands there
    found = gate(f3, f2, weight)
    assert torch.equal(found[::2], f3[::2])
    assert (found[1::2] != f3[1::2]).any(1).all()
    low, high = torch.minimum(f3, f2)[1::2], torch.maximum(f3, f2)[1::2]
    assert ((found[1::2] >= low) & (found[1::2] <= high)).all()  # a mixture of the two, channel by channel


def test_an_unseen_point_is_its_geometry_and_says_nothing_of_the_maps():
    model = encoder()
    xyz, rgb, scene, views, maps, pooled = batch_of(wall(60))
    out = model(xyz, rgb, scene, views, maps, pooled)
    assert 0 < out.seen.sum() < 60
    assert torch.equal(out.point[~out.seen], model.geometry(xyz, rgb, scene, 1)[~out.seen])
    assert (out.clip[~out.seen] == 0).all()
    assert (out.conf[~out.seen] == 0).all()
    other = model(xyz, rgb, scene, views, torch.randn_like(maps), pooled)
    assert torch.equal(other.text[~out.seen], out.text[~out.seen])
    assert (other.text[out.seen] != out.text[out.seen]).any(1).all()


def test_a_hidden_point_is_fused_as_if_unseen_and_told_as_it_is():
    model, room = encoder(), batch_of(wall(60))
    hidden = torch.arange(60) % 2 == 0
    whole, out = model(*room), model(*room, hidden=hidden)
    assert torch.equal(out.point[hidden], model.geometry(*room[:3], 1)[hidden])
    assert torch.equal(out.point[~hidden], whole.point[~hidden])
    for name in ("clip", "seen", "conf"):
        assert torch.equal(getattr(out, name), getattr(whole, name))


# ------------------------------------------------------------------------------------------------------- the whole


@pytest.mark.parametrize(("neck", "upsample", "layers"), [(0, 1, 2), (1, 2, 1), (0, 1, 0)])
def test_batched_equals_scene_by_scene(neck, upsample, layers):
    model = encoder(neck=neck, upsample=upsample, layers=layers).eval()
    rooms = [wall(60, 3, 0), wall(25, 1, 1), wall(90, 5, 2, hidden=0)]
    with torch.no_grad():
        both = model(*batch_of(*rooms))
        apart = [model(*batch_of(room)) for room in rooms]
    for name in ("point", "text", "clip", "conf", "seen", "maps", "clip_global"):
        alone = torch.cat([getattr(out, name) for out in apart])
        torch.testing.assert_close(getattr(both, name), alone, atol=1e-6, rtol=0, msg=name)


def test_what_comes_out_has_the_shapes_it_says():
    model = encoder()
    out = model(*batch_of(wall(60), wall(20, 1, 1)))
    assert (out.point.shape, out.text.shape, out.clip.shape) == ((80, 16), (80, 8), (80, 8))
    assert out.clip_global.shape == (2, 8)
    torch.testing.assert_close(out.text.norm(dim=1), torch.ones(80))
    torch.testing.assert_close(out.clip[out.seen].norm(dim=1), torch.ones(int(out.seen.sum())))
    assert encoder(clip_global=False)(*batch_of(wall(60))).clip_global is None


def test_clip_global_is_the_mean_of_a_scenes_image_vectors():
    room = wall(20, 2)
    out = encoder()(*batch_of(room, wall(20, 1, 1)))
    wanted = F.normalize(F.normalize(room[4], dim=1).mean(0), dim=0)
    torch.testing.assert_close(out.clip_global[0], wanted)


@pytest.mark.parametrize("values", [{}, {"neck": 2, "upsample": 2}, {"layers": 0}, {"chain": True}])
def test_every_parameter_gets_a_finite_gradient(values):
    model = encoder(**values)
    out = model(*batch_of(wall(60), wall(20, 1, 1)))
    (out.text * torch.randn_like(out.text)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    idle = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert not idle


def test_no_gradient_reaches_clips_maps():
    model = encoder()
    xyz, rgb, scene, views, maps, pooled = batch_of(wall(60))
    out = model(xyz, rgb, scene, views, maps.requires_grad_(), pooled)
    out.text.sum().backward()
    assert maps.grad is None
    assert not out.clip.requires_grad


def test_half_precision_on_the_cpu_stays_near_and_comes_out_whole():
    room = batch_of(wall(60))
    exact, half = encoder(neck=1), encoder(neck=1, use_amp=True)
    one, other = exact(*room), half(*room)
    assert other.maps.dtype == other.point.dtype == other.text.dtype == torch.float32
    assert (one.maps != other.maps).any()
    torch.testing.assert_close(other.point, one.point, atol=0.1, rtol=0)
    torch.testing.assert_close(other.clip, one.clip)
    other.text.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters())


def test_the_whole_step_in_bfloat16_does_not_break():
    model = encoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(*batch_of(wall(60)))
        (1 - out.text[:, 0]).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------- edges


def test_fewer_points_than_neighbours_and_a_single_one_are_served():
    model = encoder(k=16)
    for count in (1, 3):
        out = model(*batch_of(wall(count, hidden=0)))
        assert out.text.shape == (count, 8)
        assert out.text.isfinite().all()
    few = encoder(k=3)
    torch.testing.assert_close(  # the thirteen that are not there weigh nothing
        model(*batch_of(wall(3, hidden=0))).point, few(*batch_of(wall(3, hidden=0))).point, atol=1e-6, rtol=0
    )


def test_a_scene_of_which_nothing_is_seen_gets_words_by_its_geometry():
    model = encoder()
    out = model(*batch_of(wall(20, hidden=1.0), wall(20, 2, 1)))
    assert not out.seen[:20].any()
    assert out.text.isfinite().all()
    alone = model(*batch_of(wall(20, hidden=1.0)))
    torch.testing.assert_close(alone.text, out.text[:20], atol=1e-6, rtol=0)


def test_a_scene_without_a_view_is_served():
    xyz, rgb, views, maps, pooled = wall(20)
    none = (xyz, rgb, type(views)(*(part[:0] for part in views[:4])), maps[:0], pooled[:0])
    out = encoder()(*batch_of(none, wall(20, 1, 1)))
    assert not out.seen[:20].any()
    assert (out.clip_global[0] == 0).all()
    assert encoder()(*batch_of(none)).text.isfinite().all()


def test_maps_of_another_clip_are_refused_in_one_line():
    xyz, rgb, scene, views, _, _ = batch_of(wall(20))
    with pytest.raises(ValueError, match=r"expected maps \(3 views, 8, h, w\), got \(3, 5, 3, 4\)") as error:
        encoder()(xyz, rgb, scene, views, torch.randn(3, 5, 3, 4))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there are no points"):
        encoder()(xyz[:0], rgb[:0], scene[:0], views, torch.randn(3, 8, 3, 4))


def test_the_fakes_say_what_they_do():
    xyz, _, scene, views, _, _ = batch_of(wall(60, hidden=0.5))
    counts = link(xyz, scene, views).counts
    assert (counts[:30] == 0).all()  # behind the wall
    assert (counts[30:] > 0).sum() > 20
    assert tuple(views.depth.shape[1:]) == points_fakes.SIZE
