"""Small videos of coloured boxes on grey, and an estimator that finds these without a network."""

from pathlib import Path

import numpy as np
from PIL import Image

from sightword.systems.skeleton.joints import JOINT_SETS

COLOURS = ((255, 0, 0), (0, 0, 255))
PLACES = np.random.default_rng(0).uniform(0, 1, (17, 2))  # of the joints in a box


def frames(count: int, people: int = 2, size: tuple[int, int] = (60, 96)) -> list[np.ndarray]:
    """A red box that goes to the right, and a blue one that goes up and down a little."""
    made = []
    for time in range(count):
        image = np.full((*size, 3), 128, np.uint8)
        if people > 0:
            image[20:44, 2 * time + 4 : 2 * time + 16] = COLOURS[0]
        if people > 1:
            image[30 + time % 2 : 54 + time % 2, 80:92] = COLOURS[1]
        made.append(image)
    return made


def animate(path: Path, images: list[np.ndarray], milliseconds: int | list[int] = 100) -> Path:
    """Write an animation; the format follows from the ending, and loses nothing."""
    first, *others = [Image.fromarray(image) for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, **more)
    return path


class Boxes:
    """Finds the boxes, COCO's joints in each; in changing order, as estimators give people."""

    name, joints = "boxes", JOINT_SETS["coco17"]

    def __init__(self) -> None:
        self.videos = self.calls = 0

    def start(self) -> None:
        self.videos, self.calls = self.videos + 1, 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.calls += 1
        found = []
        for colour in COLOURS:
            rows, columns = np.nonzero((np.abs(image.astype(int) - colour) < 60).all(-1))
            if len(rows):
                low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
                found.append(np.column_stack([low + PLACES * (high - low), np.full(17, 0.9)]))
        order = found if self.calls % 2 else found[::-1]
        return np.array(order, dtype=np.float32).reshape(-1, 17, 3)
