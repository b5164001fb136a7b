import pytest
import torch
from points_fakes import batch_of, wall

from sightword.systems.points.lift.geometry import Links, at_links, link
from sightword.systems.points.task import ClipConsCriterion, agreement, distillation


def two_views(angle, points=1):
    """Links of points to two maps of one cell each, whose vectors enclose an angle."""
    angle = torch.tensor(float(angle))
    maps = torch.stack([torch.tensor([1.0, 0.0]), 3 * torch.stack([angle.cos(), angle.sin()])])[:, :, None, None]
    point, view = torch.arange(points).repeat_interleave(2), torch.tensor([0, 1]).repeat(points)
    uv = torch.zeros(2 * points, 2)
    return maps, Links(point, view, uv, torch.full((2 * points,), 0.5), 2 * torch.arange(points), (1, 1))


def test_two_views_of_a_point_are_apart_by_one_less_their_cosine():
    maps, links = two_views(1.0)
    assert ClipConsCriterion()(maps, links, 1).item() == pytest.approx(1 - torch.tensor(1.0).cos().item(), abs=1e-6)
    alike, _ = two_views(0.0)
    assert ClipConsCriterion()(alike, links, 1).item() == pytest.approx(0, abs=1e-6)


def test_agreement_is_the_mean_over_all_pairs_of_views():
    xyz, _, scene, views, maps, _ = batch_of(wall(60, views=4))
    links = link(xyz, scene, views)
    found, twice = agreement(maps, links, 60)
    units = torch.nn.functional.normalize(at_links(maps, links), dim=1)
    assert 0 < twice.sum() < 60
    for point in range(60):
        own = units[links.point == point]
        assert twice[point] == (len(own) > 1)
        if len(own) > 1:
            cosines = own @ own.T
            pairs = cosines[~torch.eye(len(own), dtype=torch.bool)]
            assert found[point].item() == pytest.approx(pairs.mean().item(), abs=1e-5)


def test_a_point_that_one_view_sees_or_none_counts_for_nothing():
    maps, links = two_views(1.0)
    once = links._replace(point=torch.tensor([0, 1]), offset=torch.tensor([0, 1, 2]))
    assert ClipConsCriterion()(maps, once, 3).item() == 0
    nowhere = Links(*(part[:0] for part in links[:4]), torch.zeros(3, dtype=torch.int64), (1, 1))
    assert ClipConsCriterion()(maps, nowhere, 3).item() == 0


def test_frozen_features_get_no_gradient_and_trainable_ones_do():
    maps, links = two_views(1.0)
    assert not ClipConsCriterion()(maps, links, 1).requires_grad
    reduce = torch.nn.Conv2d(2, 2, 1, bias=False)
    ClipConsCriterion()(reduce(maps), links, 1).backward()
    assert reduce.weight.grad.abs().max() > 0.01
    frozen = maps.requires_grad_()
    reduce.zero_grad()
    ClipConsCriterion()(reduce(frozen.detach()), links, 1).backward()
    assert frozen.grad is None


def test_a_constant_map_satisfies_it_so_it_cannot_stand_alone():
    maps, links = two_views(2.0)
    assert ClipConsCriterion()(torch.ones_like(maps), links, 1).item() == pytest.approx(0, abs=1e-6)


def test_distillation_is_one_less_cosine_over_what_is_seen():
    clip = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    text = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    loss = distillation(text, clip, torch.tensor([True, True, False]))
    assert loss.item() == pytest.approx((0.4 + 0) / 2, abs=1e-6)
    loss.backward()
    assert text.grad[0].any()
    assert not text.grad[2].any()


def test_distillation_of_a_scene_of_which_nothing_is_seen_is_zero_with_a_zero_gradient():
    text = torch.randn(3, 4, requires_grad=True)
    loss = distillation(text, torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not text.grad.any()
