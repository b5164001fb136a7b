"""BlazePose: the 33 landmarks of MediaPipe, from .tflite files that the user has, run by ai-edge-litert.

A detector finds people in the frame. From then on each person is followed: the landmarks of one frame give the square
in which the next frame is searched. The detector runs again when somebody is lost, and every `EVERY` frames. Steps and
constants are those of MediaPipe's pose graph (Bazarevsky et al. 2020, BlazePose), which follows one person.

Points are x, y in pixels of the frame, y downwards. Legend: P persons, V = 33 joints, A = 2254 anchors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
from PIL import Image

from sightword.errors import SightwordError
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.track import overlaps
from sightword.systems.skeleton.video.silence import silent

DETECTORS = ("pose_solution_packed_assets.data", "pose_detection.tflite")  # the first is what npm's package has
LANDMARKS = ("pose_landmark_full.tflite", "pose_landmark_heavy.tflite", "pose_landmark_lite.tflite")
EVERY = 10  # frames between two searches for further people
MOST = 8  # people that are followed at a time: each costs a pass of the landmark network
SURE = 0.5  # least score of a detection, and least presence of a person
SURE_IN_PART = 0.8  # the same in a part of the frame: of things that are no people some reach 0.75 there
GRIDS = ((28, 2), (14, 2), (7, 6))  # cells a side, anchors a cell


class Detail(TypedDict):
    """An input or output of an interpreter."""

    index: int
    shape: Sequence[int]


class Interpreter(Protocol):
    """What is used of ai_edge_litert.interpreter.Interpreter."""

    def get_input_details(self) -> list[Detail]: ...
    def get_output_details(self) -> list[Detail]: ...
    def allocate_tensors(self) -> None: ...
    def set_tensor(self, index: int, value: np.ndarray) -> None: ...
    def invoke(self) -> None: ...
    def get_tensor(self, index: int) -> np.ndarray: ...


class Region(NamedTuple):
    """The turned square of one person."""

    centre: np.ndarray  # (2,) the middle of the hips
    up: np.ndarray  # (2,) towards the head; its length is the radius of the circle about the body

    def axes(self) -> np.ndarray:
        """From the crop, [-1, 1] with y downwards, to the frame: (2, 2)."""
        x, y = 1.25 * self.up
        return np.array([[-y, -x], [x, -y]])


class Person(NamedTuple):
    """Somebody in one frame."""

    points: np.ndarray  # (V, 3) x, y, score
    region: Region  # where to look in the next frame


class BlazePose:
    """People in the frames of a video, one after the other: an `Estimator`, see `pose`."""

    joints = JOINT_SETS["mediapipe33"]

    def __init__(self, landmarks: Path, detector: Path, threads: int = 1) -> None:
        self.name = f"BlazePose ({landmarks.stem})"
        self.detector = Network(detector, 224, {(1, 2254, 12), (1, 2254, 1)}, threads)
        self.landmarks = Network(landmarks, 256, {(1, 195), (1, 1), (1, 64, 64, 39)}, threads)
        self.start()

    def start(self) -> None:
        """Begin another video: nobody is followed."""
        self.live: list[Region] = []
        self.frame = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (P, V, 3), of the next frame. A score is 0 for a joint outside the frame."""
        picture = Picture(image)
        people = distinct([person for region in self.live if (person := self.look(picture, region))])
        if len(people) < max(1, len(self.live)) or self.frame % EVERY == 0:
            for region in self.search(picture, thorough=self.frame % EVERY == 0):
                if len(people) < MOST and not any(near(region, person.region) for person in people):
                    found = self.look(picture, region)
                    people = distinct([*people, *([found] if found else [])])
        self.live = [person.region for person in people]
        self.frame += 1
        return np.stack([one.points for one in people]) if people else np.zeros((0, 33, 3), np.float32)

    def search(self, picture: "Picture", thorough: bool) -> list[Region]:
        """Return where people may be, the same person several times perhaps; thorough: people far away, too.

        The detector finds nobody who is smaller than a third of its square, so that squares of half the side are
        searched besides the whole frame, each overlapping the next by half. MediaPipe searches the whole frame alone.
        """
        height, width = picture.shape
        whole = max(height, width)
        found = self.detect(picture, np.array([width, height]) / 2, whole)
        for y in middles(height, whole / 2) if thorough else ():
            for x in middles(width, whole / 2):
                there = self.detect(picture, np.array([x, y]), whole / 2, SURE_IN_PART)
                found += [region for region in there if np.hypot(*region.up) <= 1.25 * whole / 2]  # not beyond it
        return found

    def detect(self, picture: "Picture", centre: np.ndarray, side: float, least: float = SURE) -> list[Region]:
        """Return where people are in a square of the frame, the surest first. least: score."""
        whole = Region(centre, np.array([0, -side / 2.5]))
        outputs = self.detector(picture.crop(whole, 224, black=True) / 127.5 - 1)
        numbers, logits = outputs[(1, 2254, 12)][0], outputs[(1, 2254, 1)][0, :, 0]
        scores = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        sure = scores >= least
        places = numbers[sure].reshape(-1, 6, 2) / 224  # centre and size of the face; mid-hip, circle, two of the torso
        places[:, [0, 2, 3, 4, 5]] += ANCHORS[sure, None]
        found = []
        for place in merged(places, scores[sure]):
            hip, circle = (2 * place[2:4] - 1) @ whole.axes().T + whole.centre
            if np.hypot(*(circle - hip)) >= 4:  # pixels; smaller is nobody
                found.append(Region(hip, circle - hip))
        return found

    def look(self, picture: "Picture", region: Region) -> Person | None:
        """Return the person in a region, or None if nobody is there."""
        outputs = self.landmarks(picture.crop(region, 256) / 255)
        if not outputs[(1, 1)][0, 0] >= SURE:
            return None
        numbers = outputs[(1, 195)].reshape(39, 5)
        inside = refined(numbers[:, :2] / 256, outputs[(1, 64, 64, 39)][0])
        points = (2 * inside - 1) @ region.axes().T + region.centre
        visible, there = 1 / (1 + np.exp(-np.clip(numbers[:33, 3:], -50, 50))).T
        height, width = picture.shape
        within = ((points[:33] >= 0) & (points[:33] < (width, height))).all(-1)
        following = Region(points[33], points[34] - points[33])
        if not np.isfinite(points).all() or not 4 <= np.hypot(*following.up) <= 4 * max(height, width):
            return None
        return Person(np.column_stack([points[:33], visible * there * within]).astype(np.float32), following)


