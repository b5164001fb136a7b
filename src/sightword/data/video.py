"""Frames of a video file, by OpenCV and the FFmpeg in it (extra `video`), which is imported when a file is opened."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sightword.errors import MissingFileError, SightwordError, printable

if TYPE_CHECKING:
    import cv2

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp")
NAMED = 1000.0  # a header's rate above which it is the unit of time rather than a rate


class VideoFrame(NamedTuple):
    """One frame; its pixels are made when they are asked for, before the next frame is."""

    seconds: float  # since the start of the video, by its time stamps
    pixels: Callable[[], np.ndarray | None]  # (H, W, 3) uint8 RGB; None for a frame that is damaged


class VideoFile:
    """The frames of a video file in their order. It can be read several times, each time from its beginning."""

    def __init__(self, path: Path, turned: bool = True) -> None:
        """turned: frames are turned as the file says; false: they lie as they are stored, as a sensor's depth does.

        Raises SightwordError if the file is missing or no video, or OpenCV is not installed.
        """
        self.path, self.turned = path, turned
        capture = self._open()
        import cv2

        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = float(rate) if 1 <= rate < NAMED else 0.0  # frames a second, on average; 0: unknown
        self.count = int(count) if 0 < count < 2**31 else 0  # frames, as the header says; 0: unknown
        angle = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
        self.note = f"frames are turned by {angle}°, as the file says" if angle and turned else ""
        capture.release()

    def __iter__(self) -> Iterator[VideoFrame]:
        import cv2

        capture, before = self._open(), -1.0

        def pixels() -> np.ndarray | None:
            read, image = capture.retrieve()
            return np.ascontiguousarray(image[..., ::-1]) if read and image is not None else None

        try:
            while capture.grab():
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                # some AVIs have no time stamps: they all are 0
                stamp = stamp if stamp > before or not self.rate else before + 1 / self.rate
                yield VideoFrame(stamp, pixels)
                before = stamp
        finally:
            capture.release()

    def _open(self) -> "cv2.VideoCapture":
        if not self.path.is_file():
            raise MissingFileError(f"{self.path} does not exist. Pass the file of a video")
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
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, float(self.turned))
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
