"""Is a set of posed RGB-D scenes whole, and do its depth, poses and intrinsics fit together?

What one file cannot tell, two frames can: points of one are looked for in the next, with the poses as they are and with
the poses inverted.
"""

from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from tqdm import tqdm

from sightword.data.check import Report
from sightword.data.image import read_image
from sightword.systems.points.lift.cloud import read_cloud, recorded
from sightword.systems.points.lift.geometry import back_project, project, visible
from sightword.systems.points.scannet.reader import (
    SKIP,
    Frame,
    find_scenes,
    list_frames,
    read_depth,
    read_scene,
    read_scenes_file,
    scene_folder,
)

PAIRS = 8  # of neighbouring frames that are compared, a scene
EVERY = 8  # of pixels, a side: enough to compare two frames by
LEAST, MOST = 0.15, 15.0  # metres: the median depth of a room is between
SPREAD = 200.0  # metres between a scene's cameras
BESIDE = 3.0  # metres from a cloud to the cameras that saw it


def check_scannet(root: str, scenes_file: str = "") -> Report:
    """Posed RGB-D in ScanNet's layout: every frame is opened once, neighbours are compared.

    root: the folder of the scenes, or one scene. scenes_file: a list of those to look at; all if empty.
    """
    names = read_scenes_file(scenes_file) if scenes_file else find_scenes(root)
    problems: list[str] = []
    notes: list[str] = []
    images = 0
    for name in names:
        try:
            folder = scene_folder(root, name)
        except ValueError as error:
            problems.append(str(error))
            continue
        looked, found, told = _scene(root, name, folder)
        images += looked
        problems += [f"{name}: {line}" for line in found]
        notes += [f"{name}: {line}" for line in told]
    return Report(images, problems, notes)


def _scene(root: str, name: str, folder: Path) -> tuple[int, list[str], list[str]]:
    """How many images were opened, the problems, the notes."""
    medians: dict[int, float] = {}  # of the depth, by frame
    looked, problems = _files(folder, name, medians)
    try:
        scene = read_scene(root, name)
    except ValueError as error:
        return looked, [*problems, str(error)], []
    lost = [line for line in scene.skipped if "not finite" in line]
    problems += [line for line in scene.skipped if line not in lost and "is missing" not in line]
    notes = [f"{len(scene.frames)} frames can be used"]
    if lost:
        notes.append(f"{len(lost)} frames have a pose that is not finite and are passed over")
    frames = [frame for frame in scene.frames if frame.index in medians]
    problems += _units(list(medians.values())) + _places(frames)
    if not problems:  # otherwise what follows is their consequence
        agreement = _agreement(frames)
        problems += agreement.problems()
        notes += agreement.notes()
    problems += _cloud(folder, name, frames, notes)
    return looked, problems, notes


def _files(folder: Path, name: str, medians: dict[int, float]) -> tuple[int, list[str]]:
    """Open every image; note the median depth, in metres, of those that could be read."""
    looked, problems = 0, []
    sizes: dict[str, tuple[int, ...]] = {}
    for index, (color, depth, pose) in tqdm(
        list_frames(folder).items(), desc=f"check {name}", unit=" frames", disable=None
    ):
        lost = [part for part, file in (("colour", color), ("depth", depth), ("pose", pose)) if file is None]
        if lost:
            problems.append(f"frame {index}: its {' and its '.join(lost)} is missing")
        try:
            if color is not None:
                looked += 1
                problems += _other_size(sizes, "colour", index, read_image(color).size[::-1])
            if depth is not None:
                looked += 1
                metres = read_depth(depth)
                problems += _other_size(sizes, "depth", index, tuple(metres.shape))
                if metres.any():
                    medians[index] = metres[metres > 0].median().item()
                else:
                    problems.append(f"frame {index}: its depth is 0 everywhere")
        except ValueError as error:
            problems.append(str(error).replace(SKIP, ""))
    return looked, problems


def _other_size(sizes: dict[str, tuple[int, ...]], kind: str, index: int, size: tuple[int, ...]) -> list[str]:
    usual = sizes.setdefault(kind, size)
    return [] if size == usual else [f"frame {index}: its {kind} is {_by(size)}, the first one's is {_by(usual)}"]


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"


