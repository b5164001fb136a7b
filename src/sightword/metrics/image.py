"""Metrics of image reconstruction: PSNR, SSIM, the Fréchet distance.

Legend: B batch, H height, W width. PSNR and SSIM are returned per image: a mean of batch means would give the images
of a short last batch too much weight, and PSNR is not linear in the error.
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_weights

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

PSNR_CEILING = 100.0  # dB


def quantise8(x: Tensor) -> Tensor:
    """Return images of [-1, 1] in [0, 1] as an 8-bit file stores them: clamped and rounded to multiples of 1/255."""
    return x.detach().float().clamp(-1, 1).add(1).mul(127.5).round().div(255)


def psnr(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB. x, y: (B, …), range of width `data_range` → (B,).

    Float32, at most 100 dB, so that one identical pair does not make the mean infinite. (A difference of one level in
    one value of a 256 x 256 image is 101 dB.)
    """
    _same_shape(x, y)
    error = (x.float() - y.float()).square().flatten(1).mean(1) / data_range**2
    return -10 * error.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()


def mean_colour_psnr(x: Tensor) -> Tensor:
    """Return the `psnr` of each image against its own mean colour: the baseline that a model has to beat.

    x: (B, 3, H, W) in [0, 1] → (B,) in dB.
    """
    return psnr(x, x.mean((2, 3), keepdim=True).expand_as(x))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity of each image (Wang et al. 2004): x, y (B, 3, H, W) in [0, 1] → (B,) float32.

    Gaussian window of 11 pixels, sigma 1.5, data range 1, mean over RGB. Raises SightwordError for a side under 11.
    The border is mirrored, as in torchmetrics, and values agree with torchmetrics to 2e-5. There are no convolutions
    here: TF32 or autocast would spoil the variances, which are differences of nearly equal numbers. skimage excludes a
    border of 5 pixels instead, which changes the third decimal of a small image. LlamaGen's 0.675 is computed with data
    range 2 on [0, 1] images and is not comparable.
    """
    _same_shape(x, y)
    if min(x.shape[-2:]) < 11:
        raise SightwordError(f"SSIM's window is 11 x 11 pixels, the images are {x.shape[-2]} x {x.shape[-1]}")
    x, y = x.float(), y.float()
    mean_x, mean_y = _blur(x), _blur(y)  # (B, 3, H, W), as all that follow
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Return (B, C, H, W) blurred by a Gaussian of 11 x 11 pixels and sigma 1.5, the border mirrored."""
    height, width = x.shape[-2:]
    bell = [math.exp(-(at**2) / (2 * 1.5**2)) for at in range(-5, 6)]
    weights = [value / sum(bell) for value in bell]
    x = F.pad(x, (5, 5, 5, 5), mode="reflect")
    x = sum((w * x[..., i : i + width] for i, w in enumerate(weights)), x.new_zeros(()))
    return sum((w * x[..., i : i + height, :] for i, w in enumerate(weights)), x.new_zeros(()))


def frechet_distance(weights: str) -> "FrechetInceptionDistance":
    """Return torchmetrics' Fréchet inception distance (Heusel et al. 2017) for images (B, 3, H, W) in [0, 1].

    weights: torch-fidelity's checkpoint of Inception v3, a file. Raises SightwordError if the file is not such a
    checkpoint, or if torch-fidelity is not installed.
    """
    state = read_weights(weights)
    from torchmetrics.image.fid import FrechetInceptionDistance

    with TemporaryDirectory() as folder:  # torch-fidelity unpickles its file: give it tensors only
        torch.save(state, Path(folder) / "inception.pth")
        try:
            return FrechetInceptionDistance(
                2048, normalize=True, feature_extractor_weights_path=f"{folder}/inception.pth"
            )
        except ModuleNotFoundError as error:
            raise SightwordError("rFID needs torch-fidelity: pip install 'sightword[fid]'") from error


def _same_shape(x: Tensor, y: Tensor) -> None:
    """Raise ValueError if shapes differ."""
    if x.shape != y.shape:
        raise ValueError(f"the images compared differ in shape: {tuple(x.shape)} and {tuple(y.shape)}")
