"""The command `benchmark`. Nothing heavy is imported before it is executed."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from sightword.engine.argument import Count, Model, Out, folder_in
from sightword.errors import SightwordError
from sightword.systems.points.commands import (
    NOTHING_TYPED,
    SCANNET,
    ClipOptions,
    opened_scene,
    refuse_other_clip,
)
from sightword.systems.points.scannet.convention import Convention

if TYPE_CHECKING:
    from sightword.systems.points.benchmark.found import Classes
    from sightword.systems.points.benchmark.protocol import Protocol
    from sightword.systems.points.predict import SceneQuery

FRAMES = 200  # of a scene, at most, if nothing is said


def benchmark(
    dataset: Literal["scannet200", "replica"],  # whose classes and rules are measured
    root: Path,  # scenes in ScanNet's layout, with the meshes and labels of the benchmark
    out: Out,  # the folder of benchmark.json and the tables
    clip: ClipOptions = NOTHING_TYPED,
    model: Model | None = None,  # a run of points, its export, or a hub id; if empty, lifted CLIP: tower= …
    checkpoint: str = "best",  # of a run: best, last, or a file
    gt: Path | None = None,  # <scene>.txt, label · 1000 + instance; or Replica's own scenes; if empty, what is in root
    scenes_file: Path | None = None,  # a list of names; if empty, scannetv2_val.txt in root, or Replica's eight
    frames: Count = FRAMES,  # of a scene at most, spread evenly
    cache: Path | None = None,  # a folder that keeps CLIP's maps, as of lift; if empty, none
    submission: bool = False,  # also write the predictions as ScanNet's benchmark takes them
    predictions: Path | None = None,  # a folder of such predictions to measure, instead of a model's
    convention: Convention = SCANNET,
    trust: bool = False,  # measure also scenes whose depth, poses, intrinsics and colour do not belong together
) -> None:
    """Measure ScanNet200's or Replica's benchmark: sightword benchmark dataset=scannet200 root=… model=… out=…

    Semantic mIoU over the vertices of the meshes, of all classes and of head, common and tail; AP, AP50 and AP25 of
    instances by ScanNet's rules, by class and whatever the class. Classes are text queries; one whose words the text
    encoder does not know cannot be predicted, and counts. Instances are connected groups of one class: for the masks of
    another network pass predictions=.
    """
    from tqdm import tqdm

    from sightword.systems.points.benchmark import found, measure, truth
    from sightword.systems.points.benchmark.protocol import protocol_of
    from sightword.systems.points.scannet.reader import read_scene

    _refuse(predictions, model, clip, submission)
    folder, protocol = folder_in(out), protocol_of(dataset)
    names = _names(protocol, root, scenes_file)
    said, board = None if convention is SCANNET else convention, measure.Benchmark(protocol)
    asked = None if predictions else _asked(root, names[0], protocol, model, checkpoint, clip, frames, convention)
    for name in tqdm(names, "measuring", unit=" scenes", disable=None):
        scene = read_scene(root, name, frames, said or (asked.predictor.convention if asked else None))
        real = truth.truth_of(protocol, scene, root, gt)
        if asked is None:
            assert predictions
            board.add(real, found.read_submission(predictions, name, len(real.numbers)))
            continue
        points = asked.predictor.features(scene, cache=cache or "", trust=trust, cloud=real.cloud)
        made = found.find(points, real.cloud.xyz, asked.classes, protocol)
        if submission:
            found.write_submission(folder / "submission", name, made)
        board.add(real, made)
    scores = board.scores()
    files = measure.write_scores(folder, scores, _told(protocol, names, asked, frames, predictions))
    print("\n".join(measure.lines(scores)))
    files += [folder / "submission"] * submission
    print(f"{len(names)} scenes; written to {', '.join(map(str, files))}")


def _refuse(predictions: Path | None, model: str | None, clip: ClipOptions, submission: bool) -> None:
    refuse_other_clip(model, clip)
    if predictions and (model or submission or clip is not NOTHING_TYPED):
        raise SightwordError("predictions= are measured as they are. Leave out model=, tower= … and submission=")


class Asked(NamedTuple):
    """What predicts, and the classes that it can predict."""

    predictor: "SceneQuery"
    classes: "Classes"


def _asked(
    root: Path,
    name: str,
    protocol: "Protocol",
    model: str | None,
    checkpoint: str,
    clip: ClipOptions,
    frames: int,
    convention: Convention,
) -> Asked:
    from sightword.systems.points.benchmark.found import classes_of
    from sightword.systems.points.scannet.reader import scene_folder

    predictor, _ = opened_scene(scene_folder(root, name), model, checkpoint, clip, frames, convention)
    classes = classes_of(protocol, predictor.text_encoder())
    print(_known(protocol, classes))
    return Asked(predictor, classes)


def _known(protocol: "Protocol", classes: "Classes") -> str:
    return f"the text encoder knows {len(classes.ids)} of the {len(protocol.ids)} classes of {protocol.dataset}"


def _names(protocol: "Protocol", root: Path, scenes_file: Path | None) -> list[str]:
    """The scenes of the benchmark. Raises SightwordError if one of Replica's eight is missing."""
    from sightword.systems.points.benchmark.protocol import REPLICA_SCENES
    from sightword.systems.points.scannet.reader import find_scenes, read_scenes_file

    if scenes_file:
        return read_scenes_file(scenes_file)
    there = find_scenes(root)
    if protocol.dataset == "replica":
        own = {name.replace("_", ""): name for name in there}
        if missing := [name for name in REPLICA_SCENES if name not in own]:
            raise SightwordError(
                f"{root} does not contain {', '.join(missing)} of Replica's eight scenes. sightword import "
                "format=replica makes them; pass scenes_file= for others"
            )
        return [own[name] for name in REPLICA_SCENES]
    places = [root / part / "scannetv2_val.txt" for part in ("", "meta_data")]
    listed = next((file for file in places if file.is_file()), None)
    return read_scenes_file(listed) if listed else there


def _told(
    protocol: "Protocol",
    names: list[str],
    asked: Asked | None,
    frames: int,
    predictions: Path | None,
) -> dict[str, str]:
    """What was measured, and how."""
    said = {
        "dataset": protocol.dataset,
        "scenes": f"{len(names)}: {', '.join(names[:8])}{' …' * (len(names) > 8)}",
        "semantic": "all vertices with a class of the benchmark; means over the classes that have one",
        "instances": "AP over IoU 0.50 to 0.90, at least 100 vertices, void as in ScanNet's evaluation script",
    }
    if asked is None:
        return said | {"predictions": str(predictions)}
    clip = asked.predictor.clip
    return said | {
        "features": "the trained encoder's fused features" if asked.predictor.task else "lifted CLIP's features",
        "clip": " ".join(filter(None, [clip.name, clip.tag, clip.token_type])),
        "frames": f"at most {frames} of a scene",
        "classes": _known(protocol, asked.classes) + f", in {protocol.prompt!r}",
        "vertices": "one without features has those of the nearest point with some",
        "masks": "connected groups of vertices of one class; their score is the mean probability",
    }
