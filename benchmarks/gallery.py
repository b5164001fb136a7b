"""One text query to a gallery in memory, beside a plain product, faiss' exact index, and the bytes that it has to read.

Vectors of 512 numbers in clusters of 500, so that many scores are nearly equal; queries near one of them; a filter that
leaves one of fifteen. All of one thread. `limit` is the time to read the half-precision vectors once, as a sum of them.

    python benchmarks/gallery.py million     a million vectors as well: a minute, and 4 GB of memory
"""

import sys
from collections.abc import Callable, Iterator

import faiss
import torch
import torch.nn.functional as F
from measure import at_most, cpu_ms, publish
from torch import Tensor

from sightword.metrics.shortlist import Shortlist

WIDTH, TOP, EVERY, ROUNDS = 512, 10, 15, 21
SIZES = (10_000, 100_000)
SHARE = 2.0  # times faiss, at most: of few vectors, a call's own cost is half


def vectors(count: int) -> tuple[Tensor, Tensor]:
    """A gallery (count, 512) and queries (21, 512), unit rows."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(-(-count // 500), WIDTH, generator=generator)
    gallery = torch.randn(count, WIDTH, generator=generator).add_(2 * centres.repeat_interleave(500, 0)[:count])
    gallery = F.normalize(gallery, dim=1)
    near = gallery[torch.randint(count, (ROUNDS,), generator=generator)]
    return gallery, F.normalize(near + 0.03 * torch.randn(ROUNDS, WIDTH, generator=generator), dim=1)


def flat(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Search of faiss' exact index."""
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(rows.numpy())
    return lambda query: torch.from_numpy(index.search(query[None].numpy(), TOP)[1][0])


def median(search: Callable[[Tensor], object], queries: Iterator[Tensor]) -> float:
    return cpu_ms(lambda: search(next(queries)), ROUNDS - 1)


def row(count: int) -> dict[str, object]:
    gallery, queries = vectors(count)
    index, among = Shortlist(gallery), torch.arange(0, count, EVERY)
    exact = [torch.topk(gallery @ query, TOP).indices for query in queries]
    other = flat(gallery)
    for query, wanted in zip(queries, exact, strict=True):
        assert torch.equal(index.search(query, TOP)[1], wanted)
    ours = median(lambda query: index.search(query, TOP), iter(queries))
    some = median(lambda query: index.search(query, TOP, among), iter(queries))
    plain = median(lambda query: torch.topk(gallery @ query, TOP), iter(queries))
    theirs = median(other, iter(queries))
    limit = cpu_ms(lambda: torch.mv(index.half, queries[0].half()))
    return {
        "vectors": f"{count:,}",
        "Sightword, ms": round(ours, 2),
        "filtered, ms": round(some, 2),
        "product + topk, ms": round(plain, 2),
        "faiss Flat, ms": round(theirs, 2),
        "limit, ms": round(limit, 2),
        "ratio to faiss": round(ours / theirs, 2),
        **at_most(ours / theirs, SHARE),
    }


if __name__ == "__main__":
    sizes = (*SIZES, 1_000_000) if "million" in sys.argv[1:] else SIZES
    publish("gallery", {"One query, the ten best": [row(count) for count in sizes]}, ["torch", "faiss-cpu"])
