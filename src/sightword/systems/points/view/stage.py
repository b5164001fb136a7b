"""What the window of a scene shows: points in colours, boxes around objects, and a line for each answer. No viser here.

Legend: N points of the scene; n of them that are shown; V cameras.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.systems.points.ask import Found, PointFeatures, SceneAnswer, query_colours, unit_of
from sightword.systems.points.instance import FoundObject
from sightword.systems.points.lift.geometry import link
from sightword.systems.points.scannet.reader import Frame, views_of
from sightword.towers.base import TextTower
from sightword.viz.style import PALETTE, Colour, rgb

MOST = 100_000  # points that are shown, if nothing is said: more are slow without a GPU
BOXES = 40  # that are drawn at most
LISTED = 5  # objects of a query that are listed
QUERIES = len(PALETTE)  # that compete at most, so that no two have one colour
LONGEST = 200  # characters of a question
COLD, HOT = np.array([226, 229, 233]), np.array([181, 19, 0])  # scores 0 and 1
ALONE: Colour = (0, 45, 198)  # points that one camera alone sees

#: What the colour of a point says.
Colouring: TypeAlias = Literal["photo", "query", "score", "object"]
COLOURINGS: tuple[Colouring, ...] = get_args(Colouring)

#: What answers text queries about the points as they are now.
Asked = Callable[[Sequence[str]], SceneAnswer]


class Box(NamedTuple):
    """A box around an object, along the axes of the world, in metres."""

    label: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    colour: Colour


class Seen(NamedTuple):
    """What one camera contributes."""

    points: Tensor  # (n,) bool: those that it sees
    alone: Tensor  # (n,) bool: those that no other camera sees
    told: str


class Known(NamedTuple):
    """Objects that a map follows from frame to frame."""

    number_of: Tensor  # (N,) int64; −1: of none
    boxes: tuple[Box, ...]


class Stage:
    """A scene's points, of which at most `most` are shown, and the answer to the last question."""

    def __init__(
        self,
        name: str,
        points: PointFeatures,
        frames: Sequence[Frame],
        asked: Asked,
        text: Callable[[], TextTower],
        most: int = MOST,
        known: Known | None = None,
    ) -> None:
        """frames: the cameras. asked: answers queries. text: opens the text encoder, which tells the words it knows.
        known: objects that are there without a question."""
        self.name, self.asked, self.text, self.most = name, asked, text, most
        self.question = ""
        self.answer: SceneAnswer | None = None
        self.failed = ""  # why the last question, or a part of it, has no answer
        self._found: list[Found] = []  # of each query; finding the objects is most of an answer's time
        self._objects: list[tuple[int, FoundObject, bool]] = []  # the query, an object, and whether it is unsure
        self.renew(points, frames, known)

    def renew(self, points: PointFeatures, frames: Sequence[Frame], known: Known | None = None) -> None:
        """Take the points and cameras of a map that grew. The last question is asked again."""
        self.points, self.frames, self.known = points, list(frames), known
        count = len(points.cloud.xyz)
        self.rows = torch.arange(count)
        if count > self.most:
            chosen = np.random.default_rng(0).choice(count, self.most, replace=False)
            self.rows = torch.from_numpy(np.sort(chosen))
        self.xyz = points.cloud.xyz[self.rows]
        self.height = self.xyz @ torch.tensor(points.up, dtype=self.xyz.dtype)  # (n,) metres along the vertical
        self._seen_by: Tensor | None = None
        if self.question:
            self.ask(self.question)

    def ask(self, question: str) -> None:
        """Answer a question: texts that compete, with commas between them. An empty one takes the answer away."""
        self.answer, self.failed, self.question = None, "", question
        self._found, self._objects = [], []
        self.object_of = torch.full((len(self.rows),), -1)
        texts = [text.strip() for text in question.split(",") if text.strip()]
        if not texts:
            return
        try:
            self.answer = self._answered(question, texts)
        except SightwordError as error:
            self.failed = str(error)
            return
        for number in range(len(self.answer.queries)):
            found, places = self.answer.find(number)
            self._found.append(found)
            own = places[self.rows]
            self.object_of = torch.where(own >= 0, own + len(self._objects), self.object_of)
            self._objects += [(number, each, found.fits is False) for each in found.objects]

    def _answered(self, question: str, texts: Sequence[str]) -> SceneAnswer:
        if len(question) > LONGEST or len(texts) > QUERIES:
            raise SightwordError(
                f"the question has {len(question)} characters and {len(texts)} texts; {LONGEST} and {QUERIES} are "
                "the most. Ask for less at once"
            )
        known = []
        for text in texts:
            try:
                self.text().check_words([text])
                known.append(text)
            except SightwordError as error:  # it is told, and does not stop the others
                self.failed = str(error)
        return self.asked(known or texts)

    # ------------------------------------------------------------------------------------------------------- colours

    def colours(self, colouring: Colouring) -> np.ndarray:
        """Return the colours (n, 3) uint8 of the points that are shown. Without an answer, those of the photos."""
        photo = self.points.cloud.rgb[self.rows].numpy()
        if colouring == "object" and self.answer is None and self.known is not None:
            return _by_number(self.known.number_of[self.rows], _pale(photo))
        if colouring == "photo" or self.answer is None:
            return photo
        if colouring == "object":
            return _by_number(self.object_of, _pale(photo))
        scores = self.answer.scores[self.rows, : len(self.answer.queries)]
        if colouring == "score":
            strength = scores.max(1).values.numpy()[:, None]
            return (COLD + strength * (HOT - COLD)).round().astype(np.uint8)
        return self._by_query(self.answer, scores, _pale(photo))

    def _by_query(self, answer: SceneAnswer, scores: Tensor, pale: np.ndarray) -> np.ndarray:
        """A point that a query fits best in its colour, stronger for a higher score; weak where nothing fits."""
        best = answer.best[self.rows]
        own = (best >= 0) & (best < len(answer.queries))
        at = torch.where(own, best, 0)
        fits = torch.tensor([0.4 if each.fits is False else 1.0 for each in self._found])
        strength = (0.45 + 0.55 * scores.gather(1, at[:, None]).squeeze(1)) * fits[at] * own
        full = np.array(list(query_colours(answer.queries).values()))[at.numpy()]
        return (pale + strength.numpy()[:, None] * (full - pale)).round().astype(np.uint8)

    def lit(self, seen: Seen) -> np.ndarray:
        """Return colours in which a camera's points are as in the photo, those it alone sees blue, the others pale."""
        photo = self.points.cloud.rgb[self.rows].numpy()
        shown = np.where(seen.points.numpy()[:, None], photo, _pale(photo))
        tinted = (0.45 * photo + 0.55 * np.array(ALONE)).round()
        return np.where(seen.alone.numpy()[:, None], tinted, shown).astype(np.uint8)

    def seen(self, camera: int) -> Seen:
        """Return what a camera contributes: the points that it sees, and those that it alone sees."""
        if self._seen_by is None:
            self._seen_by = torch.zeros(len(self.frames), len(self.rows), dtype=torch.bool)
            for number, frame in enumerate(self.frames):
                links = link(self.xyz, torch.zeros(len(self.xyz), dtype=torch.int64), views_of([frame]))
                self._seen_by[number, links.point] = True
        own = self._seen_by[camera]
        alone = own & (self._seen_by.sum(0) == 1)
        told = (
            f"frame {self.frames[camera].index} sees {int(own.sum()):,} of {len(own):,} points, "
            f"{int(alone.sum()):,} of them alone (blue)"
        )
        return Seen(own, alone, told)

    # --------------------------------------------------------------------------------------------------------- answers

    def boxes(self, colouring: Colouring) -> list[Box]:
        """Return the boxes to draw: of the answer's objects; without an answer, of those that the map follows."""
        if self.answer is None:
            return [] if self.known is None else list(self.known.boxes[:BOXES])
        palette = list(query_colours(self.answer.queries).values())
        found = []
        for place, (query, each, unsure) in enumerate(self._objects[:BOXES]):
            colour = number_colour(place) if colouring == "object" else palette[query]
            doubt = " unsure" if unsure else ""
            label = (
                f"{self.answer.queries[query]}{doubt} {each.confidence:.2f} · {_size(each.size, unit_of(self.answer))}"
            )
            found.append(Box(label, each.low, each.high, colour))
        return found

    def told(self) -> str:
        """Return the answer as HTML: each query with its colour, its objects, or that nothing fits."""
        lines = [f"<p>{escape(self.failed)}</p>"] if self.failed else []
        if self.answer is None:
            shown = f"<p>{escape(self.name)}: {len(self.rows):,} of {len(self.points.cloud.xyz):,} points</p>"
            return "".join(lines) or shown
        colours, unit = query_colours(self.answer.queries), unit_of(self.answer)
        for found in self._found:
            count = len(found.objects)
            here = f"{count} object{'s' * (count != 1)}, {found.points:,} points" if count else "no object"
            if found.fits is False and found.score is not None:
                limit = self.answer.threshold
                here = f"not here: score {found.score:.2f}, the threshold is {limit:.2f}{'; nearest:' * bool(count)}"
            lines.append(f"<p>{_square(colours[found.query])} <b>{escape(found.query)}</b>: {here}</p>")
            objects = "".join(f"<li>{_listed(each, unit)}</li>" for each in found.objects[:LISTED])
            lines.append(f"<ol>{objects}</ol>" if objects else "")
        if self.answer.unknown_words:
            lines.append(f"<p>unknown words: {escape(', '.join(self.answer.unknown_words))}</p>")
        if self.answer.calibration is None:
            lines.append("<p>not calibrated: whether a text fits at all is not known</p>")
        return "".join(lines)


