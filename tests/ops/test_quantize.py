"""Quantisers hand out exactly their codes; only what should learn learns, and alike on every rank."""

import io
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from sightword.ops.quantize import FrozenQuantizer, VectorQuantizer, VectorQuantizerEMA, kmeans

METRICS = ["euclidean", "cosine"]
KINDS = ["gradient", "ema", "frozen"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(kind, codes, metric="euclidean", **options):
    """A quantiser of any kind that starts from codes (K, D)."""
    if kind == "frozen":
        return FrozenQuantizer(codes, metric=metric, **options)
    quantizer = (VectorQuantizer if kind == "gradient" else VectorQuantizerEMA)(*codes.shape, metric=metric, **options)
    quantizer.weight.data.copy_(codes)
    return quantizer


def same(one, other):
    """Whether two state dicts agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def state(quantizer):
    return deepcopy(quantizer.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("autocast", [True, False], ids=["bfloat16", "float32"])
def test_codes_are_bit_for_bit_what_their_ids_decode_to(kind, metric, training, autocast):
    quantizer = build(kind, 0.05 * normal(50, 8, seed=1), metric).train(training)
    before = deepcopy(quantizer)  # an EMA learns after it has answered
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        x = F.linear(normal(4, 5, 8), torch.eye(8)).requires_grad_()
        codes, ids, *losses = quantizer(x)
        assert torch.equal(codes, before.decode(ids))
    assert x.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert codes.shape == (4, 5, 8)
    assert (ids.shape, ids.dtype) == ((4, 5), torch.int64)
    assert torch.equal(codes, before.codes()[ids])
    assert torch.equal(ids, before.nearest(x))
    assert losses == list(before.eval()(x.float())[2:]), "losses are float32, whatever the precision around them"
    if metric == "cosine":
        torch.testing.assert_close(codes.norm(dim=-1), torch.ones(4, 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_the_gradient_of_the_codes_is_that_of_the_input(kind, metric):
    x, above = normal(7, 8).requires_grad_(), normal(7, 8, seed=2)
    (build(kind, normal(50, 8, seed=1), metric)(x).codes * above).sum().backward()
    if metric == "cosine":  # what is replaced by codes is the direction of x
        expected = x.detach().clone().requires_grad_()
        (F.normalize(expected, dim=-1) * above).sum().backward()
        above = expected.grad
    torch.testing.assert_close(x.grad, above, rtol=0, atol=0 if metric == "euclidean" else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_the_distance_that_the_metric_measures(kind):
    x = torch.tensor([[3.0, 4.0], [2.0, 0.0]])
    codes = torch.tensor([[0.0, 5.0], [0.0, -1.0], [1.0, 0.0]])
    euclidean = build(kind, codes, commitment_cost=1.0)(x)
    assert euclidean.ids.tolist() == [0, 2]
    assert euclidean.loss.item() == euclidean.codebook_loss.item() == (9 + 1 + 1 + 0) / 4
    cosine = build(kind, codes, "cosine", commitment_cost=1.0)(x)
    assert cosine.ids.tolist() == [0, 2]
    assert cosine.loss.item() == pytest.approx(((2 - 2 * 0.8) + 0) / 2)
    assert cosine.codebook_loss.item() == pytest.approx(((2 - 2 * 0.8) + 0) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_commitment_cost_scales_the_loss_and_nothing_else(kind):
    whole, quarter = (build(kind, normal(50, 8, seed=1), commitment_cost=cost) for cost in (1.0, 0.25))
    one, other = whole(normal(30, 8)), quarter(normal(30, 8))
    assert one.loss > 0
    assert other.loss == 0.25 * one.loss
    assert other.codebook_loss == one.codebook_loss
    assert torch.equal(other.codes, one.codes)
    assert same(state(whole), state(quarter))


def test_the_loss_pulls_the_input_by_the_mean_squared_error():
    x = normal(30, 8).requires_grad_()
    quantized = build("ema", normal(50, 8, seed=1), commitment_cost=0.25)(x)
    quantized.loss.backward()
    torch.testing.assert_close(x.grad, 0.25 * 2 * (x - quantized.codes).detach() / x.numel())
    assert not quantized.codebook_loss.requires_grad


@pytest.mark.parametrize("metric", METRICS)
def test_a_gradient_codebook_is_moved_by_its_own_loss_alone(metric):
    quantizer, x = build("gradient", normal(50, 8, seed=1), metric), normal(30, 8).requires_grad_()
    codes, ids, commitment, codebook_loss = quantizer(x)
    (codes.sum() + commitment).backward()
    assert quantizer.weight.grad is None
    assert x.grad.abs().sum() > 0
    x.grad = None
    codebook_loss.backward()
    assert x.grad is None
    used = torch.zeros(50, dtype=torch.bool).index_fill(0, ids, True)
    assert torch.equal(quantizer.weight.grad.abs().sum(1) > 0, used)


@pytest.mark.parametrize("metric", METRICS)
def test_a_gradient_codebook_comes_nearer_under_an_optimizer(metric):
    quantizer, x = build("gradient", normal(16, 8, seed=1), metric), normal(200, 8)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        losses.append(quantizer(x).codebook_loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]


def test_two_ema_steps_by_hand():
    quantizer = build("ema", torch.tensor([[0.0], [10.0]]), decay=0.5)
    first = quantizer(torch.tensor([[1.0], [3.0], [9.0]]))
    # The answer and the loss use the old codes 0 and 10.
    assert first.ids.tolist() == [0, 0, 1]
    assert first.codes.flatten().tolist() == [0, 0, 10]
    assert first.loss.item() == pytest.approx(0.25 * (1 + 9 + 1) / 3)
    assert quantizer.cluster_size.tolist() == [0.5 * 2, 0.5 * 1]
    assert quantizer.cluster_sum.flatten().tolist() == [0.5 * (1 + 3), 0.5 * 9]
    assert quantizer.weight.flatten().tolist() == [2, 9]
    second = quantizer(torch.tensor([[4.0], [5.0]]))
    assert second.ids.tolist() == [0, 0]
    assert second.codes.flatten().tolist() == [2, 2]
    assert quantizer.cluster_size.tolist() == [0.5 * 1 + 0.5 * 2, 0.5 * 0.5]
    assert quantizer.weight.flatten().tolist() == pytest.approx([(0.5 * 2 + 0.5 * 9) / 1.5, 9])
    assert quantizer.updates == 2


def test_a_slow_average_learns_from_a_single_vector():
    quantizer = build("ema", torch.tensor([[0.0], [10.0]]), decay=0.99999)
    quantizer(torch.tensor([[7.0]]))
    assert quantizer.weight.flatten().tolist() == pytest.approx([0, 7])


def test_an_ema_step_on_directions_by_hand():
    quantizer = build("ema", torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "cosine", decay=0.5)
    assert quantizer(torch.tensor([[3.0, 4.0], [0.0, 7.0]])).ids.tolist() == [1, 1]
    length = (0.6**2 + 1.8**2) ** 0.5  # (3, 4)/5 + (0, 1)
    torch.testing.assert_close(quantizer.weight, torch.tensor([[1.0, 0.0], [0.6 / length, 1.8 / length]]))


@pytest.mark.parametrize("metric", METRICS)
def test_codes_never_used_stay_exactly_and_codes_used_once_keep_their_average_over_2500_steps(metric):
    start = F.normalize(torch.tensor([[1.0, 0.1], [0.2, -1.0], [-1.0, 0.0], [0.0, 1.0]]), dim=1)
    quantizer = build("ema", start, metric)
    quantizer(torch.tensor([[-0.8, 0.6]]))
    assert quantizer.cluster_size.tolist() == pytest.approx([0, 0, 0.01, 0])
    for _ in range(2500):
        quantizer(torch.tensor([[0.6, 0.8]]))
    assert torch.equal(quantizer.weight[:2], start[:2])
    torch.testing.assert_close(quantizer.weight[2], torch.tensor([-0.8, 0.6]))
    torch.testing.assert_close(quantizer.weight[3], torch.tensor([0.6, 0.8]))
    quantizer(torch.tensor([[-0.6, 0.8]]))  # the past of code 2 has faded, so it goes there at once
    torch.testing.assert_close(quantizer.weight[2], torch.tensor([-0.6, 0.8]))


@pytest.mark.parametrize("count", [20, 64, 100])
def test_kmeans_gives_as_many_distinct_codes_as_asked(count):
    centres = kmeans(normal(count, 8), 64)
    assert centres.shape == (64, 8)
    assert len(centres.unique(dim=0)) == 64


def test_kmeans_finds_the_groups_and_the_first_batch_starts_from_it():
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = (groups[:, None] + 0.1 * normal(3, 40, 2)).flatten(0, 1)
    means = x.view(3, 40, 2).mean(1)
    found = kmeans(x, 3, seed=4)
    torch.testing.assert_close(found[(found @ torch.tensor([1.0, 2.0])).argsort()], means)
    quantizer = build("ema", 100 + normal(3, 2), kmeans=True)
    assert quantizer.eval()(x).loss > 100
    assert quantizer.train()(x).loss < 100
    quantizer(50 + x)
    assert (quantizer.weight.amax(1) < 15).sum() == 2, "k-means of the second batch would have moved all three"


REVIVED = {"decay": 0.9, "restart_after": 3}


def moved_batches(quantizer, steps):
    """Feed vectors around (20, 20, ...) and return the last batch."""
    for step in range(steps):
        x = 20 + normal(64, quantizer.dim, seed=100 + step)
        quantizer(x)
    return x


def test_revival_moves_idle_codes_alone_and_onto_distinct_vectors_of_the_batch():
    quantizer = build("ema", torch.cat([torch.full((1, 4), 20.0), normal(63, 4, seed=1)]), **REVIVED)
    plain = build("ema", quantizer.weight, decay=0.9)
    moved_batches(quantizer, 2)
    assert torch.equal(quantizer.weight[1:], normal(63, 4, seed=1)), "not idle for long enough"
    quantizer.load_state_dict(build("ema", plain.weight, decay=0.9).state_dict())
    x = moved_batches(quantizer, 3)
    assert torch.equal(moved_batches(plain, 3), x)
    assert torch.equal(quantizer.weight[0], plain.weight[0]), "the code in use was moved"
    rows = (quantizer.weight[1:, None] == x).all(2)  # (63, 64)
    assert rows.sum(1).tolist() == [1] * 63, "a revived code is a vector of the batch"
    assert rows.sum(0).max() == 1, "and no vector is taken twice"


def test_a_revived_code_is_not_pulled_back_by_its_past():
    quantizer = build("ema", normal(8, 4, seed=1), **REVIVED)
    for step in range(20):
        quantizer(normal(64, 4, seed=step))
    assert quantizer.cluster_size.min() > 0.1, "all codes need a past"
    moved_batches(quantizer, 3)
    revived = quantizer.weight.clone()
    near = (revived - 20).norm(dim=1) < 5
    assert near.sum() >= 5
    quantizer(torch.full((64, 4), 1000.0))  # all these go to one code, the others have nothing but their past
    kept = (quantizer.weight - revived).norm(dim=1) < 1e-4
    assert (near & kept).sum() >= near.sum() - 1
    moved_batches(quantizer, 2)
    assert ((quantizer.weight - 20).norm(dim=1)[near & kept] < 5).all()


def test_revival_is_off_unless_asked_for():
    quantizer = build("ema", torch.cat([torch.full((1, 4), 20.0), normal(7, 4, seed=1)]))
    moved_batches(quantizer, 300)
    assert torch.equal(quantizer.weight[1:], normal(7, 4, seed=1))


@pytest.mark.parametrize("metric", METRICS)
def test_a_frozen_codebook_never_changes(metric):
    words = normal(50, 8, seed=1)
    quantizer = FrozenQuantizer(words, metric=metric).train()
    words += 1  # the codebook is a copy
    assert not list(quantizer.parameters())
    for seed in range(3):
        quantized = quantizer(normal(30, 8, seed=seed).requires_grad_())
        (quantized.codes.sum() + quantized.loss + quantized.codebook_loss).backward()
    assert torch.equal(quantizer.weight, normal(50, 8, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_learnt_in_eval(kind):
    options = {"kmeans": True, "restart_after": 1} if kind == "ema" else {}
    quantizer = build(kind, normal(50, 8, seed=1), **options).eval()
    before = state(quantizer)
    for _ in range(3):
        quantizer(normal(30, 8))
    quantizer.train().nearest(normal(30, 8))
    assert same(state(quantizer), before)
    if kind == "ema":
        quantizer(normal(30, 8))
        assert not same(state(quantizer), before), "this test would not see learning"


@pytest.mark.parametrize("metric", METRICS)
def test_a_resumed_codebook_continues_bit_for_bit(metric):
    def fresh():
        return VectorQuantizerEMA(50, 8, metric=metric, kmeans=True, restart_after=2)

    def steps(quantizer, start):
        torch.rand(7)  # nothing may come from the global generator
        return [quantizer(normal(60, 8, seed=start + step)) for step in range(5)]

    straight = fresh()
    steps(straight, 0)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = fresh()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for one, other in zip(steps(straight, 10), steps(resumed, 10), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert same(state(straight), state(resumed))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="at least one code and one channel, got 0 × 8"):
        VectorQuantizer(0, 8)
    with pytest.raises(ValueError, match="'euclidean' or 'cosine', got 'manhattan'"):
        VectorQuantizer(5, 8, metric="manhattan")
    with pytest.raises(ValueError, match=r"decay is in \[0, 1\), got 1"):
        VectorQuantizerEMA(5, 8, decay=1)
    with pytest.raises(ValueError, match=r"to fit x \(3, 6\), got \(5, 8\)"):
        VectorQuantizerEMA(5, 8)(torch.zeros(3, 6))


RANKS = """
import sys
import torch
from lightning.pytorch import LightningModule, Trainer
from sightword.ops.quantize import VectorQuantizerEMA

class Learner(LightningModule):
    def __init__(self, quantizers):
        super().__init__()
        self.quantizers, self.scale = quantizers, torch.nn.Parameter(torch.ones(()))
    def training_step(self, x):
        x = x[self.global_rank :: 2]
        return sum(quantizer(x * self.scale).loss for quantizer in self.quantizers.values())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

folder = sys.argv[1]
torch.set_num_threads(1)
x, start, options = torch.load(folder + "/given.pt")
quantizers = torch.nn.ModuleDict({name: VectorQuantizerEMA(*start.shape, **o) for name, o in options.items()})
for quantizer in quantizers.values():
    quantizer.weight.copy_(start)
learner = Learner(quantizers)  # before there are two processes
trainer = Trainer(
    strategy="ddp", accelerator="cpu", devices=2, max_epochs=1, barebones=True, use_distributed_sampler=False
)
trainer.fit(learner, torch.utils.data.DataLoader(x, batch_size=64))
assert trainer.world_size == 2
torch.save(quantizers.state_dict(), f"{folder}/{trainer.global_rank}.pt")
"""


def test_two_ranks_under_lightning_hold_the_codebook_of_one_process_on_both_batches(tmp_path):
    steps, start = 6, normal(16, 4, seed=1)
    # Vectors that drift, so that codes fall idle.
    x = normal(steps * 64, 4) + torch.linspace(0, 3, steps * 64)[:, None]
    options = {
        "plain": {"decay": 0.8},
        "cosine": {"decay": 0.8, "metric": "cosine"},
        "revived": {"decay": 0.8, "restart_after": 2},
        "kmeans": {"decay": 0.8, "kmeans": True},
    }
    torch.save((x, start, options), tmp_path / "given.pt")
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "ranks.py", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert same(zero, one)

    starts = {"plain": start, "cosine": start, "kmeans": kmeans(x[:64:2], 16)}  # k-means reads rank 0's half
    for name, codes in starts.items():
        alone = build("ema", codes, **{**options[name], "kmeans": False})
        for batch in x.split(64):
            alone(batch)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(zero[f"{name}.{key}"], value)
    of_rank_0 = x[-64::2]  # the last batch
    assert any((of_rank_0 == code).all(1).any() for code in zero["revived.weight"]), "none was restarted in the end"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("restart_after", [0, 50])
def test_settled_codes_go_one_percent_of_the_way_however_many_vectors_they_get(metric, restart_after):
    x, codes = F.normalize(normal(5000, 4), dim=1), F.normalize(normal(8, 4, seed=1), dim=1)
    loaded = build("ema", codes, metric, decay=0.99, restart_after=restart_after).train()
    loaded.keep_codes()
    ids = loaded.nearest(x)
    assert ids.bincount(minlength=8).min() > 50
    means = torch.stack([x[ids == code].mean(0) for code in range(8)])
    loaded(x)
    expected = torch.lerp(codes, means, 0.01)
    expected = F.normalize(expected, dim=1) if metric == "cosine" else expected
    torch.testing.assert_close(loaded.weight, expected)
    fresh = build("ema", codes, metric).train()
    fresh(x)
    assert (fresh.weight - codes).norm() > 20 * (loaded.weight - codes).norm()


def test_settled_codes_are_averages_like_any_other_from_the_second_step_on():
    quantizer = build("ema", torch.tensor([[0.0], [10.0]]), decay=0.5).train()
    quantizer.keep_codes()
    quantizer(torch.tensor([[2.0], [2.0]]))
    assert quantizer.weight.tolist() == [[1.0], [10.0]]  # 2 vectors it is taken to have had, and 2 new
    quantizer(torch.tensor([[4.0]]))
    # size 2/2 + 1/2, sum (0 + 4)/2/2 + 4/2
    assert quantizer.weight.flatten().tolist() == pytest.approx([(1 + 2) / 1.5, 10.0])


def test_a_codebook_loaded_to_be_kept_is_weighed_at_its_first_step_whatever_this_object_did_before():
    quantizer, x = build("ema", normal(8, 4, seed=1), decay=0.99).train(), normal(500, 4)
    quantizer.keep_codes()
    before = state(quantizer)
    first = quantizer(x) and state(quantizer)
    quantizer.load_state_dict(before)  # as Lightning's search for a learning rate does
    quantizer(x)
    assert same(state(quantizer), first)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("restart_after", [0, 2])
def test_deferred_statistics_of_four_batches_move_the_codes_as_one_batch_of_all(metric, restart_after):
    options = {"metric": metric, "decay": 0.8, "restart_after": restart_after}
    whole, parts = (build("ema", normal(16, 4, seed=1), **options) for _ in range(2))
    parts.deferred = True
    for number in range(8):
        x = normal(64, 4, seed=number) + number  # drifting, so that codes fall idle
        whole(x)
        for part in x.split(16):
            before = parts.weight.clone()
            parts(part)
            assert torch.equal(parts.weight, before), "codes wait for the step"
        parts.step()
        assert torch.equal(parts.idle, whole.idle), "idle counts steps"
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[key], value)
    assert parts.updates == 8


def test_a_step_without_batches_does_nothing():
    quantizer = build("ema", normal(8, 4))
    quantizer(normal(30, 4))
    before = state(quantizer)
    quantizer.step()
    assert same(state(quantizer), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_codes_and_their_statistics_stay_float32_whatever_is_around_them(kind, dtype):
    quantizer = build(kind, normal(8, 4, seed=1), decay=0.99) if kind == "ema" else build(kind, normal(8, 4, seed=1))
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), quantizer).to(dtype)
    assert model[0].weight.dtype == dtype
    assert torch.equal(quantizer.weight, normal(8, 4, seed=1))
    x = model[0](normal(30, 4).to(dtype))
    quantized = quantizer(x)
    assert {quantized.codes.dtype, quantized.loss.dtype} == {torch.float32}
    (quantized.codes.sum() + quantized.loss).backward()
    assert model[0].weight.grad.dtype == dtype


def test_no_vectors_are_no_start():
    with pytest.raises(ValueError, match="^4 codes cannot be drawn from no vectors: the batch is empty$"):
        kmeans(torch.empty(0, 2), 4)
