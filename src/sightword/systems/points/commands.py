"""The commands that only `points` has. Nothing heavy is imported before one runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sightword.errors import SightwordError

if TYPE_CHECKING:
    from pathlib import Path

    from sightword.data.finding import CheckReport
    from sightword.systems.points.clip import FrozenClip
    from sightword.systems.points.lift.extract import Stages
    from sightword.systems.points.scannet.label import LabelSet
    from sightword.systems.points.scannet.reader import Scene

TOKEN_TYPES = {"plain": "joint"}  # the papers' word → the towers'
VIS = {"0": "", "false": "", "": "", "1": "pca", "true": "pca"}
FRAMES = 24  # of a scene that is queried, at most, if nothing is said


def lift(
    root: str,
    out: str,
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
    """Lift CLIP's features from posed RGB-D frames onto the points that they show, scene by scene; resumable.

    root: scenes in ScanNet's layout, or one scene. out: a folder; for each scene it gets a folder with a frame_<i>.npz
    for each frame (pts_feat, uv_idx, conf_2d, rows), points.ply and report.json.
    scenes_file: a list of names; all scenes if empty.
    tower: vit_b16, an open_clip model with tag=, or a folder.
    token_type: qq, value, kk, kk+gauss …; or joint, which is not aligned with text at patch level.
    size: of the frames in the tower, height x width; its own if empty. dtype: bf16, fp32, or fp16 on a GPU.
    vis: 1 or pca for images in colours of the features, tsne for their neighbourhoods too.
    cache: a folder that keeps CLIP's maps, so that they are computed once; backend: safetensors or lmdb.
    voxel: metres between the points of a scene that has no cloud of its own.
    engine: inline (also under torchrun), or ray with so many workers, each with a fraction of so many gpus.
    """
    from sightword.systems.points.lift.extract import Job, Options, extract
    from sightword.systems.points.scannet.reader import find_scenes, read_scenes_file, scene_folder

    _positive(frames_per_scene=frames_per_scene)
    clip = _clip(tower, tag, token_type, size, dtype)
    options = Options(VIS.get(vis.lower(), vis), voxel)
    names = read_scenes_file(scenes_file) if scenes_file else find_scenes(root)
    job = Job(frames_per_scene, cache, backend, engine, workers, gpus)
    summary = extract(clip.source, clip.token_type, root, names, out, options, job)
    print("\n".join(_costs(summary.stages, summary.memory)))
    for name, why in summary.failed.items():
        print(f"not lifted: {name}: {why}")
    print(f"{len(summary.done)} of {len(names)} scenes in {out}; times, memory and bytes in report.json there")
    given = {"tower": tower, "tag": tag, "token_type": clip.token_type, "size": size, "dtype": dtype, "cache": cache}
    arguments = " ".join(f"{name}={value}" for name, value in given.items() if value)
    print(f'next: sightword ask scene={scene_folder(root, summary.done[0])} {arguments} "a chair, a bed"')


def ask(
    scene: str,
    tower: str = "vit_b16",
    tag: str = "",
    out: str = "answer",
    frames: int = FRAMES,
    token_type: str = "qq",
    size: str = "224x304",
    dtype: str = "bf16",
    cache: str = "",
    against: str = "",
    voxel: float = 0.03,
    *,
    words: Sequence[str] = (),
) -> None:
    """Find in a scene what a text query names: sightword ask scene=scans/scene0000_00 "a chair"

    Commas separate queries that compete. scene: its folder. out: a folder for answer.png, answer.ply (each point in
    the colour of its query) and scores.npz. frames: so many of the scene's, spread evenly.
    against: what else a point may be, with commas; if empty the data set's classes, where it names a few, or else
    object, thing, stuff, texture, wall, floor and ceiling. tower, tag, token_type, size, dtype, cache, voxel: as of
    lift.
    """
    queries = _texts(" ".join(words))
    if not queries:
        raise SightwordError(f'the text query is empty. Write it at the end: sightword ask scene={scene} "a chair"')
    _positive(frames=frames)
    folder = _folder_to_be(out)
    clip = _clip(tower, tag, token_type, size, dtype)
    from sightword.systems.points import ask as asking
    from sightword.systems.points.predict import SceneQuery
    from sightword.systems.points.scannet.reader import read_scene

    read = read_scene(scene, frames=frames)
    answer = SceneQuery(clip)(read, queries, against=_texts(against), voxel=voxel, cache=cache)
    print("\n".join(asking.summary_lines(answer, asking.classes_near(read.folder))))
    files = asking.write(answer, folder)
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
    """Compare 14×14 patches with upsampled maps: how well points are classified, by how their features are sampled.

    root: labelled scenes in ScanNet's layout. scenes_file: a list of names; all scenes if empty. labels: scannet20, a
    JSON file {class: id}, or if empty what scannetv2-labels.combined.tsv in root says. out: a folder for the table as
    CSV, text and JSON. tower, tag, token_type, dtype: as of lift.
    """
    from sightword.systems.points import compare as comparing

    _positive(frames_per_scene=frames_per_scene)
    folder = _folder_to_be(out)
    classes = _labels(labels, root)
    scenes = _scenes(root, scenes_file, frames_per_scene)
    clip = _clip(tower, tag, token_type, "", dtype)
    rows = comparing.compare(clip, scenes, classes)
    protocol = {
        "tower": tower,
        "token_type": clip.token_type,
        "scenes": ", ".join(scene.name for scene in scenes),
        "frames per scene": str(frames_per_scene),
        "classes": classes.source,
        "measured": "labelled points that a frame shows, the likeliest class by text query; nothing was trained",
    }
    files = comparing.write(rows, protocol, folder)
    print("\n".join([*comparing.columns(rows), f"written to {', '.join(map(str, files))}"]))


def check_scannet(root: str) -> "CheckReport":
    """Posed RGB-D in ScanNet's layout: frames, sizes, units, poses and clouds of every scene."""
    from sightword.systems.points.scannet import check

    return check.check_scannet(root)


