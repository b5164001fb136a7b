"""How frames are weighed: over how many the weight spreads, and whether it lies on the action's key moments.

Legend: N views; L frames of a view; T' frames of the network's features.
"""

import numpy as np
import torch

from sightword.ops import align
from sightword.viz.style import Array


def effective_frames(weights: Array) -> np.ndarray:
    """Return over how many frames the weight spreads, `align.effective`. (N, T') → (N,)."""
    return align.effective(torch.from_numpy(shares(weights))).numpy()


def weights_against_truth(weights: Array, key: Array) -> dict[str, float]:
    """Return how well weights (N, T'), positive, point at key moments (N, L): 1 inside, 0 outside, NaN if unknown.

    effective_frames and frames (T'), the mean over views. If key moments are known, over the `key_views` views with
    frames inside and outside of them:

    key_auc     how often a frame inside weighs more than one outside: 0.5 is chance, ties count half; the mean of views
    key_weight  the fraction of the weight that lies inside
    key_frames  the fraction of frames that lie inside, which mean pooling would have as key_weight

    A frame of L weighs as much as the frame of T' that covers it.
    """
    share, truth = shares(weights), as_array(key)
    if truth.ndim != 2 or len(truth) != len(share):
        raise ValueError(f"expected weights (N, T') and key moments (N, L), got {share.shape} and {truth.shape}")
    found = {"effective_frames": float(effective_frames(share).mean()), "frames": float(share.shape[1])}
    known = np.isfinite(truth).all(1) & (truth > 0.5).any(1) & (truth <= 0.5).any(1)
    if not known.any():
        return found
    inside, spread = truth[known] > 0.5, on_frames(share[known], truth.shape[1])
    spread /= spread.sum(1, keepdims=True)
    aucs = [_auc(row[here], row[~here]) for row, here in zip(spread, inside, strict=True)]
    return found | {
        "key_auc": float(np.mean(aucs)),
        "key_weight": float((spread * inside).sum(1).mean()),
        "key_frames": float(inside.mean(1).mean()),
        "key_views": float(known.sum()),
    }


def on_frames(weights: np.ndarray, frames: int) -> np.ndarray:
    """Give each of L frames the weight of the feature that covers it. (…, T') → (…, L)."""
    return weights[..., np.arange(frames) * weights.shape[-1] // frames]


def _auc(inside: np.ndarray, outside: np.ndarray) -> float:
    above = inside[:, None] > outside[None]
    equal = np.isclose(inside[:, None], outside[None], rtol=1e-6, atol=0)
    return float(np.where(equal, 0.5, above).mean())


def shares(weights: Array) -> np.ndarray:
    """Return weights (N, T') as float64 rows that add up to one. Raises ValueError unless all are positive or 0."""
    values = as_array(weights)
    if values.ndim != 2 or not values.size or not (values >= 0).all() or not (values.sum(1) > 0).all():
        raise ValueError(f"weights are (N, T'), none negative and no view's all zero; got {values.shape}")
    return values / values.sum(1, keepdims=True)


def as_array(values: Array) -> np.ndarray:
    """Return values as a float64 array."""
    if not isinstance(values, np.ndarray):
        values = values.detach().float().cpu().numpy()
    return values.astype(np.float64)
