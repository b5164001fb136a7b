"""A long recording as windows in time, each of one person or of everybody: recordings of their own for the predictor.

Legend: M persons, T frames of a recording.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.skeleton.sequence import SkeletonSequence
from sightword.systems.skeleton.span import Windows

ASSUMED_FPS = 30.0  # frames in a second, where nobody says
LEAST = 4  # frames of a window: fewer show no motion
PRESENT = 0.5  # least fraction of a window's frames in which a person is there
SEEN = 1 / 3  # least fraction of the joints of somebody who is there: a head and shoulders alone show no action
NOBODY = "nobody is named: in no window is a third of anyone's joints there for half of the time"


class Piece(NamedTuple):
    """One window of one person, or of everybody."""

    person: int  # row of the recording; -1: everybody
    number: int  # of the window in the recording
    start: int  # frame
    stop: int  # one past the last frame
    sequence: SkeletonSequence  # these frames and persons


def rate_of(sequence: SkeletonSequence, windows: Windows) -> float:
    """Return the frames in a second: as the recording says, else as the options do, else 30."""
    return sequence.fps or windows.fps or ASSUMED_FPS


def pieces_of(sequence: SkeletonSequence, windows: Windows) -> Iterator[Piece]:
    """Yield the windows of a recording, person after person, without those in which the person is hardly there.

    Raises SightwordError for windows of less than LEAST frames, and for steps that leave out frames.
    """
    persons, total = sequence.scores.shape[:2]
    length, step = frames_of(windows, rate_of(sequence, windows), total)
    for person in range(persons) if windows.alone else (-1,):
        rows = slice(person, person + 1) if person >= 0 else slice(None)
        points, scores = sequence.points[rows], sequence.scores[rows]
        there = ((scores > 0).mean(2) >= SEEN).any(0)  # (T,)
        for number, start in enumerate(starts_of(total, length, step)):
            frames = slice(start, min(start + length, total))
            if np.mean(there[frames]) < PRESENT:
                continue
            key = None if sequence.key is None else sequence.key[frames]
            depth = None if sequence.depth is None else sequence.depth[rows][:, frames]
            part = sequence._replace(points=points[:, frames], scores=scores[:, frames], key=key, ids=None, depth=depth)
            yield Piece(person, number, start, frames.stop, part)


def frames_of(windows: Windows, fps: float, total: int) -> tuple[int, int]:
    """Return the frames of a window and of a step, in a recording of `total` frames. Raises as `pieces_of`."""
    window, step = windows.window, windows.step
    if not window.given:
        return total, total
    if (length := window.frames(fps)) < LEAST:
        raise SightwordError(f"window={window} is {length} frames at {fps:g} a second. Pass at least {LEAST}f")
    stride = step.frames(fps) if step.given else max(length // 2, 1)
    if not 1 <= stride <= length:
        raise SightwordError(
            f"step={step} is {stride} frames and window={window} is {length}. Pass a step of 1f up to the window"
        )
    return length, stride


def starts_of(total: int, length: int, step: int) -> list[int]:
    """Return the first frames of windows that cover `total` frames; the last one ends with the recording."""
    if length >= total:
        return [0]
    starts = list(range(0, total - length + 1, step))
    return starts if starts[-1] == total - length else [*starts, total - length]
