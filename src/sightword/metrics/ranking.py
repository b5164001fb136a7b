"""Retrieval metrics: Rank-k, mAP and mINP of a gallery ranked for each query, exact, without sorting.

All of these metrics follow from the ranks of the matches, and the rank of a match is 1 + the number of gallery rows
with a higher score. So scores are computed tile by tile and only compared with the few scores of the matches. Memory
does not grow with queries × gallery, and most of the time is spent in matrix products.

Exact: where a float32 score is within rounding error of a match's score, it is computed again in float64. The metrics
therefore equal those of a full sort in float64, for every tile size and number of threads.

Ties: a non-matching row whose score equals a match's, to the rounding of float64, ranks above it. (With an unstable
sort, a collapsed network, whose scores are all equal, would get arbitrary metrics.)
Queries without a match in the gallery are counted and excluded.

Legend: Q queries; G rows of the gallery; D dimension; M matches of a query; n matches of a block of queries; a
non-match is a row of the gallery whose id differs from the query's.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.ops.nearest import true_float32

ROWS, COLUMNS = 1024, 8192  # of a tile: 32 MiB, large enough for the matrix product to reach its full speed
PAIRS = 2**20  # most matches of a block of queries; only their ranks are kept
SURE = 8  # standard deviations of a bound on a product's rounding (Higham and Mary 2019, theorem 3.1)
FEW = 32  # up to so many comparisons of a whole row are faster than sorting it
STRIP = 16  # rows of a tile that are compared while they are in the CPU's cache
RARE = 1 / 8  # of a strip: from this fraction of scores above the lowest match, whole rows are compared
BLURRED = 512  # from so many scores within rounding error, a row is faster computed again in float64
CHUNK = 4096  # rows of float64 at a time
CROWD = 256  # from so many matches for the queries of one id, one matrix product replaces products of pairs

PROTOCOL = {
    "queries": "every caption; the gallery is every image of the split, each once. i2t_: the other way round",
    "match": "same person; no camera is filtered out. score: cosine of unit vectors, exact to float64",
    "rank": "1 + how many images score higher; in per cent of queries, rank_k: a match among the first k",
    "mAP": "mean over matches of (matches so far / rank), then over queries",
    "mINP": "matches / rank of the last match, mean over queries",
    "ties": "a non-matching image with a match's score ranks above it",
    "no_match": "queries without a match are counted (unmatched) and excluded",
    "chance": "expected rank1 of a random order",
}


class Ranking(NamedTuple):
    """Ranks of the matches of each query, counted from 1. A query without a match has 0 and NaN."""

    first: np.ndarray  # (Q,) int64, rank of the best match, from 1
    precision: np.ndarray  # (Q,) float64, average precision
    penalty: np.ndarray  # (Q,) float64, matches / rank of the last match: the inverse negative penalty
    matches: np.ndarray  # (Q,) int64, M
    gallery: int  # G

    def rank(self, k: int) -> float:
        """Return the per cent of queries with a match among their first k."""
        return 100 * float((self.first[self.matches > 0] <= k).mean())

    @property
    def rank1(self) -> float:
        """Return Rank-1 in per cent."""
        return self.rank(1)

    @property
    def rank5(self) -> float:
        """Return Rank-5 in per cent."""
        return self.rank(5)

    @property
    def rank10(self) -> float:
        """Return Rank-10 in per cent."""
        return self.rank(10)

    @property
    def mAP(self) -> float:  # noqa: N802  # the field's own spelling
        """Return the mean average precision in per cent."""
        return 100 * float(np.nanmean(self.precision))

    @property
    def mINP(self) -> float:  # noqa: N802
        """Return the mean inverse negative penalty (Ye et al. 2021) in per cent."""
        return 100 * float(np.nanmean(self.penalty))

    @property
    def chance(self) -> float:
        """Return the expected Rank-1 of a random order, in per cent."""
        return 100 * float(self.matches[self.matches > 0].mean()) / self.gallery

    @property
    def unmatched(self) -> int:
        """Return the number of queries excluded because they have no match."""
        return int((self.matches == 0).sum())

    def metrics(self) -> dict[str, float]:
        """Return the metrics in per cent, in the order of published tables; `unmatched` only if there are any."""
        names = ("rank1", "rank5", "rank10", "mAP", "mINP", "chance")
        found = {name.lower(): float(getattr(self, name)) for name in names}
        return found | ({"unmatched": float(self.unmatched)} if self.unmatched else {})


def retrieval_metrics(
    image_embeddings: Tensor, image_pids: Tensor, text_embeddings: Tensor, text_pids: Tensor
) -> dict[str, float]:
    """Return the metrics of text-to-image retrieval in per cent, and under i2t_… those of image-to-text retrieval.

    image_embeddings (N, D), text_embeddings (C, D): unit rows, on any device. image_pids (N,), text_pids (C,): integer
    person ids. `PROTOCOL` states the rules. Raises SightwordError if no caption has an image of its person.
    """
    return both_ways(
        ranking(text_embeddings, image_embeddings, text_pids, image_pids),
        ranking(image_embeddings, text_embeddings, image_pids, text_pids),
    )


def both_ways(found: Ranking, back: Ranking) -> dict[str, float]:
    """Return the metrics of the ranking of images for captions, and under i2t_… those of captions for images."""
    return found.metrics() | {f"i2t_{name}": value for name, value in back.metrics().items()}


@torch.no_grad()
def ranking(
    queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor, rows: int = ROWS, columns: int = COLUMNS
) -> Ranking:
    """Rank the gallery (G, D) for each of the queries (Q, D) by inner product; rows of equal id are matches.

    The scores of unit rows are cosines. query_ids (Q,), gallery_ids (G,): integers. rows, columns: size of a tile.
    Runs on the CPU, in float32 and, where that is not exact enough, in float64. Raises ValueError if shapes do not fit,
    SightwordError if a number is not finite or no query has a match.
    """
    queries, gallery = _vectors("queries", queries), _vectors("gallery", gallery)
    matches = _Matches.of(queries, gallery, query_ids, gallery_ids)
    counts = matches.stops - matches.starts  # (Q,)
    if not counts.any():
        raise SightwordError(
            f"none of the {len(counts)} queries has a match among the {len(gallery)} rows of the gallery. "
            "Take queries and gallery from the same split"
        )
    found = Ranking(
        np.zeros(len(counts), np.int64),
        np.full(len(counts), math.nan),
        np.full(len(counts), math.nan),
        counts,
        len(gallery),
    )
    scores = _Scores(queries, gallery, min(rows, len(queries)), min(columns, len(gallery)))
    with torch.autocast("cpu", enabled=False), true_float32():
        for block in _blocks(matches, counts, rows):
            ranks, ends = _ranks(scores, block, matches)
            starts = ends - counts[block]
            hits = (
                np.arange(len(ranks)) - np.repeat(starts, counts[block]) + 1
            )  # position of this match among the query's matches, from 1
            found.first[block] = ranks[starts]
            found.precision[block] = np.add.reduceat(hits / ranks, starts) / counts[block]
            found.penalty[block] = counts[block] / ranks[ends - 1]
    return found


def best(queries: Tensor, gallery: Tensor, k: int, columns: int = COLUMNS) -> tuple[Tensor, Tensor]:
    """Return scores (Q, k) and row indices (Q, k) of the k gallery rows with the highest inner product, best first.

    queries: (Q, D), gallery: (G, D). Returns min(k, G) columns; of equal scores the lower row index comes first.
    """
    queries, gallery = _vectors("queries", queries), _vectors("gallery", gallery)
    values, rows = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
    with true_float32():
        for start in range(0, len(gallery), columns):
            tile = queries @ gallery[start : start + columns].T  # (Q, W)
            values = torch.cat([values, tile], 1)
            rows = torch.cat([rows, torch.arange(start, start + tile.shape[1]).expand(len(queries), -1)], 1)
            values, order = values.sort(dim=1, descending=True, stable=True)
            values, rows = values[:, :k], rows.gather(1, order[:, :k])
    return values, rows


# ------------------------------------------------------------------------------------------------------------ matches


class _Matches(NamedTuple):
    """Rows of the gallery that match each query: order[starts[q]:stops[q]]."""

    order: np.ndarray  # (G,) rows of the gallery by id
    starts: np.ndarray  # (Q,)
    stops: np.ndarray  # (Q,)

    @classmethod
    def of(cls, queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> "_Matches":
        """Return the matches by equal id. Raises ValueError if shapes do not fit."""
        asked, there = np.asarray(torch.as_tensor(query_ids).cpu()), np.asarray(torch.as_tensor(gallery_ids).cpu())
        if asked.shape != (len(queries),) or there.shape != (len(gallery),) or queries.shape[1] != gallery.shape[1]:
            shapes = [tuple(part.shape) for part in (queries, asked, gallery, there)]
            raise ValueError(
                "queries are (Q, D) with ids (Q,), the gallery is (G, D) with ids (G,); these are {} with {}, "
                "and {} with {}".format(*shapes)
            )
        order = np.argsort(there, kind="stable")
        ordered = there[order]
        return cls(order, np.searchsorted(ordered, asked, "left"), np.searchsorted(ordered, asked, "right"))


def _blocks(matches: _Matches, counts: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Yield the queries that have a match, grouped by id, in blocks of up to `rows` queries and about PAIRS matches."""
    queries = np.flatnonzero(counts)
    queries = queries[np.argsort(matches.starts[queries], kind="stable")]
    first, pairs = 0, 0
    for at, count in enumerate(counts[queries].tolist()):
        if at - first == rows or (at > first and pairs + count > PAIRS):
            yield queries[first:at]
            first, pairs = at, 0
        pairs += count
    yield queries[first:]


