"""CLIP by open_clip: one space for images and texts, and patches that can be asked in words.

    images → conv1 → + positions → ln_pre → blocks → ln_post → proj → pooled (B, E)
                                             └ the last one, several ways → tokens (B, N, D)     (clip_dense)
    ids → + positions → causal blocks → ln_final → projection → tokens (B, L, E), the end's → pooled (B, E)

Legend: B batch; H, W pixels; h, w patches a side, N = h·w; L text tokens; D token width; E width of the joint space.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from sightword.atomic import write_atomically
from sightword.checkpoint import load_strictly, read_weights
from sightword.towers import Encoded, hub
from sightword.towers.clip_dense import Form, attend
from sightword.towers.preprocess import Preprocess
from sightword.towers.text import CLIPTokenizer, HFTokenizer, TextTokenizer
from sightword.towers.tower import ImageTower, TextTower, border

#: Our names → open_clip's model and the tag of its weights.
presets = {
    "vit_b16": ("ViT-B-16", "laion2b_s34b_b88k"),
    "vit_l14": ("ViT-L-14-quickgelu", "openai"),  # joint space 768
    "vit_h14": ("ViT-H-14", "laion2b_s32b_b79k"),  # joint space 1024: tokens (B, 256, 1024), as document 000 has them
}
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
OTHER_WEIGHTS = ("open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}  # only OpenAI's own files have them


class CLIPImage(ImageTower):
    """Images (B, 3, H, W) of any whole number of patches; positions are resampled as open_clip resamples them."""

    def __init__(
        self,
        visual: Any,
        preprocess: Preprocess,
        name: str,
        form: str = "joint",
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        """visual: open_clip's VisionTransformer. form: the tokens that calling it gives; `clip_dense` has the list."""
        super().__init__()
        self.architecture = dict(architecture or {})
        _check_visual(visual, name)
        self.visual, self.preprocess, self.name, self.form = visual, preprocess, name, form
        self.patch = tuple(visual.patch_size)
        self.embed_dim = visual.output_dim
        self.width = visual.conv1.out_channels if Form.parse(form).kind == "post" else self.embed_dim

    def forward(self, images: Tensor) -> Encoded:
        """`Encoded` with the tokens of `self.form`; pooled is CLIP's own image vector, not normalised."""
        return self.forms(images, (self.form,))[self.form]

    def forms(self, images: Tensor, names: Sequence[str]) -> dict[str, Encoded]:
        """Several kinds of tokens from one forward pass: {"post": …, "value": …}, all with the same pooled vector."""
        self.check(images)
        asked = {name: Form.parse(name) for name in names}
        visual, grid = self.visual, self.grid((images.shape[2], images.shape[3]))
        *blocks, last = visual.transformer.resblocks
        x = self._embed(images.to(self.dtype), grid)  # (B, 1 + N, W)
        for block in blocks:
            x = block(x)
        plain = last(x)
        normed = visual.ln_post(plain)
        pooled = self._pool(plain, normed) @ visual.proj  # (B, E)
        shared: dict[str, Tensor] = {}
        tokens = {
            name: normed if form.kind in ("post", "joint") else visual.ln_post(attend(last, x, form, grid, shared))
            for name, form in asked.items()
        }  # (B, 1 + N, W)
        return {
            name: border(value[:, 1:] if asked[name].kind == "post" else value[:, 1:] @ visual.proj, pooled)
            for name, value in tokens.items()
        }

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, N, W)
        start = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = resize_image_positions(visual.positional_embedding, tuple(visual.grid_size), grid)
        return visual.ln_pre(torch.cat([start, patches], dim=1) + positions.to(patches.dtype))

    def _pool(self, plain: Tensor, normed: Tensor) -> Tensor:
        """The class token, or the mean of the patches, (B, W)."""
        late = self.visual.final_ln_after_pool
        x = plain if late else normed
        pooled = x[:, 0] if self.visual.pool_type == "tok" else x[:, 1:].mean(1)
        return self.visual.ln_post(pooled) if late else pooled


