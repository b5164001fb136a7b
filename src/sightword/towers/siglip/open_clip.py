"""open_clip's SigLIP as Hugging Face's: a timm trunk and a text transformer of its own, renamed or refused.

What no weight tells (pooling, masks, activations, norms) is asked of open_clip's own network, built without weights.
What has no place in Hugging Face's network, or is lacking, shows when the weights are renamed.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.checkpoint import differences, read_weights
from sightword.storage.hub import fetched, reason
from sightword.towers import hub
from sightword.towers.foreign import Config, Foreign
from sightword.towers.hugging_face import FILES
from sightword.towers.preprocess import OPENAI_MEAN, OPENAI_STD
from sightword.towers.siglip.folder import Found, preprocessing, read_json, tokenizer_of
from sightword.towers.tokenizer import HFTokenizer

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


def is_open_clips(name: str | Path) -> bool:
    """Return whether a model or folder of open_clip is a SigLIP. An unknown name is judged by its spelling."""
    file = Path(name).expanduser() / CONFIG
    if file.is_file():
        return _is_siglip(read_json(file).get("model_cfg"))
    import open_clip

    model_cfg = open_clip.get_model_config(str(name))
    return "siglip" in str(name).lower() if model_cfg is None else _is_siglip(model_cfg)


def read_named(name: str, tag: str, presets: Iterable[str]) -> Found:
    """Load a model of open_clip by its name, with published weights or those of a file. presets: for the message."""
    model_cfg = hub.model_config(name, "SigLIP", presets, sounds="siglip")
    _check_cfg(model_cfg, name)
    weights = hub.weights(name, tag)
    file = weights.fetch()
    words = fetched(model_cfg["text_cfg"].get("hf_tokenizer_name", ""), FILES)
    return _found(model_cfg, weights.entry, file, words)


def read(folder: Path) -> Found:
    """A folder as open_clip's `local-dir` has it."""
    config = read_json(folder / CONFIG)
    for file in WEIGHTS:
        if (folder / file).is_file():
            return _found(config.get("model_cfg") or {}, config.get("preprocess_cfg") or {}, folder / file, folder)
    raise MissingFileError(f"{folder} has {CONFIG} and no weights; they are called {WEIGHTS[0]}")


def _found(model_cfg: Config, preprocess_cfg: Config, file: Path, tokenizer_folder: Path) -> Found:
    """A SigLIP as open_clip writes it: a timm trunk, open_clip's text transformer, a bias of the logits."""
    _check_cfg(model_cfg, file)
    model = _empty(model_cfg, file)
    weights = {name.removeprefix("module."): weight for name, weight in read_weights(file).items()}
    weights |= {name: weights[name].reshape(()) for name in ("logit_scale", "logit_bias") if name in weights}
    if found := differences(model.state_dict(), weights):
        raise SightwordError(f"{file} does not fit its config: {found}")
    if model.text.text_projection is None:  # then the last token is the vector as it is
        weights |= {"text.text_projection.weight": torch.eye(model.text.width)}
        weights |= {"text.text_projection.bias": torch.zeros(model.text.width)}
    preprocess = preprocessing(
        model.visual.image_size,
        mean=preprocess_cfg.get("mean") or OPENAI_MEAN,  # open_clip's own defaults, where a config is silent
        std=preprocess_cfg.get("std") or OPENAI_STD,
        resize=preprocess_cfg.get("resize_mode") or "shortest",
        interpolation=preprocess_cfg.get("interpolation") or "bicubic",
        file=file.with_name(CONFIG),
    )
    clean = model_cfg["text_cfg"].get("tokenizer_kwargs", {}).get("clean", "whitespace")
    tokenizer = tokenizer_of(tokenizer_folder, model.text.context_length, clean)
    config = _hf_config(model, tokenizer, file)
    return Found(config, _hf_names(weights, file), file, preprocess, tokenizer)


