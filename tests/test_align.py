"""Objectives of two lists of vectors: by hand in float64, and over two real processes."""

import math

import pytest
import torch
import torch.nn.functional as F

from sightword import align

IDS = torch.tensor([3, 5, 3, 7])
B, D = len(IDS), 6


def vectors(seed=0, rows=B):
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, rows, D, generator=generator, dtype=torch.float64)
    return F.normalize(both[0], dim=1), F.normalize(both[1], dim=1)


def softmax_rows(image, text, scale):
    """P, written out."""
    found = torch.zeros(len(image), len(text), dtype=torch.float64)
    for j in range(len(image)):
        weights = [math.exp(scale * float(image[j] @ text[k])) for k in range(len(text))]
        for k, weight in enumerate(weights):
            found[j, k] = weight / sum(weights)
    return found


def labels(ids):
    """Q, written out."""
    return [[(a == b) / sum(a == c for c in ids.tolist()) for b in ids.tolist()] for a in ids.tolist()]


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_sdm_is_the_published_formula_prediction_first(eps):
    image, text = vectors()
    q, expected = labels(IDS), 0.0
    for p in (softmax_rows(image, text, 5.0), softmax_rows(text, image, 5.0)):
        rows = [sum(float(p[j, k]) * (math.log(p[j, k]) - math.log(q[j][k] + eps)) for k in range(B)) for j in range(B)]
        expected += sum(rows) / B
    assert float(align.sdm(image, text, IDS, 5.0, eps)) == pytest.approx(expected, rel=1e-12)


def test_itc_is_the_cross_entropy_of_shared_targets():
    image, text = vectors()
    q, expected = labels(IDS), 0.0
    for p in (softmax_rows(image, text, 5.0), softmax_rows(text, image, 5.0)):
        expected += sum(-q[j][k] * math.log(p[j, k]) for j in range(B) for k in range(B)) / B / 2
    assert float(align.itc(image, text, 5.0, IDS)) == pytest.approx(expected, rel=1e-12)


def test_itc_without_ids_takes_the_diagonal_alone():
    image, text = vectors()
    logits = 5.0 * image @ text.T
    own = torch.arange(B)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(align.itc(image, text, 5.0), expected)
    assert align.itc(image, text, 5.0) != align.itc(image, text, 5.0, IDS)


def test_sdm_is_nearly_zero_where_the_prediction_is_right_and_eighteen_nats_where_it_is_wrong():
    image = torch.eye(4, dtype=torch.float64)
    ids = torch.arange(4)
    assert abs(float(align.sdm(image, image, ids, 100.0))) < 1e-6
    wrong = float(align.sdm(image, image.roll(1, 0), ids, 100.0))
    assert wrong == pytest.approx(2 * -math.log(1e-8), rel=1e-6)


def test_sdm_hardly_pulls_at_a_positive_that_is_five_nats_behind_and_itc_does():
    """Why ITC comes first: of 128 rows, the gradient on the positive's score."""
    for behind, reverse, forward in ((0.0, 0.14, 0.99), (5.0, 0.0012, 1.0)):
        slopes = []
        for loss in (align.sdm, lambda i, t, ids, s: align.itc(i, t, s, ids)):
            text = torch.eye(128, dtype=torch.float64)  # so the scores are the image's own numbers
            leaf = (-behind * text).requires_grad_()
            loss(leaf, text, torch.arange(128), 1.0).backward()
            slopes.append(-float(leaf.grad.diagonal().mean()) * 128 / (2 if loss is align.sdm else 1))
        assert slopes[0] == pytest.approx(reverse, abs=0.02 if not behind else 2e-4)
        assert slopes[1] == pytest.approx(forward, abs=0.01)


def test_positive_share_is_the_mass_on_positives():
    image, text = vectors()
    same = IDS[:, None] == IDS
    expected = (softmax_rows(image, text, 5.0) * same).sum() + (softmax_rows(text, image, 5.0) * same).sum()
    assert float(align.positive_share(image, text, IDS, 5.0)) == pytest.approx(float(expected) / 2 / B)
    alike = torch.ones(B, D, dtype=torch.float64)
    assert float(align.positive_share(alike, alike, IDS)) == pytest.approx(6 / 16)


def test_scores_are_float32_under_autocast():
    image, text = (part.float() for part in vectors())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(align.sdm(image, text, IDS), align.sdm(image, text, IDS))
        under = align.scores(image, text)
    assert under.dtype == torch.float32
    assert torch.equal(under, align.scores(image, text))


def test_what_does_not_fit_is_said_in_a_line():
    image, text = vectors()
    with pytest.raises(ValueError, match=r"both \(B, D\).*\(4, 6\) and \(3, 6\)"):
        align.itc(image, text[:3])
    with pytest.raises(ValueError, match=r"one a row, \(4,\).*\(3,\)"):
        align.sdm(image, text, IDS[:3])


def test_alone_gather_gives_what_it_is_given():
    image, _ = vectors()
    assert align.gather(image) is image


# ------------------------------------------------------------------------------------------------- two real processes


def objective(network, images, texts, ids):
    """What a system trains: everything gathered, unit rows, ITC and SDM."""
    image, text = (F.normalize(network(part), dim=1) for part in (images, texts))
    image, text, ids = align.gather(image), align.gather(text), align.gather(ids)
    return align.itc(image, text, 5.0, ids) + align.sdm(image, text, ids, 5.0)


def slopes_of(network, images, texts, ids):
    network.zero_grad()
    value = objective(network, images, texts, ids)
    value.backward()
    return value.detach(), [parameter.grad.clone() for parameter in network.parameters()]


def small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(D, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()


def one_of_two(rank, place):
    images, texts = vectors(rows=8)
    ids = torch.tensor([0, 1, 2, 0, 3, 1, 4, 2])  # persons of which one rank has one row, the other the second
    network = small_network()
    whole, expected = slopes_of(network, images, texts, ids)  # before there is a process group
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    own = slice(4 * rank, 4 * rank + 4)
    half, _ = slopes_of(network, images[own], texts[own], ids[own])
    torch.testing.assert_close(half, whole)
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    _, found = slopes_of(parallel, images[own], texts[own], ids[own])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.distributed.destroy_process_group()


def test_two_ranks_of_four_train_as_one_of_eight(tmp_path):
    spawn = torch.multiprocessing.start_processes  # forked: nothing to import again
    spawn(one_of_two, args=(str(tmp_path / "meet"),), nprocs=2, start_method="fork")
