"""The job behind `sightword lift`: features of the points that each frame of each scene shows, scene by scene.

    out/<scene>/points.ply        the cloud that `rows` number
    out/<scene>/frame_<i>.npz     (or .h5) of the n points that frame i shows: pts_feat (n, D) float16, uv_idx (n, 2)
                                  float32 and conf_2d (n,) float32 in pixels of `size` (H, W), rows (n,) int64
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

from sightword.data.content import stamp_of
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import digest
from sightword.storage.fields import Fields
from sightword.storage.ply import Cloud, write_ply
from sightword.storage.reader import read_json, read_text
from sightword.storage.writer import write_json, write_png
from sightword.systems.points import show
from sightword.systems.points.doctor.diagnosis import require_sound
from sightword.systems.points.doctor.up import upwards
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
from sightword.systems.points.lift.geometry import Links, at_links, link
from sightword.systems.points.lift.mask import mask_files, read_masks
from sightword.systems.points.lift.recipe import remember
from sightword.systems.points.model import BiFusionEncoder
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
    masks: str = ""  # a folder of instance masks: pixels that show no instance show no point; empty: all pixels do
    format: str = "npz"  # of the frames' files: npz | h5, for which h5py is needed


@dataclass(frozen=True)
class Job:
    """Which frames of the scenes are lifted, how they are read, and where the work is done."""

    frames: int = 5  # of each scene
    choose: str = "spread"  # which: spread | first
    cache: str | Path = ""  # a folder for CLIP's maps, which are then computed once; empty: none
    backend: str = "safetensors"  # of the cache
    engine: str = "inline"  # as `shards.execute` takes these three
    workers: int = 0
    gpus: float = 0
    convention: Convention = field(default_factory=Convention)  # of the scenes' files
    trust: bool = False  # scenes are lifted unjudged
    offload: bool = False  # CLIP leaves the GPU after a scene's frames, and their maps go to it one by one


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
    offload: bool = False
    encoder: BiFusionEncoder | None = None  # of a run: its maps are lifted instead of CLIP's

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
            "masks": [stamp_of([file]) for file in mask_files(self.options.masks, scene)] if self.options.masks else [],
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
            if self.options.masks:
                views = views._replace(mask=read_masks(self.options.masks, scene, views.depth.shape[1:]).to(device))
        stages.weigh("depth", *(frame.depth for frame in scene.frames))
        xyz = cloud.xyz.to(device)
        with stages("link"):
            links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64, device=device), views)
        if not len(links.point):
            raise SightwordError(NOTHING_SEEN.format(points=len(xyz), frames=len(scene.frames)))
        with stages("lift"):
            maps = self._reduced(features.maps, device)
            frames = [per_frame(maps, links, view) for view in range(len(scene.frames))]
        with stages("write"):
            clear(folder)
            write = write_h5 if self.options.format == "h5" else write_frame
            files = [write(folder, frame.index, seen) for frame, seen in zip(scene.frames, frames, strict=True)]
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

    @torch.no_grad()
    def _reduced(self, maps: Tensor, device: str) -> Tensor:
        """The maps that are lifted: CLIP's (V, E, h, w), or what a run's encoder makes of them (V, D, h', w')."""
        if self.encoder is not None:
            encoder = self.encoder.to(device).eval()
            parts = [encoder.reduced(F.normalize(own.to(device).float(), dim=1)) for own in maps.split(1)]
            maps = torch.cat([part.cpu() if self.offload else part for part in parts])
        return maps if self.offload else maps.to(device)

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
            if self.offload:
                open_encoder.tower.to("cpu")
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
    own = maps[view : view + 1].to(uv.device).float()
    found = torch.empty(len(chosen), maps.shape[1], dtype=torch.float16, device=uv.device)
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


def write_frame(folder: Path, index: int, seen: Seen) -> Path:
    """Write frame_<index>.npz and return it."""
    path = folder / f"frame_{index}.npz"
    arrays = {name: np.asarray(value) for name, value in seen._asdict().items()}
    with write_atomically(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # not compressed: 22 ms per frame for a sixth of its size
    return path


def write_h5(folder: Path, index: int, seen: Seen) -> Path:
    """Write frame_<index>.h5, a dataset for each array, and return it."""
    path = folder / f"frame_{index}.h5"
    with write_atomically(path) as part, h5py_module().File(part, "w") as file:
        for name, value in seen._asdict().items():
            file.create_dataset(name, data=np.asarray(value))
    return path


def h5py_module() -> ModuleType:
    """Return h5py. Raises SightwordError that says how to install it."""
    try:
        return import_module("h5py")
    except ImportError:
        raise SightwordError("format=h5 needs h5py. Install it, pip install h5py, or leave out format=") from None


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
    made[folder / "cloud.png"] = show.clouds(cloud.xyz, panels, upwards(scene.frames), towards, (480, 360))
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
    encoder: BiFusionEncoder | None = None,
) -> Summary:
    """Lift every scene of a list; resumable, by torchrun or on Ray, see `shards.execute`.

    encoder: of a run; then its maps of D channels are lifted instead of CLIP's, which are of text's space.

    A scene that cannot be lifted is named in the summary. Raises SightwordError if none could be.
    """
    options, job, out = options or Options(), job or Job(), Path(out).expanduser()
    shards.check_engine(job.engine)
    if options.format == "h5":
        h5py_module()
    if out.exists() and not out.is_dir():
        raise SightwordError(f"out={out} is a file. Pass a folder")
    start = time.perf_counter()
    scenes, failed = _read(root, names, job, options)
    done = []
    if scenes:
        made = _lift_all(source, token_type, scenes, out, options, job, encoder)
        for scene in scenes:
            if (reason := out / scene.name / FAILED).exists():
                failed[scene.name] = read_text(reason).strip()
        done = [scene.name for scene in scenes if scene.name not in failed and made.finished(scene)]
    if not done and failed:
        name, why = next(iter(failed.items()))
        raise SightwordError(f"none of {len(names)} scenes could be lifted; {name}: {why}")
    return _report(out, done, failed, time.perf_counter() - start, FrameCache(job.cache) if str(job.cache) else None)


def _lift_all(
    source: Opener,
    token_type: str,
    scenes: list[Scene],
    out: Path,
    options: Options,
    job: Job,
    encoder: BiFusionEncoder | None,
) -> Extraction:
    """Lift the scenes that are not done; those that failed before are tried again."""
    known = identified(source, token_type, job.cache)
    planned = plan(job.cache, scenes, known.recipe, job.backend) if str(job.cache) else None
    if planned:
        remember(planned.cache.out, known.state, known.recipe)
    recipe = known.recipe
    identity: dict[str, object] = {name: recipe[name] for name in ("weights", "form", "preprocessing")}
    if encoder is not None:
        identity["encoder"] = digest(encoder.state_dict())
    made = Extraction(source, token_type, scenes, out, options, planned, identity, job.trust, job.offload, encoder)
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


def _frames(job: Job) -> int | None:
    return job.frames if job.choose == "spread" else None


def _chosen(scene: Scene, job: Job, options: Options) -> Scene:
    """A scene with the frames that are lifted. Raises MissingFileError for one without the mask that it should have."""
    scene = scene if job.choose == "spread" else scene._replace(frames=scene.frames[: job.frames])
    if options.masks:
        mask_files(options.masks, scene)
    return scene


def _read(root: str | Path, names: Sequence[str], job: Job, options: Options) -> tuple[list[Scene], dict[str, str]]:
    scenes, failed = [], {}
    for name in names:
        try:
            scenes.append(scene := _chosen(read_scene(root, name, _frames(job), job.convention), job, options))
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
