"""The loop, on a task of a dozen numbers: schedules, averages, the best, and what a run leaves in its folder."""

import csv
import json
import math
import sys

import pytest
import torch
from made import assert_same
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from sightword.data.loader import Loaders, Stream, generator_of, ordered
from sightword.engine import callbacks, fit, logger
from sightword.engine.config import Optim, Run, Trainer
from sightword.engine.contract import Evaluator
from sightword.engine.optim import lr_factor, make_optimizer
from sightword.engine.task import Task
from sightword.errors import Diverged, SightwordError
from sightword.storage.checkpoint import read_checkpoint


class Numbers(Dataset):
    """Six pairs of numbers, others in every epoch."""

    def __len__(self):
        return 6

    def __getitem__(self, draw):
        return torch.randn(2, generator=generator_of(0, draw))


class Toy(Task):
    """Learns to add two numbers, with dropout. `told`: the measures to give out instead of those found."""

    def __init__(self, told=(), die_at=None):
        super().__init__({"fit": 2.0})
        self.body, self.head = nn.Linear(2, 8), nn.Linear(8, 1)
        self.told, self.die_at, self.errors = list(told), die_at, []

    def losses(self, batch):
        if self.batches == self.die_at:
            raise MemoryError
        hidden = nn.functional.dropout(self.body(batch), 0.5, self.training)
        return {
            "fit": (self.head(hidden) - batch.sum(1, True)).square().mean(),
            "size": self.head.weight.square().sum(),
        }

    def stats(self):
        return {"before": float(self.batches), "nothing": math.nan}

    def parameter_groups(self):
        return {"body": list(self.body.parameters()), "head": list(self.head.parameters())}


class ToyEvaluator(Evaluator):
    """The mean error, and the head's first weight. `told` of the task: errors to give out instead."""

    def __init__(self, task):
        self.task, self.errors = task, []

    def metric_names(self):
        return frozenset({"error", "weight"})

    def update(self, batch):
        assert not self.task.training
        self.weight = self.task.head.weight[0, 0].item()
        self.errors.append((self.task.head(self.task.body(batch)) - batch.sum(1, True)).abs().mean().item())

    def compute(self):
        error, self.errors = sum(self.errors) / len(self.errors), []
        return {"error": self.task.told.pop(0) if self.task.told else error, "weight": self.weight}

    def protocol(self):
        return {"error": "absolute"}

    def notes(self):
        return {"error": "of sums"}

    def images(self, batch):
        assert not self.task.training
        return {"dot": Image.new("RGB", (len(batch), 1))}


class Rivals(Toy):
    """A toy with a discriminator."""

    def __init__(self):
        super().__init__()
        self.discriminator = nn.Linear(2, 1)

    def discriminator_losses(self, batch):
        return {"discriminator_loss": (self.discriminator(batch) - 1).square().mean()}


def start(folder, make=Toy, optim=None, evaluator=ToyEvaluator, **trainer):
    """Train what `make` makes: three batches an epoch, one for validation."""
    torch.manual_seed(0)
    task = make()
    defaults = {"accelerator": "cpu", "steps": 6, "val_every": 3, "log_every": 1, "images_every": 1000}
    config = Run(experiment="toy/sum", optim=Optim(**optim or {}), trainer=Trainer(**defaults | trainer))
    loaders = Loaders(Stream(Numbers(), 2), ordered(Numbers(), 6))
    return fit.fit(task, evaluator(task), loaders, config, folder)


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder, name):
    """step → value."""
    return {int(row["step"]): float(row[name]) for row in table(folder) if row.get(name)}


def kept(folder, name):
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")


@pytest.fixture
def watched(monkeypatch):
    """What each step of the main optimiser had: its learning rates, and the head's first weight after it."""
    make, seen = make_optimizer, []

    def make_watched(optim, task):
        optimizer = make(optim, task)
        weight = task.head.weight
        optimizer.register_step_post_hook(
            lambda o, *_: seen.append(([group["lr"] for group in o.param_groups], weight[0, 0].item()))
        )
        return optimizer

    monkeypatch.setattr(fit, "make_optimizer", make_watched)
    return seen


# ----------------------------------------------------------------------------------------------- optimiser and schedule


