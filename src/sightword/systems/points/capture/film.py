"""The colour of phone recordings: frames of a video by their numbers, each decoded once and in order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sightword.data import video
from sightword.data.video import VideoFrame
from sightword.errors import SightwordError


class Film:
    """A video whose frames are asked for in ascending order: what lies between is decoded and dropped."""

    def __init__(self, path: Path) -> None:
        self.path, self._next = path, 0
        self._frames: Iterator[VideoFrame] = video.frames(path)  # says at once if there is no decoder

    def pixels(self, number: int) -> np.ndarray:
        """Return the frame of a number from 0, (H, W, 3) uint8. Raises SightwordError if the video has fewer."""
        if number < self._next:
            self._frames, self._next = video.frames(self.path), 0
        for frame in self._frames:
            self._next += 1
            if self._next > number:
                return frame.pixels()
        raise SightwordError(f"{self.path} has {self._next} frames, and frame {number} is one of the recording")
