"""What a run writes down: metrics.csv, pictures, summary.json, and the trackers a config asks for."""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from PIL.Image import Image

from sightword.engine.config import Run
from sightword.storage.atomic import write_atomically
from sightword.version import VERSION


class Folder(Logger):
    """metrics.csv and pictures/ of a run. Rows written after the checkpoint that a run resumes from are dropped."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.path = root, root / "metrics.csv"
        self.columns: list[str] = ["step"]
        self.rows: list[dict[str, Any]] = []

    def resume(self, batches: int) -> None:
        if self.path.exists():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.rows = [row for row in reader if int(row["step"]) <= batches]
                self.columns = list(reader.fieldnames or ["step"])
            self._rewrite()

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
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step} | {name: f"{value:.6g}" for name, value in metrics.items()}
        self.rows.append(row)
        if new := [name for name in row if name not in self.columns]:
            self.columns += new
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Image], step: int | None = None) -> None:
        folder = self.root / "pictures"
        folder.mkdir(exist_ok=True)
        for image in images:
            image.save(folder / f"{key.replace('/', '_')}_{step or 0:07d}.png")

    def _rewrite(self) -> None:
        with write_atomically(self.path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)


def trackers(config: Run, folder: Path) -> list[Logger]:
    """The loggers a config asks for besides metrics.csv, all offline unless their own settings say otherwise."""
    makers = {"swanlab": _swanlab, "tensorboard": _tensorboard, "wandb": _wandb}
    found = []
    for name in config.logger:
        if name not in makers:
            raise ValueError(f"logger={name} is none of {', '.join(makers)}")
        try:
            found.append(makers[name](config, folder))
        except ImportError as error:
            raise ValueError(f"logger={name} is not installed: pip install 'sightword[{name}]'") from error
    return found


def _swanlab(config: Run, folder: Path) -> Logger:
    from swanlab.integration.pytorch_lightning import SwanLabLogger

    mode = os.environ.get("SWANLAB_MODE", "offline")
    settings = {"project": config.project, "experiment_name": config.experiment.replace("/", "-")}
    return SwanLabLogger(**settings, logdir=str(folder / "swanlab"), mode=mode, config=config.plain())


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
    protocol: Mapping[str, Any],
    cost: Mapping[str, float],
) -> None:
    """summary.json: the measures, how they were taken, what it cost, with what versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "lightning": lightning.__version__}
    summary = {
        "experiment": config.experiment,
        "last": dict(last),
        "best": dict(best),
        "protocol": dict(protocol),
        "cost": dict(cost),
        "versions": versions | {"sightword": VERSION},
    }
    with write_atomically(folder / "summary.json") as part:
        Path(part).write_text(json.dumps(summary, indent=2) + "\n")
