"""Images to a grid of code ids and back: the networks of the image tokenizer, and the published ones.

    images (B, 3, H, W) → encoder → (B, D, h, w) → quantiser → ids (B, h, w), codes (B, h, w, D) → decoder → images

Images are RGB in [-1, 1]. One `VQImage` holds any encoder, any quantiser of `sightword.quantize` and any decoder.
There are two pairs of networks: `Encoder` and `Decoder` are document 003's, `TamingEncoder` and `TamingDecoder` are
those of VQGAN (Esser et al. 2021, arXiv 2012.09841), which latent diffusion and LlamaGen share.

Legend: B batch; H, W pixels; h, w tokens a side (H / factor, W / factor); N = h·w; C channels; D channels of a code;
K codes.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sightword.atomic import write_atomically
from sightword.checkpoint import read_checkpoint, weights_in
from sightword.nearest import Metric
from sightword.quantize import FrozenQuantizer, Quantized, VectorQuantizer, VectorQuantizerEMA
from sightword.towers import Encoded

Quantizer = VectorQuantizer | VectorQuantizerEMA | FrozenQuantizer


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as everybody has them, fewer where 32 does not divide the channels."""
    if channels < 1:
        raise ValueError(f"a layer needs at least one channel, got {channels}")
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """x + f(x), where f is twice: normalise, SiLU, 3x3. (B, in_channels, h, w) → (B, out_channels, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return self.nin_shortcut(x) + residual


class Encoder(nn.Module):
    """Images (B, in_channels, H, W) to latents (B, latent_channels, h, w), halving the sides once a stage.

    Source: document 003, "Encoder 架构".
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (128, 256, 256, 256),
        latent_channels: int = 256,
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "channels": _widths(channels),
            "latent_channels": latent_channels,
            "num_res_blocks": num_res_blocks,
        }
        self.latent_channels, self.factor = latent_channels, 2 ** len(channels)
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.stages = nn.Sequential()
        for before, width in pairwise([channels[0], *channels]):
            blocks = [ResBlock(width, width) for _ in range(num_res_blocks)]
            self.stages.append(nn.Sequential(nn.Conv2d(before, width, 4, stride=2, padding=1), *blocks))
        self.conv_out = nn.Conv2d(channels[-1], latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv_out(self.stages(self.conv_in(images)))


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) to images (B, out_channels, H, W) in [-1, 1], doubling once a stage.

    Every stage doubles. The document's drawing leaves it out in stage 4, and would end at half the size it states.

    Source: document 003, "Decoder 架构".
    """

    def __init__(
        self,
        latent_channels: int = 256,
        channels: Sequence[int] = (256, 256, 256, 128),
        out_channels: int = 3,
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.arguments = {
            "latent_channels": latent_channels,
            "channels": _widths(channels),
            "out_channels": out_channels,
            "num_res_blocks": num_res_blocks,
        }
        self.latent_channels, self.factor = latent_channels, 2 ** len(channels)
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.stages = nn.Sequential()
        for width, after in pairwise([channels[0], *channels]):
            blocks = [ResBlock(width, width) for _ in range(num_res_blocks)]
            grow = nn.Upsample(scale_factor=2, mode="nearest")
            self.stages.append(nn.Sequential(*blocks, grow, nn.Conv2d(width, after, 3, padding=1)))
        self.conv_mid = nn.Conv2d(channels[-1], 64, 3, padding=1)
        self.conv_out = nn.Conv2d(64, out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.stages(self.conv_in(latents))
        return self.conv_out(F.relu(self.conv_mid(x))).tanh()


def _widths(channels: Sequence[int]) -> list[int]:
    if not channels or min(channels) < 1:
        raise ValueError(f"channels are one positive number a stage, got {list(channels)}")
    return list(channels)


class TamingEncoder(nn.Module):
    """VQGAN's encoder: images (B, in_channels, H, W) to latents (B, z_channels, h, w), halving between levels.

    Level i works at H / 2^i with ch · ch_mult[i] channels. Attention stands at the levels where an image of
    `resolution` pixels has a side in `attn_resolutions`, whatever the size of the image at hand.
    Arguments are those of `ddconfig` in the published configs, parameter names those of the published files.
    """

    def __init__(
        self,
        in_channels: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        resolution: int = 256,
        z_channels: int = 256,
    ) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "ch": ch,
            "ch_mult": _widths(ch_mult),
            "num_res_blocks": num_res_blocks,
            "attn_resolutions": list(attn_resolutions),
            "resolution": resolution,
            "z_channels": z_channels,
        }
        self.latent_channels, self.factor = z_channels, 2 ** (len(ch_mult) - 1)
        widths = [ch, *(ch * mult for mult in ch_mult)]
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList(
            _DownLevel(before, width, num_res_blocks, resolution >> i in attn_resolutions, last=i == len(ch_mult) - 1)
            for i, (before, width) in enumerate(pairwise(widths))
        )
        self.mid = _Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class TamingDecoder(nn.Module):
    """VQGAN's decoder: latents (B, z_channels, h, w) to images (B, out_ch, H, W), which may leave [-1, 1].

    `up[0]` is the level of full resolution, and runs last; each has one block more than the encoder's.
    Arguments as `TamingEncoder`'s.
    """

    def __init__(
        self,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        resolution: int = 256,
        z_channels: int = 256,
    ) -> None:
        super().__init__()
        self.arguments = {
            "out_ch": out_ch,
            "ch": ch,
            "ch_mult": _widths(ch_mult),
            "num_res_blocks": num_res_blocks,
            "attn_resolutions": list(attn_resolutions),
            "resolution": resolution,
            "z_channels": z_channels,
        }
        self.latent_channels, self.factor = z_channels, 2 ** (len(ch_mult) - 1)
        widths = [*(ch * mult for mult in ch_mult), ch * ch_mult[-1]]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        self.up = nn.ModuleList(
            _UpLevel(before, width, num_res_blocks + 1, resolution >> i in attn_resolutions, last=i == 0)
            for i, (width, before) in enumerate(pairwise(widths))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _Level(nn.Module):
    """Blocks at one resolution, each followed by attention or none of them."""

    def __init__(self, in_channels: int, out_channels: int, num_res_blocks: int, attention: bool) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * num_res_blocks]
        self.block = nn.ModuleList(ResBlock(before, width) for before, width in pairwise(widths))
        self.attn = nn.ModuleList(Attention(out_channels) for _ in range(num_res_blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class _DownLevel(_Level):
    def __init__(self, in_channels: int, out_channels: int, num_res_blocks: int, attention: bool, last: bool) -> None:
        super().__init__(in_channels, out_channels, num_res_blocks, attention)
        self.downsample = nn.Identity() if last else _Downsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(super().forward(x))


class _UpLevel(_Level):
    def __init__(self, in_channels: int, out_channels: int, num_res_blocks: int, attention: bool, last: bool) -> None:
        super().__init__(in_channels, out_channels, num_res_blocks, attention)
        self.upsample = nn.Identity() if last else _Upsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(super().forward(x))


class _Downsample(nn.Module):
    """3x3 with stride 2, padded at the right and below only: that is how the published weights were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Attention(nn.Module):
    """x + attention of one head among all places of x (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        # A head axis of one: the fast kernels want (B, heads, N, C).
        q, k, v = (conv(normed).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]  # (B, N, C)
        return x + self.proj_out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))


class Reconstruction(NamedTuple):
    """What `VQImage` returns: enough for every loss of a tokenizer."""

    images: Tensor  # (B, 3, H, W)
    latents: Tensor  # (B, h, w, D) before quantising
    quantized: Quantized  # codes (B, h, w, D), ids (B, h, w)


class VQImage(nn.Module):
    """An image tokenizer: `encode` gives ids, `decode` images, and calling it both, for training.

    Images of any size: they are padded at the right and below to whole tokens, and what was added is cropped off.
    Where the encoder's width is not the quantiser's, a 1x1 convolution stands on either side of it; `project=True`
    puts them there anyway, as the published models have them.
    """

    def __init__(
        self,
        encoder: Encoder | TamingEncoder,
        quantizer: Quantizer,
        decoder: Decoder | TamingDecoder,
        project: bool = False,
    ) -> None:
        super().__init__()
        if encoder.factor != decoder.factor:
            raise ValueError(
                f"the encoder makes images {encoder.factor} times smaller, the decoder latents {decoder.factor} times "
                "larger; give both as many channels, one a stage"
            )
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.to_codes = _project(encoder.latent_channels, quantizer.dim, project)
        self.from_codes = _project(quantizer.dim, decoder.latent_channels, project)
        self._project = project

    @property
    def factor(self) -> int:
        """Pixels a side that one token stands for."""
        return self.encoder.factor

    @property
    def num_codes(self) -> int:
        return self.quantizer.num_codes

    @property
    def config(self) -> dict[str, Any]:
        """Plain data from which `from_config` builds the same networks. How a codebook was started is not in it."""
        return {
            "encoder": {"kind": type(self.encoder).__name__, **self.encoder.arguments},
            "decoder": {"kind": type(self.decoder).__name__, **self.decoder.arguments},
            "quantizer": _quantizer_config(self.quantizer),
            "project": self._project,
        }

    def forward(self, images: Tensor) -> Reconstruction:
        """Images (B, 3, H, W) in [-1, 1] through all of it. Clamped in eval mode only: a clamp would stop gradients.

        In training mode this is what moves an EMA codebook; `encode` and `decode` never do.
        """
        latents = self._latents(images)
        quantized = self.quantizer(latents)
        images = self._images(quantized.codes, tuple(images.shape[2:]))
        return Reconstruction(images if self.training else images.clamp(-1, 1), latents, quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Ids (B, h, w), int64, of images (B, 3, H, W) in [-1, 1]."""
        return self.quantizer.nearest(self._latents(images))

    def decode(self, ids: Tensor, shape: tuple[int, int] | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of ids (B, h, w), or (B, N) with their shape (h, w) unless it is square.

        size: the height and width of the image that was encoded, to crop off what was added to it.
        Lets gradients through to the decoder (and to codes that are parameters).
        """
        ids = self._grid(ids, shape)
        full = (ids.shape[1] * self.factor, ids.shape[2] * self.factor)
        if size is not None and not (0 < size[0] <= full[0] and 0 < size[1] <= full[1]):
            raise ValueError(
                f"ids {tuple(ids.shape)} decode to {full} pixels, of which no {tuple(size)} can be cropped"
            )
        return self._images(self.quantizer.decode(ids), size or full).clamp(-1, 1)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Encoded:
        """The code vectors (B, N, D) of images, and their mean (B, D), as any other tower gives its features."""
        tokens = self.quantizer.decode(self.encode(images)).flatten(1, 2)  # (B, N, D)
        return Encoded(tokens, tokens.mean(1))

    def _latents(self, images: Tensor) -> Tensor:
        channels = self.encoder.conv_in.in_channels
        if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
            raise ValueError(f"images are (B, {channels}, H, W), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(f"images are floats in [-1, 1], got {images.dtype}; x.float() / 127.5 - 1 makes them so")
        return self.to_codes(self.encoder(pad_to(images, self.factor))).permute(0, 2, 3, 1)  # (B, h, w, D)

    def _images(self, codes: Tensor, size: tuple[int, ...]) -> Tensor:
        images = self.decoder(self.from_codes(codes.permute(0, 3, 1, 2)))
        return images[..., : size[0], : size[1]]

    def _grid(self, ids: Tensor, shape: tuple[int, int] | None) -> Tensor:
        """Ids (B, h, w), int64, known to be in the codebook."""
        if ids.is_floating_point():
            raise ValueError(f"ids are whole numbers, got {ids.dtype}")
        ids = ids.long()
        if ids.dim() == 2:
            ids = _unflatten(ids, shape)
        elif ids.dim() != 3 or (shape is not None and tuple(shape) != ids.shape[1:]):
            raise ValueError(f"ids are (B, h, w), or (B, N) with shape=(h, w); got {tuple(ids.shape)}, {shape=}")
        if ids.numel():
            low, high = (int(end) for end in torch.stack(ids.aminmax()).tolist())
            worst = low if -low > high - self.num_codes else high
            if low < 0 or high >= self.num_codes:
                raise ValueError(f"id {worst} is not in the codebook of {self.num_codes} codes")
        return ids

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "VQImage":
        """The networks of `config`, with new weights."""
        try:
            encoder, quantizer, decoder = (_build(config[name]) for name in ("encoder", "quantizer", "decoder"))
            return cls(encoder, quantizer, decoder, config["project"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the config of a VQImage ({type(error).__name__}: {error})") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what inference needs: config.json and model.safetensors, which holds the config too.

        The statistics of an EMA codebook stay out: training goes on from a checkpoint, or starts them anew.
        """
        folder, config = Path(folder), json.dumps(self.config, indent=1)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in inference_weights(self).items()}
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(folder / "model.safetensors") as beside:
            save_file(weights, beside, metadata={"config": config})
        with write_atomically(folder / "config.json") as beside:
            beside.write_text(config + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "VQImage":
        """What `save_pretrained` wrote, from the folder or from its model.safetensors alone; in eval mode."""
        path = Path(path)
        config, file = _read_folder(path) if path.is_dir() else (_read_metadata(path), path)
        try:
            model = _without_weights(lambda: cls.from_config(config))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        weights = read_checkpoint(file)
        if found := _differences(model, weights):
            raise ValueError(f"{file} does not fit its config: {found}")
        model.load_state_dict(weights, strict=False, assign=True)  # strict was `_differences`
        return model.eval()


def pad_to(images: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) mirrored at the right and below up to a multiple of `factor`.

    A side shorter than what must be added has nothing to mirror: its edge is repeated.
    """
    for axis in (3, 2):
        more = -images.shape[axis] % factor
        if more:
            mode = "reflect" if more < images.shape[axis] else "replicate"
            images = F.pad(images, (0, more, 0, 0) if axis == 3 else (0, 0, 0, more), mode=mode)
    return images


def _unflatten(ids: Tensor, shape: tuple[int, int] | None) -> Tensor:
    """Ids (B, N) to (B, h, w)."""
    count = ids.shape[1]
    side = math.isqrt(count)
    if shape is None and side * side != count:
        raise ValueError(f"{count} ids are no square; say which grid they are: decode(ids, shape=(h, w))")
    height, width = shape or (side, side)
    if height * width != count:
        raise ValueError(f"{count} ids do not fill shape {height} × {width} = {height * width}")
    return ids.unflatten(1, (height, width))


def _project(in_channels: int, out_channels: int, always: bool) -> nn.Module:
    same = in_channels == out_channels and not always
    return nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)


def _quantizer_config(quantizer: Quantizer) -> dict[str, Any]:
    config: dict[str, Any] = {
        "kind": type(quantizer).__name__,
        "num_embeddings": quantizer.num_codes,
        "embedding_dim": quantizer.dim,
        "commitment_cost": quantizer.commitment_cost,
        "metric": quantizer.metric,
    }
    if isinstance(quantizer, VectorQuantizerEMA):
        config |= {"decay": quantizer.decay, "revive_after": quantizer.revive_after}
    return config


def _frozen(num_embeddings: int, embedding_dim: int, **options: Any) -> FrozenQuantizer:
    return FrozenQuantizer(torch.zeros(num_embeddings, embedding_dim), **options)


_KINDS = {
    **{kind.__name__: kind for kind in (Encoder, Decoder, TamingEncoder, TamingDecoder)},
    **{kind.__name__: kind for kind in (VectorQuantizer, VectorQuantizerEMA)},
    "FrozenQuantizer": _frozen,
}


def _build(config: Mapping[str, Any]) -> Any:
    return _KINDS[config["kind"]](**{key: value for key, value in config.items() if key != "kind"})


def _read_folder(folder: Path) -> tuple[dict[str, Any], Path]:
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights):
        if not file.is_file():
            raise FileNotFoundError(f"{folder} has no {file.name}; a VQImage is config.json and model.safetensors")
    try:
        return json.loads(config.read_text(encoding="utf-8")), weights
    except ValueError as error:
        raise ValueError(f"{config} is not JSON: {error}") from error


def _read_metadata(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist")
    try:
        with safe_open(file, "pt") as weights:
            return json.loads((weights.metadata() or {})["config"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file} is no safetensors file with a VQImage's config in it; for the published files use load_published"
        ) from error


def _without_weights(build: Callable[[], VQImage]) -> VQImage:
    """What `build` builds, without drawing weights that a file replaces at once (`load_state_dict(assign=True)`)."""
    with torch.device("meta"):
        model = build()
    with torch.random.fork_rng(devices=[]):  # nor disturb the global generator
        model.quantizer = _build(_quantizer_config(model.quantizer))  # its statistics are in no file: keep them real
    return model


def inference_weights(model: VQImage) -> dict[str, Tensor]:
    """The state, of the quantiser its codebook only: what `save_pretrained` writes and tells tokenizers apart."""
    state = model.state_dict()
    return {name: t for name, t in state.items() if not name.startswith("quantizer.") or name == "quantizer.weight"}


def _differences(model: VQImage, weights: Mapping[str, Tensor]) -> str:
    """How the names and shapes of `weights` differ from the model's, in a line; empty if they do not."""
    wanted = inference_weights(model)
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(wanted[name].shape)} in the model"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    parts = [("other shapes", shapes), ("missing", missing), ("unexpected", unexpected)]
    return "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in parts if names)


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join([*names[:most], "…"] if len(names) > most else names)


