"""What a system is made of, and what the engine asks of each part. No torch: `sightword list` reads it.

System      a folder of `systems/`: makes the other parts of a config
Task        the objective: a batch in, named losses out (engine/task.py, as it is a torch module)
Evaluator   gathers a split, computes its metrics, tabulates and draws
Predictor   what a user holds: one input or many in, `Result`s out
Step        something to compute before training, resumable
Finding     what a check says about data (data/finding.py)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from sightword.data.finding import CheckReport as CheckReport
from sightword.data.finding import Finding as Finding
from sightword.engine.config import DataConfig, Run, SystemConfig
from sightword.storage.table import Row as Row

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.task import Task

BatchT = TypeVar("BatchT")
ConfigT = TypeVar("ConfigT", bound=SystemConfig)
DataT = TypeVar("DataT", bound=DataConfig)
TaskT = TypeVar("TaskT", bound="Task[Any]")

Metrics = dict[str, float]

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
    """Something that training needs and that is computed once: anchors, cached tokens, ids, maps.

    `execute` shows its progress on stderr, can be stopped at any time, and then resumes where it was.
    """

    name: str  # what it makes, for people: "CLIP maps of 1,204 frames"
    out: Path  # where that lies
    is_done: Callable[[], bool]
    execute: Callable[[], None]
    command: str  # that does the same by itself


class Evaluator(ABC, Generic[BatchT]):
    """Measures a task on a split: `update` for every batch, then `compute`; the other methods describe that result."""

    split: str = "val"  # of the batches that were measured last

    @abstractmethod
    def metric_names(self) -> frozenset[str]:
        """Return every name that `compute` may give, for `trainer.monitor` to be checked before training."""

    @abstractmethod
    def update(self, batch: BatchT) -> None:
        """Add a batch to what is gathered. Called without gradients, with the task in eval mode."""

    @abstractmethod
    def compute(self) -> Metrics:
        """Return the metrics of all batches since the last call, reduced over ranks, and reset.

        Runs no network. A buffer of the task that it writes, as a threshold, is saved with the weights measured.
        """

    def protocol(self) -> dict[str, str]:
        """Return how the metrics were measured, so that another program can measure them again."""
        return {}

    def notes(self) -> dict[str, str]:
        """Return a few words on a metric, by its name: printed beside the number."""
        return {}

    def tables(self) -> dict[str, list[Row]]:
        """Return what the last metrics were computed from, as name → rows."""
        return {}

    def images(self, batch: BatchT) -> dict[str, "Image"]:
        """Return images to log for a batch, as name → PIL image. Called without gradients, in eval mode."""
        return {}

    def draw(self, loader: "DataLoader[BatchT]", folder: Path) -> list[Path]:
        """Write figures of what was measured last, which `loader` gave, to a folder. Return the files."""
        return []


class Result(ABC):
    """A prediction for one input. A frozen dataclass whose fields state shapes and units."""

    @abstractmethod
    def plot(self) -> "Image":
        """Return a picture of the prediction."""

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """Return plain values, fit for JSON."""


class Predictor(ABC):
    """A trained model as its user holds it: calls take one input or many and return `Result`s.

    Made of a run's task, or of a folder that `save_pretrained` wrote (see `engine.run.load_predictor`).
    """

    @classmethod
    @abstractmethod
    def from_task(cls, task: "Task[BatchT]") -> Self:
        """Return the predictor of a trained task. Raises SightwordError if it cannot predict for that one."""

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read what `save_pretrained` wrote. Raises SightwordError if the folder is not that."""

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write what prediction needs, and nothing else: safetensors and config.json."""


class System(ABC, Generic[ConfigT, DataT, TaskT, BatchT]):
    """A research system: the one object that `systems/<name>/system.py` offers, as `SYSTEM`.

    Attributes are cheap to read. Methods import what they need, torch included, when they are called.
    """

    name: str
    Config: type[ConfigT]  # dataclasses: the schema of `system.` and `data.` in YAML and on the command line
    Data: type[DataT]
    configs: Path | None = None  # a folder with experiment/<name>/*.yaml, for a system outside of this package

    @abstractmethod
    def task(self, config: ConfigT) -> TaskT:
        """Return the task of a config, its new weights drawn from torch's global generator."""

    @abstractmethod
    def loaders(self, data: DataT, seed: int, task: TaskT) -> "Loaders[BatchT]":
        """Return what a config trains and validates on. task: of the same run, for what loaders need to know of it."""

    @abstractmethod
    def evaluator(self, task: TaskT) -> Evaluator[BatchT]:
        """Return what measures a task."""

    @abstractmethod
    def held_out(self, data: DataT, seed: int, split: str, task: TaskT) -> "DataLoader[BatchT]":
        """Return the loader of a split to measure: train, val or test. Raises SightwordError for an unknown one."""

    def prepare(self, run: Run) -> list[Step]:
        """Return the steps that training needs first, in their order, done or not."""
        return []

    def predictor(self) -> type[Predictor] | None:
        """Return the class of its predictor; None if it has none."""
        return None

    @property
    def commands(self) -> Sequence[Command]:
        """The commands that only this system has."""
        return []

    @property
    def checks(self) -> Mapping[str, Check]:
        """Name of a data set → its check, for `sightword check dataset=<name>`."""
        return {}
