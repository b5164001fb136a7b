"""The nearest code is the one float64 finds, whatever precision, tile or codebook it is looked for in."""

import subprocess
import sys
from functools import cache

import pytest
import torch

from sightword.ops.nearest import exact as module
from sightword.ops.nearest import nearest, nearest_in_each
from sightword.ops.nearest.exact import stack_of

METRICS = ["euclidean", "cosine"]
# name → rows, channels, codes, mean: the two sizes people train, and features far from the origin
CASES = {"wide": (40_000, 256, 1024, 0), "many": (40_000, 8, 16384, 0), "offset": (20_000, 256, 1024, 20)}


def normal(*shape, seed=0, mean=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + mean


def by_float64(x, codes, metric):
    """Distances as the textbook writes them, in float64."""
    x, codes = x.double(), codes.double()
    if metric == "cosine":
        codes = codes / codes.norm(dim=1, keepdim=True)
        return torch.cat([(some @ codes.t()).argmax(1) for some in x.split(128)])
    square = codes.square().sum(1)
    return torch.cat([(square - 2 * some @ codes.t()).argmin(1) for some in x.split(128)])


@cache
def case(name):
    rows, channels, codes, mean = CASES[name]
    x, codes = normal(rows, channels, mean=mean), normal(codes, channels, seed=1, mean=mean)
    metric = "cosine" if name == "many" else "euclidean"
    return x, codes, metric, by_float64(x, codes, metric)


@pytest.fixture(params=CASES)
def known(request):
    return case(request.param)


def test_not_one_of_100000_rows_is_wrong(known):
    x, codes, metric, ids = known
    assert torch.equal(nearest(x, codes, metric), ids)


def test_bfloat16_autocast_changes_no_id(known):
    x, codes, metric, ids = known
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(x[:5000], codes, metric), ids[:5000])


@pytest.fixture
def medium():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_fast_float32_products_change_no_id_and_stay_chosen(known, medium):
    x, codes, metric, ids = known
    assert torch.equal(nearest(x[:5000], codes, metric), ids[:5000])
    assert torch.get_float32_matmul_precision() == "medium"
    with pytest.raises(ValueError, match="not finite"):
        nearest(x[:1] * torch.nan, codes, metric)
    assert torch.get_float32_matmul_precision() == "medium"


def test_every_product_runs_without_autocast_in_true_float32(monkeypatch, medium):
    seen = []

    def product(*args, **kwargs):
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))
        return addmm(*args, **kwargs)

    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", product)
    with torch.autocast("cpu", torch.bfloat16):
        nearest(normal(30, 4), normal(5, 4).repeat(2, 1))  # the repeats send all rows through both products
    assert seen == [(False, "highest")] * 2


def test_fast_products_chosen_by_backend_are_off_while_it_runs(monkeypatch):
    seen, addmm = [], torch.addmm
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [backend.fp32_precision for backend in backends]

    def product(*args, **kwargs):
        seen.append([backend.fp32_precision for backend in backends])
        return addmm(*args, **kwargs)

    monkeypatch.setattr(torch, "addmm", product)
    try:
        backends[0].fp32_precision, backends[1].fp32_precision = "tf32", "bf16"
        nearest(normal(30, 4), normal(5, 4))
        assert seen == [["ieee", "ieee"]]
        assert [backend.fp32_precision for backend in backends] == ["tf32", "bf16"]
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def test_offset_features_put_few_rows_in_doubt(known):
    x, codes, metric, _ = known
    _, doubtful = module._propose(x[:5000], stack_of([codes], metric, torch.float32))
    assert doubtful.float().mean() < 0.01


@pytest.mark.parametrize("metric", METRICS)
def test_what_float32_cannot_tell_apart_is_settled_in_float64(metric):
    x, codes = normal(500, 16), normal(300, 16, seed=1).double()
    almost = codes * (1 + 1e-8 * normal(300, 16, seed=2).double())
    order = torch.randperm(600, generator=torch.Generator().manual_seed(3))  # some pairs share a first-level maximum
    pairs = torch.cat([codes, almost])[order]
    ids = by_float64(x, pairs, metric)
    proposed, _ = module._propose(x, stack_of([pairs], metric, torch.float64))
    assert (proposed != ids).sum() > 100
    assert torch.equal(nearest(x, pairs, metric), ids)


def test_float64_codes_keep_their_precision_beside_float32_rows():
    x, codes = normal(4096, 8, mean=5000), normal(2048, 8, seed=1).double() + 5000
    assert torch.equal(nearest(x, codes), by_float64(x - 5000, codes - 5000, "euclidean"))


