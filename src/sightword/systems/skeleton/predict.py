"""A trained model as its user holds it: skeleton sequences in, probabilities of actions out.

A folder that `save_pretrained` wrote has

    config.json         system: the config; labels: classes and prompts; joints; views: how views are sampled; widths:
                        of the text encoder's pooled vectors and tokens
    model.safetensors   the video encoder, the projections, τ, and `bank`: the embeddings of the classes
    text/               the text encoder, if it can be saved (a BERT or T5): for classes that were not exported

Legend: B recordings; n views of each; M persons; L frames of a view; V joints; T frames of the features; K classes; E
dimension of the common space.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from sightword.data.loader import moved
from sightword.engine.config import DataConfig
from sightword.engine.contract import BatchT, Predictor
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, read_checkpoint
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json
from sightword.systems.skeleton.annotations import Recordings, SkeletonSequence
from sightword.systems.skeleton.build import build_video_text_model, open_tower
from sightword.systems.skeleton.config import SkeletonConfig, SkeletonData
from sightword.systems.skeleton.data import SkeletonBatch, ViewDataset, measured
from sightword.systems.skeleton.heatmap import Heatmaps, draw_heatmaps
from sightword.systems.skeleton.joints import JointSet, joint_set_of
from sightword.systems.skeleton.labels import Labels
from sightword.systems.skeleton.model import (
    Classifier,
    ClassTexts,
    ResNet3dSlowOnly,
    VideoEncoder,
    VideoTextModel,
    probabilities,
)
from sightword.systems.skeleton.prediction import ActionPrediction
from sightword.systems.skeleton.task import SkeletonTask
from sightword.towers.base import TextTower
from sightword.towers.hugging_face import HFText

CONFIG, WEIGHTS, TEXT = "config.json", "model.safetensors", "text"
TRAINING = ("matching.", "text.")  # prefixes of the weights that are not exported
VIEWS = (  # fields of SkeletonData that say how views are sampled
    *("frames", "test_size", "test_views", "test_flip"),
    *("persons", "compact", "padding", "threshold", "pyskl_parity"),
)


class BatchScores(NamedTuple):
    """Probabilities of a batch of recordings."""

    scores: Tensor  # (B, K) float32, each row adds up to one
    weights: Tensor | None  # (B, n, T), of frames, by the text of the predicted class; None: all weigh alike


@torch.no_grad()
def score_views(
    model: Classifier | VideoTextModel,
    heatmaps: Heatmaps,
    bank: Tensor,
    kind: str,
    points: Tensor,
    scores: Tensor,
    size: tuple[int, int],
) -> BatchScores:
    """Return probabilities of classes, the mean over views, and how the text of the best class weighs frames.

    bank: (K, E) embeddings of the classes, not used by a classifier. kind: of probabilities, `system.test_scores`.
    points: (B, n, M, L, V, 2) in pixels of `size` (H, W). scores: (B, n, M, L, V), 0 for a joint that is not there.
    """
    if points.ndim != 6 or points.shape[:-1] != scores.shape:
        raise ValueError(
            f"expected points (B, n, M, L, V, 2) and scores (B, n, M, L, V), got {tuple(points.shape)} and "
            f"{tuple(scores.shape)}"
        )
    chances: list[Tensor] = []
    weights: list[Tensor] = []
    for view in range(points.shape[1]):
        frames = model.video(draw_heatmaps(heatmaps, points[:, view], scores[:, view], size))
        if isinstance(model, Classifier):
            chances.append(model(frames).softmax(1))
            continue
        compared = model.compare(frames, bank)
        chances.append(probabilities(compared.cosines, model.logit_scale, kind))
        if compared.weights is not None:
            weights.append(compared.weights)  # (B, K, T)
    mean = torch.stack(chances).mean(0)
    if not weights:
        return BatchScores(mean, None)
    best, rows = mean.argmax(1), torch.arange(len(mean), device=mean.device)
    of_best = torch.stack([each[rows, best] for each in weights], 1)
    some = of_best.isfinite().all(-1, keepdim=True) & (of_best.sum(-1, keepdim=True) > 0)
    return BatchScores(mean, of_best.where(some, 1.0))  # a network of NaN, or σ of a large gain: all weigh alike


def describe_probabilities(model: Classifier | VideoTextModel, kind: str) -> str:
    """Return how the probabilities of a model are computed. kind: `system.test_scores`."""
    if isinstance(model, Classifier):
        return "softmax of a classifier's scores"
    tau = 1 / float(model.logit_scale.detach())
    return "softmax of cosines" if kind == "seed" else f"softmax of cosines over τ = {tau:.4f}"


def as_predictions(
    scored: BatchScores, batch: SkeletonBatch, names: Sequence[str], labels: Labels, joints: JointSet, labelled: bool
) -> list[ActionPrediction]:
    """Return the predictions of a batch, one for each recording. labelled: batch.labels are of these classes."""
    parts = [batch.points[:, 0], batch.scores[:, 0], batch.frames[:, 0], batch.key[:, 0]]
    points, sure, frames, key = (part.detach().cpu().numpy().copy() for part in parts)  # the loader's memory
    chances, true = scored.scores.float().cpu().numpy(), batch.labels.tolist()
    weights = None if scored.weights is None else scored.weights[:, 0].float().cpu().numpy()
    return [
        ActionPrediction(
            name=name,
            classes=labels.classes,
            scores=chances[row],
            label=true[row] if labelled else None,
            joints=joints,
            points=points[row],
            joint_scores=sure[row],
            frames=frames[row],
            key=key[row],
            weights=None if weights is None else weights[row],
        )
        for row, name in enumerate(names)
    ]


class ActionRecognizer(Predictor):
    """Names the action of skeleton sequences: one of the classes it was trained on, or of classes given as texts."""

    def __init__(
        self,
        system: SkeletonConfig,
        data: SkeletonData,
        model: Classifier | VideoTextModel,
        heatmaps: Heatmaps,
        joints: JointSet,
        labels: Labels,
        bank: Tensor,
        folder: Path | None = None,
    ) -> None:
        """data: how views are sampled. bank: (K, E) embeddings of the classes; (0,) for a classifier.

        folder: where the text encoder lies that the model came without; it is opened when texts are given.
        """
        self.system, self.data, self.joints, self.labels, self.folder = system, data, joints, labels, folder
        self.model, self.heatmaps, self.bank = model.eval(), heatmaps.eval(), bank

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self.labels.classes

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device. Return the same recognizer."""
        self.model.to(device)
        self.bank = self.bank.to(device)
        return self

    @classmethod
    def from_task(cls, task: Task[BatchT]) -> Self:
        return cls.from_run(task, SkeletonData())

    @classmethod
    def from_run(cls, task: Task[BatchT], data: DataConfig) -> Self:
        """Return the recognizer of a trained task, which samples views as the run's evaluation on test does."""
        if not isinstance(task, SkeletonTask) or not isinstance(data, SkeletonData):
            raise SightwordError(f"ActionRecognizer is made of a run of skeleton, got a {type(task).__name__}")
        bank = task.bank().clone() if isinstance(task.model, VideoTextModel) else torch.zeros(0)
        return cls(task.system, data, task.model, task.heatmaps, task.joints, task.labels, bank)

    @classmethod
    def from_folder(cls, folder: Path, heatmaps: Heatmaps | None = None) -> Self:
        """Read what `save_pretrained` wrote. Raises SightwordError if the folder is not that.

        heatmaps: what draws the joints, if not `Heatmaps` of the exported joint set.
        """
        folder = Path(folder).expanduser()
        fields = read_json(
            folder / CONFIG,
            missing=f"sightword export run=… out={folder} writes it",
            damaged="It is damaged or of another version: export the run again",
        )
        system = fields.mapping("system").into(SkeletonConfig)
        data = fields.mapping("views").into(SkeletonData, num_workers=0)
        widths = fields.integers("widths")
        if len(widths) != (0 if system.recognise_by == "classifier" else 2):
            raise fields.error(f"expected the widths of the text encoder's vectors and tokens, got {widths}", "widths")
        listed, set_of = fields.mapping("labels"), fields.mapping("joints")
        labels = Labels.of({name: listed.texts(name) for name in listed}, str(folder / CONFIG))
        joints = joint_set_of(set_of, set_of.text("name"))
        heatmaps = heatmaps or Heatmaps(joints, system.heatmap)
        network = ResNet3dSlowOnly(heatmaps.channels, system.base, system.depths)
        model: Classifier | VideoTextModel
        if system.recognise_by == "classifier":
            model = Classifier(VideoEncoder(network), len(labels.classes), system.dropout)
        else:
            model = build_video_text_model(system, network, None, (widths[0], widths[1]))
        weights = read_checkpoint(folder / WEIGHTS)
        bank: Tensor = weights.pop("bank", torch.zeros(0))
        if isinstance(model, VideoTextModel) and bank.shape != (len(labels.classes), system.embed_dim):
            raise SightwordError(
                f"{folder / WEIGHTS} has embeddings {tuple(bank.shape)} of classes, {CONFIG} names "
                f"{len(labels.classes)} and embed_dim {system.embed_dim}. They are of two exports: export again"
            )
        load_strictly(model, weights, folder / WEIGHTS)
        network.lay_out()
        return cls(system, data, model, heatmaps, joints, labels, bank, folder)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        widths: list[int] = []
        if isinstance(self.model, VideoTextModel):
            tower = self.tower()
            widths = [tower.embed_dim, tower.width]
            if isinstance(tower, HFText):
                tower.save(folder / TEXT)
        weights = {name: value for name, value in self.model.state_dict().items() if not name.startswith(TRAINING)}
        weights |= {"bank": self.bank}
        with write_atomically(folder / WEIGHTS) as part:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, part)
        content = {
            "system": dataclasses.asdict(self.system),
            "labels": dict(zip(self.labels.classes, map(list, self.labels.prompts), strict=True)),
            "joints": self.joints._asdict(),
            "views": {name: getattr(self.data, name) for name in VIEWS},
            "widths": widths,
        }
        write_json(folder / CONFIG, content)

    def __call__(self, recordings: Sequence[SkeletonSequence], labelled: bool = False) -> list[ActionPrediction]:
        """Predict the actions of recordings, for example of `read_annotations(file)`.

        labelled: the recordings' labels are numbers of these classes, so that predictions can say whether they are
        right. Raises SightwordError for a recording with other joints than the model's.
        """
        return list(self.stream(recordings, range(len(recordings)), labelled)) if len(recordings) else []

    def stream(
        self, recordings: Sequence[SkeletonSequence], rows: Sequence[int], labelled: bool = False, workers: int = 0
    ) -> Iterator[ActionPrediction]:
        """Predict some recordings, by number, one after the other. workers: processes that sample views."""
        self._check(recordings, rows, labelled)
        data = dataclasses.replace(self.data, num_workers=workers)
        loader = measured(data, self.joints, recordings, rows, "test")
        dataset = loader.dataset
        assert isinstance(dataset, ViewDataset)
        for batch in loader:
            names = [dataset.name(row) for row in batch.index.tolist()]
            yield from self.predict(moved(batch, self.device), names, labelled)

    def predict(self, batch: SkeletonBatch, names: Sequence[str], labelled: bool = False) -> list[ActionPrediction]:
        """Predict a batch of views on the model's device. names: of its recordings."""
        scored = self.scores(batch.points, batch.scores, batch.size)
        return as_predictions(scored, batch, names, self.labels, self.joints, labelled)

    def scores(self, points: Tensor, scores: Tensor, size: tuple[int, int]) -> BatchScores:
        """Return the probabilities of views, given as tensors; see `score_views`."""
        kind = self.system.test_scores
        return score_views(self.model, self.heatmaps, self.bank, kind, points, scores, size)

    def describe_probabilities(self) -> str:
        """Return how probabilities are computed, for a report."""
        return describe_probabilities(self.model, self.system.test_scores)

    def for_classes(self, labels: Labels | Mapping[str, Sequence[str]]) -> "ActionRecognizer":
        """Return a recognizer of other classes, given as texts, with the same networks. labels: {class: [prompts]}.

        Raises SightwordError for a classifier, and for an export without its text encoder.
        """
        if isinstance(self.model, Classifier):
            raise SightwordError(
                "this model is a classifier, with one output for each class it was trained on. Other classes need a "
                "model with system.recognise_by=text, as of skeleton/visece"
            )
        labels = labels if isinstance(labels, Labels) else Labels.of(labels, "the labels given")
        tower = self.tower()
        with torch.no_grad():
            bank = ClassTexts(labels, tower.tokenizer).to(self.device).embed(tower, self.model.text_head).unit
        return ActionRecognizer(
            self.system, self.data, self.model, self.heatmaps, self.joints, labels, bank, self.folder
        )

    def tower(self) -> TextTower:
        """Return the text encoder, opened on first use if it lies in the folder."""
        assert isinstance(self.model, VideoTextModel)
        if self.model.text is None:
            if self.folder is None or not (self.folder / TEXT).is_dir():
                raise SightwordError(
                    f"{self.folder} was exported without its text encoder ({self.system.text}), so it has the classes "
                    f"of its {CONFIG} only"
                )
            self.model.text = open_tower(self.system, self.folder / TEXT).freeze().to(self.device)
        return self.model.text

    def _check(self, recordings: Sequence[SkeletonSequence], rows: Sequence[int], labelled: bool) -> None:
        """Raise SightwordError for recordings of other joints, or of other classes if they are labelled."""
        own = len(self.joints.joints)
        if isinstance(recordings, Recordings):
            joints, labels = {recordings.num_joints}, [int(recordings.labels[row]) for row in rows]
        else:
            joints, labels = {one.points.shape[2] for one in recordings}, [recordings[row].label for row in rows]
        if other := joints - {own}:
            raise SightwordError(
                f"the recordings have {max(other)} joints, and the model was trained on {own}, those of "
                f"{self.joints.name}"
            )
        if labelled and max(labels) >= len(self.classes):
            raise SightwordError(
                f"a recording has the label {max(labels)} and there are {len(self.classes)} classes. Give the labels "
                "of this set, or do not say that the recordings are labelled"
            )
