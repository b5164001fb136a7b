"""Synthetic skeleton sequences in pyskl's annotation format: twelve actions, and four unseen ones for zero-shot tests.

A body with its subject's proportions moves through key poses and is projected by a camera; noise of a pose estimator is
added. The result are COCO-17 joints with scores, jitter, misses and hidden limbs. Each sequence begins and ends idle;
`key_moments` (T,) bool in each annotation marks the frames of the action, which no published dataset has. Two pairs of
actions are each other's reverse in time, so a model that ignores order cannot separate them; others share poses. The
acting hand or leg is random, so mirroring is a safe augmentation. The unseen actions are made of the same words.

Splits are by subject (xsub_train, xsub_val, xsub_test), by camera (xview_train, xview_val), and `unseen`: actions that
no other split has, whose labels count in unseen.json, not in labels.json.

Legend: M persons, T frames, V joints. A body stands in its own frame: x to its left, y up, z forward; metres.
"""

import json
import math
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from sightword.storage.atomic import write_atomically
from sightword.storage.domain import write_card

Rng = np.random.Generator
Pair = tuple[float, float]

SHAPE = (540, 960)  # H, W of the videos
HIDDEN = ((7, 9), (8, 10), (13, 15), (14, 16), (5, 7), (6, 8))  # joints that are occluded together
COMPANY = 0.08  # probability of a second, idle person
VIEWS = ((-70, -24), (-24, 24), (24, 70))  # degrees by which the three cameras see a body turned


class Sizes(NamedTuple):
    """Number of subjects per split, and of sequences per subject and action."""

    train: int = 7
    val: int = 3
    test: int = 3
    clips: int = 6


SIZES = Sizes()

# ------------------------------------------------------------------------------------------------------------- poses


class Pose(NamedTuple):
    """Joint angles in degrees. The first of a pair is the acting side, left or right at random."""

    bow: float = 0  # of the trunk, forward
    turn: float = 0  # of the shoulders, the acting one forward
    lift: float = 0  # of the lower foot, in percent of the body's height
    upper: Pair = (8, 8)  # upper arm: 0 hangs, 90 is level, 180 is up
    plane: Pair = (20, 20)  # in which it rises: 0 to its own side, 90 forward, 180 to the other side
    lower: Pair = (14, 14)  # forearm
    across: Pair = (60, 60)  # the forearm's plane
    thigh: Pair = (0, 0)  # forward
    apart: Pair = (4, 4)  # thigh, to its side
    knee: Pair = (4, 4)


STAND = Pose()
UP = Pose(upper=(168, 168), plane=(15, 15), lower=(174, 174), across=(15, 15))
SEATED = Pose(8, upper=(22, 22), plane=(75, 75), lower=(70, 70), across=(95, 95), thigh=(86, 86), knee=(86, 86))
RISING = Pose(42, upper=(15, 15), plane=(90, 90), lower=(55, 55), across=(90, 90), thigh=(62, 62), knee=(78, 78))
GUARD = Pose(6, upper=(28, 28), plane=(75, 75), lower=(142, 142), across=(105, 105), apart=(9, 9), knee=(12, 12))
OPEN = Pose(upper=(42, 42), plane=(68, 68), lower=(84, 84), across=(52, 52))
CLOSED = Pose(upper=(36, 36), plane=(84, 84), lower=(84, 84), across=(142, 142))
CROUCH = Pose(30, upper=(20, 20), plane=(90, 90), lower=(25, 25), across=(90, 90), thigh=(58, 58), knee=(88, 88))
LEAP = Pose(2, lift=20, upper=(70, 70), plane=(25, 25), lower=(80, 80), across=(25, 25), thigh=(6, 6), knee=(18, 18))


def _one(pose: Pose, rest: Pose = STAND) -> Pose:
    """Return a pose whose acting side is as in `pose`, the other as in `rest`."""
    return Pose._make(
        (acting[0], other[1]) if isinstance(acting, tuple) and isinstance(other, tuple) else acting
        for acting, other in zip(pose, rest, strict=True)
    )


def _swapped(pose: Pose) -> Pose:
    """Return a pose with left and right exchanged."""
    return Pose._make(each[::-1] if isinstance(each, tuple) else each for each in pose)


