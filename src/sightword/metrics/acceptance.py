"""Whether the best candidate of a gallery fits a query at all: a threshold on its score, at a rate of false acceptance.

Cosines of two queries cannot be compared: a text unlike any caption may have a high cosine with every image. So a score
here is standardised: the distance of a cosine from the mean of the query's cosines with the whole gallery, in their
standard deviations. And the best of many unrelated images is higher than the best of a few, so the threshold depends on
the size of the gallery. It is measured at sizes 4, 16, 64, … and is linear in log n between them and beyond, as the
maximum of n samples grows about so.

Legend: C queries; N images of the gallery; S sizes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RATE = 0.05  # of queries without a match in the gallery that reach the threshold
SIZES = 12  # that are kept, at most: 4 to 16.8 million
LEAST = 8  # queries, or images, below which nothing is measured
QUERIES = 1000  # that are measured, at most, evenly spread

#: Texts that name nothing in particular. An unrelated text reaches the highest of their scores once in 20 times, if its
#: score is as likely to be the highest as each of theirs.
GENERIC = (
    *("object", "thing", "stuff", "texture", "background", "material", "shape", "pattern", "surface", "item"),
    *("something", "nothing", "detail", "part", "area", "concept", "idea", "number", "word"),
)


class Threshold(NamedTuple):
    """A score that a best candidate has to reach, and how often that happens."""

    score: float  # standardised
    right: float  # fraction of the queries with a match in the gallery that reach it; NaN: not measured
    wrong: float  # the same for queries without one


class Acceptance(NamedTuple):
    """Thresholds by the size of the gallery, each (S,) float32; zeros behind the last."""

    sizes: Tensor  # ascending
    scores: Tensor
    right: Tensor  # fractions, as in `Threshold`
    wrong: Tensor

    @classmethod
    def unknown(cls) -> "Acceptance":
        """Return thresholds that were never chosen."""
        return cls(*torch.zeros(4, SIZES))

    @property
    def known(self) -> bool:
        """Whether they were chosen."""
        return bool(self.sizes[0] > 0)

    def at(self, size: int) -> Threshold | None:
        """Return the threshold for a gallery of that size; None if none was chosen."""
        if not self.known:
            return None
        some = self.sizes > 0
        sizes, scores, right, wrong = (part[some].double().numpy() for part in self)
        place, places = math.log(max(1, size)), np.log(sizes)
        if place > places[-1] and len(places) > 1:
            slope = (scores[-1] - scores[-2]) / (places[-1] - places[-2])
            score = scores[-1] + slope * (place - places[-1])
        else:
            score = np.interp(place, places, scores)
        return Threshold(float(score), *(float(np.interp(place, places, part)) for part in (right, wrong)))


def standardised(score: float, mean: float, deviation: float) -> float:
    """Return a cosine as the distance from the mean, in standard deviations; 0 where all cosines are equal."""
    return (score - mean) / deviation if deviation > 0 else 0.0


def choose(queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> Acceptance:
    """Return the thresholds that `RATE` of the queries reach when their matches are taken out of the gallery.

    queries (C, E), gallery (N, E): unit rows. query_ids (C,), gallery_ids (N,): integers, equal where they match.
    """
    found = Acceptance.unknown()
    if min(len(queries), len(gallery)) < LEAST:
        return found
    own, others = _measured(queries, gallery, query_ids, gallery_ids)
    order = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(0))
    sizes = [4**power for power in range(1, SIZES) if 4**power < len(gallery)]
    for number, size in enumerate([*sizes, len(gallery)]):
        groups = len(gallery) // size
        best = others[:, order[: groups * size]].unflatten(1, (groups, size)).amax(2)  # (C, groups)
        known = best[best.isfinite()].numpy()
        found.sizes[number], found.scores[number] = size, limit(known)
        found.wrong[number] = float((known >= float(found.scores[number])).mean())
        with_match = torch.maximum(best, own[:, None])[own.isfinite()]
        found.right[number] = float((with_match >= found.scores[number]).float().mean())
    return found


def rates(
    acceptance: Acceptance, queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor
) -> Threshold | None:
    """Return the threshold for this gallery with the rates that are measured on it; None if none was chosen."""
    threshold = acceptance.at(len(gallery))
    if threshold is None or len(gallery) < LEAST:
        return None
    own, others = _measured(queries, gallery, query_ids, gallery_ids)
    best = others.amax(1)[own.isfinite()]
    right, wrong = torch.maximum(best, own[own.isfinite()]), best
    return Threshold(threshold.score, *(float((part >= threshold.score).float().mean()) for part in (right, wrong)))


def limit(scores: np.ndarray) -> float:
    """Return the lowest float32 threshold that at most `RATE` of these scores, of what does not match, reach."""
    ordered = np.sort(scores.astype(np.float32).ravel())[::-1]
    return float(np.nextafter(ordered[int(RATE * len(ordered))], np.float32(np.inf)))


def highest(scores: Sequence[float]) -> Threshold | None:
    """Return the highest of generic texts' scores as a threshold; None without a score. See `GENERIC`."""
    return Threshold(max(scores), math.nan, 1 / (len(scores) + 1)) if scores else None


def _measured(queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The standardised scores of each query's best match (C,), −∞ without one, and of all other images (C, N)."""
    rows = torch.linspace(0, len(queries) - 1, min(QUERIES, len(queries))).round().long()
    scores = queries[rows].float() @ gallery.float().T
    scores = (scores - scores.mean(1, keepdim=True)) / scores.std(1, correction=0, keepdim=True).clamp_min(1e-12)
    match = query_ids[rows][:, None] == gallery_ids
    return scores.masked_fill(~match, -math.inf).amax(1), scores.masked_fill(match, -math.inf)
