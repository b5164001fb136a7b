"""The training loop: a Task and its loaders in, a folder with checkpoints, measures and pictures out.

`Loop` is the one LightningModule. With a critic it drives two optimisers by hand, otherwise Lightning does. `run`
trains in a folder that survives kill -9 and goes on from there to the same result, bit for bit on one device.

All counts are batches trained (`Loop.batches`): Lightning's own `global_step` counts optimiser steps.
"""

import csv
import json
import logging
import math
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL.Image import Image
from torch import Tensor
from torch.nn import Parameter
from tqdm import tqdm

import sightword
from sightword.atomic import write_atomically
from sightword.checkpoint import read_checkpoint
from sightword.configs import Optim, Run
from sightword.data.loader import Loaders
from sightword.task import Task

# ---------------------------------------------------------------------------------------------------------- the loop


class Loop(pl.LightningModule):
    """A Task under Lightning. Losses, their weighted total and stats are logged as train/…, measures as val/…"""

    def __init__(
        self, task: Task, optim: Optim, steps: int = 0, log_every: int = 50, pictures_every: int = 500
    ) -> None:
        super().__init__()
        self.task, self.optim, self.steps = task, optim, steps
        self.log_every, self.pictures_every = log_every, pictures_every
        self.batches = 0
        self.measures: dict[str, float] = {}  # of the last validation
        self.losses: dict[str, Tensor] = {}  # of the last batch, with their weighted total
        self.automatic_optimization = task.critic is None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.task.batches = self.batches
        losses = self.task.losses(batch)
        total = self.task.total(losses)
        if not self.automatic_optimization:
            losses = losses | self._step_both(batch, total)
        self.losses = {name: term.detach() for name, term in (losses | {"total_loss": total}).items()}
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        self.batches += 1
        return total

    def _step_both(self, batch: Any, total: Tensor) -> dict[str, Tensor]:
        """One step of each optimiser (or their share of an accumulated one). Only the first counts as a step."""
        main, critic = self.optimizers()  # type: ignore[attr-defined]
        self._backward(main, total)
        # Lightning would count the critic's step too, and `max_steps` would end the run half-way.
        critic._on_before_step = critic._on_after_step = lambda: None
        losses = self.task.critic_losses(batch)
        self._backward(critic, self.task.total(losses))
        return losses

    def _backward(self, optimizer: Any, total: Tensor) -> None:
        if not total.requires_grad:  # a critic that has not started
            return
        self.manual_backward(total / self.optim.accumulate)
        if (self.batches + 1) % self.optim.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if not self.automatic_optimization and self.optim.clip:  # here float16's gradients have their true size again
            self.clip_gradients(optimizer, self.optim.clip, "norm")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        factor = lr_factor(self.optim, self.batches, self.steps)
        optimizers = self.optimizers(use_pl_optimizer=False)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] = base_lr(self.optim, group.get("role")) * factor

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.task.evaluate(batch)
        if batch_idx == 0 and self.trainer.is_global_zero:
            self._log_pictures("val", batch)

    def on_validation_epoch_end(self) -> None:
        measures = {f"val/{name}": float(value) for name, value in self.task.measures().items()}
        if self.trainer.sanity_checking:
            return
        self.measures = measures
        self.log_dict(measures, logger=False)  # for the user's callbacks; measures() has summed over the ranks
        for logger in self.loggers:
            logger.log_metrics(_finite(measures), step=self.batches)

    def configure_optimizers(self) -> Any:
        main = make_optimizer(self.optim, self.task)
        if self.task.critic is None:
            return main
        critic = torch.optim.Adam(
            self.task.critic.parameters(),
            lr=base_lr(self.optim),
            betas=(self.optim.critic_betas[0], self.optim.critic_betas[1]),
        )
        return [main, critic]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches"] = self.batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches = checkpoint["batches"]

    def refuse_divergence(self) -> None:
        """Raise `Diverged`, on every rank, where a loss of the last batch is no number on one."""
        finite = bool(torch.stack([term.float() for term in self.losses.values()]).isfinite().all())
        if self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        told = ", ".join(f"{name} {float(term):g}" for name, term in self.losses.items())
        raise Diverged(f"the losses of batch {self.batches} are {told}", self.batches)

    def report(self, batch: Any) -> None:
        """Log what is due of the batch that was trained last. After its step: nothing here touches what backward needs."""
        if self.batches % self.log_every == 0:
            values = {name: float(term) for name, term in self.losses.items()}
            values |= self.task.stats() | {"lr": self.optim.lr * lr_factor(self.optim, self.batches - 1, self.steps)}
            for logger in self.loggers:
                logger.log_metrics(
                    _finite({f"train/{name}": value for name, value in values.items()}), step=self.batches
                )
        if self.batches % self.pictures_every == 0 and self.trainer.is_global_zero:
            self._log_pictures("train", batch)

    @torch.no_grad()
    def _log_pictures(self, stage: str, batch: Any) -> None:
        if not self.loggers or self.trainer.sanity_checking:
            return
        training = self.task.training
        self.task.eval()
        for name, picture in self.task.pictures(batch).items():
            for logger in self.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(f"{stage}/{name}", [picture], step=self.batches)
                elif add := getattr(getattr(logger, "experiment", None), "add_image", None):  # TensorBoard's
                    add(f"{stage}/{name}", np.asarray(picture), self.batches, dataformats="HWC")
        self.task.train(training)


