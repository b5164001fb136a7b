"""Train a `Task` and write checkpoints, metrics and images to the run directory; evaluate a `Task`.

`Loop` is the one LightningModule. With a discriminator it drives two optimisers by hand, otherwise Lightning does.
`fit` trains in a run directory. After an interruption, even kill -9, it resumes to the same result, bit for bit on one
device.

All counts are batches trained (`Loop.batches`): Lightning's own `global_step` counts optimiser steps.
"""

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypedDict, cast

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from sightword.data.loader import Loaders, moved
from sightword.engine.callbacks import (
    AccumulationCallback,
    CheckpointCallback,
    Interrupted,
    ProgressCallback,
    WeightAveraging,
)
from sightword.engine.config import Optim, Run
from sightword.engine.contract import BatchT, Evaluator, Metrics
from sightword.engine.logger import RunLogger, finite, trackers, write_summary
from sightword.engine.optim import LOOP_LR, base_lr, lr_factor, make_discriminator_optimizer, make_optimizer
from sightword.engine.task import Task
from sightword.errors import Diverged, SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import read_checkpoint

# ---------------------------------------------------------------------------------------------------------- the loop


class OptimizerState(TypedDict):
    """The part of an optimiser's state dict that is read here."""

    param_groups: list[dict[str, object]]


