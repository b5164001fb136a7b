"""What the recognizer predicts of a recording, and the figures of it.

Legend: M persons; L frames of a view; V joints; T frames of the network's features; K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.engine.contract import Result
from sightword.errors import SightwordError
from sightword.metrics.classes import confusion_matrix
from sightword.systems.skeleton import show
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.weight import effective_frames
from sightword.viz.write import write_picture


@dataclass(frozen=True, eq=False)
class ActionPrediction(Result):
    """The predicted action of one recording, and the first of its views as the network got it. Arrays on the CPU."""

    name: str  # of the recording
    classes: tuple[str, ...]  # K names
    scores: np.ndarray  # (K,) float32 probabilities, the mean over all views
    label: int | None  # the true class; None if it is not known
    joints: JointSet
    points: np.ndarray  # (M, L, V, 2) float32, x and y in pixels of the canvas
    joint_scores: np.ndarray  # (M, L, V) float32, 0 for a joint that is not there
    frames: np.ndarray  # (L,) int64, numbers in the recording
    key: np.ndarray  # (L,) float32, 1 in the action's key moments, 0 outside, NaN if unknown
    weights: np.ndarray | None = None  # (T,) of the frames, by the predicted class's text; None: all weigh alike
    unknown_words: tuple[str, ...] = ()  # of the classes' prompts, that the text encoder does not know

    @property
    def best(self) -> int:
        """The number of the predicted class."""
        return int(self.scores.argmax())

    @property
    def action(self) -> str:
        """The name of the predicted class."""
        return self.classes[self.best]

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
        return float(self.scores[self.best])

    @property
    def truth(self) -> str:
        """The name of the true class; empty if it is not known."""
        return "" if self.label is None else self.classes[self.label]

    def ranked(self, top: int) -> list[tuple[str, float]]:
        """Return the `top` classes of the highest probability, best first."""
        order = np.argsort(-self.scores, kind="stable")[:top]
        return [(self.classes[number], float(self.scores[number])) for number in order.tolist()]

    def without_poses(self) -> Self:
        """Return the prediction without its poses, which take the memory; it cannot be plotted."""
        return replace(self, points=self.points[:0], joint_scores=self.joint_scores[:0])

    def plot(self) -> Image.Image:
        """Return a filmstrip: poses, the prediction above them, the weight of each frame below them."""
        if not len(self.points):
            raise SightwordError(f"{self.name}: a prediction without poses cannot be plotted")
        return strip_of(self)

    def to_dict(self) -> dict[str, object]:
        """Return the prediction and what the filmstrip shows as plain values."""
        (predicted, probability), *others = self.ranked(3)
        found: dict[str, object] = {"name": self.name, "predicted": predicted, "probability": probability}
        found |= {"truth": self.truth, "right": None if self.label is None else self.label == self.best}
        found |= {"others": [list(other) for other in others], "frames": self.frames.astype(int).tolist()}
        if self.weights is not None:
            found["weights"] = [round(float(value), 6) for value in self.weights]
            found["effective_frames"] = float(effective_frames(self.weights[None])[0])
        if self.unknown_words:
            found["unknown_words"] = list(self.unknown_words)
        if np.isfinite(self.key).all():
            found["key"] = [int(value > 0.5) for value in self.key]
        return found

    def __repr__(self) -> str:
        truth = f", truth={self.truth!r}" if self.truth else ""
        return f"ActionPrediction({self.name!r}, {self.action!r}, {self.probability:.2f}{truth})"


def draw(
    predictions: Sequence[ActionPrediction], folder: Path, counts: Tensor | None = None, note: str = ""
) -> list[Path]:
    """Write strips.png of the predictions that have poses and, of counts (K, K), confusion.png. Return the files.

    Each has its numbers beside it as JSON. counts: rows true, columns predicted; None if no class is known. note: what
    was counted.
    """
    files, drawn = [], [one for one in predictions if len(one.points)]
    if drawn:
        files += write_picture(strips(drawn), folder / "strips.png", [one.to_dict() for one in drawn])
    if counts is not None and int(counts.sum()):
        classes = predictions[0].classes
        numbers = {"classes": list(classes), "counts": counts.tolist()}
        files += write_picture(show.confusion(counts, classes, note), folder / "confusion.png", numbers)
    return files


def confusion_of(predictions: Sequence[ActionPrediction], classes: int) -> Tensor:
    """Return the confusion matrix (K, K), rows true, columns predicted, of those whose class is known."""
    pairs = [(one.label, one.best) for one in predictions if one.label is not None]
    labels, predicted = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return confusion_matrix(predicted, labels, classes)


def strips(predictions: Sequence[ActionPrediction]) -> Image.Image:
    """Return a strip of each prediction, the legend below the last."""
    last = len(predictions) - 1
    return show.stacked([strip_of(one, legend=number == last) for number, one in enumerate(predictions)])


def strip_of(one: ActionPrediction, legend: bool = True) -> Image.Image:
    """Return the filmstrip of a prediction."""
    return show.strip(
        one.points, one.joint_scores, one.joints, one.weights, one.key, one.frames, heading_of(one), legend=legend
    )


def heading_of(one: ActionPrediction) -> show.Heading:
    """Return the text above the filmstrip of a prediction."""
    (predicted, probability), *others = one.ranked(3)
    return show.Heading(one.name, predicted, probability, one.truth, others)
