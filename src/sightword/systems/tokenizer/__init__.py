"""Images to discrete codes and back: VQ-VAE and VQ-GAN. Source: document 003."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightword.configs import Run
    from sightword.data.loader import Loaders
    from sightword.task import Task


def task(config: "Run") -> "Task":
    """The objective of a run, with new weights (or published ones, if the config names a file)."""
    from sightword.systems.tokenizer.task import build

    return build(config.system)


def loaders(config: "Run") -> "Loaders":
    """Training crops without end, and the validation crops."""
    from sightword.systems.tokenizer.data import build

    return build(config.data, config.seed)
