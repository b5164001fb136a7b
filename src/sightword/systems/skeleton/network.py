"""ResNet3dSlowOnly: heatmaps of joints over time to features, as pyskl's PoseConv3D has it.

    stem 1×7×7 → max 1×3×3, stride 1 → stages of bottlenecks; height and width are halved by each stage, time by the
    last alone, and only the stages after the first look at neighbouring frames

    (N, 17, 48, 56, 56) → 32×48×56×56 → 128×48×28×28 → 256×48×14×14 → 512×24×7×7

Duan et al. 2022 (PoseC3D, arXiv 2104.13586); Feichtenhofer et al. 2019 (SlowFast, arXiv 1812.03982).

Legend: N clips, C heatmaps of a frame, L frames, H, W pixels; T, h, w what is left of them; D channels of the features.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.storage.checkpoint import load_strictly, read_weights

GROWTH = 4  # a bottleneck gives four times the channels that its middle has


class ConvNorm(nn.Module):
    """Convolution and batch norm, and ReLU where `act`. The names of its parts are those of published checkpoints."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x, inplace=True) if self.act else x


class Bottleneck(nn.Module):
    """(N, inputs, L, H, W) → (N, 4 · middle, L', H', W'): 1×1×1 (or 3×1×1), 1×3×3 with the strides, 1×1×1."""

    def __init__(self, inputs: int, middle: int, stride: tuple[int, int, int], temporal: bool) -> None:
        """temporal: whether the first convolution looks at the frames before and after."""
        super().__init__()
        outputs = GROWTH * middle
        self.conv1 = ConvNorm(inputs, middle, (3 if temporal else 1, 1, 1))
        self.conv2 = ConvNorm(middle, middle, (1, 3, 3), stride)
        self.conv3 = ConvNorm(middle, outputs, act=False)
        changes = inputs != outputs or stride != (1, 1, 1)
        self.downsample = ConvNorm(inputs, outputs, stride=stride, act=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + short)


class ResNet3dSlowOnly(nn.Module):
    """Heatmaps (N, C, L, H, W) to features (N, D, T, h, w), D = `width`, T half of L.

    base: channels of the stem; stage i has middles of base · 2^i. depths: bottlenecks of each stage.
    """

    def __init__(self, in_channels: int = 17, base: int = 32, depths: Sequence[int] = (4, 6, 3)) -> None:
        super().__init__()
        if min(in_channels, base, *depths) < 1:
            raise ValueError(
                f"a network has channels, and bottlenecks in each stage; got {in_channels}, {base} and {list(depths)}"
            )
        self.conv1 = ConvNorm(in_channels, base, (1, 7, 7))
        self.layers, inputs = [f"layer{number + 1}" for number in range(len(depths))], base
        for number, (name, depth) in enumerate(zip(self.layers, depths, strict=True)):
            middle, last = base * 2**number, number == len(depths) - 1
            first = Bottleneck(inputs, middle, (2 if last else 1, 2, 2), number > 0)
            inputs = GROWTH * middle
            others = [Bottleneck(inputs, middle, (1, 1, 1), number > 0) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(first, *others))
        self.in_channels, self.width = in_channels, inputs
        self.init_weights()
        self.lay_out()

    def lay_out(self) -> None:
        """Channels last: faster on CPUs, small ones by half. Again where loading has put other tensors in place."""
        self.to(memory_format=torch.channels_last_3d)

    def init_weights(self) -> None:
        """He's normal for convolutions, and nothing from the last batch norm of a bottleneck: it starts as a pass."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm3d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.conv3.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"heatmaps are (N, {self.in_channels}, L, H, W), these are {tuple(x.shape)}")
        x = F.max_pool3d(self.conv1(x), (1, 3, 3), 1, (0, 1, 1))  # smooths; nothing gets smaller
        for name in self.layers:
            x = getattr(self, name)(x)
        return x  # (N, D, T, h, w)

    def frame_features(self, x: Tensor) -> Tensor:
        """Heatmaps (N, C, L, H, W) to a vector a frame, (N, T, D).

        The mean over height and width, then the axes exchanged: to reshape (N, D·T) as (N, T, D), as document 002
        words it, would mix channels with frames.
        """
        return self(x).mean(dim=(3, 4)).transpose(1, 2)


def load_published(network: ResNet3dSlowOnly, path: str | Path) -> None:
    """The weights of a PoseC3D checkpoint of pyskl or mmaction2, its classifier left out. ValueError: it does not fit.

    Its names are ours behind "backbone."; what older files lack is the number of batches that a batch norm has seen.
    """
    weights = read_weights(path)
    prefix = "backbone."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not own:
        heads = ", ".join(sorted({name.split(".")[0] for name in weights})[:6])
        raise ValueError(
            f"{path} is no PoseC3D of pyskl or mmaction2: none of its names begins with {prefix} (they begin with "
            f"{heads})"
        )
    for name in network.state_dict():
        if name.endswith("num_batches_tracked"):
            own.setdefault(name, torch.tensor(0))
    load_strictly(network, own, path)
    network.lay_out()
