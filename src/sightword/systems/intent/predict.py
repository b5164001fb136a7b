"""A trained intent classifier as its user holds it: images to scores of 28 intents, and the words of their patches.

Legend: h, w patches of an image; C intents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

from sightword.data.image import read_image
from sightword.engine.contract import BatchT, Predictor, Result
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, read_weights
from sightword.storage.reader import read_dataclass
from sightword.storage.writer import write_json
from sightword.systems.intent import show
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.show import Explanation
from sightword.systems.intent.task import BaselineTask, IntentTask, MultiStreamTask, make_task
from sightword.viz import chart, grid

CONFIG, WEIGHTS, ANCHORS = "config.json", "model.safetensors", "semantic_anchors.pth"
SHOWN = 8  # intents of a chart


@dataclass(frozen=True, repr=False)
class IntentPrediction(Result):
    """The intents of an image, and the words that they are computed from if the model has codebooks."""

    image: Image.Image
    scores: Mapping[str, float]  # intent → sigmoid of its logit, in [0, 1]; C of them, in the order of their ids
    threshold: float | None  # above which an intent is predicted; None if no validation has chosen one
    words: Mapping[str, list[list[str]]]  # stream → the word of each patch, h lists of w; empty for the baseline
    explanation: Explanation | None = None  # what each patch adds to each logit; None for the baseline

    @property
    def intents(self) -> list[str]:
        """The predicted intents, the likeliest first; none without a threshold."""
        above = [] if self.threshold is None else [n for n, score in self.scores.items() if score > self.threshold]
        return sorted(above, key=lambda name: -self.scores[name])

    def __repr__(self) -> str:
        most = sorted(self.scores, key=lambda name: -self.scores[name])[:3]
        told = "no threshold" if self.threshold is None else f"threshold {self.threshold:.2f}"
        return f"IntentPrediction({', '.join(f'{name} {self.scores[name]:.2f}' for name in most)}, …; {told})"

    def plot(self) -> Image.Image:
        """Return the likeliest intents with the contributions of patches and words, or a chart for the baseline."""
        if self.explanation is not None:
            return show.reasons(self.explanation)
        most = dict(sorted(self.scores.items(), key=lambda item: -item[1])[:SHOWN])
        told = "scores" if self.threshold is None else f"scores; threshold {self.threshold:.2f}"
        image = ImageOps.contain(self.image, (show.SIDE, show.SIDE))
        return grid.titled({"image": image, "intents": chart.terms(most, show.SIDE, told)})

    def to_dict(self) -> dict[str, object]:
        return {
            "scores": dict(self.scores),
            "threshold": self.threshold,
            "intents": self.intents,
            "words": dict(self.words),
        }


class IntentClassifier(Predictor):
    """Predicts why photos were posted: a score for each of 28 intents."""

    def __init__(self, task: IntentTask) -> None:
        self.task = task.eval()

    @classmethod
    def from_task(cls, task: Task[BatchT]) -> Self:
        if not isinstance(task, IntentTask):
            raise SightwordError(f"IntentClassifier is made of a run of intent, got a {type(task).__name__}")
        return cls(task)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        folder = Path(folder).expanduser()
        config = read_dataclass(
            folder / CONFIG,
            IntentConfig,
            missing=f"sightword export run=… out={folder} writes it",
            damaged="It is damaged, or of another version: export the run again",
            semantic_anchors_path=str(folder / ANCHORS),
        )
        task = make_task(config)
        load_strictly(task, read_weights(folder / WEIGHTS), folder / WEIGHTS)
        return cls(task)

    def save_pretrained(self, folder: Path) -> None:
        """Write the weights without those of the image encoder, the anchors and the config."""
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.task, MultiStreamTask):
            self.task.anchors.write(folder / ANCHORS)
        weights = {
            name: value.detach().cpu().contiguous()
            for name, value in self.task.state_dict().items()
            if isinstance(value, Tensor)
        }
        with write_atomically(folder / WEIGHTS) as part:
            save_file(weights, part)
        config = asdict(self.task.config)
        for path in ("semantic_anchors_path", "vocabulary"):  # of the training machine
            del config[path]
        write_json(folder / CONFIG, config)

    def __call__(self, images: Sequence[str | Path | Image.Image]) -> list[IntentPrediction]:
        """Return a prediction for each image, given as a file or a PIL image of any size."""
        opened = [image if isinstance(image, Image.Image) else read_image(Path(image).expanduser()) for image in images]
        return [self._predicted(image.convert("RGB")) for image in opened]

    def table(self) -> Image.Image:
        """Return a figure of the whole model: what each word adds to each intent if every patch has it."""
        return show.table(self.codebooks())

    def codebooks(self) -> MultiStreamTask:
        """Return the task, which has codebooks. Raises SightwordError if it is the baseline, which has none."""
        if not isinstance(self.task, MultiStreamTask):
            raise SightwordError(
                "the baseline has no codebooks to explain. Pass a run of intent/stage1 or intent/stage2"
            )
        return self.task

    def _predicted(self, image: Image.Image) -> IntentPrediction:
        threshold = show.threshold_of(self.task)
        if isinstance(self.task, MultiStreamTask):
            explanation = show.explain(self.task, image)
            words = {stream: explanation.words(stream) for stream in explanation.classes}
            return IntentPrediction(image, _scores(explanation.logits), threshold, words, explanation)
        assert isinstance(self.task, BaselineTask)
        return IntentPrediction(image, _scores(_baseline_logits(self.task, image)), threshold, {})


def _scores(logits: Tensor) -> dict[str, float]:
    return {show.intent_name(number): score for number, score in enumerate(logits.sigmoid().tolist())}


@torch.no_grad()
def _baseline_logits(task: BaselineTask, image: Image.Image) -> Tensor:
    """(C,)"""
    device = task.threshold.device
    tower = task.tower.on(device)
    encoded = tower.token_types(tower.preprocess.batch([image]).to(device), task.reads)["joint"]
    return task.model(encoded.pooled, encoded.tokens)[0].cpu()
