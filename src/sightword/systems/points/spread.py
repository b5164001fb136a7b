"""Lifted CLIP averaged over the points of a scene that are like each other: near, and of one colour.

A patch of CLIP also contains what stands around a thing, so the features of single points are noisy, and points that no
view shows have none. Points of one surface share its feature, so the mean over them is better than each of them:

    spread_i = Σ_j w_ij clip_j,    w_ij ∝ conf_j · exp(−|x_i − x_j|² / 2a² − |c_i − c_j|² / 2b²)

over the points j that a view shows and the point itself: a bilateral filter (Tomasi and Manduchi 1998) of a cloud.
Nothing of it is trained. A point without any like it keeps its own feature.

Legend: N points of all scenes of a batch, n of one; M points that are averaged; E dimension of CLIP's joint space.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 2048  # points of a scene that are averaged, spread evenly over those that a view shows
ROWS = 512  # points that are computed at once: 4 MB, which stay in the processor's cache


@torch.no_grad()
def spread(
    xyz: Tensor, rgb: Tensor, scene: Tensor, features: Tensor, conf: Tensor, scales: tuple[float, float]
) -> Tensor:
    """Return unit vectors (N, E); 0 for the points of a scene that no view shows any point of.

    xyz: (N, 3) metres; rgb: (N, 3) in [-1, 1]; scene: (N,) int64; features: (N, E), of unit length where conf is above
    0; conf: (N,), visibility confidence. scales: a in metres and b, the standard deviations of the weights.
    """
    found = torch.zeros_like(features)
    for number in scene.unique().tolist():
        own = (scene == number).nonzero().squeeze(1)
        place = xyz[own] - xyz[own].mean(0)  # so that squares of far coordinates keep their digits
        found[own] = _spread(
            torch.cat([place / scales[0], rgb[own] / scales[1]], dim=1).float(), features[own], conf[own]
        )
    return found


def _spread(likeness: Tensor, features: Tensor, conf: Tensor) -> Tensor:
    """The same of one scene. likeness: (n, 6), so that the weight of two points is exp(−½ distance²)."""
    shown = (conf > 0).nonzero().squeeze(1)
    if not len(shown):
        return torch.zeros_like(features)
    count = min(MOST, len(shown))
    kept = shown[torch.linspace(0, len(shown) - 1, count, device=shown.device).round().long()]  # (M,)
    each = conf[kept].log() + torch.log(torch.tensor(len(shown) / count))  # stands for its share of the points
    parts = []
    with torch.autocast(likeness.device.type, enabled=False):
        for rows in torch.arange(len(conf), device=conf.device).split(ROWS):
            near = torch.cdist(likeness[rows], likeness[kept]).square_().div_(-2).add_(each)
            weights = torch.cat([near, conf[rows].log()[:, None]], dim=1).softmax(1)  # (R, M + 1)
            parts.append(weights[:, :-1] @ features[kept] + weights[:, -1:] * features[rows])
    return F.normalize(torch.cat(parts), dim=1)
