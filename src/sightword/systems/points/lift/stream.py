"""A stream of frames into one map of bounded size: features, and instances with the same number from frame to frame.

An alternative to ESAM's OnlineMerge and its memory bank. The map is a hash of voxels, each with the running weighted
mean of its observations and one instance. A frame's masks are matched to instances of the map by overlap and cosine
(Hungarian), or become new ones. Beyond `cap` voxels those observed longest ago are dropped, and an instance without
voxels is removed. So a stream may be endless, and frames may have any number of points.

The order of points within a frame changes nothing: sums are of whole numbers, ties go by position and number.

Legend: n points of a frame, u voxels and m masks of it; M voxels of the map, G instances; C channels.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.systems.points.lift.geometry import Links

FINE = 2.0**26  # features are added up in whole parts of 1/FINE, whose sums are the same in any order
MOST = 2.0**20  # the largest feature times weight that such sums are exact for, with 2^17 points a voxel
REACH = 2**20  # voxels from the origin to either side


class Slice(NamedTuple):
    """The points of one frame. Points that are not finite are ignored."""

    xyz: Tensor  # (n, 3) metres, in the world
    features: Tensor  # (n, C)
    weight: Tensor | None = None  # (n,) above 0; None: all 1
    mask: Tensor | None = None  # (n,) int64, the frame's own instances by any numbers; -1 for none


class Instance(NamedTuple):
    """One instance of the map."""

    number: int  # never given to another
    frames: int  # how many frames it was seen in
    voxels: int  # how many voxels it has now
    feature: Tensor  # (C,) weighted mean of its observations


class VoxelMap:
    """Map of a stream of frames. On the CPU, C + 9 numbers per voxel and C + 3 per instance."""

    def __init__(self, channels: int, voxel: float = 0.05, cap: int = 200_000, threshold: float = 0.25) -> None:
        """voxel: metres. cap: voxels at most. threshold: overlap times cosine from which a mask is a known instance."""
        if channels < 1 or cap < 1 or voxel <= 0 or not 0 < threshold <= 1:
            raise ValueError(
                f"a map has channels ≥ 1, cap ≥ 1, voxel > 0 metres and a threshold in (0, 1]; got {channels}, {cap}, "
                f"{voxel} and {threshold}"
            )
        self.channels, self.voxel, self.cap, self.threshold = channels, voxel, cap, threshold
        self.reset()

    def reset(self) -> None:
        """Empty the map, for another scene."""
        self.frames = 0  # that were added
        self.dropped = 0  # voxels, beyond the cap
        self._keys = torch.empty(0, dtype=torch.int64)  # (M,) sorted
        self._slot = torch.empty(0, dtype=torch.int64)  # (M,) the row of each in what follows
        self._free = torch.empty(0, dtype=torch.int64)  # rows that are of none
        self._mean = torch.empty(0, self.channels + 3)  # of features and places
        self._weight = torch.empty(0)
        self._last = torch.empty(0, dtype=torch.int64)  # the frame that saw it last
        self._instance = torch.empty(0, dtype=torch.int64)  # -1 for none
        self._votes = torch.empty(0, dtype=torch.int64)  # for that instance, less those against it
        self._known: dict[int, _Known] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def xyz(self) -> Tensor:
        """The mean position of the observations in each voxel, (M, 3), in the order of the voxels' positions."""
        return self._mean[self._slot, self.channels :]

    @property
    def features(self) -> Tensor:
        """The mean feature of each voxel, (M, C)."""
        return self._mean[self._slot, : self.channels]

    @property
    def instance(self) -> Tensor:
        """The instance of each voxel, (M,) int64, -1 for none."""
        return self._instance[self._slot]

    @property
    def instances(self) -> list[Instance]:
        """The instances that have a voxel, the oldest first."""
        return [Instance(number, it.frames, it.voxels, it.mean) for number, it in self._known.items()]

    def at(self, xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the map at points (n, 3): features (n, C), instance (n,), and whether there is a voxel, (n,) bool."""
        row, found = self._rows(self._hash(xyz.float().cpu()))
        features = torch.zeros(len(xyz), self.channels)
        features[found] = self._mean[row[found], : self.channels]
        instance = torch.full((len(xyz),), -1)
        instance[found] = self._instance[row[found]]
        return features, instance, found

    @torch.no_grad()
    def add(self, frame: Slice) -> Tensor:
        """Add the next frame. Return the map's instance of each of its points, (n,) int64, -1 for none.

        Raises ValueError for shapes that do not match, and for points beyond the map's range.
        """
        names = torch.full((len(frame.xyz),), -1)
        kept, parts = self._prepared(frame)
        self.frames += 1
        if not len(parts.keys):
            return names
        instance = self._name(parts)
        self._merge(parts, instance)
        if len(instance):
            names[kept] = torch.where(parts.mask >= 0, instance[parts.mask.clamp_min(0)], -1)
        return names

    def _prepared(self, frame: Slice) -> tuple[Tensor, "_Frame"]:
        """Which points are taken, and their sums by voxel and by mask."""
        xyz, features = frame.xyz.detach().float().cpu(), frame.features.detach().float().cpu()
        n = len(xyz)
        weight = torch.ones(n) if frame.weight is None else frame.weight.detach().float().cpu()
        mask = torch.full((n,), -1) if frame.mask is None else frame.mask.detach().long().cpu()
        if features.shape != (n, self.channels) or weight.shape != (n,) or mask.shape != (n,) or xyz.shape != (n, 3):
            raise ValueError(
                f"a frame has xyz (n, 3), features (n, {self.channels}), weight (n,) and mask (n,); these are "
                f"{tuple(xyz.shape)}, {tuple(features.shape)}, {tuple(weight.shape)} and {tuple(mask.shape)}"
            )
        kept = (torch.cat([xyz, features], 1).isfinite().all(1) & (weight > 0) & weight.isfinite()).nonzero().squeeze(1)
        xyz, features, weight, mask = xyz[kept], features[kept], weight[kept], mask[kept]
        weighed = torch.cat([features, xyz, torch.ones(len(kept), 1)], 1).double() * weight[:, None].double()
        keys, voxel = self._hash(xyz).unique(return_inverse=True)
        if weighed.numel() and float(weighed.abs().max()) > MOST:
            largest = float(weighed.abs().max())
            raise ValueError(
                f"features and positions times weight reach {largest:g}; at most {MOST:g} is exact. Scale them"
            )
        whole = (weighed * FINE).round().long()
        numbers, mask_rows = mask[mask >= 0].unique(return_inverse=True)
        mask = mask.clone()
        mask[mask >= 0] = mask_rows
        by_mask = _sums(whole[mask >= 0], mask_rows, len(numbers))
        return kept, _Frame(keys, voxel, _sums(whole, voxel, len(keys)), mask, by_mask)

    # -------------------------------------------------------------------------------------------------- instances

    def _name(self, frame: "_Frame") -> Tensor:
        """The instance of the map that each mask (m,) is, old or new; counts this frame for it."""
        count = len(frame.by_mask)
        old, scores = self._scores(frame, count)
        found = torch.full((count,), -1)
        if len(old) and count:
            from scipy.optimize import linear_sum_assignment

            for mask, column in zip(*linear_sum_assignment(scores.numpy(), maximize=True), strict=True):
                if scores[mask, column] >= self.threshold:
                    found[mask] = old[column]
        for mask in range(count):
            if found[mask] < 0:
                found[mask] = self._next
                self._known[self._next] = _Known(torch.zeros(self.channels))
                self._next += 1
            self._known[int(found[mask])].meet(frame.by_mask[mask])
        return found

    def _scores(self, frame: "_Frame", count: int) -> tuple[Tensor, Tensor]:
        """Instances that the frame touches (G,), and overlap times cosine of each mask with each, (m, G).

        Overlap: voxels in common, as a fraction of the smaller one's: a frame shows a part of an object, and a mask
        may cover a part or more.
        """
        row, known = self._rows(frame.keys)
        mine = torch.full((len(row),), -1)  # (u,) instance of each voxel
        mine[known] = self._instance[row[known]]
        named = frame.mask >= 0
        pairs, _ = _pairs(frame.mask[named], frame.voxel[named], len(frame.keys))  # masks and their voxels
        theirs = mine[pairs[1]]
        old = theirs[theirs >= 0].unique()
        if not len(old):
            return old, torch.zeros(count, 0)
        met = theirs >= 0
        cell = pairs[0][met] * len(old) + torch.searchsorted(old, theirs[met])
        common = torch.bincount(cell, minlength=count * len(old)).view(count, len(old)).double()
        size = torch.bincount(pairs[0], minlength=count)[:, None]
        met_before = [self._known[number] for number in old.tolist()]
        sizes, looks = torch.tensor([it.voxels for it in met_before]), torch.stack([it.mean for it in met_before])
        alike = F.normalize(frame.by_mask[:, : self.channels], dim=1) @ F.normalize(looks, dim=1).T
        return old, common / torch.minimum(size, sizes) * alike.clamp_min(0)

    def _voted(self, frame: "_Frame", instance: Tensor) -> tuple[Tensor, Tensor]:
        """The instance that most of a frame's points give each of its voxels (u,), -1 for none, and their number."""
        voted, votes = torch.full((len(frame.keys),), -1), torch.zeros(len(frame.keys), dtype=torch.int64)
        named = frame.mask >= 0
        if named.any():
            pairs, count = _pairs(frame.voxel[named], instance[frame.mask[named]], self._next)
            order = torch.argsort(count, stable=True).flip(0)  # the most first, of equals the younger
            order = order[torch.argsort(pairs[0][order], stable=True)]
            first = torch.ones(len(order), dtype=torch.bool)
            first[1:] = pairs[0][order].diff() > 0
            best = order[first]
            voted[pairs[0][best]], votes[pairs[0][best]] = pairs[1][best], count[best]
        return voted, votes

    # ----------------------------------------------------------------------------------------------------- voxels

    def _merge(self, frame: "_Frame", instance: Tensor) -> None:
        """The frame's voxels into the map; where there are too many, the ones seen longest ago go."""
        voted, votes = self._voted(frame, instance)
        row, known = self._rows(frame.keys)
        at, sums = row[known], frame.by_voxel[known]
        self._weight[at] += sums[:, -1]
        change = sums[:, :-1] - sums[:, -1:] * self._mean[at]
        self._mean[at] += change / self._weight[at, None]
        self._last[at] = self.frames
        self._count(self._instance[at], -1)
        self._instance[at], self._votes[at] = _elect(self._instance[at], self._votes[at], voted[known], votes[known])
        self._count(self._instance[at], 1)
        self._insert(frame.keys[~known], frame.by_voxel[~known], voted[~known], votes[~known])
        self._known = {number: it for number, it in self._known.items() if it.voxels}

    def _insert(self, keys: Tensor, sums: Tensor, voted: Tensor, votes: Tensor) -> None:
        self._make_room(len(keys))
        if (over := len(self) + len(keys) - self.cap) > 0:  # this frame alone fills the map: what it saw least goes
            kept = torch.from_numpy(np.lexsort((keys.numpy(), sums[:, -1].numpy()))[over:].copy()).sort().values
            keys, sums, voted, votes = keys[kept], sums[kept], voted[kept], votes[kept]
            self.dropped += over
        rows = self._claim(len(keys))
        self._mean[rows], self._weight[rows] = sums[:, :-1] / sums[:, -1:], sums[:, -1]
        self._last[rows], self._instance[rows], self._votes[rows] = self.frames, voted, votes
        self._count(voted, 1)
        at = torch.searchsorted(self._keys, keys) + torch.arange(len(keys))
        old = torch.ones(len(self) + len(keys), dtype=torch.bool)
        old[at] = False
        self._keys, self._slot = (_woven(*pair, old) for pair in ((self._keys, keys), (self._slot, rows)))

    def _make_room(self, count: int) -> None:
        """Drop voxels that this frame did not see so that `count` more find room: the longest ago, then the least."""
        last = self._last[self._slot].numpy()
        need = min(len(self) + count - self.cap, int((last < self.frames).sum()))
        if need <= 0:
            return
        limit = np.partition(last, need - 1)[need - 1]
        older, equal = np.flatnonzero(last < limit), np.flatnonzero(last == limit)
        weight = self._weight[self._slot[torch.from_numpy(equal)]].numpy()
        equal = equal[np.lexsort((equal, weight))][: need - len(older)]
        going = torch.zeros(len(self), dtype=torch.bool)
        going[torch.from_numpy(np.concatenate([older, equal]))] = True
        rows = self._slot[going]
        self._count(self._instance[rows], -1)
        self._keys, self._slot, self._free = self._keys[~going], self._slot[~going], torch.cat([self._free, rows])
        self.dropped += need

    def _claim(self, count: int) -> Tensor:
        """Rows for new voxels; there are twice as many as before where they do not suffice, at most `cap`."""
        if (lack := count - len(self._free)) > 0:
            size = len(self._weight)
            more = min(max(lack, size), self.cap - size)
            self._mean = torch.cat([self._mean, torch.zeros(more, self.channels + 3)])
            self._weight = torch.cat([self._weight, torch.zeros(more)])
            for name in ("_last", "_instance", "_votes"):
                setattr(self, name, torch.cat([getattr(self, name), torch.zeros(more, dtype=torch.int64)]))
            self._free = torch.cat([self._free, torch.arange(size, size + more)])
        rows, self._free = self._free[:count], self._free[count:]
        return rows

    def _count(self, instance: Tensor, sign: int) -> None:
        """Voxels that instances won or lost."""
        numbers, counts = instance[instance >= 0].unique(return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            self._known[number].voxels += sign * count

    def _rows(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """In which rows keys stand, and whether they do."""
        if not len(self):
            return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
        at = torch.searchsorted(self._keys, keys).clamp_max(len(self) - 1)
        return self._slot[at], self._keys[at] == keys

    def _hash(self, xyz: Tensor) -> Tensor:
        """(n, 3) metres to the number of the voxel, (n,) int64."""
        cell = (xyz / self.voxel).floor()
        if len(cell) and float(cell.abs().max()) >= REACH:
            raise ValueError(
                f"a point lies {float(xyz.abs().max()):g} m from the origin; a map of {self.voxel:g} m voxels reaches "
                f"{REACH * self.voxel:g} m. Coordinates are in metres"
            )
        x, y, z = (cell.long() + REACH).unbind(1)
        return (x << 42) | (y << 21) | z


class _Known:
    """Running statistics of an instance."""

    def __init__(self, mean: Tensor) -> None:
        self.mean, self.weight, self.frames, self.voxels = mean, 0.0, 0, 0

    def meet(self, sums: Tensor) -> None:
        """One more frame of it: sums of features, of places, and of weights last."""
        self.weight += float(sums[-1])
        self.mean = self.mean + (sums[: len(self.mean)] - sums[-1] * self.mean) / self.weight
        self.frames += 1


class _Frame(NamedTuple):
    keys: Tensor  # (u,) int64, its voxels, sorted
    voxel: Tensor  # (n,) which of them each point lies in
    by_voxel: Tensor  # (u, C + 4) sums of features, places and 1, each times weight
    mask: Tensor  # (n,) 0 to m - 1, in the order of the frame's own numbers; -1
    by_mask: Tensor  # (m, C + 4)


def _sums(whole: Tensor, group: Tensor, count: int) -> Tensor:
    """Rows (n, ·) of whole parts added up by group, as float32."""
    return (whole.new_zeros(count, whole.shape[1]).index_add_(0, group, whole).double() / FINE).float()


def _pairs(one: Tensor, other: Tensor, many: int) -> tuple[Tensor, Tensor]:
    """The different pairs (2, P) of numbers (n,) and (n,), the latter below `many`, in order, and how often each is."""
    both, count = (one * many + other).unique(return_counts=True)
    return torch.stack([both // many, both % many]), count


def _woven(old: Tensor, new: Tensor, is_old: Tensor) -> Tensor:
    """Two lists in one, as `is_old` says."""
    both = torch.empty(len(is_old), dtype=old.dtype)
    both[is_old], both[~is_old] = old, new
    return both


def _elect(old: Tensor, votes: Tensor, new: Tensor, cast: Tensor) -> tuple[Tensor, Tensor]:
    """Majority by Boyer and Moore: votes for another are taken away, and who has fewer than those gives way."""
    same = (old == new) | (new < 0)
    rest = torch.where(same, votes + cast * (new >= 0), votes - cast)
    return torch.where(rest < 0, new, old), rest.abs()


def segment_means(features: Tensor, segment: Tensor) -> Tensor:
    """Return the mean of rows (n, C) of each segment 0 to S - 1, (S, C); -1 is none. OnlineMerge's queries."""
    named = segment >= 0
    count = int(segment.max()) + 1 if len(segment) else 0
    total = features.new_zeros(max(count, 0), features.shape[1]).index_add(0, segment[named], features[named])
    sizes = torch.bincount(segment[named], minlength=max(count, 0))
    return total / sizes.clamp_min(1)[:, None]


def slices(
    xyz: Tensor, features: Tensor, links: Links, views: int, masks: Tensor | None = None
) -> Iterator[tuple[Slice, Tensor]]:
    """Yield an encoder's batch as frames in order: the points that each view shows, and their numbers (n,).

    masks: (V, H, W) int64, an instance of each pixel, -1 for none. The weight is the confidence.
    """
    for view in range(views):
        chosen = (links.view == view).nonzero().squeeze(1)
        point, mask = links.point[chosen], None
        if masks is not None:
            u, v = links.uv[chosen].round().long().unbind(1)
            mask = masks[view, v.clamp(0, masks.shape[1] - 1), u.clamp(0, masks.shape[2] - 1)]
        yield Slice(xyz[point], features[point], links.conf[chosen], mask), point
