"""The skeleton system's part of the demo: synthetic skeletons, named by their words, also for actions never trained."""

import shutil
from pathlib import Path

from torch import Tensor

from sightword.engine.run import make_evaluator, restore
from sightword.systems.skeleton import prediction, show
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.data import split_loader
from sightword.systems.skeleton.evaluate import SkeletonEvaluator
from sightword.systems.skeleton.labels import read_labels
from sightword.systems.skeleton.predict import ActionPrediction, ActionRecognizer
from sightword.systems.skeleton.task import SkeletonTask
from sightword.viz.page import Figure, Section, Train, seconds

SHOWN = 4  # recordings that are drawn
REVERSED = (("raising both arms", "lowering both arms"), ("sitting down", "standing up"))  # in time


def section(out: Path, train: Train) -> Section:
    """Train the model whose words weigh frames, then show it people, and actions, that it was not trained on."""
    small, run = out.parent / "miniature", out / "run"
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    argv = [
        "experiment=skeleton/visece_pacl_mini",
        "trainer.epochs=12",
        f"system.text={small / 'towers' / 'bert'}",
        f"system.labels={small}/motion/labels.json",
        f"data.annotations={small}/motion/annotations.pkl",
    ]
    if not train(run, argv):
        raise KeyboardInterrupt
    task, config, _ = restore(run)
    evaluator = make_evaluator(config, task)
    assert isinstance(task, SkeletonTask)
    assert isinstance(config.data, SkeletonData)
    assert isinstance(evaluator, SkeletonEvaluator)
    for batch in split_loader(config.data, "test", task.joints, task.labels.classes):
        evaluator.update(batch)
    return _section(evaluator, evaluator.compute(), ActionRecognizer.from_pretrained(run), run, small)


def _section(
    evaluator: SkeletonEvaluator, found: dict[str, float], recognizer: ActionRecognizer, run: Path, small: Path
) -> Section:
    unseen = _unseen(recognizer, small)
    counts, classes = evaluator.confusion, recognizer.classes
    assert counts is not None
    return Section(
        title="skeleton: name an action by comparing it with its words",
        lead=(
            f"Seventeen joints over a few seconds, from three sides, some of them wrong or hidden: which of "
            f"{len(classes)} actions is it? Two pairs are each other's reverse. A video encoder's vectors are compared "
            "with the embedding of each action's words. Thirds of a recording are pooled apart, which keeps the order."
        ),
        figures=[
            Figure(prediction.strips(_some(recognizer)), "New people, and the predicted actions."),
            Figure(show.confusion(counts, classes), "Confusion matrix: rows are true, columns are predicted."),
        ],
        metrics={
            "top-1": (
                f"{found['top1']:.0f} %",
                f"of new people's actions named correctly (by chance {100 / len(classes):.0f} %)",
            ),
            "top-5": (f"{found['top5']:.0f} %", "have the right one among the five best"),
            "never trained": (
                f"{unseen[0]:.0f} %",
                f"of {unseen[1]} actions that were never trained, told by their words alone, as “raising one arm” (by "
                f"chance {100 / unseen[1]:.0f} %)",
            ),
            "reversed": (
                f"{_reversed(counts, classes):.0f} %",
                "of raising and lowering, sitting down and standing up are taken for the reverse; as a mean over time "
                "has no order, thirds of a recording are compared",
            ),
        },
        commands=[
            (
                "Name actions that were never trained, by a file of their words:",
                f"sightword recognise model={run} labels={small}/motion/unseen.json split=unseen",
            ),
            (
                "With real data, once pyskl's annotations are there:",
                "sightword check dataset=pyskl path=ntu60_hrnet.pkl",
            ),
        ],
        page_note=(
            f"Trained from new weights in {seconds(run):.0f} s on 504 recordings of seven people; measured on three "
            f"others, {evaluator.protocol()['views']}. Its checkpoint was chosen on three more."
        ),
    )


def _reversed(counts: Tensor, classes: tuple[str, ...]) -> float:
    """Percent of the recordings of two pairs of actions that are taken for the other one of their pair."""
    pairs = [(classes.index(one), classes.index(other)) for one, other in REVERSED]
    swapped = sum(int(counts[a, b] + counts[b, a]) for a, b in pairs)
    return 100 * swapped / max(1, sum(int(counts[[a, b]].sum()) for a, b in pairs))


def _unseen(recognizer: ActionRecognizer, small: Path) -> tuple[float, int]:
    """Percent of recordings of actions that were never trained, named correctly by their words; number of classes."""
    other = recognizer.for_classes(read_labels(small / "motion" / "unseen.json"))
    recordings = read_annotations(other.data.annotations)
    predictions = list(other.stream(recordings, recordings.split("unseen"), labelled=True))
    return 100 * sum(one.label == one.best for one in predictions) / len(predictions), len(other.classes)


def _some(recognizer: ActionRecognizer) -> list[ActionPrediction]:
    """Predictions of recordings of different actions, evenly spread over those of the test split."""
    recordings = read_annotations(recognizer.data.annotations)
    rows = recordings.split(recognizer.data.test)
    some = [rows[(2 * number + 1) * len(rows) // (2 * SHOWN)] for number in range(SHOWN)]
    return list(recognizer.stream(recordings, some, labelled=True))
