"""Exact sums of words at places."""

import pytest
import torch
import torch.nn.functional as F

from sightword.systems.intent.model import FUSIONS, Baseline, MultiStream, SemanticSpatialVQ

SIZES = {"coco": 12, "places": 20, "emotion": 7}
B, N, D, C = 3, 16, 24, 5


def _codes(seed=0, dim=D):
    generator = torch.Generator().manual_seed(seed)
    return {name: F.normalize(torch.randn(k, dim, generator=generator), dim=1) for name, k in SIZES.items()}


def _tokens(seed=1, same=False):
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.randn(B, N, D, generator=generator), torch.randn(B, N, D, generator=generator)
    return {"coco": one, "places": one if same else two, "emotion": one}


def _model(**options):
    torch.manual_seed(0)
    model = MultiStream(_codes(), C, **options)
    if model.norm is not None:  # as after training: statistics of its own
        model.norm.running_mean.normal_(0, 0.1)
        model.norm.running_var.uniform_(0.2, 2)
    if model.weights is not None:
        torch.nn.init.normal_(model.weights)
    return model.eval()


# ----------------------------------------------------------------------------------------------------- one codebook


def test_every_patch_takes_the_nearest_word_and_keeps_its_place():
    codes = torch.eye(6)
    ids = torch.tensor([[0, 3, 5, 1]])
    tokens = 7 * codes[ids] + 0.1 * torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    quantized = SemanticSpatialVQ(codes)(tokens)
    assert torch.equal(quantized.ids, ids)
    assert torch.equal(quantized.codes, codes[ids])
    assert 0 < quantized.loss < 0.05


def test_the_commitment_is_two_minus_two_cosines():
    codes, tokens = _codes()["coco"], _tokens()["coco"]
    quantized = SemanticSpatialVQ(codes)(tokens)
    cosines = F.cosine_similarity(tokens, codes[quantized.ids], dim=-1)
    torch.testing.assert_close(quantized.loss, (2 - 2 * cosines).mean())


def test_frozen_codes_are_no_parameters_and_learnable_ones_get_the_gradient_of_what_is_done_with_them():
    codes, tokens = _codes()["coco"], _tokens()["coco"]
    assert not list(SemanticSpatialVQ(codes).parameters())
    learnable = SemanticSpatialVQ(codes, freeze_codebook=False)
    learnable(tokens).codes.square().sum().backward()
    assert learnable.weight.grad is not None
    through = SemanticSpatialVQ(codes, freeze_codebook=False)
    leaf = tokens.clone().requires_grad_()
    through(leaf).codes.sum().backward()
    assert leaf.grad is not None
    assert through.weight.grad is None


def test_drift_is_told_from_the_anchors():
    book = SemanticSpatialVQ(torch.eye(5), freeze_codebook=False)
    assert book.drift() == {"cosine": 1.0, "off_anchor": 0.0}
    with torch.no_grad():
        book.weight[0] = book.anchors[1]
    assert book.drift()["off_anchor"] == pytest.approx(0.2)
    assert book.drift()["cosine"] == pytest.approx(0.8)


