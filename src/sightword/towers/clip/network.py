"""The two networks of a plain CLIP, under open_clip's names of weights and equal to its own.

open_clip takes longer to import than torch: it brings timm, torchvision and transformers. The published CLIPs need
none of them, so their networks are built here. A config that asks for more is open_clip's to build, or to refuse.

Legend: B batch; S tokens; W width of a network; E width of the joint space.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.towers.foreign import Config, Foreign

#: The fields of a plain config, with open_clip's defaults. Others have no part in these networks.
VISION: Config = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
VISION |= {"no_ln_pre": False, "pos_embed_type": "learnable", "final_ln_after_pool": False, "pool_type": "tok"}
TEXT: Config = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
TEXT |= {"pool_type": "argmax", "eos_id": 2}
OF_TOKENIZER = {"hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "pad_id"}
WHOLE = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}


def build(model_cfg: Mapping[str, Foreign]) -> Foreign:
    """Return the networks of an open_clip config (`visual`, `text`, `logit_scale`), to be filled with weights.

    Build them on the "meta" device. Nothing is drawn there: torch imports its compiler to draw or compute on it.
    Raises what torch and open_clip raise for a config of which nothing can be built.
    """
    if is_plain(model_cfg):
        vision, text = {**VISION, **model_cfg["vision_cfg"]}, {**TEXT, **model_cfg["text_cfg"]}
        return PlainCLIP(model_cfg["embed_dim"], vision, text, bool(model_cfg.get("quick_gelu")))
    from open_clip.model import CustomTextCLIP

    return CustomTextCLIP(**{key: value for key, value in model_cfg.items() if key != "custom_text"})


def is_plain(model_cfg: Mapping[str, Foreign]) -> bool:
    """Return whether a config has only fields of a plain CLIP, and values that they can have."""
    vision, text = model_cfg.get("vision_cfg"), model_cfg.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict) or not model_cfg.keys() <= WHOLE:
        return False
    if not vision.keys() <= VISION.keys() or not text.keys() <= TEXT.keys() | OF_TOKENIZER:
        return False
    vision, text = {**VISION, **vision}, {**TEXT, **text}
    kinds = [vision["pos_embed_type"] == "learnable", vision["pool_type"] in ("tok", "avg")]
    kinds += [isinstance(vision[name], bool) for name in ("no_ln_pre", "final_ln_after_pool")]
    kinds += [text["pool_type"] in ("argmax", "eos")]
    counts = [model_cfg.get("embed_dim"), *(vision[name] for name in ("layers", "width", "head_width"))]
    counts += [text[name] for name in ("context_length", "vocab_size", "width", "heads", "layers", "eos_id")]
    counts += [*_pair(vision["image_size"]), *_pair(vision["patch_size"])]
    ratios = [vision["mlp_ratio"], text["mlp_ratio"]]
    return all(kinds) and all(type(n) is int and n > 0 for n in counts) and all(type(r) in (int, float) for r in ratios)


class LayerNorm(nn.LayerNorm):
    """A layer norm whose output has the dtype of its input, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x · σ(1.702 x), OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual attention block, (B, S, W) to (B, S, W)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ls_1 = nn.Identity()  # where other CLIPs scale each channel, which `dense` does too
        self.ln_2 = LayerNorm(width)
        hidden = int(width * mlp_ratio)
        layers: list[tuple[str, nn.Module]] = [("c_fc", nn.Linear(width, hidden))]
        layers += [("gelu", QuickGELU() if quick_gelu else nn.GELU()), ("c_proj", nn.Linear(hidden, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        y, mask = self.ln_1(x), None if attn_mask is None else attn_mask.to(x.dtype)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Blocks, one after another."""

    def __init__(self, layers: int, width: int, heads: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, mlp_ratio, quick_gelu) for _ in range(layers)])

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, attn_mask)
        return x


class Vision(nn.Module):
    """The weights of the image side; `encoder.CLIPImage` runs them."""

    def __init__(self, embed_dim: int, config: Config, quick_gelu: bool) -> None:
        """config: all fields of `VISION`."""
        super().__init__()
        width, self.output_dim = config["width"], embed_dim
        self.image_size, self.patch_size = _pair(config["image_size"]), _pair(config["patch_size"])
        self.grid_size = (self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1])
        self.pool_type, self.final_ln_after_pool = config["pool_type"], config["final_ln_after_pool"]
        self.class_embedding = nn.Parameter(torch.empty(width))
        places = 1 + self.grid_size[0] * self.grid_size[1]
        self.positional_embedding = nn.Parameter(torch.empty(places, width))
        self.proj = nn.Parameter(torch.empty(width, embed_dim))
        self.conv1 = nn.Conv2d(3, width, self.patch_size, self.patch_size, bias=False)
        self.ln_pre = nn.Identity() if config["no_ln_pre"] else LayerNorm(width)
        heads = width // config["head_width"]
        self.transformer = Transformer(config["layers"], width, heads, config["mlp_ratio"], quick_gelu)
        self.ln_post = LayerNorm(width)


class Text(nn.Module):
    """The weights of the text side; `encoder.CLIPText` runs them."""

    attn_mask: Tensor  # (L, L), set by who loads the weights

    def __init__(self, embed_dim: int, config: Config, quick_gelu: bool) -> None:
        """config: all fields of `TEXT`."""
        super().__init__()
        width, self.output_dim, self.vocab_size = config["width"], embed_dim, config["vocab_size"]
        self.context_length = self.num_pos = config["context_length"]
        self.pool_type, self.eos_id = config["pool_type"], config["eos_id"]
        self.positional_embedding = nn.Parameter(torch.empty(self.num_pos, width))
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(self.vocab_size, width), freeze=False)
        self.transformer = Transformer(config["layers"], width, config["heads"], config["mlp_ratio"], quick_gelu)
        self.ln_final = LayerNorm(width)
        self.register_buffer("attn_mask", torch.empty(self.num_pos, self.num_pos), persistent=False)


class PlainCLIP(nn.Module):
    """Both sides, and the logarithm of the scale of their cosines."""

    def __init__(self, embed_dim: int, vision: Config, text: Config, quick_gelu: bool) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.visual, self.text = Vision(embed_dim, vision, quick_gelu), Text(embed_dim, text, quick_gelu)


def _pair(value: Foreign) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, tuple | list) and len(value) == 2 else (value, value)
