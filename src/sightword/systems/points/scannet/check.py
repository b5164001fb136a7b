"""Is a set of posed RGB-D scenes complete, and do its depth, poses and intrinsics agree?

Some errors show only between two frames: points of one are looked for in the next, with the poses as they are and with
the poses inverted.
"""

from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from sightword.data.finding import CheckReport, Finding, Level
from sightword.data.image import read_image
from sightword.errors import SightwordError
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

PAIRS = 8  # of neighbouring frames that are compared, per scene
EVERY = 8  # of pixels, a side: enough to compare two frames by
LEAST, MOST = 0.15, 15.0  # metres: the median depth of a room is between
SPREAD = 200.0  # metres between a scene's cameras
BESIDE = 3.0  # metres from a cloud to the cameras that saw it


def check_scannet(root: str, scenes_file: str = "") -> CheckReport:
    """Open every frame of posed RGB-D in ScanNet's layout once, and compare neighbouring frames.

    root: the folder of the scenes, or one scene. scenes_file: a list of those to look at; all if empty.
    Raises SightwordError if there is no scene.
    """
    names = read_scenes_file(scenes_file) if scenes_file else find_scenes(root)
    findings: list[Finding] = []
    images = 0
    for name in names:
        try:
            checked = _Scene(name, scene_folder(root, name))
        except SightwordError as error:
            findings.append(Finding("error", "missing scenes", str(error), (name,)))
            continue
        checked.look()
        images += checked.images
        findings += checked.findings
    return CheckReport(images, tuple(findings))


