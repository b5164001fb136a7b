"""The objective: an asymmetric loss for labels that are mostly absent, and a leash for codes that may move.

Legend: B batch; C classes; K codes; D their width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def asymmetric_loss(
    logits: Tensor, targets: Tensor, gamma_neg: float = 2.0, gamma_pos: float = 0.0, clip: float = 0.05
) -> Tensor:
    """Scalar: summed over classes, the mean over the batch, in float32 whatever autocast says.

    −Σ_c [ y·(1−p)^γ₊·log p + (1−y)·p_m^γ₋·log(1−p_m) ],  p = σ(logit), p_m = max(p − clip, 0)

    logits, targets: (B, C); targets in [0, 1], soft ones too. The focusing factors are weights like any other part of
    the formula: they carry gradient. Ridnik et al. 2021 (arXiv 2009.14119), equations 6 and 7. The authors' code also
    sums over the batch, so its value is B times this one.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"targets are {tuple(targets.shape)}, logits {tuple(logits.shape)}")
    with torch.autocast(logits.device.type, enabled=False):
        logits, targets = logits.float(), targets.float()
        p = logits.sigmoid()
        shifted = (p - clip).clamp(min=0)  # p_m
        present = targets * F.logsigmoid(logits)
        # 1 − p_m is 1 − p where nothing is clipped: there the logarithm is exact also where p rounds to 1
        absent = (1 - targets) * (torch.log1p(-shifted) if clip else F.logsigmoid(-logits))
        if gamma_pos:
            present = present * (1 - p) ** gamma_pos
        if gamma_neg:
            absent = absent * shifted**gamma_neg
        return -(present + absent).sum(1).mean()


def consistency_loss(codes: Tensor, anchors: Tensor) -> Tensor:
    """Scalar: how far codes (K, D) have drifted from their anchors (K, D), squared, the mean over codes.

    Document 000's L_anchor is the sum, K times as much; the mean lets one weight serve codebooks of any size.
    """
    return (codes.float() - anchors.float()).square().sum(1).mean()
