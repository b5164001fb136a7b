"""Images to a grid of code ids and back.

    images (B, 3, H, W) → encoder → (B, D, h, w) → quantiser → ids (B, h, w), codes (B, h, w, D) → decoder → images

Images are RGB in [-1, 1]. One `VQImage` holds any pair of networks of `network`, and any quantiser of `quantize`.

Legend: B batch; H, W pixels; h, w tokens a side (H / factor, W / factor); N = h·w; D channels of a code; K codes.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sightword.errors import MissingFileError, SightwordError
from sightword.ops.quantize import FrozenQuantizer, Quantized, VectorQuantizer, VectorQuantizerEMA
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import differences, read_weights, write_weights
from sightword.storage.reader import parse_json, read_json
from sightword.towers.base import Encoded
from sightword.towers.foreign import Config, Foreign
from sightword.towers.vq.network import Decoder, Encoder, TamingDecoder, TamingEncoder

Quantizer = VectorQuantizer | VectorQuantizerEMA | FrozenQuantizer


class Reconstruction(NamedTuple):
    """The output of `VQImage`, with all that the losses of a tokenizer need."""

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
            raise SightwordError(
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
    def config(self) -> Config:
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
            raise SightwordError(
                f"ids {tuple(ids.shape)} decode to {full} pixels, of which no {tuple(size)} can be cropped"
            )
        return self._images(self.quantizer.decode(ids), size or full).clamp(-1, 1)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Encoded:
        """Return the code vectors (B, N, D) of images and their mean (B, D), in the format of any tower."""
        tokens = self.quantizer.decode(self.encode(images)).flatten(1, 2)  # (B, N, D)
        return Encoded(tokens, tokens.mean(1))

    def _latents(self, images: Tensor) -> Tensor:
        channels = self.encoder.conv_in.in_channels
        if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
            raise SightwordError(f"images are (B, {channels}, H, W), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise SightwordError(
                f"images are floats in [-1, 1], got {images.dtype}; x.float() / 127.5 - 1 makes them so"
            )
        return self.to_codes(self.encoder(pad_to(images, self.factor))).permute(0, 2, 3, 1)  # (B, h, w, D)

    def _images(self, codes: Tensor, size: tuple[int, ...]) -> Tensor:
        codes = codes.to(self.decoder.conv_in.weight.dtype)  # codes are float32, networks may not be
        images = self.decoder(self.from_codes(codes.permute(0, 3, 1, 2)))
        return images[..., : size[0], : size[1]]

    def _grid(self, ids: Tensor, shape: tuple[int, int] | None) -> Tensor:
        """Ids (B, h, w), int64, known to be in the codebook."""
        if ids.is_floating_point():
            raise SightwordError(f"ids are whole numbers, got {ids.dtype}")
        ids = ids.long()
        if ids.dim() == 2:
            ids = _unflatten(ids, shape)
        elif ids.dim() != 3 or (shape is not None and tuple(shape) != ids.shape[1:]):
            raise SightwordError(f"ids are (B, h, w), or (B, N) with shape=(h, w); got {tuple(ids.shape)}, {shape=}")
        if ids.numel():
            low, high = (int(end) for end in torch.stack(ids.aminmax()).tolist())
            worst = low if -low > high - self.num_codes else high
            if low < 0 or high >= self.num_codes:
                raise SightwordError(f"id {worst} is not in the codebook of {self.num_codes} codes")
        return ids

    @classmethod
    def from_config(cls, config: Config) -> "VQImage":
        """Return the networks of `config`, with new weights."""
        try:
            encoder, quantizer, decoder = (_build(config[name]) for name in ("encoder", "quantizer", "decoder"))
            return cls(encoder, quantizer, decoder, config["project"])
        except (KeyError, TypeError) as error:
            raise SightwordError(f"not the config of a VQImage ({type(error).__name__}: {error})") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what inference needs: config.json and model.safetensors, which contains the config, too.

        The statistics of an EMA codebook stay out: training resumes from a checkpoint, or starts from the codes alone.
        """
        folder, config = Path(folder), json.dumps(self.config, indent=1)
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / "model.safetensors", inference_weights(self), {"config": config})
        with write_atomically(folder / "config.json") as beside:
            beside.write_text(config + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "VQImage":
        """Load from a folder of `save_pretrained`, or from its model.safetensors alone. Return it in eval mode.

        An EMA codebook keeps its codes: training resumes from them instead of replacing them.
        """
        path = Path(path)
        config, file = _read_folder(path) if path.is_dir() else (_read_metadata(path), path)
        try:
            model = without_weights(lambda: cls.from_config(config))
        except SightwordError as error:
            raise SightwordError(f"{path}: {error}") from error
        weights = read_weights(file)
        if found := differences(inference_weights(model), weights):
            raise SightwordError(f"{file} does not fit its config: {found}")
        model.load_state_dict(weights, strict=False, assign=True)  # strict was `differences`
        if isinstance(model.quantizer, VectorQuantizerEMA):
            model.quantizer.keep_codes()
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
        raise SightwordError(f"{count} ids are not a square; say which grid they are: decode(ids, shape=(h, w))")
    height, width = shape or (side, side)
    if height * width != count:
        raise SightwordError(f"{count} ids do not fill shape {height} × {width} = {height * width}")
    return ids.unflatten(1, (height, width))


def _project(in_channels: int, out_channels: int, always: bool) -> nn.Module:
    same = in_channels == out_channels and not always
    return nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)


