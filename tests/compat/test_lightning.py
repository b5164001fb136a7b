"""The modules through a plain Lightning Trainer: their specifications' examples, names, defaults and schedules."""

import copy
import inspect
import json
import re
import runpy
import sys
import types

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import MixedPrecision
from made import assert_same
from tiny_module import GAN, TINY, model_of, trainer_of
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import vgg16

import sightword
from sightword.compat.lightning import AnimeDataModule, IntentonomyClipViTMultiStreamModule, VQVAEModel
from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.intent.anchors import Anchors, Book

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # advice on so small a run

TABLE = """
| `in_channels` | int | `3` | 输入图像通道数 |
| `latent_channels` | int | `256` | 潜在空间通道数 |
| `encoder_channels` | Tuple[int, ...] | `(128, 256, 256, 256)` | Encoder 各 stage 通道数 |
| `decoder_channels` | Tuple[int, ...] | `(256, 256, 256, 128)` | Decoder 各 stage 通道数 |
| `num_res_blocks` | int | `2` | 每个 stage 的 ResBlock 数量 |
| `num_embeddings` | int | `1024` | Codebook 大小（K） |
| `embedding_dim` | int | `256` | Embedding 维度（D_e） |
| `commitment_cost` | float | `0.25` | Commitment 损失权重 |
| `decay` | float | `0.99` | EMA 衰减系数 |
| `lambda_rec` | float | `1.0` | 重建损失权重 |
| `lambda_vq` | float | `1.0` | VQ 损失权重 |
| `lambda_commit` | float | `0.25` | Commitment 损失权重 |
| `lambda_perc` | float | `0.5` | 感知损失权重 |
| `lambda_gan` | float | `0.0` | GAN 损失权重（VQ-GAN 扩展） |
| `use_lpips` | bool | `True` | 是否使用 LPIPS 感知损失 |
| `learning_rate` | float | `2e-4` | 学习率 |
| `betas` | Tuple[float, float] | `(0.9, 0.99)` | Adam 优化器 betas |
| `weight_decay` | float | `0.0` | 权重衰减 |
| `log_every_n_steps` | int | `100` | 日志记录频率 |
| `log_images_every_n_steps` | int | `500` | 图像记录频率 |
"""


class Recorder(Logger):
    """Keeps what it is told; takes images."""

    name, version = "recorder", ""

    def __init__(self):
        super().__init__()
        self.rows, self.images, self.hyperparameters = [], [], {}

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        self.hyperparameters = dict(params)

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, step, [image.size for image in images]))

    def names(self):
        return {name for _, row in self.rows for name in row}


class Blind(Recorder):
    """Takes no images."""

    log_image = property()


class Board(Blind):
    """Takes images as TensorBoard does."""

    def __init__(self):
        super().__init__()
        self.experiment = types.SimpleNamespace(add_image=self.add_image)

    def add_image(self, tag, pixels, global_step, dataformats):
        assert (pixels.dtype, dataformats) == ("uint8", "HWC")
        self.images.append((tag, global_step, [pixels.shape[1::-1]]))


@pytest.fixture
def data(photos):
    """Three batches of two an epoch, one for validation."""
    return AnimeDataModule(data_dir=str(photos), batch_size=2, val_split=0.25, image_size=16, num_workers=0)