class _Scene:
    """The check of one scene; `look` fills `findings` and counts `images`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.images = 0
        self.findings: list[Finding] = []
        self._medians: dict[int, float] = {}  # of the depth, in metres, by frame
        self._sizes: dict[str, tuple[int, ...]] = {}  # of the first colour and depth frame

    def look(self) -> None:
        """Check files, units, poses, frames against each other, and the cloud, in this order."""
        self._files()
        try:
            scene = read_scene(self.folder)
        except SightwordError as error:
            self._error("unreadable scenes", str(error))
            return
        lost = [line for line in scene.skipped if "not finite" in line]
        for line in scene.skipped:
            if line not in lost and "is missing" not in line:
                self._error("unusable poses", line)
        self._note("usable frames", f"{len(scene.frames)} frames can be used")
        if lost:
            self._note("lost poses", f"{len(lost)} frames have a pose that is not finite and are left out", len(lost))
        frames = [frame for frame in scene.frames if frame.index in self._medians]
        self._units(self._medians.values())
        self._places(frames)
        if not any(finding.level == "error" for finding in self.findings):  # or what follows is its consequence
            self._between(frames)
        self._cloud(frames)

    def _error(self, kind: str, message: str, *files: Path) -> None:
        self._add("error", kind, message, files)

    def _note(self, kind: str, message: str, count: int = 1) -> None:
        self._add("note", kind, message, (), count)

    def _add(self, level: Level, kind: str, message: str, files: tuple[Path, ...], count: int = 1) -> None:
        shown = tuple(map(str, files)) or (str(self.folder),)
        self.findings.append(Finding(level, kind, f"{self.name}: {message}", shown, count))

    def _files(self) -> None:
        """Open every image once."""
        bar = tqdm(list_frames(self.folder).items(), desc=f"check {self.name}", unit=" frames", disable=None)
        for index, (color, depth, pose) in bar:
            lost = [part for part, file in (("colour", color), ("depth", depth), ("pose", pose)) if file is None]
            if lost:
                self._error("missing files", f"frame {index}: its {' and its '.join(lost)} is missing")
            for look, file in ((self._color, color), (self._depth, depth)):
                if file is None:
                    continue
                self.images += 1
                try:
                    look(index, file)
                except ValueError as error:
                    self._error("unreadable images", str(error).replace(SKIP, ""), file)

    def _color(self, index: int, file: Path) -> None:
        self._size("colour", index, file, read_image(file).size[::-1])

    def _depth(self, index: int, file: Path) -> None:
        metres = read_depth(file)
        self._size("depth", index, file, tuple(metres.shape))
        if metres.any():
            self._medians[index] = metres[metres > 0].median().item()
        else:
            self._error("empty depth", f"frame {index}: its depth is 0 everywhere", file)

    def _size(self, kind: str, index: int, file: Path, size: tuple[int, ...]) -> None:
        usual = self._sizes.setdefault(kind, size)
        if size != usual:
            self._error(
                "images of two sizes", f"frame {index}: its {kind} is {_by(size)}, the first is {_by(usual)}", file
            )

    def _units(self, medians: Collection[float]) -> None:
        usual = median(medians) if medians else 1.0
        if not LEAST <= usual <= MOST:
            self._error(
                "implausible depth", f"the median depth is {usual:.3g} m. Depth is in millimetres: 1000 are 1 m"
            )

    def _places(self, frames: list[Frame]) -> None:
        if not frames:
            return
        at = torch.stack([frame.pose[:3, 3] for frame in frames])
        spread = (at.amax(0) - at.amin(0)).max().item()
        if spread > SPREAD:
            self._error(
                "implausible poses", f"its cameras are {spread:.3g} m apart. Poses are in metres, not millimetres"
            )

    def _between(self, frames: list[Frame]) -> None:
        agreement = _agreement(frames)
        if problem := agreement.problem():
            self._error("frames that disagree", problem)
        self._note("agreement of frames", agreement.note())

    def _cloud(self, frames: list[Frame]) -> None:
        """The recorded cloud, if there is one: readable, and where the cameras are."""
        for kind, file in recorded(self.folder, self.name).items():
            try:
                cloud = read_cloud(file)
            except SightwordError as error:
                self._error("unreadable clouds", str(error), file)
                continue
            labels = "" if cloud.label is None else f", {len(cloud.label.unique())} labels"
            self._note("clouds", f"{file.name} has {len(cloud.xyz)} points{labels}")
            if frames and kind == "points":
                at = torch.stack([frame.pose[:3, 3] for frame in frames]).median(0).values
                low, high = cloud.xyz.amin(0).double() - BESIDE, cloud.xyz.amax(0).double() + BESIDE
                if not ((at >= low) & (at <= high)).all():
                    where = ", ".join(f"{value:.1f}" for value in at.tolist())
                    self._error(
                        "misplaced clouds",
                        f"{file} is not where the cameras are, around ({where}) m. Is the cloud axis-aligned?",
                        file,
                    )


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"


# ------------------------------------------------------------------------------------------------- between two frames


class _Agreement(NamedTuple):
    """Fractions of a frame's points that the next frame shows where it should: medians over the pairs."""

    pairs: int
    shown: float  # of all points, with the poses as they are
    inverted: float  # of all points, with the poses inverted
    inside: float  # of those that project into the next frame

    def problem(self) -> str:
        """Return what is wrong, or nothing."""
        if self.pairs and self.inverted > self.shown + 0.1 and self.inverted > 1.2 * self.shown:
            return (
                f"its poses look inverted: a frame shows {self.shown:.0%} of the points of the one before, and "
                f"{self.inverted:.0%} with inverted poses. Poses are camera-to-world"
            )
        if self.pairs and self.inside < 0.2:
            return (
                f"its depth, poses and intrinsics do not agree: of the points that the next frame should show, only "
                f"{self.inside:.0%} are where its depth is"
            )
        return ""

    def note(self) -> str:
        """Return how well neighbouring frames agree."""
        if not self.pairs:
            return "it has no two frames to compare"
        return f"{self.inside:.0%} of the points of a frame that the next one looks at are where its depth is"


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
    fractions = []
    turns: tuple[Callable[[Tensor], Tensor], ...] = (lambda pose: pose, torch.linalg.inv)
    for turn in turns:
        xyz = back_project(depth, one.K_depth, turn(one.pose), pixels)
        xyz = xyz[xyz.isfinite().all(1)]
        uv, z = project(xyz, other.K_depth, turn(other.pose))
        shown = visible(uv, z, there, 0.05, 0.05).ok.float().mean().nan_to_num().item()
        known = visible(uv, z, there, 1e3, 0.0).ok.float().mean().nan_to_num().item()
        fractions.append((shown, known))
    (shown, known), (inverted, _) = fractions
    return shown, inverted, shown / known if known else 0.0