class Picture:
    """A frame, of which turned squares are cut."""

    def __init__(self, image: np.ndarray) -> None:
        self.shape = image.shape[:2]
        self.smaller = {1: image}  # by the factor, so that no pixel is skipped

    def crop(self, region: Region, side: int, black: bool = False) -> np.ndarray:
        """Return the square about a region, (side, side, 3) float32 from 0 to 255.

        Outside the frame it is black, or repeats the frame's border, as in MediaPipe's graph for the landmarks.
        """
        axes = region.axes()
        factor = max(1, int(2 * np.hypot(*axes[:, 0]) / side))
        if factor not in self.smaller:
            self.smaller[factor] = np.asarray(Image.fromarray(self.smaller[1]).reduce(factor))
        source = self.smaller[factor]
        steps = (2 * np.arange(side, dtype=np.float32) + 1) / side - 1  # middles of the pixels, in [-1, 1]
        place = (region.centre / factor - 0.5)[:, None, None] + np.einsum(
            "ij,jyx->iyx", axes / factor, np.stack(np.meshgrid(steps, steps))
        )
        x, y = (
            np.clip(each, 0, last) for each, last in zip(place, (source.shape[1] - 1, source.shape[0] - 1), strict=True)
        )
        left, top = x.astype(np.intp), y.astype(np.intp)
        right, below = np.minimum(left + 1, source.shape[1] - 1), np.minimum(top + 1, source.shape[0] - 1)
        across, down = ((each - low)[..., None].astype(np.float32) for each, low in ((x, left), (y, top)))
        upper = source[top, left] * (1 - across) + source[top, right] * across
        lower = source[below, left] * (1 - across) + source[below, right] * across
        cut: np.ndarray = upper * (1 - down) + lower * down
        if black:
            cut[(np.abs(place - np.stack([x, y])) > 0.5).any(0)] = 0
        return cut


