"""A trained intent classifier for users: images to scores of intents, and the words of their patches.

A folder that `save_pretrained` wrote has

    config.json                    config: the system's, without paths; tower: how to open the image encoder
    model.safetensors              the weights of the task
    semantic_anchors.safetensors   the codebooks and their words; not of the baseline
    calibration.safetensors        where words are calibrated
    tower/                         the image encoder, if it is not a published one

Legend: h, w patches of an image; C intents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sightword.data.image import ImageLike, as_sequence, open_images
from sightword.engine.config import DataConfig
from sightword.engine.contract import BatchT, Result
from sightword.engine.predictor import Predictor
from sightword.engine.task import Task
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.checkpoint import load_strictly, read_weights, write_weights
from sightword.storage.fields import Fields
from sightword.systems.intent import show
from sightword.systems.intent.anchors import NAME
from sightword.systems.intent.calibration import NAME as CALIBRATION
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.hierarchy import groups_of, titles
from sightword.systems.intent.show import Explanation, WordTask
from sightword.systems.intent.task import BaselineTask, IntentTask, MultiStreamTask, PresenceTask, make_task
from sightword.towers.base import ImageTower
from sightword.towers.export import ExportedTower, write_image_tower
from sightword.towers.frozen import FrozenModel
from sightword.viz import chart, grid

WEIGHTS, ANCHORS, TOWER = "model.safetensors", f"{NAME}.safetensors", "tower"
REPLACED = (
    "tower",
    "tag",
    "semantic_anchors_path",
    "vocabulary",
    "calibration",
    "calibration_labels",
)  # fields that an export states in another way
SHOWN = 8  # intents of a chart


@dataclass(frozen=True, repr=False, eq=False)
class IntentPrediction(Result):
    """The intents of an image, and the words that they are computed from if the model has codebooks."""

    image: Image.Image
    scores: Mapping[
        str, float
    ]  # intent → sigmoid of its logit, in [0, 1]; C of them, in the order of the model's classes
    threshold: float | None  # above which an intent is predicted; None if no validation has chosen one
    words: Mapping[str, list[list[str]]]  # stream → the word of each patch, h lists of w; empty for the baseline
    explanation: Explanation | None = None  # what each patch adds to each logit; None for the baseline

    @property
    def intents(self) -> list[str]:
        """The predicted intents, the likeliest first; none without a threshold."""
        above = [] if self.threshold is None else [n for n, score in self.scores.items() if score > self.threshold]
        return sorted(above, key=lambda name: -self.scores[name])

    @property
    def titles(self) -> dict[str, str]:
        """Intent → how people read it; the names themselves unless the classes are Intentonomy's."""
        return titles(list(self.scores))

    @property
    def groups(self) -> dict[int, dict[str, float]]:
        """{15: group → score, 9: super-category → score}, the highest of its intents; empty for one's own classes."""
        return groups_of(self.scores)

    def __repr__(self) -> str:
        most = sorted(self.scores, key=lambda name: -self.scores[name])[:3]
        told = "no threshold" if self.threshold is None else f"threshold {self.threshold:.2f}"
        return f"IntentPrediction({', '.join(f'{name} {self.scores[name]:.2f}' for name in most)}, …; {told})"

    def plot(self) -> Image.Image:
        """Return the likeliest intents with the contributions of patches and words, or a chart for the baseline."""
        if self.explanation is not None:
            return show.reasons(self.explanation)
        named = self.titles
        best = sorted(self.scores, key=lambda name: -self.scores[name])[:SHOWN]
        most = {named[name]: self.scores[name] for name in best}
        told = "scores" if self.threshold is None else f"scores; threshold {self.threshold:.2f}"
        image = ImageOps.contain(self.image, (show.SIDE, show.SIDE))
        return grid.titled({"image": image, "intents": chart.terms(most, show.SIDE, told)})

    def to_dict(self) -> dict[str, object]:
        return {
            "scores": dict(self.scores),
            "threshold": self.threshold,
            "intents": self.intents,
            "titles": self.titles,
            "groups": {str(level): scores for level, scores in self.groups.items()},
            "words": dict(self.words),
            **({"presence": self.presence} if self.presence else {}),
        }

    @property
    def presence(self) -> dict[str, dict[str, float]]:
        """Stream → word → the calibrated probability that the image shows it; empty if words are not calibrated."""
        found = {} if self.explanation is None else self.explanation.presence
        return {stream: dict(words) for stream, words in found.items()}


