"""The ground truth of a scene, in the formats of the benchmarks.

    ScanNet200   <scene>_vh_clean_2.ply, with <scene>.aggregation.json and <scene>_vh_clean_2.0.010000.segs.json, whose
                 labels scannetv2-labels.combined.tsv has ids for; or <scene>_vh_clean_2.labels.ply
    Replica      <scene>/habitat/mesh_semantic.ply, whose faces have an object_id, and info_semantic.json
    both         gt=<folder>: <scene>.txt, a line for each vertex, label · 1000 + instance, 0 none

Legend: N vertices.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.metrics.instance import SCALE
from sightword.storage.ply import Cloud, read_faces
from sightword.storage.reader import read_json, read_text
from sightword.systems.points.benchmark.protocol import Protocol
from sightword.systems.points.lift.cloud import in_world, read_cloud, recorded
from sightword.systems.points.scannet.label import LONG, table_of
from sightword.systems.points.scannet.reader import Scene

SEGMENTS = "_vh_clean_2.0.010000.segs.json"


class Truth(NamedTuple):
    """The vertices of a scene, and what they are."""

    cloud: Cloud  # in the world of the poses
    numbers: np.ndarray  # (N,) int64, label · 1000 + instance; 0: none
    source: str  # where the labels are from


def truth_of(protocol: Protocol, scene: Scene, root: Path, gt: Path | None) -> Truth:
    """Read the truth of a scene. gt: a folder of <scene>.txt, or of Replica's scenes; if None, what is in root.

    Raises SightwordError if there is none, or its files do not belong together.
    """
    if protocol.dataset == "replica":
        folder = _habitat(scene.name, [*([gt] if gt else []), scene.folder.parent, root])
        found: tuple[Cloud, np.ndarray | None, str] = _replica(folder)
    else:
        files = recorded(scene.folder, scene.name)
        if not files:
            raise MissingFileError(f"{scene.name}_vh_clean_2.ply is in none of the folders of {root}")
        found = _scannet(files, scene.name, root, gt is None)
    cloud, numbers, source = in_world(found[0], scene), *found[1:]
    if gt and (gt / f"{scene.name}.txt").is_file():
        source = str(gt / f"{scene.name}.txt")
        numbers = read_numbers(Path(source), len(cloud.xyz))
    elif numbers is None:
        raise MissingFileError(f"{gt}/{scene.name}.txt does not exist. Write one number for each vertex of {source}")
    return Truth(cloud, numbers, source)


def read_numbers(file: Path, count: int) -> np.ndarray:
    """Return the whole numbers in a text file, one per line, (N,) int64. Raises SightwordError unless there are N."""
    text = read_text(file)
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise SightwordError(f"{file} does not consist of whole numbers, one per line") from None
    if len(values) != count:
        raise SightwordError(
            f"{file} has {len(values)} lines, and the mesh {count} vertices. They belong to another mesh"
        )
    if len(values) and values.min() < 0:
        raise SightwordError(f"{file} has the number {values.min()}. Numbers are 0 or above")
    return values


# ------------------------------------------------------------------------------------------------------------ ScanNet


def _scannet(files: Mapping[str, Path], name: str, root: Path, needed: bool) -> tuple[Cloud, np.ndarray | None, str]:
    points = files["points"]
    cloud = read_cloud(points)
    groups, segments = points.parent / f"{name}.aggregation.json", points.parent / f"{name}{SEGMENTS}"
    if groups.is_file() and segments.is_file():
        return cloud, _annotated(groups, segments, table_of(root), len(cloud.xyz)), str(groups)
    if groups.is_file() != segments.is_file():
        missing = segments if groups.is_file() else groups
        raise MissingFileError(f"{missing} is missing; {name} needs both files of annotations")
    if "labels" in files:
        named = read_cloud(files["labels"])
        if named.label is None or len(named.xyz) != len(cloud.xyz):
            raise SightwordError(f"{files['labels']} has no label for each of the {len(cloud.xyz)} points of {points}")
        return cloud, _joined(named.label, named.instance), str(files["labels"])
    if needed:
        raise MissingFileError(f"{name} has no labels: {groups.name} and {segments.name} are not beside {points}")
    return cloud, None, str(points)


def _annotated(groups: Path, segments: Path, table: Path, count: int) -> np.ndarray:
    """Numbers of vertices by ScanNet's annotation: objects are groups of segments of vertices."""
    segment = np.array(read_json(segments).integers("segIndices"))
    if len(segment) != count:
        raise SightwordError(f"{segments} has {len(segment)} vertices, the mesh {count}. They belong to another mesh")
    ids, numbers = _raw_ids(table), np.zeros(count, np.int64)
    for group in read_json(groups).mappings("segGroups"):
        number, label = group.integer("objectId", least=0, most=SCALE - 2), ids.get(group.text("label"), 0)
        own = np.isin(segment, np.array(group.integers("segments")))
        numbers[own] = label * SCALE + number + 1 if label else 0
    return numbers


