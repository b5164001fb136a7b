"""Intent logits as exact sums over streams and patches: codebooks of text embeddings, a fusion, a linear head.

    tokens of each stream (B, N, D) → nearest code of its codebook → counts (B, K) → ÷ N · values (K, D) ┐
    …                                                                                                   ├ fused (B, D)
    tokens of each stream (B, N, D) → nearest code of its codebook → counts (B, K) → ÷ N · values (K, D) ┘
    fused → standardised → linear → logits (B, C)

The mean of codes over patches is a histogram times the codebook, so no tensor (B, N, D) of codes is built. A logit is a
sum over streams and patches, exact to rounding: `attribute` returns its terms, `table` the term of each code.

Legend: B batch; N patches; D dimension of codes; S streams; K codes of a stream; C classes.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.ops.nearest import nearest_in_each, unit
from sightword.ops.quantize import Codebook, Quantized

FUSIONS = ("sum", "weighted", "gated")


class SemanticSpatialVQ(Codebook):
    """A codebook of text embeddings: each patch of x (B, N, D) is replaced by the code of largest cosine.

    Returns `Quantized`: codes (B, N, D), ids (B, N), loss = 2 − 2cos averaged over patches, in [0, 4]. If the codes
    are trained and x carries no gradient, the gradient flows to the codes (a gather); straight-through, it would flow
    to x and be lost.
    """

    anchors: Tensor  # (K, D), the initial codes

    def __init__(self, anchors: Tensor, freeze_codebook: bool = True) -> None:
        """anchors: (K, D), one row per code; normalised to length one."""
        super().__init__(anchors.shape[0], anchors.shape[1], commitment_cost=1.0, metric="cosine")
        self.register_buffer("anchors", unit(anchors.detach().float()).clone())
        if freeze_codebook:
            self.register_buffer("weight", self.anchors.clone())
        else:
            self.weight = nn.Parameter(self.anchors.clone())

    @property
    def frozen(self) -> bool:
        return not isinstance(self.weight, nn.Parameter)

    def _quantize(self, x: Tensor, ids: Tensor) -> Quantized:
        quantized = super()._quantize(x, ids)
        if self.weight.requires_grad and not x.requires_grad:
            return quantized._replace(codes=self.decode(ids))
        return quantized

    @torch.no_grad()
    def drift(self) -> dict[str, float]:
        """Return how far the codes are from their anchors.

        cosine: between a code and its anchor, the mean. off_anchor: fraction of codes nearest to another anchor.
        """
        codes = self.codes()
        nearest = nearest_in_each(codes, [self.anchors], "cosine")[0]
        own = torch.arange(len(codes), device=codes.device)
        return {
            "cosine": (codes * self.anchors).sum(1).mean().item(),
            "off_anchor": (nearest != own).float().mean().item(),
        }


class Read(NamedTuple):
    """The output of `MultiStream`."""

    logits: Tensor  # (B, C)
    ids: dict[str, Tensor]  # stream → (B, N) int64, patches row by row; empty if counts were given
    gates: Tensor  # (B, S), weights of the streams; ones if the fusion is a plain sum
    fused: Tensor  # (B, D), before standardisation
    commitment: Tensor  # scalar, 2 − 2cos summed over streams; zero if counts were given


class MultiStream(nn.Module):
    """Codebooks, a fusion and a linear head over the patch tokens of a frozen image encoder."""

    def __init__(
        self,
        anchors: Mapping[str, Tensor],
        num_classes: int = 28,
        fusion: str = "sum",
        center: bool = True,
        standardise: bool = True,
        freeze_codebook: bool = True,
        adapter: bool = False,
    ) -> None:
        """anchors: stream → (K, D). center: subtract each codebook's mean anchor from its codes before they are summed;
        nearest codes stay the same. standardise: batch norm without weights before the head. adapter: a linear layer
        on the tokens of each stream, initially the identity.
        """
        super().__init__()
        if fusion not in FUSIONS:
            raise SightwordError(f"fusion={fusion!r} is none of {', '.join(FUSIONS)}")
        widths = {name: codes.shape[1] for name, codes in anchors.items()}
        if len(set(widths.values())) != 1:
            raise SightwordError(f"expected anchors of one dimension in all streams, got {widths}")
        dim = next(iter(widths.values()))
        self.fusion = fusion
        self.books = nn.ModuleDict({name: SemanticSpatialVQ(codes, freeze_codebook) for name, codes in anchors.items()})
        self.adapters = nn.ModuleDict({name: _identity(dim) for name in anchors} if adapter else {})
        means = torch.stack([unit(codes.float()).mean(0) for codes in anchors.values()])  # (S, D)
        self.register_buffer("centres", means * center)
        self.weights = nn.Parameter(torch.full((len(anchors),), 1.0).expm1().log()) if fusion == "weighted" else None
        self.gate = nn.Linear(len(anchors) * dim, len(anchors)) if fusion == "gated" else None
        # without weights of its own, as before the linear probe of He et al. 2022 (MAE, appendix A.1)
        self.norm = nn.BatchNorm1d(dim, affine=False) if standardise else None
        self.head = nn.Linear(dim, num_classes)

    centres: Tensor

    @property
    def streams(self) -> list[str]:
        return list(self.books)

    def book(self, stream: str) -> SemanticSpatialVQ:
        return cast(SemanticSpatialVQ, self.books[stream])

    def size(self, stream: str) -> int:
        """Return how many ids a patch may have."""
        return self.book(stream).num_codes

    def forward(self, tokens: Mapping[str, Tensor]) -> Read:
        """tokens: stream → (B, N, D), in the encoder's joint space; one tensor may serve several streams."""
        tokens = self.adapted(tokens)
        ids = self.nearest(tokens)
        counts = {name: self.count(name, ids[name]) for name in self.streams}
        pooled = {name: self.pool(name, counts[name]) for name in self.streams}
        commitment = self._commitment(tokens, ids)
        if self.adapters:  # straight through the choice of a code
            soft = {name: unit(tokens[name].float()).mean(1) for name in self.streams}
            pooled = {name: pooled[name] + soft[name] - soft[name].detach() for name in self.streams}
        logits, gates, fused = self.classify(pooled)
        return Read(logits, ids, gates, fused, commitment)

    def adapted(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tokens whose nearest codes are looked up: after the adapters, if there are any."""
        return {name: self.adapters[name](x) if name in self.adapters else x for name, x in tokens.items()}

    def from_counts(self, counts: Mapping[str, Tensor]) -> Read:
        """Return the same from histograms: stream → (B, K), how many patches have each code."""
        pooled = {name: self.pool(name, counts[name]) for name in self.streams}
        logits, gates, fused = self.classify(pooled)
        return Read(logits, {}, gates, fused, logits.new_zeros(()))

    def nearest(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return stream → ids (B, N) of adapted tokens. Streams with the same tokens share one matrix product."""
        found: dict[str, Tensor] = {}
        for names in self._readers(tokens):
            books = [self.book(name).weight for name in names]
            found |= zip(names, nearest_in_each(tokens[names[0]].detach(), books, "cosine"), strict=True)
        return {name: found[name] for name in self.streams}

    def count(self, stream: str, ids: Tensor) -> Tensor:
        """Return histograms (B, K) float32 of ids (B, N)."""
        counts = torch.zeros(len(ids), self.size(stream), device=ids.device)
        return counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=counts.dtype))

    def pool(self, stream: str, counts: Tensor) -> Tensor:
        """Return the mean (B, D) of the codes in histograms (B, K)."""
        counts = counts.float()
        return counts / counts.sum(1, keepdim=True) @ self.values(stream)

    def values(self, stream: str) -> Tensor:
        """Return what each code adds to the sum (K, D): its unit vector minus the centre of its codebook."""
        return self.book(stream).codes() - self.centres[self.streams.index(stream)]

    def classify(self, pooled: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, C), gates (B, S), fused (B, D) of stream → (B, D)."""
        each = torch.stack([pooled[name] for name in self.streams], 1)  # (B, S, D)
        gates = self.gates(each)
        fused = (gates[..., None] * each).sum(1)  # (B, D)
        return self.head(self.norm(fused) if self.norm is not None else fused), gates, fused

    def gates(self, each: Tensor) -> Tensor:
        """Return the weight of each stream (B, S): 1; or learned; or computed from `each` (B, S, D), with sum S."""
        if self.weights is not None:
            return F.softplus(self.weights).expand(len(each), -1)
        if self.gate is not None:
            return self.gate(each.flatten(1)).softmax(1) * each.shape[1]
        return each.new_ones(each.shape[:2])

    # ----------------------------------------------------------------------------------------------------- inside

    def table(self, stream: str) -> Tensor:
        """Return (K, C), a row for each id: what it adds to each logit if every patch has it, at stream weight 1."""
        weight, _ = self._plain_head()
        return self.values(stream) @ weight.T

    def bias(self) -> Tensor:
        """Return (C,): the logits without any code."""
        return self._plain_head()[1]

    def attribute(self, read: Read) -> dict[str, Tensor]:
        """Return stream → (B, N, C): what each patch's code adds to each logit. Their sum plus `bias` is the logits.

        The model must be in eval mode: in training, standardisation depends on the batch. With adapters the sum is as
        exact, but the codes were looked up with adapted tokens.
        """
        if self.training:
            raise ValueError("contributions need a model in eval mode: call eval() first")
        found = {}
        for number, name in enumerate(self.streams):
            ids = read.ids[name]  # (B, N)
            share = read.gates[:, number, None, None] / ids.shape[1]
            found[name] = F.embedding(ids, self.table(name)) * share
        return found

    def _plain_head(self) -> tuple[Tensor, Tensor]:
        """The head with the standardisation folded in: weight (C, D), bias (C,)."""
        weight, bias = self.head.weight, self.head.bias
        if self.norm is None:
            return weight, bias
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        weight = weight / (var + self.norm.eps).sqrt()
        return weight, bias - weight @ mean

    def _readers(self, tokens: Mapping[str, Tensor]) -> list[list[str]]:
        """Streams, grouped by the tensor that they read."""
        readers: dict[int, list[str]] = {}
        for name in self.streams:
            readers.setdefault(id(tokens[name]), []).append(name)
        return list(readers.values())

    def _commitment(self, tokens: Mapping[str, Tensor], ids: Mapping[str, Tensor]) -> Tensor:
        """2 − 2cos of tokens and their codes, the mean over patches, summed over streams.

        The cosines of one token with several codes are one product with the sum of these, so tokens are read once.
        """
        terms = []
        for names in self._readers(tokens):
            x = tokens[names[0]].flatten(0, -2).float()  # (B·N, D)
            books = [self.book(name).codes() for name in names]
            starts = accumulate(map(len, books[:-1]), initial=0)
            rows = torch.stack([ids[name].flatten() + start for name, start in zip(names, starts, strict=True)], 1)
            with torch.autocast(x.device.type, enabled=False):
                codes = F.embedding_bag(rows, torch.cat(books), mode="sum")  # (B·N, D)
                length = x.norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
                terms.append(2 * len(names) - 2 * ((x * codes).sum(1) / length).mean())
        return torch.stack(terms).sum()


class Baseline(nn.Module):
    """A baseline without codebooks: frozen CLIP's pooled vector (B, E) and mean patch (B, D) through an MLP."""

    def __init__(self, pooled_dim: int, token_dim: int, num_classes: int = 28, hidden: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(pooled_dim + token_dim),
            nn.Linear(pooled_dim + token_dim, hidden),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, pooled: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (B, C) of pooled (B, E) and tokens (B, N, D)."""
        both = [F.normalize(pooled.float(), dim=-1), F.normalize(tokens.float().mean(1), dim=-1)]
        return self.layers(torch.cat(both, 1))


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
