"""Recordings of skeletons as batches of clips. Key points travel; their heatmaps would weigh a thousand times more.

Legend: B recordings of a batch; n views of each (clips × mirrors); M persons, padded; L frames; V joints.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightword.data.loader import Draw, Loaders, Stream, mix, ordered
from sightword.storage import shards
from sightword.systems.skeleton.annotations import Clip, Recordings, read_annotations
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.view import (
    View,
    compact,
    crop,
    draw_crop,
    mirror,
    resize,
    resize_short,
    sample_test,
    sample_train,
    seen_best,
)

PYSKL_SEED = 255  # of numpy's global generator, set anew for every recording that is tested


class SkeletonBatch(NamedTuple):
    """Some recordings, each seen n times: once in training, clips × mirrors in evaluation, mirrored ones last."""

    points: Tensor  # (B, n, M, L, V, 2) float32, x and y in pixels of the canvas `size`
    scores: Tensor  # (B, n, M, L, V) float32; 0 where a joint is not there, whatever its coordinates are
    labels: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64: which recording of the split
    frames: Tensor  # (B, n, L) int64: which frame of the whole recording
    key: Tensor  # (B, n, L) float32: 1 in the action's key moments, 0 outside, NaN where nobody knows (real sets)
    size: tuple[int, int]  # H, W of the canvas
    split: str


# ------------------------------------------------------------------------------------------------------------ loaders


def make_loaders(data: SkeletonData, seed: int, joints: JointSet, classes: Sequence[str]) -> Loaders:
    """Training gives one view of each recording, drawn anew each epoch; validation the same `data.clips` views always.

    joints, classes: of the model, which the file has to fit. ValueError, one line, where it does not.
    """
    recordings = _read(data, joints)
    train, val = (split_rows(data, recordings, split, classes) for split in ("train", "val"))
    _refuse_shared(recordings, train, val)
    shards.say(f"{len(train)} recordings to train on, {len(val)} for validation")
    clips = Clips(recordings, train, TrainView(data, joints, seed), "train")
    held = _measured(data, joints, recordings, val, "val")
    return Loaders(Stream(clips, data.batch_size, seed, **_options(data)), held)


def split_loader(data: SkeletonData, split: str, joints: JointSet, classes: Sequence[str]) -> DataLoader:
    """A split to measure on, train, val or test: each recording once; of test `data.test_clips` views, and mirrored."""
    recordings = _read(data, joints)
    return _measured(data, joints, recordings, split_rows(data, recordings, split, classes), split)


def _measured(
    data: SkeletonData, joints: JointSet, recordings: Recordings, rows: Sequence[int], split: str
) -> DataLoader:
    clips, flip = (data.test_clips, data.test_flip) if split == "test" else (data.clips, False)
    return ordered(
        Clips(recordings, rows, EvalView(data, joints, clips, flip), split), data.batch_size, **_options(data)
    )


def _options(data: SkeletonData) -> dict[str, Any]:
    return {"collate_fn": _as_it_is, "num_workers": data.num_workers, "pin_memory": torch.cuda.is_available()}


def _as_it_is(batch: SkeletonBatch) -> SkeletonBatch:
    """The data set here gives whole batches."""
    return batch


# ------------------------------------------------------------------------------------------------------------- splits


def _read(data: SkeletonData, joints: JointSet) -> Recordings:
    if not data.annotations:
        raise ValueError("data.annotations is not set: give a pickle in pyskl's form, or an .npz by sightword convert")
    recordings = read_annotations(data.annotations)
    if recordings.num_joints != len(joints.joints):
        raise ValueError(
            f"{recordings.path} has {recordings.num_joints} joints and {joints.name} has {len(joints.joints)}: set "
            "system.joints; sightword check dataset=pyskl names the sets that fit"
        )
    if broken := recordings.broken():
        shards.say(
            f"{recordings.path}: {len(broken)} recordings have key points that are no numbers (NaN), the first is "
            f"{broken[0]}: read as missing; sightword check dataset=pyskl names all"
        )
    return recordings


def split_rows(data: SkeletonData, recordings: Recordings, split: str, classes: Sequence[str]) -> list[int]:
    """The recordings of train, val or test. ValueError where one has a label that `classes` has not."""
    named = {"train": data.train, "val": data.val, "test": data.test}
    if split not in named:
        raise ValueError(f"a split is {', '.join(named)}; got {split!r}")
    if not data.val and split in ("train", "val"):
        train, held = hold_out(recordings.split(data.train), recordings.labels, data.hold_out)
        rows = train if split == "train" else held
    else:
        rows = recordings.split(named[split])
    if absent := recordings.absent(named[split]):
        shards.say(f"{len(absent)} recordings of split {named[split]} are not in the file, the first is {absent[0]}")
    if outside := [row for row in rows if recordings.labels[row] >= len(classes)]:
        label, own = recordings.labels[outside[0]], recordings.names[outside[0]]
        raise ValueError(
            f"{recordings.path}: {own} has the label {label}, and there are {len(classes)} classes, 0 to "
            f"{len(classes) - 1} ({len(outside)} such recordings in {split}): system.labels is the list for this set"
        )
    return rows


def hold_out(rows: Sequence[int], labels: np.ndarray, share: float) -> tuple[list[int], list[int]]:
    """Those to train on and those held out: always the same, and of every class about the share."""
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} recordings cannot be divided into training and validation: name data.val")
    count = min(max(round(share * len(rows)), 1), len(rows) - 1)
    shuffled = np.random.default_rng(0).permutation(rows)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = by_class[(np.arange(count) * 2 + 1) * len(rows) // (2 * count)]
    return np.setdiff1d(rows, held).tolist(), np.sort(held).tolist()


def _refuse_shared(recordings: Recordings, train: Sequence[int], val: Sequence[int]) -> None:
    if shared := sorted(set(train) & set(val)):
        raise ValueError(
            f"{recordings.path}: data.train and data.val share {len(shared)} recordings, the first is "
            f"{recordings.names[shared[0]]}: validate on another split, or leave data.val empty"
        )


# -------------------------------------------------------------------------------------------------------------- views


class Seen(NamedTuple):
    """A clip's n views one after the other."""

    view: View  # of n · L frames
    frames: np.ndarray  # (n, L) int64


