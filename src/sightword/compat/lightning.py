"""The systems as LightningModules, for people who bring their own Trainer. Source: documents 003 and 000.

`python -m sightword.compat.lightning` runs the document's three checks: forward, encode and decode, loss.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.data.image import ImageBatch
from sightword.engine.config import Optim
from sightword.engine.fit import Loop
from sightword.metrics.codebook import perplexity, usage
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.evaluate import IntentEvaluator
from sightword.systems.intent.show import get_code_indices
from sightword.systems.intent.task import MultiStreamTask
from sightword.systems.intent.task import make_task as make_intent_task
from sightword.systems.tokenizer.config import TokenizerConfig, TokenizerData
from sightword.systems.tokenizer.data import make_loaders
from sightword.systems.tokenizer.task import TokenizerTask, make_task


class VQVAEModel(Loop):
    """A VQ-VAE, or with `lambda_gan` a VQ-GAN, to `fit` with any Trainer. Images are RGB in [-1, 1].

    Arguments up to `log_images_every_n_steps` are document 003's, with its defaults; those after it were added.
    total = λ_rec·L_rec + λ_vq·L_vq + λ_commit·L_commit + λ_perc·L_perc (+ λ_gan·w·L_gan). L_commit is raw, so
    `lambda_commit` alone weighs it; `commitment_cost` is kept for the signature and must stay 0.25 or equal
    `lambda_commit` (both together would weigh the term twice). With an EMA codebook L_vq is measured and in the
    total, but trains nothing. Batches are an `ImageBatch`, a tensor, or a sequence that begins with one.

    With lambda_gan = 0 Lightning optimises by itself. Otherwise the module drives both optimisers: give `accumulate`
    and `clip` here, as the Trainer refuses its own.
    """

    task: TokenizerTask

    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 256,
        encoder_channels: Sequence[int] = (128, 256, 256, 256),
        decoder_channels: Sequence[int] = (256, 256, 256, 128),
        num_res_blocks: int = 2,
        num_embeddings: int = 1024,
        embedding_dim: int = 256,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        lambda_rec: float = 1.0,
        lambda_vq: float = 1.0,
        lambda_commit: float = 0.25,
        lambda_perc: float = 0.5,
        lambda_gan: float = 0.0,
        use_lpips: bool = True,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        log_every_n_steps: int = 100,
        log_images_every_n_steps: int = 500,
        *,
        metric: str = "euclidean",
        codebook: str = "ema",
        kmeans: bool = False,
        restart_after: int = 0,
        lpips_weights: str = "",
        disc_start: int = 0,
        disc_weight: float = 0.8,
        disc_layers: int = 3,
        disc_loss: str = "hinge",
        disc_warmup: int = 0,
        lecam_weight: float = 0.0,
        warmup: int = 0,
        schedule: str = "constant",
        accumulate: int = 1,
        clip: float = 0.0,
    ) -> None:
        values = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if commitment_cost not in (0.25, lambda_commit):
            raise SightwordError(
                f"commitment_cost={commitment_cost} and lambda_commit={lambda_commit} weigh the same term: "
                "set lambda_commit"
            )
        if not lambda_gan and (accumulate != 1 or clip):
            raise SightwordError(
                "accumulate and clip are for lambda_gan > 0; without it give accumulate_grad_batches and "
                "gradient_clip_val to the Trainer"
            )
        named = {name: value for name, value in values.items() if name in TokenizerConfig.__dataclass_fields__}
        lists = {name: list(values[name]) for name in ("encoder_channels", "decoder_channels")}
        optim = Optim(
            name="adamw",
            lr=learning_rate,
            betas=list(betas),
            weight_decay=weight_decay,
            warmup=warmup,
            schedule=schedule,
            accumulate=accumulate,
            clip=clip,
        )
        super().__init__(
            make_task(TokenizerConfig(**named | lists)),
            optim,
            log_every=log_every_n_steps,
            images_every=log_images_every_n_steps,
        )
        self.save_hyperparameters(values | lists)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction (B, 3, H, W) of x; its vq_loss, commitment_loss, perplexity, code_usage_rate, indices."""
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
        """Indices of images x (B, 3, H, W): (B, N), or (B, h, w) as a grid."""
        ids = self.task.model.encode(x)
        return ids if grid else ids.flatten(1)

    def decode(
        self, indices: Tensor, shape: tuple[int, int] | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Images (B, 3, H, W) of indices (B, h, w), or (B, N) with their `shape` unless that is square.

        size: the height and width of the image that was encoded, where they are not whole tokens.
        """
        return self.task.model.decode(indices, shape, size)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> ImageBatch:
        return _as_batch(batch)

    def on_train_start(self) -> None:
        if self.optim.schedule != "constant" and not self.steps:
            self.steps = self._batches_to_train()

    def _batches_to_train(self) -> int:
        """How many the Trainer will give. Its max_steps counts optimiser steps, one of them for an epoch's odd rest."""
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


def _as_batch(batch: Any) -> ImageBatch:
    if isinstance(batch, ImageBatch):
        return batch
    return ImageBatch(batch if isinstance(batch, Tensor) else batch[0], [], 0)


class AnimeDataModule(pl.LightningDataModule):
    """Any folder of images, with a share of them held out for validation."""

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
        trainer: Any = self.trainer
        if trainer is not None and trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise SightwordError(
                "these loaders share the data among ranks themselves: Trainer(use_distributed_sampler=False)"
            )
        self.loaders = make_loaders(self.data, self.seed)

    def train_dataloader(self) -> Any:
        return self.loaders.train

    def val_dataloader(self) -> Any:
        return self.loaders.val


class IntentonomyClipViTMultiStreamModule(Loop):
    """Frozen CLIP → codebooks of words → sum → mean → linear, to `fit` with any Trainer.

    A rate that is None is a tenth of `lr`. Batches are an
    `IntentBatch`, or (images (B, 3, H, W) in [-1, 1], targets (B, 28)).
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
        tower: str = "vit_h14",
        tag: str = "",
        token_types: dict[str, str] | None = None,
        lr: float = 1e-2,
        weight_decay: float = 1e-4,
        **system: Any,
    ) -> None:
        values = {name: value for name, value in locals().items() if name not in ("self", "__class__", "system")}
        rates = {name.removeprefix("lr_"): rate for name, rate in values.items() if name.startswith("lr_vq_")}
        scales = {role: 0.1 if rate is None else rate / lr for role, rate in rates.items()} | {"vq_other": 0.1}
        told: dict[str, Any] = {"semantic_anchors_path": semantic_anchors_path, "freeze_codebook": freeze_codebook}
        told |= {"semantic_consistency_weight": semantic_consistency_weight, "tower": tower, "tag": tag}
        config = IntentConfig(**told | ({"token_types": token_types} if token_types else {}) | system)
        task = cast(MultiStreamTask, make_intent_task(config))
        present = {role: scale for role, scale in scales.items() if role in task.parameter_groups()}
        optim = Optim(name="adamw", lr=lr, weight_decay=weight_decay, lr_scale=present)
        super().__init__(task, IntentEvaluator(task), optim)
        self.save_hyperparameters(values | system)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 28) of images (B, 3, H, W) in [-1, 1]."""
        return self.task.logits(IntentBatch(images.new_zeros(len(images), 0), [], images))

    def get_code_indices(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """See `sightword.systems.intent.show.get_code_indices`."""
        return get_code_indices(self.task, images)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> IntentBatch:
        if isinstance(batch, IntentBatch):
            return batch
        images, targets = batch
        return IntentBatch(targets.float(), [str(number) for number in range(len(targets))], images)


def check_vqvae() -> None:
    """Document 003's self-test: forward, encode and decode, and the loss, on a small model."""
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