class CLIPText(TextTower):
    """Ids (B, L) to tokens (B, L, E) in the joint space and the vector (B, E) at each text's end."""

    def __init__(self, text: Any, tokenizer: TextTokenizer, name: str) -> None:
        """text: open_clip's TextTransformer."""
        super().__init__()
        _check_text(text, name)
        self.text, self.tokenizer, self.name = text, tokenizer, name
        self.width = self.embed_dim = text.output_dim

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Encoded:
        """A text attends only to what stands before, so padding changes nothing; mask is passed on."""
        self.check(ids, mask)
        text, length = self.text, ids.shape[1]
        x = text.token_embedding(ids) + text.positional_embedding[:length]  # (B, L, W)
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        tokens = text.ln_final(x) @ text.text_projection  # (B, L, E)
        return border(tokens, tokens[torch.arange(len(ids), device=ids.device), self._ends(ids)], mask)

    def _ends(self, ids: Tensor) -> Tensor:
        """Where each text ends, (B,): OpenAI's vocabulary has the end as its greatest id."""
        if self.text.pool_type == "argmax":
            return ids.argmax(dim=-1)
        return (ids == self.text.eos_id).int().argmax(dim=-1)


class CLIP(nn.Module):
    """The pair. `scores` are open_clip's logits per image."""

    def __init__(self, image: CLIPImage, text: CLIPText, logit_scale: Tensor, model_cfg: Mapping[str, Any]) -> None:
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
        form: str = "joint",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """In eval mode. Raises ValueError or FileNotFoundError, one line, for whatever is not as it should be.

        name: one of `presets`; an open_clip model ("ViT-B-16") with the tag of published weights or a weights file; or
        a folder as open_clip's `local-dir:` has it, read without network. size, length: another image size (H, W) or
        text length than the weights have; positions are resampled. form: the image tokens, see `clip_dense`.
        """
        Form.parse(form)
        name, usual = presets.get(str(name), (str(name), ""))
        tag = str(tag) or usual
        folder = Path(name).expanduser()
        model_cfg, preprocess_cfg, file = _from_folder(folder) if folder.is_dir() else _from_open_clip(name, tag)
        model = _build(model_cfg, name)
        weights = _weights(model, model_cfg, file, name)
        size, length = _resample(model, weights, size, length)
        load_strictly(model, {key: value.to(dtype) for key, value in weights.items()}, file)
        model.text.attn_mask = causal_mask(length)
        model_cfg["vision_cfg"] |= {"image_size": list(size)}
        model_cfg["text_cfg"] |= {"context_length": length}
        preprocess = _preprocess(preprocess_cfg).to(size)
        image = CLIPImage(model.visual, preprocess, f"{name}:{tag}" if tag else name, form, _architecture(model_cfg))
        text = CLIPText(model.text, _tokenizer(model_cfg, folder, length), image.name)
        return cls(image, text, model.logit_scale.detach(), model_cfg).to(dtype).eval()

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Pooled (B, E) and (K, E) to logits (B, K): scaled cosines."""
        return self.logit_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T

    def save(self, folder: str | Path) -> None:
        """Write a folder that `CLIP.load` and open_clip's own "local-dir:" read back exactly."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"visual.{key}": value for key, value in self.image.visual.state_dict().items()}
        prefix = "text." if self.model_cfg.get("custom_text") else ""
        weights |= {f"{prefix}{key}": value for key, value in self.text.text.state_dict().items()}
        weights["logit_scale"] = self.logit_scale
        preprocess = {
            "resize_mode" if key == "resize" else key: v for key, v in self.image.preprocess.as_dict().items()
        }
        config = {"model_cfg": self.model_cfg, "preprocess_cfg": {**preprocess, "mode": "RGB"}}
        self.text.tokenizer.save(folder)
        with write_atomically(folder / WEIGHTS) as part:
            save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, part)
        with write_atomically(folder / CONFIG) as part:
            part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- positions


