"""A SigLIP as Hugging Face keeps it: config, weights, preprocessing and tokenizer of a folder, read strictly.

What open_clip keeps is brought to the same words (`siglip_open_clip`), so that one network serves both.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.storage import reader
from sightword.storage.checkpoint import load_strictly, read_weights
from sightword.storage.hub import reason
from sightword.towers.foreign import Config, Foreign
from sightword.towers.hugging_face import open_tokenizer
from sightword.towers.preprocess import INTERPOLATIONS, Preprocess
from sightword.towers.tokenizer import CLEANING, HFTokenizer

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"


class Found(NamedTuple):
    """A checkpoint of either kind, in Hugging Face's words."""

    config: Foreign  # SiglipConfig
    weights: dict[str, Tensor]  # under SiglipModel's names
    source: Path  # for messages
    preprocess: Preprocess
    tokenizer: HFTokenizer


def is_one(folder: Path) -> bool:
    """Return whether there is a config.json of any kind of SigLIP."""
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("model_type") in ("siglip", "siglip2")


def read(folder: Path) -> Found:
    """A Hugging Face folder: config, weights in one file or several, preprocessing, tokenizer."""
    from transformers import SiglipConfig

    if not (folder / CONFIG).is_file():
        raise MissingFileError(f"{folder} has no {CONFIG}; a SigLIP is {CONFIG}, {WEIGHTS}, {PREPROCESSOR}, tokenizer")
    content = read_json(folder / CONFIG)
    _check_kind(content.get("model_type"), folder)
    try:
        config: Foreign = SiglipConfig.from_dict(content)
    except Exception as error:  # a config of unknown origin can fail in any way
        raise SightwordError(f"{folder / CONFIG} is not the config of a SigLIP: {reason(error)}") from error
    if not config.vision_config.vision_use_head:
        raise SightwordError(f"{folder} has no pooling head for its images (vision_use_head); it gives no image vector")
    weights = {name: w for name, w in _hf_weights(folder).items() if not name.endswith(".position_ids")}
    tokenizer = tokenizer_of(folder, config.text_config.max_position_embeddings)
    return Found(config, weights, folder, _preprocess_of_hf(folder), tokenizer)


def _check_kind(kind: Foreign, folder: Path) -> None:
    if kind == "siglip2":
        raise SightwordError(
            f"{folder} is a NaFlex SigLIP 2 (model_type siglip2), which reads cut patches, not images; take one of "
            f"fixed resolution (model_type siglip), as google/siglip2-base-patch16-224"
        )
    if kind != "siglip":
        raise SightwordError(
            f"{folder} is of model_type {kind}, not siglip; this reads image and text towers of a SigLIP"
        )


def _hf_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        return read_weights(folder / WEIGHTS)
    if not (folder / SHARDS).is_file():
        raise MissingFileError(f"{folder} has no {WEIGHTS}; if it has other weights, save them as safetensors")
    places = read_json(folder / SHARDS).get("weight_map", {})
    weights: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        weights |= read_weights(folder / file)
    return weights


def _preprocess_of_hf(folder: Path) -> Preprocess:
    """preprocessor_config.json, or its part of the processor_config.json that newer versions write."""
    file = next((folder / name for name in (PREPROCESSOR, PROCESSOR) if (folder / name).is_file()), None)
    if file is None:
        raise MissingFileError(f"{folder} has no {PREPROCESSOR}; it says how the images are resized and normalised")
    config = read_json(file)
    config = config.get("image_processor", config)
    size = config.get("size", {"height": 224, "width": 224})
    steps = [step for step in ("do_resize", "do_rescale", "do_normalize") if config.get(step) is False]
    if steps or not isinstance(size, dict) or not {"height", "width"} <= size.keys():
        told = f"{steps[0]}=false" if steps else f"size={size}"
        raise SightwordError(f"{file} has {told}; SigLIP resizes to a height and a width, rescales and normalises")
    return preprocessing(
        (size["height"], size["width"]),
        mean=config.get("image_mean") or [0.5] * 3,
        std=config.get("image_std") or [0.5] * 3,
        resize="squash",
        interpolation=Image.Resampling(config.get("resample", Image.Resampling.BICUBIC)).name.lower(),
        file=file,
    )


def preprocessing(
    size: Iterable[int], mean: Foreign, std: Foreign, resize: str, interpolation: str, file: Path
) -> Preprocess:
    """Return the preprocessing in a config. Raises SightwordError, with the file, if it is not supported."""
    height, width = size
    try:
        return Preprocess((int(height), int(width)), tuple(mean), tuple(std), resize, interpolation)
    except SightwordError as error:
        raise SightwordError(f"{file} asks for what is not done here: {error}") from error


def preprocessor_config(preprocess: Preprocess) -> Config:
    """What a SiglipImageProcessor is made of."""
    if preprocess.resize != "squash":
        raise SightwordError(
            f"a SigLIP folder cannot say resize={preprocess.resize!r}, its images are squashed to size"
        )
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


def build(found: Found, dtype: torch.dtype) -> Foreign:
    """transformers' SiglipModel with these weights."""
    from transformers import SiglipModel

    build: Foreign = SiglipModel
    try:
        with torch.device("meta"):  # names and shapes; drawing weights would take longer than reading them
            model = build(found.config).to(dtype)
    except Exception as error:  # a config of unknown origin can fail in any way
        raise SightwordError(f"{found.source} has a config of which no SigLIP can be built: {reason(error)}") from error
    load_strictly(model, found.weights, found.source)
    for part in (model.vision_model, model.text_model):  # no file has them
        places = part.embeddings.position_embedding.num_embeddings
        part.embeddings.position_ids = torch.arange(places).expand(1, -1)
    return model


def tokenizer_of(folder: Path, length: int, clean: str = "") -> HFTokenizer:
    """A folder's tokenizer. How its texts are cleaned is kept among its own settings, so that it is saved with them.

    transformers' SiglipTokenizer cleans by itself, the Gemma tokenizers of SigLIP 2 and the fast ones do not; twice is
    as good as once. SigLIP's own vocabularies pad with their end, SigLIP 2's has a padding of its own.
    """
    tokenizer = open_tokenizer(folder)
    own = "canonicalize" if tokenizer.pad_token_id == tokenizer.eos_token_id else "lower"
    clean = clean or tokenizer.init_kwargs.get("clean") or own
    if clean not in CLEANING:
        raise SightwordError(f"the tokenizer in {folder} has clean={clean!r}, which is none of {', '.join(CLEANING)}")
    tokenizer.init_kwargs["clean"] = clean
    return HFTokenizer(tokenizer, length, fixed=True, clean=CLEANING[clean])


def read_json(file: Path) -> Config:
    """Return the object in a JSON file of a published model."""
    return reader.read_json(file, damaged="Fetch it again", nan=True).plain()
