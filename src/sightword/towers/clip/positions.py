"""A CLIP for another image size or text length than its weights have: its positions are resampled.

Legend: H, W pixels; h, w patches a side; L text tokens; D the width of a network.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.towers.foreign import Foreign

LEAST = 3  # a text is at least its start, a token and its end


def resample(
    model: Foreign, weights: dict[str, Tensor], size: tuple[int, int] | None, length: int | None
) -> tuple[tuple[int, int], int]:
    """Bring positions, in the weights and in the empty model, to another image size and text length. Returns both.

    model: as `checkpoint.build` returns it. size, length: None for its own.
    """
    visual, text = model.visual, model.text
    old, patch = tuple(visual.grid_size), tuple(visual.patch_size)
    size = check_size(tuple(visual.image_size) if size is None else size, patch)
    length = text.context_length if length is None else length
    if length < LEAST:
        raise SightwordError(f"length is {length}: a text is at least {LEAST} tokens, its start, a word and its end")
    new = (size[0] // patch[0], size[1] // patch[1])
    image_key, text_key = "visual.positional_embedding", "text.positional_embedding"
    if image_key in weights and len(weights[image_key]) == 1 + old[0] * old[1]:
        weights[image_key] = resize_image_positions(weights[image_key], old, new)
        visual.positional_embedding = _like(visual.positional_embedding, 1 + new[0] * new[1])
    if text_key in weights and len(weights[text_key]) == text.context_length:
        weights[text_key] = resize_text_positions(weights[text_key], length)
        text.positional_embedding = _like(text.positional_embedding, length)
    visual.grid_size, visual.image_size = new, size
    text.context_length = text.num_pos = length
    return size, length


def check_size(size: object, patch: tuple[int, int]) -> tuple[int, int]:
    """Raise SightwordError unless this is a (H, W) that cuts into whole patches."""
    if not isinstance(size, tuple | list) or len(size) != 2 or any(side != int(side) for side in size):
        raise SightwordError(f"size is {size}: it is two whole numbers, (height, width)")
    if any(side < least or side % least for side, least in zip(size, patch, strict=True)):
        told, patches = "×".join(map(str, size)), "×".join(map(str, patch))
        raise SightwordError(f"size is {told}: both sides are multiples of the patch, {patches}")
    return int(size[0]), int(size[1])


def resize_image_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions (1 + h·w, D) of a grid `old` (h, w) for a grid `new`, bicubic; the class token keeps its own."""
    if old == new:
        return positions
    start, patches = positions[:1], positions[1:]
    square = patches.float().T.unflatten(1, old)[None]  # (1, D, h, w)
    resized = F.interpolate(square, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([start, resized[0].flatten(1).T.to(positions.dtype)])


def resize_text_positions(positions: Tensor, length: int) -> Tensor:
    """Positions (L, D) for another length: the first and the last row stay, what is between is stretched linearly."""
    if len(positions) == length:
        return positions
    inner = positions[1:-1].float().T[None]  # (1, D, L - 2)
    inner = F.interpolate(inner, size=length - 2, mode="linear", align_corners=True)[0].T.to(positions.dtype)
    return torch.cat([positions[:1], inner, positions[-1:]])


def causal_mask(length: int) -> Tensor:
    """(L, L): 0 for what stands before a token and itself, -inf for what comes after."""
    return torch.full((length, length), float("-inf")).triu(1)


def _like(positions: nn.Parameter, rows: int) -> nn.Parameter:
    return nn.Parameter(positions.new_empty(rows, positions.shape[1]), requires_grad=positions.requires_grad)
