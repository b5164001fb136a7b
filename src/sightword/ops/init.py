"""How the weights of new layers are drawn."""

from torch import nn


def init_linear(layer: nn.Linear, std: float) -> None:
    """Draw a linear layer's weights from a normal distribution, and set its bias to 0. In place."""
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
