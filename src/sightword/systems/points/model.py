"""The point encoder: a branch for frozen CLIP's features, a branch for geometry, and a gate that fuses them.

    frames → frozen CLIP → cells of E → 1×1 to D (→ finer cells) (→ TinySA2D) → lifted onto the points   f2 (N, D)
    points → position, colour → ball query → TinySA × layers                                            f3 (N, D)
    point = f3 + g (f2 - f3), with g = 0 exactly where no view shows it;   text = head(point), of unit length

With `spread` text is instead CLIP's own features, averaged over like points (see `spread.py`), and corrected by the
network: as much as that where no view shows a point, and next to nothing where one does.

    text = spread + t / (t + Σ conf of its views) · head(point), of unit length, with t = `TRUST`

Batches are ragged: `scene` is the scene of a batch that a point or a view belongs to, and scenes do not interact.

Legend: N points and V views of all scenes of a batch, S scenes; k neighbours; D dimension, H heads; E dimension of
CLIP's joint space; h, w cells of a map.
"""

import contextlib
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.systems.points.lift.geometry import Links, Views, ball_query, lift, link
from sightword.systems.points.lift.uv_index import PatchChain
from sightword.systems.points.spread import spread

LONGEST = 6.4  # metres, the longest wave of `build_geo_pe`: about a room
TRUST = 0.05  # views that the network counts as, beside those that show a point; chosen on validation
ROWS = 8192  # of points that attend at once: some GPU kernels take no more than 65 535 rows times heads


class Fused(NamedTuple):
    """The encoder's output for every point. Text queries go to `clip` or to `text`, which also covers unseen points."""

    point: Tensor  # (N, D) float32, fused
    text: Tensor  # (N, E) float32 of unit length: projected from `point`, distilled from `clip`; without a 3-D branch
    # the same vector for all points that no view shows
    head: Tensor  # (N, E) float32 of unit length: projected from `point`; `text` itself without `spread`
    spread: Tensor | None  # (N, E) float32 of unit length: lifted CLIP averaged over like points; None: not asked for
    clip: Tensor  # (N, E) float32 of unit length: lifted CLIP, untouched by training; 0 where no view shows it
    conf: Tensor  # (N,) float32 in [0, 1]: highest visibility confidence of its views; 0 where none shows it
    seen: Tensor  # (N,) bool: some view shows the point
    links: Links
    maps: Tensor  # (V, D, h', w') float32: the reduced maps, trainable
    clip_global: Tensor | None  # (S, E) of unit length: the mean of a scene's image vectors; 0 where it has none


# ----------------------------------------------------------------------------------------------------- 3-D branch


def build_geo_pe(xyz: Tensor, bands: int = 6, longest: float = LONGEST) -> Tensor:
    """Return Fourier features of positions (N, 3), metres: (N, 6·bands), sines of all bands for x, y, z, then cosines.

    Wavelengths are longest, longest/2, … longest/2^(bands - 1), so 6.4 m to 20 cm.
    """
    rates = 2 * math.pi / longest * 2.0 ** torch.arange(bands, device=xyz.device, dtype=xyz.dtype)
    phase = (xyz[:, :, None] * rates).flatten(1)  # (N, 3·bands)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def centred(xyz: Tensor, scene: Tensor, scenes: int) -> Tensor:
    """Return positions about the middle of their scene and above its lowest point. (N, 3), (N,) to (N, 3)."""
    index = scene[:, None].expand(-1, 3)
    origin = xyz.new_zeros(scenes, 3).scatter_reduce(0, index, xyz, "mean", include_self=False)
    low = xyz.new_zeros(scenes, 3).scatter_reduce(0, index, xyz, "amin", include_self=False)
    origin = torch.cat([origin[:, :2], low[:, 2:]], dim=1)
    return xyz - origin[scene]


