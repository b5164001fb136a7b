"""Figures of predictions: filmstrips of skeletons with the weight of each frame, and the confusion matrix.

Legend: M persons; L frames of a view; V joints; T' frames of the network's features; K classes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from sightword.systems.skeleton.weight import as_array, effective_frames, on_frames, shares
from sightword.viz import chart
from sightword.viz.font import cut, draw_text, length
from sightword.viz.style import FAINT, GREY, INK, OTHER, PALETTE, Array

if TYPE_CHECKING:
    from sightword.systems.skeleton.joints import JointSet

LEFT, RIGHT, WEIGHT, KEY = PALETTE[:4]  # sides of the person; weights of frames; key moments
MIDDLE = OTHER  # of limbs on no side
RIGHT_ANSWER, WRONG_ANSWER = "#1a7f37", "#cf222e"
MOST_POSES = 12  # in a row; the bars below them are of every frame
SLOT, HEIGHT, BARS = 84, 128, 46  # pixels: a pose's width and height, and the height of the tallest bar
MARGIN, LARGE, TEXT, SMALL = 14, 16, 13, 11
AXIS = 66  # left of the bars, for their numbers
LEAST_SLOTS = 10  # as wide as the legend
SMOOTH = 3  # figures are drawn so many times too large and reduced
SURE = 0.3  # a joint of a lower score does not count for how large the figure is drawn


# ------------------------------------------------------------------------------------------------------------- strips


class Heading(NamedTuple):
    """The text above a strip."""

    name: str  # of the recording
    predicted: str = ""  # class
    probability: float | None = None
    truth: str = ""  # the true class, if it is known
    others: Sequence[tuple[str, float]] = ()  # the next classes and their probabilities

    @property
    def right(self) -> bool | None:
        """Whether the prediction is correct; None if the true class is not known."""
        return self.predicted == self.truth if self.predicted and self.truth else None


def strip(
    points: Array,
    scores: Array,
    joints: "JointSet",
    weights: Array | None = None,
    key: Array | None = None,
    frames: Array | None = None,
    heading: Heading | None = None,
    legend: bool = True,
) -> Image.Image:
    """Return one view of a recording as a filmstrip: poses from left to right, below them the weight of every frame.

    points: (L, V, 2) or (M, L, V, 2) in pixels; scores: (L, V) or (M, L, V), 0 for a joint that is not there; joints of
    low score are pale. weights: (T',), of the frames of the features; the dashed line is the weight of each if all
    weighed alike. key: (L,), 1 inside the action's key moments, which are underlined; NaN if unknown. frames: (L,),
    their numbers in the recording. legend: whether the last line explains the colours.
    """
    where, sure = _persons(points, scores, len(joints.joints))
    length = where.shape[1]
    row = None if weights is None else as_array(weights).reshape(1, -1)
    numbers = np.arange(length) if frames is None else np.asarray(frames).astype(int)
    film = _Film(length, heading, row is not None, _known(key), legend)
    film.write_heading(heading, row)
    _draw_poses(film, where, sure, joints)
    if row is not None:
        film.draw_bars(on_frames(shares(row), length)[0] * row.shape[1], row.shape[1])
    film.draw_frames(numbers, None if key is None else as_array(key))
    return film.finish(joints)


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Return strips below each other, a rule between two."""
    width = max(page.width for page in pages)
    whole = Image.new("RGB", (width, sum(page.height for page in pages) + len(pages) - 1), "white")
    pen, y = ImageDraw.Draw(whole), 0
    for number, page in enumerate(pages):
        if number:
            pen.line((MARGIN, y, width - MARGIN, y), FAINT)
        whole.paste(page, (0, y + (1 if number else 0)))
        y += page.height + (1 if number else 0)
    return whole


def _persons(points: Array, scores: Array, joints: int) -> tuple[np.ndarray, np.ndarray]:
    """(M, L, V, 2), (M, L, V), without persons who are never there, save the first; what is not finite scores 0."""
    where, sure = as_array(points), as_array(scores)
    if where.ndim == 3:
        where, sure = where[None], sure[None]
    if where.ndim != 4 or where.shape[:-1] != sure.shape or where.shape[2:] != (joints, 2):
        raise ValueError(
            f"expected points (L, V, 2) or (M, L, V, 2) with scores of the same but the last, V = {joints}; got "
            f"{where.shape} and {sure.shape}"
        )
    sure = np.where(np.isfinite(where).all(-1) & np.isfinite(sure), np.clip(sure, 0, 1), 0.0)
    kept = [person for person in range(len(where)) if person == 0 or sure[person].any()]
    return np.nan_to_num(where[kept]), sure[kept]


def _known(key: Array | None) -> bool:
    return key is not None and bool(np.isfinite(as_array(key)).all())


class _Film:
    """A page with a heading, a row of poses, bars and frame numbers; its x coordinates are of frames."""

    def __init__(self, length: int, heading: Heading | None, bars: bool, key: bool, legend: bool) -> None:
        self.length, self.bars, self.key, self.legend = length, bars, key, legend
        self.poses = min(length, MOST_POSES)
        self.left = MARGIN + AXIS
        self.right = self.left + max(self.poses, LEAST_SLOTS) * SLOT
        self.top = MARGIN + ((LARGE + TEXT + 22) if heading else 0)
        self.bars_top = self.top + HEIGHT + 20
        self.floor = self.bars_top + (BARS if bars else 0)
        bottom = self.floor + 12 + SMALL + 6 + (SMALL + 16 if legend else 0) + MARGIN // 2
        self.page = Image.new("RGB", (self.right + MARGIN, bottom), "white")
        self.pen = ImageDraw.Draw(self.page)

    def x(self, frame: float) -> float:
        """The x at which a frame begins."""
        return self.left + frame * (self.right - self.left) / self.length

    def pose(self, number: int) -> tuple[int, float]:
        """The frame that a pose shows, and the x of its middle."""
        frame = (2 * number + 1) * self.length // (2 * self.poses)
        return frame, self.left + (number + 0.5) * (self.right - self.left) / self.poses

    def write_heading(self, heading: Heading | None, weights: np.ndarray | None) -> None:
        if heading is None:
            return
        x, y = MARGIN, MARGIN
        count = "" if weights is None else f"{effective_frames(weights)[0]:.1f} effective frames of {weights.shape[1]}"
        draw_text(self.pen, (self.right, y + 2), count, WEIGHT, TEXT, anchor="ra")
        space = self.right - x - length(count, TEXT) - MARGIN
        if heading.predicted:
            colour = {None: INK, True: RIGHT_ANSWER, False: WRONG_ANSWER}[heading.right]
            word = {None: "", True: "right: ", False: "wrong: "}[heading.right]
            chance = f"  {100 * heading.probability:.0f} %" if heading.probability is not None else ""
            name = cut(heading.predicted, space - length(word + chance, LARGE), LARGE)
            draw_text(self.pen, (x, y), f"{word}{name}{chance}", colour, LARGE)
        elif heading.truth:
            draw_text(self.pen, (x, y), cut(heading.truth, space, LARGE), INK, LARGE)
        parts = [heading.name]
        parts += [f"it is {heading.truth}"] if heading.right is False else []
        if heading.others:
            parts += ["then " + ", ".join(f"{name} {100 * p:.0f} %" for name, p in heading.others)]
        draw_text(self.pen, (x, y + LARGE + 7), cut(" · ".join(parts), self.right - x, TEXT), GREY, TEXT)

    def draw_bars(self, times: np.ndarray, features: int) -> None:
        """times: (L,), the weight of a frame over the mean: 1 where all weigh alike."""
        highest = max(1.25, float(times.max()))
        edges = [*np.flatnonzero(np.diff(np.arange(self.length) * features // self.length)) + 1, self.length]
        start = 0
        for end in edges:  # a bar for each feature, which may cover several frames
            height = times[start] / highest * BARS
            self.pen.rectangle(
                (self.x(start) + 1, self.floor - max(height, 1), self.x(end) - 2, self.floor - 1), WEIGHT
            )
            start = int(end)
        level = round(self.floor - BARS / highest)
        for x in range(self.left, self.right, 8):
            self.pen.line((x, level, x + 3, level), INK)
        draw_text(self.pen, (self.left - 6, level), "1", INK, SMALL, anchor="rm")
        if highest >= 1.6:
            draw_text(self.pen, (self.left - 6, self.bars_top), f"{highest:.1f}", GREY, SMALL, anchor="rt")
        draw_text(self.pen, (MARGIN, self.floor), "weight", WEIGHT, SMALL, anchor="ld")

    def draw_frames(self, numbers: np.ndarray, key: np.ndarray | None) -> None:
        """The number of the frame under each pose, and the underline of the key moments."""
        self.pen.line((self.left, self.floor, self.right, self.floor), GREY)
        if self.key and key is not None:
            for start, end in _runs(key > 0.5):
                self.pen.rectangle((self.x(start), self.floor + 3, self.x(end) - 1, self.floor + 7), KEY)
        for frame, at in map(self.pose, range(self.poses)):
            draw_text(self.pen, (at, self.floor + 11), str(int(numbers[frame])), GREY, SMALL, anchor="ma")
        draw_text(self.pen, (MARGIN, self.floor + 11), "frame", GREY, SMALL)

    def finish(self, joints: "JointSet") -> Image.Image:
        if not self.legend:
            return self.page
        x, y = self.left, self.page.height - MARGIN // 2 - SMALL - 6
        entries = [(LEFT, "the person's left"), (RIGHT, "right"), (MIDDLE, "middle; pale: unsure")]
        entries += [(WEIGHT, "weight of a frame, 1 where all weigh alike")] if self.bars else []
        entries += [(KEY, "underlined: key moments of the action")] if self.key else []
        for colour, text in entries:
            self.pen.rectangle((x, y + 5, x + 14, y + 8), colour)
            draw_text(self.pen, (x + 20, y), text, INK, SMALL)
            x += 20 + math.ceil(length(text, SMALL)) + 18
        return self.page


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first, one past the last) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _draw_poses(film: _Film, where: np.ndarray, sure: np.ndarray, joints: "JointSet") -> None:
    corner, scale = _frame_of(where, sure, (SLOT - 10, HEIGHT - 10))
    sheet = Image.new("RGB", ((film.right - film.left) * SMOOTH, HEIGHT * SMOOTH), "white")
    colours = _limb_colours(joints)
    for frame, at in map(film.pose, range(film.poses)):
        tile = Image.new("RGB", ((SLOT - 4) * SMOOTH, HEIGHT * SMOOTH), "#f6f7f9")
        centre = np.array([SLOT - 4, HEIGHT]) / 2
        for person in range(len(where) - 1, -1, -1):
            spots = ((where[person, frame] - corner) * scale + centre) * SMOOTH  # (V, 2)
            draw_figure(ImageDraw.Draw(tile), spots, sure[person, frame], joints, colours, 1.0 if person == 0 else 0.45)
        sheet.paste(tile, (round((at - film.left - (SLOT - 4) / 2) * SMOOTH), 0))
    film.page.paste(sheet.resize((sheet.width // SMOOTH, HEIGHT), Image.Resampling.BOX), (film.left, film.top))


def _frame_of(where: np.ndarray, sure: np.ndarray, room: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Middle of the box of all sure joints of all frames, and the scale that fits it into a room: one for the strip."""
    level = SURE * float(sure.max() or 1.0)
    seen = where[sure >= max(level, 1e-6)] if sure.any() else where.reshape(-1, 2)
    low, high = seen.min(0), seen.max(0)
    return (low + high) / 2, float(min(room / np.maximum(high - low, 1e-3)))


def _limb_colours(joints: "JointSet") -> list[str]:
    """The colour of each limb: the side of its ends; neutral if they are on both sides, or on neither."""
    return [_colour(joints, ends) for ends in joints.limbs]


def _colour(joints: "JointSet", ends: Sequence[int]) -> str:
    left, right = ({pair[side] for pair in joints.pairs} for side in (0, 1))
    sides = {"left" if end in left else "right" if end in right else "middle" for end in ends} - {"middle"}
    if len(sides) != 1:
        return MIDDLE
    return LEFT if sides == {"left"} else RIGHT


def draw_figure(
    pen: ImageDraw.ImageDraw,
    spots: np.ndarray,
    sure: np.ndarray,
    joints: "JointSet",
    colours: Sequence[str],
    strength: float,
    ink: str = "",
) -> None:
    """Draw one person. spots: (V, 2), sure: (V,); limbs first, joints over them, the unsure first of each.

    colours: of the limbs. ink: of all joints; empty: by their side.
    """
    limbs = [(min(sure[a], sure[b]), a, b, colour) for (a, b), colour in zip(joints.limbs, colours, strict=True)]
    for certain, a, b, colour in sorted(limbs, key=lambda limb: limb[0]):
        if certain > 0:
            line = [tuple(spots[a].tolist()), tuple(spots[b].tolist())]
            pen.line(line, _pale(colour, certain * strength), round(2.4 * SMOOTH))
    for joint in np.argsort(sure, kind="stable").tolist():
        if sure[joint] > 0:
            (x, y), radius = spots[joint], 1.7 * SMOOTH
            tone = _pale(ink or _colour(joints, [joint]), sure[joint] * strength)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), tone)


def _pale(colour: str, strength: float) -> tuple[int, ...]:
    """A colour mixed with the ground, the paler the less sure; full from 0.7 on, never invisible."""
    share = float(np.clip(strength / 0.7, 0.15, 1))
    return tuple(round(246 + share * (part - 246)) for part in ImageColor.getrgb(colour)[:3])


def confusion(counts: Tensor, classes: Sequence[str], note: str = "") -> Image.Image:
    """Return the confusion matrix (K, K) as an image, with the accuracy above it."""
    right = 100 * float(counts.diagonal().sum() / counts.sum())
    return chart.confusion(counts, classes, f"{int(counts.sum())} recordings, {right:.1f} % right{note}")
