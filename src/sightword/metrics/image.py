"""How well images come back: PSNR, SSIM, the Fréchet distance.

Legend: B batch, H height, W width. Per-image values are kept apart until the end, because the mean of batch means
weighs a short last batch wrongly and PSNR is not linear.
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.storage.checkpoint import read_weights

PSNR_CEILING = 100.0


def quantise8(x: Tensor) -> Tensor:
    """[-1, 1] → [0, 1] as an 8 bit file would hold it: clamped, rounded to 255ths (truncating would darken)."""
    return x.detach().float().clamp(-1, 1).add(1).mul(127.5).round().div(255)


def psnr(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal to noise ratio of each image, in dB. x, y: (B, …) in a range of width `data_range` → (B,) float32.

    At most 100 dB, so that one identical pair does not make a mean infinite (one level in one value of a 256 x 256
    image is 101 dB).
    """
    _same_shape(x, y)
    error = (x.float() - y.float()).square().flatten(1).mean(1) / data_range**2
    return -10 * error.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()


def mean_colour_psnr(x: Tensor) -> Tensor:
    """What `psnr` gives if each image is replaced by its own mean colour: the floor that a model has to beat.

    x: (B, 3, H, W) in [0, 1] → (B,) dB.
    """
    return psnr(x, x.mean((2, 3), keepdim=True).expand_as(x))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian window 11, sigma 1.5, range 1, mean over RGB.

    x, y: (B, 3, H, W) in [0, 1] → (B,) float32. Raises ValueError for a side under 11, where no window fits.
    The border is mirrored, as in torchmetrics, whose numbers these are (to 2e-5, without its 7 seconds of imports and
    without convolutions, which TF32 or autocast would spoil: the variances are differences of near numbers). skimage
    leaves a border of 5 pixels out of the mean instead, which moves the third decimal of a small image. LlamaGen's
    0.675 is with range 2 on the same [0, 1] images: not comparable.
    """
    _same_shape(x, y)
    if min(x.shape[-2:]) < 11:
        raise ValueError(f"SSIM's window is 11 x 11 pixels, the images are {x.shape[-2]} x {x.shape[-1]}")
    x, y = x.float(), y.float()
    mean_x, mean_y = _blur(x), _blur(y)  # (B, 3, H, W), as all that follow
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean around every pixel, sigma 1.5 over 11 x 11, the border mirrored. (B, C, H, W) → the same."""
    height, width = x.shape[-2:]
    bell = [math.exp(-(at**2) / (2 * 1.5**2)) for at in range(-5, 6)]
    weights = [value / sum(bell) for value in bell]
    x = F.pad(x, (5, 5, 5, 5), mode="reflect")
    x = sum((w * x[..., i : i + width] for i, w in enumerate(weights)), x.new_zeros(()))
    return sum((w * x[..., i : i + height, :] for i, w in enumerate(weights)), x.new_zeros(()))


def frechet_distance(weights: str) -> Any:
    """torchmetrics' Fréchet distance of images (B, 3, H, W) in [0, 1], by Inception features (Heusel et al. 2017).

    weights: torch-fidelity's file of Inception v3, read from disk only. Raises ValueError if it
    is none, or the package is not installed.
    """
    state = read_weights(weights)
    from torchmetrics.image.fid import FrechetInceptionDistance

    with TemporaryDirectory() as folder:  # torch-fidelity unpickles whatever it is given: give it tensors only
        torch.save(state, Path(folder) / "inception.pth")
        try:
            return FrechetInceptionDistance(
                2048, normalize=True, feature_extractor_weights_path=f"{folder}/inception.pth"
            )
        except ModuleNotFoundError as error:
            raise ValueError("rFID needs torch-fidelity: pip install 'sightword[fid]'") from error


def _same_shape(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ValueError(f"the images compared differ in shape: {tuple(x.shape)} and {tuple(y.shape)}")
