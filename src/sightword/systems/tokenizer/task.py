"""The objective of an image tokenizer, its measures and its pictures.

total = λ_rec·recon_loss + λ_vq·vq_loss + λ_commit·commitment_loss + λ_perc·perc_loss
        (+ λ_gan·disc_weight·adaptive·gan_loss for a VQ-GAN)
"""

from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from sightword.data.image import ImageBatch
from sightword.engine.contract import Task
from sightword.metrics.codebook import CodeUsage, bits_per_pixel
from sightword.metrics.gather import Mean
from sightword.metrics.image import frechet_distance, mean_colour_psnr, psnr, quantise8, ssim
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
from sightword.viz import grid


def make_task(system: TokenizerConfig) -> "TokenizerTask":
    """The task that a config describes."""
    if system.weights:
        model = open_tokenizer(system.weights, system.layout)
    else:
        model = make_tokenizer(**{name: getattr(system, name) for name in signature(make_tokenizer).parameters})
    model.quantizer.commitment_cost = 1.0  # the objective weighs the raw term; a loaded tokenizer may have its own
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
    return TokenizerTask(model.train(), lpips, adversary, fid_weights=system.fid_weights, **weights)


class Adversary(nn.Module):
    """A discriminator and when, how and how strongly it takes part."""

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
        """The discriminator's own objective on images (B, 3, H, W)."""
        real, fake = self.network(real), self.network(fake)
        terms = {"disc_loss": discriminator_loss(real, fake, self.kind)}
        if self.lecam_weight:
            terms["lecam_loss"] = self.lecam(real, fake)
        return terms


