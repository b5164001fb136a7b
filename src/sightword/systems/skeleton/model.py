"""The networks: heatmaps to a vector for each frame, and what compares these vectors with words.

    heatmaps → ResNet3dSlowOnly → mean over space → (linear) → frames (N, T, D)
        Classifier       mean over time → dropout → linear → scores (N, K)
        VideoTextModel   projector, mean over time → v (N, E);  prompts → text encoder → linear → t (K, E)
                         cos(v, t) / τ;  or: each text weighs the frames that it is compared with (patch alignment)

ResNet3dSlowOnly is pyskl's PoseConv3D:

    stem 1×7×7 → max 1×3×3, stride 1 → stages of bottlenecks; each stage halves height and width, the last alone halves
    time, and only the stages after the first look at neighbouring frames

    (N, 17, 48, 56, 56) → 32×48×56×56 → 128×48×28×28 → 256×48×14×14 → 512×24×7×7

Duan et al. 2022 (PoseC3D, arXiv 2104.13586); Feichtenhofer et al. 2019 (SlowFast, arXiv 1812.03982).

Legend: N views; C heatmaps of a frame; L frames of a view; H, W pixels of a canvas; T, h, w what the network leaves of
L, H, W; D channels of the features; K classes; E dimension of the common space; P prompts of all classes; S tokens of a
prompt.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.ops import align
from sightword.ops.init import init_linear
from sightword.systems.skeleton.labels import Labels
from sightword.towers.base import Encoded, TextTower
from sightword.towers.tokenizer import TextTokenizer

GROWTH = 4  # a bottleneck gives four times the channels that its middle has
COLDEST, WARMEST = 0.001, 0.5  # limits of τ
AT_ONCE = 256  # prompts that the text encoder reads together


# ------------------------------------------------------------------------------------------------------------- network


class ConvNorm(nn.Module):
    """Convolution, batch norm and, with `act`, ReLU. The names of its parts are those of published checkpoints."""

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
        """temporal: whether the first convolution covers the frames before and after."""
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


class Stem(NamedTuple):
    """The first convolution, of one frame alone: PoseConv3D's is of 7×7 pixels and keeps the canvas's size."""

    side: int = 7
    stride: int = 1
    motion: tuple[int, ...] = ()  # for each k, as many channels again: how its response changes over 2·k frames


class ResNet3dSlowOnly(nn.Module):
    """Heatmaps (N, C, L, H, W) to features (N, D, T, h, w), D = `width`, T half of L.

    base: channels of the stem; stage i has middles of base · 2^i. depths: bottlenecks of each stage.
    """

    def __init__(
        self,
        in_channels: int = 17,
        base: int = 32,
        depths: Sequence[int] = (4, 6, 3),
        stem: "Stem | None" = None,
        early: bool = False,
        grid: int = 1,
    ) -> None:
        """early: the first stage looks at neighbouring frames, too. grid: see `frame_features`."""
        super().__init__()
        stem = stem or Stem()
        if min(in_channels, base, *depths) < 1:
            raise SightwordError(
                f"expected channels, and bottlenecks in each stage; got {in_channels}, {base} and {list(depths)}"
            )
        self.conv1 = ConvNorm(in_channels, base, (1, stem.side, stem.side), (1, stem.stride, stem.stride))
        self.motion = stem.motion
        self.changes = nn.ModuleList(nn.BatchNorm3d(base) for _ in stem.motion)
        self.layers, inputs = [f"layer{number + 1}" for number in range(len(depths))], base * (1 + len(stem.motion))
        for number, (name, depth) in enumerate(zip(self.layers, depths, strict=True)):
            middle, last = base * 2**number, number == len(depths) - 1
            first = Bottleneck(inputs, middle, (2 if last else 1, 2, 2), early or number > 0)
            inputs = GROWTH * middle
            others = [Bottleneck(inputs, middle, (1, 1, 1), early or number > 0) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(first, *others))
        self.in_channels, self.width, self.grid = in_channels, inputs * grid**2, grid
        self.init_weights()
        self.lay_out()

    def lay_out(self) -> None:
        """Lay memory out channels last, faster on CPUs. Call it again after loading, which brings other tensors."""
        self.to(memory_format=torch.channels_last_3d)

    def init_weights(self) -> None:
        """Draw convolutions by He's normal and zero each bottleneck's last batch norm: it starts as an identity."""
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
            raise ValueError(f"expected heatmaps (N, {self.in_channels}, L, H, W), got {tuple(x.shape)}")
        x = self._with_motion(x) if self.motion else self.conv1(x)
        x = F.max_pool3d(x, (1, 3, 3), 1, (0, 1, 1))  # smooths; nothing gets smaller
        for name in self.layers:
            x = getattr(self, name)(x)
        return x  # (N, D, T, h, w)

    def _with_motion(self, x: Tensor) -> Tensor:
        """The stem's response, and how it changes: the stem is linear, so this is its response to moving heatmaps."""
        if x.shape[2] <= (most := 2 * max(self.motion)):
            raise SightwordError(
                f"system.motion={list(self.motion)} needs views of more than {most} frames (data.frames)"
            )
        response = self.conv1.conv(x)
        parts = [self.conv1.bn(response)]
        for step, norm in zip(self.motion, self.changes, strict=True):
            change = response[:, :, 2 * step :] - response[:, :, : -2 * step]
            parts.append(norm(F.pad(change, (0, 0, 0, 0, step, step))))
        return F.relu(torch.cat(parts, 1), inplace=True)

    def frame_features(self, x: Tensor) -> Tensor:
        """Return a vector for each frame, (N, T, D), of heatmaps (N, C, L, H, W).

        The mean over height and width, then the axes exchanged: to reshape (N, D·T) as (N, T, D) would mix channels
        with frames. With a grid G above 1, the means of G × G cells one behind the other: where something is, counts.
        """
        features = self(x)
        if self.grid == 1:
            return features.mean(dim=(3, 4)).transpose(1, 2)
        cells = F.adaptive_avg_pool3d(features, (features.shape[2], self.grid, self.grid))
        return cells.transpose(1, 2).flatten(2)


