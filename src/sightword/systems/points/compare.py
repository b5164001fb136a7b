"""How well points are classified by text queries, by the way in which their features are sampled from CLIP's maps.

Points that sample 14×14 patches, larger frames, and maps that are upsampled. An image encoder of another size has
another number in the place of 14: g patches a side at its own size. Nothing is trained.

Legend: V frames, D dimension of CLIP's joint space, g patches a side, N points, K classes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError
from sightword.metrics.classes import confusion_matrix
from sightword.metrics.segmentation import accuracy, mean_iou
from sightword.storage import shards
from sightword.storage.ply import Cloud
from sightword.storage.table import Row, columns, write_table
from sightword.storage.writer import write_json
from sightword.systems.points.ask import query_embeddings
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.lift.cloud import class_numbers, scene_cloud
from sightword.systems.points.lift.features import FrameEncoder, features_of
from sightword.systems.points.lift.geometry import lift, link
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import Scene, read_color, views_of

__all__ = ["columns", "compare", "ways", "write"]

Maps = Callable[[Tensor], Tensor]
SHUFFLE = 2  # factor of the published chain's first PixelShuffle


@dataclass(frozen=True)
class Way:
    """How points get their features."""

    name: str
    size: tuple[int, int]  # H, W of the frames in the image encoder
    maps: Maps  # (V, D, h, w) as the encoder gives them → as they are sampled
    texts: Maps  # (K, D) → what the samples are compared with


def ways(patch: tuple[int, int], grid: tuple[int, int]) -> list[Way]:
    """Return the ways that are compared. patch: pixels of a patch; grid: patches at the encoder's own size."""
    g, own = grid[0], (grid[0] * patch[0], grid[1] * patch[1])
    wide = (own[0], round(g * 4 / 3) * patch[1])
    double = (2 * own[0], 2 * own[1])

    def same(values: Tensor) -> Tensor:
        return values

    def bilinear(maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=4, mode="bilinear", align_corners=False)

    def shuffled(maps: Tensor) -> Tensor:
        return F.pixel_shuffle(maps, SHUFFLE)

    def folded(texts: Tensor) -> Tensor:
        return texts.unflatten(1, (-1, SHUFFLE**2)).mean(2)  # a sample mixes the four groups of channels, so do these

    return [
        Way(f"{g}×{grid[1]} patches", own, same, same),
        Way(f"{g}×{wide[1] // patch[1]} patches of a 4:3 frame", wide, same, same),
        Way(f"{2 * g}×{2 * grid[1]} patches of a larger frame", double, same, same),
        Way(f"{g}×{grid[1]} upsampled to {4 * g}×{4 * grid[1]}, bilinear", own, bilinear, same),
        Way(f"PixelShuffle({SHUFFLE}) of {g}×{grid[1]} raw tokens", own, shuffled, folded),
    ]


@dataclass(frozen=True)
class _Labelled:
    """A scene with the classes of its points."""

    scene: Scene
    cloud: Cloud
    classes: Tensor  # (N,) int64, numbers among the K classes that occur; -1 for none


def compare(clip: FrozenClip, scenes: Sequence[Scene], labels: LabelSet) -> list[Row]:
    """Return a row for each way, and one for the majority-class baseline: accuracy and mIoU, and what a frame costs.

    Of the labelled points that a frame shows. clip: opened again for each size of frames.
    Raises SightwordError if no scene has a labelled point of these classes.
    """
    clouds = [scene_cloud(scene) for scene in scenes]
    numbers = [class_numbers(cloud, labels.ids) for cloud in clouds]
    every = torch.cat(numbers)
    if not (every >= 0).any():
        raise SightwordError(f"none of {len(scenes)} scenes has a point with a label of {labels.source}. Pass others")
    used = every[every >= 0].unique()
    order = torch.full((len(labels.names) + 1,), -1)  # the last for -1
    order[used] = torch.arange(len(used))
    labelled = [_Labelled(*parts) for parts in zip(scenes, clouds, [order[part] for part in numbers], strict=True)]
    texts = query_embeddings(clip.text_encoder(clip.dtype), [labels.names[number] for number in used.tolist()])
    own = clip.encoder()
    rows: list[Row] = []
    for way in ways(own.tower.patch, own.grid):
        encoder = own if way.size == own.tower.preprocess.size else clip.resized(way.size).encoder()
        encoder.tower.to(shards.device())
        counts, row = _measure(encoder, way, F.normalize(way.texts(texts), dim=-1), labelled)
        rows += [] if rows else [_majority(counts)]
        rows.append({"way": way.name, **row})
    return rows


def _majority(counts: Tensor) -> Row:
    """What the most frequent class gets as the prediction for all points. counts: (K,) points that a frame shows."""
    fraction, there = float(counts.max() / counts.sum().clamp(min=1)), max(int((counts > 0).sum()), 1)
    baseline = {"accuracy": fraction, "mIoU": fraction / there}
    return {"way": "majority-class baseline", **baseline, "seen": None, "ms per frame": None, "kB per frame": None}


def _measure(encoder: FrameEncoder, way: Way, texts: Tensor, labelled: Sequence[_Labelled]) -> tuple[Tensor, Row]:
    """Points of each class that a frame shows (K,), and the row. texts: (K, D)."""
    device = shards.device()
    clock = time.process_time if device == "cpu" else time.perf_counter
    counts = torch.zeros(len(texts), len(texts), dtype=torch.int64)
    points, seconds, frames, size = 0, 0.0, 0, 0
    for scene, cloud, classes in ((each.scene, each.cloud, each.classes) for each in labelled):
        if not (classes >= 0).any():
            continue
        pictures = [read_color(frame) for frame in scene.frames]
        start = clock()
        rows = encoder.rows(pictures)
        seconds += clock() - start
        frames += len(pictures)
        size = sum(array[0].nbytes for array in rows.values())
        xyz = cloud.xyz.to(device)
        links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64, device=device), views_of(scene.frames, device))
        maps = way.maps(features_of(rows, encoder.grid).maps.to(device).float())
        features = F.normalize(lift(maps, links, len(xyz)), dim=-1).cpu()
        shown = (features.abs().amax(1) > 0) & (classes >= 0)
        points += int((classes >= 0).sum())
        counts += confusion_matrix((features[shown] @ texts.T).argmax(1), classes[shown], len(texts))
    measured = bool(counts.sum())
    return counts.sum(1), {
        "accuracy": float(accuracy(counts)) if measured else 0.0,
        "mIoU": float(mean_iou(counts)) if measured else 0.0,
        "seen": float(counts.sum() / max(points, 1)),
        "ms per frame": 1000 * seconds / max(frames, 1),
        "kB per frame": size / 1000,
    }


def write(rows: Sequence[Row], protocol: Mapping[str, str], out: Path) -> list[Path]:
    """Write compare_ways.csv, for programs; .txt, for eyes; compare.json, with what was compared. Return them."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "compare.json"
    write_json(file, {**protocol, "rows": list(rows)}, indent=1)
    return [*write_table(file, "ways", rows, protocol), file]
