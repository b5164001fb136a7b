"""Is a file of skeletons whole? Every number of every recording is looked at.

Legend: M persons, T frames, V joints of a recording.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sightword.data.finding import CheckReport, Finding, Level
from sightword.systems.skeleton.annotations import (
    Annotation,
    Malformed,
    few,
    parse_annotation,
    read_contents,
    to_sequence,
)
from sightword.systems.skeleton.joints import JOINT_SETS


def check_pyskl(path: str, classes: int = 0) -> CheckReport:
    """Check the annotations in a file. classes: how many the file of labels has, 0 if there is none.

    Errors are malformed recordings, key points that are not finite, recordings without a single joint, labels outside
    the list, names given twice, splits that name what is absent or share recordings. Counts, and what is read in a way
    that one may not expect, are notes.
    """
    rows, splits = read_contents(path)
    whole: list[Annotation] = []
    found: list[Finding] = []
    for number, row in enumerate(rows):
        try:
            whole.append(parse_annotation(row))
        except Malformed as error:
            found.append(Finding("error", "malformed recordings", f"recording {number} {error}"))
            continue
        what = f"recording {number} ({whole[-1].name})"
        found += [_finding("error", kind, f"{what} {text}", whole[-1].name) for kind, text in _odd(whole[-1], classes)]
    for name, count in Counter(row.name for row in whole).items():
        if count > 1:
            found.append(_finding("error", "repeated names", f"{name} is the frame_dir of {count} recordings", name))
    joints = Counter(row.points.shape[2] for row in whole)
    usual = joints.most_common(1)[0][0] if joints else 0
    for row in whole:
        if (own := row.points.shape[2]) != usual:
            found.append(_finding("error", "other joints", f"{row.name} has {own} joints, most have {usual}", row.name))
    found += _split_findings({row.name for row in whole}, splits)
    notes = [Finding("note", kind, text) for kind, text in _notes(whole, splits, usual)]
    return CheckReport(len(rows), (*found, *notes), "recordings")


def _finding(level: Level, kind: str, message: str, *names: str) -> Finding:
    return Finding(level, kind, message, names, max(1, len(names)))


def _odd(row: Annotation, classes: int) -> Iterator[tuple[str, str]]:
    """(kind, what) of what a recording in the right form can still have wrong."""
    broken = ~np.isfinite(row.points).all(-1)
    if row.scores is not None:
        broken |= ~np.isfinite(row.scores)
    if broken.any():
        first = np.unique(broken.nonzero()[1])[0]
        text = f"has {broken.sum()} key points that are not numbers (NaN), first in frame {first}: read as missing"
        yield "key points that are not numbers", text
    if not to_sequence(row).scores.any():
        yield "recordings without a joint", "has not one joint that is there"
    if classes and row.label >= classes:
        text = f"has the label {row.label}, and the list has {classes} classes, 0 to {classes - 1}"
        yield "labels outside the list", text
    # fmax passes NaN over
    if row.scores is not None and (most := np.fmax.reduce(row.scores, axis=None, initial=0)) > 2:
        yield "scores above 1", f"has scores up to {most:.4g}: expected 0 to 1"


def _split_findings(there: set[str], splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for name, listed in splits.items():
        if absent := [own for own in listed if own not in there]:
            text = f"split {name} names {len(absent)} recordings that are absent or malformed: {few(absent, 3)}"
            yield _finding("error", "absent recordings", text, *absent)
        if not listed:
            yield Finding("error", "empty splits", f"split {name} is empty")
    for name, listed in splits.items():
        stem = name.removesuffix("train")
        for other in (f"{stem}val", f"{stem}test"):
            if stem != name and (both := sorted(set(listed) & set(splits.get(other, [])))):
                text = f"splits {name} and {other} share {len(both)} recordings: {few(both, 3)}"
                yield _finding("error", "shared recordings", text, *both)


def _notes(rows: Sequence[Annotation], splits: Mapping[str, Sequence[str]], joints: int) -> Iterator[tuple[str, str]]:
    """(kind, text) of what the file contains, and how it is read."""
    if not rows:
        return
    fitting = [made.name for made in JOINT_SETS.values() if len(made.joints) == joints]
    shapes = np.array([row.points.shape for row in rows])
    labels = Counter(row.label for row in rows)
    yield "joints", f"{joints} joints, as {' or '.join(fitting) or 'no named set: give system.joints a JSON file'}"
    frames, persons = (f"{sizes.min()} to {sizes.max()}" for sizes in (shapes[:, 1], shapes[:, 0]))
    yield "sizes", f"{frames} frames, {persons} persons"
    yield "classes", f"{len(labels)} classes with {min(labels.values())} to {max(labels.values())} recordings each"
    if gaps := sorted(set(range(max(labels))) - set(labels)):
        yield "labels", f"no recording has label {few(gaps)}"
    if many := sum(row.shape is None for row in rows):
        yield "views", f"{many} recordings are 3-D without an image: their front view is read, depth is left out"
    if many := sum(row.scores is None for row in rows):
        yield "scores", f"{many} recordings have no scores of their own: a joint is there unless all its numbers are 0"
    yield from ((f"split {name}", f"split {name}: {len(listed)} recordings") for name, listed in splits.items())
    if not splits:
        yield "splits", "no splits: data.train= and data.test= left empty mean all recordings"
    elif outside := {row.name for row in rows} - {name for listed in splits.values() for name in listed}:
        yield "splits", f"{len(outside)} recordings are in no split: {few(sorted(outside), 3)}"
