"""What is wrong with the geometry of a scene, in findings: the error by its name, and the option that reads it.

`diagnose` says all it can; `require_sound` is its fast part, which commands execute before they use a scene.

Legend: V frames that are looked at, M frames of the scene.
"""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from sightword.data.finding import Finding, Level
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.systems.points.doctor import agreement, cloud, color, edge, search, up
from sightword.systems.points.doctor.agreement import Hypothesis, Judge
from sightword.systems.points.doctor.search import DOUBTFUL, Found
from sightword.systems.points.doctor.wording import differences, named, percent
from sightword.systems.points.lift.cloud import in_world, read_cloud, recorded
from sightword.systems.points.scannet.convention import MILLIMETRES, Convention
from sightword.systems.points.scannet.reader import (
    Frame,
    Scene,
    axis_alignment,
    color_size,
    image_size,
    intrinsics_of,
    list_frames,
    ray_length,
    read_scene,
    stored_depth,
)

FRAMES = 20  # of a scene that are looked at, spread evenly
FEW, MANY = 4, 8  # frames below which poses, and the colour camera's place, are not judged
PAIRS, POINTS = 16, 300  # of the search; twice and four times as many to compare its results
OVERLAP = 0.04  # fraction of points that another frame shows, below which pairs say nothing
SAME = 0.7  # of the best score: what a grossly different hypothesis must stay below
GAIN, NOTICED = 1.25, 1.06  # a hypothesis is named, a calibration is doubted, where it is so many times better
LEAST, MOST = 0.15, 15.0  # metres: the median depth of a room is between
SPREAD = 200.0  # metres between a scene's cameras
VARIES = 1.04  # ratio of focal lengths within a scene up to which one of them stands for all
UNPROVEN = "undecided geometry"  # kind of the findings that say so

ItemT = TypeVar("ItemT")
Key = tuple[tuple[str, object], ...]


def require_sound(folder: Path, convention: Convention, trust: bool = False, prefix: str = "") -> None:
    """Raise SightwordError, with the option that reads them, if the files of a scene do not belong together.

    Prints warnings, and whether it cannot be told. trust: nothing is looked at. prefix: of the options, as data.
    """
    if trust:
        return
    findings = _remembered(folder.resolve(), tuple(sorted(convention.key().items())), _state(folder))
    for finding in findings:
        if finding.level == "warning" or finding.kind == UNPROVEN:
            shards.say(_prefixed(str(finding), prefix))
    if errors := [finding for finding in findings if finding.level == "error"]:
        raise SightwordError(_prefixed(f"{errors[0]}. With trust=true it is used as it is", prefix))


def _prefixed(text: str, prefix: str) -> str:
    """A message with its options as they are typed where they have a prefix."""
    names = [*(field.name for field in fields(Convention)), "trust"]
    return re.sub(rf"(?<![\w.])({'|'.join(names)})=", rf"{prefix}\1=", text)


@lru_cache(maxsize=4096)
def _remembered(folder: Path, key: Key, state: int) -> tuple[Finding, ...]:
    """The findings of a scene, looked for once in a process as long as its files are as they were: `state`."""
    scene = read_scene(folder, convention=Convention(**dict(key)))  # type: ignore[arg-type]
    return tuple(diagnose(scene, thorough=False))


def _state(folder: Path) -> int:
    """A digest of the sizes and times of a scene's files, those that are looked at."""
    files = [file for parts in _spread(list(list_frames(folder).values())) for file in parts if file is not None]
    files += [*folder.glob("intrinsic*"), *folder.glob("intrinsic/*"), folder, *folder.glob("pose")]
    return hash(tuple((file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]))


def _spread(items: Sequence[ItemT]) -> list[ItemT]:
    """So many of a list as are looked at, evenly."""
    at = np.unique(np.linspace(0, max(len(items) - 1, 0), min(FRAMES, len(items))).round().astype(int))
    return [items[int(number)] for number in at]


