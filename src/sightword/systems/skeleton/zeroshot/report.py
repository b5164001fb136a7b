"""Zero-shot accuracies of runs, with intervals, as the publications' protocols state them.

Each way of reading the same cosines is a row: as they are; with γ (calibrated stacking); with each class's mean taken
off; with both. γ is chosen on validation classes. Accuracies are over recordings, in percent.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.metrics.bootstrap import item_weights
from sightword.metrics.zeroshot import (
    Outcome,
    ausuc,
    best_gamma,
    generalised,
    outcome,
    without_class_means,
    zero_shot,
)
from sightword.storage import shards
from sightword.systems.skeleton.zeroshot.score import Scored, Scores

MEASURES = ("zsl", "seen", "unseen", "h", "ausuc")


class Way(NamedTuple):
    """A way of reading cosines."""

    name: str
    centred: bool  # each class's mean over the recordings is taken off
    calibrated: bool  # γ of validation classes is taken off the seen classes


WAYS = (
    Way("as they are", False, False),
    Way("calibrated", False, True),
    Way("class means off", True, False),
    Way("class means off, calibrated", True, True),
)


class Measured(NamedTuple):
    """One run, read in one way."""

    way: Way
    gamma: float  # 0 if it is not calibrated
    unseen_alone: Outcome  # recordings of unseen classes alone, for ZSL
    everyone: Outcome  # all recordings, for GZSL

    def values(self, counts: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Return `MEASURES` in percent. counts: how often each recording counts, in both outcomes; None: once."""
        alone, everyone = self.unseen_alone, self.everyone
        if counts is not None:
            alone, everyone = alone._replace(weight=counts["alone"]), everyone._replace(weight=counts["everyone"])
        return 100 * np.array([zero_shot(alone), *generalised(everyone, self.gamma), ausuc(everyone)])


def gammas(scored: Scored) -> dict[str, float]:
    """Return γ of each calibrated way, chosen on the run's validation classes; nothing if it has none."""
    val, found = scored.val, {}
    if val is None:
        return {}
    for way in WAYS:
        if way.calibrated:
            try:
                found[way.name] = best_gamma(outcome(_read(val, way), val.labels, val.unseen))
            except SightwordError as error:
                shards.say(f"{scored.run}, {way.name}: {error}")
    return found


def measure(scored: Scored, gamma: Mapping[str, float]) -> list[Measured]:
    """Return the run read in each way. gamma: of the calibrated ways; one that is missing is left out."""
    test, found = scored.test, []
    of_unseen = test.unseen[test.labels]
    if not of_unseen.any() or of_unseen.all():
        raise SightwordError(
            f"{scored.run}: {int(of_unseen.sum())} of {len(of_unseen)} recordings of test are of unseen classes. Both "
            "sides need recordings"
        )
    alone = test._replace(labels=test.labels[of_unseen], cosines=test.cosines[of_unseen])
    for way in WAYS:
        if way.calibrated and way.name not in gamma:
            continue
        parts = [outcome(_read(part, way), part.labels, part.unseen) for part in (alone, test)]
        found.append(Measured(way, gamma.get(way.name, 0.0) if way.calibrated else 0.0, parts[0], parts[1]))
    return found


def _read(scores: Scores, way: Way) -> np.ndarray:
    return without_class_means(scores.cosines) if way.centred else scores.cosines


def draws_of(
    runs: Sequence[tuple[Scored, Sequence[Measured]]], cluster_of: Mapping[str, str], draws: int, seed: int
) -> dict[str, np.ndarray]:
    """Return `MEASURES` of each way, run and draw of a bootstrap: way → (R, draws, 5).

    cluster_of: of each recording, what is drawn. A recording that several runs have is drawn for all of them at once.
    γ and class means stay as they are.
    """
    names = sorted(cluster_of)
    place = {name: number for number, name in enumerate(names)}
    rows = [np.array([place[name] for name in scored.test.names]) for scored, _ in runs]
    of_unseen = [scored.test.unseen[scored.test.labels] for scored, _ in runs]
    found: dict[str, list[list[np.ndarray]]] = {one.way.name: [] for one in runs[0][1]}
    weights = item_weights(np.array([cluster_of[name] for name in names]), draws, seed)
    for drawn in (row for block in weights for row in block):
        for way in range(len(found)):
            values = []
            for (_, read), own, unseen in zip(runs, rows, of_unseen, strict=True):
                counts = drawn[own]
                values.append(read[way].values({"everyone": counts, "alone": counts[unseen]}))
            found[runs[0][1][way].way.name].append(values)
    return {name: np.array(values).swapaxes(0, 1) for name, values in found.items()}
