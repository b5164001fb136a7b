"""Ridge regression on normalised joints and their velocities; its strength is chosen on people held out."""

from collections.abc import Sequence

import numpy as np

from sightword.systems.skeleton.control.feature import velocities
from sightword.systems.skeleton.control.people import folds

STRENGTHS = tuple(
    10.0 ** (power / 2) for power in range(-4, 6)
)  # λ, in units of the mean squared length of a feature vector
FOLDS = 10  # most


def features_of(points: np.ndarray) -> np.ndarray:
    """Return joints (N, L, V, C) and their velocities as vectors (N, F)."""
    return np.concatenate([part.reshape(len(points), -1) for part in (points, velocities(points))], axis=1)


class Ridge:
    """One-hot targets by least squares with a penalty, in the space of the N recordings (N is below F)."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int) -> None:
        """features: (N, F), labels: (N,), of the recordings to train on."""
        self.mean, self.spread = features.mean(0), features.std(0) + 1e-6
        self.features, self.classes = self._scaled(features), classes
        self.targets = np.eye(classes)[labels]
        self.values, self.vectors = np.linalg.eigh(self.features @ self.features.T)

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.mean) / self.spread).astype(np.float64)

    def scores(self, features: np.ndarray, strength: float) -> np.ndarray:
        """Return scores (N', K) of recordings (N', F)."""
        offset = self.targets.mean(0)
        penalty = strength * features.shape[1]
        weights = self.vectors @ ((self.vectors.T @ (self.targets - offset)) / (self.values + penalty)[:, None])
        scores: np.ndarray = self._scaled(features) @ self.features.T @ weights + offset
        return scores


def chosen_strength(
    features: np.ndarray, labels: np.ndarray, people: Sequence[str], classes: int
) -> tuple[float, dict[float, float]]:
    """Return the λ with the most correct recordings of people held out, and the accuracy of each λ in percent.

    Every person is held out once. Of equal ones the strongest is taken.
    """
    right = dict.fromkeys(STRENGTHS, 0)
    for held in folds(people, FOLDS):
        model = Ridge(features[~held], labels[~held], classes)
        for strength in STRENGTHS:
            right[strength] += int((model.scores(features[held], strength).argmax(1) == labels[held]).sum())
    best = max(STRENGTHS, key=lambda strength: (right[strength], strength))
    return best, {strength: 100 * count / len(labels) for strength, count in right.items()}
