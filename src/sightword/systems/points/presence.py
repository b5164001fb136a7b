"""Whether a scene contains what a text names: its fit, compared with its fit in other scenes that do not contain it.

The fit of a text with a scene is the mean of its highest cosines. Fits of two texts cannot be compared: a street fits
rooms better than a person does. So a fit is standardised by the text's own fits elsewhere:

    score = (fit − mean) / spread        over other scenes, without the thing's own points and those around them

For a text that is none of the labelled classes, nothing says where it is: its distribution is that of its fits in all
other scenes. A thing that is in most of them has a low score wherever it is, and one in none of them may have a high
one. So there are two thresholds: that of classes, from which on a text is here, and a lower one that classes without
their points do not reach when they are treated in the same way. Between them nothing is said.

The mean and the standard deviation over all points of other scenes do not serve. On the synthetic rooms they order
(scene, word) pairs worse than cosines do (AUC 40 %, cosines 62 %, this score 91 %): fits are maxima, and a word that
is often there has a wide distribution of points.

Legend: S scenes; K sampled points of a scene; C classes; D dimension of CLIP's joint space; Q texts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.metrics.acceptance import limit
from sightword.storage.checkpoint import read_weights, write_weights
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json
from sightword.systems.points.instance import BEST, peak
from sightword.towers.tokenizer import ARTICLES

if TYPE_CHECKING:
    from sightword.systems.points.ask import Kind

SCENES, SAMPLE = 16, 256  # scenes that are kept for texts that are no class, and points of each
LEAST = 3  # labelled scenes below which a distribution is not known
FLOOR = 0.25  # of the median spread: no class has less
NOTHING = -1.0  # the fit of a text with no point at all
AROUND = 0.25  # metres around a class's points that are taken out with them
FILES = ("background.safetensors", "background.json")


class Accepted(NamedTuple):
    """What the score of a text has to reach."""

    threshold: float
    right: float  # fraction of the classes that are in a scene of validation, and reach it
    wrong: float  # the same for classes whose points, if there are any, were taken out of the scene
    count: float  # type: ignore[assignment]  # of these, scene by scene


class Calibration(NamedTuple):
    """What the score of each text has to reach, and why."""

    threshold: float
    told: str  # how it was chosen, and how often it is reached
    mean: tuple[float, ...] = ()  # (Q,) of its fits where it is not; empty: scores are the fits themselves
    spread: tuple[float, ...] = ()  # (Q,)
    low: tuple[float, ...] = ()  # (Q,) the score below which a text is not here; empty: the threshold

    def fits(self, number: int, score: float) -> bool | None:
        """Return whether a text is here; None where its score says neither."""
        if score >= self.threshold:
            return True
        return False if not self.low or score < self.low[number] else None

    def score(self, number: int, fit: float) -> float:
        """Return the standardised fit of a text."""
        return (fit - self.mean[number]) / self.spread[number] if self.mean else fit

    def least(self, number: int) -> float:
        """Return the cosine that corresponds to the threshold."""
        return self.mean[number] + self.threshold * self.spread[number] if self.mean else self.threshold


class Background(NamedTuple):
    """How texts fit other scenes."""

    classes: tuple[str, ...]
    mean: Tensor  # (C,) of the fits of each class in scenes without it
    spread: Tensor  # (C,)
    samples: Tensor  # (S, K, D) features of points of other scenes, unit vectors
    accepted: Accepted  # of classes
    other: Accepted  # of classes that are treated as texts that are no classes: the lower threshold of these

    def calibration(self, texts: Sequence[str], embeddings: Tensor) -> Calibration:
        """Return what texts have to reach. embeddings: (Q, D), unit vectors."""
        if self.is_plain:
            return Calibration(self.accepted.threshold, self.told())
        own = {plain(name): number for number, name in enumerate(self.classes)}
        threshold = self.accepted.threshold
        mean, spread, low, others = [], [], [], []
        for text, vector in zip(texts, embeddings, strict=True):
            number = own.get(plain(text))
            if number is None:
                others.append(text)
                fits = torch.tensor([[fit_of(scene)] for scene in self.samples.float() @ vector])
                (centre,), (width,) = (part.tolist() for part in everywhere(fits, self.spread))
            else:
                centre, width = float(self.mean[number]), float(self.spread[number])
            mean.append(centre)
            spread.append(width)
            low.append(threshold if number is not None else min(threshold, self.other.threshold))
        told = self.told()
        if others:
            told += f"; {', '.join(others)}: not among its classes, so compared with all of its scenes"
        return Calibration(threshold, told, tuple(mean), tuple(spread), tuple(low))

    @property
    def is_plain(self) -> bool:
        """Whether scores are cosines, as of too few scenes, see `distribution`."""
        return not self.mean.any() and bool((self.spread == 1).all())

    def told(self) -> str:
        """Return how the threshold was chosen, and how often it is reached."""
        said = self.accepted
        return (
            f"on validation {100 * said.wrong:.0f} % of {said.count:.0f} classes reach it that were taken out "
            f"of a scene, {100 * said.right:.0f} % of those in one"
        )

    def save(self, folder: Path, features: "Kind", clip: str) -> list[Path]:
        """Write a folder that `read_background` reads. clip: what the features were computed with."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors, plain_values = (folder / name for name in FILES)
        write_weights(tensors, {"mean": self.mean, "spread": self.spread, "samples": self.samples.half()})
        content: dict[str, object] = {
            "features": features,
            "clip": clip,
            "classes": list(self.classes),
            "accepted": list(self.accepted),
        }
        content["other"] = list(self.other)
        write_json(plain_values, content)
        return [tensors, plain_values]


