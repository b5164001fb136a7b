"""What is doubtful in one's own labels: classes that cannot be learnt or told apart, photos without a label.

Legend: N photos; C classes.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sightword.data.check import find_bad_images, missing_images
from sightword.data.content import doubles_of
from sightword.data.finding import CheckReport, Finding
from sightword.systems.intent.intentonomy import SPLITS
from sightword.systems.intent.labels import Labels, Marked, read_labels

FEWEST = 10  # photos of a class in train, below which little is learnt
ALIKE = 0.98  # of the photos of either of two classes that are of both
MOST_CLASSES = 2000  # that are compared with each other
MANY = 10  # labels of a photo, on average


def check_labels(root: str, images: str = "") -> CheckReport:
    """Read one's own labels and decode each photo once, with a progress bar on a terminal."""
    labels = read_labels(root, images)
    paths = [labels.located.folder / labels.located.name(photo.path) for photo in labels.photos]
    there = [path for path in paths if path.is_file()]
    findings = [Finding("note", "what was assumed", labels.assumed), *_sizes(labels)]
    findings += [*missing_images(paths, "images"), *find_doubtful(labels)]
    findings += [*_copies(labels, paths), *find_bad_images(there, f"check {labels.located.folder}")]
    return CheckReport(len(paths), tuple(findings))


def find_doubtful(labels: Labels) -> list[Finding]:
    """Return what the labels themselves show; a training reports the same."""
    rows = torch.tensor([[p.values.get(name, 0.0) for name in labels.names] for p in labels.photos])  # (N, C)
    train = rows[[photo.split == "train" for photo in labels.photos]]
    return [
        *_constant(labels.names, train),
        *_one_split(labels, rows),
        *_few(labels.names, train),
        *_alike(labels.names, rows),
        *_bare(labels.photos),
        *_fractions(rows),
    ]


def _warning(kind: str, message: str, names: Sequence[str], fix: str = "") -> list[Finding]:
    return [Finding("warning", kind, message, tuple(names), len(names), fix)] if names else []


def _constant(names: Sequence[str], train: Tensor) -> list[Finding]:
    always = [name for name, column in zip(names, train.T, strict=True) if len(column) and bool((column > 0).all())]
    told = f"{_named(always)} of every photo of train: nothing is learnt of that"
    return _warning("classes of every photo", told, always, "remove the column")


def _one_split(labels: Labels, rows: Tensor) -> list[Finding]:
    """Classes without a photo in train, or only in train, with the class of the nearest name."""
    found = []
    stated = [split for split in SPLITS if any(photo.split == split for photo in labels.photos)]
    has = {split: (rows[[p.split == split for p in labels.photos]] > 0).any(0).tolist() for split in stated}
    for number, name in enumerate(labels.names):
        inside = [split for split in stated if has[split][number]]
        if len(inside) == 1 and len(stated) > 1:
            near = difflib.get_close_matches(name, [n for n in labels.names if n != name], 1, 0.8)
            meant = f"; is {near[0]!r} meant?" if near else ""
            found.append(Finding("warning", "classes in one split only", f"{name!r} is in {inside[0]} only{meant}"))
    return found


def _few(names: Sequence[str], train: Tensor) -> list[Finding]:
    counts = (train > 0).sum(0).tolist()
    few = [name for name, count in zip(names, counts, strict=True) if count < FEWEST]
    told = ", ".join(f"{name!r} has {counts[names.index(name)]}" for name in few[:3])
    more = ", …" if len(few) > 3 else ""
    message = f"{len(few)} of {len(names)} classes have fewer than {FEWEST} photos in train: {told}{more}"
    return _warning("classes of few photos", message, few)


def _alike(names: Sequence[str], rows: Tensor) -> list[Finding]:
    if len(names) > MOST_CLASSES:
        return []
    present = (rows > 0).float()
    both = present.T @ present  # (C, C)
    either = present.sum(0)[:, None] + present.sum(0)[None] - both
    pairs = ((both > ALIKE * either) & (both > 0)).triu(1).nonzero().tolist()
    first = [f"{names[one]!r} and {names[other]!r}" for one, other in pairs]
    return _warning("classes of the same photos", f"{', '.join(first[:3])} are classes of the same photos", first)


def _bare(photos: Sequence[Marked]) -> list[Finding]:
    bare = [photo.path for photo in photos if not any(photo.values.values())]
    mean = sum(sum(value > 0 for value in photo.values.values()) for photo in photos) / len(photos)
    message = f"{len(bare)} of {len(photos)} photos have no label, {bare[0] if bare else ''} the first: read as none"
    found = _warning("photos without a label", message, bare, "if it means unknown, remove them")
    if mean > MANY:
        many = f"a photo has {mean:.1f} labels on average"
        found.append(Finding("warning", "many labels", many, (), 1, "are columns in it that are no classes?"))
    return found


def _fractions(rows: Tensor) -> list[Finding]:
    between = int(((rows > 0) & (rows < 1)).sum())
    if not between:
        return []
    message = f"{between} labels are between 0 and 1: data.labels=any, the default, takes each above 0 as present"
    return [Finding("warning", "fractions", message, (), between, "data.labels=soft or majority does not")]


def _named(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _sizes(labels: Labels) -> list[Finding]:
    found = []
    for split in SPLITS:
        photos = [photo for photo in labels.photos if photo.split == split]
        each = sum(value > 0 for photo in photos for value in photo.values.values()) / max(1, len(photos))
        told = f"{split}: {len(photos)} photos, {each:.2f} labels each" if photos else f"{split}: none"
        found.append(Finding("note", f"size of {split}", told))
    counts = {name: sum(photo.values.get(name, 0) > 0 for photo in labels.photos) for name in labels.names}
    most = sorted(counts, key=lambda name: -counts[name])
    told = ", ".join(f"{name} {counts[name]}" for name in most[:12]) + (", …" if len(most) > 12 else "")
    return [*found, Finding("note", "photos of classes", f"photos of each class: {told}")]


def _copies(labels: Labels, paths: Sequence[Path]) -> list[Finding]:
    """Equal files in two splits, and equal files of other labels."""
    of = dict(zip(paths, labels.photos, strict=True))
    copies, links = doubles_of(list(of))
    groups = [*copies, *links]
    leaks = [group for group in groups if len({of[path].split for path in group}) > 1]
    other = [
        group
        for group in groups
        if group not in leaks and len({tuple(sorted(of[path].values.items())) for path in group}) > 1
    ]
    found = []
    if leaks:
        told = f"{len(leaks)} equal photos in two splits, {leaks[0][0]} and {leaks[0][1]} the first"
        found.append(Finding("error", "equal photos in two splits", told, tuple(map(str, leaks[0])), len(leaks)))
    if other:
        told = f"{len(other)} equal photos have other labels, {other[0][0]} and {other[0][1]} the first"
        found.append(Finding("warning", "equal photos with other labels", told, tuple(map(str, other[0])), len(other)))
    return found
