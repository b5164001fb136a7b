"""What a CLIP is loaded from: open_clip's config, networks, weights and tokenizer, opened strictly.

A config may come from anyone. Nothing that it says is run or passed on unread, and whatever is wrong with it is one
line that names the file.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.checkpoint import read_weights
from sightword.storage.domain import domain_of_weights
from sightword.storage.reader import read_json
from sightword.towers import hub
from sightword.towers.clip import network
from sightword.towers.clip.byte_pair import BytePairs
from sightword.towers.foreign import Config, Foreign
from sightword.towers.preprocess import Preprocess
from sightword.towers.tokenizer import CLEANING, CLIPTokenizer, HFTokenizer, TextTokenizer

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
OTHER_WEIGHTS = ("open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}  # only OpenAI's own files have them

OF_TEXT = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")


class Checkpoint(NamedTuple):
    """The source of a CLIP and its config; the weights are not yet fetched."""

    model_cfg: Config
    preprocess_cfg: Config
    weights: hub.Weights
    source: str | Path  # of model_cfg, for messages: a file, or open_clip's name
    folder: Path | None  # of its tokenizer, if it is one
    domain: str = ""  # see `storage.domain`


def find(name: str, tag: str, presets: Iterable[str]) -> Checkpoint:
    """Return the source of a folder or of a model of open_clip. tag: of published weights, or a file of weights."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, tag)
    model_cfg = hub.model_config(name, "CLIP", presets)
    found = hub.weights(name, tag)
    return Checkpoint(model_cfg, found.entry, found, name, None)


def _from_folder(folder: Path, tag: str) -> Checkpoint:
    """A folder in open_clip's `local-dir` format."""
    config = _read_config(folder / CONFIG)
    weights = hub.Weights(str(folder), "", {}, _weights_file(folder, tag))
    domain = domain_of_weights(folder)
    return Checkpoint(config["model_cfg"], config["preprocess_cfg"], weights, folder / CONFIG, folder, domain)


def _weights_file(folder: Path, tag: str) -> Path:
    if tag and not Path(tag).expanduser().is_file():
        raise SightwordError(f"tag={tag} is not a file; {folder} is read with its own weights, or with those of a file")
    files = [Path(tag).expanduser()] if tag else [folder / name for name in (WEIGHTS, *OTHER_WEIGHTS)]
    for file in files:
        if file.is_file():
            return file
    raise MissingFileError(f"{folder} has a {CONFIG} and no weights; they are called {WEIGHTS}")


def _read_config(file: Path) -> dict[str, Config]:
    """{model_cfg, preprocess_cfg}, both of them dicts."""
    if not file.is_file():
        raise MissingFileError(f"{file.parent} has no {CONFIG}; a CLIP folder is {CONFIG} and {WEIGHTS}")
    fields = read_json(file, damaged="It is not the config of an open_clip model", nan=True)
    has_preprocessing = "preprocess_cfg" in fields and fields.value("preprocess_cfg") is not None
    return {
        "model_cfg": fields.mapping("model_cfg").plain(),
        "preprocess_cfg": fields.mapping("preprocess_cfg").plain() if has_preprocessing else {},
    }


def _check_object(value: object, what: str, source: str | Path) -> None:
    if not isinstance(value, dict):
        told = "does not exist" if value is None else f"is a {type(value).__name__}"
        raise SightwordError(f"{source} is not an open_clip config ({what} {told}, expected an object)")


# ---------------------------------------------------------------------------------------------------------- networks


def build(found: Checkpoint) -> Foreign:
    """The networks (`visual`, `text`) on the "meta" device, of a kind that `encoder` reads."""
    model_cfg, source = found.model_cfg, found.source
    for part in ("vision_cfg", "text_cfg"):
        _check_object(model_cfg.get(part), part, source)
    if "multimodal_cfg" in model_cfg:
        raise SightwordError(f"{source} is a CoCa, not a CLIP: it has no vision tower of the kind that is read here")
    if "timm_model_name" in model_cfg["vision_cfg"] or "hf_model_name" in model_cfg["text_cfg"]:
        raise SightwordError(f"{source} is made of timm's or Hugging Face's networks; towers.siglip reads SigLIPs")
    try:
        with torch.device("meta"):
            model = network.build(model_cfg)
    except Exception as error:  # a config of unknown origin can fail in any way
        raise SightwordError(f"{source} has a config of which no CLIP can be built: {hub.reason(error)}") from error
    if isinstance(model, network.PlainCLIP):
        return model
    _check_visual(model.visual, source)
    _check_text(model.text, source)
    if model.logit_bias is not None:
        raise SightwordError(f"{source} has a bias of its logits (init_logit_bias), which a CLIP has not")
    return model


def _check_visual(visual: Foreign, source: str | Path) -> None:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if not isinstance(visual, VisionTransformer):
        told = type(visual).__name__
        raise SightwordError(f"{source} has a {told} for its images; towers.clip reads vision transformers")
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise SightwordError(f"{source} pools its patches by attention; towers.clip reads class token or mean")
    blocks = visual.transformer.resblocks
    if not len(blocks) or any(type(block) is not ResidualAttentionBlock for block in blocks):
        raise SightwordError(f"{source} has no attention blocks, or some of another kind than CLIP's")


