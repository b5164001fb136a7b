"""Stand-in until the data are merged."""

from typing import NamedTuple

from torch import Tensor


class SkeletonBatch(NamedTuple):
    """B clips, n views of each (clips × flips), M persons (padded), L frames, V joints."""

    points: Tensor  # (B, n, M, L, V, 2) float32, x and y in pixels of the canvas `size`
    scores: Tensor  # (B, n, M, L, V) float32; 0 where a joint is not there
    labels: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64: which of the split
    frames: Tensor  # (B, n, L) int64: which frame of the whole recording
    key: Tensor  # (B, n, L) float32: 1 in the action's key moments, 0 outside, NaN where nobody knows (real sets)
    size: tuple[int, int]  # H, W of the canvas
    split: str
