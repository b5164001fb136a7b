"""Exact Rank-k, mAP and mINP of 2 000 captions in 100 000 images, beside the product alone and beside a full sort.

Three worlds of random vectors, four images a person: in `trained` two thirds of the captions find theirs first, as do
those of published models; in `untrained` half of the gallery stands above a match, so there is more to count; in
`collapsed` all vectors are within a ten-thousandth of each other, where float32 is not enough. The product is torch.mm
into memory that is already there. The sort is what most evaluations do: the whole matrix, its argsort, the matches in
that order and their cumulated sums. All of one thread; takes three minutes, most of them the sort's.

    python benchmarks/retrieval.py million     10 000 × 1 000 000 as well: four more minutes and 4 GB of memory
"""

import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import at_least, at_most, publish
from torch import Tensor

from sightword.metrics import ranking as ranks
from sightword.metrics.ranking import ranking

QUERIES, GALLERY, WIDTH, IMAGES = 2000, 100_000, 512, 4
LARGE = (10_000, 1_000_000)
SIGNAL, NOISE = 24, 0.65  # dimensions that persons differ in, and how much images and captions of one do
ROUNDS = 3
FASTER, OVER, LIMIT = 10, 25, 1.3  # times the sort; per cent over the product; GiB in all
BOUND = 4.0  # GiB besides the gallery, of the large one

World = tuple[Tensor, Tensor, Tensor, Tensor]  # queries, gallery, and who they are


def world(kind: str, queries: int = QUERIES, gallery: int = GALLERY) -> World:
    generator = torch.Generator().manual_seed(0)
    people = torch.arange(gallery) // IMAGES
    asked = people[torch.randperm(gallery, generator=generator)[:queries]]
    return vectors(kind, asked, generator), vectors(kind, people, generator), asked, people


def vectors(kind: str, people: Tensor, generator: torch.Generator) -> Tensor:
    """(N, D), made in place and in parts: making them must not need more memory than searching them."""
    found = torch.empty(len(people), WIDTH)
    fixed = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(WIDTH, SIGNAL, generator=fixed))[0]
    centres = torch.randn(int(people.max()) + 1, SIGNAL, generator=fixed)
    middle = torch.randn(WIDTH, generator=fixed)
    for rows, who in zip(found.split(8192), people.split(8192), strict=True):
        noise = torch.randn(rows.shape, generator=generator)
        if kind == "trained":
            own = centres[who] + NOISE * torch.randn(len(who), SIGNAL, generator=generator)
            noise = own @ axes.T + 0.02 * noise
        elif kind == "collapsed":
            noise = middle + 1e-4 * noise
        rows.copy_(F.normalize(noise, dim=1))
    return found


def sorted_out(queries: Tensor, gallery: Tensor, asked: Tensor, people: Tensor) -> dict[str, float]:
    """The same measures by the whole matrix and its argsort."""
    order = torch.argsort(queries @ gallery.T, dim=1, descending=True)
    match = people[order] == asked[:, None]
    hits = match.cumsum(1)
    places = torch.arange(1, len(gallery) + 1)
    found = {f"rank{k}": 100 * float(match[:, :k].any(1).double().mean()) for k in (1, 5, 10)}
    found["map"] = 100 * float(((hits / places) * match).sum(1).div(match.sum(1)).mean())
    last = (match * places).amax(1)
    return found | {"minp": 100 * float((match.sum(1) / last).double().mean())}


def took(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one call, and what it gave."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def times() -> list[dict[str, Any]]:
    rows = []
    for kind in ("trained", "untrained", "collapsed"):
        inputs = world(kind)
        out = torch.empty(QUERIES, GALLERY)
        product, ours = [], []
        for _ in range(ROUNDS if kind != "collapsed" else 1):
            product.append(took(lambda x=inputs, out=out: torch.mm(x[0], x[1].T, out=out))[0])
            seconds, found = took(lambda x=inputs: ranking(*x))
            ours.append(seconds)
        over = 100 * (statistics.median(b / a for a, b in zip(product, ours, strict=True)) - 1)
        row = {"world": kind, "rank1": found.rank1, "mINP": found.mINP, "product s": statistics.median(product)}
        row |= {"ours s": statistics.median(ours), "over the product %": over}
        rows.append(row | (at_most(over, OVER) if kind == "trained" else {"target": "", "met": ""}))
    return rows


def beside_the_sort() -> list[dict[str, Any]]:
    inputs = world("trained")
    ours, found = took(lambda: ranking(*inputs))
    theirs, wanted = took(lambda: sorted_out(*inputs))
    apart = max(abs(found.measures()[name] - value) for name, value in wanted.items())
    row = {"Q × G": f"{QUERIES} × {GALLERY}", "ours s": ours, "sort s": theirs, "largest difference, points": apart}
    return [row | {"sort / ours": theirs / ours, **at_least(theirs / ours, FASTER)}]


def memory() -> list[dict[str, Any]]:
    rows = []
    for who, limit in (("ours", True), ("sort", False)):
        gib = in_a_process(peak, who)
        row = {"who": who, "Q × G": f"{QUERIES} × {GALLERY}", "peak GiB in all": gib}
        rows.append(row | (at_most(gib, LIMIT) if limit else {"target": "", "met": ""}))
    return rows


def peak(who: str) -> float:
    """GiB of a process that makes the vectors and measures them; of the sort, by a tenth of the queries."""
    queries, gallery, asked, people = world("trained")
    before = resident()
    if who == "ours":
        ranking(queries, gallery, asked, people)
        return resident()
    sorted_out(queries[: QUERIES // 10], gallery, asked[: QUERIES // 10], people)
    return before + 10 * (resident() - before)


def resident() -> float:
    """The most GiB this process ever had (Linux; `getrusage` would count in the process that started it)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM"))


def in_a_process(function: Callable[..., Any], *args: Any) -> Any:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def million() -> list[dict[str, Any]]:
    return [in_a_process(large)]


def large() -> dict[str, Any]:
    """10 000 × 1 000 000; the product alone by a twentieth of it, in tiles of the same size."""
    queries, gallery, asked, people = world("trained", *LARGE)
    seconds, found = took(lambda: ranking(queries, gallery, asked, people))
    extra = resident() - gallery.nbytes / 2**30  # the libraries and what made the vectors counted in
    tile = torch.empty(ranks.ROWS, ranks.COLUMNS)
    part = gallery[: len(gallery) // 20]

    def product() -> None:
        for rows in queries.split(ranks.ROWS):
            for columns in part.split(ranks.COLUMNS):
                torch.mm(rows, columns.T, out=tile.flatten()[: len(rows) * len(columns)].view(len(rows), len(columns)))

    floor = 20 * took(product)[0]
    row = {"Q × G": f"{LARGE[0]} × {LARGE[1]}", "rank1": found.rank1, "ours s": seconds, "product s": floor}
    row |= {"over the product %": 100 * (seconds / floor - 1), "gallery GiB": gallery.nbytes / 2**30}
    return row | {"GiB besides the gallery": extra, **at_most(extra, BOUND)}


if __name__ == "__main__":
    tables = {
        "Exact measures, CPU seconds of one thread": times(),
        "Beside a full sort": beside_the_sort(),
        "Memory": memory(),
    }
    if "million" in sys.argv[1:]:
        tables["A million images"] = million()
    publish("retrieval", tables, ["torch", "numpy"])
