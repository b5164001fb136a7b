"""Multi-label measures by hand, against loops written from their definitions, and against torchmetrics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sightword.errors import SightwordError
from sightword.metrics.multilabel import (
    THRESHOLDS,
    Decisions,
    average_precision,
    best_threshold,
    f1,
    mean_average_precision,
    precision_recall,
)

T, F = True, False


def random_set(images: int, classes: int, seed: int, levels: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and targets that agree a little; `levels` of scores make ties."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(images, classes, generator=generator) < 0.2
    scores = (torch.rand(images, classes, generator=generator) + 0.4 * targets).clamp(max=1.0)
    if levels:
        scores = (scores * levels).round() / levels
    return scores, targets


# ------------------------------------------------------------------------------------------------------------------ F1


def test_f1_by_hand() -> None:
    # class 0: tp 1, fp 1, fn 0; class 1: tp 1, fp 0, fn 1; class 2: neither label nor prediction
    predicted = torch.tensor([[T, T, F], [T, F, F], [F, F, F]])
    targets = torch.tensor([[T, T, F], [F, T, F], [F, F, F]])
    assert f1(predicted, targets, None).tolist() == pytest.approx([2 / 3, 2 / 3, 0])
    assert f1(predicted, targets).item() == pytest.approx(4 / 9)
    assert f1(predicted, targets, "micro").item() == pytest.approx(2 * 2 / (3 + 3))
    assert f1(predicted, targets, "samples").item() == pytest.approx((1 + 0 + 0) / 3)
    assert f1(predicted, targets).dtype == torch.float64


def test_all_ones_on_the_released_split_would_score_what_the_facts_say() -> None:
    """The classes' positives of Intentonomy's test split give the row 'all-ones' of 12.18 macro and 12.91 micro F1."""
    positives = [313, 29, 30, 51, 131, 70, 279, 91, 48, 75, 68, 143, 73, 43, 73, 53, 41, 19, 14, 347, 30, 104, 26, 77]
    positives += [22, 4, 56, 41]
    targets = torch.zeros(1217, 28, dtype=torch.bool)
    for number, count in enumerate(positives):
        targets[:count, number] = True
    ones = torch.ones_like(targets)
    assert 100 * f1(ones, targets).item() == pytest.approx(12.18, abs=0.005)
    assert 100 * f1(ones, targets, "micro").item() == pytest.approx(12.91, abs=0.005)


def test_f1_is_the_loop_of_its_definition() -> None:
    scores, targets = random_set(60, 7, 0)
    predicted = scores > 0.8
    targets[:5], predicted[:5] = False, False  # images with neither

    def one(p: torch.Tensor, y: torch.Tensor) -> float:
        tp, fp, fn = int((p & y).sum()), int((p & ~y).sum()), int((~p & y).sum())
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0

    assert f1(predicted, targets).item() == pytest.approx(
        np.mean([one(predicted[:, c], targets[:, c]) for c in range(7)])
    )
    assert f1(predicted, targets, "samples").item() == pytest.approx(
        np.mean([one(predicted[n], targets[n]) for n in range(60)])
    )
    assert f1(predicted, targets, "micro").item() == pytest.approx(one(predicted.flatten(), targets.flatten()))


def test_f1_is_torchmetrics_where_no_class_is_empty() -> None:
    from torchmetrics.functional.classification import multilabel_f1_score

    scores, targets = random_set(200, 9, 1)
    for average in ("macro", "micro"):
        theirs = multilabel_f1_score(scores, targets.int(), 9, threshold=0.7, average=average)
        assert f1(scores > 0.7, targets, average).item() == pytest.approx(theirs.item(), abs=1e-6)


def test_precision_and_recall_by_hand_and_as_torchmetrics() -> None:
    from torchmetrics.functional.classification import multilabel_precision, multilabel_recall

    # class 0: tp 1, fp 1; class 1: tp 1, fn 1; class 2: neither label nor prediction
    predicted = torch.tensor([[T, T, F], [T, F, F], [F, F, F]])
    targets = torch.tensor([[T, T, F], [F, T, F], [F, F, F]])
    precision, recall = precision_recall(predicted, targets)
    assert precision.tolist() == [0.5, 1, 0]
    assert recall.tolist() == [1, 0.5, 0]
    scores, targets = random_set(200, 9, 8)
    precision, recall = precision_recall(scores > 0.7, targets)
    for ours, theirs in ((precision, multilabel_precision), (recall, multilabel_recall)):
        each = theirs(scores, targets.int(), 9, threshold=0.7, average=None)
        assert ours.tolist() == pytest.approx(each.tolist(), abs=1e-6)
    assert (2 * precision * recall / (precision + recall)).tolist() == pytest.approx(
        f1(scores > 0.7, targets, None).tolist()
    )


@pytest.mark.parametrize(
    ("predicted", "targets", "average", "told"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "macro", r"\(2, 3\) and \(2, 4\)"),
        (torch.ones(3), torch.ones(3), "macro", r"\(N, C\)"),
        (torch.ones(0, 3), torch.ones(0, 3), "macro", "at least one image"),
        (torch.ones(2, 3), torch.ones(2, 3), "weighted", "macro, micro, samples"),
    ],
)
def test_what_cannot_be_measured_says_so(predicted, targets, average, told) -> None:
    with pytest.raises(ValueError, match=told):
        f1(predicted, targets, average)


# ---------------------------------------------------------------------------------------------------------- thresholds


def test_the_threshold_is_the_first_of_equals_and_strict() -> None:
    targets = torch.tensor([[T], [F]])
    assert best_threshold(torch.tensor([[0.9], [0.22]]), targets) == pytest.approx(0.25)
    # a score of exactly 0.25 is not above 0.25
    assert best_threshold(torch.tensor([[0.9], [0.25]]), targets) == 0.25
    assert best_threshold(torch.zeros(2, 1), targets) == 0.05  # nothing helps: the first


def test_the_threshold_is_the_official_rule_written_as_a_loop() -> None:
    for seed in range(5):
        scores, targets = random_set(80, 6, seed, levels=20)
        best = max(f1(scores.double() > t, targets).item() for t in np.linspace(0.05, 0.95, 19))
        first = next(
            t for t in np.linspace(0.05, 0.95, 19) if f1(scores.double() > t, targets).item() == pytest.approx(best)
        )
        assert best_threshold(scores, targets) == first


def test_the_threshold_is_one_of_the_nineteen_of_the_official_code() -> None:
    scores, targets = random_set(80, 6, 3)
    assert len(THRESHOLDS) == 19
    assert best_threshold(scores, targets) in THRESHOLDS.tolist()


@pytest.mark.parametrize(("worst", "why"), [(-0.1, "sigmoid"), (1.5, "sigmoid"), (float("nan"), "NaN.*diverged")])
def test_thresholds_refuse_scores_that_are_no_probabilities(worst: float, why: str) -> None:
    with pytest.raises(SightwordError, match=why):
        best_threshold(torch.tensor([[0.5], [worst]]), torch.tensor([[T], [F]]))


# -------------------------------------------------------------------------------------------------------------- AP


def voc_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    """All-points interpolation as PASCAL VOC defines it: the best precision at this recall or a higher one."""
    hits = targets[np.argsort(-scores)]
    recall = np.cumsum(hits) / hits.sum()
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall, precision = np.r_[0, recall, 1], np.r_[0, precision, 0]
    return sum(
        (recall[i] - recall[i - 1]) * precision[i:].max() for i in range(1, len(recall)) if recall[i] != recall[i - 1]
    )


def test_average_precision_by_hand() -> None:
    # ranks of the positives: 2 and 3, so precisions 1/2 and 2/3; interpolated both are 2/3
    scores, targets = torch.tensor([[0.9], [0.8], [0.7], [0.1]]), torch.tensor([[F], [T], [T], [F]])
    assert average_precision(scores, targets).item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision(scores, targets, interpolated=True).item() == pytest.approx(2 / 3)


def test_images_of_equal_score_are_one_step_whatever_their_order() -> None:
    scores, targets = torch.tensor([[0.5], [0.5], [0.5], [0.1]]), torch.tensor([[T], [F], [F], [T]])
    wanted = (1 / 3 + 2 / 4) / 2
    for order in ([0, 1, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]):
        assert average_precision(scores[order], targets[order]).item() == pytest.approx(wanted)
        assert average_precision(scores[order], targets[order], interpolated=True).item() == pytest.approx(1 / 2)


@pytest.mark.parametrize("levels", [0, 8], ids=["all differ", "many ties"])
def test_average_precision_is_torchmetrics(levels: int) -> None:
    from torchmetrics.functional.classification import multilabel_average_precision

    scores, targets = random_set(150, 9, 2, levels)
    theirs = multilabel_average_precision(scores, targets.int(), 9, average=None)
    assert average_precision(scores, targets).tolist() == pytest.approx(theirs.tolist(), abs=1e-6)


def test_interpolated_average_precision_is_the_voc_loop_and_never_smaller() -> None:
    scores, targets = random_set(150, 9, 4)
    ours = average_precision(scores, targets, interpolated=True)
    assert ours.tolist() == pytest.approx([voc_ap(scores[:, c].numpy(), targets[:, c].numpy()) for c in range(9)])
    assert (ours >= average_precision(scores, targets)).all()


def test_a_class_without_positives_is_nan_and_left_out_of_the_mean() -> None:
    scores, targets = random_set(50, 3, 5)
    targets[:, 1] = False
    values = average_precision(scores, targets)
    assert values.isnan().tolist() == [F, T, F]
    assert mean_average_precision(scores, targets).item() == pytest.approx((values[0] + values[2]).item() / 2)
    assert mean_average_precision(scores, torch.zeros_like(targets)).isnan()
    voc = mean_average_precision(scores, targets, interpolated=True)
    assert voc.item() == pytest.approx(average_precision(scores, targets, True).nanmean().item())


# ---------------------------------------------------------------------------------------------------------- gathering


def test_what_is_gathered_over_batches_is_the_whole_set() -> None:
    scores, targets = random_set(10, 3, 6)
    gathered = Decisions()
    for rows in (slice(0, 4), slice(4, 4), slice(4, 10)):
        batch = scores[rows].clone()
        gathered.update(batch.to(torch.float64), targets[rows].float())
        batch.zero_()
    assert torch.equal(gathered.scores, scores)
    assert torch.equal(gathered.targets, targets)
    assert len(gathered) == 10 == len(gathered.reduce())
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        gathered.update(scores, targets[:4])


def rank_gathers(rank: int, place: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    scores, targets = random_set(7, 3, 7)
    gathered = Decisions()
    assert len(gathered.reduce()) == 0
    if rank == 0:
        gathered.update(scores, targets)  # the other has none
    for both in (gathered.reduce(), gathered.reduce()):
        assert torch.equal(both.scores, scores)
        assert torch.equal(both.targets, targets)
    gathered.update(scores[:2], targets[:2])
    assert len(gathered.reduce()) == 11
    assert len(gathered) == [9, 2][rank]
    torch.distributed.destroy_process_group()


def test_ranks_with_unequal_shares_gather_all_of_them(tmp_path: Path) -> None:
    spawn = torch.multiprocessing.start_processes  # forked: nothing to import again
    spawn(rank_gathers, args=(str(tmp_path / "meet"),), nprocs=2, start_method="fork")
