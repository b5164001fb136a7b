"""The config of a run, for any system: the schema of YAML files and of the command line.

A system adds two nodes of its own, `system` and `data`, from the dataclasses in its `config.py`. No torch here: a
typo has to fail before torch is imported.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import ClassVar

from sightword.errors import SightwordError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass
class SystemConfig:
    """The fields under `system.`, which each system defines in a subclass."""

    paths: ClassVar[tuple[str, ...]] = ()  # fields that name files; a run keeps them as absolute paths


@dataclass
class DataConfig:
    """The fields under `data.`, which each system defines in a subclass."""

    paths: ClassVar[tuple[str, ...]] = ()  # as above


@dataclass
class Optim:
    """Optimiser settings."""

    name: str = "adamw"  # adamw | adam | sgd
    lr: float = 2e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])  # Adam's; sgd takes the first as momentum
    weight_decay: float = 0.0  # of weights; biases, norms and codebooks are spared
    decay_norms: bool = False  # decay these too, as runs before this option did
    warmup: int = 0  # batches over which lr rises linearly from 0
    schedule: str = "constant"  # constant | cosine (down to 0 at the last batch)
    lr_scale: dict[str, float] = field(default_factory=dict)  # parameter group → factor on lr; the task names groups
    max_grad_norm: float = 0.0  # gradients are clipped to this norm; 0 does not clip
    accumulate: int = 1  # batches per optimiser step
    ema: float = 0.0  # decay of the averaged weights that are evaluated and exported; 0 keeps none
    discriminator_lr: float = 0.0  # of the second optimiser, if the task has a discriminator; 0 takes lr
    discriminator_betas: list[float] = field(default_factory=lambda: [0.5, 0.9])

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, ("adamw", "adam", "sgd"))
        one_of("optim.schedule", self.schedule, ("constant", "cosine"))
        at_least("optim", self, 1, "accumulate")
        at_least("optim", self, 0, "warmup", "lr", "max_grad_norm", "weight_decay", "discriminator_lr")
        for name in ("betas", "discriminator_betas"):
            if len(getattr(self, name)) != 2:
                raise SightwordError(f"optim.{name}={getattr(self, name)} are not two numbers. Pass two, as [0.9,0.99]")
        if not 0 <= self.ema < 1:
            raise SightwordError(f"optim.ema={self.ema} is not a decay in [0, 1)")


@dataclass
class Trainer:
    """Duration and hardware of a training. All counts are batches, whatever `optim.accumulate` is."""

    steps: int = 0  # batches to train; 0: epochs decide
    epochs: int = 1  # passes over the training data, where steps is 0
    val_every: int = 0  # batches between validations; 0: once an epoch
    save_every: int = 500  # batches between checkpoints/last.ckpt, besides the one at each validation
    log_every: int = 50  # batches between rows of train/… in metrics.csv
    images_every: int = 500  # batches between images of a training batch
    monitor: str = ""  # the validation metric that chooses checkpoints/best.ckpt; none: no best is kept
    mode: str = "max"  # max | min: whether more of it is better
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"  # 32-true | bf16-mixed | 16-mixed
    threads: int = 0  # CPU threads of a process; 0: OMP_NUM_THREADS, or else all cores divided among the processes

    def __post_init__(self) -> None:
        one_of("trainer.mode", self.mode, ("max", "min"))
        one_of("trainer.precision", self.precision, PRECISIONS)
        at_least("trainer", self, 1, "save_every", "log_every", "images_every", "devices", "num_nodes", "epochs")
        at_least("trainer", self, 0, "steps", "val_every", "threads")


@dataclass
class Run:
    """The whole config of one run, as config.yaml in its run directory contains it."""

    experiment: str = ""
    preset: str = ""  # the row of a published table that set values, as sightword list names it; empty: none
    out: str = "runs"  # runs are written to <out>/<experiment>/<name>
    name: str = ""  # empty: the time; under torchrun every process needs the same
    seed: int = 0
    init_from: str = ""  # weights to start from: a run, an export, a published file, a hub id, or an experiment's name:
    # its newest run in out=, of the same seed if there is one; empty: new weights
    init_strict: bool = True  # refuse init_from= unless every name and shape fits; false: start from those that fit
    system: SystemConfig = field(default_factory=SystemConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: Optim = field(default_factory=Optim)
    trainer: Trainer = field(default_factory=Trainer)
    logger: list[str] = field(default_factory=list)  # besides metrics.csv: swanlab | tensorboard | wandb
    project: str = "sightword"  # the name under which trackers file the run

    def __post_init__(self) -> None:
        at_least("", self, 0, "seed")
        for part in ("system", "data", "optim", "trainer"):
            check_finite(part, getattr(self, part))
        if "/" in self.name or self.name in (".", ".."):
            raise SightwordError(f"name={self.name!r} is not the name of a folder. Remove the slashes, or set out=")

    def plain(self) -> dict[str, object]:
        """Return the config as nested dicts of plain values, which checkpoints and YAML can hold."""
        return asdict(self)


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise SightwordError unless the value of a config key is one of those allowed."""
    if value not in allowed:
        raise SightwordError(f"{name}={value!r} is none of {', '.join(map(str, allowed))}")


def check_finite(prefix: str, config: SystemConfig | DataConfig | Optim | Trainer) -> None:
    """Raise SightwordError if a number in a config's fields, their lists and mappings is nan or infinite."""
    for each in fields(config):
        value = getattr(config, each.name)
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise SightwordError(f"{prefix}.{each.name}={value} is not finite. Pass a number")


def at_least(prefix: str, config: object, least: float, *names: str) -> None:
    """Raise SightwordError unless each of the fields `names` of a config is at least `least`."""
    for name in names:
        if getattr(config, name) < least:
            key = f"{prefix}.{name}" if prefix else name
            raise SightwordError(f"{key}={getattr(config, name)} is too small. Pass at least {least:g}")