def _units(medians: Collection[float]) -> list[str]:
    usual = median(medians) if medians else 1.0
    if LEAST <= usual <= MOST:
        return []
    return [f"half of its depth is under {usual:.3g} m: are its units millimetres? 1000 are a metre"]


def _places(frames: list[Frame]) -> list[str]:
    if not frames:
        return []
    at = torch.stack([frame.pose[:3, 3] for frame in frames])
    spread = (at.amax(0) - at.amin(0)).max().item()
    if spread > SPREAD:
        return [f"its cameras are {spread:.3g} m apart: poses are in metres, are these millimetres?"]
    return []


# ------------------------------------------------------------------------------------------------- between two frames


class _Agreement(NamedTuple):
    """Shares of a frame's points that the next frame shows where it should: medians over the pairs."""

    pairs: int
    shown: float  # of all points, with the poses as they are
    inverted: float  # of all points, with the poses inverted
    inside: float  # of those that project into the next frame

    def problems(self) -> list[str]:
        if self.pairs and self.inverted > self.shown + 0.1 and self.inverted > 1.2 * self.shown:
            return [
                f"its poses look inverted: a frame shows {self.shown:.0%} of the points of the one before, "
                f"{self.inverted:.0%} with the inverse; poses are camera-to-world"
            ]
        if self.pairs and self.inside < 0.2:
            return [
                f"its depth, poses and intrinsics do not fit: of the points that should be seen in the next frame "
                f"{self.inside:.0%} are where its depth is"
            ]
        return []

    def notes(self) -> list[str]:
        if not self.pairs:
            return ["it has no two frames to compare"]
        return [f"{self.inside:.0%} of the points of a frame that the next one looks at are where its depth is"]


def _agreement(frames: list[Frame]) -> _Agreement:
    step = max(1, (len(frames) - 1) // PAIRS)
    rows = [_pair(one, other) for one, other in list(pairwise(frames))[::step]]
    if not rows:
        return _Agreement(0, 0.0, 0.0, 0.0)
    return _Agreement(len(rows), *(median(column) for column in zip(*rows, strict=True)))


def _pair(one: Frame, other: Frame) -> tuple[float, float, float]:
    """Of one frame's points: shown in the other, shown with both poses inverted, shown of those inside."""
    depth, there = read_depth(one), read_depth(other)
    v, u = torch.meshgrid(*(torch.arange(0, side, EVERY) for side in depth.shape), indexing="ij")
    pixels = torch.stack([u, v], -1).flatten(0, 1)
    shares = []
    for turn in (lambda pose: pose, torch.linalg.inv):
        xyz = back_project(depth, one.K_depth, turn(one.pose), pixels)
        xyz = xyz[xyz.isfinite().all(1)]
        uv, z = project(xyz, other.K_depth, turn(other.pose))
        shown = visible(uv, z, there, 0.05, 0.05).ok.float().mean().nan_to_num().item()
        known = visible(uv, z, there, 1e3, 0.0).ok.float().mean().nan_to_num().item()
        shares.append((shown, known))
    (shown, known), (inverted, _) = shares
    return shown, inverted, shown / known if known else 0.0


def _cloud(folder: Path, name: str, frames: list[Frame], notes: list[str]) -> list[str]:
    """The recorded cloud, if there is one: readable, and where the cameras are."""
    problems = []
    files = recorded(folder, name)
    for kind, file in files.items():
        try:
            cloud = read_cloud(file)
        except ValueError as error:
            problems.append(str(error))
            continue
        labels = "" if cloud.label is None else f", {len(cloud.label.unique())} labels"
        notes.append(f"{file.name} has {len(cloud.xyz)} points{labels}")
        if frames and kind == "points":
            at = torch.stack([frame.pose[:3, 3] for frame in frames]).median(0).values
            low, high = cloud.xyz.amin(0).double() - BESIDE, cloud.xyz.amax(0).double() + BESIDE
            if not ((at >= low) & (at <= high)).all():
                where = ", ".join(f"{value:.1f}" for value in at.tolist())
                problems.append(f"{file} is elsewhere than the cameras, which are about ({where}): is it axis-aligned?")
    return problems
