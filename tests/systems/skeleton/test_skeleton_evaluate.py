"""Metrics, their names, their protocol and their images; the weights of frames."""

import pytest
import torch
from skeleton_fakes import LABELS, VARIANTS, batch_for, measure, score, task_for, write_world

from sightword.systems.skeleton.evaluate import SkeletonEvaluator
from sightword.systems.skeleton.predict import BatchScores


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("evaluate"))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("key", ["known", "unknown"])
def test_every_metric_is_named_before_training(world, name, key):
    task = task_for(world, **VARIANTS[name]).eval()
    batch = batch_for([0, 1], split="val")
    if key == "unknown":
        batch = batch._replace(key=torch.full_like(batch.key, torch.nan))
    evaluator, found = measure(task, [batch])
    assert set(found) <= evaluator.metric_names()
    if key == "known":
        assert set(found) == evaluator.metric_names()
    assert ("top5" in evaluator.metric_names()) == (len(LABELS) > 5)


def test_top5_is_named_for_more_than_five_classes(world, tmp_path):
    import json

    more = {**LABELS, "raise a hand": ["raising one hand"], "sit": ["a person sits"]}
    (tmp_path / "more.json").write_text(json.dumps(more))
    task = task_for({**world, "labels": str(tmp_path / "more.json")}, recognise_by="classifier").eval()
    evaluator, found = measure(task, [batch_for([0, 5])])
    assert set(found) == evaluator.metric_names() == {"top1", "top5", "mean_class"}


def test_metrics_are_of_the_recordings_in_percent_with_their_protocol(world):
    evaluator = SkeletonEvaluator(task_for(world, recognise_by="classifier").eval())
    rows = iter([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1], [0.3, 0.1, 0.5, 0.1]])
    evaluator.score = lambda batch: BatchScores(torch.tensor([next(rows) for _ in batch.labels]), None)
    for batch in (batch_for([0, 1], split="test", views=2), batch_for([2], split="test", views=2)):
        evaluator.update(batch)
    found = evaluator.compute()
    assert found["top1"] == pytest.approx(100 * 2 / 3)
    assert found["mean_class"] == pytest.approx(100 * 2 / 3)  # 1, 0 and 1; the fourth class is not there
    assert "top5" not in found
    (classes,) = evaluator.tables().values()
    assert classes[1] == {"class": "lower arms", "recordings": 1, "right": 0.0, "taken_for": "sit down", "times": 1}
    assert classes[3]["right"] is None
    protocol = evaluator.protocol()
    assert "3 recordings, 2 views each at 16×16" in protocol["views"]
    assert protocol["split"].startswith("test: never trained on, and nothing was chosen")
    assert set(found) <= set(evaluator.notes())
    assert evaluator.compute() == {}


def test_the_protocol_names_the_temperature_of_the_probabilities(world):
    for kind, told in (("calibrated", "softmax of cosines over τ = 0.0700"), ("seed", "softmax of cosines")):
        assert SkeletonEvaluator(task_for(world, test_scores=kind)).protocol()["probabilities"] == told


def test_the_weights_of_frames_are_those_of_the_predicted_class_and_scored_against_the_truth(world):
    task = task_for(world, **VARIANTS["visece_pacl"]).eval()
    batch = batch_for([0, 1, 2], views=2, split="val")
    scored = score(task, batch)
    assert scored.weights.shape == (3, 2, 4)
    with torch.no_grad():
        frames = task.model.video(task.heatmaps(batch.points[:, 1], batch.scores[:, 1], batch.size))
        every = task.model.compare(frames, task.bank()).weights
    torch.testing.assert_close(scored.weights[:, 1], every[torch.arange(3), scored.scores.argmax(1)])
    found = measure(task, [batch])[1]
    assert 1 <= found["effective_frames"] <= 4


@pytest.mark.parametrize("sick", ["gain", "network"])
def test_weights_that_say_nothing_are_all_alike_and_stop_no_run(world, sick):
    """σ of a large gain may be 0 everywhere, and a network that diverges gives NaN: the metrics have to show either."""
    task = task_for(world, **{**VARIANTS["visece_pacl"], "pacl_weight": "sigmoid", "pacl_gain": 5000.0}).eval()
    head, projector = task.model.text_head, task.model.projector
    with torch.no_grad():
        for layer, bias in ((head, -1.0), (projector, 1.0 if sick == "gain" else torch.nan)):
            layer.weight.zero_()
            layer.bias.fill_(bias)  # every frame is the opposite of every class, or nothing
    batch = batch_for([0, 1], split="val")
    assert torch.equal(score(task, batch).weights, torch.ones(2, 1, 4))
    evaluator, found = measure(task, [batch])
    assert found["effective_frames"] == pytest.approx(4)
    assert set(evaluator.images(batch)) == {"strips"}


def test_images_between_two_batches_change_nothing(world):
    """They are drawn in eval mode, on a canvas of its own, and the bank they use is not used after the next step."""
    task = task_for(world, **VARIANTS["visece_pacl"]).train()
    batch = batch_for()
    loss = task.total(task.losses(batch))
    SkeletonEvaluator(task.eval()).images(batch)
    task.train()
    loss.backward()
    before = task.eval().bank().clone()
    with torch.no_grad():
        task.model.text_head.weight += 1
    task.train()
    assert not torch.equal(task.eval().bank(), before)
