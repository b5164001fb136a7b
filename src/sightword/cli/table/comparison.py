"""A table as values: rows of groups, with a metric's mean, interval and difference to the baseline in each cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightword.errors import SightwordError
from sightword.metrics.bootstrap import Interval


@dataclass(frozen=True)
class Difference:
    """A row's metric less the baseline's, over the seeds that both have."""

    interval: Interval
    p: float  # two-sided, of the bootstrap
    adjusted: float  # by Holm, over the rows of this metric
    word: str  # better | worse | no difference
    seeds: Mapping[int, float]


@dataclass(frozen=True)
class Cell:
    """A metric of a row."""

    interval: Interval  # the mean over seeds
    deviation: float  # standard deviation over seeds, of n − 1; NaN of one
    seeds: Mapping[int, float]
    difference: Difference | None = None  # None for the baseline, or without one


@dataclass(frozen=True)
class TableRow:
    """A group of runs."""

    label: str
    runs: tuple[str, ...]
    cells: Mapping[str, Cell]  # by metric
    minutes: float | None  # of training a run, the mean


@dataclass(frozen=True)
class Table:
    """Groups of runs, compared."""

    by: str
    measures: tuple[str, ...]
    baseline: str  # a row's label, or a metric of the rows' own
    rows: tuple[TableRow, ...]
    caption: str  # how the numbers were made
    notes: tuple[str, ...]


def splits_of(measures: Sequence[str]) -> list[str]:
    """Raises SightwordError for what is not <split>/<metric>."""
    for measure in measures:
        if measure.count("/") != 1 or measure.startswith("/") or measure.endswith("/"):
            raise SightwordError(f"measure={measure!r} is not <split>/<metric>. Pass for example test/top1")
    if not measures:
        raise SightwordError("measure= is missing. Pass <split>/<metric>, for example test/top1")
    return list(dict.fromkeys(measure.partition("/")[0] for measure in measures))
