"""The objective of a system: a batch in, named losses out.

A system subclasses `Task`; the loop in `engine/fit.py` is given one and asks nothing else of it. Metrics, tables and
figures are the `Evaluator`'s.
"""

from collections.abc import Mapping
from typing import Generic

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.data.loader import BatchT


class Task(nn.Module, Generic[BatchT]):
    """One objective. The total that is trained is Σ weights[name] · losses[name]; all of `losses` is trained.

    A second network that is trained against the first is the `discriminator`. It has its own optimiser and its own
    losses; the loop calls `losses` first and `discriminator_losses` after, once a batch each.
    """

    weights: dict[str, float | Tensor]  # loss name → weight; a name that is missing weighs 1
    discriminator: nn.Module | None
    batches: int = 0  # how many batches were trained before this one; the loop keeps it, checkpoints hold it

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or {})
        self.discriminator = None  # not on the class, where it would hide the module that a system assigns

    def losses(self, batch: BatchT) -> dict[str, Tensor]:
        """Return the raw scalar terms of one batch."""
        raise NotImplementedError

    def discriminator_losses(self, batch: BatchT) -> dict[str, Tensor]:
        """Return the raw scalar terms for the discriminator, of the batch that `losses` was given last."""
        raise NotImplementedError

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of raw terms."""
        return sum((self.weights.get(name, 1.0) * term for name, term in losses.items()), start=torch.zeros(()))

    def stats(self) -> dict[str, float]:
        """Return diagnostics of the last batch; logged, never trained."""
        return {}

    def check_weights(self, weights: Mapping[str, Tensor], resumed: bool) -> None:
        """Raise SightwordError if a checkpoint does not fit in a way that names and shapes do not explain.

        resumed: whether it is to be trained further, not only measured. Called before names and shapes are compared,
        and before a run is touched.
        """

    def parameter_groups(self) -> dict[str, list[Parameter]]:
        """Return the named parameter groups of the main optimiser; `optim.lr_scale` gives each a factor.

        Together they hold every trainable parameter that is not the discriminator's, each once (the loop checks).
        """
        other = set(self.discriminator.parameters()) if self.discriminator is not None else set()
        return {"model": [p for p in self.parameters() if p.requires_grad and p not in other]}