def resize_image_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions (1 + h·w, W) of a grid `old` (h, w) for a grid `new`, bicubic; the class token keeps its own."""
    if old == new:
        return positions
    start, patches = positions[:1], positions[1:]
    square = patches.float().T.unflatten(1, old)[None]  # (1, W, h, w)
    resized = F.interpolate(square, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([start, resized[0].flatten(1).T.to(positions.dtype)])


def resize_text_positions(positions: Tensor, length: int) -> Tensor:
    """Positions (L, W) for another length: the first and the last row stay, what is between is stretched linearly."""
    if len(positions) == length:
        return positions
    if length < 3:
        raise ValueError(f"length is {length}: a text is at least its start, a token and its end")
    inner = positions[1:-1].float().T[None]  # (1, W, L - 2)
    inner = F.interpolate(inner, size=length - 2, mode="linear", align_corners=True)[0].T.to(positions.dtype)
    return torch.cat([positions[:1], inner, positions[-1:]])


def causal_mask(length: int) -> Tensor:
    """(L, L): 0 for what stands before a token and itself, -inf for what comes after."""
    return torch.full((length, length), float("-inf")).triu(1)


# ----------------------------------------------------------------------------------------------------------- loading


def _from_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """(model_cfg, preprocess_cfg, weights file) of a folder in open_clip's `local-dir` format."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; a CLIP folder is {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model_cfg = config["model_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is no open_clip config ({type(error).__name__}: {error})") from error
    for name in (WEIGHTS, *OTHER_WEIGHTS):
        if (folder / name).is_file():
            return model_cfg, config.get("preprocess_cfg", {}), folder / name
    raise FileNotFoundError(f"{folder} has a {CONFIG} and no weights; they are called {WEIGHTS}")


def _from_open_clip(name: str, tag: str) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """(model_cfg, preprocess_cfg, weights file) of a model that open_clip knows; fetches the weights if it must."""
    model_cfg = hub.model_config(name, "CLIP", presets)
    found = hub.weights(name, tag)
    if found.tag:
        _check_activation(name, tag, bool(model_cfg.get("quick_gelu")), bool(found.entry.get("quick_gelu")))
    return model_cfg, found.entry, found.fetch()


def _check_activation(name: str, tag: str, model: bool, weights: bool) -> None:
    """open_clip only warns, and the features are wrong."""
    if model != weights:
        activation = "QuickGELU" if weights else "GELU"
        right = f"{name}-quickgelu" if weights else name.removesuffix("-quickgelu")
        raise ValueError(f"the weights {tag} were trained with {activation}: name the model {right}")


def _build(model_cfg: Mapping[str, Any], name: str) -> Any:
    """open_clip's networks without weights, image and text apart from each other (`visual`, `text`)."""
    from open_clip.model import CustomTextCLIP

    if "multimodal_cfg" in model_cfg:
        raise ValueError(f"{name} is a CoCa, not a CLIP: it has no vision tower of the kind that is read here")
    plain = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    plain["vision_cfg"] = {**plain["vision_cfg"], "patch_dropout": 0.0}  # no token goes missing
    if "timm_model_name" in plain["vision_cfg"] or "hf_model_name" in plain["text_cfg"]:
        raise ValueError(f"{name} is made of timm's or Hugging Face's networks; SigLIPs are read by towers.siglip")
    try:
        with torch.device("meta"):
            return CustomTextCLIP(**plain)
    except TypeError as error:
        raise ValueError(f"{name} has a config that this open_clip does not understand: {error}") from error


