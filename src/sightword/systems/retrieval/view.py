"""What the networks see of a person's picture: the retrieval view, bent and disturbed, and the generation view, bent
only, of which cells are hidden.

Legend: B batch; H, W pixels; u×v cells, the units that are hidden; h×w image codes. Images are float32 in [-1, 1].
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.data.image import squash


class Augmentation(NamedTuple):
    """How a training image differs each time: mirrored, shifted, a rectangle erased (as in IRRA, datasets/build.py).

    What one is like is a function of the generator alone, and always takes as many numbers from it.
    """

    size: tuple[int, int]  # H, W
    mirror: bool = False  # half of the time
    pad: int = 10  # pixels of black all around, of which a crop of H×W is taken
    erase: float = 0.5  # how often

    def __call__(self, picture: Image.Image, generator: torch.Generator) -> tuple[Tensor, bool]:
        """(3, H, W), and whether it is mirrored: then its caption's left is right."""
        coin, left, top, *rest = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
        image = squash(*self.size)(picture, None)
        mirrored = self.mirror and coin < 0.5
        if mirrored:
            image = image.flip(-1)
        if self.pad:
            image = _shifted(image, self.pad, left, top)
        if rest[0] < self.erase:
            _erase(image, *rest[1:])
        return image, mirrored


def _shifted(image: Tensor, pad: int, left: float, top: float) -> Tensor:
    height, width = image.shape[1:]
    x, y = int(left * (2 * pad + 1)), int(top * (2 * pad + 1))
    return F.pad(image, (pad, pad, pad, pad), value=-1.0)[:, y : y + height, x : x + width].contiguous()


def _erase(image: Tensor, area: float, shape: float, left: float, top: float) -> None:
    """Fill 2 to 40 % of the image with mid grey, height to width as 0.3 to 3.3 (Zhong 2020).

    A rectangle that does not fit is cut where torchvision would draw another.
    """
    height, width = image.shape[1:]
    pixels = (0.02 + 0.38 * area) * height * width
    ratio = math.exp(math.log(0.3) + shape * (math.log(3.3) - math.log(0.3)))
    h, w = min(round(math.sqrt(pixels * ratio)), height), min(round(math.sqrt(pixels / ratio)), width)
    y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
    image[:, y : y + h, x : x + w] = 0.0


class Cells(NamedTuple):
    """The units that are hidden of an image: as large as the larger of a tower's patch and a code's pixels.

    So no visible pixel shares a patch or a code with a hidden one.
    """

    size: tuple[int, int]  # H, W
    grid: tuple[int, int]  # u, v
    codes: tuple[int, int]  # h, w

    @classmethod
    def of(cls, size: tuple[int, int], patch: tuple[int, int], codes: tuple[int, int]) -> "Cells":
        """ValueError where patches, codes and image do not fit into each other."""
        if any(side % number for side, number in zip(size, codes, strict=True)):
            raise ValueError(f"{_by(codes)} codes do not divide an image of {_by(size)} pixels: set data.image_size")
        pixels = (size[0] // codes[0], size[1] // codes[1])
        unit = (max(patch[0], pixels[0]), max(patch[1], pixels[1]))
        for name, part in (("a patch", patch), ("a code", pixels), ("the image", unit)):
            whole = size if name == "the image" else unit
            if any(side % other for side, other in zip(whole, part, strict=True)):
                raise ValueError(
                    f"cells of {_by(unit)} pixels are hidden, the larger of a patch ({_by(patch)}) and a code "
                    f"({_by(pixels)}): {name} does not fit an image of {_by(size)} that way. Choose a tokenizer whose "
                    "factor divides the patch, or is a multiple of it"
                )
        return cls(size, (size[0] // unit[0], size[1] // unit[1]), codes)

    @property
    def number(self) -> int:
        """u·v"""
        return self.grid[0] * self.grid[1]

    def draw(self, share: float, generator: torch.Generator) -> Tensor:
        """(u·v,) bool: exactly so large a share is hidden, at least one cell, and at least one is not."""
        hidden = torch.zeros(self.number, dtype=torch.bool)
        many = min(max(round(share * self.number), 1), max(self.number - 1, 1))
        hidden[torch.randperm(self.number, generator=generator)[:many]] = True
        return hidden

    def hide(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images (B, 3, H, W) with hidden cells (B, u·v) at 0, mid grey."""
        return images.masked_fill(self._spread(hidden, self.size)[:, None], 0.0)

    def hidden_codes(self, hidden: Tensor) -> Tensor:
        """Hidden cells (B, u·v) as codes (B, h·w) bool, rows first."""
        return self._spread(hidden, self.codes).flatten(1)

    def _spread(self, hidden: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, u·v) → (B, *size)"""
        rows, columns = (side // number for side, number in zip(size, self.grid, strict=True))
        cells = hidden.unflatten(1, self.grid)
        return cells.repeat_interleave(rows, 1).repeat_interleave(columns, 2)


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}×{pair[1]}"