@pytest.fixture(scope="module")
def lpips_file(tmp_path_factory):
    """A trunk with torchvision's names and shapes, and random numbers of a sensible size."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in vgg16(weights=None).features.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    numbers = {n: torch.randn(s, generator=generator) * (2 / s[1:].numel()) ** 0.5 for n, s in shapes.items()}
    file = tmp_path_factory.mktemp("lpips") / "vgg16-397923af.pth"
    torch.save({f"features.{name}": weight for name, weight in numbers.items()}, file)
    return file


# ------------------------------------------------------------------------------------------------------ the signature


def test_the_signature_is_the_documents_table_and_more_after_it():
    rows = [line.split("|")[1:5] for line in TABLE.strip().splitlines()]
    wanted = [(name.strip(" `"), eval(default.strip(" `"))) for name, _, default, _ in rows]
    parameters = list(inspect.signature(VQVAEModel).parameters.values())
    assert [(p.name, p.default) for p in parameters[: len(wanted)]] == wanted
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[: len(wanted)])
    added = parameters[len(wanted) :]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in added)
    assert {"disc_start", "disc_weight", "disc_layers", "disc_loss"} <= {p.name for p in added}


def test_every_argument_reaches_its_place():
    model = model_of(lambda_rec=2.0, lambda_vq=3.0, lambda_commit=0.5, lambda_perc=4.0, decay=0.7, betas=(0.1, 0.2))
    weights = {"recon_loss": 2.0, "vq_loss": 3.0, "commitment_loss": 0.5, "perc_loss": 4.0}
    assert model.task.weights == weights
    assert model.task.model.quantizer.decay == 0.7
    assert (model.optim.betas, model.optim.lr, model.optim.weight_decay) == ([0.1, 0.2], 2e-4, 0.0)
    gan = model_of(**GAN, disc_start=5, disc_warmup=6, disc_weight=0.25, disc_loss="non_saturating", lecam_weight=0.1)
    discriminator = gan.task.discriminator
    assert (
        discriminator.start,
        discriminator.warmup,
        discriminator.weight,
        discriminator.kind,
        discriminator.lecam_weight,
    ) == (
        *(5, 6, 0.5 * 0.25, "non_saturating"),
        0.1,
    )


def test_commitment_is_never_weighed_twice():
    assert model_of().task.model.quantizer.commitment_cost == 1.0
    model_of(commitment_cost=0.5, lambda_commit=0.5)
    with pytest.raises(ValueError, match=r"commitment_cost=0.3 and lambda_commit=0.25 weigh the same term"):
        model_of(commitment_cost=0.3)


def test_accumulate_and_max_grad_norm_are_refused_where_the_trainer_has_them():
    for options in ({"accumulate": 2}, {"max_grad_norm": 1.0}):
        with pytest.raises(ValueError, match="give accumulate_grad_batches and gradient_clip_val to the Trainer"):
            model_of(**options)


def test_hyperparameters_are_plain_whole_and_logged(data):
    model, logger = model_of(), Recorder()
    assert json.loads(json.dumps(dict(model.hparams))).keys() == inspect.signature(VQVAEModel).parameters.keys()
    trainer_of(logger, max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    assert logger.hyperparameters["num_embeddings"] == 16
    assert logger.hyperparameters["encoder_channels"] == [8, 8]


# ------------------------------------------------------------------------------------------------------- the examples


@pytest.mark.filterwarnings("ignore")
def test_example_1_trains(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "swanlab", types.ModuleType("swanlab"))
    for name in ("swanlab.integration", "swanlab.integration.pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["swanlab.integration.pytorch_lightning"].SwanLabLogger = lambda project: Recorder()
    from sightword import AnimeDataModule, SwanLabLogger, VQVAEModel

    datamodule = AnimeDataModule(data_dir=photos, batch_size=2, val_split=0.2, image_size=16, num_workers=0)
    model = VQVAEModel(**TINY)
    logger = SwanLabLogger(project="vq-vae-anime")
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(logger, max_epochs=2, precision=16)
    trainer.fit(model, datamodule=datamodule)
    assert model.batches == 6
    assert not torch.equal(
        model.state_dict()["task.model.decoder.conv_in.weight"], before["task.model.decoder.conv_in.weight"]
    )
    assert {"train/total_loss", "val/recon_loss"} <= logger.names()
    assert "val/psnr" in trainer.callback_metrics  # what ModelCheckpoint and EarlyStopping can monitor


def test_example_2_has_other_sizes():
    model = model_of(
        latent_channels=24,
        encoder_channels=(8, 16, 24, 24),
        decoder_channels=(24, 24, 16, 8),
        num_res_blocks=3,
        num_embeddings=32,
        embedding_dim=24,
    )
    images, info = model(torch.zeros(1, 3, 32, 32))
    assert images.shape == (1, 3, 32, 32)
    assert info["indices"].shape == (1, 2, 2)
    assert len(model.task.model.encoder.stages[2]) == 1 + 3
    assert model.task.model.quantizer.weight.shape == (32, 24)


def test_example_3_weighs_the_losses(lpips_file, data):
    logger = Recorder()
    weights = {"lambda_rec": 1.0, "lambda_vq": 1.0, "lambda_commit": 0.5, "lambda_perc": 1.0}
    model = model_of(**weights, use_lpips=True, lpips_weights=str(lpips_file))
    trainer_of(logger, max_steps=2, limit_val_batches=0).fit(model, datamodule=data)
    for _, row in logger.rows:
        total = row["train/recon_loss"] + row["train/vq_loss"]
        total += 0.5 * row["train/commitment_loss"] + 1.0 * row["train/perc_loss"]
        assert row["train/perc_loss"] > 0
        assert row["train/total_loss"] == pytest.approx(total, rel=1e-5)


def test_example_4_encodes_to_256_indices_and_back():
    channels = {"encoder_channels": (8, 8, 8, 8), "decoder_channels": (8, 8, 8, 8)}
    model = model_of(**channels).eval()
    x = torch.rand(2, 3, 256, 256) * 2 - 1
    indices = model.encode(x)
    assert (indices.shape, indices.dtype) == ((2, 256), torch.int64)
    with torch.no_grad():
        x_recon, (images, info) = model.decode(indices), model(x)
    assert x_recon.shape == (2, 3, 256, 256)
    assert -1 <= x_recon.min() < x_recon.max() <= 1
    assert torch.allclose(x_recon, images, atol=1e-6)
    assert torch.equal(indices.view(2, 16, 16), info["indices"])


def test_images_that_are_not_whole_tokens_come_back_in_their_size():
    model = model_of().eval()
    x = torch.rand(2, 3, 30, 42) * 2 - 1
    indices = model.encode(x)
    assert indices.shape == (2, 8 * 11)
    with torch.no_grad():
        assert torch.allclose(model.decode(indices, (8, 11), (30, 42)), model(x)[0], atol=1e-6)
        assert model.decode(indices, shape=(8, 11)).shape == (2, 3, 32, 44)


def test_example_5_runs_without_lpips(data):
    logger = Recorder()
    model = model_of(use_lpips=False, lambda_perc=0.0)
    trainer_of(logger, max_steps=1).fit(model, datamodule=data)
    assert not [name for name in logger.names() if "perc_loss" in name]


def test_the_documents_own_check_runs(capsys):
    """python -m sightword.compat.lightning"""
    runpy.run_module("sightword.compat.lightning", run_name="__main__")
    said = capsys.readouterr().out
    for part in (
        "(2, 3, 256, 256) → (2, 3, 256, 256)",
        "encode: (2, 256)",
        "decode: (2, 3, 256, 256)",
        "recon_loss",
        "total",
    ):
        assert part in said


def test_images_that_are_no_squares_need_their_shape():
    model, x = model_of().eval(), torch.rand(1, 3, 16, 32)
    indices = model.encode(x)
    assert indices.shape == (1, 4 * 8)
    with pytest.raises(ValueError, match=r"32 ids are not a square; .* shape=\(h, w\)"):
        model.decode(indices)
    assert model.decode(indices, shape=(4, 8)).shape == (1, 3, 16, 32)
    grid = model.encode(x, grid=True)
    assert grid.shape == (1, 4, 8)
    assert torch.equal(model.decode(grid), model.decode(indices, shape=(4, 8)))


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: (x, torch.zeros(2)), lambda x: [x], lambda x: {"image": x, "label": 1}],
    ids=["tensor", "pair", "list", "mapping"],
)
def test_any_loader_of_images_will_do(wrap):
    batches = [wrap(torch.rand(2, 3, 16, 16) * 2 - 1) for _ in range(2)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    model = model_of()
    trainer_of(max_epochs=1).fit(model, loader, loader)
    assert model.batches == 2
    assert model.metrics["val/psnr"] > 0


def test_a_batch_without_images_is_one_line():
    for batch, told in (
        ({"pixels": 1}, "a dict with the keys pixels"),
        (3, "a int"),
        ([], "a list"),
        (["x"], "a list"),
    ):
        with pytest.raises(SightwordError, match=re.escape(f"a batch is {told}")):
            model_of().on_after_batch_transfer(batch, 0)


def test_predict_and_validate_return_their_values(data):
    model = model_of().eval()
    trainer = trainer_of()
    loader = torch.utils.data.DataLoader([torch.rand(2, 3, 16, 16) * 2 - 1 for _ in range(2)], batch_size=None)
    (images, info), _ = trainer.predict(model, loader)
    assert images.shape == (2, 3, 16, 16)
    assert info["indices"].shape == (2, 4, 4)
    (metrics,) = trainer.validate(model, datamodule=data)
    assert {"val/psnr", "val/total_loss", "val/perplexity"} <= metrics.keys()


def test_a_wrong_argument_is_refused_by_name():
    with pytest.raises(TypeError, match="num_embedings"):
        VQVAEModel(num_embedings=3)
    with pytest.raises(SightwordError, match="system.metric"):
        model_of(metric="cosin")


# ------------------------------------------------------------------------------------------------------------- logging


def test_everything_is_logged_under_the_documents_names(lpips_file, data):
    """LPIPS is met first in Lightning's sanity check, in inference mode, and must train nevertheless."""
    logger = Recorder()
    model = model_of(use_lpips=True, lpips_weights=str(lpips_file))
    trainer = trainer_of(logger, max_epochs=1)
    trainer.fit(model, datamodule=data)
    terms = {"recon_loss", "vq_loss", "commitment_loss", "perc_loss", "total_loss", "perplexity", "code_usage_rate"}
    assert {f"train/{name}" for name in terms} | {f"val/{name}" for name in terms} <= logger.names()
    assert [step for step, row in logger.rows if "train/recon_loss" in row] == [1, 2, 3]
    assert [step for step, row in logger.rows if "val/recon_loss" in row] == [3]  # and none of the sanity check
    (val,) = (row for _, row in logger.rows if "val/total_loss" in row)
    total = val["val/recon_loss"] + val["val/vq_loss"] + 0.25 * val["val/commitment_loss"] + 0.5 * val["val/perc_loss"]
    assert val["val/total_loss"] == pytest.approx(total)