def test_the_learning_rate_by_hand():
    cosine, constant = Optim(warmup=4, schedule="cosine"), Optim(warmup=4)
    assert [lr_factor(cosine, n, 12) for n in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [lr_factor(cosine, n, 12) for n in (8, 10, 12, 99)] == pytest.approx([0.5, (1 - 0.5**0.5) / 2, 0, 0])
    assert [lr_factor(constant, n, 12) for n in (0, 3, 4, 11)] == [0.25, 1, 1, 1]
    assert lr_factor(cosine, 5, 0) == 1  # no end is known
    assert lr_factor(Optim(schedule="cosine", warmup=6), 6, 6) == 1  # all of it warm-up


def test_the_schedule_and_the_scale_of_each_group_reach_the_optimiser(watched, tmp_path):
    start(tmp_path, optim={"lr": 0.1, "warmup": 2, "schedule": "cosine", "lr_scale": {"head": 0.5}})
    factors = [0.5, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]
    assert [rates for rates, _ in watched] == [pytest.approx([0.1 * f] * 2 + [0.05 * f] * 2) for f in factors]
    assert list(column(tmp_path, "train/lr").values()) == pytest.approx([0.1 * f for f in factors], rel=1e-4)


def test_a_group_of_scale_zero_stays_where_it_is(tmp_path):
    task = Toy()
    before = {name: p.clone() for name, p in task.named_parameters()}
    start(tmp_path, lambda: task, optim={"lr": 0.1, "lr_scale": {"body": 0.0}})
    assert all(torch.equal(p, before[name]) == name.startswith("body") for name, p in task.named_parameters())


def test_a_group_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"optim.lr_scale names tail; the parameter groups are body, head"):
        start(tmp_path, optim={"lr_scale": {"tail": 0.1}})


def test_each_parameter_stands_in_one_group(tmp_path):
    twice, missing = Toy(), Toy()
    twice.parameter_groups = lambda: {"body": list(twice.parameters()), "head": list(twice.head.parameters())}
    missing.parameter_groups = lambda: {"body": list(missing.body.parameters())}
    with pytest.raises(AssertionError, match="a parameter stands in two groups"):
        start(tmp_path, lambda: twice)
    with pytest.raises(AssertionError, match="2 trainable parameters stand in no group"):
        start(tmp_path, lambda: missing)
    missing.head.requires_grad_(False)
    make_optimizer(Optim(), missing)  # what is frozen needs none


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_the_optimiser_is_the_one_named(name, kind):
    optimizer = make_optimizer(Optim(name=name, lr=0.3, betas=[0.8, 0.95], weight_decay=0.1), Toy())
    assert type(optimizer).__name__ == kind
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.3, 0.1)
    assert optimizer.defaults.get("betas", (0.8, 0.95)) == (0.8, 0.95)
    assert optimizer.defaults.get("momentum", 0.8) == 0.8


def test_a_discriminator_has_an_optimiser_of_its_own_and_does_not_count_as_a_step(tmp_path):
    task = Rivals()
    before = task.discriminator.weight.clone()
    start(
        tmp_path, lambda: task, optim={"lr": 0.1, "discriminator_lr": 0.02, "discriminator_betas": [0.3, 0.4]}, steps=5
    )
    last = kept(tmp_path, "last")
    assert (last["batches"], last["global_step"]) == (5, 5)
    (main,), (discriminator,) = ([o["param_groups"][0]] for o in last["optimizer_states"])
    assert (main["lr"], discriminator["lr"], tuple(discriminator["betas"])) == (0.1, 0.02, (0.3, 0.4))
    assert (task.discriminator.weight - before).abs().max() > 0.05
    assert list(column(tmp_path, "train/discriminator_loss")) == [1, 2, 3, 4, 5]
    totals, fits, sizes = (list(column(tmp_path, f"train/{n}").values()) for n in ("total_loss", "fit", "size"))
    assert totals == pytest.approx([2 * f + s for f, s in zip(fits, sizes, strict=True)], rel=1e-4)


@pytest.mark.parametrize("kind", [Toy, Rivals])
def test_gradients_of_several_batches_are_one_step_and_never_cut_by_a_checkpoint(kind, watched, tmp_path, monkeypatch):
    saved, save = [], callbacks.CheckpointCallback._save

    def noting(self, trainer, name):
        saved.append((name, trainer.lightning_module.batches))
        save(self, trainer, name)

    monkeypatch.setattr(callbacks.CheckpointCallback, "_save", noting)
    start(tmp_path, kind, optim={"accumulate": 2}, save_every=1, steps=4, val_every=4)
    assert len(watched) == 2
    assert [at for name, at in saved if name == "last"] == [2, 4]