# -------------------------------------------------------------------------------------------------------------- ranks


class _Scores:
    """Queries, gallery, and the buffer that a tile of their scores is written to."""

    def __init__(self, queries: Tensor, gallery: Tensor, rows: int, columns: int) -> None:
        self.queries, self.gallery, self.columns = queries, gallery, columns
        self.tile = torch.empty(rows * columns)
        size = queries.norm(dim=1).double().numpy() * float(gallery.norm(dim=1).max())  # (Q,) upper bound of the scores
        depth = queries.shape[1]
        self.error = (SURE * math.sqrt(depth) + 4) * 2.0**-24 * size  # (Q,) of a float32 product
        self.slack = 2 * (depth + 8) * 2.0**-53 * size  # (Q,) of a float64 one

    def product(self, queries: Tensor, start: int) -> np.ndarray:
        """Return float32 scores (R, W) of queries (R, D) and W gallery rows from `start`; valid until the next call."""
        some = self.gallery[start : start + self.columns]
        out = self.tile[: len(queries) * len(some)].view(len(queries), len(some))
        return torch.mm(queries, some.T, out=out).numpy()


class _Block(NamedTuple):
    """Some queries and all their matches, query by query, those of a query from low to high scores."""

    queries: Tensor  # (R, D)
    rows: np.ndarray  # (n,) index of the query in this block
    columns: np.ndarray  # (n,) row of the gallery
    low: np.ndarray  # (n,) float32: rows that score less rank below the match
    high: np.ndarray  # (n,) float32: rows that score more rank above the match
    next: np.ndarray  # (n,) float32: `low` of the query's next match; infinite for its last
    limit: np.ndarray  # (n,) float64: rows that score at least this rank above the match
    ends: np.ndarray  # (R,) where each query's matches end
    above: np.ndarray  # (n,) int64, number of non-matches above the match, counted tile by tile

    def of(self, row: int) -> slice:
        """Return where the matches of a query are."""
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))


