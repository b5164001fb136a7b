"""Do the key points of a file look like moving bodies, as they are read? What does not is named, with what reads it.

`check` prints these findings; `train`, `evaluate` and `recognise` warn of them, or stop where results would be wrong.
Some numbers are looked at in all recordings; bodies are measured on a sample of recordings and frames. A body tells:

    asymmetry   median of |ln(left / right)| over pairs of limbs: about 0.05, above 0.35 in a foreign order of joints
    upright     fraction of frames with the head above the hips above the ankles, less the fraction of the reverse
    jump        median way of a joint to the next frame, in limbs: above 2 if frames and joints are exchanged
    left        fraction of frames with the left shoulder at the larger column, of those with a visible face. In 3-D of
                all: depth is left out of the front view, so a mirrored one and one from behind are the same

Legend: M persons, T frames, V joints of a recording; F sampled frames; N recordings; D 2 or 3 coordinates.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from sightword.data.finding import Finding, Level
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.systems.skeleton.annotations import Recordings
from sightword.systems.skeleton.config import Reading
from sightword.systems.skeleton.joints import JOINT_SETS, JointSet
from sightword.systems.skeleton.sequence import THERE, Annotation, few, is_deep, to_sequence

RECORDINGS, SPOTS = 40, 10  # sampled, evenly spread; pairs of neighbouring frames in each
LEAST = 10  # recordings without which an order of no known set is not claimed
SYMMETRIC, FOREIGN = 0.15, 0.25  # asymmetry of a set that fits at most; of one that does not at least
HEADS, HIPS, ANKLES = ("nose", "head", "neck"), ("left_hip", "right_hip"), ("left_ankle", "right_ankle")
SHOULDERS = ("left_shoulder", "right_shoulder")
SINGLE = ("key points that are not numbers", "recordings without a joint", "scores above 1")  # of some recordings
FACE = ("nose", "left_eye", "right_eye")


class Symptom(NamedTuple):
    """A finding, and the fields of the `Reading` that undo what it names."""

    finding: Finding
    change: Mapping[str, str | float | bool] = {}


def symptom(level: Level, kind: str, message: str, names: Sequence[str] = (), **change: str | float | bool) -> Symptom:
    """Return a symptom whose finding has the change as what to type. names: of the recordings concerned."""
    values = {key: str(value).lower() if isinstance(value, bool) else f"{value}" for key, value in change.items()}
    fix = " ".join(f"{key}={value.removesuffix('.0')}" for key, value in values.items())
    return Symptom(Finding(level, kind, message, tuple(names), max(1, len(names)), fix), change)


PLACED = 8  # joints that stand at others which are listed


def say_findings(recordings: Recordings, prefix: str = "") -> None:
    """Report on stderr what `diagnose` warns of in recordings that have been fitted, a line for each kind.

    prefix: of the keys of a reading, "data." in a config. Raises SightwordError if a result would be wrong.
    """
    for text in recordings.left_out:
        shards.say(f"{recordings.path}: a recording is left out: it {text}")
    if lacking := recordings.lacking():
        shards.say(f"{recordings.path}: its joints have no {few(lacking)}; these are read as missing")
    if placed := recordings.placed():
        more = f" and {len(placed) - PLACED} more" if len(placed) > PLACED else ""
        shards.say(
            f"{recordings.path}: joints that it does not have are placed at others: {'; '.join(placed[:PLACED])}{more}"
        )
    found = diagnose(recordings.rows, recordings.reading, recordings.source or recordings.joints)
    errors = [finding for finding in found if finding.level == "error"]
    if errors:
        more = f" ({len(errors) - 1} more by sightword check dataset=pyskl)" if errors[1:] else ""
        raise SightwordError(f"{recordings.path}: {advised(errors[0], prefix)}{more}")
    for finding in found:
        if finding.level == "warning":
            shards.say(f"{recordings.path}: {advised(finding, prefix)}")


def advised(finding: Finding, prefix: str = "") -> str:
    """Return the text of a finding with what to type."""
    fix = " ".join(prefix + option for option in finding.fix.split())
    return f"{finding.message}. {fix} reads it" if fix else finding.message


def diagnose(rows: Sequence[Annotation], reading: Reading, joints: JointSet | None) -> list[Finding]:
    """Return what is wrong with recordings in a reading, errors and warnings, the gravest causes first.

    joints: of the file, whose names and limbs are used; None: the first named set of as many joints that fits. What an
    option of the reading states outright is never an error.
    """
    found = list(_in_all(rows))
    samples = [sample for sample in map(_sampled, _spread(rows)) if sample is not None]
    if not samples:
        return found
    names = [sample.name for sample in samples]
    made = reading
    for look in (_depth, _units, _scores, _missing):
        for one in look(samples, made, names):
            found.append(_softened(one, reading))
            if one.finding.level == "error" and not one.change:
                return found  # nothing else can be told of such numbers
            made = dataclasses.replace(
                made, **dict[str, Any](one.change)
            )  # the rest is judged as if it had been read so
    bodies = [_body(sample, made) for sample in samples]
    found += [_softened(one, reading) for one in _outside(samples, bodies, names)]
    count = rows[0].points.shape[2]
    joints = joints if joints is not None and len(joints.joints) == count else None  # another number is told elsewhere
    fit = fitting(bodies, joints, count)
    for one in _order(fit, bodies, joints, made):
        found.append(_softened(one, reading))
        if not one.change:
            return found  # parts of the body cannot be told apart
    if fit.best is None:
        return found
    found += [_softened(one, reading) for one in _never_moving(bodies, fit.best)]
    for one in _direction(bodies, fit.best, made):
        found.append(_softened(one, reading))
        made = dataclasses.replace(made, **dict[str, Any](one.change))
    bodies = [_body(sample, made) for sample in samples]
    return found + [_softened(one, reading) for one in _sides(bodies, fit.best, made)]


def _softened(one: Symptom, reading: Reading) -> Finding:
    """The finding; a warning at most if the reading states outright what it doubts."""
    stated = any(getattr(reading, key) not in ("", None, 0.0, False) for key in one.change)
    return dataclasses.replace(one.finding, level="warning") if stated else one.finding


# ----------------------------------------------------------------------------------------------------- all recordings


def _in_all(rows: Sequence[Annotation]) -> Iterator[Finding]:
    """What single recordings can have wrong."""
    broken: list[str] = []
    empty: list[str] = []
    high: list[str] = []
    highest = 0.0
    for row in rows:
        reach = _reach(row.points)
        most = reach if row.scores is None else _reach(row.scores)
        if not np.isfinite(reach) or not np.isfinite(most):
            broken.append(row.name)
            finite = row.points if row.scores is None else row.scores
            most = float(np.abs(finite).max(initial=0, where=np.isfinite(finite)))
        if most < (THERE if row.scores is not None else np.finfo(np.float32).tiny):
            empty.append(row.name)
        if row.scores is not None and most > 2:
            high.append(row.name)
            highest = max(highest, most)
    if broken:
        yield _counted(SINGLE[0], "have key points that are NaN: read as missing", broken, rows)
    if empty:
        text = "have not one joint that is there: all scores, or all coordinates, are 0"
        yield _counted(SINGLE[1], text, empty, rows, fatal=True)
    if high and len(high) <= len(rows) / 2:  # of more, the scale of the scores is the finding
        yield _counted(SINGLE[2], f"have scores up to {highest:.4g}, expected 0 to 1", high, rows)


def _reach(numbers: np.ndarray) -> float:
    """The largest absolute value; infinite or NaN if one is."""
    if numbers.dtype == np.float16:  # bits of halves are in the order of their values, and much faster
        return float((numbers.view(np.uint16) & 0x7FFF).max().view(np.float16))
    return float(max(numbers.max(), -numbers.min()))


def _counted(kind: str, text: str, names: Sequence[str], rows: Sequence[Annotation], fatal: bool = False) -> Finding:
    """A finding about some of the recordings; an error if it is fatal and they are more than half."""
    level: Level = "error" if fatal and len(names) > len(rows) / 2 else "warning"
    message = f"{len(names)} of {len(rows)} recordings {text}; the first is {names[0]}"
    return Finding(level, kind, message, tuple(names), len(names))


# ------------------------------------------------------------------------------------------------------------- sample


def _spread(rows: Sequence[Annotation]) -> list[Annotation]:
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), RECORDINGS)).astype(int))
    return [rows[number] for number in numbers.tolist()]


def _sampled(row: Annotation) -> Annotation | None:
    """A few pairs of neighbouring frames of the person with most joints, (1, F, V, C); None if nobody is there."""
    total = row.points.shape[1]
    first = np.unique(np.linspace(0, max(total - 2, 0), SPOTS).astype(int))
    frames = np.minimum(np.stack([first, first + 1], 1).ravel(), total - 1)
    points = row.points[:, frames]
    scores = None if row.scores is None else row.scores[:, frames]
    there: np.ndarray = np.asarray(points.any(-1) if scores is None else scores >= THERE)  # (M, F, V)
    best = int(there.sum((1, 2)).argmax())
    if not there[best].any():
        return None
    one = slice(best, best + 1)
    return row._replace(points=points[one], scores=None if scores is None else scores[one], key=None)


class Body(NamedTuple):
    """The sampled frames of a person."""

    seen: np.ndarray  # (F, V, 2), pixels of the image or of the front view, y downwards
    solid: np.ndarray  # (F, V, D) the same in 2-D; x, y, z as in the file in 3-D
    there: np.ndarray  # (F, V)
    scores: np.ndarray  # (F, V)
    shape: tuple[int, int]
    deep: bool


def _body(sample: Annotation, reading: Reading) -> Body:
    made, deep = to_sequence(sample, reading), is_deep(sample, reading)
    with np.errstate(over="ignore", invalid="ignore"):
        solid = sample.points[0].astype(np.float64) if deep else made.points[0]
    return Body(made.points[0], solid, made.scores[0] > 0, made.scores[0], made.shape, deep)


def _pooled(samples: Sequence[Annotation], reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, C) of all joints that are there, as in the file, and their scores (n,)."""
    points, scores = [], []
    for sample in samples:
        there = to_sequence(sample, reading).scores[0] > 0
        coordinates = sample.points[0][there].astype(np.float64)
        points.append(coordinates[:, : min(one.points.shape[3] for one in samples)])
        if sample.scores is not None:
            scores.append(sample.scores[0][there].astype(np.float64))
        elif coordinates.shape[1] == 3:
            scores.append(coordinates[:, 2])
    return np.concatenate(points), np.concatenate(scores) if scores else np.zeros(0)


