"""The ball query is exact: row by row what comparing all pairs gives."""

import pytest
import torch
from box_room import surface

from sightword.systems.points.lift import geometry
from sightword.systems.points.lift.geometry import ball_query


def brute(query, points, radius, k, query_scene=None, point_scene=None):
    """By all pairs: squared distances in the same order of additions, sorted, of equals the lowest row first."""
    x, y, z = ((query[:, None, axis] - points[None, :, axis]) ** 2 for axis in range(3))
    square = x + y + z
    if query_scene is not None:
        square[query_scene[:, None] != point_scene] = torch.inf
    square, index = square.sort(dim=1, stable=True)
    mask = square[:, :k] <= torch.tensor(radius**2)
    mask = torch.nn.functional.pad(mask, (0, k - mask.shape[1]))
    index = torch.nn.functional.pad(index[:, :k], (0, k - min(k, len(points))))
    return index.where(mask, 0), mask


def assert_equal(found, wanted):
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[0], wanted[0])


def normal(count, spread, seed=0):
    return spread * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("points", "radius", "k"),
    [
        (surface(3000), 0.1, 16),
        (surface(3000), 0.4, 16),
        (normal(1500, 0.05), 0.1, 16),  # far more than k in every ball
        (normal(1500, 20.0), 0.1, 16),  # mostly alone
        (surface(2000) + 1000.0, 0.2, 5),  # where float32 is a tenth of a millimetre
        (normal(40, 0.05), 0.3, 64),  # fewer points than k
    ],
)
def test_neighbours_are_those_of_all_pairs(points, radius, k):
    found = ball_query(points, points, radius, k)
    assert_equal(found, brute(points, points, radius, k))
    assert (found[0][:, 0] == torch.arange(len(points))).all()  # each is its own first


def test_queries_may_be_elsewhere_than_points():
    points, query = surface(2000), torch.cat([surface(500, seed=1), normal(20, 30.0)])
    assert_equal(ball_query(query, points, 0.2, 8), brute(query, points, 0.2, 8))


def test_equals_come_in_the_points_own_order():
    """A lattice has many at the same distance, on the sphere itself too, and doubles are at distance 0."""
    steps = torch.arange(6.0) * 0.25  # exact in float32
    points = torch.cartesian_prod(steps, steps, steps)
    points = torch.cat([points, points])[torch.randperm(432, generator=torch.Generator().manual_seed(0))]
    for radius in (0.25, 0.5):
        found = ball_query(points, points, radius, 12)
        assert_equal(found, brute(points, points, radius, 12))
    assert found[1].all()


def test_scenes_do_not_see_each_other_and_a_batch_is_scene_by_scene():
    scenes = [surface(700, seed) for seed in range(3)]
    queries = [surface(100, seed + 10) for seed in range(3)]
    points, query = torch.cat(scenes), torch.cat(queries)
    point_scene, query_scene = torch.arange(3).repeat_interleave(700), torch.arange(3).repeat_interleave(100)
    index, mask = ball_query(query, points, 0.5, 6, query_scene, point_scene)
    assert_equal((index, mask), brute(query, points, 0.5, 6, query_scene, point_scene))
    for number in range(3):
        alone, real = ball_query(queries[number], scenes[number], 0.5, 6)
        own = slice(100 * number, 100 * number + 100)
        assert torch.equal(mask[own], real)
        assert torch.equal(index[own], torch.where(real, alone + 700 * number, 0))


def test_scenes_may_lie_in_any_order():
    points = surface(900)
    scene = torch.randint(0, 3, (900,), generator=torch.Generator().manual_seed(0))
    assert_equal(ball_query(points, points, 0.4, 8, scene, scene), brute(points, points, 0.4, 8, scene, scene))


def test_a_crowd_is_looked_at_in_parts(monkeypatch):
    """No more pairs at once than NEAR_PAIRS, or one query's; and the same rows."""
    points = normal(400, 0.02)
    wanted = ball_query(points, points, 0.1, 16)
    sizes = []
    near = geometry._near

    def watched(ours, *rest):
        found = near(ours, *rest)
        sizes.append((ours.shape[1], int(rest[2].sum())))
        return found

    monkeypatch.setattr(geometry, "NEAR_PAIRS", 1000)
    monkeypatch.setattr(geometry, "_near", watched)
    assert_equal(ball_query(points, points, 0.1, 16), wanted)
    assert len(sizes) > 100
    assert all(pairs <= 1000 or queries == 1 for queries, pairs in sizes)


def test_nothing_asked_or_nothing_there():
    points, none = surface(10), torch.zeros(0, 3)
    assert ball_query(none, points, 0.1, 4)[0].shape == (0, 4)
    index, mask = ball_query(points, none, 0.1, 4)
    assert index.shape == (10, 4)
    assert not mask.any()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"query": torch.zeros(4, 2)}, r"query must be \(·, 3\)"),
        ({"points": torch.tensor([[0.0, torch.nan, 0]])}, "points has coordinates that are not finite"),
        ({"points": torch.tensor([[0.0, 1e20, 0], [1e20, 0, 1e20]])}, "for outliers"),
        ({"query_scene": torch.zeros(5, dtype=torch.int64)}, "or neither"),
        ({"query_scene": torch.zeros(4, dtype=torch.int64), "point_scene": torch.zeros(4)}, "differ in length"),
        ({"radius": 0.0}, "radius must be above 0"),
    ],
)
def test_what_cannot_be_asked_is_said(change, complaint):
    asked = {"query": surface(5), "points": surface(5), "radius": 0.1, "k": 4} | change
    with pytest.raises(ValueError, match=complaint):
        ball_query(**asked)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_rows():
    points = surface(20_000)
    found = ball_query(points.cuda(), points.cuda(), 0.1, 16)
    assert_equal([tensor.cpu() for tensor in found], ball_query(points, points, 0.1, 16))