def test_metrics_and_images_keep_their_own_intervals(data):
    logger = Recorder()
    model = model_of(log_every_n_steps=2, log_images_every_n_steps=4)
    trainer_of(logger, max_epochs=3, log_every_n_steps=1).fit(model, datamodule=data)
    assert [step for step, row in logger.rows if "train/total_loss" in row] == [2, 4, 6, 8]
    assert [(key, step) for key, step, _ in logger.images] == [
        ("val/reconstruction", 3),
        ("train/reconstruction", 4),
        ("val/reconstruction", 6),
        ("train/reconstruction", 8),
        ("val/reconstruction", 9),
    ]
    assert all(width > 64 and height > 64 for _, _, sizes in logger.images for width, height in sizes)


def test_several_loggers_get_the_same_and_images_in_their_own_way(data):
    first, blind, board = Recorder(), Blind(), Board()
    model = model_of(log_images_every_n_steps=2)
    trainer_of([first, blind, board], max_epochs=1).fit(model, datamodule=data)
    assert first.rows == blind.rows == board.rows != []
    assert first.images == board.images != []
    assert not blind.images


def test_images_wake_nothing_and_disturb_nothing(data):
    states = []
    for every in (1, 1000):
        model = model_of(log_images_every_n_steps=every)
        trainer_of(Recorder(), max_epochs=1).fit(model, datamodule=data)
        states.append(model.state_dict())
    assert_same(*states)


