"""Optimisers and learning-rate schedules, made from a config. A task names the parameter groups."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter

from sightword.engine.config import Optim
from sightword.engine.contract import BatchT
from sightword.engine.task import Task
from sightword.errors import SightwordError

LOOP_LR = "loop_lr"  # key of a parameter group: the rate that the loop last set; another one was set by somebody else


def base_lr(optim: Optim, group: str | None = None) -> float:
    """Return the learning rate of a parameter group, or of the discriminator if `group` is None.

    Evaluated at every batch, as a resumed run may set another rate than its checkpoint has.
    """
    return optim.lr * optim.lr_scale.get(group, 1.0) if group else optim.discriminator_lr or optim.lr


def lr_factor(optim: Optim, batches: int, steps: int) -> float:
    """Return the factor on the learning rate at a batch: linear warm-up, then constant or cosine to 0 at `steps`."""
    if batches < optim.warmup:
        return (batches + 1) / optim.warmup
    if optim.schedule == "constant" or not steps:
        return 1.0
    done = (batches - optim.warmup) / max(1, steps - optim.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(optim: Optim, task: Task[BatchT]) -> torch.optim.Optimizer:
    """Return the main optimiser. Each group's learning rate is scaled by `optim.lr_scale[group]`.

    A group with biases, norms or codebooks is two of the optimiser's, of one name: these are not decayed towards 0,
    unless optim.decay_norms is set. Raises SightwordError if optim.lr_scale names an unknown group.
    """
    every = task.parameter_groups()
    if unknown := set(optim.lr_scale) - set(every):
        raise SightwordError(
            f"optim.lr_scale names {', '.join(sorted(unknown))}; the parameter groups are {', '.join(every)}"
        )
    named = {name: parameters for name, parameters in every.items() if parameters}
    _check_groups(named, task)
    spared = set[Parameter]() if optim.decay_norms else set(spared_from_decay(task))
    groups: list[dict[str, object]] = []
    for name, parameters in named.items():
        decayed, rest = [p for p in parameters if p not in spared], [p for p in parameters if p in spared]
        groups += [{"params": decayed, "name": name}] if decayed else []
        groups += [{"params": rest, "name": name, "weight_decay": 0.0}] if rest else []
    betas = (optim.betas[0], optim.betas[1])
    for group in groups:
        group["lr"] = group[LOOP_LR] = base_lr(optim, str(group["name"]))
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=betas[0], weight_decay=optim.weight_decay)
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=betas, weight_decay=optim.weight_decay)


def spared_from_decay(task: Task[BatchT]) -> list[Parameter]:
    """Return the parameters that weight decay leaves alone: biases, norms and scales (fewer than two axes), codebooks.

    A table of biases, such as T5's of relative positions, has "bias" in its name.
    """
    codebooks = {p for module in task.modules() if getattr(module, "is_codebook", False) for p in module.parameters()}
    return [p for name, p in task.named_parameters() if p.ndim < 2 or "bias" in name or p in codebooks]


def make_discriminator_optimizer(optim: Optim, discriminator: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of a discriminator."""
    betas = (optim.discriminator_betas[0], optim.discriminator_betas[1])
    group = {"params": list(discriminator.parameters()), LOOP_LR: base_lr(optim)}
    return torch.optim.Adam([group], lr=base_lr(optim), betas=betas)


def _check_groups(groups: Mapping[str, Sequence[Parameter]], task: Task[BatchT]) -> None:
    grouped = [p for parameters in groups.values() for p in parameters]
    other = set(task.discriminator.parameters()) if task.discriminator is not None else set()
    trained = {p for p in task.parameters() if p.requires_grad} - other
    assert len(grouped) == len(set(grouped)), "a parameter stands in two groups"
    assert set(grouped) == trained, f"{len(trained - set(grouped))} trainable parameters stand in no group"