# ------------------------------------------------------------------------------------------- what the numbers stand for


def _depth(samples: Sequence[Annotation], reading: Reading, names: Sequence[str]) -> Iterator[Symptom]:
    """A third number that is taken for a score and is a depth, or the reverse."""
    three = [one for one in samples if one.points.shape[3] == 3 and one.scores is None]
    flat = [one for one in three if not is_deep(one, reading)]
    if flat:
        points = np.concatenate([one.points[np.isfinite(one.points).all(-1)] for one in flat]).astype(np.float64)
        low, high, reach = points[:, 2].min(), points[:, 2].max(), np.abs(points[:, :2]).max()
        if low < -THERE or high > 101 or (high > 1.5 and reach <= 20):
            text = f"the third number of a key point is from {low:.3g} to {high:.3g}: a depth, not a score"
            yield symptom("error", "3-D read as 2-D", text, [one.name for one in flat], coordinates="3d")
        return
    if three:
        points, _ = _pooled(three, reading)
        if points[:, 2].min() >= 0 and points[:, 2].max() <= 1.05 and np.ptp(points[:, :2], axis=0).max() > 30:
            text = (
                f"the third number of a key point is from {points[:, 2].min():.2g} to {points[:, 2].max():.2g} and x "
                f"and y reach {np.abs(points[:, :2]).max():.4g}: a score behind pixels, read as 3-D since img_shape is "
                "missing. Add img_shape, (height, width) of the images"
            )
            yield symptom("error", "2-D read as 3-D", text, [one.name for one in three])