WAVE_OUT = Pose(upper=(98, 98), plane=(8, 8), lower=(138, 138), across=(4, 4))
WAVE_IN = WAVE_OUT._replace(upper=(108, 108), lower=(208, 208))  # past upright, so inward
PUNCH = GUARD._replace(bow=10, upper=(88, 88), plane=(88, 88), lower=(92, 92), across=(94, 94))
CHAMBER = GUARD._replace(thigh=(62, 6), knee=(88, 14), apart=(4, 4))
KICK = GUARD._replace(bow=-14, turn=-14, thigh=(92, 0), knee=(6, 14), apart=(2, 4))
STEP = Pose(upper=(14, 34), plane=(90, 90), lower=(50, 74), across=(95, 95), thigh=(80, 0), knee=(86, 4))


class Action(NamedTuple):
    """An action as key poses: start, `poses` once or repeated, end; and its prompts."""

    start: Pose
    poses: tuple[Pose, ...]
    end: Pose
    repeats: int  # at most
    prompts: tuple[str, ...]

    def reversed(self, *prompts: str) -> "Action":
        """Return the action with its poses in reverse order."""
        return Action(self.end, self.poses[::-1], self.start, self.repeats, prompts)


def _to(end: Pose, *poses: Pose, prompts: tuple[str, ...]) -> Action:
    """Return an action from standing to `end`."""
    return Action(STAND, poses, end, 1, prompts)


def _again(*poses: Pose, prompts: tuple[str, ...], repeats: int = 3) -> Action:
    """Return an action that begins and ends standing, up to `repeats` times."""
    return Action(STAND, poses, STAND, repeats, prompts)


_RAISING = _to(UP, prompts=("raising both arms", "a person raising both hands up", "both arms go up"))
_SITTING = _to(SEATED, RISING, prompts=("sitting down", "a person sitting down on a chair", "taking a seat"))
_SQUAT = Pose(34, upper=(34, 34), plane=(90, 90), lower=(44, 44), across=(90, 90), thigh=(102, 102), knee=(122, 122))
_BOW = Pose(72, thigh=(-8, -8), knee=(0, 0))

ACTIONS: dict[str, Action] = {  # a class's label is its place
    "raising both arms": _RAISING,
    "lowering both arms": _RAISING.reversed(
        "lowering both arms", "a person lowering both hands down", "both arms go down"
    ),
    "sitting down": _SITTING,
    "standing up": _SITTING.reversed("standing up", "a person standing up from a chair", "getting up"),
    "waving one hand": _again(
        *(_one(WAVE_OUT), _one(WAVE_IN)) * 2,
        prompts=("waving one hand", "a person waving with one arm", "one hand waves"),
    ),
    "clapping both hands": _again(
        *(OPEN, CLOSED) * 2,
        OPEN,
        prompts=("clapping both hands", "a person clapping with both hands", "both hands clap"),
    ),
    "bowing": _again(_BOW, STAND, prompts=("bowing", "a person bowing forward", "taking a bow"), repeats=2),
    "squatting": _again(_SQUAT, STAND, prompts=("squatting", "a person squatting down and up", "doing squats")),
    "jumping": _again(CROUCH, LEAP, CROUCH, prompts=("jumping", "a person jumping up", "taking a jump")),
    "kicking with one leg": _again(
        CHAMBER, KICK, CHAMBER, GUARD, prompts=("kicking with one leg", "a person kicking forward", "one leg kicks")
    ),
    "punching with one arm": _again(
        GUARD,
        _one(PUNCH._replace(turn=28), GUARD),
        GUARD,
        prompts=("punching with one arm", "a person punching with one hand", "one arm punches"),
    ),
    "marching": _again(
        STEP, _swapped(STEP), prompts=("marching", "a person marching in place", "raising one leg and the other")
    ),
}

_RAISING_ONE = _RAISING._replace(end=_one(UP), prompts=("raising one arm", "a person raising one hand up"))
UNSEEN: dict[str, Action] = {  # in the words of the others
    "raising one arm": _RAISING_ONE,
    "lowering one arm": _RAISING_ONE.reversed("lowering one arm", "a person lowering one hand down"),
    "waving both hands": _again(
        *(WAVE_OUT, WAVE_IN) * 2, prompts=("waving both hands", "a person waving with both arms")
    ),
    "punching with both arms": _again(
        *(GUARD, PUNCH, GUARD), prompts=("punching with both arms", "a person punching with both hands")
    ),
}


def vocabulary() -> list[str]:
    """Return every word of the prompts."""
    actions = [*ACTIONS.values(), *UNSEEN.values()]
    return sorted({word for action in actions for prompt in action.prompts for word in prompt.split()})


def angles_of(pose: Pose) -> np.ndarray:
    """Return a pose as one row of degrees, (17,) float64, for `Body.joints`."""
    return np.hstack([np.asarray(value, float) for value in pose])


# ------------------------------------------------------------------------------------------------------------ bodies