# Published models. ---------------------------------------------------------------------------------------------------

_F16 = {"ch_mult": (1, 1, 2, 2, 4), "attn_resolutions": (16,), "z_channels": 256}
_F8 = {"ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)}

#: Layout of a published file → arguments of `taming`. Sizes from the authors' configs.
presets: dict[str, dict[str, Any]] = {
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
    shared: dict[str, Any] = {
        "ch": ch,
        "ch_mult": ch_mult,
        "num_res_blocks": num_res_blocks,
        "attn_resolutions": attn_resolutions,
        "resolution": resolution,
        "z_channels": z_channels,
    }
    quantizer = VectorQuantizer(num_codes, dim, metric=metric)
    return VQImage(TamingEncoder(**shared), quantizer, TamingDecoder(**shared), project=True)


def load_published(path: str | Path, layout: str, ema: bool = False, **overrides: Any) -> VQImage:
    """A published tokenizer from the authors' own file (.ckpt, .pt or .safetensors), in eval mode and float32.

    layout: a key of `presets`. ema: take the averaged weights, if the file has them, instead of the last ones.
    overrides: arguments of `taming` in which this file differs from its layout.
    Losses and discriminators in the file are left out; the rest must fit exactly.
    """
    if layout not in presets:
        raise ValueError(f"layout {layout!r} is not known; there are {', '.join(presets)}")
    checkpoint = read_checkpoint(path)
    try:
        weights = _taming_names(_published_weights(checkpoint, ema))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    model = _without_weights(lambda: taming(**{**presets[layout], **overrides}))
    if found := _differences(model, weights):
        others = [other for other in presets if _fits(weights, other, overrides)]
        hint = f". It fits layout {' or '.join(others)}" if others else ""
        raise ValueError(f"{path} does not fit layout {layout}: {found}{hint}")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    return model.eval()


def _fits(weights: Mapping[str, Tensor], layout: str, overrides: Mapping[str, Any]) -> bool:
    with torch.device("meta"):  # names and shapes, no memory
        return not _differences(taming(**{**presets[layout], **overrides}), weights)


def _published_weights(checkpoint: Mapping[str, Any], ema: bool) -> dict[str, Tensor]:
    """Tensors under the authors' names. ValueError says what is lacking."""
    if ema and "ema" in checkpoint:
        return weights_in(checkpoint, ["ema"])
    weights = weights_in(checkpoint)
    # Latent diffusion's average: model_ema.<name without dots>, beside the names themselves.
    average = {name.removeprefix("model_ema."): t for name, t in weights.items() if name.startswith("model_ema.")}
    weights = {name: t for name, t in weights.items() if not name.startswith("model_ema.")}
    if ema and not average:
        raise ValueError("holds no averaged weights; load it without ema=True")
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
