"""Recordings as vectors, a vector a frame; and what compares them with words, or with nothing.

    heatmaps → ResNet3dSlowOnly → mean over space → (linear) → frames (N, T, D)
        Classifier       mean over time → dropout → linear → scores (N, L)
        TextRecogniser   projector, mean over time → v (N, E);  prompts → tower → linear → t (L, E);  cos(v, t) / τ
                         or: each text weighs the frames it is compared with (patch alignment)

Legend: N clips; T frames of the features; D their width; L classes; E width of the common space; W tokens of a text.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.ops import align
from sightword.systems.skeleton.network import ResNet3dSlowOnly
from sightword.towers.base import TextTower

COLDEST, WARMEST = 0.001, 0.5  # between which τ is kept


class VideoEncoder(nn.Module):
    """Heatmaps (N, C, L, H, W) to frames (N, T, D). Document 002's Visece_Video; without `width`, Visece_Video_PACL."""

    def __init__(self, network: ResNet3dSlowOnly, width: int = 0) -> None:
        """width: D of a linear layer behind the network, so that words can attend to frames; 0: the network's own."""
        super().__init__()
        self.network = network
        self.linear = nn.Linear(network.width, width) if width else None
        self.width = width or network.width

    def forward(self, volume: Tensor) -> Tensor:
        frames = self.network.frame_features(volume)
        return frames if self.linear is None else self.linear(frames)


class ResidualProjector(nn.Module):
    """Linear, activation, linear, beside a linear layer; (…, inputs) → (…, outputs). Document 002's video_embedder."""

    def __init__(self, inputs: int, outputs: int, activation: str = "relu") -> None:
        super().__init__()
        act = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]()
        self.main = nn.Sequential(nn.Linear(inputs, outputs), act, nn.Linear(outputs, outputs))
        self.skip = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.skip(x)


class Classifier(nn.Module):
    """The plain recogniser of PoseConv3D: frames (N, T, D) to scores (N, L), no word read."""

    def __init__(self, video: VideoEncoder, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.video, self.dropout, self.linear = video, nn.Dropout(dropout), nn.Linear(video.width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, frames: Tensor) -> Tensor:
        return self.linear(self.dropout(frames.mean(1))).float()


class Weighing(NamedTuple):
    """How a text weighs frames; arguments of `align.patch_alignment`."""

    target: str = "raw"
    weight: str = "softmax"
    gain: float = 1.0
    final_norm: bool = True


class Compared(NamedTuple):
    """Clips beside texts."""

    cosines: Tensor  # (N, L)
    weights: Tensor | None = None  # (N, L, T), of the frames, by each text; None: all alike


class Matching(nn.Module):
    """Do this text and this clip belong together? Words look at each other, both ways, and at the frames.

    A fusion block of our own: the first token has to see the words behind it, which a BERT made to attend across,
    and so causal, does not let it. Li et al. 2021 (ALBEF), image-text matching.
    """

    def __init__(self, width: int, frame_width: int, layers: int = 2, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width of the words, {width}: set system.fusion_heads")
        self.keys = nn.Linear(frame_width, width) if frame_width != width else None
        block = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerDecoder(block, layers, nn.LayerNorm(width))
        self.linear = nn.Linear(width, 2)

    def forward(self, tokens: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """Scores (N, 2), no and yes, of words (N, W, D) with their mask and frames (N, T, frame_width)."""
        keys = frames if self.keys is None else self.keys(frames)
        seen = self.blocks(tokens, keys, tgt_key_padding_mask=~mask)
        return self.linear(seen[:, 0]).float()


class TextRecogniser(nn.Module):
    """Frames and words in one space. Document 002's RecognizerVisece and its relatives.

    text: the tower, or None where only vectors of texts are known. text_width: of its pooled vectors.
    """

    def __init__(
        self,
        video: VideoEncoder,
        text: TextTower | None,
        projector: nn.Module,
        text_head: nn.Module,
        pool: str = "after",
        weighing: Weighing | None = None,
        temperature: float = 0.07,
        matching: Matching | None = None,
    ) -> None:
        """projector: (…, D) → (…, E), before or after the mean over time (`pool`); text_head: to E as well.

        weighing: None, or how each text weighs the frames; the projector is then before, whatever `pool` says.
        """
        super().__init__()
        self.video, self.text, self.projector, self.text_head = video, text, projector, text_head
        self.pool, self.weighing, self.matching = pool, weighing, matching
        self.temperature = nn.Parameter(torch.tensor(temperature))

    @property
    def tower(self) -> TextTower:
        assert self.text is not None
        return self.text

    @property
    def scale(self) -> Tensor:
        """1/τ, what cosines are multiplied by."""
        return 1 / self.temperature.float().clamp(COLDEST, WARMEST)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Back into its limits: a step of the optimiser may have left them, or have made it negative."""
        self.temperature.nan_to_num_(COLDEST).clamp_(COLDEST, WARMEST)

    def embed(self, frames: Tensor) -> Tensor:
        """Frames (N, T, D) to unit vectors (N, E), all frames counting alike."""
        vectors = self.projector(frames).mean(1) if self.pool == "before" else self.projector(frames.mean(1))
        return F.normalize(vectors.float(), dim=-1)

    def paired(self, frames: Tensor, texts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (N, E) of clips, each as its own text (N, E) weighs it, and the weights (N, T), if any."""
        if self.weighing is None:
            return self.embed(frames), None
        return align.patch_alignment(self.projector(frames), texts, *self.weighing)

    def compare(self, frames: Tensor, texts: Tensor) -> Compared:
        """Clips (N, T, D) beside all texts (L, E), unit vectors; in float32."""
        with torch.autocast(frames.device.type, enabled=False):
            texts = texts.float()
            if self.weighing is None:
                return Compared(self.embed(frames.float()) @ texts.T)
            vectors, weights = align.patch_alignment_classes(self.projector(frames.float()), texts, *self.weighing)
            return Compared(torch.einsum("nle,le->nl", vectors, texts), weights)


def chances(cosines: Tensor, scale: Tensor, kind: str) -> Tensor:
    """Probabilities (N, L) of cosines: softmax(cos/τ), calibrated; or softmax(cos), document 002's own (seed)."""
    return (cosines if kind == "seed" else scale * cosines).softmax(1)


def frozen_children(model: TextRecogniser) -> tuple[str, ...]:
    """What a twin of the model need not copy."""
    return ("text",) if model.text is not None and model.text.frozen else ()
