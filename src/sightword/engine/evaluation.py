"""The files of an evaluation: `evaluation.json`, or `evaluation_test.json` for test, and what lies beside it.

evaluation.json              metrics, tables, protocol, and what was measured: checkpoint and data by digest
evaluation_items.npz         results item by item, see `engine.item_result`; <name of the JSON>_items.npz
evaluation_classes.csv …     tables, and evaluation_images/
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sightword.data.content import digest_of
from sightword.engine.contract import Evaluator
from sightword.engine.item_result import ItemResults, read_items
from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json
from sightword.storage.table import write_table
from sightword.storage.writer import write_json

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


def evaluation_name(split: str) -> str:
    """Return the name of the JSON file of a split's evaluation."""
    return "evaluation.json" if split == "val" else f"evaluation_{split}.json"


def items_file(report: Path) -> Path:
    """Return the file of items that belongs to an evaluation's JSON file."""
    return report.with_name(f"{report.stem}_items.npz")


class Source(NamedTuple):
    """What was evaluated."""

    run: Path
    checkpoint: Path
    split: str
    data_digest: str  # of the items that were chosen, and their annotations; empty if the run has no record of data
    overrides: tuple[str, ...] = ()  # of the run's config
    findings: tuple[str, ...] = ()  # what changed in the data since the run began

    def plain(self) -> dict[str, object]:
        """Return the fields of the JSON file."""
        return {
            "run": self.run.as_posix(),
            "checkpoint": self.checkpoint.as_posix(),
            "checkpoint_digest": digest_of([self.checkpoint]),
            "split": self.split,
            "overrides": list(self.overrides),
            "data_digest": self.data_digest,
            "data": list(self.findings),
        }


def write_evaluation(
    file: Path,
    evaluator: Evaluator[object],
    loader: "DataLoader[object]",
    metrics: Mapping[str, float],
    source: Source,
) -> list[Path]:
    """Write the items, the JSON, the tables and the figures. Return the files beside the JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    protocol, tables, items = evaluator.protocol(), evaluator.tables(), evaluator.items(loader)
    report: dict[str, object] = {**source.plain(), "metrics": dict(metrics), "tables": tables}
    written = []
    if items is not None:
        items.write(items_file(file))
        written = [items_file(file)]
        counts = {"count": len(items.id), "clusters": len(set(items.cluster.tolist())), "unit": items.unit}
        report["items"] = {"file": items_file(file).name, **counts, "digest": items.digest}
    write_json(file, report | {"protocol": {**protocol, "metrics": evaluator.notes()}})
    written += [path for name, rows in tables.items() for path in write_table(file, name, rows, protocol)]
    return written + evaluator.draw(loader, file.with_name(f"{file.stem}_images"))


class Evaluation(NamedTuple):
    """An evaluation, read from its files."""

    file: Path
    split: str
    checkpoint: str  # best, last, or the path of another file
    overrides: tuple[str, ...]
    data_digest: str
    metrics: Mapping[str, float]
    protocol: Mapping[str, str]
    items: ItemResults


def read_evaluation(run: Path, split: str) -> Evaluation | None:
    """Return the evaluation of a run's split, as `sightword evaluate run=…` wrote it into the run directory.

    None if it is missing, from before items were written, or of a checkpoint that was trained further since.
    Raises SightwordError if its files are damaged or do not belong together.
    """
    file = run / evaluation_name(split)
    if not file.is_file():
        return None
    report = read_json(file, damaged=f"Write it again: {evaluate_command(run, split)}")
    if "items" not in report or _is_stale(run, report):
        return None
    items = read_items(file.parent / Path(report.mapping("items").text("file")).name)
    if items.digest != report.mapping("items").text("digest"):
        raise SightwordError(f"{items_file(file)} is not of {file}. Write both again: {evaluate_command(run, split)}")
    metrics, protocol = report.mapping("metrics"), report.mapping("protocol")
    checkpoint = Path(report.text("checkpoint"))
    return Evaluation(
        file,
        split,
        checkpoint.stem if checkpoint.parent.name == "checkpoints" else checkpoint.as_posix(),
        tuple(report.texts("overrides")),
        report.text("data_digest"),
        {name: metrics.number(name) for name in metrics if metrics.value(name) is not None},
        {name: protocol.text(name) for name in protocol if name != "metrics"},
        items,
    )


def _is_stale(run: Path, report: Fields) -> bool:
    """Return whether the checkpoint has changed since; one that is gone cannot be compared."""
    file = run / "checkpoints" / Path(report.text("checkpoint")).name
    return file.is_file() and digest_of([file]) != report.text("checkpoint_digest")


def evaluate_command(run: Path, split: str) -> str:
    """Return the command line that evaluates a split of a run."""
    import shlex

    return shlex.join(["sightword", "evaluate", f"run={run}", *([] if split == "val" else [f"split={split}"])])
