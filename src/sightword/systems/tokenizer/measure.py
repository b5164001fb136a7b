"""The tokenizer's metrics as functions of images that count with weights. Arrays: see `TokenizerEvaluator.items`."""

from sightword.engine.contract import Measure
from sightword.metrics import weighted


def _mean(name: str, less_is_better: bool = False) -> Measure:
    return Measure(lambda a, weights: weighted.mean(a[name], weights), less_is_better)


MEASURES: dict[str, Measure] = {
    "psnr": _mean("psnr"),
    "ssim": _mean("ssim"),
    "psnr_gain": Measure(lambda a, weights: weighted.mean(a["psnr"] - a["psnr_mean_colour"], weights)),
    "recon_loss": _mean("recon_loss", less_is_better=True),
    **{name: _mean("perc_loss", less_is_better=True) for name in ("perc_loss", "lpips_vgg", "lpips_alex")},
}
