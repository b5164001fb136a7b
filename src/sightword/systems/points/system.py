"""The system `points`: CLIP features lifted from posed images onto a 3-D point cloud, and fused with its geometry."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.engine.config import Run
from sightword.engine.contract import Check, Command, Evaluator, Item, Measure, Names, Step, System
from sightword.systems.points import commands
from sightword.systems.points.benchmark.command import benchmark
from sightword.systems.points.config import PointsConfig, PointsData
from sightword.systems.points.view.command import view

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.predictor import Predictor
    from sightword.systems.points.data import RoomBatch
    from sightword.systems.points.task import PointsTask


class PointsSystem(System[PointsConfig, PointsData, "PointsTask", "RoomBatch"]):
    """The point encoder as the engine uses it."""

    name, unit = "points", "scenes"
    alike = ("split", "scenes")
    Config, Data = PointsConfig, PointsData
    inputs = ("clip", "labels")

    def complete(self, run: Run) -> Run:
        """Name the label table instead of a folder of scenes: a run keeps the files that system.labels names."""
        from sightword.systems.points.scannet.label import table_of

        assert isinstance(run.system, PointsConfig)
        folder = Path(run.system.labels).expanduser()
        if not run.system.labels or not folder.is_dir():
            return run
        return replace(run, system=replace(run.system, labels=str(table_of(folder))))

    def prepare(self, run: Run) -> list[Step]:
        from sightword.systems.points.prepare import make_steps

        assert isinstance(run.system, PointsConfig)
        assert isinstance(run.data, PointsData)
        return make_steps(run.experiment, run.system, run.data)

    def task(self, config: PointsConfig) -> "PointsTask":
        from sightword.systems.points.task import make_task

        return make_task(config)

    def loaders(self, data: PointsData, seed: int, task: "PointsTask", names: Names) -> "Loaders[RoomBatch]":
        from sightword.systems.points.data import make_loaders

        return make_loaders(data, task.clip, task.labels, seed, names)

    def held_out(
        self, data: PointsData, seed: int, split: str, task: "PointsTask", names: Names
    ) -> "DataLoader[RoomBatch]":
        from sightword.systems.points.data import split_loader

        return split_loader(data, split, task.clip, task.labels, names)

    def items(self, data: PointsData, seed: int, splits: Sequence[str]) -> Mapping[str, Sequence[Item]]:
        from sightword.systems.points.data import items

        return items(data, splits)

    def divides(self, data: PointsData) -> bool:
        return not data.val_scenes

    def evaluator(self, task: "PointsTask") -> "Evaluator[RoomBatch]":
        from sightword.systems.points.evaluate import PointsEvaluator

        return PointsEvaluator(task)

    def predictor(self) -> "type[Predictor]":
        from sightword.systems.points.predict import SceneQuery

        return SceneQuery

    @property
    def commands(self) -> Sequence[Command]:
        return [
            commands.import_,
            commands.lift,
            commands.ask,
            commands.background,
            benchmark,
            commands.stream,
            view,
            commands.compare,
        ]

    @property
    def measures(self) -> Mapping[str, Measure]:
        from sightword.systems.points.measure import MEASURES

        return MEASURES

    @property
    def checks(self) -> Mapping[str, Check]:
        return {"scannet": commands.check_scannet}


SYSTEM = PointsSystem()