def base_lr(optim: Optim, role: str | None = None) -> float:
    """The learning rate of a role, or of the critic. Asked at every batch: a resumed run may be given another."""
    return optim.lr * optim.lr_scale.get(role, 1.0) if role else optim.critic_lr or optim.lr


def lr_factor(optim: Optim, batches: int, steps: int) -> float:
    """What the learning rate is multiplied by at a batch: linear warm-up, then constant or cosine to 0 at `steps`."""
    if batches < optim.warmup:
        return (batches + 1) / optim.warmup
    if optim.schedule == "constant" or not steps:
        return 1.0
    done = (batches - optim.warmup) / max(1, steps - optim.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(optim: Optim, task: Task) -> torch.optim.Optimizer:
    """One parameter group a role, its learning rate scaled by optim.lr_scale[role]."""
    every = task.roles()
    if unknown := set(optim.lr_scale) - set(every):
        raise ValueError(f"optim.lr_scale names {', '.join(sorted(unknown))}; this task's roles are {', '.join(every)}")
    roles = {role: parameters for role, parameters in every.items() if parameters}
    _check_roles(roles, task)
    groups = [{"params": parameters, "role": role} for role, parameters in roles.items()]
    betas = (optim.betas[0], optim.betas[1])
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=betas[0], weight_decay=optim.weight_decay)
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=betas, weight_decay=optim.weight_decay)


def _check_roles(roles: Mapping[str, Sequence[Parameter]], task: Task) -> None:
    grouped = [p for parameters in roles.values() for p in parameters]
    critic = set(task.critic.parameters()) if task.critic is not None else set()
    trained = {p for p in task.parameters() if p.requires_grad} - critic
    assert len(grouped) == len(set(grouped)), "a parameter stands in two roles"
    assert set(grouped) == trained, f"{len(trained - set(grouped))} trainable parameters stand in no role"


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


# ---------------------------------------------------------------------------------------------------- the run's folder


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


class Interrupted(Exception):
    """The run was asked to end; its last checkpoint is written."""


class Diverged(ValueError):
    """Losses or weights are no numbers any more. No checkpoint holds them."""

    def __init__(self, what: str, batches: int) -> None:
        """what: which value at which batch. batches: that were trained before."""
        super().__init__(what)
        self.batches = batches


class Report(Callback):
    """Tests the losses, logs and draws: after each batch's step, and before `Keeper` saves it."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero:  # a folder with this file has trained, and is never taken away
            Path(trainer.default_root_dir, "metrics.csv").touch()
        pl_module.refuse_divergence()
        pl_module.report(batch)


class Average(EMAWeightAveraging):
    """Averaged weights stay in place until the measures are taken, so that buffers a task writes there, such as a
    threshold, are saved with the weights that they were found for."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning would take them out here, before the module's own hook."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


