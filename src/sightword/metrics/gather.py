"""Sums, means and rows over batches and over ranks.

An accumulator's `reduce()` returns a new one over all ranks and leaves the old one counting its own.
"""

from typing import Any

import torch
from torch import Tensor, distributed


class Mean:
    """The mean of per-image values over batches and ranks, in float64, on their device."""

    def __init__(self) -> None:
        self.sum = torch.zeros(2, dtype=torch.float64)  # (sum of the values, their number)

    def update(self, values: Tensor) -> None:
        """values: any shape, each counts alike."""
        values = values.detach().double()
        number = torch.full((), values.numel(), dtype=torch.float64, device=values.device)
        self.sum = self.sum.to(values.device) + torch.stack([values.sum(), number])

    def value(self) -> Tensor:
        """Scalar float64; NaN before the first update."""
        return self.sum[0] / self.sum[1]

    def reduce(self) -> "Mean":
        """A new Mean over the values of all ranks (a collective: call it on every one)."""
        total = Mean()
        total.sum = over_ranks(self.sum)
        return total


def over_ranks(values: Tensor) -> Tensor:
    """The sum over the ranks there are now, on the device of `values`; a copy when there is no process group."""
    total = values.clone()
    if distributed.is_available() and distributed.is_initialized():
        if distributed.get_backend() == "nccl" and not total.is_cuda:  # a rank that has counted nothing yet
            total = total.cuda()
        distributed.all_reduce(total)
    return total.to(values.device)


def gathered(kind: type[Any], parts: list[Any]) -> Any:
    """Rows of all ranks (a collective) as one: in the order of their field `number`; None if there is not one row.

    kind: of the parts, a NamedTuple whose fields are tensors on the CPU with as many rows, `number` (N,) among them.
    A rank may have none.
    """
    rows = [part._asdict() for part in parts]
    if distributed.is_available() and distributed.is_initialized():
        ranks: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(ranks, [{k: v.numpy() for k, v in row.items()} for row in rows])
        rows = [{k: torch.from_numpy(v) for k, v in row.items()} for rank in ranks for row in rank]
    if not rows:
        return None
    whole = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    order = whole["number"].argsort(stable=True)
    return kind(**{name: values[order] for name, values in whole.items()})
