"""Ranks without sorting, held against a full sort of the float64 matrix."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sightword.metrics import ranking as ranks
from sightword.metrics.ranking import PROTOCOL, best, ranking, retrieval_metrics


def sorted_out(queries, gallery, query_ids, gallery_ids):
    """First rank, AP and INP (Q, 3) by sorting; among equal scores, non-matching rows come first."""
    scores = (queries.double() @ gallery.double().T).numpy()
    found = []
    for row, who in zip(scores, query_ids.numpy(), strict=True):
        match = gallery_ids.numpy() == who
        places = np.flatnonzero(match[np.lexsort((match, -row))]) + 1
        if len(places):
            hits = np.arange(1, len(places) + 1)
            found.append((places[0], (hits / places).mean(), len(places) / places[-1]))
        else:
            found.append((0, math.nan, math.nan))
    return np.array(found)


def world(queries, gallery, width, ids, seed=0, whole=False):
    """Random unit vectors; whole numbers instead, which tie often, where `whole`."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(count, width, generator=generator) for count in (queries, gallery))
    x, y = (x.round(), y.round()) if whole else (F.normalize(x, dim=1), F.normalize(y, dim=1))
    return x, y, *(torch.randint(0, ids, (count,), generator=generator) for count in (queries, gallery))


def assert_sorted(found, wanted):
    assert np.array_equal(found.first, wanted[:, 0])
    np.testing.assert_allclose(found.precision, wanted[:, 1], rtol=1e-12)
    np.testing.assert_allclose(found.penalty, wanted[:, 2], rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((60, 700, 32, 30), {}),
        ((60, 700, 32, 30), {"rows": 7, "columns": 33}),
        ((60, 700, 32, 30), {"rows": 60, "columns": 700}),
        ((12, 90, 32, 30), {"rows": 1, "columns": 1}),
        ((40, 500, 16, 500), {"columns": 100}),  # one match or none
        ((40, 500, 16, 2), {"columns": 100}),  # half the gallery
        ((30, 6000, 4, 3), {"columns": 4096}),  # thousands of matches a query
        ((1, 1, 5, 1), {}),
    ],
)
@pytest.mark.parametrize("whole", [False, True], ids=["unlike", "tied"])
def test_ranks_are_those_of_a_full_sort(shape, options, whole):
    inputs = world(*shape, whole=whole)
    assert_sorted(ranking(*inputs, **options), sorted_out(*inputs))


@pytest.mark.parametrize("columns", [1000, 120])
@pytest.mark.parametrize("noise", [0.3, 0.6, 0.9])
def test_ranks_of_a_network_that_finds_most_are_those_of_a_sort(noise, columns):
    """Few non-matching rows above, so that they are counted one by one."""
    generator = torch.Generator().manual_seed(0)
    asked, there = (torch.arange(n) % 60 for n in (120, 1000))
    centres = torch.randn(60, 24, generator=generator)
    x, y = (
        F.normalize(centres[ids] + noise * torch.randn(len(ids), 24, generator=generator), dim=1)
        for ids in (asked, there)
    )
    found = ranking(x, y, asked, there, columns=columns)
    assert found.rank1 > 50
    assert_sorted(found, sorted_out(x, y, asked, there))


def test_a_few_numbers_by_hand():
    gallery = torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5]])
    found = ranking(torch.tensor([[1.0]]), gallery, torch.tensor([7]), torch.tensor([1, 7, 2, 3, 7]))
    assert found.first.tolist() == [2]
    assert found.mAP == pytest.approx(100 * (1 / 2 + 2 / 5) / 2)
    assert found.mINP == pytest.approx(100 * 2 / 5)
    assert (found.rank1, found.rank5, found.rank(2)) == (0, 100, 100)
    assert found.chance == pytest.approx(40)


def test_a_non_matching_row_with_the_same_vector_ranks_above():
    """A picture that is there under two names, at every place of a tile."""
    generator = torch.Generator().manual_seed(0)
    gallery = F.normalize(torch.randn(300, 96, generator=generator), dim=1)
    gallery[1::2] = gallery[::2]
    ids = torch.arange(300)
    queries = F.normalize(gallery + 0.1 * torch.randn(300, 96, generator=generator), dim=1)
    found = ranking(queries, gallery, ids, ids, rows=64, columns=37)
    assert set(found.first.tolist()) == {2}


