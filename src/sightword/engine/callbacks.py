"""Lightning callbacks of a run: reports, checkpoints, validation, interruption, progress, averaged weights.

The callbacks use the loop only through the protocol `Progressing`.
"""

import math
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Protocol, TypedDict, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from sightword.engine.config import Run
from sightword.engine.contract import Metrics
from sightword.engine.logger import RunLogger
from sightword.errors import Diverged
from sightword.storage.atomic import write_atomically


class Interrupted(Exception):
    """The run was asked to end; its last checkpoint is written."""


class Progressing(Protocol):
    """The part of the loop that callbacks use."""

    batches: int  # trained so far
    steps: int  # to train in all
    metrics: Metrics  # of the last validation

    @property
    def last_loss(self) -> float: ...

    def finish_batch(self, batch: object) -> None: ...

    def trained(self) -> nn.Module: ...


class WeightAveraging(EMAWeightAveraging):
    """Averaged weights (EMA) that stay in place until the metrics are computed.

    Buffers that a task writes then, such as a threshold, are saved with the weights that they were computed for.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do nothing: Lightning would restore the trained weights here, before the module's own hook."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


@runtime_checkable
class Stepwise(Protocol):
    """A module that learns without gradients, such as an EMA codebook, and can wait for the optimiser's steps."""

    deferred: bool  # whether batches are only gathered, until `step`

    def step(self) -> None: ...

    def pending(self) -> dict[str, Tensor]: ...

    def load_pending(self, pending: Mapping[str, Tensor]) -> None: ...


class Accumulated(TypedDict):
    """What a checkpoint between two batches of one optimiser step has more than others."""

    gathered: dict[str, dict[str, Tensor]]  # name of a `Stepwise` module → what it has gathered
    gradients: dict[str, Tensor]  # name of a parameter → its gradient so far


class AccumulationCallback(Callback):
    """Callback that moves EMA codebooks (`Stepwise`) once an optimiser step, by the batches whose gradients it has.

    A checkpoint between two of these batches contains their statistics and, on one device, their gradients. Lightning
    would lose both.
    """

    def __init__(self) -> None:
        self.module: nn.Module | None = None
        self.is_open = False  # whether gradients have been added since the last optimiser step
        self.several = False
        self.accumulated: Accumulated | None = None  # as loaded

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.module, self.is_open, self.accumulated = pl_module, False, None
        self.several = trainer.world_size > 1  # gradients of one rank are not those of all

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loaded = self.accumulated or {"gathered": {}, "gradients": {}}
        for name, module in _stepwise(pl_module):
            module.deferred = True
            module.load_pending(loaded["gathered"].get(name, {}))
        for name, gradient in loaded["gradients"].items():
            parameter = pl_module.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.is_open = True

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self.is_open = False
        for _, module in _stepwise(pl_module):
            module.step()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for _, module in _stepwise(pl_module):
            module.deferred = False
            module.load_pending({})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> Accumulated | dict[str, object]:  # type: ignore[override]
        if not self.is_open or self.module is None:
            return {}
        gathered = {name: module.pending() for name, module in _stepwise(self.module)}
        gradients = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}
        return {"gathered": gathered, "gradients": {} if self.several else gradients}

    def load_state_dict(self, state_dict: Accumulated) -> None:  # type: ignore[override]
        self.accumulated = state_dict


def _stepwise(module: nn.Module) -> list[tuple[str, Stepwise]]:
    return [(name, each) for name, each in module.named_modules() if isinstance(each, Stepwise)]


class CheckpointCallback(Callback):
    """Callback that logs each batch, schedules validation and writes checkpoints/last.ckpt and best.ckpt.

    After SIGINT or SIGTERM it writes `last` and ends the run.

    A batch that is validated is saved after its validation, so that a resumed run neither repeats nor skips it.
    `last` is never written between batches whose gradients add up to one step: they would be lost.
    """

    def __init__(self, loop: Progressing, log: RunLogger, config: Run, val_every: int) -> None:
        self.loop, self.logger, self.config, self.val_every = loop, log, config, val_every
        self.folder = log.root / "checkpoints"
        self.best: Metrics = {}  # the metrics of best.ckpt, and its "batches"
        self.last_is_due = False
        self.interrupted = False
        self._before: dict[int, signal.Handlers] = {}

    def state_dict(self) -> dict[str, Metrics]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Metrics]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        checkpoint["config"] = self.config.plain()
        # The last batch of this run is not the last of one that `trainer.steps` makes longer: Lightning would stop.
        loops = checkpoint["loops"]
        assert isinstance(loops, dict)
        loops["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._interrupt)  # type: ignore[assignment]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(number, signal.SIG_DFL)  # a second one terminates at once, without writing a checkpoint

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        # Dropout and the like draw from the global generator: as a function of the batch it needs no checkpoint.
        torch.manual_seed(hash((self.config.seed, self.loop.batches, trainer.global_rank)) % 2**63)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.logger.begin()
        self.loop.finish_batch(batch)  # before anything of it is saved
        done = self.loop.batches
        if trainer.world_size > 1:
            self.interrupted = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        validates = done % self.val_every == 0 or done == self.loop.steps
        trainer.val_check_batch = 1 if validates else sys.maxsize  # Lightning alone would leave out the last batch
        self.last_is_due |= self.interrupted or done % self.config.trainer.save_every == 0
        if not validates:
            self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        if self._is_best(self.loop.metrics):
            self.best = self.loop.metrics | {"batches": self.loop.batches}
            self._save(trainer, "best")
        self.last_is_due = True
        self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        """Write last.ckpt if it is due and no gradients are accumulated. Raises Interrupted if the run has to end."""
        done = self.loop.batches
        if self.last_is_due and (done % self.config.optim.accumulate == 0 or done == self.loop.steps):
            self._save(trainer, "last")
            self.last_is_due = False
            if self.interrupted and done < self.loop.steps:
                raise Interrupted

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        monitor = self.config.trainer.monitor
        if not monitor or math.isnan(metrics.get(monitor, math.nan)):  # no number is better than NaN, nor worse
            return False
        sign = 1 if self.config.trainer.mode == "max" else -1
        return not self.best or sign * metrics[monitor] > sign * self.best[monitor]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        """Write a checkpoint. Raises Diverged, and keeps the old one, if a trained weight is not finite."""
        for weight, values in self.loop.trained().named_parameters():
            if not bool(values.isfinite().all()):
                raise Diverged(f"the weights {weight} are not finite after batch {self.loop.batches}")
        file = self.folder / f"{name}.ckpt"
        if not trainer.is_global_zero:  # takes part, but writes nothing
            trainer.save_checkpoint(file)
            return
        with write_atomically(file) as part:
            trainer.save_checkpoint(part)


class ProgressCallback(Callback):
    """A progress bar on stderr over all batches of the run; if stderr is not a terminal, a line every 20 s."""

    def __init__(self, loop: Progressing, every: int) -> None:
        self.loop, self.every = loop, every
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar = tqdm(
            desc="training",
            total=self.loop.steps,
            initial=self.loop.batches,
            unit=" batches",
            mininterval=0.2 if sys.stderr.isatty() else 20,
            disable=not trainer.is_global_zero,
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        if self.loop.batches % self.every == 0:
            self.bar.set_postfix(loss=f"{self.loop.last_loss:.4g}", refresh=False)
        self.bar.update()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # the message of the error stands on a line of its own

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()
