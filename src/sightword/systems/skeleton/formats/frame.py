"""Frames to a recording: their numbers, and which key points are of one person.

Legend: M persons, T frames, V joints of a recording; P persons of a frame; D 2 or 3 coordinates.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError

WIDEST = 20  # times as many frame numbers as there are frames: more are not the numbers of a video's frames
PERCENT = 20  # the highest score of a recording above which scores are percent: heatmaps' own peaks exceed 1 by less
FARTHEST = 1e6  # pixels, or metres
LONGEST = 1_000_000  # frames of a recording

SHARED = "persons who are never in a frame together share a place"
STATED = "persons are who the file says they are"
FOLLOWED = "persons have no identity in the file and were followed from frame to frame"


def split_number(name: str) -> tuple[str, int | None]:
    """Return what precedes the last number in a name, and that number; None if there is none."""
    found = re.match(r"(.*?)([0-9]{1,15})[^0-9]*$", name)
    return (found[1], int(found[2])) if found else (name, None)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names as people count: 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,15})", name)]


def on_timeline(numbers: Sequence[int], path: Path) -> tuple[list[int], int]:
    """Return the index of each frame from its number, and how many frames there are, those without a file included.

    Raises SightwordError if the numbers cannot be those of a video's frames.
    """
    if not numbers:
        return [], 0
    first, span = min(numbers), max(numbers) - min(numbers) + 1
    if span > min(WIDEST * len(set(numbers)) + 1000, LONGEST):
        raise SightwordError(
            f"{path}: {len(set(numbers)):,} frames have numbers from {first} to {max(numbers)}: these are not the "
            "frames of one video. Put each recording into a folder of its own"
        )
    return [number - first for number in numbers], span


def persons(
    at: Sequence[int], bodies: np.ndarray, total: int, people: int, notes: list[str], ids: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (M, T, V, 2) and scores (M, T, V), 0 to 1, of the detections of all frames; add what was assumed.

    at: the frame of each of N detections. bodies: (N, V, 3) x, y, score. total: T. people: most persons. ids: who each
    detection is; if they are not those of all, persons are followed.
    """
    from sightword.systems.skeleton.track import appearances  # scipy, which is slow to import

    bodies = present(bodies, notes)
    order = np.argsort(np.asarray(at, dtype=np.int64), kind="stable")
    ends = np.searchsorted(np.asarray(at, dtype=np.int64)[order], np.arange(total + 1))
    tracks: dict[str, dict[int, np.ndarray]] = {}
    known = bool(len(at) and len(ids) == len(at) and all(ids))
    if known and len(set(zip(at, ids, strict=True))) < len(at):
        known = False  # AlphaPose without tracking calls everybody 0
        notes.append("the ids in the file stand several times in a frame: they are not used")
    if known:
        for row in order.tolist():
            tracks.setdefault(ids[row], {})[at[row]] = bodies[row]
        # who moves much, and is there for long
        tracks = dict(sorted(tracks.items(), key=lambda one: -np.sqrt(motion(one[1])) * len(one[1])))
        notes += [STATED] * (len(tracks) > 1)
    else:
        followed = appearances([bodies[order[ends[frame] : ends[frame + 1]]] for frame in range(total)])
        followed.sort(key=lambda track: -track.activity(total))
        tracks = {str(number): track.rows for number, track in enumerate(followed)}
        notes.append(FOLLOWED)
    made = placed(tracks, total, people, (bodies.shape[1], 3), notes)
    points, scores = made[..., :2], made[..., 2]
    if scores.size and scores.max() > 1 + 1e-3:
        percent = bool(PERCENT < scores.max() <= 100)
        notes.append("scores from 0 to 100 are read as percent" if percent else "scores above 1 were cut off at 1")
        scores = scores / 100 if percent else scores
    return points, np.clip(scores, 0, 1)


def present(bodies: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return joints (..., V, D) with zeros for those that have NaN, an infinity, or are absurdly far away."""
    there = (np.abs(bodies) < FARTHEST).all(-1, keepdims=True)  # NaN is not
    if there.all():
        return bodies
    notes.append(f"joints with numbers that are NaN, or beyond {FARTHEST:g}, are missing")
    return np.where(there, bodies, 0)


def graded(scores: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return COCO's visibilities, 0 (not labelled), 1 (hidden), 2 (seen), as 0, 0.5, 1; other scores as they are."""
    if scores.size and scores.max() == 2 and np.isin(scores, (0, 1, 2)).all():
        notes.append("visibility 0, 1, 2 is read as a score of 0, 0.5, 1")
        return scores / 2
    return scores


def placed(
    bodies: Mapping[str, Mapping[int, np.ndarray]], frames: int, people: int, shape: tuple[int, int], notes: list[str]
) -> np.ndarray:
    """Return bodies with an identity, (M, T, V, D) with zeros where one is absent; add to the notes who shares a place.

    bodies: of each person the frames it is in, each (V, D); the most important first. shape: V and D. Those who never
    meet share a place, so that an identity that is lost and given anew stays one person. In a crowd, of more than
    `people` at a time, nobody does: whose place it were would change at every moment.
    """
    crowd = max(Counter(frame for body in bodies.values() for frame in body).values(), default=0) > people
    places: list[dict[int, np.ndarray]] = []
    lost = shared = False
    for body in bodies.values():
        free = next((place for place in places if not crowd and not place.keys() & body.keys()), None)
        if free is None and len(places) < people:
            places.append(free := {})
        if free is None:
            lost = True
            continue
        shared |= bool(free)
        free.update(body)
    made = np.zeros((len(places), frames, *shape), np.float32)
    for row, place in enumerate(places):
        for frame, array in place.items():
            made[row, frame] = array
    notes += [SHARED] * shared
    notes += [f"of more than {people} persons at a time, those that move least were left out (people=)"] * lost
    return made


def motion(body: Mapping[int, np.ndarray]) -> float:
    """The variance of all numbers over time, summed."""
    return float(np.stack(list(body.values())).astype(np.float64).var(0).sum())
