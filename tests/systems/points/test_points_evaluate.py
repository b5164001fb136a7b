"""What is measured is what was counted by hand, under names that are known before."""

import pytest
import torch
from points_fakes import batch_for, task_for, wall

from sightword.systems.points.evaluate import PointsEvaluator
from sightword.systems.points.presence import around


def measured(task, *batches):
    evaluator = PointsEvaluator(task.eval())
    for batch in batches:
        evaluator.update(batch)
    return evaluator.compute()


def test_training_learns_to_predict_what_clip_predicts():
    task, batch = task_for(), batch_for()
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    first = task.losses(batch)["distil_loss"].item()
    for _ in range(40):
        loss = task.total(task.losses(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.losses(batch)["distil_loss"].item() < 0.1 * first
    assert measured(task, batch)["text_accuracy_seen"] > 90


def test_metrics_are_the_fractions_of_points_classified_correctly():
    task, batch = task_for().eval(), batch_for()
    with torch.no_grad():
        out, _ = task.encode(batch)
    evaluator = PointsEvaluator(task)
    evaluator.update(batch)
    found = evaluator.compute()
    predicted = torch.where(out.seen, out.clip[:, :3].argmax(1), -1)
    right = (predicted == batch.label).double()
    assert 0 < out.seen.sum() < len(out.seen)
    assert found["coverage"] == pytest.approx(100 * out.seen.double().mean().item())
    assert found["clip_accuracy"] == pytest.approx(100 * right.mean().item())
    assert found["clip_accuracy_seen"] == pytest.approx(100 * right[out.seen].mean().item())
    fused = out.text[:, :3].argmax(1)
    assert found["text_accuracy"] == pytest.approx(100 * (fused == batch.label).double().mean().item())
    assert found["text_accuracy_unseen"] == pytest.approx(
        100 * (fused == batch.label)[~out.seen].double().mean().item()
    )
    counts = batch.label.bincount()
    assert found["majority"] == pytest.approx(100 * float(counts.max() / counts.sum()))
    ious = []
    for number in (1, 2):  # nothing is a wall
        own, taken = batch.label == number, predicted == number
        ious.append(float((own & taken).sum() / (own | taken).sum()))
    assert found["clip_miou"] == pytest.approx(100 * sum(ious) / 2)
    assert found["text_to_clip"] == pytest.approx(float((out.text * out.clip).sum(1)[out.seen].mean()), abs=1e-6)
    assert -1 <= found["consistency"] <= 1
    (table,) = evaluator.tables().values()
    assert [row["class"] for row in table] == ["chair", "bed"]
    assert evaluator.compute() == {}


@pytest.mark.parametrize("spread", [[], [0.5, 0.1]])
def test_every_metric_has_a_name_that_is_known_before_and_a_note(spread):
    evaluator = PointsEvaluator(task_for(spread=spread).eval())
    evaluator.update(batch_for())
    assert set(evaluator.compute()) == evaluator.metric_names() == set(evaluator.notes())


def test_seen_and_unseen_points_are_measured_apart_and_rooms_one_by_one():
    task, rooms = task_for(spread=[0.5, 0.1]), (wall(80), wall(60, 2, 1))
    found = measured(task, batch_for(*rooms))
    alone = [measured(task, batch_for(room)) for room in rooms]
    for name in ("clip", "spread", "text"):
        mean = sum(each[f"{name}_miou"] for each in alone) / 2
        assert found[f"{name}_room_miou"] == pytest.approx(mean, abs=1e-4)
    share = found["coverage"] / 100
    for name in ("spread", "text"):
        parts = share * found[f"{name}_accuracy_seen"] + (1 - share) * found[f"{name}_accuracy_unseen"]
        assert found[f"{name}_accuracy"] == pytest.approx(parts, abs=1e-4)
    assert "clip_miou_unseen" not in found


def test_the_protocol_is_texts_and_names_the_split_and_the_scenes():
    evaluator = PointsEvaluator(task_for(clip_size=[32, 40]).eval())
    evaluator.update(batch_for(split="test"))
    evaluator.compute()
    protocol = evaluator.protocol()
    assert all(type(text) is str for text in protocol.values())
    assert "nothing was chosen on it" in protocol["split"]
    assert protocol["scenes"].startswith("2, ")
    assert "32×40" in protocol["clip"]
    assert "spread" not in protocol
    assert "0.5 m" in PointsEvaluator(task_for(spread=[0.5, 0.1])).protocol()["spread"]


def test_without_a_3d_branch_what_no_view_sees_is_not_classified():
    found = measured(task_for(layers=0), batch_for())
    assert found["text_accuracy_unseen"] == 0
    assert found["text_accuracy"] <= found["coverage"]


def test_metrics_of_two_batches_are_those_of_both_together():
    rooms = wall(80), wall(60, 2, 1)
    together, apart = measured(task_for(), batch_for(*rooms)), measured(task_for(), *map(batch_for, rooms))
    assert apart == pytest.approx(together, abs=1e-4)


def test_another_split_is_measured_by_itself():
    task = task_for().eval()
    evaluator = PointsEvaluator(task)
    evaluator.update(batch_for(split="val"))
    evaluator.update(batch_for(wall(60, 2, 1), split="test"))
    assert evaluator.compute() == pytest.approx(measured(task, batch_for(wall(60, 2, 1), split="test")))


def test_points_without_labels_are_measured_by_what_needs_none():
    batch = batch_for()
    found = measured(task_for(), batch._replace(label=torch.full_like(batch.label, -1)))
    assert set(found) == {"coverage", "consistency", "consistency_reduced", "text_to_clip"}


def test_a_picture_shows_the_predictions_beside_the_labels(tmp_path):
    evaluator, batch = PointsEvaluator(task_for().eval()), batch_for()
    (image,) = evaluator.images(batch).values()
    assert image.width > 3 * 400
    unlabelled = evaluator.images(batch._replace(label=torch.full_like(batch.label, -1)))["answers"]
    assert unlabelled.width < image.width
    (file,) = evaluator.draw([batch], tmp_path / "images")
    assert file.read_bytes()[:4] == b"\x89PNG"


def test_validation_chooses_a_threshold_that_classes_without_their_points_do_not_reach():
    task, batch = task_for().eval(), batch_for()
    assert task.background("lifted") is task.background("fused") is None
    found = measured(task, batch)
    lifted = task.background("lifted").accepted
    assert lifted.count == 3 * len(batch.names)
    assert lifted.wrong <= 0.05
    assert found["clip_false_accepted"] == pytest.approx(100 * lifted.wrong)
    assert found["clip_accepted"] == pytest.approx(100 * lifted.right)
    before = task.acceptance.clone()
    measured(task, batch_for(split="test"))
    assert torch.equal(task.acceptance, before)  # test chooses nothing


def test_points_around_a_class_are_taken_out_with_it():
    xyz = torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [0.6, 0.1, 0.1], [0.6, 0.2, 0.1]])
    near = around(xyz, torch.tensor([0, -1, 1, 2]), 3)
    assert near.tolist() == [[True, False, False]] * 2 + [[False, True, True]] * 2