def _weights(model: Any, model_cfg: Mapping[str, Any], file: Path, name: str) -> dict[str, Tensor]:
    """The file's weights under the names of `CustomTextCLIP`."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    weights = {key.removeprefix("module."): value for key, value in read_weights(file).items()}
    if OPENAI_KEYS & weights.keys():
        _check_activation(name, file.name, bool(model_cfg.get("quick_gelu")), True)
        weights = {key: value for key, value in weights.items() if key not in OPENAI_KEYS}
    weights = convert_to_custom_text_state_dict(convert_state_dict(model, weights))
    if "logit_scale" in weights:
        weights["logit_scale"] = weights["logit_scale"].reshape(model.logit_scale.shape)
    return weights


def _resample(
    model: Any, weights: dict[str, Tensor], size: tuple[int, int] | None, length: int | None
) -> tuple[tuple[int, int], int]:
    """Bring positions, in the weights and in the empty model, to another image size and text length. Returns both."""
    visual, text = model.visual, model.text
    old, (ph, pw) = tuple(visual.grid_size), visual.patch_size
    height, width = size or visual.image_size
    if height % ph or width % pw or height < ph or width < pw:
        raise ValueError(f"size is {height}×{width}: both sides are multiples of the patch, {ph}×{pw}")
    new, length = (height // ph, width // pw), length or text.context_length
    image_key, text_key = "visual.positional_embedding", "text.positional_embedding"
    if image_key in weights and len(weights[image_key]) == 1 + old[0] * old[1]:
        weights[image_key] = resize_image_positions(weights[image_key], old, new)
        visual.positional_embedding = _like(visual.positional_embedding, 1 + new[0] * new[1])
    if text_key in weights and len(weights[text_key]) == text.context_length:
        weights[text_key] = resize_text_positions(weights[text_key], length)
        text.positional_embedding = _like(text.positional_embedding, length)
    visual.grid_size, visual.image_size = new, (height, width)
    text.context_length = text.num_pos = length
    return (height, width), length


def _like(positions: nn.Parameter, rows: int) -> nn.Parameter:
    return nn.Parameter(positions.new_empty(rows, positions.shape[1]), requires_grad=positions.requires_grad)


def _architecture(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What of open_clip's config tells one image network from another; defaults filled in, what is off left out."""
    from open_clip.model import CLIPVisionCfg

    vision = asdict(CLIPVisionCfg(**model_cfg["vision_cfg"]))
    for key in list(vision):
        elsewhere = key in ("image_size", "patch_dropout", "output_tokens")
        if elsewhere or key.startswith(("timm_", "attn_pooler_")) or not vision[key]:
            del vision[key]
    return {"embed_dim": model_cfg["embed_dim"], "quick_gelu": bool(model_cfg.get("quick_gelu")), "vision_cfg": vision}


def _preprocess(config: Mapping[str, Any]) -> Preprocess:
    """open_clip's preprocess_cfg, or the entry of a tag, as ours; CLIP's own mean and deviation where it says none."""
    names = {"mean": "mean", "std": "std", "interpolation": "interpolation", "resize_mode": "resize"}
    said = {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs)}
    return Preprocess.from_dict({"size": (0, 0), **said})


def _tokenizer(model_cfg: Mapping[str, Any], folder: Path, length: int) -> TextTokenizer:
    import open_clip

    text_cfg = model_cfg["text_cfg"]
    options = text_cfg.get("tokenizer_kwargs") or {}
    if name := text_cfg.get("hf_tokenizer_name"):
        from transformers import AutoTokenizer

        return HFTokenizer(AutoTokenizer.from_pretrained(folder if folder.is_dir() else name, **options), length)
    return CLIPTokenizer(open_clip.SimpleTokenizer(context_length=length, **options), length)


def _check_visual(visual: Any, name: str) -> None:
    if not hasattr(visual, "conv1") or not hasattr(visual, "transformer"):
        raise ValueError(f"{name} has a {type(visual).__name__} for its images; towers.clip reads vision transformers")
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise ValueError(f"{name} pools its patches by attention; towers.clip reads class token or mean")


def _check_text(text: Any, name: str) -> None:
    if text.attn_mask is None or text.cls_emb is not None or text.pool_type not in ("argmax", "eos"):
        raise ValueError(f"{name} has a text tower that is not causal with its vector at the end; it is not read here")
    if not isinstance(text.text_projection, nn.Parameter):
        raise ValueError(f"{name} projects its texts with a bias or not at all; it is not read here")
