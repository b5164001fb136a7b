"""The commands `train` and `prepare`: start or resume a run, or only compute what it needs first."""

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.cli.compose import change_config, compose_config, expand_preset, train_by_hydra
from sightword.cli.override import is_for, values_of
from sightword.cli.sweep import sweep
from sightword.engine import run as runs
from sightword.engine.argument import expanded
from sightword.engine.contract import Step
from sightword.engine.system import systems
from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.engine.config import Run
    from sightword.engine.fit import Fitted


def train(argv: Sequence[str]) -> int:
    """Train an experiment: sightword train experiment=tokenizer/mini data.root=photos

    Any field of the config can be given as key=value. preset=<name> stands for an experiment and some values; values
    given beside it count more. sightword list shows the presets. scale=<name> sets names and sizes.
    resume=<run directory> resumes a run that was stopped; the result is that of an uninterrupted run.
    init_from=<run, exported folder, published file, hub id> starts a new run from weights; what fits is reported.
    Hydra's flags work as well: --cfg job prints the config. sightword sweep takes lists of values.
    experiment=<name> --help lists the fields of that system alone.
    """
    overrides = expand_preset(argv)
    if any(override.startswith("-") for override in overrides):
        return train_by_hydra(overrides, _started)
    config, folder = _config_of(overrides)
    return _started(config, folder)


def prepare(argv: Sequence[str]) -> int:
    """Compute what training needs first, such as cached tokens: sightword prepare experiment=…, with train's arguments.

    `train` does the same before its first batch. Under torchrun it does not: prepare before.
    What is there already is not computed again; after Ctrl-C, run the same command again to compute the rest.
    """
    overrides = expand_preset(argv)
    config, _ = _config_of(overrides)
    runs.set_threads(config.trainer.threads, 1)
    wanted, executed = runs.steps(config), runs.prepare(config)
    print("\n".join(_prepared(wanted, executed)))
    print(f"next: {shlex.join(['sightword', 'train', *argv])}")
    return 0


def train_in(folder: Path, argv: Sequence[str]) -> bool:
    """Train in a folder of the caller's choice. Return whether the run is finished."""
    saved = (folder / "checkpoints" / "last.ckpt").exists()
    config = change_config(runs.read_config(folder), []) if saved else compose_config(argv)
    return _started(config, folder) == 0


def _started(config: "Run", folder: Path | None = None) -> int:
    """Train, print how it ended, and return the exit status. Torch is imported now: mistakes were told before."""
    from sightword.engine.start import start

    return _tell(start(config, folder))


def _config_of(overrides: Sequence[str]) -> "tuple[Run, Path | None]":
    """Return the config to train, and the directory of a run to resume."""
    resumed = values_of(overrides, "resume")
    if not resumed:
        return compose_config(overrides), None
    folder, others = expanded(resumed[-1]), [override for override in overrides if not is_for(override, "resume")]
    if values_of(others, "experiment"):
        raise SightwordError(f"resume={folder} sets the experiment. Remove experiment=")
    return change_config(runs.read_config(folder), others), folder


def _prepared(wanted: Sequence[Step], executed: Sequence[Step]) -> list[str]:
    """Return a line for each step."""
    outs = [step.out for step in executed]
    lines = [f"{step.out}: {step.name}" + ("" if step.out in outs else ", was there already") for step in wanted]
    return lines or ["this experiment needs nothing to be computed before training"]


def _tell(result: "Fitted") -> int:
    """Print how a run ended and what to type next. Return the exit status."""
    if runs.is_first_process():
        print(_ending(result))
    return 0 if result.finished else 1


def _ending(result: "Fitted") -> str:
    folder = shlex.quote(str(result.folder))
    if not result.finished:
        return f"stopped; resume it with: sightword train resume={folder}"
    shown = result.best or result.metrics
    metrics = {name.removeprefix("val/"): value for name, value in shown.items() if name != "batches"}
    at = f"best, batch {shown['batches']:.0f}" if result.best else "last"
    lines = [f"validation ({at})", *metric_lines(metrics, result.notes)]
    return "\n".join([*lines, f"written to {result.folder}", f"next: sightword evaluate run={folder}"])


def metric_lines(metrics: Mapping[str, float], notes: Mapping[str, str]) -> list[str]:
    """Return a line for each metric, with the note on it."""
    return [f"  {name:<20} {value:<10.4g} {notes.get(name, '')}".rstrip() for name, value in metrics.items()]


#: The commands whose arguments are a run's config.
RUN_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"train": train, "prepare": prepare, "sweep": sweep}


def run_usage(name: str, argv: Sequence[str]) -> str:
    """Return the help of such a command: every field of the config, of the experiment's system if one is given."""
    from sightword.cli.help import config_help

    named = [experiment.split("/")[0] for experiment in values_of(argv, "experiment")]
    return f"sightword {name}: {inspect.getdoc(RUN_COMMANDS[name])}\n\n{config_help(named or systems())}"