def _check_text(text: Foreign, source: str | Path) -> None:
    if text.attn_mask is None or text.cls_emb is not None or text.pool_type not in ("argmax", "eos"):
        raise SightwordError(
            f"{source} has a text tower that is not causal with its vector at the end; it is not read here"
        )
    if not isinstance(text.text_projection, nn.Parameter):
        raise SightwordError(f"{source} projects its texts with a bias or not at all; it is not read here")


def architecture(model_cfg: Config) -> dict[str, object]:
    """Return the parts of open_clip's config that define the image network, with defaults, without disabled ones."""
    if network.is_plain(model_cfg):
        vision = {**network.VISION, **model_cfg["vision_cfg"]}
    else:
        from open_clip.model import CLIPVisionCfg

        vision = asdict(CLIPVisionCfg(**model_cfg["vision_cfg"]))
    for key in list(vision):
        elsewhere = key in ("image_size", "patch_dropout", "output_tokens")
        if elsewhere or key.startswith(("timm_", "attn_pooler_")) or not vision[key]:
            del vision[key]
    return {"embed_dim": model_cfg["embed_dim"], "quick_gelu": bool(model_cfg.get("quick_gelu")), "vision_cfg": vision}


# ----------------------------------------------------------------------------------------------------------- weights


def read(found: Checkpoint, model: Foreign) -> tuple[dict[str, Tensor], Path]:
    """Return the weights under the names of `CustomTextCLIP`, and their file. Fetches them if necessary."""
    quick = bool(found.model_cfg.get("quick_gelu"))
    name, tag, entry, _ = found.weights
    if tag:
        _check_activation(name, tag, quick, bool(entry.get("quick_gelu")))
    file = found.weights.fetch()
    weights = {key.removeprefix("module."): value for key, value in read_weights(file).items()}
    if OPENAI_KEYS & weights.keys():
        _check_activation(name, file.name, quick, True)
        weights = {key: value for key, value in weights.items() if key not in OPENAI_KEYS}
    if not isinstance(model, network.PlainCLIP):
        from open_clip.convert import convert_state_dict

        weights = convert_state_dict(model, weights)
    if "text_projection" in weights:  # then the names of the text side have no prefix
        weights = {f"text.{key}" if key.startswith(OF_TEXT) else key: value for key, value in weights.items()}
    if "logit_scale" in weights and weights["logit_scale"].numel() == 1:
        weights["logit_scale"] = weights["logit_scale"].reshape(model.logit_scale.shape)
    return weights, file


def _check_activation(name: str, tag: str, model: bool, weights: bool) -> None:
    """open_clip only warns, and the features are wrong."""
    if model != weights:
        activation = "QuickGELU" if weights else "GELU"
        right = f"{name}-quickgelu" if weights else name.removesuffix("-quickgelu")
        raise SightwordError(f"the weights {tag} were trained with {activation}: name the model {right}")


# --------------------------------------------------------------------------------------------- pictures and words in


def preprocessing(found: Checkpoint, size: tuple[int, int]) -> Preprocess:
    """open_clip's preprocess_cfg, or the entry of a tag, as ours; CLIP's own mean and deviation where it says none."""
    names = {"mean": "mean", "std": "std", "interpolation": "interpolation", "resize_mode": "resize"}
    said = {ours: found.preprocess_cfg[theirs] for theirs, ours in names.items() if found.preprocess_cfg.get(theirs)}
    try:
        return Preprocess.from_dict({"size": size, **said})
    except SightwordError as error:
        raise SightwordError(f"{found.source} asks for what is not done here: {error}") from error


def tokenizer(found: Checkpoint, text: Foreign, length: int) -> TextTokenizer:
    """OpenAI's byte pairs, or a tokenizer of Hugging Face that is in the folder; it fits the text tower."""
    made = _tokenizer(found, length)
    if made.vocab_size > text.vocab_size:
        raise SightwordError(
            f"the tokenizer of {found.source} has {made.vocab_size} tokens, the text tower's table {text.vocab_size}; "
            "they are of two models"
        )
    if text.pool_type == "eos" and made.eos != text.eos_id:
        raise SightwordError(f"{found.source} has eos_id {text.eos_id}, its tokenizer ends a text with {made.eos}")
    return made


def _tokenizer(found: Checkpoint, length: int) -> TextTokenizer:
    text_cfg = found.model_cfg["text_cfg"]
    name, clean = text_cfg.get("hf_tokenizer_name"), _cleaning(text_cfg, found.source)
    if not name:
        return CLIPTokenizer(BytePairs(clean or "lower"), length)
    from sightword.towers.hugging_face import open_tokenizer

    return HFTokenizer(open_tokenizer(found.folder or str(name)), length, clean=CLEANING[clean or "whitespace"])


def _cleaning(text_cfg: Config, source: str | Path) -> str:
    """tokenizer_kwargs' `clean`, "" for the tokenizer's own way. The others could name code or files, and have no use.

    open_clip hands them on to transformers, where one of them (trust_remote_code) runs what lies in the folder.
    """
    options = text_cfg.get("tokenizer_kwargs") or {}
    _check_object(options, "tokenizer_kwargs", source)
    others = [f"tokenizer_kwargs.{key}" for key in options if key != "clean"]
    if text_cfg.get("tokenizer_mode"):
        others.append("tokenizer_mode")
    if others:
        raise SightwordError(f"{source} sets {', '.join(others)}; of what a tokenizer does, only clean is read here")
    clean = options.get("clean", "")
    if clean not in ["", *CLEANING]:
        raise SightwordError(f"{source} has clean={clean!r}, which is none of {', '.join(CLEANING)}")
    return clean
