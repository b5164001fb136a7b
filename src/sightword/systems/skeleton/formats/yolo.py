"""YOLO-pose labels: a .txt for each image, a line for each person, everything as fractions of the image.

    class cx cy w h  x y [v] …   [confidence] [track]

v is COCO's visibility (0, 1, 2) in labels, a confidence in predictions (`save_txt`, where `save_conf` and tracking add
the last two). Images beside the labels, or in `images/` beside `labels/`, give the size; otherwise it is `size=`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.reader import read_text
from sightword.systems.skeleton.formats.format import (
    Format,
    Made,
    Options,
    Source,
    Start,
    joints_of_count,
    needed_size,
)
from sightword.systems.skeleton.formats.frame import graded, on_timeline, persons, split_number

BOX = 5  # numbers before the joints: class, cx, cy, w, h
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
COCO = 17


def recognises(start: Start) -> bool:
    """Return whether the lines of a text are persons with COCO's 17 joints, in fractions of an image."""
    try:
        rows = [[float(part) for part in line.split()] for line in start.lines[:20] if line.strip()]
    except ValueError:
        return False
    return bool(rows) and all(
        _columns(len(row), COCO) is not None
        and row[0] >= 0
        and row[0] % 1 == 0
        and all(-0.5 <= value <= 1.5 for value in row[1 : BOX + 2])
        for row in rows
    )


def _columns(count: int, joints: int) -> tuple[int, int] | None:
    """How many numbers a joint has, 2 or 3, and how many follow the joints, at most 2; None if it does not fit."""
    for each in (2, 3):
        if 0 <= (rest := count - BOX - each * joints) <= 2:
            return each, rest
    return None


def read(source: Source, options: Options) -> list[Made]:
    """Return the recording of a folder's frames."""
    size = _size(source, options)
    joints = joints_of_count(
        len(options.joints.joints) if options.joints else COCO, options, ("coco17",), source.files[0]
    )
    rows = [_rows(file) for file in source.files]
    widths = {len(row) for many in rows for row in many}
    columns = {_columns(width, len(joints.joints)) for width in widths}
    if len(widths) > 1 or None in columns:
        raise SightwordError(
            f"{source.files[0].parent}: lines have {', '.join(map(str, sorted(widths)))} numbers, expected the same in "
            f"all: 5, then 2 or 3 for each of {len(joints.joints)} joints (joints=). Are other .txt among them?"
        )
    each, rest = next((column for column in columns if column), (3, 0))
    numbers = [split_number(file.stem)[1] for file in source.files]
    known = [number for number in numbers if number is not None]
    at, total = on_timeline(known if len(known) == len(rows) else range(len(rows)), source.files[0].parent)
    notes = [f"fractions of images of {size[0]}x{size[1]}"]
    if total > len(rows):
        notes.append("frames without a file are there without a person, so that time does not shift")
    table = np.array([row for many in rows for row in many]).reshape(-1, widths.pop() if widths else BOX)
    bodies = _bodies(table, each, len(joints.joints), size, notes)
    owner = [frame for frame, many in zip(at, rows, strict=True) for _ in many]
    ids = [f"{value:g}" for value in table[:, -1].tolist()] if _has_track(table[:, -1], rest) else []
    points, scores = persons(owner, bodies, total, options.people, notes, ids)
    return [Made(source.name, points, scores, size, joints, tuple(notes))]


def _has_track(last: np.ndarray, rest: int) -> bool:
    """Whether the last numbers of lines are tracks: whole numbers, where a confidence is below 1."""
    return rest == 2 or (rest == 1 and bool(((last == last.round()) & (last >= 1)).all()))


def _bodies(table: np.ndarray, each: int, joints: int, size: tuple[int, int], notes: list[str]) -> np.ndarray:
    """(persons, V, 3): x and y in pixels, score; without scores a joint at 0 0 is missing."""
    body = table[:, BOX : BOX + each * joints].reshape(len(table), joints, each)
    scores = graded(body[..., 2], notes) if each == 3 else np.asarray(body.any(-1), dtype=float)
    return np.concatenate([body[..., :2] * [size[1], size[0]], scores[..., None]], axis=-1)


def _rows(file: Path) -> list[Sequence[float]]:
    found: list[Sequence[float]] = []
    for number, line in enumerate(read_text(file, most=1 << 20).splitlines(), 1):
        try:
            found += [[float(part) for part in line.split()]] if line.strip() else []
        except ValueError:
            raise SightwordError(f"{file}, line {number}: {line.strip()[:40]!r} is not numbers") from None
    return found


def _size(source: Source, options: Options) -> tuple[int, int]:
    """The given size, or that of the images that are there. Raises SightwordError if they have several."""
    if options.size is not None:
        return options.size
    sizes: dict[tuple[int, int], Path] = {}
    for file in source.files:
        folders = [
            file.parent,
            *(above.parent / "images" / file.parent.relative_to(above) for above in file.parents[:2]),
        ]
        for beside in (folder / f"{file.stem}{suffix}" for folder in folders for suffix in IMAGES):
            if beside.is_file():
                sizes.setdefault(_image_size(beside), beside)
                break
    if len(sizes) > 1:
        raise SightwordError(
            f"{source.files[0].parent}: the images have {len(sizes)} sizes, the second is {list(sizes.values())[1]}: "
            "they are not the frames of one video. Put the labels of each video into a folder of its own"
        )
    return next(iter(sizes), None) or needed_size(
        options, source.files[0], "YOLO's label, which has no image beside it,"
    )


def _image_size(path: Path) -> tuple[int, int]:
    """The height and width of an image as it is shown, from its header."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientation: on its side
    except OSError:
        raise SightwordError(f"{path} is not an image that can be opened. Remove it, or pass size=") from None
    return (width, height) if turned else (height, width)


FORMAT = Format(
    "yolo", "YOLO's pose labels, a .txt for each image", (".txt",), recognises, read, True, takes=("size", "people")
)
