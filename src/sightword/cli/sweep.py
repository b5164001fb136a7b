"""The command `sweep`: train many runs, one for each combination of values, and put them in one table.

Each run is a process of its own: it may use several devices, and what breaks it does not end the others. Hydra's
sweeper decides which values are tried, its launcher decides where: one after the other, by joblib, on Ray.
"""

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightword.cli.compose import compose_config, expand_preset, sweep_by_hydra, swept_values
from sightword.cli.override import is_for, values_of
from sightword.engine import run as runs
from sightword.engine.argument import expanded
from sightword.engine.system import closest, experiments, presets, tables
from sightword.errors import SightwordError, Unfinished
from sightword.storage.parser import whole_number
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json

OWN = ("table", "name", "out", "measure", "baseline", "workers")
SWEEP = "sweep.json"
NOT_CHOSEN_BY = ("seed",)  # keys whose values repeat a run, and are no rows of a table


def sweep(argv: Sequence[str]) -> int:
    """Train a run for each combination of values: sightword sweep experiment=tokenizer/mini seed=0,1 optim.lr=1e-3,1e-4

    Takes train's arguments, each with one value or several: a,b · range(0,5) · preset=a,b · experiment=a,b.
    table=<name> stands for the rows of a table; sightword list shows them.
    name=<folder>: the runs lie in <out>/sweeps/<name>, each in a folder named by its values. The same command again
    trains what is missing or was stopped; more values add runs. A run that fails does not end the sweep.
    measure=test/top1 (with commas: several) also evaluates each run on that split, and ends with a table;
    baseline=<row> compares the other rows with that one (see sightword table).
    workers=2 trains two at a time, by joblib (pip install 'sightword[sweep]'). Other launchers and sweepers of Hydra
    work as they are: hydra/launcher=ray; hydra/sweeper=optuna hydra.sweeper.n_trials=25 'optim.lr=interval(1e-4,1e-2)'
    optimises trainer.monitor.
    """
    plan = Plan.of(argv)
    known = plan.jobs()
    plan.claim()
    print(f"{len(known)} runs in {plan.folder}" if known else f"runs in {plan.folder}")
    trainee = Trainee(plan.folder.absolute(), plan.splits, Path.cwd(), plan.workers)
    sweep_by_hydra(plan.overrides, plan.hydra, plan.folder, trainee)
    jobs = known or list(read_jobs(plan.folder))
    done = [job for job in jobs if job.is_finished(plan.splits)]
    if plan.measures and done:
        _tabulate(plan, [job.folder for job in done])
    if missing := [job.name for job in jobs if job not in done]:
        named = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise Unfinished(
            f"{len(missing)} of {len(jobs)} runs are not finished: {named}. Their output is in {plan.folder / 'logs'}; "
            "the same command tries them again"
        )
    return 0


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    name: str  # of its folder, by the values that the sweep varies
    overrides: tuple[str, ...]  # of sightword train
    folder: Path

    def is_finished(self, splits: Sequence[str] = ()) -> bool:
        """Return whether the run has been trained to its end, and evaluated on these splits."""
        from sightword.engine.evaluation import read_evaluation

        trained = (self.folder / "summary.json").exists()
        return trained and all(read_evaluation(self.folder, split) is not None for split in splits)


