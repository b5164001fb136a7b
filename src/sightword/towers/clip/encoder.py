"""CLIP by open_clip: a joint space of images and texts, and patch tokens that can be compared with texts.

    images → conv1 → + positions → ln_pre → blocks → ln_post → proj → pooled (B, E)
                                             └ the last one, several ways → tokens (B, N, D)     (dense)
    ids → + positions → causal blocks → ln_final → projection → tokens (B, L, E), the end's → pooled (B, E)

Legend: B batch; H, W pixels; h, w patches a side, N = h·w; L text tokens; D token width; E width of the joint space.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, write_weights
from sightword.towers.base import Encoded, ImageTower, TextTower
from sightword.towers.clip import checkpoint as clip_checkpoint
from sightword.towers.clip.checkpoint import CONFIG, WEIGHTS
from sightword.towers.clip.dense import PLAIN, TokenType, attend
from sightword.towers.clip.positions import causal_mask, resample, resize_image_positions
from sightword.towers.foreign import Config, Foreign
from sightword.towers.preprocess import Preprocess
from sightword.towers.tokenizer import TextTokenizer

#: Our names → open_clip's model and the tag of its weights.
presets = {
    "vit_b16": ("ViT-B-16", "laion2b_s34b_b88k"),
    "vit_l14": ("ViT-L-14-quickgelu", "openai"),  # joint space 768
    "vit_h14": ("ViT-H-14", "laion2b_s32b_b79k"),  # joint space 1024: tokens (B, 256, 1024)
}


class CLIPImage(ImageTower):
    """Images (B, 3, H, W) of any whole number of patches; positions are resampled as open_clip resamples them."""

    def __init__(
        self,
        visual: Foreign,
        preprocess: Preprocess,
        name: str,
        token_type: str = "joint",
        architecture: Mapping[str, object] | None = None,
    ) -> None:
        """visual: the image side of what `clip_checkpoint.build` returns. token_type: of the tokens that
        `forward` returns, see `dense`."""
        super().__init__()
        self.architecture = dict(architecture or {})
        self.visual, self.preprocess, self.name, self.token_type = visual, preprocess, name, token_type
        self.patch = tuple(visual.patch_size)
        self.embed_dim = visual.output_dim
        self.width = visual.conv1.out_channels if TokenType.parse(token_type).kind == "post" else self.embed_dim

    def freeze_except_last(self, blocks: int) -> Self:
        """Turn gradients off but for the last `blocks` of the transformer, the norm behind them and the projection.

        0 freezes all. For a training of one's own: the systems here take CLIP frozen, and cache what it computes.
        Raises SightwordError for more blocks than there are.
        """
        found = self.visual.transformer.resblocks
        if not 0 <= blocks <= len(found):
            raise SightwordError(f"{blocks} blocks cannot be left out of freezing: {self.name} has {len(found)}")
        self.freeze()
        if blocks:
            self.frozen = False
            self.visual.proj.requires_grad_(True)
            for part in (*list(found)[-blocks:], self.visual.ln_post):
                part.requires_grad_(True)
        return self

    def forward(self, images: Tensor) -> Encoded:
        """Return `Encoded` with the tokens of `self.token_type`; pooled is CLIP's own image vector, not normalised."""
        return self.token_types(images, (self.token_type,))[self.token_type]

    def token_types(self, images: Tensor, names: Sequence[str]) -> dict[str, Encoded]:
        """Several kinds of tokens from one forward pass: {"post": …, "value": …}, all with the same pooled vector."""
        (h, w), (ph, pw) = (
            (side // patch for side, patch in zip(images.shape[-2:], self.patch, strict=True)),
            self.patch,
        )
        if not (h and w and images.shape[1:] == (3, h * ph, w * pw) and images.is_floating_point()):
            self.check(images)  # raises an error that explains
        visual, dense = self.visual, {name: TokenType.parse(name) for name in names if name not in PLAIN}
        *blocks, last = visual.transformer.resblocks
        x = self._embed(images.to(visual.conv1.weight.dtype), (h, w))  # (B, 1 + N, W)
        for block in blocks:
            x = block(x)
        plain = last(x)
        normed = visual.ln_post(plain)
        pooled = (self._pool(plain, normed) @ visual.proj).float()  # (B, E)
        shared: dict[str, Tensor] = {}
        tokens = {
            name: visual.ln_post(attend(last, x, dense[name], (h, w), shared)) if name in dense else normed
            for name in names
        }  # (B, 1 + N, W)
        return {
            name: Encoded((value[:, 1:] if name == "post" else value[:, 1:] @ visual.proj).float(), pooled)
            for name, value in tokens.items()
        }

    def normalise(self, images: Tensor) -> Tensor:
        images = images.float()
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.preprocess.mean, self.preprocess.std))
        return images.add(1).div_(2).sub_(mean).div_(std)

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, N, W)
        start = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = visual.positional_embedding
        if grid != (own := tuple(visual.grid_size)):
            positions = resize_image_positions(positions, own, grid)
        return visual.ln_pre(torch.cat([start, patches], dim=1) + positions.to(patches.dtype))

    def _pool(self, plain: Tensor, normed: Tensor) -> Tensor:
        """Return the class token, or the mean of the patches, (B, W)."""
        late = self.visual.final_ln_after_pool
        x = plain if late else normed
        pooled = x[:, 0] if self.visual.pool_type == "tok" else x[:, 1:].mean(1)
        return self.visual.ln_post(pooled) if late else pooled


