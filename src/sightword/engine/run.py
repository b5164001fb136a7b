"""Make a run from its config, prepare and start it, and restore it from its directory.

Does not use Hydra: the config.yaml of a run contains every value.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sightword.engine.config import Optim, Run, Trainer
from sightword.engine.contract import Evaluator, Predictor, Step
from sightword.engine.system import closest, system_of, systems
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.hub import fetched
from sightword.storage.reader import read_yaml

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.fit import Fitted
    from sightword.engine.task import Task

PredictorT = TypeVar("PredictorT", bound=Predictor)

# ------------------------------------------------------------------------------------------------------- a run's parts


def make_task(config: Run) -> "Task[object]":
    """Return the task of a config, its new weights drawn with the run's seed."""
    import torch

    torch.manual_seed(config.seed)
    return system_of(config.experiment).task(config.system)


def make_evaluator(config: Run, task: "Task[object]") -> Evaluator[object]:
    """Return the evaluator of a config's task."""
    return system_of(config.experiment).evaluator(task)


def make_loaders(config: Run, task: "Task[object]") -> "Loaders[object]":
    """Return the loaders of training and validation."""
    return system_of(config.experiment).loaders(config.data, config.seed, task)


def held_out(config: Run, split: str, task: "Task[object]") -> "DataLoader[object]":
    """Return the loader of a split to evaluate. Raises SightwordError for a split that the data do not have."""
    return system_of(config.experiment).held_out(config.data, config.seed, split, task)


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


def start(config: Run, folder: Path | None = None) -> "Fitted":
    """Prepare, then train in a run directory, from its last checkpoint if there is one. folder: None makes a new one.

    Raises SightwordError for most mistakes before a new directory is made. A new directory is removed again after any
    error before the end of the first batch.
    """
    _check_processes(config.trainer)
    set_threads(config.trainer.threads, config.trainer.devices)
    prepare(config)
    task = make_task(config)
    evaluator, loaders = make_evaluator(config, task), make_loaders(config, task)
    last = folder / "checkpoints" / "last.ckpt" if folder else None
    if last and last.exists():
        _read_fitting(last, task, config, resumed=True)
    from sightword.engine.fit import fit

    fresh = folder is None
    folder = folder or _claim(config)
    try:
        return fit(task, evaluator, loaders, config, folder)
    except Exception:
        if fresh and is_first_process() and not (folder / "metrics.csv").exists():  # written with the first batch
            _remove_run(folder, Path(config.out))
        raise
    finally:
        os.environ.pop("SIGHTWORD_RUN", None)


def read_config(folder: Path) -> Run:
    """Return the config that a run was started with. Raises SightwordError if the folder is not a run directory."""
    file = folder / "config.yaml"
    if not file.exists():
        raise SightwordError(
            f"{str(folder)!r} is not a run directory: config.yaml is missing. Pass the one that sightword train printed"
        )
    fields = read_yaml(file)
    system = system_of(fields.text("experiment"))
    return fields.into(
        Run,
        system=fields.mapping("system").into(system.Config),
        data=fields.mapping("data").into(system.Data),
        optim=fields.mapping("optim").into(Optim),
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
    kept = {name: folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    file = kept.get(checkpoint, Path(checkpoint))
    if checkpoint == "best" and not config.trainer.monitor:
        file = kept["last"]
    if checkpoint not in kept and not file.exists():
        near = closest(checkpoint, kept)
        raise MissingFileError(f"checkpoint={checkpoint} is none of {', '.join(kept)}{near}, nor a file that exists")
    task = make_task(config)
    saved = _read_fitting(file, task, config)
    task.load_state_dict(saved)
    return Restored(task.eval(), config, file)


#: Patterns of the files that `sightword export` writes.
EXPORTED = ("*.json", "*.safetensors", "*.txt", "*.model", "semantic_anchors.pth")


def load_predictor(kind: type[PredictorT], path: str | Path, checkpoint: str = "best") -> PredictorT:
    """Return the predictor of a run directory, of a folder of `sightword export`, or of such a folder on the hub.

    path: a folder, or a hub id (owner/name). Raises SightwordError if it is neither, or belongs to another system.
    """
    folder = Path(path).expanduser()
    if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)):
        return kind.from_folder(fetched(path, EXPORTED))
    if not (folder / "config.yaml").is_file():
        return kind.from_folder(folder)
    _refuse_other(kind, folder, read_config(folder).experiment)
    restored = restore(folder, checkpoint)
    return kind.from_run(restored.task, restored.config.data)


