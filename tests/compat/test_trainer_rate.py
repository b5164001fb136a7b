"""A learning rate that somebody else sets, in a plain Lightning Trainer, is the one that is used."""

import logging

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, Callback, LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.tuner import Tuner
from tiny_module import GAN, loader_of, model_of, trainer_of
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from sightword.compat.lightning import VQVAEModel

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


class Rates(Callback):
    """The rates of each step, as the optimiser had them."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def rates_of(model, *callbacks, batches=6, **options):
    """The rates of each step of one epoch of `batches`, or more."""
    seen = Rates()
    trainer = trainer_of(callbacks=[*callbacks, seen], **({"max_epochs": 1} | options))
    trainer.fit(model, loader_of(2 * batches, 2), loader_of(2, 2))
    return seen.rates


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    monkeypatch.chdir(tmp_path)  # the finder writes a checkpoint where it is


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine", "warmup": 3}], ids=["constant", "cosine"])
def test_the_finder_uses_the_rates_that_it_reports_and_its_suggestion_is_trained_with(options):
    model, seen = model_of(**options), []
    step = model.on_before_optimizer_step
    model.on_before_optimizer_step = lambda o: seen.append(o.param_groups[0]["lr"]) or step(o)
    trainer = trainer_of(max_epochs=2)
    found = Tuner(trainer).lr_find(model, loader_of(12, 2), num_training=12, early_stop_threshold=None)
    assert seen == pytest.approx(found.results["lr"][: len(seen)])
    assert seen[0] < 1e-6 < 0.01 < seen[-1]
    suggestion = found.suggestion(skip_begin=1, skip_end=1)
    model.learning_rate = suggestion
    seen.clear()
    trainer.fit(model, loader_of(12, 2))
    assert max(seen) == pytest.approx(suggestion)
    assert (model.batches, model.steps) == (12, 12 * bool(options)), "the search is not counted"
    assert seen[-1] == pytest.approx(suggestion) if not options else seen[-1] < 0.2 * suggestion


def test_the_suggestion_is_a_hyperparameter_too():
    model = model_of()
    found = Tuner(trainer_of(max_epochs=50)).lr_find(model, loader_of(12, 2), num_training=20)
    assert model.learning_rate == model.hparams["learning_rate"] == found.suggestion() != 2e-4


def test_a_search_that_runs_into_nan_ends_there():
    model = model_of(codebook="gradient")
    found = Tuner(trainer_of(max_epochs=50)).lr_find(
        model, loader_of(12, 2), max_lr=1e30, num_training=20, early_stop_threshold=None
    )
    assert len(found.results["loss"]) < 20
    assert model.batches == 0
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_finder_as_a_callback_trains_with_its_suggestion():
    finder = LearningRateFinder(num_training_steps=18)
    model = model_of()
    rates = rates_of(model, finder, max_epochs=4)
    assert rates[-24:] == [pytest.approx(finder.optimal_lr.suggestion())] * 24
    assert model.batches == 24


class Cyclic(VQVAEModel):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimizer], [{"scheduler": OneCycleLR(optimizer, max_lr=0.1, total_steps=7), "interval": "step"}]


class Stepwise(VQVAEModel):
    """Schedules the optimiser of the module."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [{"scheduler": StepLR(optimizer, 2, 0.1), "interval": "step"}]


class Plateau(VQVAEModel):
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/recon_loss"}}


class Bare(VQVAEModel):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def test_a_scheduler_of_ones_own_is_kept():
    expected = OneCycleLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), max_lr=0.1, total_steps=7)
    wanted = []
    for _ in range(6):
        wanted += expected.get_last_lr()
        expected.optimizer.step()
        expected.step()
    assert rates_of(model_of(Cyclic)) == pytest.approx(wanted)


def test_a_scheduler_of_the_modules_optimiser_is_kept():
    assert rates_of(model_of(Stepwise)) == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6])


def test_a_plateau_of_a_validation_metric_lowers_the_rate():
    rates = rates_of(model_of(Plateau), batches=2, max_epochs=4)
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 2 + [1e-5] * 2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_optimiser_of_ones_own_keeps_its_rate(accumulate):
    assert set(rates_of(model_of(Bare), accumulate_grad_batches=accumulate)) == {0.05}


class Halving(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 2.0 ** -(10 + batch_idx)


class Once(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.batches == 3:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 0.125


def test_rates_that_a_callback_sets_are_used_and_logged():
    assert rates_of(model_of(), Halving()) == [2.0 ** -(10 + n) for n in range(6)]
    model = model_of(warmup=2)
    assert rates_of(model, Once()) == [1e-4, 2e-4, 2e-4, 0.125, 0.125, 0.125]
    assert model.rate == 0.125


def test_warmup_reaches_both_optimisers_where_nobody_else_sets_rates():
    model = model_of(warmup=4, **GAN)
    assert rates_of(model)[:6:2] == rates_of(model_of(warmup=4, **GAN))[1:6:2] == pytest.approx([5e-5, 1e-4, 1.5e-4])


def test_weights_averaged_at_the_end_have_a_rate_of_their_own():
    average = StochasticWeightAveraging(swa_lrs=0.25, swa_epoch_start=1, annealing_epochs=1)
    rates = rates_of(model_of(), average, batches=2, max_epochs=4)
    assert rates[:2] == [2e-4] * 2
    assert rates[-1] == 0.25


def test_parameters_that_a_callback_adds_keep_the_rate_that_it_gives_them():
    class Backbone(VQVAEModel):
        @property
        def backbone(self):
            return self.task.model.encoder

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)

    model = model_of(Backbone)
    added = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.004, should_align=False)
    trainer = trainer_of(max_epochs=2, callbacks=[added])
    trainer.fit(model, loader_of(4, 2))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01
    assert trainer.optimizers[0].param_groups[1]["lr"] == pytest.approx(0.004)


def test_checkpoints_of_earlier_versions_go_on_with_the_schedule(tmp_path):
    trainer = trainer_of(max_epochs=1)
    trainer.fit(model_of(warmup=6), loader_of(6, 2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        del group["loop_lr"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    model, seen = model_of(warmup=6), Rates()
    trainer_of(max_epochs=2, callbacks=[seen]).fit(model, loader_of(6, 2), ckpt_path=tmp_path / "last.ckpt")
    assert seen.rates == pytest.approx([2e-4 * n / 6 for n in (4, 5, 6)])
