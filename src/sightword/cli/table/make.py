"""Make a table of runs: metrics with intervals, differences to a baseline, and how they came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sightword.cli.table.group import SHOWN, Group, check_alike, differences, make_groups
from sightword.cli.table.run import TableRun, find_runs, finished, read_runs
from sightword.engine.contract import Measure
from sightword.engine.system import closest, system_of
from sightword.errors import SightwordError
from sightword.metrics.bootstrap import DRAWS, Interval, drawn_values, holm, interval_of, share_beyond_zero

LEVEL = 0.05  # of p, after Holm
FEW_CLUSTERS = 20  # below which intervals are said to be too narrow
TOLERANCE = 1e-4  # between a metric and the same computed from items


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


def make_table(
    runs: Sequence[str | Path],
    by: str,
    measures: Sequence[str],
    baseline: str = "",
    out: Path | None = None,
) -> Table:
    """Compare runs: one row for each value of `by`, a mean over seeds with an interval for each of the measures.

    runs: run directories, folders that contain some, or patterns. by: preset, experiment, or any config key; several
    with commas. measures: <split>/<metric>, as test/top1. baseline: the row that others are compared with; or a
    measure: then each row is compared with its own value of that, as test/clip_miou. out: a folder for the files.
    Raises SightwordError, with runs and what differs, for results that cannot be compared.
    """
    found = find_runs(runs)
    done, open_ = finished(found)
    if not done:
        raise SightwordError(f"none of the {len(found)} runs has finished its training. Resume them first")
    read = read_runs(done, _splits(measures))
    groups = make_groups(read, by)
    against = _measure_of(baseline, [group.label for group in groups], measures)
    for split in _splits(measures):
        check_alike(read, split)
    drawn = {measure: _drawn(read, measure) for measure in dict.fromkeys([*measures, *([against] if against else [])])}
    rows = _rows(groups, measures, baseline, against, drawn)
    told = _caption(groups, read, measures, baseline, len(found)), _notes(groups, read, by, measures, baseline, open_)
    table = Table(by, tuple(measures), baseline, rows, *told)
    if out is not None:
        from sightword.cli.table.write import write

        write(table, out)
    return table


def _measure_of(baseline: str, labels: Sequence[str], measures: Sequence[str]) -> str:
    """Return the baseline if it is a measure of the same items and no row, else nothing."""
    if not baseline or baseline in labels:
        return ""
    if "/" not in baseline or _splits([baseline]) != _splits(measures):
        raise SightwordError(
            f"baseline={baseline} is no row{closest(baseline, labels)}; rows are {', '.join(labels)}. A measure of the "
            f"same split can be one, as {_splits(measures)[0]}/…"
        )
    return baseline


def _splits(measures: Sequence[str]) -> list[str]:
    """Raises SightwordError for what is not <split>/<metric>."""
    for measure in measures:
        if measure.count("/") != 1 or measure.startswith("/") or measure.endswith("/"):
            raise SightwordError(f"measure={measure!r} is not <split>/<metric>. Pass for example test/top1")
    if not measures:
        raise SightwordError("measure= is missing. Pass <split>/<metric>, for example test/top1")
    return list(dict.fromkeys(measure.partition("/")[0] for measure in measures))


# ------------------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True)
class _Drawn:
    """A metric of every run, of all items and of each draw of them."""

    measure: Measure
    values: Mapping[Path, float]
    draws: Mapping[Path, np.ndarray]  # (D,)
    is_one: bool  # whether there is one cluster only, so that nothing can be drawn

    def of(self, runs: Sequence[TableRun]) -> tuple[np.ndarray, np.ndarray]:
        """Return values (S,) and draws (S, D)."""
        return np.array([self.values[run.folder] for run in runs]), np.stack([self.draws[run.folder] for run in runs])


def _drawn(runs: Sequence[TableRun], name: str) -> _Drawn:
    split, metric = name.split("/")
    known = system_of(runs[0].config.experiment).measures
    if metric not in known:
        raise SightwordError(
            f"measure={name} is no function of single items{closest(metric, known)}; these are: {', '.join(known)}"
        )
    measure, evaluations = known[metric], [run.evaluations[split] for run in runs]
    metrics = [partial(measure.values, each.items.arrays) for each in evaluations]
    every, values = np.ones((1, len(evaluations[0].items.id))), {}
    for run, evaluation, compute in zip(runs, evaluations, metrics, strict=True):
        value, told = float(compute(every)[0]), evaluation.metrics.get(metric)
        if told is None or not abs(value - told) <= TOLERANCE * max(1.0, abs(told)):
            raise SightwordError(
                f"{evaluation.file} says {metric} {'is not measured' if told is None else f'{told:g}'}, and its items "
                f"give {value:g}. {'Choose another measure' if told is None else 'Evaluate the run again'}"
            )
        values[run.folder] = value
    clusters = evaluations[0].items.cluster
    draws = drawn_values(metrics, clusters)
    folders = [run.folder for run in runs]
    return _Drawn(measure, values, dict(zip(folders, draws, strict=True)), len(set(clusters.tolist())) == 1)


def _rows(
    groups: Sequence[Group], measures: Sequence[str], baseline: str, against: str, drawn: Mapping[str, _Drawn]
) -> tuple[TableRow, ...]:
    cells: dict[str, list[Cell]] = {}
    for name in measures:
        base = next((group for group in groups if group.label == baseline), None)
        pairs = [
            None if not baseline or group is base else _difference(drawn[name], group, base, drawn.get(against))
            for group in groups
        ]
        adjusted = iter(holm([pair.p for pair in pairs if pair is not None]))
        whole = [
            None if pair is None else _judged(pair, next(adjusted), drawn[name].measure.less_is_better)
            for pair in pairs
        ]
        cells[name] = [_cell(drawn[name], group, pair) for group, pair in zip(groups, whole, strict=True)]
    return tuple(
        TableRow(
            group.label,
            tuple(run.folder.as_posix() for run in group.runs.values()),
            {name: cells[name][number] for name in measures},
            _mean_minutes(group),
        )
        for number, group in enumerate(groups)
    )


def _cell(drawn: _Drawn, group: Group, difference: Difference | None) -> Cell:
    values, draws = drawn.of(list(group.runs.values()))
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    seeds = dict(zip(group.runs, values.tolist(), strict=True))
    return Cell(_interval(drawn, values, draws), deviation, seeds, difference)


def _interval(drawn: _Drawn, values: np.ndarray, draws: np.ndarray) -> Interval:
    found = interval_of(values.tolist(), draws)
    return found._replace(low=float("nan"), high=float("nan")) if drawn.is_one else found


def _difference(drawn: _Drawn, group: Group, base: Group | None, other: _Drawn | None) -> Difference:
    """Paired by seed, on the same draws. base: None compares the group with its own other metric."""
    common = [seed for seed in group.runs if base is None or seed in base.runs]
    if not common:
        assert base is not None
        raise SightwordError(
            f"{group.label} and the baseline {base.label} have no seed in common: {list(group.runs)} and "
            f"{list(base.runs)}. Train one of them with the other's seeds"
        )
    values, draws = drawn.of([group.runs[seed] for seed in common])
    from_, beside = (other or drawn).of([(base or group).runs[seed] for seed in common])
    values, draws = values - from_, draws - beside
    p = 1.0 if drawn.is_one else share_beyond_zero(draws)
    return Difference(_interval(drawn, values, draws), p, p, "", dict(zip(common, values.tolist(), strict=True)))


def _judged(pair: Difference, adjusted: float, less_is_better: bool) -> Difference:
    low, high = pair.interval.low, pair.interval.high
    word = "no difference"
    if (low > 0 or high < 0) and adjusted < LEVEL:
        word = "better" if (low > 0) != less_is_better else "worse"
    return Difference(pair.interval, pair.p, adjusted, word, pair.seeds)


def _mean_minutes(group: Group) -> float | None:
    known = [run.minutes for run in group.runs.values() if run.minutes is not None]
    return float(np.mean(known)) if known else None


# -------------------------------------------------------------------------------------------------------------- words


def _caption(
    groups: Sequence[Group], runs: Sequence[TableRun], measures: Sequence[str], baseline: str, tried: int
) -> str:
    """Return how the numbers were made, as one paragraph."""
    sizes = [_size(runs[0], split) for split in _splits(measures)]
    parts = [
        f"Mean over seeds ± standard deviation, [95 % interval] by {DRAWS:,} draws of {' and of '.join(sizes)}, and of "
        "seeds, with replacement, the same draws for all rows (percentiles)."
    ]
    if baseline:
        count = len(groups) - (baseline in [group.label for group in groups])
        parts.append(
            f"Differences to {baseline} are paired by seed and item; p: two-sided, Holm over {count} "
            f"comparison{'s' * (count != 1)}; better and worse: the interval excludes 0 and p < {LEVEL}."
        )
    parts.append(f"Checkpoints: {', '.join(sorted({_choice(run) for run in runs}))}.")
    return " ".join([*parts, f"Tried: {tried} runs of {len(groups)} settings."])


def _size(run: TableRun, split: str) -> str:
    items = run.evaluations[split].items
    count = len(set(items.cluster.tolist()))
    inside = f" with their {len(items.id):,} items" if count != len(items.id) else ""
    return f"{count:,} {items.unit}{inside} of {split}"


def _choice(run: TableRun) -> str:
    trainer, used = run.config.trainer, next(iter(run.evaluations.values())).checkpoint
    return f"best by {trainer.monitor} ({trainer.mode})" if used == "best" and trainer.monitor else used


def _notes(
    groups: Sequence[Group],
    runs: Sequence[TableRun],
    by: str,
    measures: Sequence[str],
    baseline: str,
    open_: Sequence[Path],
) -> tuple[str, ...]:
    """Return what a reader has to know besides: what else differs, which seeds are paired, what was left out."""
    notes = []
    if keys := differences(groups, by):
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        notes.append(f"Besides {by}, rows differ in {', '.join(keys[:SHOWN])}{more}.")
    notes += _unpaired(groups, baseline)
    if any(len(group.runs) == 1 for group in groups):
        notes.append("Rows of one seed: their intervals are over items alone.")
    for split in _splits(measures):
        items = runs[0].evaluations[split].items
        if (count := len(set(items.cluster.tolist()))) < FEW_CLUSTERS:
            notes.append(f"{split} has {count} {items.unit} only: intervals over them are too narrow, or none.")
        if any(_choice(run).startswith(f"best by {split}/") for run in runs):
            notes.append(f"Checkpoints were chosen on {split} itself: its figures are optimistic.")
    if open_:
        named = ", ".join(str(folder) for folder in open_[:4])
        notes.append(f"Left out, as their training has not ended: {named}{' …' if len(open_) > 4 else ''}.")
    return tuple(notes)


def _unpaired(groups: Sequence[Group], baseline: str) -> list[str]:
    """Return a note for each row whose seeds are not those of the baseline."""
    base = next((group for group in groups if group.label == baseline), None)
    notes = []
    for group in groups if base else ():
        assert base is not None
        common, lone = sorted(group.runs.keys() & base.runs.keys()), sorted(group.runs.keys() ^ base.runs.keys())
        if lone:
            notes.append(
                f"{group.label}: the difference is of the seeds {', '.join(map(str, common))} alone; "
                f"{', '.join(map(str, lone))} have no counterpart."
            )
    return notes
