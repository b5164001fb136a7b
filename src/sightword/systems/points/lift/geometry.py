"""All geometry of a forward pass: where a point stands in an image, which views show it, which points are near it.

A pose is camera-to-world, (4, 4): x_world = R x_camera + t. The camera looks along +z, u goes right and v down; depth
is along z, in metres, and 0 where unknown. Pixel centres are whole numbers: an image of W pixels spans u from -0.5 to
W - 0.5. A size is (H, W), as tensors have it. Poses are inverted where points are projected, z must be well ahead of
the camera, and a point behind the measured surface is not visible.

Points and views are ragged: each has the number of its scene, and one path serves one scene, a batch of scenes and many
views. Correspondences (`Links`) are sparse, a fifth of all pairs in a room, so only visible points are sampled; one
ragged embedding_bag samples, weighs and averages all views of all points at once.

Legend: N points, V views, L correspondences (links), M queries, P pairs; H, W pixels of a view; C channels and h, w
cells of a feature map; ... any leading axes, which broadcast.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError

Size = tuple[int, int]  # H, W

NEAR = 0.1  # metres ahead of the camera from which on a point counts as visible
ABS_TOL, REL_TOL = 0.02, 0.02  # metres, and fraction of the depth: how far a point may stand from the surface there
FADE = 4.0  # metres at which a view counts half
SEEN_PAIRS = 2**20  # of a point and a view that are looked at together: some 50 MB
NEAR_PAIRS = 2**22  # of a query and a point of the cells around it that are looked at together: some 200 MB
SLACK = 1.001  # a cell to the radius: what float32 rounds into the ball must not be two cells away

# ---------------------------------------------------------------------------------------- projection and visibility


class Visibility(NamedTuple):
    """Which points a depth image shows."""

    ok: Tensor  # (..., N) bool
    conf: Tensor  # (..., N): above 0 and at most 1 where ok, else 0


def project(xyz: Tensor, K: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels uv (..., N, 2) and depths z (..., N) in metres of points xyz (..., N, 3) in the world.

    K: (..., 3, 3) of the image's pixel grid; pose: (..., 4, 4), orthonormal (see `scannet.reader.so3`). Points beside
    or behind the camera are projected too, and where z is 0 uv is not finite; `visible` rejects both.
    """
    rotation, place = pose[..., :3, :3].double(), pose[..., :3, 3:].double()
    turn = K.double() @ rotation.mT  # (..., 3, 3): K and the pose in one matrix, so that points are read once
    seen = _moved(xyz.mT, turn, -turn @ place)  # (..., 3, N)
    z = seen[..., 2, :]
    return (seen[..., :2, :] / z[..., None, :]).mT, z


