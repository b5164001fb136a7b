"""How well actions are named, and whether frames are weighed as the action's key moments are.

Legend: B recordings of a batch, N of all; n views of each; L frames of a view; T frames of the features; K classes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader

from sightword.data.loader import moved
from sightword.engine.contract import SPLITS, Evaluator, Metrics, Row
from sightword.engine.item_result import ItemResults
from sightword.metrics.classes import class_accuracy, confusion_matrix, mean_class_accuracy, top_k
from sightword.metrics.gather import gathered
from sightword.metrics.zeroshot import generalised, outcome, zero_shot
from sightword.systems.skeleton import prediction
from sightword.systems.skeleton.data import SkeletonBatch, ViewDataset
from sightword.systems.skeleton.formats.naming import NTU, SUBJECT, parts_of
from sightword.systems.skeleton.model import VideoTextModel
from sightword.systems.skeleton.predict import (
    ActionPrediction,
    BatchScores,
    as_predictions,
    describe_probabilities,
    score_views,
)
from sightword.systems.skeleton.task import SkeletonTask
from sightword.systems.skeleton.weight import weights_against_truth

ZERO_SHOT = ("zsl", "gzsl_seen", "gzsl_unseen", "gzsl_h")
SHOWN = 4  # recordings of an image
FEWEST = 10  # subjects that are resampled as clusters


class Rows(NamedTuple):
    """Recordings and their probabilities, on the CPU."""

    scores: Tensor  # (N, K) float32
    labels: Tensor  # (N,)
    number: Tensor  # (N,), which of the split
    weights: Tensor  # (N, n, T), or (N, n, 0) if frames are not weighed
    key: Tensor  # (N, n, L)

    @classmethod
    def of(cls, scored: BatchScores, batch: SkeletonBatch) -> "Rows":
        """Return a batch and its probabilities, copied out of the loader's memory."""
        weights = scored.weights if scored.weights is not None else scored.scores.new_zeros(*batch.key.shape[:2], 0)
        parts = (scored.scores.float(), batch.labels, batch.index, weights.float(), batch.key)
        return cls(*(part.detach().cpu().clone() for part in parts))


