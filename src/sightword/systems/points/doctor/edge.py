"""Does colour lie as depth does, frame by frame, without poses: edges of depth are edges of colour.

Where neighbouring depths differ by more than 5 %, one thing ends before another, and grey values mostly change there.
The mean rank of the grey gradient at such edges is 0.5 by chance, and higher where colour lies as depth does. It is
compared between the eight ways to lie and several zooms, since a colour camera often has another focal length.

Legend: V frames; H, W pixels of depth.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sightword.systems.points.scannet.convention import TURNS
from sightword.systems.points.scannet.reader import turned

STEP = 0.05  # of the depth: neighbours that differ by more are an edge
ZOOMS = (0.8, 0.9, 1.0, 1.1)
FEWEST = 100  # pixels on edges, below which a frame tells nothing
SHAPE = 1.2  # factor between aspect ratios, above which a way to lie is impossible
SURE, CLEAR = 0.8, 0.08  # fraction of frames, and mean rank, by which another way must be ahead


def lying(depths: Sequence[np.ndarray], greys: Sequence[np.ndarray], turn: str) -> tuple[str, float, float] | None:
    """Return how colour lies if it clearly lies otherwise than `turn`: (turn, mean rank as read, mean rank so).

    depths: V images (H, W), 0 unknown. greys: V images (h, w) uint8 as stored. None where nothing clear is found.
    """
    ways = [way for way in TURNS if _possible(greys[0].shape, depths[0].shape, way)]
    if turn not in ways:
        return None
    ranks = [[_best_rank(depth, grey, way) for way in ways] for depth, grey in zip(depths, greys, strict=True)]
    told = np.array([row for row in ranks if not any(np.isnan(row))])
    if len(told) < 3:
        return None
    middle, given = np.median(told, axis=0), ways.index(turn)
    best = int(middle.argmax())
    if middle[best] - middle[given] < CLEAR or (told[:, best] > told[:, given]).mean() < SURE:
        return None
    return ways[best], float(middle[given]), float(middle[best])


def _possible(color: tuple[int, ...], depth: tuple[int, ...], turn: str) -> bool:
    """Whether colour that lies so has the shape of depth."""
    height, width = color[::-1] if turn in ("90", "270", "mirror90", "mirror270") else color
    ratio = (width / height) / (depth[1] / depth[0])
    return max(ratio, 1 / ratio) < SHAPE


def _best_rank(depth: np.ndarray, grey: np.ndarray, turn: str) -> float:
    """The mean rank at the zoom where it is highest; NaN for a frame with too few edges."""
    known = depth > 0
    edge = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        near, far = np.minimum(depth, np.roll(depth, -1, axis)), np.maximum(depth, np.roll(depth, -1, axis))
        edge |= known & np.roll(known, -1, axis) & (far - near > STEP * near)
    edge[-1], edge[:, -1] = False, False
    if edge.sum() < FEWEST:
        return float("nan")
    image = turned(Image.fromarray(grey), turn)
    return max(_rank(edge, _gradient(image, depth.shape, zoom)) for zoom in ZOOMS)


def _gradient(image: Image.Image, shape: tuple[int, ...], zoom: float) -> np.ndarray:
    """The grey gradient (H, W) of an image that shows `zoom` times the field of view of depth."""
    height, width = shape
    left, top = (image.width * (1 - zoom) / 2, image.height * (1 - zoom) / 2)
    box = (left, top, image.width - left, image.height - top)
    scaled = image.transform((width, height), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    grey = np.asarray(scaled, np.float32)
    for axis in (0, 1):  # a binomial filter twice, about a Gaussian of 1.4 pixels
        for _ in range(4):
            grey = np.float32(0.25) * (np.roll(grey, 1, axis) + 2 * grey + np.roll(grey, -1, axis))
    return np.hypot(*np.gradient(grey))


def _rank(edge: np.ndarray, gradient: np.ndarray) -> float:
    """The mean rank in [0, 1] of the gradient at edges among all pixels, the border left out."""
    inside = np.s_[4:-4, 4:-4]
    values, at = gradient[inside].ravel(), edge[inside].ravel()
    if not at.any():
        return float("nan")
    order = np.searchsorted(np.sort(values), values[at], side="right")
    return float(order.mean() / len(values))
