"""Nearest code and EMA step beside vector-quantize-pytorch: time, distance from the bare product, memory, errors.

`train` is the look-up, both losses and the codebook's step; `train + backward` adds the gradient to the input. The
product is torch.mm of the same N, D and K into memory that is already there. For many channels it is the floor of every
exact search; for 8 it is bound by writing its N×K result, which ours does not write. Takes two minutes, nearly all of
it the peer's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import at_least, at_most, cpu_ms, peak_mib, publish
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from sightword.ops.nearest import exact as search
from sightword.ops.nearest import nearest
from sightword.ops.nearest.exact import stack_of
from sightword.ops.quantize import VectorQuantizerEMA

# rows, channels, codes, metric, and how many times faster than the peer we want to be
CASES = [(8192, 256, 1024, "euclidean", 4), (8192, 8, 16384, "cosine", 20), (8192, 8, 16384, "euclidean", 20)]
LARGE = (65536, 8, 16384)
LIMIT = 64  # MiB


def ours(channels: int, codes: int, metric: str) -> nn.Module:
    return VectorQuantizerEMA(codes, channels, decay=0.99, metric=metric).train()


def peer(channels: int, codes: int, metric: str) -> nn.Module:
    return VectorQuantize(
        dim=channels,
        codebook_size=codes,
        decay=0.99,
        commitment_weight=0.25,
        use_cosine_sim=metric == "cosine",
        rotation_trick=False,  # straight through, as ours
        threshold_ema_dead_code=0,
    ).train()


def step(quantizer: nn.Module, x: Tensor, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        codes, _, loss, *_ = quantizer(x[None])
    if backward:
        (codes.sum() + loss.sum()).backward()


def times() -> list[dict[str, Any]]:
    rows = []
    for count, channels, codes, metric, target in CASES:
        x, y, out = torch.randn(count, channels), torch.randn(channels, codes), torch.empty(count, codes)
        product = cpu_ms(lambda x=x, y=y, out=out: torch.mm(x, y, out=out))
        del out
        for backward in (False, True):
            given = torch.randn(count, channels, requires_grad=backward)
            mine = cpu_ms(partial(step, ours(channels, codes, metric), given, backward))
            repeats = 3 if codes > 4096 else 7  # the peer takes seconds for that many codes
            theirs = cpu_ms(partial(step, peer(channels, codes, metric), given, backward), repeats, repeats > 3)
            rows.append(
                {
                    "N × D, K": f"{count} × {channels}, {codes}",
                    "metric": metric,
                    "what": "train + backward" if backward else "train",
                    "ours ms": mine,
                    "peer ms": theirs,
                    "product ms": product,
                    "product / ours": product / mine,
                    "peer / ours": theirs / mine,
                    **at_least(theirs / mine, target),
                }
            )
    return rows


def ready(
    build: Callable[..., nn.Module], count: int, channels: int, codes: int, metric: str, backward: bool
) -> Callable[[], None]:
    """A training step, warmed on a few rows, for `peak_mib`."""
    quantizer = build(channels, codes, metric)
    step(quantizer, torch.randn(16, channels, requires_grad=backward), backward)
    return partial(step, quantizer, torch.randn(count, channels, requires_grad=backward), backward)


def memory() -> list[dict[str, Any]]:
    count, channels, codes = LARGE
    rows = []
    for build, number, metric, backward in (
        (ours, count, "euclidean", False),
        (ours, count, "cosine", False),
        (ours, count, "euclidean", True),
        (peer, count // 8, "euclidean", False),
    ):
        mib = peak_mib(ready, build, number, channels, codes, metric, backward)
        rows.append(
            {
                "who": build.__name__,
                "N × D, K": f"{number} × {channels}, {codes}",
                "metric": metric,
                "what": "train + backward" if backward else "train",
                "extra MiB": mib,
                **(at_most(mib, LIMIT) if build is ours else {"target": "", "met": ""}),
            }
        )
    return rows


def by_float64(x: Tensor, codes: Tensor, metric: str) -> Tensor:
    x, codes = x.double(), codes.double()
    if metric == "cosine":
        codes = nn.functional.normalize(codes, dim=1)
    bias = codes.square().sum(1) * (-0.5 if metric == "euclidean" else 0)
    return torch.cat([torch.addmm(bias, some, codes.t()).argmax(1) for some in x.split(128)])


def peer_ids(x: Tensor, codes: Tensor, metric: str) -> Tensor:
    quantizer = peer(codes.shape[1], len(codes), metric).eval()
    if metric == "cosine":
        codes = nn.functional.normalize(codes, dim=1)
    quantizer._codebook.embed.data.copy_(codes[None])
    return torch.cat([quantizer(some[None])[1][0] for some in x.split(4096)])


@torch.no_grad()
def errors() -> list[dict[str, Any]]:
    rows = []
    for channels, count, metric, mean, peer_rows in (
        (256, 1024, "euclidean", 0, 32_768),
        (256, 1024, "euclidean", 20, 32_768),
        (8, 16384, "cosine", 0, 8192),
    ):
        x, codes = mean + torch.randn(100_000, channels), mean + torch.randn(count, channels)
        truth = by_float64(x, codes, metric)
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                mine = (nearest(x, codes, metric) != truth).sum().item()
                theirs = peer_ids(x[:peer_rows], codes, metric) != truth[:peer_rows]
            rows.append(
                {
                    "D, K": f"{channels}, {count}",
                    "metric": metric,
                    "mean": mean,
                    "precision": "bfloat16 autocast" if autocast else "float32",
                    "ours wrong of 10⁵": mine,
                    "peer wrong of 10⁵": round(1e5 * theirs.double().mean().item()),
                    "peer's rows": peer_rows,
                    **at_most(mine, 0),
                }
            )
    return rows


@torch.no_grad()
def on_gpu() -> list[dict[str, Any]]:
    """Medians of triton's do_bench, in milliseconds of wall time."""
    from triton.testing import do_bench

    rows = []
    for count, channels, codes, metric in (
        (8192, 256, 1024, "euclidean"),
        (65536, 256, 8192, "euclidean"),
        (65536, 8, 16384, "cosine"),
        (65536, 8, 16384, "euclidean"),
    ):
        x, book = torch.randn(count, channels, device="cuda"), torch.randn(codes, channels, device="cuda")
        theirs = peer(channels, codes, metric).cuda().eval()
        pays, took = search._triton_pays, {}
        try:
            for name, answer in (("twin", True), ("plain", False)):
                search._triton_pays = lambda rows, stack, answer=answer: answer
                took[name] = do_bench(partial(nearest, x, book, metric), return_mode="median")
        finally:
            search._triton_pays = pays
        took["peer"] = do_bench(partial(theirs, x[None]), return_mode="median")
        out = torch.empty(count, codes, device="cuda")
        took["product"] = do_bench(partial(torch.mm, x, book.t(), out=out), return_mode="median")
        rows.append(
            {
                "N × D, K": f"{count} × {channels}, {codes}",
                "metric": metric,
                **{f"{name} ms": ms for name, ms in took.items()},
                "peer / twin": took["peer"] / took["twin"],
                "twin chosen": pays(x, stack_of([book], metric, torch.float32)),
            }
        )
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    tables = {
        "CPU milliseconds of one thread": times(),
        "Peak memory beyond the input": memory(),
        "Ids that differ from float64": errors(),
    }
    if torch.cuda.is_available():
        tables[f"Eval on {torch.cuda.get_device_name()}"] = on_gpu()
    publish("nearest", tables, ["torch", "vector-quantize-pytorch"])