class TinySAModule(nn.Module):
    """Attention of a point to its neighbours: pre-norm, a bias from their offsets, then an MLP."""

    def __init__(self, dim: int, heads: int = 4, hidden: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.query = nn.LayerNorm(dim), nn.Linear(dim, dim)
        self.key_value, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.bias = nn.Sequential(nn.Linear(4, hidden), nn.GELU(), nn.Linear(hidden, heads, bias=False))
        self.mlp = _mlp(dim)

    def forward(self, x: Tensor, xyz: Tensor, index: Tensor, mask: Tensor, radius: float) -> Tensor:
        """Return (N, D) of the same. index, mask: (N, k), neighbours and which of them are real, see `ball_query`.

        A point without any neighbour, not even itself, gets nothing from attention.
        """
        normed = self.norm(x)
        query, pair = self.query(normed), self.key_value(normed)  # (N, D), (N, 2·D)
        parts = [
            self._attend(query[rows], pair, xyz, index[rows], mask[rows], xyz[rows], radius)
            for rows in _slices(len(x), ROWS)
        ]
        x = x + self.out(torch.cat(parts) if parts else query)
        return x + self.mlp(x)

    def _attend(
        self, query: Tensor, pair: Tensor, xyz: Tensor, index: Tensor, mask: Tensor, own: Tensor, radius: float
    ) -> Tensor:
        """Rows of the attention, (R, D)."""
        offset = (F.embedding(index, xyz) - own[:, None]) / radius  # (R, k, 3)
        bias = self.bias(torch.cat([offset, offset.norm(dim=-1, keepdim=True)], dim=-1))  # (R, k, H)
        least = torch.finfo(bias.dtype).min  # not -inf: a row of it would be NaN
        bias = bias.masked_fill(~mask[:, :, None], least).transpose(1, 2)[:, :, None]  # (R, H, 1, k)
        # F.embedding: its backward adds up rows three times faster than that of pair[index]
        key, value = F.embedding(index, pair).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (R, H, k, d)
        query = query.unflatten(-1, (self.heads, -1))[:, :, None]  # (R, H, 1, d)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return found.flatten(1) * mask.any(1, keepdim=True)


# ----------------------------------------------------------------------------------------------------- 2-D branch


class Reduce(nn.Module):
    """Cells of E to `upsample`² finer cells of D: 1×1, then PixelShuffle. Finer, but not sharper than CLIP's own."""

    def __init__(self, clip_dim: int, dim: int, upsample: int = 1) -> None:
        super().__init__()
        self.project = nn.Linear(clip_dim, dim * upsample**2)  # a 1×1 convolution, quicker in half precision on CPUs
        self.shuffle = nn.PixelShuffle(upsample)

    def forward(self, maps: Tensor) -> Tensor:
        """(V, E, h, w) to (V, D, h·upsample, w·upsample)"""
        return self.shuffle(self.project(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class ReduceByChain(nn.Module):
    """The same by the published chain: PixelShuffle(2), 1×1 to 256, 1×1 to D.

    The chain is linear, as sampling is, so its last layer goes before the sampling, on the fewer cells. Equals
    `PatchChain` on points that some view shows.
    """

    def __init__(self, clip_dim: int, dim: int) -> None:
        super().__init__()
        self.chain = PatchChain(clip_dim, dim=dim)

    def forward(self, maps: Tensor) -> Tensor:
        """(V, E, h, w) to (V, D, 2·h, 2·w)"""
        x = self.chain.expand(F.pixel_shuffle(maps, self.chain.scale))
        return F.conv2d(x, self.chain.reduce.weight[:, :, None, None], self.chain.reduce.bias)


class TinySA2D(nn.Module):
    """Attention between the cells of a map, with positions from a 3×3 depthwise convolution."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = _mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(V, D, h, w) to the same."""
        grid = x.shape[2:]
        x = (x + self.place(x)).flatten(2).transpose(1, 2)  # (V, h·w, D)
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return (x + self.mlp(x)).transpose(1, 2).unflatten(2, grid)


def _mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


# ------------------------------------------------------------------------------------------------------ together


class FusionGate(nn.Module):
    """Weight of the 2-D feature in a point, per channel; exactly 0 for a point that no view shows."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(2 * dim + 1, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, f3: Tensor, f2: Tensor, weight: Tensor) -> Tensor:
        """Return (N, D), fused. f3, f2: (N, D); weight: (N,), visibility confidence, 0 for none."""
        gate = self.gate(torch.cat([f3, f2, weight[:, None]], dim=1)).sigmoid()
        return torch.where(weight[:, None] > 0, f3 + gate * (f2 - f3), f3)


class BiFusionEncoder(nn.Module):
    """Encoder of frozen CLIP's maps and a cloud's geometry into features of its points.

    CLIP itself is not part of it: CLIP's maps are inputs, from a cache or from `FrozenClip`, and no gradient reaches
    them. So CLIP cannot be trained by mistake, and a checkpoint contains only trained weights.
    """

    def __init__(
        self,
        clip_dim: int = 512,
        dim: int = 128,
        radius: float = 0.1,
        k: int = 16,
        layers: int = 2,
        neck: int = 0,
        upsample: int = 1,
        heads: int = 4,
        bands: int = 6,
        clip_global: bool = True,
        use_amp: bool = True,
        tolerance: tuple[float, float] = (0.02, 0.02),
        chain: bool = False,
        spread: tuple[float, float] | None = None,
    ) -> None:
        """tolerance: of visibility, metres and fraction of the depth. use_amp: the 2-D branch in bfloat16. chain: maps
        are reduced by `ReduceByChain`, and `upsample` is ignored. spread: scales of `spread.spread`, metres and colour;
        None: text comes from the fused features alone."""
        super().__init__()
        self.scales = spread
        self.clip_dim, self.dim, self.radius, self.k, self.bands = clip_dim, dim, radius, k, bands
        self.tolerance, self.clip_global, self.use_amp = tolerance, clip_global, use_amp
        self.reduce = ReduceByChain(clip_dim, dim) if chain else Reduce(clip_dim, dim, upsample)
        self.neck = nn.Sequential(*[TinySA2D(dim, heads) for _ in range(neck)])
        self.norm2 = nn.LayerNorm(dim)
        self.embed = nn.Sequential(nn.Linear(6 * bands + 3, dim), nn.GELU(), nn.Linear(dim, dim)) if layers else None
        self.layers = nn.ModuleList(TinySAModule(dim, heads) for _ in range(layers))
        self.norm3 = nn.LayerNorm(dim) if layers else None
        self.gate = FusionGate(dim) if layers else None
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, clip_dim))

    def forward(
        self,
        xyz: Tensor,
        rgb: Tensor,
        scene: Tensor,
        views: Views,
        maps: Tensor,
        pooled: Tensor | None = None,
        links: Links | None = None,
        hidden: Tensor | None = None,
    ) -> Fused:
        """Return features of all points.

        xyz: (N, 3) metres; rgb: (N, 3) in [-1, 1]; scene: (N,) int64, 0 to S - 1, as `views.scene`.
        maps: (V, E, h, w) of CLIP, a map for each view; pooled: (V, E), its image vectors. links: the correspondences,
        if they are known. hidden: (N,) bool, points that are fused as if no view showed them, so that the 3-D branch
        learns to describe them; `clip` and `seen` are given for them all the same. Without a 3-D branch it is ignored.
        Raises SightwordError without points, and for maps of another CLIP.
        """
        self._check(xyz, rgb, scene, views, maps)
        count, scenes = len(xyz), _scenes(scene, views.scene)
        links = links if links is not None else link(xyz, scene, views, *self.tolerance)
        with torch.no_grad():
            unit = F.normalize(maps.float(), dim=1)
            clip = F.normalize(lift(unit, links, count), dim=1)
            conf = _best(links, count)
            alike = None if self.scales is None else spread(xyz, rgb, scene, clip, conf, self.scales)
        reduced = self.reduced(unit)
        f2 = self.norm2(lift(reduced, links, count))
        shown = conf if hidden is None else conf.masked_fill(hidden, 0)
        point = self._fuse(self.geometry(xyz, rgb, scene, scenes), f2, shown).float()
        head = F.normalize(self.head(point).float(), dim=1)
        text = head if alike is None else corrected(alike, head, links)
        whole = _global(pooled, views.scene, scenes) if self.clip_global and pooled is not None else None
        return Fused(point, text, head, alike, clip, conf, conf > 0, links, reduced, whole)

    @property
    def describes_unseen(self) -> bool:
        """Whether points that no view shows have text features of their own: not without a 3-D branch."""
        return self.gate is not None

    def reduced(self, unit: Tensor) -> Tensor:
        """Return the trainable maps (V, D, h', w') float32 of CLIP's, of unit length (V, E, h, w)."""
        with _half(unit.device) if self.use_amp else contextlib.nullcontext():
            x = self.reduce(unit * self.clip_dim**0.5)  # of size one, as layers like it
            return self.neck(x).float()

    def geometry(self, xyz: Tensor, rgb: Tensor, scene: Tensor, scenes: int) -> Tensor | None:
        """Return the 3-D branch's features (N, D); None if there is no such branch."""
        if self.embed is None or self.norm3 is None:
            return None
        place = build_geo_pe(centred(xyz, scene, scenes), self.bands)
        x = self.embed(torch.cat([place, rgb], dim=1))
        with torch.no_grad():
            index, mask = ball_query(xyz, xyz, self.radius, self.k, scene, scene)
        for layer in self.layers:
            x = layer(x, xyz, index, mask, self.radius)
        return self.norm3(x)

    def _fuse(self, f3: Tensor | None, f2: Tensor, conf: Tensor) -> Tensor:
        return f2 if f3 is None or self.gate is None else self.gate(f3, f2, conf)

    def _check(self, xyz: Tensor, rgb: Tensor, scene: Tensor, views: Views, maps: Tensor) -> None:
        if maps.ndim != 4 or maps.shape[1] != self.clip_dim or len(maps) != len(views.depth):
            raise SightwordError(
                f"expected maps ({len(views.depth)} views, {self.clip_dim}, h, w), got {tuple(maps.shape)}. "
                "Compute them with the CLIP that system.clip names"
            )
        if xyz.shape != rgb.shape or xyz.ndim != 2 or xyz.shape[1] != 3 or scene.shape != xyz.shape[:1]:
            raise ValueError(
                f"expected points (N, 3), colours (N, 3), scenes (N,), got {tuple(xyz.shape)}, {tuple(rgb.shape)} and "
                f"{tuple(scene.shape)}"
            )
        if not len(xyz):
            raise SightwordError("there are no points. Pass a cloud, or depth frames that have depth in them")


def corrected(features: Tensor, head: Tensor, links: Links) -> Tensor:
    """Return features (N, E) of unit length, corrected by the network's, (N, E): it counts as `TRUST` views."""
    views = links.conf.new_zeros(len(head)).index_add_(0, links.point, links.conf)
    return F.normalize(features + (TRUST / (TRUST + views))[:, None] * head, dim=1)


def _half(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 if the device has it. float16 needs the trainer's gradient scaler: with trainer.precision=16-mixed the
    whole step is in float16 already."""
    if device.type == "cuda" and (torch.is_autocast_enabled("cuda") or not torch.cuda.is_bf16_supported()):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _best(links: Links, count: int) -> Tensor:
    """The highest visibility confidence of a point's views, (N,); 0 where none shows it."""
    return links.conf.new_zeros(count).scatter_reduce(0, links.point, links.conf, "amax")


def _global(pooled: Tensor, scene: Tensor, scenes: int) -> Tensor:
    """Image vectors (V, E) to their scenes' (S, E), of unit length."""
    total = pooled.new_zeros(scenes, pooled.shape[1], dtype=torch.float32)
    return F.normalize(total.index_add(0, scene, F.normalize(pooled.float(), dim=1)), dim=1)


def _scenes(*scenes: Tensor) -> int:
    return 1 + max((int(scene.max()) for scene in scenes if len(scene)), default=-1)


def _slices(count: int, most: int) -> list[slice]:
    return [slice(start, start + most) for start in range(0, count, most)]
