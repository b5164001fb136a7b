"""Published image tokenizers (taming, latent diffusion, LlamaGen), read from their authors' own files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.ops.nearest import Metric
from sightword.ops.quantize import VectorQuantizer
from sightword.storage.checkpoint import differences, read_checkpoint, weights_in
from sightword.towers.foreign import Config
from sightword.towers.vq.image import VQImage, inference_weights, without_weights
from sightword.towers.vq.network import TamingDecoder, TamingEncoder

_F16 = {"ch_mult": (1, 1, 2, 2, 4), "attn_resolutions": (16,), "z_channels": 256}
_F8 = {"ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)}

#: Layout of a published file → arguments of `taming`. Sizes from the authors' configs.
presets: dict[str, Config] = {
    "taming_f16_1024": {"num_codes": 1024, "dim": 256, **_F16},
    "taming_f16_16384": {"num_codes": 16384, "dim": 256, **_F16},
    "ldm_f8_256": {"num_codes": 256, "dim": 4, "z_channels": 4, **_F8},
    "ldm_f8_16384": {"num_codes": 16384, "dim": 4, "z_channels": 4, **_F8},
    "llamagen_vq16": {"num_codes": 16384, "dim": 8, "metric": "cosine", **_F16},
    "llamagen_vq8": {"num_codes": 16384, "dim": 8, "metric": "cosine", "z_channels": 256, **_F8},
}


def taming(
    num_codes: int = 1024,
    dim: int = 256,
    metric: Metric = "euclidean",
    ch: int = 128,
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    num_res_blocks: int = 2,
    attn_resolutions: Sequence[int] = (16,),
    resolution: int = 256,
    z_channels: int = 256,
) -> VQImage:
    """A VQGAN with new weights; `taming(**presets[layout])` has the shape of a published one.

    Its commitment term is raw: the published losses put beta on the other term ("legacy").
    """
    shared: Config = {
        "ch": ch,
        "ch_mult": ch_mult,
        "num_res_blocks": num_res_blocks,
        "attn_resolutions": attn_resolutions,
        "resolution": resolution,
        "z_channels": z_channels,
    }
    quantizer = VectorQuantizer(num_codes, dim, metric=metric)
    return VQImage(TamingEncoder(**shared), quantizer, TamingDecoder(**shared), project=True)


def published_networks(layout: str) -> VQImage:
    """Return a tokenizer with the networks of a published layout and new weights. Raises SightwordError for others."""
    return taming(**_arguments(layout))


def _arguments(layout: str) -> Config:
    if layout not in presets:
        raise SightwordError(f"layout={layout!r} is not known; there are {', '.join(presets)}")
    return presets[layout]


def open_tokenizer(weights: str | Path, layout: str = "") -> VQImage:
    """A published file of a `layout`, or what `VQImage.save_pretrained` wrote; in eval mode."""
    return load_published(weights, layout) if layout else VQImage.from_pretrained(weights)


def load_published(path: str | Path, layout: str, ema: bool = False, **overrides: object) -> VQImage:
    """A published tokenizer from the authors' own file (.ckpt, .pt or .safetensors), in eval mode and float32.

    layout: a key of `presets`. ema: take the averaged weights, if the file has them, instead of the last ones.
    overrides: arguments of `taming` in which this file differs from its layout.
    Losses and discriminators in the file are left out; the rest must fit exactly.
    """
    arguments = {**_arguments(layout), **overrides}
    checkpoint = read_checkpoint(path)
    try:
        weights = _taming_names(_published_weights(checkpoint, ema))
    except SightwordError as error:
        raise SightwordError(f"{path} {error}") from None
    model = without_weights(lambda: taming(**arguments))
    if found := differences(inference_weights(model), weights):
        others = [other for other in presets if _fits(weights, other, overrides)]
        hint = f". It fits layout {' or '.join(others)}" if others else ""
        raise SightwordError(f"{path} does not fit layout {layout}: {found}{hint}")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    return model.eval()


def _fits(weights: Mapping[str, Tensor], layout: str, overrides: Mapping[str, object]) -> bool:
    with torch.device("meta"):  # names and shapes, no memory
        return not differences(inference_weights(taming(**{**presets[layout], **overrides})), weights)


def _published_weights(checkpoint: Mapping[str, object], ema: bool) -> dict[str, Tensor]:
    """Tensors under the authors' names. Raises SightwordError with what is missing."""
    if ema and "ema" in checkpoint:
        return weights_in(checkpoint, ["ema"])
    weights = weights_in(checkpoint)
    # Latent diffusion's average: model_ema.<name without dots>, beside the names themselves.
    average = {name.removeprefix("model_ema."): t for name, t in weights.items() if name.startswith("model_ema.")}
    weights = {name: t for name, t in weights.items() if not name.startswith("model_ema.")}
    if ema and not average:
        raise SightwordError("contains no averaged weights; load it without ema=True")
    return {name: average.get(name.replace(".", ""), t) for name, t in weights.items()} if ema else weights


def _taming_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the tensors of a taming, latent diffusion or LlamaGen file, less what only training used."""
    levels = 1 + max(
        (int(name.split(".")[2]) for name in weights if name.startswith("decoder.conv_blocks.")), default=0
    )
    return {
        _our_name(name, levels): weight
        for name, weight in weights.items()
        if not name.startswith("loss.") and name != "quantize.codebook_used"
    }


def _our_name(name: str, levels: int) -> str:
    match name.split("."):
        case ["quantize", "embedding", "weight"]:
            return "quantizer.weight"
        case ["quant_conv", part]:
            return f"to_codes.{part}"
        case ["post_quant_conv", part]:
            return f"from_codes.{part}"
        # LlamaGen numbers its levels in the order they run, on both sides, and its middle 0, 1, 2.
        case ["encoder", "conv_blocks", level, what, *rest]:
            return ".".join(["encoder", "down", level, "block" if what == "res" else what, *rest])
        case ["decoder", "conv_blocks", level, what, *rest]:
            return ".".join(["decoder", "up", str(levels - 1 - int(level)), "block" if what == "res" else what, *rest])
        case [side, "mid", ("0" | "1" | "2") as place, *rest]:
            return ".".join([side, "mid", ("block_1", "attn_1", "block_2")[int(place)], *rest])
    return name
