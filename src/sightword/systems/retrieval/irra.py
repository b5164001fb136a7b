"""Published checkpoints of IRRA (Jiang and Ye, CVPR 2023) and of RDE (Qin et al., CVPR 2024) as models of this system.

    best.pth        model: base_model.* (OpenAI's names of a CLIP), heads of training; perhaps `module.` before each
    configs.yaml    beside it: img_size, stride_size and the other options of the training

A search needs the CLIP alone: its vectors of the whole image and the whole text. The heads of training are left out. So
is RDE's second pair of vectors, of selected tokens (visul_emb_layer, texual_emb_layer): its paper adds both cosines, so
its published figures are not reached by the first pair alone.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.checkpoint import load_strictly, read_weights
from sightword.storage.reader import read_yaml
from sightword.towers.clip import network
from sightword.towers.clip.byte_pair import BytePairs
from sightword.towers.clip.encoder import CLIP, CLIPImage, CLIPText
from sightword.towers.clip.positions import causal_mask
from sightword.towers.foreign import Config
from sightword.towers.preprocess import Preprocess
from sightword.towers.tokenizer import CLIPTokenizer

WEIGHTS, CONFIG = "best.pth", "configs.yaml"
BASE = "base_model."
#: How names begin that only a training needs.
TRAINING = ("classifier.", "cross_attn.", "cross_modal_transformer.", "ln_pre_t.", "ln_pre_i.", "ln_post.", "mlm_head.")
SELECTION = ("visul_emb_layer.", "texual_emb_layer.")  # of RDE
HEAD = 64  # width of an attention head in every CLIP of OpenAI
TEMPERATURE = 0.02  # of both trainings; it is not in the files


class Published(NamedTuple):
    """A checkpoint as a CLIP."""

    clip: CLIP
    note: str  # what was left out of it


def find(path: str | Path) -> Path | None:
    """Return the checkpoint that a file or folder is, or None if it is none: the file is not opened."""
    place = Path(path).expanduser()
    if place.is_dir():
        return place / WEIGHTS if (place / WEIGHTS).is_file() else None
    return place if place.suffix in (".pth", ".pt") and place.is_file() else None


def read_encoder(file: Path) -> tuple[dict[str, Tensor], str]:
    """Return the weights of the CLIP in a checkpoint, by OpenAI's names, and a line on what was left out.

    Raises SightwordError if the file has no such CLIP, or weights that are neither of it nor of a known head.
    """
    weights = {name.removeprefix("module."): weight for name, weight in read_weights(file, ("model",)).items()}
    own = {name.removeprefix(BASE): weight for name, weight in weights.items() if name.startswith(BASE)}
    if not {"visual.conv1.weight", "text_projection"} <= own.keys():
        raise SightwordError(
            f"{file} is not a checkpoint of IRRA or RDE: it has no {BASE}visual.conv1.weight. Pass a run of sightword, "
            "its export, or a best.pth of these"
        )
    others = [name for name in weights if not name.startswith((BASE, *TRAINING, *SELECTION))]
    if others:
        raise SightwordError(f"{file} has {len(others)} weights of no known part, {others[0]} the first: not read")
    left_out = "heads of training are left out"
    if any(name.startswith(SELECTION) for name in weights):
        left_out += ", and RDE's second vectors (of selected tokens), which its published figures include"
    return own, left_out


def open_checkpoint(file: Path) -> Published:
    """Return the CLIP of a checkpoint, in float32 and eval mode. The sizes are those of its weights.

    Raises SightwordError if they do not fit together, or patches overlap.
    """
    weights, left_out = read_encoder(file)
    try:
        config = _architecture(weights, file)
    except (KeyError, IndexError) as error:
        raise SightwordError(f"{file} has not all weights of a CLIP: {error} is missing") from error
    with torch.device("meta"):
        model = network.build(config)
    scale = torch.tensor(math.log(1 / TEMPERATURE))
    text = {name: w for name, w in weights.items() if not name.startswith("visual.") and name != "logit_scale"}
    load_strictly(model.visual, {n[7:]: w for n, w in weights.items() if n.startswith("visual.")}, file)
    load_strictly(model.text, text, file)
    size, length = tuple(config["vision_cfg"]["image_size"]), config["text_cfg"]["context_length"]
    model.text.attn_mask = causal_mask(length)
    preprocess = Preprocess(size, resize="squash", interpolation="bilinear")
    architecture = {key: value for key, value in config.items() if key != "text_cfg"}
    image = CLIPImage(model.visual, preprocess, str(file), "joint", architecture)
    words = CLIPText(model.text, CLIPTokenizer(BytePairs("lower"), length), str(file))
    return Published(CLIP(image, words, scale, config).float().eval(), f"{file}: {left_out}")


def _architecture(weights: Mapping[str, Tensor], file: Path) -> Config:
    """Return open_clip's description of the networks, read from the shapes of the weights."""
    width, _, patch, _ = weights["visual.conv1.weight"].shape
    text_width = len(weights["ln_final.weight"])
    length, rows = len(weights["positional_embedding"]), len(weights["visual.positional_embedding"]) - 1
    return {
        "embed_dim": int(weights["text_projection"].shape[1]),
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": list(_size(rows, int(patch), file)),
            "layers": _blocks(weights, "visual.transformer.resblocks."),
            "width": int(width),
            "head_width": HEAD,
            "patch_size": int(patch),
        },
        "text_cfg": {
            "context_length": length,
            "vocab_size": len(weights["token_embedding.weight"]),
            "width": text_width,
            "heads": max(1, text_width // HEAD),
            "layers": _blocks(weights, "transformer.resblocks."),
        },
    }


def _blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _size(patches: int, patch: int, file: Path) -> tuple[int, int]:
    """Return (H, W): as configs.yaml beside the file says, or three times as high as wide, as persons are."""
    size, stride = _stated(file)
    if stride not in (0, patch):
        raise SightwordError(
            f"{file.with_name(CONFIG)}: stride_size={stride} with patches of {patch} pixels: patches that overlap are "
            "not read"
        )
    if size is None:
        columns = math.isqrt(patches // 3)
        size = (3 * columns * patch, columns * patch)
    if (size[0] // patch) * (size[1] // patch) != patches or size[0] % patch or size[1] % patch:
        raise SightwordError(
            f"{file} has positions of {patches} patches of {patch} pixels, which are not those of an image of "
            f"{size[0]}x{size[1]}. Put the {CONFIG} of its training beside it"
        )
    return size


def _stated(file: Path) -> tuple[tuple[int, int] | None, int]:
    """Return the size of images and the stride that configs.yaml states; None and 0 if it is missing."""
    try:
        fields = read_yaml(file.with_name(CONFIG))
    except MissingFileError:
        return None, 0
    sides = fields.sequence("img_size", optional=True).all_integers()
    stride = fields.value("stride_size") if "stride_size" in fields else 0
    stride = stride[0] if isinstance(stride, list) and stride else stride
    size = (sides[0], sides[1]) if len(sides) == 2 else None
    return size, stride if isinstance(stride, int) else 0
