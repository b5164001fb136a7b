"""The classes of a labelled cloud: their names, and the ids that stand for them in the files."""

from pathlib import Path
from typing import NamedTuple

from sightword.errors import SightwordError
from sightword.storage.reader import read_json, read_text

# ScanNet's benchmark of 20 classes, by NYU40 ids, as `*_vh_clean_2.labels.ply` has them.
SCANNET20 = {
    "wall": 1, "floor": 2, "cabinet": 3, "bed": 4, "chair": 5, "sofa": 6, "table": 7, "door": 8, "window": 9,
    "bookshelf": 10, "picture": 11, "counter": 12, "desk": 14, "curtain": 16, "refrigerator": 24,
    "shower curtain": 28, "toilet": 33, "sink": 34, "bathtub": 36, "other furniture": 39,
}  # fmt: skip
LABELS = "scannetv2-labels.combined.tsv"
LONG = 1 << 24  # bytes of a file of labels, at most


class LabelSet(NamedTuple):
    """Classes in the order of their numbers here, 0 to C - 1; see `lift.cloud.class_numbers`."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # in the clouds
    source: str


def label_set(name: str) -> LabelSet:
    """Return the classes of scannet20, of a JSON file {class: id}, or of ScanNet's label table.

    The table is named by its file (.tsv), or by a folder of scenes that it lies in. If several ids have one name the
    first counts. Raises SightwordError for anything else.
    """
    if name == "scannet20":
        return LabelSet(tuple(SCANNET20), tuple(SCANNET20.values()), name)
    path = Path(name).expanduser()
    if name and (path.is_dir() or path.suffix == ".tsv"):
        known = read_table(table_of(path) if path.is_dir() else path)
        ids = {word: label for label, word in reversed(known.items())}
        return LabelSet(tuple(ids), tuple(ids.values()), str(path))
    if not path.is_file():
        raise SightwordError(
            f"system.labels={name!r} is not a label set. Pass scannet20, a JSON file {{class: id}}, or a "
            f"folder with {LABELS}"
        )
    found = read_json(path, most=LONG, damaged="Expected {class: id}, the ids whole numbers")
    names = tuple(found)
    ids_of = tuple(found.integer(word) for word in names)
    if not names:
        raise found.error("contains no classes: expected {class: id}")
    if len(set(ids_of)) < len(ids_of):
        raise found.error("two classes have the same id. Give each its own")
    return LabelSet(names, ids_of, str(path))


def read_classes(root: str | Path) -> dict[int, str]:
    """Return id → class name of a labelled cloud: the columns id and category of scannetv2-labels.combined.tsv.

    Raises SightwordError if there is no such file, see `table_of`, or it is not such a table.
    """
    return read_table(table_of(root))


def table_of(root: str | Path) -> Path:
    """Return the label table of a folder of scenes: in it, in its meta_data, or in the two folders above."""
    root = Path(root).expanduser()
    places = [base / part / LABELS for base in (root, root.parent, root.parent.parent) for part in ("", "meta_data")]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        raise SightwordError(
            f"{LABELS} is neither in {root} nor in its meta_data. It names the classes of the labels: put it there, or "
            "name other classes by system.labels=, or labels="
        )
    return file


def read_table(file: str | Path) -> dict[int, str]:
    """Return id → class name of a label table. If an id has two rows the first counts."""
    head, *rows = (line.split("\t") for line in read_text(file, most=LONG).splitlines() or [""])
    if not {"id", "category"} <= set(head):
        raise SightwordError(f"{file} has the columns {', '.join(head)[:80]}; expected id and category among them")
    at, name = head.index("id"), head.index("category")
    rows = [row for row in rows if len(row) > max(at, name)]
    if bad := next((row for row in rows if not row[at].isdecimal()), None):
        raise SightwordError(f"{file}: {bad[at]!r} is not an id. Ids are whole numbers")
    return {int(row[at]): row[name] for row in reversed(rows)}
