"""Frames of a video, by whichever decoder is installed: PyAV, or OpenCV."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from sightword.errors import MissingFileError, SightwordError

DECODERS = ("av", "cv2")


class VideoFrame(NamedTuple):
    """One frame; its pixels are made when they are asked for, before the next frame is."""

    seconds: float  # since the start of the video, by its time stamps
    pixels: Callable[[], np.ndarray]  # (H, W, 3) uint8 RGB, as they are stored: a rotation in the header is not applied


def frames(path: Path) -> Iterator[VideoFrame]:
    """Yield the frames of a video in their order.

    Raises SightwordError if the file is missing, contains no video that can be decoded, or no decoder is installed.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist. Pass the file of a video")
    for name in DECODERS:
        try:
            module = import_module(name)
        except ImportError:
            continue
        return _by_av(module, path) if name == "av" else _by_opencv(module, path)
    raise SightwordError(f"{path}: reading a video needs a decoder. Install one: pip install 'sightword[video]'")


def _by_av(av: ModuleType, path: Path) -> Iterator[VideoFrame]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SightwordError(f"{path} contains no video. Pass another file")
            for frame in container.decode(video=0):
                yield VideoFrame(float(frame.time or 0.0), lambda frame=frame: frame.to_ndarray(format="rgb24"))  # type: ignore[misc]
    except av.error.FFmpegError as error:
        raise SightwordError(f"{path} is not readable as a video ({_line(error)}). Export it again") from None


def _by_opencv(cv2: ModuleType, path: Path) -> Iterator[VideoFrame]:
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise SightwordError(f"{path} is not readable as a video. Export it again")
        video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        while video.grab():
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield VideoFrame(float(seconds), lambda: np.ascontiguousarray(video.retrieve()[1][..., ::-1]))
    finally:
        video.release()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:80]
