"""nerfstudio's transforms.json: camera-to-world with OpenGL axes, intrinsics at the top or in every frame.

Depth is a PNG of 16 bits, or a .npy, in millimetres unless said otherwise; it shows what colour shows, through the same
lens, and may be smaller. mask_path is black where pixels are to be ignored. The principal point counts from the corner
of the image, where here it counts from the middle of the first pixel: 0.5 is subtracted. What the loader of nerfstudio
does to the world when it trains (centring, scaling) is not in the file and is not done.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json
from sightword.systems.points.capture.frame import (
    Candidate,
    Capture,
    Options,
    Shot,
    array_file,
    checked,
    cloud_in,
    depth_file,
    four,
    from_opengl,
    pinhole,
    rows_of,
)
from sightword.systems.points.capture.lens import Lens

SUFFIXES = ("", ".png", ".jpg", ".jpeg")
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE", "")


def read(source: Path, options: Options) -> Capture:
    """Return a data set. Raises SightwordError for a transforms.json that is damaged, or whose frames have no depth."""
    top = read_json(source / "transforms.json")
    candidates, left_out = [], []
    for frame in top.mappings("frames", least=1):
        name = frame.text("file_path")
        color = next((path for end in SUFFIXES if (path := source / f"{name}{end}").is_file()), None)
        depth = source / frame.text("depth_file_path") if "depth_file_path" in frame else None
        if color is None or depth is None or not depth.is_file():
            left_out.append(f"{name}: its {'image' if color is None else 'depth'} is missing")
            continue
        candidates.append(Candidate(name, partial(_shot, source, top, frame, color, depth, options)))
    left_out += _unposed(source, [frame.text("file_path") for frame in top.mappings("frames")])
    if not candidates and any("depth" in line for line in left_out):
        raise SightwordError(
            f"{source}/transforms.json: no frame has depth (depth_file_path). Import the COLMAP model that it was made "
            f"of, perhaps src={source}/colmap/sparse/0 format=colmap, or add depth"
        )
    cloud = cloud_in(source / top.text("ply_file_path")) if "ply_file_path" in top else None
    assumed = {
        "axes": "OpenGL",
        "poses": "camera-to-world",
        "depth": f"{options.depth_scale or 1000:g} units per metre, through the lens of colour",
        "scale": f"{options.scale or 1:g} metres per unit of the poses",
        "intrinsics": "as typed" if options.intrinsics else "the file's, less half a pixel",
    }
    if "applied_transform" in top:
        assumed["applied_transform"] = "kept: the world is that of the file"
    if "applied_scale" in top and not options.scale:
        assumed["applied_scale"] = f"{top.number('applied_scale'):g}, not undone: pass scale= if depth disagrees"
    if cloud is not None and options.scale:
        cloud = cloud._replace(xyz=cloud.xyz * options.scale)
    return Capture(candidates, assumed, left_out, cloud)


def _unposed(source: Path, names: Sequence[str]) -> list[str]:
    """A line for each image beside those of the frames, named as they are, of which there is no pose."""
    paths = [source / name for name in names]
    folders = sorted({path.parent for path in paths if path.parent.is_dir()})
    known = {path.parent / path.name.removesuffix(path.suffix if path.suffix in SUFFIXES else "") for path in paths}
    alike = {re.sub(r"\d+", "0", path.name) for path in known}
    return [
        f"{path.name}: transforms.json has no pose of it"
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix in SUFFIXES[1:] and path.with_suffix("") not in known and re.sub(r"\d+", "0", path.stem) in alike
    ]


def _shot(source: Path, top: Fields, frame: Fields, color: Path, depth: Path, options: Options) -> Shot:
    K, size, lens = _camera(top, frame, options, color)
    pose = from_opengl(four(np.array(rows_of(frame.sequence("transform_matrix")))))
    pose[:3, 3] *= options.scale or 1.0
    mask = _mask(source / frame.text("mask_path")) if "mask_path" in frame else None
    values = _depth(depth, options.depth_scale or 1000.0)
    return Shot(color, K, values, checked(pose), size, None, None, lens, lens, mask)


def _camera(
    top: Fields, frame: Fields, options: Options, color: Path
) -> tuple[np.ndarray, tuple[int, int] | None, Lens]:
    """Intrinsics, the size that they are of, and the lens; a frame's own values come before those at the top."""

    def value(name: str, usual: float = math.nan) -> float:
        return frame.number(name) if name in frame else top.number(name) if name in top else usual

    model = frame.text("camera_model", top.text("camera_model", "OPENCV"))
    if model == "OPENCV_FISHEYE":
        lens = Lens("fisheye", tuple(value(name, 0.0) for name in ("k1", "k2", "k3", "k4")))
    elif model in PINHOLES:
        lens = Lens("opencv", tuple(value(name, 0.0) for name in ("k1", "k2", "p1", "p2", "k3")))
    else:
        raise SightwordError(f"camera_model {model!r} is not a perspective camera")
    w, h = value("w"), value("h")
    size = (int(h), int(w)) if w > 0 and h > 0 else None
    if options.intrinsics:
        return pinhole(*options.intrinsics), size, lens
    if size is None or not value("fl_x") > 0:
        with Image.open(color) as image:
            size = size or (image.height, image.width)
    focal = value("fl_x")
    if not focal > 0:  # as in the sets that Blender rendered
        focal = 0.5 * size[1] / math.tan(0.5 * value("camera_angle_x"))
    cx, cy = value("cx", size[1] / 2), value("cy", size[0] / 2)
    return pinhole(focal, value("fl_y", focal), cx - 0.5, cy - 0.5), size, lens


def _depth(path: Path, unit: float) -> np.ndarray:
    if path.suffix.lower() != ".npy":
        return depth_file(path, unit)
    values = array_file(path)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fui":
        raise SightwordError(
            f"{path} has the shape {values.shape} of {values.dtype}, expected height x width of numbers"
        )
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0).astype(np.float32) / np.float32(unit)


def _mask(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            kept: np.ndarray = np.asarray(image.convert("L")) > 0
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like
        raise SightwordError(f"{path} is not readable as a mask ({type(error).__name__})") from None
    return kept
