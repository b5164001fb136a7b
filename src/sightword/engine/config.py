"""What every run can be told, whatever the system: the schema that YAML files and the command line fill in.

A system adds two nodes of its own, `system` and `data`, from the dataclasses in its `config.py`. No torch here: a
typo has to fail before torch is imported.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Optim:
    """How the weights move."""

    name: str = "adamw"  # adamw | adam | sgd
    lr: float = 2e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])  # Adam's; sgd takes the first as momentum
    weight_decay: float = 0.0
    warmup: int = 0  # batches over which lr rises linearly from 0
    schedule: str = "constant"  # constant | cosine (down to 0 at the last batch)
    lr_scale: dict[str, float] = field(default_factory=dict)  # role → factor on lr; roles are the task's
    clip: float = 0.0  # largest gradient norm; 0 does not clip
    accumulate: int = 1  # batches per optimiser step
    ema: float = 0.0  # decay of the averaged weights that are evaluated and exported; 0 keeps none
    discriminator_lr: float = 0.0  # the second optimiser's, if the task has a discriminator; 0 takes lr
    discriminator_betas: list[float] = field(default_factory=lambda: [0.5, 0.9])

    def __post_init__(self) -> None:
        _one_of("optim.name", self.name, ("adamw", "adam", "sgd"))
        _one_of("optim.schedule", self.schedule, ("constant", "cosine"))
        if self.accumulate < 1:
            raise ValueError(f"optim.accumulate counts batches per step, so it is at least 1, got {self.accumulate}")
        if len(self.betas) != 2 or len(self.discriminator_betas) != 2:
            raise ValueError(
                f"optim.betas and discriminator_betas are two numbers each, got {self.betas}, {self.discriminator_betas}"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema is a decay in [0, 1), got {self.ema}")


@dataclass
class Trainer:
    """Where and how long. All counts are batches, whatever accumulates and however many optimisers there are."""

    steps: int = 0  # batches to train; 0: epochs decide
    epochs: int = 1  # passes over the training data, where steps is 0
    val_every: int = 0  # batches between validations; 0: once an epoch
    save_every: int = 500  # batches between checkpoints/last.ckpt, besides the one at each validation
    log_every: int = 50
    images_every: int = 500
    monitor: str = ""  # the validation measure that chooses checkpoints/best.ckpt; none: no best is kept
    mode: str = "max"  # max | min: whether more of it is better
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"  # 32-true | bf16-mixed | 16-mixed
    threads: int = 0  # CPU threads of one process; 0: all cores, shared out among the processes

    def __post_init__(self) -> None:
        _one_of("trainer.mode", self.mode, ("max", "min"))
        for name in ("save_every", "log_every", "images_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} counts batches, so it is at least 1, got {getattr(self, name)}")
        if self.devices < 1 or self.num_nodes < 1:
            raise ValueError(f"trainer.devices and num_nodes are at least 1, got {self.devices} and {self.num_nodes}")
        if self.steps < 0 or self.epochs < 1:
            raise ValueError(f"trainer.steps is ≥ 0 and trainer.epochs ≥ 1, got {self.steps} and {self.epochs}")


@dataclass
class Run:
    """One experiment, whole: what config.yaml in a run's folder holds."""

    experiment: str = ""
    out: str = "runs"  # runs are written to <out>/<experiment>/<name>
    name: str = ""  # empty: the time; under torchrun every process has to be told the same
    seed: int = 0
    system: Any = None
    data: Any = None
    optim: Optim = field(default_factory=Optim)
    trainer: Trainer = field(default_factory=Trainer)
    logger: list[str] = field(default_factory=list)  # besides metrics.csv: swanlab | tensorboard | wandb
    project: str = "sightword"  # the name under which trackers file the run

    def plain(self) -> dict[str, Any]:
        """Plain values only: what may enter a checkpoint."""
        return asdict(self)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}; got {value!r}")
