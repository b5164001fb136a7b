"""The system `tokenizer`: VQ-VAE and VQ-GAN, which encode images as discrete codes and decode them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sightword.engine.contract import Check, Command, Evaluator, Item, Measure, Names, System
from sightword.errors import SightwordError
from sightword.systems.tokenizer import commands
from sightword.systems.tokenizer.config import TokenizerConfig, TokenizerData

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from sightword.data.image import ImageBatch
    from sightword.data.loader import Loaders
    from sightword.engine.predictor import Predictor
    from sightword.storage.fields import Fields
    from sightword.systems.tokenizer.task import TokenizerTask


class TokenizerSystem(System[TokenizerConfig, TokenizerData, "TokenizerTask", "ImageBatch"]):
    """The tokenizer as the engine uses it."""

    name, unit = "tokenizer", "images"
    alike = ("split", "pixels", "ssim", "lpips")
    Config, Data = TokenizerConfig, TokenizerData

    def task(self, config: TokenizerConfig) -> "TokenizerTask":
        from sightword.systems.tokenizer.task import make_task

        return make_task(config)

    def loaders(self, data: TokenizerData, seed: int, task: "TokenizerTask", names: Names) -> "Loaders[ImageBatch]":
        from sightword.systems.tokenizer.data import make_loaders

        return make_loaders(data, seed, names)

    def held_out(
        self, data: TokenizerData, seed: int, split: str, task: "TokenizerTask", names: Names
    ) -> "DataLoader[ImageBatch]":
        _require_known(split)
        return self.loaders(data, seed, task, names).val

    def items(self, data: TokenizerData, seed: int, splits: Sequence[str]) -> Mapping[str, Sequence[Item]]:
        from sightword.systems.tokenizer.data import items

        for split in splits:
            _require_known(split)
        return items(data, seed, splits)

    def divides(self, data: TokenizerData) -> bool:
        return not data.val_root

    def evaluator(self, task: "TokenizerTask") -> "Evaluator[ImageBatch]":
        from sightword.systems.tokenizer.evaluate import TokenizerEvaluator

        return TokenizerEvaluator(task)

    def predictor(self) -> "type[Predictor]":
        from sightword.systems.tokenizer.predict import ImageTokenizer

        return ImageTokenizer

    def reads(self, content: "Fields") -> bool:
        """Return whether a config.json is one of `VQImage.save_pretrained`."""
        return {"encoder", "quantizer", "decoder", "project"} <= set(content)

    @property
    def commands(self) -> Sequence[Command]:
        return [commands.tokenize, commands.detokenize]

    @property
    def measures(self) -> Mapping[str, Measure]:
        from sightword.systems.tokenizer.measure import MEASURES

        return MEASURES

    @property
    def checks(self) -> Mapping[str, Check]:
        return {"images": commands.check_images}


def _require_known(split: str) -> None:
    if split not in ("train", "val"):
        raise SightwordError(f"split={split}: a tokenizer has the split val alone, which data.* describes")


SYSTEM = TokenizerSystem()
