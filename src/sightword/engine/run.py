"""Make the parts of a run from its config, prepare it, and restore it from its directory. `engine.start` trains it.

Does not use Hydra: the config.yaml of a run contains every value.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sightword.engine.config import Optim, Run, Trainer
from sightword.engine.contract import Evaluator, Names, Step
from sightword.engine.input import with_inputs
from sightword.engine.system import closest, system_of
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.reader import read_yaml

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.task import Task

# ------------------------------------------------------------------------------------------------------- a run's parts


def complete(config: Run) -> Run:
    """Return the config of a new run with the values that its data decide."""
    return system_of(config.experiment).complete(config)


def make_task(config: Run) -> "Task[object]":
    """Return the task of a config, its new weights drawn with the run's seed."""
    import torch

    torch.manual_seed(config.seed)
    return system_of(config.experiment).task(config.system)


def make_evaluator(config: Run, task: "Task[object]") -> Evaluator[object]:
    """Return the evaluator of a config's task."""
    return system_of(config.experiment).evaluator(task)


def make_loaders(config: Run, task: "Task[object]", names: Names | None = None) -> "Loaders[object]":
    """Return the loaders of training and validation. names: the items of a run (see `engine.split`); None: all."""
    return system_of(config.experiment).loaders(config.data, config.seed, task, names or {})


def held_out(config: Run, split: str, task: "Task[object]", names: Names | None = None) -> "DataLoader[object]":
    """Return the loader of a split to evaluate. names: as above. Raises SightwordError for an unknown split."""
    return system_of(config.experiment).held_out(config.data, config.seed, split, task, names or {})


def steps(config: Run) -> list[Step]:
    """Return the steps that must be done before training, in order, including those that are done."""
    return system_of(config.experiment).prepare(config)


def prepare(config: Run) -> list[Step]:
    """Execute the steps that are not done, and return those that were executed.

    Under torchrun each process would do its part of a step and start training before the others are done.
    Raises SightwordError there if a step is not done, with the command that does it.
    """
    executed = []
    for step in steps(config):
        if step.is_done():
            continue
        if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise SightwordError(f"{step.out} is not prepared ({step.name}). Before torchrun, run: {step.command}")
        print(f"preparing {step.out}: {step.name}", file=sys.stderr)
        step.execute()
        executed.append(step)
    return executed


# -------------------------------------------------------------------------------------------------------------- a run


def read_config(folder: Path) -> Run:
    """Return the config that a run was started with. Raises SightwordError if the folder is not a run directory."""
    file = folder / "config.yaml"
    if not file.exists():
        raise SightwordError(
            f"{str(folder)!r} is not a run directory: config.yaml is missing. Pass the one that sightword train printed"
        )
    fields = read_yaml(file)
    system, optim = system_of(fields.text("experiment")), fields.mapping("optim")
    before = {} if "decay_norms" in optim else {"decay_norms": True}  # the config of a run from before this option
    return fields.into(
        Run,
        system=fields.mapping("system").into(system.Config),
        data=fields.mapping("data").into(system.Data),
        optim=optim.into(Optim, **before),
        trainer=fields.mapping("trainer").into(Trainer),
    )


class Restored(NamedTuple):
    """A run, restored from its directory."""

    task: "Task[object]"  # with a checkpoint's weights, in eval mode
    config: Run
    checkpoint: Path


def restore(folder: Path, checkpoint: str = "best", config: Run | None = None) -> Restored:
    """Restore a run from its directory.

    checkpoint: best (last if trainer.monitor is empty), last, or a file. config: None takes the run's own.
    The threads of torch stay as the caller has set them.
    Raises SightwordError if the folder is not a run directory, or the checkpoint does not fit the config.
    """
    config = config or read_config(folder)
    file = checkpoint_of(folder, checkpoint, config)
    if checkpoint == "best" and not file.exists() and (folder / "checkpoints" / "last.ckpt").exists():
        raise MissingFileError(f"{file} does not exist, as nothing was validated yet. Pass checkpoint=last")
    task = make_task(with_inputs(config, folder))
    saved = read_fitting(file, task, config)
    task.load_state_dict(saved)
    return Restored(task.eval(), config, file)


def checkpoint_of(folder: Path, checkpoint: str, config: Run) -> Path:
    """Return the file of a run's checkpoint: best (last if trainer.monitor is empty), last, or a file.

    Raises SightwordError for another word that is no file either.
    """
    kept = {name: folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    if checkpoint == "best" and not config.trainer.monitor:
        return kept["last"]
    file = kept.get(checkpoint, Path(checkpoint))
    if checkpoint not in kept and not file.exists():
        near = closest(checkpoint, kept)
        raise MissingFileError(f"checkpoint={checkpoint} is none of {', '.join(kept)}{near}, nor a file that exists")
    return file


def set_threads(threads: int, processes: int) -> None:
    """Set the CPU threads of a process that trains or evaluates and does nothing else. Libraries do not call it.

    threads: `trainer.threads`. 0 keeps OMP_NUM_THREADS, and the threads of a process that is alone, which are all cores
    unless the caller has set them. Otherwise it divides the cores among the processes.
    """
    if not threads and (processes < 2 or os.environ.get("OMP_NUM_THREADS")):
        return
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = threads or max(1, cores // processes)
    torch.set_num_threads(count)
    if processes > 1:  # without it, Lightning (2.6) sets rank 0 to another number
        os.environ["OMP_NUM_THREADS"] = str(count)


def is_first_process() -> bool:
    """Return whether this process has rank 0, which alone prints and writes."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def read_fitting(file: Path, task: "Task[object]", config: Run, resumed: bool = False) -> "dict[str, Tensor]":
    """Return the weights of a checkpoint.

    Raises SightwordError unless it is of the config's experiment and has the names and shapes of the task.
    """
    from sightword.storage.checkpoint import read_checkpoint

    saved = read_checkpoint(file)
    writer = saved["config"]["experiment"] if "config" in saved else "another program"
    if writer != config.experiment:
        raise SightwordError(f"{file} was written by {writer}, the run is {config.experiment}. Give one of its own")
    weights = {name.removeprefix("task."): weight for name, weight in saved["state_dict"].items()}
    task.check_classes(saved.get("classes", ()), str(file), resumed)
    new = task.state_dict()
    weights = {name: new[name] for name in task.added_state if name in new and name not in weights} | weights
    task.check_weights(weights, resumed)
    found, expected = _shapes(weights), _shapes(new)
    if wrong := [name for name in {**expected, **found} if found.get(name) != expected.get(name)]:
        name = wrong[0]
        raise SightwordError(
            f"{file} does not fit the config: {name} is {found.get(name, 'missing')} in the file and "
            f"{expected.get(name, 'missing')} in the model ({len(wrong)} such). Leave system.* as it was"
        )
    return weights


def _shapes(state: "Mapping[str, Tensor]") -> dict[str, str]:
    return {name: str(list(weight.shape)) for name, weight in state.items() if hasattr(weight, "shape")}
