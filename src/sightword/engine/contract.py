"""What the training loop knows of a system: a batch goes in, named losses come out.

A system subclasses `Task`; the loop in `fit.py` is handed one and asks nothing else of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import Parameter

#: What a run did with a split, for its protocol.
SPLITS = {
    "train": "train: the run was trained on it",
    "val": "val: never trained on; best.ckpt was chosen on it",
    "test": "test: never trained on, and nothing was chosen on it",
}


class Task(nn.Module):
    """One objective. The total that is trained is Σ weights[name] · losses[name]; all of `losses` is trained.

    A second network that is trained against the first (a discriminator) is the `discriminator`: it has its own optimiser
    and its own losses, and the loop calls `losses` first and `discriminator_losses` after, once a batch each.
    """

    weights: dict[str, float | Tensor]  # loss name → weight; a name that is missing weighs 1
    discriminator: nn.Module | None
    batches: int = 0  # how many batches were trained before this one; the loop keeps it, checkpoints hold it

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or {})
        self.discriminator = None  # not on the class, where it would hide the module that a system assigns

    def reads(self) -> dict[str, Any]:
        """What its system's `make_loaders` must know of it besides the config: a tokenizer, a patch size."""
        return {}

    def check_weights(self, weights: Mapping[str, Any], goes_on: bool) -> None:
        """ValueError, one line, where a checkpoint is of something else in a way that names and shapes do not explain.

        goes_on: it is to be trained on, not measured. Asked before they are compared, and before a run is touched.
        """

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Raw scalar terms of one batch."""
        raise NotImplementedError

    def discriminator_losses(self, batch: Any) -> dict[str, Tensor]:
        """Raw scalar terms for the discriminator, of the batch that `losses` saw last."""
        raise NotImplementedError

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of raw terms."""
        return sum((self.weights.get(name, 1.0) * term for name, term in losses.items()), start=torch.zeros(()))

    def stats(self) -> dict[str, float]:
        """Diagnostics of the last batch; logged, never trained."""
        return {}

    def evaluate(self, batch: Any) -> None:
        """Gather what `measures` needs from one validation batch."""

    def measures(self) -> dict[str, float]:
        """The metrics of everything gathered since the last call, summed over ranks; forgets it.

        Computes from what was gathered and runs no network. A buffer it writes is saved with the weights measured.
        """
        return {}

    def protocol(self) -> dict[str, Any]:
        """How the measures are taken, in words and numbers that let another program take them again.

        Under "measures" there may be a word on each, which is printed beside its number.
        """
        return {}

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """What the last `measures` were made of, row by row: name → rows of the same columns, plain values."""
        return {}

    def draw(self, loader: Any, folder: Path) -> list[Path]:
        """Write pictures of what was last measured, the loader's data, into a folder; which files. For `evaluate`."""
        return []

    def pictures(self, batch: Any) -> dict[str, Image]:
        """What a person would rather look at than numbers."""
        return {}

    def export(self, folder: Path) -> None:
        """Write what inference needs, and nothing else."""
        raise NotImplementedError

    def roles(self) -> dict[str, list[Parameter]]:
        """Named parameter groups of the main optimiser; the config gives each a learning-rate factor.

        Together they hold every trainable parameter that is not the discriminator's, each once (the loop checks).
        """
        discriminator = set(self.discriminator.parameters()) if self.discriminator is not None else set()
        return {"model": [p for p in self.parameters() if p.requires_grad and p not in discriminator]}
