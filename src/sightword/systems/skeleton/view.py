"""Which frames of a recording a clip has, and where its joints stand on the canvas: pyskl's pipeline on points alone.

Functions of points; none changes what it is given. A View's joints are there where their score is above 0. With
`parity` they are what pyskl makes of them, for checkpoints trained by it: a coordinate of exactly 0 is missing,
whatever its score, and a mirrored x is W - x, which is 1 px beside the mirrored picture.

Legend: M persons, T frames, V joints; L frames of a clip; H, W pixels of the canvas.
"""

import math
from typing import NamedTuple

import numpy as np

TRIES = 10  # of a random crop that has to fit, then it is the middle square


class View(NamedTuple):
    """Skeletons on a canvas."""

    points: np.ndarray  # (M, T, V, 2) float32, x and y in pixels
    scores: np.ndarray  # (M, T, V) float32, 0 where a joint is not there
    size: tuple[int, int]  # H, W


# -------------------------------------------------------------------------------------------------------------- frames


def sample_train(total: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """(L,) frames of a recording of `total`, in order: a random one of each of L equal stretches.

    One of less than L frames is looped, from a random frame on.
    """
    if total < length:
        return (int(rng.integers(total)) + np.arange(length)) % total
    return _spread(total, length, rng)


def sample_test(total: int, length: int, clips: int, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """(clips, L) frames: each clip drawn as for training; of a recording that is looped, the starts are spread evenly.

    A RandomState(255) gives exactly pyskl's, which sets the global seed to that for every recording.
    """
    if total < length:
        starts = np.arange(clips) if total < clips else np.arange(clips) * total // clips
        return (starts[:, None] + np.arange(length)) % total
    drawn = []
    for _ in range(clips):
        rng.random()  # pyskl draws the share of the recording that a clip is of, though it is always all
        drawn.append(_spread(total, length, rng))
    return np.stack(drawn)


def _spread(total: int, length: int, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """(L,) of at least L frames."""
    if total < 2 * length:  # stretches would be of one or two: rather leave out total - L frames anywhere
        left_out = np.zeros(length + 1, dtype=np.int64)
        left_out[rng.choice(length + 1, total - length, replace=False)] = 1
        return np.arange(length) + left_out.cumsum()[:-1]
    edges = np.arange(length + 1) * total // length
    stretch = np.diff(edges)
    return edges[:-1] + (rng.integers(stretch) if isinstance(rng, np.random.Generator) else rng.randint(stretch))


def seen_best(scores: np.ndarray, most: int) -> np.ndarray | slice:
    """Which persons of (M, T, V) scores to keep, in their order: the ones with the highest sum."""
    if len(scores) <= most:
        return slice(None)
    return np.sort(np.argsort(-scores.sum((1, 2)), kind="stable")[:most])


# -------------------------------------------------------------------------------------------------------------- places


def compact(view: View, padding: float = 0.25, threshold: float = 10.0, parity: bool = False) -> View:
    """Cut the canvas to the box of all that is there in any frame, so much larger, made square, in whole pixels.

    One box for all frames, so that walking stays walking; it may reach beyond the picture. A box with a side below
    `threshold` pixels leaves the view as it is.
    """
    there = view.points != 0 if parity else np.broadcast_to((view.scores > 0)[..., None], view.points.shape)
    x, y = (view.points[..., axis][there[..., axis]] for axis in (0, 1))  # one by one: much faster than along an axis
    if not x.size or not y.size or min(np.ptp(x), np.ptp(y)) < threshold:
        return view
    left, right, top, bottom = (float(end) for end in (x.min(), x.max(), y.min(), y.max()))
    half = max(right - left, bottom - top) / 2 * (1 + padding)
    middle = ((left + right) / 2, (top + bottom) / 2)
    box = (int(middle[0] - half), int(middle[1] - half), int(middle[0] + half), int(middle[1] + half))
    made = crop(view, box)
    return made._replace(points=np.where(there, made.points, view.points)) if parity else made


def crop(view: View, box: tuple[int, int, int, int]) -> View:
    """The canvas between left, top, right and bottom."""
    left, top, right, bottom = box
    return View(view.points - np.array([left, top], dtype=np.float32), view.scores, (bottom - top, right - left))


def resize(view: View, size: tuple[int, int]) -> View:
    """Bent to H×W."""
    (height, width), (old_height, old_width) = size, view.size
    scale = np.array([width / old_width, height / old_height], dtype=np.float32)
    return View(view.points * scale, view.scores, size)


def resize_short(view: View, side: int) -> View:
    """So large that the shorter side has so many pixels; the shape is kept."""
    scale = side / min(view.size)
    height, width = (int(old * scale + 0.5) for old in view.size)
    return resize(view, (height, width))


def draw_crop(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random rectangle within H×W: its area as a share, its width to its height.

    Always takes as many numbers from the generator.
    """
    height, width = size
    shapes = math.log(aspect[0]), math.log(aspect[1])
    for share, shape, x, y in rng.random((TRIES, 4)).tolist():
        pixels = (area[0] + share * (area[1] - area[0])) * height * width
        ratio = math.exp(shapes[0] + shape * (shapes[1] - shapes[0]))
        w, h = max(round(math.sqrt(pixels * ratio)), 1), max(round(math.sqrt(pixels / ratio)), 1)
        if w <= width and h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def mirror(view: View, flipped: list[int], parity: bool = False) -> View:
    """Left is right: x is W - 1 - x, as of pixels in a mirrored picture, and joints change places with their opposites.

    flipped: V, as JointSet.flipped.
    """
    points, width = view.points[:, :, flipped], view.size[1]
    x = points[..., 0]
    points[..., 0] = np.where(x != 0, width - x, x) if parity else width - 1 - x
    return View(points, view.scores[:, :, flipped], view.size)
