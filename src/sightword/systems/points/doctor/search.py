"""The search for the hypothesis under which the frames of a scene agree best.

First the given one beside single changes of it; where one of these is better, or the given one does not fit: all
directions of poses and axes, all intrinsics and scales of the likely directions, poses of other frames; and from the
best of these, coordinate by coordinate, to the maximum.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from sightword.systems.points.doctor.agreement import Agreement, Hypothesis, Judge
from sightword.systems.points.scannet.convention import OPENCV, OPENGL, every_axes

READINGS = [(p, q) for q in ("", "xyzw", "wxyz") for p in ("c2w", "w2c", "transposed") if not q or p != "transposed"]
LIKELY = [("c2w", OPENCV), ("w2c", OPENCV), ("c2w", OPENGL), ("w2c", OPENGL)]
RATIOS = (
    0.001,
    0.01,
    0.1,
    0.2,
    0.3,
    0.5,
    0.65,
    0.8,
    0.9,
    1.0,
    1.1,
    1.25,
    1.5,
    2.0,
    3.3,
    5.0,
    6.5535,
    10.0,
    100.0,
    1000.0,
)
SIZES = (0.4938, 0.5, 0.7, 0.8, 1.25, 1.4, 1.6, 2.0, 2.025)
FOCALS = (0.7, 0.8, 0.9, 1.1, 1.25, 1.4)
WHOLE = (
    1.0,
    1.1,
    1.2,
    1.25,
    1.3,
    1.4,
    1.5,
    1.6,
    2.0,
    2.5,
    3.0,
    10 / 3,
    4.0,
    5.0,
    6.0,
    6.5535,
    7.0,
    8.0,
    10.0,
    25.4,
    100.0,
    1000.0,
)
PLAIN = (
    *WHOLE,
    *(1 / value for value in WHOLE),
    0.3,
    0.3048,
    0.6,
    0.7,
    0.9,
    1 / 0.9,
    1 / 0.7,
)  # values that people make
SHIFTS = (-4, -3, -2, -1, 1, 2, 3, 4)
STEPS = (0.2, 0.08, 0.03, 0.012)  # relative, in which values are refined
ROUGH, KEPT = 100, 60  # points of a pair for the first look at all hypotheses, and how many are looked at again
CLOSE = 0.015  # relative, within which a plain number is taken for the one that was found
EQUAL = 0.9  # of the best score: what the sample cannot tell from it
FITS, DOUBTFUL = 0.03, 0.05  # of `front`: below, frames fit; above, they do not


class Found(NamedTuple):
    """The result of a search."""

    given: Agreement
    best: Hypothesis
    agreement: Agreement  # of the best
    rival: float  # the highest score of a grossly different hypothesis, over the best's: 1 where nothing can be told
    tried: int
    fine: Judge  # on the larger sample, by which the best were compared


def search(judge: Judge, fine: Judge) -> Found:
    """Return the hypothesis that fits best, the simplest of equals. fine: a larger sample, to compare the best."""
    base = judge.sample.base
    given = judge(base)
    near = {h: judge(h) for h in single_changes(base)}
    best = max(near, key=lambda h: near[h].score)
    if given.front <= FITS and near[best].score <= 1.03 * given.score:
        rivals = [a.score for h, a in near.items() if _gross(h, base)]
        return Found(fine(base), base, fine(base), max(rivals) / given.score, len(near) + 1, fine)
    rough = Judge(judge.sample.part(ROUGH))
    scores = {h: rough(h).score for h in every_hypothesis(base)}
    first = sorted(scores, key=lambda h: -scores[h])[:KEPT]
    scores = {h: judge(h).score for h in (base, *near, *first)}
    refined = [refine(judge, h, STEPS) for h in _distinct(scores, 6)]
    refined.append(refine(fine, max(refined, key=lambda h: judge(h).score), STEPS[-2:]))
    chosen = _simplest(fine, {h: fine(h).score for h in (base, *refined)})
    rivals = [score for h, score in scores.items() if _gross(h, chosen)]
    top = judge(chosen).score
    tried = len(near) + 1 + sum(1 for _ in every_hypothesis(base))
    return Found(fine(base), chosen, fine(chosen), max(rivals, default=0.0) / top if top else 1.0, tried, fine)


def single_changes(base: Hypothesis) -> list[Hypothesis]:
    """Return hypotheses that differ from one in a single thing."""
    found = [base._replace(poses=poses) for poses in ("c2w", "w2c", "transposed")]
    found += [base._replace(axes=axes) for axes in (OPENCV, OPENGL, "unity", "y,-x,z", "-x,-y,z")]
    found += [base._replace(ratio=ratio) for ratio in RATIOS]
    found += [base._replace(focal=focal) for focal in (*FOCALS, 0.95, 1.05)]
    found += [base._replace(size=size) for size in SIZES]
    found += [base._replace(shift=base.shift + shift) for shift in SHIFTS]
    found += [base._replace(ray=not base.ray), base._replace(principal="swapped"), base._replace(principal="middle")]
    return [h for h in dict.fromkeys(found) if h != base]


def every_hypothesis(base: Hypothesis) -> Iterator[Hypothesis]:
    """Yield some 3,000 hypotheses: readings × axes × three scales, and likely poses × intrinsics × scales."""
    for (poses, quaternion), axes, ratio in product(READINGS, every_axes(), (0.2, 1.0, 5.0)):
        yield base._replace(poses=poses, quaternion=quaternion, axes=axes, ratio=ratio)
    for poses, axes in LIKELY:
        likely = base._replace(poses=poses, axes=axes, quaternion=base.quaternion if poses == base.poses else "")
        for camera, ratio in product(list(_cameras(likely)), RATIOS):
            yield camera._replace(ratio=ratio)
        for shift, ratio in product(SHIFTS, (0.2, 1.0, 5.0)):
            yield likely._replace(shift=base.shift + shift, ratio=ratio)


def _cameras(h: Hypothesis) -> Iterator[Hypothesis]:
    yield h
    yield h._replace(ray=not h.ray)
    yield h._replace(principal="swapped")
    yield h._replace(principal="middle")
    yield from (h._replace(size=size) for size in SIZES)
    yield from (h._replace(focal=focal) for focal in FOCALS)


def _distinct(scores: dict[Hypothesis, float], count: int) -> list[Hypothesis]:
    """The best hypotheses, at most two of one pose and axes."""
    kept: list[Hypothesis] = []
    for h in sorted(scores, key=lambda h: -scores[h]):
        if sum(h[:4] == other[:4] for other in kept) < 3:
            kept.append(h)
        if len(kept) == count:
            break
    return kept


def refine(judge: Judge, start: Hypothesis, steps: Sequence[float]) -> Hypothesis:
    """Return the hypothesis at the maximum near one: scale, focal length, size, ray and principal point in turn."""
    best = start
    for step in steps:
        for _ in range(3):
            before = best
            best = _better(judge, best, [best._replace(ratio=best.ratio * f) for f in _factors(step)])
            best = _better(judge, best, [best._replace(focal=best.focal * f) for f in _factors(step)])
            best = _better(judge, best, [best._replace(size=best.size * f) for f in _factors(step)])
            best = _better(judge, best, [best._replace(ray=not best.ray), best._replace(principal="given")])
            if best == before:
                break
    return best


def _factors(step: float) -> Sequence[float]:
    return (1 / (1 + step), 1 / (1 + step / 2), 1 + step / 2, 1 + step)


def _better(judge: Judge, best: Hypothesis, others: Iterable[Hypothesis]) -> Hypothesis:
    return max((best, *others), key=lambda h: judge(h).score)


def _simplest(judge: Judge, scores: dict[Hypothesis, float]) -> Hypothesis:
    """The hypothesis with the fewest changes among those that are as good as the best, after its values that change
    nothing are put back."""
    base = judge.sample.base
    top = max(scores, key=lambda h: scores[h])
    equals = [h for h, score in scores.items() if score >= EQUAL * scores[top]]
    equals += [cleaned for h in sorted(equals, key=lambda h: -scores[h])[:3] for cleaned in _cleaned(judge, h, base)]
    fitting = [h for h in equals if judge(h).score >= EQUAL * scores[top]]
    return min(fitting, key=lambda h: (count_differences(h, base), _uneven(h), -judge(h).score))


def _uneven(h: Hypothesis) -> int:
    """How many values are not those that people make."""
    return sum(value not in PLAIN for value in (h.ratio, h.focal, h.size)) + (h.principal == "middle")


def _cleaned(judge: Judge, h: Hypothesis, base: Hypothesis) -> Iterator[Hypothesis]:
    """A hypothesis with one value after the other put back to the given one, as long as it fits nearly as well."""
    least = EQUAL * judge(h).score
    for order in permutations(("size", "focal", "ratio")):
        found = h
        for name in (*order, "ray", "principal"):
            simpler = changed(found, name, getattr(base, name))
            plain = sorted(_rounded(found, name), key=lambda other: -judge(other).score)
            for candidate in (simpler, _only(judge, simpler, name), *plain):
                if judge(candidate).score >= least:
                    found = candidate
                    break
        yield found


def _rounded(h: Hypothesis, name: str) -> list[Hypothesis]:
    """A hypothesis with a plain number in the place of one within 3 % of it."""
    value = getattr(h, name)
    if not isinstance(value, float):
        return [h._replace(principal="swapped")] if value == "middle" else []
    near = [plain for plain in PLAIN if abs(plain / value - 1) < CLOSE and plain != 1.0]
    return [changed(h, name, plain) for plain in near]


def _only(judge: Judge, h: Hypothesis, fixed: str) -> Hypothesis:
    """The maximum near a hypothesis in all continuous values but one."""
    best = h
    for step in STEPS[1:]:
        for name in ("ratio", "focal", "size"):
            if name != fixed and getattr(h, name) != 1.0:
                values = [getattr(best, name) * f for f in _factors(step)]
                best = _better(judge, best, [changed(best, name, value) for value in values])
    return best


def changed(h: Hypothesis, name: str, value: object) -> Hypothesis:
    """Return a hypothesis with another value of one name."""
    return Hypothesis(**(h._asdict() | {name: value}))


def count_differences(h: Hypothesis, base: Hypothesis) -> int:
    """Return in how many values two hypotheses differ."""
    return sum(value != usual for value, usual in zip(h, base, strict=True))


def _gross(h: Hypothesis, other: Hypothesis) -> bool:
    """Whether two hypotheses cannot both be nearly right: other directions of poses, or twice the scale."""
    if h[:3] != other[:3]:
        return True
    return bool(
        abs(np.log(h.ratio / other.ratio)) > 0.6 or abs(np.log(h.focal * other.size / (other.focal * h.size))) > 0.5
    )
