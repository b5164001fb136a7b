"""Key points to heatmaps, drawn where the model is: PoseConv3D's joint and limb volumes, equal to pyskl's to 2e-6.

Almost all of a volume is zero. So only the few pixels about a joint or a limb are computed, in small dense windows, and
written into a canvas that is kept from call to call and wiped only where it was written to: a new one of 80 MB costs
more than all that is drawn on it. Training has a canvas of its own, so that no evaluation overwrites what a
backward pass still needs.

Legend: N views, M persons, L frames, V joints, C channels (V, or limbs), H, W pixels; P things to draw, K pixels.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sightword.errors import SightwordError

KINDS = ("joint", "limb")
TILE = 4  # pixels a side of the pieces that a limb's box is cut into
CHUNK = 8192  # pieces drawn at once on a CPU: what they need stays in its cache
FAR = 1e9  # offset of a pixel outside of its limb's box


class Limbs(Protocol):
    """What heatmaps need of a joint set."""

    @property
    def joints(self) -> tuple[str, ...]: ...

    @property
    def limbs(self) -> tuple[tuple[int, int], ...]: ...


class Heatmaps(nn.Module):
    """Gaussians about joints, or about the limbs between them; persons merge by their maximum.

    joint: c·exp(-|x - joint|² / 2σ²) in the pixels from trunc(joint - 3σ) to trunc(joint + 3σ), c the joint's score.
    limb: the same of the distance to the segment, in the box about it that is cut alike, c the lesser score of the two
    ends; of a segment shorter than a pixel, the first end as a joint, with its own score.
    What scores less than `eps`, or stands nowhere (NaN, infinite), is not drawn.

    forward returns a view of a canvas that the module keeps: the next call in the same mode (training or evaluation)
    overwrites it. With fresh=True, it is a tensor of its own. The canvases are no part of the state dict; they grow as
    needed and follow the key points' device.
    Source: PoseConv3D (arXiv 2104.13586), GeneratePoseTarget.
    """

    def __init__(
        self,
        joints: Limbs,
        kind: str = "joint",
        sigma: float = 0.6,
        eps: float = 1e-3,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"expected heatmaps of kind {' or '.join(KINDS)}, got {kind!r}")
        if sigma <= 0 or eps <= 0:
            raise ValueError(f"heatmaps need a sigma and an eps above 0: sigma {sigma}, eps {eps}")
        if kind == "limb" and not joints.limbs:
            raise SightwordError("system.heatmap=limb needs limbs, and the joint set has none. Add some, or set joint")
        self.kind, self.sigma, self.eps, self.dtype = kind, sigma, eps, dtype
        self.num_joints, self.limbs = len(joints.joints), tuple(joints.limbs)
        self._canvases = {True: _Canvas(torch.zeros(0, dtype=dtype)), False: _Canvas(torch.zeros(0, dtype=dtype))}

    @property
    def channels(self) -> int:
        return self.num_joints if self.kind == "joint" else len(self.limbs)

    @torch.no_grad()
    def forward(self, points: Tensor, scores: Tensor, size: tuple[int, int], fresh: bool = False) -> Tensor:
        """Draw points (N, M, L, V, 2), in pixels of `size` (H, W), with scores (N, M, L, V), as (N, C, L, H, W)."""
        if points.shape != (*scores.shape, 2) or scores.ndim != 4 or scores.shape[-1] != self.num_joints:
            raise ValueError(
                f"heatmaps of {self.num_joints} joints take points (N, M, L, {self.num_joints}, 2) and their scores: "
                f"points {tuple(points.shape)}, scores {tuple(scores.shape)}"
            )
        views, people, frames, _ = scores.shape
        shape = (views, self.channels, frames, *size)
        canvas = torch.zeros(shape, dtype=self.dtype, device=points.device) if fresh else self._wiped(shape, points)
        flat, drawn = canvas.view(-1), [] if fresh else self._canvases[self.training].drawn
        there = points.isfinite().all(-1) & scores.isfinite()
        scores = scores.float().where(there, 0).transpose(2, 3).contiguous()  # as the canvas lies: its memory is
        points = points.float().where(there[..., None], 0).transpose(2, 3).contiguous()  # written from front to back
        places = size[0] * size[1] * torch.arange(shape[0] * shape[1] * shape[2], device=points.device)
        for person in range(people):
            marks = self._marks(points[:, person], scores[:, person], places)
            for where, values in self._strokes(marks, size):
                values = values.to(self.dtype)
                if person:
                    values = torch.maximum(values, flat.take(where))
                drawn.append(where)  # first: a call that is interrupted here leaves nothing that is not wiped
                flat.scatter_(0, where, values)
        return canvas

    def _wiped(self, shape: tuple[int, ...], points: Tensor) -> Tensor:
        """Zeros of a shape: the canvas of this mode, unless it is too small or on another device."""
        kept, size = self._canvases[self.training], math.prod(shape)
        if kept.memory.device != points.device or len(kept.memory) < size:
            with torch.inference_mode(False):  # or what validation draws on could not be trained on
                kept = _Canvas(torch.zeros(size, dtype=self.dtype, device=points.device))
            self._canvases[self.training] = kept
        else:
            kept.wipe()
        return kept.memory[:size].view(shape)

    def _marks(self, points: Tensor, scores: Tensor, places: Tensor) -> "_Marks":
        """points (N, V, L, 2), scores (N, V, L) of one person, places (N · C · L,) → what of it is to be drawn."""
        if self.kind == "joint":
            rows = (scores.reshape(-1) >= self.eps).nonzero().squeeze(1)
            centres, heights = points.reshape(-1, 2)[rows], scores.reshape(-1)[rows]
            return _Marks(centres, centres, heights, heights, places[rows])
        first, last = torch.tensor(self.limbs, device=points.device).unbind(1)
        dots = scores[:, first].view(-1)
        heights = torch.minimum(dots, scores[:, last].view(-1))
        rows = (heights >= self.eps).nonzero().squeeze(1)
        starts, ends = (points[:, each].view(-1, 2)[rows] for each in (first, last))
        return _Marks(starts, ends, heights[rows], dots[rows], places[rows])

    def _strokes(self, marks: "_Marks", size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Where to write what, both (K,); a pixel that comes twice comes with the same value."""
        if self.kind == "joint":
            yield _dots(marks, self.sigma, size)
            return
        short = (marks.ends - marks.starts).square().sum(1) < 1
        yield _dots(marks.of(short.nonzero().squeeze(1)), self.sigma, size)
        yield from _segments(marks.of((~short).nonzero().squeeze(1)), self.sigma, size)


