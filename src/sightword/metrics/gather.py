"""Sums, means and rows over batches and over ranks.

`reduce()` returns a new accumulator over all ranks and leaves the old one as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed


class Rows(Protocol):
    """A NamedTuple whose fields are CPU tensors with equally many rows, `number` (N,) among them."""

    def _asdict(self) -> Mapping[str, Tensor]:
        """Return the fields by name."""


RowsT = TypeVar("RowsT", bound=Rows)
RankT = TypeVar("RankT")


class Mean:
    """Running mean of per-image values over batches and ranks, in float64, on the device of the values."""

    def __init__(self) -> None:
        self.sum = torch.zeros(2, dtype=torch.float64)  # (sum of the values, their number)

    def update(self, values: Tensor) -> None:
        """Add values of any shape; each counts equally."""
        values = values.detach().double()
        number = torch.full((), values.numel(), dtype=torch.float64, device=values.device)
        self.sum = self.sum.to(values.device) + torch.stack([values.sum(), number])

    def value(self) -> Tensor:
        """Return the mean, a scalar float64; NaN before the first update."""
        return self.sum[0] / self.sum[1]

    def reduce(self) -> "Mean":
        """Return a new Mean over the values of all ranks (a collective: call it on every rank)."""
        total = Mean()
        total.sum = over_ranks(self.sum)
        return total


class ItemRows:
    """Values of named items, over batches and ranks; on the CPU."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._values: dict[str, list[np.ndarray]] = {}

    def update(self, names: Sequence[str], **values: Tensor) -> None:
        """Add items. values: (B, …) for B names; each call gives the same ones."""
        self.names += names
        for name, each in values.items():
            if len(each) != len(names):
                raise ValueError(f"{name} has {len(each)} rows for {len(names)} items")
            self._values.setdefault(name, []).append(each.detach().cpu().numpy().copy())  # the loader's memory

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the values, name → (N, …)."""
        return {name: np.concatenate(parts) for name, parts in self._values.items()}

    def reduce(self) -> "ItemRows":
        """Return the items of all ranks, rank by rank (a collective: call it on every rank)."""
        total = ItemRows()
        for names, arrays in _of_ranks((self.names, self.arrays)):
            total.names += names
            for name, each in arrays.items():
                total._values.setdefault(name, []).append(each)
        return total


def _of_ranks(mine: RankT) -> list[RankT]:
    """Return what each rank has (a collective)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    ranks: list[RankT] = [mine] * distributed.get_world_size()
    distributed.all_gather_object(ranks, mine)
    return ranks


def over_ranks(values: Tensor) -> Tensor:
    """Return the sum over all ranks, on the device of `values`; a copy if there is no process group."""
    total = values.clone()
    if distributed.is_available() and distributed.is_initialized():
        if distributed.get_backend() == "nccl" and not total.is_cuda:  # a rank that has counted nothing yet
            total = total.cuda()
        distributed.all_reduce(total)
    return total.to(values.device)


def gathered(kind: Callable[..., RowsT], parts: Sequence[RowsT]) -> RowsT | None:
    """Return the rows of all ranks (a collective) as one `kind`, in the order of their field `number`.

    kind: the NamedTuple class of the parts, see `Rows`. A rank may have no parts; if none has any, returns None.
    """
    rows = [part._asdict() for part in parts]
    if distributed.is_available() and distributed.is_initialized():
        ranks: list[list[dict[str, np.ndarray]] | None] = [None] * distributed.get_world_size()
        distributed.all_gather_object(ranks, [{k: v.numpy() for k, v in row.items()} for row in rows])
        rows = [{k: torch.from_numpy(v) for k, v in row.items()} for rank in ranks for row in rank or ()]
    if not rows:
        return None
    whole = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    order = whole["number"].argsort(stable=True)
    return kind(**{name: values[order] for name, values in whole.items()})
