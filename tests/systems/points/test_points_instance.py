"""Groups of points, and the objects that a text finds in a scene."""

import numpy as np
import pytest
import torch

from sightword.systems.points.instance import LINK, connected, find_objects, peak


def blob(at, count=60, seed=0):
    return torch.tensor(at) + 0.05 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2)


def test_two_chairs_are_two_objects_the_better_one_first():
    xyz = torch.cat([blob([0.0, 0, 0]), blob([2.0, 0, 0.5], 80)])
    cosines = torch.cat([torch.full((60,), 0.30), torch.full((80,), 0.31)])
    (first, second), object_of = find_objects(xyz, cosines, 2 * cosines, 10)
    assert first.centre == pytest.approx((2, 0, 0.5), abs=0.1)
    assert second.centre == pytest.approx((0, 0, 0), abs=0.1)
    assert (first.points, second.points) == (80, 60)
    assert (first.score, first.confidence) == (pytest.approx(0.31), pytest.approx(0.62))
    assert object_of.tolist() == [1] * 60 + [0] * 80
    assert all(0.1 < side < 0.4 for side in first.size)
    assert all(low < at < high for low, at, high in zip(first.low, first.centre, first.high, strict=True))


def test_of_several_objects_those_below_the_threshold_are_left_out():
    xyz, cosines = torch.cat([blob([0.0, 0, 0]), blob([2.0, 0, 0])]), torch.tensor([0.3, 0.31]).repeat_interleave(60)
    assert [len(find_objects(xyz, cosines, cosines, 10, least)[0]) for least in (-1, 0.305, 0.9)] == [2, 1, 1]


def test_crumbs_and_much_worse_groups_are_no_objects():
    xyz = torch.cat([blob([0.0, 0, 0], 100), blob([2.0, 0, 0], 3), blob([4.0, 0, 0], 50)])
    cosines = torch.cat([torch.full((100,), 0.5), torch.full((3,), 0.6), torch.full((50,), 0.3)])
    (only,), object_of = find_objects(xyz, cosines, cosines, 10)
    assert only.points == 100
    assert object_of.tolist() == [0] * 100 + [-1] * 53
    assert find_objects(xyz[:0], cosines[:0], cosines[:0], 10)[0] == ()


def test_groups_are_those_of_pairwise_neighbouring_cells():
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-1, 1, (120, 3)) * [2, 2, 0.3]
    found = connected(xyz, LINK)
    cells = np.floor((xyz - xyz.min(0)) / LINK)
    near = (np.abs(cells[:, None] - cells[None]).max(2) <= 1).astype(float)
    reached = np.linalg.matrix_power(near, 119) > 0  # by chains of neighbours
    assert ((found[:, None] == found[None]) == reached).all()
    assert connected(np.array([[5.0, 5, 5]]), LINK).tolist() == [0]


def test_a_peak_is_the_mean_of_the_highest():
    assert peak(torch.tensor([0.1, 0.5, 0.3]), 2) == pytest.approx(0.4)
    assert peak(torch.tensor([0.1]), 5) == pytest.approx(0.1)
    assert peak(torch.zeros(0), 5) == -1