def _quantizer_config(quantizer: Quantizer) -> Config:
    config: Config = {
        "kind": type(quantizer).__name__,
        "num_embeddings": quantizer.num_codes,
        "embedding_dim": quantizer.dim,
        "commitment_cost": quantizer.commitment_cost,
        "metric": quantizer.metric,
    }
    if isinstance(quantizer, VectorQuantizerEMA):
        config |= {"decay": quantizer.decay, "restart_after": quantizer.restart_after}
    return config


def _frozen(num_embeddings: int, embedding_dim: int, **options: Foreign) -> FrozenQuantizer:
    return FrozenQuantizer(torch.zeros(num_embeddings, embedding_dim), **options)


_KINDS = {
    **{kind.__name__: kind for kind in (Encoder, Decoder, TamingEncoder, TamingDecoder)},
    **{kind.__name__: kind for kind in (VectorQuantizer, VectorQuantizerEMA)},
    "FrozenQuantizer": _frozen,
}


def _build(config: Config) -> Foreign:
    return _KINDS[config["kind"]](**{key: value for key, value in config.items() if key != "kind"})


def _read_folder(folder: Path) -> tuple[Config, Path]:
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights):
        if not file.is_file():
            raise MissingFileError(f"{folder} has no {file.name}; a VQImage is config.json and model.safetensors")
    return read_json(config).plain(), weights


def _read_metadata(file: Path) -> Config:
    if not file.exists():
        raise MissingFileError(f"{file} does not exist")
    try:
        with safe_open(file, "pt") as weights:
            return parse_json((weights.metadata() or {})["config"], f"the config in {file}").plain()
    except (SafetensorError, KeyError, SightwordError) as error:
        raise SightwordError(
            f"{file} is not a safetensors file with the config of a VQImage; use load_published for published files"
        ) from error


def without_weights(build: Callable[[], VQImage]) -> VQImage:
    """Return `build()` without drawing its weights, which `load_state_dict(assign=True)` replaces."""
    with torch.device("meta"):
        model = build()
    with torch.random.fork_rng(devices=[]):  # nor disturb the global generator
        model.quantizer = _build(_quantizer_config(model.quantizer))  # its statistics are in no file: keep them real
    return model


def inference_weights(model: VQImage) -> dict[str, Tensor]:
    """Return the state dict that `save_pretrained` writes: all weights, of the quantiser only the codebook."""
    state = model.state_dict()
    return {name: t for name, t in state.items() if not name.startswith("quantizer.") or name == "quantizer.weight"}
