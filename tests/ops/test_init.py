"""New layers: their weights have the standard deviation that is asked for, their bias is 0."""

import torch
from torch import nn

from sightword.ops.init import init_linear


def test_weights_are_normal_of_the_given_deviation_and_the_bias_is_zero():
    torch.manual_seed(0)
    layer = nn.Linear(200, 100)
    init_linear(layer, 0.03)
    assert abs(float(layer.weight.std()) - 0.03) < 0.001
    assert not layer.bias.any()
