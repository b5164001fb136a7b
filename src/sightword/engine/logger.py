"""Logs of a run: metrics.csv, images/, summary.json, and the trackers that a config names."""

import csv
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning
import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL.Image import Image

from sightword.engine.config import Run
from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_csv
from sightword.storage.writer import write_json, write_png
from sightword.version import VERSION


class RunLogger(Logger):
    """Logger that writes metrics.csv and images/ of a run.

    A resumed run drops the rows that were written after its checkpoint.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.path = root, root / "metrics.csv"
        self.columns: list[str] = ["step"]
        self.rows: list[dict[str, str]] = []

    def resume(self, batches: int) -> None:
        """Read metrics.csv and rewrite it without the rows after batch `batches`. Raises SightwordError if damaged."""
        self._drop_zeros()
        if self.path.exists() and self.path.stat().st_size:
            table = read_csv(self.path, ["step"])
            self.columns = list(table.columns)
            kept = [row for row in table.rows if row.integer("step") <= batches]
            self.rows = [{name: row.text(name, "") for name in self.columns} for row in kept]
            self._rewrite()

    def _drop_zeros(self) -> None:
        """Remove the zero bytes at the end of metrics.csv, and the row that they cut: a power cut leaves them."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if content.endswith(b"\0"):
            kept = content.rstrip(b"\0")
            with write_atomically(self.path) as part:
                part.write_bytes(kept[: kept.rfind(b"\n") + 1])

    @rank_zero_only
    def begin(self) -> None:
        """Create metrics.csv if it is missing. The file marks a run directory in which training has begun."""
        self.path.touch()

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        return None

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Do nothing: config.yaml has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in metrics.items()}
        self.rows.append(row)
        if new := [name for name in row if name not in self.columns]:
            self.columns += new
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Image], step: int | None = None) -> None:
        for image in images:
            write_png(image, self.root / "images" / f"{key.replace('/', '_')}_{step or 0:07d}.png")

    def _rewrite(self) -> None:
        with write_atomically(self.path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return only the finite values: pages of trackers break on NaN and infinity."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def trackers(config: Run, folder: Path) -> list[Logger]:
    """Return the loggers that a config names. They work offline unless their own environment variables say otherwise.

    Raises SightwordError if a name is unknown or its package is not installed.
    """
    makers = {"swanlab": _swanlab, "tensorboard": _tensorboard, "wandb": _wandb}
    found = []
    for name in config.logger:
        if name not in makers:
            raise SightwordError(f"logger={name} is none of {', '.join(makers)}")
        try:
            found.append(makers[name](config, folder))
        except ImportError as error:
            raise SightwordError(f"logger={name} is not installed: pip install 'sightword[{name}]'") from error
    return found


def _swanlab(config: Run, folder: Path) -> Logger:
    from swanlab.integration.pytorch_lightning import SwanLabLogger

    mode = os.environ.get("SWANLAB_MODE", "offline")
    settings = {"project": config.project, "experiment_name": config.experiment.replace("/", "-")}
    logger: Logger = SwanLabLogger(**settings, logdir=str(folder / "swanlab"), mode=mode, config=config.plain())
    return logger


def _tensorboard(config: Run, folder: Path) -> Logger:
    import tensorboard  # noqa: F401  Lightning would fall back to another package in silence
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _wandb(config: Run, folder: Path) -> Logger:
    import wandb  # noqa: F401
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "offline") == "offline"
    return WandbLogger(project=config.project, name=config.experiment, save_dir=folder, offline=offline)


def write_summary(
    folder: Path,
    config: Run,
    last: Mapping[str, float],
    best: Mapping[str, float],
    protocol: Mapping[str, object],
    cost: Mapping[str, float],
) -> None:
    """Write summary.json: metrics, how they were computed, cost of the training, versions of the software."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "lightning": lightning.__version__}
    summary = {
        "experiment": config.experiment,
        "last": dict(last),
        "best": dict(best),
        "protocol": dict(protocol),
        "cost": dict(cost),
        "versions": versions | {"sightword": VERSION},
    }
    write_json(folder / "summary.json", summary)
