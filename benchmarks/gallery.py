"""One text query to a gallery in memory, beside a plain product, faiss' exact index and the bytes that it has to read;
and to a table of LanceDB, without an index and with one.

Vectors of 512 numbers in clusters of 500, so that many scores are nearly equal; queries near one of them; a filter that
leaves one of fifteen. All of one thread. `limit` is the time to read the half-precision vectors once, as a sum of them.
LanceDB's answers are ranked again by exact products, as `sightword search gallery=lancedb` does.

    python benchmarks/gallery.py million     a million vectors as well: 4 GB of memory; the index is most of the time
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import faiss
import pyarrow as pa
import torch
import torch.nn.functional as F
from measure import at_most, cpu_ms, publish
from torch import Tensor

from sightword.metrics.shortlist import Shortlist
from sightword.systems.retrieval.lance_sync import ENOUGH
from sightword.systems.retrieval.lance_table import ALL, EFFORTS, TABLE, Effort, Table, nearest

WIDTH, TOP, EVERY, ROUNDS = 512, 10, 15, 21
SIZES = (10_000, 100_000)
THREADS = ("LANCE_CPU_THREADS", "RAYON_NUM_THREADS")  # of LanceDB
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


def lance(count: int) -> list[dict[str, object]]:
    """Rows of a table of LanceDB: without an index, and with the one that `sightword index` makes of large tables."""
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read when LanceDB is imported
    import lancedb
    from lancedb.index import HnswSq

    gallery, queries = vectors(count)
    with tempfile.TemporaryDirectory() as folder:
        schema = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32(), WIDTH))])
        table = lancedb.connect(folder).create_table(TABLE, schema=schema)
        start = time.perf_counter()
        for first in range(0, count, 8192):
            part = gallery[first : first + 8192].numpy()
            keys = pa.array([f"{number % EVERY:x}{number:031x}" for number in range(first, first + len(part))])
            rows = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), WIDTH)
            table.add(pa.table([keys, rows], schema=schema))
        table.optimize()
        found = [measured(table, gallery, queries, time.perf_counter() - start, ALL)]
        start = time.perf_counter()
        table.create_index("vector", config=HnswSq(distance_type="dot", m=20, ef_construction=200))
        seconds = time.perf_counter() - start
        for effort in EFFORTS:  # the least that is enough, as `sightword index` looks for it
            found.append(measured(table, gallery, queries, seconds, effort))
            if min(float(str(found[-1][name])) for name in ("recall@10", "filtered recall@10")) >= ENOUGH:
                break
        return found


def measured(table: Table, gallery: Tensor, queries: Tensor, seconds: float, effort: Effort) -> dict[str, object]:
    index = f"IVF_HNSW_SQ, ef {effort.ef}, refine {effort.refine}" if effort.ef else "none"
    found: dict[str, object] = {"vectors": f"{len(gallery):,}", "index": index, "insert or index, s": round(seconds, 1)}
    for name, where, rows in (("", "", gallery), ("filtered ", "key < '1'", gallery[::EVERY])):
        exact = [float(torch.topk(rows @ query, TOP).values[-1]) - 1e-6 for query in queries]
        answers = [nearest(table, query, TOP, where, effort).values() for query in queries]
        right = sum(score >= least for scores, least in zip(answers, exact, strict=True) for score in scores)
        each, start = iter(queries), time.perf_counter()
        cpu = median(lambda query, where=where: nearest(table, query, TOP, where, effort), each)
        found[f"{name}CPU, ms"] = round(cpu, 1)
        found[f"{name}wall, ms"] = round(1000 * (time.perf_counter() - start) / ROUNDS, 1)
        found[f"{name}recall@10"] = round(right / (TOP * ROUNDS), 3)
    return found


if __name__ == "__main__":
    sizes = (*SIZES, 1_000_000) if "million" in sys.argv[1:] else SIZES
    tables = {
        "One query, the ten best": [row(count) for count in sizes],
        "One query of a table of LanceDB": [line for count in sizes for line in lance(count)],
    }
    publish("gallery", tables, ["torch", "faiss-cpu", "lancedb"])
