"""The colour of phone recordings: frames of a video by their numbers, each decoded once and in order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sightword.data.video import VideoFile, VideoFrame
from sightword.errors import SightwordError


class Film:
    """A video whose frames are asked for in ascending order: what lies between is skipped.

    Frames lie as the sensor's depth does: a rotation in the header is not applied.
    """

    def __init__(self, path: Path) -> None:
        self.video, self._next = VideoFile(path, turned=False), 0  # says at once if there is no decoder
        self._frames: Iterator[VideoFrame] = iter(self.video)

    def pixels(self, number: int) -> np.ndarray:
        """Return the frame of a number from 0, (H, W, 3) uint8.

        Raises SightwordError if the video has fewer, or the frame is damaged.
        """
        if number < self._next:
            self._frames, self._next = iter(self.video), 0
        for frame in self._frames:
            self._next += 1
            if self._next > number:
                if (found := frame.pixels()) is None:
                    raise SightwordError(f"frame {number} of {self.video.path} cannot be decoded. Export it again")
                return found
        raise SightwordError(f"{self.video.path} has {self._next} frames, and frame {number} is one of the recording")
