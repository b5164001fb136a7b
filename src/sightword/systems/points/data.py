"""Scenes as ragged batches: points, the views that saw them, and CLIP's maps of these views.

Legend: N points and V views of all scenes of a batch; H, W pixels of the depth; E width of CLIP's joint space; h, w
cells of its maps.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sightword.data.loader import Draw, Loaders, Stream, mix, ordered
from sightword.storage import shards
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.config import PointsData
from sightword.systems.points.lift.cloud import Cloud, scene_cloud, voxels
from sightword.systems.points.lift.features import FrameCache, fill
from sightword.systems.points.lift.link import Views
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import (
    Frame,
    Scene,
    check_size,
    find_scenes,
    read_color,
    read_scene,
    read_scenes_file,
    views_of,
)
from sightword.towers.preprocess import Preprocess

CLOUDS = 256  # thinned clouds that a process remembers, a few MB each


class RoomBatch(NamedTuple):
    """Whole scenes, one after the other. Maps come out of a cache; without one there are images, for CLIP to see."""

    xyz: Tensor  # (N, 3) float32 metres
    rgb: Tensor  # (N, 3) float32 in [-1, 1]
    label: Tensor  # (N,) int64, the number of a class; -1 where none is known
    scene: Tensor  # (N,) int64, which of the batch
    hidden: Tensor  # (N,) bool: points whose views are kept from the encoder, in training alone
    views: Views  # V of them
    maps: Tensor | None  # (V, E, h, w) float16, a unit vector a cell
    pooled: Tensor | None  # (V, E) float16
    images: Tensor | None  # (V, 3, ·, ·) float32, as the run's CLIP takes them
    names: list[str]  # of the scenes
    frames: list[list[int]]  # of each scene, the indices of its views
    split: str


# ------------------------------------------------------------------------------------------------------------ loaders


def make_loaders(data: PointsData, clip: FrozenClip, labels: LabelSet, seed: int = 0) -> Loaders:
    """Training draws views and points of a scene anew each epoch; validation has the same ones always.

    clip, labels: of the model. With `data.cache` every frame that may be drawn goes through CLIP first, unless it is
    there. ValueError, one line, for whatever does not fit.
    """
    names = split_names(data)
    if shared := sorted(set(names["train"]) & set(names["val"])):
        raise ValueError(f"{shared[0]} is to be trained on and validated on ({len(shared)} such scenes): divide them")
    train, val = (read_scenes(data, names[split], split) for split in ("train", "val"))
    shards.say(f"{len(train)} scenes to train on, {len(val)} for validation")
    eyes = _eyes(data, clip, [*train, *val])
    rooms = Rooms(train, data, labels, "train", eyes, seed)
    held = ordered(Rooms(val, data, labels, "val", eyes), data.batch_size, **_options(data))
    return Loaders(Stream(rooms, data.batch_size, seed, **_options(data)), held)


def split_loader(data: PointsData, split: str, clip: FrozenClip, labels: LabelSet) -> DataLoader:
    """A split to measure on, train, val or test: each scene once, the same views and points always."""
    names = split_names(data)
    if split not in names:
        raise ValueError(f"a split is {', '.join(names)}; got {split!r}: set data.test_scenes for test")
    scenes = read_scenes(data, names[split], split)
    rooms = Rooms(scenes, data, labels, split, _eyes(data, clip, scenes))
    return ordered(rooms, data.batch_size, **_options(data))


def _options(data: PointsData) -> dict[str, Any]:
    return {"collate_fn": collate, "num_workers": data.num_workers, "pin_memory": torch.cuda.is_available()}


Eyes = FrameCache | Preprocess  # where maps of frames are, or how frames are brought before CLIP


def _eyes(data: PointsData, clip: FrozenClip, scenes: Sequence[Scene]) -> Eyes:
    if data.cache:
        cache = fill(clip.source, clip.token_type, scenes, data.cache, offline=data.offline_clip_feat)
        if shards.place()[1] > 1:
            _wait_for_ranks(cache, scenes)
        return cache
    return clip.open().preprocess


def _wait_for_ranks(cache: FrameCache, scenes: Sequence[Scene]) -> None:
    """Under torchrun each rank does its share of a job, and none waits for the others: so do it here."""
    while any(cache.lacks(scene) for scene in scenes):
        time.sleep(1)


# -------------------------------------------------------------------------------------------------------------- splits


def split_names(data: PointsData) -> dict[str, list[str]]:
    """The scenes of train, val and, where it is named, test."""
    if not data.root:
        raise ValueError("data.root is not set: give the folder of the scenes, in the ScanNet layout")
    listed = {"train": data.scenes, "val": data.val_scenes, "test": data.test_scenes}
    found = {split: read_scenes_file(file) for split, file in listed.items() if file}
    if not data.val_scenes:
        every = found.get("train") or _others(data.root, found.get("test", ()))
        found["train"], found["val"] = hold_out(every, data.hold_out)
    elif not data.scenes:
        found["train"] = _others(data.root, [name for names in found.values() for name in names])
    return found


def _others(root: str, taken: Sequence[str]) -> list[str]:
    found = [name for name in find_scenes(root) if name not in set(taken)]
    if not found:
        raise ValueError(f"{root} has no scene to train on besides those for validation and test: name data.scenes")
    return found


def hold_out(names: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Those to train on and those held out, always the same. ScanNet's scans of one space stay together:
    scene0000_00 and scene0000_01 show the same room."""
    spaces = list(dict.fromkeys(space_of(name) for name in names))
    if len(spaces) < 2:
        raise ValueError(
            f"{len(names)} scenes of {len(spaces)} space cannot be divided into training and validation: name "
            "data.val_scenes"
        )
    count = min(max(round(share * len(spaces)), 1), len(spaces) - 1)
    held = {spaces[at] for at in np.random.default_rng(0).permutation(len(spaces))[:count]}
    return [n for n in names if space_of(n) not in held], [n for n in names if space_of(n) in held]


