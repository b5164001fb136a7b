"""Fit a control on a training split, measure it on a test split, and write what an evaluation writes."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sightword.data.content import Item, digest_of
from sightword.engine.contract import Row
from sightword.engine.evaluation import evaluation_name, items_file
from sightword.engine.item_result import ItemResults
from sightword.engine.split import Entry, digest_of_items
from sightword.errors import SightwordError
from sightword.metrics.classes import confusion_matrix, mean_class_accuracy, top_k
from sightword.storage import shards
from sightword.storage.table import write_table
from sightword.storage.writer import write_json
from sightword.systems.skeleton.annotations import Recordings, read_annotations
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.control import ddnet, linear
from sightword.systems.skeleton.control.beside import Beside, compare
from sightword.systems.skeleton.control.feature import poses
from sightword.systems.skeleton.control.people import people_of
from sightword.systems.skeleton.data import split_rows
from sightword.systems.skeleton.diagnosis import say_findings
from sightword.systems.skeleton.evaluate import class_table, clusters_of
from sightword.systems.skeleton.labels import Labels

MOMENTS = 32  # L
RECIPES = (
    ddnet.Recipe(40, 0.1),
    ddnet.Recipe(90, 0.1),
    ddnet.Recipe(90, 0.3),
)


class Wanted(NamedTuple):
    """What a control is fitted on, and how."""

    data: SkeletonData
    labels: Labels
    method: str  # linear | distances
    depth: bool
    person: str
    seed: int


class Sides(NamedTuple):
    """The recordings of both splits."""

    recordings: Recordings
    train: list[int]
    test: list[int]


class Fitted(NamedTuple):
    """A control's answers on test, and how it was chosen."""

    scores: np.ndarray  # (N, K)
    setting: str  # what was chosen
    tried: Mapping[str, float]  # setting → accuracy on people held out, percent
    seconds: float  # of CPU, choosing included


def read_sides(wanted: Wanted) -> Sides:
    """Return the recordings of both splits. Raises SightwordError for labels or joints that do not fit."""
    data, classes = wanted.data, wanted.labels.classes
    recordings = read_annotations(data.annotations, data)
    if recordings.source is None:
        raise SightwordError(f"{data.annotations} does not state its joints. Pass joints=, for example joints=coco17")
    recordings.fit(recordings.source)
    say_findings(recordings)
    train, test = (split_rows(data, recordings, split, classes) for split in ("train", "test"))
    if shared := sorted(set(train) & set(test)):
        raise SightwordError(
            f"{recordings.path}: train={data.train!r} and test={data.test!r} share {len(shared)} recordings, the first "
            f"is {recordings.names[shared[0]]}. Name two splits that share none"
        )
    return Sides(recordings, train, test)


def fit(wanted: Wanted, sides: Sides) -> tuple[Fitted, str]:
    """Choose a control's setting on people held out, fit it on all of train, and score test.

    Returns how people are told, too.
    """
    recordings, joints = sides.recordings, sides.recordings.joints
    assert joints is not None
    began = time.process_time()
    train, test = (poses(recordings, rows, joints, MOMENTS, wanted.depth) for rows in (sides.train, sides.test))
    labels, classes = recordings.labels[sides.train], len(wanted.labels.classes)
    people, how = people_of([recordings.names[row] for row in sides.train], wanted.person)
    shards.say(f"settings are chosen on {how}: {len(set(people))} in {wanted.data.train or 'all recordings'}")
    if wanted.method == "linear":
        features = linear.features_of(train)
        strength, tried = linear.chosen_strength(features, labels, people, classes)
        scores = linear.Ridge(features, labels, classes).scores(linear.features_of(test), strength)
        named = {f"ridge λ = {each:.3g}": value for each, value in tried.items()}
        setting = f"ridge λ = {strength:.3g}"
    else:
        recipe, named = ddnet.chosen_recipe(train, labels, people, classes, RECIPES)
        network, _ = ddnet.trained(train, labels, classes, recipe, wanted.seed)
        scores = ddnet.probabilities(network, test)
        setting = f"{recipe.epochs} epochs, dropout {recipe.dropout:g}"
    return Fitted(scores.astype(np.float32), setting, named, time.process_time() - began), how


