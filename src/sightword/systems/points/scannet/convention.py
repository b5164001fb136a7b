"""The conventions of a data set's files: camera axes, direction of poses, units, sizes. No torch here.

The defaults are ScanNet's, as the rest of `points` computes: poses camera-to-world in metres; the camera's x right, y
down, z forward; depth along z in millimetres; intrinsics of the depth images as they are. Each field is an option of
`lift`, `ask`, `compare`, `check` and of `data` with the same name and meaning: files that follow another convention
are read, not rewritten. `points.doctor` finds the values that fit.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import permutations, product

import numpy as np

from sightword.data.size import height_width, read_size
from sightword.errors import SightwordError

OPENCV, OPENGL, UNITY = "opencv", "opengl", "unity"
NAMED = {OPENCV: "x,y,z", OPENGL: "x,-y,-z", UNITY: "x,-y,z"}  # right, down, forward
POSES = ("c2w", "w2c", "transposed")
QUATERNIONS = ("", "xyzw", "wxyz")
TURNS = ("0", "90", "180", "270", "mirror", "mirror90", "mirror180", "mirror270")
PRINCIPALS = ("given", "swapped", "middle")
MILLIMETRES = 1000.0  # of the depth files' units are a metre, unless something else is said
MIRROR = np.diag((1.0, -1.0, 1.0))  # of a left-handed world


@dataclass
class Convention:
    """What is different in the files of a data set from ScanNet's; the defaults are ScanNet's."""

    axes: str = OPENCV  # of the camera: opencv, opengl, unity, or right, down and forward in its axes, as x,-y,-z
    poses: str = "c2w"  # camera-to-world; w2c: world-to-camera; transposed: rotation of the one, position of the other
    quaternion: str = ""  # true order, xyzw or wxyz, if rotations were made of quaternions read in the other order
    pose_scale: float = 1.0  # factor on the positions of the cameras: 0.001 for millimetres
    depth_scale: float = MILLIMETRES  # units of the depth files per metre: 5000 in TUM's and ICL-NUIM's
    depth: str = "z"  # depth along the optical axis; ray: along the ray of each pixel
    shift: int = 0  # each frame has the pose file so many frames on, in the order of the indices
    intrinsics_size: str = ""  # of the images that the depth's intrinsics belong to, height x width; empty: the depth's
    focal_scale: float = 1.0  # factor on the depth's focal lengths
    principal: str = "given"  # the depth's principal point; swapped: cx is cy; middle: of the image
    turn: str = "0"  # degrees by which colour is turned clockwise to lie as depth; mirror…: mirrored before
    color_offset: str = ""  # x,y,z of the colour camera in the depth camera's axes, in metres
    color_focal_scale: float = 1.0  # factor on the colour's focal lengths
    mesh: str = (
        "world"  # frame of the recorded cloud: world; aligned; a scale, axes, or both; fused: from depth, no file
    )

    def __post_init__(self) -> None:
        axes_matrix(self.axes)
        for name, value, known in (
            ("poses", self.poses, POSES),
            ("quaternion", self.quaternion, QUATERNIONS),
            ("depth", self.depth, ("z", "ray")),
            ("turn", self.turn, TURNS),
            ("principal", self.principal, PRINCIPALS),
        ):
            if value not in known:
                listed = ", ".join(choice or "nothing" for choice in known)
                raise SightwordError(f"{name}={value!r} is not a convention. Pass one of {listed}")
        for name in ("pose_scale", "depth_scale", "focal_scale", "color_focal_scale"):
            if not 0 < getattr(self, name) < np.inf:
                raise SightwordError(f"{name}={getattr(self, name)} is not a factor. Pass a number above 0")
        self.size()
        self.offset()
        read_mesh(self.mesh)

    def size(self) -> tuple[int, int] | None:
        """Return `intrinsics_size` as (H, W). Raises SightwordError if it is none."""
        try:
            return height_width(read_size(self.intrinsics_size)) if self.intrinsics_size else None
        except SightwordError as error:
            raise SightwordError(f"intrinsics_size: {error}") from None

    def offset(self) -> np.ndarray:
        """Return `color_offset` as (3,) float64 metres. Raises SightwordError if it is none."""
        values = _numbers(self.color_offset) if self.color_offset else np.zeros(3)
        if values is None or values.shape != (3,):
            raise SightwordError(
                f"color_offset={self.color_offset!r} is not a position. Pass x,y,z in metres, for example 0.025,0,0"
            )
        return values

    def camera_to_world(self, files: np.ndarray) -> np.ndarray:
        """Return poses (..., 4, 4) float64, camera-to-world, OpenCV axes, metres, of the matrices in the files."""
        return moved(read_out(files, self.poses, self.quaternion), self.axes, self.pose_scale)

    def key(self) -> dict[str, object]:
        """Return the values that differ from ScanNet's, by name: what a lift was made with."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(Convention)}
        return {name: value for name, (value, usual) in values.items() if value != usual}

    def arguments(self, prefix: str = "") -> list[str]:
        """Return the values that differ from ScanNet's as they are typed."""
        return [f"{prefix}{name}={_typed(value)}" for name, value in self.key().items()]


