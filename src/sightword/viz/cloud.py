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


def cloud(
    xyz: Array,
    rgb: Array,
    size: tuple[int, int] = (640, 480),
    up: Sequence[float] = (0.0, 0.0, 1.0),
    facing: Array | None = None,
    azimuth: float | None = None,
    elevation: float = 38.0,
) -> Image.Image:
    """Draw a coloured point cloud in perspective, from above and outside: xyz (N, 3) in any unit, rgb (N, 3) uint8.

    size: (width, height) in pixels. facing: (N, 3), direction from each point to the camera that saw it; surfaces that
    face away are left out, so the interior of a room shows behind its near walls and its ceiling. azimuth: viewpoint in
    degrees around `up`; None takes the side from which most points were seen. elevation: degrees above the horizon.
    Near points cover far ones. Depth edges are darkened, which separates objects of one colour.
    """
    points, colours, axis = as_numpy(xyz).astype(np.float64), as_numpy(rgb), np.asarray(up, float)
    if points.ndim != 2 or points.shape[1] != 3 or colours.shape != points.shape or not len(points):
        raise ValueError(f"a cloud is xyz (N, 3) and rgb (N, 3), N at least 1; got {points.shape} and {colours.shape}")
    seen = None if facing is None else as_numpy(facing).astype(np.float64)
    back = _from_where(axis / np.linalg.norm(axis), seen, azimuth, elevation)
    turn = _looking(back, axis)  # rows: right, down, ahead
    large = (size[0] * SHRINK, size[1] * SHRINK)
    focal = large[1] / 2 / math.tan(math.radians(FIELD / 2))
    eye = _fitting(points, turn, focal, large)
    spacing = _spacing(points)
    kept = np.ones(len(points), bool)
    if seen is not None:
        kept = ((eye - points) * _normals(points, seen, 4 * spacing)).sum(1) > 0
        kept |= not kept.any()
        eye = _fitting(points[kept], turn, focal, large)
    x, y, z = ((points[kept] - eye) @ turn.T).T
    u, v = focal * x / z + large[0] / 2, focal * y / z + large[1] / 2
    reach = np.clip(0.9 * focal * spacing / z, 1.5, WIDEST_SPLAT)
    pixels, depth = _splat(u, v, z, reach, colours[kept], large)
    lit = pixels * _edges(depth)[..., None]
    lit[~np.isfinite(depth)] = BACKGROUND
    return Image.fromarray(lit.round().astype(np.uint8)).resize(size, Image.Resampling.BOX)


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
    seen = points @ turn.T
    low, high = np.percentile(seen, (0.03, 99.97), axis=0)
    inner = ((seen >= low) & (seen <= high)).all(1)
    kept, middle = seen[inner if inner.any() else slice(None)], (low + high) / 2
    wide, tall = 0.9 * size[0] / 2 / focal, 0.9 * size[1] / 2 / focal
    for turns_left in range(
        5, -1, -1
    ):  # near parts look larger, so the middle of the cloud is not the middle of the image
        x, y, z = (kept - middle).T
        far = max(float((abs(x) / wide - z).max()), float((abs(y) / tall - z).max()), float(-1.05 * z.min()), 1e-6)
        if turns_left:
            across, down = x / (far + z), y / (far + z)
            middle[:2] += far * np.array([across.max() + across.min(), down.max() + down.min()]) / 2
    return (middle - np.array([0, 0, far])) @ turn


def _spacing(points: np.ndarray) -> float:
    """Return the median distance between nearest neighbours, estimated from 64 points."""
    some = points[:: max(1, len(points) // 64)][:64]
    nearest = [np.sort(((points - point) ** 2).sum(1))[1:2] if len(points) > 1 else np.zeros(1) for point in some]
    return float(np.sqrt(np.median(np.concatenate(nearest))))


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


def _splat(
    u: np.ndarray, v: np.ndarray, z: np.ndarray, reach: np.ndarray, rgb: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw discs, near over far: colours (H, W, 3) and depth (H, W), infinite where no point is."""
    order = np.argsort(-z, kind="stable")
    u, v, z, reach, rgb = u[order], v[order], z[order], reach[order], rgb[order]
    around = np.arange(-int(reach.max()), int(reach.max()) + 1)
    dy, dx = (side.ravel() for side in np.meshgrid(around, around, indexing="ij"))
    width, height = size
    pixels, depth = np.zeros((height * width, 3)), np.full(height * width, np.inf)
    for some in np.array_split(np.arange(len(u)), 1 + len(u) * len(dx) // 4_000_000):  # farthest first
        x, y = np.rint(u[some]).astype(int)[:, None] + dx, np.rint(v[some]).astype(int)[:, None] + dy  # (n, K)
        inside = (dx**2 + dy**2 <= reach[some][:, None] ** 2) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        which, _ = np.nonzero(inside)
        at = (y * width + x)[inside]
        pixels[at], depth[at] = rgb[some][which], z[some][which]  # the last write to a pixel stays
    return pixels.reshape(height, width, 3), depth.reshape(height, width)


def _edges(depth: np.ndarray, strength: float = 12.0) -> np.ndarray:
    """Return a brightness (H, W) in (0, 1], low where a neighbour is much nearer (eye-dome lighting, Boucheny 2009)."""
    with np.errstate(invalid="ignore"):
        log = np.log(depth)
        total = np.zeros_like(depth)
        for step in (SHRINK, 3 * SHRINK):
            padded = np.pad(log, step, mode="edge")
            for dy, dx in ((0, step), (0, -step), (step, 0), (-step, 0)):
                behind = log - padded[step + dy : step + dy + len(log), step + dx : step + dx + log.shape[1]]
                total += np.clip(np.where(np.isfinite(behind), behind, 0), 0, 0.1)
    return np.exp(-strength * total / 8)