def _raw_ids(file: Path) -> dict[str, int]:
    """The id of each raw category of ScanNet's label table; of two rows the first counts."""
    head, *rows = (line.split("\t") for line in read_text(file, most=LONG).splitlines() or [""])
    if not {"id", "raw_category"} <= set(head):
        raise SightwordError(f"{file} has the columns {', '.join(head)[:80]}; expected id and raw_category among them")
    at, name = head.index("id"), head.index("raw_category")
    return {row[name]: int(row[at]) for row in reversed(rows) if len(row) > max(at, name) and row[at].isdecimal()}


def _joined(label: Tensor, instance: Tensor | None) -> np.ndarray:
    """Numbers of labels and instances. Without an instance a point is that of its label with number 0."""
    values = label.numpy() * SCALE + (0 if instance is None else instance.numpy() % SCALE)
    found: np.ndarray = np.where(label.numpy() > 0, values, 0)
    return found


# ------------------------------------------------------------------------------------------------------------ Replica


def _habitat(name: str, roots: list[Path]) -> Path:
    """The folder of a scene's semantic mesh: room0 is room_0 in Replica's own folders."""
    spaced = name if "_" in name else name.rstrip("0123456789") + "_" + name[len(name.rstrip("0123456789")) :]
    tried = [root / each / "habitat" for root in roots for each in (name, spaced)]
    folder = next((place for place in tried if (place / "mesh_semantic.ply").is_file()), None)
    if folder is None:
        raise MissingFileError(f"{tried[0]}/mesh_semantic.ply does not exist. gt= names the folder of Replica's scenes")
    return folder


def _replica(folder: Path) -> tuple[Cloud, np.ndarray, str]:
    """Vertices with the class and the object of their faces: of most of them, of equals the lowest object."""
    mesh, info = folder / "mesh_semantic.ply", folder / "info_semantic.json"
    cloud, faces = read_cloud(mesh), read_faces(mesh, "object_id")
    class_of = {each.integer("id"): each.integer("class_id") for each in read_json(info).mappings("objects")}
    objects, place = np.unique(faces.values, return_inverse=True)
    pair, count = np.unique(faces.corners * len(objects) + place.ravel()[faces.face], return_counts=True)
    order = np.lexsort((-pair, count))  # of each vertex the last one written: the most frequent, then the lowest
    chosen = np.full(len(cloud.xyz), -1)
    chosen[pair[order] // len(objects)] = pair[order] % len(objects)
    labels = np.array([max(class_of.get(int(number), 0), 0) for number in objects])
    if not labels.any():
        raise SightwordError(f"{info} names none of the {len(objects)} objects of {mesh}. They belong to two scenes")
    if len(objects) >= SCALE:
        raise SightwordError(f"{mesh} has {len(objects)} objects; a scene has fewer than {SCALE}")
    numbers = np.where((chosen >= 0) & (labels[chosen] > 0), labels[chosen] * SCALE + chosen, 0)
    return cloud, numbers, str(mesh)
