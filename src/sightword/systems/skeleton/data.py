"""Recordings as batches of views: which frames, where the joints stand on the canvas, which recordings.

A batch has key points; their heatmaps, which the task draws, would be a thousand times larger. The pipeline is pyskl's,
on points alone: functions of a `View`, none of which changes its argument. A joint is there if its score is above 0.
With `parity` joints are what pyskl makes of them, for checkpoints trained by it: a coordinate of exactly 0 is missing,
whatever its score, and a mirrored x is W - x, which is 1 px beside the mirrored image.

Legend: B recordings of a batch; n views of each (draws of frames × mirrors); M persons, padded; T frames of a
recording; L frames of a view; V joints; H, W pixels of the canvas.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightword.data.content import Item
from sightword.data.loader import Draw, Loaders, Stream, mix, ordered
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.systems.skeleton.annotations import Recordings, read_annotations
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.diagnosis import say_findings
from sightword.systems.skeleton.formats.naming import people_by
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.sequence import SkeletonSequence
from sightword.systems.skeleton.unseen import left_out_of

PYSKL_SEED = 255  # of numpy's global generator, set again for every recording that is tested
TRIES = 10  # of a random crop that has to fit; then it is the middle square


class SkeletonBatch(NamedTuple):
    """Some recordings, n views of each: one in training, draws × mirrors in evaluation, mirrored ones last."""

    points: Tensor  # (B, n, M, L, V, 2) float32, x and y in pixels of the canvas `size`
    scores: Tensor  # (B, n, M, L, V) float32; 0 for a joint that is not there, whatever its coordinates are
    labels: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64: which recording of the split
    frames: Tensor  # (B, n, L) int64: which frame of the whole recording
    key: Tensor  # (B, n, L) float32: 1 in the action's key moments, 0 outside, NaN if unknown (real sets)
    size: tuple[int, int]  # H, W of the canvas
    split: str


class View(NamedTuple):
    """Skeletons on a canvas."""

    points: np.ndarray  # (M, T, V, 2) float32, x and y in pixels
    scores: np.ndarray  # (M, T, V) float32, 0 where a joint is not there
    size: tuple[int, int]  # H, W


# ------------------------------------------------------------------------------------------------------------ loaders


def make_loaders(
    data: SkeletonData, seed: int, joints: JointSet, classes: Sequence[str], names: Names | None = None
) -> Loaders[SkeletonBatch]:
    """Return the loaders of training, one view of each recording, sampled again each epoch, and of validation.

    joints, classes: of the model, which the file has to fit. Raises SightwordError if it does not.
    names: the recordings of each split that are used; None or a missing split: all.
    """
    recordings = read_recordings(data, joints)
    train, val = (split_rows(data, recordings, split, classes, names) for split in ("train", "val"))
    _refuse_shared(recordings, train, val)
    shards.say(f"{len(train)} recordings to train on, {len(val)} for validation")
    views = ViewDataset(recordings, train, TrainViews(data, joints, seed), "train")
    stream: Stream[SkeletonBatch] = Stream(
        views,
        data.batch_size,
        seed,
        collate_fn=_as_it_is,
        num_workers=data.num_workers,
        pin_memory=torch.cuda.is_available(),
    )
    return Loaders(stream, measured(data, joints, recordings, val, "val"))


def split_loader(
    data: SkeletonData, split: str, joints: JointSet, classes: Sequence[str], names: Names | None = None
) -> DataLoader[SkeletonBatch]:
    """Return the loader of a split to measure, train, val or test: each recording once, in the order of the file."""
    recordings = read_recordings(data, joints)
    return measured(data, joints, recordings, split_rows(data, recordings, split, classes, names), split)


def measured(
    data: SkeletonData, joints: JointSet, recordings: Sequence[SkeletonSequence], rows: Sequence[int], split: str
) -> DataLoader[SkeletonBatch]:
    """Return the loader of some recordings: `data.views` views of each, or for test `data.test_views`, and mirrored."""
    if len(rows) and len(joints.projections) > 1 and recordings[rows[0]].depth is None:
        empty = " and ".join(plane for plane in joints.projections if plane != "front")
        shards.say(f"the recordings are 2-D: heatmaps of the {empty} stay empty, which makes the model less certain")
        data = replace(data, test_turn=0.0)
    views, flip = (data.test_views, data.test_flip) if split == "test" else (data.views, False)
    dataset = ViewDataset(recordings, rows, EvalViews(data, joints, views, flip), split)
    return ordered(
        dataset,
        data.batch_size,
        collate_fn=_as_it_is,
        num_workers=data.num_workers,
        pin_memory=torch.cuda.is_available(),
    )


def _as_it_is(batch: SkeletonBatch) -> SkeletonBatch:
    """The dataset itself gives whole batches."""
    return batch


# ------------------------------------------------------------------------------------------------------------- splits


def read_recordings(data: SkeletonData, joints: JointSet) -> Recordings:
    """Read data.annotations as `data` says, and report what is odd about them.

    Raises SightwordError if they do not have the joints of the model, or if a result would be wrong.
    """
    if not data.annotations:
        raise SightwordError(
            "data.annotations is not set. Give a pickle in pyskl's format, or an .npz of sightword convert"
        )
    recordings = read_annotations(data.annotations, data)
    recordings.fit(joints)
    say_findings(recordings, "data.")
    return recordings


def items(data: SkeletonData, splits: Sequence[str]) -> dict[str, list[Item]]:
    """Return the recordings of some splits, with their labels as facts."""
    recordings = read_annotations(data.annotations, data)
    return {
        split: [
            Item(recordings.names[row], facts=str(recordings.labels[row]), content=recordings.content(row))
            for row in _rows(data, recordings, split)
        ]
        for split in splits
    }


def _rows(data: SkeletonData, recordings: Recordings, split: str, names: Names | None = None) -> list[int]:
    """Return the numbers of the recordings of a split; of those named, where `names` has the split."""
    named = {"train": data.train, "val": data.val, "test": data.test}
    if split not in named:
        raise SightwordError(f"split={split!r} is none of {', '.join(named)}")
    divided = not data.val and split in ("train", "val")
    whole = recordings.split(data.train if divided else named[split])
    left_out = left_out_of(data, split)
    rows = [row for row in whole if recordings.labels[row] not in left_out]
    if not rows:
        raise SightwordError(f"{recordings.path}: all {len(whole)} recordings of {split} are of unseen classes")
    if names and split in names:
        used = set(names[split])
        return [row for row in rows if recordings.names[row] in used]
    if not divided:
        return rows
    if data.person:
        train, held = hold_out_people(rows, recordings.names, data)
    else:
        train, held = hold_out(rows, recordings.labels, data.hold_out)
    return train if split == "train" else held


def split_rows(
    data: SkeletonData, recordings: Recordings, split: str, classes: Sequence[str], names: Names | None = None
) -> list[int]:
    """Return the numbers of the recordings of train, val or test. names: the recordings of each split that are used.

    Raises SightwordError if there is no such split, or if one of them has no label or one that is not in `classes`.
    """
    rows = _rows(data, recordings, split, names)
    listed = {"train": data.train, "val": data.val, "test": data.test}[split]
    if absent := recordings.absent(listed):
        shards.say(f"{len(absent)} recordings of split {listed} are not in the file, the first is {absent[0]}")
    if nameless := [row for row in rows if recordings.labels[row] < 0]:
        raise SightwordError(
            f"{recordings.path}: {len(nameless)} of {len(rows)} recordings in {split} have no label, the first is "
            f"{recordings.names[nameless[0]]}. sightword recognise names their actions; to train or to measure, give "
            "each a label, or name splits without them"
        )
    if outside := [row for row in rows if recordings.labels[row] >= len(classes)]:
        label, own = recordings.labels[outside[0]], recordings.names[outside[0]]
        raise SightwordError(
            f"{recordings.path}: {own} has the label {label}, and there are {len(classes)} classes, 0 to "
            f"{len(classes) - 1} ({len(outside)} such recordings in {split}). Set system.labels to the list of this set"
        )
    return rows


def hold_out(rows: Sequence[int], labels: np.ndarray, fraction: float) -> tuple[list[int], list[int]]:
    """Return the rows to train on and those held out: always the same, and about this fraction of every class."""
    if len(rows) < 2:
        raise SightwordError(f"{len(rows)} recordings cannot be divided into training and validation. Name data.val")
    count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
    shuffled = np.random.default_rng(0).permutation(rows)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = by_class[(np.arange(count) * 2 + 1) * len(rows) // (2 * count)]
    return np.setdiff1d(rows, held).tolist(), np.sort(held).tolist()


def hold_out_people(rows: Sequence[int], names: Sequence[str], data: SkeletonData) -> tuple[list[int], list[int]]:
    """Return the rows to train on and those of the people held out: about data.hold_out of them, at least one.

    Raises SightwordError if data.person does not find a person in each name, or finds one person in all of them.
    """
    who = dict(zip(rows, people_by([names[row] for row in rows], data.person, "data.person"), strict=True))
    people = sorted(set(who.values()))
    if len(people) < 2:
        raise SightwordError(f"data.person={data.person!r} finds one person in all names, {people}. Change it")
    count = min(max(round(data.hold_out * len(people)), 1), len(people) - 1)
    held = {people[(data.fold * count + number) % len(people)] for number in range(count)}
    shards.say(f"held out for validation: {', '.join(sorted(held))} of {len(people)} people")
    return [row for row in rows if who[row] not in held], [row for row in rows if who[row] in held]


def _refuse_shared(recordings: Recordings, train: Sequence[int], val: Sequence[int]) -> None:
    if shared := sorted(set(train) & set(val)):
        raise SightwordError(
            f"{recordings.path}: data.train and data.val share {len(shared)} recordings, the first is "
            f"{recordings.names[shared[0]]}. Validate on another split, or leave data.val empty"
        )


# ----------------------------------------------------------------------------------------------------------- data set


class ViewDataset(Dataset[SkeletonBatch]):
    """Some of the recordings, a batch at a time."""

    def __init__(
        self,
        recordings: Sequence[SkeletonSequence],
        rows: Sequence[int],
        views: "TrainViews | EvalViews",
        split: str,
    ) -> None:
        """rows: numbers of the recordings. views: how each is sampled."""
        self.recordings, self.rows, self.views, self.split = recordings, list(rows), views, split
        self.names = recordings.names if isinstance(recordings, Recordings) else [one.name for one in recordings]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """Return the name of a recording in the annotations, its frame_dir."""
        return self.names[self.rows[row]]

    def __getitem__(self, draw: Draw | int) -> SkeletonBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> SkeletonBatch:
        drawn = [draw if isinstance(draw, Draw) else Draw(0, int(draw)) for draw in draws]
        sequences = [self.recordings[self.rows[draw.index]] for draw in drawn]
        sampled = [self.views(one, draw) for one, draw in zip(sequences, drawn, strict=True)]
        frames = np.stack([views.frames for views in sampled])  # (B, n, L)
        points, scores = _padded([views.view for views in sampled], frames.shape[1])
        key = np.full(frames.shape, np.nan, dtype=np.float32)
        for row, one in enumerate(sequences):
            if one.key is not None:
                key[row] = one.key[frames[row]]
        return SkeletonBatch(
            torch.from_numpy(points),
            torch.from_numpy(scores),
            torch.tensor([one.label for one in sequences]),
            torch.tensor([draw.index for draw in drawn]),
            torch.from_numpy(frames),
            torch.from_numpy(key),
            self.views.size,
            self.split,
        )


def _padded(views: Sequence[View], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (B, n, M, L, V, 2) and scores (B, n, M, L, V) of views of n·L frames; persons who are absent are all 0."""
    persons, (_, times, joints) = max(len(view.scores) for view in views), views[0].scores.shape
    scores = np.zeros((len(views), n, persons, times // n, joints), dtype=np.float32)
    points = np.zeros((*scores.shape, 2), dtype=np.float32)
    for row, view in enumerate(views):
        own = (len(view.scores), n, times // n, joints)
        points[row, :, : own[0]] = view.points.reshape(*own, 2).swapaxes(0, 1)
        scores[row, :, : own[0]] = view.scores.reshape(own).swapaxes(0, 1)
    return points, scores


# -------------------------------------------------------------------------------------------------------------- views


class Views(NamedTuple):
    """The n views of a recording, one after the other."""

    view: View  # of n · L frames
    frames: np.ndarray  # (n, L) int64


class TrainViews:
    """One view of a recording, another each epoch: a function of (seed, epoch, number) alone."""

    def __init__(self, data: SkeletonData, joints: JointSet, seed: int = 0) -> None:
        self.data, self.joints, self.flipped, self.seed = data, joints, joints.flipped(), seed
        self.size = (data.size[0], data.size[1])
        self.area = (data.crop_area[0], data.crop_area[1])
        self.aspect = (data.crop_aspect[0], data.crop_aspect[1])

    def __call__(self, sequence: SkeletonSequence, draw: Draw) -> Views:
        rng = np.random.default_rng(mix(self.seed, draw.epoch, draw.index))
        coin = rng.random()
        data = self.data
        frames = sample_train(sequence.points.shape[1], data.frames, rng, data.span)[None]
        turn = draw_turn(data, rng) if data.turn or data.tilt else UPRIGHT
        flat = bool(data.flat) and rng.random() < data.flat
        made: list[View] = []
        for plane in self.joints.projections:
            view = resize_short(_compacted(sequence, frames, data, plane, turn), data.short_side)
            view = resize(crop(view, draw_crop(view.size, self.area, self.aspect, rng)), self.size)
            if coin < data.flip:
                view = mirror(view, self.flipped, data.pyskl_parity, plane)
            view = fade(view, data.fade, rng) if data.fade else view
            made.append(view._replace(scores=np.zeros_like(view.scores)) if flat and made else view)
        return Views(shift(_side_by_side(made), data.jitter, rng) if data.jitter else _side_by_side(made), frames)


class EvalViews:
    """The same views of a recording each time: sampled frames, the whole body, then all of it mirrored."""

    def __init__(self, data: SkeletonData, joints: JointSet, views: int, flip: bool) -> None:
        self.data, self.joints, self.count, self.flip = data, joints, views, flip
        self.flipped = joints.flipped()
        self.size = (data.test_size[0], data.test_size[1])

    def __call__(self, sequence: SkeletonSequence, draw: Draw) -> Views:
        parity = self.data.pyskl_parity
        rng = np.random.RandomState(PYSKL_SEED) if parity else np.random.default_rng(mix(PYSKL_SEED, draw.index))
        frames = sample_test(sequence.points.shape[1], self.data.frames, self.count, rng)
        planes = self.joints.projections
        flat = [resize(self._compacted(sequence, frames, plane), self.size) for plane in planes]
        view = _side_by_side(flat)
        if not self.flip:
            return Views(view, frames)
        # W - 1 - x in parity, too: here pyskl mirrors heatmaps, not points
        mirrored = _side_by_side(
            [mirror(one, self.flipped, plane=plane) for one, plane in zip(flat, planes, strict=True)]
        )
        points = np.concatenate([view.points, mirrored.points], axis=1)
        scores = np.concatenate([view.scores, mirrored.scores], axis=1)
        return Views(View(points, scores, self.size), np.concatenate([frames, frames]))

    def _compacted(self, sequence: SkeletonSequence, frames: np.ndarray, plane: str) -> View:
        """All views of a plane, those of `test_turn` each from another side."""
        most = math.radians(self.data.test_turn)
        if not most or len(frames) < 2:
            return _compacted(sequence, frames, self.data, plane)
        turns = [Turn(angle) for angle in np.linspace(-most, most, len(frames)).tolist()]
        pairs = zip(frames, turns, strict=True)
        seen = [_compacted(sequence, row[None], self.data, plane, turn) for row, turn in pairs]
        fitted = [resize(view, self.size) for view in seen]
        points, scores = (np.concatenate([view[part] for view in fitted], axis=1) for part in (0, 1))
        return View(points, scores, self.size)


class Turn(NamedTuple):
    """How a body is turned before it is drawn, in radians: about the vertical axis, sideways, forwards."""

    yaw: float = 0.0
    roll: float = 0.0
    pitch: float = 0.0


UPRIGHT = Turn()


def draw_turn(data: SkeletonData, rng: np.random.Generator) -> Turn:
    """Draw a turn of up to data.turn and data.tilt degrees either way."""
    return Turn(*(math.radians(most) * rng.uniform(-1, 1) for most in (data.turn, data.tilt, data.tilt)))


def _compacted(
    sequence: SkeletonSequence, frames: np.ndarray, data: SkeletonData, plane: str = "front", turn: Turn = UPRIGHT
) -> View:
    """The persons of the highest scores in these frames (n, L), on a canvas about them."""
    at = frames.ravel()
    points, scores = sequence.points[:, at], sequence.scores[:, at]
    kept = best_persons(scores, data.persons)
    view = View(points[kept], scores[kept], sequence.shape)
    if sequence.depth is None and plane != "front":
        return view._replace(scores=np.zeros_like(view.scores))
    if plane != "front" or any(turn):
        if sequence.depth is None:
            raise SightwordError(
                f"{sequence.name} has no depth, which data.turn, data.tilt and data.test_turn need: it is of images. "
                "Set them to 0, or use a 3-D file"
            )
        solid = np.concatenate([points, sequence.depth[:, at, :, None]], -1)[kept]
        view = projected(solid, scores[kept], plane, turn)
    return compact(view, data.padding, data.threshold, data.pyskl_parity) if data.compact else view


def _side_by_side(views: Sequence[View]) -> View:
    """The projections of a view as one, joint after joint and plane after plane: (M, T, P · V, 2)."""
    if len(views) == 1:
        return views[0]
    points, scores = (np.concatenate([view[part] for view in views], axis=2) for part in (0, 1))
    return View(points, scores, views[0].size)


def projected(solid: np.ndarray, scores: np.ndarray, plane: str, turn: Turn = UPRIGHT) -> View:
    """Draw x, y (downwards) and depth (M, T, V, 3) on a plane, after a turn about the middle of what is there.

    front: x and y. side: depth and y, from the person's right if it faces the viewer. top: x and depth.
    """
    there = scores > 0
    seen = solid[there] if there.any() else np.zeros((1, 3), np.float32)
    turned = (solid - seen.mean(0)) @ rotation(turn).T
    flat = turned[..., {"front": [0, 1], "side": [2, 1], "top": [0, 2]}[plane]]
    seen = flat[there] if there.any() else np.zeros((1, 2), np.float32)
    low, extent = seen.min(0), np.ptp(seen, axis=0)
    size = (max(int(extent[1]) + 1, 1), max(int(extent[0]) + 1, 1))
    return View((flat - low).astype(np.float32), scores, size)


def rotation(turn: Turn) -> np.ndarray:
    """Return the matrix (3, 3) of a turn of x, y, depth: yaw about y, then roll about depth, then pitch about x."""
    made = np.eye(3)
    for angle, (a, b) in zip(turn, ((0, 2), (0, 1), (1, 2)), strict=True):
        one = np.eye(3)
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = math.sin(angle), -math.sin(angle)
        made = one @ made
    return made.astype(np.float32)


def shift(view: View, deviation: float, rng: np.random.Generator) -> View:
    """Shift each joint by its own distance in all frames, as if limbs were longer or shorter."""
    spread = deviation * max(view.size)
    moved = rng.normal(0, spread, (1, 1, view.points.shape[2], 2)).astype(np.float32)
    return view._replace(points=view.points + moved)


# -------------------------------------------------------------------------------------------------------------- frames


def sample_train(total: int, length: int, rng: np.random.Generator, least: float = 1.0) -> np.ndarray:
    """Sample (L,) frames of a recording of `total`, in order: a random one of each of L equal stretches.

    A recording of less than L frames is looped, from a random frame on. least: the least fraction of the recording that
    is covered; a random part of a random length between this and all.
    """
    if least < 1:
        covered = max(round(total * rng.uniform(least, 1)), 1)
        start = int(rng.integers(total - covered + 1))
        return start + sample_train(covered, length, rng)
    if total < length:
        return (int(rng.integers(total)) + np.arange(length)) % total
    return _spread(total, length, rng)


def sample_test(total: int, length: int, views: int, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """Sample (views, L) frames, each view as for training; if the recording is looped, the starts are spread evenly.

    A RandomState(255) gives exactly pyskl's frames: there the global seed is set to that for every recording.
    """
    if total < length:
        starts = np.arange(views) if total < views else np.arange(views) * total // views
        return (starts[:, None] + np.arange(length)) % total
    drawn = []
    for _ in range(views):
        rng.random()  # pyskl draws which fraction of the recording a view covers, though it is always all
        drawn.append(_spread(total, length, rng))
    return np.stack(drawn)


def _spread(total: int, length: int, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """(L,) of at least L frames."""
    if total < 2 * length:  # stretches would have one or two frames: instead, leave out total - L frames anywhere
        left_out = np.zeros(length + 1, dtype=np.int64)
        left_out[rng.choice(length + 1, total - length, replace=False)] = 1
        return np.arange(length) + left_out.cumsum()[:-1]
    edges = np.arange(length + 1) * total // length
    stretch = np.diff(edges)
    return edges[:-1] + (rng.integers(stretch) if isinstance(rng, np.random.Generator) else rng.randint(stretch))


def best_persons(scores: np.ndarray, most: int) -> np.ndarray | slice:
    """Return which persons of (M, T, V) scores to keep, in their order: those with the highest sum."""
    if len(scores) <= most:
        return slice(None)
    return np.sort(np.argsort(-scores.sum((1, 2)), kind="stable")[:most])


# -------------------------------------------------------------------------------------------------------------- places


def compact(view: View, padding: float = 0.25, threshold: float = 10.0, parity: bool = False) -> View:
    """Cut the canvas to the box of all that is there in any frame, enlarged, made square, in whole pixels.

    One box for all frames, so that walking stays walking; it may reach beyond the image. A box with a side below
    `threshold` pixels leaves the view as it is.
    """
    there = view.points != 0 if parity else np.broadcast_to((view.scores > 0)[..., None], view.points.shape)
    x, y = (view.points[..., axis][there[..., axis]] for axis in (0, 1))  # one by one: much faster than along an axis
    if not x.size or not y.size or min(np.ptp(x), np.ptp(y)) < threshold:
        return view
    left, right, top, bottom = (float(end) for end in (x.min(), x.max(), y.min(), y.max()))
    half = max(right - left, bottom - top) / 2 * (1 + padding)
    middle = ((left + right) / 2, (top + bottom) / 2)
    box = (int(middle[0] - half), int(middle[1] - half), int(middle[0] + half), int(middle[1] + half))
    made = crop(view, box)
    return made._replace(points=np.where(there, made.points, view.points)) if parity else made


def crop(view: View, box: tuple[int, int, int, int]) -> View:
    """Cut the canvas to the box (left, top, right, bottom)."""
    left, top, right, bottom = box
    return View(view.points - np.array([left, top], dtype=np.float32), view.scores, (bottom - top, right - left))


def resize(view: View, size: tuple[int, int]) -> View:
    """Resize to H×W; the aspect ratio is not kept."""
    (height, width), (old_height, old_width) = size, view.size
    scale = np.array([width / old_width, height / old_height], dtype=np.float32)
    return View(view.points * scale, view.scores, size)


def resize_short(view: View, side: int) -> View:
    """Resize until the shorter side has so many pixels; the aspect ratio is kept."""
    scale = side / min(view.size)
    height, width = (int(old * scale + 0.5) for old in view.size)
    return resize(view, (height, width))


def draw_crop(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a random rectangle within H×W: left, top, right, bottom.

    area: the range of its area, as a fraction of the whole. aspect: the range of its width to its height. Always takes
    the same number of values from the generator.
    """
    height, width = size
    shapes = math.log(aspect[0]), math.log(aspect[1])
    for share, shape, x, y in rng.random((TRIES, 4)).tolist():
        pixels = (area[0] + share * (area[1] - area[0])) * height * width
        ratio = math.exp(shapes[0] + shape * (shapes[1] - shapes[0]))
        w, h = max(round(math.sqrt(pixels * ratio)), 1), max(round(math.sqrt(pixels / ratio)), 1)
        if w <= width and h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def fade(view: View, most: float, rng: np.random.Generator) -> View:
    """Lower the scores of a view: each joint's by a factor from `low` to 1, and `low` from 1 - most to 1."""
    low = 1 - most * rng.random()
    factors = rng.uniform(low, 1, (view.scores.shape[2],)).astype(np.float32)  # (V,)
    return view._replace(scores=view.scores * factors)


def mirror(view: View, flipped: list[int], parity: bool = False, plane: str = "front") -> View:
    """Mirror: x becomes W - 1 - x, as for pixels, and joints change places with their opposites.

    flipped: (V,), as `JointSet.flipped` returns it. plane: from the side, the joints alone change places.
    """
    points, width = view.points[:, :, flipped], view.size[1]
    if plane == "side":
        return View(points, view.scores[:, :, flipped], view.size)
    x = points[..., 0]
    points[..., 0] = np.where(x != 0, width - x, x) if parity else width - 1 - x
    return View(points, view.scores[:, :, flipped], view.size)
