"""A scene mapped frame by frame, as a robot sees it: the job behind `sightword stream`.

    out/map.ply          the map so far, rewritten every few frames: mean position, colour, `instance`
    out/instances.json   the instances so far: number, frames, voxels, centre, size, and its word where words are given
    out/stream.csv       a line a frame: its points, and what the map has then

Frames come in the order of their numbers. Each is encoded, its depth becomes points, and its mask tells which of them
are one object. `VoxelMap` keeps their means and the numbers of the objects, in bounded memory.

Legend: n points of a frame; D channels; M voxels, G instances of the map; H, W pixels of depth.
"""

import csv
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage.ply import Cloud, write_ply
from sightword.storage.writer import write_json
from sightword.systems.points import show
from sightword.systems.points.ask import AGAINST, LOGIT_SCALE, query_embeddings
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.lift.features import FrameEncoder, features_of
from sightword.systems.points.lift.geometry import at_links, back_project, link
from sightword.systems.points.lift.mask import read_masks
from sightword.systems.points.lift.stream import Slice, VoxelMap
from sightword.systems.points.presence import Background, fit_of, read_background
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.reader import Frame, Scene, read_color, read_scene, views_of
from sightword.towers.base import TextTower
from sightword.viz.style import PALETTE, rgb

COLUMNS = ("frame", "points", "voxels", "instances", "dropped", "seconds")
POINTS = 20_000  # of a frame: fewer leave gaps between the voxels of one surface, and its parts are not joined
LOOK = 0.5  # seconds between two looks for new frames

#: A segmenter: a frame, and H and W of its depth, to a mask (H, W) int64, −1 where nothing is shown.
Segmenter = Callable[[Frame, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class MapOptions:
    """How frames become a map."""

    voxel: float = 0.05  # metres
    cap: int = 200_000  # voxels; beyond it those seen longest ago are dropped
    step: int = 0  # pixels of depth between two points; 0: so many that a frame has about `POINTS`
    threshold: float = 0.25  # overlap times cosine from which a mask is a known instance
    every: int = 10  # frames between two versions of the map on disk


class Step(NamedTuple):
    """What a frame did to the map."""

    frame: int
    points: int
    voxels: int
    instances: int
    dropped: int  # voxels, so far
    seconds: float


class LiveMap:
    """The map of a scene whose frames are added one by one, also from Python: `LiveMap(clip).add(frame)`."""

    def __init__(self, clip: FrozenClip, said: MapOptions | None = None, segment: Segmenter | None = None) -> None:
        """segment: returns a frame's mask; without one, there are no instances."""
        self.clip, self.said, self.segment = clip, said or MapOptions(), segment
        self.background: Background | None = None
        self.encoder: FrameEncoder = clip.encoder()
        width = clip.width
        self.map = VoxelMap(width, self.said.voxel, self.said.cap, self.said.threshold)

    @torch.no_grad()
    def add(self, frame: Frame) -> Step:
        """Add the next frame. Raises SightwordError if it cannot be read."""
        start = time.perf_counter()
        points = self._slice(frame)
        self.map.add(points)
        numbers = len(self.map), len(self.map.instances), self.map.dropped
        return Step(frame.index, len(points.xyz), *numbers, round(time.perf_counter() - start, 4))

    def _slice(self, frame: Frame) -> Slice:
        """The frame's points (n, 3), every few pixels, with the feature and the instance that its image has there."""
        views = views_of([frame])
        height, width = views.depth.shape[1:]
        step = self.said.step or max(1, round((height * width / POINTS) ** 0.5))
        v, u = torch.meshgrid(*(torch.arange(0, side, step) for side in (height, width)), indexing="ij")
        pixels = torch.stack([u.flatten(), v.flatten()], 1)
        xyz = back_project(views.depth[0], views.K[0], views.pose[0], pixels)
        known = xyz.isfinite().all(1)
        xyz, pixels = xyz[known], pixels[known]
        links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64), views)
        maps = features_of(self.encoder.rows([read_color(frame)]), self.encoder.grid).maps.float()
        features = F.normalize(at_links(maps, links), dim=1)
        mask = None
        if self.segment is not None:
            u, v = links.uv.round().long().unbind(1)
            mask = self.segment(frame, (height, width))[v.clamp(0, height - 1), u.clamp(0, width - 1)]
        return Slice(xyz[links.point], features, links.conf, mask)

    def described(self, text: TextTower | None = None, words: Sequence[str] = ()) -> list[dict[str, object]]:
        """Return the instances as plain values. words: each gets the likeliest, if no generic text is likelier."""
        found = self.map.instances
        looks = torch.stack([each.feature for each in found] or [torch.zeros(self.map.channels)])
        names, chances = _named(looks, text, words, self._missing(text, words))
        rows = []
        for place, each in enumerate(found):
            own = self.map.xyz[self.map.instance == each.number]
            low, high = own.amin(0), own.amax(0)
            row: dict[str, object] = {
                "number": each.number,
                "frames": each.frames,
                "voxels": each.voxels,
                "centre": _rounded((low + high) / 2),
                "size": _rounded(high - low + self.said.voxel),
            }
            if words:
                row |= {"word": names[place], "confidence": round(chances[place], 4)}
            rows.append(row)
        return rows

    def use_background(self, folder: Path) -> None:
        """Take what `sightword background` wrote: words that are not in the map name no instance from now on."""
        self.background = read_background(folder, "lifted", self.clip.identity())

    def _missing(self, text: TextTower | None, words: Sequence[str]) -> set[str]:
        """Return the words that are not in the map, if a background tells."""
        if self.background is None or text is None or not len(self.map):
            return set()
        vectors = query_embeddings(text, words)
        said, cosines = self.background.calibration(words, vectors), F.normalize(self.map.features, dim=1) @ vectors.T
        scores = [said.score(place, fit_of(column)) for place, column in enumerate(cosines.T)]
        return {word for place, word in enumerate(words) if said.fits(place, scores[place]) is False}

    def cloud(self) -> Cloud:
        """Return the map as a cloud: an instance in its own colour; without instances, features as colours."""
        instance = self.map.instance
        if bool((instance >= 0).any()):
            palette = np.array([rgb(colour) for colour in PALETTE], np.uint8)
            grey = np.full((len(instance), 3), 170, np.uint8)
            colours = np.where((instance >= 0).numpy()[:, None], palette[instance.clamp_min(0) % len(palette)], grey)
        else:
            scheme = show.Colours(self.map.features)
            colours = scheme(scheme.values(self.map.features))
        return Cloud(self.map.xyz, torch.from_numpy(colours), None, instance + 1)

    def write(self, out: Path, text: TextTower | None = None, words: Sequence[str] = ()) -> None:
        """Write map.ply and instances.json."""
        write_ply(out / "map.ply", self.cloud())
        write_json(out / "instances.json", self.described(text, words))


