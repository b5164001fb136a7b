"""Metrics of weighted items equal those of copied items, by the functions that evaluators use."""

import numpy as np
import pytest
import torch

from sightword.metrics import classes, multilabel, segmentation, weighted

RNG = np.random.default_rng(0)
ITEMS, CLASSES = 40, 5
WEIGHTS = RNG.integers(0, 4, (6, ITEMS)).astype(float)
WEIGHTS[0] = 1


def copied(values, weights):
    """Repeat each item as often as it counts."""
    return torch.from_numpy(np.repeat(values, weights.astype(int), axis=0))


def expected(function, *arrays):
    return [float(function(*(copied(each, row) for each in arrays))) for row in WEIGHTS]


TARGETS = RNG.random((ITEMS, CLASSES)) < 0.3
SCORES = RNG.random((ITEMS, CLASSES)).round(1)  # with equal ones
TARGETS[:, 4] = False  # a class without positives


@pytest.mark.parametrize("average", ["macro", "micro", "samples"])
def test_f1_is_that_of_copies(average):
    found = weighted.f1(SCORES > 0.6, TARGETS, WEIGHTS, average)
    assert found == pytest.approx(expected(lambda p, t: multilabel.f1(p, t, average), SCORES > 0.6, TARGETS), abs=1e-9)


@pytest.mark.parametrize("interpolated", [False, True])
def test_average_precision_is_that_of_copies(interpolated):
    found = weighted.mean_average_precision(SCORES, TARGETS, WEIGHTS, interpolated)
    wanted = expected(lambda s, t: multilabel.mean_average_precision(s, t, interpolated), SCORES, TARGETS)
    assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_is_that_of_copies_and_equal_scores_share_ranks(k):
    labels = RNG.integers(0, CLASSES, ITEMS)
    found = weighted.mean(weighted.top_k(SCORES, labels, k), WEIGHTS)
    assert found == pytest.approx(expected(lambda s, one: classes.top_k(s, one, k), SCORES, labels), abs=1e-9)


def test_mean_class_accuracy_is_that_of_copies_where_some_draws_lack_a_class():
    labels = np.minimum(RNG.integers(0, CLASSES, ITEMS), 3)
    labels[:1] = 4  # of one item, which some draws leave out
    assert (WEIGHTS[:, 0] == 0).any()
    predicted = SCORES.argmax(1)
    wanted = expected(
        lambda p, t: classes.mean_class_accuracy(classes.confusion_matrix(p, t, CLASSES)), predicted, labels
    )
    assert weighted.mean_class_accuracy(predicted == labels, labels, WEIGHTS) == pytest.approx(wanted, abs=1e-9)


def test_iou_and_accuracy_are_those_of_added_counts():
    counts = RNG.integers(0, 9, (ITEMS, CLASSES, CLASSES + 1))
    counts[:, 3] = 0  # a class without elements
    for own, theirs in ((weighted.mean_iou, segmentation.mean_iou), (weighted.accuracy, segmentation.accuracy)):
        wanted = expected(lambda c, theirs=theirs: theirs(c.sum(0)), counts)
        assert own(counts, WEIGHTS) == pytest.approx(wanted, abs=1e-9)


def test_nothing_that_counts_is_nan():
    none = np.zeros((1, ITEMS))
    assert np.isnan(weighted.mean(np.ones(ITEMS), none)).all()
    assert np.isnan(weighted.mean_average_precision(SCORES, TARGETS, none)).all()
