"""LightningModules of the systems, for users with their own Trainer.

`python -m sightword.compat.lightning` checks a small VQ-VAE: forward, encode and decode, loss.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from typing import Concatenate, ParamSpec, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sightword.data.image import ImageBatch
from sightword.data.loader import Stream
from sightword.engine.config import Optim
from sightword.engine.fit import Loop
from sightword.errors import SightwordError
from sightword.metrics.codebook import perplexity, usage
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.evaluate import IntentEvaluator
from sightword.systems.intent.show import get_code_indices
from sightword.systems.intent.task import MultiStreamTask
from sightword.systems.intent.task import make_task as make_intent_task
from sightword.systems.tokenizer.config import TokenizerConfig, TokenizerData
from sightword.systems.tokenizer.data import make_loaders
from sightword.systems.tokenizer.evaluate import TokenizerEvaluator
from sightword.systems.tokenizer.task import TokenizerTask, make_task

P = ParamSpec("P")
ArgumentsT = TypeVar("ArgumentsT")
SelfT = TypeVar("SelfT")


def takes(
    arguments: Callable[P, ArgumentsT],
) -> Callable[[Callable[[SelfT, ArgumentsT], None]], Callable[Concatenate[SelfT, P], None]]:
    """Return a decorator that gives a constructor the parameters of a dataclass, and the constructor an instance of it.

    The constructor may not use `super()`: Lightning looks into the frames of those that do.
    """

    def decorate(init: Callable[[SelfT, ArgumentsT], None]) -> Callable[Concatenate[SelfT, P], None]:
        def construct(self: SelfT, /, *args: P.args, **kwargs: P.kwargs) -> None:
            init(self, arguments(*args, **kwargs))

        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = inspect.Signature([itself, *inspect.signature(arguments).parameters.values()])
        vars(construct).update(__signature__=signature, __doc__=init.__doc__)
        return construct

    return decorate


@dataclass
class VQVAEArguments:
    """The arguments of `VQVAEModel`. Fields that `TokenizerConfig` and `Optim` have, too, mean the same here."""

    in_channels: int = 3
    latent_channels: int = 256
    encoder_channels: Sequence[int] = (128, 256, 256, 256)
    decoder_channels: Sequence[int] = (256, 256, 256, 128)
    num_res_blocks: int = 2
    num_embeddings: int = 1024
    embedding_dim: int = 256
    commitment_cost: float = 0.25  # lambda_commit by another name
    decay: float = 0.99
    lambda_rec: float = 1.0
    lambda_vq: float = 1.0
    lambda_commit: float = 0.25
    lambda_perc: float = 0.5
    lambda_gan: float = 0.0
    use_lpips: bool = True
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    log_every_n_steps: int = 100
    log_images_every_n_steps: int = 500
    _: KW_ONLY
    metric: str = TokenizerConfig.metric
    codebook: str = TokenizerConfig.codebook
    kmeans: bool = TokenizerConfig.kmeans
    restart_after: int = TokenizerConfig.restart_after
    lpips_weights: str = TokenizerConfig.lpips_weights
    disc_start: int = TokenizerConfig.disc_start
    disc_weight: float = TokenizerConfig.disc_weight
    disc_layers: int = TokenizerConfig.disc_layers
    disc_loss: str = TokenizerConfig.disc_loss
    disc_warmup: int = TokenizerConfig.disc_warmup
    lecam_weight: float = TokenizerConfig.lecam_weight
    warmup: int = Optim.warmup
    schedule: str = Optim.schedule
    accumulate: int = Optim.accumulate
    max_grad_norm: float = Optim.max_grad_norm

    def __post_init__(self) -> None:
        self.encoder_channels, self.decoder_channels = list(self.encoder_channels), list(self.decoder_channels)
        if self.commitment_cost not in (0.25, self.lambda_commit):
            raise SightwordError(
                f"commitment_cost={self.commitment_cost} and lambda_commit={self.lambda_commit} weigh the same term. "
                "Set lambda_commit"
            )
        if not self.lambda_gan and (self.accumulate != 1 or self.max_grad_norm):
            raise SightwordError(
                "accumulate and max_grad_norm are for lambda_gan > 0. Without it, give accumulate_grad_batches and "
                "gradient_clip_val to the Trainer"
            )

    def config(self) -> TokenizerConfig:
        """Return the config of the tokenizer."""
        make: Callable[..., TokenizerConfig] = TokenizerConfig
        return make(**{each.name: getattr(self, each.name) for each in fields(self) if each.name in _TOKENIZER})

    def optim(self) -> Optim:
        """Return the settings of the optimiser."""
        make: Callable[..., Optim] = Optim
        shared = {each.name: getattr(self, each.name) for each in fields(self) if each.name in _OPTIM}
        return make(**shared | {"name": "adamw", "lr": self.learning_rate, "betas": list(self.betas)})


_TOKENIZER = {each.name for each in fields(TokenizerConfig)}
_OPTIM = {each.name for each in fields(Optim)}


class VQVAEModel(Loop[ImageBatch]):
    """A VQ-VAE, or with `lambda_gan` a VQ-GAN, to `fit` with any Trainer. Images are RGB in [-1, 1].

    Its arguments are the fields of `VQVAEArguments`.

        total = λ_rec·L_rec + λ_vq·L_vq + λ_commit·L_commit + λ_perc·L_perc (+ λ_gan·w·L_gan)

    Only `lambda_commit` weights L_commit. `commitment_cost` is kept for the signature and must be 0.25 or equal
    `lambda_commit` (both together would weight the term twice). With an EMA codebook L_vq is part of the total, but
    has no gradient. A batch is an `ImageBatch`, a tensor, a sequence that begins with a tensor, or a mapping with a
    tensor under "images", "image" or "pixel_values".

    `Trainer.predict` returns what `forward` returns. Learning rates that a scheduler, a callback, the Tuner or a
    subclass's `configure_optimizers` sets are kept; `warmup` and `schedule` are for trainings without these.

    With lambda_gan = 0 Lightning optimises by itself. Otherwise the module drives both optimisers: give `accumulate`
    and `max_grad_norm` here, as the Trainer refuses its own.
    """

    task: TokenizerTask

    @takes(VQVAEArguments)
    def __init__(self, arguments: VQVAEArguments) -> None:
        task = make_task(arguments.config())
        Loop.__init__(
            self,
            task,
            TokenizerEvaluator(task),
            arguments.optim(),
            log_every=arguments.log_every_n_steps,
            images_every=arguments.log_images_every_n_steps,
        )
        self.save_hyperparameters(asdict(arguments))
        self.range = PixelRange()

    @property
    def learning_rate(self) -> float:
        """The learning rate, under the name by which Lightning's Tuner looks for it."""
        return self.optim.lr

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.optim = replace(self.optim, lr=rate)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the reconstruction (B, 3, H, W) of x, and name → vq_loss, commitment_loss, perplexity, …, indices."""
        out = self.task.model(x)
        counts = torch.bincount(out.quantized.ids.flatten(), minlength=self.task.model.num_codes)
        info = {
            "vq_loss": out.quantized.codebook_loss,
            "commitment_loss": out.quantized.loss,
            "perplexity": perplexity(counts).float(),
            "code_usage_rate": usage(counts).float(),
            "indices": out.quantized.ids,
        }
        return out.images, info

    def encode(self, x: Tensor, grid: bool = False) -> Tensor:
        """Return the indices of images x (B, 3, H, W): (B, N), or with `grid` (B, h, w)."""
        ids = self.task.model.encode(x)
        return ids if grid else ids.flatten(1)

    def decode(
        self, indices: Tensor, shape: tuple[int, int] | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the images (B, 3, H, W) of indices (B, h, w) or (B, N); `shape` (h, w) is needed unless square.

        size: (H, W) of the encoded images, if these are not multiples of a token's side.
        """
        return self.task.model.decode(indices, shape, size)

    def predict_step(
        self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `forward` returns, for a batch of the Trainer's `predict`."""
        reconstructed: tuple[Tensor, dict[str, Tensor]] = self(batch.images)
        return reconstructed

    def on_after_batch_transfer(self, batch: object, dataloader_idx: int) -> ImageBatch:
        if isinstance(batch, ImageBatch):  # of this package's own data
            return batch
        found = _as_batch(batch)
        self.range.update(found.images)
        return found

    def on_train_start(self) -> None:
        if self.optim.schedule != "constant":
            self.steps = self._batches_to_train()

    def _batches_to_train(self) -> int:
        """Return the number of batches that the Trainer will give.

        Its max_steps counts optimiser steps, including one for the incomplete rest of each epoch.
        """
        trainer = self.trainer
        epoch, per_step = trainer.num_training_batches, trainer.accumulate_grad_batches
        epochs_to_go = trainer.max_epochs or -1
        by_epochs = epoch * epochs_to_go if epochs_to_go > 0 else math.inf
        by_steps = math.inf
        if trainer.max_steps > 0:
            steps = trainer.max_steps * self.optim.accumulate
            epochs, rest = divmod(steps, math.ceil(epoch / per_step)) if math.isfinite(epoch) else (0, steps)
            by_steps = (epochs * epoch if epochs else 0) + rest * per_step
        if math.isinf(min(by_epochs, by_steps)):
            raise SightwordError(
                f"schedule={self.optim.schedule} needs an end: give max_steps or max_epochs to the Trainer"
            )
        return int(min(by_epochs, by_steps))


IMAGES, TARGETS = ("images", "image", "pixel_values"), ("targets", "labels", "label")  # names in batches


def _named(batch: Mapping[object, object], names: Sequence[str]) -> object:
    return next((batch[name] for name in names if name in batch), None)


def _described(batch: object) -> str:
    keys = f" with the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
    return f"{type(batch).__name__}{keys}"


class PixelRange:
    """The range of the first images, to warn once if it is not that of images in [-1, 1].

    Images in [0, 1] have no value below 0, but black or dark pixels next to it. A few bright photos in [-1, 1] may have
    neither, so the warning waits for several images, and for values near 0.
    """

    LEAST, MOST = 8, 64  # images to wait for; images to look at

    def __init__(self) -> None:
        self.images, self.low, self.high = 0, math.inf, -math.inf

    def update(self, images: Tensor) -> None:
        """Add images (B, 3, H, W), and warn if those so far are in another range."""
        if self.images >= self.MOST or not images.is_floating_point() or not images.numel():
            return
        low, high = torch.stack(images.aminmax()).tolist()
        self.images, self.low, self.high = self.images + len(images), min(self.low, low), max(self.high, high)
        shifted = self.images >= self.LEAST and 0 <= self.low < 0.1 and self.high > 0.5
        if shifted or self.low < -1.5 or self.high > 1.5:
            self.images = self.MOST
            remedy = "2 * images - 1" if self.high <= 1 else "Normalize(mean=3 * [0.5], std=3 * [0.5]) after ToTensor()"
            warnings.warn(
                f"the first images are in [{self.low:.3g}, {self.high:.3g}]; this model is for RGB in [-1, 1]. Let the "
                f"loader give {remedy}",
                stacklevel=2,
            )


def _as_batch(batch: object) -> ImageBatch:
    """Return a batch of any loader as an `ImageBatch`. Raises SightwordError if it contains no images."""
    found: object = batch
    if isinstance(batch, Mapping):
        found = _named(batch, IMAGES)
    elif isinstance(batch, Sequence) and len(batch):
        found = batch[0]
    if not isinstance(found, Tensor):
        raise SightwordError(
            f"a batch is a {_described(batch)}. Let the loader give a tensor of images, a sequence that "
            'begins with one, or a mapping with one under "images"'
        )
    return ImageBatch(found, [], 0)


class AnimeDataModule(pl.LightningDataModule):
    """Data module of any folder of images; the fraction `val_split` of them is held out for validation."""

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 32,
        val_split: float = 0.1,
        image_size: int = 256,
        num_workers: int = 4,
        seed: int = 0,
        on_error: str = "raise",
    ) -> None:
        super().__init__()
        self.data = TokenizerData(
            root=str(data_dir),
            batch_size=batch_size,
            val_split=val_split,
            image_size=image_size,
            num_workers=num_workers,
            on_error=on_error,
        )
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        connector = getattr(self.trainer, "_accelerator_connector", None)
        divides = getattr(connector, "use_distributed_sampler", False)
        if self.trainer is not None and self.trainer.world_size > 1 and divides:
            raise SightwordError(
                "these loaders divide the data among ranks themselves. Pass Trainer(use_distributed_sampler=False)"
            )
        self.loaders = make_loaders(self.data, self.seed)

    def train_dataloader(self) -> Stream[ImageBatch]:
        return self.loaders.train

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        return self.loaders.val


