"""Patch tokens in CLIP's joint space: the output of the last block, and three published variants of that block.

CLIP is trained on its class token, so the last block adds little local information to a patch: residual and MLP
dominate, and the attention is global. Three published variants keep everything before that block and
replace it, for the patches, by its attention alone (y = ln_1(x); q, k, v from y; o = out_proj(·), no residual, no MLP):

    value   o = out_proj(v)                                      MaskCLIP (Zhou 2022), as ClearCLIP runs it
    qq      o = out_proj(softmax(q qᵀ / √d) v)                   ClearCLIP (Lan 2024)
    kk      o = out_proj(softmax(k kᵀ / √d + bonus) v)           NACLIP (Hajimiri 2025)

bonus, written `kk+gauss`, is exp(-dist² / 2σ²) for patches dist apart, σ = 5 patches; `qq+gauss2.5` has it with another
σ. Then ln_post and the projection, as for the class token: D = E, comparable to a text.

    post    the last block as it is, after ln_post               D = the network's width
    joint   the same, projected into the space of the texts      D = E

Legend: B batch; S = 1 + N tokens, the class token first; W the network's width; H heads; d = W / H.
"""

import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError
from sightword.towers.foreign import Foreign

PLAIN, DENSE = ("post", "joint"), ("value", "qq", "kk")
SIGMA = 5.0  # patches, NACLIP


class TokenType(NamedTuple):
    """Which tokens: `TokenType.parse("kk+gauss")`."""

    kind: str
    sigma: float = 0.0  # of the bonus, in patches; 0 for none

    @classmethod
    def parse(cls, text: str) -> "TokenType":
        kind, plus, bonus = text.partition("+")
        match = re.fullmatch(r"gauss(\d+(?:\.\d+)?)?", bonus)
        known = kind in PLAIN + DENSE and (not plus or (match and kind in ("qq", "kk")))
        sigma = float(match[1] or SIGMA) if match else 0.0
        if not known or (match and not sigma):
            raise SightwordError(
                f"there are no {text!r} tokens; there are {', '.join(PLAIN + DENSE)}, and qq+gauss and kk+gauss, with "
                "σ in patches as in kk+gauss2.5"
            )
        return cls(kind, sigma)


def attend(
    block: Foreign, x: Tensor, token_type: TokenType, grid: tuple[int, int], projected: dict[str, Tensor]
) -> Tensor:
    """The block's attention alone, (B, S, W) to (B, S, W), for one of the DENSE token types.

    block: a residual attention block of `network`, or open_clip's. projected: q, k and v computed so far for this x,
    shared by several token types.
    """
    value = _heads(block, x, "v", projected)  # (B, H, S, d)
    if token_type.kind != "value":
        asked = _heads(block, x, token_type.kind[0], projected)  # (B, H, S, d)
        bonus = gaussian(grid, token_type.sigma, x) if token_type.sigma else None
        value = F.scaled_dot_product_attention(asked, asked, value, attn_mask=bonus)
    return block.ls_1(block.attn.out_proj(value.transpose(1, 2).flatten(2)))


def gaussian(grid: tuple[int, int], sigma: float, like: Tensor) -> Tensor:
    """(S, S): exp(-dist² / 2σ²) between the patches of a grid (h, w), 0 from and to the class token."""
    rows, columns = (torch.arange(side, device=like.device, dtype=torch.float32) for side in grid)
    near = [torch.exp(-((side[:, None] - side) ** 2) / (2 * sigma**2)) for side in (rows, columns)]
    return F.pad(torch.kron(near[0], near[1]), (1, 0, 1, 0)).to(like.dtype)  # exp(a + b) = exp(a) · exp(b)


def _heads(block: Foreign, x: Tensor, name: str, projected: dict[str, Tensor]) -> Tensor:
    """q, k or v of a block, (B, H, S, d)."""
    if name not in projected:
        part = "qkv".index(name)
        weight = block.attn.in_proj_weight.chunk(3)[part]
        bias = block.attn.in_proj_bias.chunk(3)[part] if block.attn.in_proj_bias is not None else None
        normed = projected.setdefault("y", block.ln_1(x))
        projected[name] = F.linear(normed, weight, bias).unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
    return projected[name]
