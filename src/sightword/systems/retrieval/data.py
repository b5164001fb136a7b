"""What a model is given: batches for training, and images and captions apart for the measures.

Legend: B batch; H, W pixels; L tokens of a caption; h, w cells of a grid of image codes.
"""

from typing import NamedTuple

from torch import Tensor


class PedesBatch(NamedTuple):
    """Images with a caption each."""

    images: Tensor  # (B, 3, H, W) float32 in [-1, 1]
    pids: Tensor  # (B,) int64: 0 … P−1 over the training identities; as read elsewhere
    caption_ids: Tensor  # (B, L) int64, padded on the right
    caption_attn_mask: Tensor  # (B, L) bool
    index: Tensor  # type: ignore[assignment]  # (B,) int64: which image of the split
    masked_ids: Tensor | None = None  # (B, L): caption_ids, some tokens hidden, for the masked-language head
    masked_labels: Tensor | None = None  # (B, L): the hidden tokens, −100 elsewhere
    masked_images: Tensor | None = None  # (B, 3, H, W): generation view, hidden cells at 0
    vq_target_ids: Tensor | None = None  # (B, h·w) int64 image codes of the generation view, rows first
    vq_target_attn_mask: Tensor | None = None  # (B, h·w) bool: True where hidden, so to be predicted
    vq_images: Tensor | None = None  # (B, 3, H, W) generation view, nothing hidden: only where no cache has its codes


class ImageRows(NamedTuple):
    """Images alone, to be measured."""

    images: Tensor  # (B, 3, H, W)
    pids: Tensor  # (B,)
    index: Tensor  # type: ignore[assignment]  # (B,)


class TextRows(NamedTuple):
    """Captions alone, to be measured."""

    caption_ids: Tensor  # (B, L)
    caption_attn_mask: Tensor  # (B, L)
    pids: Tensor  # (B,)
    index: Tensor  # type: ignore[assignment]  # (B,)
