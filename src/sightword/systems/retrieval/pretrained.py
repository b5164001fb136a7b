"""The encoder's weights: pretrained towers opened for a config, and a folder with the trained encoder and nothing else.

The folder has no generator and no heads of training, and needs none of the towers' own files:

    config.json         config: of the system; image: the image encoder's architecture, if it stands alone;
                        digests: of all weights, and of those that a text passes through;
                        preprocessing: of images, as in the header of a gallery
    towers/             a CLIP or SigLIP that both sides are of, in its own library's format; or
    text/               the T5, in Hugging Face's format
    model.safetensors   all weights that are not in those two
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypedDict

import torch
from torch import nn

from sightword.errors import SightwordError
from sightword.storage.checkpoint import load_strictly, read_checkpoint, write_weights
from sightword.storage.fields import Fields
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.model import DualEncoder, TextEncoder, make_encoder, make_head
from sightword.towers.base import ImageTower, TextTower
from sightword.towers.clip.encoder import CLIP, CLIPImage
from sightword.towers.clip.network import build as build_clip
from sightword.towers.factory import image_tower, text_tower, tower_pair
from sightword.towers.preprocess import Preprocess
from sightword.towers.siglip.encoder import SigLIP, SigLIPImage
from sightword.towers.t5 import T5Text

WEIGHTS, PAIR, TEXT = "model.safetensors", "towers", "text"
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


def save_encoder(model: DualEncoder, origin: Origin, folder: Path) -> dict[str, object]:
    """Write the folder but config.json. Return its fields config and image."""
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
    write_weights(folder / WEIGHTS, weights)
    return {"config": _without_paths(origin.config), "image": image}


def _without_paths(system: RetrievalConfig) -> dict[str, object]:
    """Return a config that names local folders without the way to them, and no tokenizer, which only training opens."""
    names = {name: _public(getattr(system, name)) for name in ("clip", "clip_tag", "siglip", "siglip_tag", "t5")}
    return {**asdict(system), **names, "vq_weights": "", "vq_layout": ""}


def _public(name: str) -> str:
    """Return the name of an encoder; of a local folder or file only its own name, as an export may be published."""
    path = Path(name)
    return path.name if path.is_absolute() or path.expanduser().exists() else name


class Exported:
    """An exported folder, whose two sides are opened apart."""

    def __init__(self, folder: Path, content: Fields) -> None:
        """content: of its config.json. Raises SightwordError if it is of another version."""
        self.folder, self.content = folder, content
        self.config = content.mapping("config").into(RetrievalConfig)
        digests = content.mapping("digests")
        self.weights, self.text_weights = digests.text("all"), digests.text("text")
        self.preprocessing = content.mapping("preprocessing").plain()

    @property
    def is_pair(self) -> bool:
        """Whether the two sides are those of one CLIP or SigLIP."""
        return self.config.image == self.config.text

    def open_text(self) -> TextEncoder:
        """Return the text side, frozen; no weights of the image encoder are read.

        Raises SightwordError if a file is missing or damaged, or the weights are not those that were exported.
        """
        config = self.config
        text = text_tower(self.folder / PAIR) if self.is_pair else self._t5()
        head: nn.Module | None = None
        if config.project != "none":
            prefix = f"heads.{0 if config.project == 'shared' else 1}."
            weights = read_checkpoint(self.folder / WEIGHTS)
            with torch.device("meta"):
                head = make_head(text.width if config.slots else text.embed_dim, config.embed_dim, config.slots)
            own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
            load_strictly(head, own, self.folder / WEIGHTS)
        encoder = TextEncoder(text, head).eval().requires_grad_(False)
        if (found := encoder.digest()) != self.text_weights:
            raise SightwordError(
                f"{self.folder} has other weights of its text encoder ({found}) than config.json states "
                f"({self.text_weights}). Export the run again"
            )
        return encoder

    def open(self) -> tuple[DualEncoder, Origin]:
        """Return the encoder, in eval mode, and how it was made.

        Raises SightwordError if a file is missing or damaged, or of another version.
        """
        config, pair = self.config, tower_pair(self.folder / PAIR) if self.is_pair else None
        if pair is not None:
            towers = Towers(pair.image, pair.text, pair)
        else:
            image = build(self.content.mapping("image"))
            towers = Towers(image, self._t5(image.grid() if config.shared and config.grid_bias else None), None)
        towers.image.requires_grad_(False)  # so that no backward pass is made to see which parameters are used
        model = make_encoder(
            towers.image,
            towers.text,
            config.embed_dim,
            config.project,
            config.shared,
            config.image_pooling,
            config.slots,
        )
        elsewhere = _elsewhere(self.is_pair)
        loaded = {name: weight for name, weight in model.state_dict().items() if name.startswith(elsewhere)}
        load_strictly(model, {**loaded, **read_checkpoint(self.folder / WEIGHTS)}, self.folder / WEIGHTS)
        return model.eval(), Origin(config, pair)

    def _t5(self, grid: tuple[int, int] | None = None) -> T5Text:
        return T5Text.load(self.folder / TEXT, self.config.text_pooling, grid, **_length(self.config))


def _elsewhere(pair: bool) -> tuple[str, ...]:
    """How names of weights begin that are in a folder of their library."""
    return ("image.", "text.") if pair else ("text.model.",)


def describe(tower: ImageTower) -> dict[str, object]:
    """Return plain values of which `build` makes the same network."""
    found: dict[str, object] = {"name": _public(tower.name), "preprocess": tower.preprocess.as_dict()}
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
