"""Vector quantisers: replace each vector by the nearest of K codes, and pass the gradient straight through.

They differ in how the codes are trained: by the loss (`VectorQuantizer`), as moving averages of their assigned
vectors (`VectorQuantizerEMA`), or not at all (`FrozenQuantizer`). Look-up and losses use the codes before their
update. All return `Quantized`, whose codes equal `decode(ids)` bit for bit.

Legend: D channels, last in every shape; K codes; N all leading axes flattened.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from sightword.errors import SightwordError
from sightword.ops.nearest import Metric, nearest, unit


class Quantized(NamedTuple):
    """The result of a quantiser for x (..., D)."""

    codes: Tensor  # (..., D), exactly the code vectors; the gradient goes straight to x
    ids: Tensor  # (...), int64
    loss: Tensor  # scalar: commitment term, the distance of x from its codes; its gradient goes to x only
    codebook_loss: (
        Tensor  # scalar: the same distance with its gradient to the codes only; detached if codes are not parameters
    )


class Codebook(nn.Module):
    """Base of the three quantisers: look-up, decoding and the two losses.

    metric: euclidean uses the mean squared error over all elements; cosine compares directions, keeps codes at length
    one and uses 2 − 2cos averaged over vectors (equal to |x/|x| − code|²). `commitment_cost` multiplies
    `Quantized.loss` only.

    Codes and their statistics stay float32 when a module around them is converted (`model.half()`, a Trainer's
    `bf16-true`): a step of an average is too small for 16 bit. `Quantized` is float32, whatever x is.
    """

    is_codebook = True  # weight decay leaves the codes alone
    weight: Tensor  # (K, D)

    def __init__(self, num_embeddings: int, embedding_dim: int, commitment_cost: float, metric: Metric) -> None:
        super().__init__()
        if num_embeddings < 1 or embedding_dim < 1:
            raise SightwordError(
                f"a codebook needs at least one code and one channel, got {num_embeddings} × {embedding_dim}"
            )
        if metric not in ("euclidean", "cosine"):
            raise SightwordError(f"metric is 'euclidean' or 'cosine', got {metric!r}")
        self.num_codes, self.dim = num_embeddings, embedding_dim
        self.commitment_cost, self.metric = commitment_cost, metric

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device as any module does, but keep float32."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            converted = tensor.dtype == torch.float32 != moved.dtype
            return tensor.to(moved.device) if converted else moved

        applied: Self = super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return applied

    def forward(self, x: Tensor) -> Quantized:
        ids = self.nearest(x)
        quantized = self._quantize(x, ids)
        if self.training:
            self.learn(x.detach(), ids)
        return quantized

    def nearest(self, x: Tensor) -> Tensor:
        """Return the ids (...) of x (..., D), without a gradient and without an update of the codes."""
        return nearest(x, self.weight, self.metric)

    def decode(self, ids: Tensor) -> Tensor:
        """Return the codes (..., D) of ids (...), which must be in 0 .. K-1.

        The range is not checked, as that would wait for the GPU. An id out of range raises IndexError on the CPU and
        is a device assert on a GPU. `VQImage.decode` checks first.
        """
        return F.embedding(ids, self.codes())

    def codes(self) -> Tensor:
        """Return the codebook (K, D), at unit length if the metric is cosine."""
        return unit(self.weight) if self.metric == "cosine" else self.weight

    def learn(self, x: Tensor, ids: Tensor) -> None:
        """Update the codes from x (..., D), assigned to ids (...). No-op for codes that are parameters or frozen."""

    def _quantize(self, x: Tensor, ids: Tensor) -> Quantized:
        with torch.autocast(x.device.type, enabled=False):
            x = unit(x.float()) if self.metric == "cosine" else x.float()
            codes = self.decode(ids)
            commitment = self._distance(x, codes.detach())
            pull = self._distance(x.detach(), codes) if codes.requires_grad else commitment.detach()
        return Quantized(_PassThrough.apply(x, codes.detach()), ids, commitment * self.commitment_cost, pull)

    def _distance(self, x: Tensor, codes: Tensor) -> Tensor:
        mean = F.mse_loss(x, codes)
        return mean * self.dim if self.metric == "cosine" else mean


class VectorQuantizer(Codebook):
    """Quantiser whose codes are parameters. They learn only if `codebook_loss` is in the objective.

    van den Oord et al. 2017 (arXiv 1711.00937), equation 3; with `metric="cosine"` the l2-normalised codebook of
    Yu et al. 2022 (arXiv 2110.04627), section 3.2.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        commitment_cost: float = 1.0,
        metric: Metric = "euclidean",
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, commitment_cost, metric)
        self.weight = nn.Parameter(_random_codes(num_embeddings, embedding_dim))


