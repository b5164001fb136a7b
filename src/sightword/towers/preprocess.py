"""Resize and normalise images as in the training of a tower: its size, mean and standard deviation.

Legend: B batch; H, W pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.errors import SightwordError
from sightword.towers.foreign import Config

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RESIZES = ("shortest", "squash")
LONG = 64  # if the resized image has more than this many times the window's pixels, only the window is computed
INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in ("bicubic", "bilinear", "nearest")}


@dataclass(frozen=True)
class Preprocess:
    """Transform from RGB images to normalised tensors.

    resize: how an image of another shape becomes `size`. "shortest" resizes it to cover `size`, aspect ratio kept, and
    crops the centre (open_clip's default); "squash" resizes the whole image, aspect ratio not kept (SigLIP).
    """

    size: tuple[int, int]  # (H, W)
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    resize: str = "shortest"
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if not _numbers(self.size, 2) or any(side < 1 or side != int(side) for side in self.size):
            raise SightwordError(f"size={self.size} is not two positive whole numbers, (height, width)")
        if not _numbers(self.mean, 3):
            raise SightwordError(f"mean={self.mean} is not three numbers, of red, green and blue")
        if not _numbers(self.std, 3) or min(self.std) <= 0:
            raise SightwordError(f"std={self.std} is not three numbers above 0, of red, green and blue")
        if self.resize not in RESIZES:
            raise SightwordError(f"resize={self.resize!r} is none of {', '.join(RESIZES)}")
        if self.interpolation not in list(INTERPOLATIONS):
            raise SightwordError(f"interpolation={self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")

    def __call__(self, picture: Image.Image) -> Tensor:
        """(3, H, W) float32. Refuses what is not RGB: grey, palettes and transparency have more than one reading."""
        if picture.mode != "RGB":
            raise SightwordError(f"the image's mode is {picture.mode}, expected RGB: use read_image, or convert it")
        pixels = torch.from_numpy(np.array(self._fit(picture)))  # (H, W, 3) uint8
        images = pixels.permute(2, 0, 1).float().div_(255)
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return images.sub_(mean).div_(std)

    def batch(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(B, 3, H, W)"""
        return torch.stack([self(picture) for picture in pictures])

    def to(self, size: tuple[int, int]) -> "Preprocess":
        """Return the same preprocessing for another input size."""
        return replace(self, size=(int(size[0]), int(size[1])))

    def signed(self) -> "Preprocess":
        """Return the same resizing to values in [-1, 1], as `sightword.data` has images; `normalise` does the rest."""
        return replace(self, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def as_dict(self) -> dict[str, object]:
        """Return it as plain data, as in the header of a cache."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, config: Mapping[str, object]) -> "Preprocess":
        values: Config = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
        return cls(**values)

    def _fit(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        filter_ = INTERPOLATIONS[self.interpolation]
        if self.resize == "squash":
            return picture if picture.size == (width, height) else picture.resize((width, height), filter_)
        return _cover(picture, (width, height), filter_)


def _numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, tuple | list)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )


def _cover(picture: Image.Image, window: tuple[int, int], filter_: Image.Resampling) -> Image.Image:
    """Return the central part of an image, resized to the window (W, H), aspect ratio kept.

    Resize and cut, pixel for pixel as open_clip does it. A picture 2 wide and 40000 high would be resized to gigabytes
    of which nearly all is cut off: of such a one only the window is computed, which may round a pixel otherwise.
    """
    covering = _covering(picture.size, window)
    left, top = (round((side - least) / 2) for side, least in zip(covering, window, strict=True))
    box = (left, top, left + window[0], top + window[1])
    if covering[0] * covering[1] > LONG * window[0] * window[1]:
        x, y = (side / covered for side, covered in zip(picture.size, covering, strict=True))
        return picture.resize(window, filter_, box=(box[0] * x, box[1] * y, box[2] * x, box[3] * y))
    return (picture if picture.size == covering else picture.resize(covering, filter_)).crop(box)


def _covering(picture: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Return the least size (W, H) with the image's aspect ratio that covers the window.

    A square one's is truncated, as torchvision's Resize does it, any other rounded: open_clip takes another path there.
    """
    ratio = min(side / least for side, least in zip(picture, window, strict=True))
    if window[0] != window[1]:
        return round(picture[0] / ratio), round(picture[1] / ratio)
    side, (short, long) = window[0], sorted(picture)
    return (side, int(side * long / short)) if picture[0] == short else (int(side * long / short), side)