class TokenizerTask(Task):
    """Reconstruct images through a codebook."""

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
    ) -> None:
        super().__init__({"recon_loss": rec, "vq_loss": vq, "commitment_loss": commit, "perc_loss": perc})
        self.model, self.lpips, self.discriminator = model, lpips, adversary
        if adversary is not None:
            self.weights["lecam_loss"] = adversary.lecam_weight
        self.usage = CodeUsage(model.num_codes, window=100)
        self.skipped = 0  # unreadable images met in training, each time, on this rank
        self.held_out = HeldOut(model.num_codes, lpips, fid_weights)

    def losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        out = self.model(batch.images)
        self._shown, self._ids = out.images.detach(), out.quantized.ids
        self.usage.update(out.quantized.ids)
        self.skipped += batch.skipped
        terms = {"vq_loss": out.quantized.codebook_loss, "commitment_loss": out.quantized.loss}
        if self._generator_meets_discriminator():
            return self._seen(batch.images, out) | terms
        return self._looks(out.images, batch.images) | terms

    def get_extra_state(self) -> dict[str, Any]:
        return {**self.usage.state_dict(), "skipped": self.skipped}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.usage.load_state_dict(state)
        self.skipped = state.get("skipped", 0)

    def discriminator_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        assert self.discriminator is not None
        if self.batches < self.discriminator.start:
            return {}
        return self.discriminator.losses(batch.images, self._shown)

    def _generator_meets_discriminator(self) -> bool:
        return self.discriminator is not None and self.batches >= self.discriminator.start + self.discriminator.warmup

    def _looks(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """How reconstructions (B, 3, H, W) differ from the images."""
        terms = {"recon_loss": F.l1_loss(images, targets)}
        if self.lpips is not None and self.weights["perc_loss"]:
            terms["perc_loss"] = self.lpips(images, targets).mean()
        return terms

    def _seen(self, targets: Tensor, out: Reconstruction) -> dict[str, Tensor]:
        """The same terms and gan_loss, weighed against each other by their gradients; each runs backward once."""
        assert self.discriminator is not None
        shown = out.images.detach().float().requires_grad_()  # gradients at pixels are too small for float16
        terms = self._looks(shown, targets)
        terms["gan_loss"] = generator_loss(self.discriminator.network(shown), self.discriminator.kind)
        slopes = {name: torch.autograd.grad(term, shown)[0] for name, term in terms.items()}
        wanted = sum(
            (self.weights[name] * g for name, g in slopes.items() if name != "gan_loss"), start=0 * shown.detach()
        )
        last_layer = self.model.decoder.conv_out.weight
        self.adaptive = adaptive_weight(out.images, wanted, slopes["gan_loss"], last_layer)
        self.weights["gan_loss"] = self.discriminator.weight * self.adaptive
        return {name: WithGradient.apply(out.images, term.detach(), slopes[name]) for name, term in terms.items()}

    def stats(self) -> dict[str, float]:
        """perplexity and code_usage_rate of the last batch (N tokens show at most N of K codes), and of the last 100.

        skipped_images: how many could not be read since the run began; only where there were any.
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

    def evaluate(self, batch: ImageBatch) -> None:
        self.held_out.meet(batch)
        if len(batch.images):
            self.held_out.update(batch, self.model(batch.images))

    def measures(self) -> dict[str, float]:
        return self.held_out.finish(self.weights)

    def protocol(self) -> dict[str, Any]:
        return {
            "pixels": "clamped to [-1, 1], to [0, 1], rounded to 8 bit; per image, then the mean over images",
            "ssim": "Gaussian window of 11, sigma 1.5, data range 1",
            "psnr_gain": "PSNR less that of each crop filled with its own mean colour",
            "lpips": f"v0.1, {self.lpips.net}" if self.lpips is not None else "not measured",
            "rfid": "Inception v3, 2048 features, the same crops" if self.held_out.fid_weights else "not measured",
            "usage": f"of {self.model.num_codes} codes, over all validation tokens",
            "split": "validation images are never trained on; best.ckpt was chosen on them",
        }

    def pictures(self, batch: ImageBatch) -> dict[str, Image]:
        some = batch.images[:8]
        if not len(some):
            return {}
        return {"reconstruction": grid.pairs(some, self.model(some).images.clamp(-1, 1), columns=8)}

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


class HeldOut:
    """Sums over the validation images, of which the measures are made. Every rank takes part, with images or not."""

    def __init__(self, num_codes: int, lpips: LPIPS | None, fid_weights: str) -> None:
        self.num_codes, self.lpips, self.fid_weights = num_codes, lpips, fid_weights
        self.fid: Any = None
        self.reset()

    def reset(self) -> None:
        names = ["recon_loss", "vq_loss", "commitment_loss", "psnr", "psnr_mean_colour", "ssim", "bits_per_pixel"]
        self.means = {name: Mean() for name in names + ["perc_loss"] * (self.lpips is not None)}
        self.usage = CodeUsage(self.num_codes)
        self.skipped = Mean()

    def meet(self, batch: ImageBatch) -> None:
        """What comes before `update`, also where not one image of the batch could be read."""
        self.skipped.update(torch.tensor(float(batch.skipped)))
        if self.fid_weights:  # here, as all ranks must have it in the end
            self.fid = self.fid or frechet_distance(self.fid_weights).to(batch.images.device)

    def update(self, batch: ImageBatch, out: Reconstruction) -> None:
        images, shown = quantise8(batch.images), quantise8(out.images)
        bits = bits_per_pixel(self.num_codes, out.quantized.ids[0].numel(), images[0, 0].numel())
        each = {
            "recon_loss": (out.images - batch.images).abs().mean((1, 2, 3)),
            "vq_loss": out.quantized.codebook_loss.expand(len(images)),
            "commitment_loss": out.quantized.loss.expand(len(images)),
            "psnr": psnr(shown, images),
            "psnr_mean_colour": mean_colour_psnr(images),
            "ssim": ssim(shown, images),
            "bits_per_pixel": torch.tensor(bits),
        }
        if self.lpips is not None:
            each["perc_loss"] = self.lpips(out.images, batch.images)
        for name, values in each.items():
            self.means[name].update(values)
        if self.fid is not None:
            self.fid.update(images, real=True)
            self.fid.update(shown, real=False)
        self.usage.update(out.quantized.ids)

    def finish(self, weights: dict[str, float | Tensor]) -> dict[str, float]:
        """The measures over all ranks; forgets what was gathered."""
        skipped = float(self.skipped.reduce().sum[0])
        if skipped and not self.means["recon_loss"].reduce().sum[1]:
            raise ValueError(f"not one of the {skipped:.0f} validation images is readable: `sightword check` says why")
        values = {name: float(mean.reduce().value()) for name, mean in self.means.items()}
        usage = self.usage.reduce()
        values["total_loss"] = sum(float(weights[name]) * values[name] for name in weights if name in values)
        values["psnr_gain"] = values["psnr"] - values["psnr_mean_colour"]
        values["perplexity"], values["code_usage_rate"] = float(usage.perplexity()), float(usage.usage())
        values["perplexity_share"] = values["perplexity"] / self.num_codes
        if skipped:
            values["skipped_images"] = skipped
        if self.lpips is not None:
            values[f"lpips_{self.lpips.net}"] = values["perc_loss"]
        if self.fid is not None:
            values["rfid"] = float(self.fid.compute())
            self.fid.reset()
        self.reset()
        return values
