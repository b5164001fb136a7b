"""The predictor of an image tokenizer: encodes images as ids and decodes them.

Legend: n images; H, W pixels; h, w tokens of an image; K codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.data.image import ImageLike, as_sequence, open_image, to_image, to_tensor
from sightword.engine.config import DataConfig
from sightword.engine.contract import BatchT, Result
from sightword.engine.predictor import Predictor
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.metrics.image import psnr, quantise8
from sightword.storage.fields import Fields
from sightword.systems.tokenizer.task import TokenizerTask
from sightword.towers.vq.image import VQImage
from sightword.viz import grid, overlay

SMALLEST, LARGEST = 256, 512  # pixels of the longer side of an image in a figure

#: Ids of one image (h, w), of several of one size (n, h, w), or a list of grids.
IdsLike: TypeAlias = np.ndarray | Tensor | Sequence[np.ndarray | Tensor]


@dataclass(frozen=True, eq=False)
class TokenizedImage(Result):
    """An image, its ids and their reconstruction."""

    image: Image.Image
    ids: np.ndarray  # (h, w) int64, indices into a codebook of `num_codes`
    num_codes: int  # K
    reconstruction: Image.Image  # of the image's size
    psnr: float  # of the reconstruction, in dB

    def plot(self) -> Image.Image:
        """Return a figure of the image, its ids in colours, and the reconstruction."""
        image, decoded = _panel(self.image), _panel(self.reconstruction)
        ids = overlay.code_map(torch.from_numpy(self.ids), self.num_codes, size=image.size)
        return grid.titled({"image": image, "ids": ids, f"reconstruction, {self.psnr:.1f} dB": decoded})

    def to_dict(self) -> dict[str, object]:
        size = [self.image.height, self.image.width]
        return {"ids": self.ids.tolist(), "num_codes": self.num_codes, "size": size, "psnr": self.psnr}

    def __repr__(self) -> str:
        height, width = self.ids.shape
        pixels = f"{self.image.width}×{self.image.height} pixels"
        return f"TokenizedImage({pixels} as {width}×{height} ids of {self.num_codes} codes, PSNR {self.psnr:.1f} dB)"


class ImageTokenizer(Predictor):
    """Encodes images as grids of ids and decodes them.

    Every image is computed alone, so that its result does not depend on the images beside it.
    """

    system = "tokenizer"
    summary = "Encodes an image as a grid of indices into a learned codebook, and decodes such a grid as an image."
    usage = 'ids = model.encode("photo.jpg")  # (h, w), whole numbers\nmodel.decode(ids).save("decoded.png")'

    def __init__(self, model: VQImage) -> None:
        self.model = model.eval()

    @classmethod
    def from_task(cls, task: Task[BatchT], data: DataConfig | None = None) -> Self:
        if not isinstance(task, TokenizerTask):
            raise SightwordError(f"ImageTokenizer is made of a run of the tokenizer, got a {type(task).__name__}")
        return cls(task.model)

    @classmethod
    def _from_folder(cls, folder: Path, content: Fields) -> Self:
        return cls(VQImage.from_pretrained(folder))

    def _write(self, folder: Path) -> dict[str, object]:
        self.model.save_pretrained(folder)
        return self.model.config

    def task_weights(self) -> dict[str, Tensor]:
        return {f"model.{name}": weight for name, weight in self.model.state_dict().items()}

    def to(self, device: str | torch.device) -> Self:
        self.model.to(device)
        return self

    @overload
    def __call__(self, images: str | Path | Image.Image) -> TokenizedImage: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: np.ndarray | Tensor) -> TokenizedImage | list[TokenizedImage]: ...
    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[TokenizedImage]: ...
    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> TokenizedImage | list[TokenizedImage]:
        """Encode and decode one image or several, of any sizes.

        Images are as `sightword.data.image.open_images` takes them: files, PIL images, arrays (H, W, 3), tensors
        (3, H, W), or a batch of these.
        """
        several, alone = as_sequence(images)
        found = [self._tokenized(open_image(image)) for image in several]
        return found[0] if alone else found

    @overload
    def encode(self, images: str | Path | Image.Image) -> np.ndarray: ...  # type: ignore[overload-overlap]
    @overload
    def encode(self, images: np.ndarray | Tensor) -> np.ndarray | list[np.ndarray]: ...
    @overload
    def encode(self, images: Sequence[ImageLike]) -> list[np.ndarray]: ...
    def encode(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray | list[np.ndarray]:
        """Return the ids (h, w) int64 of an image, or a list of them for several; images as for a call."""
        several, alone = as_sequence(images)
        found = [self._encoded(to_tensor(open_image(image))).cpu().numpy() for image in several]
        return found[0] if alone else found

    @overload
    def decode(
        self, ids: np.ndarray | Tensor, size: tuple[int, int] | None = None
    ) -> Image.Image | list[Image.Image]: ...
    @overload
    def decode(self, ids: Sequence[np.ndarray | Tensor], size: tuple[int, int] | None = None) -> list[Image.Image]: ...
    def decode(self, ids: IdsLike, size: tuple[int, int] | None = None) -> Image.Image | list[Image.Image]:
        """Return the image of ids (h, w), or a list of images for (n, h, w) or a list of grids.

        size: height and width of the images that were encoded, to crop off the padding to whole tokens; None: no crop.
        Raises SightwordError for ids of another shape, or that are not in the codebook.
        """
        grids, alone = _grids(ids)
        found = [to_image(self._decoded(torch.from_numpy(grid), size)) for grid in grids]
        return found[0] if alone else found

    def _tokenized(self, image: Image.Image) -> TokenizedImage:
        x = to_tensor(image)  # (3, H, W)
        ids = self._encoded(x)
        decoded = self._decoded(ids, (image.height, image.width)).cpu()
        closeness = float(psnr(quantise8(decoded[None]), quantise8(x[None]))[0])
        return TokenizedImage(image, ids.cpu().numpy(), self.model.num_codes, to_image(decoded), closeness)

    def _encoded(self, image: Tensor) -> Tensor:
        """Return the ids (h, w) of an image (3, H, W) in [-1, 1]."""
        return self.model.encode(image[None].to(self._device()))[0]

    @torch.no_grad()
    def _decoded(self, ids: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Return the image (3, H, W) in [-1, 1] of ids (h, w)."""
        return self.model.decode(ids[None].to(self._device()), size=size)[0]

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _panel(image: Image.Image) -> Image.Image:
    """Return an image at the size of a figure: a small one with its pixels enlarged, a large one reduced."""
    longest = max(image.size)
    if longest > LARGEST:
        width, height = (max(1, round(side * LARGEST / longest)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    scale = max(1, SMALLEST // longest)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _grids(ids: IdsLike) -> tuple[list[np.ndarray], bool]:
    """Return ids as grids (h, w) int64, and whether there was one alone."""
    alone = isinstance(ids, np.ndarray | Tensor) and ids.ndim == 2
    several = [ids] if alone else list(ids)
    grids = [np.asarray(grid.cpu() if isinstance(grid, Tensor) else grid) for grid in several]
    for found in grids:
        if found.ndim != 2 or 0 in found.shape:
            raise SightwordError(f"ids are a grid (h, w), or several (n, h, w), got {found.shape} for one image")
        if found.dtype.kind not in "iu":
            raise SightwordError(f"ids are whole numbers, got {found.dtype}. Pass indices into the codebook")
    return [found.astype(np.int64) for found in grids], alone
