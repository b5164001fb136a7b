"""What images really show: words of each image, and label maps that say where.

truth   drawn.json of `sightword mini`: {image id: {"objects": […], "place": …, "action": …}}; or any file that
        `sightword calibrate labels=` reads, such as a CSV with a column for each word
maps    a folder with words.txt and <image>.png: pixels of value i show the word of line i; 0 shows none of them

Images are matched by the name of their file, without its suffix. A word that a truth never speaks of is unknown.

Legend: h, w patches of an image.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.data.image import read_image
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json, read_text
from sightword.systems.intent.concept import SCENE, plain, read_concepts
from sightword.towers.preprocess import Preprocess

WORDS = "words.txt"


class Truth(NamedTuple):
    """The words of some images, in small letters with single spaces."""

    shown: Mapping[str, frozenset[str]]  # name of the image, without suffix → its words
    names: frozenset[str]  # words that the truth speaks of
    how: str  # the file was read, one line


def read_truth(file: Path, images: Path | None = None) -> Truth:
    """Read the words of images. Raises SightwordError, with the place in the file, for what cannot be read."""
    if not file.exists():
        raise MissingFileError(f"truth={file} does not exist. Pass a file with the words of each image")
    if (drawn := _drawn(file)) is not None:
        return drawn
    found = read_concepts(file, images)
    shown: dict[str, frozenset[str]] = {}
    for path, own in zip(found.files, found.shown, strict=True):
        if path.stem in shown:
            raise SightwordError(f"{file} has two images called {path.stem}. Give each image a name of its own")
        shown[path.stem] = frozenset(map(plain, own))
    return Truth(shown, frozenset(map(plain, found.names)), found.how)


def _drawn(file: Path) -> Truth | None:
    """Return what drawn.json says; None if the file is something else."""
    if file.suffix.lower() != ".json" or read_text(file).lstrip()[:1] != "{":
        return None
    content = read_json(file)
    first = next(iter(content), None)
    if first is None or not isinstance(content.value(first), dict) or "objects" not in content.mapping(first):
        return None
    shown = {name: _words(content.mapping(name)) for name in content}
    return Truth(
        shown, frozenset().union(*shown.values()), f"{file} read as: scenes by image, words = {', '.join(SCENE)}"
    )


def _words(record: Fields) -> frozenset[str]:
    found = set(record.texts("objects"))
    found |= {record.text(name) for name in SCENE[1:] if name in record and record.value(name) is not None}
    return frozenset(map(plain, found))


class Maps(NamedTuple):
    """Label maps of images."""

    folder: Path
    words: tuple[str, ...]  # of the values 1, 2, …

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the words of a folder of maps. Raises SightwordError if they do not exist or are doubled."""
        if not (folder / WORDS).is_file():
            raise MissingFileError(f"maps={folder} has no {WORDS}: the word of the pixels of value 1, 2, …, one a line")
        lines = [plain(line) for line in read_text(folder / WORDS).splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        if not lines or len(set(lines)) < len(lines) or len(lines) > 255 or not all(lines):
            raise SightwordError(
                f"{folder / WORDS}: expected 1 to 255 different words, one a line, got {len(lines)} lines"
            )
        return cls(folder, tuple(lines))

    def covered(self, image: Path, preprocess: Preprocess, grid: tuple[int, int]) -> dict[str, Tensor] | None:
        """Return word → the fraction of each patch that shows it, (h, w); None if the image has no map.

        A map is resized and cropped like its image. Raises SightwordError for a value without a word, and for a map of
        another size than its image.
        """
        file = self.folder / f"{image.stem}.png"
        if not file.is_file():
            return None
        values = _values(file)
        if image.is_file() and (size := read_image(image).size) != (values.shape[1], values.shape[0]):
            raise SightwordError(
                f"{file} has {values.shape[1]}x{values.shape[0]} pixels, its image {size[0]}x{size[1]}, width first. "
                "Write maps of the image's size"
            )
        if values.max() > len(self.words):
            raise SightwordError(f"{file} has the value {values.max()}; {WORDS} has {len(self.words)} lines")
        plain_input = Preprocess(preprocess.size, (0.0,) * 3, (1.0,) * 3, preprocess.resize, "bilinear")
        found = {}
        for value in np.unique(values[values > 0]).tolist():
            mask = Image.fromarray(np.where(values == value, 255, 0).astype(np.uint8)).convert("RGB")
            part = torch.nn.functional.adaptive_avg_pool2d(plain_input(mask)[:1], grid)[0]
            found[self.words[value - 1]] = part.clamp(0, 1)
        return found


def _values(file: Path) -> np.ndarray:
    """Return the values (H, W) of a map. Raises SightwordError for colours, which name no word."""
    try:
        with Image.open(file) as opened:
            if opened.mode not in ("P", "L"):
                raise SightwordError(
                    f"{file} is an image of mode {opened.mode}. Write maps as PNG of grey or palette, 8 bit"
                )
            return np.asarray(opened)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, SightwordError):
            raise
        raise SightwordError(f"{file} cannot be read: {error}") from None
