"""The networks of a config, with new weights or published ones."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_weights
from sightword.systems.skeleton.config import SkeletonConfig
from sightword.systems.skeleton.model import (
    FrameWeighting,
    ResidualProjector,
    ResNet3dSlowOnly,
    Stem,
    VideoEncoder,
    VideoTextModel,
)
from sightword.towers.base import TextTower
from sightword.towers.factory import text_tower


def build_network(system: SkeletonConfig, channels: int) -> ResNet3dSlowOnly:
    """Return the network of a config for heatmaps of so many channels."""
    return ResNet3dSlowOnly(
        channels,
        system.base,
        system.depths,
        Stem(system.stem, system.stem_stride, tuple(system.motion)),
        system.early,
        system.grid,
    )


def build_video_text_model(
    system: SkeletonConfig, network: ResNet3dSlowOnly, text: TextTower | None, widths: tuple[int, int]
) -> VideoTextModel:
    """Return the model without what only training needs. widths: of the text encoder's pooled vectors and tokens."""
    video = VideoEncoder(network, widths[1] if system.frame_linear else 0)
    first = system.frames == "pacl" or system.pool == "before"  # the projector is before the mean over time
    inputs = video.width if first else system.segments * video.width
    outputs = system.segments * system.embed_dim if first else system.embed_dim
    projector: nn.Module = (
        ResidualProjector(inputs, outputs, system.activation)
        if system.projector == "residual"
        else nn.Linear(inputs, outputs)
    )
    weighting = None
    if system.frames == "pacl":
        weighting = FrameWeighting(system.pacl_target, system.pacl_weight, system.pacl_gain, system.pacl_final_norm)
    head = nn.Linear(widths[0], system.embed_dim)
    return VideoTextModel(
        video,
        text,
        projector,
        head,
        system.pool,
        weighting,
        system.temperature,
        segments=system.segments,
        learn_gain=system.pacl_learn_gain,
    )


def open_tower(system: SkeletonConfig, name: str | Path) -> TextTower:
    """Return the text encoder of that name or folder, with the options of a config."""
    opened = partial(text_tower, name)
    if system.text_length:
        opened = partial(opened, length=system.text_length)
    if system.text_pooling:
        opened = partial(opened, pooling=system.text_pooling)
    return opened()


def read_posec3d(path: str | Path) -> dict[str, Tensor]:
    """Return the network in a PoseC3D checkpoint of pyskl or mmaction2, by the names of `ResNet3dSlowOnly`.

    Its names are ours behind "backbone."; its classifier ("cls_head.") is left out. Older files have no batch count of
    batch norms. Raises SightwordError for a file without such names.
    """
    weights = read_weights(path)
    prefix = "backbone."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not own:
        heads = ", ".join(sorted({name.split(".")[0] for name in weights})[:6])
        raise SightwordError(
            f"{path} is not a PoseC3D of pyskl or mmaction2: none of its names begins with {prefix} (they begin with "
            f"{heads})"
        )
    for name in [name for name in own if name.endswith("running_mean")]:
        own.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return own