class CLIPText(TextTower):
    """Ids (B, L) to tokens (B, L, E) in the joint space and the vector (B, E) at each text's end."""

    def __init__(self, text: Foreign, tokenizer: TextTokenizer, name: str) -> None:
        """text: the text side of what `clip_checkpoint.build` returns."""
        super().__init__()
        self.text, self.tokenizer, self.name = text, tokenizer, name
        self.width = self.embed_dim = text.output_dim
        self._untrained: tuple[tuple[int, int], frozenset[int]] | None = None  # of which weights, and the ids

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Encoded:
        """A text attends only to what stands before, so padding changes nothing; mask is passed on."""
        text = self.text
        try:
            count, length = ids.shape
            assert count * length
            assert mask is None or mask.shape == ids.shape
            x = text.token_embedding(ids) + text.positional_embedding[:length]  # (B, L, W)
        except Exception:
            self.check(ids, mask)  # raises an error that explains, if they are at fault
            raise
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        tokens = text.ln_final(x) @ text.text_projection  # (B, L, E)
        pooled = tokens[torch.arange(len(ids), device=ids.device), self._ends(ids)]
        return Encoded(tokens.float(), pooled.float(), None if mask is None else mask.bool())

    def untrained(self) -> frozenset[int]:
        """Return the ids whose vectors are zeros, as the CLIP of `sightword mini` has them for words it never read."""
        vectors = self.text.token_embedding.weight.detach()  # (K, W)
        weights = vectors.data_ptr(), vectors._version
        if self._untrained is None or self._untrained[0] != weights:  # every text of a query asks: 13 ms each
            some = (vectors[:, 0] == 0).nonzero()[:, 0]
            self._untrained = weights, frozenset(some[(vectors[some] == 0).all(1)].tolist())
        return self._untrained[1]

    def _ends(self, ids: Tensor) -> Tensor:
        """Return the position of each text's end token, (B,), which has the greatest id in OpenAI's vocabulary."""
        if self.text.pool_type == "argmax":
            return ids.argmax(dim=-1)
        return (ids == self.text.eos_id).int().argmax(dim=-1)


class CLIP(nn.Module):
    """The pair. `scores` are open_clip's logits per image."""

    def __init__(self, image: CLIPImage, text: CLIPText, logit_scale: Tensor, model_cfg: Config) -> None:
        """model_cfg: open_clip's description of the networks, for `save`."""
        super().__init__()
        self.image, self.text, self.logit_scale = image, text, nn.Parameter(logit_scale)
        self.model_cfg = dict(model_cfg)

    @classmethod
    def load(
        cls,
        name: str | Path,
        tag: str | Path = "",
        size: tuple[int, int] | None = None,
        length: int | None = None,
        token_type: str = "joint",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """In eval mode. Raises SightwordError for a checkpoint, a name or an option that does not fit.

        name: one of `presets`; an open_clip model ("ViT-B-16") with the tag of published weights or a weights file; or
        a folder as open_clip's `local-dir:` has it, read without network, with its own weights or, as tag, a file of
        others. size, length: another image size (H, W) or text length than the weights have; positions are resampled.
        token_type: of the image tokens, see `dense`.
        """
        TokenType.parse(token_type)
        name, usual = presets.get(str(name), (str(name), ""))
        found = clip_checkpoint.find(name, str(tag) or usual, presets)
        model = clip_checkpoint.build(found)
        weights, file = clip_checkpoint.read(found, model)
        size, length = resample(model, weights, size, length)
        load_strictly(model, {key: value.to(dtype) for key, value in weights.items()}, file)
        model.text.attn_mask = causal_mask(length)
        model_cfg = found.model_cfg
        model_cfg["vision_cfg"] |= {"image_size": list(size)}
        model_cfg["text_cfg"] |= {"context_length": length}
        tag = found.weights.tag or tag
        name, architecture = f"{name}:{tag}" if str(tag) else name, clip_checkpoint.architecture(model_cfg)
        image = CLIPImage(model.visual, clip_checkpoint.preprocessing(found, size), name, token_type, architecture)
        text = CLIPText(model.text, clip_checkpoint.tokenizer(found, model.text, length), name)
        image.domain = text.domain = found.domain
        return cls(image, text, model.logit_scale.detach(), model_cfg).to(dtype).eval()

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Pooled (B, E) and (K, E) to logits (B, K): scaled cosines."""
        return self.logit_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T

    def save(self, folder: str | Path) -> None:
        """Write a folder that `CLIP.load` and open_clip's own "local-dir:" read back exactly.

        The token type is not saved, here or in a checkpoint; pass it again when loading.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"visual.{key}": value for key, value in self.image.visual.state_dict().items()}
        prefix = "text." if self.model_cfg.get("custom_text") else ""
        weights |= {f"{prefix}{key}": value for key, value in self.text.text.state_dict().items()}
        weights["logit_scale"] = self.logit_scale
        preprocess = {
            "resize_mode" if key == "resize" else key: v for key, v in self.image.preprocess.as_dict().items()
        }
        config: dict[str, object] = {"model_cfg": self.model_cfg, "preprocess_cfg": {**preprocess, "mode": "RGB"}}
        config |= {"domain": self.image.domain} if self.image.domain else {}
        self.text.tokenizer.save(folder)
        write_weights(folder / WEIGHTS, weights)
        with write_atomically(folder / CONFIG) as part:
            part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
