"""Which point is seen where, and features carried from maps to points along these links.

Points and views are ragged: each has the number of its scene, and one path serves one scene, a batch of scenes and many
views. Links are sparse, a fifth of all pairs in a room, so nothing is sampled that is not seen; and one ragged
embedding_bag samples, weighs and averages all views of all points at once. Source: document 004, 2.2 to 2.6 and 5.7.

Legend: N points, V views, L links, S scenes; H, W pixels of a view; C channels and h, w cells of a feature map.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.systems.points.lift.geometry import (
    ABS_TOL,
    REL_TOL,
    Size,
    Visibility,
    cells,
    confidence,
    inside,
    project,
    visible,
)

PAIRS = 2**20  # of a point and a view that are looked at together: some 50 MB


class Views(NamedTuple):
    """Posed depth images, all of one size."""

    depth: Tensor  # (V, H, W) float32 metres, 0 unknown
    K: Tensor  # (V, 3, 3) of the depth's pixel grid
    pose: Tensor  # (V, 4, 4) camera-to-world
    scene: Tensor  # (V,) int64
    mask: Tensor | None = None  # (V, H, W) int64 instance ids of an external 2-D mask; -1 rejects a pixel


class Links(NamedTuple):
    """Which point is seen where: sparse, sorted by point (CSR) and then by view."""

    point: Tensor  # (L,) int64
    view: Tensor  # (L,) int64
    uv: Tensor  # (L, 2) float32 pixels of `size`
    conf: Tensor  # (L,) float32
    offset: Tensor  # (N,) int64: where each point's links begin
    size: Size  # H, W

    @property
    def counts(self) -> Tensor:
        """(N,) int64: how many views see each point."""
        return self.offset.diff(append=self.offset.new_tensor([len(self.point)]))


@torch.no_grad()
def link(
    xyz: Tensor,
    scene: Tensor,
    views: Views,
    abs_tol: float = ABS_TOL,
    rel_tol: float = REL_TOL,
    point_mask: Tensor | None = None,
) -> Links:
    """Every point xyz (N, 3) of scene (N,) with every view of its scene whose depth shows it.

    point_mask: (N,) int64, each point's own id among those of `views.mask`; it is then linked only to pixels of that
    id. -1: it has none, and any pixel will do that is not rejected. Memory is bounded, however many pairs there are.
    """
    _check(xyz, scene, views, point_mask)
    found = [
        _look(xyz, points, chosen, views, abs_tol, rel_tol, point_mask)
        for points, chosen in _blocks(scene, views.scene)
    ]
    if found:
        point, view, uv, conf = (torch.cat(parts) for parts in zip(*found, strict=True))
    else:
        point = view = scene.new_empty(0, dtype=torch.int64)
        uv, conf = xyz.new_empty(0, 2), xyz.new_empty(0)
    if (point.diff() < 0).any():  # scenes were not in order
        order = torch.argsort(point, stable=True)
        point, view, uv, conf = point[order], view[order], uv[order], conf[order]
    return Links(point, view, uv, conf, _offsets(point, len(xyz)), (views.depth.shape[1], views.depth.shape[2]))


def lift(maps: Tensor, links: Links, n: int) -> Tensor:
    """Features (N, C) of n points: the mean of what their views show, weighed by confidence.

    maps: (V, C, h, w) of the same views; sampled bilinearly, as grid_sample does with align_corners=False and
    padding_mode="border". Rows of points that nothing sees are zero. In the maps' dtype; the gradient reaches them.
    """
    if len(links.offset) != n:
        raise ValueError(f"the links are of {len(links.offset)} points, not {n}: link these points first")
    table = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])  # (V·h·w, C)
    cell, share = _taps(links, (maps.shape[2], maps.shape[3]))
    total = links.conf.new_zeros(n).index_add_(0, links.point, links.conf)
    weight = share * (links.conf / total[links.point])[:, None]
    return F.embedding_bag(
        cell.flatten(),
        table,
        4 * links.offset,
        mode="sum",
        per_sample_weights=weight.flatten().to(table.dtype),
    )


def at_links(maps: Tensor, links: Links) -> Tensor:
    """What each view shows where a point lies in it: maps (V, C, h, w) to (L, C)."""
    number = torch.arange(len(links.view), device=links.view.device)
    alone = links._replace(point=number, offset=number, conf=torch.ones_like(links.conf))
    return lift(maps, alone, len(number))


def _taps(links: Links, grid: Size) -> tuple[Tensor, Tensor]:
    """The four cells around each link in a table of all views' cells, (L, 4) int64, and their shares, (L, 4)."""
    (height, width), (h, w) = links.size, grid
    u, v = links.uv.unbind(1)
    x = ((u + 0.5) * (w / width) - 0.5).clamp_(0, w - 1)
    y = ((v + 0.5) * (h / height) - 0.5).clamp_(0, h - 1)
    left, top = x.long().clamp_(max=max(w - 2, 0)), y.long().clamp_(max=max(h - 2, 0))
    dx, dy = x - left, y - top
    first = (links.view * h + top) * w + left
    right, below = min(w - 1, 1), w * min(h - 1, 1)  # a map of one cell has no neighbour, and dx is 0
    cell = torch.stack([first, first + right, first + below, first + (below + right)], 1)
    over, under = dx * (1 - dy), dx * dy
    return cell, torch.stack([1 - dx - dy + under, over, dy - under, under], 1)