class Body(NamedTuple):
    """A subject: lengths as fractions of its height, and its style of motion."""

    height: float
    trunk: float
    shoulder: float  # half their width
    hip: float
    upper: float
    lower: float
    thigh: float
    shank: float
    head: float
    tempo: float  # duration of its actions relative to the average
    amplitude: float  # extent of its motions; 1 reaches the full pose

    def joints(self, angles: np.ndarray) -> np.ndarray:
        """Return COCO's joints (T, 17, 3) in metres from angles (T, 17) in degrees, see `angles_of`."""
        radians = np.radians(angles)
        bow, turn, lift = radians[:, 0], radians[:, 1], angles[:, 2] / 100
        upper, plane, lower, across, thigh, apart, knee = radians[:, 3:].reshape(-1, 7, 2).transpose(1, 0, 2)
        out = np.zeros((len(angles), 17, 3))
        side = np.array([1.0, -1.0])
        up = np.stack([0 * bow, np.cos(bow), np.sin(bow)], -1)  # of the trunk
        forward = np.stack([np.sin(-turn), -np.sin(bow) * np.cos(turn), np.cos(bow) * np.cos(turn)], -1)
        left = np.cross(up, forward)
        neck = self.trunk * up
        head = _along(up, [0.8, 0.94, 0.94, 0.88, 0.88]) + _along(forward, [0.45, 0.35, 0.35, 0, 0])
        head += _along(left, [0, 0.16, -0.16, 0.34, -0.34])
        out[:, :5] = neck[:, None] + self.head * head
        out[:, 5:7] = neck[:, None] + _along(left, self.shoulder * side)
        frame = (up, forward, left)
        out[:, 7:9] = out[:, 5:7] + self.upper * _arm(upper, plane, frame)
        out[:, 9:11] = out[:, 7:9] + self.lower * _arm(lower, across, frame)
        out[:, 11:13, 0] = self.hip * side
        out[:, 13:15] = out[:, 11:13] + self.thigh * _leg(thigh, apart)
        out[:, 15:17] = out[:, 13:15] + self.shank * _leg(thigh - knee, 0.5 * apart)
        feet = out[:, 15:17]
        out[..., 1] += (lift + 0.05 - feet[..., 1].min(1))[:, None]
        alike = np.exp(
            -np.square((thigh[:, 0] - thigh[:, 1]) / 0.3)
        )  # bending keeps the feet in place, kicking the hips
        out[..., 2] -= (alike * feet[..., 2].mean(1))[:, None]
        return out * self.height