# -------------------------------------------------------------------------------------------------- video and words


class VideoEncoder(nn.Module):
    """Heatmaps (N, C, L, H, W) to frames (N, T, D): Visece_Video; without `width`, Visece_Video_PACL."""

    def __init__(self, network: ResNet3dSlowOnly, width: int = 0) -> None:
        """width: D of a linear layer behind the network, so that tokens can attend to frames; 0: no such layer."""
        super().__init__()
        self.network = network
        self.linear = nn.Linear(network.width, width) if width else None
        self.width = width or network.width

    def forward(self, volume: Tensor) -> Tensor:
        frames = self.network.frame_features(volume)
        return frames if self.linear is None else self.linear(frames)


class ResidualProjector(nn.Module):
    """Linear, activation, linear, beside a linear layer; (…, inputs) → (…, outputs)."""

    def __init__(self, inputs: int, outputs: int, activation: str = "relu") -> None:
        super().__init__()
        act = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]()
        self.main = nn.Sequential(nn.Linear(inputs, outputs), act, nn.Linear(outputs, outputs))
        self.skip = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.skip(x)


def stretches(frames: Tensor, segments: int) -> list[Tensor]:
    """Cut moments (N, T, D) into stretches of time (N, T / S, D); of lengths that differ by one if S does not divide T.

    Raises SightwordError if there are fewer moments than stretches.
    """
    total = frames.shape[1]
    if total < segments:
        raise SightwordError(
            f"system.segments={segments} is more than the {total} moments of a view, half of its frames. Raise "
            "data.frames, or pass system.segments=1"
        )
    edges = [number * total // segments for number in range(segments + 1)]
    return list(frames.split([end - start for start, end in pairwise(edges)], 1))


def pooled(frames: Tensor, segments: int) -> Tensor:
    """Return the means of the stretches of (N, T, D), one behind the other: (N, S · D). Of one: the mean over time."""
    if segments == 1:
        return frames.mean(1)
    return torch.cat([each.mean(1) for each in stretches(frames, segments)], -1)


class Classifier(nn.Module):
    """PoseConv3D's classifier: frames (N, T, D) to logits (N, K), without a text encoder."""

    def __init__(self, video: VideoEncoder, classes: int, dropout: float = 0.5, segments: int = 1) -> None:
        """segments: S stretches of time whose means are read one behind the other; PoseConv3D has 1."""
        super().__init__()
        self.video, self.dropout, self.segments = video, nn.Dropout(dropout), segments
        self.linear = nn.Linear(segments * video.width, classes)
        init_linear(self.linear, 0.01)

    def forward(self, frames: Tensor) -> Tensor:
        return self.linear(self.dropout(pooled(frames, self.segments))).float()


class FrameWeighting(NamedTuple):
    """How a text weighs frames: the arguments of `align.patch_alignment`."""

    target: str = "raw"
    weight: str = "softmax"
    gain: float = 1.0
    final_norm: bool = True


class Comparison(NamedTuple):
    """Views compared with texts."""

    cosines: Tensor  # (N, K)
    weights: Tensor | None = None  # (N, K, T), of the frames, by each text; None: all frames weigh alike


class MatchingHead(nn.Module):
    """Predicts whether a text and a view belong together. Tokens attend to each other, both ways, and to the frames.

    A fusion block of its own: the first token has to attend to the tokens behind it, and a BERT that is made to
    cross-attend is causal. Li et al. 2021 (ALBEF, arXiv 2107.07651), image-text matching.
    """

    def __init__(self, width: int, frame_width: int, layers: int = 2, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise SightwordError(
                f"system.fusion_heads={heads} does not divide the text encoder's width {width}. Set a divisor"
            )
        self.keys = nn.Linear(frame_width, width) if frame_width != width else None
        block = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerDecoder(block, layers, nn.LayerNorm(width))
        self.linear = nn.Linear(width, 2)

    def forward(self, tokens: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """Return logits (N, 2), no and yes, of tokens (N, S, width) with their mask and frames (N, T, frame_width)."""
        keys = frames if self.keys is None else self.keys(frames)
        fused = self.blocks(tokens, keys, tgt_key_padding_mask=~mask)
        return self.linear(fused[:, 0]).float()


class VideoTextModel(nn.Module):
    """A video encoder and a text encoder in one space: RecognizerVisece and its relatives."""

    def __init__(
        self,
        video: VideoEncoder,
        text: TextTower | None,
        projector: nn.Module,
        text_head: nn.Module,
        pool: str = "after",
        weighting: FrameWeighting | None = None,
        temperature: float = 0.07,
        matching: MatchingHead | None = None,
        segments: int = 1,
        learn_gain: bool = False,
    ) -> None:
        """text: the text encoder, or None if embeddings of texts are given. text_head: its pooled vectors to E.

        projector: (…, D) → (…, E), before or after the mean over time (`pool`). weighting: None, or how each text
        weighs the frames; the projector then comes before, whatever `pool` is. segments: S stretches of time; the
        projector after the mean is (N, S · D) → (N, E), before it (…, D) → (…, S · E), a part for each stretch.
        learn_gain: the gain of the weighting is a parameter.
        """
        super().__init__()
        self.video, self.text, self.projector, self.text_head = video, text, projector, text_head
        self.pool, self.weighting, self.matching = pool, weighting, matching
        self.segments = segments
        self.temperature = nn.Parameter(torch.tensor(temperature))
        self.log_gain = nn.Parameter(torch.tensor(weighting.gain).log()) if weighting and learn_gain else None

    @property
    def gain(self) -> float | Tensor:
        """The factor on the cosines of moments and a text, before their softmax or sigmoid; 0 without weights."""
        if self.log_gain is not None:
            return self.log_gain.float().exp()
        return self.weighting.gain if self.weighting else 0.0

    @property
    def tower(self) -> TextTower:
        assert self.text is not None
        return self.text

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines, 1/τ."""
        return 1 / self.temperature.float().clamp(COLDEST, WARMEST)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Bring τ back into its limits, which a step of the optimiser may have left."""
        self.temperature.nan_to_num_(COLDEST).clamp_(COLDEST, WARMEST)

    def embed(self, frames: Tensor) -> Tensor:
        """Return unit vectors (N, E) of frames (N, T, D), all frames weighing alike."""
        if self.pool == "before":
            return F.normalize(torch.cat(self._projected(frames), 1).mean(1).float(), dim=-1)
        return F.normalize(self.projector(pooled(frames, self.segments)).float(), dim=-1)

    def _projected(self, frames: Tensor) -> list[Tensor]:
        """Moments (N, T, D), each by the part of the projector of its stretch: S times (N, T / S, E)."""
        projected = self.projector(frames)  # (N, T, S · E)
        parts = stretches(projected, self.segments)
        width = projected.shape[2] // self.segments
        return [part[..., number * width : (number + 1) * width] for number, part in enumerate(parts)]

    def _weighed(self, frames: Tensor, texts: Tensor, weighting: FrameWeighting, paired: bool) -> align.Aligned:
        """Vectors of views and weights of moments, each stretch of time by weights of its own."""
        compare = align.patch_alignment if paired else align.patch_alignment_classes
        options = (weighting.target, weighting.weight, self.gain)
        parts = self._projected(frames)
        if len(parts) == 1:
            return compare(parts[0], texts, *options, weighting.final_norm)
        each = [compare(part, texts, *options, False) for part in parts]
        # a stretch counts by its length, so that equal weights are a mean over all; σ does not add up to one as it is
        shares = [part.shape[1] / frames.shape[1] if weighting.weight == "softmax" else 1.0 for part in parts]
        vectors = torch.stack([share * one.vectors for share, one in zip(shares, each, strict=True)]).sum(0)
        weights = torch.cat([share * one.weights for share, one in zip(shares, each, strict=True)], -1)
        return align.Aligned(F.normalize(vectors, dim=-1) if weighting.final_norm else vectors, weights)

    def embed_paired(self, frames: Tensor, texts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return vectors (N, E) of views, each as its own text (N, E) weighs it, and the weights (N, T) if any."""
        if self.weighting is None:
            return self.embed(frames), None
        return self._weighed(frames, texts, self.weighting, paired=True)

    def compare(self, frames: Tensor, texts: Tensor) -> Comparison:
        """Compare views (N, T, D) with all texts (K, E), unit vectors; in float32."""
        with torch.autocast(frames.device.type, enabled=False):
            texts = texts.float()
            if self.weighting is None:
                return Comparison(self.embed(frames.float()) @ texts.T)
            vectors, weights = self._weighed(frames.float(), texts, self.weighting, paired=False)
            return Comparison(torch.einsum("nle,le->nl", vectors, texts), weights)


def probabilities(cosines: Tensor, logit_scale: Tensor, kind: str) -> Tensor:
    """Return probabilities (N, K) of cosines: softmax(cos/τ), or without τ for kind "seed"."""
    return (cosines if kind == "seed" else logit_scale * cosines).softmax(1)


def frozen_children(model: VideoTextModel) -> tuple[str, ...]:
    """Return the names of the children that an EMA copy of the model can share."""
    return ("text",) if model.text is not None and model.text.frozen else ()


# -------------------------------------------------------------------------------------------------- texts of classes


class ClassEmbeddings(NamedTuple):
    """The prompts of classes, encoded and projected."""

    unit: Tensor  # (K, E) float32: of each class, the mean of its prompts' unit vectors, at length one
    tokens: Tensor  # (K, S, width), of its first prompt
    mask: Tensor  # (K, S) bool


class ClassTexts(nn.Module):
    """The prompts of all classes as token ids. What a frozen text encoder makes of them is computed once."""

    ids: Tensor  # (P, S) int64
    mask: Tensor  # (P, S) bool
    owner: Tensor  # (P,) int64, ascending: the class of each prompt
    first: Tensor  # (K,) int64: which prompt is a class's first

    def __init__(self, labels: Labels, tokenizer: TextTokenizer) -> None:
        """Raises SightwordError if a prompt is longer than the text encoder reads."""
        super().__init__()
        self.labels = labels
        texts = [text for prompts in labels.prompts for text in prompts]
        self._check_lengths(tokenizer)
        ids, mask = tokenizer(texts)
        counts = torch.tensor([len(prompts) for prompts in labels.prompts])
        parts = {"ids": ids, "mask": mask, "owner": torch.arange(len(counts)).repeat_interleave(counts)}
        parts["first"] = counts.cumsum(0) - counts
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)
        self._kept: Encoded | None = None  # of a frozen encoder: pooled of all prompts, tokens of the first ones

    def _check_lengths(self, tokenizer: TextTokenizer) -> None:
        for name, prompts in zip(self.labels.classes, self.labels.prompts, strict=True):
            for text, ids in zip(prompts, tokenizer.ids_of(prompts), strict=True):
                if len(ids) > tokenizer.length:
                    raise SightwordError(
                        f"{self.labels.source}: {text!r:.60}, of class {name!r}, has {len(ids)} tokens and the text "
                        f"encoder reads {tokenizer.length}. Shorten it, or raise system.text_length"
                    )

    def embed(self, tower: TextTower, head: nn.Module, classes: Tensor | None = None) -> ClassEmbeddings:
        """Embed some classes (K,), each once and ascending, or all. head: from the encoder's pooled vectors to E."""
        chosen = torch.arange(len(self.first), device=self.ids.device) if classes is None else classes
        number = torch.full_like(self.first, -1)
        number[chosen] = torch.arange(len(chosen), device=chosen.device)
        rows = (number[self.owner] >= 0).nonzero()[:, 0]  # the prompts of these classes
        if tower.frozen:
            kept = self._keep(tower)
            pooled, tokens, mask = kept.pooled[rows], kept.tokens[chosen], self.mask[self.first[chosen]]
        else:
            encoded = self._encode(tower, rows)
            firsts = torch.searchsorted(rows, self.first[chosen])
            pooled, tokens, mask = encoded.pooled, encoded.tokens[firsts], self.mask[self.first[chosen]]
        each = F.normalize(head(pooled).float(), dim=-1)
        total = each.new_zeros(len(chosen), each.shape[1]).index_add(0, number[self.owner[rows]], each)
        return ClassEmbeddings(F.normalize(total, dim=-1), tokens, mask)

    def _encode(self, tower: TextTower, rows: Tensor) -> Encoded:
        parts = [tower(self.ids[some], self.mask[some]) for some in rows.split(AT_ONCE)]
        return Encoded(torch.cat([part.tokens for part in parts]), torch.cat([part.pooled for part in parts]))

    @torch.no_grad()
    def _keep(self, tower: TextTower) -> Encoded:
        if self._kept is None or self._kept.pooled.device != self.ids.device:
            encoded = self._encode(tower, torch.arange(len(self.ids), device=self.ids.device))
            self._kept = Encoded(encoded.tokens[self.first], encoded.pooled)
        return self._kept
