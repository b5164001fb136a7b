"""Measures of many labels by three rules for the threshold, how each was taken, and what every class has of them.

    official    of 0.05, 0.10 … 0.95 the first with the best macro F1 on validation, also on test (Jia et al. 2021)
    per_split_  the same, chosen on the split that is measured: optimistic on test, where some papers use it
    fixed_      0.5, on any split

Legend: N images; C classes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightword.metrics import multilabel
from sightword.metrics.multilabel import (
    THRESHOLDS,
    average_precision,
    best_threshold,
    mean_average_precision,
    precision_recall,
)
from sightword.systems.intent.intentonomy import CLASSES, SUBSETS

FIXED = 0.5
AVERAGES = ("macro", "micro", "samples")
HARDNESS, CUES = ("easy", "medium", "hard"), ("object", "context", "other")  # the two partitions in SUBSETS


def on_grid(threshold: float) -> float:
    """The official threshold that was meant by one kept in float32: rounded, 0.1 is above a score of 0.1."""
    return float(THRESHOLDS[np.abs(THRESHOLDS - threshold).argmin()])


def measures_of(scores: Tensor, targets: Tensor, threshold: float) -> dict[str, float]:
    """Scores, targets (N, C) to measures by name. threshold: the official one, which validation gave."""
    found: dict[str, float] = {}
    for rule, t in {"": threshold, "per_split_": best_threshold(scores, targets), "fixed_": FIXED}.items():
        predicted = scores.double() > t
        found |= {f"{rule}{name}_f1": float(multilabel.f1(predicted, targets, name)) for name in AVERAGES}
        found |= {} if rule == "fixed_" else {f"{rule}threshold": t}
    each = multilabel.f1(scores.double() > threshold, targets, None)  # (C,)
    if len(each) == len(CLASSES):
        found |= {f"{name}_f1": float(each[list(ids)].mean()) for name, ids in SUBSETS.items()}
    found["map"] = float(mean_average_precision(scores, targets))
    found["map_voc"] = float(mean_average_precision(scores, targets, interpolated=True))
    found["all_ones_macro_f1"] = float(multilabel.f1(torch.ones_like(targets), targets))
    return found


def protocol_of(split: str, images: int) -> dict[str, Any]:
    """How `measures_of` a split was taken: the rules, and under "measures" a word on each number."""
    chosen = "the threshold and best.ckpt were chosen on them" if split == "val" else "nothing was chosen on them"
    seen = "trained on" if split == "train" else f"never trained on; {chosen}"
    return {
        "split": f"{split}: {images} images, {seen}",
        "official": "of 0.05, 0.10 … 0.95 the first with the best macro F1 on the validation images; score > threshold",
        "per_split": "the same rule on the images that are measured: optimistic on any but validation",
        "fixed": f"score > {FIXED}",
        "f1": "as sklearn: a class, or an image, with neither label nor prediction counts 0",
        "map": "step average precision (sklearn's); map_voc: interpolated at all points, as papers have it",
        "subsets": {name: [CLASSES[number] for number in ids] for name, ids in SUBSETS.items()},
        "measures": _notes(split),
    }


def _notes(split: str) -> dict[str, str]:
    """Measure → what to know when reading it."""
    own = "on these images, which are validation" if split == "val" else f"on {split} itself: optimistic"
    notes = {f"{name}_f1": "official: score > threshold" for name in AVERAGES}
    notes["threshold"] = "of 19, the first with the best macro F1 on validation"
    notes |= {f"per_split_{name}_f1": "score > per_split_threshold" for name in AVERAGES}
    notes["per_split_threshold"] = f"the same rule {own}"
    notes |= {f"fixed_{name}_f1": f"score > {FIXED}" for name in AVERAGES}
    notes |= {f"{name}_f1": f"official, mean over {len(ids)} classes" for name, ids in SUBSETS.items()}
    return notes | {
        "map": "step average precision, as sklearn",
        "map_voc": "interpolated, as PASCAL VOC and papers",
        "all_ones_macro_f1": "of saying yes to all",
        "missing": "annotated images that are not there",
        "skipped": "images that cannot be read",
    }


def class_table(scores: Tensor, targets: Tensor, threshold: float) -> list[dict[str, Any]]:
    """A row for each class, by the official rule. AP is None where the class has no positives."""
    predicted = scores.double() > threshold
    precision, recall = (values.tolist() for values in precision_recall(predicted, targets))
    f1, ap = multilabel.f1(predicted, targets, None).tolist(), average_precision(scores, targets).tolist()
    support, said = targets.bool().sum(0).tolist(), predicted.sum(0).tolist()
    known = len(support) == len(CLASSES)
    return [
        {
            "class": number,
            "name": CLASSES[number] if known else str(number),
            "support": support[number],
            "predicted": said[number],
            "threshold": round(threshold, 2),
            "precision": precision[number],
            "recall": recall[number],
            "f1": f1[number],
            "ap": ap[number] if support[number] else None,
            "hardness": _subset(number, HARDNESS) if known else "",
            "cue": _subset(number, CUES) if known else "",
        }
        for number in range(len(support))
    ]


def _subset(number: int, names: tuple[str, ...]) -> str:
    return next(name for name in names if number in SUBSETS[name])
