"""Optimisers and learning rates, as a run's config asks for them."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter

from sightword.engine.config import Optim
from sightword.engine.contract import Task


def base_lr(optim: Optim, role: str | None = None) -> float:
    """The learning rate of a role, or of the discriminator. Asked at every batch: a resumed run may be given another."""
    return optim.lr * optim.lr_scale.get(role, 1.0) if role else optim.discriminator_lr or optim.lr


def lr_factor(optim: Optim, batches: int, steps: int) -> float:
    """What the learning rate is multiplied by at a batch: linear warm-up, then constant or cosine to 0 at `steps`."""
    if batches < optim.warmup:
        return (batches + 1) / optim.warmup
    if optim.schedule == "constant" or not steps:
        return 1.0
    done = (batches - optim.warmup) / max(1, steps - optim.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(optim: Optim, task: Task) -> torch.optim.Optimizer:
    """One parameter group a role, its learning rate scaled by optim.lr_scale[role]."""
    every = task.roles()
    if unknown := set(optim.lr_scale) - set(every):
        raise ValueError(f"optim.lr_scale names {', '.join(sorted(unknown))}; this task's roles are {', '.join(every)}")
    roles = {role: parameters for role, parameters in every.items() if parameters}
    _check_roles(roles, task)
    groups = [{"params": parameters, "role": role} for role, parameters in roles.items()]
    betas = (optim.betas[0], optim.betas[1])
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=betas[0], weight_decay=optim.weight_decay)
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=betas, weight_decay=optim.weight_decay)


def _check_roles(roles: Mapping[str, Sequence[Parameter]], task: Task) -> None:
    grouped = [p for parameters in roles.values() for p in parameters]
    discriminator = set(task.discriminator.parameters()) if task.discriminator is not None else set()
    trained = {p for p in task.parameters() if p.requires_grad} - discriminator
    assert len(grouped) == len(set(grouped)), "a parameter stands in two roles"
    assert set(grouped) == trained, f"{len(trained - set(grouped))} trainable parameters stand in no role"
