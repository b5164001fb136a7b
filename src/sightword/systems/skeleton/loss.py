"""Objectives of video-text models: matching, and contrast with earlier batches by a momentum encoder.

    matching            cross-entropy: do this view and this text belong together?
    momentum contrast   EMA copy ← decay · copy + (1 − decay) · trained; its vectors of a batch enter a queue, and the
                        oldest leave

He et al. 2020 (MoCo, arXiv 1911.05722); Li et al. 2021 (ALBEF, arXiv 2107.07651), whose numbers are the defaults.

Legend: B views of a batch (of all ranks, where gathered); K classes; Q places of the queue; T frames; S tokens; D
widths; E dimension of the common space.
"""

import copy
from collections.abc import Sequence
from typing import Generic, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.ops import align
from sightword.systems.skeleton.model import ClassEmbeddings, ClassTexts, MatchingHead, VideoTextModel, frozen_children

ModuleT = TypeVar("ModuleT", bound=nn.Module)
EMPTY = -100  # the id of a place in the queue that nothing was written to yet


class MatchingLoss(NamedTuple):
    """The loss of video-text matching, and how often the head is right."""

    loss: Tensor  # scalar
    accuracy: Tensor  # scalar in [0, 1]: the fraction of pairs that are classified correctly; NaN without a pair


def matching_loss(
    matching: MatchingHead, frames: Tensor, texts: ClassEmbeddings, labels: Tensor, logits: Tensor, way: str = "sample"
) -> MatchingLoss:
    """Return the cross-entropy of (view, its text) → yes; (another view, text) → no; (view, another text) → no.

    frames: (B, T, D); texts: of each row, its own; labels: (B,), equal labels are never a pair's "no"; logits: (B, B)
    scores of views and texts, by which the others are chosen (`align.negatives`). A row without any other label has no
    "no"; if no row has one, the loss is zero and still part of the graph, so that other ranks need not wait.
    """
    text_of, view_of = (align.negatives(each, labels, way) for each in (logits, logits.T))
    rows = torch.arange(len(labels), device=labels.device)
    views = torch.cat([rows, view_of.columns, rows])
    others = torch.cat([rows, rows, text_of.columns])
    scores = matching(texts.tokens[others], texts.mask[others], frames[views])  # (3B, 2)
    targets = (torch.arange(len(scores), device=labels.device) < len(labels)).long()
    some = text_of.valid.any()
    counts = torch.cat([torch.ones_like(text_of.valid), view_of.valid, text_of.valid]) & some
    each = F.cross_entropy(scores, targets, reduction="none")
    total = counts.sum()
    accuracy = ((scores.argmax(1) == targets) & counts).sum() / total
    return MatchingLoss((each * counts).sum() / total.clamp(min=1), accuracy.detach())


# --------------------------------------------------------------------------------------------------- momentum contrast


class Queue(nn.Module):
    """The last Q vectors and their ids, first in, first out; part of a checkpoint."""

    vectors: Tensor  # (Q, E) float32
    ids: Tensor  # (Q,) int64, EMPTY where nothing was written yet
    place: Tensor  # () int64, where the next row goes

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1:
            raise SightwordError(f"expected a queue of one place or more, got {size}")
        self.register_buffer("vectors", torch.zeros(size, width))
        self.register_buffer("ids", torch.full((size,), EMPTY))
        self.register_buffer("place", torch.tensor(0))

    def __len__(self) -> int:
        return len(self.ids)

    @torch.no_grad()
    def write(self, vectors: Tensor, ids: Tensor) -> None:
        """Write vectors (N, E) and their ids (N,) in the place of the oldest; of more than Q, the last stay.

        Every rank writes the same rows, those that `align.gather` gave, so that all have the same queue.
        """
        size = len(self)
        vectors, ids = vectors[-size:], ids[-size:]
        places = (self.place + torch.arange(len(ids), device=self.ids.device)) % size
        self.vectors[places] = vectors.to(self.vectors)
        self.ids[places] = ids.to(self.ids)
        self.place.copy_((self.place + len(ids)) % size)

    def empty(self) -> Tensor:
        """Return which places to leave out of a softmax, (Q,) bool."""
        return self.ids == EMPTY


