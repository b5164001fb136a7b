"""Does colour lie as depth does, and where does its camera stand?

Grey values of one point in two frames are alike if colour is read where it should be: their correlation over all points
that the depth of both frames agrees on is compared between ways to read colour.

Legend: V frames, P pairs, n points of a pair; H, W pixels of depth, h, w of a reduced colour image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from sightword.systems.points.doctor.agreement import ALIKE, Hypothesis, Judge
from sightword.systems.points.scannet.convention import TURNS
from sightword.systems.points.scannet.reader import (
    ORIENTATION,
    Frame,
    Scene,
    color_size,
    intrinsics_of,
    lies_upright,
    turned,
)

SMALL = 320  # pixels of the longer side at which grey values are compared
AHEAD = 0.2  # of correlation: colour that lies otherwise is ahead by more
ALIEN = 0.3  # of correlation: what is below, in the best of all readings, is hardly colour of the same frames
FOCALS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4)
STEPS = (0.05, 0.025, 0.01, 0.005)  # metres
LEAST, ENOUGH = 200, 30  # points whose grey values are compared: of all pairs, and of one
NEAREST, GAIN = 0.01, 0.985  # metres beside depth that are said, and how much less the mismatch must be
ZOOM = 0.93  # the same for its focal length
CAP = 40  # grey values; shadows and reflections differ by more


class Lens(NamedTuple):
    """A way to read colour."""

    turn: str = "0"
    late: int = 0  # the colour of the frame so many on in the sample
    focal: float = 1.0  # factor on the focal lengths
    x: float = 0.0  # metres, besides what is configured
    y: float = 0.0


class Colours:
    """Grey values of the frames of a sample, compared between pairs under a hypothesis about the geometry."""

    def __init__(self, scene: Scene, frames: Sequence[Frame], judge: Judge, hypothesis: Hypothesis) -> None:
        self.scene, self.frames = scene, list(frames)
        self.size = judge.sample.depth.shape[1:]
        self.pairs = judge.sample.pairs
        _, r, seen = judge.residuals(hypothesis)
        self.alike = np.abs(np.nan_to_num(r, nan=9.0)) < ALIKE
        metres = 1000.0 / scene.convention.depth_scale
        self.there = seen * np.float32(metres)  # (P, 3, n)
        self.here = judge.points(hypothesis) * np.float32(metres)
        self._greys: dict[str, list[np.ndarray]] = {}
        self._K: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}

    def correlation(self, lens: Lens) -> float:
        """Return the correlation of grey values; -1 if nothing can be compared."""
        first, second = (self._values(*side, lens) for side in self._sides(slice(None)))
        known = self.alike & np.isfinite(first) & np.isfinite(second)
        if known.sum() < LEAST:
            return -1.0
        one, other = first[known], second[known]
        if min(one.std(), other.std()) < 1.0:
            return -1.0
        return float(np.corrcoef(one, other)[0, 1])

    def mismatch(self, lens: Lens, half: int | None = None) -> float:
        """Return the mean difference of grey values, at most CAP each, after each pair's median, its exposure, is taken
        off. Its minimum is sharper than the correlation's maximum. half: 0 or 1, of every other pair."""
        rows = slice(None) if half is None else slice(half, None, 2)
        first, second = (self._values(*side, lens) for side in self._sides(rows))
        off = np.where(self.alike[rows], first - second, np.nan)
        compared = off[np.isfinite(off).sum(1) > ENOUGH]
        if not compared.size:
            return float(CAP)
        return float(np.nanmean(np.minimum(np.abs(compared - np.nanmedian(compared, 1, keepdims=True)), CAP)))

    def _sides(self, rows: slice) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return (self.here[rows], self.pairs[rows, 0]), (self.there[rows], self.pairs[rows, 1])

    def _values(self, points: np.ndarray, frames: np.ndarray, lens: Lens) -> np.ndarray:
        """Grey values (P, n) of points (P, 3, n) in depth cameras; NaN beside the image."""
        K, (height, width) = self._camera(lens.turn)
        greys = self._images(lens.turn)
        place = np.stack([self.frames[number].place.numpy() for number in frames]).astype(np.float32)
        place[:, :3, 3] += np.array([lens.x, lens.y, 0], np.float32)
        seen = np.swapaxes(place[:, :3, :3], 1, 2) @ (points - place[:, :3, 3:])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            u = (seen[:, 0] / seen[:, 2] * (K[0, 0] * lens.focal) + K[0, 2] + 0.5) / width
            v = (seen[:, 1] / seen[:, 2] * (K[1, 1] * lens.focal) + K[1, 2] + 0.5) / height
        found = np.full(u.shape, np.nan, np.float32)
        for row, number in enumerate(frames.tolist()):
            if not 0 <= number + lens.late < len(greys):
                continue
            grey = greys[number + lens.late]
            inside = (u[row] >= 0) & (u[row] < 1) & (v[row] >= 0) & (v[row] < 1)
            at = (v[row][inside] * grey.shape[0]).astype(int), (u[row][inside] * grey.shape[1]).astype(int)
            found[row, inside] = grey[at]
        return found

    def _camera(self, turn: str) -> tuple[np.ndarray, tuple[int, int]]:
        if turn not in self._K:
            said = replace(self.scene.convention, turn=turn)
            size = color_size(self.frames[0].color, self.size, said)
            K, _ = intrinsics_of(self.scene.folder, self.scene.name, size, self.size, said)
            self._K[turn] = (K.numpy().astype(np.float32), size)
        return self._K[turn]

    def _images(self, turn: str) -> list[np.ndarray]:
        if "0" not in self._greys:
            self._greys["0"] = [grey(frame) for frame in self.frames]
        if turn not in self._greys:
            self._greys[turn] = [np.asarray(turned(Image.fromarray(image), turn)) for image in self._greys["0"]]
        return self._greys[turn]