def _named(
    features: Tensor, text: TextTower | None, words: Sequence[str], missing: Collection[str]
) -> tuple[list[str], list[float]]:
    """The likeliest word of each instance (G, D), and its probability; "" where it is missing, or a generic text is
    likelier."""
    if text is None or not words:
        return [], []
    texts = [*words, *(word for word in AGAINST if word not in words)]
    chances = (LOGIT_SCALE * F.normalize(features, dim=1) @ query_embeddings(text, texts).T).softmax(1)
    best, at = chances.max(1)
    names = [words[place] if place < len(words) and words[place] not in missing else "" for place in at.tolist()]
    return names, best.tolist()


def _rounded(values: Tensor) -> list[float]:
    rows: list[float] = values.double().round(decimals=3).tolist()
    return rows


# ------------------------------------------------------------------------------------------------------------- the job


def stream_scene(
    live: LiveMap, frames: Iterator[Frame], out: Path, text: TextTower | None = None, words: Sequence[str] = ()
) -> Iterator[Step]:
    """Add frames and write the files below `out` as they grow. Yield what each frame did."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "stream.csv", "w", newline="", encoding="utf-8") as log:  # grows, so it is written in place
        writer = csv.writer(log)
        writer.writerow(COLUMNS)
        for number, frame in enumerate(frames, 1):
            step = live.add(frame)
            writer.writerow(step)
            log.flush()
            if number % live.said.every == 0:
                live.write(out, text, words)
            yield step
    live.write(out, text, words)


def frames_of(folder: Path, convention: Convention, wait: float = 0.0, limit: int = 0) -> Iterator[Frame]:
    """Yield the frames of a scene in order; with `wait`, also those that come while it lasts.

    wait: seconds without a new frame after which the stream ends; 0: only what is there. limit: frames at most; 0: all.
    A frame is read when all of its files are there.
    """
    done: set[int] = set()
    last = time.monotonic()
    while True:
        scene = _readable(folder, convention, first=not done)
        new = [frame for frame in scene.frames if frame.index not in done] if scene else []
        for frame in new:
            if limit and len(done) >= limit:
                return
            done.add(frame.index)
            yield frame
            last = time.monotonic()
        if time.monotonic() - last >= wait:
            return
        if not new:
            time.sleep(min(LOOK, wait))


def _readable(folder: Path, convention: Convention, first: bool) -> Scene | None:
    try:
        return read_scene(folder, convention=convention)
    except SightwordError:
        if first:
            raise
        return None  # a file that is being written


def masks_of(folder: str | Path, scene: str) -> Segmenter:
    """Return what reads a frame's mask from a folder, as `lift masks=` does."""

    def segment(frame: Frame, size: tuple[int, int]) -> Tensor:
        return read_masks(folder, Scene(scene, frame.depth.parent.parent, [frame], []), size)[0]

    return segment
