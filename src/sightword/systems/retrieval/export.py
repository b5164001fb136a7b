"""A folder with the encoder and nothing else: no generator, no heads of training, and no need of the towers' files.

config.json         system: the config; image: what the image tower is built of, where it stands alone
towers/             a CLIP or SigLIP that both sides are of, in its own library's format; or
text/               the T5, in Hugging Face's format
model.safetensors   all weights that are not in those two
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, read_checkpoint
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.model import DualEncoder, make_encoder
from sightword.towers.base import ImageTower
from sightword.towers.clip.encoder import CLIPImage
from sightword.towers.factory import tower_pair
from sightword.towers.preprocess import Preprocess
from sightword.towers.siglip.encoder import SigLIPImage
from sightword.towers.t5 import T5Text

CONFIG, WEIGHTS, PAIR, TEXT = "config.json", "model.safetensors", "towers", "text"


def write_exported(model: DualEncoder, system: Mapping[str, Any], folder: Path, pair: Any = None) -> None:
    """system: the config as plain data. pair: the CLIP or SigLIP whose sides the model's towers are, if they are."""
    folder.mkdir(parents=True, exist_ok=True)
    outline = {}
    if pair is not None:
        pair.save(folder / PAIR)
    else:
        assert isinstance(model.text, T5Text)
        model.text.save(folder / TEXT)
        outline = describe(model.image)
    elsewhere = _elsewhere(pair is not None)
    weights = {name: w for name, w in model.state_dict().items() if not name.startswith(elsewhere)}
    with write_atomically(folder / WEIGHTS) as part:
        save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, part)
    with write_atomically(folder / CONFIG) as part:
        part.write_text(json.dumps({"system": dict(system), "image": outline}, indent=2) + "\n", encoding="utf-8")


def read_exported(folder: str | Path) -> DualEncoder:
    """The encoder that `sightword export` wrote, in eval mode. Raises ValueError or FileNotFoundError, one line."""
    folder = Path(folder).expanduser()
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        system = RetrievalConfig(**content["system"])
        image = build(content["image"]) if system.image != system.text else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{folder} has no {CONFIG}; sightword export run=… out={folder} writes it") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged, or of another version: {error}") from error
    length: dict[str, Any] = {"length": system.text_length} if system.text_length else {}
    text: Any
    if image is None:
        pair = tower_pair(folder / PAIR)
        image, text = pair.image, pair.text
    else:
        grid = image.grid() if system.shared and system.grid_bias else None
        text = T5Text.load(folder / TEXT, system.text_pooling, grid, **length)
    model = make_encoder(image, text, system.embed_dim, system.project, system.shared, system.image_pooling)
    elsewhere = _elsewhere(system.image == system.text)
    loaded = {name: weight for name, weight in model.state_dict().items() if name.startswith(elsewhere)}
    load_strictly(model, {**loaded, **read_checkpoint(folder / WEIGHTS)}, folder / WEIGHTS)
    return model.eval()


def _elsewhere(pair: bool) -> tuple[str, ...]:
    """How names of weights begin that are in a folder of their library."""
    return ("image.", "text.") if pair else ("text.model.",)


def describe(tower: ImageTower) -> dict[str, Any]:
    """Plain data of which `build` makes the same network."""
    found: dict[str, Any] = {"name": tower.name, "preprocess": tower.preprocess.as_dict()}
    if isinstance(tower, SigLIPImage):
        return found | {"architecture": tower.architecture, "places": tower.network.config.image_size}
    assert isinstance(tower, CLIPImage)
    return found | {"architecture": {"kind": "clip", **tower.architecture}, "form": tower.token_type}


def build(outline: Mapping[str, Any]) -> ImageTower:
    """An image tower on the "meta" device, without weights."""
    architecture = dict(outline["architecture"])
    kind, preprocess = architecture.pop("kind"), Preprocess.from_dict(outline["preprocess"])
    if kind == "siglip":
        return SigLIPImage(_siglip(architecture, int(outline["places"])), preprocess, outline["name"])
    return CLIPImage(_clip(architecture, preprocess.size), preprocess, outline["name"], outline["form"], architecture)


def _siglip(architecture: Mapping[str, Any], places: int) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    kind: Any = SiglipVisionModel
    with torch.device("meta"):
        network = kind(SiglipVisionConfig(**architecture, image_size=places))
    embeddings = network.embeddings
    embeddings.position_ids = torch.arange(embeddings.position_embedding.num_embeddings).expand(1, -1)
    return network


def _clip(architecture: Mapping[str, Any], size: tuple[int, int]) -> Any:
    from open_clip.model import CustomTextCLIP

    vision = {**architecture["vision_cfg"], "image_size": list(size)}
    with torch.device("meta"):
        return CustomTextCLIP(**{**architecture, "vision_cfg": vision}, text_cfg={}).visual
