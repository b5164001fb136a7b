"""The commands only points have. Nothing heavy is imported before one runs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightword.data.check import Report
    from sightword.systems.points.scannet.label import LabelSet
    from sightword.systems.points.scannet.reader import Scene

DTYPES = {
    "fp32": "float32", "bf16": "bfloat16", "fp16": "float16",
    "float32": "float32", "bfloat16": "bfloat16", "float16": "float16",
}  # fmt: skip
TOKEN_TYPES = {"plain": "joint"}  # document and papers' word → the towers'
ASKED = 24  # frames of a scene that is asked, at most, if nothing is said


def lift(
    root: str,
    output_dir: str,
    tower: str = "vit_b16",
    tag: str = "",
    scenes_file: str = "",
    frames_per_scene: int = 5,
    token_type: str = "qq",
    size: str = "224x304",
    dtype: str = "bf16",
    vis: str = "0",
    cache: str = "",
    backend: str = "safetensors",
    voxel: float = 0.03,
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> None:
    """Lift CLIP's features from posed RGB-D frames onto the points that they see, scene by scene; resumable.

    root: scenes in ScanNet's layout, or one scene. output_dir: a folder a scene, with a frame_<i>.npz for each frame
    (pts_feat, uv_idx, conf_2d, rows), points.ply and report.json. scenes_file: a list of names; all scenes if empty.
    tower: vit_b16, an open_clip model with tag=, or a folder.
    form: qq, value, kk, kk+gauss …, or plain, also called joint, which is no language at places.
    size: of the frames in the tower, height x width; its own if empty. dtype: bf16, fp32, or fp16 on a GPU.
    vis: 1 or pca for pictures in colours of the features, tsne for their neighbourhoods too.
    cache: a folder that keeps CLIP's maps, so that they are computed once; backend: safetensors or lmdb.
    voxel: metres between the points of a scene that has no cloud of its own.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    from sightword.systems.points.lift.extract import Options, extract
    from sightword.systems.points.scannet.reader import find_scenes, read_scenes_file

    _positive(frames_per_scene=frames_per_scene)
    token_type = TOKEN_TYPES.get(token_type, token_type)
    kinds = {"0": "", "false": "", "": "", "1": "pca", "true": "pca"}
    source = _source(tower, tag, size, dtype)
    names = read_scenes_file(scenes_file) if scenes_file else find_scenes(root)
    summary = extract(
        source,
        token_type,
        root,
        names,
        output_dir,
        frames_per_scene,
        cache,
        backend,
        Options(kinds.get(vis.lower(), vis), voxel),
        engine,
        workers,
        gpus,
    )
    print("\n".join(_lifted(summary.report)))
    for name, why in summary.failed.items():
        print(f"not lifted: {name}: {why}")
    print(f"{len(summary.done)} of {len(names)} scenes in {output_dir}; times, memory and bytes in report.json there")
    seeing = {"tower": tower, "tag": tag, "form": token_type, "size": size, "dtype": dtype, "cache": cache}
    words = " ".join(f"{name}={value}" for name, value in seeing.items() if value)
    print(f'next: sightword ask scene={_folder(root, summary.done[0])} {words} "a chair, a bed"')


def ask(
    scene: str,
    tower: str = "vit_b16",
    tag: str = "",
    out: str = "answer",
    frames: int = ASKED,
    token_type: str = "qq",
    size: str = "224x304",
    dtype: str = "bf16",
    cache: str = "",
    against: str = "",
    voxel: float = 0.03,
    *,
    words: Sequence[str] = (),
) -> None:
    """Find in a scene what is said: sightword ask scene=scans/scene0000_00 "a chair"

    Commas part questions that compete. scene: its folder. out: a folder for answer.png, answer.ply (each point in the
    colour of what it answers) and scores.npz. frames: so many of the scene's, spread evenly.
    against: what else a point may be, with commas; if empty the data set's classes, where it names a few, or else
    object, thing, stuff, texture, wall, floor and ceiling. tower, tag, form, size, dtype, cache, voxel: as of lift.
    """
    from pathlib import Path

    from sightword.storage import shards
    from sightword.systems.points import ask as asking
    from sightword.systems.points.lift.features import FrameEncoder, features_of, fill
    from sightword.systems.points.scannet.reader import read_color, read_scene, say_skipped
    from sightword.towers.factory import text_tower, tower_pair

    questions = [question for question in " ".join(words).split(",") if question.strip()]
    if not questions:
        raise ValueError(f'the question is empty: sightword ask scene={scene} "a chair"')
    _positive(frames=frames)
    token_type = TOKEN_TYPES.get(token_type, token_type)
    _folder_to_be(out)
    read = read_scene(scene, frames=frames)
    say_skipped(read)
    source = _source(tower, tag, size, dtype)
    if cache:
        features = fill(source, token_type, [read], cache).maps(read.name, [frame.index for frame in read.frames])
        text = text_tower(tower, tag, source.options["dtype"])
    else:
        pair = tower_pair(tower, **source.options)
        text, encoder = pair.text, FrameEncoder(pair.image.to(shards.device()), token_type)
        features = features_of(encoder.rows([read_color(frame) for frame in read.frames]), encoder.grid)
    lifted = asking.lift_scene(read, features, voxel, shards.device())
    classes = asking.classes_near(read.folder)
    rest = [word.strip() for word in against.split(",") if word.strip()] or asking.competitors(classes)
    answered = asking.answer(lifted.features, lifted.seen, text, questions, rest)
    print("\n".join(asking.told(lifted, answered, classes)))
    files = asking.write(lifted, answered, read.name, Path(out).expanduser())
    print(f"by {len(read.frames)} frames; drawn in {files[0]}, coloured points in {files[1]}, all scores in {files[2]}")


