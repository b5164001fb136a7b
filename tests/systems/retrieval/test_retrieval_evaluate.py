"""What is measured of a run: rankings in both directions, and what texts are worth to the generator."""

import pytest
import torch
from fakes import PHASE1, PHASE2, PHASE4, PHASES, batch_for, system, write_towers

from sightword.systems.retrieval.config import RetrievalData
from sightword.systems.retrieval.data import ImageRows, TextRows
from sightword.systems.retrieval.evaluate import RetrievalEvaluator
from sightword.systems.retrieval.loader import Inputs
from sightword.systems.retrieval.system import _inputs
from sightword.systems.retrieval.task import make_task


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return write_towers(tmp_path_factory.mktemp("towers"))


def task_of(towers, **values):
    torch.manual_seed(0)
    return make_task(system(towers, **values)).eval()


def plain_ranking(queries, gallery, query_ids, gallery_ids):
    """Rank-k, AP and INP from a sorted list, for a handful of rows."""
    hits, precisions, lasts = [], [], []
    for vector, person in zip(queries, query_ids, strict=True):
        order = (-(gallery @ vector)).argsort()
        right = (gallery_ids[order] == person).nonzero()[:, 0] + 1
        hits.append(int(right[0]))
        precisions.append(float((torch.arange(1, len(right) + 1) / right).mean()))
        lasts.append(len(right) / int(right[-1]))
    within = [100 * sum(hit <= k for hit in hits) / len(hits) for k in (1, 5, 10)]
    means = [100 * sum(values) / len(hits) for values in (precisions, lasts)]
    return dict(zip(("rank1", "rank5", "rank10", "map", "minp"), [*within, *means], strict=True))


def plain_measures(image, image_ids, text, text_ids):
    """As `ranking.retrieval_metrics`."""
    back = plain_ranking(image, text, image_ids, text_ids)
    return plain_ranking(text, image, text_ids, image_ids) | {f"i2t_{name}": value for name, value in back.items()}


def halves(task, order=(0, 1, 2, 3, 4, 5)):
    """Validation batches: images in two parts, then captions; the pictures of batch_for."""
    batch = batch_for(task.model.tokenizer)
    number = torch.arange(6)
    rows = torch.tensor(order)
    return [
        ImageRows(batch.images[rows[:4]], batch.pids[rows[:4]], number[rows[:4]]),
        ImageRows(batch.images[rows[4:]], batch.pids[rows[4:]], number[rows[4:]]),
        TextRows(batch.caption_ids, batch.caption_attn_mask, batch.pids, number),
    ]


def test_measures_are_of_embeddings_taken_once_in_either_direction(towers):
    task = task_of(towers, **PHASE2).eval()
    batch = batch_for(task.model.tokenizer)
    with torch.no_grad():
        image, text = task.model.encode_image(batch.images), task.model.encode_text(*batch[2:4])
    expected = plain_measures(image, batch.pids, text, batch.pids)
    evaluator = RetrievalEvaluator(task)
    for part in halves(task):
        evaluator.update(part)
    found = evaluator.compute()
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert evaluator.compute() == {}  # forgotten
    for part in reversed(halves(task, (5, 3, 1, 0, 2, 4))):  # the order they come in is nothing
        evaluator.update(part)
    assert evaluator.compute() == found


def test_ties_count_against(towers):
    """With images that all have one embedding, no query finds its person first."""
    task = task_of(towers, **PHASE2).eval()
    images, _, texts = halves(task)
    evaluator = RetrievalEvaluator(task)
    evaluator.update(images._replace(images=torch.zeros_like(images.images)))
    evaluator.update(TextRows(*(part[:4] for part in texts[:4])))
    assert evaluator.compute()["rank1"] == 0


def test_the_text_gain_of_validation_batches_is_a_measure(towers):
    task = task_of(towers, **PHASE4).eval()
    evaluator = RetrievalEvaluator(task)
    batches = [batch_for(task.model.tokenizer, seed=seed) for seed in (1, 2)]
    for batch in batches:
        evaluator.update(batch)
    expected = torch.cat([task.text_gain(batch) for batch in batches]).mean()
    assert evaluator.compute() == {"text_gain": pytest.approx(float(expected), rel=1e-5)}
    assert set(task.stats()) == {"positive_share", "sdm"}  # nothing has been trained
    task.losses(batches[0])
    task.train()
    assert task.stats()["text_gain"] == pytest.approx(float(task.eval().text_gain(batches[0]).mean()), rel=1e-5)


def test_each_way_to_hide_cells_has_a_gain_of_its_own(towers):
    task = task_of(towers, **PHASE4).eval()
    evaluator, batch = RetrievalEvaluator(task), batch_for(task.model.tokenizer)
    for way in (0, 2):
        evaluator.update(batch._replace(hide_way=torch.full((6,), way)))
    found = evaluator.compute()
    assert set(found) == {"text_gain", "text_gain_random", "text_gain_person"}
    assert set(found) <= evaluator.metric_names()


def test_where_families_are_known_the_ceiling_and_the_right_family_are_metrics(towers):
    task = task_of(towers, **PHASE2).eval()
    first, second, texts = halves(task)
    ceiling = torch.tensor([1.0, 0.5, 0.25, 0.25, 0.5, 0.5]).double()
    for families, right in ((torch.arange(6), "rank1"), (torch.zeros(6, dtype=torch.int64), None)):
        evaluator = RetrievalEvaluator(task)
        evaluator.update(first._replace(families=families[first.pids]))
        evaluator.update(second._replace(families=families[second.pids]))
        evaluator.update(texts._replace(ceiling=ceiling))
        found = evaluator.compute()
        assert found["rank1_ceiling"] == pytest.approx(50)
        assert found["rank1_family"] == pytest.approx(found[right] if right else 100)
        assert set(found) <= evaluator.metric_names()


def test_the_protocol_is_stated(towers):
    assert {"ties", "embeddings", "text_gain", "split"} <= set(RetrievalEvaluator(task_of(towers, **PHASE1)).protocol())


@pytest.mark.parametrize("name", PHASES)
@torch.no_grad()
def test_every_name_that_compute_gives_can_be_monitored(towers, name):
    task = task_of(towers, **PHASES[name])
    evaluator = RetrievalEvaluator(task)
    for part in halves(task):
        evaluator.update(part)
    lonely = halves(task)[2]._replace(pids=torch.tensor([0, 1, 2, 3, 1, 99]))  # nobody's images: unmatched
    evaluator.update(lonely)
    if task.generator is not None:
        evaluator.update(batch_for(task.model.tokenizer))
    found = evaluator.compute()
    assert {"rank1", "i2t_map", "unmatched"} <= set(found)
    assert ("text_gain" in found) == (name == "phase4")
    assert set(found) <= evaluator.metric_names()


def test_the_loaders_know_what_the_batches_are_for(towers):
    task = task_of(towers, **PHASE4)
    data = RetrievalData(image_size=list(task.model.image.preprocess.size))
    expected = {"num_codes": 16, "shapes": {"ids": [6, 2]}}
    assert _inputs(task, data) == Inputs(task.model.tokenizer, (8, 8), expected, 0)
    task = task_of(towers, **PHASE1)
    assert _inputs(task, data) == Inputs(task.model.tokenizer, task.model.image.patch)
