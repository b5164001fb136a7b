"""Is a folder of images whole? Decode every file once, before a training run finds out at night."""

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sightword.data.image import list_images, read_image

SMALL = 16  # pixels: below one token of the usual tokenizers


class Report(NamedTuple):
    """What a check found; `str()` is what to print."""

    found: int  # image files looked at
    problems: list[str]  # one line each, naming the file; unreadable ones and those too small

    def __str__(self) -> str:
        if not self.problems:
            return f"{self.found} images, all readable"
        verdict = f"{self.found} images, {len(self.problems)} with a problem"
        return "\n".join([*self.problems, verdict])


def check_images(root: str | Path) -> Report:
    """Decode each image under `root` once, with a progress bar on a terminal. ValueError as in `list_images`."""
    paths = list_images(root)
    found = [_problem(path) for path in tqdm(paths, desc=f"check {root}", unit=" images", disable=None)]
    return Report(len(paths), [problem for problem in found if problem is not None])


def _problem(path: Path) -> str | None:
    try:
        image = read_image(path)
    except ValueError as error:
        return str(error)
    if min(image.size) < SMALL:
        return f"{path} is {image.width} x {image.height} pixels: a side under {SMALL} will be enlarged"
    return None