class Loop(pl.LightningModule, Generic[BatchT]):
    """The LightningModule of any Task. Logs losses, their weighted total and stats as train/…, metrics as val/…, test/…

    It sets learning rates only where nobody else does: a scheduler, a callback, the Tuner or a subclass's
    `configure_optimizers` has precedence over the `warmup` and `schedule` of `optim`.

    monitored: whether callbacks can monitor train/…, as the value of the last batch, or the mean after an epoch.
    """

    monitored = True

    def __init__(
        self,
        task: Task[BatchT],
        evaluator: Evaluator[BatchT],
        optim: Optim,
        steps: int = 0,
        log_every: int = 50,
        images_every: int = 500,
    ) -> None:
        super().__init__()
        self.task, self.evaluator, self.optim, self.steps = task, evaluator, optim, steps
        self.log_every, self.images_every = log_every, images_every
        self.batches = 0
        self.metrics: Metrics = {}  # of the last validation
        self.losses: dict[str, Tensor] = {}  # of the last batch, with their weighted total
        self.rate = optim.lr  # of the last batch, before factors of parameter groups
        self._finished = 0  # the batch that `finish_batch` was called for
        self.automatic_optimization = task.discriminator is None

    # ------------------------------------------------------------------------------------------------------ training

    def training_step(self, batch: BatchT, batch_idx: int) -> Tensor | None:
        self._set_rates()
        self.task.batches = self.batches
        try:
            losses = self.task.losses(batch)
        except Diverged:
            if not self._is_search():
                raise
            self.trainer.should_stop = True
            return None
        total = self.task.total(losses)
        if not self.automatic_optimization:
            losses = losses | self._step_both(batch, total)
        self.losses = {name: term.detach() for name, term in (losses | {"total_loss": total}).items()}
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        if self.monitored:
            values = {f"train/{name}": term for name, term in self.losses.items()}
            several = self.trainer.world_size > 1
            self.log_dict(values, logger=False, on_step=True, on_epoch=True, batch_size=1, sync_dist=several)
        self.batches += 1
        return total

    def _step_both(self, batch: BatchT, total: Tensor) -> dict[str, Tensor]:
        """Step both optimisers, or accumulate their gradients. Only steps of the first count in `global_step`."""
        both = self.optimizers()
        assert isinstance(both, list)
        main, other = both
        assert isinstance(main, LightningOptimizer)
        assert isinstance(other, LightningOptimizer)
        self._backward(main, total)
        # Lightning would count the second step too, and `max_steps` would end the run half-way.
        other._on_before_step = other._on_after_step = lambda: None
        losses = self.task.discriminator_losses(batch)
        self._backward(other, self.task.total(losses))
        return losses

    def _backward(self, optimizer: LightningOptimizer, total: Tensor) -> None:
        if not total.requires_grad:  # a discriminator that has not started
            return
        self.manual_backward(total / self.optim.accumulate)
        if (self.batches + 1) % self.optim.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if not self.automatic_optimization and self.optim.max_grad_norm:  # float16's gradients have their size again
            self.clip_gradients(optimizer, self.optim.max_grad_norm, "norm")

    def _set_rates(self) -> None:
        """Set the learning rates of a batch, but for groups whose rate is not the one that was last set here."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        factor = lr_factor(self.optim, self.batches, self.steps)
        own = [group for group in groups if group.get(LOOP_LR) == group["lr"]]
        for group in own if not self.trainer.lr_scheduler_configs else []:
            group["lr"] = group[LOOP_LR] = base_lr(self.optim, group.get("name")) * factor
        self.rate = self.optim.lr * factor if groups[0].get(LOOP_LR) == groups[0]["lr"] else groups[0]["lr"]

    def on_train_batch_end(self, outputs: object, batch: BatchT, batch_idx: int) -> None:
        self.finish_batch(batch)

    def configure_callbacks(self) -> list[Callback]:
        self._check_trainer()
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        present = any(isinstance(each, AccumulationCallback) for each in callbacks)
        return [] if present else [AccumulationCallback()]

    def _check_trainer(self) -> None:
        """Raise SightwordError if the Trainer has options with which this module cannot train."""
        trainer, precision = self.trainer, self.trainer.precision
        if trainer.state.fn == "fit" and precision == "16-true":
            raise SightwordError(
                "precision='16-true' cannot train: small gradients and Adam's averages of their squares are 0 in "
                "float16. Give the Trainer precision='16-mixed' or 'bf16-true'"
            )
        if self.automatic_optimization:
            return
        if trainer.accumulate_grad_batches != 1 or trainer.gradient_clip_val:
            raise SightwordError(
                "with a discriminator the module steps two optimisers itself. Instead of the Trainer's "
                "accumulate_grad_batches and gradient_clip_val, give accumulate= and max_grad_norm= to the module"
            )
        if precision in ("bf16-true", "64-true"):
            raise SightwordError(
                f"precision={precision!r} does not fit a discriminator, whose gradients at pixels are float32. "
                "Give the Trainer precision='32-true', 'bf16-mixed' or '16-mixed'"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        main = make_optimizer(self.optim, self.task)
        if self.task.discriminator is None:
            return main
        return [main, make_discriminator_optimizer(self.optim, self.task.discriminator)]

    # ---------------------------------------------------------------------------------------------------- validation

    def validation_step(self, batch: BatchT, batch_idx: int) -> None:
        self.evaluator.update(batch)
        if batch_idx == 0 and self.trainer.is_global_zero:
            self._log_images("val", batch)

    def on_validation_epoch_end(self) -> None:
        metrics = {f"val/{name}": float(value) for name, value in self.evaluator.compute().items()}
        if self.trainer.sanity_checking:
            return
        self.metrics = metrics
        fitting = self.trainer.state.fn == "fit"
        # For callbacks; outside of `fit` also for what `Trainer.validate` returns. Every rank has the same already.
        self.log_dict(metrics, logger=not fitting, sync_dist=True)
        for logger in self.loggers if fitting else []:
            logger.log_metrics(finite(metrics), step=self.batches)

    def test_step(self, batch: BatchT, batch_idx: int) -> None:
        self.evaluator.update(batch)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": float(v) for name, v in self.evaluator.compute().items()}, sync_dist=True)

    # -------------------------------------------------------------------------------- used by callbacks (`Progressing`)

    @property
    def last_loss(self) -> float:
        """The weighted total of the last batch."""
        return float(self.losses["total_loss"])

    def trained(self) -> Task[BatchT]:
        """Return the task that is trained."""
        return self.task

    def finish_batch(self, batch: object) -> None:
        """Check the losses of the last batch and log it where due. Further calls for the same batch do nothing.

        Called after the optimiser step, so that nothing here changes what the backward pass needs.
        """
        if self._finished == self.batches:
            return
        self._finished = self.batches
        self._check_finite()
        if self.batches % self.log_every == 0:
            stats = self.task.stats()
            if self.monitored:
                self.log_dict({f"train/{name}": value for name, value in stats.items()}, logger=False)
            values = {name: float(term) for name, term in self.losses.items()} | stats | {"lr": self.rate}
            for logger in self.loggers:
                logger.log_metrics(finite({f"train/{name}": v for name, v in values.items()}), step=self.batches)
        if self.batches % self.images_every == 0 and self.trainer.is_global_zero:
            self._log_images("train", cast(BatchT, batch))

    def _check_finite(self) -> None:
        """Raise Diverged on every rank if a loss of the last batch is not finite on any."""
        sound = bool(torch.stack([term.float() for term in self.losses.values()]).isfinite().all())
        if self.trainer.strategy.reduce_boolean_decision(sound, all=True):
            return
        if self._is_search():
            self.trainer.should_stop = True
            return
        losses = ", ".join(f"{name} {float(term):g}" for name, term in self.losses.items())
        raise Diverged(f"the losses of batch {self.batches} are {losses}")

    def _is_search(self) -> bool:
        """Return whether Lightning searches for a learning rate: it raises the rate until training diverges."""
        return any("tuner" in type(each.scheduler).__module__ for each in self.trainer.lr_scheduler_configs)

    @torch.no_grad()
    def _log_images(self, stage: str, batch: BatchT) -> None:
        if not self.loggers or self.trainer.sanity_checking:
            return
        training = self.task.training
        self.task.eval()
        for name, image in self.evaluator.images(batch).items():
            for logger in self.loggers:
                if log := getattr(logger, "log_image", None):
                    log(f"{stage}/{name}", [image], step=self.batches)
                elif add := getattr(getattr(logger, "experiment", None), "add_image", None):  # TensorBoard's
                    add(f"{stage}/{name}", np.asarray(image), self.batches, dataformats="HWC")
        self.task.train(training)

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["batches"] = self.batches
        checkpoint["classes"] = list(self.task.classes)

    def on_load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        batches = checkpoint["batches"]
        assert isinstance(batches, int)
        self.batches = self._finished = batches
        if type(self).configure_optimizers is Loop.configure_optimizers:
            for state in cast(list[OptimizerState], checkpoint.get("optimizer_states", [])):
                for group in state["param_groups"]:  # those of earlier versions do not say who set the rate: the loop
                    group.setdefault(LOOP_LR, group["lr"])


# ------------------------------------------------------------------------------------------------------------- a run


class Fitted(NamedTuple):
    """The outcome of a training."""

    folder: Path
    metrics: Metrics  # of the last validation
    best: Metrics  # of the validation that is best by `monitor`, with its "batches"
    finished: bool  # False: interrupted, and can be resumed
    protocol: dict[str, str]  # how the metrics were measured
    notes: dict[str, str]  # on some metrics


def fit(
    task: Task[BatchT], evaluator: Evaluator[BatchT], loaders: Loaders[BatchT], config: Run, folder: Path
) -> Fitted:
    """Train in a run directory, from its checkpoints/last.ckpt if that exists.

    Raises SightwordError, before anything is written, if config, data and number of processes do not fit together.
    """
    _quiet()
    last, log, began = folder / "checkpoints" / "last.ckpt", RunLogger(folder), time.perf_counter()
    before = _batches(last) if last.exists() else 0
    t = config.trainer
    loop = Loop(task, evaluator, config.optim, 0, t.log_every, t.images_every)
    loop.monitored = False  # the callbacks of a run do not
    trainer = make_trainer(loop, config, folder, log)
    per_epoch = loaders.train.batches_per_epoch(trainer.world_size)
    loop.steps = loaders.train.steps = _checked_steps(folder, before, per_epoch, loaders, config, trainer.world_size)
    _check_names(loop, config)
    trainer.val_check_interval = min(t.val_every or per_epoch, loop.steps)
    checkpoints = CheckpointCallback(loop, log, config, trainer.val_check_interval)
    trainer.callbacks.append(checkpoints)  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        _begin(folder, config, log, before)
    task.train()  # towers come in eval mode, in which Lightning would leave them
    finished = True
    try:
        trainer.fit(loop, loaders.train, loaders.val, ckpt_path=str(last) if before else None, weights_only=True)
    except Interrupted:
        finished = False
    except Diverged as error:
        raise Diverged(f"training diverged: {error}. {_after_divergence(config, checkpoints.folder)}") from None
    if finished and trainer.is_global_zero:
        cost = {"batches": loop.steps, "seconds": time.perf_counter() - began, "from_batch": before}
        protocol = {**evaluator.protocol(), "metrics": evaluator.notes()}
        write_summary(folder, config, loop.metrics, checkpoints.best, protocol, cost)
    return Fitted(folder, loop.metrics, checkpoints.best, finished, evaluator.protocol(), evaluator.notes())


def _batches(checkpoint: Path) -> int:
    return int(read_checkpoint(checkpoint)["batches"])


def _checked_steps(
    folder: Path, before: int, per_epoch: int, loaders: Loaders[BatchT], config: Run, world_size: int
) -> int:
    """Return the number of batches of the run. Raises SightwordError if data, processes and steps do not fit."""
    steps = config.trainer.steps or config.trainer.epochs * per_epoch
    if steps < 1:
        items, batch = loaders.train.items, loaders.train.batch_items * world_size
        raise SightwordError(
            f"the training set has {items} items, and one batch of all {world_size} processes needs {batch}. Set "
            f"data.batch_size to at most {max(1, items // world_size)}"
        )
    if before >= steps:
        raise SightwordError(f"{folder} is finished ({before} of {steps} batches). Raise trainer.steps to train longer")
    if (held_out := len(loaders.val.dataset)) < world_size:  # type: ignore[arg-type]
        raise SightwordError(f"there are {held_out} validation items for {world_size} processes. Hold out more")
    return steps


def _check_names(loop: Loop[BatchT], config: Run) -> None:
    """Raise SightwordError if trainer.monitor or optim.lr_scale names a metric or group that does not exist."""
    make_optimizer(config.optim, loop.task)
    monitor, known = config.trainer.monitor, sorted(f"val/{name}" for name in loop.evaluator.metric_names())
    if monitor and monitor not in known:
        raise SightwordError(f"trainer.monitor={monitor} is not measured; these are: {', '.join(known)}")


def _begin(folder: Path, config: Run, log: RunLogger, before: int) -> None:
    """Make the run directory; remove partial files and log rows later than the last checkpoint of a killed run."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for left in (folder / "checkpoints").glob(".*"):
        left.unlink()
    with write_atomically(folder / "config.yaml") as part:
        part.write_text(yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    log.resume(before)


def _after_divergence(config: Run, checkpoints: Path) -> str:
    """Return the advice after a divergence: which checkpoints are still good, and which settings to change."""
    kept = [name for name in ("last.ckpt", "best.ckpt") if (checkpoints / name).exists()]
    left = f"{' and '.join(kept)} in {checkpoints} are from before. " if kept else ""
    o = config.optim
    tried = f"optim.lr={o.lr:g}, raise optim.warmup={o.warmup}, or set optim.max_grad_norm={o.max_grad_norm:g}"
    return f"{left}Lower {tried} (0 does not clip)"


def make_trainer(loop: Loop[BatchT], config: Run, folder: Path, log: RunLogger) -> pl.Trainer:
    """Return Lightning's Trainer for one pass over a stream of batches; `CheckpointCallback` schedules validation.

    Raises SightwordError for a device or a strategy that does not exist.
    """
    t = config.trainer
    # With two optimisers Lightning refuses to accumulate and clip, so the loop does it.
    alone = loop.task.discriminator is None
    several = t.strategy == "auto" and (t.devices != 1 or t.num_nodes > 1)
    # Each of two optimisers leaves the other's parameters without a gradient.
    strategy = ("ddp" if alone else "ddp_find_unused_parameters_true") if several else t.strategy
    # The average comes before the checkpoint, so that what is saved contains this batch. A codebook averages itself.
    average = [WeightAveraging(decay=config.optim.ema, use_buffers=False)] if config.optim.ema else []
    loggers: list[Logger] = [log, *trackers(config, folder)]
    try:
        return pl.Trainer(
            accelerator=t.accelerator,
            devices=t.devices,
            num_nodes=t.num_nodes,
            strategy=strategy,
            precision=t.precision,  # type: ignore[arg-type]
            max_epochs=1,
            accumulate_grad_batches=config.optim.accumulate if alone else 1,
            gradient_clip_val=config.optim.max_grad_norm or None if alone else None,
            val_check_interval=1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=[*average, ProgressCallback(loop, t.log_every)],
            enable_progress_bar=False,
            logger=loggers,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise SightwordError(f"trainer.accelerator={t.accelerator}, trainer.strategy={strategy}: {error}") from error
    except ValueError as error:
        if "invalid" not in str(error):  # `strategy='ddpp'`, `accelerator='gpuu'`
            raise
        raise SightwordError(f"trainer: {error}") from error


def _quiet() -> None:
    """Silence Lightning's advice on devices, workers and products."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message="This DataLoader will create")


@torch.no_grad()
def evaluate(task: Task[BatchT], evaluator: Evaluator[BatchT], loader: DataLoader[BatchT], config: Run) -> Metrics:
    """Return the metrics of a task on a loader, without a Trainer. Uses a GPU, if any, unless accelerator is cpu."""
    device = torch.device("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
    task.to(device).eval()
    for batch in tqdm(loader, desc="evaluating", disable=None):
        evaluator.update(moved(batch, device))
    return evaluator.compute()
