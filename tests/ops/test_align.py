"""Objectives of two lists of vectors: by hand in float64, and over two real processes."""

import math

import pytest
import torch
import torch.nn.functional as F

from sightword.ops import align

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
    with pytest.raises(ValueError, match=r"one per row, \(4,\).*\(3,\)"):
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


# ------------------------------------------------------------------------------------------- soft targets, negatives


def test_shares_of_other_columns_leave_a_row_without_any_at_zero():
    found = align.shares(torch.tensor([3, 5]), torch.tensor([3, -100, 3, 7]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 0.5, 0], [0, 0, 0, 0]], dtype=torch.float64))


def test_soft_cross_entropy_of_hard_targets_is_torchs_and_bears_columns_that_are_left_out():
    logits, labels = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1])
    hard = F.one_hot(labels, 5)
    torch.testing.assert_close(align.soft_cross_entropy(logits, hard), F.cross_entropy(logits, labels))
    least = torch.finfo(logits.dtype).min
    padded = torch.cat([logits, torch.full((3, 4), least)], 1)
    zeros = torch.cat([hard, torch.zeros(3, 4)], 1)
    torch.testing.assert_close(align.soft_cross_entropy(padded, zeros), F.cross_entropy(logits, labels))
    believed = torch.cat([logits, torch.full((3, 4), -torch.inf)], 1)
    mixed = align.blend(zeros, believed, 0.4)
    torch.testing.assert_close(mixed[:, :5], 0.6 * hard + 0.4 * logits.softmax(1))
    assert not mixed[:, 5:].any()


def test_negatives_are_of_other_ids_and_drawn_as_the_softmax_says():
    ids = torch.tensor([0, 0, 1, 2])
    logits = torch.tensor([[9.0, 9.0, 1.0, 0.0]] * 4)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([align.negatives(logits, ids, generator=generator).columns for _ in range(2000)])
    assert not (ids[drawn] == ids).any()
    share = float((drawn[:, 0] == 2).float().mean())
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert align.negatives(logits, ids, "hardest").columns.tolist()[:2] == [2, 2]
    assert align.negatives(logits, ids).valid.all()


@pytest.mark.parametrize("way", ["sample", "hardest"])
def test_a_sharp_softmax_leaves_every_row_a_negative(way):
    """At τ = 0.001 all of it lies on the row's own id: masked after the softmax, there is nothing left to draw from."""
    ids = torch.tensor([0, 0, 1, 2])
    logits = 1000 * torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [0, 0, 1, -0.9], [0, 0, -0.9, 1]])
    assert float(logits.softmax(1).masked_fill(ids[:, None] == ids, 0).sum(1).min()) == 0
    found = align.negatives(logits, ids, way)
    assert found.valid.all()
    assert not (ids[found.columns] == ids).any()


