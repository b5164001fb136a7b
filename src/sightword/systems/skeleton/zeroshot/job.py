"""Measure runs without some classes, and write what was found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sightword.engine.item_result import ItemResults
from sightword.errors import SightwordError
from sightword.metrics.bootstrap import interval_of
from sightword.metrics.zeroshot import curve
from sightword.storage.table import Row, columns, write_table
from sightword.storage.writer import write_json, write_png
from sightword.systems.skeleton.evaluate import clusters_of
from sightword.systems.skeleton.zeroshot.report import MEASURES, Measured, draws_of, gammas, measure
from sightword.systems.skeleton.zeroshot.score import Scored, score_run
from sightword.viz.chart import confusion
from sightword.viz.chart import curve as drawn_curve

if TYPE_CHECKING:
    from PIL.Image import Image

PROTOCOL = {
    "zsl": "recordings of unseen classes, predicted among the unseen classes",
    "seen, unseen": "all recordings of test, predicted among all classes but validation classes",
    "h": "2 · seen · unseen / (seen + unseen)",
    "ausuc": "area under the curve of (unseen, seen) over all γ, of 100",
    "calibrated": "γ is taken off the cosines of seen classes; chosen on recordings of validation classes and held-out "
    "recordings of seen classes, for the highest h (arXiv 1605.04253)",
    "class means off": "each class's mean cosine over the unlabelled recordings of test is taken off; transductive, "
    "and it assumes about as many recordings of each class",
}


class Study(NamedTuple):
    """Runs, measured."""

    scored: Sequence[Scored]
    read: Sequence[Sequence[Measured]]  # of each run, by ways
    draws: dict[str, np.ndarray]  # way → (R, draws, measures)
    unit: str  # what is drawn
    protocol: dict[str, str]


def study(runs: Sequence[Path], checkpoint: str, labels: str, gamma_from: Path | None, draws: int, seed: int) -> Study:
    """Measure runs. Raises SightwordError as `score_run`, and if a run is named twice."""
    if len(set(runs)) < len(runs) or not runs:
        raise SightwordError(f"runs={','.join(map(str, runs))} is empty or names a run twice. Name each once")
    scored = [score_run(run, checkpoint, labels) for run in runs]
    given = None
    if gamma_from is not None:
        given = gammas(score_run(gamma_from, checkpoint, labels))
        if not given:
            raise SightwordError(
                f"gamma_from={gamma_from} gives no γ: it has no validation classes. Train it with data.unseen_val="
            )
    read = [measure(one, gammas(one) if given is None else given) for one in scored]
    ways = {one.way for one in read[0]}.intersection(*({one.way for one in each} for each in read))
    read = [[one for one in each if one.way in ways] for each in read]
    names = sorted({name for one in scored for name in one.test.names})
    unit, clusters = clusters_of(names)
    found = draws_of(list(zip(scored, read, strict=True)), dict(zip(names, clusters, strict=True)), draws, seed)
    where = f"those of {gamma_from}" if gamma_from else "each run's own"
    return Study(scored, read, found, unit, _protocol(scored, ways, where, draws, unit))


def _protocol(scored: Sequence[Scored], ways: object, gamma: str, draws: int, unit: str) -> dict[str, str]:
    told = dict(PROTOCOL)
    if isinstance(ways, set) and not any(way.calibrated for way in ways):
        told["calibrated"] = "not measured: a run has no validation classes, train with data.unseen_val="
    else:
        told["calibrated"] += f"; {gamma}"
    told["intervals"] = (
        f"95 %, bootstrap over {unit} of test and over runs, {draws} draws; γ and class means as they are"
    )
    told["texts"] = ", ".join(sorted({one.texts for one in scored}))
    return told


def chance(scored: Scored) -> float:
    """Return the percentage of ZSL by chance: one of the unseen classes."""
    return 100 / int(scored.test.unseen.sum())


def table(study: Study) -> list[Row]:
    """Return a row for each run and way, and for each way the mean of all runs if there are several."""
    rows: list[Row] = []
    for number, (scored, read) in enumerate(zip(study.scored, study.read, strict=True)):
        for one in read:
            drawn = study.draws[one.way.name][number : number + 1]
            rows.append(_row(scored.run.name, one.way.name, one.values()[None], drawn, chance(scored), one.gamma))
    if len(study.scored) > 1:
        mean = float(np.mean([chance(one) for one in study.scored]))
        for place, one in enumerate(study.read[0]):
            values = np.array([read[place].values() for read in study.read])
            rows.append(_row("mean", one.way.name, values, study.draws[one.way.name], mean, None))
    return rows


def _row(run: str, way: str, values: np.ndarray, drawn: np.ndarray, by_chance: float, gamma: float | None) -> Row:
    """A row. values: (R, measures) of one run or several; drawn: (R, draws, measures)."""
    row: dict[str, str | float | None] = {"run": run, "way": way, "chance": round(by_chance, 2)}
    for place, name in enumerate(MEASURES):
        mean, low, high = interval_of(values[:, place].tolist(), drawn[..., place])
        row |= {name: round(mean, 2)}
        if name in ("zsl", "h"):
            row |= {f"{name}_low": round(low, 2), f"{name}_high": round(high, 2)}
    return row | {"gamma": None if gamma is None else round(gamma, 4)}


def lines(study: Study) -> list[str]:
    """Return the table as it is printed, and what is above chance."""
    rows = table(study)
    shown = columns([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    last = [row for row in rows if row["run"] == rows[-1]["run"] and not str(row["way"]).endswith("calibrated")]
    told = []
    for row in last:
        low, high, by_chance = (float(row[key] or 0) for key in ("zsl_low", "zsl_high", "chance"))
        verdict = "above" if low > by_chance else "below" if high < by_chance else "not told apart from"
        told.append(
            f"  {row['run']}, {row['way']}: ZSL {row['zsl']} % [{low}, {high}], {verdict} chance ({by_chance} %)"
        )
    return [*shown, *told, *(f"  {what}: {text}" for what, text in study.protocol.items())]


def write(folder: Path, study: Study) -> list[Path]:
    """Write zeroshot.json, its tables, and for each run its cosines and figures. Return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    file, rows = folder / "zeroshot.json", table(study)
    runs = [
        {
            "run": str(scored.run),
            "unseen": [name for name, one in zip(scored.test.classes, scored.test.unseen, strict=True) if one],
            "validation_classes": []
            if scored.val is None
            else [name for name, one in zip(scored.val.classes, scored.val.unseen, strict=True) if one],
            "recordings": {"test": len(scored.test.names), "validation": len(scored.val.names) if scored.val else 0},
        }
        for scored in study.scored
    ]
    write_json(file, {"runs": runs, "table": rows, "protocol": study.protocol})
    files = [file, *write_table(file, "table", rows, study.protocol)]
    stems = [
        f"{number}_{one.run.name}" if len(study.scored) > 1 else "zeroshot" for number, one in enumerate(study.scored)
    ]
    for stem, scored, read in zip(stems, study.scored, study.read, strict=True):
        files += _write_run(folder, stem, scored, read, study.unit)
    return files


