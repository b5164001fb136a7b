"""SigLIP and SigLIP 2 of fixed resolution: one network, Hugging Face's, and two sources of weights for it.

    images → patches → + positions → blocks → norm → tokens (B, N, D) → attention pooling → pooled (B, E)
    ids → + positions → blocks → norm → tokens (B, L, D), the last one → head → pooled (B, E)

No class token, no causal mask, and the padding of a text is attended to: SigLIP was trained so. open_clip's SigLIPs
(a timm trunk and its own text transformer) are renamed into the same network, or refused where they are another one.

Legend: B batch; H, W pixels; h, w patches a side, N = h·w; L text tokens; D token width; E width of the joint space.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from sightword.atomic import write_atomically
from sightword.checkpoint import differences, load_strictly, read_weights
from sightword.towers import Encoded
from sightword.towers.hugging_face import open_tokenizer, quiet
from sightword.towers.preprocess import INTERPOLATIONS, OPENAI_MEAN, OPENAI_STD, Preprocess
from sightword.towers.text import CLEANING, HFTokenizer
from sightword.towers.tower import ImageTower, TextTower, border

#: Our names → Hugging Face's.
presets = {
    "siglip_b16": "google/siglip-base-patch16-224",
    "siglip_b16_384": "google/siglip-base-patch16-384",
    "siglip_l16_384": "google/siglip-large-patch16-384",
    "siglip_so400m14_384": "google/siglip-so400m-patch14-384",
    "siglip_i18n_b16_256": "google/siglip-base-patch16-256-multilingual",
    "siglip2_b16": "google/siglip2-base-patch16-224",
    "siglip2_b16_384": "google/siglip2-base-patch16-384",
    "siglip2_l16_384": "google/siglip2-large-patch16-384",
    "siglip2_so400m14_384": "google/siglip2-so400m-patch14-384",
    "siglip2_so400m16_384": "google/siglip2-so400m-patch16-384",
}
CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
#: Of a vision_config, what its outputs depend on besides the weights.
ARCHITECTURE = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
)
TOKENIZER_FILES = ["*token*.json", "*.model", "added_tokens.json"]


class SigLIPImage(ImageTower):
    """Images (B, 3, H, W) of any whole number of patches; positions are resampled as Hugging Face resamples them."""

    def __init__(self, network: Any, preprocess: Preprocess, name: str) -> None:
        """network: transformers' SiglipVisionModel."""
        super().__init__()
        config = network.config
        self.network, self.preprocess, self.name = network, preprocess, name
        self.patch = (config.patch_size, config.patch_size)
        self.width = self.embed_dim = config.hidden_size
        self.architecture = {"kind": "siglip"} | {name: getattr(config, name) for name in ARCHITECTURE}

    def forward(self, images: Tensor) -> Encoded:
        self.check(images)
        encoded = self.network(images, interpolate_pos_encoding=True)  # which casts them to its dtype
        return border(encoded.last_hidden_state, encoded.pooler_output)

    def check(self, images: Tensor) -> None:
        """As for any tower, but its own size may leave a rest: of 384 pixels, 27 patches of 14 leave 6 unread."""
        if tuple(images.shape[2:]) == self.preprocess.size:
            (h, w), (ph, pw) = self.grid(), self.patch
            images = images[..., : h * ph, : w * pw]
        super().check(images)


class SigLIPText(TextTower):
    """Ids (B, L) of the one length it was trained with. The vector is the last position's, mostly a padding."""

    tokenizer: HFTokenizer

    def __init__(self, network: Any, tokenizer: HFTokenizer, name: str) -> None:
        """network: transformers' SiglipTextModel."""
        super().__init__()
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self.width, self.embed_dim = network.config.hidden_size, network.config.projection_size

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Encoded:
        """mask says which tokens are real, for who reads the tokens; the tower itself reads all of them."""
        self.check(ids, mask)
        encoded = self.network(input_ids=ids)
        return border(encoded.last_hidden_state, encoded.pooler_output, mask)

    def check(self, ids: Tensor, mask: Tensor | None) -> None:
        super().check(ids, mask)
        if ids.shape[1] < (length := self.tokenizer.length):
            raise ValueError(f"ids are {ids.shape[1]} wide, {self.name} reads its padding too: pad them to {length}")


