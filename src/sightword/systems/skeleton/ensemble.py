"""Several runs as one: their probabilities of the same recordings, averaged; as joints and limbs of PoseConv3D.

Legend: R runs; N recordings; K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.data.loader import moved
from sightword.engine import run as runs
from sightword.engine.split import choose
from sightword.errors import SightwordError
from sightword.metrics.classes import confusion_matrix, mean_class_accuracy, top_k
from sightword.storage import shards
from sightword.systems.skeleton.data import ViewDataset
from sightword.systems.skeleton.evaluate import SkeletonEvaluator


class Member(NamedTuple):
    """What one run says of a split."""

    run: Path
    scores: Tensor  # (N, K) probabilities
    labels: Tensor  # (N,)
    names: tuple[str, ...]  # N recordings
    classes: tuple[str, ...]  # K
    protocol: dict[str, str]


class Ensemble(NamedTuple):
    """The members and the mean of their probabilities."""

    members: tuple[Member, ...]
    scores: Tensor  # (N, K)

    def metrics(self) -> dict[str, float]:
        """Percent: top1, top5 (of more than five classes) and mean_class of the mean; top1/<run> of each run alone."""
        labels, classes = self.members[0].labels, self.members[0].classes
        found = {"top1": 100 * float(top_k(self.scores, labels, 1))}
        if len(classes) > 5:
            found["top5"] = 100 * float(top_k(self.scores, labels, 5))
        counts = confusion_matrix(self.scores.argmax(1), labels, len(classes))
        found["mean_class"] = 100 * float(mean_class_accuracy(counts))
        for number, member in enumerate(self.members, 1):
            found[f"top1/{number}_{member.run.name}"] = 100 * float(top_k(member.scores, labels, 1))
        return found

    def protocol(self) -> dict[str, str]:
        """How it was measured: that of the first run, and what was averaged."""
        averaged = f"the mean of the probabilities of {len(self.members)} runs, all of the same weight"
        return self.members[0].protocol | {"ensemble": averaged}


def ensemble_of(folders: Sequence[Path], split: str, checkpoint: str = "best") -> Ensemble:
    """Measure some runs on a split and average their probabilities.

    Raises SightwordError for less than two runs, for a run twice, and for runs of other classes or recordings.
    """
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise SightwordError(f"runs={','.join(map(str, folders))} are not two different runs. Pass two or more")
    members = tuple(_member(folder, split, checkpoint) for folder in folders)
    first = members[0]
    for other in members[1:]:
        if other.classes != first.classes:
            raise SightwordError(f"{other.run} has other classes than {first.run}. Pass runs of the same labels")
        if other.names != first.names or not torch.equal(other.labels, first.labels):
            raise SightwordError(
                f"{other.run} has {len(other.names)} recordings in {split} and {first.run} has {len(first.names)}, not "
                "all the same. Pass runs of the same data and split"
            )
    return Ensemble(members, torch.stack([member.scores for member in members]).mean(0))


@torch.no_grad()
def _member(folder: Path, split: str, checkpoint: str) -> Member:
    """What one run says of a split."""
    config = runs.read_config(folder)
    if not config.experiment.startswith("skeleton/"):
        raise SightwordError(f"{folder} is a run of {config.experiment}. Pass runs of skeleton")
    runs.set_threads(config.trainer.threads, 1)
    task, config, _ = runs.restore(folder, checkpoint, config)
    evaluator = runs.make_evaluator(config, task)
    loader = runs.held_out(config, split, task, choose(config, folder, [split]).names)
    dataset = loader.dataset
    assert isinstance(evaluator, SkeletonEvaluator)
    assert isinstance(dataset, ViewDataset)
    device = shards.device()
    task.to(device).eval()
    scores, labels = [], []
    for batch in loader:
        scored = evaluator.add(moved(batch, device))
        scores.append(scored.scores.float().cpu())
        labels.append(batch.labels.clone())
    evaluator.compute()
    names = tuple(dataset.name(row) for row in range(len(dataset)))
    of_trained = torch.cat(scores).masked_fill(evaluator.absent(), -1)
    return Member(folder, of_trained, torch.cat(labels), names, evaluator.classes, evaluator.protocol())
