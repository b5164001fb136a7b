"""Draw the skeletons of a video over its frames: a strip of eight moments, and a video.

The video is VP8 in .webm, which every browser plays and which OpenCV writes without a GPL encoder; without OpenCV it is
an animated .webp.

Legend: M persons, T frames, V joints.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from sightword.storage.atomic import write_atomically
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.video.decode import OVERLAY
from sightword.systems.skeleton.video.silence import silent
from sightword.viz.font import TITLE, cut, draw_text, length
from sightword.viz.style import INK, PALETTE

MOMENTS, COLUMNS = 8, 4
TILE = 300  # pixels of the longer side of a frame in the strip
LONGEST = 960  # pixels of the longer side of the video
DRAWN = 0.2  # least score of a joint that is drawn
BRIGHT = tuple(PALETTE[number] for number in (6, 5, 8, 4, 1, 7))  # by rank: those that are seen on photographs


class People(NamedTuple):
    """The people of a video."""

    points: np.ndarray  # (M, T, V, 2) pixels of the frames
    scores: np.ndarray  # (M, T, V)
    ids: Sequence[int]  # (M,)
    joints: JointSet


def drawn(frame: np.ndarray, people: People, time: int, longest: int) -> Image.Image:
    """Return one frame with the people in it, its longer side at most `longest` pixels; even sides, as codecs need."""
    height, width = frame.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
    image = Image.fromarray(frame).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for person in range(len(people.points) - 1, -1, -1):  # the first on top
        points = people.points[person, time] * (size[0] / width, size[1] / height)
        sure = people.scores[person, time] >= DRAWN
        if sure.any():
            colour = BRIGHT[person % len(BRIGHT)]
            _draw_body(pen, points, sure, people.joints, colour, max(size) / 300)
            _draw_name(pen, points[sure], str(people.ids[person]), colour, size)
    return image


def strip(frames: Iterable[np.ndarray], people: People, fps: float, title: str) -> Image.Image:
    """Return eight moments, evenly spread over the video, with the people and the seconds; fewer for a shorter one."""
    count = people.points.shape[1]
    moments = sorted({round(at) for at in np.linspace(0, count - 1, min(MOMENTS, count))})
    tiles = [drawn(frame, people, time, TILE) for time, frame in enumerate(frames) if time in moments]
    width, height = tiles[0].size
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    step, head = (width + 8, height + 24), 34
    page = Image.new("RGB", (max(columns * step[0] + 8, 320), rows * step[1] + head), "white")
    pen = ImageDraw.Draw(page)
    right = page.width - 8.0
    for place, number in reversed(list(enumerate(people.ids))):
        right -= length(f"person {number}", TITLE) + 26
        pen.rectangle((right, 11, right + 14, 23), BRIGHT[place % len(BRIGHT)], outline=INK)
        draw_text(pen, (right + 19, 9), f"person {number}", INK, TITLE)
    draw_text(pen, (8, 9), cut(title, right - 20, TITLE), INK, TITLE)
    for place, (tile, time) in enumerate(zip(tiles, moments, strict=True)):
        x, y = 8 + place % columns * step[0], head + place // columns * step[1]
        page.paste(tile, (x, y))
        draw_text(pen, (x, y + height + 3), f"{time / fps:.2f} s", INK)
    return page


def write_overlay(frames: Iterable[np.ndarray], people: People, fps: float, path: Path) -> Path:
    """Write the frames with the people in them as <path>.overlay.webm; .webp without OpenCV. Return the file."""
    images = (drawn(frame, people, time, LONGEST) for time, frame in enumerate(frames))
    try:
        import cv2  # noqa: F401
    except ImportError:
        return _write_webp(images, fps, path.with_name(f"{path.name}{OVERLAY}.webp"))
    return _write_webm(images, fps, path.with_name(f"{path.name}{OVERLAY}.webm"))


def _write_webm(images: Iterator[Image.Image], fps: float, path: Path) -> Path:
    import cv2

    first = next(images)
    with write_atomically(path) as beside:
        part = beside.with_name(f"{beside.name}.webm")  # FFmpeg knows the container by the ending
        try:
            with silent():  # OpenCV prints that it chose the codec's tag itself
                code = cv2.VideoWriter.fourcc(*"VP80")
                writer = cv2.VideoWriter(str(part), cv2.CAP_FFMPEG, code, fps, first.size)
            if not writer.isOpened():
                raise OSError(0, "OpenCV cannot write VP8", str(beside))
            for image in chain((first,), images):
                writer.write(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
            writer.release()
            part.replace(beside)
        finally:
            part.unlink(missing_ok=True)
    return path


def _write_webp(images: Iterator[Image.Image], fps: float, path: Path) -> Path:
    first = next(images)
    with write_atomically(path) as beside:
        first.save(beside, "WEBP", save_all=True, append_images=images, duration=round(1000 / fps), loop=0, quality=70)
    return path


def _draw_body(
    pen: ImageDraw.ImageDraw, points: np.ndarray, sure: np.ndarray, joints: JointSet, colour: str, width: float
) -> None:
    """Limbs and joints (V, 2) of one person, with a dark rim, so that they are seen on any ground."""
    lines = [[tuple(points[a]), tuple(points[b])] for a, b in joints.limbs if sure[a] and sure[b]]
    for extra, ink in ((2, "black"), (0, colour)):
        for line in lines:
            pen.line(line, ink, max(2, round(1.5 * width)) + extra)
    radius = max(1.5, 1.2 * width)
    for x, y in points[sure]:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour, "black" if radius >= 2.5 else None)


def _draw_name(pen: ImageDraw.ImageDraw, points: np.ndarray, name: str, colour: str, size: tuple[int, int]) -> None:
    """The id of a person above the joints, within the image. size: its width and height."""
    letters = max(TITLE, round(max(size) / 50))
    room = length(name, letters) + 8
    x = min(max(float(points[:, 0].min() + points[:, 0].max()) / 2, room / 2), size[0] - room / 2)
    y = min(max(float(points[:, 1].min()) - letters - 8, 0), size[1] - letters - 4)
    pen.rectangle((x - room / 2, y, x + room / 2, y + letters + 4), colour, "black")
    draw_text(pen, (x, y + 2 + letters / 2), name, "black", letters, "mm")
