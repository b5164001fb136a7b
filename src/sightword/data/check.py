"""Check a folder of images before training: damaged, tiny, doubled and turned files, and those that are not read.

A damaged file shows only when it is decoded. JPEGs are decoded at an eighth of their size: that reads every byte, finds
exactly what decoding in full finds, and takes 0.4 of the time. Headers and end markers alone would be 30 times as fast
again and miss four of five files that are damaged in the middle, so they are no substitute.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image
from tqdm import tqdm

from sightword.data.archive import is_there
from sightword.data.content import doubles_of
from sightword.data.finding import CheckReport, Finding
from sightword.data.image import HEIF, count_suffixes, list_images, list_passed_over, opened, read_image
from sightword.errors import SightwordError

SMALL = 16  # pixels: below one token of the usual tokenizers
UPRIGHT = (0, 1)  # EXIF orientations that turn nothing


def check_images(root: str | Path) -> CheckReport:
    """Decode each image under `root` once, with a progress bar on a terminal. Raises as `list_images` does."""
    paths = list_images(root)
    findings = [*find_bad_images(paths, f"check {root}"), *find_doubles(paths), *find_passed_over(root)]
    return CheckReport(len(paths), tuple(findings))


def find_bad_images(paths: Sequence[Path], desc: str) -> list[Finding]:
    """Decode each file once, on all cores. Return a finding for each that is unreadable or too small; notes last."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside of the interpreter's lock
        looks = list(tqdm(pool.map(_look, paths), desc, len(paths), unit=" images", disable=None))
    found = [look.finding for look in looks if look.finding is not None]
    turned = [str(path) for path, look in zip(paths, looks, strict=True) if look.turned]
    if turned:
        message = f"{len(turned)} of {len(paths)} images are turned by their EXIF orientation and read upright"
        found.append(Finding("note", "turned images", f"{message}, {turned[0]} the first", tuple(turned), len(turned)))
    return found


class _Look(NamedTuple):
    """What decoding an image showed."""

    finding: Finding | None = None
    turned: bool = False  # by EXIF


def _look(path: Path) -> _Look:
    try:
        with Image.open(opened(path)) as image:
            size, turned = image.size, _orientation(image) not in UPRIGHT
            if image.format == "JPEG":
                image.draft(image.mode, (1, 1))
                image.load()
            else:
                read_image(path)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception:  # as `read_image` catches, which words it
        try:
            size, turned = read_image(path).size, False
        except SightwordError as error:
            return _Look(Finding("error", "unreadable images", str(error), (str(path),)))
    if min(size) < SMALL:
        message = f"{path} is {size[0]} x {size[1]} pixels: a side under {SMALL} will be enlarged"
        return _Look(Finding("error", "images that are too small", message, (str(path),)))
    return _Look(None, turned)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block
        return 1


def missing_images(paths: Sequence[Path], key: str) -> list[Finding]:
    """Return a finding for the files that do not exist. key: the argument that names their folder."""
    lost = [str(path) for path in paths if not is_there(path)]
    if not lost:
        return []
    there = len(paths) - len(lost)
    message = f"{there:,} of {len(paths):,} images are there; {lost[0]} is missing, the first"
    return [
        Finding("error", "missing images", message, tuple(lost), len(lost), f"is {key}= right?" if not there else "")
    ]


# ----------------------------------------------------------------------------------------------------------- doubles


def find_doubles(paths: Sequence[Path]) -> list[Finding]:
    """Return a finding for files with the bytes of another, and one for links to another. Missing files are ignored."""
    copies, links = doubles_of(paths)
    kinds = ((copies, "copies", "have the bytes of another"), (links, "links", "are another name of the same file"))
    found = []
    for groups, kind, what in kinds:
        if count := sum(len(group) - 1 for group in groups):
            first = (
                f"{groups[0][1]} those of {groups[0][0]}" if groups is copies else " and ".join(map(str, groups[0][:2]))
            )
            files = tuple(str(path) for group in groups for path in group)
            message = f"{count} of {len(paths)} images {what}, {first} the first"
            found.append(Finding("warning", kind, message, files, count, "keep one of each"))
    return found


# ------------------------------------------------------------------------------------------------------- passed over


def find_passed_over(root: str | Path) -> list[Finding]:
    """Return a finding for the images under a folder that are in formats which are not read."""
    files = list_passed_over(root)
    if not files:
        return []
    heif = any(path.suffix.lower() in HEIF for path in files)
    fix = "convert them to JPEG or PNG" + (", or pip install pillow-heif, with which .heic is read" if heif else "")
    message = f"{len(files)} images are passed over ({count_suffixes(files)}), {files[0]} the first"
    return [Finding("warning", "images that are passed over", message, tuple(map(str, files)), len(files), fix)]
