"""What recognisers of text are trained for: matching, and contrast with what a slow copy made of earlier batches.

Legend: B clips of a batch (of all ranks, where gathered); L classes; T frames; W tokens; D widths; E common space.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.ops import align
from sightword.ops.momentum import EMAModel, Queue
from sightword.systems.skeleton.model import Matching, TextRecogniser, frozen_children
from sightword.systems.skeleton.texts import ClassTexts, Read


class Matched(NamedTuple):
    """Of image-text matching."""

    loss: Tensor  # scalar
    right: Tensor  # scalar in [0, 1]: the share of pairs that are told right; NaN where there is no pair


def matching_loss(
    matching: Matching, frames: Tensor, texts: Read, labels: Tensor, logits: Tensor, way: str = "sample"
) -> Matched:
    """Cross-entropy of (clip, its text) → yes; (another clip, text) → no; (clip, another text) → no.

    frames: (B, T, D); texts: of each row, its own; labels: (B,), equal labels never are a pair's "no"; logits: (B, B)
    scores of clips and texts, by which the others are chosen (`align.negatives`). A row without any other label has no
    "no"; where no row has one, the loss is zero and still of the graph, so that ranks that have one need not wait.
    Document 002's RecognizerViseceITM, which returns early there.
    """
    text_of, clip_of = (align.negatives(each, labels, way) for each in (logits, logits.T))
    rows = torch.arange(len(labels), device=labels.device)
    clips = torch.cat([rows, clip_of.columns, rows])
    words = torch.cat([rows, rows, text_of.columns])
    scores = matching(texts.tokens[words], texts.mask[words], frames[clips])  # (3B, 2)
    wanted = (torch.arange(len(scores), device=labels.device) < len(labels)).long()
    some = text_of.valid.any()
    counts = torch.cat([torch.ones_like(text_of.valid), clip_of.valid, text_of.valid]) & some
    each = F.cross_entropy(scores, wanted, reduction="none")
    total = counts.sum()
    right = ((scores.argmax(1) == wanted) & counts).sum() / total
    return Matched((each * counts).sum() / total.clamp(min=1), right.detach())


class MomentumContrast(nn.Module):
    """Contrast with more than the batch: clips of earlier batches, as a slow copy of the recogniser saw them.

        text → clips   [the batch's, by the twin | the queue's]
        clip → texts   all classes' (a queue would hold a few texts many times, stale), or as above (`queue_texts`)

    Targets are labels, softened by the twin's own scores (`align.blend`). Document 002's RecognizerViseceMo.
    """

    def __init__(
        self,
        model: TextRecogniser,
        width: int,
        decay: float = 0.995,
        size: int = 65536,
        queue_texts: bool = False,
        soft: float = 0.4,
        ramp: int = 2500,
    ) -> None:
        """width: E. soft: α of the blend, reached after `ramp` batches."""
        super().__init__()
        self.twin = EMAModel(model, decay, frozen_children(model))
        self.clips, self.texts = Queue(size, width), Queue(size, width) if queue_texts else None
        self.soft, self.ramp = soft, ramp

    def forward(
        self, model: TextRecogniser, prompts: ClassTexts, volume: Tensor, frames: Tensor, labels: Tensor, batch: int
    ) -> tuple[Tensor, Read, Tensor]:
        """(loss, what was read of texts, each clip's row of it (B,)); the twin takes its step first.

        volume: heatmaps that `frames` (B, T, D) are of; labels: (B,); batch: how many there were before this one.
        """
        self.twin.update(model)
        classes, own = (None, labels) if self.texts is None else labels.unique(return_inverse=True)
        read = prompts.read(model.tower, model.text_head, classes)
        clips, texts, ids = align.gather(model.embed(frames)), align.gather(read.unit[own]), align.gather(labels)
        slow: TextRecogniser = self.twin.module  # type: ignore[assignment]
        with torch.no_grad():
            slow_read = prompts.read(slow.tower, slow.text_head, classes)
            slow_clips = align.gather(slow.embed(slow.video(volume)))
            slow_texts = align.gather(slow_read.unit[own])
        alpha = self.soft * min(1.0, batch / max(1, self.ramp))
        scale = model.scale
        to_clips = _one_way(texts, slow_texts, slow_clips, ids, self.clips, scale, alpha)
        if self.texts is None:
            wanted = F.one_hot(ids, len(read.unit))
            believed = _scores(slow_clips, slow_read.unit, scale.detach())
            to_texts = align.soft_cross_entropy(_scores(clips, read.unit, scale), align.blend(wanted, believed, alpha))
        else:
            to_texts = _one_way(clips, slow_clips, slow_texts, ids, self.texts, scale, alpha)
            self.texts.write(slow_texts, ids)
        self.clips.write(slow_clips, ids)
        return (to_clips + to_texts) / 2, read, own


def _one_way(
    rows: Tensor, slow_rows: Tensor, slow_columns: Tensor, ids: Tensor, queue: Queue, scale: Tensor, alpha: float
) -> Tensor:
    """Scalar: rows (B, E) against the columns of the batch, by the twin, and of the queue."""
    columns = torch.cat([slow_columns, queue.vectors])  # (B + K, E)
    empty = torch.cat([torch.zeros_like(ids, dtype=torch.bool), queue.empty()])
    logits = _scores(rows, columns, scale).masked_fill(empty, torch.finfo(torch.float32).min)
    believed = _scores(slow_rows, columns, scale.detach()).masked_fill(empty, -torch.inf)
    wanted = align.shares(ids, torch.cat([ids, queue.ids]))
    return align.soft_cross_entropy(logits, align.blend(wanted, believed, alpha))


def _scores(rows: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    """Scaled products (B, N), in float32 whatever autocast says."""
    with torch.autocast(rows.device.type, enabled=False):
        return scale * rows.float() @ columns.float().T
