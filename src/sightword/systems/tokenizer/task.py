"""The training objective of an image tokenizer.

total = λ_rec·recon_loss + λ_vq·vq_loss + λ_commit·commitment_loss + λ_perc·perc_loss
        (+ λ_gan·disc_weight·adaptive·gan_loss for a VQ-GAN)
"""

from pathlib import Path
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.data.image import ImageBatch
from sightword.engine.task import Task
from sightword.metrics.codebook import CodeUsage
from sightword.systems.tokenizer.config import TokenizerConfig
from sightword.systems.tokenizer.loss import (
    LPIPS,
    LeCam,
    WithGradient,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from sightword.systems.tokenizer.model import PatchGAN, make_tokenizer
from sightword.towers.vq.image import Reconstruction, VQImage
from sightword.towers.vq.published import open_tokenizer


def make_task(system: TokenizerConfig) -> "TokenizerTask":
    """Return the task of a config."""
    model = make_tokenizer(system)
    model.quantizer.commitment_cost = 1.0  # the objective weights the term; a published tokenizer may have another cost
    adversary = None
    if system.lambda_gan:
        adversary = Adversary(
            PatchGAN(system.in_channels, system.disc_channels, system.disc_layers),
            kind=system.disc_loss,
            start=system.disc_start,
            warmup=system.disc_warmup,
            weight=system.lambda_gan * system.disc_weight,
            lecam_weight=system.lecam_weight,
        )
    lpips = LPIPS("vgg", system.lpips_weights) if system.use_lpips else None
    weights = {name: getattr(system, f"lambda_{name}") for name in ("rec", "vq", "commit", "perc")}
    return TokenizerTask(
        model.train(), lpips, adversary, fid_weights=system.fid_weights, layout=system.layout, **weights
    )


class Adversary(nn.Module):
    """A discriminator with its schedule, its losses and their weights."""

    network: nn.Module
    lecam: LeCam

    def __init__(
        self, network: nn.Module, kind: str, start: int, warmup: int, weight: float, lecam_weight: float
    ) -> None:
        super().__init__()
        self.network, self.lecam = network, LeCam()
        self.kind, self.start, self.warmup = kind, start, warmup
        self.weight, self.lecam_weight = weight, lecam_weight

    def losses(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Return the discriminator's loss terms on real and generated images (B, 3, H, W)."""
        real, fake = self.network(real), self.network(fake)
        terms = {"disc_loss": discriminator_loss(real, fake, self.kind)}
        if self.lecam_weight:
            terms["lecam_loss"] = self.lecam(real, fake)
        return terms


class TrainingState(TypedDict):
    """The part of a checkpoint that is not weights."""

    recent: list[Tensor]  # the ids of the last batches, for the usage in the log
    skipped: int  # unreadable images so far


class TokenizerTask(Task[ImageBatch]):
    """The objective of reconstructing images from their codes."""

    model: VQImage
    lpips: LPIPS | None
    discriminator: Adversary | None

    def __init__(
        self,
        model: VQImage,
        lpips: LPIPS | None = None,
        adversary: Adversary | None = None,
        rec: float = 1.0,
        vq: float = 1.0,
        commit: float = 0.25,
        perc: float = 0.5,
        fid_weights: str = "",
        layout: str = "",
    ) -> None:
        """layout: of published files that training may start from."""
        super().__init__({"recon_loss": rec, "vq_loss": vq, "commitment_loss": commit, "perc_loss": perc})
        self.model, self.lpips, self.discriminator = model, lpips, adversary
        if adversary is not None:
            self.weights["lecam_loss"] = adversary.lecam_weight
        self.usage = CodeUsage(model.num_codes, window=100)
        self.skipped = 0  # unreadable images in training on this rank, counted each time
        self.fid_weights, self.layout = fid_weights, layout

    def losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        out = self.model(batch.images)
        self._shown, self._ids = out.images.detach(), out.quantized.ids
        self.usage.update(out.quantized.ids)
        self.skipped += batch.skipped
        terms = {"vq_loss": out.quantized.codebook_loss, "commitment_loss": out.quantized.loss}
        if self._is_adversarial():
            return self._adversarial_terms(batch.images, out) | terms
        return self._reconstruction_terms(out.images, batch.images) | terms

    def published(self, file: Path) -> dict[str, Tensor]:
        """Return the networks in a published file of system.layout, or in the model.safetensors of an export."""
        return {f"model.{name}": weight for name, weight in open_tokenizer(file, self.layout).state_dict().items()}

    def get_extra_state(self) -> TrainingState:
        return {"recent": self.usage.state_dict()["recent"], "skipped": self.skipped}

    def set_extra_state(self, state: TrainingState) -> None:
        self.usage.load_state_dict({"recent": state["recent"]})
        self.skipped = state["skipped"]

    def discriminator_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        assert self.discriminator is not None
        if self.batches < self.discriminator.start:
            return {}
        return self.discriminator.losses(batch.images, self._shown)

    def _is_adversarial(self) -> bool:
        """Return whether gan_loss is part of the present batch's losses."""
        return self.discriminator is not None and self.batches >= self.discriminator.start + self.discriminator.warmup

    def _reconstruction_terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the L1 and LPIPS terms of reconstructions (B, 3, H, W)."""
        terms = {"recon_loss": F.l1_loss(images, targets)}
        if self.lpips is not None and self.weights["perc_loss"]:
            terms["perc_loss"] = self.lpips(images, targets).mean()
        return terms

    def _adversarial_terms(self, targets: Tensor, out: Reconstruction) -> dict[str, Tensor]:
        """Return the terms of the reconstruction and gan_loss, and set its adaptive weight. Each runs backward once."""
        assert self.discriminator is not None
        shown = out.images.detach().float().requires_grad_()  # gradients at pixels are too small for float16
        terms = self._reconstruction_terms(shown, targets)
        terms["gan_loss"] = generator_loss(self.discriminator.network(shown), self.discriminator.kind)
        slopes = {name: torch.autograd.grad(term, shown)[0] for name, term in terms.items()}
        reconstruction = sum(
            (self.weights[name] * g for name, g in slopes.items() if name != "gan_loss"), start=0 * shown.detach()
        )
        last_layer = self.model.decoder.conv_out.weight
        self.adaptive = adaptive_weight(out.images, reconstruction, slopes["gan_loss"], last_layer)
        self.weights["gan_loss"] = self.discriminator.weight * self.adaptive
        return {name: WithGradient.apply(out.images, term.detach(), slopes[name]) for name, term in terms.items()}

    def stats(self) -> dict[str, float]:
        """Return perplexity and code_usage_rate of the last batch, and those of the last 100 batches.

        N tokens can use at most N of K codes. skipped_images: number of unreadable images since the start of the run,
        if there were any.
        """
        batch = CodeUsage(self.model.num_codes)
        batch.update(self._ids)
        values = {
            "perplexity": float(batch.perplexity()),
            "code_usage_rate": float(batch.usage()),
            "perplexity_100": float(self.usage.perplexity()),
            "code_usage_rate_100": float(self.usage.usage()),
        }
        if "gan_loss" in self.weights:
            values["adaptive_weight"] = float(self.adaptive)
        if self.skipped:
            values["skipped_images"] = float(self.skipped)
        return values