def _units(samples: Sequence[Annotation], reading: Reading, names: Sequence[str]) -> Iterator[Symptom]:
    """Coordinates of another unit than pixels, or pixels read as normalised."""
    flat = [one for one in samples if not is_deep(one, reading) and one.shape is not None]
    if not flat or reading.coordinates == "3d":
        return
    points = _pooled(flat, reading)[0][:, :2]
    points = points[~((points == -1) | (points == 0)).all(1)]
    if not len(points):
        return
    normalised = reading.coordinates in ("normalised", "centred")
    low, high = np.percentile(points, [0.5, 99.5])
    if normalised and high > 10:
        text = f"coordinates reach {high:.4g}: pixels, not {reading.coordinates}"
        yield symptom("error", "pixels read as normalised", text, names, coordinates="pixels")
    if not normalised and np.abs(points).max() <= 2 and min(min(one.shape or (0,)) for one in flat) > 100:
        unit, ends = ("normalised", "[0, 1]") if low >= -0.2 else ("centred", "[-1, 1]")
        text = f"coordinates are from {low:.2g} to {high:.2g} in images of {flat[0].shape}: within {ends}, not pixels"
        yield symptom("error", "normalised coordinates", text, names, coordinates=unit)


def _scores(samples: Sequence[Annotation], reading: Reading, names: Sequence[str]) -> Iterator[Symptom]:
    """Scores of another range than 0 to 1, in more than half of the recordings."""
    own = [one for one in samples if one.scores is not None or (one.points.shape[3] == 3 and not is_deep(one, reading))]
    each = [_pooled([one], reading)[1] for one in own]
    each = [scores for scores in each if len(scores)]
    if not each:
        return
    scores = np.concatenate(each)
    most, usual = float(scores.max()), float(np.median([np.percentile(one, 99) for one in each]))
    kind = "the range of the scores"
    if reading.score_range:
        if most / reading.score_range < 0.02:
            text = f"score_range={reading.score_range:g}, and scores reach {most:.3g} only"
            yield symptom("warning", kind, text, names, score_range=1.0)
        return
    if most == 2 and np.isin(scores, (0, 1, 2)).all():
        yield symptom("error", kind, "scores are 0, 1 and 2: COCO's visibility, not 0 to 1", names, score_range=2.0)
    elif usual > 10:
        yield symptom("error", kind, f"scores reach {most:.4g}: percent, not 0 to 1", names, score_range=100.0)
    elif usual > 1.5:
        text = f"scores reach {most:.4g}, expected 0 to 1 (score_range=1 cuts them off at 1)"
        yield symptom("error", kind, text, names, score_range=1.0)


