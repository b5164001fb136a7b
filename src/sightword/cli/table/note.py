"""What a table says about itself: how its numbers were made, and what a reader has to know besides."""

from collections.abc import Sequence
from pathlib import Path

from sightword.cli.table.comparison import splits_of
from sightword.cli.table.group import Group, differences
from sightword.cli.table.run import TableRun
from sightword.metrics.bootstrap import DRAWS

LEVEL = 0.05  # of p, after Holm
FEW_CLUSTERS = 20  # below which intervals are said to be too narrow
SHOWN = 12  # keys that a note lists


def caption_of(
    groups: Sequence[Group], runs: Sequence[TableRun], measures: Sequence[str], baseline: str, tried: int
) -> str:
    """Return how the numbers were made, as one paragraph."""
    drawn = [_size(runs[0], split) for split in splits_of(measures) if _clusters(runs[0], split) > 1]
    of = " and of ".join([*drawn, "seeds"])
    parts = [
        f"Mean over seeds ± standard deviation, [95 % interval] by {DRAWS:,} draws of {of}, "
        "with replacement, the same draws for all rows (percentiles, over seeds as wide as Student's t)."
    ]
    if baseline:
        count = len(groups) - (baseline in [group.label for group in groups])
        parts.append(
            f"Differences to {baseline} are paired by seed and item; p: two-sided, Holm over {count} "
            f"comparison{'s' * (count != 1)}; better and worse: the interval excludes 0 and p < {LEVEL}."
        )
    parts.append(f"Checkpoints: {', '.join(sorted({_choice(run) for run in runs}))}.")
    told = f"{tried} run{'s' * (tried != 1)} of {len(groups)} setting{'s' * (len(groups) != 1)}"
    return " ".join([*parts, f"Tried: {told}."])


def _clusters(run: TableRun, split: str) -> int:
    return len(set(run.evaluations[split].items.cluster.tolist()))


def _size(run: TableRun, split: str) -> str:
    items, count = run.evaluations[split].items, _clusters(run, split)
    inside = f" with their {len(items.id):,} items" if count != len(items.id) else ""
    return f"{count:,} {items.unit}{inside} of {split}"


def _choice(run: TableRun) -> str:
    trainer, used = run.config.trainer, next(iter(run.evaluations.values())).checkpoint
    return f"best by {trainer.monitor} ({trainer.mode})" if used == "best" and trainer.monitor else used


def notes_of(
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
        alone = any(_clusters(runs[0], split) > 1 for split in splits_of(measures))
        notes.append(f"Rows of one seed: {'their intervals are over items alone' if alone else 'no interval'}.")
    for split in splits_of(measures):
        unit, count = runs[0].evaluations[split].items.unit, _clusters(runs[0], split)
        if count == 1:
            notes.append(f"{split} has one of the {unit} alone: intervals are over seeds, there is no verdict.")
        elif count < FEW_CLUSTERS:
            notes.append(f"{split} has {count} {unit} only: intervals over them are too narrow.")
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
