"""The job behind `sightword lift`: features of the points that each frame of each scene shows, scene by scene.

    out/<scene>/points.ply        the cloud that `rows` number
    out/<scene>/frame_<i>.npz|h5  of the n points that frame i shows: pts_feat (n, D) float16, uv_idx (n, 2) float32 and
                                  conf_2d (n,) float32 in pixels of `size` (H, W), rows (n,) int64, their number
    out/<scene>/vis_<i>.png, cloud.png     with vis; the same colours mean the same in a scene
    out/<scene>/report.json       written last: a scene that has one is done. failed.txt in its place: why it is not
    out/report.json               all scenes, and the time and bytes of each stage

Points that a frame does not show have no row: in a room four of five, and zeros would look like data. A scene that
fails does not stop the others; the summary names it.

Legend: N points, V frames, n points of one frame; D channels; H, W pixels.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.fields import Fields
from sightword.storage.ply import Cloud, write_ply
from sightword.storage.reader import read_json, read_text
from sightword.storage.writer import write_json, write_png
from sightword.systems.points import show
from sightword.systems.points.doctor.diagnosis import require_sound
from sightword.systems.points.lift.cloud import scene_cloud
from sightword.systems.points.lift.features import (
    Features,
    FrameCache,
    FrameEncoder,
    Plan,
    features_of,
    identified,
    plan,
)
from sightword.systems.points.lift.geometry import Links, Views, at_links, link
from sightword.systems.points.lift.mask import read_masks
from sightword.systems.points.lift.recipe import remember
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.reader import Scene, read_color, read_scene, say_skipped, views_of
from sightword.towers.token_cache import Opener

REPORT, FAILED = "report.json", "failed.txt"
ROWS = 2048  # of points that are sampled at once: they stay in a processor's cache
EXPECTED = (ValueError, OSError, KeyError)  # what readers raise for a user's data; others are our defects


@dataclass(frozen=True)
class Options:
    """What decides the files of a scene besides its frames, the tower and its token type."""

    vis: bool = False  # whether features are drawn as colours, on the frames and on the cloud
    voxel: float = 0.03  # metres, where the cloud is made of the depth frames
    masks: str = ""  # a folder of instance masks, see `lift.mask`; empty: none
    files: str = "npz"  # of the frames: npz, or h5 (HDF5, which needs h5py)
    match_masks: bool = False  # whether only pixels of a point's own instance show it, by the cloud's instance numbers


@dataclass(frozen=True)
class Job:
    """Which frames of the scenes are lifted, how they are read, and where the work is done."""

    frames: int = 5  # of each scene
    cache: str | Path = ""  # a folder for CLIP's maps, which are then computed once; empty: none
    backend: str = "safetensors"  # of the cache
    engine: str = "inline"  # as `shards.execute` takes these three
    workers: int = 0
    gpus: float = 0
    convention: Convention = field(default_factory=Convention)  # of the scenes' files
    trust: bool = False  # scenes are lifted unjudged
    first: bool = False  # the first frames, not ones that are spread evenly


@dataclass
class Stages:
    """Wall and CPU seconds, and bytes read or written, of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - wall
            self.cpu_seconds[stage] = self.cpu_seconds.get(stage, 0.0) + time.process_time() - cpu

    def weigh(self, stage: str, *files: Path) -> None:
        self.bytes[stage] = self.bytes.get(stage, 0) + sum(file.stat().st_size for file in files)

    def add(self, other: Fields) -> None:
        """Add the stages of a report."""
        for mine, name in ((self.seconds, "seconds"), (self.cpu_seconds, "cpu_seconds")):
            values = other.mapping(name)
            for stage in values:
                mine[stage] = mine.get(stage, 0.0) + values.number(stage)
        sizes = other.mapping("bytes")
        for stage in sizes:
            self.bytes[stage] = self.bytes.get(stage, 0) + sizes.integer(stage)


class Summary(NamedTuple):
    """What `extract` did."""

    done: list[str]  # scenes that have their files, by now or before
    failed: dict[str, str]  # scene → why
    stages: Stages  # of all scenes together
    memory: dict[str, int | None]  # peaks in bytes, see `memory_peaks`


