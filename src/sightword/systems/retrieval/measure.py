"""Retrieval's metrics as functions of queries that count with weights. Arrays: see `RetrievalEvaluator.items`."""

from collections.abc import Mapping

import numpy as np

from sightword.engine.contract import Measure
from sightword.metrics import weighted

Arrays = Mapping[str, np.ndarray]


def _rank(k: int, of_images: bool) -> Measure:
    return Measure(lambda arrays, weights: _mean(arrays["rank_of_first"] <= k, arrays, weights, of_images))


def _average(name: str, of_images: bool) -> Measure:
    return Measure(lambda arrays, weights: _mean(arrays[name], arrays, weights, of_images))


def _mean(values: np.ndarray, arrays: Arrays, weights: np.ndarray, of_images: bool) -> np.ndarray:
    """Per cent, over the queries of one kind that have a match."""
    some = (arrays["is_image"].astype(bool) == of_images) & (arrays["rank_of_first"] > 0)
    return 100 * weighted.mean(values, weights, some)


MEASURES: dict[str, Measure] = {
    f"{prefix}{name}": measure
    for prefix, of_images in (("", False), ("i2t_", True))
    for name, measure in (
        ("rank1", _rank(1, of_images)),
        ("rank5", _rank(5, of_images)),
        ("rank10", _rank(10, of_images)),
        ("map", _average("ap", of_images)),
        ("minp", _average("inp", of_images)),
    )
}