class IntentClassifier(Predictor):
    """Predicts why photos were posted: a score for each intent that it was trained on."""

    system = "intent"
    summary = (
        "Input: a photo. Output: a score for each intent, and the words of its patches that the scores are computed "
        "from."
    )
    usage = 'model("photo.jpg").plot()'

    def __init__(self, task: IntentTask) -> None:
        self.task = task.eval()

    @classmethod
    def from_task(cls, task: Task[BatchT], data: DataConfig | None = None) -> Self:
        if not isinstance(task, IntentTask):
            raise SightwordError(f"IntentClassifier is made of a run of intent, got a {type(task).__name__}")
        return cls(task)

    @classmethod
    def _from_folder(cls, folder: Path, content: Fields) -> Self:
        exported = content.mapping("tower").into(ExportedTower)
        config = content.mapping("config").into(
            IntentConfig,
            tower=exported.source(folder / TOWER),
            tag=exported.tag,
            semantic_anchors_path=str(folder / ANCHORS),
            calibration="",  # beside the anchors
        )
        if config.model == "multistream" and not (folder / ANCHORS).is_file():
            raise MissingFileError(
                f"{folder / ANCHORS} is missing. Copy the exported folder as a whole, or export the run again"
            )
        task = make_task(config)
        task.tower = FrozenModel(partial(_open, task, exported))
        load_strictly(task, read_weights(folder / WEIGHTS), folder / WEIGHTS)
        return cls(task)

    def _write(self, folder: Path) -> Mapping[str, object]:
        """Write the weights, the anchors and, if it is a user's own, the image encoder, which is opened for this."""
        config = self.task.config
        exported = write_image_tower(self.task.tower.on(), config.tower, config.tag, folder / TOWER)
        if isinstance(self.task, MultiStreamTask | PresenceTask):
            self.task.anchors.write_named(folder / ANCHORS)
        if self.task.calibration is not None:
            self.task.calibration.write(folder / CALIBRATION)
        write_weights(folder / WEIGHTS, self.task_weights())
        kept = {name: value for name, value in asdict(config).items() if name not in REPLACED}
        return {"config": kept, "tower": asdict(exported)}

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the intents, in the order of the scores."""
        return self.task.classes

    def task_weights(self) -> dict[str, Tensor]:
        return dict(self.task.state_dict())

    def to(self, device: str | torch.device) -> Self:
        self.task.to(device)  # the image encoder follows when it is used
        return self

    @overload  # a text is a sequence of texts, too
    def __call__(self, images: str | Path | Image.Image) -> IntentPrediction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: np.ndarray | Tensor) -> IntentPrediction | list[IntentPrediction]: ...
    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[IntentPrediction]: ...
    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> IntentPrediction | list[IntentPrediction]:
        """Return the prediction for an image, or a list of predictions for several.

        An image is a file, a PIL image, an array (H, W, 3) or a tensor (3, H, W), of any size; arrays and tensors are
        uint8, or floats in [0, 1], and with four axes they are several images. Raises SightwordError for others.
        """
        opened, alone = open_images(images)
        self.mind_domain(as_sequence(images)[0])
        found = [self._predicted(image) for image in opened]
        return found[0] if alone else found

    def table(self) -> Image.Image:
        """Return a figure of the whole model: what each word adds to each intent if every patch has it."""
        return show.table(self.codebooks())

    def codebooks(self) -> WordTask:
        """Return the task, which has words. Raises SightwordError if it is the baseline, which has none."""
        if not isinstance(self.task, MultiStreamTask | PresenceTask):
            raise SightwordError(
                "the baseline has no codebooks to explain. Pass a run of intent/stage1, stage2, presence or pairs"
            )
        return self.task

    def _predicted(self, image: Image.Image) -> IntentPrediction:
        threshold = show.threshold_of(self.task)
        if isinstance(self.task, MultiStreamTask | PresenceTask):
            explanation = show.explain(self.task, image)
            words = {stream: explanation.words(stream) for stream in explanation.classes}
            return IntentPrediction(image, self._scores(explanation.logits), threshold, words, explanation)
        assert isinstance(self.task, BaselineTask)
        return IntentPrediction(image, self._scores(_baseline_logits(self.task, image)), threshold, {})

    def _scores(self, logits: Tensor) -> dict[str, float]:
        return dict(zip(self.classes, logits.sigmoid().tolist(), strict=True))


def _open(task: IntentTask, exported: ExportedTower) -> ImageTower:
    """Open the image encoder of an exported task. Raises SightwordError if its weights are others than exported."""
    return exported.checked(task.open_tower())


@torch.no_grad()
def _baseline_logits(task: BaselineTask, image: Image.Image) -> Tensor:
    """(C,)"""
    device = task.threshold.device
    tower = task.tower.on(device)
    encoded = tower.token_types(tower.preprocess.batch([image]).to(device), task.reads)["joint"]
    return task.model(encoded.pooled, encoded.tokens)[0].cpu()
