"""SigLIP and SigLIP 2 of fixed resolution: one network, Hugging Face's, and two sources of weights for it.

    images → patches → + positions → blocks → norm → tokens (B, N, D) → attention pooling → pooled (B, E)
    ids → + positions → blocks → norm → tokens (B, L, D), the last one → head → pooled (B, E)

No class token, no causal mask, and the padding of a text is attended to: SigLIP was trained so. open_clip's SigLIPs
(a timm trunk and its own text transformer) are renamed into the same network, or refused where they are another one.

Legend: B batch; H, W pixels; h, w patches a side, N = h·w; L text tokens; D token width; E width of the joint space.
"""

import copy
import json
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.storage.checkpoint import write_weights
from sightword.storage.domain import domain_of_weights
from sightword.storage.hub import fetched
from sightword.towers.base import Encoded, ImageTower, TextTower
from sightword.towers.foreign import Foreign
from sightword.towers.hub import plain
from sightword.towers.hugging_face import FILES, quiet, whole_files, with_weights
from sightword.towers.preprocess import Preprocess
from sightword.towers.siglip import folder as siglip_folder
from sightword.towers.siglip import open_clip as siglip_open_clip
from sightword.towers.siglip.folder import CONFIG, PREPROCESSOR, WEIGHTS, Found
from sightword.towers.siglip.open_clip import is_open_clips as is_open_clips
from sightword.towers.tokenizer import HFTokenizer

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


class SigLIPImage(ImageTower):
    """Images (B, 3, H, W) of any whole number of patches; positions are resampled as Hugging Face resamples them."""

    def __init__(self, network: Foreign, preprocess: Preprocess, name: str) -> None:
        """network: transformers' SiglipVisionModel."""
        super().__init__()
        config = network.config
        self.network, self.preprocess, self.name = network, preprocess, name
        self.patch = (config.patch_size, config.patch_size)
        self.width = self.embed_dim = config.hidden_size
        self.architecture = {"kind": "siglip"} | {name: getattr(config, name) for name in ARCHITECTURE}

    def forward(self, images: Tensor) -> Encoded:
        """Tokens (B, N, D) behind the last norm; pooled (B, D) by the attention that SigLIP was trained with."""
        h, w = (side // patch * patch for side, patch in zip(images.shape[-2:], self.patch, strict=True))
        if images.shape[1:] not in ((3, h, w), (3, *self.preprocess.size)) or not (h and images.is_floating_point()):
            self.check(images)  # raises an error that explains
        encoded = self.network(images, interpolate_pos_encoding=True)  # which casts them to its dtype
        return Encoded(encoded.last_hidden_state.float(), encoded.pooler_output.float())

    def normalise(self, images: Tensor) -> Tensor:
        images = images.float()
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.preprocess.mean, self.preprocess.std))
        return images.add(1).div_(2).sub_(mean).div_(std)

    def check(self, images: Tensor) -> None:
        """As for any tower, but its own size may leave a rest: of 384 pixels, 27 patches of 14 leave 6 unread."""
        if tuple(images.shape[2:]) == self.preprocess.size:
            (h, w), (ph, pw) = self.grid(), self.patch
            images = images[..., : h * ph, : w * pw]
        super().check(images)


class SigLIPText(TextTower):
    """Ids (B, L) of the one length it was trained with. The vector is the last position's, mostly a padding."""

    tokenizer: HFTokenizer

    def __init__(self, network: Foreign, tokenizer: HFTokenizer, name: str) -> None:
        """network: transformers' SiglipTextModel."""
        super().__init__()
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self.width, self.embed_dim = network.config.hidden_size, network.config.projection_size

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Encoded:
        """Tokens (B, L, D), pooled (B, E). mask: (B, L), which tokens are real, for who reads them; all count here."""
        try:
            assert len(ids)
            assert ids.shape[1:] == (self.tokenizer.length,)
            assert mask is None or mask.shape == ids.shape
            encoded = self.network(input_ids=ids)
        except Exception:
            self.check(ids, mask)  # raises an error that explains, if they are at fault
            raise
        mask = None if mask is None else mask.bool()
        return Encoded(encoded.last_hidden_state.float(), encoded.pooler_output.float(), mask)

    def vocabulary(self) -> int:
        return self.network.config.vocab_size

    def check(self, ids: Tensor, mask: Tensor | None) -> None:
        """As for any tower, but a text that is not padded would have its vector from another place."""
        super().check(ids, mask)
        if ids.shape[1] < (length := self.tokenizer.length):
            raise SightwordError(
                f"ids are {ids.shape[1]} wide, {self.name} reads its padding too: pad them to {length}"
            )


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
        """In eval mode. Raises SightwordError for a checkpoint, a name or an option that does not fit.

        name: one of `presets`; a name at Hugging Face, with a slash; a folder, Hugging Face's or open_clip's
        `local-dir`, read without network; or an open_clip model ("ViT-B-16-SigLIP"), of which `tag` names the published
        weights or a file of weights. size: (H, W) of the images, if not the checkpoint's own.
        """
        with quiet(bars=True):
            found = _find(str(name), str(tag))
            network = siglip_folder.build(found, dtype)
        preprocess = _resized(found.preprocess, size, found.config.vision_config.patch_size)
        image = SigLIPImage(network.vision_model, preprocess, str(name))
        text = SigLIPText(network.text_model, found.tokenizer, str(name))
        image.domain = text.domain = domain_of_weights(str(name))
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

        preprocess = siglip_folder.preprocessor_config(self.image.preprocess)
        image, text = self.image.network, self.text.network
        weights = {f"vision_model.{name}": weight for name, weight in image.state_dict().items()}
        weights |= {f"text_model.{name}": weight for name, weight in text.state_dict().items()}
        weights |= {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        parts = {"vision_config": image.config, "text_config": text.config}
        config = SiglipConfig(**copy.deepcopy(parts), architectures=["SiglipModel"])  # which writes into its parts
        config.dtype = self.image.dtype
        domain = {"domain": self.image.domain} if self.image.domain else {}
        contents = {
            CONFIG: json.loads(config.to_json_string(use_diff=False)) | domain,
            PREPROCESSOR: preprocess,
        }
        with whole_files(folder) as beside:
            self.text.tokenizer.save(beside)
            for file, content in contents.items():
                (beside / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            # transformers 4 refuses a file without this metadata
            write_weights(beside / WEIGHTS, weights, {"format": "pt"})


def _find(name: str, tag: str) -> Found:
    """Load a SigLIP: a folder of Hugging Face or open_clip, or the name of a model of open_clip."""
    hub = presets.get(name, plain(name))
    if "/" not in hub and not Path(hub).expanduser().is_dir():
        return siglip_open_clip.read_named(name, tag, presets)
    if tag:
        raise SightwordError(f"tag={tag} is for open_clip's own models, as ViT-B-16-SigLIP; {name} is none of them")
    folder = fetched(hub, FILES)
    if not (folder / siglip_open_clip.CONFIG).is_file() or siglip_folder.is_one(folder):
        return siglip_folder.read(with_weights(hub, FILES, ("model*.safetensors",)))
    return siglip_open_clip.read(with_weights(hub, FILES, siglip_open_clip.WEIGHTS))


def _resized(preprocess: Preprocess, size: tuple[int, int] | None, patch: int) -> Preprocess:
    if size is None or tuple(size) == preprocess.size:
        return preprocess
    if len(size) != 2 or any(side < patch or side % patch for side in size):
        raise SightwordError(
            f"size is {'×'.join(map(str, size))}: height and width are multiples of the patch, {patch}"
        )
    return preprocess.to(size)