class SigLIP(nn.Module):
    """The pair. `scores` are its logits: a sigmoid of one says whether this image and this text belong together."""

    def __init__(self, image: SigLIPImage, text: SigLIPText, logit_scale: Tensor, logit_bias: Tensor) -> None:
        """logit_scale, logit_bias: (1,), as in the checkpoint; the scale is a logarithm."""
        super().__init__()
        self.image, self.text = image, text
        self.logit_scale, self.logit_bias = nn.Parameter(logit_scale), nn.Parameter(logit_bias)

    @classmethod
    def load(
        cls,
        name: str | Path,
        size: tuple[int, int] | None = None,
        dtype: torch.dtype = torch.float32,
        tag: str | Path = "",
    ) -> Self:
        """In eval mode. Raises ValueError or FileNotFoundError, one line, for whatever is not as it should be.

        name: one of `presets`; a name at Hugging Face, with a slash; a folder, Hugging Face's or open_clip's
        `local-dir`, read without network; or an open_clip model ("ViT-B-16-SigLIP"), of which `tag` names the published
        weights or a file of weights. size: (H, W) of the images, if not the checkpoint's own.
        """
        with quiet(bars=True):
            found = _find(str(name), str(tag))
            network = _network(found, dtype)
        preprocess = _resized(found.preprocess, size, found.config.vision_config.patch_size)
        image = SigLIPImage(network.vision_model, preprocess, str(name))
        text = SigLIPText(network.text_model, found.tokenizer, str(name))
        return cls(image, text, network.logit_scale.detach(), network.logit_bias.detach()).eval()

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Pooled (B, E) and (K, E) to logits (B, K): scaled cosines and a bias."""
        cosines = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
        return self.logit_scale.float().exp() * cosines + self.logit_bias.float()

    def save(self, folder: str | Path) -> None:
        """Write a folder that `SigLIP.load` and transformers' AutoModel and AutoProcessor read back exactly.

        The positions stay those of the checkpoint's own size: at another one, ask transformers to interpolate them.
        """
        from transformers import SiglipConfig

        folder = Path(folder)
        preprocess = _preprocessor_config(self.image.preprocess)
        image, text = self.image.network, self.text.network
        weights = {f"vision_model.{name}": weight for name, weight in image.state_dict().items()}
        weights |= {f"text_model.{name}": weight for name, weight in text.state_dict().items()}
        weights |= {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        folder.mkdir(parents=True, exist_ok=True)
        config = SiglipConfig(vision_config=image.config, text_config=text.config, architectures=["SiglipModel"])
        config.dtype = self.image.dtype
        self.text.tokenizer.save(folder)
        with write_atomically(folder / WEIGHTS) as part:
            tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
            save_file(tensors, part, metadata={"format": "pt"})  # transformers 4 refuses a file that lacks it
        for file, content in ((CONFIG, json.loads(config.to_json_string(use_diff=False))), (PREPROCESSOR, preprocess)):
            with write_atomically(folder / file) as part:
                part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ what was found


class _Found(NamedTuple):
    """A checkpoint of either kind, in Hugging Face's words."""

    config: Any  # SiglipConfig
    weights: dict[str, Tensor]  # under SiglipModel's names
    source: Path  # for messages
    preprocess: Preprocess
    tokenizer: HFTokenizer


def is_open_clips(name: str | Path) -> bool:
    """Whether open_clip's model, or folder, of that name is a SigLIP; of a name nobody knows, whether it sounds so."""
    file = Path(name).expanduser() / OPEN_CLIP_CONFIG
    if file.is_file():
        return _is_siglip(_read_json(file).get("model_cfg") or {})
    import open_clip

    model_cfg = open_clip.get_model_config(str(name))
    return "siglip" in str(name).lower() if model_cfg is None else _is_siglip(model_cfg)


def _find(name: str, tag: str) -> _Found:
    hub = presets.get(name, name)
    if "/" not in hub and not Path(hub).expanduser().is_dir():
        return _built_in(name, tag)
    if tag:
        raise ValueError(f"tag={tag} is for open_clip's own models, as ViT-B-16-SigLIP; {name} is none of them")
    folder = _folder(hub)
    if (folder / CONFIG).is_file() or not (folder / OPEN_CLIP_CONFIG).is_file():
        return _hf(folder)
    config = _read_json(folder / OPEN_CLIP_CONFIG)
    for file in OPEN_CLIP_WEIGHTS:
        if (folder / file).is_file():
            return _open_clip(config.get("model_cfg") or {}, config.get("preprocess_cfg") or {}, folder / file, folder)
    raise FileNotFoundError(f"{folder} has {OPEN_CLIP_CONFIG} and no weights; they are called {OPEN_CLIP_WEIGHTS[0]}")


