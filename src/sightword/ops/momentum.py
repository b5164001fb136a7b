"""Momentum encoder and feature queue: contrastive learning with negatives from earlier batches (MoCo, ALBEF).

    copy ← decay · copy + (1 − decay) · trained;  its vectors of a batch go into the queue, and the oldest leave

He et al. 2020 (MoCo, arXiv 1911.05722); Li et al. 2021 (ALBEF, arXiv 2107.07651), whose numbers are the defaults.

Legend: N rows; K places of the queue; D width.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sightword.errors import SightwordError

EMPTY = -100  # the id of a place that nothing was written to yet


class Queue(nn.Module):
    """The last K vectors and their ids, first in, first out; part of a checkpoint."""

    vectors: Tensor  # (K, D) float32
    ids: Tensor  # (K,) int64, EMPTY where nothing was written yet
    place: Tensor  # () int64, where the next row goes

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1:
            raise SightwordError(f"a queue has one place or more; got {size}")
        self.register_buffer("vectors", torch.zeros(size, width))
        self.register_buffer("ids", torch.full((size,), EMPTY))
        self.register_buffer("place", torch.tensor(0))

    def __len__(self) -> int:
        return len(self.ids)

    @torch.no_grad()
    def write(self, vectors: Tensor, ids: Tensor) -> None:
        """Vectors (N, D) and their ids (N,) in the place of the oldest; N may be anything, of too many the last stay.

        Ranks that are to hold the same queue write the same rows: what `align.gather` gave.
        """
        size = len(self)
        vectors, ids = vectors[-size:], ids[-size:]
        places = (self.place + torch.arange(len(ids), device=self.ids.device)) % size
        self.vectors[places] = vectors.to(self.vectors)
        self.ids[places] = ids.to(self.ids)
        self.place.copy_((self.place + len(ids)) % size)

    def empty(self) -> Tensor:
        """(K,) bool, the places to leave out of a softmax."""
        return self.ids == EMPTY


class EMAModel(nn.Module):
    """A copy of a module whose parameters and float buffers are exponential moving averages of the module's.

    Buffers are averaged as well (a batch norm's mean and variance belong to the weights that they were counted for),
    integers are copied. The copy is always in eval mode and has no gradients.

        copy ← d · copy + (1 − d) · trained,  d = min(decay, (1 + n) / (10 + n)) at step n

    so that the copy of a short run is no average with its beginning; 0.995 is reached after 1,791 steps. `shared`:
    children that are frozen and need no copy; the EMA copy uses the original's.
    """

    steps: Tensor  # () float32, n

    def __init__(self, module: nn.Module, decay: float = 0.995, shared: Sequence[str] = ()) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise SightwordError(f"the decay of an average is in [0, 1); got {decay}")
        children = {name: getattr(module, name) for name in shared}
        self.module = copy.deepcopy(module, {id(child): child for child in children.values()})
        for name, child in children.items():
            del self.module._modules[name]  # it is the original's to save, to train and to move
            self.module.__dict__[name] = child
        self.decay = decay
        self.register_buffer("steps", torch.tensor(0.0))
        self.module.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move one step towards the module that this is the EMA copy of."""
        theirs: dict[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())
        own: dict[str, Tensor] = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        part = 1 - ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)  # a tensor: no GPU is waited for
        for name, value in own.items():
            if value.is_floating_point():
                value.lerp_(theirs[name].to(value), part.to(value))
            else:
                value.copy_(theirs[name])
        self.steps += 1

    def train(self, mode: bool = True) -> Self:
        """Eval mode, whatever a parent is in."""
        return super().train(False)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.module(*args, **kwargs)