def space_of(name: str) -> str:
    """scene0000_01 → scene0000"""
    space, under, scan = name.rpartition("_")
    return space if under and scan.isdigit() else name


def read_scenes(data: PointsData, names: Sequence[str], split: str) -> list[Scene]:
    """The scenes that can be read; the others are named, and it is an error only if none is left."""
    scenes, lost = [], []
    for name in tqdm(names, desc=f"reading {split}", unit=" scenes", disable=None):
        try:
            scenes.append(read_scene(data.root, name, data.pool or None))
        except ValueError as error:
            lost.append(f"{name}: {error}")
    if not scenes:
        raise ValueError(f"none of {len(names)} scenes for {split} can be read, the first: {lost[0]}")
    skipped = sum(len(scene.skipped) for scene in scenes)
    for line in lost:
        shards.say(f"left out of {split}: {line}")
    if skipped:
        shards.say(f"{split}: {skipped} frames have no pose that can be used, or lack a file, and are left out")
    return scenes


# ------------------------------------------------------------------------------------------------------------- scenes


class Rooms(Dataset[RoomBatch]):
    """Scenes as batches of one. Of `train` each draw is another; of any other split always the same."""

    def __init__(
        self, scenes: Sequence[Scene], data: PointsData, labels: LabelSet, split: str, eyes: Eyes, seed: int = 0
    ) -> None:
        self.scenes, self.data, self.labels, self.split = list(scenes), data, labels, split
        self.eyes, self.seed = eyes, seed
        self._clouds: dict[int, Cloud] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, draw: Draw) -> RoomBatch:
        scene = self.scenes[draw.index]
        varies = self.split == "train"
        rng = np.random.default_rng(mix(self.seed, draw.epoch, draw.index) if varies else mix(draw.index))
        cloud = self.cloud(draw.index)
        kept = np.sort(rng.permutation(len(cloud.xyz))[: self.data.points])
        frames = _frames(scene.frames, self.data.frames, rng if varies else None)
        room = self._room(scene, cloud, torch.from_numpy(kept), frames)
        if not varies:
            return room
        room = room._replace(hidden=torch.from_numpy(rng.random(len(kept)) < self.data.hide))
        return turned(room, float(rng.uniform(0, 2 * np.pi))) if self.data.rotate else room

    def cloud(self, index: int) -> Cloud:
        """Of a scene, thinned; remembered."""
        if index not in self._clouds:
            if len(self._clouds) >= CLOUDS:
                self._clouds.pop(next(iter(self._clouds)))
            self._clouds[index] = thinned(scene_cloud(self.scenes[index], self.data.voxel), self.data.voxel)
        return self._clouds[index]

    def _room(self, scene: Scene, cloud: Cloud, kept: Tensor, frames: Sequence[Frame]) -> RoomBatch:
        label = torch.full((len(kept),), -1)
        if cloud.label is not None:
            label = torch.from_numpy(self.labels.numbers(cloud.label[kept].numpy()))
        maps = pooled = images = None
        if isinstance(self.eyes, FrameCache):
            maps, pooled = self.eyes.maps(scene.name, [frame.index for frame in frames])
        else:
            images = self.eyes.batch([read_color(frame) for frame in frames])
        return RoomBatch(
            cloud.xyz[kept],
            cloud.rgb[kept].float() / 127.5 - 1,
            label,
            torch.zeros(len(kept), dtype=torch.int64),
            torch.zeros(len(kept), dtype=torch.bool),
            views_of(frames),
            maps,
            pooled,
            images,
            [scene.name],
            [[frame.index for frame in frames]],
            self.split,
        )


