"""The encoder's weights: pretrained towers opened for a config, and a folder with the trained encoder and nothing else.

The folder has no generator and no heads of training, and needs none of the towers' own files:

    config.json         system: the config; image: the image encoder's architecture, if it stands alone
    towers/             a CLIP or SigLIP that both sides are of, in its own library's format; or
    text/               the T5, in Hugging Face's format
    model.safetensors   all weights that are not in those two
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypedDict

import torch
from safetensors.torch import save_file

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, read_checkpoint
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.model import DualEncoder, make_encoder
from sightword.towers.base import ImageTower, TextTower
from sightword.towers.clip.encoder import CLIP, CLIPImage
from sightword.towers.clip.network import build as build_clip
from sightword.towers.factory import image_tower, tower_pair
from sightword.towers.preprocess import Preprocess
from sightword.towers.siglip.encoder import SigLIP, SigLIPImage
from sightword.towers.t5 import T5Text

CONFIG, WEIGHTS, PAIR, TEXT = "config.json", "model.safetensors", "towers", "text"
Pair: TypeAlias = CLIP | SigLIP


class Towers(NamedTuple):
    """An image and a text encoder, and the CLIP or SigLIP that they are the two sides of."""

    image: ImageTower
    text: TextTower
    pair: Pair | None


@dataclass(frozen=True)
class Origin:
    """How an encoder was made: what its folder has to state."""

    config: RetrievalConfig
    pair: Pair | None  # whose sides the encoder's towers are; no part of the model, as its sides already are


def open_towers(system: RetrievalConfig) -> Towers:
    """Return the encoders of a config, frozen where it says so. Beside a T5 only a pair's image side is kept."""
    size = (system.image_size[0], system.image_size[1])
    name, tag = getattr(system, system.image), getattr(system, f"{system.image}_tag")
    towers = _open_pair(system, name, tag, size) if system.image == system.text else _open_two(system, name, tag, size)
    if system.freeze_image:
        towers.image.freeze()
    if system.freeze_text:
        towers.text.freeze()
        if isinstance(towers.text, T5Text) and towers.text.grid_bias is not None:  # new, so it is always trained
            towers.text.grid_bias.requires_grad_(True)
    return towers


def _open_pair(system: RetrievalConfig, name: str, tag: str, size: tuple[int, int]) -> Towers:
    length = _length(system)
    if length and system.text == "siglip":
        raise SightwordError(
            f"system.text_length={system.text_length}: a SigLIP takes texts of one length, which it was trained with. "
            "Set it to 0"
        )
    pair = tower_pair(name, tag=tag, size=size, **length)
    return Towers(pair.image, pair.text, pair)


def _open_two(system: RetrievalConfig, name: str, tag: str, size: tuple[int, int]) -> Towers:
    image = image_tower(name, tag=tag, size=size)
    grid = image.grid(size) if system.shared and system.grid_bias else None
    return Towers(image, T5Text.load(system.t5, system.text_pooling, grid, **_length(system)), None)


class _Length(TypedDict, total=False):
    length: int  # most tokens of a text


def _length(system: RetrievalConfig) -> _Length:
    return {"length": system.text_length} if system.text_length else {}


# --------------------------------------------------------------------------------------------------------- the folder


def save_encoder(model: DualEncoder, origin: Origin, folder: Path) -> None:
    """Write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    image: Mapping[str, object] = {}
    if origin.pair is not None:
        origin.pair.save(folder / PAIR)
    else:
        assert isinstance(model.text, T5Text)
        model.text.save(folder / TEXT)
        image = describe(model.image)
    elsewhere = _elsewhere(origin.pair is not None)
    weights = {name: w for name, w in model.state_dict().items() if not name.startswith(elsewhere)}
    with write_atomically(folder / WEIGHTS) as part:
        save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, part)
    write_json(folder / CONFIG, {"system": asdict(origin.config), "image": image})


def load_encoder(folder: str | Path) -> tuple[DualEncoder, Origin]:
    """Return the encoder of a folder, in eval mode, and how it was made.

    Raises SightwordError if a file is missing or damaged, or of another version.
    """
    folder = Path(folder).expanduser()
    content = read_json(
        folder / CONFIG,
        missing=f"sightword export run=… out={folder} writes it",
        damaged="It is damaged, or of another version",
    )
    system = content.mapping("system").into(RetrievalConfig)
    pair = tower_pair(folder / PAIR) if system.image == system.text else None
    if pair is not None:
        towers = Towers(pair.image, pair.text, pair)
    else:
        image = build(content.mapping("image"))
        grid = image.grid() if system.shared and system.grid_bias else None
        towers = Towers(image, T5Text.load(folder / TEXT, system.text_pooling, grid, **_length(system)), None)
    model = make_encoder(
        towers.image, towers.text, system.embed_dim, system.project, system.shared, system.image_pooling
    )
    elsewhere = _elsewhere(pair is not None)
    loaded = {name: weight for name, weight in model.state_dict().items() if name.startswith(elsewhere)}
    load_strictly(model, {**loaded, **read_checkpoint(folder / WEIGHTS)}, folder / WEIGHTS)
    return model.eval(), Origin(system, pair)


def _elsewhere(pair: bool) -> tuple[str, ...]:
    """How names of weights begin that are in a folder of their library."""
    return ("image.", "text.") if pair else ("text.model.",)


def describe(tower: ImageTower) -> dict[str, object]:
    """Return plain values of which `build` makes the same network."""
    found: dict[str, object] = {"name": tower.name, "preprocess": tower.preprocess.as_dict()}
    if isinstance(tower, SigLIPImage):
        return found | {"architecture": tower.architecture, "places": tower.network.config.image_size}
    assert isinstance(tower, CLIPImage)
    return found | {"architecture": {"kind": "clip", **tower.architecture}, "token_type": tower.token_type}


def build(outline: Fields) -> ImageTower:
    """Return an image tower on the "meta" device, without weights."""
    architecture = outline.mapping("architecture").plain()
    preprocess = Preprocess.from_dict(outline.mapping("preprocess").plain())
    if architecture.pop("kind", None) == "siglip":
        return _siglip(architecture, outline.integer("places", least=1), preprocess, outline.text("name"))
    return _clip(architecture, preprocess, outline.text("name"), outline.text("token_type"))


def _siglip(architecture: Mapping[str, object], places: int, preprocess: Preprocess, name: str) -> SigLIPImage:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    with torch.device("meta"):
        network = SiglipVisionModel(SiglipVisionConfig(**architecture, image_size=places))  # type: ignore[arg-type]
    embeddings = network.embeddings
    positions = torch.arange(embeddings.position_embedding.num_embeddings).expand(1, -1)
    embeddings.register_buffer("position_ids", positions, persistent=False)
    return SigLIPImage(network, preprocess, name)


def _clip(architecture: Mapping[str, object], preprocess: Preprocess, name: str, token_type: str) -> CLIPImage:
    vision = architecture["vision_cfg"]
    assert isinstance(vision, dict)
    whole = {**architecture, "vision_cfg": {**vision, "image_size": list(preprocess.size)}, "text_cfg": {}}
    with torch.device("meta"):
        visual = build_clip(whole).visual
    return CLIPImage(visual, preprocess, name, token_type, dict(architecture))