class Keeper(Callback):
    """Says when to validate, keeps checkpoints/last.ckpt and best.ckpt, and ends on SIGINT or SIGTERM, `last` written.

    A batch that is validated is saved after its validation, so that a resumed run neither repeats nor skips it.
    `last` is never written between batches whose gradients add up to one step: they would be lost.
    """

    def __init__(self, folder: Path, config: Run, val_every: int, steps: int) -> None:
        self.folder, self.config, self.val_every, self.steps = folder / "checkpoints", config, val_every, steps
        self.best: dict[str, float] = {}  # the measures of best.ckpt, and its "batches"
        self.owed = False  # a checkpoint is due
        self.interrupted = False
        self._before: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config.plain()
        # The last batch of this run is not the last of one that `trainer.steps` makes longer: Lightning would stop.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.interrupted = True
        signal.signal(number, signal.SIG_DFL)  # whoever asks twice is in a hurry

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        # Dropout and the like draw from the global generator: as a function of the batch it needs no checkpoint.
        torch.manual_seed(hash((self.config.seed, pl_module.batches, trainer.global_rank)) % 2**63)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        done = pl_module.batches
        if trainer.world_size > 1:
            self.interrupted = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        validates = done % self.val_every == 0 or done == self.steps
        trainer.val_check_batch = 1 if validates else sys.maxsize  # Lightning alone would leave out the last batch
        self.owed |= self.interrupted or done % self.config.trainer.save_every == 0
        if not validates:
            self._save_last(trainer, done)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit":
            return
        if self._is_best(pl_module.measures):
            self.best = pl_module.measures | {"batches": pl_module.batches}
            self._save(trainer, "best")
        self.owed = True
        self._save_last(trainer, pl_module.batches)

    def _save_last(self, trainer: pl.Trainer, done: int) -> None:
        """Write what is owed, and end a run that is to end; not between two batches whose gradients add up."""
        if self.owed and (done % self.config.optim.accumulate == 0 or done == self.steps):
            self._save(trainer, "last")
            self.owed = False
            if self.interrupted and done < self.steps:
                raise Interrupted

    def _is_best(self, measures: Mapping[str, float]) -> bool:
        monitor = self.config.trainer.monitor
        if not monitor:
            return False
        if monitor not in measures:
            raise ValueError(f"trainer.monitor={monitor} is not measured; these are: {', '.join(sorted(measures))}")
        sign = 1 if self.config.trainer.mode == "max" else -1
        if math.isnan(measures[monitor]):  # no number is better than it, nor worse
            return False
        return not self.best or sign * measures[monitor] > sign * self.best[monitor]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        file = self.folder / f"{name}.ckpt"
        _refuse_not_finite(trainer.lightning_module)
        if not trainer.is_global_zero:  # takes part, but writes nothing
            trainer.save_checkpoint(file)
            return
        with write_atomically(file) as part:
            trainer.save_checkpoint(part)


def _refuse_not_finite(loop: Any) -> None:
    """Raise `Diverged` where a trained weight is no number: a good checkpoint is never overwritten by such."""
    for name, weight in loop.task.named_parameters():
        if not bool(weight.isfinite().all()):
            raise Diverged(f"the weights {name} are not finite after batch {loop.batches}", loop.batches)


# ------------------------------------------------------------------------------------------------------------- a run


class Result(NamedTuple):
    """What a run ended with."""

    folder: Path
    measures: dict[str, float]  # of the last validation
    best: dict[str, float]  # of the validation that `monitor` likes best, with its "batches"
    finished: bool  # False: interrupted, and can be resumed
    protocol: Mapping[str, Any]  # how the measures were taken


def run(task: Task, loaders: Loaders, config: Run, folder: Path) -> Result:
    """Train in a folder, from its checkpoints/last.ckpt if there is one. config.yaml is written once all is well."""
    _quiet()
    last, log, began = folder / "checkpoints" / "last.ckpt", Folder(folder), time.perf_counter()
    before = read_checkpoint(last)["batches"] if last.exists() else 0
    trainer = make_trainer(task, config, folder, [log, *trackers(config, folder)])
    per_epoch = loaders.train.batches_per_epoch(trainer.world_size)
    steps = config.trainer.steps or config.trainer.epochs * per_epoch
    _check(folder, before, steps, loaders, trainer.world_size)
    loop = Loop(task, config.optim, steps, config.trainer.log_every, config.trainer.pictures_every)
    make_optimizer(config.optim, task)  # a role that does not exist comes to light
    loaders.train.steps = steps
    trainer.val_check_interval = min(config.trainer.val_every or per_epoch, steps)
    keeper = Keeper(folder, config, trainer.val_check_interval, steps)
    trainer.callbacks.append(keeper)  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        _prepare(folder, config, log, before)
    task.train()  # towers come in eval mode, in which Lightning would leave them
    try:
        trainer.fit(loop, loaders.train, loaders.val, ckpt_path=str(last) if before else None, weights_only=True)
    except Interrupted:
        return Result(folder, loop.measures, keeper.best, finished=False, protocol=task.protocol())
    except Diverged as error:
        raise Diverged(
            f"training diverged: {error}. {_after_divergence(config, keeper.folder)}", error.batches
        ) from None
    if trainer.is_global_zero:
        cost = {"batches": steps, "seconds": time.perf_counter() - began, "from_batch": before}
        write_summary(folder, config, loop.measures, keeper.best, task.protocol(), cost)
    return Result(folder, loop.measures, keeper.best, finished=True, protocol=task.protocol())


