"""The system `retrieval`: find the person that a sentence describes. CUHK-PEDES, ICFG-PEDES, RSTPReid, own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sightword.engine.config import Run
from sightword.engine.contract import Check, Command, Evaluator, Item, Measure, Names, Step, System
from sightword.errors import SightwordError
from sightword.systems.retrieval import commands
from sightword.systems.retrieval.config import RetrievalConfig, RetrievalData

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from sightword.data.loader import Loaders
    from sightword.engine.predictor import Predictor
    from sightword.systems.retrieval.data import Batch
    from sightword.systems.retrieval.loader import Inputs
    from sightword.systems.retrieval.task import RetrievalTask


class RetrievalSystem(System[RetrievalConfig, RetrievalData, "RetrievalTask", "Batch"]):
    """Text-based person retrieval, as the engine needs it."""

    name, unit = "retrieval", "images"
    alike = ("split", "queries", "match", "rank", "mAP", "mINP", "ties", "no_match", "embeddings")
    Config, Data = RetrievalConfig, RetrievalData
    inputs = ("clip", "siglip", "t5")

    def task(self, config: RetrievalConfig) -> "RetrievalTask":
        from sightword.systems.retrieval.task import make_task

        return make_task(config)

    def loaders(self, data: RetrievalData, seed: int, task: "RetrievalTask", names: Names) -> "Loaders[Batch]":
        from sightword.systems.retrieval.loader import make_loaders

        return make_loaders(data, _inputs(task, data), seed, names)

    def held_out(
        self, data: RetrievalData, seed: int, split: str, task: "RetrievalTask", names: Names
    ) -> "DataLoader[Batch]":
        from sightword.systems.retrieval.loader import split_loader

        return split_loader(data, split, _inputs(task, data), names)

    def items(self, data: RetrievalData, seed: int, splits: Sequence[str]) -> Mapping[str, Sequence[Item]]:
        from sightword.systems.retrieval.split import Source, items

        return items(Source(data.dataset, data.root, data.images), splits, data.hold_out)

    def divides(self, data: RetrievalData) -> bool:
        from sightword.systems.retrieval.split import Source, has_validation

        return not has_validation(Source(data.dataset, data.root, data.images))

    def evaluator(self, task: "RetrievalTask") -> "Evaluator[Batch]":
        from sightword.systems.retrieval.evaluate import RetrievalEvaluator

        return RetrievalEvaluator(task)

    def prepare(self, run: Run) -> list[Step]:
        """Return the step that writes the VQ ids of phase 4."""
        from sightword.systems.retrieval.vq import ids_step

        system, data = run.system, run.data
        assert isinstance(system, RetrievalConfig)
        assert isinstance(data, RetrievalData)
        return [ids_step(system, data)] if data.hide and data.vq_ids else []

    def predictor(self) -> "type[Predictor]":
        from sightword.systems.retrieval.predict import PersonRetriever

        return PersonRetriever

    @property
    def commands(self) -> Sequence[Command]:
        return [commands.index, commands.search, commands.probe]

    @property
    def measures(self) -> Mapping[str, Measure]:
        from sightword.systems.retrieval.measure import MEASURES

        return MEASURES

    @property
    def checks(self) -> Mapping[str, Check]:
        return {
            "cuhk_pedes": commands.check_cuhk_pedes,
            "icfg_pedes": commands.check_icfg_pedes,
            "rstpreid": commands.check_rstpreid,
            "captions": commands.check_captions,
        }


def _inputs(task: "RetrievalTask", data: RetrievalData) -> "Inputs":
    """The facts about the task's networks that the loaders need.

    Raises SightwordError for images of another size than the encoder's: `index` and predictors resize to that.
    """
    from sightword.systems.retrieval.loader import Inputs

    image, generation = task.model.image, task.generation
    height, width = image.preprocess.size
    if data.image_size != [height, width]:
        raise SightwordError(
            f"data.image_size={data.image_size} is not the size that the image encoder takes, [{height},{width}]. "
            f"Set data.image_size=[{height},{width}], or for a new run also system.image_size"
        )
    if generation is None:
        return Inputs(task.model.tokenizer, image.patch)
    decoder, tokenizer = generation.generator.decoder, generation.tokenizer
    expected: dict[str, object] = {"num_codes": decoder.num_codes, "shapes": {"ids": list(decoder.grid_bias.grid)}}
    if tokenizer is None:
        return Inputs(task.model.tokenizer, image.patch, expected)
    return Inputs(task.model.tokenizer, image.patch, expected | {"weights": tokenizer.digest}, tokenizer.factor)


SYSTEM = RetrievalSystem()
