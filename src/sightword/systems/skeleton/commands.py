"""The commands only the recognition of actions has. Nothing heavy is imported before one runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightword.data.check import Report
    from sightword.systems.skeleton.show import Watched

TOLD = 40  # recordings that are printed; the table has all


def recognise(
    run: str,
    annotations: str = "",
    labels: str = "",
    split: str = "",
    out: str = "recognised",
    top: int = 5,
    strips: int = 6,
    truth: bool = True,
    checkpoint: str = "best",
) -> None:
    """Name the actions of recordings, also among classes that were never trained: labels= is then their words.

    run: a run's folder. annotations: a .pkl as pyskl has them, or an .npz; the run's own if empty.
    labels: other classes, {class: [prompts]} as JSON, or a list of names; for a run that recognises by words.
    split: a split of the annotations; all recordings if empty. out: the folder for the table, the strips and, where
    classes are known, the confusion matrix. top: classes of a recording in the table. strips: recordings that are
    drawn, evenly spread. truth: whether the labels in the annotations are numbers of these classes; if false they are
    not looked at.
    """
    for name, value, least in (("top", top, 1), ("strips", strips, 0)):
        if value < least:
            raise ValueError(f"{name} is at least {least}, got {value}")
    folder = Path(out).expanduser()
    task, data = _open(run, checkpoint, labels, annotations)
    classes, joints = tuple(task.reads()["classes"]), task.reads()["joints"]
    watched = list(_watched(task, data, split, truth, strips))
    print("\n".join(_lines(watched, classes)))
    measured = _measures(watched, len(classes))
    protocol = _protocol(task, data)
    files = _write(folder, watched, classes, joints, top, measured, {"run": run, "protocol": protocol})
    for what, number in measured.items():
        print(f"  {what:<20} {number:.4g}")
    for what, text in protocol.items():
        print(f"  {what}: {text}")
    print(f"{len(watched)} recordings; written to {', '.join(map(str, files))}")


def convert(annotations: str, out: str) -> None:
    """Rewrite annotations as .npz, a smaller file that holds arrays only: nothing in it can be executed.

    annotations: a .pkl as pyskl has them, read without executing what it may hold. out: the file to write.
    """
    if not out.endswith(".npz"):
        raise ValueError(f"out={out}: the file to write ends in .npz")
    from sightword.systems.skeleton.annotations import read_annotations, write_npz

    recordings = read_annotations(Path(annotations).expanduser())
    file = Path(out).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_npz(recordings, file)
    print(f"{len(recordings)} recordings written to {file}")
    print(f"next: sightword train experiment=skeleton/visece data.annotations={file}")


def check_pyskl(root: str, classes: int = 0) -> "Report":
    """An annotation file as pyskl has them: its keys, shapes, numbers, splits. classes: how many labels there are."""
    from sightword.systems.skeleton import annotations

    return annotations.check_pyskl(root, classes)


def _open(run: str, checkpoint: str, labels: str, annotations: str) -> tuple[Any, Any]:
    """(task on the device, its data): of the run, with other classes and another file where they are told."""
    import dataclasses

    from sightword.engine.run import read_config, restore
    from sightword.storage import shards

    folder = Path(run).expanduser()
    config = read_config(folder)
    if config.experiment.split("/")[0] != "skeleton":
        raise ValueError(f"{run} is a run of {config.experiment}, which names no actions: give one of skeleton/…")
    if labels:
        if config.system.recognise_by != "text":
            raise ValueError(
                f"{run} was trained with a classifier, one output a class: other labels need a run that recognises by "
                "words, as skeleton/visece"
            )
        config.system = dataclasses.replace(config.system, labels=str(Path(labels).expanduser()))
    if annotations:
        config.data = dataclasses.replace(config.data, annotations=str(Path(annotations).expanduser()))
    task, config, _ = restore(folder, checkpoint, config)
    return task.to(shards.device()), config.data


def _watched(task: Any, data: Any, split: str, truth: bool, strips: int) -> Iterator["Watched"]:
    """Each recording of a split, in its order; poses are kept of `strips` of them, evenly spread."""
    import dataclasses

    import torch
    from tqdm import tqdm

    from sightword.data.loader import moved
    from sightword.storage import shards
    from sightword.systems.skeleton.annotations import read_annotations
    from sightword.systems.skeleton.data import split_loader
    from sightword.systems.skeleton.show import watch

    recordings = read_annotations(data.annotations)
    numbers, known = recordings.split(split), task.reads()
    highest, count = int(recordings.labels[numbers].max()), len(known["classes"])
    if not truth:  # the loader asks whether labels are below the number of classes
        known["classes"] = tuple(map(str, range(highest + 1)))
    elif highest >= count:
        raise ValueError(
            f"{data.annotations} has the label {highest} and there are {count} classes: say truth=false if its labels "
            "are of another list, or split= of the recordings that these classes are of"
        )
    loader = split_loader(dataclasses.replace(data, test=split), "test", **known)
    kept = {number * len(numbers) // strips for number in range(strips)}
    device = shards.device()
    with torch.no_grad():
        for batch in tqdm(loader, desc="recognising", unit=" batches", disable=None):
            names = [recordings.names[numbers[number]] for number in batch.index.tolist()]
            for number, one in zip(batch.index.tolist(), watch(task, moved(batch, device), names, truth), strict=True):
                yield one if number in kept else one.light()


def _lines(watched: Sequence["Watched"], classes: Sequence[str]) -> list[str]:
    """A line for each of the first recordings: its name, its class, how probable, and what it is if it is not that."""
    shown = watched[:TOLD]
    names = max((len(one.name) for one in shown), default=0)
    said = max((len(classes[one.best]) for one in shown), default=0)
    lines = []
    for one in shown:
        wrong = f"  it is {classes[one.label]}" if one.label not in (None, one.best) else ""
        lines.append(f"{one.name:<{names}}  {classes[one.best]:<{said}}  {one.chances[one.best]:.2f}{wrong}")
    return [*lines, f"… and {len(watched) - TOLD} more, in the table"] if len(watched) > TOLD else lines


def _measures(watched: Sequence["Watched"], classes: int) -> dict[str, float]:
    """Percent of the recordings whose class is known, and whether the weights tell their key moments."""
    import numpy as np
    import torch

    from sightword.metrics.classes import mean_class_accuracy, top_k
    from sightword.systems.skeleton.show import confusion_of, weights_against_truth

    known = [one for one in watched if one.label is not None]
    found: dict[str, float] = {}
    if known:
        scores = torch.from_numpy(np.stack([one.chances for one in known]))
        labels = torch.tensor([one.label for one in known])
        counts = confusion_of(known, classes)
        found["top1"] = 100 * float(top_k(scores, labels, 1))
        if classes > 5:
            found["top5"] = 100 * float(top_k(scores, labels, 5))
        found |= {"mean_class": 100 * float(mean_class_accuracy(counts)), "chance": 100 / classes}
    if watched and watched[0].weights is not None:
        weights = np.stack([one.weights for one in watched if one.weights is not None])
        found |= weights_against_truth(weights, np.stack([one.key for one in watched]))
    return found


def _protocol(task: Any, data: Any) -> dict[str, str]:
    """How it was done: the views, and what the task says of its probabilities and classes."""
    mirrored = ", each mirrored too" if data.test_flip else ""
    size = "×".join(map(str, data.test_size))
    views = f"{data.test_clips} of {data.frames} frames at {size} of each recording{mirrored}; probabilities averaged"
    told = task.protocol()
    return {"views": views, **{name: told[name] for name in ("probabilities", "classes") if name in told}}


def _write(
    folder: Path,
    watched: Sequence["Watched"],
    classes: Sequence[str],
    joints: Any,
    top: int,
    measured: Mapping[str, float],
    note: Mapping[str, Any],
) -> list[Path]:
    """recognised.csv, recognised.json and the pictures: which files."""
    import json

    from sightword.storage.atomic import write_atomically
    from sightword.systems.skeleton import show

    folder.mkdir(parents=True, exist_ok=True)
    files = [_write_table(folder / "recognised.csv", watched, classes, min(top, len(classes)))]
    files.append(folder / "recognised.json")
    with write_atomically(files[1]) as part:
        part.write_text(json.dumps({**note, "recordings": len(watched), "measures": measured}, indent=2) + "\n")
    known = [one for one in watched if one.label is not None]
    counts = show.confusion_of(known, len(classes)) if known else None
    return files + show.draw(watched, joints, classes, folder, counts)


def _write_table(file: Path, watched: Sequence["Watched"], classes: Sequence[str], top: int) -> Path:
    """A row a recording: its name, its class where it is known, and the best classes with their probabilities."""
    import csv

    from sightword.storage.atomic import write_atomically

    with write_atomically(file) as part, open(part, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        columns = [f"{what}_{place}" for place in range(1, top + 1) for what in ("class", "probability")]
        writer.writerow(["recording", "truth", "right", *columns])
        for one in watched:
            truth = "" if one.label is None else classes[one.label]
            right = "" if one.label is None else int(one.label == one.best)
            ranked = [cell for name, chance in one.ranked(classes, top) for cell in (name, f"{chance:.6f}")]
            writer.writerow([one.name, truth, right, *ranked])
    return file


COMMANDS: list[Callable[..., Any]] = [recognise, convert]
CHECKS: dict[str, Callable[..., Any]] = {"pyskl": check_pyskl}
