"""Where a point of the world stands in a photo, and back. One convention, everywhere in this system.

A pose is camera-to-world, (4, 4): x_world = R x_camera + t. The camera looks along +z, u goes right and v down; depth
is along z, in metres, and 0 where unknown. Pixel centres are whole numbers: an image of W pixels spans u from -0.5 to
W - 0.5. A size is (H, W), as tensors have it. Source: document 004, 5.2 and 5.3, put right where it contradicts itself:
the pose is inverted where points are projected, z must be well ahead of the camera, and hidden points are not seen.

Legend: N points, H, W pixels; ... any leading axes, which broadcast.
"""

from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]  # H, W

NEAR = 0.1  # metres ahead of the camera from which on a point counts as seen
ABS_TOL, REL_TOL = 0.02, 0.02  # metres, and share of the depth: how far a point may stand from the surface seen there
FADE = 4.0  # metres at which a view counts half
STRETCH = 0.05  # how far a rotation's singular values may be from 1 and still be what a text file rounded


class Visibility(NamedTuple):
    ok: Tensor  # (..., N) bool
    conf: Tensor  # (..., N): above 0 and at most 1 where ok, else 0


def so3(pose: Tensor) -> Tensor:
    """Poses (..., 4, 4) with their rotations made exact: the nearest of SO(3), in float64. The dtype stays.

    Poses in text files are orthonormal to four digits only, and an inverse by the transpose is then 0.5 mm wrong.
    Raises ValueError for a pose that is not finite, mirrors, or scales.
    """
    if pose.shape[-2:] != (4, 4):
        raise ValueError(f"a pose is (4, 4), camera-to-world, got {tuple(pose.shape)}")
    if not pose.isfinite().all():
        raise ValueError("a pose is not finite (ScanNet marks lost frames so): skip such frames before")
    exact = pose.double()
    left, stretch, right = torch.linalg.svd(exact[..., :3, :3])
    rotation = left @ right
    if (torch.linalg.det(rotation) < 0).any():
        raise ValueError(
            "a pose mirrors (its determinant is -1): is one of its axes flipped, or the matrix transposed?"
        )
    if ((stretch - 1).abs() > STRETCH).any():
        raise ValueError(
            f"a pose scales by {stretch.min():.3g} to {stretch.max():.3g}: a camera's only turns and moves"
        )
    exact = exact.clone()
    exact[..., :3, :3] = rotation
    return exact.to(pose.dtype)


def project(xyz: Tensor, K: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels uv (..., N, 2) and depths z (..., N) in metres of points xyz (..., N, 3) in the world.

    K: (..., 3, 3) of the image's pixel grid; pose: (..., 4, 4), orthonormal (see `so3`). What lies beside or behind the
    camera is projected too, and where z is 0 uv is not finite: `visible` tells.
    """
    rotation, place = pose[..., :3, :3].double(), pose[..., :3, 3:].double()
    turn = K.double() @ rotation.mT  # (..., 3, 3): K and the pose in one matrix, so that points are read once
    seen = _moved(xyz.mT, turn, -turn @ place)  # (..., 3, N)
    z = seen[..., 2, :]
    return (seen[..., :2, :] / z[..., None, :]).mT, z


def back_project(depth: Tensor, K: Tensor, pose: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Points in the world (..., H·W, 3), row by row, of depth images (..., H, W); NaN where the depth is unknown.

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
    """turn (..., 3, 3) · planes (..., 3, N) + shift (..., 3, 1), in the planes' dtype: (..., 3, N).

    Not a matrix product: autocast would round one to bfloat16 and a GPU to TF32, which is pixels.
    """
    turn, shift, planes = turn.to(planes.dtype), shift.to(planes.dtype), planes.contiguous()
    moved = torch.addcmul(shift, turn[..., 0, None], planes[..., None, 0, :])
    for axis in (1, 2):
        moved = moved.addcmul_(turn[..., axis, None], planes[..., None, axis, :])
    return moved


def resize_intrinsics(K: Tensor, old: Size, new: Size) -> Tensor:
    """K (..., 3, 3) after an image of size `old` (H, W) was resized to `new`: the half pixel moves with the centre."""
    sy, sx = new[0] / old[0], new[1] / old[1]
    change = torch.tensor([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]], dtype=K.dtype, device=K.device)
    return change @ K


def crop_intrinsics(K: Tensor, top: float, left: float) -> Tensor:
    """K (..., 3, 3) after `top` rows and `left` columns were cut off an image; negative ones were added."""
    change = torch.tensor([[1, 0, -left], [0, 1, -top], [0, 0, 1]], dtype=K.dtype, device=K.device)
    return change @ K


def to_grid(uv: Tensor, size: Size) -> Tensor:
    """Pixels uv (..., 2) of an image of `size` (H, W) on grid_sample's -1 to 1, with align_corners=False.

    A map's own size plays no part, so one grid serves the depth and feature maps of every resolution.
    """
    height, width = size
    return 2 * (uv + 0.5) / uv.new_tensor([width, height]) - 1


def inside(uv: Tensor, z: Tensor, size: Size) -> Tensor:
    """(..., N) bool: points that an image of `size` would show, were nothing before them."""
    u, v = uv.unbind(-1)
    height, width = size
    return (z > NEAR) & (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)


def cells(uv: Tensor, size: Size) -> Tensor:
    """(..., N) int64: the nearest pixel's place in a flattened (H, W) image; for uv outside, one at its edge."""
    height, width = size
    u, v = (uv + 0.5).nan_to_num_().unbind(-1)
    return v.clamp(0, height - 1).long() * width + u.clamp(0, width - 1).long()


def confidence(z: Tensor, depth: Tensor, abs_tol: float = ABS_TOL, rel_tol: float = REL_TOL) -> Tensor:
    """How well points at depths z are seen where the surface is at `depth` (both of one shape, metres): 0 if hidden.

    (1 - (err / tol)²) / (1 + (z / 4 m)²) with err = |z - depth| below tol = abs_tol + rel_tol · depth: less at an edge,
    less from afar.
    """
    near = 1 - ((z - depth) / (depth * rel_tol + abs_tol)).square_()
    return torch.where((depth > 0) & (near > 0), near / (1 + (z / FADE).square_()), 0)


def visible(uv: Tensor, z: Tensor, depth: Tensor, abs_tol: float = ABS_TOL, rel_tol: float = REL_TOL) -> Visibility:
    """Which points (uv (..., N, 2), z (..., N)) the depth images (..., H, W) show, and how well: see `confidence`.

    Compared with the depth of the nearest pixel, as the mean of two sides of an edge is on neither.
    """
    size = (depth.shape[-2], depth.shape[-1])
    d = depth.flatten(-2).expand(*z.shape[:-1], -1).gather(-1, cells(uv, size))
    conf = confidence(z, d, abs_tol, rel_tol).masked_fill_(~inside(uv, z, size), 0)
    return Visibility(conf > 0, conf)