def test_a_missing_swanlab_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "swanlab", None)
    with pytest.raises(ImportError, match=r"pip install 'sightword\[swanlab\]'"):
        sightword.SwanLabLogger  # noqa: B018


# -------------------------------------------------------------------------------------------------------- optimisation


class Steps(Callback):
    """The gradient norm of each network, as each step of its optimiser saw it."""

    def __init__(self):
        self.norms = {"main": [], "discriminator": []}

    def on_fit_start(self, trainer, pl_module):
        for name, optimizer in zip(self.norms, trainer.optimizers, strict=False):
            optimizer.register_step_post_hook(lambda o, *_, name=name: self.norms[name].append(norm_of(o)))


def norm_of(optimizer):
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.cat([grad.flatten() for grad in grads]).norm().item()


def fit(model, data, **options):
    steps = Steps()
    trainer = trainer_of(callbacks=[steps], limit_val_batches=0, **({"max_steps": 6} | options))
    trainer.fit(model, datamodule=data)
    return steps.norms


def test_without_a_gan_lightning_optimises_accumulates_and_clips(data):
    model = model_of()
    assert model.automatic_optimization
    norms = fit(model, data, max_steps=-1, max_epochs=2, gradient_clip_val=1e-3, accumulate_grad_batches=3)
    assert model.batches == 6
    assert norms["main"] == [pytest.approx(1e-3, rel=1e-3)] * 2


