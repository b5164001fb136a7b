"""Scenes as ragged batches: points, the views of them, and CLIP's maps of these views.

Legend: N points and V views of all scenes of a batch; H, W pixels of the depth; E dimension of CLIP's joint space; h, w
cells of its maps.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sightword.data.content import Item
from sightword.data.loader import Draw, Loaders, Stream, mix, ordered
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage.ply import Cloud
from sightword.storage.segments import SegmentedCache
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.config import PointsData
from sightword.systems.points.doctor.diagnosis import require_sound
from sightword.systems.points.lift.cloud import class_numbers, recorded, scene_cloud, thinned
from sightword.systems.points.lift.geometry import ColorCamera, Views
from sightword.systems.points.lift.origin import require_same
from sightword.systems.points.scannet.convention import convention_of
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import (
    Frame,
    Scene,
    check_size,
    find_scenes,
    read_color,
    read_scene,
    read_scenes_file,
    scene_folder,
    views_of,
)
from sightword.towers.preprocess import Preprocess

JUDGED = 8  # scenes of a data set that the doctor looks at before it is used, at most 2 s each
CLOUDS = 256  # thinned clouds that a process remembers, a few MB each


class RoomBatch(NamedTuple):
    """Whole scenes, one after the other. Maps come out of a cache; without one there are images for CLIP."""

    xyz: Tensor  # (N, 3) float32 metres
    rgb: Tensor  # (N, 3) float32 in [-1, 1]
    label: Tensor  # (N,) int64, the number of a class; -1 where none is known
    scene: Tensor  # (N,) int64, which of the batch
    hidden: Tensor  # (N,) bool: points that the encoder treats as seen by no view, in training alone
    views: Views  # V of them
    maps: Tensor | None  # (V, E, h, w) float16, a unit vector per cell
    pooled: Tensor | None  # (V, E) float16
    images: Tensor | None  # (V, 3, ·, ·) float32, as the run's CLIP takes them
    names: list[str]  # of the scenes
    frames: list[list[int]]  # of each scene, the indices of its views
    split: str


# ------------------------------------------------------------------------------------------------------------ loaders


def make_loaders(
    data: PointsData, clip: FrozenClip, labels: LabelSet, seed: int = 0, names: Names | None = None
) -> Loaders[RoomBatch]:
    """Return a training loader, which samples views and points again each epoch, and a validation loader, which never
    does.

    clip, labels: of the model. Nothing is computed here: with `data.cache` the maps of all frames must be in it
    (see prepare.py, which has also compared the cache with the CLIP). Raises SightwordError for what does not fit.
    names: the scenes of each split that are used; None or a missing split: all.
    """
    used = {**split_names(data), **(names or {})}
    train, val = (read_scenes(data, used[split], split) for split in ("train", "val"))
    print(f"{len(train)} scenes to train on, {len(val)} for validation: {divided_by(data)}", file=sys.stderr)
    source = _frame_source(data, clip, [*train, *val])
    rooms = Rooms(train, data, labels, "train", source, seed)
    stream: Stream[RoomBatch] = Stream(
        rooms,
        data.batch_size,
        seed,
        collate_fn=collate,
        num_workers=data.num_workers,
        pin_memory=torch.cuda.is_available(),
    )
    return Loaders(stream, _held(Rooms(val, data, labels, "val", source), data))


def split_loader(
    data: PointsData, split: str, clip: FrozenClip, labels: LabelSet, names: Names | None = None
) -> DataLoader[RoomBatch]:
    """Return a loader to measure on train, val or test: each scene once, always with the same views and points.

    Raises SightwordError for a split that the data do not have, and for a cache of another CLIP.
    """
    scenes = read_scenes(data, (names or {}).get(split) or _listed(data, split), split)
    require_sound_set(data, scenes)
    if data.cache:
        clip.open_cache(data.cache)
    return _held(Rooms(scenes, data, labels, split, _frame_source(data, clip, scenes)), data)


def _held(rooms: "Rooms", data: PointsData) -> DataLoader[RoomBatch]:
    pinned = torch.cuda.is_available()
    return ordered(rooms, data.batch_size, collate_fn=collate, num_workers=data.num_workers, pin_memory=pinned)


FrameSource = SegmentedCache | Preprocess  # where maps of frames are read, or how frames are preprocessed for CLIP


def _frame_source(data: PointsData, clip: FrozenClip, scenes: Sequence[Scene]) -> FrameSource:
    if not data.cache:
        return clip.encoder().preprocess
    return complete_cache(data, scenes)


def complete_cache(data: PointsData, scenes: Sequence[Scene]) -> SegmentedCache:
    """Return data.cache. Raises SightwordError, with the command to run, if frames of these scenes are missing, and if
    the cache is of other scenes."""
    require_same(data.cache, scenes)
    cache = SegmentedCache(data.cache)
    kept = set(cache)
    missing = [key for scene in scenes for frame in scene.frames if (key := f"{scene.key}/{frame.index}") not in kept]
    if missing:
        raise SightwordError(
            f"data.cache={data.cache} does not contain {len(missing)} frames, {missing[0]} the first. "
            f"Compute their maps with: sightword prepare experiment=points/bifusion data.root={data.root} "
            f"data.cache={data.cache}, and the run's other data.* and system.*"
        )
    return cache


# -------------------------------------------------------------------------------------------------------------- splits


LISTS = {split: f"meta_data/scannetv2_{split}.txt" for split in ("train", "val", "test")}  # of a root, as ScanNet's


def split_names(data: PointsData) -> dict[str, list[str]]:
    """Return the scenes of train, val and, where there are such, test.

    Those of the configured lists; without any, those of the root's own `LISTS`; without these, data.hold_out divides
    what is there. Raises SightwordError if there are none, or one is in train and in val.
    """
    if not data.root:
        raise SightwordError("data.root is not set. Pass the folder of the scenes, in the ScanNet layout")
    listed = {"train": data.scenes, "val": data.val_scenes, "test": data.test_scenes}
    found = {split: read_scenes_file(file) for split, file in listed.items() if file} or _own_lists(data.root)
    if "val" not in found:
        every = found.get("train") or _others(data.root, found.get("test", ()))
        found["train"], found["val"] = hold_out(every, data.hold_out)
    elif "train" not in found:
        found["train"] = _others(data.root, [name for names in found.values() for name in names])
    if shared := sorted(set(found["train"]) & set(found["val"])):
        raise SightwordError(
            f"{shared[0]} is trained on and validated on ({len(shared)} such scenes). Divide the lists"
        )
    return found


def _own_lists(root: str) -> dict[str, list[str]]:
    """Return the scenes of a root that its own lists name, by split; {} unless some are to train and some to validate.

    ScanNet's lists name 1,513 scenes, and a root often has a part of them.
    """
    files = {split: Path(root).expanduser() / name for split, name in LISTS.items()}
    if not (files["train"].is_file() and files["val"].is_file()):
        return {}
    there = set(find_scenes(root))
    listed = {split: read_scenes_file(file) for split, file in files.items() if file.is_file()}
    found = {split: kept for split, names in listed.items() if (kept := [name for name in names if name in there])}
    return found if {"train", "val"} <= set(found) else {}


def divided_by(data: PointsData) -> str:
    """Say what `split_names` divides the scenes by, in a few words."""
    if data.scenes or data.val_scenes or data.test_scenes:
        return "by data.scenes and data.val_scenes" if data.val_scenes else f"data.hold_out={data.hold_out:g} held out"
    if _own_lists(data.root):
        return f"by {LISTS['train']} and {LISTS['val']} of {data.root}"
    return f"data.hold_out={data.hold_out:g} held out of all scenes of {data.root}"


def _listed(data: PointsData, split: str) -> list[str]:
    names = split_names(data)
    if split not in names:
        raise SightwordError(f"split={split!r} is none of {', '.join(names)}; for test set data.test_scenes")
    return names[split]


def items(data: PointsData, splits: Sequence[str]) -> dict[str, list[Item]]:
    """Return the scenes of some splits that exist: by their recorded clouds, or else by their first and last frames."""
    return {
        split: [Item(name, files) for name in _listed(data, split) if (files := _files(data.root, name))]
        for split in splits
    }


def _files(root: str, name: str) -> tuple[Path, ...]:
    try:
        folder = scene_folder(root, name)
    except SightwordError:  # told by `read_scenes`
        return ()
    clouds = [path for path in recorded(folder, name).values() if path.is_file()]
    if clouds:
        return tuple(clouds)
    frames = sorted(path for part in ("depth", "color", "pose") for path in (folder / part).glob("*") if path.is_file())
    return (frames[0], frames[-1]) if frames else ()


def _others(root: str, taken: Sequence[str]) -> list[str]:
    found = [name for name in find_scenes(root) if name not in set(taken)]
    if not found:
        raise SightwordError(f"{root} has no scene besides those for validation and test. Set data.scenes")
    return found


def hold_out(names: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Return the scenes to train on and the scenes held out, always the same.

    ScanNet's scans of one space stay together: scene0000_00 and scene0000_01 show the same room.
    """
    spaces = list(dict.fromkeys(space_of(name) for name in names))
    if len(spaces) < 2:
        raise SightwordError(
            f"{len(names)} scenes of {len(spaces)} space cannot be divided into training and validation. Set "
            "data.val_scenes"
        )
    count = min(max(round(fraction * len(spaces)), 1), len(spaces) - 1)
    held = {spaces[at] for at in np.random.default_rng(0).permutation(len(spaces))[:count]}
    return [n for n in names if space_of(n) not in held], [n for n in names if space_of(n) in held]


