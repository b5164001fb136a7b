"""The commands of the system `points`. Nothing heavy is imported before one is executed."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sightword.data.size import height_width, size_text
from sightword.engine.argument import (
    NAMES,
    Amount,
    Count,
    Dtype,
    Intrinsics,
    JobOptions,
    Model,
    Names,
    Out,
    Positional,
    Positive,
    Size,
    TokenType,
    folder_in,
    read_value,
)
from sightword.errors import SightwordError, Unfinished
from sightword.systems.points.scannet.convention import Convention

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.systems.points.clip import FrozenClip
    from sightword.systems.points.lift.extract import Stages
    from sightword.systems.points.model import BiFusionEncoder
    from sightword.systems.points.predict import SceneQuery
    from sightword.systems.points.scannet.label import LabelSet
    from sightword.systems.points.scannet.reader import Scene

IMPORTED = 200  # frames of a recording, at most, if nothing is said
FRAMES = 24  # of a scene that is queried, at most, if nothing is said
PRINTED = 20  # instances of a stream


@dataclass(frozen=True)
class ClipOptions:
    """A CLIP whose features are lifted."""

    tower: str = "vit_b16"  # vit_b16, vit_l14 …; an open_clip model with tag=; or a folder
    tag: str = ""  # of an open_clip model: the name or the file of its weights
    token_type: TokenType = "qq"  # qq, value, kk, kk+gauss …; joint is not aligned with text at patch level
    size: Size | None = (224, 304)  # of the frames in the tower, height x width; if empty, the tower's own
    dtype: Dtype = "bfloat16"  # to compute in: bf16, fp32, or fp16 on a GPU


#: Where none of these keys is typed; the command line makes another object where one is, be it with this value.
NOTHING_TYPED = ClipOptions()
SCANNET = Convention()  # the same: a run's own conventions are taken instead


def lift(
    root: Path,  # scenes in ScanNet's layout, or one scene; sightword import makes one of a recording
    out: Out,  # the folder to write, with a folder for each scene
    clip: ClipOptions = NOTHING_TYPED,
    model: Model | None = None,  # a run of points: its trained maps of system.dim numbers instead of CLIP's own
    checkpoint: str = "best",  # of a run: best, last, or a file
    scenes_file: Path | None = None,  # a list of names, one per line; if empty, all scenes
    frames_per_scene: Count = 5,  # see choose=
    choose: Literal["spread", "first"] = "spread",  # which frames: evenly spread, or the first of the scene
    masks: Path | None = None,  # a folder of instance masks, <scene>/<i>.png: pixels where they are 0 show no point
    format: Literal["npz", "h5"] = "npz",  # of the frames' files; h5 needs h5py
    cpu_offload: bool = False,  # for a small GPU: CLIP leaves it after a scene's frames, their maps go to it one by one
    vis: bool = False,  # draw the features as colours, on each frame and on the cloud
    cache: Path | None = None,  # a folder that keeps CLIP's maps, so that they are computed once; if empty, none
    backend: Literal["safetensors", "lmdb"] = "safetensors",  # the format of the cache
    voxel: Positive = 0.03,  # metres between the points of a scene that has no cloud of its own
    convention: Convention = SCANNET,
    trust: bool = False,  # lift also scenes whose depth, poses, intrinsics and colour do not belong together
    job: JobOptions = JobOptions(),
) -> None:
    """Lift CLIP's features from posed RGB-D frames onto the points that they show, scene by scene.

    A scene's folder gets a frame_<i>.npz for each frame (pts_feat, uv_idx, conf_2d, rows), points.ply and report.json.
    With vis=1 it also gets a vis_<i>.png for each frame and cloud.png.
    After Ctrl-C, run the same command again to lift the rest. Exit status 1 if a scene could not be lifted.
    """
    from sightword.storage.domain import say_domain
    from sightword.systems.points.lift.extract import Job, Options, extract
    from sightword.systems.points.scannet.reader import scene_folder

    opened, encoder = _lifted(model, checkpoint, clip)
    names = _names(root, scenes_file)
    say_domain(opened.name, root)
    where = (job.engine, job.workers, job.gpus)
    work = Job(frames_per_scene, choose, cache or "", backend, *where, convention, trust, cpu_offload)
    options = Options(vis, voxel, str(masks.resolve()) if masks else "", format)
    summary = extract(opened.source, opened.token_type, root, names, folder_in(out), options, work, encoder)
    print("\n".join(_costs(summary.stages, summary.memory)))
    for name, why in summary.failed.items():
        print(f"not lifted: {name}: {why}")
    print(f"{len(summary.done)} of {len(names)} scenes in {out}; times, memory and bytes in report.json there")
    own = [f"model={model}", *([f"checkpoint={checkpoint}"] if checkpoint != "best" else [])]
    arguments = own if model else _typed(clip, cache)
    arguments += [*convention.arguments(), *(["trust=true"] if trust else [])]
    scene = f"scene={scene_folder(root, summary.done[0])}"
    print(f'next: {shlex.join(["sightword", "ask", scene, *arguments])} "a chair, a bed"')
    if summary.failed:
        raise Unfinished(f"{len(summary.failed)} of {len(names)} scenes were not lifted; {out}/report.json says why")


def ask(
    query: Positional,  # required, one text or several with commas
    scene: Path,  # its folder, in ScanNet's layout; sightword import makes one of a recording
    model: Model | None = None,  # a run of points, its export, or a hub id; if empty, lifted CLIP answers: tower= …
    checkpoint: str = "best",  # of a run: best, last, or a file
    clip: ClipOptions = NOTHING_TYPED,
    out: Out = Path("answer"),  # the folder of answer.png, answer.ply (coloured by query), answer.json and scores.npz
    frames: Count = FRAMES,  # of the scene, spread evenly
    cache: Path | None = None,  # a folder that keeps CLIP's maps, as of lift; if empty, none
    against: Names = (),  # what else a point may be, with commas; if empty, see above
    voxel: Positive | None = None,  # metres between points; if empty, as in training, or 0.03 for a scene without cloud
    convention: Convention = SCANNET,
    trust: bool = False,  # answer also for a scene whose depth, poses, intrinsics and colour do not belong together
    background: Path | None = None,  # a folder of sightword background; if empty, the model's, of its validation scenes
    most: Count = 5,  # objects of each query that are listed, the best first; answer.json has all
) -> None:
    """Find in a scene what a text query names: sightword ask scene=scans/scene0000_00 "a chair"

    Commas separate queries that compete. They also compete with the texts of against=; if that is empty, with the
    classes of the dataset, where it names a few, or else object, thing, stuff, texture, wall, floor and ceiling.
    A trained model=, whose own CLIP it uses, also answers for points that no frame shows; the CLIP of tower= does not.
    The conventions of the files, axes= to mesh=, are those of the model's training data if none is typed.
    Whether a thing is here at all is decided by how well its name fits other scenes without it, see background=.
    """
    queries = read_value("query", " ".join(query), NAMES)
    if not queries:
        raise SightwordError(f'the text query is empty. Write it at the end: sightword ask scene={scene} "a chair"')
    refuse_other_clip(model, clip)
    folder = folder_in(out)
    from sightword.systems.points import ask as asking

    predictor, read = opened_scene(scene, model, checkpoint, clip, frames, convention)
    if background:
        predictor.use_background(background)
    answer = predictor(read, queries, against=against, voxel=voxel, cache=cache or "", trust=trust)
    lines = asking.summary_lines(answer, asking.classes_near(read.folder), most)
    print("\n".join([asking.coverage_line(answer), *lines]))
    files = asking.write(answer, folder)
    print(f"by {len(read.frames)} frames; drawn in {files[0]}, coloured points in {files[1]}, all scores in {files[2]}")


def background(
    root: Path,  # labelled scenes in ScanNet's layout, none of those that will be asked; three or more
    out: Out,  # the folder to write, for ask background=
    model: Model | None = None,  # a run of points, its export, or a hub id; if empty, of lifted CLIP: tower= …
    checkpoint: str = "best",  # of a run: best, last, or a file
    clip: ClipOptions = NOTHING_TYPED,
    scenes_file: Path | None = None,  # a list of names, one per line; if empty, all scenes
    labels: str = "",  # scannet20, or a JSON file {class: id}; if empty, as scannetv2-labels.combined.tsv in root says
    frames: Count = FRAMES,  # of a scene, spread evenly
    cache: Path | None = None,  # a folder that keeps CLIP's maps, as of lift; if empty, none
    convention: Convention = SCANNET,
    trust: bool = False,  # measure also scenes whose depth, poses, intrinsics and colour do not belong together
) -> None:
    """Measure how words fit scenes without the thing, so that ask knows what is not here: sightword ask background=…

    A run of points has this from its validation scenes; lifted CLIP has not. For each class its points, and those
    around them, are taken out, and the fits that remain are its distribution. The threshold is the one that 5 % of
    these reach, each scene compared with the others.
    """
    from tqdm import tqdm

    from sightword.systems.points.background import measured
    from sightword.systems.points.scannet.reader import scene_folder

    refuse_other_clip(model, clip)
    folder, names, classes = folder_in(out), _names(root, scenes_file), _labels(labels, root)
    said = None if convention is SCANNET else convention
    predictor, _ = opened_scene(scene_folder(root, names[0]), model, checkpoint, clip, frames, convention)
    kind: Literal["fused", "lifted"] = "fused" if model else "lifted"
    options = {"frames": frames, "cache": cache or "", "convention": said, "trust": trust}
    scenes = (
        predictor.features(scene_folder(root, name), **options)  # type: ignore[arg-type]
        for name in tqdm(names, "measuring", unit=" scenes", disable=None)
    )
    found = measured(predictor, scenes, classes)
    files = found.save(folder, kind, predictor.identity(kind))
    print(f"{len(found.classes)} classes in {len(names)} scenes: the threshold is {found.accepted.threshold:.2f}")
    print(f"{found.told()}; written to {', '.join(map(str, files))}")
    print(f'next: sightword ask scene=… background={shlex.quote(str(folder))} "a chair, a bed"')


def stream(
    scene: Path,  # its folder, in ScanNet's layout; it may still grow, see wait=
    clip: ClipOptions = NOTHING_TYPED,
    words: Names = (),  # names for the instances, with commas: chair, table
    masks: Path | None = None,  # a folder of instance masks, <i>.png, 0 where nothing is shown; if empty, no instances
    out: Out = Path("stream"),  # the folder of map.ply, instances.json and stream.csv
    frames: Count | None = None,  # at most; if empty, all
    wait: Amount = 0,  # seconds without a new frame after which the stream ends; 0: only the frames that are there
    voxel: Positive = 0.05,  # metres between the points of the map
    cap: Count = 200_000,  # points of the map at most; beyond it those seen longest ago are dropped
    step: Amount = 0,  # pixels of depth between two points of a frame; 0: so many that it has about 20,000
    every: Count = 10,  # frames between two versions of the map on disk
    background: Path | None = None,  # a folder of sightword background: words that are not in the scene name nothing
    convention: Convention = SCANNET,
    trust: bool = False,  # map also a scene whose depth, poses, intrinsics and colour do not belong together
) -> None:
    """Map a scene frame by frame, with objects that keep their numbers: sightword stream scene=scans/scene0000_00

    map.ply and instances.json are rewritten as the map grows, and stream.csv gets a line a frame. A stream that was
    stopped begins anew. A scene that is still recorded is judged by the frames that are there at the start.
    """
    from tqdm import tqdm

    from sightword.storage.domain import say_domain
    from sightword.systems.points import live
    from sightword.systems.points.doctor.diagnosis import require_sound

    if words and not masks:
        raise SightwordError("words= names instances, and there are none without masks=. Pass both; or ask the scene")
    if background and not words:
        raise SightwordError("background= tells which of words= are not here. Pass words=, or leave it out")
    folder = folder_in(out)
    opened = opened_clip(clip.tower, clip.tag, clip.token_type, clip.size, clip.dtype)
    require_sound(scene, convention, trust)
    say_domain(clip.tower, scene)
    said = live.MapOptions(voxel, cap, step, every=every)
    made = live.LiveMap(opened, said, live.masks_of(masks, scene.resolve().name) if masks else None)
    if background:
        made.use_background(background)
    text = opened.text_encoder() if words else None
    found = live.stream_scene(made, live.frames_of(scene, convention, wait, frames or 0), folder, text, words)
    *_, last = (steps := list(tqdm(found, "mapping", unit=" frames", disable=None)))
    for row in made.described(text, words)[:PRINTED] if words else ():
        print(f"  {row['number']}: {row['word'] or 'none of the words'}, {row['confidence']:.2f}, at {row['centre']} m")
    lost = f", {last.dropped:,} dropped" if last.dropped else ""
    print(f"{len(steps)} frames: {last.voxels:,} points{lost}, {last.instances} instances; written to {folder}")


def compare(
    root: Path,  # labelled scenes in ScanNet's layout
    tower: str = "vit_b16",  # vit_b16, vit_l14 …; an open_clip model with tag=; or a folder
    tag: str = "",  # of an open_clip model: the name or the file of its weights
    scenes_file: Path | None = None,  # a list of names, one per line; if empty, all scenes
    frames_per_scene: Count = 8,  # spread evenly
    token_type: TokenType = "qq",  # qq, value, kk, kk+gauss …; joint is not aligned with text at patch level
    dtype: Dtype = "bfloat16",  # to compute in: bf16, fp32, or fp16 on a GPU
    labels: str = "",  # scannet20, or a JSON file {class: id}; if empty, as scannetv2-labels.combined.tsv in root says
    out: Out = Path("compare"),  # the folder of the table, as CSV, text and JSON
    convention: Convention = SCANNET,
    trust: bool = False,  # compare also on scenes whose depth, poses, intrinsics and colour do not belong together
) -> None:
    """Compare 14×14 patches with upsampled maps: how well points are classified, by how their features are sampled."""
    from sightword.storage.domain import say_domain
    from sightword.systems.points import compare as comparing

    folder = folder_in(out)
    _names(root, scenes_file)  # says what root is, if it has no scenes
    classes = _labels(labels, root)
    scenes = _scenes(root, scenes_file, frames_per_scene, convention, trust)
    say_domain(tower, root)
    clip = opened_clip(tower, tag, token_type, None, dtype)
    rows = comparing.compare(clip, scenes, classes)
    protocol = {
        "tower": tower,
        "token_type": token_type,
        "scenes": ", ".join(scene.name for scene in scenes),
        "frames per scene": str(frames_per_scene),
        "classes": classes.source,
        "measured": "labelled points that a frame shows, the likeliest class by text query; nothing was trained",
    }
    files = comparing.write(rows, protocol, folder)
    print("\n".join([*comparing.columns(rows), f"written to {', '.join(map(str, files))}"]))


def import_(
    src: Path,  # the folder, or file, that another tool wrote
    out: Out,  # the folder to write: a scene in ScanNet's layout
    format: str = "",  # tum, icl, 7scenes, open3d, replica, sens, scannetpp, nerfstudio, colmap, record3d, stray, …
    frames: Count = IMPORTED,  # at most, spread evenly
    intrinsics: Intrinsics | None = None,  # fx,fy,cx,cy of the colour images, if they are in no file
    depth_scale: Positive | None = None,  # units of the depth files per metre; if empty, the format's own
    scale: Positive | None = None,  # metres per unit of the poses, for colmap and nerfstudio; if empty, see below
) -> None:
    """Import a recording of a phone, a scanner or a pose tool as a scene that lift, ask, compare and train read.

    The format is recognised by its files; also polycam, arkitscenes and 3dscanner. Colour files are copied, depth
    becomes a PNG of 16 bits in millimetres, poses become camera-to-world with OpenCV axes. What was taken for granted
    is printed and stands in imported.json. A COLMAP model has neither depth nor scale: its sparse points and the photos
    that observe them are imported, with the median depth at 2 m. Ends with the doctor's look at the scene; exit status
    1 if it finds an error, and names the option that reads it.
    """
    folder = folder_in(out)
    from sightword.systems.points.capture.frame import Options
    from sightword.systems.points.capture.recognise import LAYOUTS
    from sightword.systems.points.capture.write import import_capture
    from sightword.systems.points.scannet.check import check_scannet as check

    done = import_capture(src, folder, format, frames, Options(intrinsics, depth_scale, scale))
    print(f"src={src} is {LAYOUTS[done.format].title}; taken for granted:")
    print("\n".join(f"  {name}: {what}" for name, what in done.assumed.items()))
    print("".join(f"{note}\n" for note in done.notes), end="")
    if done.left_out:
        print(f"{len(done.left_out)} left out, the first: {done.left_out[0]}")
    print(f"{done.frames} of {done.found} frames in {folder}; what was read is in {folder}/imported.json")
    report = check(str(folder))
    print(report)
    if report.errors:
        raise Unfinished(f"{folder} is written, but does not fit together. Give lift, ask, … the option that it names")
    print(f'next: {shlex.join(["sightword", "ask", f"scene={folder}"])} "a chair, a bed"')


def check_scannet(root: Path, scenes_file: Path | None = None, convention: Convention = SCANNET) -> "CheckReport":
    """Posed RGB-D in ScanNet's layout: files of every scene, or of those in a list, and whether depth, poses,
    intrinsics, colour and cloud belong together. What is read with other options, axes= to mesh=, is named."""
    from sightword.systems.points.scannet import check

    return check.check_scannet(str(root), str(scenes_file or ""), convention)


# ------------------------------------------------------------------------------------------------------------- parts


def _lifted(model: str | None, checkpoint: str, clip: ClipOptions) -> "tuple[FrozenClip, BiFusionEncoder | None]":
    """The CLIP whose maps are lifted, and the encoder of a run that reduces them, if one is named."""
    refuse_other_clip(model, clip)
    if not model:
        return opened_clip(clip.tower, clip.tag, clip.token_type, clip.size, clip.dtype), None
    from sightword.systems.points.predict import SceneQuery

    predictor = SceneQuery.from_pretrained(model, checkpoint)
    return predictor.clip, predictor.encoder


def refuse_other_clip(model: str | None, clip: ClipOptions) -> None:
    """Raise SightwordError where both a model= and a CLIP are typed."""
    if model and clip is not NOTHING_TYPED:
        raise SightwordError(
            f"model={model} uses the CLIP that it was trained with. Leave out tower=, tag=, token_type=, size= and "
            "dtype=, or leave out model="
        )


def opened_scene(
    scene: Path, model: str | None, checkpoint: str, clip: ClipOptions, frames: int, convention: Convention
) -> "tuple[SceneQuery, Scene]":
    """Return what answers queries, on the device, and the scene, read as is typed or as in the model's training."""
    from sightword.storage import shards
    from sightword.systems.points.predict import SceneQuery
    from sightword.systems.points.scannet.reader import read_scene

    said = None if convention is SCANNET else convention
    if not model or said is not None:
        read_scene(scene, frames=frames, convention=said)  # says what is wrong before a model is opened
    if model:
        predictor = SceneQuery.from_pretrained(model, checkpoint)
    else:
        predictor = SceneQuery(opened_clip(clip.tower, clip.tag, clip.token_type, clip.size, clip.dtype))
    read = read_scene(scene, frames=frames, convention=said or predictor.convention)
    return predictor.to(shards.device()), read


