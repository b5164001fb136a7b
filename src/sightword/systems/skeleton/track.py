"""Follow people through the frames of a recording: which detections of different frames are the same person.

A detection belongs to the track whose box it overlaps most; `linear_sum_assignment` on 1 − IoU decides for all of a
frame at once. Two boxes of a track count, and the better of them: the one that was seen last, and the one to which the
recent movement leads. So people who cross keep their ids, and people who stop are not lost. The prediction is the idea
of SORT (Bewley et al. 2016).

Legend: P detections in a frame, M persons, T frames, V joints.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from sightword.errors import SightwordError
from sightword.systems.skeleton.sequence import THERE

RECENT = 5  # frames over which a track's movement is measured, and for which it is assumed to go on


class Tracks(NamedTuple):
    """The people of a recording, who moves most first. Where a person is not seen, points and scores are 0."""

    points: np.ndarray  # (M, T, V, 2) float32, x and y in pixels
    scores: np.ndarray  # (M, T, V) float32
    ids: tuple[int, ...]  # (M,) the order in which they appeared, from 1


def follow(frames: Sequence[np.ndarray], *, people: int = 2, gate: float = 0.3, patience: int = 30) -> Tracks:
    """Return the people in the frames of one recording.

    frames: of each frame (P, V, 3): x and y in pixels, and the score of a joint; P differs and can be 0. A joint is
    there if its numbers are finite and its score is 0.001 or more. people: how many are kept, by motion × mean score.
    gate: least IoU of a detection with a track's box. patience: frames after which an unseen track ends; whoever
    returns later is a new person.

    Raises SightwordError if frames have different numbers of joints, or no form (P, V, 3).
    """
    return arranged(appearances(frames, gate=gate, patience=patience), frames, people)


def appearances(frames: Sequence[np.ndarray], *, gate: float = 0.3, patience: int = 30) -> list["Track"]:
    """Return everybody in the frames of one recording, in the order of their appearance; see `follow`."""
    frames = [_checked(frame, time) for time, frame in enumerate(frames)]
    joints = _joints(frames)
    if other := next((time for time, frame in enumerate(frames) if len(frame) and frame.shape[1] != joints), None):
        raise SightwordError(
            f"frame {other} has {frames[other].shape[1]} joints and others have {joints}. A recording has one joint set"
        )
    tracks: list[Track] = []
    for time, frame in enumerate(frames):
        found = [one for one in frame if (one[:, 2] >= THERE).any()]
        live = [track for track in tracks if time - track.seen <= patience]
        taken = _assigned(live, found, time, gate)
        for number, one in enumerate(found):
            if number not in taken:
                tracks.append(Track())
            (taken[number] if number in taken else tracks[-1]).add(time, one)
    return tracks


def arranged(tracks: Sequence["Track"], frames: Sequence[np.ndarray], people: int) -> Tracks:
    """Return those who move most as arrays over all frames, at most `people` of them; frames: as in `follow`."""
    order = sorted(range(len(tracks)), key=lambda row: -tracks[row].activity(len(frames)))[:people]
    whole = np.zeros((len(order), len(frames), _joints(frames), 3), np.float32)
    for person, row in enumerate(order):
        whole[person, list(tracks[row].rows)] = list(tracks[row].rows.values())
    return Tracks(whole[..., :2], whole[..., 2], tuple(row + 1 for row in order))


def _joints(frames: Sequence[np.ndarray]) -> int:
    return max((frame.shape[1] for frame in frames), default=0)


def box_of(person: np.ndarray) -> np.ndarray:
    """Return left, top, right, bottom of the joints of a detection (V, 3) that are there; at least one is."""
    seen = person[person[:, 2] >= THERE, :2]
    return np.concatenate([seen.min(0), seen.max(0)])


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes (A, 4) with others (B, 4), (A, B), as left, top, right, bottom.

    Sides are one pixel longer than the difference of their ends: joints on a vertical line have an area too.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low + 1, 0, None).prod(-1)
    areas = [(each[:, 2:] - each[:, :2] + 1).prod(-1) for each in (boxes, others)]
    shared: np.ndarray = common / (areas[0][:, None] + areas[1][None] - common)
    return shared


class Track:
    """One person: the detections by the frame, and where the next is expected."""

    def __init__(self) -> None:
        self.rows: dict[int, np.ndarray] = {}  # frame → (V, 3)
        self.recent: deque[tuple[int, np.ndarray]] = deque(maxlen=RECENT)
        self.seen = 0  # the last frame

    def add(self, time: int, person: np.ndarray) -> None:
        self.rows[time], self.seen = person, time
        self.recent.append((time, person))

    def boxes(self, time: int) -> tuple[np.ndarray, np.ndarray]:
        """The box that was seen last, and the one to which the movement leads."""
        last = box_of(self.recent[-1][1])
        (before, first), (now, person) = self.recent[0], self.recent[-1]
        both = (first[:, 2] >= THERE) & (person[:, 2] >= THERE)
        if now == before or not both.any():
            return last, last
        speed = np.median(person[both, :2] - first[both, :2], axis=0) / (now - before)
        return last, last + np.tile(speed * min(time - now, RECENT), 2)

    def activity(self, frames: int) -> float:
        """How much of the recording this person is: the spread of the joints, in pixels, × the mean score.

        Frames without the person count with a score of 0. One pixel is added, so that among people who stand still it
        is the score that counts.
        """
        rows = np.stack(list(self.rows.values()))  # (T', V, 3)
        there = rows[..., 2] >= THERE
        count = np.maximum(there.sum(0), 1)[:, None]
        mean = rows[..., :2].sum(0) / count
        spread = np.sqrt((((rows[..., :2] - mean) * there[..., None]) ** 2).sum(0) / count)  # (V, 2)
        score = rows[..., 2].mean() * len(rows) / frames
        return float((spread.sum(-1)[there.any(0)].mean() + 1) * score)


def _assigned(live: Sequence[Track], found: Sequence[np.ndarray], time: int, gate: float) -> dict[int, Track]:
    """The track of each detection that has one."""
    if not live or not found:
        return {}
    boxes = np.stack([box_of(one) for one in found])
    last, expected = (np.stack(kind) for kind in zip(*(track.boxes(time) for track in live), strict=True))
    shared = np.maximum(overlaps(last, boxes), overlaps(expected, boxes))
    rows, columns = linear_sum_assignment(1 - np.where(shared >= gate, shared, 0))
    return {int(b): live[a] for a, b in zip(rows, columns, strict=True) if shared[a, b] >= gate}


def _checked(frame: np.ndarray, time: int) -> np.ndarray:
    """The frame as float32, with zeros for joints that are not there."""
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise SightwordError(f"frame {time} has the shape {frame.shape}. Expected (persons, joints, 3): x, y, score")
    with np.errstate(over="ignore"):
        frame = frame.astype(np.float32)
    there = np.isfinite(frame).all(-1, keepdims=True) & (frame[..., 2:] >= THERE)
    return np.where(there, frame, np.float32(0))
