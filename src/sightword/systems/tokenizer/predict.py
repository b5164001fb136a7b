"""The predictor of an image tokenizer: encodes images as ids and decodes them.

Legend: h, w tokens of an image; K codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image

from sightword.data.image import read_image, to_image, to_tensor
from sightword.engine.contract import BatchT, Predictor, Result
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.metrics.image import psnr, quantise8
from sightword.systems.tokenizer.task import TokenizerTask
from sightword.towers.vq.image import VQImage
from sightword.viz import grid, overlay


@dataclass(frozen=True)
class TokenizedImage(Result):
    """An image, its ids and their reconstruction."""

    image: Image.Image
    ids: np.ndarray  # (h, w) int64, indices into a codebook of `num_codes`
    num_codes: int  # K
    reconstruction: Image.Image  # of the image's size
    psnr: float  # of the reconstruction, in dB

    def plot(self) -> Image.Image:
        """Return a figure of the image, its ids in colours, and the reconstruction."""
        ids = overlay.code_map(torch.from_numpy(self.ids), self.num_codes, size=self.image.size)
        return grid.titled(
            {"image": self.image, "ids": ids, f"reconstruction, {self.psnr:.1f} dB": self.reconstruction}
        )

    def to_dict(self) -> dict[str, object]:
        return {"ids": self.ids.tolist(), "num_codes": self.num_codes, "psnr": self.psnr}


class ImageTokenizer(Predictor):
    """Encodes images as grids of ids and decodes them."""

    def __init__(self, model: VQImage) -> None:
        self.model = model.eval()

    @classmethod
    def from_task(cls, task: Task[BatchT]) -> Self:
        if not isinstance(task, TokenizerTask):
            raise SightwordError(f"ImageTokenizer is made of a run of the tokenizer, got a {type(task).__name__}")
        return cls(task.model)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        return cls(VQImage.from_pretrained(folder))

    def save_pretrained(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def __call__(self, images: Sequence[str | Path | Image.Image]) -> list[TokenizedImage]:
        """Encode and decode images, given as files or PIL images of any size."""
        opened = [image if isinstance(image, Image.Image) else read_image(Path(image)) for image in images]
        return [self._tokenized(image.convert("RGB")) for image in opened]

    @torch.no_grad()
    def _tokenized(self, image: Image.Image) -> TokenizedImage:
        x = to_tensor(image)[None].to(next(self.model.parameters()).device)  # (1, 3, H, W)
        ids = self.model.encode(x)  # (1, h, w)
        decoded = self.model.decode(ids, size=(image.height, image.width))
        closeness = float(psnr(quantise8(decoded), quantise8(x))[0])
        return TokenizedImage(image, ids[0].cpu().numpy(), self.model.num_codes, to_image(decoded[0]), closeness)