def _missing(samples: Sequence[Annotation], reading: Reading, names: Sequence[str]) -> Iterator[Symptom]:
    """Missing joints that are written as a place: one place of several joints, or a joint that is at one place."""
    columns, places = [], []
    for sample in samples:
        there = to_sequence(sample, reading).scores[0] > 0
        size = 3 if is_deep(sample, reading) else 2
        columns.append(there.nonzero()[1])
        places.append(np.pad(sample.points[0][there][:, :size].astype(np.float64), [(0, 0), (0, 3 - size)]))
    column, place = np.concatenate(columns), np.concatenate(places)
    if not len(place):
        return
    joints = samples[0].points.shape[2]
    values, inverse, counts = np.unique(place, axis=0, return_inverse=True, return_counts=True)
    for number in np.argsort(-counts)[:2].tolist():
        x, y, _ = values[number]
        shared = len(np.unique(column[inverse.ravel() == number]))
        if counts[number] > 0.02 * len(place) and shared >= (3 if x == y else 0.6 * joints):
            text = f"{counts[number] / len(place):.0%} of the joints are at exactly ({x:g}, {y:g}): missing ones"
            if x == y:
                yield symptom("error", "missing joints", text, names, missing=float(x))
            else:
                yield symptom("error", "missing joints", f"{text}. Set their scores to 0", names)
            return


