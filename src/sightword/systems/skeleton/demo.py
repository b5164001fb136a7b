"""Its part of the demo: moving skeletons of the small world, named by their words, also those it was never told of."""

import dataclasses
import shutil
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader

from sightword.engine.run import make_task, restore
from sightword.systems.skeleton import show
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.data import Clips, split_loader
from sightword.systems.skeleton.task import SkeletonTask
from sightword.viz.page import Figure, Section, Train, seconds

SHOWN = 4  # recordings that are drawn


def section(out: Path, train: Train) -> Section:
    """Train the recogniser whose words weigh frames, then show it people, and actions, that it has never seen."""
    small, run = out.parent / "miniature", out / "run"
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    words = [
        "experiment=skeleton/visece_pacl",
        "scale=mini",
        "trainer.epochs=12",
        f"system.text={small / 'towers' / 'bert'}",
    ]
    words += [f"system.labels={small}/motion/labels.json", f"data.annotations={small}/motion/annotations.pkl"]
    if not train(run, words):
        raise KeyboardInterrupt
    task, config, _ = restore(run)
    new = dataclasses.replace(config, system=dataclasses.replace(config.system, labels=f"{small}/motion/unseen.json"))
    other = make_task(new)
    other.load_state_dict(task.state_dict())
    return _section(task, other.eval(), config.data, run, small)


def _section(task: SkeletonTask, unseen: SkeletonTask, data: SkeletonData, run: Path, small: Path) -> Section:
    loader = split_loader(data, "test", **task.reads())
    found = _measured(task, loader)
    told = _measured(unseen, split_loader(dataclasses.replace(data, test="unseen"), "test", **unseen.reads()))
    classes, counts = task.labels.classes, task.confusion
    assert counts is not None
    measures = {
        "top-1": (
            f"{found['top1']:.0f} %",
            f"of new people's actions named right (by chance {100 / len(classes):.0f} %)",
        ),
        "top-5": (f"{found['top5']:.0f} %", "have the right one among the five best"),
        "never seen": (
            f"{told['top1']:.0f} %",
            f"of {len(unseen.labels.classes)} actions it never saw, told by their words alone, as “raising one arm” "
            f"(by chance {100 / len(unseen.labels.classes):.0f} %)",
        ),
        "key moments": (
            f"{found['key_auc']:.2f}",
            "how often a frame within the action weighs more than one before or after it; 0.5 is chance",
        ),
    }
    return Section(
        title="skeleton: name an action by comparing it with its words",
        lead=(
            f"Seventeen joints over a few seconds, from three sides, some of them wrong or hidden: which of "
            f"{len(classes)} actions is it? Two pairs are each other's reverse. What is seen of the joints is compared "
            "with what the action's words mean, and each word says which moments count."
        ),
        figures=[
            Figure(show.strips(_some(task, loader), task.joints, classes), "New people, and what they are taken for."),
            Figure(show.confusion(counts, classes), "What is taken for what: rows are true, columns are said."),
        ],
        measures=measures,
        commands=[
            (
                "Name actions that were never trained, by a file of their words:",
                f"sightword recognise run={run} labels={small}/motion/unseen.json split=unseen",
            ),
            (
                "The real thing, once pyskl's annotations are there:",
                "sightword check dataset=pyskl path=ntu60_hrnet.pkl",
            ),
        ],
        page_note=(
            f"Trained from nothing in {seconds(run):.0f} s on 504 recordings of seven people; measured on three "
            f"others, {task.protocol()['views']}. Its checkpoint was chosen on three more."
        ),
    )


def _measured(task: SkeletonTask, loader: DataLoader) -> dict[str, float]:
    with torch.no_grad():
        for batch in loader:
            task.evaluate(batch)
    return task.measures()


def _some(task: SkeletonTask, loader: DataLoader) -> list[show.Watched]:
    """Recordings of different actions, evenly spread."""
    clips = cast(Clips, loader.dataset)
    rows = [(2 * number + 1) * len(clips) // (2 * SHOWN) for number in range(SHOWN)]
    return show.watch(task, clips.__getitems__(rows), [clips.name(row) for row in rows])