@dataclass
class Extraction:
    """All that a worker needs, in whatever process."""

    source: Opener
    token_type: str
    scenes: list[Scene]
    out: Path
    options: Options
    planned: Plan | None  # of the cache; None: none is kept
    identity: Mapping[str, object]  # of the tower and its token type
    trust: bool = False

    def worker(self, encoder: FrameEncoder | None = None) -> Callable[[int], None]:
        """Return what lifts scene number i. encoder: one that is open already."""
        device = shards.device()
        held = [encoder]

        def work(number: int) -> None:
            scene = self.scenes[number]
            folder = self.out / scene.name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._scene(scene, folder, lambda: self._encoder(held, device), device)
            except EXPECTED as error:
                with write_atomically(folder / FAILED) as part:
                    part.write_text(line_of(error) + "\n", encoding="utf-8")

        return work

    def missing(self) -> list[int]:
        """Return the scenes with neither report nor reason."""
        return [
            number
            for number, scene in enumerate(self.scenes)
            if not self.finished(scene) and not (self.out / scene.name / FAILED).exists()
        ]

    def finished(self, scene: Scene) -> bool:
        """Return whether a scene's files are those that would be written now."""
        try:
            report = read_json(self.out / scene.name / REPORT)
        except SightwordError:
            return False
        return "inputs" in report and report.value("inputs") == self.inputs(scene)

    def inputs(self, scene: Scene) -> dict[str, object]:
        """Return what decides a scene's files, as JSON reads it back."""
        return {
            "folder": str(scene.folder.resolve()),
            "frames": [frame.index for frame in scene.frames],
            "tower": _plain(self.identity),
            "options": asdict(self.options),
            "convention": scene.convention.key(),
        }

    def _encoder(self, held: list[FrameEncoder | None], device: str) -> FrameEncoder:
        encoder = held[0] or FrameEncoder(self.source.open(), self.token_type)
        held[0] = encoder
        encoder.tower.to(device)
        return encoder

    def _scene(self, scene: Scene, folder: Path, encoder: Callable[[], FrameEncoder], device: str) -> None:
        stages, start = Stages(), time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with stages("doctor"):
            require_sound(scene.folder, scene.convention, self.trust)
        with stages("cloud"):
            cloud = scene_cloud(scene, self.options.voxel)
        features = self._features(scene, stages, encoder)
        with stages("depth"):
            views = views_of(scene.frames, device)
        stages.weigh("depth", *(frame.depth for frame in scene.frames))
        xyz = cloud.xyz.to(device)
        with stages("link"):
            views, own = self._masked(views, scene, cloud)
            links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64, device=device), views, point_mask=own)
        if not len(links.point):
            raise SightwordError(NOTHING_SEEN.format(points=len(xyz), frames=len(scene.frames)))
        with stages("lift"):
            maps = features.maps.to(device)
            frames = [per_frame(maps, links, view) for view in range(len(scene.frames))]
        with stages("write"):
            clear(folder)
            files = [
                write_frame(folder, f.index, seen, self.options.files)
                for f, seen in zip(scene.frames, frames, strict=True)
            ]
            write_ply(folder / "points.ply", cloud)
        stages.weigh("write", *files, folder / "points.ply")
        if self.options.vis:
            with stages("draw"):
                drawn = draw(folder, scene, cloud, links, frames)
            stages.weigh("draw", *drawn)
        counts = {str(f.index): len(s.rows) for f, s in zip(scene.frames, frames, strict=True)}
        report = {
            "inputs": self.inputs(scene),
            "points": len(xyz),
            "seen": int((links.counts > 0).sum()),
            "visible": counts,
            "skipped": scene.skipped,
            "trusted": self.trust,
            "seconds": time.perf_counter() - start,
            "stages": asdict(stages),
            "memory": memory_peaks(),
        }
        write_json(folder / REPORT, report, indent=1)

    def _masked(self, views: Views, scene: Scene, cloud: Cloud) -> tuple[Views, Tensor | None]:
        """The views with the masks of the options, and the instance of each point (N,) if these have to match."""
        if not self.options.masks:
            return views, None
        size = views.depth.shape[1], views.depth.shape[2]
        views = views._replace(mask=read_masks(self.options.masks, scene, size).to(views.depth.device))
        if not self.options.match_masks:
            return views, None
        if cloud.instance is None:
            raise SightwordError("match_masks=true needs a cloud with instance numbers, and this scene's has none")
        own = cloud.instance.to(views.depth.device)
        return views, torch.where(own > 0, own, -1)

    def _features(self, scene: Scene, stages: Stages, encoder: Callable[[], FrameEncoder]) -> Features:
        order = [frame.index for frame in scene.frames]
        if self.planned is None:
            return self._encoded(scene, order, stages, encoder)[0]
        if lost := self.planned.cache.lacks(scene):
            rows = self._encoded(scene, lost, stages, encoder)[1]
            with stages("cache write"):
                self.planned.keep(scene.key, rows)
            stages.bytes["cache write"] = sum(array.nbytes for array in rows.values())
        with stages("cache read"):
            features = self.planned.cache.maps(scene.key, order)
        stages.bytes["cache read"] = sum(values.nbytes for values in features)
        return features

    def _encoded(
        self, scene: Scene, wanted: Sequence[int], stages: Stages, encoder: Callable[[], FrameEncoder]
    ) -> tuple[Features, dict[str, np.ndarray]]:
        chosen = [frame for frame in scene.frames if frame.index in set(wanted)]
        with stages("photos"):
            pictures = [read_color(frame) for frame in chosen]
        stages.weigh("photos", *(frame.color for frame in chosen))
        with stages("tower"):
            open_encoder = encoder()
        with stages("clip"):
            rows = open_encoder.rows(pictures)
        return features_of(rows, open_encoder.grid), rows


