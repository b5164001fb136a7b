"""Videos as frames at a fixed rate: video files by OpenCV, animated images and folders of numbered images by Pillow.

Frames come by their time stamps, so that videos of variable frame rate, as phones write, keep their speed. OpenCV turns
frames as the file's rotation says. A frame is (H, W, 3) uint8 RGB.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sightword.errors import MissingFileError, SightwordError, printable

if TYPE_CHECKING:
    import cv2

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp")
ANIMATED = (".gif", ".webp", ".png", ".apng", ".avif")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
OVERLAY = ".overlay"  # ends the names of videos that `overlay` writes: they are never read as videos of people
FOLDER_RATE = 30.0  # frames a second of a folder of images, which states none
FASTEST = 30.0  # of the default rate
NAMED = 1000.0  # a header's rate above which it is the unit of time rather than a rate


class Timed(NamedTuple):
    """A frame and when it is shown."""

    seconds: float
    image: np.ndarray  # (H, W, 3) uint8 RGB


class Source(Protocol):
    """A video that can be read several times, each time from its beginning."""

    rate: float  # frames in a second, on average, as the file says; 0: unknown
    count: int  # frames, as the file says; 0: unknown
    note: str  # what was assumed

    def __iter__(self) -> Iterator[Timed]: ...


class Video:
    """The frames of a video at a fixed rate, nearest in time. It can be read several times.

    fps: frames a second; 0: the video's average, 30 at most. Raises SightwordError if the file is no video, if it has
    no frame, or if what it needs is not installed.
    """

    def __init__(self, path: str | Path, fps: float = 0) -> None:
        self.path = Path(path).expanduser()
        self.source = source_of(self.path)
        self.own = self.source.rate or measured_rate(self.source)
        self.fps = float(fps or min(self.own, FASTEST))
        self.read = 0  # frames of the file, the last time that it was read to its end

    def __len__(self) -> int:
        """About how many frames there are; 0 if the file does not say."""
        return round(self.source.count * self.fps / self.own)

    def __iter__(self) -> Iterator[np.ndarray]:
        self.read = 0
        for image, times in at_rate(self._counted(), self.fps):
            for _ in range(times):
                yield image
        if not self.read:
            raise SightwordError(f"{self.path} has no frame that can be read. Open it in a player, and write it again")

    def _counted(self) -> Iterator[Timed]:
        shape = None
        for frame in self.source:
            shape = shape or frame.image.shape
            if frame.image.shape != shape:
                raise SightwordError(f"{self.path}: frame {self.read} is {frame.image.shape}, the first is {shape}")
            self.read += 1
            yield frame

    @property
    def notes(self) -> list[str]:
        """What was assumed, and what is missing; after it was read."""
        told = [self.source.note] if self.source.note else []
        if self.fps < self.own * 0.99 or self.fps > self.own * 1.01:
            told.append(f"its {self.own:.4g} frames a second are read as {self.fps:.4g}")
        if self.read < 0.9 * self.source.count:
            told.append(f"only {self.read} of the {self.source.count} frames that its header names could be read")
        return told


def at_rate(frames: Iterable[Timed], fps: float) -> Iterator[tuple[np.ndarray, int]]:
    """Yield each frame with how often it comes when a frame is shown every 1/fps seconds, the nearest in time.

    Frames that come never are left out. Times count from the first frame; a frame whose time is not after that of the
    one before it is left out.
    """
    start, last, made = None, None, 0
    for frame in frames:
        start = frame.seconds if start is None else start
        if last is not None and frame.seconds <= last.seconds:
            continue
        if last is not None:
            middle = (last.seconds + frame.seconds) / 2 - start
            if times := max(0, int(np.ceil(middle * fps - 1e-6)) - made):
                yield last.image, times
                made += times
        last = frame
    if last is not None and start is not None:
        times = int(np.floor((last.seconds - start) * fps + 1e-3)) + 1 - made
        if times > 0:
            yield last.image, times


def measured_rate(source: Source) -> float:
    """Return the frames a second of the first 60 frames of a file that does not say."""
    times = []
    for frame in source:
        times.append(frame.seconds)
        if len(times) == 60:
            break
    steps = [after - before for before, after in pairwise(times) if after > before]
    return round(1 / float(np.mean(steps)), 3) if steps else FOLDER_RATE


def source_of(path: Path) -> Source:
    """Return the reader of a file or folder. Raises SightwordError if it is none that is known."""
    if not path.exists():
        raise MissingFileError(f"{path} does not exist. Give a video, or a folder of videos or of numbered images")
    if path.is_dir():
        return ImageFolder(path)
    if path.suffix.lower() in ANIMATED:
        return Animation(path)
    return VideoFile(path)


def is_video(path: Path) -> bool:
    """Return whether a path is one video: a file by its suffix, or a folder of numbered images that are not figures."""
    if path.is_dir():
        images = numbered(path)
        return bool(images) and not _is_figure(images[0])
    if is_overlay(path):
        return False
    return path.suffix.lower() in (*VIDEOS, ".gif") or (path.suffix.lower() in ANIMATED and is_animated(path))


# ------------------------------------------------------------------------------------------------------------- OpenCV


class VideoFile:
    """A file that OpenCV opens, by the FFmpeg in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = self._open()
        import cv2

        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = float(rate) if 1 <= rate < NAMED else 0.0
        self.count = int(count) if 0 < count < 2**31 else 0
        turned = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
        self.note = f"frames are turned by {turned}°, as the file says" if turned else ""
        capture.release()

    def __iter__(self) -> Iterator[Timed]:
        import cv2

        capture, before, number = self._open(), -1.0, 0
        try:
            while capture.grab():
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                # some AVIs have no time stamps: they all are 0
                stamp = stamp if stamp > before or not self.rate else before + 1 / self.rate
                read, image = capture.retrieve()
                if read and image is not None:
                    yield Timed(stamp, np.ascontiguousarray(image[..., ::-1]))
                before, number = stamp, number + 1
        finally:
            capture.release()

    def _open(self) -> "cv2.VideoCapture":
        try:
            import cv2
        except ImportError:
            raise SightwordError(
                f"{self.path} needs a decoder: pip install 'sightword[video]'. Folders of numbered images and "
                "animated GIF, WebP and PNG are read without one"
            ) from None
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's messages name no file; ours do
        cv2.utils.logging.setLogLevel(0)
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise SightwordError(f"{self.path} {describe(self.path)}. Open it in a player, and write it again as .mp4")
        return capture