def convention_of(config: object) -> Convention:
    """Return the convention of a config that has its fields among others."""
    return Convention(**{field.name: getattr(config, field.name) for field in fields(Convention)})


def _typed(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _numbers(text: str) -> np.ndarray | None:
    try:
        values = np.array([float(part) for part in re.split(r"[\s,]+", text.strip())])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


# --------------------------------------------------------------------------------------------------------------- axes


def axes_matrix(axes: str) -> np.ndarray:
    """Return (3, 3), whose columns are right, down and forward in the files' camera axes. Raises SightwordError."""
    found = _signed(NAMED.get(axes, axes))
    if found is None:
        raise SightwordError(
            f"axes={axes!r} are not axes of a camera. Pass opencv, opengl, unity, or where right, down and forward are "
            "in the files' axes, for example x,-y,-z"
        )
    return found


def _signed(text: str) -> np.ndarray | None:
    """Three different axes with signs, as columns; None for another text."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or any(not re.fullmatch(r"[+-]?[xyz]", part) for part in parts):
        return None
    if len({part[-1] for part in parts}) != 3:
        return None
    columns = np.zeros((3, 3))
    for column, part in enumerate(parts):
        columns["xyz".index(part[-1]), column] = -1.0 if part[0] == "-" else 1.0
    return columns


def every_axes() -> Iterator[str]:
    """Yield all 48 axes of a camera, as they are typed; 24 of them are of a left-handed world."""
    names = {value: name for name, value in NAMED.items()}
    for order, signs in product(permutations("xyz"), product(("", "-"), repeat=3)):
        text = ",".join(sign + axis for sign, axis in zip(signs, order, strict=True))
        yield names.get(text, text)


# -------------------------------------------------------------------------------------------------------------- poses


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
    turn = axes_matrix(axes)
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


# --------------------------------------------------------------------------------------------------------------- mesh


def read_mesh(mesh: str) -> tuple[float, np.ndarray] | None:
    """Return the scale and the axes (3, 3) that a cloud's coordinates are brought into the world with; None for
    aligned and fused, which are no such change. Raises SightwordError for another text."""
    if mesh in ("aligned", "fused"):
        return None
    scale, axes = 1.0, np.eye(3)
    if mesh != "world":
        first, _, rest = mesh.partition(",")
        number = _numbers(first)
        if number is not None:
            scale = float(number[0])
        turned = _signed(mesh if number is None else rest) if number is None or rest else np.eye(3)
        if turned is None or not scale > 0:
            raise SightwordError(
                f"mesh={mesh!r} is not a frame. Pass world, aligned (by the scan's axisAlignment), fused, a scale such "
                "as 0.001, axes such as x,z,-y, or both: 0.001,x,z,-y"
            )
        axes = turned
    return scale, axes