class Network:
    """A .tflite file with one square image as input; outputs by their shapes."""

    def __init__(self, file: Path, side: int, outputs: set[tuple[int, ...]], threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter as LiteRT
        except ImportError:
            raise SightwordError("BlazePose needs ai-edge-litert: pip install 'sightword[video]'") from None
        content = file.read_bytes()
        if content[4:8] != b"TFL3":
            raise SightwordError(
                f"{file} is not a .tflite file. Fetch it again: it is in npm's package @mediapipe/pose"
            )
        try:
            with silent():  # it tells which kernels it uses
                self.net: Interpreter = LiteRT(model_content=content, num_threads=threads)
                self.net.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise SightwordError(f"{file} cannot be run by ai-edge-litert ({reason}). Fetch it again") from None
        given, made = (self.net.get_input_details(), self.net.get_output_details())
        self.input = given[0]["index"]
        self.outputs = {tuple(map(int, one["shape"])): one["index"] for one in made}
        shapes = [tuple(map(int, one["shape"])) for one in given]
        if shapes != [(1, side, side, 3)] or not outputs <= set(self.outputs):
            raise SightwordError(
                f"{file} takes {shapes} and gives {sorted(self.outputs)}: it is not the network that its name says. "
                "Use the files of npm's @mediapipe/pose 0.5.1675469404"
            )

    def __call__(self, image: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
        """(side, side, 3) → the outputs by their shapes."""
        self.net.set_tensor(self.input, image[None].astype(np.float32))
        self.net.invoke()
        return {shape: self.net.get_tensor(index) for shape, index in self.outputs.items()}


def _anchors() -> np.ndarray:
    """Middles of the cells, (A, 2) in [0, 1]."""
    made = []
    for cells, each in GRIDS:
        middles = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 1, 2)  # rows one after the other
        made.append(np.repeat(grid, each, axis=1).reshape(-1, 2))
    return np.concatenate(made).astype(np.float32)


ANCHORS = _anchors()


def merged(places: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Return one place for each person: detections whose boxes overlap by 0.3 or more, weighed by their scores.

    places: (N, 6, 2), of which the first is the middle of a box and the second its size.
    """
    boxes = np.concatenate([places[:, 0] - places[:, 1] / 2, places[:, 0] + places[:, 1] / 2], axis=1) * 1e4
    left, found = list(np.argsort(-scores, kind="stable")), []
    while left:
        same = overlaps(boxes[left[:1]], boxes[left])[0] >= 0.3
        same[0] = True
        together = [row for row, alike in zip(left, same, strict=True) if alike]
        found.append(np.average(places[together], axis=0, weights=scores[together]))
        left = [row for row, alike in zip(left, same, strict=True) if not alike]
    return found


def refined(places: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return landmarks moved to the middle of the heat about them: 7 × 7 cells, where its peak is 0.5 or more.

    places: (39, 2) in [0, 1] of the crop. heat: (64, 64, 39) logits.
    """
    made, cells = places.copy(), heat.shape[0]
    for row, (x, y) in enumerate((places * cells).astype(int)):
        if not (0 <= x < cells and 0 <= y < cells):
            continue
        top, left = max(0, y - 3), max(0, x - 3)
        window = 1 / (1 + np.exp(-heat[top : y + 4, left : x + 4, row]))
        if window.max() >= 0.5:
            rows, columns = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
            made[row] = np.array([(columns * window).sum(), (rows * window).sum()]) / window.sum() / cells
    return made


def middles(length: float, side: float) -> np.ndarray:
    """Return the middles of stretches of `side` that cover a length, each overlapping the next by half or more."""
    if length <= side:
        return np.array([length / 2])
    count = int(np.ceil((length - side) / (side / 2) - 1e-9)) + 1
    return np.linspace(side / 2, length - side / 2, count)


def near(one: Region, other: Region) -> bool:
    """Return whether two regions are of one person: their hips are nearer than a quarter of the larger radius."""
    return bool(np.hypot(*(one.centre - other.centre)) < max(np.hypot(*one.up), np.hypot(*other.up)) / 4)


def distinct(people: Sequence[Person]) -> list[Person]:
    """Return the people without those who are another one, found twice: the first of each is kept."""
    kept: list[Person] = []
    for one in people:
        apart = [np.median(np.hypot(*(one.points - other.points)[:, :2].T)) for other in kept]
        if not any(gap < np.hypot(*one.region.up) / 8 for gap in apart):
            kept.append(one)
    return kept