class FrozenQuantizer(Codebook):
    """Quantiser with given codes (K, D) that do not change, such as text embeddings or a published codebook."""

    def __init__(self, weight: Tensor, commitment_cost: float = 1.0, metric: Metric = "euclidean") -> None:
        super().__init__(weight.shape[0], weight.shape[1], commitment_cost, metric)
        self.register_buffer("weight", weight.detach().clone())


class VectorQuantizerEMA(Codebook):
    """Quantiser whose codes are moving averages of the vectors assigned to them (arXiv 1711.00937, appendix A.1).

    A code without any assigned vector does not move (Laplace smoothing would draw it to the origin). Under
    `torch.distributed` the statistics of all ranks are summed, so every rank has the same codebook. The process group
    is looked up at each call, so the module may be built before it.

    Each call in training mode moves the codes. With `deferred` it only adds to `gathered`, and `step` moves them: a
    training that accumulates gradients then has the codebook of one large batch.

    kmeans: start from k-means on the first batch. `keep_codes`: start from codes that were learned before.
    restart_after: move a code that was unused for this many steps onto a vector of the step, drawn without
    replacement; 0 never does.
    """

    cluster_size: Tensor  # (K,) moving average of the number of vectors assigned to a code
    cluster_sum: Tensor  # (K, D) moving average of their sum
    idle: Tensor  # (K,) steps since a code was last used
    updates: Tensor  # () steps so far

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        metric: Metric = "euclidean",
        kmeans: bool = False,
        restart_after: int = 0,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, commitment_cost, metric)
        if not 0 <= decay < 1:
            raise SightwordError(f"decay is in [0, 1), got {decay}")
        self.decay, self.kmeans, self.restart_after = decay, kmeans, restart_after
        self.deferred = False
        self.gathered: Gathered | None = None  # since the last step; in no state dict
        self.register_buffer("weight", _random_codes(num_embeddings, embedding_dim))
        self.register_buffer("cluster_size", torch.zeros(num_embeddings))
        self.register_buffer("cluster_sum", torch.zeros(num_embeddings, embedding_dim))
        self.register_buffer("idle", torch.zeros(num_embeddings, dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Quantized:
        if self.training and self.kmeans and not self.updates and self.gathered is None:
            self.weight.copy_(kmeans(self._prepared(x), self.num_codes))
        return super().forward(x)

    @torch.no_grad()
    def keep_codes(self) -> None:
        """Keep the loaded codes as EMA state. Otherwise the first batch would replace each code by its mean.

        The counts behind the codes are unknown. The first step supplies them, and moves a code by 1 − decay of the way
        to its mean.
        """
        self.updates.zero_()
        self.cluster_size.fill_(1)
        self.cluster_sum.copy_(self.weight)

    @torch.no_grad()
    def learn(self, x: Tensor, ids: Tensor) -> None:
        new = self._statistics(self._prepared(x), ids.flatten())
        self.gathered = new if self.gathered is None else self.gathered.joined(new)
        if not self.deferred:
            self.step()

    @torch.no_grad()
    def step(self) -> None:
        """Move the codes by the statistics of all batches since the last step; without any, do nothing."""
        if self.gathered is None:
            return
        counts, sums = self.gathered.sums[:, 0], self.gathered.sums[:, 1:]
        self._weigh_loaded(counts)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.cluster_sum.lerp_(sums, 1 - self.decay)
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        if self.restart_after:
            self._restart(self.gathered.candidates)
        mean = self.cluster_sum / self.cluster_size[:, None]
        mean = unit(mean) if self.metric == "cosine" else mean
        # After ~2000 steps without a vector both averages have underflown to 0: such a code keeps its last value.
        torch.where(self.cluster_size[:, None] > 1e-9, mean, self.weight, out=self.weight)
        self.updates += 1
        self.gathered = None

    def pending(self) -> dict[str, Tensor]:
        """Return what was gathered since the last step, for a checkpoint; nothing after a step."""
        return {} if self.gathered is None else self.gathered._asdict()

    def load_pending(self, pending: Mapping[str, Tensor]) -> None:
        """Restore what `pending` returned."""
        moved = {name: each.to(self.weight.device if each.ndim else "cpu") for name, each in pending.items()}
        self.gathered = Gathered(**moved) if moved else None

    def _weigh_loaded(self, counts: Tensor) -> None:
        """Weight loaded codes, before the first step, by the number of vectors it assigns to them, counts (K,)."""
        loaded = (self.updates == 0) & (self.cluster_size > 0)  # not `if`: that would wait for the GPU
        weight = torch.where(loaded, counts.clamp(min=1), 1.0)
        self.cluster_size.mul_(weight)
        self.cluster_sum.mul_(weight[:, None])

    def _prepared(self, x: Tensor) -> Tensor:
        x = x.detach().reshape(-1, self.dim).float()  # (N, D)
        return unit(x) if self.metric == "cosine" else x

    def _statistics(self, x: Tensor, ids: Tensor) -> "Gathered":
        """Return the statistics of a batch, summed over ranks in one all-reduce. Candidates are those of rank 0."""
        drawn = self.dim + 1 if self.restart_after else 0
        packed = x.new_zeros(self.num_codes, 1 + self.dim + drawn)
        packed[:, 0] = torch.bincount(ids, minlength=self.num_codes)
        packed[:, 1 : self.dim + 1] = x.new_zeros(self.num_codes, self.dim).index_add_(0, ids, x)
        before = int(self.gathered.vectors) if self.gathered else 0
        if self.restart_after and _rank() == 0:
            rows, order = _draw(x, self.num_codes, int(self.updates), before)
            packed[:, self.dim + 1 :] = torch.cat([rows, order[:, None].to(rows)], 1)
        if _world() > 1:
            dist.all_reduce(packed)
        sums, rows = packed[:, : self.dim + 1], packed[:, self.dim + 1 :]
        return Gathered(sums, rows[:, : self.dim], rows[:, self.dim :].flatten(), torch.tensor(before + len(x)))

    def _restart(self, candidates: Tensor) -> None:
        """Move unused codes onto candidates (K, D), and reset their averages so that these cannot pull them back."""
        dead = self.idle >= self.restart_after  # (K,)
        rows = (dead.cumsum(0) - 1).clamp(min=0)
        for kept, new in ((self.cluster_sum, candidates[rows]), (self.weight, candidates[rows])):
            kept.copy_(torch.where(dead[:, None], new, kept))
        self.cluster_size.masked_fill_(dead, 1.0)
        self.idle.masked_fill_(dead, 0)


class Gathered(NamedTuple):
    """Statistics of the batches since the last step of an EMA codebook. Without restarts there are no candidates."""

    sums: Tensor  # (K, 1 + D): number of vectors assigned to a code, and their sum
    candidates: Tensor  # (K, D) vectors that restarted codes may take, in the order in which they are taken
    order: Tensor  # (K,) the random numbers that they are ordered by, ascending
    vectors: Tensor  # () int64 on the CPU: number of vectors, on this rank

    def joined(self, new: "Gathered") -> "Gathered":
        """Return the statistics of these and later batches: those of one batch that contains them all."""
        order, which = torch.cat([self.order, new.order]).sort(stable=True)
        kept = which[: len(self.order)]
        candidates = torch.cat([self.candidates, new.candidates])[kept]
        return Gathered(self.sums + new.sums, candidates, order[: len(self.order)], new.vectors)


@torch.no_grad()
def kmeans(x: Tensor, num_codes: int, iterations: int = 10, seed: int = 0) -> Tensor:
    """Return K centres (K, D) of x (N, D) by Lloyd's iterations from distinct rows; on every rank those of rank 0.

    Raises SightwordError if x is empty.
    """
    centres, _ = _draw(x, num_codes, seed)
    for _ in range(iterations if _rank() == 0 else 0):
        ids = nearest(x, centres)
        counts = torch.bincount(ids, minlength=num_codes)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, ids, x)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    if _world() > 1:
        dist.broadcast(centres, src=0)
    return centres


def _draw(x: Tensor, count: int, seed: int, before: int = 0) -> tuple[Tensor, Tensor]:
    """Draw `count` rows of x (N, D), none twice before each was drawn once. Repeated rows get a little noise.

    Return the rows, and the ascending random numbers (count,) that order them. A row's number depends on the
    seed and on its place, counted from `before`: draws from the parts of a batch can be merged to a draw from all.
    """
    if not len(x):
        raise SightwordError(f"{count} codes cannot be drawn from no vectors: the batch is empty")
    generator = torch.Generator().manual_seed(seed)
    numbers, order = torch.rand(before + len(x), generator=generator)[before:].sort(stable=True)
    place = torch.arange(count)
    rows = x[order[place % len(x)].to(x.device)]
    noise = torch.randn(rows.shape, generator=generator).to(rows) * x.std() * 0.01
    noise[: len(x)] = 0
    return rows + noise, (numbers[place % len(x)] + place // len(x)).to(x.device)


def _random_codes(num_codes: int, dim: int) -> Tensor:
    """Return random codes of about unit length, so that no code starts as the nearest of all vectors."""
    codes: Tensor = torch.randn(num_codes, dim) / dim**0.5
    return codes


def _rank() -> int:
    return dist.get_rank() if _world() > 1 else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _PassThrough(torch.autograd.Function):
    """Straight-through gradient: returns codes, with the gradient of x.

    `x + (codes - x).detach()` would round, so that most elements differ from their code.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, codes: Tensor) -> Tensor:
        return codes

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
