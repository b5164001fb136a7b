"""How well one set of vectors finds another: Rank-k, mAP and mINP, from the ranks of the matches, without sorting.

Whatever the field reports depends on where the matches stand, and a match's rank is 1 + how many others stand above it.
So a tile of scores is multiplied, compared with the few scores of the matches, and forgotten: memory does not grow with
queries × gallery, and most of the time goes into the product.

Exact: a float32 product that is too near to a match's score to tell which is higher is computed again in float64. The
measures are therefore those of a full sort in float64, for every size of tile and number of threads.

Tie rule: a stranger whose score agrees with a match's, to the rounding of float64, stands above it. (An unstable sort,
as usual elsewhere, gives a collapsed network, whose scores are all alike, whatever it finds.)
No-match rule: a query without a match in the gallery is counted and left out.

Legend: Q queries; G rows of the gallery; D width; M matches of a query; n matches of a block of queries.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightword.ops.nearest import true_float32

ROWS, COLUMNS = 1024, 8192  # of a tile: 32 MiB, high enough for the product to reach its full speed
PAIRS = 2**20  # matches that a block of queries may have; their ranks are all that is kept
SURE = 8  # standard deviations of a bound on a product's rounding (Higham and Mary 2019, theorem 3.1)
FEW = 32  # comparisons of a whole row that are quicker than sorting it
STRIP = 16  # rows of a tile that are compared while they are in the cache
RARE = 1 / 8  # of a strip: strangers above a query's lowest match from which its rows are compared as a whole
BLURRED = 512  # doubts of a row from which it is quicker multiplied again in float64
CHUNK = 4096  # rows of float64 at a time
CROWD = 256  # matches of the queries of one id from which they are multiplied at once, not pair by pair

PROTOCOL = {
    "queries": "every caption; the gallery is every image of the split, each once. i2t_: the other way round",
    "match": "same person; no camera is filtered out. score: cosine of unit vectors, exact to float64",
    "rank": "1 + how many images stand above; in per cent of queries, rank_k: a match among the first k",
    "mAP": "mean over matches of (matches so far / rank), then over queries",
    "mINP": "matches / rank of the last match, mean over queries",
    "ties": "a stranger with a match's score stands above it",
    "no_match": "queries without a match are counted (unmatched) and left out",
    "chance": "rank1 of an order at random",
}


class Ranking(NamedTuple):
    """Where the matches of each query stand. A query without a match has 0 and NaN."""

    first: np.ndarray  # (Q,) int64, rank of the best match, from 1
    precision: np.ndarray  # (Q,) float64, average precision
    penalty: np.ndarray  # (Q,) float64, matches / rank of the last match: the inverse negative penalty
    matches: np.ndarray  # (Q,) int64, M
    gallery: int  # G

    def rank(self, k: int) -> float:
        """Per cent of queries with a match among their first k."""
        return 100 * float((self.first[self.matches > 0] <= k).mean())

    @property
    def rank1(self) -> float:
        return self.rank(1)

    @property
    def rank5(self) -> float:
        return self.rank(5)

    @property
    def rank10(self) -> float:
        return self.rank(10)

    @property
    def mAP(self) -> float:  # noqa: N802  # the field's own spelling
        return 100 * float(np.nanmean(self.precision))

    @property
    def mINP(self) -> float:  # noqa: N802
        return 100 * float(np.nanmean(self.penalty))

    @property
    def chance(self) -> float:
        """rank1 of an order at random."""
        return 100 * float(self.matches[self.matches > 0].mean()) / self.gallery

    @property
    def unmatched(self) -> int:
        """Queries left out, as they have no match."""
        return int((self.matches == 0).sum())

    def measures(self) -> dict[str, float]:
        """In the order of the field's tables, in per cent; `unmatched` only where there are any."""
        names = ("rank1", "rank5", "rank10", "mAP", "mINP", "chance")
        found = {name.lower(): float(getattr(self, name)) for name in names}
        return found | ({"unmatched": float(self.unmatched)} if self.unmatched else {})


def measures_of(
    image_embeddings: Tensor, image_pids: Tensor, text_embeddings: Tensor, text_pids: Tensor
) -> dict[str, float]:
    """The table of a text-to-image search, and under i2t_… that of the other direction. How: `PROTOCOL`.

    Embeddings (N, D) and (C, D) of unit rows, on any device; pids (N,) and (C,), who is shown or described.
    """
    found = ranking(text_embeddings, image_embeddings, text_pids, image_pids).measures()
    back = ranking(image_embeddings, text_embeddings, image_pids, text_pids).measures()
    return found | {f"i2t_{name}": value for name, value in back.items()}


