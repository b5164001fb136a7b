"""The system `intent`: why was this photo posted? 28 intents, computed through codebooks whose codes are words."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from sightword.engine.config import Run
from sightword.engine.contract import Check, Command, Evaluator, Item, Measure, Names, Step, System
from sightword.systems.intent import commands
from sightword.systems.intent.config import IntentConfig, IntentData

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.predictor import Predictor
    from sightword.systems.intent.data import Inputs, IntentBatch
    from sightword.systems.intent.task import IntentTask


class IntentSystem(System[IntentConfig, IntentData, "IntentTask", "IntentBatch"]):
    """Intent classification as the engine uses it."""

    name, unit = "intent", "images"
    alike = ("split", "official", "f1", "map", "classes")
    Config, Data = IntentConfig, IntentData
    inputs = ("tower", "semantic_anchors_path", "calibration")

    def complete(self, run: Run) -> Run:
        from sightword.systems.intent.prepare import completed

        config, data = cast(IntentConfig, run.system), cast(IntentData, run.data)
        if data.ids and not config.reads_ids and (data.cache or config.calibrated):  # they need not even exist
            data = replace(data, ids="")
        return replace(run, system=completed(config, data), data=data)

    def task(self, config: IntentConfig) -> "IntentTask":
        from sightword.systems.intent.task import make_task

        return make_task(config)

    def loaders(self, data: IntentData, seed: int, task: "IntentTask", names: Names) -> "Loaders[IntentBatch]":
        from sightword.systems.intent.data import make_loaders

        return make_loaders(_readable(data, task), _inputs(task), seed, names)

    def held_out(
        self, data: IntentData, seed: int, split: str, task: "IntentTask", names: Names
    ) -> "DataLoader[IntentBatch]":
        from sightword.systems.intent.data import split_loader

        return split_loader(_readable(data, task), split, _inputs(task), names)

    def items(self, data: IntentData, seed: int, splits: Sequence[str]) -> Mapping[str, Sequence[Item]]:
        from sightword.systems.intent.data import items

        return items(data, splits)

    def divides(self, data: IntentData) -> bool:
        from sightword.systems.intent.data import root_of
        from sightword.systems.intent.labels import is_own, read_labels

        return is_own(data.root) and read_labels(root_of(data), data.images).divided

    def evaluator(self, task: "IntentTask") -> "Evaluator[IntentBatch]":
        from sightword.systems.intent.evaluate import IntentEvaluator

        return IntentEvaluator(task)

    def prepare(self, run: Run) -> list[Step]:
        from sightword.systems.intent.prepare import steps

        return steps(cast(IntentConfig, run.system), cast(IntentData, run.data))

    def predictor(self) -> "type[Predictor]":
        from sightword.systems.intent.predict import IntentClassifier

        return IntentClassifier

    @property
    def commands(self) -> Sequence[Command]:
        return [commands.anchors, commands.calibrate, commands.ids, commands.show, commands.faithful]

    @property
    def measures(self) -> Mapping[str, Measure]:
        from sightword.systems.intent.measure import MEASURES

        return MEASURES

    @property
    def checks(self) -> Mapping[str, Check]:
        return {"intentonomy": commands.check_intentonomy, "labels": commands.check_labels}


def _inputs(task: "IntentTask") -> "Inputs":
    """The facts about the task that the loaders need. The image encoder is only opened for batches of images."""
    from sightword.systems.intent.data import Inputs

    return Inputs(task.classes, task.reads, task.pooled_only, lambda: task.tower.on().preprocess)


def _readable(data: IntentData, task: "IntentTask") -> IntentData:
    """Tokens instead of ids for a task that trains codes or adapters, or has no codebooks.

    Raises SightwordError if the tokens are of another encoder than the task's calibration.
    """
    if data.cache and task.calibration is not None:
        from sightword.towers.token_cache import TokenCache

        if (weights := str(TokenCache(data.cache).header["weights"])) != task.calibrated_on:
            task.calibration.check_tower(weights, f"data.cache={data.cache}")
    if not (data.ids and data.cache) or task.reads_ids:
        return data
    found = copy(data)
    found.ids = ""
    return found


SYSTEM = IntentSystem()
