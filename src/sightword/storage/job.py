"""Options of long jobs, the same in every command. No torch here.

A command takes `job: JobOptions = JobOptions()`; the fields are then keys of the command, with these comments as help.
"""

from dataclasses import dataclass
from typing import Literal

from sightword.errors import SightwordError
from sightword.storage.parser import Amount, Count


@dataclass(frozen=True)
class JobOptions:
    """How a job is executed; see `storage.shards`."""

    engine: Literal["inline", "ray"] = "inline"  # inline (also under torchrun), or ray
    workers: Amount = 0  # Ray actors; 0: as many as fit
    gpus: float = 0.0  # GPUs of each Ray actor; a fraction shares one

    def __post_init__(self) -> None:
        _one_of("engine", self.engine, "inline", "ray")
        _at_least(0, workers=self.workers, gpus=self.gpus)
        if self.engine != "inline":
            from sightword.storage import shards

            shards.check_engine(self.engine)


@dataclass(frozen=True)
class ImageJobOptions(JobOptions):
    """How a job over a folder of images is executed."""

    on_error: Literal["raise", "skip"] = "raise"  # raise: an unreadable image stops the job; skip: omit it
    batch_size: Count = 32  # images in one pass through the network
    shard_size: Count = 256  # images in one file of the output

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("on_error", self.on_error, "raise", "skip")
        _at_least(1, batch_size=self.batch_size, shard_size=self.shard_size)


def _one_of(key: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise SightwordError(f"{key}={value!r} is not one of {', '.join(allowed)}. Pass one of them")


def _at_least(least: int, **values: float) -> None:
    for key, value in values.items():
        if not value >= least:
            raise SightwordError(f"{key}={value} is too small. Pass at least {least}")
