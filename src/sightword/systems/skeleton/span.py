"""Lengths of time as they are typed, and the options of a timeline. No torch here."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from sightword.errors import SightwordError
from sightword.storage.parser import Parser


@dataclass(frozen=True)
class Span:
    """A length of time in seconds or, if it is counted so, in frames; 0: not given."""

    length: float = 0.0
    counted: bool = False

    @property
    def given(self) -> bool:
        """Whether it is above 0."""
        return self.length > 0

    def frames(self, fps: float) -> int:
        """Return the length in whole frames."""
        return round(self.length if self.counted else self.length * fps)

    def __str__(self) -> str:
        return f"{self.length:g} {'frames' if self.counted else 's'}" if self.given else "0"


NONE = Span()


def read_span(text: str) -> Span:
    """Return "2" and "2.5s" in seconds, "60f" in frames. Raises ValueError for other texts."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|seconds?|f|frames?)?", text.strip().lower())
    if not found:
        raise ValueError
    counted = (found[2] or "s").startswith("f")
    if counted and "." in found[1]:
        raise ValueError
    return Span(float(found[1]), counted)


SPAN = Parser("seconds", "a length of time", "seconds, for example 2 or 2.5s, or frames, for example 60f", read_span)

#: A length of time, in seconds or, with an f behind it, in frames.
Time: TypeAlias = Annotated[Span, SPAN]


@dataclass(frozen=True)
class Windows:
    """How a long recording becomes a timeline: windows, each named on its own, and segments of equal names."""

    window: Time = NONE  # seconds or, as 60f, frames of a window; 0: the whole recording
    step: Time = NONE  # from the start of a window to the next; 0: half a window
    each: bool | None = None  # name every person on their own; if empty, so if there are windows
    sure: float = 0.5  # a segment of a lower mean probability is unsure: the other actions together are more likely
    fps: float = 0.0  # frames in a second, if the file does not say; 0: what it says, or 30

    def __post_init__(self) -> None:
        if not 0 <= self.sure <= 1:
            raise SightwordError(f"sure={self.sure:g} is not a probability. Pass a number from 0 to 1")
        if not (self.fps == 0 or 1 <= self.fps <= 1000):
            raise SightwordError(f"fps={self.fps:g} is not between 1 and 1000. Pass frames in a second, or 0")
        if self.step.given and not self.window.given:
            raise SightwordError(f"step={self.step} is from window to window, and there are none. Pass window= as well")

    @property
    def alone(self) -> bool:
        """Whether persons are named one by one."""
        return self.window.given if self.each is None else self.each

    @property
    def timed(self) -> bool:
        """Whether a recording gets a timeline, and not one name."""
        return self.window.given or self.alone


def seconds(span: Span | float) -> Span:
    """Return a number as seconds. Raises SightwordError if it is not one from 0 on."""
    if isinstance(span, Span):
        return span
    if not (math.isfinite(span) and span >= 0):
        raise SightwordError(f"{span} is not a length of time. Pass seconds, or Span(frames, counted=True)")
    return Span(float(span))