class SkeletonEvaluator(Evaluator[SkeletonBatch]):
    """Predicts recordings and counts correct ones."""

    def __init__(self, task: SkeletonTask) -> None:
        self.task, self.classes = task, task.labels.classes
        self.confusion: Tensor | None = None  # (K, K) of the last metrics, rows true, columns predicted
        self.count, self.views, self.size = 0, 0, (0, 0)  # recordings, views of each, canvas: of the last metrics
        self.spread: tuple[float, float] | None = None  # effective and all moments of a view, of the last metrics
        self._rows: list[Rows] = []
        self._measured: Rows | None = None  # of the last metrics

    def metric_names(self) -> frozenset[str]:
        names = {"top1", "mean_class"} | ({"top5"} if len(self.classes) > 5 else set())
        if self.task.system.frames == "pacl":
            names |= {"effective_frames", "frames", "key_auc", "key_weight", "key_frames", "key_views"}
        return frozenset(names | set(ZERO_SHOT)) if self.task.system.unseen else frozenset(names)

    def update(self, batch: SkeletonBatch) -> None:
        self.add(batch)

    def add(self, batch: SkeletonBatch) -> BatchScores:
        """Take in a batch, as `update` does, and return its probabilities."""
        self.task.check_labels(batch.labels)
        self.split, self.views, self.size = batch.split, batch.points.shape[1], (int(batch.size[0]), int(batch.size[1]))
        scored = self.score(batch)
        self._rows.append(Rows.of(scored, batch))
        return scored

    def score(self, batch: SkeletonBatch) -> BatchScores:
        """Return the probabilities of a batch."""
        task = self.task
        bank = task.bank() if isinstance(task.model, VideoTextModel) else torch.zeros(0)
        kind = task.system.test_scores
        return score_views(task.model, task.heatmaps, bank, kind, batch.points, batch.scores, batch.size)

    def compute(self) -> Metrics:
        """Percent: top1, top5 (of more than five classes), mean_class (over classes that the split has).

        With frames weighed by texts, also effective_frames, and how well the weights point at known key moments. With
        unseen classes, on test: zsl, gzsl_seen, gzsl_unseen, gzsl_h (`metrics.zeroshot`), without calibration.
        """
        rows: Rows | None = gathered(Rows, self._rows)
        self._rows, self._measured = [], None
        if rows is None:
            return {}
        self._measured = rows = rows._replace(scores=rows.scores.masked_fill(self.absent(), -1))
        self.count = len(rows.labels)
        self.confusion = confusion_matrix(rows.scores.argmax(1), rows.labels, len(self.classes))
        found = {"top1": 100 * float(top_k(rows.scores, rows.labels, 1))}
        if len(self.classes) > 5:
            found["top5"] = 100 * float(top_k(rows.scores, rows.labels, 5))
        found["mean_class"] = 100 * float(mean_class_accuracy(self.confusion))
        if rows.weights.numel():
            found |= weights_against_truth(rows.weights.flatten(0, 1), rows.key.flatten(0, 1))
            self.spread = (found["effective_frames"], found["frames"])
        return found | self._zero_shot(rows) if self.task.system.unseen and self.split == "test" else found

    def absent(self) -> Tensor:
        """Which classes the split does not have (K,) bool: unseen ones but in test, and validation classes."""
        system = self.task.system
        names = {*system.unseen_val, *(system.unseen if self.split != "test" else ())}
        return torch.tensor([name in names for name in self.classes])

    def _zero_shot(self, rows: Rows) -> Metrics:
        unseen = np.array([name in self.task.system.unseen for name in self.classes])
        decided = outcome(rows.scores.numpy(), rows.labels.numpy(), unseen)
        return {
            name: 100 * value
            for name, value in zip(ZERO_SHOT, (zero_shot(decided), *generalised(decided)), strict=True)
        }

    def items(self, loader: DataLoader[SkeletonBatch]) -> ItemResults | None:
        """Probabilities of each recording, the mean over its views. Clusters: see `clusters_of`."""
        rows, dataset = self._measured, loader.dataset
        if rows is None or not isinstance(dataset, ViewDataset):
            return None
        names = [dataset.name(row) for row in rows.number.tolist()]
        arrays = {"scores": rows.scores, "label": rows.labels, "predicted": rows.scores.argmax(1)}
        unit, clusters = clusters_of(names)
        return ItemResults.of(unit, names, clusters, {name: each.numpy() for name, each in arrays.items()})

    def protocol(self) -> dict[str, str]:
        task = self.task
        found = {
            "split": SPLITS.get(self.split, f"{self.split}: a split of its own"),
            "views": f"{self.count} recordings, {self._views()}; probabilities are averaged over views",
            "classes": f"{len(self.classes)} of {task.labels.source}",
            "mean_class": "the mean of recalls over the classes that the split has",
            "probabilities": describe_probabilities(task.model, task.system.test_scores),
        }
        if isinstance(task.model, VideoTextModel) and task.trained_on != len(self.classes):
            found["classes"] += f"; it was trained on {task.trained_on}"
        absent = int(self.absent().sum())
        if absent:
            found["classes"] += f", less {absent} that are not trained"
        if task.system.unseen and self.split == "test":
            found["unseen"] = f"never trained: {', '.join(task.system.unseen)}. zsl is among these, gzsl among all"
        return found

    def notes(self) -> dict[str, str]:
        how = describe_probabilities(self.task.model, self.task.system.test_scores)
        found = dict.fromkeys(("top1", "top5", "mean_class"), f"%, {self._views()}, {how}")
        if self.spread is not None and isinstance(self.task.model, VideoTextModel):
            used = f"{self.spread[0]:.2f} of {self.spread[1]:.0f} moments"
            gain = f"gain {float(torch.as_tensor(self.task.model.gain).detach()):.3g}"
            gain += ", trained" * self.task.system.pacl_learn_gain
            found["effective_frames"] = (
                f"moments of {self.spread[1]:.0f}, exp of the weights' entropy; all: a mean; {gain}"
            )
            found["key_auc"] = f"how weights rank, not how much they differ: they spread over {used}"
        return found

    def _views(self) -> str:
        return f"{self.views} view{'s' * (self.views != 1)} each at {self.size[0]}×{self.size[1]}"

    def tables(self) -> dict[str, list[Row]]:
        """Each class with its recall and the class that it is most often confused with."""
        return {} if self.confusion is None else {"classes": class_table(self.confusion, self.classes)}

    def images(self, batch: SkeletonBatch) -> dict[str, Image]:
        """Some recordings as filmstrips, with the weight of each frame if frames are weighed."""
        some = SkeletonBatch._make(part[:SHOWN] if isinstance(part, Tensor) else part for part in batch)
        names = [f"{batch.split} {number}" for number in some.index.tolist()]
        return {"strips": prediction.strips(self._predicted(some, names))}

    @torch.no_grad()
    def draw(self, loader: DataLoader[SkeletonBatch], folder: Path) -> list[Path]:
        """Write filmstrips of recordings, evenly spread over the loader's, and the last metrics' confusion matrix."""
        dataset, device = loader.dataset, next(self.task.parameters()).device
        assert isinstance(dataset, ViewDataset)
        rows = sorted({number * len(dataset) // (2 * SHOWN) for number in range(2 * SHOWN)})
        predictions = self._predicted(moved(dataset.__getitems__(rows), device), [dataset.name(row) for row in rows])
        return prediction.draw(predictions, folder, self.confusion)

    def _predicted(self, batch: SkeletonBatch, names: list[str]) -> list[ActionPrediction]:
        return as_predictions(self.score(batch), batch, names, self.task.labels, self.task.joints, labelled=True)


def clusters_of(names: list[str]) -> tuple[str, list[str]]:
    """Return what is independent in recordings, and each one's: its subject, where all names state it, as NTU's do.

    With under `FEWEST` subjects, as in MSR-Action3D, a bootstrap over them would say nothing: then each recording.
    """
    for pattern in (NTU, SUBJECT):
        parts = parts_of(names, pattern)
        subjects = [f"subject {one['person']}" for one in parts or ()]
        if people := len(set(subjects)):
            return (
                ("subjects", subjects)
                if people >= FEWEST
                else (f"recordings of {people} people" if people > 1 else "recordings of one person", names)
            )
    return "recordings", names


def class_table(confusion: Tensor, names: tuple[str, ...]) -> list[Row]:
    """A row for each class: its recordings, its recall in percent, the class that it is most often confused with."""
    right = class_accuracy(confusion)
    wrong = confusion - confusion.diag().diag()
    rows: list[Row] = []
    for number, name in enumerate(names):
        count, most = int(confusion[number].sum()), int(wrong[number].argmax())
        times = int(wrong[number, most])
        rows.append(
            {
                "class": name,
                "recordings": count,
                "right": round(100 * float(right[number]), 2) if count else None,
                "taken_for": names[most] if times else "",
                "times": times,
            }
        )
    return rows