def _blocks(points: Tensor, views: Tensor) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Points and the views of their scene, few enough points at a time to look at all pairs. Both are (·,) scenes."""
    if not len(points) or not len(views):
        return
    ordered = bool((points.diff() >= 0).all())
    for scene in views.unique().tolist():
        chosen = (views == scene).nonzero().squeeze(1)
        step = max(1, PAIRS // len(chosen))
        if ordered:
            edges = torch.tensor([scene, scene + 1], dtype=points.dtype, device=points.device)
            begin, end = torch.searchsorted(points, edges).tolist()
            for first in range(begin, end, step):
                yield slice(first, min(first + step, end)), chosen
        else:
            for some in (points == scene).nonzero().squeeze(1).split(step):
                yield some, chosen


def _look(
    xyz: Tensor,
    points: Tensor | slice,
    chosen: Tensor,
    views: Views,
    abs_tol: float,
    rel_tol: float,
    point_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Point, view, uv, conf of the links among some points and the chosen views, by point and then view.

    What is outside an image is dropped before its depth is read, which is most and would be read at random.
    """
    uv, z = project(xyz[points].float(), views.K[chosen], views.pose[chosen])  # (V, n, 2), (V, n)
    size = (views.depth.shape[1], views.depth.shape[2])
    point, row = inside(uv, z, size).T.contiguous().nonzero().unbind(1)  # (P,)
    uv, z, view = uv[row, point], z[row, point], chosen[row]
    pixel = view * (size[0] * size[1]) + cells(uv, size)
    conf = confidence(z, views.depth.reshape(-1)[pixel], abs_tol, rel_tol)
    point = points.start + point if isinstance(points, slice) else points[point]
    if views.mask is not None:
        ids = views.mask.reshape(-1)[pixel]
        fits = ids >= 0
        if point_mask is not None:
            fits &= (point_mask[point] < 0) | (ids == point_mask[point])
        conf = conf.masked_fill(~fits, 0)
    kept = conf.nonzero().squeeze(1)
    return point[kept], view[kept], uv[kept], conf[kept]


def _offsets(point: Tensor, n: int) -> Tensor:
    """(N,) int64: where the links of each of n points begin among sorted ones."""
    counts = torch.bincount(point, minlength=n)
    return counts.cumsum(0) - counts


def _check(xyz: Tensor, scene: Tensor, views: Views, point_mask: Tensor | None) -> None:
    if xyz.dim() != 2 or xyz.shape[1] != 3 or scene.shape != xyz.shape[:1]:
        raise ValueError(f"points are (N, 3) with scene (N,), got {tuple(xyz.shape)} and {tuple(scene.shape)}")
    count = len(views.depth)
    shapes = {"K": (count, 3, 3), "pose": (count, 4, 4), "scene": (count,)}
    for name, wanted in shapes.items():
        if tuple(getattr(views, name).shape) != wanted:
            got = tuple(getattr(views, name).shape)
            raise ValueError(f"{count} views have a {name} of {wanted}, got {got}")
    if views.mask is not None and views.mask.shape != views.depth.shape:
        raise ValueError(f"masks {tuple(views.mask.shape)} are not the size of the depth {tuple(views.depth.shape)}")
    if point_mask is not None and views.mask is None:
        raise ValueError("point_mask names ids of the views' masks, and the views have none: give Views(mask=…)")
    if point_mask is not None and point_mask.shape != scene.shape:
        raise ValueError(f"point_mask is {tuple(point_mask.shape)}, and there are {len(scene)} points")