@pytest.mark.parametrize("way", ["sample", "hardest"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_still_give_a_negative(way, bad):
    ids = torch.tensor([0, 1, 1])
    found = align.negatives(torch.full((3, 3), bad), ids, way)
    assert found.valid.all()
    assert not (ids[found.columns] == ids).any()


def test_rows_of_one_id_have_no_negative_and_say_so():
    for ids in (torch.zeros(3, dtype=torch.long), torch.zeros(1, dtype=torch.long)):
        for way in ("sample", "hardest"):
            found = align.negatives(torch.randn(len(ids), len(ids)), ids, way)
            assert not found.valid.any()
            assert found.columns.shape == ids.shape
    with pytest.raises(ValueError, match="sample or hardest.*'softest'"):
        align.negatives(torch.zeros(3, 3), torch.arange(3), "softest")


# -------------------------------------------------------------------------------------------------- patch alignment

FORMS = [(t, w, g, n) for t in ("norm", "raw") for w, g in (("softmax", 1), ("sigmoid", 10)) for n in (True, False)]


def parts_and_texts(rows=3, parts=5, texts=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, parts, D, generator=generator), torch.randn(texts, D, generator=generator)


@pytest.mark.parametrize("form", FORMS)
def test_the_paired_form_is_the_class_form_at_the_own_text(form):
    parts, texts = parts_and_texts()
    own = torch.tensor([2, 0, 2])
    paired, every = align.patch_alignment(parts, texts[own], *form), align.patch_alignment_classes(parts, texts, *form)
    rows = torch.arange(3)
    torch.testing.assert_close(paired.vectors, every.vectors[rows, own])
    torch.testing.assert_close(paired.weights, every.weights[rows, own])


@pytest.mark.parametrize("form", FORMS)
def test_patch_alignment_is_the_documents_steps(form):
    target, weight, gain, final_norm = form
    parts, texts = parts_and_texts()
    found = align.patch_alignment_classes(parts, texts, *form)
    for b in range(3):
        for text in range(4):
            cosines = [float(F.cosine_similarity(part, texts[text], dim=0)) for part in parts[b]]
            each = [math.exp(s * gain) if weight == "softmax" else 1 / (1 + math.exp(-s * gain)) for s in cosines]
            each = [w / sum(each) for w in each] if weight == "softmax" else each
            summed = [part / part.norm() if target == "norm" else part for part in parts[b]]
            vector = sum(w * part for w, part in zip(each, summed, strict=True))
            torch.testing.assert_close(found.weights[b, text], torch.tensor(each))
            torch.testing.assert_close(found.vectors[b, text], vector / vector.norm() if final_norm else vector)


def test_weights_depend_on_directions_alone_and_what_is_summed_may_not():
    parts, texts = parts_and_texts(texts=3)
    longer = parts * torch.tensor([1.0, 9.0, 1.0, 1.0, 1.0])[:, None]
    one, other = (align.patch_alignment(each, 7 * texts, "norm") for each in (parts, longer))
    torch.testing.assert_close(one.vectors, other.vectors)
    raw = align.patch_alignment(longer, texts, "raw")
    torch.testing.assert_close(raw.weights, one.weights)
    assert not torch.allclose(raw.vectors, one.vectors, atol=1e-2)


def test_without_the_final_norm_a_sigmoids_sum_grows_with_time():
    parts, texts = parts_and_texts(texts=3)
    twice = torch.cat([parts, parts], 1)
    lengths = [
        align.patch_alignment(p, texts, "norm", "sigmoid", 10, False).vectors.norm(dim=1) for p in (parts, twice)
    ]
    torch.testing.assert_close(lengths[1], 2 * lengths[0])


def test_one_part_and_one_row_keep_their_axes():
    parts, texts = parts_and_texts(1, 1, 4)
    paired, every = align.patch_alignment(parts, texts[:1]), align.patch_alignment_classes(parts, texts)
    assert (paired.vectors.shape, paired.weights.shape) == ((1, D), (1, 1))
    assert (every.vectors.shape, every.weights.shape) == ((1, 4, D), (1, 4, 1))


def test_patch_alignment_is_float32_under_autocast():
    parts, texts = parts_and_texts(texts=3)
    for align_by in (align.patch_alignment, align.patch_alignment_classes):
        with torch.autocast("cpu", torch.bfloat16):
            under = align_by(parts, texts)
        for found, expected in zip(under, align_by(parts, texts), strict=True):
            assert torch.equal(found, expected)


def test_effective_parts_run_from_one_to_all():
    weights = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 0], [1, 1, 0, 0]])
    torch.testing.assert_close(align.effective(weights), torch.tensor([4.0, 1, 2]))
    cosines = torch.randn(200, 24, generator=torch.Generator().manual_seed(0)) * 0.3
    assert float(align.effective(cosines.softmax(1)).mean()) > 22.5  # a softmax of cosines is nearly the mean
    assert float(align.effective((cosines / 0.07).softmax(1)).mean()) < 12


def test_parts_and_texts_that_do_not_fit_are_a_line():
    parts, texts = parts_and_texts()
    with pytest.raises(ValueError, match=r"one text a row.*\(3, 5, 6\) and \(4, 6\)"):
        align.patch_alignment(parts, texts)
    with pytest.raises(ValueError, match=r"texts \(L, D\).*\(4, 5\)"):
        align.patch_alignment_classes(parts, texts[:, :5])
    for wrong, said in (({"target": "both"}, "norm or raw"), ({"weight": "linear"}, "softmax or sigmoid")):
        with pytest.raises(ValueError, match=said):
            align.patch_alignment_classes(parts, texts, **wrong)
