"""A trained model for users: skeleton sequences in, probabilities of actions out.

A folder that `save_pretrained` wrote has

    config.json         config: the system's, without paths; labels: classes and prompts; joints; views: how views are
                        sampled; widths: of the text encoder's pooled vectors and tokens; text: how to open it
    model.safetensors   the video encoder, the projections, τ, and `bank`: the embeddings of the classes
    text/               the text encoder, for classes that were not exported; not a published one that was not trained

Legend: B recordings; n views of each; M persons; L frames of a view; V joints; T frames of the features; K classes; E
dimension of the common space.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias, TypedDict, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from sightword.data.loader import moved
from sightword.engine.config import DataConfig
from sightword.engine.contract import BatchT
from sightword.engine.predictor import Predictor, Training
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.checkpoint import load_strictly, read_checkpoint, write_weights
from sightword.storage.fields import Fields
from sightword.systems.skeleton.annotations import Recordings, read_annotations
from sightword.systems.skeleton.build import build_network, build_video_text_model, open_tower
from sightword.systems.skeleton.config import Reading, SkeletonConfig, SkeletonData
from sightword.systems.skeleton.data import SkeletonBatch, ViewDataset, measured
from sightword.systems.skeleton.diagnosis import diagnose, say_findings
from sightword.systems.skeleton.foreign import describe_file
from sightword.systems.skeleton.formats.known import refuse_foreign
from sightword.systems.skeleton.heatmap import Heatmaps, draw_heatmaps
from sightword.systems.skeleton.joints import JointSet, joint_set_of
from sightword.systems.skeleton.keypoint import annotation_of
from sightword.systems.skeleton.labels import Labels
from sightword.systems.skeleton.model import (
    Classifier,
    ClassTexts,
    VideoEncoder,
    VideoTextModel,
    probabilities,
)
from sightword.systems.skeleton.prediction import ActionPrediction
from sightword.systems.skeleton.sequence import AS_PYSKL, Annotation, SkeletonSequence, to_sequence
from sightword.systems.skeleton.span import Span, Windows, seconds
from sightword.systems.skeleton.task import SkeletonTask
from sightword.systems.skeleton.timeline import ActionTimeline, timeline_of
from sightword.systems.skeleton.window import pieces_of
from sightword.towers.base import TextTower
from sightword.towers.export import ExportedTower, write_text_tower

WEIGHTS, TEXT = "model.safetensors", "text"
REPLACED = ("joints", "labels", "text", "video_weights")  # fields that an export states in another way, or needs not
TRAINING = ("matching.", "text.")  # prefixes of the weights that are not exported
VIEWS = (  # fields of SkeletonData that say how views are sampled; the last bits of results depend on batch_size
    *("frames", "test_size", "test_views", "test_flip", "test_turn"),
    *("persons", "compact", "padding", "threshold", "pyskl_parity", "batch_size"),
)


#: One recording: a sequence, or key points (M, T, V, 2) or (T, V, 2), with scores 3 instead of 2.
Recording: TypeAlias = SkeletonSequence | np.ndarray | Tensor


class TimelineOptions(TypedDict, total=False):
    """Options of `ActionRecognizer.timeline`."""

    window: Span | float
    step: Span | float
    each: bool
    sure: float
    fps: float
    size: tuple[int, int] | None
    split: str


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
    scored: BatchScores,
    batch: SkeletonBatch,
    names: Sequence[str],
    labels: Labels,
    joints: JointSet,
    labelled: bool,
    unknown_words: tuple[str, ...] = (),
) -> list[ActionPrediction]:
    """Return the predictions of a batch, one for each recording. labelled: batch.labels are of these classes, or -1."""
    first = len(joints.joints)  # of several projections, the first is shown
    parts = [batch.points[:, 0, ..., :first, :], batch.scores[:, 0, ..., :first], batch.frames[:, 0], batch.key[:, 0]]
    points, sure, frames, key = (part.detach().cpu().numpy().copy() for part in parts)  # the loader's memory
    chances, true = scored.scores.float().cpu().numpy(), batch.labels.tolist()
    weights = None if scored.weights is None else scored.weights[:, 0].float().cpu().numpy()
    return [
        ActionPrediction(
            name=name,
            classes=labels.classes,
            scores=chances[row],
            label=true[row] if labelled and true[row] >= 0 else None,
            joints=joints,
            points=points[row],
            joint_scores=sure[row],
            frames=frames[row],
            key=key[row],
            weights=None if weights is None else weights[row],
            unknown_words=unknown_words,
        )
        for row, name in enumerate(names)
    ]


class ActionRecognizer(Predictor):
    """Names the action of skeleton sequences: one of the classes it was trained on, or of classes given as texts."""

    system = "skeleton"
    summary = (
        "Input: the key points of persons over some seconds, as a pose estimator gives them. Output: a probability for "
        "each action. A model with a text encoder also names actions that it was not trained on, by their words."
    )
    unknown_words: tuple[str, ...] = ()  # of the prompts of `for_classes`, that the text encoder does not know
    usage = "model(keypoints, size=(1080, 1920)).plot()  # (persons, frames, joints, 2), x and y in pixels"

    def __init__(
        self,
        config: SkeletonConfig,
        data: SkeletonData,
        model: Classifier | VideoTextModel,
        heatmaps: Heatmaps,
        joints: JointSet,
        labels: Labels,
        bank: Tensor,
        exported: ExportedTower | None = None,
    ) -> None:
        """data: how views are sampled. bank: (K, E) embeddings of the classes; (0,) for a classifier.

        exported: the text encoder that the model came without; it is opened when texts are given.
        """
        self.config, self.data, self.joints, self.labels, self.exported = config, data, joints, labels, exported
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
        self.model.to(device)
        self.bank = self.bank.to(device)
        return self

    @classmethod
    def from_task(cls, task: Task[BatchT], data: DataConfig | None = None) -> Self:
        """Return the recognizer of a trained task, which samples views as the run's evaluation on test does.

        data: the run's; None: the defaults of `SkeletonData`. Raises SightwordError if the task is of another system.
        """
        data = SkeletonData() if data is None else data
        if not isinstance(task, SkeletonTask) or not isinstance(data, SkeletonData):
            raise SightwordError(f"ActionRecognizer is made of a run of skeleton, got a {type(task).__name__}")
        bank = task.bank().clone() if isinstance(task.model, VideoTextModel) else torch.zeros(0)
        return cls(task.system, data, task.model, task.heatmaps, task.joints, task.labels, bank)

    @classmethod
    def _from_folder(cls, folder: Path, content: Fields) -> Self:
        exported: ExportedTower | None = None
        config = content.mapping("config").into(SkeletonConfig)
        if config.recognise_by == "text":
            exported = content.mapping("text").into(ExportedTower)
            config.text = exported.name or str((folder / TEXT).absolute())
        data = content.mapping("views").into(SkeletonData, num_workers=0)
        listed, set_of = content.mapping("labels"), content.mapping("joints")
        source = listed.source.name
        labels = Labels.of({name: listed.texts(name) for name in listed}, source)
        joints = joint_set_of(set_of, set_of.text("name"))._replace(projections=tuple(config.projections))
        heatmaps = Heatmaps(joints.drawn(), config.heatmap)
        model = _network(content, config, heatmaps.channels, len(labels.classes))
        weights = read_checkpoint(folder / WEIGHTS)
        bank: Tensor = weights.pop("bank", torch.zeros(0))
        if isinstance(model, VideoTextModel) and bank.shape != (len(labels.classes), config.embed_dim):
            raise SightwordError(
                f"{folder / WEIGHTS} has embeddings {tuple(bank.shape)} of classes, {source} names "
                f"{len(labels.classes)} and embed_dim {config.embed_dim}. They are of two exports: export again"
            )
        load_strictly(model, weights, folder / WEIGHTS)
        model.video.network.lay_out()
        return cls(config, data, model, heatmaps, joints, labels, bank, exported)

    def _write(self, folder: Path) -> Mapping[str, object]:
        content: dict[str, object] = {}
        if isinstance(self.model, VideoTextModel):
            tower, trained = self.tower(), not self.config.freeze_text
            content["widths"] = [tower.embed_dim, tower.width]
            text, length = self.config.text, self.config.text_length
            content["text"] = dataclasses.asdict(write_text_tower(tower, text, trained, folder / TEXT, length))
        weights = {name: value for name, value in self.model.state_dict().items() if not name.startswith(TRAINING)}
        write_weights(folder / WEIGHTS, weights | {"bank": self.bank})
        config = dataclasses.asdict(self.config)
        return {
            "config": {name: value for name, value in config.items() if name not in REPLACED},
            "labels": dict(zip(self.labels.classes, map(list, self.labels.prompts), strict=True)),
            "joints": self.joints._asdict(),
            "views": {name: getattr(self.data, name) for name in VIEWS},
            **content,
        }

    def task_weights(self) -> dict[str, Tensor]:
        """Return the weights by the names of the task. An export has none of `matching`, which only training uses."""
        if isinstance(self.model, VideoTextModel):
            self.tower()
        return {f"model.{name}": value for name, value in self.model.state_dict().items()}

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a SkeletonSequence is a tuple, and so a sequence itself
        self, recordings: SkeletonSequence, *, labelled: bool = False
    ) -> ActionPrediction: ...
    @overload
    def __call__(self, recordings: np.ndarray | Tensor, *, size: tuple[int, int]) -> ActionPrediction: ...
    @overload
    def __call__(
        self,
        recordings: str | Path | Sequence[Recording],
        *,
        size: tuple[int, int] | None = None,
        split: str = "",
        labelled: bool = False,
    ) -> list[ActionPrediction]: ...
    def __call__(
        self,
        recordings: str | Path | Recording | Sequence[Recording],
        *,
        size: tuple[int, int] | None = None,
        split: str = "",
        labelled: bool = False,
    ) -> ActionPrediction | list[ActionPrediction]:
        """Return the prediction for one recording, or a list of predictions for several.

        recordings: a `SkeletonSequence`, or key points as an array or tensor (M, T, V, 2) or (T, V, 2), x and y in
        pixels, with 3 instead of 2 if the third is a score in [0, 1]; a sequence of these; or an annotation file, a
        .pkl in pyskl's format or an .npz, of which all recordings are predicted. size: height and width in pixels of
        the images that arrays come from. split: of an annotation file; empty: all. labelled: the labels of the
        recordings are numbers of these classes, so that predictions can state whether they are right. Which frames are
        sampled depends on the place of a recording among the others, as it does in an evaluation.
        Raises SightwordError for recordings with other joints than the model's.
        """
        if isinstance(recordings, SkeletonSequence | np.ndarray | Tensor):
            return self([recordings], size=size, split=split, labelled=labelled)[0]
        opened, rows = self._opened(recordings, size, split)
        return list(self.stream(opened, rows, labelled)) if len(rows) else []

    @overload
    def timeline(  # type: ignore[overload-overlap]  # a SkeletonSequence is a tuple, and so a sequence itself
        self, recordings: SkeletonSequence | np.ndarray | Tensor, **options: Unpack[TimelineOptions]
    ) -> ActionTimeline: ...
    @overload
    def timeline(
        self, recordings: str | Path | Sequence[Recording], **options: Unpack[TimelineOptions]
    ) -> list[ActionTimeline]: ...
    def timeline(
        self, recordings: str | Path | Recording | Sequence[Recording], **options: Unpack[TimelineOptions]
    ) -> ActionTimeline | list[ActionTimeline]:
        """Return what happens when in a long recording, and who does it; of several recordings, a list.

        recordings: as of a call. window, step: seconds, or `Span(60, counted=True)` for frames; window=0: the whole
        recording at once; step=0: half a window. each: whether persons are named one by one. sure: the mean probability
        below which a segment is unsure. fps: frames in a second where recordings do not say; 0: 30. size, split: as of
        a call. Raises SightwordError as a call, and for windows of less than four frames.
        """
        if isinstance(recordings, SkeletonSequence | np.ndarray | Tensor):
            return self.timeline([recordings], **options)[0]
        opened, rows = self._opened(recordings, options.get("size"), options.get("split", ""))
        windows = Windows(
            seconds(options.get("window", 2.0)),
            seconds(options.get("step", 0.0)),
            options.get("each", True),
            options.get("sure", 0.5),
            options.get("fps", 0.0),
        )
        return list(self.timelines(opened, rows, windows))

    def timelines(
        self, recordings: Sequence[SkeletonSequence], rows: Sequence[int], windows: Windows, workers: int = 0
    ) -> Iterator[ActionTimeline]:
        """Yield the timelines of some recordings, by number. workers: processes that sample views."""
        self._check(recordings, rows, False)
        for row in rows:
            sequence = recordings[row]
            pieces = list(pieces_of(sequence, windows))
            found = self.stream([piece.sequence for piece in pieces], range(len(pieces)), workers=workers)
            scores = [one.scores for one in found] if pieces else []
            yield timeline_of(sequence, pieces, scores, self.classes, windows, self.joints, self.unknown_words)

    def _opened(
        self, recordings: str | Path | Sequence[Recording], size: tuple[int, int] | None, split: str
    ) -> tuple[Sequence[SkeletonSequence], Sequence[int]]:
        """Return recordings as sequences, and the numbers of those in a split. Raises SightwordError as a call."""
        opened = (
            self.recordings(recordings) if isinstance(recordings, str | Path) else self._sequences(recordings, size)
        )
        if isinstance(opened, Recordings):
            if size is not None:
                raise SightwordError(f"size={size} is of key points as arrays; {opened.path} states its own. Remove it")
            return opened, opened.split(split)
        if split:
            raise SightwordError(f"split={split!r} is a split of an annotation file. Pass the file, or remove split")
        return opened, range(len(opened))

    def recordings(self, path: str | Path, reading: Reading = AS_PYSKL) -> Recordings:
        """Return the recordings of an annotation file, with the joints of the model, and report what is odd on stderr.

        reading: how the file is to be read. Raises SightwordError for a file that is not one, has other joints, or
        would give wrong results as it is read.
        """
        refuse_foreign(Path(path))
        if (suffix := Path(path).suffix.lower()) not in (".pkl", ".pickle", ".npz"):
            found = describe_file(Path(path)) or f"{suffix or 'no suffix'}; a .pkl or .npz is one"
            raise SightwordError(
                f"{path} is not a file of key points ({found}). Of videos and images, compute key points with a pose "
                "estimator first and pass them as an array"
            )
        opened = read_annotations(path, reading)
        opened.fit(self.joints)
        say_findings(opened)
        self.mind_domain([path])
        return opened

    def _sequences(self, recordings: Sequence[Recording], size: tuple[int, int] | None) -> Sequence[SkeletonSequence]:
        """Return recordings of any kind as sequences, and report what is odd about arrays. size: as of a call."""
        if isinstance(recordings, Recordings):
            return recordings
        self.mind_domain([None])
        found: list[SkeletonSequence] = []
        arrays: list[Annotation] = []
        for number, one in enumerate(recordings):
            if isinstance(one, np.ndarray | Tensor):
                name = f"recording {number}" if len(recordings) > 1 else "recording"
                arrays.append(annotation_of(one, size, self.joints, name))
                found.append(to_sequence(arrays[-1]))
            elif isinstance(one, SkeletonSequence):
                found.append(one)
            else:
                raise SightwordError(
                    f"recording {number} is a {type(one).__name__}, expected a SkeletonSequence or an array of key "
                    "points. Pass np.asarray(…) of lists, or an annotation file alone"
                )
        for finding in diagnose(arrays, AS_PYSKL, self.joints) if arrays else ():
            shards.say(f"key points: {finding.message}")
        return found

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
        return as_predictions(scored, batch, names, self.labels, self.joints, labelled, self.unknown_words)

    def scores(self, points: Tensor, scores: Tensor, size: tuple[int, int]) -> BatchScores:
        """Return the probabilities of views, given as tensors; see `score_views`."""
        kind = self.config.test_scores
        return score_views(self.model, self.heatmaps, self.bank, kind, points, scores, size)

    def describe_probabilities(self) -> str:
        """Return how probabilities are computed, for a report."""
        return describe_probabilities(self.model, self.config.test_scores)

    def for_classes(self, labels: Labels | Mapping[str, Sequence[str]]) -> "ActionRecognizer":
        """Return a recognizer of other classes, given as texts, with the same networks. labels: {class: [prompts]}.

        Raises SightwordError for a classifier, for a class of which the text encoder knows no word, and if the text
        encoder of an export cannot be opened.
        """
        if isinstance(self.model, Classifier):
            raise SightwordError(
                "this model is a classifier, with one output for each class it was trained on. Other classes need a "
                "model with system.recognise_by=text, as of skeleton/visece"
            )
        labels = labels if isinstance(labels, Labels) else Labels.of(labels, "the labels given")
        tower = self.tower()
        unknown = tower.check_words(" ".join(prompts) for prompts in labels.prompts)
        with torch.no_grad():
            bank = ClassTexts(labels, tower.tokenizer).to(self.device).embed(tower, self.model.text_head).unit
        found = ActionRecognizer(
            self.config, self.data, self.model, self.heatmaps, self.joints, labels, bank, self.exported
        )
        found.unknown_words = unknown
        # its metrics are of the classes that it was trained on
        found.training = Training(self.training.experiment, self.training.checkpoint)
        return found

    def tower(self) -> TextTower:
        """Return the text encoder. One that the model came without is opened and kept.

        Raises SightwordError if its files are missing, or its weights are not those that the model was exported with.
        """
        assert isinstance(self.model, VideoTextModel)
        if self.model.text is None:
            assert self.exported is not None
            opened = open_tower(self.config, self.exported.source(Path(self.config.text)))
            self.model.text = self.exported.checked(opened).freeze().to(self.device)
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
        if labelled and labels and max(labels) < 0:
            raise SightwordError("none of the recordings has a label. Remove labelled=True")
        if labelled and max(labels) >= len(self.classes):
            raise SightwordError(
                f"a recording has the label {max(labels)} and there are {len(self.classes)} classes. Give the labels "
                "of this set, or do not say that the recordings are labelled"
            )


def _network(content: Fields, config: SkeletonConfig, channels: int, classes: int) -> Classifier | VideoTextModel:
    """Return the network of an exported config, without weights and without a text encoder."""
    network = build_network(config, channels)
    if config.recognise_by == "classifier":
        return Classifier(VideoEncoder(network), classes, config.dropout, config.segments)
    widths = content.integers("widths")
    if len(widths) != 2:
        raise content.error(f"expected the widths of the text encoder's vectors and tokens, got {widths}", "widths")
    return build_video_text_model(config, network, None, (widths[0], widths[1]))
