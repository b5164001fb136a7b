"""The objective of naming actions, and its measures.

    cls_loss                            cross-entropy over all classes: of a classifier, or of cosines with their words
    itc_loss + match_weight·itm_loss    contrast within the batch (and with earlier ones), and matching

Legend: B recordings, n views of each; N = B · n clips; T frames of the features; L classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.data.loader import moved
from sightword.engine.contract import Task
from sightword.metrics.classes import class_accuracy, confusion_matrix, mean_class_accuracy, top_k
from sightword.metrics.gather import gathered
from sightword.ops import align
from sightword.systems.skeleton.config import SkeletonConfig
from sightword.systems.skeleton.data import SkeletonBatch
from sightword.systems.skeleton.export import Recogniser, channels_of, make_recogniser, open_tower, write_exported
from sightword.systems.skeleton.export import read_exported as read_exported
from sightword.systems.skeleton.joints import JointSet, joint_set
from sightword.systems.skeleton.loss import MomentumContrast, matching_loss
from sightword.systems.skeleton.model import (
    Classifier,
    Matching,
    TextRecogniser,
    VideoEncoder,
    chances,
)
from sightword.systems.skeleton.network import ResNet3dSlowOnly, load_published
from sightword.systems.skeleton.texts import ClassTexts, Labels, Read, read_labels

SHOWN = 4  # recordings of a picture
SPLITS = {
    "train": "trained on",
    "val": "never trained on; best.ckpt was chosen on it",
    "test": "nothing was chosen on it",
}


def make_task(system: SkeletonConfig) -> "SkeletonTask":
    """The task that a config describes."""
    from sightword.systems.skeleton.heatmap import Heatmaps

    joints = joint_set(system.joints)
    return assemble(system, joints, Heatmaps(joints, system.heatmap), read_labels(system.labels))


def assemble(system: SkeletonConfig, joints: JointSet, heatmaps: nn.Module, labels: Labels) -> "SkeletonTask":
    """The task of a config and of what draws heatmaps: `channels`, and (points, scores, size) → (N, C, L, H, W)."""
    network = ResNet3dSlowOnly(channels_of(heatmaps), system.base, system.depths)
    if system.video_weights:
        load_published(network, system.video_weights)
    if system.recognise_by == "classifier":
        model = Classifier(VideoEncoder(network), len(labels.classes), system.dropout)
        return SkeletonTask(system, model, joints, heatmaps, labels)
    text = open_tower(system, system.text)
    if system.freeze_text:
        text.freeze()
    words = make_recogniser(system, network, text, (text.embed_dim, text.width))
    if system.match_weight:
        words.matching = Matching(text.width, words.video.width, system.fusion_layers, system.fusion_heads)
    return SkeletonTask(system, words, joints, heatmaps, labels, ClassTexts(labels, text.tokenizer))


class Seen(NamedTuple):
    """Recordings, recognised."""

    scores: Tensor  # (B, L) float32, a row adds up to one
    weights: Tensor | None  # (B, n, T), of frames, by the words of the class recognised; None: all alike


class SkeletonTask(Task):
    """Recordings named by a classifier, or by the words that they are nearest to."""

    learned: Tensor  # () int64, for checkpoints: how many classes it was trained on

    def __init__(
        self,
        system: SkeletonConfig,
        model: Classifier | TextRecogniser,
        joints: JointSet,
        heatmaps: nn.Module,
        labels: Labels,
        texts: ClassTexts | None = None,
    ) -> None:
        """texts: the prompts of `labels`, where words are read."""
        super().__init__({"itm_loss": system.match_weight})
        self.system, self.joints, self.labels = system, joints, labels
        self.model, self.heatmaps, self.texts = model, heatmaps, texts
        self.momentum = None
        if system.momentum and isinstance(model, TextRecogniser):
            past = (system.momentum, system.queue, system.queue_texts, system.soft, system.soft_ramp)
            self.momentum = MomentumContrast(model, system.embed_dim, *past)
        self.register_buffer("learned", torch.tensor(len(labels.classes)))
        self.trained_on = len(labels.classes)  # classes
        self.register_load_state_dict_pre_hook(_check_classes)
        self.split, self.measured = "val", (0, 0, (0, 0))  # recordings, views of each, canvas: of the last measures
        self._stats: dict[str, Tensor] = {}
        self._bank: Tensor | None = None  # vectors of all classes, for one evaluation
        self._classes: list[dict[str, Any]] = []
        self.confusion: Tensor | None = None
        self._gathered: list[Rows] = []

    def train(self, mode: bool = True) -> "SkeletonTask":
        self._bank = None
        return super().train(mode)

    def reads(self) -> dict[str, Any]:
        return {"joints": self.joints, "classes": self.labels.classes}

    def check_weights(self, weights: Mapping[str, Any], goes_on: bool) -> None:
        """A classifier has an output a class; words can be compared with classes that were never trained."""
        own = len(self.labels.classes)
        if (learned := int(weights.get("learned", own))) == own:
            return
        if isinstance(self.model, Classifier):
            then = "set system.labels to those of the run, or recognise other classes with a run of "
            then += "system.recognise_by=text"
        elif goes_on:
            then = "other classes can be recognised, but to go on training set system.labels to those of the run"
        else:
            return
        raise ValueError(f"the checkpoint was trained on {learned} classes and {self.labels.source} has {own}: {then}")

    # ------------------------------------------------------------------------------------------------------ training

    def losses(self, batch: SkeletonBatch) -> dict[str, Tensor]:
        self._bank = None  # the words' weights are about to move
        self._check_labels(batch.labels)
        volume = self.draw_heatmaps(batch.points.flatten(0, 1), batch.scores.flatten(0, 1), batch.size)
        frames = self.model.video(volume)  # (N, T, D)
        labels = batch.labels.repeat_interleave(batch.points.shape[1])
        if isinstance(self.model, Classifier):
            return {"cls_loss": F.cross_entropy(self.model(frames), labels)}
        self.model.clamp_temperature()
        self._stats = {"temperature": self.model.temperature.detach()}
        if self.system.contrast == "classes":
            return {"cls_loss": self._over_classes(frames, labels)}
        return self._within_batch(volume, frames, labels)

    def _over_classes(self, frames: Tensor, labels: Tensor) -> Tensor:
        model, texts = self._words()
        compared = model.compare(frames, texts.read(model.tower, model.text_head).unit)
        if compared.weights is not None:
            own = compared.weights[torch.arange(len(labels), device=labels.device), labels]
            self._stats["effective_frames"] = align.effective(own.detach()).mean()
        return F.cross_entropy(model.scale * compared.cosines, labels)

    def _within_batch(self, volume: Tensor, frames: Tensor, labels: Tensor) -> dict[str, Tensor]:
        model, texts = self._words()
        if self.momentum is not None:
            loss, read, own = self.momentum(model, texts, volume, frames, labels, self.batches)
            clips = model.embed(frames)
        else:
            classes, own = labels.unique(return_inverse=True)
            read = texts.read(model.tower, model.text_head, classes)
            clips, weights = model.paired(frames, read.unit[own])
            if weights is not None:
                self._stats["effective_frames"] = align.effective(weights.detach()).mean()
            every = (align.gather(clips), align.gather(read.unit[own]))
            loss = align.itc(*every, model.scale, align.gather(labels))
        terms = {"itc_loss": loss}
        if model.matching is not None:
            logits = align.scores(clips.detach(), read.unit[own].detach(), model.scale.detach())
            each = Read(*(part[own] for part in read))
            matched = matching_loss(model.matching, frames, each, labels, logits, self.system.negatives)
            terms["itm_loss"], self._stats["match_accuracy"] = matched.loss, matched.right
        return terms

    def _words(self) -> tuple[TextRecogniser, ClassTexts]:
        assert isinstance(self.model, TextRecogniser)
        assert self.texts is not None
        return self.model, self.texts

    def draw_heatmaps(self, points: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, M, L, V, 2) and (N, M, L, V) to (N, C, L, H, W); overwritten by the next call."""
        with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
            return self.heatmaps(points, scores, (int(size[0]), int(size[1])))

    def _check_labels(self, labels: Tensor) -> None:
        if self.training:
            self.check_weights({"learned": self.trained_on}, goes_on=True)
        if labels.device.type == "cpu" and len(labels) and int(labels.max()) >= len(self.labels.classes):
            raise ValueError(
                f"label {int(labels.max())} is none of the {len(self.labels.classes)} classes of {self.labels.source}"
            )

    def stats(self) -> dict[str, float]:
        """temperature: τ; effective_frames: exp of the entropy of a clip's weights, T is mean pooling (pacl);

        match_accuracy: pairs told right by the matching head; of its pairs a third belong together.
        """
        return {name: float(value) for name, value in self._stats.items()}

    def roles(self) -> dict[str, list[Parameter]]:
        """video, text: the encoders; head: projections, temperature, matching, classifier."""
        encoders = {"video": self.model.video, "text": getattr(self.model, "text", None)}
        found = {name: list(part.parameters()) if part is not None else [] for name, part in encoders.items()}
        known = {parameter for parameters in found.values() for parameter in parameters}
        found["head"] = [parameter for parameter in self.model.parameters() if parameter not in known]
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in found.items()}

    # ------------------------------------------------------------------------------------------------------ measures

    @torch.no_grad()
    def weights_of(self, batch: SkeletonBatch) -> Seen:
        """Probabilities (B, L), the mean over views, and how the words of the best class weigh frames (B, n, T)."""
        views = range(batch.points.shape[1])
        each = [self._view(batch.points[:, view], batch.scores[:, view], batch.size) for view in views]
        scores = torch.stack([seen for seen, _ in each]).mean(0)
        if each[0][1] is None:
            return Seen(scores, None)
        best, rows = scores.argmax(1), torch.arange(len(scores), device=scores.device)
        weights = torch.stack([weights[rows, best] for _, weights in each if weights is not None], 1)
        some = weights.isfinite().all(-1, keepdim=True) & (weights.sum(-1, keepdim=True) > 0)
        return Seen(scores, weights.where(some, 1.0))  # of a network of NaN, or σ of a large gain: all are alike

    def _view(self, points: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Probabilities (B, L) and weights (B, L, T) of one view of each recording."""
        frames = self.model.video(self.draw_heatmaps(points, scores, size))
        if isinstance(self.model, Classifier):
            return self.model(frames).softmax(1), None
        compared = self.model.compare(frames, self.bank())
        return chances(compared.cosines, self.model.scale, self.system.test_scores), compared.weights

    @torch.no_grad()
    def bank(self) -> Tensor:
        """The vectors of all classes (L, E), computed once an evaluation."""
        if self._bank is None:
            model, texts = self._words()
            training = model.training
            model.eval()
            self._bank = texts.read(model.tower, model.text_head).unit
            model.train(training)
        return self._bank

    @torch.no_grad()
    def evaluate(self, batch: SkeletonBatch) -> None:
        self._check_labels(batch.labels)
        seen = self.weights_of(batch)
        self.split, self.measured = batch.split, (0, batch.points.shape[1], (int(batch.size[0]), int(batch.size[1])))
        self._gathered.append(Rows.of(seen, batch))

    def measures(self) -> dict[str, float]:
        """Percent: top1, top5 (of more than five classes), mean_class (over classes that are there).

        With frames weighed by words, also effective_frames, and how well the weights tell key moments that are known.
        """
        rows, names = gathered(Rows, self._gathered), self.labels.classes
        self._gathered, self._bank = [], None
        if rows is None:
            return {}
        self.measured = (len(rows.labels), *self.measured[1:])
        confusion = confusion_matrix(rows.scores.argmax(1), rows.labels, len(names))
        self.confusion, self._classes = confusion, _class_table(confusion, names)
        found = {"top1": 100 * float(top_k(rows.scores, rows.labels, 1))}
        if len(names) > 5:
            found["top5"] = 100 * float(top_k(rows.scores, rows.labels, 5))
        found["mean_class"] = 100 * float(mean_class_accuracy(confusion))
        if rows.weights.numel():
            from sightword.systems.skeleton.show import weights_against_truth

            found |= weights_against_truth(rows.weights.flatten(0, 1), rows.key.flatten(0, 1))
        return found

    def protocol(self) -> dict[str, Any]:
        recordings, views, size = self.measured
        how = f"{views} view{'s' * (views != 1)} each at {size[0]}×{size[1]}"
        found = {
            "split": f"{self.split}: {SPLITS.get(self.split, 'a split of its own')}",
            "views": f"{recordings} recordings, {how}; probabilities are averaged over views",
            "classes": f"{len(self.labels.classes)} of {self.labels.source}",
            "mean_class": "the mean of recalls over the classes that the split has",
        }
        if isinstance(self.model, TextRecogniser):
            tau = 1 / float(self.model.scale.detach())
            seed = self.system.test_scores == "seed"
            found["probabilities"] = "softmax of cosines" if seed else f"softmax of cosines over τ = {tau:.4f}"
            if self.trained_on != len(self.labels.classes):
                found["classes"] += f"; it was trained on {self.trained_on}"
        else:
            found["probabilities"] = "softmax of a classifier's scores"
        notes = dict.fromkeys(("top1", "top5", "mean_class"), f"%, {how}, {found['probabilities']}")
        return {**found, "measures": notes}

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Each class with its recall and what it is taken for."""
        return {"classes": self._classes} if self._classes else {}

    @torch.no_grad()
    def pictures(self, batch: SkeletonBatch) -> dict[str, Image]:
        """Some recordings as strips of poses, with the weight of each frame below it, where frames are weighed."""
        from sightword.systems.skeleton import show

        some = first_of(batch, SHOWN)
        watched = show.watch(self, some, [f"{batch.split} {number}" for number in some.index.tolist()])
        return {"strips": show.strips(watched, self.joints, self.labels.classes)}

    def draw(self, loader: Any, folder: Path) -> list[Path]:
        """Strips of recordings evenly spread over the loader's, and what was taken for what in the last measures."""
        from sightword.systems.skeleton import show

        clips, device = loader.dataset, next(self.parameters()).device
        rows = sorted({number * len(clips) // (2 * SHOWN) for number in range(2 * SHOWN)})
        batch = clips.__getitems__(rows)
        watched = show.watch(self, moved(batch, device), [clips.name(row) for row in rows])
        return show.draw(watched, self.joints, self.labels.classes, folder, self.confusion)

    # ------------------------------------------------------------------------------------------------------ the result

    def recogniser(self) -> Recogniser:
        """What inference needs, of this task's own modules."""
        bank = self.bank() if isinstance(self.model, TextRecogniser) else None
        return Recogniser(self.system, self.model, self.heatmaps, self.joints, self.labels, bank)

    def export(self, folder: Path) -> None:
        """What `read_exported` reads."""
        write_exported(self.recogniser(), folder)


def first_of(batch: SkeletonBatch, most: int) -> SkeletonBatch:
    """The first recordings of a batch."""
    return SkeletonBatch._make(part[:most] if isinstance(part, Tensor) else part for part in batch)


class Rows(NamedTuple):
    """What was recognised, on the CPU."""

    scores: Tensor  # (N, L) float32
    labels: Tensor  # (N,)
    number: Tensor  # (N,), which of the split
    weights: Tensor  # (N, n, T), or (N, n, 0) where frames are not weighed
    key: Tensor  # (N, n, L frames)

    @classmethod
    def of(cls, seen: Seen, batch: SkeletonBatch) -> "Rows":
        weights = seen.weights if seen.weights is not None else seen.scores.new_zeros(*batch.key.shape[:2], 0)
        parts = (seen.scores.float(), batch.labels, batch.index, weights.float(), batch.key)
        return cls(*(part.detach().cpu().clone() for part in parts))  # the loader's memory


def _class_table(confusion: Tensor, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row a class: how many recordings it has, the percent told right, and what else it is most often taken for."""
    right, rows = class_accuracy(confusion), []
    wrong = confusion - confusion.diag().diag()
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


def _check_classes(task: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(task, SkeletonTask)
    learned = int(state.get(f"{prefix}learned", len(task.labels.classes)))
    task.check_weights({"learned": learned}, goes_on=False)
    task.trained_on = learned