def _never_moving(bodies: Sequence[Body], joints: JointSet) -> Iterator[Symptom]:
    """Joints of images that are at one place in all recordings."""
    flat, stuck = [body for body in bodies if not body.deep], []
    for row, joint in enumerate(joints.joints if len(flat) >= 3 else ()):
        own = np.concatenate([body.seen[body.there[:, row], row] for body in flat])
        if len(own) >= 3 * SPOTS and (np.abs(own - np.median(own, axis=0)) < 1e-3).all(1).mean() > 0.9:
            stuck.append(f"{joint} at ({own[0, 0]:g}, {own[0, 1]:g})")
    if stuck:
        text = (
            f"{len(stuck)} of {len(joints.joints)} joints never move, {few(stuck, 3)}: missing? Set their scores to 0"
        )
        yield symptom("warning", "joints that never move", text)


def _outside(samples: Sequence[Annotation], bodies: Sequence[Body], names: Sequence[str]) -> Iterator[Symptom]:
    """Joints beyond the image: img_shape of another image, or with width and height exchanged."""
    flat = [body for body in bodies if not body.deep]
    if not flat:
        return

    def beyond(turned: bool) -> float:
        parts = []
        for body in flat:
            size = np.array(body.shape if turned else body.shape[::-1])
            part = body.seen[body.there] / size
            parts.append(((part < -0.1) | (part > 1.1)).any(-1))
        return float(np.concatenate(parts).mean())

    share, turned = beyond(turned=False), beyond(turned=True)
    if share > 0.2 or (share > 0.02 and turned < 0.25 * share):
        text = f"{share:.0%} of the joints lie outside of their images"
        if turned < 0.25 * share:
            text += ": is img_shape (width, height)? It is (height, width)"
        else:
            text += f" of {flat[0].shape[0]}×{flat[0].shape[1]} (height×width): img_shape is of other images"
        yield symptom("warning", "joints outside of the image", text, names)


# -------------------------------------------------------------------------------------------------------------- limbs


def fit_of(rows: Sequence[Annotation], reading: Reading, joints: JointSet | None) -> "Fit":
    """Return how well joint sets fit the bodies of recordings; see `fitting`."""
    samples = [sample for sample in map(_sampled, _spread(rows)) if sample is not None]
    count = rows[0].points.shape[2]
    own = joints if joints is not None and len(joints.joints) == count else None
    return fitting([_body(sample, reading) for sample in samples], own, count)


class Fit(NamedTuple):
    """How well joint sets fit bodies."""

    asymmetry: Mapping[str, float]  # of each set of as many joints
    best: JointSet | None  # the given one, unless another fits and it does not; None: none is known
    count: int  # type: ignore[assignment]  # recordings measured


def fitting(bodies: Sequence[Body], joints: JointSet | None, count: int) -> Fit:
    """Return the asymmetry of bodies of `count` joints in the given set, which has as many, and in each such named."""
    sets = {made.name: made for made in JOINT_SETS.values() if len(made.joints) == count}
    if joints is not None:
        sets = {joints.name: joints} | {name: made for name, made in sets.items() if made.joints != joints.joints}
    measured = {name: [asymmetry(body, made) for body in bodies] for name, made in sets.items()}
    known = {name: [one for one in ones if one == one] for name, ones in measured.items()}
    found = {name: float(np.median(ones)) for name, ones in known.items() if ones}
    most = max((len(ones) for ones in known.values()), default=0)
    if not found:
        return Fit({}, joints, 0)
    nearest, declared = min(found, key=lambda name: found[name]), joints or next(iter(sets.values()))
    own = found.get(declared.name, 0.0)
    foreign = own > FOREIGN and found[nearest] <= SYMMETRIC and own > 2.5 * found[nearest]
    return Fit(found, sets[nearest] if foreign else declared, most)


def asymmetry(body: Body, joints: JointSet) -> float:
    """Return the median of |ln(left / right)| over pairs of limbs; NaN if none can be measured."""
    order, rows = joints.flipped(), {limb: row for row, limb in enumerate(joints.limbs)}
    opposite = [rows.get((order[a], order[b]), rows.get((order[b], order[a]), row)) for (a, b), row in rows.items()]
    pairs = [(row, other) for row, other in enumerate(opposite) if row < other]
    if not pairs:
        return np.nan
    left, right = lengths(body, joints)[np.array(pairs)].T
    known = (left > 0) & (right > 0)
    return float(np.median(np.abs(np.log(left[known] / right[known])))) if known.any() else np.nan


