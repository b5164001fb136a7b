"""What a model finds in a scene of a benchmark: a class for each vertex, and instances.

An instance is a connected group of the vertices of one class, as `sightword ask` finds objects; its score is their mean
probability. Nothing was trained for this, and no mask of another network is used.

Legend: N vertices; C classes; P instances.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from sightword.errors import SightwordError
from sightword.metrics.instance import LEAST, Predictions
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_text
from sightword.systems.points.ask import LOGIT_SCALE
from sightword.systems.points.benchmark.protocol import Protocol
from sightword.systems.points.benchmark.truth import read_numbers
from sightword.systems.points.instance import LINK, connected
from sightword.systems.points.predict import SceneFeatures
from sightword.towers.base import TextTower
from sightword.towers.prompt import class_embeddings

MASKS, SEMANTIC = "pred_mask", "semantic"
MOST = 10_000  # instances of a scene in a submission


class Found(NamedTuple):
    """The prediction for a scene."""

    labels: np.ndarray  # (N,) int64, ids of the benchmark
    instances: Predictions


class Classes(NamedTuple):
    """The classes that can be predicted: those that the text encoder knows."""

    ids: np.ndarray  # (C,)
    embeddings: Tensor  # (C, D)


def classes_of(protocol: Protocol, text: TextTower) -> Classes:
    """Return the classes whose names the text encoder knows, in full or in part. Hyphens are spaces in queries.

    Raises SightwordError if there is none.
    """
    names = {number: name.replace("-", " ") for number, name in zip(protocol.ids, protocol.names, strict=True)}
    kept = [number for number, name in names.items() if len(text.unknown_words(name)) < len(name.split())]
    if not kept:
        raise SightwordError(f"the text encoder knows none of the {len(names)} classes of {protocol.dataset}")
    embeddings = class_embeddings(text, [names[number] for number in kept], (protocol.prompt,)).float().cpu()
    return Classes(np.array(kept), embeddings)


def find(scene: SceneFeatures, xyz: Tensor, classes: Classes, protocol: Protocol) -> Found:
    """Return the prediction for vertices (N, 3). A vertex without features has those of the nearest point with some."""
    from scipy.spatial import cKDTree

    points = scene.points
    known = points.known
    nearest = cKDTree(points.cloud.xyz[known].numpy()).query(xyz.numpy())[1]
    chances = (LOGIT_SCALE * points.features[known].float().cpu() @ classes.embeddings.T).softmax(1)
    best, at = chances.max(1)
    labels = classes.ids[at.numpy()][nearest]
    return Found(labels, _instances(xyz.numpy(), labels, best.numpy()[nearest], protocol.instances))


def _instances(xyz: np.ndarray, labels: np.ndarray, chances: np.ndarray, classes: Sequence[int]) -> Predictions:
    masks, of, scores = [], [], []
    for label in sorted(set(labels.tolist()) & set(classes)):
        own = np.flatnonzero(labels == label)
        groups = connected(xyz[own], LINK)
        for number in np.flatnonzero(np.bincount(groups) >= LEAST):
            part = own[groups == number]
            mask = np.zeros(len(xyz), bool)
            mask[part] = True
            masks.append(mask)
            of.append(label)
            scores.append(float(chances[part].mean()))
    return Predictions(np.array(masks, bool).reshape(-1, len(xyz)), np.array(of, np.int64), np.array(scores, float))


# -------------------------------------------------------------------------------------------------------- submissions


def write_submission(folder: Path, scene: str, found: Found) -> None:
    """Write a prediction as ScanNet's benchmark takes it: <scene>.txt with a line for each mask in pred_mask/ (path,
    label and score), and the labels of all vertices in semantic/<scene>.txt."""
    (folder / MASKS).mkdir(parents=True, exist_ok=True)
    (folder / SEMANTIC).mkdir(exist_ok=True)
    lines = []
    for number, (mask, label, score) in enumerate(zip(*found.instances, strict=True)):
        name = f"{MASKS}/{scene}_{number:03d}.txt"
        _write(folder / name, mask.astype(np.int64))
        lines.append(f"{name} {label} {score:.6f}\n")
    _write(folder / SEMANTIC / f"{scene}.txt", found.labels)
    with write_atomically(folder / f"{scene}.txt") as part:
        part.write_text("".join(lines))


def _write(file: Path, values: np.ndarray) -> None:
    with write_atomically(file) as part:
        part.write_text("\n".join(map(str, values.tolist())) + "\n")


def read_submission(folder: Path, scene: str, count: int) -> Found:
    """Read what `write_submission`, or another program, wrote; without semantic/<scene>.txt labels are 0.

    Raises SightwordError for lines that do not name a mask in the folder, a label and a score, and for masks of
    another number of vertices.
    """
    file = folder / f"{scene}.txt"
    rows = [
        line.split() for line in read_text(file, missing="Predictions are <scene>.txt").splitlines() if line.strip()
    ]
    if len(rows) > MOST:
        raise SightwordError(f"{file} names {len(rows)} masks; at most {MOST} are read")
    masks, labels, scores = [], [], []
    for number, row in enumerate(rows, 1):
        try:
            name, label, score = row[0], int(float(row[1])), float(row[2])
            if len(row) != 3 or not np.isfinite(score):
                raise ValueError
        except (ValueError, IndexError, OverflowError):
            raise SightwordError(f"{file}: line {number} is not a path, a label and a score") from None
        mask = (folder / name).resolve()
        if not mask.is_relative_to(folder.resolve()):
            raise SightwordError(f"{file}: line {number} names {name[:80]}, which is outside of {folder}")
        masks.append(read_numbers(mask, count) != 0)
        labels.append(label)
        scores.append(score)
    whole = folder / SEMANTIC / f"{scene}.txt"
    semantic = read_numbers(whole, count) if whole.is_file() else np.zeros(count, np.int64)
    table = np.array(masks, bool).reshape(-1, count)
    return Found(semantic, Predictions(table, np.array(labels, np.int64), np.array(scores, float)))