# --------------------------------------------------------------------------------------------- averages and the best


def test_averaged_weights_are_what_is_measured_and_kept_as_best(watched, tmp_path):
    start(tmp_path, optim={"lr": 0.1, "ema": 0.75}, steps=4, val_every=2, monitor="val/weight")
    weights = [weight for _, weight in watched]
    average, averages = weights[0], [weights[0]]
    for weight in weights[1:]:
        average = 0.75 * average + 0.25 * weight
        averages.append(average)
    measured = column(tmp_path, "val/weight")
    assert measured == {2: pytest.approx(averages[1], rel=1e-5), 4: pytest.approx(averages[3], rel=1e-5)}
    assert abs(averages[3] - weights[3]) > 1e-3
    best = kept(tmp_path, "best")
    at = best["batches"]
    assert best["state_dict"]["task.head.weight"][0, 0].item() == pytest.approx(averages[at - 1], rel=1e-6)
    assert best["current_model_state"]["task.head.weight"][0, 0].item() == pytest.approx(weights[at - 1])


@pytest.mark.parametrize(
    ("told", "mode", "at"),
    [
        ([3.0, 1.0, 2.0], "min", 4),
        ([3.0, 1.0, 2.0], "max", 2),
        ([2.0, 2.0, 2.0], "min", 2),  # of equals the first
        ([math.nan, 2.0, 3.0], "min", 4),  # a validation that failed is not the one to beat
    ],
)
def test_the_best_is_chosen_on_validation(told, mode, at, tmp_path):
    result = start(tmp_path, lambda: Toy(told), val_every=2, monitor="val/error", mode=mode)
    assert result.best["batches"] == kept(tmp_path, "best")["batches"] == at
    assert result.best["val/error"] == told[at // 2 - 1]
    assert kept(tmp_path, "last")["batches"] == 6


def test_without_a_monitor_no_best_is_kept(tmp_path):
    result = start(tmp_path)
    assert result.best == {}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_monitor_that_is_not_measured_is_refused_before_the_first_batch_with_what_is(tmp_path):
    with pytest.raises(ValueError) as caught:
        start(tmp_path, monitor="val/accuracy")
    assert str(caught.value) == "trainer.monitor=val/accuracy is not measured; these are: val/error, val/weight"
    assert not list(tmp_path.iterdir())  # before the first batch


# ----------------------------------------------------------------------------------------------------- the run's folder


@pytest.mark.parametrize(
    ("trainer", "at"),
    [
        ({"steps": 5, "val_every": 2}, [2, 4, 5]),
        ({"steps": 6, "val_every": 3}, [3, 6]),
        ({"steps": 2, "val_every": 100}, [2]),
        ({"steps": 0, "epochs": 2, "val_every": 0}, [3, 6]),
    ],
    ids=str,
)
def test_the_last_batch_is_always_validated(trainer, at, tmp_path):
    result = start(tmp_path, **trainer)
    assert list(column(tmp_path, "val/error")) == at
    assert result.metrics["val/error"] == pytest.approx(column(tmp_path, "val/error")[at[-1]], rel=1e-4)


def test_metrics_csv_has_a_row_for_what_was_logged_when(tmp_path):
    start(tmp_path, log_every=2, steps=5)
    rows = table(tmp_path)
    train_names = ["train/fit", "train/size", "train/total_loss", "train/before", "train/lr"]
    assert list(rows[0]) == ["step", *train_names, "val/error", "val/weight"]
    assert [(row["step"], bool(row["train/fit"]), bool(row["val/error"])) for row in rows] == [
        ("2", True, False),
        ("3", False, True),
        ("4", True, False),
        ("5", False, True),
    ]
    assert column(tmp_path, "train/before") == {2: 1, 4: 3}
    for row in (row for row in rows if row["train/fit"]):
        assert float(row["train/total_loss"]) == pytest.approx(
            2 * float(row["train/fit"]) + float(row["train/size"]), rel=1e-4
        )


def test_images_are_files_named_by_stage_and_batch(tmp_path):
    start(tmp_path, images_every=4)
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "images").iterdir()}
    assert sizes == {"val_dot_0000003.png": (6, 1), "train_dot_0000004.png": (2, 1), "val_dot_0000006.png": (6, 1)}


