"""Make a table of runs: metrics with intervals, differences to a baseline, and how they came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sightword.cli.table.comparison import Cell, Difference, Table, TableRow, splits_of
from sightword.cli.table.group import Group, check_alike, make_groups
from sightword.cli.table.note import LEVEL, caption_of, notes_of
from sightword.cli.table.run import TableRun, find_runs, finished, read_runs
from sightword.engine.contract import Measure
from sightword.engine.system import closest, system_of
from sightword.errors import SightwordError
from sightword.metrics.bootstrap import Interval, drawn_values, holm, interval_of, share_beyond_zero

TOLERANCE = 1e-4  # between a metric and the same computed from items


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
    read = read_runs(done, splits_of(measures))
    groups = make_groups(read, by)
    against = _measure_of(baseline, [group.label for group in groups], measures)
    for split in splits_of(measures):
        check_alike(read, split)
    drawn = {measure: _drawn(read, measure) for measure in dict.fromkeys([*measures, *([against] if against else [])])}
    rows = _rows(groups, measures, baseline, against, drawn)
    told = (
        caption_of(groups, read, measures, baseline, len(found)),
        notes_of(groups, read, by, measures, baseline, open_),
    )
    table = Table(by, tuple(measures), baseline, rows, *told)
    if out is not None:
        from sightword.cli.table.write import write

        write(table, out)
    return table


def _measure_of(baseline: str, labels: Sequence[str], measures: Sequence[str]) -> str:
    """Return the baseline if it is a measure of the same items and no row, else nothing."""
    if not baseline or baseline in labels:
        return ""
    if "/" not in baseline or splits_of([baseline]) != splits_of(measures):
        raise SightwordError(
            f"baseline={baseline} is no row{closest(baseline, labels)}; rows are {', '.join(labels)}. A measure of the "
            f"same split can be one, as {splits_of(measures)[0]}/…"
        )
    return baseline


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
