"""The objective of naming actions.

    cls_loss                            cross-entropy over all classes: of a classifier, or of cosines with prompts
    itc_loss + match_weight·itm_loss    contrast within the batch (and with earlier ones), and matching

Legend: B recordings, n views of each; N = B · n views; T frames of the features; K classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.ops import align
from sightword.systems.skeleton.build import build_network, build_video_text_model, open_tower, read_posec3d
from sightword.systems.skeleton.config import SkeletonConfig
from sightword.systems.skeleton.data import SkeletonBatch
from sightword.systems.skeleton.heatmap import Heatmaps, draw_heatmaps
from sightword.systems.skeleton.joints import JointSet, joint_set
from sightword.systems.skeleton.labels import Labels, read_labels
from sightword.systems.skeleton.loss import MomentumContrast, matching_loss
from sightword.systems.skeleton.model import (
    ClassEmbeddings,
    Classifier,
    ClassTexts,
    MatchingHead,
    VideoEncoder,
    VideoTextModel,
)


def make_task(system: SkeletonConfig) -> "SkeletonTask":
    """Return the task that a config describes."""
    joints = joint_set(system.joints)._replace(projections=tuple(system.projections))
    return assemble(system, joints, Heatmaps(joints.drawn(), system.heatmap), read_labels(system.labels))


def assemble(system: SkeletonConfig, joints: JointSet, heatmaps: Heatmaps, labels: Labels) -> "SkeletonTask":
    """Return the task of a config, of joints, of what draws them, and of classes."""
    network = build_network(system, heatmaps.channels)
    if system.recognise_by == "classifier":
        model = Classifier(VideoEncoder(network), len(labels.classes), system.dropout, system.segments)
        return SkeletonTask(system, model, joints, heatmaps, labels)
    text = open_tower(system, system.text)
    if system.freeze_text:
        text.freeze()
    both = build_video_text_model(system, network, text, (text.embed_dim, text.width))
    if system.match_weight:
        both.matching = MatchingHead(text.width, both.video.width, system.fusion_layers, system.fusion_heads)
    return SkeletonTask(system, both, joints, heatmaps, labels, ClassTexts(labels, text.tokenizer))


class SkeletonTask(Task[SkeletonBatch]):
    """Name recordings by a classifier, or by the class whose prompts are nearest."""

    model: Classifier | VideoTextModel
    momentum: MomentumContrast | None
    texts: ClassTexts | None
    seen: Tensor | None
    learned: Tensor  # () int64, for checkpoints: how many classes it was trained on
    own_state: tuple[str, ...] = ("learned",)

    def __init__(
        self,
        system: SkeletonConfig,
        model: Classifier | VideoTextModel,
        joints: JointSet,
        heatmaps: Heatmaps,
        labels: Labels,
        texts: ClassTexts | None = None,
    ) -> None:
        """texts: the prompts of `labels`; None for a classifier."""
        super().__init__({"itm_loss": system.match_weight})
        self.system, self.joints, self.labels, self.classes = system, joints, labels, labels.classes
        self.model, self.heatmaps, self.texts = model, heatmaps, texts
        if isinstance(model, Classifier):
            self.class_rows = ("model.linear.weight", "model.linear.bias")
        unseen = {*system.unseen, *system.unseen_val}
        seen = [number for number, name in enumerate(labels.classes) if name not in unseen]
        # (K',) int64, the classes that are trained; None: all
        self.register_buffer("seen", torch.tensor(seen) if unseen else None, persistent=False)
        self.momentum = None
        if system.momentum and isinstance(model, VideoTextModel):
            past = (system.momentum, system.queue, system.queue_texts, system.soft, system.soft_ramp)
            self.momentum = MomentumContrast(model, system.embed_dim, *past)
            # vectors of the run's own batches, with the numbers of its own classes
            queued = [name for name in self.state_dict() if name.startswith(("momentum.views.", "momentum.texts."))]
            self.own_state = (*self.own_state, *queued)
        self.register_buffer("learned", torch.tensor(len(labels.classes)))
        self.trained_on = len(labels.classes)  # classes
        self.register_load_state_dict_pre_hook(_check_classes)
        self._stats: dict[str, Tensor] = {}
        self._bank: Tensor | None = None  # embeddings of all classes, until the next batch is trained

    def train(self, mode: bool = True) -> Self:
        self._bank = None
        return super().train(mode)

    def published(self, file: Path) -> dict[str, Tensor]:
        """Return the network of a PoseC3D checkpoint of pyskl or mmaction2."""
        return {f"model.video.network.{name}": weight for name, weight in read_posec3d(file).items()}

    def check_weights(self, weights: Mapping[str, Tensor], resumed: bool) -> None:
        """Raise SightwordError if the checkpoint was trained on another number of classes, and that matters.

        A classifier has one output for each class. A text encoder embeds any classes, but training needs its own.
        """
        if "learned" in weights:
            self._check_count(int(weights["learned"]), resumed)

    def _check_count(self, learned: int, resumed: bool) -> None:
        own = len(self.labels.classes)
        if learned == own:
            return
        if isinstance(self.model, Classifier):
            then = "Set system.labels to those of the run, or train with system.recognise_by=text for other classes"
        elif resumed:
            then = "Other classes can be recognised, not trained further. Set system.labels to those of the run"
        else:
            return
        raise SightwordError(
            f"the checkpoint was trained on {learned} classes and {self.labels.source} has {own}. {then}"
        )

    def check_labels(self, labels: Tensor) -> None:
        """Raise SightwordError for a label that is not a class. Does nothing on a GPU, to avoid waiting for it."""
        if labels.device.type == "cpu" and len(labels) and int(labels.max()) >= len(self.labels.classes):
            raise SightwordError(
                f"label {int(labels.max())} is none of the {len(self.labels.classes)} classes of {self.labels.source}"
            )

    def losses(self, batch: SkeletonBatch) -> dict[str, Tensor]:
        self._bank = None  # the weights of the text encoder are about to change
        if self.training:
            self._check_count(self.trained_on, resumed=True)
        self.check_labels(batch.labels)
        volume = draw_heatmaps(self.heatmaps, batch.points.flatten(0, 1), batch.scores.flatten(0, 1), batch.size)
        labels = batch.labels.repeat_interleave(batch.points.shape[1])
        targets = self._targets(labels)
        if self.training and self.system.mixup:
            volume, targets = mixed(volume, targets, self.system.mixup)
        frames = self.model.video(volume)  # (N, T, D)
        if isinstance(self.model, Classifier):
            return {"cls_loss": F.cross_entropy(self.model(frames), targets)}
        self.model.clamp_temperature()
        self._stats = {"temperature": self.model.temperature.detach().clone()}  # of this batch, before the step
        if self.system.contrast == "classes":
            return {"cls_loss": self._over_classes(frames, labels, targets)}
        return self._within_batch(volume, frames, labels)

    def _targets(self, labels: Tensor) -> Tensor:
        """Places (N,) of labels among the K' classes that are trained; in training with smoothing or mixup the
        probabilities (N, K') that they are softened to.
        """
        places = self._places(labels)
        if not self.training or not (self.system.smoothing or self.system.mixup):
            return places
        count = len(self.labels.classes) if self.seen is None else len(self.seen)
        smooth = self.system.smoothing
        return (1 - smooth) * F.one_hot(places, count).float() + smooth / count

    def _places(self, labels: Tensor) -> Tensor:
        return labels if self.seen is None else torch.searchsorted(self.seen, labels)

    def _over_classes(self, frames: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        model, texts = self._both()
        compared = model.compare(frames, texts.embed(model.tower, model.text_head, self.seen).unit)
        if compared.weights is not None:
            own = compared.weights[torch.arange(len(labels), device=labels.device), self._places(labels)]
            self._stats["effective_frames"] = align.effective(own.detach()).mean()
        if model.log_gain is not None:
            self._stats["gain"] = model.log_gain.detach().exp()
        return F.cross_entropy(model.logit_scale * compared.cosines, targets)

    def _within_batch(self, volume: Tensor, frames: Tensor, labels: Tensor) -> dict[str, Tensor]:
        model, texts = self._both()
        if self.momentum is not None:
            loss, embedded, own = self.momentum(model, texts, volume, frames, labels, self.batches, self.seen)
            views = model.embed(frames)
        else:
            classes, own = labels.unique(return_inverse=True)
            embedded = texts.embed(model.tower, model.text_head, classes)
            views, weights = model.embed_paired(frames, embedded.unit[own])
            if weights is not None:
                self._stats["effective_frames"] = align.effective(weights.detach()).mean()
            every = (align.gather(views), align.gather(embedded.unit[own]))
            loss = align.itc(*every, model.logit_scale, align.gather(labels))
        terms = {"itc_loss": loss}
        if model.matching is not None:
            logits = align.scores(views.detach(), embedded.unit[own].detach(), model.logit_scale.detach())
            each = ClassEmbeddings(*(part[own] for part in embedded))
            matched = matching_loss(model.matching, frames, each, labels, logits, self.system.negatives)
            terms["itm_loss"], self._stats["match_accuracy"] = matched.loss, matched.accuracy
        return terms

    def _both(self) -> tuple[VideoTextModel, ClassTexts]:
        assert isinstance(self.model, VideoTextModel)
        assert self.texts is not None
        return self.model, self.texts

    @torch.no_grad()
    def bank(self) -> Tensor:
        """Return the embeddings of all classes (K, E), computed once between two trained batches."""
        if self._bank is None:
            model, texts = self._both()
            training = model.training
            model.eval()
            self._bank = texts.embed(model.tower, model.text_head).unit
            model.train(training)
        return self._bank

    def stats(self) -> dict[str, float]:
        """temperature: τ. effective_frames: exp of the entropy of a view's weights; T is mean pooling (pacl). gain: on
        cosines of moments and text, where it is learned.

        match_accuracy: fraction of pairs that the matching head classifies correctly; a third of them belong together.
        """
        return {name: float(value) for name, value in self._stats.items()}

    def parameter_groups(self) -> dict[str, list[Parameter]]:
        """video, text: the encoders. head: projections, temperature, matching, classifier."""
        text = self.model.text if isinstance(self.model, VideoTextModel) else None
        found = {
            "video": list(self.model.video.parameters()),
            "text": list(text.parameters()) if text is not None else [],
        }
        known = {parameter for parameters in found.values() for parameter in parameters}
        found["head"] = [parameter for parameter in self.model.parameters() if parameter not in known]
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in found.items()}


def mixed(volume: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix each view with another of the batch, and their targets (N, K) alike; Zhang et al. 2018, arXiv 1710.09412."""
    part = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(volume), device=volume.device)
    return torch.lerp(volume[other], volume, part), torch.lerp(targets[other], targets, part)


def _check_classes(task: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Refuse a state of another number of classes, and note the number."""
    assert isinstance(task, SkeletonTask)
    learned = int(state.get(f"{prefix}learned", torch.tensor(len(task.labels.classes))))
    task._check_count(learned, resumed=False)
    task.trained_on = learned