def back_project(depth: Tensor, K: Tensor, pose: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Return points in the world (..., H·W, 3), row by row, of depth images (..., H, W); NaN where depth is unknown.

    pixels: (..., M, 2) int64, u and v: only theirs, (..., M, 3).
    """
    height, width = depth.shape[-2:]
    if pixels is None:
        v = torch.arange(height, device=depth.device).repeat_interleave(width)
        u = torch.arange(width, device=depth.device).repeat(height)
        z = depth.flatten(-2)
    else:
        u, v = pixels.unbind(-1)
        z = depth.flatten(-2).expand(*u.shape[:-1], -1).gather(-1, v * width + u)
    z = torch.where(z > 0, z, torch.nan)
    rotation, place = pose[..., :3, :3].double(), pose[..., :3, 3:].double()
    rays = torch.stack([u * z, v * z, z], -2)  # (..., 3, M)
    return _moved(rays, rotation @ torch.linalg.inv(K.double()), place).mT


def _moved(planes: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Return turn (..., 3, 3) · planes (..., 3, N) + shift (..., 3, 1), in the planes' dtype: (..., 3, N).

    Not a matrix product: autocast would round one to bfloat16 and a GPU to TF32, which is pixels.
    """
    turn, shift, planes = turn.to(planes.dtype), shift.to(planes.dtype), planes.contiguous()
    moved = torch.addcmul(shift, turn[..., 0, None], planes[..., None, 0, :])
    for axis in (1, 2):
        moved = moved.addcmul_(turn[..., axis, None], planes[..., None, axis, :])
    return moved


def to_grid(uv: Tensor, size: Size) -> Tensor:
    """Return pixels uv (..., 2) of an image of `size` (H, W) on grid_sample's -1 to 1, with align_corners=False.

    A map's own size plays no part, so one grid serves the depth and feature maps of every resolution.
    """
    height, width = size
    return 2 * (uv + 0.5) / uv.new_tensor([width, height]) - 1


def inside(uv: Tensor, z: Tensor, size: Size) -> Tensor:
    """Return which points an image of `size` would show if nothing were before them, (..., N) bool."""
    u, v = uv.unbind(-1)
    height, width = size
    return (z > NEAR) & (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)


def cells(uv: Tensor, size: Size) -> Tensor:
    """Return the nearest pixel's index in a flattened (H, W) image, (..., N) int64; outside, of one at its edge."""
    height, width = size
    u, v = (uv + 0.5).nan_to_num_().unbind(-1)
    return v.clamp(0, height - 1).long() * width + u.clamp(0, width - 1).long()


def confidence(z: Tensor, depth: Tensor, abs_tol: float = ABS_TOL, rel_tol: float = REL_TOL) -> Tensor:
    """Return the visibility confidence of points at depths z where the surface is at `depth` (metres); 0 if hidden.

    (1 - (err / tol)²) / (1 + (z / 4 m)²) with err = |z - depth| below tol = abs_tol + rel_tol · depth: less at an edge,
    less from afar.
    """
    near = 1 - ((z - depth) / (depth * rel_tol + abs_tol)).square_()
    return torch.where((depth > 0) & (near > 0), near / (1 + (z / FADE).square_()), 0)


def visible(uv: Tensor, z: Tensor, depth: Tensor, abs_tol: float = ABS_TOL, rel_tol: float = REL_TOL) -> Visibility:
    """Return which points (uv (..., N, 2), z (..., N)) the depth images (..., H, W) show; see `confidence`.

    Compared with the depth of the nearest pixel, as the mean of two sides of an edge is on neither.
    """
    size = (depth.shape[-2], depth.shape[-1])
    d = depth.flatten(-2).expand(*z.shape[:-1], -1).gather(-1, cells(uv, size))
    conf = confidence(z, d, abs_tol, rel_tol).masked_fill_(~inside(uv, z, size), 0)
    return Visibility(conf > 0, conf)


# ---------------------------------------------------------------------------------------------------- correspondences


class ColorCamera(NamedTuple):
    """Cameras of colour images that are not the cameras of the depth images."""

    K: Tensor  # (V, 3, 3) of the colour image resized to the depth's size
    place: Tensor  # (V, 4, 4) in the depth camera
    distortion: Tensor  # (V, 5) k1, k2, p1, p2, k3, as OpenCV has them


class Views(NamedTuple):
    """Posed depth images, all of one size."""

    depth: Tensor  # (V, H, W) float32 metres, 0 unknown
    K: Tensor  # (V, 3, 3) of the depth's pixel grid
    pose: Tensor  # (V, 4, 4) camera-to-world
    scene: Tensor  # (V,) int64
    mask: Tensor | None = None  # (V, H, W) int64 instance ids of an external 2-D mask of the colour images, in the
    # depth's size; -1 rejects a pixel
    color: ColorCamera | None = None  # None: the depth's own, both show the same image


class Links(NamedTuple):
    """Point–pixel correspondences: sparse, sorted by point (CSR) and then by view."""

    point: Tensor  # (L,) int64
    view: Tensor  # (L,) int64
    uv: Tensor  # (L, 2) float32 pixels of the colour image, resized to `size`
    conf: Tensor  # (L,) float32
    offset: Tensor  # (N,) int64: where each point's correspondences begin
    size: Size  # H, W

    @property
    def counts(self) -> Tensor:
        """How many views show each point, (N,) int64."""
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
    """Return the correspondences of points xyz (N, 3) of scenes (N,) with the views of their scene that show them.

    Depth decides what is visible. Where colour has a camera of its own, a point stands where this camera has it, and
    points beside its image have no correspondence.

    point_mask: (N,) int64, each point's own id among those of `views.mask`; only pixels of that id then show it. -1: it
    has none, and any pixel shows it that is not rejected. Memory is bounded, however many pairs there are.
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
    return Links(point, view, uv, conf, offsets(point, len(xyz)), (views.depth.shape[1], views.depth.shape[2]))


def lift(maps: Tensor, links: Links, n: int) -> Tensor:
    """Return features (N, C) of n points: the mean over their views, weighted by confidence.

    maps: (V, C, h, w) of the same views; sampled bilinearly, as grid_sample does with align_corners=False and
    padding_mode="border". Rows of points that no view shows are zero. In the maps' dtype; the gradient reaches them.
    """
    if len(links.offset) != n:
        raise ValueError(
            f"the correspondences are of {len(links.offset)} points, not {n}. Call link() with these points"
        )
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
    """Return the feature at each correspondence: maps (V, C, h, w) to (L, C)."""
    number = torch.arange(len(links.view), device=links.view.device)
    alone = links._replace(point=number, offset=number, conf=torch.ones_like(links.conf))
    return lift(maps, alone, len(number))


def _taps(links: Links, grid: Size) -> tuple[Tensor, Tensor]:
    """The four cells around each correspondence in a table of all views' cells, int64, and their weights: (L, 4)."""
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
    """Yield points and the views of their scene, so few that all pairs fit. points (N,), views (V,): their scenes."""
    if not len(points) or not len(views):
        return
    ordered = bool((points.diff() >= 0).all())
    for scene in views.unique().tolist():
        chosen = (views == scene).nonzero().squeeze(1)
        step = max(1, SEEN_PAIRS // len(chosen))
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
    """Point, view, uv, conf of the correspondences among some points and views, by point and then view.

    Points outside an image are dropped before its depth is read: they are most, and depth would be read at random.
    """
    uv, z = project(xyz[points].float(), views.K[chosen], views.pose[chosen])  # (V, n, 2), (V, n)
    size = (views.depth.shape[1], views.depth.shape[2])
    point, row = inside(uv, z, size).T.contiguous().nonzero().unbind(1)  # (P,)
    uv, z, view = uv[row, point], z[row, point], chosen[row]
    pixel = view * (size[0] * size[1]) + cells(uv, size)
    conf = confidence(z, views.depth.reshape(-1)[pixel], abs_tol, rel_tol)
    if views.color is not None:
        uv, seen = in_color(uv, z, views.K[view], ColorCamera(*(part[view] for part in views.color)), size)
        conf = conf.masked_fill(~seen, 0)
        pixel = view * (size[0] * size[1]) + cells(uv, size)
    point = points.start + point if isinstance(points, slice) else points[point]
    if views.mask is not None:
        ids = views.mask.reshape(-1)[pixel]
        fits = ids >= 0
        if point_mask is not None:
            fits &= (point_mask[point] < 0) | (ids == point_mask[point])
        conf = conf.masked_fill(~fits, 0)
    kept = conf.nonzero().squeeze(1)
    return point[kept], view[kept], uv[kept], conf[kept]


def in_color(uv: Tensor, z: Tensor, K: Tensor, color: ColorCamera, size: Size) -> tuple[Tensor, Tensor]:
    """Return where points at pixels uv (P, 2) and depths z (P,) of depth cameras are in the colour images: uv (P, 2),
    and which of them are inside, (P,) bool. K, color: of each point's view."""
    x, y = (uv[:, 0] - K[:, 0, 2]) / K[:, 0, 0], (uv[:, 1] - K[:, 1, 2]) / K[:, 1, 1]
    back = color.place[:, :3, :3].mT
    moved = torch.stack([x * z, y * z, z], 1) - color.place[:, :3, 3]
    seen = (back * moved[:, None, :]).sum(-1)  # (P, 3); no matrix product, see `_moved`
    ahead = seen[:, 2]
    plane, unbent = distorted(seen[:, :2] / ahead[:, None], color.distortion)
    found = torch.stack(
        [plane[:, 0] * color.K[:, 0, 0] + color.K[:, 0, 2], plane[:, 1] * color.K[:, 1, 1] + color.K[:, 1, 2]], 1
    )
    return found, inside(found, ahead, size) & unbent


def distorted(plane: Tensor, distortion: Tensor) -> tuple[Tensor, Tensor]:
    """Return where points (P, 2) of the plane z = 1 appear through lenses with distortion (P, 5), and where the model
    holds, (P,) bool: within the radius up to which it grows.

    x' = x · (1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p1 x y + p2 (r² + 2 x²), and so y', as OpenCV has them.
    """
    k1, k2, p1, p2, k3 = distortion.unbind(-1)
    x, y = plane.unbind(-1)
    r = x * x + y * y
    radial = 1 + r * (k1 + r * (k2 + r * k3))
    share = torch.linspace(0, 1, 33, dtype=r.dtype, device=r.device)[:, None] * r  # (33, P): all radii on the way
    grows = (1 + share * (3 * k1 + share * (5 * k2 + share * 7 * k3)) > 0).all(0)
    u = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x)
    v = y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([u, v], -1), grows


def offsets(point: Tensor, n: int) -> Tensor:
    """Return where the correspondences of each of n points begin among sorted ones, (N,) int64."""
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


# --------------------------------------------------------------------------------------------------------- neighbours


@torch.no_grad()
def ball_query(
    query: Tensor,
    points: Tensor,
    radius: float,
    k: int,
    query_scene: Tensor | None = None,
    point_scene: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k nearest of points (N, 3) within `radius` metres of each query (M, 3): rows, and which are real.

    Both (M, k): int64, nearest first and of equals the lowest row, 0 where there are fewer than k; and bool. A query
    that is one of the points is its own neighbour. query_scene (M,), point_scene (N,): int64 from 0 on, neighbours are
    of one scene. Distances are dx² + dy² + dz² in float32, so every device gives the same rows.

    Exact, and without a matrix of all pairs: points are sorted into cells a radius wide, z fastest, so the 27 cells
    around a query are nine ranges of the sorted points, and one sort of the pairs that are near enough ranks them all.
    """
    _check_neighbours(query, points, radius, k, query_scene, point_scene)
    index = torch.zeros(len(query), k, dtype=torch.int64, device=query.device)
    mask = torch.zeros(len(query), k, dtype=torch.bool, device=query.device)
    if not len(query) or not len(points):
        return index, mask
    query, points = query.float(), points.float()
    query_cell, point_cell, strides = _grid_cells(query, points, radius * SLACK, query_scene, point_scene)
    ordered, order = point_cell.sort(stable=True)
    rows = query_cell.argsort(stable=True)  # queries of a cell together, so that they read the same points
    first, count = _ranges(query_cell[rows], ordered, strides)  # (M, 9)
    ours, theirs = query[rows].T.contiguous(), points[order].T.contiguous()  # (3, M), (3, N): planes are read faster
    for start, stop in _parts(count.sum(1)):
        found = _near(ours[:, start:stop], theirs, first[start:stop], count[start:stop], radius)
        _rank(*found, order, rows[start:stop], index, mask)
    return index, mask


def _grid_cells(
    query: Tensor, points: Tensor, width: float, query_scene: Tensor | None, point_scene: Tensor | None
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Numbers of the cells of queries (M,) and points (N,), and how far apart neighbours along x and along y are.

    In float64, so that a cell's edge is where it should be. An empty layer around a scene keeps ranges from wrapping.
    """
    low = torch.minimum(query.amin(0), points.amin(0)).double()
    span = (torch.maximum(query.amax(0), points.amax(0)).double() - low).div(width).add(3).tolist()
    scenes = [
        torch.zeros(len(xyz), dtype=torch.int64, device=xyz.device) if scene is None else scene
        for xyz, scene in ((query, query_scene), (points, point_scene))
    ]
    if math.prod(span) * (1 + max(int(scene.max()) for scene in scenes)) >= 2**62:
        across = " × ".join(f"{length:.3g}" for length in span)
        raise SightwordError(f"points spread over {across} radii. Check that they are in metres, and for outliers")
    wide, deep, high = (int(length) for length in span)
    places = [((xyz.double() - low) / width).long().unbind(1) for xyz in (query, points)]
    cells = [
        ((scene * wide + x + 1) * deep + y + 1) * high + z + 1 for scene, (x, y, z) in zip(scenes, places, strict=True)
    ]
    return cells[0], cells[1], (deep * high, high)


def _ranges(cells: Tensor, ordered: Tensor, strides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the nine columns of three cells begin among the ordered cells of points, and how many points are in each.

    cells: (M,) sorted ones of queries; both results (M, 9) int64.
    """
    each, inverse = torch.unique_consecutive(cells, return_inverse=True)
    steps = torch.arange(-1, 2, device=cells.device)
    around = (steps[:, None] * strides[0] + steps * strides[1]).flatten()  # (9,)
    column = each + around[:, None]  # (9, U): in order along a row, which is how a search is quick
    first = torch.searchsorted(ordered, column - 1)
    count = torch.searchsorted(ordered, column + 1, right=True) - first
    return first.T[inverse], count.T[inverse]


def _parts(count: Tensor) -> Iterator[tuple[int, int]]:
    """Stretches of queries that have at most NEAR_PAIRS points around them, or are one. count: (M,)."""
    ends = count.cumsum(0)
    start = done = 0
    while start < len(count):
        stop = max(start + 1, int(torch.searchsorted(ends, done + NEAR_PAIRS, right=True)))
        yield start, stop
        start, done = stop, int(ends[stop - 1])


def _near(ours: Tensor, theirs: Tensor, first: Tensor, count: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Row of ours (3, M), place among theirs (3, N) and squared distance of the pairs within the radius, all (P,)."""
    many, flat = count.sum(1), count.flatten()
    row = torch.repeat_interleave(many)
    place = torch.repeat_interleave(first.flatten() - flat.cumsum(0) + flat, flat)
    place += torch.arange(len(place), device=place.device)
    square = torch.zeros(len(row), device=row.device)
    for a, b in zip(ours, theirs, strict=True):
        square += a.index_select(0, row).sub_(b.index_select(0, place)).square_()
    near = (square <= radius**2).nonzero().squeeze(1)
    return row[near], place[near], square[near]


def _rank(row: Tensor, place: Tensor, square: Tensor, order: Tensor, rows: Tensor, index: Tensor, mask: Tensor) -> None:
    """Write the k nearest of each row into index and mask (M, k), at rows[row]."""
    point = order[place]
    key = (row << 32) | square.view(torch.int32)  # a float's bits grow with it
    key, by = key.sort()
    if (key[1:] == key[:-1]).any():  # as far away: by the points' own order
        by = point.argsort(stable=True)
        by = by[((row << 32) | square.view(torch.int32))[by].argsort(stable=True)]
    row, point = row[by], point[by]
    counts = torch.bincount(row, minlength=len(rows))
    rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    first = (rank < index.shape[1]).nonzero().squeeze(1)
    at = rows[row[first]], rank[first]
    index[at], mask[at] = point[first], True


def _check_neighbours(
    query: Tensor, points: Tensor, radius: float, k: int, query_scene: Tensor | None, point_scene: Tensor | None
) -> None:
    for name, xyz, scene in (("query", query, query_scene), ("points", points, point_scene)):
        if xyz.dim() != 2 or xyz.shape[1] != 3:
            raise ValueError(f"{name} must be (·, 3), got {tuple(xyz.shape)}")
        if scene is not None and scene.shape != xyz.shape[:1]:
            raise ValueError(f"{name} {tuple(xyz.shape)} and its scene {tuple(scene.shape)} differ in length")
        if not xyz.isfinite().all():
            raise SightwordError(
                f"{name} has coordinates that are not finite. Drop those rows (unknown depth gives them)"
            )
    if (query_scene is None) != (point_scene is None):
        raise ValueError(
            "queries or points have scenes and the others none: give query_scene and point_scene, or neither"
        )
    if radius <= 0 or k < 1:
        raise ValueError(f"radius must be above 0 and k at least 1, got {radius} and {k}")
