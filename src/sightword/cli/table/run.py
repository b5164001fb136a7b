"""The runs of a table: found on disk, each with its config, its data and its evaluations."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightword.engine.argument import expanded
from sightword.engine.config import Run
from sightword.engine.evaluation import Evaluation, evaluate_command, read_evaluation
from sightword.engine.run import read_config
from sightword.engine.split import digest_of_items, read_record
from sightword.engine.system import system_of
from sightword.errors import SightwordError
from sightword.storage.reader import read_json

DEEPEST = 6  # folders between the one that is given and a run's
CHAIN = 4  # runs that were started from each other
DATA = "data"  # the key of the items that a run was trained on and validated with
#: Keys that do not change what a run computes, or that name it.
NEUTRAL = {"seed", "name", "out", "preset", "project", "logger"}
NEUTRAL |= {f"trainer.{name}" for name in ("threads", "accelerator", "log_every", "images_every", "save_every")}
NEUTRAL |= {"data.num_workers", "data.cache_mb"}


@dataclass(frozen=True)
class TableRun:
    """A finished run."""

    folder: Path
    config: Run
    values: Mapping[str, object]  # config key, as system.read → value
    settings: Mapping[str, object]  # those that decide its result, with the data as digests; `NEUTRAL` ones left out
    evaluations: Mapping[str, Evaluation]  # by split
    minutes: float | None  # of training; None if it was resumed, as the record of time is then of a part

    @property
    def seed(self) -> int:
        return self.config.seed


def find_runs(patterns: Sequence[str | Path]) -> list[Path]:
    """Return the run directories that are named, lie below a folder that is named, or match a pattern.

    Raises SightwordError if one is found twice, or if one of the patterns finds none.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        place = expanded(str(pattern))
        matched = [place] if place.exists() else [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
        own = [run for match in matched if match.is_dir() for run in _runs_below(match)]
        if not own:
            raise SightwordError(f"runs={pattern}: there is no run. Pass run directories, or a folder that has some")
        for run in own:
            if (there := run.resolve()) in found:
                raise SightwordError(f"{run} is named twice in runs=: as {found[there]}, too. Remove one")
            found[there] = run
    return list(found.values())


def _runs_below(folder: Path, depth: int = 0) -> Iterator[Path]:
    if (folder / "config.yaml").is_file():
        yield folder
    elif depth < DEEPEST:
        names = sorted(each.name for each in os.scandir(folder) if each.is_dir(follow_symlinks=False))
        for name in names:
            if not name.startswith("."):
                yield from _runs_below(folder / name, depth + 1)


def finished(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the runs whose training ended, and the others."""
    done = [folder for folder in folders if (folder / "summary.json").is_file()]
    return done, [folder for folder in folders if folder not in done]


def read_runs(folders: Sequence[Path], splits: Sequence[str]) -> list[TableRun]:
    """Return runs with their evaluations. Raises SightwordError with the commands to type if some are missing."""
    evaluations = {folder: {split: read_evaluation(folder, split) for split in splits} for folder in folders}
    missing = [
        evaluate_command(folder, split)
        for folder, each in evaluations.items()
        for split, evaluation in each.items()
        if evaluation is None
    ]
    if missing:
        raise SightwordError(
            f"{len(missing)} of {len(folders) * len(splits)} evaluations with results of each item are missing, or "
            f"older than their checkpoint. Type: {' && '.join(missing)}"
        )
    return [
        _read_run(folder, {split: one for split, one in each.items() if one is not None})
        for folder, each in evaluations.items()
    ]


def _read_run(folder: Path, evaluations: Mapping[str, Evaluation]) -> TableRun:
    config = read_config(folder)
    cost = read_json(folder / "summary.json").mapping("cost", optional=True)
    whole = "seconds" in cost and not cost.integer("from_batch", 0)
    minutes = cost.number("seconds") / 60 if whole else None
    return TableRun(folder, config, flat(config.plain()), settings_of(folder, config), evaluations, minutes)


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested mappings as one, with dots in its keys."""
    found: dict[str, object] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def settings_of(folder: Path, config: Run, chain: int = CHAIN) -> dict[str, object]:
    """Return what decides a run's result besides its seed.

    Paths of data are replaced by a digest of the items, if the run has a record of them; a path to another run, which
    it was started from, by that run's own settings: it has this run's seed.
    """
    found = {key: value for key, value in flat(config.plain()).items() if key not in NEUTRAL}
    record = read_record(folder)
    if record is not None and record.splits:
        for name in config.data.paths:
            found.pop(f"data.{name}", None)
        found[DATA] = " ".join(digest_of_items(entries.values()) for _, entries in sorted(record.splits.items()))
    system = system_of(config.experiment)
    for key in ("init_from", *(f"system.{name}" for name in (*config.system.paths, *system.inputs))):
        value = found.get(key)
        if isinstance(value, str) and value and chain and (Path(value) / "config.yaml").is_file():
            before = settings_of(Path(value), read_config(Path(value)), chain - 1)
            found[key] = f"a run of {digest_of_settings(before)}"
    return found


def digest_of_settings(settings: Mapping[str, object]) -> str:
    """Return 12 hexadecimal digits for settings."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
