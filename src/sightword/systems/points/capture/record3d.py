"""Record3D's .r3d, a zip or the folder that it unpacks to: metadata (JSON) and rgbd/<i>.{jpg, depth, conf}.

Poses are [qx qy qz qw tx ty tz], camera-to-world with OpenGL axes. Depth is float32 in metres and confidence a byte of
0 to 2 for each pixel, both compressed by LZFSE. Intrinsics belong to the colour frames (w, h); depth (dw, dh) shows the
same view. Nothing of the zip is unpacked to disk.
"""

import zipfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import parse_json
from sightword.systems.points.capture.frame import (
    MOST_PIXELS,
    Candidate,
    Capture,
    Options,
    Shot,
    Size,
    from_opengl,
    pinhole,
    pose_of,
    rows_of,
    surely,
)

MOST = 1 << 28  # bytes of a part of the archive
SQUEEZED = (b"bvx", b"bv4")  # how LZFSE's blocks begin

Open = Callable[[str], bytes]  # a part by its name


def read(source: Path, options: Options) -> Capture:
    """Return a recording. Raises SightwordError for an archive or metadata that are damaged."""
    names, content = _parts(source)
    top = parse_json(content("metadata"), f"{source}/metadata")
    poses = rows_of(top.sequence("poses", least=1))
    color, depth = (_size(top, *keys) for keys in (("h", "w"), ("dh", "dw")))
    cameras = _cameras(top, len(poses), options)
    candidates, left_out = [], []
    for number, row in enumerate(poses):
        if lost := [end for end in ("jpg", "depth") if f"rgbd/{number}.{end}" not in names]:
            left_out.append(f"frame {number}: rgbd/{number}.{lost[0]} is missing")
            continue
        sure = f"rgbd/{number}.conf" in names
        candidates.append(
            Candidate(
                f"frame {number}",
                partial(_shot, content, number, row, cameras[number], color, depth, sure),
            )
        )
    if any(f"rgbd/{number}.depth" in names for number in range(len(poses))):
        _needs_lzfse(content, names)
    assumed = {
        "axes": "OpenGL",
        "poses": "camera-to-world, quaternion x y z w",
        "depth": "metres",
        "intrinsics": "as typed" if options.intrinsics else f"the file's, of images of {color[1]} x {color[0]}",
        "confidence": "1 of 2 or more",
    }
    return Capture(candidates, assumed, left_out)


def _needs_lzfse(content: Open, names: frozenset[str]) -> None:
    """Raise SightwordError at once if a decoder is needed and missing."""
    first = min(name for name in names if name.endswith(".depth"))
    if content(first)[:3] in SQUEEZED:
        _lzfse()


def _lzfse() -> Callable[[bytes], bytes]:
    try:
        module = import_module("lzfse")
    except ImportError:
        raise SightwordError(
            "depth of Record3D is compressed by LZFSE. Install its decoder: pip install 'sightword[scan]'"
        ) from None
    found: Callable[[bytes], bytes] = module.decompress
    return found


def _parts(source: Path) -> tuple[frozenset[str], Open]:
    """The names of a recording's parts, and a function that reads one."""
    if source.is_dir():
        names = frozenset(path.relative_to(source).as_posix() for path in source.glob("rgbd/*")) | {"metadata"}
        return names, lambda name: _limited((source / name).read_bytes(), name)
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise SightwordError(f"{source} is not readable as .r3d ({error}). Export it again") from None

    def part(name: str) -> bytes:
        try:
            if archive.getinfo(name).file_size > MOST:
                raise SightwordError(f"{source}: {name} has more than {MOST:,} bytes")
            with archive.open(name) as opened:
                return _limited(opened.read(MOST + 1), name)
        except (KeyError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise SightwordError(f"{source}: {name} is not readable ({' '.join(str(error).split())[:60]})") from None

    return frozenset(archive.namelist()), part


def _limited(content: bytes, name: str) -> bytes:
    if len(content) > MOST:
        raise SightwordError(f"{name} has more than {MOST:,} bytes")
    return content


def _size(top: Fields, high: str, wide: str) -> Size:
    size = top.integer(high, least=1), top.integer(wide, least=1)
    if size[0] * size[1] > MOST_PIXELS:
        raise top.error(f"{size[1]} x {size[0]} pixels are too many", wide)
    return size


def _cameras(top: Fields, count: int, options: Options) -> list[np.ndarray]:
    """K of each frame: their own, or the one that all have (column by column)."""
    if options.intrinsics:
        return [pinhole(*options.intrinsics)] * count
    if "perFrameIntrinsicCoeffs" in top and len(top.sequence("perFrameIntrinsicCoeffs")) == count:
        rows = rows_of(top.sequence("perFrameIntrinsicCoeffs"))
        if any(len(row) < 4 for row in rows):
            raise top.error("expected fx, fy, cx, cy of each frame", "perFrameIntrinsicCoeffs")
        return [pinhole(row[0], row[1], row[2], row[3]) for row in rows]
    K = np.array(top.numbers("K", least=9)[:9]).reshape(3, 3)
    if not K[0, 2] and not K[1, 2]:  # its principal point stands in the last row: column by column
        K = K.T
    return [pinhole(K[0, 0], K[1, 1], K[0, 2], K[1, 2])] * count


def _shot(content: Open, number: int, row: list[float], K: np.ndarray, color: Size, depth: Size, sure: bool) -> Shot:
    if len(row) != 7:
        raise SightwordError(f"its pose has {len(row)} numbers, expected qx qy qz qw tx ty tz")
    pose = from_opengl(pose_of(row[:4], row[4:]))
    values = _plain(content(f"rgbd/{number}.depth"), "<f4", depth)
    mask = surely(_plain(content(f"rgbd/{number}.conf"), "u1", depth)) if sure else None
    return Shot(content(f"rgbd/{number}.jpg"), K, values, pose, color, mask=mask)


def _plain(raw: bytes, kind: str, size: Size) -> np.ndarray:
    """The array (H, W) of compressed or plain bytes."""
    count = size[0] * size[1] * np.dtype(kind).itemsize
    if raw[:3] in SQUEEZED and len(raw) != count:
        try:
            raw = _lzfse()(raw)
        except SightwordError:
            raise
        except Exception as error:  # the extension has an exception of its own
            raise SightwordError(f"its depth or confidence is damaged ({type(error).__name__})") from None
    if len(raw) != count:
        raise SightwordError(f"its depth or confidence has {len(raw)} bytes, expected {count} ({size[1]} x {size[0]})")
    return np.frombuffer(raw, kind).reshape(size)
