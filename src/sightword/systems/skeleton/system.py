"""The system `skeleton`: name the action of a moving skeleton by comparing it with the action's words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sightword.engine.config import Run
from sightword.engine.contract import Check, Command, Evaluator, Item, Measure, Names, System
from sightword.systems.skeleton import commands
from sightword.systems.skeleton.config import SkeletonConfig, SkeletonData
from sightword.systems.skeleton.control.command import control
from sightword.systems.skeleton.zeroshot.command import zeroshot

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.predictor import Predictor
    from sightword.systems.skeleton.data import SkeletonBatch
    from sightword.systems.skeleton.task import SkeletonTask


class SkeletonSystem(System[SkeletonConfig, SkeletonData, "SkeletonTask", "SkeletonBatch"]):
    """Action recognition as the engine uses it."""

    name, unit = "skeleton", "recordings"
    alike = ("split", "views", "mean_class")
    Config, Data = SkeletonConfig, SkeletonData
    inputs = ("joints", "labels", "text")

    def complete(self, run: Run) -> Run:
        """Find the unseen classes, which the labels name."""
        from sightword.systems.skeleton.unseen import with_unseen

        assert isinstance(run.system, SkeletonConfig)
        assert isinstance(run.data, SkeletonData)
        system, data = with_unseen(run.system, run.data)
        return replace(run, system=system, data=data)

    def task(self, config: SkeletonConfig) -> "SkeletonTask":
        from sightword.systems.skeleton.task import make_task

        return make_task(config)

    def loaders(self, data: SkeletonData, seed: int, task: "SkeletonTask", names: Names) -> "Loaders[SkeletonBatch]":
        from sightword.systems.skeleton.data import make_loaders
        from sightword.systems.skeleton.unseen import check_unseen

        check_unseen(task.system, data, task.labels)
        return make_loaders(data, seed, task.joints, task.labels.classes, names)

    def held_out(
        self, data: SkeletonData, seed: int, split: str, task: "SkeletonTask", names: Names
    ) -> "DataLoader[SkeletonBatch]":
        from sightword.systems.skeleton.data import split_loader
        from sightword.systems.skeleton.unseen import check_unseen

        check_unseen(task.system, data, task.labels)
        return split_loader(data, split, task.joints, task.labels.classes, names)

    def items(self, data: SkeletonData, seed: int, splits: Sequence[str]) -> Mapping[str, Sequence[Item]]:
        from sightword.systems.skeleton.data import items

        return items(data, splits)

    def divides(self, data: SkeletonData) -> bool:
        return not data.val

    def evaluator(self, task: "SkeletonTask") -> "Evaluator[SkeletonBatch]":
        from sightword.systems.skeleton.evaluate import SkeletonEvaluator

        return SkeletonEvaluator(task)

    def predictor(self) -> "type[Predictor]":
        from sightword.systems.skeleton.predict import ActionRecognizer

        return ActionRecognizer

    @property
    def commands(self) -> Sequence[Command]:
        return [commands.recognise, commands.ensemble, commands.convert, commands.skeletons, control, zeroshot]

    @property
    def measures(self) -> Mapping[str, Measure]:
        from sightword.systems.skeleton.measure import MEASURES

        return MEASURES

    @property
    def checks(self) -> Mapping[str, Check]:
        return {"pyskl": commands.check_pyskl}


SYSTEM = SkeletonSystem()
