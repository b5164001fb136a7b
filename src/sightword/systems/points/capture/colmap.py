"""COLMAP's sparse model, text or binary: cameras, images and points3D; photos alone, without depth.

A point of the model is visible in the photos of its track. Depth images are made of that: known only where a photo
observes a point, and around it, so that visibility is decided as for any other scene. Poses are world-to-camera,
quaternions w x y z. The middle of the first pixel is (0.5, 0.5) there and (0, 0) here. The world of a model has no
scale: one unit is taken to be so long that the median depth is 2 m, unless scale= says how many metres a unit is.

Legend: N points.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sightword.errors import SightwordError
from sightword.storage.ply import Cloud
from sightword.storage.reader import read_text
from sightword.systems.points.capture.frame import (
    Candidate,
    Capture,
    Options,
    Shot,
    Size,
    checked,
    from_world,
    pinhole,
    pose_of,
    resized,
)
from sightword.systems.points.capture.lens import Lens
from sightword.systems.points.capture.recognise import colmap_models

MOST = 1 << 31  # bytes of a file
MEDIAN = 2.0  # metres: the depth that half of the observations are nearer than
SIDE = 640  # pixels: the longer side of the depth images
REACH = 1  # pixels around an observed point in which depth is known
MODELS = {  # number → name, focal lengths, kind of lens, order of its numbers
    0: ("SIMPLE_PINHOLE", 1, "", ()),
    1: ("PINHOLE", 2, "", ()),
    2: ("SIMPLE_RADIAL", 1, "opencv", (0,)),
    3: ("RADIAL", 1, "opencv", (0, 1)),
    4: ("OPENCV", 2, "opencv", (0, 1, 2, 3)),
    5: ("OPENCV_FISHEYE", 2, "fisheye", (0, 1, 2, 3)),
    6: ("FULL_OPENCV", 2, "opencv", (0, 1, 2, 3, 4, 5, 6, 7)),
    7: ("FOV", 2, "fov", (0,)),
    8: ("SIMPLE_RADIAL_FISHEYE", 1, "fisheye", (0,)),
    9: ("RADIAL_FISHEYE", 1, "fisheye", (0, 1)),
    10: ("THIN_PRISM_FISHEYE", 2, "thin_prism", (0, 1, 2, 3, 4, 5, 6, 7)),
}
NUMBERS = {name: number for number, (name, *_) in MODELS.items()}


class Camera(NamedTuple):
    """Intrinsics of photos."""

    K: np.ndarray  # (3, 3), pixel middles are whole numbers
    lens: Lens
    size: Size


class Photo(NamedTuple):
    """A posed photo."""

    name: str
    camera: int
    quaternion: tuple[float, ...]  # w x y z
    place: tuple[float, ...]

    def pose(self) -> np.ndarray:
        """Camera-to-world, in the model's units. Raises SightwordError for numbers that are none."""
        w, x, y, z = self.quaternion
        return checked(from_world(pose_of((x, y, z, w), self.place)))


class Points(NamedTuple):
    """The sparse points."""

    xyz: np.ndarray  # (N, 3) float64
    rgb: np.ndarray  # (N, 3) uint8
    seen: dict[int, list[int]]  # number of a photo → its points


class Model(NamedTuple):
    """A sparse model."""

    cameras: dict[int, Camera]
    photos: dict[int, Photo]
    points: Points


def read(source: Path, options: Options) -> Capture:
    """Return the photos of a model. Raises SightwordError for files that are damaged, or photos that are missing."""
    folders = colmap_models(source)
    if not folders:
        raise SightwordError(f"{source} has no cameras, images and points3D of COLMAP, .bin or .txt")
    folder = folders[0]
    model = read_model(folder)
    images = _images(source, folder, model)
    poses, left_out = {}, []
    for number, photo in model.photos.items():
        if not (images / photo.name).is_file():
            left_out.append(f"{photo.name}: the image is missing in {images}")
        elif len(model.points.seen.get(number, ())) < 4:
            left_out.append(f"{photo.name}: it observes {len(model.points.seen.get(number, ()))} points")
        else:
            try:
                poses[number] = photo.pose()
            except SightwordError as error:
                left_out.append(f"{photo.name}: {error}")
    if not poses:
        raise SightwordError(f"{folder}: none of {len(model.photos)} photos can be used: {left_out[0]}")
    scale = options.scale or MEDIAN / _median_depth(model, poses)
    grid = _grid(model.cameras[model.photos[next(iter(poses))].camera])
    order = sorted(poses, key=lambda number: model.photos[number].name)
    candidates = [
        Candidate(
            model.photos[number].name,
            partial(_shot, model, number, poses[number], scale, grid, images, options),
            model.cameras[model.photos[number].camera].size,
        )
        for number in order
    ]
    assumed = {
        "axes": "OpenCV",
        "poses": "world-to-camera, quaternion w x y z; inverted",
        "depth": "none in the source: made of the observed points, known only around these",
        "scale": f"{scale:.6g} metres per unit, "
        + ("as typed" if options.scale else f"so that the median depth is {MEDIAN:g} m: the source has no scale"),
        "intrinsics": "as typed" if options.intrinsics else "the file's, less half a pixel",
        "cloud": f"{len(model.points.xyz)} sparse points",
        "model": f"{folder}" + (f", the largest of {len(folders)}" if len(folders) > 1 else ""),
    }
    return Capture(candidates, assumed, left_out, _cloud(model.points, scale))


