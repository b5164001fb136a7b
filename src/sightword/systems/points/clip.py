"""The frozen CLIP of a run: its eyes for frames that no cache has, and its words.

Opened when it is needed, and not at all where a cache has every frame. It is no `nn.Module`, so no `train()`, optimiser
or checkpoint of the run ever reaches it.

Legend: V frames; E width of the joint space; h, w patches; C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.systems.points.lift.features import Features, FrameEncoder
from sightword.towers.prompt import class_embeddings
from sightword.towers.token_cache import Source

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AT_ONCE = 16  # frames


class FrozenClip:
    """A CLIP by its name; arguments as `PointsConfig` has them."""

    def __init__(
        self, name: str, tag: str = "", token_type: str = "qq", size: Sequence[int] = (224, 304), dtype: str = "bf16"
    ) -> None:
        self.name, self.tag, self.token_type = name, tag, token_type
        self.source = Source(name, {"tag": tag, "size": (size[0], size[1]), "dtype": DTYPES[dtype]})
        self._open: FrameEncoder | None = None
        self._words: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}

    @property
    def width(self) -> int:
        """E, by its config alone: no weights are read."""
        from sightword.towers.clip import checkpoint as clip_checkpoint
        from sightword.towers.clip import encoder as clip

        name, usual = clip.presets.get(self.name, (self.name, ""))
        return int(clip_checkpoint.find(name, self.tag or usual, clip.presets).model_cfg["embed_dim"])

    def open(self) -> FrameEncoder:
        """Frozen and in eval mode; opened once."""
        if self._open is None:
            self._open = FrameEncoder(self.source.open(), self.token_type)
        return self._open

    @torch.no_grad()
    def see(self, images: Tensor) -> Features:
        """Frames (V, 3, H, W), preprocessed, to what a cache would hold of them, on their device."""
        encoder = self.open()
        tower = encoder.tower.to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            parts = [tower.token_types(some, (self.token_type,))[self.token_type] for some in images.split(AT_ONCE)]
        tokens, pooled = (F.normalize(torch.cat(part), dim=-1).half() for part in list(zip(*parts, strict=True))[:2])
        return Features(tokens.transpose(1, 2).unflatten(2, encoder.grid), pooled)

    def words(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """(C, E) unit vectors of classes, on the CPU. The text side is opened for it, once, and not kept."""
        asked = tuple(names), tuple(templates)
        if asked not in self._words:
            from sightword.towers.factory import text_tower

            options: dict[str, Any] = {"tag": self.tag}
            self._words[asked] = class_embeddings(text_tower(self.name, **options), *asked).float()
        return self._words[asked]
