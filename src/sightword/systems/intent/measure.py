"""Intent's metrics as functions of images that count with weights. Arrays: see `IntentEvaluator.items`.

Thresholds are those of the evaluation: validation's, whatever images are drawn.
"""

from sightword.engine.contract import Measure
from sightword.metrics import weighted

AVERAGES = ("macro", "micro", "samples")
FIXED = 0.5


def _f1(average: str) -> Measure:
    return Measure(lambda a, weights: weighted.f1(a["predicted"] > 0, a["targets"] > 0, weights, average))


def _fixed_f1(average: str) -> Measure:
    return Measure(lambda a, weights: weighted.f1(a["scores"] > FIXED, a["targets"] > 0, weights, average))


def _map(interpolated: bool) -> Measure:
    return Measure(
        lambda a, weights: weighted.mean_average_precision(a["scores"], a["targets"] > 0, weights, interpolated)
    )


MEASURES: dict[str, Measure] = {
    **{f"{average}_f1": _f1(average) for average in AVERAGES},
    **{f"fixed_{average}_f1": _fixed_f1(average) for average in AVERAGES},
    "map": _map(False),
    "map_voc": _map(True),
}