def space_of(name: str) -> str:
    """Return the space of a scan: scene0000_01 → scene0000."""
    space, under, scan = name.rpartition("_")
    return space if under and scan.isdigit() else name


def read_scenes(data: PointsData, names: Sequence[str], split: str) -> list[Scene]:
    """Return the scenes that can be read, and print the others. Raises SightwordError if none is left."""
    scenes, lost = readable_scenes(data, names, split)
    if not scenes:
        raise SightwordError(f"none of {len(names)} scenes for {split} can be read, the first: {lost[0]}")
    skipped = sum(len(scene.skipped) for scene in scenes)
    for line in lost:
        print(f"left out of {split}: {line}", file=sys.stderr)
    if skipped:
        print(f"{split}: {skipped} frames are left out: a pose is not usable, or a file is missing", file=sys.stderr)
    return scenes


def require_sound_set(data: PointsData, scenes: Sequence[Scene]) -> None:
    """Have the doctor look at some scenes, spread evenly: a data set has one convention. Raises SightwordError, unless
    data.trust, if the files of one do not belong together."""
    spread = np.linspace(0, len(scenes) - 1, min(JUDGED, len(scenes)))
    for number in np.unique(spread.round().astype(int)).tolist() if scenes else ():
        require_sound(scenes[number].folder, scenes[number].convention, data.trust, "data.")