@torch.no_grad()
def ranking(
    queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor, rows: int = ROWS, columns: int = COLUMNS
) -> Ranking:
    """Rank the gallery (G, D) for each of the queries (Q, D) by inner product; rows of equal id are matches.

    Unit rows make the scores cosines. query_ids (Q,), gallery_ids (G,): integers. rows, columns: of a tile.
    Computed on the CPU, in float32 and where that is not enough in float64, by torch's threads.
    ValueError if shapes do not fit, if a number is not finite, or if no query has a match.
    """
    queries, gallery = _vectors("queries", queries), _vectors("gallery", gallery)
    matches = _Matches.of(queries, gallery, query_ids, gallery_ids)
    counts = matches.stops - matches.starts  # (Q,)
    if not counts.any():
        raise ValueError(
            f"not one of {len(counts)} queries has a match among {len(gallery)} rows: are their ids of one split?"
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
            hits = np.arange(len(ranks)) - np.repeat(starts, counts[block]) + 1  # the how-manieth of its query's
            found.first[block] = ranks[starts]
            found.precision[block] = np.add.reduceat(hits / ranks, starts) / counts[block]
            found.penalty[block] = counts[block] / ranks[ends - 1]
    return found


def best(queries: Tensor, gallery: Tensor, k: int, columns: int = COLUMNS) -> tuple[Tensor, Tensor]:
    """The k rows of the gallery (G, D) with the highest inner product: scores (Q, k) and rows (Q, k), best first.

    For a few queries, as all their best are kept. Fewer than k if the gallery is smaller; of equals the first.
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
    """Which rows of the gallery match each query: order[starts[q]:stops[q]]."""

    order: np.ndarray  # (G,) rows of the gallery by id
    starts: np.ndarray  # (Q,)
    stops: np.ndarray  # (Q,)

    @classmethod
    def of(cls, queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> "_Matches":
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
    """The queries that have a match, those of one id together, in blocks of few queries and of few matches."""
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
    """The vectors, and the tile that their products are written to."""

    def __init__(self, queries: Tensor, gallery: Tensor, rows: int, columns: int) -> None:
        self.queries, self.gallery, self.columns = queries, gallery, columns
        self.tile = torch.empty(rows * columns)
        size = queries.norm(dim=1).double().numpy() * float(gallery.norm(dim=1).max())  # (Q,) no score is larger
        depth = queries.shape[1]
        self.error = (SURE * math.sqrt(depth) + 4) * 2.0**-24 * size  # (Q,) of a float32 product
        self.slack = 2 * (depth + 8) * 2.0**-53 * size  # (Q,) of a float64 one

    def product(self, queries: Tensor, start: int) -> np.ndarray:
        """Float32 scores (R, W) of queries (R, D) and the columns from `start` on; valid until the next call."""
        some = self.gallery[start : start + self.columns]
        out = self.tile[: len(queries) * len(some)].view(len(queries), len(some))
        return torch.mm(queries, some.T, out=out).numpy()


class _Block(NamedTuple):
    """Some queries and all their matches, query by query, those of a query from low to high scores."""

    queries: Tensor  # (R, D)
    rows: np.ndarray  # (n,) which of these queries
    columns: np.ndarray  # (n,) which row of the gallery
    low: np.ndarray  # (n,) float32: what scores less is below the match
    high: np.ndarray  # (n,) float32: what scores more is above it
    next: np.ndarray  # (n,) float32: `low` of the query's next match; infinite for its last
    limit: np.ndarray  # (n,) what scores as much in float64 is above it
    ends: np.ndarray  # (R,) a query's matches end before this one
    above: np.ndarray  # (n,) int64, strangers above the match, counted tile by tile

    def of(self, row: int) -> slice:
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))


def _ranks(scores: _Scores, queries: np.ndarray, matches: _Matches) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (n,) of the matches of some queries, ascending within each query, and where each query's end, (R,)."""
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
    """The scores of matches are computed in float64 at once. Queries of one id stand together and have the same."""
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
    """Take the matches out of a tile (R, W): they are no strangers."""
    here = (block.columns >= start) & (block.columns < start + tile.shape[1])
    tile[block.rows[here], block.columns[here] - start] = -math.inf


def _count(tile: np.ndarray, block: _Block, start: int, gallery: Tensor) -> list[int]:
    """Count the strangers of a tile (R, W) that stand above; the rows too blurred for float32, left uncounted."""
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
    """Count strangers (c,) that may stand above the lowest `match` (c,) of their query; the doubtful: (match, column).

    From match to match, upwards: of most queries only one match is low, so that few go on.
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
    """`_count` in float64, of some rows and the part of the gallery (W, D) that begins at `start`."""
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
    """How many of a row (W,) are above each `high` (M,); and those from `low` to `high`: (which match, column) each.

    flags: (W,) bool, to be written to. Most of a row stands below all matches of a trained network.
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
    """Float64 scores (n,) of pairs."""
    pairs = zip(torch.from_numpy(rows).split(CHUNK), torch.from_numpy(columns).split(CHUNK), strict=True)
    found = [(queries[some].double() * gallery[others].double()).sum(1) for some, others in pairs]
    return torch.cat(found or [torch.empty(0)]).numpy()


def _crossed(queries: Tensor, gallery: Tensor, columns: Tensor) -> np.ndarray:
    """Float64 scores of each of the queries (R, D) with each of the columns (M,), query by query: (R·M,)."""
    some = queries.double()
    return torch.cat([some @ gallery[part].double().T for part in columns.split(CHUNK)], 1).flatten().numpy()


def _vectors(name: str, values: Tensor) -> Tensor:
    values = torch.as_tensor(values).detach().cpu().float()
    if values.ndim != 2 or not len(values):
        raise ValueError(f"{name} are (N, D) of at least one vector, these are {tuple(values.shape)}")
    if wrong := int((~values.norm(dim=1).isfinite()).sum()):
        raise ValueError(
            f"{wrong} of {len(values)} {name} are not finite: the run has diverged (lower the learning rate)"
        )
    return values
