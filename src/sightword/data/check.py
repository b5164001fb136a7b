"""Is a folder of images whole? Decode every file once, before a training run finds out at night."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sightword.data.image import list_images, read_image

SMALL = 16  # pixels: below one token of the usual tokenizers


class Report(NamedTuple):
    """What a check found; `str()` is what to print."""

    found: int  # image files looked at
    problems: list[str]  # one line each, naming the file; unreadable ones and those too small
    notes: Sequence[str] = ()  # lines about the set that are no problem, told first

    def __str__(self) -> str:
        verdict = f"{len(self.problems)} with a problem" if self.problems else "all readable"
        return "\n".join([*self.notes, *self.problems, f"{self.found} images, {verdict}"])


def check_images(root: str | Path) -> Report:
    """Decode each image under `root` once, with a progress bar on a terminal. ValueError as in `list_images`."""
    paths = list_images(root)
    return Report(len(paths), problems_of(paths, f"check {root}"))


def problems_of(paths: Sequence[Path], desc: str) -> list[str]:
    """Decode each file once: a line for each that is unreadable or too small."""
    found = [_problem(path) for path in tqdm(paths, desc=desc, unit=" images", disable=None)]
    return [problem for problem in found if problem is not None]


def _problem(path: Path) -> str | None:
    try:
        image = read_image(path)
    except ValueError as error:
        return str(error)
    if min(image.size) < SMALL:
        return f"{path} is {image.width} x {image.height} pixels: a side under {SMALL} will be enlarged"
    return None
