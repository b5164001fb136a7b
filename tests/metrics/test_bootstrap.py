"""Intervals by a cluster bootstrap, against copied rows and against how often they hold the truth."""

import math

import numpy as np
import pytest

from sightword.metrics import weighted
from sightword.metrics.bootstrap import (
    CELLS,
    DRAWS,
    drawn_values,
    holm,
    interval_of,
    item_weights,
    seed_weights,
    share_beyond_zero,
)


def mean_of(values):
    return lambda weights: weighted.mean(values, weights)


def test_clusters_are_drawn_whole():
    clusters = np.array(["a", "b", "a", "c", "b", "a"])
    weights = np.concatenate(list(item_weights(clusters, 50)))
    assert (weights[:, clusters == "a"].std(1) == 0).all()
    assert (weights[:, clusters == "b"].std(1) == 0).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()  # three clusters of three are drawn each time


def test_draws_do_not_depend_on_blocks(monkeypatch):
    clusters, values = np.arange(30).astype(str), np.random.default_rng(1).random(30)
    whole = drawn_values([mean_of(values)], clusters, 40)
    assert CELLS > 30 * 40
    monkeypatch.setattr("sightword.metrics.bootstrap.CELLS", 30 * 7)
    assert drawn_values([mean_of(values)], clusters, 40) == pytest.approx(whole)


def test_an_interval_is_that_of_copied_rows():
    """Of a non-linear metric, macro F1, with clusters of unlike sizes, of a run."""
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(30), rng.integers(1, 5, 30))
    targets = rng.random((len(clusters), 4)) < 0.4
    predicted = [targets ^ (rng.random(targets.shape) < wrong) for wrong in (0.2,)]
    metrics = [lambda weights, p=each: weighted.f1(p, targets, weights) for each in predicted]
    found = interval_of([0.0], drawn_values(metrics, clusters.astype(str), 2000))

    means = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(clusters == one) for one in rng.integers(0, 30, 30)])
        once = np.ones((1, len(rows)))
        means.append(weighted.f1(predicted[0][rows], targets[rows], once)[0])
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert high - low > 0.08


@pytest.mark.parametrize("size", [1, 4])
def test_intervals_hold_the_truth_about_as_often_as_they_say(size):
    """400 samples of 50 clusters, whose items are alike: drawn one by one, intervals of four would hold it in 67 %."""
    rng, inside, clusters = np.random.default_rng(3), 0, np.repeat(np.arange(50), size).astype(str)
    weights = np.concatenate(list(item_weights(clusters, 300)))
    for _ in range(400):
        values = np.repeat(rng.normal(size=50), size)
        found = interval_of([0.0], mean_of(values)(weights)[None])
        inside += found.low <= 0 <= found.high
    assert 0.91 <= inside / 400 <= 0.98


def test_seeds_are_drawn_with_replacement_and_alike_for_all():
    weights = seed_weights(3, 500)
    assert weights.sum(0) == pytest.approx(np.ones(500))
    assert len(np.unique(weights.round(6))) == 4  # drawn 0, 1, 2 or 3 times
    assert np.array_equal(weights, seed_weights(3, 500))


def test_a_difference_of_paired_items_is_found_where_single_intervals_overlap():
    rng, clusters = np.random.default_rng(4), np.arange(80).astype(str)
    base = rng.normal(0, 10, 80)
    draws = drawn_values([mean_of(base), mean_of(base + rng.normal(1, 0.5, 80))], clusters, 500)
    one, other = interval_of([0], draws[:1]), interval_of([0], draws[1:])
    assert one.high > other.low
    assert interval_of([0], draws[1:] - draws[:1]).low > 0
    assert share_beyond_zero(draws[1:] - draws[:1]) == pytest.approx(2 / 501)
    assert share_beyond_zero(np.zeros((1, 500))) == 1


def test_holm_is_that_of_the_publication():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_where_seeds_alone_differ_an_interval_of_three_is_as_wide_as_students_t():
    values = np.array([0.0, 1.0, 2.0])
    found = interval_of(values.tolist(), np.repeat(values[:, None], DRAWS, 1))
    half = 4.303 * values.std(ddof=1) / math.sqrt(3)
    assert found.value == 1
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.25)  # three seeds have few different draws


def test_seeds_that_differ_by_chance_alone_are_seldom_told_apart():
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(200):
        draws = np.repeat(rng.normal(size=(3, 1)), 400, 1) + 0.05 * rng.normal(size=(3, 400))
        low, high = interval_of(draws.mean(1).tolist(), draws)[1:]
        wrong += low > 0 or high < 0
    assert wrong <= 24