def _write_run(folder: Path, stem: str, scored: Scored, read: Sequence[Measured], unit: str) -> list[Path]:
    """Write the cosines of a run's recordings, the curves and the confusions among unseen classes."""
    test = scored.test
    arrays = {
        "scores": test.cosines,
        "label": test.labels,
        "predicted": test.cosines.argmax(1),
        "unseen": test.unseen[test.labels],
    }
    items, curves, confused = (folder / f"{stem}_{what}" for what in ("items.npz", "curve.png", "confusion.png"))
    ItemResults.of(unit, test.names, clusters_of(test.names)[1], arrays).write(items)
    write_png(_curves(scored, read), curves)
    names = [name for name, one in zip(test.classes, test.unseen, strict=True) if one]
    own = test.unseen[test.labels]
    place = np.cumsum(test.unseen) - 1
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (place[test.labels[own]], test.cosines[own][:, test.unseen].argmax(1)), 1)
    write_png(confusion(counts, names, f"{scored.run.name}: unseen classes among themselves"), confused)
    return [items, curves, confused]


def _curves(scored: Scored, read: Sequence[Measured]) -> "Image":
    """Accuracy of seen over that of unseen classes as γ changes, and where the ways are on it."""
    series: dict[str, list[tuple[float, float]]] = {}
    for one in read:
        if not one.way.calibrated:
            series[one.way.name] = [(100 * unseen, 100 * seen) for _, unseen, seen in curve(one.everyone).tolist()]
    for one in read:
        if one.way.calibrated:
            _, seen, unseen, height, _ = one.values()
            series[f"{one.way.name}: H = {height:.1f}"] = [(unseen, seen)]
    title = f"{scored.run.name}: {int(scored.test.unseen.sum())} unseen of {len(scored.test.classes)} classes"
    labels = {"x_label": "accuracy of unseen classes, %", "y_label": "accuracy of seen classes, %"}
    return drawn_curve(series, title, (640, 420), y_range=(0, 100), **labels)
