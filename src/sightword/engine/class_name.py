"""Classes are matched by name: columns of labels in a file, and rows of weights from another run.

Legend: C classes of a model.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.engine.system import closest
from sightword.errors import SightwordError

SHOWN = 3  # names in a message


def columns_of(classes: Sequence[str], found: Sequence[str], source: str) -> list[int]:
    """Return for each of a model's C classes its column among the classes that a file names.

    source: the file, for the message. Raises SightwordError, with the nearest class of the model, unless the file
    names the same classes, in whatever order.
    """
    if told := difference(classes, found):
        raise SightwordError(f"{source}: {told}. Rename the classes in the file, or train another run on such data")
    column = {name: number for number, name in enumerate(found)}
    return [column[name] for name in classes]


def difference(classes: Sequence[str], found: Sequence[str]) -> str:
    """Return how the classes that a file names differ from a model's, apart from their order; "" if they do not."""
    unknown = [name for name in found if name not in set(classes)]
    lacking = [name for name in classes if name not in set(found)]
    parts = []
    if unknown:
        told = [f"{name!r}{closest(name, lacking or classes)}" for name in unknown]
        verb = "is" if len(told) == 1 else "are"
        parts.append(f"{_few(told)} {verb} none of the {len(classes)} classes of the model")
    if lacking:
        parts.append(f"{_few(map(repr, lacking))} {'is' if len(lacking) == 1 else 'are'} missing")
    return ", and ".join(parts)


class NamedRows(NamedTuple):
    """Weights of another run, the rows of classes put in the order of a task's."""

    weights: dict[str, Tensor]
    partial: dict[str, Tensor]  # of other classes: the task's own tensor, with the rows of the classes that both have
    shared: dict[str, str]  # name of such a tensor → how many classes both have
    note: str  # what was done with the others, if that has to be said


def rows_by_name(
    weights: Mapping[str, Tensor], classes: Sequence[str], own: Mapping[str, Tensor], named: Sequence[str]
) -> NamedRows:
    """Return weights whose rows are those of the classes `named`, in that order.

    weights, classes: of the other run, `classes` empty if it does not say. own: the tensors of the task that have a
    row for each of its classes, by name.
    """
    given, rows = dict(weights), [name for name in own if name in weights]
    if not rows or list(classes) == list(named):
        return NamedRows(given, {}, {}, "")
    listed = ", ".join(rows)
    if not classes:
        return NamedRows(given, {}, {}, f"it does not name its classes: rows of {listed} are taken in their order")
    place = {name: number for number, name in enumerate(classes)}
    if place.keys() == set(named):
        order = torch.tensor([place[name] for name in named])
        given |= {name: given[name][order.to(given[name].device)] for name in rows}
        return NamedRows(given, {}, {}, f"rows of {listed} are matched by the names of the classes")
    both = [name for name in named if name in place]
    here, there = torch.tensor([named.index(name) for name in both]), torch.tensor([place[name] for name in both])
    partial = {name: _mixed(own[name], given.pop(name), here.long(), there.long()) for name in rows}
    told = f"{len(both)} of {len(named)} classes are among the {len(classes)} there"
    return NamedRows(given, partial, dict.fromkeys(rows, told), "")


def _mixed(own: Tensor, other: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """The task's tensor, with the other's rows `there` in the rows `here`."""
    if own.shape[1:] != other.shape[1:]:
        return own
    mixed = own.detach().clone()
    mixed[here.to(own.device)] = other.to(mixed)[there.to(own.device)]
    return mixed


def _few(names: Iterable[str]) -> str:
    each = list(names)
    more = f" and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
    return ", ".join(each[:SHOWN]) + more
