"""Evaluation of an image tokenizer: quality of reconstructions and use of the codebook.

Legend: B images of a batch; H, W pixels; K codes.
"""

import torch
from PIL.Image import Image
from torch.utils.data import DataLoader
from torchmetrics.image.fid import FrechetInceptionDistance

from sightword.data.content import short_names
from sightword.data.image import ImageBatch
from sightword.engine.contract import Evaluator, Metrics
from sightword.engine.item_result import ItemResults
from sightword.errors import SightwordError
from sightword.metrics.codebook import CodeUsage, bits_per_pixel
from sightword.metrics.gather import ItemRows, Mean
from sightword.metrics.image import frechet_distance, mean_colour_psnr, psnr, quantise8, ssim
from sightword.systems.tokenizer.task import TokenizerTask
from sightword.towers.vq.image import Reconstruction
from sightword.viz import grid

SHOWN = 8  # images of a figure
EACH = ("psnr", "psnr_mean_colour", "ssim", "recon_loss", "perc_loss")  # metrics that every image has


class TokenizerEvaluator(Evaluator[ImageBatch]):
    """The metrics of reconstructed validation images, averaged over images. Works on ranks without images, too."""

    def __init__(self, task: TokenizerTask) -> None:
        self.task, self.model, self.lpips = task, task.model, task.lpips
        self.fid: FrechetInceptionDistance | None = None
        self._measured = ItemRows()  # of the last metrics
        self._reset()

    def _reset(self) -> None:
        names = ["recon_loss", "vq_loss", "commitment_loss", "psnr", "psnr_mean_colour", "ssim", "bits_per_pixel"]
        self.means = {name: Mean() for name in names + ["perc_loss"] * (self.lpips is not None)}
        self.usage = CodeUsage(self.model.num_codes)
        self.skipped = Mean()
        self._rows = ItemRows()

    def metric_names(self) -> frozenset[str]:
        derived = {"total_loss", "psnr_gain", "perplexity", "code_usage_rate", "perplexity_share", "skipped_images"}
        if self.lpips is not None:
            derived.add(f"lpips_{self.lpips.net}")
        if self.task.fid_weights:
            derived.add("rfid")
        return frozenset(derived | set(self.means))

    def update(self, batch: ImageBatch) -> None:
        self.skipped.update(torch.tensor(float(batch.skipped)))
        if self.task.fid_weights:  # also for an empty batch, as all ranks must take part in `compute`
            self.fid = self.fid or frechet_distance(self.task.fid_weights).to(batch.images.device)
        if len(batch.images):
            self._measure(batch, self.model(batch.images))

    def _measure(self, batch: ImageBatch, out: Reconstruction) -> None:
        given, made = batch.images.float(), out.images.float()  # networks may have another precision
        images, shown = quantise8(given), quantise8(made)
        bits = bits_per_pixel(self.model.num_codes, out.quantized.ids[0].numel(), images[0, 0].numel())
        each = {
            "recon_loss": (made - given).abs().mean((1, 2, 3)),
            "vq_loss": out.quantized.codebook_loss.expand(len(images)),
            "commitment_loss": out.quantized.loss.expand(len(images)),
            "psnr": psnr(shown, images),
            "psnr_mean_colour": mean_colour_psnr(images),
            "ssim": ssim(shown, images),
            "bits_per_pixel": torch.tensor(bits),
        }
        if self.lpips is not None:
            each["perc_loss"] = self.lpips(made, given)
        for name, values in each.items():
            self.means[name].update(values)
        self._rows.update(batch.paths, **{name: each[name].flatten() for name in EACH if name in each})
        if self.fid is not None:
            self.fid.update(images, real=True)
            self.fid.update(shown, real=False)
        self.usage.update(out.quantized.ids)

    def compute(self) -> Metrics:
        skipped, weights = float(self.skipped.reduce().sum[0]), self.task.weights
        if skipped and not self.means["recon_loss"].reduce().sum[1]:
            raise SightwordError(f"none of the {skipped:.0f} validation images is readable: `sightword check` says why")
        values = {name: float(mean.reduce().value()) for name, mean in self.means.items()}
        usage = self.usage.reduce()
        values["total_loss"] = sum(float(weights[name]) * values[name] for name in weights if name in values)
        values["psnr_gain"] = values["psnr"] - values["psnr_mean_colour"]
        values["perplexity"], values["code_usage_rate"] = float(usage.perplexity()), float(usage.usage())
        values["perplexity_share"] = values["perplexity"] / self.model.num_codes
        if skipped:
            values["skipped_images"] = skipped
        if self.lpips is not None:
            values[f"lpips_{self.lpips.net}"] = values["perc_loss"]
        if self.fid is not None:
            values["rfid"] = float(self.fid.compute())
            self.fid.reset()
        self._measured = self._rows.reduce()
        self._reset()
        return values

    def items(self, loader: DataLoader[ImageBatch]) -> ItemResults | None:
        """PSNR, SSIM and losses of each image; the crops of one image are one cluster."""
        names = short_names(self._measured.names)
        return ItemResults.of("images", names, names, self._measured.arrays) if names else None

    def protocol(self) -> dict[str, str]:
        return {
            "pixels": "clamped to [-1, 1], to [0, 1], rounded to 8 bit; per image, then the mean over images",
            "ssim": "Gaussian window of 11, sigma 1.5, data range 1",
            "psnr_gain": "PSNR minus the PSNR of each crop filled with its own mean colour",
            "lpips": f"v0.1, {self.lpips.net}" if self.lpips is not None else "not measured",
            "rfid": "Inception v3, 2048 features, the same crops" if self.task.fid_weights else "not measured",
            "usage": f"of {self.model.num_codes} codes, over all validation tokens",
            "split": "validation images are never trained on; best.ckpt was chosen on them",
        }

    def images(self, batch: ImageBatch) -> dict[str, Image]:
        """Return a figure of originals above their reconstructions."""
        some = batch.images[:SHOWN]
        if not len(some):
            return {}
        return {"reconstruction": grid.pairs(some, self.model(some).images.clamp(-1, 1), columns=SHOWN)}