def turned(room: RoomBatch, angle: float) -> RoomBatch:
    """A scene in a world that is turned about the vertical: points and cameras alike, so every link stays."""
    c, s = np.cos(angle), np.sin(angle)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[c, -s], [s, c]])
    views = room.views._replace(pose=turn @ room.views.pose)
    return room._replace(xyz=room.xyz @ turn[:3, :3].T, views=views)


def thinned(cloud: Cloud, voxel: float) -> Cloud:
    """The first point of each voxel, in the cloud's order. voxel: metres."""
    _, first = np.unique(voxels(cloud.xyz.numpy(), voxel), return_index=True)
    kept = torch.from_numpy(np.sort(first))
    label, instance = (None if part is None else part[kept] for part in (cloud.label, cloud.instance))
    return Cloud(cloud.xyz[kept], cloud.rgb[kept], label, instance)


def collate(rooms: Sequence[RoomBatch]) -> RoomBatch:
    """Batches of one scene as one batch, in their order."""
    check_size([room.views.depth for room in rooms], [room.names[0] for room in rooms])
    depth, K, pose = (torch.cat(parts) for parts in zip(*(r.views[:3] for r in rooms), strict=True))
    seen = [torch.full_like(room.views.scene, at) for at, room in enumerate(rooms)]
    points = [torch.full_like(room.scene, at) for at, room in enumerate(rooms)]
    return RoomBatch(
        torch.cat([room.xyz for room in rooms]),
        torch.cat([room.rgb for room in rooms]),
        torch.cat([room.label for room in rooms]),
        torch.cat(points),
        torch.cat([room.hidden for room in rooms]),
        Views(depth, K, pose, torch.cat(seen)),
        _joined([room.maps for room in rooms]),
        _joined([room.pooled for room in rooms]),
        _joined([room.images for room in rooms]),
        [name for room in rooms for name in room.names],
        [indices for room in rooms for indices in room.frames],
        rooms[0].split,
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def _frames(frames: Sequence[Frame], count: int, rng: np.random.Generator | None) -> list[Frame]:
    """So many of them in order: drawn, or spread evenly."""
    if len(frames) <= count:
        return list(frames)
    if rng is None:
        return [frames[at] for at in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    return [frames[at] for at in np.sort(rng.permutation(len(frames))[:count])]
