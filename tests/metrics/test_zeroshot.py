"""Zero-shot accuracies against counting by hand, and against a search over many γ."""

import numpy as np
import pytest

from sightword.errors import SightwordError
from sightword.metrics.zeroshot import (
    ausuc,
    best_gamma,
    curve,
    generalised,
    outcome,
    without_class_means,
    zero_shot,
)

UNSEEN = np.array([False, False, True, True])


def random_scores(seed=0, count=60, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    return rng.normal(size=(count, classes)) + 1.2 * np.eye(classes)[labels], labels


def by_hand(scores, labels, gamma):
    """A_S and A_U, one item after the other."""
    right = {True: [], False: []}
    for row, label in zip(scores, labels, strict=True):
        right[bool(UNSEEN[label])].append(int(np.argmax(row - gamma * ~UNSEEN)) == label)
    return float(np.mean(right[False])), float(np.mean(right[True]))


@pytest.mark.parametrize("gamma", [-2.0, -0.3, 0.0, 0.4, 3.0])
def test_accuracies_are_those_of_the_argmax_after_gamma_is_taken_off_the_seen_classes(gamma):
    scores, labels = random_scores()
    found = generalised(outcome(scores, labels, UNSEEN), gamma)
    seen, unseen = by_hand(scores, labels, gamma)
    assert (found.seen, found.unseen) == pytest.approx((seen, unseen))
    assert found.harmonic == pytest.approx(2 * seen * unseen / (seen + unseen) if seen + unseen else 0)


def test_zsl_is_among_unseen_classes_alone():
    scores = np.array([[9, 0, 2, 1], [9, 0, 2, 1], [0, 0, 0, 9]], float)
    assert zero_shot(outcome(scores, np.array([2, 3, 0]), UNSEEN)) == pytest.approx(0.5)


def test_the_curve_runs_from_all_seen_to_all_unseen_and_its_area_is_that_of_many_gammas():
    scores, labels = random_scores(1)
    found = outcome(scores, labels, UNSEEN)
    points = curve(found)
    assert points[0, 1] == 0
    assert points[-1, 2] == 0
    assert points[-1, 1] == pytest.approx(zero_shot(found))
    many = np.array([by_hand(scores, labels, gamma) for gamma in np.linspace(-8, 8, 4001)])
    area = float(((many[1:, 1] - many[:-1, 1]) * (many[1:, 0] + many[:-1, 0]) / 2).sum())
    assert ausuc(found) == pytest.approx(area, abs=0.01)


def test_the_chosen_gamma_has_the_highest_h_of_all():
    for seed in range(5):
        scores, labels = random_scores(seed)
        found = outcome(scores, labels, UNSEEN)
        best = max(generalised(found, gamma).harmonic for gamma in np.linspace(-8, 8, 2001))
        assert generalised(found, best_gamma(found)).harmonic >= best - 1e-12


def test_equal_margins_change_sides_at_once():
    scores = np.array([[1, 0, 0.5, 0], [0, 0, 1, 0], [1, 0, 0.5, 0]], float)
    points = curve(outcome(scores, np.array([0, 2, 0]), UNSEEN))
    assert points[:, 2].tolist() == [1, 1, 0]


def test_weights_count_items_several_times():
    scores, labels = random_scores(2, 20)
    weights = np.random.default_rng(0).integers(0, 3, 20)
    weighted = outcome(scores, labels, UNSEEN)._replace(weight=weights.astype(float))
    repeated = outcome(scores.repeat(weights, 0), labels.repeat(weights), UNSEEN)
    assert generalised(weighted, 0.1) == pytest.approx(generalised(repeated, 0.1))
    assert ausuc(weighted) == pytest.approx(ausuc(repeated))


def test_a_class_that_is_near_to_everything_loses_its_advantage():
    scores, labels = random_scores(3)
    hub = scores + np.array([0, 0, 5, 0])
    plain, centred = (zero_shot(outcome(each, labels, UNSEEN)) for each in (hub, without_class_means(hub)))
    assert centred > plain + 0.2


@pytest.mark.parametrize(
    ("scores", "labels", "unseen", "said"),
    [
        (np.zeros((1, 2)), [0], [False, False], "0 of 2 classes are unseen"),
        (np.zeros((1, 2)), [0], [True, True], "2 of 2 classes are unseen"),
        (np.zeros((1, 2)), [2], [False, True], "labels run from 2 to 2"),
        (np.full((1, 2), np.nan), [0], [False, True], "not finite"),
    ],
)
def test_what_cannot_be_measured_is_a_line(scores, labels, unseen, said):
    with pytest.raises(SightwordError, match=said):
        outcome(scores, np.array(labels), np.array(unseen))


def test_a_gamma_that_helps_nobody_is_refused():
    scores = np.array([[0, 1, 0, 1]], float).repeat(2, 0)
    with pytest.raises(SightwordError, match="H is 0 for each"):
        best_gamma(outcome(scores, np.array([0, 2]), UNSEEN))