def _after_divergence(config: Run, checkpoints: Path) -> str:
    """What is left of a run that diverged, and what to try."""
    kept = [name for name in ("last.ckpt", "best.ckpt") if (checkpoints / name).exists()]
    left = f"{' and '.join(kept)} in {checkpoints} are from before. " if kept else ""
    o = config.optim
    return f"{left}Lower optim.lr={o.lr:g}, raise optim.warmup={o.warmup}, or clip gradients, optim.clip={o.clip:g}"


def _check(folder: Path, before: int, steps: int, loaders: Loaders, world_size: int) -> None:
    """What only the data and the processes together can tell."""
    if steps < 1:
        raise ValueError("the training items do not fill one batch of all processes: lower data.batch_size")
    if before >= steps:
        raise ValueError(f"{folder} is finished ({before} of {steps} batches): raise trainer.steps to go on")
    if (held_out := len(loaders.val.dataset)) < world_size:  # type: ignore[arg-type]
        raise ValueError(f"{held_out} validation items for {world_size} processes: hold out more")


def _prepare(folder: Path, config: Run, log: Folder, before: int) -> None:
    """The run's folder, without what a killed run left half-written or wrote after its last checkpoint."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for left in (folder / "checkpoints").glob(".*"):
        left.unlink()
    with write_atomically(folder / "config.yaml") as part:
        part.write_text(yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    log.resume(before)


def make_trainer(task: Task, config: Run, folder: Path, loggers: list[Logger]) -> pl.Trainer:
    """Lightning's Trainer for one pass over a stream of batches; `Keeper` tells it when to validate."""
    t = config.trainer
    # With two optimisers Lightning refuses to accumulate and clip, so the loop does it.
    alone = task.critic is None
    several = t.strategy == "auto" and (t.devices != 1 or t.num_nodes > 1)
    # Each of two optimisers leaves the other's parameters without a gradient.
    strategy = ("ddp" if alone else "ddp_find_unused_parameters_true") if several else t.strategy
    # The average comes before the keeper, so that what is saved holds this batch. A codebook has averages of its own.
    average = [Average(decay=config.optim.ema, use_buffers=False)] if config.optim.ema else []
    options: dict[str, Any] = dict(  # noqa: C408
        accelerator=t.accelerator,
        devices=t.devices,
        num_nodes=t.num_nodes,
        strategy=strategy,
        precision=t.precision,
        max_epochs=1,
        accumulate_grad_batches=config.optim.accumulate if alone else 1,
        gradient_clip_val=config.optim.clip or None if alone else None,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[*average, Progress(config.trainer.log_every), Report()],
        enable_progress_bar=False,
        logger=loggers,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        return pl.Trainer(**options)
    except MisconfigurationException as error:  # a device that is not there, a precision that does not exist
        raise ValueError(f"trainer: {error}") from error


def _quiet() -> None:
    """Lightning's advice on devices, workers and products is no news of this run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message="This DataLoader will create")


class Progress(Callback):
    """A bar on stderr with the time left, over all batches of the run; in a file, a line now and then."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.bar = tqdm(
            desc="training",
            total=pl_module.steps,
            initial=pl_module.batches,
            unit=" batches",
            mininterval=0.2 if sys.stderr.isatty() else 20,
            disable=not trainer.is_global_zero,
            dynamic_ncols=True,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.batches % self.every == 0 and outputs:
            self.bar.set_postfix(loss=f"{float(outputs['loss']):.4g}", refresh=False)
        self.bar.update()

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


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
        "versions": versions | {"sightword": sightword.__version__},
    }
    with write_atomically(folder / "summary.json") as part:
        Path(part).write_text(json.dumps(summary, indent=2) + "\n")


@torch.no_grad()
def evaluate(task: Task, loader: Any, config: Run) -> dict[str, float]:
    """The measures of a task on a loader, outside of any run; on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
    task.to(device).eval()
    for batch in tqdm(loader, desc="evaluating", disable=None):
        task.evaluate(move_data_to_device(batch, device))
    return task.measures()