def _folder(name: str, files: Iterable[str] = ("*.json", "*.model", "*.safetensors")) -> Path:
    """The folder of that name, or Hugging Face's of that name, fetched if it must be."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise FileNotFoundError(f"there is no folder {name}; name one, or a model at Hugging Face (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # hub, disk and network each have their own
        raise FileNotFoundError(
            f"{name} is no folder here, nor in Hugging Face's cache, and could not be fetched ({_reason(error)}): "
            "fetch it where there is a network, or name a folder"
        ) from error


def _network(found: _Found, dtype: torch.dtype) -> Any:
    """transformers' SiglipModel with these weights."""
    from transformers import SiglipModel

    build: Any = SiglipModel
    try:
        with torch.device("meta"):  # names and shapes; drawing weights would take longer than reading them
            model = build(found.config).to(dtype)
    except Exception as error:  # a config of unknown origin can fail in any way
        raise ValueError(f"{found.source} has a config of which no SigLIP can be built: {_reason(error)}") from error
    load_strictly(model, found.weights, found.source)
    for part in (model.vision_model, model.text_model):  # no file has them
        places = part.embeddings.position_embedding.num_embeddings
        part.embeddings.position_ids = torch.arange(places).expand(1, -1)
    return model


def _resized(preprocess: Preprocess, size: tuple[int, int] | None, patch: int) -> Preprocess:
    if size is None or tuple(size) == preprocess.size:
        return preprocess
    if len(size) != 2 or any(side < patch or side % patch for side in size):
        raise ValueError(f"size is {'×'.join(map(str, size))}: height and width are multiples of the patch, {patch}")
    return preprocess.to(size)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({_reason(error)}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is a {type(content).__name__}, not an object; fetch it again")
    return content


# ---------------------------------------------------------------------------------------------------------------- words


def _tokenizer(folder: Path, length: int, clean: str = "") -> HFTokenizer:
    """A folder's tokenizer. How its texts are cleaned is kept among its own settings, so that it is saved with them.

    transformers' SiglipTokenizer cleans by itself, the Gemma tokenizers of SigLIP 2 and the fast ones do not; twice is
    as good as once. SigLIP's own vocabularies pad with their end, SigLIP 2's has a padding of its own.
    """
    tokenizer = open_tokenizer(folder)
    own = "canonicalize" if tokenizer.pad_token_id == tokenizer.eos_token_id else "lower"
    clean = clean or tokenizer.init_kwargs.get("clean") or own
    if clean not in CLEANING:
        raise ValueError(f"the tokenizer in {folder} has clean={clean!r}, which is none of {', '.join(CLEANING)}")
    tokenizer.init_kwargs["clean"] = clean
    return HFTokenizer(tokenizer, length, fixed=True, clean=CLEANING[clean])


# --------------------------------------------------------------------------------------------------------- Hugging Face


def _hf(folder: Path) -> _Found:
    """A Hugging Face folder: config, weights in one file or several, preprocessing, tokenizer."""
    from transformers import SiglipConfig

    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; a SigLIP is {CONFIG}, {WEIGHTS}, {PREPROCESSOR}, tokenizer")
    content = _read_json(folder / CONFIG)
    _check_kind(content.get("model_type"), folder)
    try:
        config: Any = SiglipConfig.from_dict(content)
    except Exception as error:  # a config of unknown origin can fail in any way
        raise ValueError(f"{folder / CONFIG} is not the config of a SigLIP: {_reason(error)}") from error
    if not config.vision_config.vision_use_head:
        raise ValueError(f"{folder} has no pooling head for its images (vision_use_head); it gives no image vector")
    weights = {name: w for name, w in _hf_weights(folder).items() if not name.endswith(".position_ids")}
    tokenizer = _tokenizer(folder, config.text_config.max_position_embeddings)
    return _Found(config, weights, folder, _preprocess_of_hf(folder), tokenizer)


def _check_kind(kind: Any, folder: Path) -> None:
    if kind == "siglip2":
        raise ValueError(
            f"{folder} is a NaFlex SigLIP 2 (model_type siglip2), which reads cut patches, not images; take one of "
            f"fixed resolution (model_type siglip), as {presets['siglip2_b16']}"
        )
    if kind != "siglip":
        raise ValueError(f"{folder} is of model_type {kind}, not siglip; this reads image and text towers of a SigLIP")


def _hf_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        return read_weights(folder / WEIGHTS)
    if not (folder / SHARDS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}; if it has other weights, save them as safetensors")
    places = _read_json(folder / SHARDS).get("weight_map", {})
    weights: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        weights |= read_weights(folder / file)
    return weights


def _preprocess_of_hf(folder: Path) -> Preprocess:
    """preprocessor_config.json, or its part of the processor_config.json that newer versions write."""
    file = next((folder / name for name in (PREPROCESSOR, PROCESSOR) if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has no {PREPROCESSOR}; it says how the images are resized and normalised")
    config = _read_json(file)
    config = config.get("image_processor", config)
    size = config.get("size", {"height": 224, "width": 224})
    steps = [step for step in ("do_resize", "do_rescale", "do_normalize") if config.get(step) is False]
    if steps or not isinstance(size, dict) or not {"height", "width"} <= size.keys():
        told = f"{steps[0]}=false" if steps else f"size={size}"
        raise ValueError(f"{file} has {told}; SigLIP resizes to a height and a width, rescales and normalises")
    return _preprocess(
        (size["height"], size["width"]),
        mean=config.get("image_mean") or [0.5] * 3,
        std=config.get("image_std") or [0.5] * 3,
        resize="squash",
        interpolation=Image.Resampling(config.get("resample", Image.Resampling.BICUBIC)).name.lower(),
        file=file,
    )


def _preprocess(size: Iterable[int], mean: Any, std: Any, resize: str, interpolation: str, file: Path) -> Preprocess:
    height, width = size
    try:
        return Preprocess((int(height), int(width)), tuple(mean), tuple(std), resize, interpolation)
    except ValueError as error:
        raise ValueError(f"{file} asks for what is not done here: {error}") from error


def _preprocessor_config(preprocess: Preprocess) -> dict[str, Any]:
    """What a SiglipImageProcessor is made of."""
    if preprocess.resize != "squash":
        raise ValueError(f"a SigLIP folder cannot say resize={preprocess.resize!r}, its images are squashed to size")
    return {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": preprocess.size[0], "width": preprocess.size[1]},
        "resample": int(INTERPOLATIONS[preprocess.interpolation]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


# ------------------------------------------------------------------------------------------------------------ open_clip


def _built_in(name: str, tag: str) -> _Found:
    """A model that open_clip knows by name, with published weights or those of a file."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    model_cfg = open_clip.get_model_config(name)
    if model_cfg is None:
        known = [*presets, *(model for model in open_clip.list_models() if "siglip" in model.lower())]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(f"there is no folder and no SigLIP {name!r}{hint}; presets: {', '.join(presets)}")
    _check_cfg(model_cfg, name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    ours = tag if tag in tags else tags[0] if len(tags) == 1 and not tag else ""
    file = Path(tag).expanduser()
    if not ours and not (tag and file.is_file()):
        told = f"has no weights {tag!r}" if tag else "needs the tag of its weights"
        raise ValueError(f"{name} {told}; there are {', '.join(tags) or 'none'}, or give a weights file")
    preprocess_cfg = get_pretrained_cfg(name, ours or tags[0]) if tags else {}
    if ours:
        try:
            file = Path(open_clip.download_pretrained(preprocess_cfg))
        except Exception as error:  # hub, disk and network each have their own
            raise FileNotFoundError(
                f"the weights {ours} of {name} are not on this machine and could not be fetched ({_reason(error)}): "
                "give tag= a file, or name a folder"
            ) from error
    words = _folder(model_cfg["text_cfg"].get("hf_tokenizer_name", ""), TOKENIZER_FILES)
    return _open_clip(model_cfg, preprocess_cfg, file, words)


def _open_clip(
    model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any], file: Path, tokenizer_folder: Path
) -> _Found:
    """A SigLIP as open_clip writes it: a timm trunk, open_clip's text transformer, a bias of the logits."""
    _check_cfg(model_cfg, file)
    model = _empty(model_cfg, file)
    weights = {name.removeprefix("module."): weight for name, weight in read_weights(file).items()}
    weights |= {name: weights[name].reshape(()) for name in ("logit_scale", "logit_bias") if name in weights}
    if found := differences(model.state_dict(), weights):
        raise ValueError(f"{file} does not fit its config: {found}")
    if model.text.text_projection is None:  # then the last token is the vector as it is
        weights |= {"text.text_projection.weight": torch.eye(model.text.width)}
        weights |= {"text.text_projection.bias": torch.zeros(model.text.width)}
    preprocess = _preprocess(
        model.visual.image_size,
        mean=preprocess_cfg.get("mean") or OPENAI_MEAN,  # open_clip's own defaults, where a config is silent
        std=preprocess_cfg.get("std") or OPENAI_STD,
        resize=preprocess_cfg.get("resize_mode") or "shortest",
        interpolation=preprocess_cfg.get("interpolation") or "bicubic",
        file=file.with_name(OPEN_CLIP_CONFIG),
    )
    clean = model_cfg["text_cfg"].get("tokenizer_kwargs", {}).get("clean", "whitespace")
    tokenizer = _tokenizer(tokenizer_folder, model.text.context_length, clean)
    config = _hf_config(model, tokenizer, file)
    return _Found(config, _hf_names(weights, file), file, preprocess, tokenizer)


def _check_cfg(model_cfg: Mapping[str, Any], source: str | Path) -> None:
    vision, text = model_cfg.get("vision_cfg", {}), model_cfg.get("text_cfg", {})
    if not vision or not text:
        raise ValueError(
            f"{source} has no model_cfg with vision_cfg and text_cfg; is its {OPEN_CLIP_CONFIG} open_clip's?"
        )
    if not _is_siglip(model_cfg):
        raise ValueError(
            f"{source} is a CLIP, not a SigLIP (no timm_model_name or no init_logit_bias); see towers.clip"
        )
    if "hf_model_name" in text:
        raise ValueError(f"{source} reads its texts with {text['hf_model_name']}, not with SigLIP's text tower")


def _is_siglip(model_cfg: Mapping[str, Any]) -> bool:
    return "timm_model_name" in (model_cfg.get("vision_cfg") or {}) and model_cfg.get("init_logit_bias") is not None


def _empty(model_cfg: Mapping[str, Any], source: Path) -> Any:
    """open_clip's networks, names and shapes only."""
    from open_clip.model import CustomTextCLIP

    plain = {name: value for name, value in model_cfg.items() if name != "custom_text"}
    plain["vision_cfg"] = {**plain["vision_cfg"], "timm_model_pretrained": False}
    try:
        with torch.device("meta"):
            return CustomTextCLIP(**plain)
    except Exception as error:  # unknown arguments, unknown trunks, and what they lead to
        raise ValueError(f"{source} has a config that this open_clip cannot build: {_reason(error)}") from error


def _hf_config(model: Any, tokenizer: HFTokenizer, source: Path) -> Any:
    """The SiglipConfig of the network that computes what open_clip's computes; ValueError if there is none.

    This sees to all that no weight tells. Weights that have no place, or are lacking, show when they are renamed.
    """
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer
    from timm.models.vision_transformer import Block, VisionTransformer
    from transformers import SiglipConfig

    trunk, text = model.visual.trunk, model.text
    blocks, resblocks = list(getattr(trunk, "blocks", [])), list(getattr(text.transformer, "resblocks", []))
    plain = type(trunk) is VisionTransformer and all(type(block) is Block for block in blocks)
    if not plain or trunk.global_pool != "map" or trunk.attn_pool.pool != "token":
        raise ValueError(
            f"{source} is no SigLIP: its {type(trunk).__name__} is not a plain ViT that pools by attention"
        )
    plain = type(text) is TextTransformer and all(type(block) is ResidualAttentionBlock for block in resblocks)
    if not plain or text.attn_mask is not None or text.use_pad_mask or text.pool_type != "last":
        raise ValueError(f"{source} is no SigLIP: its texts are masked, or their vector is not the last token's")
    side, patch = trunk.patch_embed.img_size, trunk.patch_embed.patch_size
    if side[0] != side[1] or patch[0] != patch[1]:
        raise ValueError(f"{source} has images of {side} in patches of {patch}; Hugging Face's SigLIP has squares only")
    vision_acts = [block.mlp.act for block in (*blocks, trunk.attn_pool)]
    return SiglipConfig(
        vision_config={"image_size": side[0], "patch_size": patch[0]}
        | _sizes(trunk, blocks[0].mlp.fc1, len(blocks), vision_acts, source),
        text_config={"vocab_size": text.vocab_size, "max_position_embeddings": text.context_length}
        | {"projection_size": text.output_dim}
        | {"bos_token_id": None, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
        | _sizes(text, resblocks[0].mlp.c_fc, len(resblocks), [block.mlp.gelu for block in resblocks], source),
    )


def _sizes(tower: nn.Module, fc1: nn.Linear, layers: int, acts: Iterable[nn.Module], source: Path) -> dict[str, Any]:
    """What a vision_config and a text_config have in common."""
    norms = {module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm)}
    heads = {module.num_heads for module in tower.modules() if hasattr(module, "num_heads")}
    names = {_act(act, source) for act in acts}
    for what, values in (("eps of its norms", norms), ("number of heads", heads), ("activation", names)):
        if len(values) != 1:
            raise ValueError(f"{source} has more than one {what} in a tower ({values}), Hugging Face's SigLIP one")
    return {
        "hidden_size": fc1.in_features,
        "intermediate_size": fc1.out_features,
        "num_hidden_layers": layers,
        "num_attention_heads": heads.pop(),
        "layer_norm_eps": norms.pop(),
        "hidden_act": names.pop(),
    }


def _act(act: nn.Module, source: Path) -> str:
    """transformers' name of an activation, known by what it does: some of timm's trunks have the exact GELU."""
    x = torch.linspace(-4, 4, 65)
    for name, known in (("gelu", F.gelu), ("gelu_pytorch_tanh", partial(F.gelu, approximate="tanh"))):
        if torch.allclose(act(x), known(x), rtol=0, atol=1e-6):
            return name
    raise ValueError(f"{source} has {type(act).__name__} for its activation; it is neither GELU nor its tanh form")


_BLOCK = re.compile(r"(visual\.trunk\.blocks|text\.transformer\.resblocks)\.(\d+)\.(.+?)[._](weight|bias)")
_LAYERS = {
    "visual.trunk.blocks": "vision_model.encoder.layers",
    "text.transformer.resblocks": "text_model.encoder.layers",
}
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.in_proj": "self_attn.qkv",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
    "visual.trunk.pos_embed": "vision_model.embeddings.position_embedding.weight",
    "visual.trunk.attn_pool.latent": "vision_model.head.probe",
    "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
}
_OUTSIDE |= {
    f"{name}.{part}": f"{hf}.{part}"
    for part in ("weight", "bias")
    for name, hf in {
        "visual.trunk.patch_embed.proj": "vision_model.embeddings.patch_embedding",
        "visual.trunk.norm": "vision_model.post_layernorm",
        "visual.trunk.attn_pool.proj": "vision_model.head.attention.out_proj",
        "visual.trunk.attn_pool.norm": "vision_model.head.layernorm",
        "visual.trunk.attn_pool.mlp.fc1": "vision_model.head.mlp.fc1",
        "visual.trunk.attn_pool.mlp.fc2": "vision_model.head.mlp.fc2",
        "text.ln_final": "text_model.final_layer_norm",
        "text.text_projection": "text_model.head",
    }.items()
}


def _hf_names(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """open_clip's weights under SiglipModel's names, cut or joined where one keeps whole what the other parts."""
    weights, renamed = dict(weights), {}
    for part in ("weight", "bias"):
        query, key_value = (f"visual.trunk.attn_pool.{name}.{part}" for name in ("q", "kv"))
        if query in weights and key_value in weights:
            pieces = [weights.pop(query), weights.pop(key_value)]
            renamed[f"vision_model.head.attention.in_proj_{part}"] = torch.cat(pieces)
    for name, weight in weights.items():
        hf = _hf_name(name)
        if hf is None:
            raise ValueError(f"{source} has {name}, which has no place in Hugging Face's SigLIP")
        if ".qkv." in hf:
            for letter, piece in zip("qkv", weight.chunk(3), strict=True):
                renamed[hf.replace(".qkv.", f".{letter}_proj.")] = piece.clone()  # not one memory for three parameters
        else:
            renamed[hf] = weight
    renamed["vision_model.embeddings.position_embedding.weight"] = weights["visual.trunk.pos_embed"][0]
    return renamed | {name: weights[name].reshape(1) for name in ("logit_scale", "logit_bias")}


def _hf_name(name: str) -> str | None:
    if match := _BLOCK.fullmatch(name):
        where, number, what, part = match.groups()
        return f"{_LAYERS[where]}.{number}.{_IN_BLOCK[what]}.{part}" if what in _IN_BLOCK else None
    return _OUTSIDE.get(name)
