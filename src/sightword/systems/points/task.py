"""The objective of the point encoder.

    total = distil_weight·distil_loss             1 − cos(fused, lifted CLIP), over visible points; with system.spread
                                                  1 − cos(head, lifted CLIP averaged over like points)
          + consistency_weight·clip_cons_loss     1 − the mean cosine of a point's views, on the trainable maps
          + label_weight·label_loss               cross-entropy with the labels: supervised, and off by default

Legend: N points, V views and L correspondences of a batch; C channels of a map, or classes of a label set; E dimension
of CLIP's joint space; h, w cells of a map.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.engine.task import Task
from sightword.systems.points.clip import FrozenClip, clip_of
from sightword.systems.points.config import PointsConfig
from sightword.systems.points.data import RoomBatch
from sightword.systems.points.lift.geometry import Links, at_links
from sightword.systems.points.model import BiFusionEncoder, Fused
from sightword.systems.points.presence import SAMPLE, SCENES, Accepted, Background
from sightword.systems.points.scannet.label import LabelSet, label_set


def make_task(system: PointsConfig) -> "PointsTask":
    """Return the task that a config describes."""
    clip = clip_of(system)
    return PointsTask(system, make_encoder(system, clip.width), clip, label_set(system.labels))


def make_encoder(system: PointsConfig, clip_dim: int) -> BiFusionEncoder:
    """Return the encoder of a config, with new weights. clip_dim: E."""
    return BiFusionEncoder(
        clip_dim,
        system.dim,
        system.radius,
        system.k,
        system.layers,
        system.neck,
        system.upsample,
        system.heads,
        system.bands,
        system.clip_global,
        system.use_amp,
        (system.abs_tol, system.rel_tol),
        system.chain,
        (system.spread[0], system.spread[1]) if system.spread else None,
    )


class PointsTask(Task[RoomBatch]):
    """A point encoder, distilled from the CLIP whose maps it is given. CLIP is frozen, and no part of this module."""

    own_state = ("acceptance", "acceptance_other", "elsewhere", "scenes")
    added_state = ("acceptance", "acceptance_other", "elsewhere", "scenes")
    # of lifted CLIP and of the fused features, by validation; zeros: not yet chosen
    acceptance: Tensor  # (2, 4): `Accepted` of classes
    acceptance_other: Tensor  # (2, 4): of classes that are treated as other texts
    elsewhere: Tensor  # (2, 2, C): mean and spread of the fits of classes in scenes without them
    scenes: Tensor  # (2, S, K, E) float16: features of points of some scenes

    def __init__(self, system: PointsConfig, model: BiFusionEncoder, clip: FrozenClip, labels: LabelSet) -> None:
        super().__init__(
            {
                "distil_loss": system.distil_weight,
                "clip_cons_loss": system.consistency_weight,
                "label_loss": system.label_weight,
            }
        )
        self.system, self.model, self.clip, self.labels, self.classes = system, model, clip, labels, labels.names
        self.consistency = ClipConsCriterion()
        self.register_buffer("acceptance", torch.zeros(2, 4))
        self.register_buffer("acceptance_other", torch.zeros(2, 4))
        self.register_buffer("elsewhere", torch.zeros(2, 2, len(labels.names)))
        self.register_buffer("scenes", torch.zeros(2, SCENES, SAMPLE, model.clip_dim, dtype=torch.float16))
        self._stats: dict[str, Tensor] = {}

    def background(self, features: Literal["lifted", "fused"]) -> Background | None:
        """Return how texts fit the scenes of validation; None if nothing was chosen, as in older runs."""
        row = ("lifted", "fused").index(features)
        mean, spread = self.elsewhere[row].cpu()
        if not self.acceptance[row, 3] or not spread.all():
            return None
        samples = self.scenes[row].cpu()
        kept = samples.flatten(1).any(1)
        both = (Accepted(*rows[row].tolist()) for rows in (self.acceptance, self.acceptance_other))
        return Background(self.labels.names, mean, spread, samples[kept], *both)

    def keep_background(self, features: Literal["lifted", "fused"], found: Background) -> None:
        """Keep what validation chose with the weights."""
        row = ("lifted", "fused").index(features)
        self.acceptance[row] = torch.tensor(found.accepted)
        self.acceptance_other[row] = torch.tensor(found.other)
        self.elsewhere[row] = torch.stack([found.mean, found.spread])
        self.scenes[row] = 0
        self.scenes[row, : len(found.samples)] = found.samples[:SCENES].to(self.scenes)

    def encode(self, batch: RoomBatch) -> tuple[Fused, Tensor]:
        """Return the encoder's output for a batch, and CLIP's maps of its views (V, E, h, w)."""
        maps, pooled = batch.maps, batch.pooled
        if maps is None:
            if batch.images is None:
                raise TypeError("a batch needs maps of its views, or images to compute them from; it has neither")
            maps, pooled = self.clip.encode_image(batch.images)
        return self.model(batch.xyz, batch.rgb, batch.scene, batch.views, maps, pooled, hidden=batch.hidden), maps

    def losses(self, batch: RoomBatch) -> dict[str, Tensor]:
        out, _ = self.encode(batch)
        terms = {}
        if self.system.distil_weight:
            # from itself a point learns to copy its input; the mean over like points is not in its input
            target = out.clip if out.spread is None else out.spread
            terms["distil_loss"] = distillation(out.head, target, out.seen)
        if self.system.consistency_weight:
            terms["clip_cons_loss"] = self.consistency(out.maps, out.links, len(batch.xyz))
        if self.system.label_weight:
            terms["label_loss"] = self._label_loss(out.text, batch.label)
        views = out.links.counts.float()
        self._stats = {"coverage": out.seen.float().mean(), "views_per_point": views.mean()}
        return terms

    def _label_loss(self, text: Tensor, label: Tensor) -> Tensor:
        known = label >= 0
        logits = self.system.logit_scale * text[known] @ self.class_embeddings(text.device).T
        return F.cross_entropy(logits, label[known], reduction="sum") / known.sum().clamp_min(1)

    def class_embeddings(self, device: torch.device) -> Tensor:
        """Return unit vectors (C, E) of the classes, in the order of `labels`."""
        return self.clip.class_embeddings(self.labels.names, self.system.templates).to(device)

    def stats(self) -> dict[str, float]:
        """Return coverage, the fraction of points that any view sees, and views_per_point, the mean number of views."""
        return {name: float(value) for name, value in self._stats.items()}

    def parameter_groups(self) -> dict[str, list[Parameter]]:
        """Return image, the 2-D branch; points, the 3-D branch; head, the gate and the projection to CLIP's space."""
        model = self.model
        parts = {
            "image": (model.reduce, model.neck, model.norm2),
            "points": (model.embed, model.layers, model.norm3),
            "head": (model.gate, model.head),
        }
        return {
            group: [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]
            for group, modules in parts.items()
        }