def test_the_summary_says_what_came_of_it_how_and_at_what_cost(tmp_path):
    result = start(tmp_path, lambda: Toy([3.0, 4.0]), monitor="val/error", mode="min")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert result.finished
    assert summary["experiment"] == "toy/sum"
    assert (summary["last"], summary["best"]) == (result.metrics, result.best)
    assert (summary["last"]["val/error"], summary["best"]["val/error"], summary["best"]["batches"]) == (4, 3, 3)
    assert summary["protocol"] == {"error": "absolute", "metrics": {"error": "of sums"}}
    assert (summary["cost"]["batches"], summary["cost"]["from_batch"]) == (6, 0)
    assert 0 < summary["cost"]["seconds"] < 60
    assert summary["versions"]["torch"] == torch.__version__
    assert {"python", "lightning", "sightword"} < summary["versions"].keys()


def test_only_plain_values_enter_a_checkpoint(tmp_path):
    start(tmp_path, optim={"ema": 0.9}, monitor="val/error")
    for name in ("last", "best"):
        checkpoint = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["config"]["experiment"] == "toy/sum"
        assert checkpoint["config"]["optim"]["ema"] == 0.9


@pytest.mark.parametrize("name", ["swanlab", "tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError) as caught:
        logger.trackers(Run(logger=[name]), tmp_path)
    assert str(caught.value) == f"logger={name} is not installed: pip install 'sightword[{name}]'"


@pytest.mark.parametrize("wrong", [{"strategy": "ddpp"}, {"accelerator": "gpuu"}])
def test_a_strategy_or_an_accelerator_that_does_not_exist_is_the_users_mistake(wrong, tmp_path):
    with pytest.raises(SightwordError, match=next(iter(wrong.values()))) as caught:
        start(tmp_path, **wrong)
    assert "\n" not in str(caught.value)


def test_a_tracker_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="logger=mlflow is none of swanlab, tensorboard, wandb"):
        logger.trackers(Run(logger=["mlflow"]), tmp_path)


# --------------------------------------------------------------------------------------------------------------- resume


def assert_same_run(straight, other):
    for name in ("last", "best"):
        one, two = kept(straight, name), kept(other, name)
        for part in ("batches", "state_dict", "current_model_state", "optimizer_states", "callbacks"):
            assert_same(one[part], two[part])
    assert (straight / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


@pytest.mark.parametrize("kind", [Toy, Rivals])
def test_a_run_that_died_goes_on_to_the_same_result_with_dropout(kind, tmp_path):
    options = {"optim": {"lr": 0.1, "ema": 0.9, "warmup": 3}, "save_every": 2, "steps": 8, "monitor": "val/error"}
    start(tmp_path / "straight", kind, **options)

    def make_dying():
        task = kind()
        task.die_at = 5
        return task

    with pytest.raises(MemoryError):
        start(tmp_path / "died", make_dying, **options)
    assert kept(tmp_path / "died", "last")["batches"] == 4
    assert list(column(tmp_path / "died", "train/fit")) == [1, 2, 3, 4, 5]  # 5 comes after the checkpoint
    torch.manual_seed(99)  # whatever was drawn in between
    result = start(tmp_path / "died", kind, **options)
    assert result.finished
    assert_same_run(tmp_path / "straight", tmp_path / "died")
    assert json.loads((tmp_path / "died" / "summary.json").read_text())["cost"]["from_batch"] == 4


def test_dropout_does_drop_and_differs_from_batch_to_batch(tmp_path):
    task = Toy()
    with torch.no_grad():
        task.body.bias.fill_(1.0)
    start(tmp_path, lambda: task, optim={"lr": 0.0})
    fits = list(column(tmp_path, "train/fit").values())
    assert len(set(fits)) == len(fits)


def test_a_run_given_another_learning_rate_goes_on_with_that(watched, tmp_path):
    start(tmp_path, optim={"lr": 0.1}, steps=3)
    start(tmp_path, optim={"lr": 0.01}, steps=5)
    assert [rates for rates, _ in watched] == [[0.1] * 4] * 3 + [[0.01] * 4] * 2
    assert list(column(tmp_path, "train/lr").values()) == [0.1] * 3 + [0.01] * 2


@pytest.mark.parametrize("kind", [Toy, Rivals])
@pytest.mark.parametrize("steps", [2, 3, 4], ids="first {} batches".format)
def test_a_run_made_longer_ends_as_one_that_was_to_be_so_long(kind, steps, tmp_path):
    options = {"optim": {"lr": 0.1, "ema": 0.9}, "val_every": 1, "monitor": "val/error"}
    start(tmp_path / "straight", kind, **options, steps=6)
    start(tmp_path / "longer", kind, **options, steps=steps)
    assert start(tmp_path / "longer", kind, **options, steps=6).finished
    assert_same_run(tmp_path / "straight", tmp_path / "longer")


def test_a_finished_run_is_not_begun_again(tmp_path):
    start(tmp_path, steps=3)
    with pytest.raises(ValueError, match=r"is finished \(3 of 3 batches\). Raise trainer.steps to train longer"):
        start(tmp_path, steps=3)


@pytest.mark.parametrize("cut", [b"", b"4,0.12"], ids=["between rows", "within a row"])
def test_a_run_goes_on_after_a_power_cut_left_zero_bytes_at_the_end_of_its_metrics(cut, tmp_path):
    start(tmp_path / "straight", steps=5)
    start(tmp_path / "cut", steps=3)
    with (tmp_path / "cut" / "metrics.csv").open("ab") as file:
        file.write(cut + bytes(512))
    start(tmp_path / "cut", steps=5)
    assert column(tmp_path / "cut", "train/fit") == column(tmp_path / "straight", "train/fit")


def test_an_error_stands_on_a_line_of_its_own_after_the_progress_bar(tmp_path, capsys):
    with pytest.raises(MemoryError):
        start(tmp_path, lambda: Toy(die_at=1))
    assert capsys.readouterr().err.endswith("\n")


def test_evaluation_alone_gives_the_runs_metrics(tmp_path):
    task = Toy()
    result = start(tmp_path, lambda: task)
    evaluator, config = ToyEvaluator(task), Run(trainer=Trainer(accelerator="cpu"))
    metrics = fit.evaluate(task, evaluator, ordered(Numbers(), 4), config)
    assert metrics["weight"] == result.metrics["val/weight"]
    assert not task.training


# ------------------------------------------------------------------------------------------------------- divergence


class Exploding(Toy):
    """Its loss is no number from the batch on that it is told."""

    def losses(self, batch):
        found = super().losses(batch)
        return found | {"fit": found["fit"] * (math.nan if self.batches >= 4 else 1)}


def test_a_run_that_diverges_ends_with_one_line_and_keeps_what_was_good(tmp_path):
    with pytest.raises(Diverged, match=r"training diverged: the losses of batch 5 are fit nan.*last\.ckpt and best"):
        start(tmp_path, Exploding, steps=6, val_every=3, save_every=1, monitor="val/error", mode="min")
    assert kept(tmp_path, "last")["batches"] == 4
    assert kept(tmp_path, "best")["batches"] == 3
    for name in ("last", "best"):
        assert all(value.isfinite().all() for value in kept(tmp_path, name)["state_dict"].values())


def test_weights_that_are_no_numbers_overwrite_no_checkpoint(tmp_path):
    class Poisoned(Toy):
        def losses(self, batch):
            if self.batches == 4:
                self.head.weight.data.fill_(math.inf)
                return {"fit": self.body.weight.square().mean()}
            return super().losses(batch)

    with pytest.raises(Diverged, match="weights head.weight are not finite after batch 5"):
        start(tmp_path, Poisoned, steps=6, val_every=6, save_every=1)
    assert kept(tmp_path, "last")["batches"] == 4


@pytest.mark.parametrize("make", [Toy, Rivals])
def test_images_are_drawn_after_the_step_and_disturb_nothing_that_it_needs(make, tmp_path):
    class Keeping(make):
        """Keeps a canvas that its losses read."""

        def losses(self, batch):
            self.canvas = batch * 1.0
            return {"fit": (self.body(self.canvas)).square().mean(), "size": self.head.weight.square().sum()}

    class Overwriting(ToyEvaluator):
        """Draws on that canvas."""

        def images(self, batch):
            self.task.canvas.zero_()
            return super().images(batch)

    options = {"images_every": 2, "log_every": 2, "optim": {"accumulate": 2}}
    assert start(tmp_path, Keeping, evaluator=Overwriting, **options).finished
    assert sorted(path.name for path in (tmp_path / "images").glob("train*")) == [
        f"train_dot_{step:07d}.png" for step in (2, 4, 6)
    ]