def _check_cfg(model_cfg: Config, source: str | Path) -> None:
    vision, text = model_cfg.get("vision_cfg", {}), model_cfg.get("text_cfg", {})
    if not vision or not text:
        raise SightwordError(f"{source} has no model_cfg with vision_cfg and text_cfg; is its {CONFIG} open_clip's?")
    if not _is_siglip(model_cfg):
        raise SightwordError(
            f"{source} is a CLIP, not a SigLIP (no timm_model_name or no init_logit_bias); see towers.clip"
        )
    if "hf_model_name" in text:
        raise SightwordError(f"{source} reads its texts with {text['hf_model_name']}, not with SigLIP's text tower")


def _is_siglip(model_cfg: Foreign) -> bool:
    """Of a config of unknown origin: what is none at all is for CLIP to refuse."""
    vision = model_cfg.get("vision_cfg") if isinstance(model_cfg, dict) else None
    return isinstance(vision, dict) and "timm_model_name" in vision and model_cfg.get("init_logit_bias") is not None


def _empty(model_cfg: Config, source: Path) -> Foreign:
    """open_clip's networks, names and shapes only."""
    from open_clip.model import CustomTextCLIP

    plain = {name: value for name, value in model_cfg.items() if name != "custom_text"}
    plain["vision_cfg"] = {**plain["vision_cfg"], "timm_model_pretrained": False}
    try:
        with torch.device("meta"):
            return CustomTextCLIP(**plain)
    except Exception as error:  # unknown arguments, unknown trunks, and what they lead to
        raise SightwordError(f"{source} has a config that this open_clip cannot build: {reason(error)}") from error


def _hf_config(model: Foreign, tokenizer: HFTokenizer, source: Path) -> Foreign:
    """The SiglipConfig of the network that computes what open_clip's computes; SightwordError if there is none.

    This sees to all that no weight tells. Weights that have no place, or are lacking, show when they are renamed.
    """
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer
    from timm.models.vision_transformer import Block, VisionTransformer
    from transformers import SiglipConfig

    trunk, text = model.visual.trunk, model.text
    blocks, resblocks = list(getattr(trunk, "blocks", [])), list(getattr(text.transformer, "resblocks", []))
    plain = type(trunk) is VisionTransformer and all(type(block) is Block for block in blocks)
    if not plain or trunk.global_pool != "map" or trunk.attn_pool.pool != "token":
        raise SightwordError(
            f"{source} is not a SigLIP: its {type(trunk).__name__} is not a plain ViT that pools by attention"
        )
    plain = type(text) is TextTransformer and all(type(block) is ResidualAttentionBlock for block in resblocks)
    if not plain or text.attn_mask is not None or text.use_pad_mask or text.pool_type != "last":
        raise SightwordError(f"{source} is not a SigLIP: its texts are masked, or their vector is not the last token's")
    side, patch = trunk.patch_embed.img_size, trunk.patch_embed.patch_size
    if side[0] != side[1] or patch[0] != patch[1]:
        raise SightwordError(
            f"{source} has images of {side} in patches of {patch}; Hugging Face's SigLIP has squares only"
        )
    vision_acts = [block.mlp.act for block in (*blocks, trunk.attn_pool)]
    return SiglipConfig(
        vision_config={"image_size": side[0], "patch_size": patch[0]}
        | _sizes(trunk, blocks[0].mlp.fc1, len(blocks), vision_acts, source),
        text_config={"vocab_size": text.vocab_size, "max_position_embeddings": text.context_length}
        | {"projection_size": text.output_dim}
        | {"bos_token_id": None, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
        | _sizes(text, resblocks[0].mlp.c_fc, len(resblocks), [block.mlp.gelu for block in resblocks], source),
    )


def _sizes(tower: nn.Module, fc1: nn.Linear, layers: int, acts: Iterable[nn.Module], source: Path) -> Config:
    """Return the fields that a vision_config and a text_config share."""
    norms = {module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm)}
    heads = {module.num_heads for module in tower.modules() if hasattr(module, "num_heads")}
    names = {_act(act, source) for act in acts}
    for what, values in (("eps of its norms", norms), ("number of heads", heads), ("activation", names)):
        if len(values) != 1:
            raise SightwordError(f"{source} has more than one {what} in a tower ({values}), Hugging Face's SigLIP one")
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
    raise SightwordError(f"{source} has {type(act).__name__} for its activation; it is neither GELU nor its tanh form")


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
            raise SightwordError(f"{source} has {name}, which has no place in Hugging Face's SigLIP")
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
