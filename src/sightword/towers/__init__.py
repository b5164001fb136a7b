"""Pretrained encoders behind one interface: whatever a tower reads, it returns `Encoded`.

`image_tower` and `text_tower` open whatever this package can read, published or local, by its name or its folder.

Legend: B batch, N tokens, D token width, E pooled width.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sightword.towers.tower import ImageTower, TextTower


class Encoded(NamedTuple):
    """What every tower returns."""

    tokens: Tensor  # (B, N, D)
    pooled: Tensor  # (B, E)
    mask: Tensor | None = None  # (B, N) bool, True where a token is real


def image_tower(
    name: str | Path,
    tag: str | Path = "",
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> "ImageTower":
    """A CLIP's or a SigLIP's image side, in eval mode; the text side is not kept.

    name: a preset (vit_b16, siglip_b16, …), an open_clip model with the tag or file of its weights, a Hugging Face
    name, or a folder of either library. size: another image size (H, W). options: of the tower's own `load`.
    """
    pair = _pair(str(name)).load(name, tag=tag, size=size, dtype=dtype, **options)
    return pair.image


def text_tower(
    name: str | Path, tag: str | Path = "", dtype: torch.dtype = torch.float32, **options: Any
) -> "TextTower":
    """The text side of a CLIP or SigLIP, or an encoder of texts alone (T5, BERT, …), in eval mode.

    name: as in `image_tower`, or a preset, name or folder of a T5 or BERT. options: of the tower's own `load`.
    """
    kind = _kind(str(name))
    if kind in ("clip", "siglip"):
        return _pair(str(name)).load(name, tag=tag, dtype=dtype, **options).text
    if tag:
        raise ValueError(f"tag={tag}: only CLIPs and SigLIPs of open_clip have tags, {name} is none")
    if kind == "t5":
        from sightword.towers.t5 import T5Text

        return T5Text.load(name, dtype=dtype, **options)
    from sightword.towers.bert import BertText

    return BertText.load(name, dtype=dtype, **options)


def _pair(name: str) -> Any:
    kind = _kind(name)
    if kind == "clip":
        from sightword.towers.clip import CLIP

        return CLIP
    if kind == "siglip":
        from sightword.towers.siglip import SigLIP

        return SigLIP
    raise ValueError(f"{name} is a {kind} encoder of texts; images are read by a CLIP or a SigLIP")


def _kind(name: str) -> str:
    """clip, siglip, t5 or bert: by preset, by what a folder or a Hugging Face name says of itself, or open_clip's."""
    from sightword.towers import bert, clip, siglip, t5

    for kind, module in (("clip", clip), ("siglip", siglip), ("t5", t5), ("bert", bert)):
        if name in module.presets:
            return kind
    folder = Path(name).expanduser()
    if (folder / clip.CONFIG).is_file() or not (folder.is_dir() or "/" in name):
        return "siglip" if siglip.is_open_clips(name) else "clip"
    from sightword.towers.hugging_face import model_type

    found = model_type(name)
    families = {"siglip": ("siglip", "siglip2"), "t5": t5.FAMILY}
    return next((kind for kind, family in families.items() if found in family), "bert")