def _ranks(scores: _Scores, queries: np.ndarray, matches: _Matches) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks (n,) of the matches of some queries, ascending per query, and where each query's end, (R,)."""
    block = _block(scores, queries, matches)
    for start in range(0, len(scores.gallery), scores.columns):
        tile = scores.product(block.queries, start)  # (R, W)
        _blank(tile, block, start)
        if blurred := _count(tile, block, start, scores.gallery):
            _count_again(blurred, block, start, scores.gallery[start : start + tile.shape[1]])
    order = np.lexsort((block.above, block.rows))
    before = np.arange(len(order)) - np.concatenate([[0], block.ends[:-1]])[block.rows]  # matches above the match
    return block.above[order] + before + 1, block.ends


def _block(scores: _Scores, queries: np.ndarray, matches: _Matches) -> _Block:
    """Return a block with the float64 scores of all matches. Queries of one id are adjacent and share their matches."""
    starts, counts = matches.starts[queries], matches.stops[queries] - matches.starts[queries]
    x, ends = scores.queries[torch.from_numpy(queries)], np.cumsum(counts)
    rows = np.repeat(np.arange(len(queries)), counts)
    columns = matches.order[np.arange(ends[-1]) + np.repeat(starts - ends + counts, counts)]
    groups = np.flatnonzero(np.diff(starts, prepend=-1))  # where another id begins
    if len(rows) < CROWD * len(groups):
        values = _products(x, scores.gallery, rows, columns)
    else:
        own = [torch.from_numpy(matches.order[starts[at] : starts[at] + counts[at]]) for at in groups]
        parts = zip(x.tensor_split(torch.from_numpy(groups[1:])), own, strict=True)
        values = np.concatenate([_crossed(some, scores.gallery, there) for some, there in parts])
    order = np.lexsort((values, rows))
    columns, values = columns[order], values[order]
    error, slack = scores.error[queries][rows], scores.slack[queries][rows]
    low, high = (values - error).astype(np.float32), (values + error).astype(np.float32)
    above = np.append(low[1:], np.float32(math.inf))
    above[ends - 1] = math.inf
    return _Block(x, rows, columns, low, high, above, values - slack, ends, np.zeros(len(rows), np.int64))


