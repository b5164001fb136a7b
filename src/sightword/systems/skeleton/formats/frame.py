"""Frames to a recording: their numbers, and which key points are of one person.

Legend: M persons, T frames, V joints of a recording; P persons of a frame; D 2 or 3 coordinates.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.skeleton.track import follow

WIDEST = 20  # times as many frame numbers as there are frames: more are not the numbers of a video's frames
LONGEST = 1_000_000  # frames of a recording

SHARED = "persons who are never in a frame together can share a place"
FOLLOWED = "persons have no identity in the file and were followed from frame to frame"


def split_number(name: str) -> tuple[str, int | None]:
    """Return what precedes the last number in a name, and that number; None if there is none."""
    found = re.match(r"(.*?)([0-9]{1,15})[^0-9]*$", name)
    return (found[1], int(found[2])) if found else (name, None)


def on_timeline(numbers: Sequence[int], path: Path) -> tuple[list[int], int]:
    """Return the index of each frame from its number, and how many frames there are, those without a file included.

    Raises SightwordError if the numbers cannot be those of a video's frames.
    """
    if not numbers:
        return [], 0
    first, span = min(numbers), max(numbers) - min(numbers) + 1
    if span > min(WIDEST * len(set(numbers)) + 1000, LONGEST):
        raise SightwordError(
            f"{path}: {len(set(numbers)):,} frames have numbers from {first} to {max(numbers)}: these are not the frames "
            "of one video. Put each recording into a folder of its own"
        )
    return [number - first for number in numbers], span


def followed(frames: Sequence[np.ndarray], people: int, joints: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (M, T, V, 2) and scores (M, T, V) of persons without identity. frames: each (P, V, 3)."""
    if not any(len(frame) for frame in frames):
        return np.zeros((0, len(frames), joints, 2), np.float32), np.zeros((0, len(frames), joints), np.float32)
    tracks = follow(frames, people=people)
    return tracks.points.astype(np.float32), tracks.scores.astype(np.float32)


def placed(bodies: Mapping[str, Mapping[int, np.ndarray]], frames: int, people: int) -> tuple[np.ndarray, int]:
    """Return bodies with an identity as (M, T, ...) with zeros where one is absent, and how many found no place.

    bodies: of each person the frames it is in, each an array of one shape. Who moves most comes first; those who never
    meet share a place, so that an identity that is lost and given anew stays one person.
    """
    order = sorted(bodies, key=lambda name: -_motion(bodies[name]))
    places: list[dict[int, np.ndarray]] = []
    lost = 0
    for name in order:
        body = bodies[name]
        free = next((place for place in places if not place.keys() & body.keys()), None)
        if free is None and len(places) < people:
            places.append(free := {})
        if free is None:
            lost += 1
            continue
        free.update(body)
    shape = next((array.shape for body in bodies.values() for array in body.values()), ())
    made = np.zeros((len(places), frames, *shape), np.float32)
    for row, place in enumerate(places):
        for frame, array in place.items():
            made[row, frame] = array
    return made, lost


def _motion(body: Mapping[int, np.ndarray]) -> float:
    """The variance of all numbers over time, summed."""
    return float(np.stack(list(body.values())).astype(np.float64).var(0).sum())


def clipped(scores: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return scores from 0 to 1, and a note if some were above."""
    note = ("scores above 1 were cut off at 1",) if scores.size and scores.max() > 1 + 1e-3 else ()
    return np.clip(scores, 0, 1), note