NOTHING_SEEN = (
    "none of its {points:,} points is visible in any of its {frames} frames. Check that cloud, depth and poses are in "
    "one coordinate frame, and the poses camera-to-world"
)


def _plain(value: object) -> object:
    """The same value as JSON reads it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class Seen(NamedTuple):
    """The points that one frame shows."""

    pts_feat: Tensor  # (n, D) float16, unit vectors
    uv_idx: Tensor  # (n, 2) float32 pixels of `size`
    conf_2d: Tensor  # (n,) float32, 0 to 1
    rows: Tensor  # (n,) int64, which points of the cloud
    size: tuple[int, int]  # H, W


def per_frame(maps: Tensor, links: Links, view: int) -> Seen:
    """Return the points that frame number `view` shows. maps: (V, D, h, w) of all frames."""
    chosen = (links.view == view).nonzero().squeeze(1)
    uv, conf = links.uv[chosen], links.conf[chosen]
    own = maps[view : view + 1].float()
    found = torch.empty(len(chosen), maps.shape[1], dtype=torch.float16, device=maps.device)
    for part, place, sure in zip(found.split(ROWS), uv.split(ROWS), conf.split(ROWS), strict=True):
        each = torch.arange(len(part), device=part.device)
        alone = Links(each, torch.zeros_like(each), place, sure, each, links.size)
        part.copy_(F.normalize(at_links(own, alone), dim=-1))
    return Seen(found.cpu(), uv.cpu(), conf.cpu(), links.point[chosen].cpu(), links.size)


def clear(folder: Path) -> None:
    """Remove the files of an earlier lift, of other frames perhaps or onto other points; its report first."""
    (folder / REPORT).unlink(missing_ok=True)
    for name in ("frame_*.npz", "frame_*.h5", "vis_*.png", "cloud.png"):
        for file in folder.glob(name):
            file.unlink(missing_ok=True)


def write_frame(folder: Path, index: int, seen: Seen, kind: str = "npz") -> Path:
    """Write frame_<index>.npz, or .h5 with the same arrays, and return it."""
    path = folder / f"frame_{index}.{kind}"
    arrays = {name: np.asarray(value) for name, value in seen._asdict().items()}
    if kind == "h5":
        with write_atomically(path) as part, hdf5().File(part, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values)
        return path
    with write_atomically(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # not compressed: 22 ms per frame for a sixth of its size
    return path


def hdf5() -> ModuleType:
    """Return h5py. Raises SightwordError if it is not installed."""
    try:
        return import_module("h5py")
    except ImportError:
        raise SightwordError("files=h5 needs h5py. Install it: pip install 'sightword[hdf5]'") from None


def draw(folder: Path, scene: Scene, cloud: Cloud, links: Links, frames: Sequence[Seen]) -> list[Path]:
    """Write vis_<i>.png of each frame, and cloud.png. Return the files."""
    step = max(1, sum(len(seen.rows) for seen in frames) // show.MOST)
    colours = show.Colours(torch.cat([seen.pts_feat[::step] for seen in frames]))
    made, n = {}, len(cloud.xyz)
    total, weight = torch.zeros(n, 3), torch.zeros(n, 1)
    for frame, seen in zip(scene.frames, frames, strict=True):
        values, conf = colours.values(seen.pts_feat), seen.conf_2d[:, None]
        total.index_add_(0, seen.rows, values * conf)
        weight.index_add_(0, seen.rows, conf)
        title = f"{scene.name}, frame {frame.index}"
        picture = show.frame_picture(read_color(frame), seen.uv_idx, colours(values), seen.size, title)
        made[folder / f"vis_{frame.index}.png"] = picture
    covered = weight[:, 0] > 0
    poses = torch.stack([frame.pose for frame in scene.frames])
    towards = show.facing(cloud.xyz, poses, links.point.cpu(), links.view.cpu())
    panels = {
        f"{scene.name}: the cloud": cloud.rgb.numpy(),
        f"features of {len(frames)} frames, on {int(covered.sum()):,} of {n:,} points": show.painted(
            colours(total / weight.clamp(min=1e-9)), covered
        ),
    }
    made[folder / "cloud.png"] = show.clouds(cloud.xyz, panels, show.upwards(poses), towards, (480, 360))
    for path, page in made.items():
        write_png(page, path, compress_level=1)  # half the time of the default, and files a tenth larger
    return list(made)


# ---------------------------------------------------------------------------------------------------------- all scenes


def extract(
    source: Opener,
    token_type: str,
    root: str | Path,
    names: Sequence[str],
    out: str | Path,
    options: Options | None = None,
    job: Job | None = None,
) -> Summary:
    """Lift every scene of a list; resumable, by torchrun or on Ray, see `shards.execute`.

    A scene that cannot be lifted is named in the summary. Raises SightwordError if none could be.
    """
    options, job, out = options or Options(), job or Job(), Path(out).expanduser()
    if options.files == "h5":
        hdf5()  # before anything is computed
    shards.check_engine(job.engine)
    if out.exists() and not out.is_dir():
        raise SightwordError(f"out={out} is a file. Pass a folder")
    start = time.perf_counter()
    scenes, failed = _read(root, names, job)
    done = []
    if scenes:
        made = _lift_all(source, token_type, scenes, out, options, job)
        for scene in scenes:
            if (reason := out / scene.name / FAILED).exists():
                failed[scene.name] = read_text(reason).strip()
        done = [scene.name for scene in scenes if scene.name not in failed and made.finished(scene)]
    if not done and failed:
        name, why = next(iter(failed.items()))
        raise SightwordError(f"none of {len(names)} scenes could be lifted; {name}: {why}")
    return _report(out, done, failed, time.perf_counter() - start, FrameCache(job.cache) if str(job.cache) else None)


def _lift_all(
    source: Opener, token_type: str, scenes: list[Scene], out: Path, options: Options, job: Job
) -> Extraction:
    """Lift the scenes that are not done; those that failed before are tried again."""
    known = identified(source, token_type, job.cache)
    planned = plan(job.cache, scenes, known.recipe, job.backend) if str(job.cache) else None
    if planned:
        remember(planned.cache.out, known.state, known.recipe)
    recipe = known.recipe
    identity = {"weights": recipe["weights"], "form": recipe["form"], "preprocessing": recipe["preprocessing"]}
    made = Extraction(source, token_type, scenes, out, options, planned, identity, job.trust)
    _forget_failures(made)
    ours = known.encoder if job.engine == "inline" else None
    shards.execute(
        lambda: made.worker(ours),
        len(scenes),
        made.missing,
        engine=job.engine,
        desc="lifting",
        unit="scene",
        workers=job.workers,
        gpus=job.gpus,
    )
    return made


def _read(root: str | Path, names: Sequence[str], job: Job) -> tuple[list[Scene], dict[str, str]]:
    scenes, failed = [], {}
    for name in names:
        try:
            scene = read_scene(root, name, None if job.first else job.frames, job.convention)
            scenes.append(scene._replace(frames=scene.frames[: job.frames]))
            say_skipped(scene)
        except EXPECTED as error:
            failed[name] = line_of(error)
    return scenes, failed


def _forget_failures(made: Extraction) -> None:
    """Remove the reasons of failed scenes, so that they are tried again; each rank its own."""
    rank, world = shards.place()
    for scene in made.scenes[rank::world]:
        (made.out / scene.name / FAILED).unlink(missing_ok=True)


def _report(
    out: Path, done: Sequence[str], failed: dict[str, str], seconds: float, cache: FrameCache | None
) -> Summary:
    """Write out/report.json of all scenes, and return what is in it."""
    stages, scenes = Stages(), {}
    peaks: dict[str, int | None] = dict.fromkeys(memory_peaks())
    for name in done:
        one = read_json(out / name / REPORT)
        stages.add(one.mapping("stages"))
        memory = one.mapping("memory")
        for key, peak in peaks.items():
            if memory.value(key) is not None:
                peaks[key] = max(peak or 0, memory.integer(key))
        scenes[name] = {key: one.value(key) for key in ("points", "seen", "visible", "seconds")}
        scenes[name]["skipped_frames"] = len(one.texts("skipped"))
    report = {
        "scenes": scenes,
        "failed": failed,
        "stages": asdict(stages),
        "memory": peaks,
        "cache_bytes": cache.bytes if cache else 0,
        "seconds": seconds,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / REPORT, report, indent=1)
    return Summary(list(done), failed, stages, peaks)


def memory_peaks() -> dict[str, int | None]:
    """Return bytes: this process's peak so far, None if it is unknown, and the GPU's since it was last reset."""
    try:
        import resource  # Unix only
    except ImportError:
        peak = None
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_rss": peak, "peak_cuda": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0}


def line_of(error: BaseException) -> str:
    """Return what an error says, in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())
