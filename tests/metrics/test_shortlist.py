"""A shortlist finds what an exact search finds."""

import pytest
import torch
import torch.nn.functional as F

from sightword.metrics.ranking import best
from sightword.metrics.shortlist import Shortlist


def clustered(count, dim, seed=0):
    """Unit rows (count, dim) in tight clusters: many scores are nearly equal."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, count // 50), dim, generator=rng)
    noise = 0.01 * torch.randn(count, dim, generator=rng)
    return F.normalize(centres[torch.arange(count) % len(centres)] + noise, dim=1)


@pytest.mark.parametrize(("count", "dim", "k"), [(5000, 64, 10), (300, 512, 1), (7, 16, 20), (1000, 8, 100)])
def test_it_finds_the_rows_of_an_exact_search(count, dim, k):
    rows, queries = clustered(count, dim), clustered(8, dim, seed=1)
    index = Shortlist(rows)
    exact = queries.double() @ rows.double().T
    for query, scores in zip(queries, exact, strict=True):
        found, numbers = index.search(query, k)
        wanted, order = torch.sort(scores.float(), descending=True, stable=True)
        assert torch.equal(numbers, order[:k])
        assert torch.equal(found, wanted[:k])


def test_equal_rows_come_in_their_order():
    rows = F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), dim=1).repeat(100, 1)
    _, numbers = Shortlist(rows).search(rows[1], 5)
    assert numbers.tolist() == [1, 4, 7, 10, 13]


def test_a_filter_gives_the_best_of_the_rows_that_it_leaves():
    rows = clustered(2000, 32)
    among = torch.arange(3, 2000, 15)
    scores, numbers = Shortlist(rows).search(rows[0], 10, among)
    wanted, order = best(rows[:1], rows[among], 10)
    assert torch.equal(numbers, among[order[0]])
    torch.testing.assert_close(scores, wanted[0])
    assert len(Shortlist(rows).search(rows[0], 10, among[:0])[1]) == 0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 50.0])
def test_its_error_holds_for_every_row(scale):
    rows, query = scale * clustered(4000, 256), torch.randn(256, generator=torch.Generator().manual_seed(2))
    index = Shortlist(rows)
    off = torch.mv(index.half, query.half()).double() - rows.double() @ query.double()
    assert float(off.abs().max()) <= index.error(query)


@pytest.mark.parametrize("among", [None, torch.arange(0, 3000, 7)])
def test_moments_are_those_of_all_scores(among):
    rows, queries = clustered(3000, 64), clustered(5, 64, seed=3)
    scores = queries.double() @ (rows if among is None else rows[among]).double().T
    mean, deviation = zip(*Shortlist(rows).moments(queries, among), strict=True)
    assert mean == pytest.approx(scores.mean(1).tolist(), abs=1e-6)
    assert deviation == pytest.approx(scores.std(1, correction=0).tolist(), abs=1e-6)