@pytest.mark.parametrize("blurred", [512, 10**9], ids=["row by row", "pair by pair"])
@pytest.mark.parametrize("people", [2, 40])
def test_scores_that_float32_cannot_tell_apart_are_ranked_as_in_float64(monkeypatch, people, blurred):
    """Images that differ in the eighth digit, as those of a collapsed network: far more than float64 rounds."""
    monkeypatch.setattr(ranks, "BLURRED", blurred)
    asked = 3 if people == 2 else 20
    generator = torch.Generator().manual_seed(1)
    middle = torch.randn(768, generator=generator)
    x, y = (F.normalize(middle + 1e-4 * torch.randn(n, 768, generator=generator), dim=1) for n in (asked, 300))
    ids = torch.randint(0, people, (asked,), generator=generator), torch.randint(0, people, (300,), generator=generator)
    assert len((x @ y.T)[0].unique()) < 100  # so a sort in float32 would be chance
    assert_sorted(ranking(x, y, *ids), sorted_out(x, y, *ids))
    assert_sorted(ranking(x, y, *ids, columns=170), sorted_out(x, y, *ids))


def test_a_collapsed_network_is_no_better_than_the_worst_order():
    same = F.normalize(torch.ones(50, 8), dim=1)
    found = ranking(same, same, torch.arange(50), torch.arange(50))
    assert found.rank10 == 0
    assert set(found.first.tolist()) == {50}


def test_a_query_without_a_match_is_counted_and_left_out():
    x, y, asked, there = world(30, 200, 16, 10)
    alone = ranking(x, y, asked, there)
    found = ranking(torch.cat([x, x]), y, torch.cat([asked, asked + 1000]), there)
    assert found.unmatched == 30
    assert found.metrics() == alone.metrics() | {"unmatched": 30.0}
    assert "unmatched" not in alone.metrics()
    assert np.isnan(found.precision[30:]).all()


def test_no_query_with_a_match_is_one_line():
    with pytest.raises(ValueError, match="none of the 2 queries has a match among the 3 rows"):
        ranking(torch.eye(3)[:2], torch.eye(3), torch.tensor([1, 2]), torch.tensor([3, 4, 5]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"queries": torch.zeros(2, 4)}, r"\(2, 4\) with \(2,\), and \(3, 3\) with \(3,\)"),
        ({"query_ids": torch.zeros(3)}, r"\(2, 3\) with \(3,\)"),
        ({"gallery": torch.zeros(0, 3)}, "gallery are .N, D. of at least one vector"),
        ({"queries": torch.tensor([[math.nan, 0, 0], [1, 0, 0]])}, "1 of 2 queries are not finite"),
    ],
)
def test_a_mistake_is_one_line(change, told):
    good = {
        "queries": torch.eye(3)[:2],
        "gallery": torch.eye(3),
        "query_ids": torch.zeros(2),
        "gallery_ids": torch.zeros(3),
    }
    ranking(**good)
    with pytest.raises(ValueError, match=told):
        ranking(**good | change)


def test_blocks_of_queries_have_bounded_matches(monkeypatch):
    inputs = world(40, 400, 8, 4)
    whole = ranking(*inputs)
    sizes, block = [], ranks._block
    monkeypatch.setattr(ranks, "PAIRS", 300)
    monkeypatch.setattr(ranks, "_block", lambda *args: sizes.append(block(*args)) or sizes[-1])
    found = ranking(*inputs)
    assert max(len(each.rows) for each in sizes) <= 300
    assert np.array_equal(found.first, whole.first)
    assert np.array_equal(found.penalty, whole.penalty)


def test_one_tile_serves_the_whole_search(monkeypatch):
    tiles, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **more: tiles.append(args) or empty(*args, **more))
    ranking(*world(100, 1000, 8, 20), rows=10, columns=50)
    assert [args for args in tiles if math.prod(args) > 100] == [(500,)]


def test_half_precision_and_autocast_change_nothing_but_the_vectors():
    x, y, asked, there = world(20, 300, 32, 20)
    x, y = x.bfloat16(), y.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = ranking(x, y, asked, there)
    assert_sorted(found, sorted_out(x, y, asked, there))


def test_the_table_has_both_directions():
    images, texts, image_pids, text_pids = world(40, 90, 16, 8)
    found = retrieval_metrics(images, image_pids, texts, text_pids)
    assert list(found)[:6] == ["rank1", "rank5", "rank10", "map", "minp", "chance"]
    asked = ranking(texts, images, text_pids, image_pids)
    assert found["map"] == asked.mAP
    assert found["i2t_rank1"] == ranking(images, texts, image_pids, text_pids).rank1
    assert {"ties", "no_match", "chance"} <= PROTOCOL.keys()


@pytest.mark.parametrize("columns", [7, 50, 1000])
def test_the_best_are_those_of_a_sort_and_equals_keep_their_order(columns):
    x, y, _, _ = world(5, 300, 2, 4, whole=True)
    scores, rows = best(x, y, 20, columns)
    wanted = np.argsort(-(x @ y.T).numpy(), axis=1, kind="stable")[:, :20]
    assert np.array_equal(rows.numpy(), wanted)
    assert torch.equal(scores, (x @ y.T).gather(1, rows))


def test_the_best_of_a_small_gallery_are_all_of_it():
    scores, rows = best(torch.ones(1, 2), torch.eye(2), 10)
    assert scores.shape == rows.shape == (1, 2)
