"""The image codes that the generator is to predict, read from the cache that `sightword tokenize` wrote.

Legend: M images; h×w codes of an image; K codes of the tokenizer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightword.storage.cache import FeatureCache


class Codes:
    """Ids of the whole images of a set, bent to one size, as `sightword tokenize size=… width=…` keeps them."""

    def __init__(self, path: str | Path, size: tuple[int, int], expect: Mapping[str, Any] | None = None) -> None:
        """size: H, W of the images that the network sees. expect: more of the cache's header, as {"num_codes": 1024}.

        ValueError if the cache was made of images of another size, cut instead of bent, or by another tokenizer.
        """
        self.cache = FeatureCache(path, expect)
        shape = self.cache.header["shapes"].get("ids", [])
        if len(shape) != 2 or not self.cache.header["num_codes"]:
            raise ValueError(f"{path} holds no image codes but {', '.join(self.cache.header['shapes'])}: {_told(size)}")
        made, wanted = self.cache.header["preprocessing"], {"resize": f"{size[0]}x{size[1]}, bicubic", "crop": "none"}
        if any(made.get(name) != value for name, value in wanted.items()):
            raise ValueError(
                f"{path} has codes of images resized to {made.get('resize')} (crop: {made.get('crop')}), the network "
                f"sees whole ones of {size[0]}x{size[1]}: {_told(size)}, or data.image_size is to be another"
            )
        self.size = size
        self.grid: tuple[int, int] = (shape[0], shape[1])  # h, w

    @property
    def num_codes(self) -> int:
        """K"""
        return int(self.cache.header["num_codes"])

    @property
    def weights(self) -> str:
        """The digest of the tokenizer's weights."""
        return str(self.cache.header["weights"])

    def rows(self, images: Sequence[Path], folder: Path) -> Tensor:
        """(M, h·w) int32 (a batch is brought to int64), rows of the grid first.

        folder: the images' own, imgs/; keys are paths below it or below one of the two folders above it.
        ValueError, with the first image's name, where images have no codes.
        """
        for above in (folder, folder.parent, folder.parent.parent):
            keys = [path.relative_to(above).as_posix() for path in images]
            if keys[0] in self.cache or keys[-1] in self.cache:
                break
        missing = [key for key in keys if key not in self.cache]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(images)} images have no codes in {self.cache.path}, as {missing[0]}: "
                f"sightword tokenize images={folder} out={self.cache.path} size={self.size[0]} width={self.size[1]} "
                "goes on where it was stopped"
            )
        return torch.from_numpy(np.stack([self.cache.get(key, "ids").reshape(-1) for key in keys]).astype(np.int32))


def _told(size: tuple[int, int]) -> str:
    return f"sightword tokenize images=…/imgs size={size[0]} width={size[1]} out=… writes what is needed"
