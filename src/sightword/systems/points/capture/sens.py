"""ScanNet's .sens, version 4, little-endian: cameras, then frames of pose, compressed colour and compressed depth.

The file is streamed: frames are found by their lengths, and only the chosen ones are read. Every length is compared
with the bytes that are left. Poses are camera-to-world with OpenCV axes; `depth shift` is the units per metre. The
colour camera's extrinsics are not applied, as ScanNet's authors ask.
"""

import struct
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.points.capture.frame import (
    MOST_PIXELS,
    Candidate,
    Capture,
    Options,
    Shot,
    checked,
    four,
    pinhole,
)

FRAME = struct.Struct("<16f4Q")  # pose, times of colour and depth, bytes of colour and depth
MOST_LOST = 100_000  # frames that are named as lost
IMAGES, RAW, ZLIB = (1, 2), 0, 1


class _Head(NamedTuple):
    K_color: np.ndarray
    K_depth: np.ndarray
    depth_kind: int
    color_kind: int
    color: tuple[int, int]
    depth: tuple[int, int]
    unit: float
    frames: int


class _Place(NamedTuple):
    pose: np.ndarray
    start: int  # of the colour's bytes in the file
    color: int  # bytes
    depth: int


def read(source: Path, options: Options) -> Capture:
    """Return a recording. Raises SightwordError for a file of another version, or one that is damaged or cut off."""
    file = _file(source)
    left_out: list[str] = []
    with file.open("rb") as opened:
        head = _head(opened, file)
        places = _places(opened, file, head, left_out)
    unit = options.depth_scale or head.unit
    K = pinhole(*options.intrinsics) if options.intrinsics else head.K_color
    head = head._replace(unit=unit, K_color=K)
    candidates = [Candidate(f"frame {number}", partial(_shot, file, place, head)) for number, place in places.items()]
    stem = file.stem
    files = [
        (path, f"{{name}}{end}")
        for end in (".txt", "_vh_clean_2.ply", "_vh_clean_2.labels.ply")
        if (path := file.with_name(f"{stem}{end}")).is_file()
    ]
    assumed = {
        "axes": "OpenCV",
        "poses": "camera-to-world",
        "depth": f"{unit:g} units per metre",
        "intrinsics": "the file's; the extrinsics of colour are not applied",
        "cloud": next((path.name for path, name in files if name.endswith("_2.ply")), "none"),
    }
    return Capture(candidates, assumed, left_out, files=files)


def _file(source: Path) -> Path:
    if source.is_file():
        return source
    files = sorted(source.glob("*.sens"))
    if len(files) != 1:
        raise SightwordError(f"{source} has {len(files)} .sens files. Pass one of them as src")
    return files[0]


def _take(opened: BinaryIO, count: int, file: Path) -> bytes:
    raw = opened.read(count)
    if len(raw) != count:
        raise SightwordError(f"{file} ends too early, at byte {opened.tell()}: the file is cut off. Download it again")
    return raw


def _numbers(opened: BinaryIO, layout: str, file: Path) -> tuple[int, ...]:
    return struct.unpack(f"<{layout}", _take(opened, struct.calcsize(f"<{layout}"), file))


def _head(opened: BinaryIO, file: Path) -> _Head:
    (version,) = _numbers(opened, "I", file)
    if version != 4:
        raise SightwordError(f"{file} is of version {version}; expected a .sens of version 4")
    (length,) = _numbers(opened, "Q", file)
    if length > 4096:
        raise SightwordError(f"{file}: the name of its sensor has {length} bytes: the file is damaged")
    _take(opened, length, file)
    cameras = [four(np.frombuffer(_take(opened, 64, file), "<f4")) for _ in range(4)]
    color_kind, depth_kind = _numbers(opened, "2i", file)
    w, h, wide, high = _numbers(opened, "4I", file)
    (unit,) = struct.unpack("<f", _take(opened, 4, file))
    (frames,) = _numbers(opened, "Q", file)
    if not (0 < w * h < MOST_PIXELS and 0 < wide * high < MOST_PIXELS and 0 < unit < 1e6):
        raise SightwordError(f"{file}: images of {w} x {h} and {wide} x {high}, {unit:g} units per metre: damaged")
    if depth_kind not in (RAW, ZLIB):
        raise SightwordError(
            f"{file}: its depth is compressed by method {depth_kind}; only 0 (raw) and 1 (zlib) are read"
        )
    K_color, K_depth = (pinhole(*camera[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()) for camera in (cameras[0], cameras[2]))
    return _Head(K_color, K_depth, depth_kind, color_kind, (h, w), (high, wide), float(unit), frames)


def _lost(first: int, head: _Head, why: str) -> list[str]:
    """A line for each frame from the first on; a damaged header may promise any number of them."""
    return [f"frame {number}: {why}" for number in range(first, min(head.frames, first + MOST_LOST))]


def _places(opened: BinaryIO, file: Path, head: _Head, left_out: list[str]) -> dict[int, _Place]:
    """Number → where a frame is, of those whose pose is finite."""
    size, found = file.stat().st_size, {}
    for number in range(head.frames):
        raw = opened.read(FRAME.size)
        if len(raw) < FRAME.size:
            left_out += _lost(number, head, "the file ends before it")
            break
        *pose, _, _, color, depth = FRAME.unpack(raw)
        start = opened.tell()
        if color + depth > size - start:
            left_out += _lost(number, head, f"the file is cut off or damaged at byte {start}")
            break
        opened.seek(color + depth, 1)
        try:
            found[number] = _Place(checked(four(pose)), start, color, depth)
        except SightwordError as error:
            left_out.append(f"frame {number}: {error}")
    return found


def _shot(file: Path, place: _Place, head: _Head) -> Shot:
    with file.open("rb") as opened:
        opened.seek(place.start)
        color, raw = _take(opened, place.color, file), _take(opened, place.depth, file)
    high, wide = head.depth
    count = 2 * high * wide
    if head.depth_kind == ZLIB:
        try:
            raw = zlib.decompressobj().decompress(raw, count + 1)
        except zlib.error as error:
            raise SightwordError(f"its depth is damaged ({error})") from None
    if len(raw) != count:
        raise SightwordError(f"its depth has {len(raw)} bytes, expected {count}")
    values = np.frombuffer(raw, "<u2").reshape(high, wide)
    depth = np.where(values == 65535, 0, values).astype(np.float32) / np.float32(head.unit)
    pixels = color if head.color_kind in IMAGES else _raw(color, head.color)
    return Shot(pixels, head.K_color, depth, place.pose, head.color, head.K_depth)


def _raw(content: bytes, size: tuple[int, int]) -> np.ndarray:
    if len(content) != 3 * size[0] * size[1]:
        raise SightwordError(f"its colour has {len(content)} bytes, expected {3 * size[0] * size[1]}")
    return np.frombuffer(content, np.uint8).reshape(*size, 3)