def _refuse_other(kind: type[Predictor], folder: Path, experiment: str) -> None:
    """Raise SightwordError if a run's system has another predictor than this one."""
    if system_of(experiment).predictor() is kind:
        return
    wanted = [name for name, system in systems().items() if system.predictor() is kind]
    if wanted:
        raise SightwordError(f"{folder} is a run of {experiment}. Pass one of {wanted[0]}")


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


# ------------------------------------------------------------------------------------------------------ its directory


def _check_processes(trainer: Trainer) -> None:
    started, expected = int(os.environ.get("WORLD_SIZE", 1)), trainer.devices * trainer.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ and started != expected:
        raise SightwordError(f"torchrun started {started} processes and the run is for {expected}. Set trainer.devices")


def _claim(config: Run) -> Path:
    """Make a new folder, <out>/<experiment>/<time or name>, and return its path.

    Processes that Lightning starts read its name from SIGHTWORD_RUN.
    """
    place = Path(config.out) / config.experiment
    name = config.name or os.environ.get("SIGHTWORD_RUN", "")
    if not is_first_process() and name:
        return place / name
    if not name and "TORCHELASTIC_RUN_ID" in os.environ:
        raise SightwordError("under torchrun every process must write to the same folder. Give the run a name=")
    place.mkdir(parents=True, exist_ok=True)
    name = now = name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for count in range(2, 1000):
        try:
            (place / name).mkdir()
            break
        except FileExistsError:
            if config.name:
                raise SightwordError(
                    f"{place / name} exists. Resume it with resume={place / name}, or give another name="
                ) from None
            name = f"{now}-{count}"
    os.environ["SIGHTWORD_RUN"] = name
    return place / name


def _remove_run(folder: Path, out: Path) -> None:
    """Remove a run directory that was never trained in, and the folders between it and `out` if they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for above in folder.parents:
        if above == out:
            break
        with contextlib.suppress(OSError):
            above.rmdir()


def _read_fitting(file: Path, task: "Task[object]", config: Run, resumed: bool = False) -> "dict[str, Tensor]":
    """Return the weights of a checkpoint.

    Raises SightwordError unless it is of the config's experiment and has the names and shapes of the task.
    """
    from sightword.storage.checkpoint import read_checkpoint

    saved = read_checkpoint(file)
    writer = saved["config"]["experiment"] if "config" in saved else "another program"
    if writer != config.experiment:
        raise SightwordError(f"{file} was written by {writer}, the run is {config.experiment}. Give one of its own")
    weights = {name.removeprefix("task."): weight for name, weight in saved["state_dict"].items()}
    task.check_weights(weights, resumed)
    found, expected = _shapes(weights), _shapes(task.state_dict())
    if wrong := [name for name in {**expected, **found} if found.get(name) != expected.get(name)]:
        name = wrong[0]
        raise SightwordError(
            f"{file} does not fit the config: {name} is {found.get(name, 'missing')} in the file and "
            f"{expected.get(name, 'missing')} in the model ({len(wrong)} such). Leave system.* as it was"
        )
    return weights


def _shapes(state: "Mapping[str, Tensor]") -> dict[str, str]:
    return {name: str(list(weight.shape)) for name, weight in state.items() if hasattr(weight, "shape")}