def grey(frame: Frame) -> np.ndarray:
    """Return a colour image as (h, w) uint8, reduced, as stored or upright as `read_color` has it, not turned."""
    upright = lies_upright(frame.color, frame.depth)
    with Image.open(frame.color) as image:
        orientation = image.getexif().get(ORIENTATION, 1) if upright else 1
        scale = max(1, max(image.size) // SMALL)
        size = (image.width // scale, image.height // scale)
        image.draft("L", size)  # a JPEG is decoded at a fraction of its size
        small = image.convert("L").resize(size, Image.Resampling.BOX)
    ways = {5: "mirror270", 6: "90", 7: "mirror90", 8: "270"}
    return np.asarray(turned(small, ways.get(orientation, "0")))


class Lie(NamedTuple):
    """How colour lies against depth."""

    given: float  # correlation as it was read
    turns: Mapping[str, float]  # of the other ways to lie
    late: Mapping[int, float]  # of colour of other frames


def look(colours: Colours, turn: str) -> Lie:
    """Return how well grey values correlate if colour lies otherwise, or is that of other frames."""
    turns = {other: colours.correlation(Lens(other)) for other in TURNS if other != turn}
    late = {k: colours.correlation(Lens(turn, k)) for k in (-2, -1, 1, 2)}
    return Lie(colours.correlation(Lens(turn)), turns, late)


class Camera(NamedTuple):
    """Where the colour camera seems to be."""

    best: Lens
    given: float  # mismatch of grey values as it was read
    fitting: float  # with the best lens
    zoomed: bool  # whether its focal length is told: both halves of the pairs prefer it clearly
    beside: bool  # whether its place is told, likewise


def find_camera(colours: Colours, turn: str) -> Camera:
    """Return the colour camera at the minimum of the mismatch: focal length and place in turn."""
    known: dict[Lens, float] = {}

    def cost(lens: Lens) -> float:
        if lens not in known:
            known[lens] = colours.mismatch(lens)
        return known[lens]

    start = Lens(turn)
    best = min((start._replace(focal=focal) for focal in FOCALS), key=cost)
    for step in STEPS:
        for _ in range(2):
            best = min(
                (best._replace(focal=best.focal * factor) for factor in (1.0, 1 - step / 2, 1 + step / 2)), key=cost
            )
            best = min((best._replace(x=best.x + by) for by in (0.0, -step, step)), key=cost)
            best = min((best._replace(y=best.y + by) for by in (0.0, -step, step)), key=cost)
    alone = best._replace(x=0.0, y=0.0)
    beside = max(abs(best.x), abs(best.y)) >= NEAREST and all(
        colours.mismatch(best, half) < GAIN * colours.mismatch(alone, half) for half in (0, 1)
    )
    plain = best._replace(focal=1.0)
    zoomed = abs(best.focal - 1) > 0.02 and all(
        colours.mismatch(best, half) < ZOOM * colours.mismatch(plain, half) for half in (0, 1)
    )
    return Camera(best if zoomed else plain, cost(start), cost(best), zoomed, beside)