def opened_clip(tower: str, tag: str, token_type: str, size: int | tuple[int, int] | None, dtype: str) -> "FrozenClip":
    from sightword.storage import shards
    from sightword.systems.points.clip import FrozenClip

    if dtype == "float16" and shards.device() == "cpu":
        shards.say("note: fp16 is ten times slower than bf16 on a CPU; bf16 is used")
        dtype = "bfloat16"
    return FrozenClip(tower, tag, token_type, height_width(size) if size else None, dtype)


def _typed(clip: ClipOptions, cache: Path | None) -> list[str]:
    """The options of a CLIP as they are typed."""
    size = size_text(clip.size) if clip.size else ""
    given = {"tower": clip.tower, "tag": clip.tag, "token_type": clip.token_type, "size": size, "dtype": clip.dtype}
    given["cache"] = str(cache or "")
    return [f"{key}={value}" for key, value in given.items() if value or key == "size"]


def _names(root: Path, scenes_file: Path | None) -> list[str]:
    from sightword.systems.points.scannet.reader import find_scenes, read_scenes_file

    return read_scenes_file(scenes_file) if scenes_file else find_scenes(root)


def _scenes(root: Path, scenes_file: Path | None, frames: int, convention: Convention, trust: bool) -> "list[Scene]":
    from sightword.systems.points.doctor.diagnosis import require_sound
    from sightword.systems.points.scannet.reader import read_scene

    scenes = [read_scene(root, name, frames, convention) for name in _names(root, scenes_file)]
    for scene in scenes:
        require_sound(scene.folder, convention, trust)
    return scenes


def _labels(labels: str, root: Path) -> "LabelSet":
    from sightword.systems.points.scannet.label import LabelSet, label_set, read_classes

    if labels:
        return label_set(labels)
    classes = read_classes(root)
    return LabelSet(tuple(classes.values()), tuple(classes), "scannetv2-labels.combined.tsv")


def _costs(stages: "Stages", memory: Mapping[str, int | None]) -> list[str]:
    """Seconds and bytes of each stage, in columns."""
    lines = [f"{'stage':<12} {'seconds':>9} {'CPU s':>9} {'MB':>9}"]
    for name, seconds in stages.seconds.items():
        size = f"{stages.bytes[name] / 1e6:>9.2f}" if name in stages.bytes else f"{'-':>9}"
        lines.append(f"{name:<12} {seconds:>9.3f} {stages.cpu_seconds[name]:>9.3f} {size}")
    cuda = f", {memory['peak_cuda'] / 1e9:.2f} GB on the GPU" if memory["peak_cuda"] else ""
    peak = "-" if memory["peak_rss"] is None else f"{memory['peak_rss'] / 1e9:.2f} GB"
    return [*lines, f"peak memory {peak}{cuda}"]
