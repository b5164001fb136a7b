"""Poses of files of any convention as camera-to-world, in OpenCV's axes. Arrays are float64."""

import numpy as np

from sightword.systems.points.scannet.convention import Axes, Convention, read_axes

MIRROR = np.diag((1.0, -1.0, 1.0))  # of a left-handed world


def camera_to_world(files: np.ndarray, said: Convention) -> np.ndarray:
    """Return poses (..., 4, 4), camera-to-world, OpenCV axes, metres, of the matrices in the files."""
    return moved(read_out(files, said.poses, said.quaternion), said.axes, said.pose_scale)


def axes_matrix(axes: Axes) -> np.ndarray:
    """Return (3, 3), whose columns are right, down and forward in the files' axes."""
    columns = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(axes):
        columns["xyz".index(axis), column] = sign
    return columns


def read_out(files: np.ndarray, poses: str, quaternion: str) -> np.ndarray:
    """Return the poses (..., 4, 4) that files (..., 4, 4) mean, camera-to-world, in the files' camera axes."""
    found = np.array(files, dtype=np.float64)
    if quaternion:
        found[..., :3, :3] = _reordered(found[..., :3, :3], quaternion)
    if poses == "w2c":
        return inverse(found)
    if poses == "transposed":
        found[..., :3, :3] = np.swapaxes(found[..., :3, :3], -1, -2).copy()
    return found


def moved(poses: np.ndarray, axes: str, scale: float = 1.0) -> np.ndarray:
    """Return poses (..., 4, 4) with OpenCV axes and positions times `scale`. Of a left-handed world y is mirrored."""
    turn = axes_matrix(read_axes(axes))
    found = poses.copy()
    found[..., :3, :3] = found[..., :3, :3] @ turn
    if np.linalg.det(turn) < 0:
        found[..., :3, :] = MIRROR @ found[..., :3, :]
    found[..., :3, 3] *= scale
    return found


def inverse(poses: np.ndarray) -> np.ndarray:
    """Return the inverse of rigid motions (..., 4, 4)."""
    found = np.zeros_like(poses)
    rotation = np.swapaxes(poses[..., :3, :3], -1, -2)
    found[..., :3, :3] = rotation
    found[..., :3, 3] = -(rotation @ poses[..., :3, 3:])[..., 0]
    found[..., 3, 3] = 1
    return found


def _reordered(rotation: np.ndarray, true: str) -> np.ndarray:
    """Rotations (..., 3, 3) made of quaternions that were read in the other order, made of them in the true order."""
    x, y, z, w = np.moveaxis(quaternions(rotation), -1, 0)
    return rotations(np.stack((w, x, y, z) if true == "xyzw" else (y, z, w, x), -1))


def quaternions(rotation: np.ndarray) -> np.ndarray:
    """Return unit quaternions x, y, z, w (..., 4) of rotations (..., 3, 3): the eigenvector of Bar-Itzhack's matrix."""
    r = np.moveaxis(np.asarray(rotation, np.float64), (-2, -1), (0, 1))
    K = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    return np.linalg.eigh(np.moveaxis(K, (0, 1), (-2, -1)))[1][..., -1]


def rotations(quaternion: np.ndarray) -> np.ndarray:
    """Return rotations (..., 3, 3) of unit quaternions x, y, z, w (..., 4)."""
    x, y, z, w = np.moveaxis(quaternion, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))
