"""A run from its config: make its parts, start it in a folder, read it back. Finds systems by their folder's name.

Stands on top, beside the command line, and knows no Hydra: a run's config.yaml holds every value.
"""

import contextlib
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sightword.engine.config import Optim, Run, Trainer
from sightword.engine.system import module_of

if TYPE_CHECKING:
    from sightword.engine.fit import Result


def make_task(config: Run) -> Any:
    """The task of a config, with new weights drawn by the run's seed."""
    import torch

    torch.manual_seed(config.seed)
    return module_of(config.experiment, "task").make_task(config.system)


def make_loaders(config: Run, task: Any = None) -> Any:
    """What a config trains and validates on. task: of the same config, where its loaders have to know it."""
    known = task.reads() if task is not None else {}
    return module_of(config.experiment, "data").make_loaders(config.data, seed=config.seed, **known)


def held_out(config: Run, split: str, task: Any) -> Any:
    """What a config is measured on. A system whose data offer `split_loader(data, split)` has more than val.

    task: of the same config, for what its loaders have to know of it.
    """
    data = module_of(config.experiment, "data")
    if hasattr(data, "split_loader"):
        return data.split_loader(config.data, split, **task.reads())
    if split != "val":
        raise ValueError(f"{config.experiment} has no split {split!r}: its measures are of val, which data.* describes")
    return make_loaders(config, task).val


def start(config: Run, folder: Path | None = None) -> "Result":
    """Train in a folder, from its last checkpoint if there is one; None makes a new one.

    What can be wrong with a config comes to light before the folder is made; if it comes later, and before the first
    batch is trained, the folder is taken away again.
    """
    _check_processes(config.trainer)
    set_threads(config.trainer.threads, config.trainer.devices)
    task = make_task(config)
    loaders = make_loaders(config, task)
    last = folder / "checkpoints" / "last.ckpt" if folder else None
    if last and last.exists():
        _read_fitting(last, task, config, goes_on=True)
    from sightword.engine import fit

    fresh = folder is None
    folder = folder or _claim(config)
    try:
        return fit.run(task, loaders, config, folder)
    except Exception:
        if fresh and is_first_process() and not (folder / "metrics.csv").exists():
            _take_away(folder, Path(config.out))
        raise
    finally:
        os.environ.pop("SIGHTWORD_RUN", None)


def read_config(folder: Path) -> Run:
    """The config a run was started with. Raises ValueError if the folder holds none."""
    file = folder / "config.yaml"
    if not file.exists():
        raise ValueError(f"{folder} is no run: it has no config.yaml")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        schema = module_of(values["experiment"], "config")
        parts = {"system": schema.System, "data": schema.Data, "optim": Optim, "trainer": Trainer}
        return Run(**values | {name: kind(**values[name]) for name, kind in parts.items()})
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"{file} is damaged, or of another version: {' '.join(str(error).split())}") from error


def restore(folder: Path, checkpoint: str = "best", config: Run | None = None) -> tuple[Any, Run, Path]:
    """(task with a checkpoint's weights, in eval mode; config; the checkpoint's file) of a run's folder.

    checkpoint: best (last, where nothing was monitored), last, or a file. config: the run's own if None.
    """
    config = config or read_config(folder)
    set_threads(config.trainer.threads, 1)
    kept = {name: folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    file = kept.get(checkpoint, Path(checkpoint))
    if checkpoint == "best" and not config.trainer.monitor:
        file = kept["last"]
    task = make_task(config)
    saved = _read_fitting(file, task, config)
    task.load_state_dict(_weights(saved))
    return task.eval(), config, file


def set_threads(threads: int, processes: int) -> None:
    """CPU threads of this process; 0 shares the cores out among the processes."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // max(1, processes)))


def is_first_process() -> bool:
    """Whether this is the process, of those that train together, that speaks and writes."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _check_processes(trainer: Trainer) -> None:
    started, wanted = int(os.environ.get("WORLD_SIZE", 1)), trainer.devices * trainer.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ and started != wanted:
        raise ValueError(f"torchrun started {started} processes and the run is for {wanted}: set trainer.devices")


def _claim(config: Run) -> Path:
    """A folder that nobody else has: <out>/<experiment>/<time or name>. Processes Lightning starts are told it."""
    place = Path(config.out) / config.experiment
    name = config.name or os.environ.get("SIGHTWORD_RUN", "")
    if not is_first_process() and name:
        return place / name
    if not name and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError("under torchrun every process must write to the same folder: give the run a name=")
    place.mkdir(parents=True, exist_ok=True)
    name = now = name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for count in range(2, 1000):
        try:
            (place / name).mkdir()
            break
        except FileExistsError:
            if config.name:
                raise ValueError(
                    f"{place / name} holds a run: go on with resume={place / name}, or give another name="
                ) from None
            name = f"{now}-{count}"
    os.environ["SIGHTWORD_RUN"] = name
    return place / name


def _take_away(folder: Path, out: Path) -> None:
    """The folder, and those between it and `out` if they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for above in folder.parents:
        if above == out:
            break
        with contextlib.suppress(OSError):
            above.rmdir()


def _read_fitting(file: Path, task: Any, config: Run, goes_on: bool = False) -> dict[str, Any]:
    """A checkpoint, known to be of this experiment and of this task's names and shapes. goes_on: it is trained on."""
    from sightword.storage.checkpoint import read_checkpoint

    saved = read_checkpoint(file)
    writer = saved["config"]["experiment"] if "config" in saved else "another program"
    if writer != config.experiment:
        raise ValueError(f"{file} was written by {writer}, the run is {config.experiment}: give one of its own")
    task.check_weights(_weights(saved), goes_on)
    found, wanted = _shapes(_weights(saved)), _shapes(task.state_dict())
    if wrong := [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]:
        name = wrong[0]
        raise ValueError(
            f"{file} does not fit the config: {name} is {found.get(name, 'missing')} in the file and "
            f"{wanted.get(name, 'missing')} in the model ({len(wrong)} such): leave system.* as it was"
        )
    return saved


def _weights(saved: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("task."): weight for name, weight in saved["state_dict"].items()}


def _shapes(state: dict[str, Any]) -> dict[str, str]:
    return {name: str(list(weight.shape)) for name, weight in state.items() if hasattr(weight, "shape")}
