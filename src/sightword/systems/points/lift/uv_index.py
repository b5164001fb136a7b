"""The method's functions by their published names: from points and one posed image to pixels, and back to features.

They are thin callers of `geometry`, for dense tensors: a point that is not visible has a row all the same, of zeros.

Legend: N points, V views, B scenes; H, W pixels of a view; C channels and h, w cells of a feature map.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.systems.points.lift.geometry import (
    ABS_TOL,
    REL_TOL,
    Links,
    Size,
    Visibility,
    inside,
    lift,
    offsets,
    project,
    visible,
)


class UVIndex(NamedTuple):
    """Where points stand in an image, or in each of several. Leading axes as `build_uv_index` and its batch say."""

    uv: Tensor  # (..., N, 2) float32 pixels; -1 where not visible
    valid: Tensor  # (..., N) bool
    conf: Tensor  # (..., N) float32, 0 where not visible: conf_2d in lifted files
    size: Size  # H, W of the image


def build_uv_index(
    points: Tensor,
    intrins: Tensor,
    pose: Tensor,
    size: Size | None = None,
    depth: Tensor | None = None,
    abs_tol: float = ABS_TOL,
    rel_tol: float = REL_TOL,
) -> UVIndex:
    """Return where points (N, 3) are in an image, by its intrinsics (3, 3) and camera-to-world pose (4, 4): uv (N, 2).

    With depth (H, W) hidden points are not valid and conf is that of `visible`; without, give the image's `size`
    (H, W): all points in its field of view are valid, with conf 1.
    """
    if points.dim() != 2 or pose.dim() != 2:
        raise ValueError(
            f"points (N, 3) go with one pose (4, 4), got {tuple(points.shape)} and {tuple(pose.shape)}: for several "
            "scenes or views there is build_uv_index_batch"
        )
    return _index(points, intrins, pose, size, depth, abs_tol, rel_tol)


def build_uv_index_batch(
    points: Tensor,
    intrins: Tensor,
    pose: Tensor,
    size: Size | None = None,
    depth: Tensor | None = None,
    abs_tol: float = ABS_TOL,
    rel_tol: float = REL_TOL,
) -> UVIndex:
    """Return `build_uv_index` of points (B, N, 3) of B scenes, with one view each or V each.

    pose: (B, 4, 4), and uv is (B, N, 2); or (B, V, 4, 4), and uv is (B, V, N, 2). depth: (..., H, W) of the same axes.
    intrins: (..., 3, 3) of the same, or one (3, 3) for all, or one a scene, (B, 3, 3).
    """
    if points.dim() != 3 or pose.dim() not in (3, 4) or len(pose) != len(points):
        raise ValueError(
            f"points (B, N, 3) go with poses (B, 4, 4) or (B, V, 4, 4), got {tuple(points.shape)} and "
            f"{tuple(pose.shape)}"
        )
    if depth is not None and depth.shape[:-2] != pose.shape[:-2]:
        raise ValueError(f"poses are {tuple(pose.shape)} and depth {tuple(depth.shape)}: give each view its own")
    if pose.dim() == 4:
        points = points[:, None]
        intrins = intrins[:, None] if intrins.dim() == 3 else intrins
    return _index(points, intrins, pose, size, depth, abs_tol, rel_tol)


def _index(
    points: Tensor,
    intrins: Tensor,
    pose: Tensor,
    size: Size | None,
    depth: Tensor | None,
    abs_tol: float,
    rel_tol: float,
) -> UVIndex:
    if depth is None and size is None:
        raise ValueError("an image's size is not in its intrinsics: give size=(H, W), or its depth")
    if depth is not None and size is not None and tuple(depth.shape[-2:]) != tuple(size):
        raise ValueError(f"depth is {tuple(depth.shape[-2:])} and size {tuple(size)}: resize one, and its intrinsics")
    uv, z = project(points.float(), intrins, pose)
    if depth is not None:
        size = (depth.shape[-2], depth.shape[-1])
        valid, conf = visible(uv, z, depth, abs_tol, rel_tol)
    else:
        assert size is not None
        valid, conf = Visibility(shown := inside(uv, z, size), shown.float())
    return UVIndex(torch.where(valid[..., None], uv, -1.0), valid, conf, size)


def sample_img_feat(f_map: Tensor, uv_idx: UVIndex | Tensor, size: Size | None = None) -> Tensor:
    """Return features of points, sampled from maps bilinearly, by one grid rule at every resolution of the maps.

    f_map (C, h, w) with uv (N, 2) → (N, C); (B, C, h, w) with (B, N, 2) → (B, N, C); (B, V, C, h, w) with (B, V, N, 2)
    → (B, N, C), the views merged by their confidence. Rows that are not valid are zero. uv_idx may be the pixels alone,
    of an image of `size` (H, W): then every row is sampled, at the border where it is outside.
    """
    if isinstance(uv_idx, Tensor):
        if size is None:
            raise ValueError("pixels alone do not say of which image: give size=(H, W), or what build_uv_index returns")
        uv_idx = UVIndex(uv_idx, (every := uv_idx.new_ones(uv_idx.shape[:-1])).bool(), every, size)
    if f_map.dim() not in (3, 4, 5) or uv_idx.uv.shape[:-2] != f_map.shape[:-3]:
        raise ValueError(
            f"maps (C, h, w), (B, C, h, w) or (B, V, C, h, w) go with uv of the same leading axes, got "
            f"{tuple(f_map.shape)} and {tuple(uv_idx.uv.shape)}"
        )
    lead = {3: (1, 1), 4: (len(f_map), 1), 5: tuple(f_map.shape[:2])}[f_map.dim()]
    batch, n = lead[0], uv_idx.uv.shape[-2]
    found = lift(f_map.reshape(-1, *f_map.shape[-3:]), _links(uv_idx, lead), batch * n)
    return found if f_map.dim() == 3 else found.view(batch, n, -1)


def _links(index: UVIndex, lead: tuple[int, ...]) -> Links:
    """An index over `lead` = (B, V) as correspondences of B·N points and B·V views."""
    batch, views = lead
    n = index.uv.shape[-2]
    valid = (index.valid & (index.conf > 0)).reshape(batch, views, n)
    scene, row, view = valid.transpose(1, 2).nonzero().unbind(1)
    flat = (scene * views + view) * n + row
    point = scene * n + row
    uv, conf = index.uv.reshape(-1, 2)[flat], index.conf.reshape(-1)[flat].float()
    return Links(point, scene * views + view, uv, conf, offsets(point, batch * n), index.size)


class PatchChain(nn.Module):
    """The published chain: PixelShuffle(2) → Conv1×1(256) → sample → Linear(128), in float32.

    768 channels at 14 × 14 become 192 at 28 × 28 (56 × 56 takes two shuffles and leaves 48). Shuffling frozen tokens
    only moves channels to places and adds no resolution: the encoder's default is a plain map.
    """

    def __init__(self, channels: int = 768, hidden: int = 256, dim: int = 128, scale: int = 2) -> None:
        super().__init__()
        if channels % scale**2:
            raise SightwordError(f"PixelShuffle({scale}) needs a multiple of {scale**2} channels, got {channels}")
        self.scale = scale
        self.expand = nn.Conv2d(channels // scale**2, hidden, 1)
        self.reduce = nn.Linear(hidden, dim)

    def forward(self, maps: Tensor, links: Links, n: int) -> Tensor:
        """Return (N, dim) of maps (V, channels, h, w); zero for a point that no view shows."""
        with torch.autocast(maps.device.type, enabled=False):
            upsampled = self.expand(F.pixel_shuffle(maps.float(), self.scale))  # (V, hidden, 2h, 2w)
            return self.reduce(lift(upsampled, links, n)) * (links.counts > 0)[:, None]

    @torch.no_grad()
    def folded(self) -> "FoldedChain":
        """Return the same function of maps, links and n, with weights of its own, in a third of the time.

        The whole chain is linear, and bilinear weights and confidences sum to one, so the linear layers may go first,
        as one, on the cells.
        """
        expand, reduce = self.expand.weight.flatten(1).double(), self.reduce.weight.double()
        assert self.expand.bias is not None
        folded = FoldedChain(expand.shape[1], self.reduce.out_features, self.scale).to(self.expand.weight.device)
        folded.linear.weight.copy_(reduce @ expand)
        folded.linear.bias.copy_(reduce @ self.expand.bias.double() + self.reduce.bias.double())
        return folded


class FoldedChain(nn.Module):
    """`PatchChain` with its linear layers as one: PixelShuffle → Linear on the cells → sample."""

    def __init__(self, channels: int, dim: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(channels, dim)

    def forward(self, maps: Tensor, links: Links, n: int) -> Tensor:
        """As `PatchChain.forward`."""
        with torch.autocast(maps.device.type, enabled=False):
            shuffled = F.pixel_shuffle(maps.float(), self.scale).permute(0, 2, 3, 1)  # (V, 2h, 2w, channels / 4)
            return lift(self.linear(shuffled).permute(0, 3, 1, 2), links, n)
