"""Losses: the asymmetric loss for labels that are mostly absent, and the drift penalty of codes that are trained.

Legend: B batch; C classes; K codes; D dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def asymmetric_loss(
    logits: Tensor, targets: Tensor, gamma_neg: float = 2.0, gamma_pos: float = 0.0, margin: float = 0.05
) -> Tensor:
    """Return a scalar: the sum over classes, the mean over the batch; in float32 under any autocast.

    −Σ_c [ y·(1−p)^γ₊·log p + (1−y)·p_m^γ₋·log(1−p_m) ],  p = σ(logit), p_m = max(p − margin, 0)

    logits, targets: (B, C); targets in [0, 1], which may be soft. The focusing factors carry gradient. Ridnik et al.
    2021 (arXiv 2009.14119), equations 6 and 7. The authors' code also sums over the batch: its value is B times this.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"expected targets {tuple(logits.shape)} like the logits, got {tuple(targets.shape)}")
    with torch.autocast(logits.device.type, enabled=False):
        logits, targets = logits.float(), targets.float()
        p = logits.sigmoid()
        shifted = (p - margin).clamp(min=0)  # p_m
        present = targets * F.logsigmoid(logits)
        # 1 − p_m is 1 − p where p_m is not shifted: there the logarithm is exact also where p rounds to 1
        absent = (1 - targets) * (torch.log1p(-shifted) if margin else F.logsigmoid(-logits))
        if gamma_pos:
            present = present * (1 - p) ** gamma_pos
        if gamma_neg:
            absent = absent * shifted**gamma_neg
        return -(present + absent).sum(1).mean()


def consistency_loss(codes: Tensor, anchors: Tensor, reduction: str = "mean") -> Tensor:
    """Return a scalar: the squared distance of codes (K, D) from their anchors (K, D).

    mean    1/K Σ_k ‖c_k − a_k‖²: the mean over codes, so that one weight serves codebooks of any size
    sum     Σ_k ‖c_k − a_k‖² = ‖C − A‖²_F: as the specification writes it, K times the mean
    """
    rows = (codes.float() - anchors.float()).square().sum(1)
    return rows.sum() if reduction == "sum" else rows.mean()
