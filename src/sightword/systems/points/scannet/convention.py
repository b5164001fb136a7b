"""The conventions of a data set's files: camera axes, direction of poses, units, sizes. No torch and no
NumPy here: the command line imports it.

The defaults are ScanNet's, as the rest of `points` computes: poses camera-to-world in metres; the camera's x right, y
down, z forward; depth along z in millimetres; intrinsics of the depth images as they are. Each field is an option of
`lift`, `ask`, `compare`, `check` and of `data` with the same name and meaning: files that follow another convention
are read, not rewritten. `points.doctor` finds the values that fit.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import permutations, product

from sightword.data.size import height_width, read_size
from sightword.errors import SightwordError

OPENCV, OPENGL, UNITY = "opencv", "opengl", "unity"
NAMED = {OPENCV: "x,y,z", OPENGL: "x,-y,-z", UNITY: "x,-y,z"}  # right, down, forward
POSES = ("c2w", "w2c", "transposed")
QUATERNIONS = ("", "xyzw", "wxyz")
TURNS = ("0", "90", "180", "270", "mirror", "mirror90", "mirror180", "mirror270")
PRINCIPALS = ("given", "swapped", "middle")
MILLIMETRES = 1000.0  # of the depth files' units are a metre, unless something else is said


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
    mesh: str = "world"  # of the recorded cloud: world, aligned, a scale, axes or both; fused: none is read

    def __post_init__(self) -> None:
        read_axes(self.axes)
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
            if not 0 < getattr(self, name) < math.inf:
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

    def offset(self) -> tuple[float, float, float]:
        """Return `color_offset` in metres. Raises SightwordError if it is none."""
        x, y, z = (_numbers(self.color_offset) or (math.nan,) * 3) if self.color_offset else (0.0, 0.0, 0.0)
        if math.isnan(x):
            raise SightwordError(
                f"color_offset={self.color_offset!r} is not a position. Pass x,y,z in metres, for example 0.025,0,0"
            )
        return x, y, z

    @property
    def moves_poses(self) -> bool:
        """Whether the matrices in the pose files are not yet the poses."""
        return (self.axes, self.poses, self.quaternion, self.pose_scale) != (OPENCV, "c2w", "", 1.0)

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


def _numbers(text: str) -> tuple[float, float, float] | None:
    """Three numbers with commas or blanks between them; None for another text."""
    try:
        values = [float(part) for part in re.split(r"[\s,]+", text.strip())]
    except ValueError:
        return None
    return (values[0], values[1], values[2]) if len(values) == 3 and all(map(math.isfinite, values)) else None


Axes = tuple[tuple[str, int], tuple[str, int], tuple[str, int]]  # right, down, forward: an axis of the files and a sign


def read_axes(axes: str) -> Axes:
    """Return the axes of a camera that a text names. Raises SightwordError for another text."""
    found = signed_axes(NAMED.get(axes, axes))
    if found is None:
        raise SightwordError(
            f"axes={axes!r} are not axes of a camera. Pass opencv, opengl, unity, or where right, down and forward are "
            "in the files' axes, for example x,-y,-z"
        )
    return found


def signed_axes(text: str) -> Axes | None:
    """Return three different axes with their signs, of x,-y,-z; None for another text."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or any(not re.fullmatch(r"[+-]?[xyz]", part) for part in parts):
        return None
    if len({part[-1] for part in parts}) != 3:
        return None
    first, second, third = ((part[-1], -1 if part[0] == "-" else 1) for part in parts)
    return first, second, third


def every_axes() -> Iterator[str]:
    """Yield all 48 axes of a camera, as they are typed; 24 of them are of a left-handed world."""
    names = {value: name for name, value in NAMED.items()}
    for order, signs in product(permutations("xyz"), product(("", "-"), repeat=3)):
        text = ",".join(sign + axis for sign, axis in zip(signs, order, strict=True))
        yield names.get(text, text)


def read_mesh(mesh: str) -> tuple[float, Axes] | None:
    """Return the scale and the axes that a cloud's coordinates are brought into the world with; None for aligned and
    fused, which are no such change. Raises SightwordError for another text."""
    if mesh in ("aligned", "fused"):
        return None
    first, comma, rest = mesh.partition(",")
    scale, axes = 1.0, signed_axes("x,y,z" if mesh == "world" else mesh)
    if axes is None:
        try:
            scale = float(first)
        except ValueError:
            scale = math.nan
        axes = signed_axes(rest if comma else "x,y,z")
    if axes is None or not 0 < scale < math.inf:
        raise SightwordError(
            f"mesh={mesh!r} is not a frame. Pass world, aligned (by the scan's axisAlignment), fused, a scale such as "
            "0.001, axes such as x,z,-y, or both: 0.001,x,z,-y"
        )
    return scale, axes
