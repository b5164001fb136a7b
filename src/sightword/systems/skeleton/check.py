"""Is a file of skeletons whole, and is it read as it was meant? What `diagnosis` finds, and the file's own accounts.

Legend: M persons, T frames, V joints of a recording.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sightword.data.finding import CheckReport, Finding, Level
from sightword.systems.skeleton.annotations import check_dimensions, parse_rows, read_contents
from sightword.systems.skeleton.axes import describe_axes, first_shape, guess_axes
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.diagnosis import SINGLE, diagnose, fit_of
from sightword.systems.skeleton.joints import JOINT_SETS, JointSet, joint_set, other_joints
from sightword.systems.skeleton.sequence import AS_PYSKL, Annotation, Empty, Malformed, few, is_deep


def check_pyskl(path: str, classes: int = 0, reading: Reading = AS_PYSKL) -> CheckReport:
    """Check the annotations in a file. classes: how many the file of labels has, 0 if there is none.

    Errors are malformed and empty recordings, what `diagnose` calls one, single recordings of which it warns, labels
    outside the list, names given twice, splits that name what is absent or share recordings. Counts, and what is read
    in a way that one may not expect, are notes.
    """
    rows, splits, joints = read_contents(path)
    joints = joint_set(reading.joints) if reading.joints else joints
    if not reading.axes and (axes := guess_axes(rows, len(joints.joints) if joints else 0)):
        found = Finding("error", "the order of the axes", describe_axes(axes, first_shape(rows)), fix=f"axes={axes}")
        return CheckReport(len(rows), (found,), "recordings")
    whole, malformed = parse_rows(rows, reading)
    check_dimensions(whole, reading)
    findings = [*_malformed(malformed), *_recordings(whole, classes)]
    counts = Counter(row.points.shape[2] for row in whole)
    usual = [row for row in whole if row.points.shape[2] == counts.most_common(1)[0][0]]
    if usual and joints and (count := usual[0].points.shape[2]) != len(joints.joints):
        findings.append(Finding("error", "other joints", f"the file {other_joints(count, joints, joints)}"))
    if usual:
        findings += [
            replace(one, level="error") if one.kind in SINGLE else one for one in diagnose(usual, reading, joints)
        ]
    findings += _split_findings({row.name for row in whole}, splits)
    notes = [Finding("note", kind, text) for kind, text in _notes(usual, splits, reading, joints)]
    return CheckReport(len(rows), (*findings, *notes), "recordings")


def _finding(level: Level, kind: str, message: str, names: Sequence[str]) -> Finding:
    return Finding(level, kind, message, tuple(names), max(1, len(names)))


def _malformed(malformed: Sequence[tuple[int, Malformed]]) -> Iterator[Finding]:
    for number, error in malformed:
        if isinstance(error, Empty):
            yield Finding("error", "empty recordings", f"recording {number} {error}: it is left out")
        else:
            yield Finding("error", "malformed recordings", f"recording {number} {error}")


def _recordings(rows: Sequence[Annotation], classes: int) -> Iterator[Finding]:
    """Names, numbers of joints and labels that do not fit."""
    if again := [name for name, count in Counter(row.name for row in rows).items() if count > 1]:
        text = f"{len(again)} names are the frame_dir of several recordings: {few(again, 3)}"
        yield _finding("error", "repeated names", text, again)
    counts = Counter(row.points.shape[2] for row in rows)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        other = [row for row in rows if row.points.shape[2] != usual]
        text = f"{len(other)} recordings have other joints than most: {other[0].name} {other[0].points.shape[2]}"
        yield _finding("error", "other joints", f"{text}, most {usual}", [row.name for row in other])
    if classes and (outside := [row for row in rows if row.label >= classes]):
        text = f"{len(outside)} recordings have a label outside the list of {classes} classes, 0 to {classes - 1}"
        first = f"{outside[0].name} has {outside[0].label}"
        yield _finding("error", "labels outside the list", f"{text}: {first}", [row.name for row in outside])


def _split_findings(there: set[str], splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for name, listed in splits.items():
        if absent := [own for own in listed if own not in there]:
            text = f"split {name} names {len(absent)} recordings that are absent or malformed: {few(absent, 3)}"
            yield _finding("error", "absent recordings", text, absent)
        if not listed:
            yield Finding("error", "empty splits", f"split {name} is empty")
    for name, listed in splits.items():
        stem = name.removesuffix("train")
        for other in (f"{stem}val", f"{stem}test"):
            if stem != name and (both := sorted(set(listed) & set(splits.get(other, [])))):
                text = f"splits {name} and {other} share {len(both)} recordings: {few(both, 3)}"
                yield _finding("error", "shared recordings", text, both)


def _notes(
    rows: Sequence[Annotation], splits: Mapping[str, Sequence[str]], reading: Reading, joints: JointSet | None
) -> Iterator[tuple[str, str]]:
    """(kind, text) of what the file contains, and how it is read."""
    if not rows:
        return
    yield "joints", _told_joints(rows, reading, joints)
    shapes = np.array([row.points.shape for row in rows])
    frames, persons = (f"{sizes.min()} to {sizes.max()}" for sizes in (shapes[:, 1], shapes[:, 0]))
    yield "sizes", f"{frames} frames, {persons} persons"
    yield from _told_labels(rows)
    if many := sum(is_deep(row, reading) for row in rows):
        yield "views", f"{many} recordings are 3-D: their front view is read, depth is left out"
    if many := sum(row.scores is None and (row.points.shape[3] == 2 or is_deep(row, reading)) for row in rows):
        yield "scores", f"{many} recordings have no scores of their own: a joint is there unless all its numbers are 0"
    yield from ((f"split {name}", f"split {name}: {len(listed)} recordings") for name, listed in splits.items())
    if not splits:
        yield "splits", "no splits: data.train= and data.test= left empty mean all recordings"
    elif outside := {row.name for row in rows} - {name for listed in splits.values() for name in listed}:
        yield "splits", f"{len(outside)} recordings are in no split: {few(sorted(outside), 3)}"


def _told_labels(rows: Sequence[Annotation]) -> Iterator[tuple[str, str]]:
    labels = Counter(row.label for row in rows if row.label >= 0)
    if labels:
        least, most = min(labels.values()), max(labels.values())
        yield "classes", f"{len(labels)} classes with {least} to {most} recordings each"
        if gaps := sorted(set(range(max(labels))) - set(labels)):
            yield "labels", f"no recording has label {few(gaps)}"
    if nameless := len(rows) - labels.total():
        yield "labels", f"{nameless} recordings have no label: recognise names them, training needs labels"


def _told_joints(rows: Sequence[Annotation], reading: Reading, joints: JointSet | None) -> str:
    """Which set the joints are of, and how well each fits the limbs."""
    count = rows[0].points.shape[2]
    fit = fit_of(rows, reading, joints)
    if fit.best is None:
        named = [made.name for made in JOINT_SETS.values() if len(made.joints) == count]
        return f"{count} joints, as {' or '.join(named) or 'no named set: give system.joints a JSON file'}"
    others = [f"{name} {np.expm1(value):.0%}" for name, value in fit.asymmetry.items() if name != fit.best.name]
    told = f"{count} joints, read as {fit.best.name}"
    if fit.best.name in fit.asymmetry:
        told += f": left and right limbs differ by {np.expm1(fit.asymmetry[fit.best.name]):.0%}"
    return f"{told} (as {', '.join(others)})" if others else told
