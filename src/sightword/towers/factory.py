"""Open an image or text tower, whatever this package can read, published or local, by its name or its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sightword.errors import SightwordError
from sightword.towers.hub import plain

if TYPE_CHECKING:
    from sightword.towers.base import ImageTower, TextTower
    from sightword.towers.clip.encoder import CLIP
    from sightword.towers.siglip.encoder import SigLIP


#: Kinds that have an image and a text side.
PAIRS = ("clip", "siglip")


def image_tower(
    name: str | Path,
    tag: str | Path = "",
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    **options: object,
) -> "ImageTower":
    """A CLIP's or a SigLIP's image side, in eval mode; the text side is not kept.

    name: a preset (vit_b16, siglip_b16, …), an open_clip model with the tag or file of its weights, a Hugging Face
    name, or a folder of either library ("hf-hub:" or "local-dir:" before it is as good). size: another image size
    (H, W). options: of the tower's own `load`.
    """
    kind, name = _kind(str(name)), plain(name)
    if kind not in PAIRS:
        raise SightwordError(f"{name} is a {kind}; images are read by a CLIP or a SigLIP")
    return _pair(kind, name, tag=tag, size=size, dtype=dtype, **options).image


def text_tower(
    name: str | Path, tag: str | Path = "", dtype: torch.dtype = torch.float32, **options: object
) -> "TextTower":
    """Return the text encoder of a CLIP or SigLIP, or a text model (T5, BERT, …), in eval mode.

    name: as in `image_tower`, or a preset, name or folder of a T5 or BERT. options: of the tower's own `load`.
    """
    kind, name = _kind(str(name)), plain(name)
    if kind in PAIRS:
        return _pair(kind, name, tag=tag, dtype=dtype, **options).text
    if tag:
        raise SightwordError(f"tag={tag}: only CLIPs and SigLIPs of open_clip have tags, {name} is none")
    from sightword.towers import bert, t5

    load: Callable[..., TextTower] = t5.T5Text.load if kind in t5.FAMILY else bert.BertText.load
    return load(name, dtype=dtype, **options)  # BertText names the kinds that it does not read


def tower_pair(
    name: str | Path,
    tag: str | Path = "",
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    **options: object,
) -> "CLIP | SigLIP":
    """Both sides of a CLIP or SigLIP, in eval mode; arguments as of `image_tower`."""
    kind, name = _kind(str(name)), plain(name)
    if kind not in PAIRS:
        raise SightwordError(f"{name} is a {kind}; images and texts are both read by a CLIP or a SigLIP")
    return _pair(kind, name, tag=tag, size=size, dtype=dtype, **options)


def _kind(name: str) -> str:
    """clip, siglip, or a model_type: by preset, by what a folder or a Hugging Face name says of itself, or open_clip's.

    A name at Hugging Face is asked for its configs; open_clip's, where there is one, counts more.
    """
    from sightword.storage.hub import fetched
    from sightword.towers import bert, t5
    from sightword.towers.clip import encoder as clip
    from sightword.towers.hugging_face import model_type, quiet
    from sightword.towers.siglip import encoder as siglip

    for kind, module in (("clip", clip), ("siglip", siglip), ("t5", t5), ("bert", bert)):
        if name in module.presets:
            return kind
    name = plain(name)
    if "/" not in name and not Path(name).expanduser().is_dir():
        return "siglip" if siglip.is_open_clips(name) else "clip"
    folder = Path(name).expanduser()
    if not folder.is_dir():  # which imports transformers
        with quiet():
            folder = fetched(name, (clip.CONFIG, siglip.CONFIG))
    if (folder / clip.CONFIG).is_file():
        return "siglip" if siglip.is_open_clips(folder) else "clip"
    found = model_type(name)
    if found in ("clip", "clip_text_model", "clip_vision_model"):
        raise SightwordError(
            f"{name} is a CLIP as Hugging Face keeps it; here CLIPs are read as open_clip keeps them: a preset "
            f"({', '.join(clip.presets)}), open_clip's own name and tag, or a folder with {clip.CONFIG}"
        )
    return "siglip" if found == "siglip2" else found


def _pair(kind: str, name: str, **options: object) -> "CLIP | SigLIP":
    """A CLIP or SigLIP. A CLIP at Hugging Face is read from where its files were put."""
    from sightword.towers.clip import checkpoint as clip_checkpoint
    from sightword.towers.clip import encoder as clip
    from sightword.towers.hugging_face import FILES, with_weights
    from sightword.towers.siglip import encoder as siglip

    load_siglip: Callable[..., SigLIP] = siglip.SigLIP.load
    load_clip: Callable[..., CLIP] = clip.CLIP.load
    if kind == "siglip":
        return load_siglip(name, **options)
    if name in clip.presets or "/" not in name or Path(name).expanduser().is_dir():
        return load_clip(name, **options)
    weights = (clip_checkpoint.WEIGHTS, *clip_checkpoint.OTHER_WEIGHTS)
    pair = load_clip(with_weights(name, FILES, weights), **options)
    pair.image.name = pair.text.name = name
    return pair


def joint_width(name: str, tag: str = "") -> int:
    """Return the width of a CLIP's joint space, read from its config alone: no weights are opened.

    Raises SightwordError if the name is not a CLIP, or its files are missing.
    """
    from sightword.towers.clip import checkpoint
    from sightword.towers.clip import encoder as clip

    model, usual = clip.presets.get(name, (name, ""))
    try:
        return int(checkpoint.find(model, tag or usual, clip.presets).model_cfg["embed_dim"])
    except (SightwordError, KeyError) as error:
        raise SightwordError(f"the config of {name!r} does not tell the width of its joint space: {error}") from error
