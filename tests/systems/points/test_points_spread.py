"""Lifted CLIP averaged over like points: what is averaged, with what weights, and where nothing changes."""

import math

import pytest
import torch
import torch.nn.functional as F
from points_fakes import batch_for, batch_of, task_for, wall

from sightword.systems.points import spread as module
from sightword.systems.points.model import TRUST, BiFusionEncoder
from sightword.systems.points.spread import spread

AXES = torch.eye(4)


def room(*points):
    """Points (x, grey, axis of the feature or None, confidence) of one scene, as `spread` takes them."""
    x, grey, axis, conf = zip(*points, strict=True)
    xyz = torch.tensor(x, dtype=torch.float32)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    rgb = torch.tensor(grey, dtype=torch.float32)[:, None].expand(-1, 3)
    features = torch.stack([torch.zeros(4) if number is None else AXES[number] for number in axis])
    return xyz, rgb, torch.zeros(len(x), dtype=torch.int64), features, torch.tensor(conf, dtype=torch.float32)


def test_the_weights_are_gaussians_of_distance_and_colour_times_confidence():
    found = spread(*room((0.0, 0.0, None, 0.0), (1.0, 0.0, 0, 0.5), (0.0, 0.2, 1, 1.0)), (1.0, 0.2))
    near, like = 0.5 * math.exp(-1 / 2), math.exp(-3 / 2)  # one metre; three channels of 0.2
    torch.testing.assert_close(found[0], F.normalize(torch.tensor([near, like, 0.0, 0.0]), dim=0))


def test_a_point_without_any_like_it_keeps_its_own_feature():
    found = spread(*room((0.0, 0.0, 0, 1.0), (0.1, 1.0, 1, 1.0), (9.0, 0.0, 2, 0.1)), (0.5, 0.05))
    torch.testing.assert_close(found, AXES[:3], atol=1e-6, rtol=0)


def test_a_lonely_mistake_is_outvoted_by_its_surface():
    surface = [(0.01 * number, 0.5, 0, 0.8) for number in range(20)]
    found = spread(*room(*surface, (0.1, 0.5, 1, 0.8)), (0.5, 0.1))
    assert (found.argmax(1) == 0).all()


def test_scenes_do_not_interact_and_one_that_no_view_shows_has_nothing():
    xyz, rgb, _, features, conf = room((0.0, 0.0, 0, 1.0), (0.0, 0.0, None, 0.0), (0.0, 0.0, None, 0.0))
    found = spread(xyz, rgb, torch.tensor([0, 0, 1]), features, conf, (1.0, 1.0))
    torch.testing.assert_close(found, torch.stack([AXES[0], AXES[0], torch.zeros(4)]))


def test_a_room_far_from_the_origin_is_the_same_room():
    points = room(*[(0.1 * number, 0.1 * (number % 3), number % 2, 0.5) for number in range(12)])
    moved = (points[0] + 10_000, *points[1:])
    torch.testing.assert_close(spread(*moved, (0.3, 0.1)), spread(*points, (0.3, 0.1)), atol=1e-2, rtol=0)


def test_many_points_are_averaged_over_a_part_of_them_that_stands_for_all(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    points = [(float(x), 0.0, int(x > 1), 0.5) for x in torch.rand(400, generator=generator) * 2]
    whole = spread(*room(*points), (0.5, 0.1))
    monkeypatch.setattr(module, "MOST", 100)
    monkeypatch.setattr(module, "ROWS", 64)
    assert (whole * spread(*room(*points), (0.5, 0.1))).sum(1).min() > 0.97


# ----------------------------------------------------------------------------------------------------- in the encoder


def encoder(**values):
    torch.manual_seed(0)
    return BiFusionEncoder(**{"clip_dim": 8, "dim": 16, "heads": 2, "radius": 0.3, "k": 6, "use_amp": False, **values})


def test_the_network_corrects_unseen_points_and_next_to_nothing_where_views_show_one():
    out = encoder(spread=(0.5, 1.0)).eval()(*batch_of(wall(60)))
    moved = 1 - (out.text * out.spread).sum(1)
    assert moved[out.seen].max() < 0.02 < moved[~out.seen].min()
    torch.testing.assert_close(out.text[~out.seen], F.normalize(out.spread + out.head, dim=1)[~out.seen])
    views = torch.zeros(60).index_add(0, out.links.point, out.links.conf)
    wanted = F.normalize(out.spread + (TRUST / (TRUST + views))[:, None] * out.head, dim=1)
    torch.testing.assert_close(out.text, wanted)


def test_without_it_the_encoder_is_the_documents():
    plain, other = encoder(), encoder(spread=(0.5, 1.0))
    assert list(plain.state_dict()) == list(other.state_dict())
    room = batch_of(wall(60))
    out = plain(*room)
    assert out.spread is None
    assert torch.equal(out.text, out.head)
    assert torch.equal(out.head, other(*room).head)


def test_a_room_that_no_view_shows_is_described_by_the_network_alone():
    out = encoder(spread=(0.5, 1.0))(*batch_of(wall(20, hidden=1.0)))
    assert not out.seen.any()
    torch.testing.assert_close(out.text, out.head)


def test_it_is_distilled_from_the_mean_and_not_from_its_own_input():
    task, batch = task_for(spread=[0.5, 1.0]), batch_for()
    out, _ = task.encode(batch)
    wanted = (1 - (out.head * out.spread).sum(1))[out.seen].mean()
    assert task.losses(batch)["distil_loss"].item() == pytest.approx(wanted.item(), abs=1e-6)
    task.total(task.losses(batch)).backward()
    assert all(parameter.grad is not None for parameter in task.model.head.parameters())
