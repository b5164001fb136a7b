"""Start or resume a training: make the run directory, take the weights to start from, train."""

import contextlib
import os
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.engine.config import Run, Trainer
from sightword.engine.contract import Names
from sightword.engine.init import initialise, origin_of
from sightword.engine.input import keep_inputs
from sightword.engine.run import (
    complete,
    is_first_process,
    make_evaluator,
    make_loaders,
    make_task,
    prepare,
    read_fitting,
    set_threads,
)
from sightword.engine.split import Record, absolute, choose, first_record, tell
from sightword.engine.system import system_of
from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.engine.fit import Fitted


def start(config: Run, folder: Path | None = None) -> "Fitted":
    """Prepare, then train in a run directory, from its last checkpoint if there is one. folder: None makes a new one.

    Raises SightwordError for most mistakes before a new directory is made. A new directory is removed again after any
    error before the end of the first batch.
    """
    _check_processes(config.trainer)
    set_threads(config.trainer.threads, config.trainer.devices)
    last = folder / "checkpoints" / "last.ckpt" if folder else None
    resumed = last is not None and last.exists()
    config = config if resumed else absolute(config)
    origin = origin_of(config) if config.init_from and not resumed else None
    prepare(config)
    config = config if resumed else complete(config)
    task = make_task(config)
    record, names = _data_of(config, folder if resumed else None)
    evaluator, loaders = make_evaluator(config, task), make_loaders(config, task, names)
    if last is not None and resumed:
        read_fitting(last, task, config, resumed=True)
    report = initialise(task, origin, config) if origin else None
    if report and is_first_process():
        print("starting from " + "\n".join(report.lines()), file=sys.stderr)
    from sightword.engine.fit import fit

    fresh = folder is None
    folder = folder or _claim(config)
    try:
        if is_first_process():
            folder.mkdir(parents=True, exist_ok=True)  # a caller's own, as the demo's
            keep_inputs(config, folder)
            if record:
                record.write(folder)
            if report:
                report.write(folder)
        return fit(task, evaluator, loaders, config, folder)
    except Exception:
        if fresh and is_first_process() and not (folder / "metrics.csv").exists():  # written with the first batch
            _remove_run(folder, Path(config.out))
        raise
    finally:
        os.environ.pop("SIGHTWORD_RUN", None)


def _data_of(config: Run, resumed: Path | None) -> tuple[Record | None, Names]:
    """Return the record of a run that begins, None for one that is resumed, and the items that the run uses."""
    if resumed is not None:
        chosen = choose(config, resumed)
        tell(chosen.findings)
        return None, chosen.names
    record = first_record(config)
    tell(record.shared(system_of(config.experiment).unit))
    return (record if record.splits else None), record.names


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
