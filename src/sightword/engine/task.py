"""The training objective of a system: computes named losses of a batch.

A system subclasses `Task`, and the loop in `engine/fit.py` trains it. Metrics, tables and figures belong to the
`Evaluator`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.data.loader import BatchT
from sightword.engine.class_name import difference
from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_weights


class Task(nn.Module, Generic[BatchT]):
    """A training objective, Σ weights[name] · losses[name].

    The optional `discriminator` is a second network, trained against the first. It has its own optimiser and its own
    losses. For each batch the loop calls `losses` once, then `discriminator_losses` once.
    """

    weights: dict[str, float | Tensor]  # loss name → weight; 1 for a name that is missing
    discriminator: nn.Module | None
    own_state: tuple[str, ...] = ()  # names in the state dict that describe this training, never taken from another
    added_state: tuple[str, ...] = ()  # names that checkpoints of earlier versions lack: they keep their new values
    classes: tuple[str, ...] = ()  # names of the classes that it tells apart, in the order of its outputs
    class_rows: tuple[str, ...] = ()  # names in the state dict of tensors with a row for each class
    batches: int = 0  # trained before this one; set by the loop, saved in checkpoints

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or {})
        self.discriminator = None  # not on the class, where it would hide the module that a system assigns

    def losses(self, batch: BatchT) -> dict[str, Tensor]:
        """Return the scalar terms of one batch, not yet weighted."""
        raise NotImplementedError

    def discriminator_losses(self, batch: BatchT) -> dict[str, Tensor]:
        """Return the discriminator's scalar terms, not yet weighted, for the batch last given to `losses`."""
        raise NotImplementedError

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of raw terms."""
        return sum((self.weights.get(name, 1.0) * term for name, term in losses.items()), start=torch.zeros(()))

    def stats(self) -> dict[str, float]:
        """Return diagnostics of the last batch; logged, never trained."""
        return {}

    def check_weights(self, weights: Mapping[str, Tensor], resumed: bool) -> None:
        """Raise SightwordError if a checkpoint does not fit, beyond what its names and shapes show.

        resumed: whether training continues from it. Called before names and shapes are compared, and before anything
        is written to the run directory.
        """

    def check_classes(self, classes: Sequence[str], source: str, resumed: bool) -> None:
        """Raise SightwordError if the weights of a checkpoint are of other classes, or of the same in another order.

        classes: those of the checkpoint; empty if it does not say. Weights without rows of classes may be evaluated on
        others, and are not trained further.
        """
        if not classes or tuple(classes) == self.classes or not (resumed or self.class_rows):
            return
        told = difference(classes, self.classes) or "they are the same in another order"
        raise SightwordError(
            f"{source} was trained with other classes than the config names: {told}. Leave them as they were"
        )

    def published(self, file: Path) -> dict[str, Tensor]:
        """Return the weights in a published file by the names of this task, for `init_from=`.

        A system overrides this for the files of other projects. Here the names are the task's own.
        """
        return read_weights(file)

    def parameter_groups(self) -> dict[str, list[Parameter]]:
        """Return the named parameter groups of the main optimiser; `optim.lr_scale` gives each a factor.

        Together they contain each trainable parameter once, without those of the discriminator (the loop checks this).
        """
        other = set(self.discriminator.parameters()) if self.discriminator is not None else set()
        return {"model": [p for p in self.parameters() if p.requires_grad and p not in other]}
