"""Multi-label metrics by three rules for the threshold, with notes on each and a table of the classes.

    official    of 0.05, 0.10 … 0.95 the first with the best macro F1 on validation, also on test (Jia et al. 2021)
    per_split_  the same, chosen on the split that is measured: optimistic on test, where some papers use it
    fixed_      0.5, on any split

Legend: N images; C classes; K codes of a stream.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightword.engine.contract import Evaluator, Metrics, Row
from sightword.engine.item_result import ItemResults
from sightword.errors import SightwordError
from sightword.metrics import multilabel
from sightword.metrics.codebook import perplexity, usage
from sightword.metrics.gather import ItemRows, Mean, over_ranks
from sightword.metrics.multilabel import (
    THRESHOLDS,
    Decisions,
    average_precision,
    best_threshold,
    mean_average_precision,
    precision_recall,
)
from sightword.storage.cache import digest
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.hierarchy import INTENTS, levels
from sightword.systems.intent.intentonomy import CUE, HARDNESS, subsets_of
from sightword.systems.intent.task import IntentTask, MultiStreamTask

FIXED = 0.5
AVERAGES = ("macro", "micro", "samples")


class IntentEvaluator(Evaluator[IntentBatch]):
    """Gathers the scores of a split. Validation chooses the threshold, which is kept in the task for other splits."""

    def __init__(self, task: IntentTask) -> None:
        self.task = task
        self._fingerprint, self._images = 0, 0
        self._classes: list[Row] = []  # tables of the last metrics
        self._levels: list[Row] = []
        self._codebooks: list[Row] = []
        self._items: ItemResults | None = None
        self._reset()

    def _reset(self) -> None:
        self._rows = ItemRows()
        self.decisions, self.missing, self.skipped = Decisions(), 0, Mean()
        task = self.task
        books = (
            {name: task.model.size(name) for name in task.model.streams} if isinstance(task, MultiStreamTask) else {}
        )
        self.counts = {name: torch.zeros(size, dtype=torch.int64) for name, size in books.items()}  # (K,)

    def metric_names(self) -> frozenset[str]:
        return frozenset(notes_of(self.split, self.task.classes))

    def update(self, batch: IntentBatch) -> None:
        """Raises SightwordError if a test batch comes before the threshold was chosen, or if its labels do not fit."""
        self.task.check_columns(batch)
        if not len(self.decisions):
            self._fingerprint = fingerprint(self.task.model)
        if batch.split != "val":
            self._check_threshold(batch.split)
        self.split, self.missing = batch.split, batch.missing
        self.skipped.update(torch.tensor(float(batch.skipped)))
        if len(batch.targets):
            self.decisions.update(self._logits(batch).float().sigmoid(), batch.targets > 0)
            self._rows.update(batch.image_ids)

    @torch.no_grad()
    def _logits(self, batch: IntentBatch) -> Tensor:
        """Logits (B, C) of a batch; counts the codes that it uses."""
        if not isinstance(self.task, MultiStreamTask):
            return self.task.logits(batch)
        read = self.task.read(batch)
        for name, counts in self.counts.items():
            if batch.counts is None:
                counts += torch.bincount(read.ids[name].flatten().cpu(), minlength=len(counts))
            else:
                counts += batch.counts[name].sum(0).long().cpu()
        return read.logits

    def compute(self) -> Metrics:
        """Return F1 at the threshold that validation chooses and by other rules, and average precision."""
        gathered, skipped = self.decisions.reduce(), float(self.skipped.reduce().sum[0])
        self._codebooks = [_codebook_row(name, over_ranks(counts)) for name, counts in self.counts.items()]
        missing, names = self.missing, self._rows.reduce().names
        self._reset()
        if not len(gathered):
            raise SightwordError(
                f"none of the {skipped:.0f} images of {self.split} can be read. The causes are listed by: sightword "
                "check dataset=intentonomy root=…"
            )
        scores, targets = gathered.scores, gathered.targets
        if self.split == "val":
            self.task.threshold.fill_(best_threshold(scores, targets))
            self.task.judged.fill_(self._fingerprint)
        threshold = on_grid(float(self.task.threshold))
        self._images, self._classes = len(gathered), class_table(scores, targets, threshold, self.task.classes)
        self._levels = level_table(scores, targets, threshold, self.task.classes)
        values = metrics_of(scores, targets, threshold, self.task.classes)
        arrays = {"scores": scores, "targets": targets, "predicted": scores.double() > threshold}  # (N, C) each
        found = {name: each.numpy() for name, each in arrays.items()}
        self._items = ItemResults.of("images", names, names, found, {"classes": np.array(self.task.classes)})
        return values | {name: float(n) for name, n in (("missing", missing), ("skipped", skipped)) if n}

    def items(self, loader: DataLoader[IntentBatch]) -> ItemResults | None:
        """Scores and labels of each image; predicted by the threshold of validation."""
        return self._items

    def _check_threshold(self, split: str) -> None:
        """Raise SightwordError unless the threshold was chosen for exactly these weights."""
        if self.task.threshold.isnan():
            told = "have none, as they are from before the first validation"
        elif int(self.task.judged) != self._fingerprint:
            told = "have that of others: they were trained on, or changed, since that validation"
        else:
            return
        raise SightwordError(
            f"{split} is measured with the threshold that validation chose, and these weights {told}. Pass "
            "checkpoint=best, or resume the run up to its next validation"
        )

    def protocol(self) -> dict[str, str]:
        return protocol_of(self.split, self._images, self.task.classes)

    def notes(self) -> dict[str, str]:
        return notes_of(self.split, self.task.classes)

    def tables(self) -> dict[str, list[Row]]:
        """Return a row for each class, for each group of intents, and for each codebook."""
        found = {"classes": self._classes, "levels": self._levels, "codebooks": self._codebooks}
        return {name: rows for name, rows in found.items() if rows}


def fingerprint(model: nn.Module) -> int:
    """Return 63 bits that tell weights apart. Frozen weights are left out."""
    moving = {name: value for name, value in model.named_buffers() if name.startswith("norm.")}
    return int(digest({**dict(model.named_parameters()), **moving}), 16) >> 1


def on_grid(threshold: float) -> float:
    """Return the nearest official threshold: 0.1 in float32 is above a score of 0.1 in float64."""
    return float(THRESHOLDS[np.abs(THRESHOLDS - threshold).argmin()])


# ------------------------------------------------------------------------------------------------------------ metrics


def metrics_of(scores: Tensor, targets: Tensor, threshold: float, classes: Sequence[str]) -> Metrics:
    """Return metrics of scores, targets (N, C). threshold: the official one, chosen on validation. classes: C names."""
    found: Metrics = {}
    for rule, t in {"": threshold, "per_split_": best_threshold(scores, targets), "fixed_": FIXED}.items():
        predicted = scores.double() > t
        found |= {f"{rule}{name}_f1": float(multilabel.f1(predicted, targets, name)) for name in AVERAGES}
        found |= {} if rule == "fixed_" else {f"{rule}threshold": t}
    each = multilabel.f1(scores.double() > threshold, targets, None)  # (C,)
    for subset, names in subsets_of(classes).items():
        found[f"{subset}_f1"] = float(each[[classes.index(name) for name in names]].mean())
    for level in levels(classes):
        said, true, _ = level_decisions(scores.double() > threshold, targets, classes, level)
        found[f"level{level}_macro_f1"] = float(multilabel.f1(said, true))
    found["map"] = float(mean_average_precision(scores, targets))
    found["map_voc"] = float(mean_average_precision(scores, targets, interpolated=True))
    found["all_ones_macro_f1"] = float(multilabel.f1(torch.ones_like(targets), targets))
    return found


def protocol_of(split: str, images: int, classes: Sequence[str]) -> dict[str, str]:
    """Return how `metrics_of` a split were measured."""
    chosen = "the threshold and best.ckpt were chosen on them" if split == "val" else "nothing was chosen on them"
    seen = "trained on" if split == "train" else f"never trained on; {chosen}"
    subsets = "; ".join(f"{subset} ({', '.join(names)})" for subset, names in subsets_of(classes).items())
    found = {
        "split": f"{split}: {images} images, {seen}",
        "official": "of 0.05, 0.10 … 0.95 the first with the best macro F1 on the validation images; score > threshold",
        "per_split": "the same rule on the images that are measured: optimistic on any split but validation",
        "fixed": f"score > {FIXED}",
        "f1": "as scikit-learn: a class, or an image, with neither label nor prediction counts 0",
        "map": "step average precision, as scikit-learn; map_voc: interpolated at all points, as in PASCAL VOC",
        "classes": f"{len(classes)}, matched by name: {', '.join(classes)}",
    }
    told = "the published groups of 15 and 9; a group is present or predicted if any of its intents is"
    return found | ({"subsets": subsets, "levels": told} if subsets else {})


def notes_of(split: str, classes: Sequence[str]) -> dict[str, str]:
    """Return a few words on each metric, by its name."""
    own = "on these images, which are validation" if split == "val" else f"on {split} itself: optimistic"
    notes = {f"{name}_f1": "official: score > threshold" for name in AVERAGES}
    notes["threshold"] = "of 19, the first with the best macro F1 on validation"
    notes |= {f"per_split_{name}_f1": "score > per_split_threshold" for name in AVERAGES}
    notes["per_split_threshold"] = f"the same rule {own}"
    notes |= {f"fixed_{name}_f1": f"score > {FIXED}" for name in AVERAGES}
    notes |= {f"{name}_f1": f"official, mean over {len(names)} classes" for name, names in subsets_of(classes).items()}
    notes |= {f"level{level}_macro_f1": f"official, over the {level} groups of intents" for level in levels(classes)}
    return notes | {
        "map": "step average precision, as scikit-learn",
        "map_voc": "interpolated average precision, as in PASCAL VOC",
        "all_ones_macro_f1": "all-positive baseline",
        "missing": "annotated images that do not exist",
        "skipped": "images that cannot be read",
    }


# ------------------------------------------------------------------------------------------------------------- tables


def class_table(scores: Tensor, targets: Tensor, threshold: float, classes: Sequence[str]) -> list[Row]:
    """Return a row for each class, by the official rule. AP is None if the class has no positives.

    Columns title, hardness, cue, group and super_category are there if the classes are Intentonomy's.
    """
    predicted = scores.double() > threshold
    precision, recall = (values.tolist() for values in precision_recall(predicted, targets))
    f1, ap = multilabel.f1(predicted, targets, None).tolist(), average_precision(scores, targets).tolist()
    support, said = targets.bool().sum(0).tolist(), predicted.sum(0).tolist()
    known = bool(subsets_of(classes))
    return [
        {
            "class": number,
            "name": name,
            "support": support[number],
            "predicted": said[number],
            "threshold": round(threshold, 2),
            "precision": precision[number],
            "recall": recall[number],
            "f1": f1[number],
            "ap": ap[number] if support[number] else None,
            **(_known(name) if known else {}),
        }
        for number, name in enumerate(classes)
    ]


def _known(name: str) -> Row:
    intent = INTENTS[name]
    return {
        "hardness": HARDNESS[name],
        "cue": CUE[name],
        "title": intent.title,
        "group": intent.group,
        "super_category": intent.super_category,
    }


def level_decisions(
    predicted: Tensor, targets: Tensor, classes: Sequence[str], level: int
) -> tuple[Tensor, Tensor, list[str]]:
    """Return predictions (N, G) and targets (N, G) of the groups of a level, and the G names.

    predicted, targets: (N, C). A group is present or predicted if any of its classes is.
    """
    groups = levels(classes)[level]
    columns = [[classes.index(name) for name in own] for own in groups.values()]
    said, true = (torch.stack([values.bool()[:, own].any(1) for own in columns], 1) for values in (predicted, targets))
    return said, true, list(groups)


def level_table(scores: Tensor, targets: Tensor, threshold: float, classes: Sequence[str]) -> list[Row]:
    """Return a row for each of the 15 and 9 groups, by the official rule; none if the classes are not Intentonomy's."""
    rows: list[Row] = []
    for level, groups in levels(classes).items():
        said, true, names = level_decisions(scores.double() > threshold, targets, classes, level)
        precision, recall = (values.tolist() for values in precision_recall(said, true))
        f1 = multilabel.f1(said, true, None).tolist()
        rows += [
            {
                "level": level,
                "group": name,
                "support": int(true[:, i].sum()),
                "predicted": int(said[:, i].sum()),
                "precision": precision[i],
                "recall": recall[i],
                "f1": f1[i],
                "intents": ", ".join(INTENTS[own].title for own in groups[name]),
            }
            for i, name in enumerate(names)
        ]
    return rows


def _codebook_row(stream: str, counts: Tensor) -> Row:
    """How many codes the measured images use. counts: (K,)."""
    return {
        "stream": stream,
        "codes": len(counts),
        "used": int((counts > 0).sum()),
        "usage": float(usage(counts)),
        "perplexity": float(perplexity(counts)),
    }
