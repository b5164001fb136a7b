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


def _miou_of(name: str, seen: bool) -> Measure:
    return Measure(lambda a, weights: 100 * weighted.mean_iou(a[f"{name}_counts"][:, int(seen)], weights))


def _room_miou(name: str) -> Measure:
    return Measure(lambda a, weights: 100 * weighted.mean(_scene_iou(_all(a, name)), weights))


def _scene_iou(counts: np.ndarray) -> np.ndarray:
    """The mean IoU of each scene by itself, (N,)."""
    return weighted.mean_iou(counts, np.eye(len(counts)))


#: `spread`, lifted CLIP averaged over like points, is measured by models that have it.
MEASURES: dict[str, Measure] = {
    f"{name}_{part}": measure
    for name in ("clip", "spread", "text")
    for part, measure in (
        ("accuracy", _accuracy(name)),
        ("miou", _miou(name)),
        ("room_miou", _room_miou(name)),
        ("accuracy_seen", _accuracy_of(name, True)),
        ("miou_seen", _miou_of(name, True)),
        ("accuracy_unseen", _accuracy_of(name, False)),
        ("miou_unseen", _miou_of(name, False)),
    )
    if name != "clip" or not part.endswith("unseen")
}