def compare(
    root: str,
    tower: str = "vit_b16",
    tag: str = "",
    scenes_file: str = "",
    frames_per_scene: int = 8,
    token_type: str = "qq",
    dtype: str = "bf16",
    labels: str = "",
    out: str = "compare",
) -> None:
    """The table 14×14 patches against upsampled: points that are asked in words, by how their features are sampled.

    root: labelled scenes in ScanNet's layout. scenes_file: a list of names; all scenes if empty. labels: scannet20, a
    JSON file {class: id}, or if empty what scannetv2-labels.combined.tsv in root says. out: a folder for the table as
    CSV, text and JSON. tower, tag, form, dtype: as of lift.
    """
    from pathlib import Path

    from sightword.storage import shards
    from sightword.systems.points import compare as comparing

    _positive(frames_per_scene=frames_per_scene)
    token_type = TOKEN_TYPES.get(token_type, token_type)
    _folder_to_be(out)
    classes = _labels(labels, root)
    scenes = _scenes(root, scenes_file, frames_per_scene)
    options = dict(_source(tower, tag, "", dtype).options)
    rows = comparing.compare(tower, options, token_type, scenes, classes, shards.device())
    note = {
        "tower": tower,
        "form": token_type,
        "scenes": ", ".join(scene.name for scene in scenes),
        "frames a scene": frames_per_scene,
        "classes": classes.source,
        "measured": "labelled points that a frame sees, the likeliest class in words; nothing was trained",
    }
    files = comparing.write(rows, note, Path(out).expanduser())
    print("\n".join([*comparing.table(rows), f"written to {', '.join(map(str, files))}"]))


def check_scannet(root: str) -> "Report":
    """Posed RGB-D in ScanNet's layout: frames, sizes, units, poses and clouds of every scene."""
    from sightword.systems.points.scannet import check

    return check.check_scannet(root)


# ------------------------------------------------------------------------------------------------------------- parts


def _source(tower: str, tag: str, size: str, dtype: str) -> Any:
    import torch

    from sightword.storage import shards
    from sightword.data.size import size_of
    from sightword.towers.token_cache import Source

    if dtype not in DTYPES:
        raise ValueError(f"dtype is bf16, fp32 or fp16; got {dtype!r}")
    pixels = size_of(size) if size else None
    kind = DTYPES[dtype]
    if kind == "float16" and shards.device() == "cpu":
        shards.say("note: fp16 is ten times slower than bf16 on a CPU; bf16 is used")
        kind = "bfloat16"
    exact: torch.dtype = getattr(torch, kind)
    return Source(tower, {"tag": tag, "size": pixels, "dtype": exact})


def _positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")


def _folder_to_be(out: str) -> None:
    from pathlib import Path

    if (path := Path(out).expanduser()).exists() and not path.is_dir():
        raise ValueError(f"{out} is a file: out= is a folder")


def _scenes(root: str, scenes_file: str, frames: int) -> "list[Scene]":
    from sightword.systems.points.scannet.reader import find_scenes, read_scene, read_scenes_file

    names = read_scenes_file(scenes_file) if scenes_file else find_scenes(root)
    return [read_scene(root, name, frames) for name in names]


def _labels(labels: str, root: str) -> "LabelSet":
    from sightword.systems.points.scannet.label import LabelSet, label_set
    from sightword.systems.points.scannet.reader import read_classes

    if labels:
        return label_set(labels)
    classes = read_classes(root)
    return LabelSet(tuple(classes.values()), tuple(classes), "scannetv2-labels.combined.tsv")


def _folder(root: str, scene: str) -> Any:
    from sightword.systems.points.scannet.reader import scene_folder

    return scene_folder(root, scene)


def _lifted(report: Any) -> list[str]:
    """Stages in columns: seconds and bytes."""
    stages, memory = report["stages"], report["memory"]
    lines = [f"{'stage':<12} {'seconds':>9} {'CPU s':>9} {'MB':>9}"]
    for name, seconds in stages["seconds"].items():
        size = stages["bytes"].get(name)
        told = f"{size / 1e6:>9.2f}" if size is not None else f"{'-':>9}"
        lines.append(f"{name:<12} {seconds:>9.3f} {stages['cpu_seconds'][name]:>9.3f} {told}")
    cuda = f", {memory['peak_cuda'] / 1e9:.2f} GB on the GPU" if memory["peak_cuda"] else ""
    return [*lines, f"peak memory {memory['peak_rss'] / 1e9:.2f} GB{cuda}"]


COMMANDS: list[Callable[..., Any]] = [lift, ask, compare]
CHECKS: dict[str, Callable[..., Any]] = {"scannet": check_scannet}
