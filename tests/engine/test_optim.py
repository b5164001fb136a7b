"""Weight decay: what it leaves alone, and that the option takes it back."""

import pytest
import torch
from torch import nn

from sightword.engine.config import Optim
from sightword.engine.optim import make_optimizer, spared_from_decay
from sightword.engine.task import Task
from sightword.ops.quantize import VectorQuantizer
from sightword.systems.intent.model import SemanticSpatialVQ


class Everything(Task):
    """A weight, a bias, a norm, a scale, a table of biases and two kinds of codebooks, in two groups."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(()))
        self.relative_bias = nn.Embedding(5, 2)
        self.codes, self.words = VectorQuantizer(6, 4), SemanticSpatialVQ(torch.eye(4), freeze_codebook=False)

    def parameter_groups(self):
        body = [*self.linear.parameters(), *self.norm.parameters(), self.scale, *self.relative_bias.parameters()]
        return {"body": body, "codes": [*self.codes.parameters(), *self.words.parameters()]}


def test_biases_norms_and_codebooks_are_not_decayed_and_weights_are():
    task = Everything()
    optimizer = make_optimizer(Optim(weight_decay=0.1), task)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: decay[id(p)] for name, p in task.named_parameters()}
    assert {name for name, value in names.items() if value} == {"linear.weight"}
    assert names["linear.weight"] == 0.1
    assert [group["name"] for group in optimizer.param_groups] == ["body", "body", "codes"]


def test_a_step_without_gradients_moves_only_what_is_decayed():
    task = Everything()
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    for p in task.parameters():
        p.grad = torch.zeros_like(p)
    make_optimizer(Optim(lr=0.5, weight_decay=0.1), task).step()
    moved = {name for name, p in task.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"linear.weight"}


def test_decay_norms_takes_it_back_with_one_group_of_each_name():
    optimizer = make_optimizer(Optim(weight_decay=0.1, decay_norms=True), Everything())
    assert [(group["name"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("body", 0.1),
        ("codes", 0.1),
    ]


def test_a_group_keeps_its_rate_in_both_halves():
    optim = Optim(lr=0.2, weight_decay=0.1, lr_scale={"codes": 0.5})
    with pytest.raises(ValueError, match=r"optim.lr_scale names nothing; the parameter groups are body, codes"):
        make_optimizer(Optim(lr_scale={"nothing": 1.0}), Everything())
    assert len(spared_from_decay(Everything())) == 7
    assert len(make_optimizer(optim, Everything()).param_groups) == 3
