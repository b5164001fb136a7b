"""Points' metrics as functions of scenes that count with weights. Arrays: see `PointsEvaluator.items`."""

from collections.abc import Mapping

import numpy as np

from sightword.engine.contract import Measure
from sightword.metrics import weighted

Arrays = Mapping[str, np.ndarray]


def _all(arrays: Arrays, name: str) -> np.ndarray:
    """Confusion matrices over all points, (N, C, C + 1); the file has unseen and seen points apart."""
    return arrays[f"{name}_counts"].sum(1)


def _accuracy(name: str) -> Measure:
    return Measure(lambda a, weights: 100 * weighted.accuracy(_all(a, name), weights))


def _accuracy_of(name: str, seen: bool) -> Measure:
    return Measure(lambda a, weights: 100 * weighted.accuracy(a[f"{name}_counts"][:, int(seen)], weights))


def _miou(name: str) -> Measure:
    return Measure(lambda a, weights: 100 * weighted.mean_iou(_all(a, name), weights))


MEASURES: dict[str, Measure] = {
    f"{name}_{part}": measure
    for name in ("clip", "text")
    for part, measure in (
        ("accuracy", _accuracy(name)),
        ("miou", _miou(name)),
        ("accuracy_seen", _accuracy_of(name, True)),
    )
} | {"text_accuracy_unseen": _accuracy_of("text", False)}
