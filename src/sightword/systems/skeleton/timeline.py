"""What happens when in a long recording, and who does it: windows with probabilities, and segments of equal names.

Legend: K classes; V joints; T frames of the recording; W windows of a person.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from PIL import Image

from sightword.engine.contract import Result
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.sequence import SkeletonSequence
from sightword.systems.skeleton.span import Windows
from sightword.systems.skeleton.window import PRESENT, Piece, frames_of, rate_of

UNSURE = "unsure"


class Window(NamedTuple):
    """The probabilities of one window."""

    number: int  # in the recording; those in which the person is not there are left out
    start: float  # seconds
    end: float
    core: tuple[float, float]  # seconds that are nearer to this window's middle than to that of its neighbours
    scores: np.ndarray  # (K,) float32

    @property
    def best(self) -> int:
        """The number of the most probable class."""
        return int(self.scores.argmax())

    @property
    def probability(self) -> float:
        """Its probability."""
        return float(self.scores.max())


class Segment(NamedTuple):
    """Neighbouring windows of one name."""

    start: float  # seconds
    end: float
    action: str  # the most probable one
    confidence: float  # the mean over windows of their best class's probability
    sure: bool  # whether that reaches the threshold
    windows: int
    points: np.ndarray  # (V, 2) pixels: the pose in the middle
    joint_scores: np.ndarray  # (V,)

    @property
    def name(self) -> str:
        """The action, or "unsure"."""
        return self.action if self.sure else UNSURE


class Person(NamedTuple):
    """One person of a recording, or everybody."""

    who: str  # "person 1"; "everybody"
    windows: tuple[Window, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class ActionTimeline(Result):
    """The predicted actions of a long recording over time, one row for each person."""

    name: str  # of the recording
    classes: tuple[str, ...]  # K names
    duration: float  # seconds
    fps: float  # frames in a second
    assumed: bool  # whether nobody said how many these are
    options: Windows
    joints: JointSet
    people: tuple[Person, ...]  # without those who are never there
    unknown_words: tuple[str, ...] = ()  # of the classes' prompts, that the text encoder does not know

    @property
    def segments(self) -> list[tuple[str, Segment]]:
        """Who and what, in the order of people and time."""
        return [(person.who, segment) for person in self.people for segment in person.segments]

    @property
    def described(self) -> str:
        """How it was made, as a line."""
        length, step = frames_of(self.options, self.fps, round(self.duration * self.fps))
        cut = f"windows of {length / self.fps:.3g} s every {step / self.fps:.3g} s, "
        rate = f"{self.fps:g} frames a second{' assumed' if self.assumed else ''}"
        return f"{cut if self.options.window.given else ''}unsure below {self.options.sure:g}, {rate}"

    def plot(self) -> Image.Image:
        """Return a figure: a row for each person, poses above coloured bars, whose height is the probability."""
        from sightword.systems.skeleton.timeline_figure import draw

        return draw(self)

    def to_dict(self) -> dict[str, object]:
        """Return people, their windows and segments as plain values; times in seconds."""
        found: dict[str, object] = {"name": self.name, "duration": round(self.duration, 3), "fps": self.fps}
        found |= {"fps_assumed": self.assumed, "rules": rules(self)}
        if self.unknown_words:
            found["unknown_words"] = list(self.unknown_words)
        return found | {"people": [self._person(person) for person in self.people]}

    def _person(self, person: Person) -> dict[str, object]:
        windows: list[dict[str, object]] = [
            {
                "start": round(one.start, 3),
                "end": round(one.end, 3),
                "action": self.classes[one.best],
                "confidence": round(one.probability, 4),
            }
            for one in person.windows
        ]
        segments: list[dict[str, object]] = [
            {
                "start": round(one.start, 3),
                "end": round(one.end, 3),
                "action": one.name,
                "confidence": round(one.confidence, 4),
                "most_probable": one.action,
                "windows": one.windows,
            }
            for one in person.segments
        ]
        return {"person": person.who, "segments": segments, "windows": windows}

    def __repr__(self) -> str:
        named = {segment.name for _, segment in self.segments}
        actions = ", ".join(sorted(named)[:4]) + (", …" if len(named) > 4 else "")
        people = f"{len(self.people)} {'person' if len(self.people) == 1 else 'people'}"
        return (
            f"ActionTimeline({self.name!r}, {self.duration:.1f} s, {people}, {len(self.segments)} segments: {actions})"
        )


def rules(timeline: ActionTimeline) -> dict[str, str]:
    """Return what is to be known of the numbers of a timeline."""
    return {
        "timeline": timeline.described,
        "confidence": "the probability of the best class; of a segment, the mean over its windows",
        "unsure": f"a segment of a mean below {timeline.options.sure:g}",
        "left out": f"windows with a third of a person's joints in less than {PRESENT:.0%} of the frames",
    }


def timeline_of(
    sequence: SkeletonSequence,
    pieces: Sequence[Piece],
    scores: Sequence[np.ndarray],
    classes: tuple[str, ...],
    options: Windows,
    joints: JointSet,
    unknown_words: tuple[str, ...] = (),
) -> ActionTimeline:
    """Return the timeline of a recording, of its windows `pieces_of` and their probabilities, (K,) each."""
    fps = rate_of(sequence, options)
    people = []
    for person, group in groupby(zip(pieces, scores, strict=True), key=lambda pair: pair[0].person):
        own = list(group)
        windows = _with_cores([Window(p.number, p.start / fps, p.stop / fps, (0, 0), each) for p, each in own])
        segments = tuple(_segments(windows, classes, options.sure, sequence, person, fps))
        people.append(Person(_who(sequence, person), tuple(windows), segments))
    known = bool(sequence.fps or options.fps)
    duration = sequence.points.shape[1] / fps
    return ActionTimeline(
        sequence.name, classes, duration, fps, not known, options, joints, tuple(people), unknown_words
    )


def _who(sequence: SkeletonSequence, person: int) -> str:
    if person < 0:
        return "everybody"
    return f"person {sequence.ids[person] if sequence.ids else person + 1}"


def _with_cores(windows: Sequence[Window]) -> list[Window]:
    """The windows with the seconds that are theirs alone: up to half way between two middles."""
    found = []
    for place, one in enumerate(windows):
        before = windows[place - 1] if place and _follow(windows[place - 1], one) else None
        after = windows[place + 1] if place + 1 < len(windows) and _follow(one, windows[place + 1]) else None
        start = one.start if before is None else (_middle(before) + _middle(one)) / 2
        end = one.end if after is None else (_middle(one) + _middle(after)) / 2
        found.append(one._replace(core=(start, end)))
    return found


def _follow(one: Window, other: Window) -> bool:
    return other.number == one.number + 1


def _middle(window: Window) -> float:
    return (window.start + window.end) / 2


def _segments(
    windows: Sequence[Window], classes: Sequence[str], sure: float, sequence: SkeletonSequence, person: int, fps: float
) -> Iterator[Segment]:
    """The runs of windows of the same name; neighbouring runs that are unsure become one."""
    runs = _runs([[window] for window in windows], lambda run: run[0].best)
    runs = _runs(runs, lambda run: run[0].best if _confidence(run) >= sure else -1)
    for run in runs:
        mean = np.mean([window.scores for window in run], axis=0)
        start, end = run[0].core[0], run[-1].core[1]
        pose, seen = _pose(sequence, person, start * fps, end * fps)
        certain = _confidence(run)
        yield Segment(start, end, classes[int(mean.argmax())], certain, certain >= sure, len(run), pose, seen)


def _runs(parts: list[list[Window]], key: Callable[[list[Window]], int]) -> list[list[Window]]:
    """Join neighbouring parts of the same key."""
    joined: list[list[Window]] = []
    keys: list[int] = []
    for part in parts:
        own = key(part)
        if joined and keys[-1] == own and _follow(joined[-1][-1], part[0]):
            joined[-1] = joined[-1] + part
        else:
            joined.append(part)
            keys.append(own)
    return joined


def _confidence(run: Sequence[Window]) -> float:
    return float(np.mean([window.probability for window in run]))


def _pose(sequence: SkeletonSequence, person: int, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """The pose (V, 2), (V,) of the frame nearest to the middle that has most of a person's joints."""
    scores = sequence.scores if person < 0 else sequence.scores[person : person + 1]
    first, last = int(start), max(int(start) + 1, int(np.ceil(end)))
    seen = scores[:, first:last].sum((0, 2))  # of each frame
    middle = (len(seen) - 1) / 2
    good = np.flatnonzero(seen >= 0.7 * seen.max(initial=0))
    frame = first + int(good[np.abs(good - middle).argmin()])
    row = person if person >= 0 else int(sequence.scores[:, frame].sum(1).argmax())
    return sequence.points[row, frame].copy(), sequence.scores[row, frame].copy()