def test_with_a_gan_it_optimises_by_itself_and_the_trainer_refuses_its_own(data):
    model = model_of(**GAN)
    assert not model.automatic_optimization
    for option in ({"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}):
        with pytest.raises(SightwordError, match="give accumulate= and max_grad_norm= to the module"):
            trainer_of(max_steps=1, **option).fit(model, datamodule=data)


def test_max_steps_counts_batches_with_two_optimisers_too(data):
    model = model_of(**GAN)
    norms = fit(model, data, max_steps=10)
    assert model.batches == 10
    assert model.trainer.global_step == 10
    assert {name: len(each) for name, each in norms.items()} == {"main": 10, "discriminator": 10}


def test_max_grad_norm_bounds_both_gradients(data):
    free, bound = (fit(model_of(**GAN, max_grad_norm=norm), data) for norm in (0.0, 1e-3))
    for name in ("main", "discriminator"):
        assert min(free[name]) > 2e-3
        assert bound[name] == [pytest.approx(1e-3, rel=1e-3)] * 6


def test_max_grad_norm_bounds_gradients_at_their_true_size_where_float16_scales_them(data):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    norms = fit(model_of(**GAN, max_grad_norm=1e-3), data, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert norms["main"] == [pytest.approx(1e-3, rel=1e-2)] * 6


def test_accumulate_steps_every_so_many_batches(data):
    model = model_of(**GAN, accumulate=3)
    norms = fit(model, data, max_steps=-1, max_epochs=2)
    assert model.batches == 6
    assert {name: len(each) for name, each in norms.items()} == {"main": 2, "discriminator": 2}


def test_accumulated_gradients_are_their_mean():
    same = [torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1] * 4
    loader = torch.utils.data.DataLoader(same, batch_size=None)
    first = []
    for accumulate in (1, 4):
        steps = Steps()
        model = model_of(**GAN, codebook="gradient", accumulate=accumulate)
        trainer_of(max_epochs=1, callbacks=[steps]).fit(model, loader)
        first.append({name: norms[0] for name, norms in steps.norms.items()})
    assert first[1] == pytest.approx(first[0], rel=1e-4)


def test_adam_and_its_betas_are_the_documents_and_the_discriminator_has_its_own():
    main, discriminator = model_of(**GAN, learning_rate=3e-4, weight_decay=0.1).configure_optimizers()
    assert isinstance(main, torch.optim.Adam)  # AdamW is one: the two are the same where nothing decays
    assert (main.defaults["lr"], main.defaults["betas"], main.defaults["weight_decay"]) == (3e-4, (0.9, 0.99), 0.1)
    assert discriminator.defaults["betas"] == (0.5, 0.9)


@pytest.mark.parametrize(
    ("model", "trainer", "batches"),
    [
        ({}, {"max_epochs": 2}, 6),
        ({}, {"max_steps": 4}, 4),
        ({}, {"max_steps": 3, "accumulate_grad_batches": 2}, 5),  # Lightning steps at the end of an epoch too
        (GAN, {"max_epochs": 2}, 6),
        (GAN | {"accumulate": 2}, {"max_steps": 2}, 4),
        (GAN | {"accumulate": 2}, {"max_steps": 100, "max_epochs": 2}, 6),
    ],
    ids=str,
)
def test_a_cosine_ends_with_the_training(model, trainer, batches, data):
    model = model_of(**model, schedule="cosine", warmup=1)
    trainer_of(limit_val_batches=0, **trainer).fit(model, datamodule=data)
    assert (model.batches, model.steps) == (batches, batches)
    last = model.trainer.optimizers[0].param_groups[0]["lr"]
    assert 0 < last < 0.5 * 2e-4


def test_a_cosine_without_an_end_is_refused(data):
    with pytest.raises(ValueError, match="schedule=cosine needs an end"):
        trainer_of(max_epochs=-1).fit(model_of(schedule="cosine"), datamodule=data)


@pytest.mark.parametrize("gan", [{}, GAN], ids=["vqvae", "vqgan"])
def test_mixed_precision_trains_and_keeps_weights_in_full(gan, data):
    model = model_of(**gan)
    logger = Recorder()
    trainer_of(logger, max_epochs=1, precision="bf16-mixed").fit(model, datamodule=data)
    assert model.batches == 3
    assert {t.dtype for t in model.state_dict().values() if isinstance(t, torch.Tensor) and t.is_floating_point()} == {
        torch.float32
    }
    assert all(torch.tensor(list(row.values())).isfinite().all() for _, row in logger.rows)


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("options", [{}, GAN | {"lecam_weight": 0.1}], ids=["vqvae", "vqgan"])
def test_a_checkpoint_loads_without_trust_and_without_arguments(options, data, tmp_path):
    model = model_of(**options)
    trainer = trainer_of(max_steps=2, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = VQVAEModel.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert dict(loaded.hparams) == dict(model.hparams)
    assert loaded.batches == 2
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.encode(x), model.encode(x))


def test_no_checkpoint_holds_the_perceptual_net(lpips_file, data, tmp_path):
    model = model_of(use_lpips=True, lpips_weights=str(lpips_file))
    trainer = trainer_of(max_steps=1)
    trainer.fit(model, datamodule=data)
    assert model.task.lpips._network  # it was there
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").stat().st_size < 2**20
    assert not [name for name in read_checkpoint(tmp_path / "last.ckpt")["state_dict"] if "lpips" in name]


@pytest.mark.parametrize("options", [{"kmeans": True, "restart_after": 2}, GAN], ids=["vqvae", "vqgan"])
@pytest.mark.parametrize(
    "when", [{"every_n_train_steps": 4}, {"every_n_epochs": 1}], ids=["within an epoch", "after one"]
)
def test_a_resumed_fit_ends_as_a_straight_one(when, options, data, tmp_path):
    straight, resumed, model = Recorder(), Recorder(), model_of(**options)
    keep = ModelCheckpoint(tmp_path, "{step}", auto_insert_metric_name=False, save_top_k=-1, **when)
    trainer_of(straight, max_epochs=3, enable_checkpointing=True, callbacks=[keep]).fit(model, datamodule=data)
    file = min(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem))
    at = int(file.stem)
    assert at == when.get("every_n_train_steps", 3)

    torch.manual_seed(1)
    other = VQVAEModel(**(TINY | options))  # other weights, which the checkpoint replaces
    trainer_of(resumed, max_epochs=3).fit(other, datamodule=copy_of(data), ckpt_path=file, weights_only=True)
    assert other.batches == model.batches == 9
    assert_same(dict(other.state_dict()), dict(model.state_dict()))
    assert resumed.rows == [(step, row) for step, row in straight.rows if step > at] != []


def copy_of(data):
    return AnimeDataModule(data.data.root, batch_size=2, val_split=0.25, image_size=16, num_workers=0)


def test_the_data_module_is_described_by_its_arguments(photos):
    names = list(inspect.signature(AnimeDataModule).parameters)
    assert names[:3] == ["data_dir", "batch_size", "val_split"]
    data = AnimeDataModule(str(photos), batch_size=3, val_split=0.5, image_size=16, num_workers=0)
    data.setup()
    assert next(iter(data.train_dataloader())).images.shape == (3, 3, 16, 16)
    assert sum(len(batch.images) for batch in data.val_dataloader()) == 4


# ---------------------------------------------------------------------------------------------------- document 000


@pytest.fixture
def intent_values(tmp_path, random_clip):
    """Two streams of random codes in the space of a random CLIP."""
    generator, names = torch.Generator().manual_seed(0), [str(number) for number in range(6)]
    books = {
        stream: Book(torch.randn(6, 24, generator=generator), names, list(range(6)), [0] * 6, names)
        for stream in ("coco", "places")
    }
    return {"semantic_anchors_path": str(Anchors(books).write(tmp_path / "anchors")), "tower": str(random_clip[0])}


def test_each_codebook_has_its_own_rate_or_a_tenth_of_the_heads(intent_values):
    module = IntentonomyClipViTMultiStreamModule(**intent_values, freeze_codebook=False, lr=2e-2, lr_vq_places=5e-3)
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, _intent_batches())
    rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates == pytest.approx({"head": 2e-2, "vq_coco": 2e-3, "vq_places": 5e-3})


def test_intents_train_on_plain_pairs_and_load_again(intent_values, tmp_path):
    module = IntentonomyClipViTMultiStreamModule(**intent_values, token_types={"coco": "value"}, gamma_neg=1.0)
    head, codes = module.task.model.head.weight.detach().clone(), module.task.model.book("coco").codes().clone()
    trainer = pl.Trainer(max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, _intent_batches())
    assert not torch.equal(module.task.model.head.weight, head)
    assert torch.equal(module.task.model.book("coco").codes(), codes)
    assert (module.task.config.gamma_neg, module.task.token_types) == (1.0, {"coco": "value", "places": "joint"})
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    again = IntentonomyClipViTMultiStreamModule.load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True).eval()
    images, _ = next(iter(_intent_batches()))
    with torch.no_grad():
        torch.testing.assert_close(again(images), module.eval()(images))
    assert again(images).shape == (4, 28)
    found = again.get_code_indices(images)
    h, w = again.task.tower.on(images.device).grid(tuple(images.shape[2:]))
    assert {name: each["codes"].shape for name, each in found.items()} == dict.fromkeys(("coco", "places"), (4, h, w))


def _intent_batches():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(12, 3, 64, 64, generator=generator) * 2 - 1
    targets = (torch.rand(12, 28, generator=generator) > 0.8).long()
    return DataLoader(TensorDataset(images, targets), 4)