@dataclass(frozen=True)
class Plan:
    """What a sweep is asked to do."""

    folder: Path
    measures: tuple[str, ...]  # of the table at the end; none: no table
    baseline: str  # a row of it
    workers: int
    overrides: list[str]  # in Hydra's grammar
    keys: list[str]  # those that vary
    jobs_typed: list[list[str]] | None  # the overrides of each job; None where a sweeper draws them
    hydra: list[str]  # Hydra's own settings

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Plan":
        """Read the command line. Raises SightwordError for what cannot be swept."""
        own = {key: values_of(argv, key)[-1] for key in OWN if values_of(argv, key)}
        given = [argument for argument in argv if not is_for(argument, *OWN)]
        given = [*_rows_of(own["table"]), *given] if "table" in own else given
        if wrong := next((each for each in given if each.startswith("-")), ""):
            raise SightwordError(f"sweep takes no {wrong}: it sweeps in any case. sightword sweep --help says more")
        if is_resumed := values_of(given, "resume"):
            raise SightwordError(f"a sweep begins new runs. sightword train resume={is_resumed[-1]} resumes one")
        settings = [each for each in given if each.startswith(("hydra/", "hydra."))]
        varied = [each for each in given if each not in settings]
        workers = whole_number(own.get("workers", "1"))
        settings += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"] if workers > 1 else []
        drawn = any(is_for(each, "hydra/sweeper") for each in settings)
        values = swept_values(varied, _system_of(varied), drawn)
        settings += _direction(varied, settings) if drawn else []
        folder = expanded(own.get("out", "runs")) / "sweeps" / (own.get("name") or own.get("table") or _named(varied))
        measures = tuple(part for part in own.get("measure", "").split(",") if part)
        _splits_of(measures)
        asked = folder, measures, own.get("baseline", ""), workers
        return cls(*asked, values.overrides, values.keys, values.jobs, settings)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits on which each run is evaluated."""
        return _splits_of(self.measures)

    def jobs(self) -> list[Job]:
        """Return the runs, their configs checked; empty where a sweeper draws them.

        Raises SightwordError for a mistake in one of them, or for two that would get one folder.
        """
        found: dict[str, Job] = {}
        for typed in self.jobs_typed or []:
            compose_config(expand_preset(typed))
            job = job_of(typed, self.keys, self.folder)
            if job.name in found:
                raise SightwordError(f"two runs of the sweep are the same, {job.name}. Give each value once")
            found[job.name] = job
        return list(found.values())

    def claim(self) -> None:
        """Write sweep.json. Raises SightwordError if the folder has a sweep that keeps other values fixed."""
        fixed = sorted(each for each in self.overrides if each.partition("=")[0].lstrip("+") not in self.keys)
        file, own = self.folder / SWEEP, {"keys": self.keys, "fixed": fixed}
        if file.exists():
            before = read_json(file).plain()
            if {key: before.get(key) for key in own} != own:
                raise SightwordError(
                    f"{self.folder} has a sweep with other values: {_difference(before, own)}. Give name="
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, own)


def job_of(typed: Sequence[str], keys: Sequence[str], folder: Path) -> Job:
    """Return the run of some overrides."""
    name = job_name(typed, keys)
    return Job(name, tuple(typed), folder / values_of(expand_preset(typed), "experiment")[-1] / name)


def job_name(typed: Sequence[str], keys: Sequence[str]) -> str:
    """Return the name of a run's folder: the values that vary, in order, as visece-debug1_lr0.001_seed0."""
    parts = []
    for key in keys:
        value = re.sub(r"[^\w.+-]+", "-", _short(values_of(typed, key)[-1])).strip("-")
        short = key.rpartition(".")[2]
        short = key if [each.rpartition(".")[2] for each in keys].count(short) > 1 else short
        parts.append(value if key in ("preset", "experiment") else f"{short}{value}")
    return "_".join(parts)[:200] or "run"


def _short(value: str) -> str:
    """Return a drawn number, as 0.0004491523825137995, in six digits."""
    return f"{float(value):.6g}" if re.fullmatch(r"-?\d+\.\d{7,}(e-?\d+)?", value) else value