def _images(source: Path, folder: Path, model: Model) -> Path:
    """The folder of the photos."""
    first = next(iter(model.photos.values())).name
    places = [source, folder, *folder.parents[:3]]
    found = next(
        (place / part for place in places for part in ("images", "") if (place / part / first).is_file()), None
    )
    if found is None:
        others = [place / "images" for place in places if (place / "images").is_dir()]
        if not others:
            raise SightwordError(
                f"{source} has no folder images/ with {first}. Pass the project's folder, with images/ and sparse/0/"
            )
        return others[0]
    return found


def _median_depth(model: Model, poses: dict[int, np.ndarray]) -> float:
    depths = [_seen_from(model.points.xyz[model.points.seen[number]], pose)[:, 2] for number, pose in poses.items()]
    ahead = np.concatenate(depths)
    ahead = ahead[ahead > 0]
    if not len(ahead):
        raise SightwordError("no point of the model lies ahead of a photo that observes it: it is not COLMAP's")
    return float(np.median(ahead))


def _seen_from(xyz: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (N, 3) in the camera's axes."""
    found: np.ndarray = (xyz - pose[:3, 3]) @ pose[:3, :3]
    return found


def _grid(camera: Camera) -> tuple[np.ndarray, Size]:
    """The camera of all depth images: a photo's, without distortion and of at most `SIDE` pixels."""
    share = min(1.0, SIDE / max(camera.size))
    size = max(1, round(camera.size[0] * share)), max(1, round(camera.size[1] * share))
    return resized(camera.K, camera.size, size), size


def _shot(
    model: Model,
    number: int,
    pose: np.ndarray,
    scale: float,
    grid: tuple[np.ndarray, Size],
    images: Path,
    options: Options,
) -> Shot:
    photo = model.photos[number]
    camera = model.cameras[photo.camera]
    K = pinhole(*options.intrinsics) if options.intrinsics else camera.K
    metric = pose.copy()
    metric[:3, 3] *= scale
    points = model.points.xyz[model.points.seen[number]] * scale
    depth = splat(_seen_from(points, metric), *grid)
    return Shot(images / photo.name, K, depth, metric, camera.size, grid[0], lens=camera.lens)


def splat(points: np.ndarray, K: np.ndarray, size: Size) -> np.ndarray:
    """Return a depth image (H, W) float32 that is known around the pixels of points (N, 3) in the camera's axes.

    The pixel of a point has the point's own depth, and those around it that of the nearest point near them.
    """
    depth = np.zeros(size, np.float32)
    points = points[points[:, 2] > 0]
    points = points[np.argsort(-points[:, 2], kind="stable")]  # the nearer is written later
    z = points[:, 2]
    u = np.rint(points[:, 0] / z * K[0, 0] + K[0, 2])
    v = np.rint(points[:, 1] / z * K[1, 1] + K[1, 2])
    around = [(dv, du) for dv in range(-REACH, REACH + 1) for du in range(-REACH, REACH + 1) if dv or du]
    for dv, du in [*around, (0, 0)]:
        kept = (u + du >= 0) & (u + du < size[1]) & (v + dv >= 0) & (v + dv < size[0])
        depth[(v[kept] + dv).astype(int), (u[kept] + du).astype(int)] = z[kept]
    return depth


def _cloud(points: Points, scale: float) -> Cloud:
    xyz = (points.xyz * scale).astype(np.float32)
    return Cloud(torch.from_numpy(xyz), torch.from_numpy(points.rgb.copy()))


# ----------------------------------------------------------------------------------------------------------- reading


def read_model(folder: Path) -> Model:
    """Return the model in a folder, of .bin or .txt files. Raises SightwordError, with the file, for damaged ones."""
    binary = (folder / "cameras.bin").is_file()
    parts = (_cameras_bin, _photos_bin, _points_bin) if binary else (_cameras_txt, _photos_txt, _points_txt)
    found: list[object] = []
    for name, part in zip(("cameras", "images", "points3D"), parts, strict=True):
        file = folder / f"{name}.{'bin' if binary else 'txt'}"
        try:
            found.append(part(_bytes(file)) if binary else part(read_text(file, most=MOST)))  # type: ignore[operator]
        except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
            if isinstance(error, SightwordError):
                raise SightwordError(str(error) if str(file) in str(error) else f"{file}: {error}") from None
            reason = " ".join(str(error).split())[:60]
            raise SightwordError(f"{file} is not readable as COLMAP's ({reason}): it may be cut off") from None
    cameras, photos, points = found
    assert isinstance(cameras, dict) and isinstance(photos, dict) and isinstance(points, Points)  # noqa: PT018
    if lost := [photo.name for photo in photos.values() if photo.camera not in cameras]:
        raise SightwordError(f"{folder}: the camera of {lost[0]} is missing in cameras")
    if not photos or not len(points.xyz):
        raise SightwordError(f"{folder} has {len(photos)} photos and {len(points.xyz)} points: the model is empty")
    return Model(cameras, photos, points)


def _bytes(file: Path) -> bytes:
    if file.stat().st_size > MOST:
        raise SightwordError(f"{file} has {file.stat().st_size:,} bytes, at most {MOST:,} are read")
    return file.read_bytes()


def _camera(model: str, width: int, height: int, values: Sequence[float]) -> Camera:
    if model not in NUMBERS:
        raise SightwordError(f"the camera model {model} is not read; undistort the images by: colmap image_undistorter")
    _, focals, kind, order = MODELS[NUMBERS[model]]
    fx, fy = (values[0], values[focals - 1])
    cx, cy = values[focals], values[focals + 1]
    rest = values[focals + 2 :]
    lens = Lens(kind, tuple(rest[at] for at in order)) if kind else Lens()
    return Camera(pinhole(fx, fy, cx - 0.5, cy - 0.5), lens, (height, width))


class _Stream:
    """Bytes that are taken one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, layout: str) -> tuple[float, ...]:
        values = struct.unpack_from(f"<{layout}", self.content, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def whole(self, layout: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self.take(layout))

    def count(self, least: int) -> int:
        """A number of records that have at least so many bytes each."""
        (found,) = self.whole("Q")
        if found * least > len(self.content) - self.at:
            raise SightwordError(f"it names {found} records, which do not fit into the file: it is cut off")
        return found

    def text(self) -> str:
        end = self.content.index(b"\0", self.at, self.at + 4096)
        found = self.content[self.at : end].decode("utf-8")
        self.at = end + 1
        return found


def _cameras_bin(content: bytes) -> dict[int, Camera]:
    stream, found = _Stream(content), {}
    for _ in range(stream.count(48)):
        number, model = stream.whole("ii")
        width, height = stream.whole("QQ")
        if model not in MODELS:
            raise SightwordError(f"the camera model {model} is not read; undistort by: colmap image_undistorter")
        name, focals, _, order = MODELS[model]
        found[number] = _camera(name, width, height, stream.take(f"{focals + 2 + len(order)}d"))
    return found


def _photos_bin(content: bytes) -> dict[int, Photo]:
    stream, found = _Stream(content), {}
    for _ in range(stream.count(73)):
        (number,) = stream.whole("i")
        values = stream.take("7d")
        (camera,) = stream.whole("i")
        found[number] = Photo(_name(stream.text()), camera, values[:4], values[4:])
        observations = stream.count(24)
        stream.at += 24 * observations
    return found


def _points_bin(content: bytes) -> Points:
    stream = _Stream(content)
    rows: list[tuple[tuple[float, ...], tuple[int, ...], Sequence[int]]] = []
    for _ in range(stream.count(51)):
        stream.at += 8
        xyz, rgb = stream.take("3d"), stream.whole("3B")
        stream.at += 8
        track = stream.count(8)
        rows.append((xyz, rgb, stream.whole(f"{2 * track}i")[::2]))
    return _points(rows)


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.split()


def _cameras_txt(text: str) -> dict[int, Camera]:
    return {
        int(row[0]): _camera(row[1], int(row[2]), int(row[3]), [float(word) for word in row[4:]]) for row in _rows(text)
    }


def _photos_txt(text: str) -> dict[int, Photo]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = {}
    for line in lines[::2]:  # the second of each pair has the observations; it may be empty
        if not line.strip():
            continue
        number, *values = line.split(maxsplit=9)
        seven = tuple(float(word) for word in values[:7])
        found[int(number)] = Photo(_name(values[8].strip()), int(values[7]), seven[:4], seven[4:])
    return found


def _points_txt(text: str) -> Points:
    return _points(
        [
            (tuple(map(float, row[1:4])), tuple(map(int, row[4:7])), [int(word) for word in row[8::2]])
            for row in _rows(text)
        ]
    )


def _points(rows: list[tuple[tuple[float, ...], tuple[int, ...], Sequence[int]]]) -> Points:
    kept = [row for row in rows if np.isfinite(row[0]).all()]
    seen: dict[int, list[int]] = {}
    for at, (_, _, track) in enumerate(kept):
        for number in dict.fromkeys(track):
            seen.setdefault(number, []).append(at)
    xyz = np.array([row[0] for row in kept], np.float64).reshape(-1, 3)
    return Points(xyz, np.array([row[1] for row in kept], np.uint8).reshape(-1, 3), seen)


def _name(name: str) -> str:
    """An image's name. Raises SightwordError for one that leads out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise SightwordError(f"the image name {name[:60]!r} leads out of the folder of the images")
    return name
