"""The classes of a labelled cloud: their words, and the numbers that stand for them in the files."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.systems.points.scannet.reader import read_classes

# ScanNet's benchmark of 20 classes, by NYU40 ids, as `*_vh_clean_2.labels.ply` has them.
SCANNET20 = {
    "wall": 1, "floor": 2, "cabinet": 3, "bed": 4, "chair": 5, "sofa": 6, "table": 7, "door": 8, "window": 9,
    "bookshelf": 10, "picture": 11, "counter": 12, "desk": 14, "curtain": 16, "refrigerator": 24,
    "shower curtain": 28, "toilet": 33, "sink": 34, "bathtub": 36, "other furniture": 39,
}  # fmt: skip


class LabelSet(NamedTuple):
    """Classes in the order of their numbers here, 0 to C - 1."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # in the clouds
    source: str

    def numbers(self, labels: np.ndarray) -> np.ndarray:
        """(N,) ids of a cloud to (N,) int64 numbers of classes; -1 for an id that is none of them: not asked for."""
        order = np.argsort(self.ids)
        known = np.asarray(self.ids)[order]
        at = np.searchsorted(known, labels).clip(max=len(known) - 1)
        return np.where(known[at] == labels, order[at], -1).astype(np.int64)


def label_set(name: str) -> LabelSet:
    """scannet20, a JSON file {class: id}, or a folder of scenes with ScanNet's table of labels. ValueError, one line,
    for anything else. Of ids with one name the first stands for all."""
    if name == "scannet20":
        return LabelSet(tuple(SCANNET20), tuple(SCANNET20.values()), name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        known = read_classes(path)
        words = {word: label for label, word in reversed(known.items())}
        return LabelSet(tuple(words), tuple(words.values()), str(path))
    if not path.is_file():
        raise ValueError(
            f"system.labels={name!r} is no label set: say scannet20, give a JSON file {{class: id}}, or a folder "
            "with scannetv2-labels.combined.tsv"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON ({error}): it holds {{class: id}}") from error
    if not isinstance(found, dict) or not all(type(value) is int for value in found.values()) or not found:
        raise ValueError(f"{path} holds no classes: a JSON object {{class: id}} with whole numbers, one or more")
    if len(set(found.values())) < len(found):
        raise ValueError(f"{path} gives two classes the same id: each class has its own")
    return LabelSet(tuple(found), tuple(found.values()), str(path))