class IntentonomyClipViTMultiStreamModule(Loop[IntentBatch]):
    """The intent classifier (frozen CLIP → codebooks of words → sum → mean → linear), to `fit` with any Trainer.

    The rates lr_vq_… are those of the codebooks; a rate that is None is a tenth of `lr`. system: other fields of
    `IntentConfig`, such as tower, tag and token_types. Batches are an `IntentBatch`; a pair (images (B, 3, H, W) in
    [-1, 1], targets (B, 28)); or a mapping with these under "images", "image" or "pixel_values" and "targets", "labels"
    or "label". For `Trainer.predict` images alone will do.
    """

    task: MultiStreamTask

    def __init__(
        self,
        semantic_anchors_path: str,
        freeze_codebook: bool = True,
        semantic_consistency_weight: float = 1.0,
        lr_vq_coco: float | None = None,
        lr_vq_places: float | None = None,
        lr_vq_emotion: float | None = None,
        lr_vq_ava: float | None = None,
        lr_vq_actions: float | None = None,
        *,
        lr: float = 1e-2,
        weight_decay: float = 1e-4,
        **system: object,
    ) -> None:
        given: dict[str, object] = {
            "semantic_anchors_path": semantic_anchors_path,
            "freeze_codebook": freeze_codebook,
            "semantic_consistency_weight": semantic_consistency_weight,
        }
        rates = {"vq_coco": lr_vq_coco, "vq_places": lr_vq_places, "vq_emotion": lr_vq_emotion}
        rates |= {"vq_ava": lr_vq_ava, "vq_actions": lr_vq_actions}
        make: Callable[..., IntentConfig] = IntentConfig
        task = make_intent_task(make(**given | system))
        assert isinstance(task, MultiStreamTask)
        Loop.__init__(self, task, IntentEvaluator(task), Optim(name="adamw", lr=lr, weight_decay=weight_decay))
        self.rates, self.lr = rates | {"vq_other": None}, lr
        named = {f"lr_{group}": rate for group, rate in rates.items()}
        self.save_hyperparameters({**given, **named, "lr": lr, "weight_decay": weight_decay, **system})

    @property
    def lr(self) -> float:
        """The learning rate of the head, and by a tenth that of codebooks without a rate of their own."""
        return self.optim.lr

    @lr.setter
    def lr(self, lr: float) -> None:
        scales = {group: 0.1 if rate is None else rate / lr for group, rate in self.rates.items()}
        present = {group: scale for group, scale in scales.items() if group in self.task.parameter_groups()}
        self.optim = replace(self.optim, lr=lr, lr_scale=present)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, 28) of images (B, 3, H, W) in [-1, 1]."""
        return self.task.logits(IntentBatch(images.new_zeros(len(images), 0), [], images))

    def get_code_indices(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the result of `sightword.systems.intent.show.get_code_indices`."""
        return get_code_indices(self.task, images)

    def predict_step(self, batch: IntentBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return logits (B, 28), for a batch of the Trainer's `predict`."""
        return self.task.logits(batch)

    def on_after_batch_transfer(self, batch: object, dataloader_idx: int) -> IntentBatch:
        if isinstance(batch, IntentBatch):
            return batch
        if self._trainer is not None and self._trainer.predicting:
            images = _as_batch(batch).images
            return IntentBatch(images.new_zeros(len(images), 0), [], images)
        parts = [_named(batch, IMAGES), _named(batch, TARGETS)] if isinstance(batch, Mapping) else batch
        if not (isinstance(parts, Sequence) and len(parts) == 2 and all(isinstance(part, Tensor) for part in parts)):
            raise SightwordError(
                f"a batch is a {_described(batch)}. Let the loader give pairs (images, targets), or a mapping with "
                'these under "images" and "targets"'
            )
        images, targets = parts
        split = "test" if self._trainer is not None and self._trainer.testing else "val"
        return IntentBatch(targets.float(), [str(number) for number in range(len(targets))], images, split=split)


def check_vqvae() -> None:
    """Print shapes and losses of a small model on random images: forward, encode and decode, loss."""
    model = VQVAEModel(encoder_channels=(32, 32, 32, 32), decoder_channels=(32, 32, 32, 32), use_lpips=False)
    x = torch.rand(2, 3, 256, 256) * 2 - 1
    images, info = model(x)
    print(f"forward: {tuple(x.shape)} → {tuple(images.shape)}, perplexity {info['perplexity']:.1f}")
    ids = model.encode(x)
    print(f"encode: {tuple(ids.shape)}; decode: {tuple(model.decode(ids).shape)}")
    losses = model.task.losses(_as_batch(x))
    print("losses:", ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
    print(f"total: {model.task.total(losses):.4f}")


if __name__ == "__main__":
    check_vqvae()
