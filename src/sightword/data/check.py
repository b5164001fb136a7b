"""Check a folder of images by decoding every file once, to find damaged files before training."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sightword.data.finding import CheckReport, Finding
from sightword.data.image import list_images, read_image
from sightword.errors import SightwordError

SMALL = 16  # pixels: below one token of the usual tokenizers


def check_images(root: str | Path) -> CheckReport:
    """Decode each image under `root` once, with a progress bar on a terminal. Raises as `list_images` does."""
    paths = list_images(root)
    return CheckReport(len(paths), tuple(find_bad_images(paths, f"check {root}")))


def find_bad_images(paths: Sequence[Path], desc: str) -> list[Finding]:
    """Decode each file once. Return a finding for each that is unreadable or too small."""
    found = [_finding(path) for path in tqdm(paths, desc=desc, unit=" images", disable=None)]
    return [finding for finding in found if finding is not None]


def _finding(path: Path) -> Finding | None:
    try:
        image = read_image(path)
    except SightwordError as error:
        return Finding("error", "unreadable images", str(error), (str(path),))
    if min(image.size) < SMALL:
        message = f"{path} is {image.width} x {image.height} pixels: a side under {SMALL} will be enlarged"
        return Finding("error", "images that are too small", message, (str(path),))
    return None