@dataclass(frozen=True)
class Trainee:
    """Trains one run of a sweep in a process of its own. Called by Hydra's launcher, perhaps on another machine."""

    folder: Path  # of the sweep
    splits: tuple[str, ...]  # to evaluate on
    place: Path  # where the command was typed
    workers: int

    def __call__(self, typed: Sequence[str]) -> float:
        """Train, or go on where the run was stopped, then evaluate. Return the monitored value; nan if it failed."""
        os.chdir(self.place)
        keys = read_json(self.folder / SWEEP).plain()["keys"]
        assert isinstance(keys, list)
        job = job_of(typed, [str(key) for key in keys], self.folder)
        for argv in self._missing(job):
            if not self._run(job, argv):
                return math.nan
        value = monitored(job.folder)
        print(f"{job.name}: finished" + (f", {value[0]} {value[1]:.4g}" if value else ""), flush=True)
        return value[1] if value else math.nan

    def _missing(self, job: Job) -> Iterator[list[str]]:
        """Iterate over the commands that a run still needs."""
        if not job.is_finished():
            yield self._training(job)
        for split in self.splits:
            if not job.is_finished([split]):
                yield ["evaluate", f"run={job.folder}", f"split={split}"]

    def _training(self, job: Job) -> list[str]:
        if (job.folder / "config.yaml").exists():  # without a checkpoint it begins anew in its folder
            return ["train", f"resume={job.folder}"]
        return ["train", *job.overrides, f"out={self.folder}", f"name={job.name}"]

    def _run(self, job: Job, argv: Sequence[str]) -> bool:
        """Execute a command, its output in logs/<job>.log, and return whether it ended well."""
        log = self.folder / "logs" / f"{job.name}.log"
        log.parent.mkdir(exist_ok=True)
        print(f"{job.name}: {argv[0]}", flush=True)
        cores = os.cpu_count() or 1
        threads = {} if self.workers < 2 else {"OMP_NUM_THREADS": str(max(1, cores // self.workers))}
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(['sightword', *argv])}\n".encode())
            file.flush()
            command = [sys.executable, "-m", "sightword.cli", *argv]
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=threads | dict(os.environ))
            try:
                status = process.wait()
            except KeyboardInterrupt:  # the process was interrupted too, and writes its checkpoint
                process.wait()
                raise
        if status:
            print(f"{job.name}: failed, {_last_line(log)}; {log} has all of it", file=sys.stderr, flush=True)
        return status == 0


def read_jobs(folder: Path) -> Iterator[Job]:
    """Iterate over the runs that lie in the folder of a sweep."""
    for file in sorted(folder.glob("*/*/*/config.yaml")):
        yield Job(file.parent.name, (), file.parent)


def monitored(folder: Path) -> tuple[str, float] | None:
    """Return the name and the best value of what a finished run monitors; its last value if it keeps no best."""
    name = runs.read_config(folder).trainer.monitor
    summary = read_json(folder / "summary.json").plain()
    for part in (summary["best"], summary["last"]):
        if isinstance(part, dict) and isinstance(value := part.get(name), int | float):
            return name, float(value)
    return None


def _rows_of(table: str) -> list[str]:
    known = {name: rows for found in tables().values() for name, rows in found.items()}
    if table not in known:
        raise SightwordError(f"there is no table {table!r}{closest(table, known)}; sightword list names them")
    return known[table]


def _system_of(overrides: Sequence[str]) -> str:
    """Return the system of the runs, by which values are typed. Raises SightwordError unless they are of one system."""
    known = {name: name.split("/")[0] for name, _ in experiments()}
    known |= {name: system for system, rows in presets().items() for name in rows}
    named = [part for key in ("experiment", "preset") for text in values_of(overrides, key) for part in text.split(",")]
    if not named:
        raise SightwordError("a sweep needs experiment=… or preset=…; sightword list shows them")
    if wrong := next((name for name in named if name not in known), ""):
        raise SightwordError(f"there is no {wrong!r}{closest(wrong, known)}; sightword list shows what there is")
    found = {known[name] for name in named}
    if len(found) > 1:
        raise SightwordError(f"the runs of a sweep are of one system, and these are of {' and '.join(sorted(found))}")
    return found.pop()


def _named(overrides: Sequence[str]) -> str:
    """Return the name of a sweep that was given none: its first experiment or preset."""
    text = (values_of(overrides, "preset") or values_of(overrides, "experiment"))[-1]
    return re.sub(r"[^\w.-]+", "-", text)[:80].strip("-")


def _direction(overrides: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Return the setting that tells a sweeper whether more is better, unless it is given."""
    if any(is_for(each, "hydra.sweeper.direction") for each in settings):
        return []
    plain = [each for each in overrides if "(" not in each and "," not in each]
    config = compose_config(expand_preset(plain))
    if not config.trainer.monitor:
        raise SightwordError("a sweeper needs trainer.monitor, the metric that it optimises")
    return [f"hydra.sweeper.direction={'maximize' if config.trainer.mode == 'max' else 'minimize'}"]


def _difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    lines = [set(map(str, each)) if isinstance(each := part.get("fixed"), list) else set() for part in (before, now)]
    return ", ".join(sorted(lines[0] ^ lines[1])[:4]) or f"it varies {before.get('keys')}, this one {now.get('keys')}"


def _splits_of(measures: Sequence[str]) -> tuple[str, ...]:
    from sightword.cli.table.comparison import splits_of

    return tuple(splits_of(measures)) if measures else ()


def _tabulate(plan: Plan, done: Sequence[Path]) -> None:
    """Print the table of the runs that are finished, and write it to the folder."""
    from sightword.cli.table.make import make_table
    from sightword.cli.table.write import markdown

    by = ",".join(key for key in plan.keys if key not in NOT_CHOSEN_BY) or "experiment"
    try:
        print(markdown(make_table(done, by, plan.measures, plan.baseline, plan.folder)), end="")
    except SightwordError as error:
        raise SightwordError(f"the runs are trained, but there is no table: {error}") from None


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return (lines or ["nothing was printed"])[-1].removeprefix("sightword: ")
