"""Distances of joints and motion at two speeds, read by a small 1-D network: DD-Net.

Yang, Sakti, Wu, Nakamura 2019, "Make Skeleton-based Action Recognition Model Smaller, Faster and Better",
arXiv 1907.09658. The network is the publication's: each of three inputs is embedded, brought to L / 2 moments and
concatenated; three pairs of convolutions follow, the maximum over time, and two dense layers. How long it is trained,
and its dropout, are chosen on people held out.

Legend: N recordings, L moments, V joints, C coordinates, J = V · (V - 1) / 2 distances, W filters.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.systems.skeleton.control.feature import joint_distances, resampled, velocities
from sightword.systems.skeleton.control.people import folds

LEAST = 0.9  # fraction of a recording that a training view covers, as published
BATCH = 32
HEAD_DROPOUT = 0.5  # as published; `dropout` is that of whole channels
SMOOTH = 5  # epochs over which accuracies on people held out are averaged
FOLDS = 3  # of people; one of them is held out


class Inputs(NamedTuple):
    """What the network reads."""

    distances: Tensor  # (N, L, J)
    slow: Tensor  # (N, L, V · C), motion within one moment
    fast: Tensor  # (N, L / 2, V · C), within two


def inputs_of(points: np.ndarray) -> Inputs:
    """Return the inputs of joints (N, L, V, C)."""
    count, moments = points.shape[:2]
    slow = velocities(points).reshape(count, moments - 1, -1)
    fast = velocities(points, 2)[:, ::2].reshape(count, (moments - 1) // 2, -1)
    parts = (
        joint_distances(points),
        np.stack([resampled(one, moments) for one in slow]),
        np.stack([resampled(one, moments // 2) for one in fast]),
    )
    return Inputs(*(torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for part in parts))


class Convolution(nn.Sequential):
    """Convolution over time, batch norm and leaky ReLU; (N, inputs, L) → (N, outputs, L)."""

    def __init__(self, inputs: int, outputs: int, length: int) -> None:
        super().__init__(
            nn.Conv1d(inputs, outputs, length, padding=length // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.LeakyReLU(0.2),
        )


class DDNet(nn.Module):
    """`Inputs` to logits (N, K)."""

    def __init__(self, distances: int, motion: int, classes: int, filters: int = 32, dropout: float = 0.1) -> None:
        super().__init__()

        def embedding(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                *(Convolution(inputs, 2 * filters, 1), nn.Dropout1d(dropout)),
                *(Convolution(2 * filters, filters, 3), nn.Dropout1d(dropout)),
                *(Convolution(filters, filters, 1), nn.Dropout1d(dropout)),
            )

        self.distances, self.slow, self.fast = embedding(distances), embedding(motion), embedding(motion)
        widths = [3 * filters, 2 * filters, 4 * filters, 8 * filters]
        self.blocks = nn.ModuleList(
            nn.Sequential(Convolution(before, after, 3), Convolution(after, after, 3), nn.Dropout1d(dropout))
            for before, after in pairwise(widths)
        )
        self.head = nn.Sequential(
            *(nn.Linear(widths[-1], 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.2), nn.Dropout(HEAD_DROPOUT)),
            *(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.2), nn.Dropout(HEAD_DROPOUT)),
            nn.Linear(128, classes),
        )

    def forward(self, inputs: Inputs) -> Tensor:
        distances, slow, fast = (part.transpose(1, 2) for part in inputs)
        halved = [F.max_pool1d(self.distances(distances), 2), F.max_pool1d(self.slow(slow), 2), self.fast(fast)]
        x = torch.cat(halved, 1)  # (N, 3 · W, L / 2)
        for number, block in enumerate(self.blocks):
            x = block(x)
            x = F.max_pool1d(x, 2) if number < len(self.blocks) - 1 else x
        logits: Tensor = self.head(x.amax(2))
        return logits


class Recipe(NamedTuple):
    """How a network is trained."""

    epochs: int
    dropout: float
    filters: int = 32
    rate: float = 1e-3


def trained(
    points: np.ndarray,
    labels: np.ndarray,
    classes: int,
    recipe: Recipe,
    seed: int,
    held: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[DDNet, list[float]]:
    """Return a network trained on joints (N, L, V, C), and its accuracy on `held` after each epoch, if given.

    Every epoch each recording is cut to a random stretch of 90 to 100 % of it. The rate falls along a cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        joints, axes = points.shape[2:]
        network = DDNet(joints * (joints - 1) // 2, joints * axes, classes, recipe.filters, recipe.dropout)
        optimiser = torch.optim.Adam(network.parameters(), recipe.rate)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
        targets, found = torch.from_numpy(labels), []
        for _ in range(recipe.epochs):
            inputs = inputs_of(np.stack([_cut(one, rng) for one in points]))
            network.train()
            for some in torch.randperm(len(labels), generator=generator).split(BATCH):
                if len(some) < 2:
                    continue  # batch norm needs two
                optimiser.zero_grad()
                logits = network(Inputs(*(part[some] for part in inputs)))
                F.cross_entropy(logits, targets[some]).backward()
                optimiser.step()
            rate.step()
            if held is not None:
                found.append(float((probabilities(network, held[0]).argmax(1) == held[1]).mean()))
    return network, found


def _cut(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random stretch of (L, V, C), at L moments again."""
    moments = len(points)
    length = rng.uniform(LEAST, 1) * (moments - 1)
    start = rng.uniform(0, moments - 1 - length)
    at = start + np.linspace(0, length, moments)
    before = np.floor(at).astype(int)
    part = (at - before)[:, None, None]
    cut: np.ndarray = points[before] * (1 - part) + points[np.minimum(before + 1, moments - 1)] * part
    return cut


@torch.no_grad()
def probabilities(network: DDNet, points: np.ndarray) -> np.ndarray:
    """Return probabilities (N, K) of joints (N, L, V, C)."""
    network.eval()
    chances: np.ndarray = network(inputs_of(points)).softmax(1).numpy()
    return chances


def chosen_recipe(
    points: np.ndarray, labels: np.ndarray, people: Sequence[str], classes: int, recipes: Sequence[Recipe]
) -> tuple[Recipe, dict[str, float]]:
    """Return the recipe of several that is best on people held out, and the accuracy of each in percent.

    A third of the people is held out, always with seed 0, so that all seeds are trained alike. A recipe's accuracy is
    the mean of its last epochs.
    """
    held = folds(people, FOLDS)[0]
    found = {}
    for recipe in recipes:
        _, course = trained(points[~held], labels[~held], classes, recipe, 0, (points[held], labels[held]))
        found[recipe] = 100 * float(np.mean(course[-SMOOTH:]))
    best = max(recipes, key=lambda recipe: found[recipe])
    return best, {f"{one.epochs} epochs, dropout {one.dropout:g}": value for one, value in found.items()}