def _blank(tile: np.ndarray, block: _Block, start: int) -> None:
    """Set the scores of matches in a tile (R, W) to -inf, so that only non-matches are counted."""
    here = (block.columns >= start) & (block.columns < start + tile.shape[1])
    tile[block.rows[here], block.columns[here] - start] = -math.inf


def _count(tile: np.ndarray, block: _Block, start: int, gallery: Tensor) -> list[int]:
    """Count the non-matches of a tile (R, W) above each match; return the rows that need float64, left uncounted."""
    flags = np.empty((STRIP, tile.shape[1]), bool)
    blurred: list[int] = []
    doubts, rare = [], []
    counts = np.diff(block.ends, prepend=0)  # (R,) M
    lowest = block.low[block.ends - counts]  # (R,)
    for first in range(0, len(tile), STRIP):
        strip = tile[first : first + STRIP]
        some = np.greater_equal(strip, lowest[first : first + STRIP, None], out=flags[: len(strip)])
        if np.count_nonzero(some) < strip.size * RARE and counts[first : first + STRIP].max() <= FEW:
            at = np.flatnonzero(some)
            rare.append((at // strip.shape[1] + first, at % strip.shape[1], strip.ravel()[at]))
            continue
        for row in range(first, first + len(strip)):
            mine = block.of(row)
            sure, which, columns = _compare(tile[row], block.low[mine], block.high[mine], flags[0])
            if len(which) > BLURRED:
                blurred.append(row)
                continue
            block.above[mine] += sure
            doubts.append((which + mine.start, columns))
    if rare:
        rows, columns, values = (np.concatenate(parts) for parts in zip(*rare, strict=True))
        doubts += _climb((block.ends - counts)[rows], columns, values, block)
    if doubts:
        which, columns = (np.concatenate(parts) for parts in zip(*doubts, strict=True))
        higher = _products(block.queries, gallery, block.rows[which], columns + start) >= block.limit[which]
        np.add.at(block.above, which, higher)
    return blurred


def _climb(
    match: np.ndarray, columns: np.ndarray, values: np.ndarray, block: _Block
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Count candidates (c,) that may rank above the lowest `match` (c,) of their query, from match to match upwards.

    Returns the candidates within rounding error as (match, column). Few candidates rank above a second match, so the
    arrays shrink quickly.
    """
    doubts = []
    while len(match):
        over = values > block.high[match]
        block.above[:] += np.bincount(match[over], minlength=len(block.above))
        doubts.append((match[~over], columns[~over]))
        on = values >= block.next[match]
        match, columns, values = match[on] + 1, columns[on], values[on]
    return doubts


def _count_again(rows: list[int], block: _Block, start: int, gallery: Tensor) -> None:
    """Do what `_count` does in float64, for some rows and the part of the gallery (W, D) that begins at `start`."""
    some = block.queries[rows].double()
    below = np.nextafter(block.limit, -math.inf)
    for at, part in zip(range(start, start + len(gallery), CHUNK), gallery.split(CHUNK), strict=True):
        tile = np.full((len(block.ends), len(part)), -math.inf)
        tile[rows] = (some @ part.double().T).numpy()
        _blank(tile, block, at)
        flags = np.empty(len(part), bool)
        for row in rows:
            mine = block.of(row)
            block.above[mine] += _compare(tile[row], block.limit[mine], below[mine], flags)[0]


def _compare(
    row: np.ndarray, low: np.ndarray, high: np.ndarray, flags: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how many scores of a row (W,) exceed each `high` (M,), and those in [low, high] as (match, column).

    flags: (W,) bool, overwritten. With a trained network, most of a row scores below all matches.
    """
    np.greater_equal(row, low.min(), out=flags)
    columns, count = None, np.count_nonzero(flags)
    if 8 * count < len(row):
        columns = np.flatnonzero(flags)
        row = row[columns]
    if len(low) * len(row) > FEW * len(flags):
        order = np.argsort(row)
        ordered = row[order]
        first, last = np.searchsorted(ordered, low, "left"), np.searchsorted(ordered, high, "right")
        sure, between = len(row) - last, np.maximum(last - first, 0)
        which = np.repeat(np.arange(len(low)), between)
        inside = np.arange(len(which)) - np.repeat(np.cumsum(between) - between, between)
        at = order[first[which] + inside]
    else:
        over, near = row > high[:, None], row >= low[:, None]  # (M, W)
        sure = np.array([np.count_nonzero(line) for line in over])
        near &= ~over
        which, at = np.divmod(np.flatnonzero(near), max(1, len(row)))
    return sure, which, at if columns is None else columns[at]


def _products(queries: Tensor, gallery: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the float64 scores (n,) of pairs of a query and a row of the gallery."""
    pairs = zip(torch.from_numpy(rows).split(CHUNK), torch.from_numpy(columns).split(CHUNK), strict=True)
    found = [(queries[some].double() * gallery[others].double()).sum(1) for some, others in pairs]
    return torch.cat(found or [torch.empty(0)]).numpy()


def _crossed(queries: Tensor, gallery: Tensor, columns: Tensor) -> np.ndarray:
    """Return float64 scores of all queries (R, D) with all `columns` (M,) of the gallery, query by query: (R·M,)."""
    some = queries.double()
    return torch.cat([some @ gallery[part].double().T for part in columns.split(CHUNK)], 1).flatten().numpy()


def _vectors(name: str, values: Tensor) -> Tensor:
    """Return vectors (N, D) as float32 on the CPU. Raises SightwordError if a number is not finite."""
    values = torch.as_tensor(values).detach().cpu().float()
    if values.ndim != 2 or not len(values):
        raise ValueError(f"{name} are (N, D) of at least one vector, these are {tuple(values.shape)}")
    if wrong := int((~values.norm(dim=1).isfinite()).sum()):
        raise SightwordError(
            f"{wrong} of {len(values)} {name} are not finite: the training has diverged. "
            "Lower the learning rate, optim.lr"
        )
    return values