def diagnose(scene: Scene, thorough: bool = True) -> list[Finding]:
    """Return what is wrong with a scene that was read with all its frames. thorough: with small errors of calibration,
    the place of the colour camera and the recorded cloud."""
    return Diagnosis(scene).findings(thorough)


class Diagnosis:
    """The doctor's look at one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.at = np.array(_spread(range(len(scene.frames))))
        self.frames: list[Frame] = _spread(scene.frames)
        said = scene.convention
        self.base = Hypothesis(said.poses, said.quaternion, said.axes, ray=said.depth == "ray")
        self.found: list[Finding] = []

    def findings(self, thorough: bool) -> list[Finding]:
        """Return them all."""
        depth = self._depth()
        if depth is not None and not self._constant(depth):
            self._agreement(depth, thorough)
        return self.found

    def _agreement(self, depth: np.ndarray, thorough: bool) -> None:
        """Judge how the frames fit each other, and then what depends on it: units, colour and cloud."""
        found = self._searched(depth)
        fits = found is not None and self._geometry(*found)
        if not self._failed:
            self._units(depth)
        if self._failed:
            return
        if found is None or not fits:
            self._edges(depth)
            return
        self._color(found[1], thorough)
        if thorough:
            self._calibration(found[1], found[0])
            self._cloud(depth)
            self._up(depth)

    @property
    def _failed(self) -> bool:
        return any(finding.level == "error" for finding in self.found)

    def _searched(self, depth: np.ndarray) -> tuple[Found, Judge] | None:
        """The best reading of the files; None, and a finding, where nothing can be told."""
        if len(self.frames) < FEW:
            self._undecided(f"it has {len(self.frames)} frames that can be used, and judging poses needs {FEW} or more")
            return None
        focals = np.array([float(frame.K_depth[0, 0]) for frame in self.frames])
        if focals.max() > VARIES * focals.min():
            self._undecided(
                f"focal lengths of its frames are {focals.min():.0f} to {focals.max():.0f} pixels, and one is compared"
            )
            return None
        poses = np.stack([frame.file_pose.numpy() for frame in self.scene.frames])
        poses[:, :3, 3] *= self.scene.convention.pose_scale * self.scene.convention.depth_scale / MILLIMETRES
        K = self.frames[0].K_depth.numpy()
        sample = agreement.sample(depth, poses, self.at, K, self.base, PAIRS, POINTS)
        if not len(sample.pairs) or sample.angles.max() < agreement.STILL:
            widest = sample.angles.max() if len(sample.pairs) else 0
            self._undecided(f"its frames look the same way, at most {widest:.1f}° apart, and agree under any poses")
            return None
        judge = Judge(sample)
        found = search.search(
            judge, Judge(agreement.sample(depth, poses, self.at, K, self.base, 2 * PAIRS, 2 * POINTS))
        )
        return found, judge

    def _units(self, depth: np.ndarray) -> None:
        """Depth and poses may agree and both be in another unit than metres."""
        said = self.scene.convention
        median = float(np.median(depth[depth > 0])) * MILLIMETRES / said.depth_scale
        places = torch.stack([frame.pose[:3, 3] for frame in self.scene.frames])
        apart = float((places.amax(0) - places.amin(0)).max())
        if not LEAST <= median <= MOST:
            factor = 10.0 ** round(float(np.log10(median / 2.0)))
            both = any(finding.kind == "agreement of frames" for finding in self.found)
            scale = _round(said.depth_scale * factor)
            also = f" pose_scale={said.pose_scale / factor:g}" if both else ""
            self._add(
                "error",
                "implausible depth",
                f"the median depth is {median:.3g} m, and {said.depth_scale:g} units are a metre",
                f"Pass depth_scale={scale:g}{also}, if that is its unit",
            )
        elif apart > SPREAD:
            self._add(
                "error",
                "implausible poses",
                f"its cameras are {apart:.3g} m apart. Poses are in metres",
                f"Pass pose_scale={said.pose_scale / 1000:g}, if they are in millimetres",
            )

    # ---------------------------------------------------------------------------------------------------------- depth

    def _depth(self) -> np.ndarray | None:
        """Depth (V, H, W) in thousands of the files' units; None, and a finding, if it is not one array."""
        images = [stored_depth(frame.depth).numpy() for frame in self.frames]
        if len({image.shape for image in images}) > 1:
            self._undecided("its depth frames are of several sizes")
            return None
        depth = np.stack(images)
        if not (depth > 0).any():
            self._add("error", "empty depth", "its depth is 0 everywhere", "Export the depth frames again")
            return None
        return depth

    def _constant(self, depth: np.ndarray) -> bool:
        """Whether depth is the same everywhere or in all frames: impossible where cameras turn, else a flat wall."""
        known = [image[image > 0] for image in depth if (image > 0).any()]
        if all(float(np.ptp(image)) < 1e-3 * float(image.max()) for image in known):
            what = f"every pixel of a depth frame has the same value, {1000 * float(known[0][0]):.0f} in the first"
        elif len(depth) > 1 and all(np.array_equal(depth[0], image) for image in depth[1:]):
            what = f"its {len(depth)} depth frames are one image, copied"
        else:
            return False
        rotation = np.stack([frame.pose.numpy()[:3, :3] for frame in self.frames])
        _, angles = agreement.choose(rotation, [True] * len(rotation), len(rotation) ** 2)
        if len(angles) and angles.max() > agreement.STILL:
            self._add("error", "constant depth", f"{what}, although its cameras turn", "Export the measured depth")
        else:
            self._undecided(what)
        return True

    # ------------------------------------------------------------------------------------------------------- geometry

    def _geometry(self, found: Found, judge: Judge) -> bool:
        """Judge the given reading beside the best. Return whether the given one fits."""
        given, best, top = found.given, found.best, found.agreement
        better = top.score / given.score if given.score else np.inf
        if max(given.inside, top.inside) < OVERLAP:
            self._undecided(f"its frames overlap too little: {percent(given.inside)} of their points are in another")
        elif best == self.base or (better < GAIN and given.front <= DOUBTFUL):
            if found.rival > SAME:
                self._undecided("its frames agree as well under grossly different poses, as before one wall")
            else:
                self._note(
                    "agreement of frames",
                    f"{percent(given.agree)} of the points that two frames show, "
                    f"{sample_angles(judge)} apart, agree to 1 %; {percent(given.front)} float",
                )
                if best != self.base and better >= NOTICED:
                    self._named(found, judge, "warning")
                return True
        elif top.front <= DOUBTFUL and better >= GAIN and top.agree >= GAIN * given.agree and found.rival <= SAME:
            self._named(found, judge, "error")
        elif (top.front <= DOUBTFUL and found.rival > SAME) or given.front <= DOUBTFUL:
            self._undecided(f"its frames fit {percent(given.agree)} as read, and no reading fits clearly better")
        else:
            self._refused(found)
        return False

    def _named(self, found: Found, judge: Judge, level: Level) -> None:
        if level == "warning" and search.count_differences(found.best, self.base) > 1:
            self._add(
                "warning",
                "calibration",
                f"its calibration is off, or its poses drift: {percent(found.given.agree)} of the points that two "
                "frames show agree as read, and small changes of several values raise that to "
                f"{percent(found.agreement.agree)}",
            )
            return
        convention, other = self._convention(found.best, judge)
        what = differences(self.base, found.best, self.scene, convention)
        gain = f"{percent(found.given.agree)} of the points that two frames show agree as read, "
        gain += f"{percent(found.agreement.agree)} so"
        fix = named(self.scene.convention, convention)
        if other is not None:
            right = "depth" if other.pose_scale != self.scene.convention.pose_scale else "poses"
            fix += f" (or {named(self.scene.convention, other)}, if the {right} are right)".replace(
                "depth are", "depth is"
            )
        if level == "warning":
            what = f"its calibration seems to be off: {what}"
        self._add(level, "conventions" if level == "error" else "calibration", f"{what}; {gain}", f"Pass {fix}")

    def _refused(self, found: Found) -> None:
        given = found.given
        rotation = np.stack([frame.pose.numpy()[:3, :3] for frame in self.frames])
        turns = np.degrees(np.arccos(np.clip((np.einsum("vij,vij->v", rotation[1:], rotation[:-1]) - 1) / 2, -1, 1)))
        smooth = float(np.median(turns)) < 15
        places = np.stack([frame.pose.numpy()[:3, 3] for frame in self.frames])
        if float(np.ptp(places, axis=0).max()) < 1e-3:
            what = "have no positions, all cameras stand in one place"
        else:
            what = "drift, or are those of other frames" if smooth else "do not belong to these frames"
        self._add(
            "error",
            "poses of other frames",
            f"its poses {what}: {percent(given.front)} of the points that two frames show float before a surface that "
            f"the other saw (right ones: 1 to 3 %), and none of {found.tried:,} other readings fits",
            "Export poses, depth and intrinsics of the same frames again",
        )

    def _convention(self, best: Hypothesis, judge: Judge) -> tuple[Convention, Convention | None]:
        """The convention that a hypothesis is, and a second one where a scale may be of depth or of poses."""
        said = self.scene.convention
        found = replace(
            said,
            poses=best.poses,
            quaternion=best.quaternion,
            axes=best.axes,
            depth="ray" if best.ray else "z",
            shift=said.shift + best.shift,
            principal=_principal(said.principal, best.principal),
            focal_scale=float(f"{said.focal_scale * best.focal:.4g}"),
        )
        if best.size != 1.0:
            height, width = said.size() or judge.sample.depth.shape[1:]
            found = replace(found, intrinsics_size=f"{best.size * height:.0f}x{best.size * width:.0f}")
        if best.ratio == 1.0:
            return found, None
        of_depth = replace(found, depth_scale=_round(said.depth_scale * best.ratio))
        of_poses = replace(found, pose_scale=_round(said.pose_scale * best.ratio))
        median = float(np.median(judge.sample.z[judge.sample.z > 0])) * MILLIMETRES
        costs = [_odd(median / of_depth.depth_scale, of_depth.depth_scale), _odd(median / said.depth_scale, 0) + 0.1]
        clear = abs(costs[0] - costs[1]) > 1.0
        if costs[0] < costs[1]:
            return of_depth, None if clear else of_poses
        return of_poses, None if clear else of_depth

    # --------------------------------------------------------------------------------------------------------- colour

    def _color(self, judge: Judge, thorough: bool) -> None:
        said = self.scene.convention
        colours = color.Colours(self.scene, self.frames, judge, self.base)
        lie = color.look(colours, said.turn)
        if lie.given == -1.0 and not any(value > 0.5 for value in lie.turns.values()):
            return
        late = max(lie.late, key=lambda frames: lie.late[frames], default=0)
        side = (
            ("before" if late > 0 else "after")
            if abs(late) == 1
            else f"{abs(late)} {'before' if late > 0 else 'after'}"
        )
        turn = max(lie.turns, key=lambda way: lie.turns[way])
        if lie.turns[turn] > lie.given + color.AHEAD:
            self._add(
                "error",
                "turned colour",
                f"colour lies {_lies(turn)} against depth: grey values of one point in two frames correlate by "
                f"{lie.given:.2f} as read, by {lie.turns[turn]:.2f} so",
                f"Pass turn={turn}",
            )
        elif late and lie.late[late] > lie.given + 0.15:
            self._add(
                "error",
                "colour of other frames",
                f"the colour of each frame is that of the frame {side} it: grey values of one point in two frames "
                f"correlate by {lie.given:.2f} as read, by {lie.late[late]:.2f} so",
                "Rename the colour files",
            )
        elif lie.given < color.ALIEN:
            self._add(
                "warning",
                "colour of other frames",
                f"colour may be of other frames than depth and poses: grey values of one point in two frames correlate "
                f"by {lie.given:.2f} only (right ones: 0.7 to 1.0), and in no other reading by more than "
                f"{max(*lie.turns.values(), *lie.late.values()):.2f}",
                "See that the colour file of each number is of the same moment as its depth",
            )
        elif thorough and len(self.frames) >= MANY:
            many = agreement.sample(*judge.sample.source, 4 * PAIRS, 3 * POINTS)
            self._camera(color.find_camera(color.Colours(self.scene, self.frames, Judge(many), self.base), said.turn))

    def _edges(self, depth: np.ndarray) -> None:
        """How colour lies by single frames, where poses cannot be judged."""
        step, few = max(1, min(depth.shape[1:]) // 240), range(0, len(self.frames), max(1, len(self.frames) // 8))
        said = self.scene.convention.turn
        greys = [color.grey(self.frames[at]) for at in few]
        if found := edge.lying([depth[at, ::step, ::step] for at in few], greys, said):
            turn, given, best = found
            self._add(
                "error",
                "turned colour",
                f"colour lies {_lies(turn)} against depth: edges of depth are on edges of colour with a mean rank of "
                f"{given:.2f} as read (by chance 0.50), of {best:.2f} so",
                f"Pass turn={turn}",
            )

    def _camera(self, camera: color.Camera) -> None:
        said, best = self.scene.convention, camera.best
        size = color_size(self.frames[0].color, image_size(self.frames[0].depth), said)
        K, _ = intrinsics_of(self.scene.folder, self.scene.name, size, image_size(self.frames[0].depth), said)
        gained = f"grey values of one point differ by {camera.given:.1f} as read, by {camera.fitting:.1f} so"
        place = np.array(said.offset()) + np.array([best.x, best.y, 0])
        offset = ",".join(f"{value:.3f}".rstrip("0").rstrip(".") or "0" for value in place)
        moved = f"color_offset={offset}"
        apart = camera.beside
        if camera.zoomed:
            also = (
                f" and it stands {1000 * float(np.hypot(best.x, best.y)):.0f} mm beside the depth camera"
                if apart
                else ""
            )
            self._add(
                "warning",
                "colour camera",
                f"the colour camera's focal length seems to be {float(K[0, 0]) * best.focal:.0f} pixels, not "
                f"{float(K[0, 0]):.0f}{also}: {gained}",
                f"Pass color_focal_scale={said.color_focal_scale * best.focal:.3f}{f' {moved}' if apart else ''}, or "
                "write the right values to intrinsic_color.txt and pose_color/",
            )
        elif apart:
            self._add(
                "note",
                "colour camera",
                f"the colour camera seems to stand {1000 * float(np.hypot(best.x, best.y)):.0f} mm beside the depth "
                f"camera: {gained}",
                f"Pass {moved}, or write its poses to pose_color/",
            )

    # ------------------------------------------------------------------------------------------- calibration and cloud

    def _calibration(self, judge: Judge, found: Found) -> None:
        """Small errors: the maximum of the score near the given values."""
        if any(finding.kind == "calibration" for finding in self.found) or found.best != self.base:
            return
        fine = found.fine
        for name in ("focal", "ratio"):
            values = [1 + step / 100 for step in range(-10, 11)]
            scores = [fine(search.changed(self.base, name, value)).score for value in values]
            at = int(np.argmax(scores))
            if abs(values[at] - 1) > 0.025 and scores[at] > NOTICED * fine(self.base).score:
                best = search.changed(self.base, name, values[at])
                self._named(found._replace(best=best, agreement=fine(best)), judge, "warning")
                return

    def _cloud(self, depth: np.ndarray) -> None:
        """The recorded cloud before the frames, as they were read."""
        file = recorded(self.scene.folder, self.scene.name).get("points")
        if file is None or self.scene.convention.mesh == "fused":
            return
        try:
            xyz = in_world(read_cloud(file), self.scene).xyz.numpy()
        except SightwordError:
            return  # `check` says that it is not readable
        said = self.scene.convention
        metres = depth * np.float32(MILLIMETRES / said.depth_scale)
        if said.depth == "ray":
            metres = metres / ray_length(self.frames[0].K_depth, depth.shape[1:]).numpy()
        back = torch.linalg.inv(torch.stack([frame.pose for frame in self.frames])).numpy()
        views = cloud.Views(metres, self.frames[0].K_depth.numpy(), back)
        few = cloud.thin(xyz)
        given = cloud.stand(few, views)
        if (given.inside * given.confirmed >= cloud.OTHER and given.front < 0.1) or not len(few):
            return
        original = cloud.thin(read_cloud(file).xyz.numpy())
        frame, there = cloud.frame_of(original, views, axis_alignment(self.scene.folder, self.scene.name))
        said_so = (
            f"{file} does not stand where the frames saw surfaces: of its points, {percent(given.inside)} are in view "
            f"and {percent(given.confirmed)} of these are confirmed by a depth"
        )
        if there.score > max(cloud.OTHER, 1.5 * given.score):
            self._add(
                "error",
                "misplaced clouds",
                f"{said_so}; read otherwise, {percent(there.confirmed)}",
                f"Pass mesh={frame}",
                file,
            )
        elif given.confirmed < cloud.OTHER or given.front > 0.15:
            self._add(
                "error",
                "misplaced clouds",
                said_so,
                "Pass mesh=fused to make a cloud of the depth, or move the cloud",
                file,
            )

    def _up(self, depth: np.ndarray) -> None:
        """Which way is up, as far as floors and tables tell."""
        poses = torch.stack([frame.pose for frame in self.frames]).numpy()
        if found := up.find_up(list(depth), self.frames[0].K_depth.numpy(), poses):
            self._note("vertical", str(found))

    # ---------------------------------------------------------------------------------------------------------- words

    def _undecided(self, why: str) -> None:
        self._add("warning", UNPROVEN, f"cannot tell whether its depth, poses and intrinsics belong together: {why}")

    def _note(self, kind: str, message: str) -> None:
        self._add("note", kind, message)

    def _add(self, level: Level, kind: str, message: str, fix: str = "", file: Path | None = None) -> None:
        where = str(file or self.scene.folder)
        self.found.append(Finding(level, kind, f"{self.scene.name}: {message}", (where,), fix=fix))


def _lies(turn: str) -> str:
    """How colour lies, in words."""
    return {"mirror": "mirrored", "mirror180": "upside down and mirrored"}.get(turn, f"turned by {turn}°")


def sample_angles(judge: Judge) -> str:
    """Return how far the frames of the pairs are apart."""
    angles = judge.sample.angles
    return f"{angles.min():.0f} to {angles.max():.0f}°"


def _principal(said: str, best: str) -> str:
    """The principal point of the files, of which `said` was read, and `best` of that fits."""
    if best == "given":
        return said
    return "given" if best == said == "swapped" else best


def _round(value: float) -> float:
    """A scale with four digits, or the unit of a known format within half a percent of it."""
    near = [unit for unit in UNITS if abs(unit / value - 1) < 0.005]
    return near[0] if near else float(f"{value:.4g}")


UNITS: Sequence[float] = (1000.0, 5000.0, 6553.5, 4000.0, 2000.0, 10000.0, 256.0, 500.0, 100.0, 1.0)
FORMATS = (5000.0, 6553.5)  # TUM and ICL-NUIM, Replica


def _odd(median: float, unit: float) -> float:
    """How unlikely a median depth of so many metres is in rooms, less where the unit is that of a known format."""
    return abs(float(np.log(max(median, 1e-9) / 2.0))) - (0.7 if unit in FORMATS else 0.0)
