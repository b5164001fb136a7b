"""A frozen network that a run uses and does not train: opened when it is first needed, and in no checkpoint."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


class FrozenModel(Generic[ModelT]):
    """Opens a network once, in eval mode and without gradients. It is not an `nn.Module`, so no `train()`, optimiser or
    checkpoint of what holds it ever reaches the network."""

    def __init__(self, opener: Callable[[], ModelT]) -> None:
        """opener: loads the network, and raises SightwordError where it does not fit its user."""
        self._opener = opener
        self._model: ModelT | None = None

    def on(self, device: torch.device | str | None = None) -> ModelT:
        """Return the network, moved to a device if one is given."""
        if self._model is None:
            self._model = self._opener().eval().requires_grad_(False)
        return self._model if device is None else self._model.to(device)
