"""iPhone recordings of ScanNet++: rgb.mp4 (.mkv, or rgb/), depth.bin, and colmap/ with poses in metres.

depth.bin contains 192 × 256 pixels a frame, in one of three ways: one raw-deflate stream of float32 metres; or for each
frame a length (uint32) and either an LZ4 block of uint16 millimetres or a raw-deflate stream of float32 metres. Photos
of COLMAP's model are named by the number of the frame.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.points.capture.colmap import Camera, Photo, read_model
from sightword.systems.points.capture.film import Film
from sightword.systems.points.capture.frame import Candidate, Capture, Options, Shot, inner, pinhole, resized
from sightword.systems.points.capture.recognise import colmap_models

SIZE = (192, 256)
COUNT = SIZE[0] * SIZE[1]
CHUNK = 1 << 20  # bytes


def read(source: Path, options: Options) -> Capture:
    """Return a recording. Raises SightwordError for files that are missing or damaged, or without a video decoder."""
    folder = next((found[0] for part in ("colmap", ".") if (found := colmap_models(source / part))), None)
    file = source / "depth.bin"
    if folder is None or not file.is_file():
        raise SightwordError(
            f"{source} has no {'depth.bin' if folder else 'colmap/ with cameras, images and points3D'}"
        )
    model = read_model(folder)
    film = _film(source)
    depth = Depths(file)
    candidates, left_out = [], []
    for photo in sorted(model.photos.values(), key=lambda photo: photo.name):
        digits = Path(photo.name).stem.rpartition("_")[2]
        if not digits.isdecimal():
            left_out.append(f"{photo.name}: its name has no number of a frame")
            continue
        camera = model.cameras[photo.camera]
        candidates.append(
            Candidate(photo.name, partial(_shot, film, depth, int(digits), photo, camera, options), camera.size)
        )
    assumed = {
        "axes": "OpenCV",
        "poses": "of colmap/: world-to-camera, quaternion w x y z; inverted; in metres",
        "depth": f"{SIZE[1]} x {SIZE[0]}, {depth.kind}",
        "intrinsics": "of colmap/, less half a pixel; depth has the same field of view, without distortion",
    }
    return Capture(candidates, assumed, left_out)


def _film(source: Path) -> Callable[[int], Path | np.ndarray]:
    """A function from the number of a frame to its colour."""
    if (folder := source / "rgb").is_dir():
        return lambda number: next(
            iter(sorted(folder.glob(f"frame_{number:06d}.*"))), folder / f"frame_{number:06d}.jpg"
        )
    file = inner(source, "rgb.mp4", "rgb.mkv")
    if file is None:
        raise SightwordError(f"{source} has no rgb.mp4, rgb.mkv or rgb/")
    return Film(file).pixels


def _shot(
    film: Callable[[int], Path | np.ndarray],
    depth: "Depths",
    number: int,
    photo: Photo,
    camera: Camera,
    options: Options,
) -> Shot:
    pose = photo.pose()
    pose[:3, 3] *= options.scale or 1.0
    K = pinhole(*options.intrinsics) if options.intrinsics else camera.K
    K_depth = resized(camera.K, camera.size, SIZE)
    return Shot(film(number), K, depth.frame(number), pose, camera.size, K_depth, lens=camera.lens)


class Depths:
    """depth.bin, frame by frame; frames are asked for in ascending order, and those between are dropped."""

    def __init__(self, file: Path) -> None:
        self.file, self._next = file, 0
        self.kind, self._start = self._told()
        self._frames = self._start()

    def frame(self, number: int) -> np.ndarray:
        """Return depth (192, 256) float32 in metres. Raises SightwordError if the file has fewer frames."""
        if number < self._next:
            self._frames, self._next = self._start(), 0
        for values in self._frames:
            self._next += 1
            if self._next > number:
                return values()
        raise SightwordError(f"{self.file} has {self._next} frames, and frame {number} is one of the recording")

    def _told(self) -> tuple[str, Callable[[], Iterator[Callable[[], np.ndarray]]]]:
        """How the file is written, by its beginning."""
        with self.file.open("rb") as opened:
            start = opened.read(CHUNK)
        try:
            if len(zlib.decompressobj(-15).decompress(start, 4 * COUNT)) == 4 * COUNT:
                return "one raw-deflate stream of metres", self._stream
        except zlib.error:
            pass
        if len(start) < 4 or not 0 < struct.unpack_from("<I", start)[0] <= self.file.stat().st_size - 4:
            raise SightwordError(f"{self.file} is not depth of ScanNet++. Download it again")
        try:
            plain = zlib.decompressobj(-15).decompress(start[4 : 4 + struct.unpack_from("<I", start)[0]], 4 * COUNT + 1)
        except zlib.error:
            plain = b""
        if len(plain) == 4 * COUNT:
            return "raw-deflate of metres for each frame", partial(self._blocks, _deflated)
        return "LZ4 of millimetres for each frame", partial(self._blocks, _lz4())

    def _stream(self) -> Iterator[Callable[[], np.ndarray]]:
        """The frames of one raw-deflate stream; never more than one is in memory."""
        unpack, buffer = zlib.decompressobj(-15), b""
        with self.file.open("rb") as opened:
            rest = opened.read(CHUNK)
            while rest:
                try:
                    buffer += unpack.decompress(rest, 4 * COUNT - len(buffer))
                except zlib.error as error:
                    raise SightwordError(f"{self.file} is damaged ({error})") from None
                rest = unpack.unconsumed_tail or opened.read(CHUNK)
                if len(buffer) == 4 * COUNT:
                    yield partial(_metres, buffer)
                    buffer = b""
        buffer += unpack.flush()  # what the last bytes of the file still hold back
        if len(buffer) == 4 * COUNT:
            yield partial(_metres, buffer)

    def _blocks(self, unpack: Callable[[bytes], np.ndarray]) -> Iterator[Callable[[], np.ndarray]]:
        with self.file.open("rb") as opened:
            left = self.file.stat().st_size
            while len(head := opened.read(4)) == 4:
                (length,) = struct.unpack("<I", head)
                left -= 4 + length
                if left < 0:
                    raise SightwordError(f"{self.file} is cut off")
                yield partial(unpack, opened.read(length))


def _metres(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, "<f4").reshape(SIZE)


def _deflated(block: bytes) -> np.ndarray:
    try:
        raw = zlib.decompressobj(-15).decompress(block, 4 * COUNT + 1)
    except zlib.error as error:
        raise SightwordError(f"its depth is damaged ({error})") from None
    if len(raw) != 4 * COUNT:
        raise SightwordError(f"its depth has {len(raw)} bytes, expected {4 * COUNT}")
    return _metres(raw)


def _lz4() -> Callable[[bytes], np.ndarray]:
    try:
        module = import_module("lz4.block")
    except ImportError:
        raise SightwordError(
            "depth.bin is compressed by LZ4. Install its decoder: pip install 'sightword[scan]'"
        ) from None

    def unpack(block: bytes) -> np.ndarray:
        try:
            raw = module.decompress(block, uncompressed_size=2 * COUNT)
        except Exception as error:  # the extension has an exception of its own
            raise SightwordError(f"its depth is damaged ({type(error).__name__})") from None
        if len(raw) != 2 * COUNT:
            raise SightwordError(f"its depth has {len(raw)} bytes, expected {2 * COUNT}")
        return np.frombuffer(raw, "<u2").reshape(SIZE).astype(np.float32) / np.float32(1000)

    return unpack