def draw_heatmaps(heatmaps: Heatmaps, points: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw in full precision, whatever autocast is on, and without gradients."""
    with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
        drawn: Tensor = heatmaps(points, scores, (int(size[0]), int(size[1])))
    return drawn


class _Canvas:
    """Memory that is drawn on again and again."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory  # flat; all 0 but where `drawn` says
        self.drawn: list[Tensor] = []

    def wipe(self) -> None:
        """Set to 0 what was drawn, or everything where that is quicker."""
        if 8 * sum(map(len, self.drawn)) > len(self.memory):
            self.memory.zero_()
        else:
            for where in self.drawn:
                self.memory.scatter_(0, where, self.memory.new_zeros(1).expand(len(where)))
        self.drawn = []


class _Marks(NamedTuple):
    """P joints or limbs of one person."""

    starts: Tensor  # (P, 2) x, y
    ends: Tensor  # (P, 2)
    heights: Tensor  # (P,) of a limb
    dots: Tensor  # (P,) of a limb that is none, or of a joint
    places: Tensor  # (P,) int64: where in the flat canvas its frame begins

    def of(self, rows: Tensor) -> "_Marks":
        return _Marks(*(each[rows] for each in self))


def _box(marks: _Marks, sigma: float, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """low, high (P, 2): x and y of the first pixel, and of the one after the last. As published, cut towards zero."""
    exact = torch.float32 if marks.starts.device.type == "mps" else torch.float64
    starts, ends = marks.starts.to(exact), marks.ends.to(exact)
    low = (torch.minimum(starts, ends) - 3 * sigma).clamp(min=0).trunc()
    high = (torch.maximum(starts, ends) + 3 * sigma).trunc() + 1
    return low, torch.minimum(high, high.new_tensor([size[1], size[0]]))


def _dots(marks: _Marks, sigma: float, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A Gaussian about each start: (K,) where in the flat canvas, (K,) values."""
    low, high = (each.float() for each in _box(marks._replace(ends=marks.starts), sigma, size))
    corners, sides = [], []
    for axis, extent in enumerate((size[1], size[0])):
        steps = torch.arange(min(int(6 * sigma) + 2, extent), device=low.device)
        corner = low[:, axis].clamp(max=extent - len(steps))
        pixels = corner + steps[:, None]  # (k, P)
        values = ((pixels - marks.starts[:, axis]) / sigma).square().mul_(-0.5).exp_()
        sides.append(values.mul_((pixels >= low[:, axis]) & (pixels < high[:, axis])))
        corners.append(corner.long())
    empty = (high <= low).any(1)
    values = sides[1][:, None] * (marks.dots.masked_fill(empty, 0) * sides[0])  # (k, k, P)
    return _places(marks.places, corners, values, size), _rows(values)


def _segments(marks: _Marks, sigma: float, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The boxes about the limbs, cut into pieces: (K,) where in the flat canvas, (K,) values."""
    low, high = _box(marks, sigma, size)
    counts = ((high - low).clamp(min=0) / TILE).ceil().long()  # (P, 2)
    total = counts.prod(1)
    owner = torch.repeat_interleave(total)
    rank = torch.arange(len(owner), device=owner.device) - (total.cumsum(0) - total)[owner]
    wide = counts[:, 0][owner]
    pieces = torch.stack([rank % wide, rank // wide], 1) * TILE
    chunk = CHUNK if owner.device.type == "cpu" else max(1, len(owner))
    middle, half = (marks.starts.to(low) + marks.ends.to(low)) / 2, (marks.ends.to(low) - marks.starts.to(low)) / 2
    length = half.norm(dim=1, keepdim=True)
    table = torch.cat([low, high, middle, half / length, length], 1).t().contiguous()  # (9, P)
    for some, piece in zip(owner.split(chunk), pieces.t().split(chunk, 1), strict=True):
        yield _tiles(table.index_select(1, some), piece, marks.heights[some], marks.places[some], sigma, size)


def _tiles(
    table: Tensor, piece: Tensor, heights: Tensor, places: Tensor, sigma: float, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Pieces of TILE × TILE pixels; table (9, T): each one's limb; piece (2, T): its place in the limb's box.

    In a limb's own frame, from its middle and in units of √2·sigma, a pixel lies so far `beyond` its nearer end, and so
    far `across`: differences, taken in float64, or a long limb's values would be off by more than 2e-6.
    """
    scale = 1 / (math.sqrt(2) * sigma)
    corners, offsets = [], []
    for axis, extent in enumerate((size[1], size[0])):
        low, high, middle = table[axis], table[2 + axis], table[4 + axis]
        steps = torch.arange(min(TILE, extent), device=low.device)
        corner = torch.minimum(low + piece[axis], torch.maximum(high - TILE, low)).clamp(max=extent - len(steps))
        pixels = corner + steps[:, None]  # (k, T)
        outside = (pixels < low) | (pixels >= high)
        offsets.append(((pixels - middle) * scale).masked_fill_(outside, FAR))
        corners.append(corner.long())
    (x, y), (east, south), half = offsets, table[6:8], scale * table[8]
    beyond = (y * south)[:, None] + x * east  # (k, k, T)
    beyond = beyond.abs_().sub_(half).float().relu_()
    across = ((y * east)[:, None] - x * south).float()
    values = beyond.square_().addcmul_(across, across).neg_().exp_().mul_(heights)
    return _places(places, corners, values, size), _rows(values)


def _places(places: Tensor, corners: list[Tensor], values: Tensor, size: tuple[int, int]) -> Tensor:
    """(K,) int64: where in the flat canvas windows (k, k, P) go whose x and y begin at `corners`."""
    high, wide, _ = values.shape
    steps = torch.arange(high, device=places.device)[:, None] * size[1] + torch.arange(wide, device=places.device)
    return ((places + corners[1] * size[1] + corners[0])[:, None] + steps.view(-1)).view(-1)


def _rows(values: Tensor) -> Tensor:
    """(k, k, P) → (P · k · k,), in the order of `_places`: computed with P last, which is fast, and written window by
    window, which is fast too.
    """
    return values.flatten(0, 1).t().reshape(-1)
