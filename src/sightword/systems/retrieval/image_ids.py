"""VQ ids of a data set's images, which phase 4 is trained to predict.

Legend: M images; h·w ids of an image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.towers.vq.ids import IdCache, View, tokenize_command


def tokenizing(size: tuple[int, int], images: str | Path = "…/imgs", out: str | Path = "…") -> str:
    """Return the command that writes the ids of whole images, resized to size (H, W)."""
    return tokenize_command("", "", images, out, View(*size))


class ImageIds:
    """VQ ids of the whole images of a data set, resized to one size, as `sightword tokenize` keeps them.

    The whole image, without a crop, because the image encoder is given the whole image, too.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], expect: Mapping[str, object] | None = None) -> None:
        """size: H, W of the images that the encoder is given. expect: more of the cache's header, as {"num_codes": 64}.

        Raises SightwordError if the cache is of images of another size, of crops, or by another tokenizer.
        """
        self.cache = IdCache(path, expect)
        header = self.cache.header
        shape = header["shapes"].get("ids", [])
        if len(shape) != 2 or not header["num_codes"]:
            raise SightwordError(
                f"{path} contains no ids of images but {', '.join(header['shapes'])}. Write them with "
                f"{tokenizing(size)}"
            )
        found, wanted = header["preprocessing"], {"resize": f"{size[0]}x{size[1]}, bicubic", "crop": "none"}
        if any(found.get(name) != value for name, value in wanted.items()):
            raise SightwordError(
                f"{path} has ids of images resized to {found.get('resize')} (crop: {found.get('crop')}), expected "
                f"whole images of {size[0]}x{size[1]}. Write them with {tokenizing(size)}, or change data.image_size"
            )
        self.size = size
        self.grid: tuple[int, int] = (shape[0], shape[1])  # h, w

    def rows(self, images: Sequence[Path], folder: Path) -> Tensor:
        """Return the ids of images, (M, h·w) int32, rows of the grid first; a batch converts them to int64.

        folder: the images' own, imgs/. Raises SightwordError, with the first image's name, if images have no ids, as
        those that were replaced since.
        """
        keys = self._keys_of_paths(images, folder) if self.cache.is_old else list(map(self._key, images))
        there = self.cache.keys()
        if missing := [path for path, key in zip(images, keys, strict=True) if key not in there]:
            replaced = sum(map(self.cache.is_indexed, missing))
            told = f" ({replaced} changed since they were encoded)" if replaced else ""
            raise SightwordError(
                f"{len(missing)} of {len(images)} images have no ids in {self.cache.out}, as "
                f"{missing[0].relative_to(folder)}{told}. "
                f"This computes them, and only them: {tokenizing(self.size, folder, self.cache.out)}"
            )
        rows = [self.cache.rows.get(key, "ids").reshape(-1) for key in keys]
        return torch.from_numpy(np.stack(rows).astype(np.int32))

    def _key(self, image: Path) -> str:
        return self.cache.key_of(image.absolute())

    def _keys_of_paths(self, images: Sequence[Path], folder: Path) -> list[str]:
        """The keys in a cache of an earlier version: paths below imgs/, or below one of the two folders above."""
        for above in (folder, folder.parent, folder.parent.parent):
            keys = [path.relative_to(above).as_posix() for path in images]
            if keys[0] in self.cache or keys[-1] in self.cache:
                break
        return keys
