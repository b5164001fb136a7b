"""Runs in groups that differ in the seed alone, and what must be alike for groups to stand in one table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sightword.cli.table.run import DATA, TableRun
from sightword.engine.system import closest, presets, system_of
from sightword.errors import SightwordError


@dataclass(frozen=True)
class Group:
    """Runs of one setting, by seed."""

    label: str
    runs: Mapping[int, TableRun]  # by seed, in order

    @property
    def first(self) -> TableRun:
        return next(iter(self.runs.values()))


def make_groups(runs: Sequence[TableRun], by: str) -> list[Group]:
    """Return groups by the value of one or more config keys, with commas. Raises SightwordError for what is mixed up.

    Presets stand in the order of their file, others in the order of their labels.
    """
    keys = _keys(runs, by)
    labelled: dict[str, list[TableRun]] = {}
    for run in runs:
        labelled.setdefault(" · ".join(_label(run, key) for key in keys), []).append(run)
    groups = [Group(label, _by_seed(label, own, by)) for label, own in labelled.items()]
    rows = [name for each in presets().values() for name in each] if keys == ["preset"] else []
    return sorted(groups, key=lambda one: (rows.index(one.label) if one.label in rows else len(rows), _natural(one)))


def _keys(runs: Sequence[TableRun], by: str) -> list[str]:
    keys, known = [key.strip() for key in by.split(",") if key.strip()], {key for run in runs for key in run.values}
    if not keys or "seed" in keys:
        raise SightwordError(f"by={by!r} is not what groups differ in. Pass preset, experiment or another config key")
    if wrong := next((key for key in keys if key not in known), None):
        raise SightwordError(f"by={by}: no run's config has the key {wrong!r}{closest(wrong, known)}")
    return keys


def _label(run: TableRun, key: str) -> str:
    value = run.values.get(key)
    if key == "preset" and not value:
        return run.config.experiment
    return shown(value)


def shown(value: object) -> str:
    """Return a config's value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return "(none)" if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)


def _natural(group: Group) -> list[tuple[bool, float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", group.label)
    return [(not part[:1].isdigit(), float(part) if part[:1].isdigit() else 0.0, part) for part in parts if part]


def _by_seed(label: str, runs: Sequence[TableRun], by: str) -> dict[int, TableRun]:
    """Raises SightwordError if two runs have one seed, or differ in more than that."""
    found: dict[int, TableRun] = {}
    for run in sorted(runs, key=lambda one: (one.seed, str(one.folder))):
        if differing := different_keys(runs[0], run):
            raise SightwordError(_mixed(label, by, runs[0], run, differing))
        if run.seed in found:
            raise SightwordError(
                f"{found[run.seed].folder} and {run.folder} are both {by}={label} with seed={run.seed}. Remove one "
                "from runs="
            )
        found[run.seed] = run
    return found


def _mixed(label: str, by: str, one: TableRun, other: TableRun, keys: Sequence[str]) -> str:
    if DATA in keys:
        return (
            f"{one.folder} and {other.folder} are both {by}={label}, and have other items to train on or to validate. "
            "Give every seed the same split: for images of one folder, set data.val_root"
        )
    values = ", ".join(
        f"{key} ({shown(one.settings.get(key))} and {shown(other.settings.get(key))})" for key in keys[:4]
    )
    more = f" and {len(keys) - 4} more keys" if len(keys) > 4 else ""
    return (
        f"{one.folder} and {other.folder} are both {by}={label} and differ in {values}{more}. Pass "
        f"by={','.join([by, *keys[:2]])}, or remove some from runs="
    )


def different_keys(one: TableRun, other: TableRun) -> list[str]:
    """Return the settings in which two runs differ."""
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [key for key in keys if one.settings.get(key) != other.settings.get(key)]


def differences(groups: Sequence[Group], by: str) -> list[str]:
    """Return the settings in which groups differ, besides those that they are made by."""
    chosen = {key.strip() for key in by.split(",")} | ({"experiment"} if "preset" in by else set())
    keys = {key: None for group in groups[1:] for key in different_keys(groups[0].first, group.first)}
    return [key for key in keys if key not in chosen]


# --------------------------------------------------------------------------------------------- what must be alike


def check_alike(runs: Sequence[TableRun], split: str) -> None:
    """Raise SightwordError, with two runs and what differs, unless all were evaluated on the same items, alike."""
    first = runs[0]
    for run in runs[1:]:
        pair = f"{first.folder} and {run.folder}"
        if system_of(run.config.experiment) is not system_of(first.config.experiment):
            raise SightwordError(f"{pair} are of different systems. A table has runs of one")
        if what := _unlike(first, run, split):
            raise SightwordError(f"{pair} cannot stand in one table of {split}: {what}")


def _unlike(one: TableRun, other: TableRun, split: str) -> str:
    """Return in what two evaluations differ that must not; nothing if they are alike."""
    a, b = one.evaluations[split], other.evaluations[split]
    if not np.array_equal(a.items.id, b.items.id):
        lone = np.setxor1d(a.items.id, b.items.id)
        return f"they have {len(a.items.id)} and {len(b.items.id)} items, and {len(lone)} are not in both, as {lone[0]}"
    if not np.array_equal(a.items.cluster, b.items.cluster):
        return f"the same items are in other {a.items.unit}"
    if a.overrides != b.overrides:
        return f"evaluate had the overrides {list(a.overrides)} and {list(b.overrides)}. Evaluate them alike"
    if a.data_digest != b.data_digest:
        return "images, recordings or labels changed between the evaluations. Evaluate both again"
    if (a.checkpoint in ("best", "last")) and a.checkpoint != b.checkpoint:
        return f"checkpoint={a.checkpoint} and checkpoint={b.checkpoint} were evaluated. Evaluate them alike"
    for topic in system_of(one.config.experiment).alike:
        if a.protocol.get(topic) != b.protocol.get(topic):
            return f"unlike protocols, {topic}: {a.protocol.get(topic)!r} and {b.protocol.get(topic)!r}"
    raw = [key for key in {*one.values, *other.values} if key.startswith("data.") and key != "data.num_workers"]
    if one.settings.get(DATA) != other.settings.get(DATA) and all(
        one.values.get(k) == other.values.get(k) for k in raw
    ):
        return "they were trained on different items, though data.* of their configs are equal: the data changed"
    return ""
