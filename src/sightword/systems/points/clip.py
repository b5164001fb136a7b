"""The frozen CLIP of a run: its maps of frames, online or out of a cache, and its vectors of class names.

Legend: V frames; E dimension of CLIP's joint space; h, w cells of a map; C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.data.dtype import torch_dtype
from sightword.errors import SightwordError
from sightword.storage.cache import digest
from sightword.systems.points.config import PointsConfig
from sightword.systems.points.lift.features import Features, FrameCache, FrameEncoder, identified
from sightword.towers.base import ImageTower, TextTower, Tower
from sightword.towers.export import is_local
from sightword.towers.factory import joint_width, text_tower, tower_pair
from sightword.towers.frozen import FrozenModel
from sightword.towers.prompt import class_embeddings
from sightword.towers.token_cache import Source

AT_ONCE = 16  # frames
NONE: Mapping[str, str] = MappingProxyType({})


def clip_of(system: PointsConfig, weights: Mapping[str, str] = NONE) -> "FrozenClip":
    """Return the CLIP that a config names, not opened yet. weights: as of `FrozenClip`."""
    return FrozenClip(system.clip, system.clip_tag, system.token_type, system.clip_size, system.clip_dtype, weights)


class FrozenClip:
    """A CLIP by its name; arguments as `PointsConfig` has them. No `nn.Module`, so no checkpoint contains it."""

    def __init__(
        self,
        name: str,
        tag: str = "",
        token_type: str = "qq",
        size: Sequence[int] | None = (224, 304),
        dtype: str | torch.dtype = "bf16",
        weights: Mapping[str, str] = NONE,
    ) -> None:
        """size: height and width that frames are resized to; the CLIP's own if None. weights: what `digests` returned
        when a model was trained with it; other weights are refused when they are opened. Empty: any are accepted."""
        self.name, self.tag, self.token_type = name, tag, token_type
        self.dtype = dtype if isinstance(dtype, torch.dtype) else torch_dtype(dtype)
        pixels = None if size is None else (size[0], size[1])
        self.source = Source(name, {"tag": tag, "size": pixels, "dtype": self.dtype})
        self.weights = dict(weights)
        self._image: FrozenModel[ImageTower] = FrozenModel(self._open_image)
        self._classes: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}

    @property
    def is_local(self) -> bool:
        """Whether it is made of files that no name fetches: a folder, or a file of weights as its tag."""
        return is_local(self.name, self.tag)

    @property
    def width(self) -> int:
        """E, read from its config: no weights are opened."""
        return joint_width(self.name, self.tag)

    def resized(self, size: tuple[int, int]) -> "FrozenClip":
        """Return the same CLIP for frames of another height and width, to be opened by itself."""
        return FrozenClip(self.name, self.tag, self.token_type, size, self.dtype, self.weights)

    def encoder(self) -> FrameEncoder:
        """Return what encodes frames; the first call opens the image encoder."""
        return FrameEncoder(self._image.on(), self.token_type)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Features:
        """Return the maps of preprocessed frames (V, 3, H, W), on their device, as a cache would hold them."""
        grid, tower = self.encoder().grid, self._image.on(images.device)
        with torch.autocast(images.device.type, enabled=False):
            parts = [tower.token_types(some, (self.token_type,))[self.token_type] for some in images.split(AT_ONCE)]
        tokens = F.normalize(torch.cat([part.tokens for part in parts]), dim=-1).half()
        pooled = F.normalize(torch.cat([part.pooled for part in parts]), dim=-1).half()
        return Features(tokens.transpose(1, 2).unflatten(2, grid), pooled)

    def class_embeddings(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return unit vectors (C, E) of classes, on the CPU. The first call opens the text encoder and drops it."""
        key = tuple(names), tuple(templates)
        if key not in self._classes:
            self._classes[key] = class_embeddings(self.text_encoder(), *key).float()
        return self._classes[key]

    def text_encoder(self, dtype: torch.dtype = torch.float32) -> TextTower:
        """Open the text encoder. Raises SightwordError for other weights than `weights` has digests of."""
        opened = text_tower(self.name, self.tag)
        self._check("text", opened)
        return opened.to(dtype)

    def digests(self) -> dict[str, str]:
        """Return the digests of the weights of both sides, image and text. Opens both, unless they are known."""
        if self.weights:
            return self.weights
        return {"image": _digest(self._image.on()), "text": _digest(text_tower(self.name, self.tag))}

    def identity(self) -> str:
        """Return what its maps depend on: the image encoder's weights, the token type and the size of frames."""
        weights, size = self.weights.get("image") or _digest(self._image.on()), self.source.options.get("size")
        return f"{weights} {self.token_type} {'own size' if size is None else size}"

    def save(self, folder: Path) -> None:
        """Write both sides to a folder in open_clip's format, in float32 and at the CLIP's own image size."""
        tower_pair(self.name, self.tag).save(folder)

    def open_cache(self, folder: str | Path) -> FrameCache:
        """Open a cache of maps. Raises SightwordError if another CLIP wrote it.

        Compares what is recorded of this CLIP's files with the cache's header; the CLIP itself is opened only where
        nothing is recorded yet.
        """
        return FrameCache(folder, identified(self.source, self.token_type, folder).recipe)

    def _open_image(self) -> ImageTower:
        opened = self.source.open()
        self._check("image", opened)
        return opened

    def _check(self, side: str, opened: Tower) -> None:
        wanted = self.weights.get(side)
        if wanted and (found := _digest(opened)) != wanted:
            name = " ".join(part for part in (self.name, self.tag) if part)
            raise SightwordError(
                f"the weights of {name} on this machine are not those that the model was trained with ({side} encoder "
                f"{found}, expected {wanted}). Fetch them again"
            )


def _digest(tower: Tower) -> str:
    """Return a digest of a tower's weights, without positions: they are resampled to the size of the frames, and the
    last bits of that depend on the machine."""
    return digest({name: w for name, w in tower.state_dict().items() if not name.endswith("positional_embedding")})
