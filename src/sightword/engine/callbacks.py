"""What happens beside the training loop: averaged weights, checkpoints and validations, the progress bar."""

import math
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from tqdm import tqdm

from sightword.engine.config import Run
from sightword.storage.atomic import write_atomically


class Interrupted(Exception):
    """The run was asked to end; its last checkpoint is written."""


class Diverged(ValueError):
    """Losses or weights are no numbers any more. No checkpoint holds them."""

    def __init__(self, what: str, batches: int) -> None:
        """what: which value at which batch. batches: that were trained before."""
        super().__init__(what)
        self.batches = batches


class Report(Callback):
    """Tests the losses, logs and draws: after each batch's step, and before `CheckpointCallback` saves it."""

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


class CheckpointCallback(Callback):
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
