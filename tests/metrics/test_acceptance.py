"""Thresholds of a gallery, compared with counts on vectors whose matches are known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sightword.metrics.acceptance import RATE, Acceptance, choose, highest, limit, rates, standardised


def rows(noise, persons=150, seed=0, each=2):
    """Unit rows of images and captions of persons, alike up to noise, and the persons."""
    rng = torch.Generator().manual_seed(seed)
    person = torch.randn(persons, 24, generator=rng)
    ids = torch.arange(persons).repeat_interleave(each)
    images, texts = (person[ids] + noise * torch.randn(len(ids), 24, generator=rng) for _ in range(2))
    return F.normalize(texts, dim=1), F.normalize(images, dim=1), ids, ids


def test_the_threshold_keeps_its_rate_on_other_data_and_in_galleries_of_another_size():
    chosen = choose(*rows(0.5, seed=0))
    assert chosen.known
    for persons in (40, 150, 400):
        measured = rates(chosen, *rows(0.5, persons, seed=1))
        assert measured.wrong < 0.12  # RATE is 0.05; 80 queries have a standard error of 0.024
        assert measured.right > 0.6


def test_larger_galleries_have_higher_thresholds_and_beyond_the_largest_it_goes_on():
    chosen = choose(*rows(0.5))
    scores = [chosen.at(size).score for size in (4, 16, 100, 300, 3000, 10**6)]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
    assert chosen.at(10**6).score < 2 * chosen.at(300).score


def test_where_matches_are_not_told_from_others_both_rates_are_alike():
    texts, images, ids, _ = rows(0.5)
    shuffled = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(3))]
    measured = rates(choose(texts, shuffled, ids, ids), texts, shuffled, ids, ids)
    assert measured.right == pytest.approx(measured.wrong, abs=0.03)


def test_a_query_that_is_like_every_image_is_not_accepted_for_its_high_cosines():
    texts, images, ids, _ = rows(0.5)
    common = F.normalize(images.mean(0) + 0.2, dim=0)
    images = F.normalize(images + common, dim=1)  # every image has a part in common, as those of a CLIP have
    chosen = choose(texts, images, ids, ids)
    cosines = images @ common
    own = (texts @ images.T).amax(1)
    assert cosines.max() > own.median()
    assert (
        standardised(float(cosines.max()), float(cosines.mean()), float(cosines.std())) < chosen.at(len(images)).score
    )


def test_too_few_rows_give_no_threshold():
    texts, images, ids, _ = rows(0.5, persons=3)
    assert not choose(texts, images, ids, ids).known
    assert Acceptance.unknown().at(100) is None
    assert rates(Acceptance.unknown(), texts, images, ids, ids) is None


def test_a_limit_is_reached_by_no_more_than_its_rate_of_few_scores_too():
    for count in (1, 5, 19, 20, 100, 1001):
        scores = np.random.default_rng(count).normal(size=count).astype(np.float32)
        assert (scores >= limit(scores)).mean() <= RATE
    assert (scores >= limit(scores)).sum() == int(RATE * 1001)


def test_the_highest_of_generic_texts_is_reached_by_one_in_n_plus_one_unrelated_ones():
    chosen = highest([0.2, 0.5, 0.1])
    assert (chosen.score, chosen.wrong) == (0.5, 0.25)
    assert math.isnan(chosen.right)
    assert highest([]) is None