def number_colour(number: int) -> Colour:
    """Return the colour of an object's number; they repeat after ten."""
    return rgb(PALETTE[number % len(PALETTE)])


def outside(xyz: np.ndarray, up: Sequence[float], cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a place from which the whole cloud (n, 3) is seen, obliquely from above, and its middle. In metres.

    cameras: (V, 3). If they stand on one side of the cloud, it is seen from there: other sides show backs of walls.
    """
    low, high = np.quantile(xyz, [0.02, 0.98], axis=0) if len(xyz) else (np.zeros(3), np.ones(3))
    middle, above, wide = (low + high) / 2, np.asarray(up, float), float(np.linalg.norm(high - low))
    side = cameras.mean(0) - middle if len(cameras) else np.zeros(3)
    side = side - above * (side @ above)
    if np.linalg.norm(side) < 0.1 * wide:
        side = np.eye(3)[int(np.abs(above).argmin())]
        side = np.cross(above, side) + 0.5 * (side - above * (side @ above))
    back = side / np.linalg.norm(side) + 0.9 * above
    return middle + back / np.linalg.norm(back) * 1.05 * wide, middle


def open_height(height: np.ndarray) -> float:
    """Return the height below which a room is shown, so that one can look in: below its ceiling, if it has one.

    height: (n,) metres along the vertical. A ceiling is a tenth of the points in the uppermost 15 cm.
    """
    if not len(height):
        return 0.0
    low, high = np.quantile(height, [0.005, 0.995]).tolist()
    room = high - low > 1.5 and float((height > high - 0.15).mean()) > 0.1
    return high - 0.2 if room else float(height.max())


def spacing(xyz: np.ndarray) -> float:
    """Return metres that a point (n, 3) is drawn wide: a little less than to the third nearest, at the median."""
    from scipy.spatial import cKDTree

    if len(xyz) < 4:
        return 0.02
    few = xyz[:: max(1, len(xyz) // 500)]
    distance, _ = cKDTree(xyz).query(few, k=4)
    return float(np.clip(0.8 * np.median(distance[:, 3]), 0.002, 0.06))


def _by_number(numbers: Tensor, pale: np.ndarray) -> np.ndarray:
    palette = np.array([rgb(colour) for colour in PALETTE], np.uint8)
    at = numbers.numpy()
    return np.where(at[:, None] >= 0, palette[at % len(palette)], pale).astype(np.uint8)


def _pale(photo: np.ndarray) -> np.ndarray:
    grey: np.ndarray = photo.astype(np.float32).mean(1, keepdims=True) * 0.25 + 170
    return np.repeat(grey, 3, 1)


def _listed(found: FoundObject, unit: str) -> str:
    x, y, z = found.centre
    return f"{found.confidence:.2f} · {_size(found.size, unit)} at ({x:.2f}, {y:.2f}, {z:.2f})"


def _size(size: Sequence[float], unit: str) -> str:
    return " × ".join(f"{side:.2f}" for side in size) + f" {unit}"


def _square(colour: Colour) -> str:
    return f'<span style="color:rgb{colour}">&#9632;</span>'
