"""Groups of points, and the places that a text has in a scene."""

import numpy as np
import pytest
import torch

from sightword.systems.points.place import LINK, connected, peak, places


def blob(at, count=60, seed=0):
    return torch.tensor(at) + 0.05 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2)


def test_two_chairs_are_two_places_the_better_one_first():
    xyz = torch.cat([blob([0.0, 0, 0]), blob([2.0, 0, 0.5], 80)])
    cosines = torch.cat([torch.full((60,), 0.30), torch.full((80,), 0.31)])
    first, second = places(xyz, cosines, 10)
    assert first.at == pytest.approx((2, 0, 0.5), abs=0.1)
    assert second.at == pytest.approx((0, 0, 0), abs=0.1)
    assert (first.points, second.points) == (80, 60)
    assert first.score == pytest.approx(0.31)


def test_crumbs_and_much_worse_groups_are_no_places():
    xyz = torch.cat([blob([0.0, 0, 0], 100), blob([2.0, 0, 0], 3), blob([4.0, 0, 0], 50)])
    cosines = torch.cat([torch.full((100,), 0.5), torch.full((3,), 0.6), torch.full((50,), 0.3)])
    (only,) = places(xyz, cosines, 10)
    assert only.points == 100
    assert places(xyz[:0], cosines[:0], 10) == ()


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