def read_background(folder: Path, features: "Kind", clip: str) -> Background:
    """Read what `Background.save` wrote. Raises SightwordError if the features are not those of `clip`."""
    tensors, plain_values = (folder / name for name in FILES)
    told = f"sightword background root=… out={folder} writes it"
    content = read_json(plain_values, missing=told)
    for name, own in (("features", features), ("clip", clip)):
        if content.text(name) != own:
            raise content.error(f"is of {name} {content.text(name)!r}, and the query uses {own!r}. Write another")
    if not tensors.is_file():
        raise SightwordError(f"{tensors} is missing. Copy the whole folder, or write it again")
    weights = read_weights(tensors)
    classes = content.texts("classes", least=1)
    accepted, other = (Accepted(*content.numbers(name, least=4)[:4]) for name in ("accepted", "other"))
    shapes = {name: tuple(weights[name].shape) for name in ("mean", "spread", "samples") if name in weights}
    if len(shapes) < 3 or {shapes["mean"], shapes["spread"]} != {(len(classes),)} or len(shapes["samples"]) != 3:
        raise SightwordError(f"{tensors} does not fit {plain_values}. Write the folder again")
    samples = weights["samples"].float()
    return Background(tuple(classes), weights["mean"], weights["spread"], samples, accepted, other)


def plain(text: str) -> str:
    """Return a text in lower case, without article: "A chair" is the class chair."""
    words = text.lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def fit_of(cosines: Tensor) -> float:
    """Return the fit of a text with points, from its cosines (n,): the mean of the highest 2 %."""
    return peak(cosines, max(1, round(BEST * len(cosines))))


def around(xyz: Tensor, label: Tensor, classes: int) -> Tensor:
    """Return which points are of a class or share a cell of `AROUND` metres with it, (n, C) bool.

    A patch of CLIP sees more than its own points, so the neighbours of a thing have features like its own.
    """
    cells = torch.unique((xyz / AROUND).floor().long(), dim=0, return_inverse=True)[1]  # (n,)
    has = torch.zeros(int(cells.max()) + 1, classes, dtype=torch.bool, device=xyz.device)
    known = label >= 0
    has[cells[known], label[known]] = True
    return has[cells]


def sampled(features: Tensor) -> Tensor:
    """Return K of the features (n, D) of a scene, evenly spread, (K, D) float16; zeros of none."""
    if not len(features):
        return features.new_zeros(SAMPLE, features.shape[1], dtype=torch.float16).cpu()
    rows = torch.linspace(0, len(features) - 1, SAMPLE, device=features.device).round().long()
    return features[rows].half().cpu()


def fits_of(features: Tensor, classes: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Return the fits of classes (C, D) with the points of a scene (n, D), and without those that are near, (C,) each.

    near: (n, C) bool, see `around`.
    """
    cosines = features @ classes.T
    whole = [fit_of(column) for column in cosines.T]
    rest = [fit_of(column[kept]) for column, kept in zip(cosines.T, ~near.T, strict=True)]
    return torch.tensor(whole), torch.tensor(rest)


def distribution(without: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the spread of the fits (S, C) of classes in scenes without them, (C,) each.

    With fewer than `LEAST` scenes, 0 and 1: scores are then cosines. A scene of which a class leaves nothing is not
    counted, and a class that is left with fewer than two has the usual values.
    """
    if len(without) < LEAST:
        return torch.zeros(without.shape[1]), torch.ones(without.shape[1])
    fits = torch.where(without > NOTHING, without.double(), torch.nan)
    count = fits.isfinite().sum(0)
    mean = fits.nanmean(0)
    spread = ((fits - mean).square().nansum(0) / (count - 1).clamp_min(1)).sqrt()
    enough = count > 1
    usual = [float(part[enough].median()) if enough.any() else value for part, value in ((mean, 0.0), (spread, 1.0))]
    mean, spread = torch.where(enough, mean, usual[0]), torch.where(enough, spread, usual[1])
    return mean.float(), spread.clamp_min(max(FLOOR * usual[1], 1e-4)).float()


def everywhere(fits: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the spread of fits (S, C) in scenes that may contain the thing, (C,) each.

    spread: of classes without their points, of which a quarter of the median is the least.
    """
    width = fits.std(0) if len(fits) > 1 else torch.zeros(fits.shape[1])
    return fits.mean(0), width.clamp_min(FLOOR * float(spread.median()))


def chosen(fits: Tensor, without: Tensor, present: Tensor, known: bool = True) -> Accepted:
    """Return the threshold that at most 5 % of the classes reach that are not in a scene.

    fits, without, present: (S, C). Each scene is compared with the others. known: whether it is known where a class
    is; otherwise classes are treated as texts that are none.
    """
    right, wrong = [], []
    for number in range(len(fits)):
        others = torch.arange(len(fits)) != number
        mean, spread = distribution(without[others] if len(fits) > LEAST else without)
        if not known and len(fits) >= LEAST:
            mean, spread = everywhere(fits[others][:SCENES], spread)
        right.append(((fits[number] - mean) / spread)[present[number]])
        wrong.append((without[number] - mean) / spread)
    there, missing = torch.cat(right), torch.cat(wrong)
    threshold = limit(missing.numpy())
    rates = [float((part >= threshold).double().mean()) if len(part) else 0.0 for part in (there, missing)]
    return Accepted(threshold, rates[0], rates[1], len(missing))
