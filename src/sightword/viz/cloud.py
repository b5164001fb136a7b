"""Render a point cloud as an image."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sightword.viz.style import Array, as_numpy

FIELD = 40.0  # vertical field of view, degrees
BACKGROUND = (232, 235, 239)  # darker than white walls
WIDEST_SPLAT = 14  # largest radius of a point in pixels of the enlarged image
SHRINK = 2  # the image is rendered so many times too large, then reduced
AT_ONCE = 2048  # points that are drawn together, which bounds the memory


def clouds(
    xyz: Array,
    colourings: Sequence[Array],
    size: tuple[int, int] = (640, 480),
    up: Sequence[float] = (0.0, 0.0, 1.0),
    facing: Array | None = None,
    azimuth: float | None = None,
    elevation: float = 38.0,
) -> list[Image.Image]:
    """Draw a point cloud in perspective, from above and outside, once in each colouring.

    xyz: (N, 3) in any unit. colourings: (N, 3) uint8 each; all share one geometry, which is most of the work.
    size: (width, height) in pixels. facing: (N, 3), direction from each point to the camera that saw it; surfaces that
    face away are left out, so the interior of a room shows behind its near walls and its ceiling. azimuth: viewpoint in
    degrees around `up`; None takes the side from which most points were seen. elevation: degrees above the horizon.
    Near points cover far ones. Depth edges are darkened, which separates objects of one colour.
    """
    points, axis = as_numpy(xyz).astype(np.float64), np.asarray(up, float)
    colours = [as_numpy(rgb) for rgb in colourings]
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or any(rgb.shape != points.shape for rgb in colours):
        shapes = [points.shape, *(rgb.shape for rgb in colours)]
        raise ValueError(f"a cloud is xyz (N, 3) and rgb (N, 3), N at least 1; got {' and '.join(map(str, shapes))}")
    seen = None if facing is None else as_numpy(facing).astype(np.float64)
    back = _from_where(axis / np.linalg.norm(axis), seen, azimuth, elevation)
    turn = _looking(back, axis)  # rows: right, down, ahead
    large = (size[0] * SHRINK, size[1] * SHRINK)
    focal = large[1] / 2 / math.tan(math.radians(FIELD / 2))
    eye = _fitting(points, turn, focal, large)
    spacing = _spacing(points)
    kept = np.arange(len(points))
    if seen is not None:
        towards = ((eye - points) * _normals(points, seen, 4 * spacing)).sum(1) > 0
        kept = np.flatnonzero(towards) if towards.any() else kept
        eye = _fitting(points[kept], turn, focal, large)
    x, y, z = ((points[kept] - eye) @ turn.T).T
    order = np.argsort(-z, kind="stable")  # farthest first
    kept, x, y, z = kept[order], x[order], y[order], z[order]
    u, v = focal * x / z + large[0] / 2, focal * y / z + large[1] / 2
    shown = splat(u, v, np.clip(0.9 * focal * spacing / z, 1.5, WIDEST_SPLAT), large)
    drawn = np.nonzero(shown >= 0)
    light = _edges(np.append(z, np.inf)[shown].astype(np.float32))[drawn][:, None]
    pages = []
    for rgb in colours:
        page = np.full((*shown.shape, 3), BACKGROUND, np.uint8)
        page[drawn] = rgb[kept][shown[drawn]] * light + 0.5  # rounded
        pages.append(Image.fromarray(page).resize(size, Image.Resampling.BOX))
    return pages


def splat(u: np.ndarray, v: np.ndarray, reach: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which of N points covers each pixel, (H, W) int32, −1 for none: a later point covers earlier ones.

    Each point is a disc of radius `reach` at (u, v), all (N,) in pixels. size: (width, height). Fast if the radii of
    points that follow one another are alike.
    """
    width, height = size
    out = int(reach.max(initial=0))  # a middle so far outside still touches the image
    rim = 2 * out  # so that no disc has to be cut
    stride = width + 2 * rim
    owner = np.full((height + 2 * rim) * stride, -1, np.int32)
    x, y = np.rint(u), np.rint(v)
    inside = np.flatnonzero((x >= -out) & (x < width + out) & (y >= -out) & (y < height + out)).astype(np.int32)
    for some in np.array_split(inside, 1 + len(inside) // AT_ONCE):
        middle = ((y[some] + rim) * stride + x[some] + rim).astype(np.int32)
        widest = int(reach[some].max(initial=0))
        dy, dx = (side.ravel() for side in np.mgrid[-widest : widest + 1, -widest : widest + 1])
        covered = dx**2 + dy**2 <= reach[some, None] ** 2  # (n, K)
        at = middle[:, None] + (dy * stride + dx).astype(np.int32)
        owner[at[covered]] = np.repeat(some, covered.sum(1))  # the last write to a pixel stays
    return owner.reshape(-1, stride)[rim : rim + height, rim : rim + width]


def _from_where(up: np.ndarray, facing: np.ndarray | None, azimuth: float | None, elevation: float) -> np.ndarray:
    """Return the unit vector from the cloud to the viewpoint."""
    right = np.cross((0.0, 1.0, 0.0) if abs(up[1]) < 0.9 else (0.0, 0.0, 1.0), up)
    right /= np.linalg.norm(right)
    ahead = np.cross(up, right)
    if azimuth is None:
        azimuth = -60.0
        if facing is not None:
            mean = (facing / np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)).mean(0)
            flat = np.array([mean @ right, mean @ ahead])
            if np.linalg.norm(flat) > 0.1:  # not from everywhere
                azimuth = math.degrees(math.atan2(flat[1], flat[0]))
    turn, rise = math.radians(azimuth), math.radians(elevation)
    return math.cos(rise) * (math.cos(turn) * right + math.sin(turn) * ahead) + math.sin(rise) * up