@pytest.mark.parametrize("tile", [1, 2**14, 2**24])
def test_the_tile_changes_no_id(monkeypatch, tile):
    x, codes, metric, ids = case("wide")
    monkeypatch.setattr(module, "TILE", tile)
    assert torch.equal(nearest(x[:1003], codes, metric), ids[:1003])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
def test_any_number_of_codes_will_do(count, metric):
    x, codes = normal(100, 5) - 3, normal(count, 5, seed=1) - 3
    assert torch.equal(nearest(x, codes, metric), by_float64(x, codes, metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_of_equal_codes_the_lowest_id_wins(dtype, metric):
    x, codes = normal(1000, 24).to(dtype), normal(150, 24, seed=1).mul(9).round().to(dtype)
    longer = 3 if metric == "cosine" else 1  # the same direction is the same code, however it rounds
    four = torch.cat([codes, longer * codes, codes.flip(0), codes])
    ids = nearest(x, four, metric)
    first = by_float64(x, codes, metric)
    assert torch.equal(ids, first)
    assert torch.equal(nearest(x, four.flip(0), metric), 149 - first)


def test_a_zero_vector_has_a_nearest_code():
    codes = torch.tensor([[3.0, 4.0], [0.0, 1.0], [-2.0, 0.0]])
    x = torch.tensor([[0.0, 0.0], [0.0, 9.0], [-1.0, 0.1]])
    assert nearest(x, codes, "cosine").tolist() == [0, 1, 2]  # no direction: all codes tie
    assert nearest(x, codes, "euclidean").tolist() == [1, 0, 2]
    assert nearest(x, torch.zeros(3, 2), "cosine").tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e18])
@pytest.mark.parametrize("metric", METRICS)
def test_scale_changes_no_id(scale, metric):
    x, codes = normal(500, 8) * scale, normal(300, 8, seed=1) * scale
    assert torch.equal(nearest(x, codes, metric), by_float64(x, codes, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_several_codebooks_at_once_equal_one_at_a_time(metric):
    x = normal(2, 50, 12)
    books = [normal(10, 12, seed=1), normal(64, 12, seed=2) + 5, normal(130, 12, seed=3) * 3]
    together = nearest_in_each(x, books, metric)
    assert [ids.shape for ids in together] == [(2, 50)] * 3
    for ids, codes in zip(together, books, strict=True):
        assert torch.equal(ids, nearest(x, codes, metric))
        assert torch.equal(ids.flatten(), by_float64(x.flatten(0, 1), codes, metric))


def test_a_view_with_channels_elsewhere_is_read_as_it_lies():
    images, codes = normal(2, 8, 5, 7), normal(40, 8, seed=1)
    ids = nearest(images.movedim(1, -1), codes)
    assert ids.shape == (2, 5, 7)
    assert torch.equal(ids.flatten(), by_float64(images.movedim(1, -1).reshape(-1, 8), codes, "euclidean"))


MEMORY = """
import torch
from sightword.ops.nearest.exact import nearest
def resident(line):
    return next(int(row.split()[1]) / 1024 for row in open("/proc/self/status") if row.startswith(line))
torch.set_num_threads(1)
x, codes = torch.randn(65536, 8), torch.randn(16384, 8)
nearest(x[:16], codes)
before = resident("VmRSS")
nearest(x, codes)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_65536_rows_and_16384_codes_take_at_most_64_mib():  # N×K float32 would be 4096 MiB
    answer = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(answer.stdout) < 64


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_vector_that_is_not_finite_is_refused(value, metric):
    x = normal(100, 4)
    x[57, 2] = value
    with pytest.raises(ValueError, match="vectors or codes are not finite"):
        nearest(x, normal(9, 4, seed=1), metric)


def test_a_width_mismatch_names_both_shapes():
    with pytest.raises(ValueError, match=r"\(K, 4\).*x \(3, 5, 4\), got \(9, 6\)"):
        nearest(torch.zeros(3, 5, 4), torch.zeros(9, 6))
    with pytest.raises(ValueError, match=r"got \(0, 4\)"):
        nearest(torch.zeros(3, 4), torch.zeros(0, 4))


@pytest.mark.parametrize("metric", METRICS)
def test_no_vectors_have_no_codes(metric):
    ids = nearest_in_each(torch.zeros(3, 0, 8), [normal(70, 8), normal(5, 8)], metric)
    assert [(i.shape, i.dtype) for i in ids] == [((3, 0), torch.int64)] * 2
    assert nearest(normal(8), normal(70, 8), metric).shape == ()


def test_ids_carry_no_gradient_and_the_inputs_stay_as_they_are():
    x, codes = normal(100, 4).requires_grad_(), normal(9, 4, seed=1).requires_grad_()
    before = x.detach().clone(), codes.detach().clone()
    assert not nearest(x, codes).requires_grad
    assert torch.equal(x, before[0])
    assert torch.equal(codes, before[1])