def readable_scenes(data: PointsData, names: Sequence[str], split: str) -> tuple[list[Scene], list[str]]:
    """Return the scenes that can be read, with `data.pool` of their frames, and a line for each of the others."""
    scenes, lost, convention = [], [], convention_of(data)
    for name in tqdm(names, desc=f"reading {split}", unit=" scenes", disable=None):
        try:
            scenes.append(read_scene(data.root, name, data.pool or None, convention))
        except SightwordError as error:
            lost.append(f"{name}: {error}")
    return scenes, lost


# ------------------------------------------------------------------------------------------------------------- scenes


class Rooms(Dataset[RoomBatch]):
    """Scenes as batches of one: of `train` another sample at each draw, of any other split always the same."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        data: PointsData,
        labels: LabelSet,
        split: str,
        source: FrameSource,
        seed: int = 0,
    ) -> None:
        self.scenes, self.data, self.labels, self.split = list(scenes), data, labels, split
        self.source, self.seed = source, seed
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
        """Return a scene's cloud, thinned, its labels as numbers of classes; remembered."""
        if index not in self._clouds:
            if len(self._clouds) >= CLOUDS:
                self._clouds.pop(next(iter(self._clouds)))
            cloud = thinned(scene_cloud(self.scenes[index], self.data.voxel), self.data.voxel)
            self._clouds[index] = cloud._replace(label=class_numbers(cloud, self.labels.ids))
        return self._clouds[index]

    def _room(self, scene: Scene, cloud: Cloud, kept: Tensor, frames: Sequence[Frame]) -> RoomBatch:
        assert cloud.label is not None
        maps = pooled = images = None
        if isinstance(self.source, SegmentedCache):
            maps, pooled = cached_maps(self.source, [f"{scene.key}/{frame.index}" for frame in frames])
        else:
            images = self.source.batch([read_color(frame) for frame in frames])
        return RoomBatch(
            cloud.xyz[kept],
            cloud.rgb[kept].float() / 127.5 - 1,
            cloud.label[kept],
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


def cached_maps(cache: SegmentedCache, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return maps (V, E, h, w) and image vectors (V, E) of "scene/frame" keys, float16: rows as `lift.features` writes
    them."""
    rows = [cache[key] for key in keys]
    tokens = torch.from_numpy(np.stack([row["tokens"] for row in rows]))  # (V, h·w, E)
    pooled = torch.from_numpy(np.stack([row["pooled"] for row in rows]))
    return tokens.transpose(1, 2).unflatten(2, cache.header["grid"]).contiguous(), pooled


def turned(room: RoomBatch, angle: float) -> RoomBatch:
    """Return a scene rotated about the vertical by an angle in radians: points and cameras alike, so every
    correspondence stays."""
    c, s = np.cos(angle), np.sin(angle)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[c, -s], [s, c]])
    views = room.views._replace(pose=turn @ room.views.pose)
    return room._replace(xyz=room.xyz @ turn[:3, :3].T, views=views)


def collate(rooms: Sequence[RoomBatch]) -> RoomBatch:
    """Return batches of one scene as one batch, in their order."""
    check_size([room.views.depth for room in rooms], [room.names[0] for room in rooms])
    depth, K, pose = (torch.cat(parts) for parts in zip(*(r.views[:3] for r in rooms), strict=True))
    color = joined_cameras([room.views for room in rooms])
    seen = [torch.full_like(room.views.scene, at) for at, room in enumerate(rooms)]
    points = [torch.full_like(room.scene, at) for at, room in enumerate(rooms)]
    return RoomBatch(
        torch.cat([room.xyz for room in rooms]),
        torch.cat([room.rgb for room in rooms]),
        torch.cat([room.label for room in rooms]),
        torch.cat(points),
        torch.cat([room.hidden for room in rooms]),
        Views(depth, K, pose, torch.cat(seen), None, color),
        _joined([room.maps for room in rooms]),
        _joined([room.pooled for room in rooms]),
        _joined([room.images for room in rooms]),
        [name for room in rooms for name in room.names],
        [indices for room in rooms for indices in room.frames],
        rooms[0].split,
    )


def joined_cameras(views: Sequence[Views]) -> ColorCamera | None:
    """Return the colour cameras of several scenes as one; where a scene has none of its own, the depth's."""
    if all(part.color is None for part in views):
        return None
    cameras = [part.color or ColorCamera(part.K, _identity(part), part.K.new_zeros(len(part.K), 5)) for part in views]
    return ColorCamera(*(torch.cat(parts) for parts in zip(*cameras, strict=True)))


def _identity(views: Views) -> Tensor:
    return torch.eye(4).to(views.K).expand(len(views.K), 4, 4)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def _frames(frames: Sequence[Frame], count: int, rng: np.random.Generator | None) -> list[Frame]:
    """`count` of the frames, in order: sampled, or without a generator spread evenly."""
    if len(frames) <= count:
        return list(frames)
    if rng is None:
        return [frames[at] for at in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    return [frames[at] for at in np.sort(rng.permutation(len(frames))[:count])]
