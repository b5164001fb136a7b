"""The table that document 004 plans: points that sample 14×14 patches, against maps that were upsampled.

A tower of another size has other numbers in the place of 14: g patches a side at its own size. Each way is measured by
asking lifted points for their class in words, nothing is trained. Source: document 004, 7 ("性能评测").

Legend: V frames, D width of CLIP's joint space, g patches a side, K classes.
"""

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.metrics.classes import confusion_matrix
from sightword.storage.atomic import write_atomically
from sightword.systems.points.ask import vectors
from sightword.systems.points.lift.cloud import scene_cloud
from sightword.systems.points.lift.features import FrameEncoder, features_of
from sightword.systems.points.lift.link import lift, link
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import Scene, read_color, views_of
from sightword.towers.factory import tower_pair

Maps = Callable[[Tensor], Tensor]
SHUFFLE = 2  # of the document's first step


class Way(NamedTuple):
    """How points come to their features."""

    name: str
    size: tuple[int, int]  # H, W of the frames that the tower sees
    maps: Maps  # (V, D, h, w) as the tower gives them → as they are sampled
    texts: Maps  # (K, D) → what the samples are compared with


def ways(patch: tuple[int, int], grid: tuple[int, int]) -> list[Way]:
    """patch: pixels of one; grid: of the tower's own size."""
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


def compare(
    tower: str,
    options: Mapping[str, Any],
    token_type: str,
    scenes: Sequence[Scene],
    labels: LabelSet,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """A row a way: accuracy and mIoU of the labelled points that are seen, by words, and what a frame costs.

    options: of the tower. ValueError if no scene has a labelled point of these classes.
    """
    truths = [_truth(scene, labels) for scene in scenes]
    there = torch.cat(truths)
    there = there[there >= 0]
    if not len(there):
        raise ValueError(
            f"not one point of {len(scenes)} scenes has a label of {labels.source}: compare needs labelled clouds"
        )
    classes = there.unique().tolist()
    first = tower_pair(tower, **options)
    texts = vectors(first.text, [labels.names[number] for number in classes])
    rows: list[dict[str, Any]] = []
    for way in ways(first.image.patch, first.image.grid()):
        pair = tower_pair(tower, **{**options, "size": way.size})
        encoder = FrameEncoder(pair.image.to(device), token_type)
        words = F.normalize(way.texts(texts), dim=-1)
        counts, row = _measure(encoder, way, words, scenes, truths, classes, device)
        rows += [] if rows else [_majority(counts)]
        rows.append({"way": way.name} | row)
    return rows


def _truth(scene: Scene, labels: LabelSet) -> Tensor:
    """(N,) int64 numbers of classes, -1 where it has none."""
    label = scene_cloud(scene).label
    return torch.zeros(0, dtype=torch.int64) if label is None else torch.from_numpy(labels.numbers(label.numpy()))


def _majority(counts: Tensor) -> dict[str, Any]:
    """What always saying the most frequent class would get, on the points that all ways are measured by: (K,)."""
    share, there = float(counts.max() / counts.sum().clamp(min=1)), max(int((counts > 0).sum()), 1)
    return {"way": "the most frequent class, always", "accuracy": share, "mIoU": share / there} | {
        "seen": None, "ms a frame": None, "kB a frame": None
    }  # fmt: skip


def _measure(
    encoder: FrameEncoder,
    way: Way,
    words: Tensor,
    scenes: Sequence[Scene],
    truths: Sequence[Tensor],
    classes: Sequence[int],
    device: str,
) -> tuple[Tensor, dict[str, Any]]:
    """Points of each class that are seen (K,), and the row."""
    order = {number: place for place, number in enumerate(classes)}
    total = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    labelled, seconds, frames, size = 0, 0.0, 0, 0
    for scene, truth in zip(scenes, truths, strict=True):
        if not len(truth):
            continue
        pictures = [read_color(frame) for frame in scene.frames]
        start = time.process_time() if device == "cpu" else time.perf_counter()
        rows = encoder.rows(pictures)
        seconds += (time.process_time() if device == "cpu" else time.perf_counter()) - start
        frames += len(pictures)
        size = sum(array[0].nbytes for array in rows.values())
        xyz = scene_cloud(scene).xyz.to(device)
        links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64, device=device), views_of(scene.frames, device))
        maps = way.maps(features_of(rows, encoder.grid).maps.to(device).float())
        points = F.normalize(lift(maps, links, len(xyz)), dim=-1).cpu()
        seen = (points.abs().amax(1) > 0) & (truth >= 0)
        labelled += int((truth >= 0).sum())
        right = torch.tensor([order[number] for number in truth[seen].tolist()])
        total += confusion_matrix((points[seen] @ words.T).argmax(1), right, len(classes)).to(total)
    both = total.diagonal().double()
    union = total.sum(0) + total.sum(1) - total.diagonal()
    known = total.sum(1) > 0
    return total.sum(1), {
        "accuracy": float(both.sum() / total.sum().clamp(min=1)),
        "mIoU": float((both / union.clamp(min=1))[known].mean()) if known.any() else 0.0,
        "seen": float(total.sum() / max(labelled, 1)),
        "ms a frame": 1000 * seconds / max(frames, 1),
        "kB a frame": size / 1000,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """In columns, for a terminal."""
    wide = max(len(row["way"]) for row in rows)
    lines = [f"{'':<{wide}}  accuracy   mIoU   seen   ms a frame   kB a frame"]
    for row in rows:
        cells = [(8, 3), (5, 3), (5, 3), (11, 1), (11, 1)]
        values = [row[name] for name in ("accuracy", "mIoU", "seen", "ms a frame", "kB a frame")]
        told = [
            f"{'-':>{w}}" if value is None else f"{value:>{w}.{d}f}"
            for value, (w, d) in zip(values, cells, strict=True)
        ]
        lines.append(f"{row['way']:<{wide}}  " + "  ".join(told))
    return lines


def write(rows: Sequence[Mapping[str, Any]], note: Mapping[str, Any], out: Path) -> list[Path]:
    """compare.csv, for programs; compare.txt, for eyes; compare.json, with what was compared."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"compare.{suffix}" for suffix in ("csv", "txt", "json")]
    with write_atomically(files[0]) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with write_atomically(files[1]) as part:
        told = [f"{name}: {value}" for name, value in note.items()]
        part.write_text("\n".join([*told, "", *table(rows)]) + "\n", encoding="utf-8")
    with write_atomically(files[2]) as part:
        part.write_text(json.dumps({**note, "rows": list(rows)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return files