# ---------------------------------------------------------------------------------------------------- exact sums


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("options", [{}, {"center": False, "standardise": False}, {"adapter": True}])
def test_the_words_at_places_sum_to_the_logits(fusion, options):
    model, tokens = _model(fusion=fusion, **options), _tokens()
    read = model(tokens)
    parts = model.attribute(read)
    assert {name: tuple(part.shape) for name, part in parts.items()} == dict.fromkeys(SIZES, (B, N, C))
    total = model.bias() + sum(part.sum(1) for part in parts.values())
    torch.testing.assert_close(total, read.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion", ["sum", "weighted"])
def test_another_word_at_one_patch_changes_a_logit_by_exactly_the_difference_of_their_contributions(fusion):
    model, tokens = _model(fusion=fusion), _tokens()
    read = model(tokens)
    other = (read.ids["places"][0, 3] + 1) % SIZES["places"]
    changed = {name: x.clone() for name, x in tokens.items()}
    changed["places"][0, 3] = model.books["places"].anchors[other]
    after = model(changed)
    assert after.ids["places"][0, 3] == other
    difference = model.attribute(after)["places"][0, 3] - model.attribute(read)["places"][0, 3]
    torch.testing.assert_close(after.logits[0] - read.logits[0], difference, rtol=0, atol=1e-5)
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("fusion", FUSIONS)
def test_permuted_patches_permute_the_maps_and_keep_the_logits(fusion):
    model, tokens = _model(fusion=fusion), _tokens()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    read, moved = model(tokens), model({name: x[:, order] for name, x in tokens.items()})
    torch.testing.assert_close(moved.logits, read.logits)
    for name in SIZES:
        assert torch.equal(moved.ids[name], read.ids[name][:, order])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_histograms_give_what_tokens_give(fusion):
    model, tokens = _model(fusion=fusion), _tokens()
    read = model(tokens)
    counts = {name: model.count(name, ids) for name, ids in read.ids.items()}
    torch.testing.assert_close(model.from_counts(counts).logits, read.logits)
    assert all(count.sum() == B * N for count in counts.values())


def test_the_plain_sum_is_the_documents_figure():
    """z = Σ quantised streams, mean over patches, linear: written out with (B, N, D) tensors."""
    model, tokens = _model(center=False, standardise=False), _tokens()
    z = sum(model.books[name](tokens[name]).codes for name in SIZES)
    torch.testing.assert_close(model(tokens).logits, model.head(z.mean(1)))


def test_streams_that_read_the_same_tokens_find_the_same_words_together_and_apart():
    model, tokens = _model(), _tokens(same=True)
    together = model.nearest(tokens)
    apart = model.nearest({name: x.clone() for name, x in tokens.items()})
    for name in SIZES:
        assert torch.equal(together[name], apart[name])


def test_centring_moves_no_word_and_takes_off_what_all_words_share():
    tokens = _tokens()
    shared = {name: F.normalize(codes + 3, dim=1) for name, codes in _codes().items()}
    plain, centred = (MultiStream(shared, C, center=center).eval() for center in (False, True))
    for name in SIZES:
        assert torch.equal(plain(tokens).ids[name], centred(tokens).ids[name])
        assert centred.values(name).mean(0).norm() < 1e-6
        assert plain.values(name).mean(0).norm() > 0.9


def test_the_table_says_what_a_word_adds_if_it_is_everywhere():
    model = _model()
    word = model.books["coco"].anchors[4]
    tokens = _tokens() | {"coco": word.expand(B, N, D)}
    torch.testing.assert_close(model.attribute(model(tokens))["coco"].sum(1)[0], model.table("coco")[4])


def test_contributions_are_of_a_model_that_is_evaluated():
    model = _model().train()
    with pytest.raises(ValueError, match="eval"):
        model.attribute(model(_tokens()))


# -------------------------------------------------------------------------------------------------------- training


def _slopes(model, tokens):
    read = model(tokens)
    (read.logits.square().sum() + read.commitment).backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_with_tokens_and_codes_frozen_only_the_head_learns():
    assert _slopes(_model().train(), _tokens()) == {"head.weight", "head.bias"}


def test_codes_that_may_move_get_a_gradient_of_the_classes():
    model = _model(freeze_codebook=False).train()
    model(_tokens()).logits.square().sum().backward()
    for name in SIZES:
        assert model.books[name].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shared", [False, True], ids=["tokens of their own", "the same tokens"])
def test_the_commitment_of_all_streams_is_that_of_each_and_pulls_as_it(shared):
    model = _model(freeze_codebook=False)
    tokens = {name: x.clone().requires_grad_() for name, x in _tokens().items()}
    tokens = dict.fromkeys(tokens, tokens["coco"]) if shared else tokens
    read = model(tokens)
    terms = []
    for name, ids in read.ids.items():
        codes = model.books[name].weight[ids]
        terms.append((2 - 2 * F.cosine_similarity(tokens[name], codes, dim=-1)).mean())
    torch.testing.assert_close(read.commitment, sum(terms))
    learn = [tokens["coco"], *(model.books[name].weight for name in SIZES)]
    torch.testing.assert_close(torch.autograd.grad(read.commitment, learn), torch.autograd.grad(sum(terms), learn))


def test_an_adapter_learns_through_the_choice_of_words():
    learned = _slopes(_model(adapter=True).train(), _tokens())
    assert {f"adapters.{name}.weight" for name in SIZES} <= learned
    assert not any(name.startswith("books") for name in learned)


def test_an_adapter_begins_as_nothing():
    tokens, plain, adapted = _tokens(), _model(), _model(adapter=True)
    missing = adapted.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all(name.startswith("adapters.") for name in missing)
    torch.testing.assert_close(adapted(tokens).logits, plain(tokens).logits)


def test_weights_and_gates_begin_at_the_plain_sum_or_learn():
    model = MultiStream(_codes(), C, fusion="weighted").eval()
    torch.testing.assert_close(model(_tokens()).gates, torch.ones(B, len(SIZES)))
    gated = _model(fusion="gated")(_tokens()).gates
    torch.testing.assert_close(gated.sum(1), torch.full((B,), float(len(SIZES))))
    assert gated.std(0).max() > 1e-4  # of each image its own


def test_codebooks_of_several_widths_are_refused():
    with pytest.raises(ValueError, match=r"one dimension.*'coco': 24.*'places': 8"):
        MultiStream({"coco": _codes()["coco"], "places": _codes(dim=8)["places"]})


def test_the_documents_shapes_hold():
    """[B, 256, 1024], five codebooks of 256, 512, 128, 256, 256, 28 logits."""
    sizes = {"coco": 256, "places": 512, "emotion": 128, "ava": 256, "actions": 256}
    generator = torch.Generator().manual_seed(0)
    model = MultiStream({name: torch.randn(k, 1024, generator=generator) for name, k in sizes.items()}).eval()
    tokens = torch.randn(2, 256, 1024, generator=generator)
    read = model(dict.fromkeys(sizes, tokens))
    assert read.logits.shape == (2, 28)
    assert read.fused.shape == (2, 1024)
    assert {name: tuple(ids.shape) for name, ids in read.ids.items()} == dict.fromkeys(sizes, (2, 256))


def test_the_baseline_reads_the_pooled_vector_and_the_mean_patch():
    model = Baseline(10, D, C).eval()
    pooled, tokens = torch.randn(B, 10), _tokens()["coco"]
    logits = model(pooled, tokens)
    assert logits.shape == (B, C)
    torch.testing.assert_close(model(pooled, tokens.flip(1)), logits)
    assert not torch.allclose(model(pooled.flip(0), tokens), logits)
