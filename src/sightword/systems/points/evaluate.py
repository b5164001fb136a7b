"""How well points are classified by text queries, with lifted CLIP and with the fused features side by side.

Legend: N points of a batch; C classes; E dimension of CLIP's joint space.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from sightword.data.loader import moved
from sightword.engine.contract import SPLITS, Evaluator, Metrics, Row
from sightword.engine.item_result import ItemResults
from sightword.metrics.acceptance import RATE
from sightword.metrics.gather import ItemRows, Mean, gathered
from sightword.metrics.segmentation import accuracy, class_iou, mean_iou
from sightword.storage.writer import write_png
from sightword.systems.points import show
from sightword.systems.points.ask import Kind
from sightword.systems.points.data import RoomBatch
from sightword.systems.points.doctor.up import held_level
from sightword.systems.points.instance import BEST
from sightword.systems.points.model import Fused
from sightword.systems.points.presence import AROUND, SCENES, Background, around, chosen, distribution, fits_of, sampled
from sightword.systems.points.task import PointsTask, agreement

FEATURES = {
    "clip": "lifted CLIP",
    "spread": "lifted CLIP averaged over like points",
    "text": "the fused features",
}  # fields of `Fused` that text queries are compared with
PARTS = {
    "accuracy": "",
    "miou": ", mean IoU over classes",
    "room_miou": ", mean IoU over the classes of a scene, then over scenes",
    "accuracy_seen": ", where seen",
    "miou_seen": ", mean IoU over classes, where seen",
}
UNSEEN = {
    "accuracy_unseen": ", where no view sees them: by geometry and colour",
    "miou_unseen": ", mean IoU over classes, where no view sees them",
}  # lifted CLIP has no features there
ACCEPTED = {
    "clip_accepted": "% of a scene's classes that reach the threshold of validation, by lifted CLIP",
    "clip_false_accepted": "the same, of classes whose points, if there are any, are taken out of the scene",
    "text_accepted": "% of a scene's classes that reach the threshold of validation, by the fused features",
    "text_false_accepted": "the same, of classes whose points, if there are any, are taken out of the scene",
}
MEANS = {
    "coverage": "% of points that any view sees",
    "consistency": "mean cosine of a point's views, in CLIP's maps",
    "consistency_reduced": "the same in the trained maps",
    "text_to_clip": "mean cosine of the fused features and lifted CLIP",
}
NOTES = {
    **{
        f"{name}_{part}": f"%, {what}, by text queries{of}"
        for name, what in FEATURES.items()
        for part, of in (PARTS if name == "clip" else PARTS | UNSEEN).items()
    },
    "majority": "%, the majority-class baseline",
    **ACCEPTED,
    **MEANS,
}


class Fits(NamedTuple):
    """How well classes fit scenes, a row for each scene and class; see `Accepted`."""

    clip: Tensor  # (n,) float32
    text: Tensor  # (n,)
    clip_without: Tensor  # (n,) the same without the points of the class and those around them
    text_without: Tensor  # (n,)
    present: Tensor  # (n,) bool, whether the scene has a point with this label
    number: Tensor  # (n,) of the scene on its rank

    def by_scene(self, classes: int) -> "Fits":
        """Return (S, C) of each field."""
        return Fits(*(part.unflatten(0, (-1, classes)) for part in self))


class Samples(NamedTuple):
    """Features of some points of scenes, a row for each scene."""

    clip: Tensor  # (n, K, E) float16
    text: Tensor
    number: Tensor  # (n,) of the scene on its rank


class PointsEvaluator(Evaluator[RoomBatch]):
    """Classifies every labelled point by the text query of its class; counts visible points and compares views."""

    def __init__(self, task: PointsTask) -> None:
        self.task, self.labels = task, task.labels
        self.features = [name for name in FEATURES if name != "spread" or task.model.scales]
        self.scenes = 0  # that were measured last
        self._classes: list[Row] = []
        self._measured = ItemRows()  # labelled scenes of the last metrics
        self._reset()

    def _reset(self) -> None:
        self._counts = ItemRows()  # (2, C, C + 1) of each labelled scene: unseen and seen points
        self._means = {name: Mean() for name in MEANS}
        self._names: set[str] = set()
        self._fits: list[Fits] = []
        self._samples: list[Samples] = []

    def metric_names(self) -> frozenset[str]:
        return frozenset(self.notes())

    @torch.no_grad()
    def update(self, batch: RoomBatch) -> None:
        if self.split != batch.split:
            self._reset()
            self.split = batch.split
        out, maps = self.task.encode(batch)
        self._names.update(batch.names)
        self._means["coverage"].update(out.seen.float())
        for name, of in (("consistency", maps.float()), ("consistency_reduced", out.maps)):
            alike, twice = agreement(F.normalize(of, dim=1), out.links, len(batch.xyz))
            self._means[name].update(alike[twice])
        self._means["text_to_clip"].update((out.text * out.clip).sum(1)[out.seen])
        known, classes = batch.label >= 0, len(self.labels.names)
        if known.any():
            self._add_fits(batch, out)
            predicted = {name: self._predicted(out, name) for name in self.features}
            for number in batch.scene[known].unique().tolist():
                own = known & (batch.scene == number)
                label, seen = batch.label[own], out.seen[own]
                counts = {name: _counted(each[own], label, seen, classes)[None] for name, each in predicted.items()}
                self._counts.update([batch.names[number]], **counts)

    def _add_fits(self, batch: RoomBatch, out: Fused) -> None:
        """Add how well each class fits each labelled scene of a batch, and features of some of its points."""
        classes = self.task.class_embeddings(out.text.device)
        for number in range(len(batch.names)):
            own = batch.scene == number
            present = torch.bincount(batch.label[own & (batch.label >= 0)], minlength=len(classes)) > 0
            if not present.any():
                continue
            near, fits, samples = around(batch.xyz[own], batch.label[own], len(present)), [], []
            for features, known in ((out.clip, out.seen), (out.text, self._has_text(out))):
                fits.append(fits_of(features[own & known], classes, near[known[own]]))
                samples.append(sampled(features[own & known])[None])
            (clip, clip_without), (text, text_without) = fits
            at = torch.full_like(present, len(self._fits), dtype=torch.int64).cpu()
            self._fits.append(Fits(clip, text, clip_without, text_without, present.cpu(), at))
            if len(self._samples) < SCENES:
                self._samples.append(Samples(samples[0], samples[1], at[:1]))

    def _has_text(self, out: Fused) -> Tensor:
        """Which points have fused features, (N,) bool: with a 3-D branch all, otherwise those that a view shows."""
        return torch.ones_like(out.seen) if self.task.model.describes_unseen else out.seen

    def _acceptance(self, fits: Fits, samples: Samples) -> Metrics:
        """How often the thresholds are reached, in per cent. Validation chooses them, and the task keeps them."""
        found: Metrics = {}
        names = self.task.labels.names
        fits = fits.by_scene(len(names))
        sides = (("clip", fits.clip, fits.clip_without), ("text", fits.text, fits.text_without))
        for name, whole, without in sides:
            kind: Kind = "lifted" if name == "clip" else "fused"
            if self.split == "val":
                accepted, other = (chosen(whole, without, fits.present, known) for known in (True, False))
                kept = samples.clip if name == "clip" else samples.text
                self.task.keep_background(kind, Background(names, *distribution(without), kept, accepted, other))
                rates = accepted.right, accepted.wrong
            elif (known := self.task.background(kind)) is not None:
                least = known.mean + known.accepted.threshold * known.spread
                reached = (whole >= least)[fits.present], without >= least
                rates = float(reached[0].float().mean()), float(reached[1].float().mean())
            else:
                continue
            found[f"{name}_accepted"], found[f"{name}_false_accepted"] = (100 * rate for rate in rates)
        return found

    def _predicted(self, out: Fused, name: str) -> Tensor:
        """The nearest class of each point, (N,); −1 for one without features: no view sees it, and its features are
        lifted CLIP's or a 2-D branch's. With a 3-D branch every point has fused features."""
        features = {"clip": out.clip, "spread": out.spread, "text": out.text}[name]
        assert features is not None
        nearest = (features @ self.task.class_embeddings(features.device).T).argmax(1)
        return torch.where(out.seen if name == "clip" else self._has_text(out), nearest, -1)

    def compute(self) -> Metrics:
        """Return `NOTES`' metrics: of points with labels, in percent; without labels, only those of `MEANS`.

        …_accuracy and …_miou are over all labelled points: one that no view sees is wrong for lifted CLIP.
        """
        self._measured = self._counts.reduce()
        scenes = {name: torch.from_numpy(each) for name, each in self._measured.arrays.items()}  # (S, 2, C, C + 1)
        counts = {name: each.sum(0) for name, each in scenes.items()}
        means = {name: mean.reduce() for name, mean in self._means.items()}
        self.scenes = len(_names_of_ranks(self._names))
        fits, samples = gathered(Fits, self._fits), gathered(Samples, self._samples)
        self._reset()
        found = {name: float(mean.value()) for name, mean in means.items() if mean.sum[1]}
        if "coverage" in found:
            found["coverage"] *= 100
        if not counts:
            return found
        every = {name: part.sum(0) for name, part in counts.items()}  # (C, C + 1)
        for name, part in counts.items():
            found[f"{name}_accuracy"] = 100 * float(accuracy(every[name]))
            found[f"{name}_miou"] = 100 * float(mean_iou(every[name]))
            own = [100 * float(mean_iou(each.sum(0))) for each in scenes[name]]
            found[f"{name}_room_miou"] = sum(own) / len(own)
            for sight, row in {"unseen": part[0], "seen": part[1]}.items():
                if name != "clip" or sight == "seen":
                    found[f"{name}_accuracy_{sight}"] = 100 * float(accuracy(row))
                    found[f"{name}_miou_{sight}"] = 100 * float(mean_iou(row))
        if fits is not None and samples is not None:
            found |= self._acceptance(fits, samples)
        found["majority"] = 100 * float(every["text"].sum(1).max() / every["text"].sum())
        self._classes = self._class_table(every)
        return found

    def items(self, loader: DataLoader[RoomBatch]) -> ItemResults | None:
        """The confusion matrices of each labelled scene, of lifted CLIP and of the fused features.

        Scans of one room are one cluster, where names state it: ScanNet's scene0000_00 and scene0000_01.
        """
        names = self._measured.names
        rooms = [re.sub(r"^(scene\d{4})_\d{2}$", r"\1", name) for name in names]
        arrays = {f"{name}_counts": each.astype(np.int32) for name, each in self._measured.arrays.items()}
        return ItemResults.of("rooms", names, rooms, arrays) if names else None

    def _class_table(self, counts: dict[str, Tensor]) -> list[Row]:
        """A row for each class: its points, its IoUs, and the class that the fused features mistake it for most."""
        ious = {name: 100 * class_iou(part) for name, part in counts.items()}
        rows: list[Row] = []
        for number, name in enumerate(self.labels.names):
            own = counts["text"][number]
            if not own.sum():
                continue
            wrong = own[: len(self.labels.names)].clone()
            wrong[number] = 0
            rows.append(
                {
                    "class": name,
                    "points": int(own.sum()),
                    **{f"{features}_iou": round(float(part[number]), 2) for features, part in ious.items()},
                    "taken_for": self.labels.names[int(wrong.argmax())] if wrong.any() else "",
                }
            )
        return rows

    def tables(self) -> dict[str, list[Row]]:
        return {"classes": self._classes} if self._classes else {}

    def notes(self) -> dict[str, str]:
        return {
            name: note for name, note in NOTES.items() if "spread" in self.features or not name.startswith("spread_")
        }

    def protocol(self) -> dict[str, str]:
        system, clip = self.task.system, self.task.clip
        queries = ", ".join(repr(template) for template in system.templates)
        size = "×".join(map(str, system.clip_size))
        return {
            "split": SPLITS.get(self.split, self.split),
            "scenes": f"{self.scenes}, one sample of points and one of views each, always the same",
            "classes": f"{len(self.labels.names)} of {self.labels.source}; points of other classes are not measured",
            "queries": f"the class in {queries}; the nearest of all classes is the prediction",
            "accepted": f"the mean of the highest cosines, of {100 * BEST:g} % of a scene's points, in standard "
            "deviations of the class's own fits in other scenes without it, reaches the threshold; validation chooses "
            f"it: at most {100 * RATE:g} % reach it without their own points and those within {AROUND:g} m",
            "clip": f"{clip.name} {clip.tag}, {system.token_type} tokens at {size}",
            **({"spread": told_of(system.spread)} if system.spread else {}),
            "visible": f"within {system.abs_tol:g} m + {system.rel_tol:g} of the measured depth",
        }

    @torch.no_grad()
    def images(self, batch: RoomBatch) -> dict[str, Image]:
        """The first scene of a batch: its colours, its labels, and what lifted CLIP and the fused features predict."""
        out, _ = self.task.encode(batch)
        own = batch.scene == 0
        panels = {batch.names[0]: (127.5 * (batch.rgb[own].float() + 1)).round().byte().cpu().numpy()}
        classes = {f"predicted by {FEATURES[name]}": self._predicted(out, name)[own] for name in ("clip", "text")}
        if (batch.label[own] >= 0).any():
            classes = {"labels": batch.label[own], **classes}
        palette, key = show.class_colours(self.labels.names, torch.cat(list(classes.values())))
        panels |= {title: show.coloured(numbers, palette) for title, numbers in classes.items()}
        poses, links = batch.views.pose[batch.views.scene == 0], out.links
        inside = own[links.point]  # the first scene's points and views stand first
        towards = show.facing(batch.xyz[own], poses, links.point[inside], links.view[inside])
        image = show.clouds(batch.xyz[own], panels, held_level(poses), towards, (400, 300))
        return {"answers": show.keyed(image, key)}

    def draw(self, loader: DataLoader[RoomBatch], folder: Path) -> list[Path]:
        """Write the predictions for the loader's first scene."""
        device = next(self.task.parameters()).device
        file, batch = folder / "answers.png", moved(next(iter(loader)), device)
        write_png(self.images(batch)["answers"], file)
        return [file]


def told_of(spread: Sequence[float]) -> str:
    """Say what "like points" are."""
    return f"weights fall to 61 % at {spread[0]:g} m, and at a distance of {spread[1]:g} of colours in [-1, 1]"


def _counted(predicted: Tensor, label: Tensor, seen: Tensor, classes: int) -> Tensor:
    """(2, C, C + 1) int64: unseen and seen points by class and by prediction; the last prediction is none."""
    predicted = torch.where(predicted < 0, classes, predicted)
    cell = (seen.long() * classes + label) * (classes + 1) + predicted
    return torch.bincount(cell, minlength=2 * classes * (classes + 1)).view(2, classes, classes + 1)


def _names_of_ranks(names: set[str]) -> set[str]:
    """The names of all ranks (a collective)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return names
    ranks: list[set[str]] = [set()] * distributed.get_world_size()
    distributed.all_gather_object(ranks, names)
    return set().union(*ranks)
