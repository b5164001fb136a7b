"""What inference needs and nothing else: recordings in, probabilities of classes out; in a folder, or at hand.

config.json         system: the config; labels: classes and prompts; joints; widths: of the words' tower
model.safetensors   the video side, the projections, τ, and `bank`: the vectors of the classes' words
text/               the tower, where it can be saved (a BERT or T5): for words that were not exported
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, read_checkpoint
from sightword.systems.skeleton.config import SkeletonConfig
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.model import (
    Classifier,
    ResidualProjector,
    TextRecogniser,
    VideoEncoder,
    Weighing,
    chances,
)
from sightword.systems.skeleton.network import ResNet3dSlowOnly
from sightword.systems.skeleton.texts import ClassTexts, Labels
from sightword.towers.base import TextTower
from sightword.towers.hugging_face import HFText

CONFIG, WEIGHTS, TEXT = "config.json", "model.safetensors", "text"
TRAINING = ("matching.", "text.")  # how names of weights begin that are not in the file


class Recogniser(nn.Module):
    """Recordings to probabilities of classes: those it knows, or any that are told in words."""

    bank: Tensor  # (classes, E), vectors of the known classes; (0,) of a classifier

    def __init__(
        self,
        system: SkeletonConfig,
        model: Classifier | TextRecogniser,
        heatmaps: nn.Module,
        joints: JointSet,
        labels: Labels,
        bank: Tensor | None,
        folder: Path | None = None,
    ) -> None:
        """folder: where the tower lies that the model came without; opened when words come."""
        super().__init__()
        self.system, self.joints, self.labels, self.folder = system, joints, labels, folder
        self.model, self.heatmaps = model, heatmaps
        self.register_buffer("bank", torch.zeros(0) if bank is None else bank.clone())

    @torch.no_grad()
    def scores(
        self,
        points: Tensor,
        scores: Tensor,
        size: tuple[int, int],
        texts: Mapping[str, Sequence[str]] | None = None,
    ) -> Tensor:
        """Probabilities (B, L), the mean over views; of the known classes, or of `texts`, {class: [prompts]}.

        points: (B, n, M, L, V, 2) in pixels of `size` (H, W), n views; scores: (B, n, M, L, V), 0 where a joint is not.
        """
        if points.ndim != 6 or points.shape[:-1] != scores.shape:
            raise ValueError(
                f"points are (B, n, M, L, V, 2) and scores (B, n, M, L, V); these are {tuple(points.shape)} and "
                f"{tuple(scores.shape)}"
            )
        bank = self.bank if texts is None else self.vectors(texts)
        views = [self._view(points[:, view], scores[:, view], size, bank) for view in range(points.shape[1])]
        return torch.stack(views).mean(0)

    def _view(self, points: Tensor, scores: Tensor, size: tuple[int, int], bank: Tensor) -> Tensor:
        frames = self.model.video(self.heatmaps(points, scores, size))
        if isinstance(self.model, Classifier):
            return self.model(frames).softmax(1)
        return chances(self.model.compare(frames, bank).cosines, self.model.scale, self.system.test_scores)

    def vectors(self, texts: Mapping[str, Sequence[str]]) -> Tensor:
        """Classes, {class: [prompts]}, as vectors (L, E)."""
        if isinstance(self.model, Classifier):
            raise ValueError("a classifier knows the classes it was trained on and no words: give no texts")
        tower = self.tower()
        prompts = ClassTexts(Labels.of(texts, "texts"), tower.tokenizer).to(self.bank.device)
        return prompts.read(tower, self.model.text_head).unit

    def tower(self) -> TextTower:
        """The tower, opened on first use where it lies in the folder."""
        assert isinstance(self.model, TextRecogniser)
        if self.model.text is None:
            if self.folder is None or not (self.folder / TEXT).is_dir():
                raise ValueError(
                    f"{self.folder} was exported without the tower that reads words ({self.system.text}): it knows the "
                    "classes of its config.json only"
                )
            self.model.text = open_tower(self.system, self.folder / TEXT).freeze().to(self.bank.device)
        return self.model.text


def make_recogniser(
    system: SkeletonConfig, network: ResNet3dSlowOnly, text: TextTower | None, widths: tuple[int, int]
) -> TextRecogniser:
    """Video and words without what is asked of them in training only. widths: of the tower's vectors and tokens."""
    video = VideoEncoder(network, widths[1] if system.frame_linear else 0)
    projector: nn.Module = (
        ResidualProjector(video.width, system.embed_dim, system.activation)
        if system.projector == "residual"
        else nn.Linear(video.width, system.embed_dim)
    )
    weighing = None
    if system.frames == "pacl":
        weighing = Weighing(system.pacl_target, system.pacl_weight, system.pacl_gain, system.pacl_final_norm)
    head = nn.Linear(widths[0], system.embed_dim)
    return TextRecogniser(video, text, projector, head, system.pool, weighing, system.temperature)


