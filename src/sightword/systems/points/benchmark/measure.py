"""Benchmark scores of scenes: semantic IoU and accuracy, and AP of instances, in percent.

Legend: N vertices; C classes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sightword.errors import SightwordError
from sightword.metrics.instance import SCALE, Overlaps, Precision, agnostic, average_precision, overlaps
from sightword.metrics.segmentation import class_iou
from sightword.storage.table import Row, write_table
from sightword.storage.writer import finite, write_json
from sightword.systems.points.benchmark.found import Found
from sightword.systems.points.benchmark.protocol import GROUPS, Protocol
from sightword.systems.points.benchmark.truth import Truth


class Scores(NamedTuple):
    """What was measured."""

    summary: dict[str, float]  # in percent
    classes: list[Row]  # of each class with a vertex


class Benchmark:
    """Gathers scenes. Only counts are kept, so that a data set fits into memory."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol, size = protocol, len(protocol.ids)
        self.counts = torch.zeros(size, size + 1, dtype=torch.int64)  # true, predicted; the last is none of them
        self.scenes: list[Overlaps] = []
        self.alike: list[Overlaps] = []  # the same without classes

    def add(self, truth: Truth, found: Found) -> None:
        """Add a scene. Raises SightwordError if none of its vertices has a class of the benchmark."""
        size = len(self.protocol.ids)
        true, predicted = self._places(truth.numbers // SCALE), self._places(found.labels)
        measured = true < size
        if not measured.any():
            raise SightwordError(f"{truth.source} has no label of {self.protocol.dataset}. Is it of another label set?")
        cells = true[measured] * (size + 1) + predicted[measured]
        self.counts += torch.from_numpy(np.bincount(cells, minlength=size * (size + 1))).view(size, size + 1)
        instances = self.protocol.instances
        self.scenes.append(overlaps(truth.numbers, found.instances, instances))
        kept = np.isin(found.instances.labels, instances)
        masks, labels, scores = (part[kept] for part in found.instances)
        one = agnostic(truth.numbers, found.instances._replace(masks=masks, labels=labels, scores=scores), instances)
        self.alike.append(overlaps(*one, (1,)))

    def _places(self, labels: np.ndarray) -> np.ndarray:
        """The places of labels among the classes, (N,); their number for another."""
        order = np.argsort(self.protocol.ids)
        ids = np.array(self.protocol.ids)[order]
        at = np.searchsorted(ids, labels).clip(max=len(ids) - 1)
        found: np.ndarray = np.where(ids[at] == labels, order[at], len(ids))
        return found

    def scores(self) -> Scores:
        """Return the scores of all scenes."""
        iou, own = class_iou(self.counts).numpy(), self.counts.sum(1).numpy()
        recall = np.where(own > 0, self.counts.diagonal().numpy() / np.maximum(own, 1), np.nan)
        by_class = average_precision(self.scenes, self.protocol.instances)
        alike = average_precision(self.alike, (1,))
        places = {number: place for place, number in enumerate(self.protocol.instances)}
        of_instance = Precision(*(_spread(part, self.protocol.ids, places) for part in by_class))
        summary = {
            "miou": _mean(iou),
            "fiou": float(np.nansum(iou * own) / max(own.sum(), 1)),
            "macc": _mean(recall),
            "accuracy": float(self.counts.diagonal().sum()) / max(int(own.sum()), 1),
            **{name: _mean(part) for name, part in of_instance._asdict().items()},
            **{f"agnostic_{name}": float(part[0]) for name, part in alike._asdict().items()},
        }
        for group in GROUPS:
            if some := self.protocol.of_group(group):
                summary |= {f"{group}_miou": _mean(iou[some]), f"{group}_ap": _mean(of_instance.ap[some])}
        rows: list[Row] = [
            {
                "class": self.protocol.names[place],
                "id": self.protocol.ids[place],
                "group": self.protocol.groups[place],
                "vertices": int(own[place]),
                "iou": _number(iou[place]),
                **{name: _number(part[place]) for name, part in of_instance._asdict().items()},
            }
            for place in np.flatnonzero(own).tolist()
        ]
        return Scores({name: _percent(value) for name, value in summary.items()}, rows)


def write_scores(folder: Path, scores: Scores, protocol: dict[str, str]) -> list[Path]:
    """Write benchmark.json, the protocol, the summary and the classes; and the classes as CSV and as text."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "benchmark.json"
    write_json(file, finite({"protocol": protocol, "summary": scores.summary, "classes": scores.classes}))
    return [file, *write_table(file, "classes", scores.classes, protocol)]


def lines(scores: Scores) -> list[str]:
    """Return the summary as a table; a dash where nothing was measured."""
    of = scores.summary

    def row(name: str, *keys: str) -> str:
        return f"{name:<24}" + "".join(f"{_shown(of.get(key, np.nan)):>8}" for key in keys)

    found = [
        f"{'semantic':<24}{'mIoU':>8}{'fIoU':>8}{'mAcc':>8}{'Acc':>8}",
        row("all classes", "miou", "fiou", "macc", "accuracy"),
    ]
    found += [row(group, f"{group}_miou") for group in GROUPS if f"{group}_miou" in of]
    found += [f"{'instances':<24}{'AP':>8}{'AP50':>8}{'AP25':>8}", row("by class", "ap", "ap50", "ap25")]
    found += [row(f"{group}, by class", f"{group}_ap") for group in GROUPS if f"{group}_ap" in of]
    return [*found, row("whatever they are", "agnostic_ap", "agnostic_ap50", "agnostic_ap25")]


def _spread(values: np.ndarray, ids: tuple[int, ...], places: dict[int, int]) -> np.ndarray:
    """Values of instance classes at the places of all classes; NaN for the others."""
    return np.array([values[places[number]] if number in places else np.nan for number in ids])


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _percent(value: float) -> float:
    return round(100 * float(value), 2)


def _number(value: float) -> float | None:
    return _percent(value) if np.isfinite(value) else None


def _shown(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "-"
