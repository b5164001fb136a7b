"""From a picture to what a tower was trained on: its size, its mean, its standard deviation. Every tower has its own.

Legend: B batch; H, W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RESIZES = ("shortest", "squash")
INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in ("bicubic", "bilinear", "nearest")}


@dataclass(frozen=True)
class Preprocess:
    """RGB pictures to normalised tensors.

    resize: how a picture of another shape is brought to `size`. "shortest" covers it, keeping the proportions, and cuts
    the middle out (open_clip's default); "squash" keeps every pixel of the picture and bends it (SigLIP).
    """

    size: tuple[int, int]  # (H, W)
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    resize: str = "shortest"
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"resize={self.resize!r} is none of {', '.join(RESIZES)}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")

    def __call__(self, picture: Image.Image) -> Tensor:
        """(3, H, W) float32. Refuses what is not RGB: grey, palettes and transparency have more than one reading."""
        if picture.mode != "RGB":
            raise ValueError(f"the picture's mode is {picture.mode}, a tower reads RGB: use read_image, or convert it")
        pixels = torch.from_numpy(np.array(self._fit(picture)))  # (H, W, 3) uint8
        return self._normalised(pixels.permute(2, 0, 1).float().div_(255))

    def batch(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(B, 3, H, W)"""
        return torch.stack([self(picture) for picture in pictures])

    def normalise(self, images: Tensor) -> Tensor:
        """Images (..., 3, H, W) in [-1, 1], as `sightword.data` gives them, in this tower's units; any H, W."""
        return self._normalised(images.float().add(1).div_(2))

    def to(self, size: tuple[int, int]) -> "Preprocess":
        """The same for another input size."""
        return replace(self, size=(int(size[0]), int(size[1])))

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what a cache's header says of it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "Preprocess":
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
        return cls(**values)

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return images.sub_(mean).div_(std)

    def _fit(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        filter_ = INTERPOLATIONS[self.interpolation]
        if self.resize == "squash":
            return picture if picture.size == (width, height) else picture.resize((width, height), filter_)
        covering = _covering(picture.size, (width, height))
        if picture.size != covering:
            picture = picture.resize(covering, filter_)
        left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
        return picture.crop((left, top, left + width, top + height))


def _covering(picture: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """The least size with the picture's proportions that covers the window; truncated, as torchvision's Resize is."""
    if picture[0] * window[1] < picture[1] * window[0]:  # the width decides
        return window[0], max(window[1], int(window[0] * picture[1] / picture[0]))
    return max(window[0], int(window[1] * picture[0] / picture[1])), window[1]