def _looking(back: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) from world to camera; rows right, down, ahead."""
    right = np.cross(-back, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(-back, right), -back])


def _fitting(points: np.ndarray, turn: np.ndarray, focal: float, size: tuple[int, int]) -> np.ndarray:
    """Return the viewpoint (3,) from which the cloud, without its outliers, fills the image."""
    seen = turn @ points.T  # (3, N)
    low, high = np.percentile(seen, (0.03, 99.97), axis=1)
    inner = np.logical_and.reduce(
        [(row >= least) & (row <= most) for row, least, most in zip(seen, low, high, strict=True)]
    )
    kept, middle = seen[:, inner] if inner.any() else seen, (low + high) / 2
    wide, tall = 0.9 * size[0] / 2 / focal, 0.9 * size[1] / 2 / focal
    for turns_left in range(
        5, -1, -1
    ):  # near parts look larger, so the middle of the cloud is not the middle of the image
        x, y, z = kept - middle[:, None]
        far = max(float((abs(x) / wide - z).max()), float((abs(y) / tall - z).max()), float(-1.05 * z.min()), 1e-6)
        if turns_left:
            across, down = x / (far + z), y / (far + z)
            middle[:2] += far * np.array([across.max() + across.min(), down.max() + down.min()]) / 2
    return (middle - np.array([0, 0, far])) @ turn


def _spacing(points: np.ndarray) -> float:
    """Return the median distance between nearest neighbours, estimated from 64 points."""
    if len(points) < 2:
        return 0.0
    nearest, columns = [], np.ascontiguousarray(points.T)
    for place in range(0, len(points), max(1, len(points) // 64))[:64]:
        squares = ((columns - columns[:, place, None]) ** 2).sum(0)
        squares[place] = np.inf
        nearest.append(squares.min())
    return float(np.sqrt(np.median(nearest)))


def _normals(points: np.ndarray, facing: np.ndarray, cell: float) -> np.ndarray:
    """Return surface normals (N, 3) on the side of `facing`, from the scatter of the points in each cell."""
    cells = np.floor((points - points.min(0)) / max(cell, 1e-9)).astype(np.int64)
    _, which, counts = np.unique(cells @ (1 << 42, 1 << 21, 1), return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(which, points[:, i]) for i in range(3)], 1) / counts[:, None]
    off = points - means[which]
    spread = np.stack([[np.bincount(which, off[:, i] * off[:, j]) for i in range(3)] for j in range(3)], -1)
    normals = np.linalg.eigh(spread.transpose(1, 0, 2))[1][:, :, 0][which]  # eigenvector of the least eigenvalue
    normals *= np.sign((normals * facing).sum(1, keepdims=True))
    return np.where((counts[which] < 4)[:, None], facing, normals)


def _edges(depth: np.ndarray, strength: float = 12.0) -> np.ndarray:
    """Return a brightness (H, W) in (0, 1], low where a neighbour is much nearer (eye-dome lighting, Boucheny 2009).

    depth: (H, W), infinite where no point is; there the brightness is 1.
    """
    drawn = np.isfinite(depth)
    log = np.log(depth, out=np.full_like(depth, 1e9), where=drawn)
    total = np.zeros_like(depth)
    for step in (SHRINK, 3 * SHRINK):
        padded = np.pad(log, step, mode="edge")
        for dy, dx in ((0, step), (0, -step), (step, 0), (-step, 0)):
            behind = log - padded[step + dy : step + dy + len(log), step + dx : step + dx + log.shape[1]]
            total += np.clip(behind, 0, 0.1, out=behind)
    return np.exp(-strength / 8 * total, out=np.ones_like(depth), where=drawn)
