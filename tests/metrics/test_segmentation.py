import math

import pytest
import torch

from sightword.metrics.classes import confusion_matrix
from sightword.metrics.segmentation import accuracy, class_iou, mean_iou

COUNTS = torch.tensor([[3, 1, 0], [1, 2, 0], [0, 0, 0]])  # the third class has no element and is predicted for none


def test_the_iou_of_a_class_is_its_intersection_over_its_union():
    found = class_iou(COUNTS)
    assert found[:2].tolist() == pytest.approx([3 / 5, 2 / 4])
    assert math.isnan(found[2])
    assert float(mean_iou(COUNTS)) == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert float(accuracy(COUNTS)) == pytest.approx(5 / 7)


def test_counts_agree_with_sets_of_elements():
    generator = torch.Generator().manual_seed(0)
    true, predicted = (torch.randint(4, (200,), generator=generator) for _ in range(2))
    found = class_iou(confusion_matrix(predicted, true, 4))
    for number in range(4):
        own, taken = true == number, predicted == number
        assert float(found[number]) == pytest.approx(float((own & taken).sum() / (own | taken).sum()))


def test_an_element_without_a_prediction_is_wrong_and_no_false_positive():
    counts = torch.tensor([[3, 0, 2], [0, 4, 0]])
    assert class_iou(counts).tolist() == pytest.approx([3 / 5, 1])
    assert float(accuracy(counts)) == pytest.approx(7 / 9)


def test_a_class_that_others_are_mistaken_for_and_that_has_no_element_counts_not():
    counts = torch.tensor([[2, 2], [0, 0]])
    assert float(mean_iou(counts)) == pytest.approx(0.5)


def test_nothing_measured_is_nan():
    counts = torch.zeros(3, 4, dtype=torch.int64)
    assert math.isnan(float(accuracy(counts)))
    assert math.isnan(float(mean_iou(counts)))
