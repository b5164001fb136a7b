"""The Triton kernel proposes what the plain search proposes: in Triton's interpreter, and on a GPU if there is one."""

import json
import os
import subprocess
import sys

import pytest
import torch

from sightword.ops.nearest import exact as module
from sightword.ops.nearest import nearest_in_each
from sightword.ops.nearest.exact import stack_of

pytest.importorskip("triton")

# Rows of 64, codes of 128 and channels of 16 make a block: none of these numbers is a multiple but those of `whole`.
CASES = {
    "offset": {"channels": 8, "sizes": [300, 65], "mean": 20},
    "cosine": {"channels": 40, "sizes": [300, 65], "metric": "cosine"},
    "wide": {"channels": 40, "sizes": [300], "mean": 20},
    "whole": {"rows": 128, "channels": 64, "sizes": [256]},
    "few": {"rows": 3, "channels": 3, "sizes": [2, 1]},
    "duplicates": {"channels": 8, "sizes": [100], "copies": 3},
    "near": {"channels": 8, "sizes": [50], "copies": 3, "noise": 1e-8},
    "long": {"channels": 8, "sizes": [50], "copies": 3, "noise": 1e-8, "scale": 1e4},
    "bfloat16": {"channels": 8, "sizes": [300], "dtype": "bfloat16"},
    "float64": {"channels": 8, "sizes": [300], "mean": 20, "dtype": "float64"},
    "channels first": {"channels": 40, "sizes": [130], "transposed": True},
    "none": {"rows": 0, "channels": 8, "sizes": [130]},
}


def given(
    rows=150, channels=8, sizes=(300,), mean=0, copies=1, noise=0.0, scale=1.0, dtype="float32", transposed=False, **_
):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = (normal(channels, rows).t() if transposed else normal(rows, channels)) + mean
    books = [(normal(size, channels) + mean).repeat(copies, 1) for size in sizes]
    dtype = getattr(torch, dtype)
    return (x * scale).to(dtype), [
        codes + noise * normal(*codes.shape) if noise else codes.to(dtype) for codes in books
    ]


def both(case):
    """What the kernel and the plain search propose, and the final ids of both, as lists."""
    x, books = given(**case)
    metric = case.get("metric", "euclidean")
    stack = stack_of(books, metric, torch.promote_types(books[0].dtype, torch.float32))
    kernel, plain = module._propose_on_gpu(x, stack), module._propose(x, stack)
    final = []
    for pays in (True, False):
        module._triton_pays = lambda rows, stack, pays=pays: pays
        final.append([ids.tolist() for ids in nearest_in_each(x, books, metric)])
    return {"kernel": [t.tolist() for t in kernel], "plain": [t.tolist() for t in plain], "final": final}


def refused():
    """Not NaN: the interpreter's own maximum raises for a row of those."""
    module._triton_pays = lambda rows, stack: True
    x, (codes,) = given()
    x[77, 7] = torch.inf
    try:
        nearest_in_each(x, [codes.abs()], "cosine")
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def interpreted():
    """Every case, run by a process in which Triton interprets: that is decided when triton is imported."""
    program = (
        "import json; from test_nearest_triton import CASES, both, refused;"
        "print(json.dumps({'refused': refused(), **{name: both(case) for name, case in CASES.items()}}))"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=os.path.dirname(__file__),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_gives_the_same_ids(interpreted, name):
    kernel, plain = interpreted[name]["final"]
    assert kernel == plain
    assert [len(ids) for ids in kernel] == [CASES[name].get("rows", 150)] * len(CASES[name]["sizes"])


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_doubts_where_the_plain_search_doubts_and_agrees_elsewhere(interpreted, name):
    (kernel, doubt), (plain, plain_doubt) = interpreted[name]["kernel"], interpreted[name]["plain"]
    for ours, theirs, unsure in zip(kernel, plain, doubt, strict=True):
        assert all(a == b or u for a, b, u in zip(ours, theirs, unsure, strict=True))
    doubts = torch.tensor(doubt).float().mean() if doubt[0] else torch.zeros(())
    if name in ("duplicates", "near", "long"):
        assert doubts == 1, "only the float64 decision makes these right"
        assert doubt == plain_doubt
    else:
        assert doubts < 0.05


def test_the_kernel_lets_nothing_that_is_not_finite_pass(interpreted):
    assert "not finite" in interpreted["refused"]


def test_without_a_gpu_or_triton_or_many_codes_the_plain_search_runs(monkeypatch):
    class Rows:
        is_cuda = True

    def stack(count):
        return stack_of([torch.zeros(count, 1)], "euclidean", torch.float32)

    assert module._triton_pays(Rows(), stack(8192))
    assert not module._triton_pays(Rows(), stack(8128))
    assert not module._triton_pays(torch.zeros(3, 1), stack(8192))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not module._triton_pays(Rows(), stack(8192))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "channels"), [("fp32", 8), ("bf16", 8), ("fp32", 256), ("fp64", 40)])
def test_the_kernel_compiles_for_a_gpu_without_tensorfloat32(dtype, channels):
    """Ahead of time, which needs no GPU: for compute capability 9.0."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from sightword.ops.nearest import triton as source

    kernel = source._winners
    blocks = {"ROWS": source.ROWS, "CODES": source.CODES, "CHANNELS": source.CHANNELS}
    constants = {**blocks, "D": channels, "CENTRED": True, "channel_stride": 1}
    pointers = {"x": dtype, "centre": "fp64" if dtype == "fp64" else "fp32", "ids": "i64"}
    pointers |= dict.fromkeys(("codes", "bias", "margin", "length"), "fp32")
    signature = {
        name: "constexpr" if name in constants else f"*{pointers[name]}" if name in pointers else "i32"
        for name in kernel.arg_names
    }
    aligned = {*pointers, "start", "stop", "code_stride"}  # as every launch finds them
    attributes = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if name in aligned}
    compiled = compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": source.WARPS},
    )
    assert "fma.rn.f32" in compiled.asm["ptx"]
    assert "tf32" not in compiled.asm["ptx"]
    assert "mma" not in compiled.asm["ptx"]


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize(
    ("channels", "count", "metric"),
    [(8, 16384, "euclidean"), (8, 16384, "cosine"), (256, 8192, "euclidean"), (40, 5000, "cosine")],
)
def test_on_a_gpu_the_kernel_gives_the_ids_of_the_cpu(channels, count, metric, autocast):
    offset = 20 if metric == "euclidean" else 0
    x, books = given(20_000, channels, (count,), offset)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # allows TF32
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            assert module._triton_pays(x.cuda(), stack_of(books, metric, torch.float32))
            (ids,) = nearest_in_each(x.cuda(), [codes.cuda() for codes in books], metric)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(ids.cpu(), nearest_in_each(x, books, metric)[0])
    x[777, 3] = torch.nan
    with pytest.raises(ValueError, match="x is not finite"):
        nearest_in_each(x.cuda(), [codes.cuda() for codes in books], metric)