class EMAModel(nn.Module, Generic[ModuleT]):
    """A copy of a module that follows it slowly: an exponential moving average of parameters and float buffers.

    Buffers are averaged as well (a batch norm's mean and variance belong to the weights that they were counted for),
    integers are copied. The copy is always in eval mode and has no gradients.

        copy ← d · copy + (1 − d) · trained,  d = min(decay, (1 + n) / (10 + n)) at step n

    so that a short run's copy is no average with its beginning; 0.995 is reached after 1,791 steps. `shared`: children
    that are frozen and need no copy; the copy uses the original's.
    """

    module: ModuleT
    steps: Tensor  # () float32, n

    def __init__(self, module: ModuleT, decay: float = 0.995, shared: Sequence[str] = ()) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise SightwordError(f"expected the decay of an average in [0, 1), got {decay}")
        children = {name: getattr(module, name) for name in shared}
        self.module = copy.deepcopy(module, {id(child): child for child in children.values()})
        for name, child in children.items():
            del self.module._modules[name]  # it is the original's to save, to train and to move
            self.module.__dict__[name] = child
        self.decay = decay
        self.register_buffer("steps", torch.tensor(0.0))
        self.module.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: ModuleT) -> None:
        """Make one step towards the module that this is a copy of."""
        theirs: dict[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())
        own: dict[str, Tensor] = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        part = 1 - ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)  # a tensor: no GPU is waited for
        for name, value in own.items():
            if value.is_floating_point():
                value.lerp_(theirs[name].to(value), part.to(value))
            else:
                value.copy_(theirs[name])
        self.steps += 1

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever mode a parent is in."""
        return super().train(False)


class MomentumContrast(nn.Module):
    """Contrast with views of earlier batches, as the momentum encoder embedded them: RecognizerViseceMo.

        text → views   [the batch's, by the momentum encoder | the queue's]
        view → texts   all classes' (a queue would hold a few texts many times, stale), or as above (`queue_texts`)

    Targets are labels, softened by the momentum encoder's own scores (`align.blend`).
    """

    def __init__(
        self,
        model: VideoTextModel,
        width: int,
        decay: float = 0.995,
        size: int = 65536,
        queue_texts: bool = False,
        soft: float = 0.4,
        ramp: int = 2500,
    ) -> None:
        """width: E. size: Q. soft: α of the blend, reached after `ramp` batches."""
        super().__init__()
        self.slow = EMAModel(model, decay, frozen_children(model))
        self.views, self.texts = Queue(size, width), Queue(size, width) if queue_texts else None
        self.soft, self.ramp = soft, ramp

    def forward(
        self,
        model: VideoTextModel,
        prompts: ClassTexts,
        volume: Tensor,
        frames: Tensor,
        labels: Tensor,
        batch: int,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, ClassEmbeddings, Tensor]:
        """Return (loss, embeddings of classes, each view's row of these (B,)). The momentum encoder is updated first.

        volume: heatmaps that `frames` (B, T, D) are of; labels: (B,); batch: number of batches trained before; seen:
        the classes that are trained (K',), ascending; None: all.
        """
        self.slow.update(model)
        if self.texts is not None:
            classes, own = labels.unique(return_inverse=True)
        else:
            classes, own = seen, labels if seen is None else torch.searchsorted(seen, labels)
        embedded = prompts.embed(model.tower, model.text_head, classes)
        views, texts, ids = align.gather(model.embed(frames)), align.gather(embedded.unit[own]), align.gather(labels)
        slow = self.slow.module
        with torch.no_grad():
            slow_embedded = prompts.embed(slow.tower, slow.text_head, classes)
            slow_views = align.gather(slow.embed(slow.video(volume)))
            slow_texts = align.gather(slow_embedded.unit[own])
        alpha = self.soft * min(1.0, batch / max(1, self.ramp))
        scale = model.logit_scale
        to_views = _one_way(texts, slow_texts, slow_views, ids, self.views, scale, alpha)
        if self.texts is None:
            targets = align.blend(
                F.one_hot(align.gather(own), len(embedded.unit)),
                _scores(slow_views, slow_embedded.unit, scale.detach()),
                alpha,
            )
            to_texts = align.soft_cross_entropy(_scores(views, embedded.unit, scale), targets)
        else:
            to_texts = _one_way(views, slow_views, slow_texts, ids, self.texts, scale, alpha)
            self.texts.write(slow_texts, ids)
        self.views.write(slow_views, ids)
        return (to_views + to_texts) / 2, embedded, own


def _one_way(
    rows: Tensor, slow_rows: Tensor, slow_columns: Tensor, ids: Tensor, queue: Queue, scale: Tensor, alpha: float
) -> Tensor:
    """The loss of rows (B, E) against the columns of the batch, by the momentum encoder, and of the queue."""
    columns = torch.cat([slow_columns, queue.vectors])  # (B + Q, E)
    empty = torch.cat([torch.zeros_like(ids, dtype=torch.bool), queue.empty()])
    logits = _scores(rows, columns, scale).masked_fill(empty, torch.finfo(torch.float32).min)
    slow_logits = _scores(slow_rows, columns, scale.detach()).masked_fill(empty, -torch.inf)
    targets = align.shares(ids, torch.cat([ids, queue.ids]))
    return align.soft_cross_entropy(logits, align.blend(targets, slow_logits, alpha))


def _scores(rows: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    """Scaled products (B, N), in float32 whatever autocast says."""
    with torch.autocast(rows.device.type, enabled=False):
        return scale * rows.float() @ columns.float().T