def measure(fitted: Fitted, labels: np.ndarray, classes: Sequence[str]) -> tuple[dict[str, float], list[Row]]:
    """Return top1, top5 and mean_class in percent, and the table of classes."""
    scores, truth = torch.from_numpy(fitted.scores), torch.from_numpy(labels)
    confusion = confusion_matrix(scores.argmax(1), truth, len(classes))
    found = {"top1": 100 * float(top_k(scores, truth, 1))}
    if len(classes) > 5:
        found["top5"] = 100 * float(top_k(scores, truth, 5))
    return found | {"mean_class": 100 * float(mean_class_accuracy(confusion))}, class_table(confusion, tuple(classes))


class Written(NamedTuple):
    """What was measured, and where it is."""

    metrics: dict[str, float]
    compared: list[Beside]
    files: list[Path]


def write(folder: Path, wanted: Wanted, sides: Sides, fitted: Fitted, how: str, beside: Sequence[Path] = ()) -> Written:
    """Write evaluation_test.json, its items and its table. beside: runs to compare with, evaluated on test.

    Raises SightwordError, before anything is written, for a run that cannot be compared.
    """
    recordings, file = sides.recordings, folder / evaluation_name("test")
    truth = recordings.labels[sides.test]
    metrics, rows = measure(fitted, truth, wanted.labels.classes)
    names = [recordings.names[row] for row in sides.test]
    unit, clusters = clusters_of(names)
    arrays = {"scores": fitted.scores, "label": truth, "predicted": fitted.scores.argmax(1)}
    items = ItemResults.of(unit, names, clusters, arrays)
    digest = digest_of_items(_entry(recordings, row) for row in sides.test)
    compared = compare(items, digest, beside)
    folder.mkdir(parents=True, exist_ok=True)
    items.write(items_file(file))
    protocol = describe(wanted, sides, fitted, how)
    counts = {"count": len(names), "clusters": len(set(clusters)), "unit": unit, "digest": items.digest}
    report = {
        "control": wanted.method,
        "annotations": str(Path(wanted.data.annotations).expanduser().absolute()),
        "split": "test",
        "seed": wanted.seed,
        "data_digest": digest,
        "metrics": metrics,
        "chosen": fitted.setting,
        "held_out_accuracy": dict(fitted.tried),
        "cpu_seconds": round(fitted.seconds, 1),
        "beside": [one.plain() for one in compared],
        "tables": {"classes": rows},
        "items": {"file": items_file(file).name, **counts},
    }
    write_json(file, report | {"protocol": protocol})
    return Written(metrics, compared, [file, items_file(file), *write_table(file, "classes", rows, protocol)])


def describe(wanted: Wanted, sides: Sides, fitted: Fitted, how: str) -> dict[str, str]:
    """Return how the metrics were computed, as topic → text."""
    data = wanted.data
    deep = wanted.depth and sides.recordings[sides.test[0]].depth is not None
    read = {
        "linear": "joints and their velocities, ridge regression to one-hot targets",
        "distances": "distances of all pairs of joints and motion at two speeds, DD-Net (arXiv 1907.09658)",
    }[wanted.method]
    return {
        "split": f"test: {data.test or 'all recordings'}, {len(sides.test)} recordings; nothing was chosen on it",
        "trained on": f"{data.train or 'all recordings'}, {len(sides.train)} recordings",
        "features": f"{read}; {'3-D' if deep else 'front view'}, centred at the hips, in units of the trunk, "
        f"{MOMENTS} moments, one person",
        "chosen on": f"{how}, within {data.train or 'all recordings'}: {fitted.setting}",
        "classes": f"{len(wanted.labels.classes)} of {wanted.labels.source}",
    }


def _entry(recordings: Recordings, row: int) -> Entry:
    """A recording as the record of a run has it, so that a run's evaluation of the same data has the same digest."""
    item = Item(recordings.names[row], facts=str(recordings.labels[row]), content=recordings.content(row))
    return Entry(item.content, digest_of([], item.facts), "")
