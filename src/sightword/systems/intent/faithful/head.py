"""A small head, fitted in memory: so that words, random words and features without words are judged by one rule.

Legend: M images; F features; C intents.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sightword.metrics.multilabel import best_threshold, f1
from sightword.systems.intent.loss import asymmetric_loss

STEPS, CHECK = 240, 20  # of the full batch; how often validation looks
RATES = (0.02, 0.1)
FLOOR = 0.1  # of a standard deviation: a feature that is nearly constant is not blown up


class Labelled(NamedTuple):
    """Features and labels of a split."""

    x: Tensor  # (M, F)
    y: Tensor  # (M, C) bool


class Head(NamedTuple):
    """A fitted head, with the threshold that validation chose."""

    network: nn.Module
    threshold: float
    validation: float  # macro F1

    @torch.no_grad()
    def score(self, data: Labelled) -> float:
        """Return the macro F1 in [0, 1]."""
        return macro_f1(self.network(data.x), data.y, self.threshold)


def macro_f1(logits: Tensor, targets: Tensor, threshold: float) -> float:
    """Return the macro F1 in [0, 1]. logits, targets: (M, C)."""
    return float(f1(logits.sigmoid().double() > threshold, targets))


def fit_head(train: Labelled, val: Labelled, hidden: int = 0, seed: int = 0) -> Head:
    """Return the head with the best macro F1 on validation, over steps and two learning rates.

    Linear, or with one hidden layer; the asymmetric loss; AdamW on the full batch. Features are standardised with the
    means of training, standard deviations from `FLOOR` times the mean one on.
    """
    return max((_fit(train, val, hidden, seed, rate) for rate in RATES), key=lambda head: head.validation)


def _fit(train: Labelled, val: Labelled, hidden: int, seed: int, rate: float) -> Head:
    mean, std = train.x.mean(0), train.x.std(0)
    scale = std.clamp_min(float(FLOOR * std.mean()) or 1.0)
    network = nn.Sequential(_Standardise(mean, scale), *_layers(train.x.shape[1], train.y.shape[1], hidden, seed))
    optimiser = torch.optim.AdamW(network.parameters(), rate if not hidden else rate / 10, weight_decay=1e-4)
    best, targets = Head(network, 0.5, -1.0), train.y.float()
    kept: dict[str, Tensor] = {}
    with torch.enable_grad():
        for step in range(1, STEPS + 1):
            optimiser.zero_grad()
            asymmetric_loss(network(train.x), targets).backward()
            optimiser.step()
            if step % CHECK == 0:
                with torch.no_grad():
                    logits = network(val.x)
                threshold = best_threshold(logits.sigmoid(), val.y)
                if (found := macro_f1(logits, val.y, threshold)) > best.validation:
                    best = Head(network, threshold, found)
                    kept = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(kept)
    return best


class _Standardise(nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def _layers(inputs: int, outputs: int, hidden: int, seed: int) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hidden:
            return [nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs)]
        layer = nn.Linear(inputs, outputs)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return [layer]
