"""The figure of a timeline: for each person poses, the names of segments, and bars as high as the probability.

Legend: V joints.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from sightword.systems.skeleton.show import LARGE, MARGIN, SMALL, SMOOTH, TEXT, draw_figure
from sightword.systems.skeleton.window import NOBODY
from sightword.viz.font import cut, draw_text, length
from sightword.viz.style import FAINT, GREY, INK, OTHER, Colour, legend_of, rgb

if TYPE_CHECKING:
    from sightword.systems.skeleton.timeline import ActionTimeline, Person, Segment

WIDTH, LEFT = 1180, 118  # pixels: of the page; left of the bars
POSE, POSE_WIDTH, NAMES, BARS, GAP = 92, 76, 20, 56, 22  # heights of the rows; the width of a pose
UNSURE_GROUND = "#cfd4d9"  # of bars of an unsure segment
MOST_PEOPLE = 8  # rows; of more persons those with the most named time
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds between two


def draw(timeline: "ActionTimeline") -> Image.Image:
    """Return the figure of a timeline."""
    people = _shown(timeline)
    colours = legend_of(_ranked(people), "actions")
    page = _Page(timeline, len(people), _legend_lines(colours))
    page.write_heading(len(people))
    for row, person in enumerate(people):
        page.draw_person(row, person, colours)
    if not people:
        draw_text(page.pen, (LEFT, page.top(0)), NOBODY, GREY, TEXT)
    page.draw_axis()
    page.draw_legend(colours)
    return page.image


def _shown(timeline: "ActionTimeline") -> "list[Person]":
    """The persons that get a row, in their order."""
    if len(timeline.people) <= MOST_PEOPLE:
        return list(timeline.people)
    time = [sum(one.end - one.start for one in person.segments) for person in timeline.people]
    kept = sorted(np.argsort(-np.asarray(time), kind="stable")[:MOST_PEOPLE].tolist())
    return [timeline.people[row] for row in kept]


def _ranked(people: "Sequence[Person]") -> list[str]:
    """The actions of sure segments, the longest in all first."""
    total: dict[str, float] = {}
    for segment in (segment for person in people for segment in person.segments if segment.sure):
        total[segment.action] = total.get(segment.action, 0) + segment.end - segment.start
    return sorted(total, key=lambda name: -total[name])


def _entries(colours: "dict[str, Colour]") -> list[tuple[Colour, str]]:
    named = [(colour, cut(name, 260, SMALL)) for name, colour in colours.items()]
    return [*named, (rgb(UNSURE_GROUND), "unsure"), (rgb(INK), "dashed: the level below which a segment is unsure")]


def _legend_lines(colours: "dict[str, Colour]") -> list[list[tuple[Colour, str]]]:
    """The entries of the legend, as many in a line as fit."""
    lines: list[list[tuple[Colour, str]]] = [[]]
    x = float(LEFT)
    for entry in _entries(colours):
        wide = 38 + length(entry[1], SMALL)
        if x + wide > WIDTH - MARGIN and lines[-1]:
            lines.append([])
            x = LEFT
        lines[-1].append(entry)
        x += wide
    return lines


class _Page:
    """A page with a row for each person; its x coordinates are of seconds."""

    def __init__(self, timeline: "ActionTimeline", rows: int, legend: list[list[tuple[Colour, str]]]) -> None:
        self.timeline, self.rows, self.lines = timeline, max(rows, 1), legend
        self.head = MARGIN + LARGE + TEXT + 24
        self.floor = self.top(self.rows) - GAP + 6
        bottom = self.floor + 40 + len(legend) * (SMALL + 8) + MARGIN // 2
        self.image = Image.new("RGB", (WIDTH, bottom), "white")
        self.pen = ImageDraw.Draw(self.image)

    def top(self, row: int) -> int:
        """The y at which the row of a person begins."""
        return self.head + row * (POSE + NAMES + BARS + GAP)

    def x(self, seconds: float) -> float:
        """The x of a time."""
        return LEFT + seconds / max(self.timeline.duration, 1e-6) * (WIDTH - MARGIN - LEFT)

    def write_heading(self, shown: int) -> None:
        timeline = self.timeline
        people = len(timeline.people)
        draw_text(self.pen, (MARGIN, MARGIN), cut(timeline.name, WIDTH - 2 * MARGIN, LARGE), INK, LARGE)
        told = [f"{timeline.duration:.1f} s", *([f"{shown} of {people} people"] if shown < people else [])]
        told.append(timeline.described)
        text = cut(" · ".join(told), WIDTH - 2 * MARGIN, TEXT)
        draw_text(self.pen, (MARGIN, MARGIN + LARGE + 7), text, GREY, TEXT)

    def draw_person(self, row: int, person: "Person", colours: "dict[str, Colour]") -> None:
        top = self.top(row)
        bars = top + POSE + NAMES
        draw_text(
            self.pen, (MARGIN, bars + BARS / 2), cut(person.who, LEFT - MARGIN - 30, TEXT), INK, TEXT, anchor="lm"
        )
        for level, text in ((0, "0"), (1, "1")):
            y = bars + BARS * (1 - level)
            self.pen.line((LEFT, y, WIDTH - MARGIN, y), FAINT if level else GREY)
            draw_text(self.pen, (LEFT - 6, y), text, GREY, SMALL, anchor="rm")
        for segment in person.segments:
            colour = colours.get(segment.action, rgb(OTHER)) if segment.sure else rgb(UNSURE_GROUND)
            self._bars(person, segment, bars, colour)
            self._name(segment, top + POSE, colour)
        level = round(bars + BARS * (1 - self.timeline.options.sure))
        for x in range(LEFT, WIDTH - MARGIN, 8):
            self.pen.line((x, level + 1, x + 3, level + 1), "white")
            self.pen.line((x, level, x + 3, level), INK)
        self._poses(person, top, colours)

    def _bars(self, person: "Person", segment: "Segment", top: int, colour: "Colour") -> None:
        """A bar for each window of a segment."""
        own = [one for one in person.windows if segment.start <= sum(one.core) / 2 < segment.end]
        for number, window in enumerate(own):
            left, right = self.x(window.core[0]), self.x(window.core[1])
            right -= 2 if number == len(own) - 1 and right - left > 6 else 0  # a gap between two segments
            height = max(window.probability * BARS, 1)
            self.pen.rectangle((left, top + BARS - height, max(right, left), top + BARS - 1), colour)

    def _name(self, segment: "Segment", top: int, colour: "Colour") -> None:
        """The name of a segment above its bars, where there is room for most of it."""
        space = self.x(segment.end) - self.x(segment.start) - 6
        text = cut(segment.name, space, SMALL)
        if len(text) < 0.7 * len(segment.name):
            return
        middle = (self.x(segment.start) + self.x(segment.end)) / 2
        draw_text(self.pen, (middle, top + NAMES / 2), text, INK if segment.sure else GREY, SMALL, anchor="mm")

    def _poses(self, person: "Person", top: int, colours: "dict[str, Colour]") -> None:
        """Poses at the middles of segments: the longest first, where there is room."""
        taken: list[float] = []
        for segment in sorted(person.segments, key=lambda one: one.start - one.end):
            middle = (self.x(segment.start) + self.x(segment.end)) / 2
            middle = min(max(middle, LEFT + POSE_WIDTH / 2), WIDTH - MARGIN - POSE_WIDTH / 2)
            if all(abs(middle - other) >= POSE_WIDTH + 2 for other in taken):
                taken.append(middle)
                colour = colours.get(segment.action, rgb(OTHER)) if segment.sure else rgb(GREY)
                self.image.paste(self._pose(segment, colour), (round(middle - POSE_WIDTH / 2), top))

    def _pose(self, segment: "Segment", colour: "Colour") -> Image.Image:
        """The pose of a segment in the colour of its action, as large as fits."""
        tile = Image.new("RGB", (POSE_WIDTH * SMOOTH, POSE * SMOOTH), "#f6f7f9")
        there = segment.points[segment.joint_scores > 0]
        if len(there):
            low, high = there.min(0), there.max(0)
            room = np.array([POSE_WIDTH - 12, POSE - 12])
            scale = float((room / np.maximum(high - low, 1e-3)).min())
            spots = ((segment.points - (low + high) / 2) * scale + np.array([POSE_WIDTH, POSE]) / 2) * SMOOTH
            ink = "#{:02x}{:02x}{:02x}".format(*colour)
            limbs, sure = [ink] * len(self.timeline.joints.limbs), np.clip(segment.joint_scores, 0, 1)
            draw_figure(ImageDraw.Draw(tile), spots, sure, self.timeline.joints, limbs, 1, ink)
        return tile.resize((POSE_WIDTH, POSE), Image.Resampling.BOX)

    def draw_axis(self) -> None:
        """Seconds below the last row."""
        duration = self.timeline.duration
        step = next((one for one in TICKS if duration / one <= 12), TICKS[-1] * math.ceil(duration / TICKS[-1] / 12))
        self.pen.line((LEFT, self.floor, WIDTH - MARGIN, self.floor), INK)
        for number in range(math.floor(duration / step + 1e-6) + 1):
            x = round(self.x(number * step))
            self.pen.line((x, self.floor, x, self.floor + 4), INK)
            draw_text(self.pen, (x, self.floor + 8), f"{number * step:g}", GREY, SMALL, anchor="ma")
        draw_text(self.pen, (LEFT - 14, self.floor + 8), "seconds", GREY, SMALL, anchor="ra")

    def draw_legend(self, colours: "dict[str, Colour]") -> None:
        """The colours of actions, and what is dashed."""
        y = self.floor + 40
        for line in self.lines:
            x = float(LEFT)
            for colour, text in line:
                if text.startswith("dashed"):
                    for dash in (0, 6, 12):
                        self.pen.line((x + dash, y + 7, x + dash + 3, y + 7), colour)
                else:
                    self.pen.rectangle((x, y + 3, x + 14, y + 11), colour)
                draw_text(self.pen, (x + 20, y + 1), text, INK, SMALL)
                x += 38 + length(text, SMALL)
            y += SMALL + 8
        draw_text(self.pen, (MARGIN, self.floor + 40), "bars: probability", GREY, SMALL)