def describe(path: Path) -> str:
    """Return, as the rest of a sentence, what a file is that is no video."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not start:
        return "is empty"
    if b"ftyp" in start[:12]:
        return "cannot be opened as a video: its index is missing (moov), as after a broken recording or download"
    return f"is not a video that OpenCV can open: it begins with {printable(repr(start[:12]))}"


# ------------------------------------------------------------------------------------------------------------- Pillow


class Animation:
    """An animated GIF, WebP, PNG or AVIF."""

    def __init__(self, path: Path) -> None:
        self.path, self.rate, self.note = path, 0.0, ""
        with opened(path) as image:
            self.count = int(getattr(image, "n_frames", 1))

    def __iter__(self) -> Iterator[Timed]:
        seconds = 0.0
        with opened(self.path) as image:
            for number in range(self.count):
                try:
                    image.seek(number)
                    frame = np.asarray(image.convert("RGB"))
                except (OSError, EOFError, SyntaxError, ValueError):
                    return  # a truncated file: `Video.notes` says how many were read
                yield Timed(seconds, frame)
                # browsers show a frame that states less than 20 ms for 100 ms
                stated = float(image.info.get("duration") or 0) / 1000
                seconds += stated if stated >= 0.02 else 0.1


class ImageFolder:
    """A folder of images, a frame each, by the last number in their names."""

    def __init__(self, path: Path) -> None:
        self.path, self.rate = path, FOLDER_RATE
        self.files = numbered(path)
        if not self.files:
            raise SightwordError(
                f"{path} is a folder without videos or numbered images ({', '.join(IMAGES[:3])} …). Name the folder "
                "that has them"
            )
        self.count = len(self.files)
        self.note = f"a folder of {self.count} images is taken for {FOLDER_RATE:g} frames a second"

    def __iter__(self) -> Iterator[Timed]:
        for number, file in enumerate(self.files):
            with opened(file) as image:
                try:
                    frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
                except (OSError, SyntaxError, ValueError) as error:
                    raise SightwordError(f"{file} cannot be read ({error}). Remove it or write it again") from None
            yield Timed(number / FOLDER_RATE, frame)


def is_overlay(path: Path) -> bool:
    """Return whether a video is one of ours, by its name."""
    return path.stem.endswith(OVERLAY)


def _is_figure(image: Path) -> bool:
    """Whether this package drew an image."""
    if image.suffix.lower() != ".png":
        return False
    from sightword.data.image import is_ours  # it imports torch

    return is_ours(image)


def numbered(folder: Path) -> list[Path]:
    """Return the images of a folder whose names end in a number, by that number.

    Hidden ones and our own are skipped.
    """
    found = []
    for file in folder.iterdir():
        number = re.search(r"(\d+)\D*$", file.stem)
        hidden = file.name.startswith(".") or is_overlay(file)
        if number and file.suffix.lower() in IMAGES and not hidden:
            found.append((int(number[1]), file.name, file))
    return [file for *_, file in sorted(found)]


def opened(path: Path) -> Image.Image:
    """Return an image file. Raises SightwordError if Pillow cannot open it."""
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise SightwordError(f"{path} is not an image that can be read ({printable(str(error))})") from None


def is_animated(path: Path) -> bool:
    """Return whether an image file has several frames."""
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return False
