"""The parts of a system and the methods that the engine calls on each. No torch: `sightword list` imports it.

System      a folder of `systems/`: makes the other parts of a config
Task        the objective: a batch in, named losses out (engine/task.py, as it is a torch module)
Evaluator   gathers a split, computes its metrics, tabulates and draws
Predictor   a trained model for users: returns a `Result` for each input (engine/predictor.py)
Step        something to compute before training, resumable
Finding     one problem that a check found in data (data/finding.py)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from sightword.data.content import Item as Item
from sightword.data.finding import CheckReport as CheckReport
from sightword.data.finding import Finding as Finding
from sightword.engine.config import DataConfig, Run, SystemConfig
from sightword.storage.table import Row as Row
from sightword.storage.writer import png_data_uri

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.item_result import ItemResults
    from sightword.engine.predictor import Predictor
    from sightword.engine.task import Task
    from sightword.storage.fields import Fields

BatchT = TypeVar("BatchT")
ConfigT = TypeVar("ConfigT", bound=SystemConfig)
DataT = TypeVar("DataT", bound=DataConfig)
TaskT = TypeVar("TaskT", bound="Task[Any]")

Metrics = dict[str, float]

#: Split → the names of its items that a run uses, in order. Empty: every item, as the data set divides itself.
Names = Mapping[str, Sequence[str]]

#: A command: a function whose keyword arguments are the command line's, and whose docstring is its help.
Command = Callable[..., None]
#: A check of a data set: keyword arguments from the command line, `root` first.
Check = Callable[..., CheckReport]

#: How a run used a split, for the protocol beside its metrics.
SPLITS = {
    "train": "train: the run was trained on it",
    "val": "val: never trained on; best.ckpt was chosen on it",
    "test": "test: never trained on, and nothing was chosen on it",
}


@dataclass(frozen=True)
class Step:
    """A computation that training needs and that is done once: anchors, cached tokens, ids, maps.

    `execute` shows its progress on stderr, can be stopped at any time, and then resumes where it was.
    """

    name: str  # of the result, as progress lines show it: "CLIP maps of 1,204 frames"
    out: Path  # where the result is written
    is_done: Callable[[], bool]
    execute: Callable[[], None]
    command: str  # the command line that does the same


@dataclass(frozen=True)
class Measure:
    """A metric as a function of the items of a split, so that it can be computed of some of them, and of some twice.

    values(arrays, weights): arrays of `ItemResults`, name → (N, …); weights (D, N), how often each item counts in each
    of D draws. Returns (D,) float64. With all weights 1 it is what the evaluator computes.
    """

    values: "Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]"
    less_is_better: bool = False


class Evaluator(ABC, Generic[BatchT]):
    """The metrics of a task on a split: `update` for every batch, then `compute`.

    The other methods describe the result of the last `compute`.
    """

    split: str = "val"  # of the batches since the last `compute`

    @abstractmethod
    def metric_names(self) -> frozenset[str]:
        """Return every name that `compute` may return; `trainer.monitor` is checked against them before training."""

    @abstractmethod
    def update(self, batch: BatchT) -> None:
        """Add a batch. Called without gradients, with the task in eval mode."""

    @abstractmethod
    def compute(self) -> Metrics:
        """Return the metrics of all batches since the last call, reduced over ranks, and reset.

        Runs no network. A buffer of the task that it writes, such as a threshold, is saved with the weights.
        """

    def protocol(self) -> dict[str, str]:
        """Return how the metrics are computed, as topic → text, so that another program can reproduce them."""
        return {}

    def notes(self) -> dict[str, str]:
        """Return metric name → a short remark, which is printed beside the number."""
        return {}

    def tables(self) -> dict[str, list[Row]]:
        """Return the tables behind the last metrics, as name → rows."""
        return {}

    def images(self, batch: BatchT) -> dict[str, "Image"]:
        """Return images to log for a batch, as name → PIL image. Called without gradients, in eval mode."""
        return {}

    def items(self, loader: "DataLoader[BatchT]") -> "ItemResults | None":
        """Return what the last `compute` found for each item; None without. No collective: every rank has them all.

        loader: the data that were evaluated. `System.measures` are functions of these.
        """
        return None

    def draw(self, loader: "DataLoader[BatchT]", folder: Path) -> list[Path]:
        """Write figures of the last metrics to a folder and return the files. loader: the data that were evaluated."""
        return []


class Result(ABC):
    """A prediction for one input. A frozen dataclass whose fields state shapes and units."""

    @abstractmethod
    def plot(self) -> "Image":
        """Return a figure of the prediction."""

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """Return plain values, fit for JSON."""

    def _repr_html_(self) -> str:
        """Return the figure with the text below it, as a notebook shows it."""
        return f'<figure><img src="{png_data_uri(self.plot())}"><figcaption>{escape(repr(self))}</figcaption></figure>'


class System(ABC, Generic[ConfigT, DataT, TaskT, BatchT]):
    """A research system: the one object that `systems/<name>/system.py` offers, as `SYSTEM`.

    Attributes are cheap to read. Methods import what they need, torch included, when they are called.
    """

    name: str
    Config: type[ConfigT]  # dataclasses: the schema of `system.` and `data.` in YAML and on the command line
    Data: type[DataT]
    unit: ClassVar[str] = "items"  # what the data are counted in: images, recordings, scenes
    inputs: ClassVar[tuple[str, ...]] = ()  # fields of Config that name files which prediction needs, if they are local
    alike: ClassVar[tuple[str, ...]] = ("split",)  # topics of the protocol that must be equal for runs to be compared
    configs: Path | None = None  # a folder with experiment/<name>/*.yaml, for a system outside of this package

    def complete(self, run: Run) -> Run:
        """Return the config with values that its data decide, such as the names of the classes, before training."""
        return run

    @abstractmethod
    def task(self, config: ConfigT) -> TaskT:
        """Return the task of a config. New weights are drawn from torch's global generator."""

    @abstractmethod
    def loaders(self, data: DataT, seed: int, task: TaskT, names: Names) -> "Loaders[BatchT]":
        """Return the loaders of training and validation. task: of the same run, for its preprocessing or classes.

        names: the items of train and val that the run uses, as `items` names them; empty: all, as the data divide them.
        """

    @abstractmethod
    def evaluator(self, task: TaskT) -> Evaluator[BatchT]:
        """Return the evaluator of a task."""

    @abstractmethod
    def held_out(self, data: DataT, seed: int, split: str, task: TaskT, names: Names) -> "DataLoader[BatchT]":
        """Return the loader of a split to evaluate: train, val or test. names: as above, of that split.

        Raises SightwordError for an unknown split.
        """

    def items(self, data: DataT, seed: int, splits: Sequence[str]) -> Mapping[str, Sequence[Item]]:
        """Return the items of some splits, which a run's record keeps by content. A system without any keeps no record.

        seed: of the run, for a system that `divides`. Equal items of train and val would be on both sides.
        """
        return {split: [] for split in splits}

    def divides(self, data: DataT) -> bool:
        """Return whether the system itself divides these data into train and val; otherwise they state it."""
        return False

    def prepare(self, run: Run) -> list[Step]:
        """Return the steps that must be done before training, in order, including those that are done."""
        return []

    def predictor(self) -> "type[Predictor] | None":
        """Return the predictor class; None if the system has none."""
        return None

    def reads(self, content: "Fields") -> bool:
        """Return whether a config.json that names no system is nevertheless one of this system's models."""
        return False

    @property
    def commands(self) -> Sequence[Command]:
        """The commands of this system alone."""
        return []

    @property
    def measures(self) -> Mapping[str, Measure]:
        """Metric name → the metric as a function of items, for `sightword table`."""
        return {}

    @property
    def checks(self) -> Mapping[str, Check]:
        """Name of a data set → its check, for `sightword check dataset=<name>`."""
        return {}