# ------------------------------------------------------------------------------------------------------------- parts


def _clip(tower: str, tag: str, token_type: str, size: str, dtype: str) -> "FrozenClip":
    from sightword.data.size import size_of
    from sightword.storage import shards
    from sightword.systems.points.clip import FrozenClip
    from sightword.towers.dtype import dtype_name

    kind = dtype_name(dtype)
    if kind == "float16" and shards.device() == "cpu":
        shards.say("note: fp16 is ten times slower than bf16 on a CPU; bf16 is used")
        kind = "bfloat16"
    return FrozenClip(tower, tag, TOKEN_TYPES.get(token_type, token_type), size_of(size) if size else None, kind)


def _texts(text: str) -> list[str]:
    """The texts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise SightwordError(f"{name}={value} is too small. Pass at least 1")


def _folder_to_be(out: str) -> "Path":
    from pathlib import Path

    if (path := Path(out).expanduser()).exists() and not path.is_dir():
        raise SightwordError(f"out={out} is a file. Pass a folder")
    return path


def _scenes(root: str, scenes_file: str, frames: int) -> "list[Scene]":
    from sightword.systems.points.scannet.reader import find_scenes, read_scene, read_scenes_file

    names = read_scenes_file(scenes_file) if scenes_file else find_scenes(root)
    return [read_scene(root, name, frames) for name in names]


def _labels(labels: str, root: str) -> "LabelSet":
    from sightword.systems.points.scannet.label import LabelSet, label_set, read_classes

    if labels:
        return label_set(labels)
    classes = read_classes(root)
    return LabelSet(tuple(classes.values()), tuple(classes), "scannetv2-labels.combined.tsv")


def _costs(stages: "Stages", memory: Mapping[str, int]) -> list[str]:
    """Seconds and bytes of each stage, in columns."""
    lines = [f"{'stage':<12} {'seconds':>9} {'CPU s':>9} {'MB':>9}"]
    for name, seconds in stages.seconds.items():
        size = f"{stages.bytes[name] / 1e6:>9.2f}" if name in stages.bytes else f"{'-':>9}"
        lines.append(f"{name:<12} {seconds:>9.3f} {stages.cpu_seconds[name]:>9.3f} {size}")
    cuda = f", {memory['peak_cuda'] / 1e9:.2f} GB on the GPU" if memory["peak_cuda"] else ""
    return [*lines, f"peak memory {memory['peak_rss'] / 1e9:.2f} GB{cuda}"]