# ------------------------------------------------------------------------------------------- the document's functions


class UVIndex(NamedTuple):
    """Where points stand in an image, or in each of several. Leading axes as `build_uv_index` and its batch say."""

    uv: Tensor  # (..., N, 2) float32 pixels; -1 where not visible
    valid: Tensor  # (..., N) bool
    conf: Tensor  # (..., N) float32, 0 where not visible: the document's conf_2d
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
    """Where points (N, 3) stand in one image, by its intrinsics (3, 3) and camera-to-world pose (4, 4): uv (N, 2).

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
    """`build_uv_index` for points (B, N, 3) of B scenes, with one view each or V each.

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
    """Features of points from maps, bilinearly, on one grid rule at every resolution of the maps.

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
    """An index over `lead` = (B, V) as links of B·N points and B·V views."""
    batch, views = lead
    n = index.uv.shape[-2]
    valid = (index.valid & (index.conf > 0)).reshape(batch, views, n)
    scene, row, view = valid.transpose(1, 2).nonzero().unbind(1)
    flat = (scene * views + view) * n + row
    point = scene * n + row
    uv, conf = index.uv.reshape(-1, 2)[flat], index.conf.reshape(-1)[flat].float()
    return Links(point, scene * views + view, uv, conf, _offsets(point, batch * n), index.size)


class PatchChain(nn.Module):
    """The document's steps 2.4 to 2.6: PixelShuffle(2) → Conv1×1(256) → sample → Linear(128), in float32.

    768 channels at 14 × 14 become 192 at 28 × 28 (the document's 56 × 56 takes two shuffles and leaves 48). Shuffling
    frozen tokens only relabels channels as places and adds no resolution: the encoder's default is a plain map.
    """

    def __init__(self, channels: int = 768, hidden: int = 256, dim: int = 128, scale: int = 2) -> None:
        super().__init__()
        if channels % scale**2:
            raise ValueError(f"PixelShuffle({scale}) shares out {scale**2} channels to a cell's: {channels} do not go")
        self.scale = scale
        self.expand = nn.Conv2d(channels // scale**2, hidden, 1)
        self.reduce = nn.Linear(hidden, dim)

    def forward(self, maps: Tensor, links: Links, n: int) -> Tensor:
        """(N, dim) of maps (V, channels, h, w); zero where nothing is seen."""
        with torch.autocast(maps.device.type, enabled=False):
            upsampled = self.expand(F.pixel_shuffle(maps.float(), self.scale))  # (V, hidden, 2h, 2w)
            return self.reduce(lift(upsampled, links, n)) * (links.counts > 0)[:, None]

    @torch.no_grad()
    def folded(self) -> "FoldedChain":
        """The same function of maps, links and n in a third of the time, with weights of its own.

        All of the chain is linear, and bilinear shares and confidences sum to one: so the linear layers may go first,
        as one, on the cells.
        """
        expand, reduce = self.expand.weight.flatten(1).double(), self.reduce.weight.double()
        assert self.expand.bias is not None
        folded = FoldedChain(expand.shape[1], self.reduce.out_features, self.scale).to(self.expand.weight.device)
        folded.linear.weight.copy_(reduce @ expand)
        folded.linear.bias.copy_(reduce @ self.expand.bias.double() + self.reduce.bias.double())
        return folded


class FoldedChain(nn.Module):
    """What `PatchChain.folded` gives: PixelShuffle → one Linear on the cells → sample."""

    def __init__(self, channels: int, dim: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(channels, dim)

    def forward(self, maps: Tensor, links: Links, n: int) -> Tensor:
        """As `PatchChain.forward`."""
        with torch.autocast(maps.device.type, enabled=False):
            shuffled = F.pixel_shuffle(maps.float(), self.scale).permute(0, 2, 3, 1)  # (V, 2h, 2w, channels / 4)
            return lift(self.linear(shuffled).permute(0, 3, 1, 2), links, n)