def open_tower(system: SkeletonConfig, name: str | Path) -> TextTower:
    """The tower of that name or folder, with what a config says of it."""
    from sightword.towers.factory import text_tower

    said = {"length": system.text_length, "pooling": system.text_pooling}
    options: dict[str, Any] = {option: value for option, value in said.items() if value}
    return text_tower(name, **options)


def write_exported(recogniser: Recogniser, folder: Path) -> None:
    """A folder that `read_exported` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model, labels = recogniser.model, recogniser.labels
    widths: list[int] = []
    if isinstance(model, TextRecogniser):
        tower = recogniser.tower()
        widths = [tower.embed_dim, tower.width]
        if isinstance(tower, HFText):
            tower.save(folder / TEXT)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(TRAINING)}
    weights |= {"bank": recogniser.bank}
    with write_atomically(folder / WEIGHTS) as part:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, part)
    content = {
        "system": asdict(recogniser.system),
        "labels": dict(zip(labels.classes, map(list, labels.prompts), strict=True)),
        "joints": recogniser.joints._asdict(),
        "widths": widths,
    }
    with write_atomically(folder / CONFIG) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_exported(folder: str | Path, heatmaps: nn.Module | None = None) -> Recogniser:
    """The recogniser that `sightword export` wrote, in eval mode. ValueError or FileNotFoundError, one line.

    heatmaps: what draws them, if not `Heatmaps` of the exported joints.
    """
    folder = Path(folder).expanduser()
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        system, widths = SkeletonConfig(**content["system"]), [int(width) for width in content["widths"]]
        if len(widths) != (0 if system.recognise_by == "classifier" else 2):
            raise ValueError(f"widths are of the words' vectors and tokens, these are {widths}")
        labels, joints = Labels.of(content["labels"], str(folder / CONFIG)), _joints(content["joints"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{folder} has no {CONFIG}; sightword export run=… out={folder} writes it") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged, or of another version: {error}") from error
    heatmaps = heatmaps or _heatmaps(joints, system.heatmap)
    network = ResNet3dSlowOnly(channels_of(heatmaps), system.base, system.depths)
    model: Classifier | TextRecogniser
    if system.recognise_by == "classifier":
        model = Classifier(VideoEncoder(network), len(labels.classes), system.dropout)
    else:
        model = make_recogniser(system, network, None, (widths[0], widths[1]))
    weights = read_checkpoint(folder / WEIGHTS)
    bank = weights.pop("bank", torch.zeros(0))
    if isinstance(model, TextRecogniser) and bank.shape != (len(labels.classes), system.embed_dim):
        raise ValueError(
            f"{folder / WEIGHTS} has vectors {tuple(bank.shape)} of classes, {CONFIG} names {len(labels.classes)} and "
            f"a width of {system.embed_dim}: they are of two exports"
        )
    load_strictly(model, weights, folder / WEIGHTS)
    network.lay_out()
    return Recogniser(system, model, heatmaps, joints, labels, bank, folder).eval()


def channels_of(heatmaps: nn.Module) -> int:
    """How many heatmaps of a frame there are."""
    channels = heatmaps.channels
    assert isinstance(channels, int)
    return channels


def _heatmaps(joints: JointSet, kind: str) -> nn.Module:
    from sightword.systems.skeleton.heatmap import Heatmaps

    return Heatmaps(joints, kind)


def _joints(values: Mapping[str, Any]) -> JointSet:
    pairs, limbs = (tuple((int(a), int(b)) for a, b in values[name]) for name in ("pairs", "limbs"))
    return JointSet(str(values["name"]), tuple(values["joints"]), pairs, limbs)
