"""Weights to start a training from: `init_from=` a run, an exported folder, a published file, a hub id.

Parameters and buffers are matched by name and shape. Strict, the default, refuses any difference;
`init_strict=false` starts from those that fit, and the others are new.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sightword.engine.class_name import rows_by_name
from sightword.engine.config import Run
from sightword.engine.predictor import Predictor, open_place, place_of
from sightword.engine.run import checkpoint_of, read_config
from sightword.engine.system import experiments
from sightword.engine.task import Task
from sightword.errors import MissingFileError, SightwordError
from sightword.storage import checkpoint
from sightword.storage.writer import write_json

LISTED = 6  # names of a kind that a message lists


class Given(NamedTuple):
    """Weights to start from."""

    weights: Mapping[str, Tensor]  # by the names of the task
    classes: Sequence[str] = ()  # of the rows of a classifier; empty if that is not known


class Origin(NamedTuple):
    """Where weights to start from come from."""

    source: str  # as the messages name it
    read: Callable[[Task[object]], Given]  # by the names of that task


class InitReport(NamedTuple):
    """How the weights of `init_from` fit a task, by names in its state dict."""

    source: str
    matched: list[str]
    missing: list[str]  # in the task and not in the source: new
    unexpected: list[str]  # in the source and not in the task: not used
    shapes: dict[str, str]  # of other shape in the source: new
    classes: dict[str, str] = {}  # with rows of other classes in the source: those of the same name are taken
    note: str = ""  # on rows of classes, where they are not simply the source's

    @property
    def fits(self) -> bool:
        """Whether nothing is missing, unexpected, of another shape or of other classes."""
        return not (self.missing or self.unexpected or self.shapes or self.classes)

    def lines(self) -> list[str]:
        """Return the report as text, a line for each kind of difference."""
        lines = [f"{self.source}: {len(self.matched)} names match"]
        kinds = {"missing, so new": self.missing, "unexpected, so not used": self.unexpected}
        kinds["of another shape, so new"] = [f"{name} ({shapes})" for name, shapes in self.shapes.items()]
        kinds["with rows of other classes"] = [f"{name} ({told})" for name, told in self.classes.items()]
        lines += [f"  {len(names)} {what}: {_few(names)}" for what, names in kinds.items() if names]
        return lines + [f"  {self.note}"] * bool(self.note)

    def write(self, folder: Path) -> None:
        """Write init.json to a run directory."""
        write_json(folder / "init.json", self._asdict())


def origin_of(config: Run) -> Origin:
    """Return the origin that init_from names, without reading its weights.

    Raises SightwordError if it is neither a file, nor a run, nor an export, nor a hub id, nor an experiment with a run.
    """
    path = Path(config.init_from).expanduser()
    if path.is_file():
        return Origin(str(path), lambda task: _of_file(path, task))
    if not path.exists() and config.init_from in dict(experiments()):
        return _of_run(_newest(config), f", the newest run of {config.init_from}, of the same seed if there is one")
    place = place_of(config.init_from)
    if place.system != config.experiment.split("/")[0]:
        raise SightwordError(
            f"init_from={config.init_from} is a model of {place.system}, the run is {config.experiment}"
        )
    if place.content is None:
        return _of_run(place.folder)
    return Origin(str(config.init_from), lambda task: _of_predictor(open_place(place)))


def initialise(task: Task[object], origin: Origin, config: Run) -> InitReport:
    """Load the weights of an origin into a task, and return the report. Raises SightwordError if they do not fit."""
    given = origin.read(task)
    own = {name: weight for name, weight in task.state_dict().items() if name in task.class_rows}
    found = rows_by_name(given.weights, given.classes, own, task.classes)
    report = compare(task, found.weights, origin.source, found.partial)
    report = report._replace(classes=found.shared, note=found.note)
    if not report.matched or (config.init_strict and not report.fits):
        advice = "Add init_strict=false to start from what matches" if report.matched else "Give such a model's weights"
        told = "; ".join(line.strip() for line in report.lines())
        raise SightwordError(f"init_from does not fit: {told}. {advice}")
    kept = {name: found.weights[name] for name in report.matched} | found.partial
    task.check_weights(kept, resumed=False)
    task.load_state_dict({**task.state_dict(), **kept})
    return report


def compare(task: Task[object], weights: Mapping[str, Tensor], source: str, others: Collection[str] = ()) -> InitReport:
    """Return how weights fit a task. Counters and thresholds of the source's own training count on neither side.

    others: names that are not compared.
    """
    own = {name: tensor for name, tensor in task.state_dict().items() if isinstance(tensor, Tensor)}
    left_out = {*task.own_state, *others}
    expected, given = (
        {name: tensor for name, tensor in each.items() if name not in left_out} for each in (own, weights)
    )
    found = checkpoint.compare(expected, given)
    shapes = {name: f"{there} there, {here} here" for name, (there, here) in found.shapes.items()}
    return InitReport(source, found.matched, found.missing, found.unexpected, shapes)


def _of_run(folder: Path, note: str = "") -> Origin:
    file = checkpoint_of(folder, "best", read_config(folder))
    return Origin(f"{file}{note}", lambda task: _of_file(file, task))


def _of_file(file: Path, task: Task[object]) -> Given:
    """Return the weights of a checkpoint of a run, or of a published file, by the names of a task."""
    saved = checkpoint.read_checkpoint(file)
    if "config" not in saved or "batches" not in saved:
        return Given(task.published(file))
    weights = {name.removeprefix("task."): weight for name, weight in checkpoint.weights_in(saved).items()}
    return Given(weights, saved.get("classes", ()))


def _of_predictor(predictor: Predictor) -> Given:
    return Given(predictor.task_weights(), predictor.classes)


def _newest(config: Run) -> Path:
    """Return the newest run of the experiment that init_from names, in out=, that has finished.

    Runs of the same seed come first: in a sweep over seeds each run starts from its own.
    """
    place = Path(config.out) / config.init_from
    runs = [folder for folder in place.glob("*") if (folder / "config.yaml").is_file()]
    configs = {folder: read_config(folder) for folder in runs}
    kept = {folder: checkpoint_of(folder, "best", each) for folder, each in configs.items()}
    there = [folder for folder, file in kept.items() if file.is_file()]
    if not there:
        raise MissingFileError(
            f"{config.experiment} starts from a run of {config.init_from}, and {place} has none that is trained. Train "
            f"one: sightword train experiment={config.init_from} …, name another with init_from=<run>, or pass "
            "init_from= to start from new weights"
        )
    own = [folder for folder in there if configs[folder].seed == config.seed] or there
    done = [folder for folder in own if (folder / "summary.json").is_file()]
    if not done:
        raise SightwordError(
            f"{own[0]} has not finished its training. Resume it: sightword train resume={own[0]}, or name another with "
            "init_from=<run>"
        )
    return max(done, key=lambda folder: kept[folder].stat().st_mtime_ns)


def _few(names: list[str]) -> str:
    more = f", … ({len(names) - LISTED} more)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
