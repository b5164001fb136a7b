"""The training loop: a Task and its loaders in, a folder with checkpoints, measures and pictures out.

`Loop` is the one LightningModule. With a discriminator it drives two optimisers by hand, otherwise Lightning does. `run`
trains in a folder that survives kill -9 and goes on from there to the same result, bit for bit on one device.

All counts are batches trained (`Loop.batches`): Lightning's own `global_step` counts optimiser steps.
"""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from tqdm import tqdm

from sightword.data.loader import Loaders
from sightword.engine.callbacks import Average, CheckpointCallback, Diverged, Interrupted, Progress, Report
from sightword.engine.config import Optim, Run
from sightword.engine.contract import Task
from sightword.engine.logger import Folder, trackers, write_summary
from sightword.engine.optim import base_lr, lr_factor, make_optimizer
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import read_checkpoint


class Loop(pl.LightningModule):
    """A Task under Lightning. Losses, their weighted total and stats are logged as train/…, measures as val/…"""

    def __init__(self, task: Task, optim: Optim, steps: int = 0, log_every: int = 50, images_every: int = 500) -> None:
        super().__init__()
        self.task, self.optim, self.steps = task, optim, steps
        self.log_every, self.images_every = log_every, images_every
        self.batches = 0
        self.measures: dict[str, float] = {}  # of the last validation
        self.losses: dict[str, Tensor] = {}  # of the last batch, with their weighted total
        self.automatic_optimization = task.discriminator is None

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
        main, discriminator = self.optimizers()  # type: ignore[attr-defined]
        self._backward(main, total)
        # Lightning would count the discriminator's step too, and `max_steps` would end the run half-way.
        discriminator._on_before_step = discriminator._on_after_step = lambda: None
        losses = self.task.discriminator_losses(batch)
        self._backward(discriminator, self.task.total(losses))
        return losses

    def _backward(self, optimizer: Any, total: Tensor) -> None:
        if not total.requires_grad:  # a discriminator that has not started
            return
        self.manual_backward(total / self.optim.accumulate)
        if (self.batches + 1) % self.optim.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if (
            not self.automatic_optimization and self.optim.max_grad_norm
        ):  # here float16's gradients have their true size again
            self.clip_gradients(optimizer, self.optim.max_grad_norm, "norm")

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
        if self.task.discriminator is None:
            return main
        discriminator = torch.optim.Adam(
            self.task.discriminator.parameters(),
            lr=base_lr(self.optim),
            betas=(self.optim.discriminator_betas[0], self.optim.discriminator_betas[1]),
        )
        return [main, discriminator]

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
        if self.batches % self.images_every == 0 and self.trainer.is_global_zero:
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


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


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
    loop = Loop(task, config.optim, steps, config.trainer.log_every, config.trainer.images_every)
    make_optimizer(config.optim, task)  # a role that does not exist comes to light
    loaders.train.steps = steps
    trainer.val_check_interval = min(config.trainer.val_every or per_epoch, steps)
    keeper = CheckpointCallback(folder, config, trainer.val_check_interval, steps)
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
    return f"{left}Lower optim.lr={o.lr:g}, raise optim.warmup={o.warmup}, or clip gradients, optim.max_grad_norm={o.clip:g}"


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
    """Lightning's Trainer for one pass over a stream of batches; `CheckpointCallback` tells it when to validate."""
    t = config.trainer
    # With two optimisers Lightning refuses to accumulate and clip, so the loop does it.
    alone = task.discriminator is None
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
        gradient_clip_val=config.optim.max_grad_norm or None if alone else None,
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


@torch.no_grad()
def evaluate(task: Task, loader: Any, config: Run) -> dict[str, float]:
    """The measures of a task on a loader, outside of any run; on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
    task.to(device).eval()
    for batch in tqdm(loader, desc="evaluating", disable=None):
        task.evaluate(move_data_to_device(batch, device))
    return task.measures()
