"""Intent's metrics as functions of images that count with weights. Arrays: see `IntentEvaluator.items`.

Thresholds are those of the evaluation: validation's, whatever images are drawn.
"""

from collections.abc import Mapping

import numpy as np

from sightword.engine.contract import Measure
from sightword.metrics import weighted

AVERAGES = ("macro", "micro", "samples")
FIXED = 0.5
SUBSETS = ("easy", "medium", "hard", "object", "context", "other")  # of Intentonomy's classes


def _f1(average: str) -> Measure:
    return Measure(lambda a, weights: weighted.f1(a["predicted"] > 0, a["targets"] > 0, weights, average))


def _fixed_f1(average: str) -> Measure:
    return Measure(lambda a, weights: weighted.f1(a["scores"] > FIXED, a["targets"] > 0, weights, average))


def _map(interpolated: bool) -> Measure:
    return Measure(
        lambda a, weights: weighted.mean_average_precision(a["scores"], a["targets"] > 0, weights, interpolated)
    )


def _subset_f1(subset: str) -> Measure:
    """The mean F1 of a part of Intentonomy's classes; NaN for other classes."""

    def values(arrays: Mapping[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
        from sightword.systems.intent.intentonomy import subsets_of

        classes = arrays["classes"].tolist()
        columns = [classes.index(name) for name in subsets_of(classes).get(subset, ())]
        each = weighted.class_f1(arrays["predicted"] > 0, arrays["targets"] > 0, weights)
        return weighted.nanmean(each[:, columns])

    return Measure(values)


MEASURES: dict[str, Measure] = {
    **{f"{average}_f1": _f1(average) for average in AVERAGES},
    **{f"fixed_{average}_f1": _fixed_f1(average) for average in AVERAGES},
    **{f"{subset}_f1": _subset_f1(subset) for subset in SUBSETS},
    "map": _map(False),
    "map_voc": _map(True),
}