class TrainView:
    """One view of a recording, another each epoch: a function of (seed, epoch, number) alone."""

    def __init__(self, data: SkeletonData, joints: JointSet, seed: int = 0) -> None:
        self.data, self.flipped, self.seed = data, joints.flipped(), seed
        self.size = (data.size[0], data.size[1])
        self.area = (data.crop_area[0], data.crop_area[1])
        self.aspect = (data.crop_aspect[0], data.crop_aspect[1])

    def __call__(self, clip: Clip, draw: Draw) -> Seen:
        rng = np.random.default_rng(mix(self.seed, draw.epoch, draw.index))
        coin = rng.random()
        frames = sample_train(clip.points.shape[1], self.data.frames, rng)[None]
        view = resize_short(_compacted(clip, frames, self.data), self.data.short_side)
        view = resize(crop(view, draw_crop(view.size, self.area, self.aspect, rng)), self.size)
        if coin < self.data.flip:
            view = mirror(view, self.flipped, self.data.pyskl_parity)
        return Seen(view, frames)


class EvalView:
    """The same views of a recording whenever it is asked: drawn frames, the whole body, then all of it mirrored."""

    def __init__(self, data: SkeletonData, joints: JointSet, clips: int, flip: bool) -> None:
        self.data, self.flipped, self.clips, self.flip = data, joints.flipped(), clips, flip
        self.size = (data.test_size[0], data.test_size[1])

    def __call__(self, clip: Clip, draw: Draw) -> Seen:
        parity = self.data.pyskl_parity
        rng = np.random.RandomState(PYSKL_SEED) if parity else np.random.default_rng(mix(PYSKL_SEED, draw.index))
        frames = sample_test(clip.points.shape[1], self.data.frames, self.clips, rng)
        view = resize(_compacted(clip, frames, self.data), self.size)
        if not self.flip:
            return Seen(view, frames)
        mirrored = mirror(view, self.flipped)  # W - 1 - x in parity, too: here pyskl mirrors heatmaps, not points
        points = np.concatenate([view.points, mirrored.points], axis=1)
        scores = np.concatenate([view.scores, mirrored.scores], axis=1)
        return Seen(View(points, scores, self.size), np.concatenate([frames, frames]))


def _compacted(clip: Clip, frames: np.ndarray, data: SkeletonData) -> View:
    """The persons seen best in these frames (n, L), on a canvas about them."""
    at = frames.ravel()
    points, scores = clip.points[:, at], clip.scores[:, at]
    kept = seen_best(scores, data.persons)
    view = View(points[kept], scores[kept], clip.shape)
    return compact(view, data.padding, data.threshold, data.pyskl_parity) if data.compact else view


# ----------------------------------------------------------------------------------------------------------- data set


class Clips(Dataset[SkeletonBatch]):
    """Recordings of a split by number, a batch at a time."""

    def __init__(self, recordings: Recordings, rows: Sequence[int], seen: TrainView | EvalView, split: str) -> None:
        self.recordings, self.rows, self.seen, self.split = recordings, list(rows), seen, split

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """What the annotations call a recording, its frame_dir."""
        return self.recordings.names[self.rows[row]]

    def __getitem__(self, draw: Draw | int) -> SkeletonBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> SkeletonBatch:
        drawn = [draw if isinstance(draw, Draw) else Draw(0, int(draw)) for draw in draws]
        clips = [self.recordings[self.rows[draw.index]] for draw in drawn]
        seen = [self.seen(clip, draw) for clip, draw in zip(clips, drawn, strict=True)]
        frames = np.stack([one.frames for one in seen])  # (B, n, L)
        points, scores = _padded([one.view for one in seen], frames.shape[1])
        key = np.full(frames.shape, np.nan, dtype=np.float32)
        for row, clip in enumerate(clips):
            if clip.key is not None:
                key[row] = clip.key[frames[row]]
        return SkeletonBatch(
            torch.from_numpy(points),
            torch.from_numpy(scores),
            torch.tensor([clip.label for clip in clips]),
            torch.tensor([draw.index for draw in drawn]),
            torch.from_numpy(frames),
            torch.from_numpy(key),
            self.seen.size,
            self.split,
        )


def _padded(views: Sequence[View], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (B, n, M, L, V, 2) and scores (B, n, M, L, V) of views of n·L frames; persons who are not there are 0."""
    persons, (_, times, joints) = max(len(view.scores) for view in views), views[0].scores.shape
    scores = np.zeros((len(views), n, persons, times // n, joints), dtype=np.float32)
    points = np.zeros((*scores.shape, 2), dtype=np.float32)
    for row, view in enumerate(views):
        own = (len(view.scores), n, times // n, joints)
        points[row, :, : own[0]] = view.points.reshape(*own, 2).swapaxes(0, 1)
        scores[row, :, : own[0]] = view.scores.reshape(own).swapaxes(0, 1)
    return points, scores
