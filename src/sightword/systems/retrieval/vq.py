"""The tokenizer of phase 4: it encodes images that no cache has ids of, and writes the cache before training.

Legend: B batch; H, W pixels; h, w ids of an image.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sightword.data.image import list_images
from sightword.engine.contract import Step
from sightword.errors import SightwordError
from sightword.storage.cache import digest
from sightword.systems.retrieval.config import RetrievalConfig, RetrievalData
from sightword.systems.retrieval.split import Source
from sightword.towers.frozen import FrozenModel
from sightword.towers.vq.ids import IdCache, Job, View, tokenize_command, write_ids
from sightword.towers.vq.image import VQImage, inference_weights
from sightword.towers.vq.published import open_tokenizer


class FrozenTokenizer:
    """The tokenizer of a run, opened when it is first needed and in no checkpoint."""

    def __init__(self, weights: str, layout: str, num_codes: int, grid: tuple[int, int]) -> None:
        """weights, layout: as `open_tokenizer` takes them. num_codes, grid: what it must have and give."""
        self.weights, self.layout, self.num_codes, self.grid = weights, layout, num_codes, grid
        self.frozen = FrozenModel(self._open)

    @property
    def factor(self) -> int:
        """Pixels of a side for one id."""
        return int(self.frozen.on().factor)

    @property
    def digest(self) -> str:
        """The digest of the weights, as in the header of a cache that `sightword tokenize` wrote."""
        return digest(inference_weights(self.frozen.on()))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to ids (B, h·w)."""
        ids = self.frozen.on(images.device).encode(images)  # (B, h, w)
        if tuple(ids.shape[1:]) != self.grid:
            raise SightwordError(
                f"{self.weights} encodes images of {images.shape[2]}×{images.shape[3]} pixels as {ids.shape[1]} × "
                f"{ids.shape[2]} ids, and system.vq_grid is {list(self.grid)}. Set it to what the tokenizer gives"
            )
        return ids.flatten(1)

    def _open(self) -> VQImage:
        network = open_tokenizer(self.weights, self.layout)
        if network.num_codes != self.num_codes:
            raise SightwordError(
                f"{self.weights} has {network.num_codes} codes, and system.num_codes is {self.num_codes}. Set it to "
                f"{network.num_codes}"
            )
        return network


def ids_step(system: RetrievalConfig, data: RetrievalData) -> Step:
    """Return the step that writes data.vq_ids, of every image below imgs/, with the tokenizer of system.vq_weights.

    Raises SightwordError, with the command that writes them, if they are not there and the config names no tokenizer.
    """
    out = Path(data.vq_ids).expanduser()
    images = Source(data.dataset, data.root, data.images).read().folder
    view = View(data.image_size[0], data.image_size[1])
    command = tokenize_command(system.vq_weights, system.vq_layout, images, out, view)
    if not system.vq_weights and not _is_written(out):
        raise SightwordError(
            f"data.vq_ids={out} is missing or not finished. Set system.vq_weights=…, or run: {command}"
        )
    opener = partial(open_tokenizer, system.vq_weights, system.vq_layout)
    return Step(
        name=f"VQ ids of the images in {images}",
        out=out,
        is_done=partial(_is_complete, out, images),
        execute=partial(_write, opener, images, out, view),
        command=command,
    )


def _is_written(out: Path) -> bool:
    return any([*out.glob("header.json"), *out.glob("*/header.json")]) and IdCache(out).done


def _is_complete(out: Path, images: Path) -> bool:
    """Whether the ids are those of the images as they are now. Ids of an earlier version cannot be compared."""
    if not _is_written(out):
        return False
    cache = IdCache(out)
    known = {*cache.index.values(), *cache.keys()}  # without a row: what could not be read
    return cache.is_old or all(cache.key_of(file.absolute()) in known for file in list_images(images))


def _write(opener: "partial[VQImage]", images: Path, out: Path, view: View) -> None:
    write_ids(opener, images, out, view, Job())
