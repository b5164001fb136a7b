"""Cosines of a run's recordings and the texts of all classes: of test, and of validation to choose γ on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightword.data.loader import moved
from sightword.engine.run import read_config
from sightword.engine.split import choose, tell
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.systems.skeleton.annotations import Recordings
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.data import measured, read_recordings, split_rows
from sightword.systems.skeleton.heatmap import draw_heatmaps
from sightword.systems.skeleton.labels import read_labels
from sightword.systems.skeleton.model import VideoTextModel
from sightword.systems.skeleton.predict import ActionRecognizer


class Scores(NamedTuple):
    """Recordings compared with classes."""

    names: list[str]  # N recordings
    labels: np.ndarray  # (N,) numbers of the columns
    cosines: np.ndarray  # (N, C) float32, the mean over views
    classes: tuple[str, ...]  # C names
    unseen: np.ndarray  # (C,) bool, which classes were not trained


class Scored(NamedTuple):
    """What is compared of a run."""

    run: Path
    test: Scores  # seen and unseen classes
    val: Scores | None  # seen and validation classes; None if the run has no validation classes
    texts: str  # where the words of classes come from


def score_run(run: Path, checkpoint: str = "best", labels: str = "") -> Scored:
    """Return the cosines of a run that was trained without some classes. labels: other words for the same classes.

    Raises SightwordError if the run has no unseen classes, no text encoder, or other classes than `labels`.
    """
    config = read_config(run)
    recognizer = ActionRecognizer.from_pretrained(run, checkpoint).to(shards.device())
    data, classes = recognizer.data, recognizer.classes
    if not data.unseen:
        raise SightwordError(
            f"{run} was trained with all classes. Train with data.unseen=, for example data.unseen=[random-5-0]"
        )
    if labels:
        other = read_labels(labels)
        if other.classes != classes:
            raise SightwordError(f"{labels} has other classes, or another order of them, than {run} was trained with")
        recognizer = recognizer.for_classes(other)
    chosen = choose(config, run, ["val", "test"])
    tell(chosen.findings)
    recordings = read_recordings(data, recognizer.joints)
    unseen, held = ([int(number) for number in numbers] for numbers in (data.unseen, data.unseen_val))
    test = split_rows(data, recordings, "test", classes, chosen.names)
    val = None
    if held:
        rows = split_rows(data, recordings, "val", classes, chosen.names) + _rows_of(data, recordings, held)
        val = _scores(recognizer, recordings, rows, held, unseen)
    return Scored(run, _scores(recognizer, recordings, test, unseen, held), val, recognizer.labels.source)


def _rows_of(data: SkeletonData, recordings: Recordings, numbers: list[int]) -> list[int]:
    """The recordings of some classes in the training split, and in the validation split if it is one of its own."""
    rows = set(recordings.split(data.train)) | set(recordings.split(data.val) if data.val else ())
    return [row for row in sorted(rows) if recordings.labels[row] in numbers]


def _scores(
    recognizer: ActionRecognizer, recordings: Recordings, rows: list[int], unseen: list[int], without: list[int]
) -> Scores:
    """Cosines of some recordings. unseen: numbers of classes. without: those that take no part."""
    kept = [number for number in range(len(recognizer.classes)) if number not in without]
    labels = np.searchsorted(kept, recordings.labels[rows])
    return Scores(
        [recordings.names[row] for row in rows],
        labels,
        cosines_of(recognizer, recordings, rows)[:, kept],
        tuple(recognizer.classes[number] for number in kept),
        np.isin(kept, unseen),
    )


@torch.no_grad()
def cosines_of(recognizer: ActionRecognizer, recordings: Recordings, rows: list[int]) -> np.ndarray:
    """Return cosines (N, K) of recordings and the embeddings of all classes, the mean over the views of test."""
    model = recognizer.model
    assert isinstance(model, VideoTextModel)
    found: list[Tensor] = []
    for batch in measured(recognizer.data, recognizer.joints, recordings, rows, "test"):
        points, scores = (part for part in moved(batch, recognizer.device)[:2])
        views = []
        for view in range(points.shape[1]):
            frames = model.video(draw_heatmaps(recognizer.heatmaps, points[:, view], scores[:, view], batch.size))
            views.append(model.compare(frames, recognizer.bank).cosines)
        found.append(torch.stack(views).mean(0).float().cpu())
    return torch.cat(found).numpy()
