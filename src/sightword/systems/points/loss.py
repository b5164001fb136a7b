"""What ties points to words, and views of one point to each other.

Legend: N points, L links of points to views, V views, C channels, E width of CLIP's joint space.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.systems.points.lift.link import Links, at_links


def distillation(text: Tensor, clip: Tensor, seen: Tensor) -> Tensor:
    """1 - cos(text, clip), the mean over points that are seen; 0 where none is. text, clip: (N, E), seen: (N,) bool."""
    apart = 1 - F.cosine_similarity(text, clip.detach(), dim=1)
    return (apart * seen).sum() / seen.sum().clamp_min(1)


class ClipConsCriterion(nn.Module):
    """Views of one point look alike: 1 - the mean cosine of all pairs of them, the mean over points with two or more.

    For the reduced maps. On frozen ones its gradient is exactly zero, so it would be a number that trains nothing; and
    by itself a constant map would satisfy it, so it stands beside `distillation`.
    """

    def forward(self, maps: Tensor, links: Links, n: int) -> Tensor:
        """maps: (V, C, h, w); n: points. Scalar; 0 where no point is seen twice."""
        alike, twice = agreement(maps, links, n)
        return ((1 - alike) * twice).sum() / twice.sum().clamp_min(1)


def agreement(maps: Tensor, links: Links, n: int) -> tuple[Tensor, Tensor]:
    """The mean cosine between the views of each point (N,), and which points have two views or more (N,) bool.

    All m (m - 1) pairs at once: they add up to |Σ unit vectors|² - m.
    """
    units = F.normalize(at_links(maps, links), dim=1)  # (L, C)
    total = units.new_zeros(n, units.shape[1]).index_add(0, links.point, units)
    # not m itself: a vector of zeros has no length
    own = units.new_zeros(n).index_add(0, links.point, units.square().sum(1))
    count = torch.bincount(links.point, minlength=n).to(units.dtype)
    pairs = (count * (count - 1)).clamp_min(1)
    return (total.square().sum(1) - own) / pairs, count > 1
