"""Skeleton's metrics as functions of recordings that count with weights. Arrays: see `SkeletonEvaluator.items`."""

from collections.abc import Mapping

import numpy as np

from sightword.engine.contract import Measure
from sightword.metrics import weighted

Arrays = Mapping[str, np.ndarray]


def _top(k: int) -> Measure:
    return Measure(lambda a, weights: 100 * weighted.mean(weighted.top_k(a["scores"], a["label"], k), weights))


def _mean_class(arrays: Arrays, weights: np.ndarray) -> np.ndarray:
    return 100 * weighted.mean_class_accuracy(arrays["predicted"] == arrays["label"], arrays["label"], weights)


MEASURES: dict[str, Measure] = {"top1": _top(1), "top5": _top(5), "mean_class": Measure(_mean_class)}