# ------------------------------------------------------------------------------------------------------------- losses


def distillation(text: Tensor, clip: Tensor, seen: Tensor) -> Tensor:
    """Return the mean of 1 − cos(text, clip) over visible points, or 0. text, clip: (N, E); seen: (N,) bool."""
    apart = 1 - F.cosine_similarity(text, clip.detach(), dim=1)
    return (apart * seen).sum() / seen.sum().clamp_min(1)


class ClipConsCriterion(nn.Module):
    """Consistency of views: 1 − the mean cosine of all pairs of a point's views, over points with two views or more.

    For the reduced maps. On frozen maps its gradient is exactly zero, so it would be a number that trains nothing. A
    constant map minimises it too, so it stands beside `distillation`.
    """

    def forward(self, maps: Tensor, links: Links, n: int) -> Tensor:
        """Return a scalar; 0 where no point is seen twice. maps: (V, C, h, w); n: points."""
        alike, twice = agreement(maps, links, n)
        return ((1 - alike) * twice).sum() / twice.sum().clamp_min(1)


def agreement(maps: Tensor, links: Links, n: int) -> tuple[Tensor, Tensor]:
    """Return the mean cosine between the views of each point (N,), and which points have two or more (N,) bool.

    All m (m − 1) pairs at once: they add up to |Σ unit vectors|² − m.
    """
    units = F.normalize(at_links(maps, links), dim=1)  # (L, C)
    total = units.new_zeros(n, units.shape[1]).index_add(0, links.point, units)
    # not m itself: a vector of zeros has no length
    own = units.new_zeros(n).index_add(0, links.point, units.square().sum(1))
    count = torch.bincount(links.point, minlength=n).to(units.dtype)
    pairs = (count * (count - 1)).clamp_min(1)
    return (total.square().sum(1) - own) / pairs, count > 1
