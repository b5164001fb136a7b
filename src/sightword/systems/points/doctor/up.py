"""Which way is up in the world of a scene: the direction that most horizontal surfaces near the cameras' own up face.

The mean of the cameras' up axes is up to 30° from the vertical where they look down. Floors and tables are not: of the
surface normals that depth gives within 40° of it, the commonest direction is within 2° of gravity.

Legend: V frames; H, W pixels; N normals.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightword.systems.points.scannet.reader import Frame, read_depth

MOST = 20  # frames whose depth is looked at
PLACES = 60  # whose normals are taken along the shorter side of a frame, 8 pixels apart at 640 x 480
ROUGH, CONE = 40.0, 5.0  # degrees: from the cameras' up axis; around a direction, normals that count for it
EDGE = 0.05  # of the depth: neighbours that differ by more are not one surface
LEAST = 200  # normals in the cone, below which nothing is told
ALIGNED = 3.0  # degrees between up and an axis of the world that still are one


class Up(NamedTuple):
    """The vertical of a scene."""

    direction: np.ndarray  # (3,) unit vector in the world
    axis: str  # the axis of the world that is nearest: x, -x, y …
    degrees: float  # between the two

    @property
    def aligned(self) -> bool:
        """Whether the world has a vertical axis."""
        return self.degrees <= ALIGNED

    def __str__(self) -> str:
        if self.aligned:
            return f"{self.axis} is up, {self.degrees:.1f}° from the vertical of its floors and tables"
        return (
            f"none of its axes is vertical, up is {self.degrees:.0f}° from {self.axis}: its world is that of a camera"
        )


def upwards(frames: Sequence[Frame]) -> list[float]:
    """Return which way is up in the world of posed frames, as a unit vector.

    An axis of the world, where one is vertical. Where too few surfaces face up, what the cameras' own axes tell.
    """
    chosen = [frames[int(at)] for at in np.unique(np.linspace(0, len(frames) - 1, min(MOST, len(frames))).round())]
    poses = torch.stack([frame.pose for frame in chosen])
    images = [read_depth(frame).numpy() for frame in chosen]
    found = find_up(images, chosen[0].K_depth.numpy(), poses.numpy())
    if found is None:
        return held_level(poses)
    if found.aligned:
        return [float(np.sign(value)) if abs(value) > 0.9 else 0.0 for value in found.direction]
    return [float(value) for value in found.direction]


def held_level(poses: Tensor) -> list[float]:
    """Return the up direction from the poses (V, 4, 4) of cameras that are held level and look ahead or down."""
    rotation = poses[:, :3, :3].double()
    held = -rotation[:, :, 1].mean(0)
    held = held / held.norm()
    tilt = torch.einsum("vi,vj->ij", rotation[:, :, 0], rotation[:, :, 0]) / len(rotation)
    up = torch.linalg.eigh(tilt + 0.02 * (torch.eye(3, dtype=held.dtype) - torch.outer(held, held)))[1][:, 0]
    up = up * torch.sign(up @ held)
    axis = up.abs().argmax()
    if up[axis].abs() > 0.97:  # the world's own axis, then
        up = torch.zeros_like(up).index_fill(0, axis, float(up[axis].sign()))
    return [float(value) for value in up]


def find_up(depth: Sequence[np.ndarray], K: np.ndarray, poses: np.ndarray) -> Up | None:
    """Return which way is up, or None where too few surfaces face up.

    depth: V images (H, W) in any unit, along z, 0 unknown. K: (3, 3). poses: (V, 4, 4) camera-to-world, OpenCV axes.
    """
    normals = np.concatenate([_normals(image, K) @ pose[:3, :3].T for image, pose in zip(depth, poses, strict=True)])
    rough = -poses[:, :3, 1].sum(0)
    if not len(normals) or not np.linalg.norm(rough):
        return None
    near = normals[normals @ (rough / np.linalg.norm(rough)) > np.cos(np.radians(ROUGH))]
    if len(near) < LEAST:
        return None
    cone = np.cos(np.radians(CONE))
    few = near[:: max(1, len(near) // 1000)]
    up = few[int(((few @ few.T) > cone).sum(1).argmax())]
    for _ in range(5):  # mean shift
        inside = near[near @ up > cone]
        up = inside.sum(0) / np.linalg.norm(inside.sum(0))
    if int((near @ up > cone).sum()) < LEAST:
        return None
    at = int(np.abs(up).argmax())
    degrees = float(np.degrees(np.arccos(np.clip(abs(up[at]), 0, 1))))
    return Up(up, ("-" if up[at] < 0 else "") + "xyz"[at], degrees)


def _normals(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Normals (N, 3) of the surfaces that a depth image shows, in its camera and towards it."""
    step = max(1, min(depth.shape) // PLACES)
    v, u = np.meshgrid(*(np.arange(0, side, step) for side in depth.shape), indexing="ij")
    z = depth[v, u].astype(np.float64)
    points = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], -1)
    right, down, here = points[:-1, 1:], points[1:, :-1], points[:-1, :-1]
    whole = (z[:-1, :-1] > 0) & (z[:-1, 1:] > 0) & (z[1:, :-1] > 0)
    for beside in (z[:-1, 1:], z[1:, :-1]):
        whole &= np.abs(beside - z[:-1, :-1]) < EDGE * z[:-1, :-1]
    normal = np.cross(right[whole] - here[whole], down[whole] - here[whole])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = normal[length[:, 0] > 0] / length[length[:, 0] > 0]
    away = (normal * here[whole][length[:, 0] > 0]).sum(1, keepdims=True) > 0
    return np.where(away, -normal, normal)
