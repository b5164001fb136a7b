"""A stage of a map that grows: what `sightword stream` maps frame by frame, in the window.

Legend: M voxels of the map.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from sightword.errors import SightwordError
from sightword.storage.ply import Cloud
from sightword.systems.points import ask as asking
from sightword.systems.points.ask import PointFeatures, SceneAnswer
from sightword.systems.points.doctor.up import upwards
from sightword.systems.points.lift.cloud import GREY, fuse, voxels
from sightword.systems.points.live import LiveMap, Step
from sightword.systems.points.scannet.reader import Frame
from sightword.systems.points.view.stage import MOST, Box, Known, Stage, number_colour
from sightword.towers.base import TextTower


class Feed:
    """A live map with the colours of its photos."""

    def __init__(self, name: str, live: LiveMap, text: Callable[[], TextTower], against: Sequence[str] = ()) -> None:
        """text: opens the text encoder. against: texts that compete with the queries; if empty, `ask.AGAINST`."""
        self.name, self.live, self.text, self.against = name, live, text, tuple(against) or asking.AGAINST
        self.frames: list[Frame] = []
        self._keys, self._rgb = np.empty(0, np.int64), np.empty((0, 3), np.uint8)
        self._up: list[float] = []

    def add(self, frame: Frame) -> Step:
        """Add the next frame to the map."""
        step = self.live.add(frame)
        self.frames.append(frame)
        try:
            seen = fuse([frame], self.live.said.voxel)
        except SightwordError:  # its depth shows nothing
            return step
        keys = np.concatenate([voxels(seen.xyz.numpy(), self.live.said.voxel), self._keys])
        self._keys, first = np.unique(keys, return_index=True)  # of equal ones the first: the latest colour
        self._rgb = np.concatenate([seen.rgb.numpy(), self._rgb])[first]
        self._forget()
        return step

    def _forget(self) -> None:
        """Keep the colours of the map's voxels alone, which are bounded, once there are many others."""
        if len(self._keys) > 4 * max(len(self.live.map), 10_000):
            kept = np.isin(self._keys, voxels(self.live.map.xyz.numpy(), self.live.said.voxel))
            self._keys, self._rgb = self._keys[kept], self._rgb[kept]

    def stage(self, most: int = MOST) -> Stage:
        """Return a stage of the map as it is now. Raises SightwordError before the first frame that shows anything."""
        if not self.frames or not len(self.live.map):
            raise SightwordError(f"{self.name}: no frame shows a point. sightword check dataset=scannet says more")
        return Stage(self.name, self.points(), self.frames, self.answered, self.text, most, self.known())

    def points(self) -> PointFeatures:
        """Return the map's points with their features."""
        xyz, features = self.live.map.xyz, F.normalize(self.live.map.features, dim=1)
        if not self._up or len(self.frames) <= 20:  # later frames change nothing that a user would see
            self._up = upwards(self.frames)
        everywhere = torch.ones(len(xyz), dtype=torch.bool)
        cloud = Cloud(xyz, torch.from_numpy(self._colours(xyz.numpy())))
        nowhere = torch.zeros_like(xyz)  # `facing` is for drawings in PNG
        return PointFeatures(cloud, features, everywhere, everywhere, self._up, nowhere, "lifted")

    def _colours(self, xyz: np.ndarray) -> np.ndarray:
        """The photo's colour of each voxel, (M, 3) uint8; grey where only rounding put a point into a voxel."""
        if not len(self._keys):
            return np.full((len(xyz), 3), GREY, np.uint8)
        keys = voxels(xyz, self.live.said.voxel)
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where((self._keys[at] == keys)[:, None], self._rgb[at], np.uint8(GREY)).astype(np.uint8)

    def answered(self, texts: Sequence[str]) -> SceneAnswer:
        """Return the answer to text queries about the map as it is now."""
        return asking.answer(self.name, self.points(), self.text(), texts, self.against, self.live.background)

    def known(self) -> Known | None:
        """Return the instances that the map follows; None without masks."""
        if self.live.segment is None:
            return None
        boxes = []
        for each in sorted(self.live.map.instances, key=lambda one: -one.voxels):
            own = self.live.map.xyz[self.live.map.instance == each.number]
            low, high = own.amin(0).tolist(), own.amax(0).tolist()
            label = f"{each.number} · {each.frames} frame{'s' * (each.frames != 1)}"
            boxes.append(Box(label, tuple(low), tuple(high), number_colour(each.number)))
        return Known(self.live.map.instance, tuple(boxes))


def stages(feed: Feed, frames: Iterator[Frame], every: int, most: int = MOST) -> Iterator[Stage]:
    """Add frames. Yield the same stage again after the first frame, after every few, and after the last."""
    stage, pending = None, 0
    for frame in frames:
        feed.add(frame)
        pending += 1
        if stage is None and len(feed.live.map):
            stage, pending = feed.stage(most), 0
            yield stage
        elif stage is not None and pending >= every:
            pending = 0
            yield stage
    if stage is None:
        feed.stage(most)  # says why
    elif pending:
        yield stage