def lengths(body: Body, joints: JointSet) -> np.ndarray:
    """Return the median length of each limb, 0 for one that is in no frame."""
    a, b = np.array(joints.limbs).T
    found = np.linalg.norm(body.solid[:, a] - body.solid[:, b], axis=-1)  # (F, limbs)
    both = body.there[:, a] & body.there[:, b]
    found, count = np.sort(np.where(both, found, np.inf), axis=0), both.sum(0)
    middle = np.take_along_axis(found, np.maximum(count - 1, 0)[None] // 2, 0)[0]
    return np.where(count > 0, middle, 0)


def jump(body: Body, joints: JointSet) -> float:
    """Return the median way of a joint from a frame to the next, in limbs; NaN if it cannot be measured."""
    if not joints.limbs:
        return np.nan
    known = lengths(body, joints)
    both = body.there[0::2] & body.there[1::2]
    if not (known > 0).any() or not both.any():
        return np.nan
    way = np.linalg.norm(body.solid[1::2] - body.solid[0::2], axis=-1)[both]
    return float(np.median(way) / np.median(known[known > 0]))


def _order(fit: Fit, bodies: Sequence[Body], joints: JointSet | None, reading: Reading) -> Iterator[Symptom]:
    """Joints in another order than the declared one, or frames in their place."""
    if fit.best is None:
        return
    ways = [way for body in bodies if (way := jump(body, fit.best)) == way]
    if ways and (way := float(np.median(ways))) > 2:
        axes = (reading.axes or "MTVC").translate(str.maketrans("TV", "VT"))
        text = f"joints jump by {way:.2g} limbs a frame: frames and joints are exchanged"
        yield symptom("error", "frames and joints exchanged", text, axes=axes)
        return
    declared, kind = joints or fit.best, "the order of the joints"
    own = fit.asymmetry.get(declared.name, 0.0)
    text = f"left and right limbs differ by {_percent(own)} in the order of {declared.name}"
    if joints is not None and fit.best is not joints:
        name = fit.best.name
        text += f" and by {_percent(fit.asymmetry[name])} in that of {name}: these are the joints of {name}"
        yield symptom("error", kind, text, joints=name)
    elif own > FOREIGN and fit.count >= LEAST:
        others = [name for name in fit.asymmetry if name != declared.name]
        text += f": the joints are not in its order{f' or of {few(others)}' if others else ''}. Give their order as a "
        text += "JSON file, joints=, or state that it is right by joints= with its name"
        yield symptom("warning" if reading.joints or own < 0.4 else "error", kind, text)


def _percent(asymmetry: float) -> str:
    return f"{np.expm1(asymmetry):.0%}"


# --------------------------------------------------------------------------------------------------------- directions


def _middle(body: Body, joints: JointSet, names: Sequence[str], solid: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The mean of some joints, (F, D), and in which frames (F,) all of them are there; nowhere if the set has none."""
    rows = [joints.joints.index(name) for name in names if name in joints.joints]
    points = body.solid if solid else body.seen
    if not rows:
        return np.zeros((len(points), points.shape[2])), np.zeros(len(points), bool)
    return points[:, rows].mean(1), np.asarray(body.there[:, rows].all(1))


def _head(joints: JointSet) -> tuple[str, ...]:
    return next(((name,) for name in HEADS if name in joints.joints), ())


def upright(bodies: Sequence[Body], joints: JointSet, axis: int = 1) -> float:
    """Return in how many frames heads are above hips above ankles, less those of the reverse; NaN without such joints.

    axis: 1 along columns of the image, downwards; 0 along its rows, to the right. Without ankles hips suffice.
    """
    found = []
    for body in bodies:
        (head, a), (hips, b), (ankles, c) = (_middle(body, joints, part) for part in (_head(joints), HIPS, ANKLES))
        parts, there = ((head, hips, ankles), a & b & c) if (a & b & c).any() else ((head, hips), a & b)
        if there.any():
            steps = np.stack([low[there, axis] - high[there, axis] for high, low in pairwise(parts)])
            found.append((steps > 0).all(0).mean() - (steps < 0).all(0).mean())
    return float(np.mean(found)) if found else np.nan


def _direction(bodies: Sequence[Body], joints: JointSet, reading: Reading) -> Iterator[Symptom]:
    """Heads that are not above feet."""
    deep = [body for body in bodies if body.deep]
    yield from _axis(deep, joints, reading) if deep else _turned(bodies, joints, reading)


def _axis(bodies: Sequence[Body], joints: JointSet, reading: Reading) -> Iterator[Symptom]:
    """In 3-D the axis along which bodies are longest points up."""
    found = []
    for body in bodies:
        (head, a), (ankles, b) = (_middle(body, joints, part, solid=True) for part in (_head(joints), ANKLES))
        if (a & b).any():
            found.append(np.median((head - ankles)[a & b], axis=0))
    if not found:
        return
    way = np.median(found, axis=0)
    longest, *others = np.argsort(-np.abs(way)).tolist()
    up, own = ("" if way[longest] > 0 else "-") + "xyz"[longest], reading.up or "y"
    if up == own:
        return
    kind, alone = "the axis that points up", np.abs(way[longest]) >= 3 * np.abs(way[others]).max()
    if alone and up[-1] == own[-1]:
        yield symptom("error", kind, f"heads are below feet with up={own}: {up} points up", up=up)
    elif alone:
        alike = np.mean([np.argmax(np.abs(one)) == longest and one[longest] * way[longest] > 0 for one in found])
        text = f"bodies stand along {up} with up={own}: {up} points up, or people lie"
        yield symptom("error" if len(found) >= LEAST and alike > 0.9 else "warning", kind, text, up=up)
    else:
        text = f"bodies do not stand along {own[-1]}: they lie or bend, or another axis points up (up=)"
        yield symptom("warning", kind, text)


def _turned(bodies: Sequence[Body], joints: JointSet, reading: Reading) -> Iterator[Symptom]:
    """In images heads are above hips and these above ankles."""
    value, kind = upright(bodies, joints), "the axis that points up"
    flipped = {"": "y", "-y": "y", "y": "-y", "x": "-x", "-x": "x"}[reading.up]
    aside = upright(bodies, joints, axis=0)
    if value < -0.5 and abs(aside) < abs(value):
        yield symptom("error", kind, "heads are below feet: y points up", up=flipped)
    elif abs(aside) > max(0.5, abs(value) + 0.3):
        text = "heads are beside feet: people lie, or x and y are exchanged"
        exchanged = "-x" if reading.up[-1:] in ("", "y") else "-y"
        yield symptom("warning", kind, text, up=exchanged if aside > 0 else exchanged.removeprefix("-"))
    elif value < 0.3:
        text = "heads are not above feet: people lie, bend or stand on their hands, or x and y are exchanged (up=-x)"
        yield symptom("warning", kind, text)


def left_share(bodies: Sequence[Body], joints: JointSet) -> float:
    """Return in how many frames the left shoulder is at the larger column; NaN if no body tells.

    In 2-D only frames with a visible face count, since from behind the left is on the left.
    """
    if not {*SHOULDERS} <= set(joints.joints):
        return np.nan
    left, right, *face = (joints.joints.index(name) for name in (*SHOULDERS, *FACE) if name in joints.joints)
    found = []
    for body in bodies:
        known = body.there[:, left] & body.there[:, right]
        if not body.deep:
            known &= len(face) == len(FACE) and (body.scores[:, face] > 0.5).all(1)
        found.append(body.seen[known, left, 0] > body.seen[known, right, 0])
    every = np.concatenate(found)
    return float(every.mean()) if every.size else np.nan


def _sides(bodies: Sequence[Body], joints: JointSet, reading: Reading) -> Iterator[Symptom]:
    """Left and right exchanged. A person or two can turn away, so three recordings are the least."""
    share = left_share(bodies, joints)
    if share < 0.2 and len(bodies) >= 3:
        who = "people are seen from behind, or x" if bodies[0].deep else "faces are visible: x"
        text = f"left shoulders are on the left in {1 - share:.0%} of the frames, and {who} or the names are mirrored"
        yield symptom("warning", "left and right", text, mirrored=not reading.mirrored)
