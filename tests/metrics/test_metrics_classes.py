"""One of C classes: top-k, the confusion matrix and mean-class accuracy, by hand."""

import math
from typing import NamedTuple

import pytest
import torch

from sightword.metrics.classes import class_accuracy, confusion_matrix, mean_class_accuracy, top_k
from sightword.metrics.gather import gathered


def test_top_k_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])
    labels = torch.tensor([1, 1, 0, 0])  # first, second, third, first
    assert [top_k(scores, labels, k).item() for k in (1, 2, 3, 9)] == [0.5, 0.75, 1.0, 1.0]
    assert top_k(scores, labels, 1).dtype == torch.float64


def test_a_network_that_cannot_tell_is_worth_chance_wherever_the_label_stands() -> None:
    scores = torch.zeros(8, 4)
    for label in range(4):
        assert [top_k(scores, torch.full((8,), label), k).item() for k in (1, 3, 4)] == [0.25, 0.75, 1.0]


def test_ties_share_the_places_they_stand_on() -> None:
    scores = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0]])
    found = [top_k(scores, torch.tensor([1]), k).item() for k in (1, 2, 3, 4)]
    assert found == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_nan_is_never_right() -> None:
    scores = torch.tensor([[math.nan, math.nan], [math.nan, 1.0], [1.0, math.nan]])
    assert top_k(scores, torch.tensor([0, 0, 0]), 1).item() == 0
    assert top_k(torch.full((2, 6), math.nan), torch.tensor([0, 3]), 5).item() == 0


def test_no_items_have_no_share() -> None:
    assert top_k(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).isnan()


def test_rows_are_true_and_columns_predicted() -> None:
    labels = torch.tensor([0, 0, 0, 1, 3])
    predicted = torch.tensor([0, 1, 1, 1, 2])
    counts = confusion_matrix(predicted, labels, 4)
    assert counts.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert counts.dtype == torch.int64


def test_the_matrix_of_all_is_the_sum_of_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(7, (2, 50), generator=generator)
    parts = [confusion_matrix(p, y, 7) for p, y in zip(predicted.split(20), labels.split(20), strict=True)]
    assert torch.equal(sum(parts), confusion_matrix(predicted, labels, 7))


def test_the_mean_is_over_the_classes_that_are_there() -> None:
    # class 2 has no item; that a guess fell on it does not count as a class of accuracy 0, as it does in pyskl
    counts = confusion_matrix(torch.tensor([0, 2, 1, 1, 0]), torch.tensor([0, 0, 1, 1, 1]), 4)
    each = class_accuracy(counts)
    assert each[:2].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert each[2:].isnan().all()
    assert mean_class_accuracy(counts).item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean_class_accuracy(torch.zeros(3, 3)).isnan()


def test_mean_class_accuracy_does_not_weigh_classes_by_their_items() -> None:
    labels = torch.tensor([0] * 9 + [1])
    counts = confusion_matrix(torch.zeros(10, dtype=torch.int64), labels, 2)
    assert mean_class_accuracy(counts).item() == 0.5


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: top_k(torch.zeros(2, 3), torch.tensor([0, 3])), "labels run from 0 to 3, and there are 3"),
        (lambda: top_k(torch.zeros(2, 3), torch.tensor([0])), r"\(2, 3\) and \(1,\)"),
        (lambda: top_k(torch.zeros(1, 3), torch.tensor([0]), 0), "k at least 1"),
        (lambda: confusion_matrix(torch.tensor([-1]), torch.tensor([0]), 3), "predictions run from -1"),
        (lambda: confusion_matrix(torch.tensor([1, 2]), torch.tensor([0]), 3), r"\(2,\) and \(1,\)"),
        (lambda: class_accuracy(torch.zeros(2, 3)), r"\(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_one_line(call, told) -> None:
    with pytest.raises(ValueError, match=told):
        call()


class Numbered(NamedTuple):
    number: torch.Tensor
    values: torch.Tensor


def test_gathered_rows_stand_in_the_order_of_their_number() -> None:
    parts = [
        Numbered(torch.tensor([3, 1]), torch.tensor([[3.0], [1.0]])),
        Numbered(torch.tensor([2]), torch.ones(1, 1)),
    ]
    found = gathered(Numbered, parts)
    assert isinstance(found, Numbered)
    assert found.number.tolist() == [1, 2, 3]
    assert found.values.tolist() == [[1.0], [1.0], [3.0]]
    assert gathered(Numbered, []) is None