def _along(axis: np.ndarray, factors: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return n multiples (T, n, 3) of an axis (T, 3)."""
    return np.asarray(factors)[:, None] * axis[:, None]


def _arm(raised: np.ndarray, plane: np.ndarray, frame: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the directions (T, 2, 3) of left and right arm from angles (T, 2)."""
    up, forward, left = (axis[:, None] for axis in frame)
    out = np.sin(raised) * np.cos(plane) * np.array([1, -1])
    ahead = np.sin(raised) * np.sin(plane)
    return -np.cos(raised)[..., None] * up + ahead[..., None] * forward + out[..., None] * left


def _leg(forward: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Return the directions (T, 2, 3) of left and right leg from angles (T, 2)."""
    down = np.cos(apart)
    return np.stack([np.sin(apart) * np.array([1, -1]), -np.cos(forward) * down, np.sin(forward) * down], -1)


def body_of(rng: Rng) -> Body:
    """Return a random subject."""
    usual = np.array([0.3, 0.115, 0.06, 0.17, 0.155, 0.245, 0.246, 0.13])
    lengths = usual * (1 + 0.06 * rng.standard_normal(8).clip(-2, 2))
    height, tempo, amplitude = rng.uniform([1.5, 0.8, 0.82], [1.95, 1.25, 1.08])
    return Body(*[float(each) for each in (height, *lengths, tempo, amplitude)])


# ------------------------------------------------------------------------------------------------------------- clips


class Clip(NamedTuple):
    """A skeleton sequence as estimated, and the frames of the action."""

    points: np.ndarray  # (M, T, 17, 2) float16, pixels; 0 for a joint that was not found
    scores: np.ndarray  # (M, T, 17) float16
    key: np.ndarray  # (T,) bool


def film(action: Action, body: Body, rng: Rng, camera: int = 1, hard: float = 1.0) -> Clip:
    """Return one sequence. hard: 0 gives exact joints without misses, 1 the noise of a pose estimator."""
    frames = int(rng.integers(30, 121) * body.tempo)
    angles, key = _performed(action, body, rng, frames)
    view = _View.drawn(rng, camera)
    people = [_found(view.seen(body.joints(angles), rng), rng, hard)]
    if rng.random() < COMPANY * hard:
        other = body_of(rng)
        idle = _sway(rng, np.tile(angles_of(STAND), (frames, 1)))
        aside = np.array([rng.choice([-1, 1]) * rng.uniform(0.9, 1.6), 0, rng.uniform(-1.5, 0.2)])
        people.insert(int(rng.integers(2)), _found(view.seen(other.joints(idle), rng, aside), rng, hard))
    points, scores = (np.stack(each).astype(np.float16) for each in zip(*people, strict=True))
    return Clip(points, scores, key)


def _performed(action: Action, body: Body, rng: Rng, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return angles (T, 17) in degrees, and which frames show the action, (T,) bool."""
    first, last = (frames - 1) * np.array([rng.uniform(0.1, 0.35), 1 - rng.uniform(0.1, 0.35)])
    fit = max(1, round((last - first) / (9 * max(1, len(action.poses)))))  # a pose takes nine frames or more
    poses = (action.start, *action.poses * int(rng.integers(1, min(fit, action.repeats) + 1)), action.end)
    rows = np.stack([angles_of(pose) for pose in poses])
    rows[1:-1] += 4 * rng.standard_normal(rows[1:-1].shape)  # each performance differs
    rows = angles_of(STAND) + body.amplitude * (rows - angles_of(STAND))
    if rng.random() < 0.5:
        rows[:, 3:] = rows[:, 3:].reshape(-1, 7, 2)[..., ::-1].reshape(-1, 14)
        rows[:, 1] *= -1
    steps = rng.uniform(0.75, 1.25, len(rows) - 1).cumsum()
    times, now = first + (last - first) * np.concatenate([[0], steps / steps[-1]]), np.arange(frames)
    return _sway(rng, eased(rows, times, now)), (now >= first) & (now <= last)


def eased(rows: np.ndarray, times: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return angles (T, 17) at `now` (T,), interpolated with smoothstep between K poses (K, 17) at `times` (K,)."""
    place = np.interp(now, times, np.arange(len(times)))
    before = np.minimum(place.astype(int), len(rows) - 2)
    share = place - before
    share = (share * share * (3 - 2 * share))[:, None]
    return rows[before] * (1 - share) + rows[before + 1] * share


def _sway(rng: Rng, angles: np.ndarray) -> np.ndarray:
    """Return angles with a random posture and slow swings of a few degrees added."""
    frames, count = angles.shape
    swing = np.sin(np.arange(frames)[:, None] * rng.uniform(0.05, 0.2, count) + rng.uniform(0, 2 * math.pi, count))
    change = 3 * rng.standard_normal(count) + swing * 2 * rng.standard_normal(count)
    change[:, 2] = 0
    return angles + change


class _View(NamedTuple):
    """A camera: yaw around the body and pitch in radians, depth and aside in metres, focal length in pixels."""

    yaw: float
    pitch: float
    depth: float
    focal: float
    aside: float

    @classmethod
    def drawn(cls, rng: Rng, camera: int) -> "_View":
        """Return a random view of one of the three cameras."""
        yaw, pitch = np.radians([rng.uniform(*VIEWS[camera]), rng.uniform(-3, 18)])
        return cls(yaw, pitch, rng.uniform(3, 6), rng.uniform(450, 700), rng.uniform(-0.5, 0.5))

    def seen(self, joints: np.ndarray, rng: Rng, aside: np.ndarray | None = None) -> np.ndarray:
        """Return joints (T, V, 3), in metres, as pixels (T, V, 2), with a slow drift of the body."""
        turned = joints @ _about(1, self.yaw)
        if aside is not None:
            turned = turned + aside
        drift = np.linspace(-0.5, 0.5, len(joints))[:, None] * rng.normal(0, [0.15, 0, 0.2])
        turned = (turned + drift[:, None] + np.array([self.aside, -1.0, 0])) @ _about(0, self.pitch)
        near = self.focal / np.maximum(self.depth - turned[..., 2], 0.5)
        return np.stack([SHAPE[1] / 2 + near * turned[..., 0], SHAPE[0] / 2 - near * turned[..., 1]], -1)


def _about(axis: int, angle: float) -> np.ndarray:
    """Return a rotation (3, 3) about x (axis 0) or y (axis 1), for row vectors."""
    turn = np.eye(3)
    one, two = ((1, 2), (2, 0))[axis]
    turn[one, one] = turn[two, two] = math.cos(angle)
    turn[one, two], turn[two, one] = math.sin(angle), -math.sin(angle)
    return turn


def _found(points: np.ndarray, rng: Rng, hard: float) -> tuple[np.ndarray, np.ndarray]:
    """Return joints (T, V, 2) with the noise of a pose estimator, and scores (T, V)."""
    frames, count, _ = points.shape
    height = float(np.ptp(points[..., 1], axis=1).mean())
    error = np.full((frames, count), 0.012)
    scores = rng.uniform(0.6, 0.98, (frames, count))
    if rng.random() < 0.4 * hard:
        limb = list(HIDDEN[int(rng.integers(len(HIDDEN)))])
        start, stop = sorted(rng.integers(0, frames + 1, 2))
        error[start:stop, limb] = 0.05
        scores[start:stop, limb] = rng.uniform(0.15, 0.45, (stop - start, 2))
    missed = rng.random((frames, count)) < 0.03 * hard
    error[missed], scores[missed] = 0.15, rng.uniform(0.02, 0.3, int(missed.sum()))
    points = points + (hard * height * error)[..., None] * rng.standard_normal(points.shape)
    lost = missed & (rng.random(missed.shape) < 0.3)
    return np.where(lost[..., None], 0, points), np.where(lost, 0, scores)


# ------------------------------------------------------------------------------------------------------------- files


class Annotation(TypedDict):
    """A sequence, as in pyskl's pickles, and its key moments."""

    frame_dir: str
    label: int
    img_shape: tuple[int, int]  # H, W
    original_shape: tuple[int, int]
    total_frames: int
    keypoint: np.ndarray  # (M, T, 17, 2) float16, pixels
    keypoint_score: np.ndarray  # (M, T, 17) float16
    key_moments: np.ndarray  # (T,) bool


class Annotations(TypedDict):
    """A dataset, as in pyskl's pickles."""

    split: dict[str, list[str]]  # name → frame_dir of each sequence
    annotations: list[Annotation]


def annotations(sizes: Sizes = SIZES, seed: int = 7, hard: float = 1.0) -> Annotations:
    """Return a dataset. A sequence depends only on the seed, its subject, its action and its number."""
    found: list[Annotation] = []
    splits: dict[str, list[str]] = {}
    for subject, split in enumerate(_splits(sizes)):
        body = body_of(np.random.default_rng([seed, 0, subject]))
        for place, (label, action, seen) in enumerate(_actions()):
            if not seen and split == "xsub_train":
                continue
            for number in range(sizes.clips):
                camera = number % len(VIEWS)
                clip = film(action, body, np.random.default_rng([seed, 1, subject, place, number]), camera, hard)
                name = f"S001C{camera + 1:03d}P{subject + 1:03d}R{number + 1:03d}A{place + 1:03d}"
                found.append(_annotation(name, label, clip))
                view = "xview_val" if camera == 0 else "xview_train"
                for each in (split, view) if seen else ("unseen",):
                    splits.setdefault(each, []).append(name)
    return {"split": splits, "annotations": found}


def _splits(sizes: Sizes) -> Iterator[str]:
    """Yield the split of each subject."""
    for split in ("train", "val", "test"):
        yield from [f"xsub_{split}"] * getattr(sizes, split)


def _actions() -> list[tuple[int, Action, bool]]:
    """Return all actions as (label, action, whether it is in labels.json)."""
    return [
        (label, action, table is ACTIONS) for table in (ACTIONS, UNSEEN) for label, action in enumerate(table.values())
    ]


def _annotation(name: str, label: int, clip: Clip) -> Annotation:
    """Return the record of a sequence."""
    return {
        "frame_dir": name,
        "label": label,
        "img_shape": SHAPE,
        "original_shape": SHAPE,
        "total_frames": len(clip.key),
        "keypoint": clip.points,
        "keypoint_score": clip.scores,
        "key_moments": clip.key,
    }


def write_motion(folder: Path, sizes: Sizes = SIZES, seed: int = 7, hard: float = 1.0) -> None:
    """Write annotations.pkl, labels.json and unseen.json; the latter two map classes, ordered by label, to prompts."""
    write_card(folder, "Skeleton sequences of people")
    for name, table in (("labels", ACTIONS), ("unseen", UNSEEN)):
        prompts = {title: list(action.prompts) for title, action in table.items()}
        with write_atomically(folder / f"{name}.json") as part:
            part.write_text(json.dumps(prompts, indent=1) + "\n", encoding="utf-8")
    with write_atomically(folder / "annotations.pkl") as part:
        part.write_bytes(pickle.dumps(annotations(sizes, seed, hard), protocol=4))
