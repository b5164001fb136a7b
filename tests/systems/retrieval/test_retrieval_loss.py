"""Objectives besides alignment by hand in float64, and which of ITC and SDM is trained when."""

import math

import pytest
import torch
import torch.nn.functional as F

from sightword.systems.retrieval.loss import (
    Block,
    IdentityHead,
    MaskedLanguage,
    masked_language_loss,
    quick_gelu,
)
from sightword.systems.retrieval.task import Alignment

B, L, N, D, V = 3, 5, 7, 8, 11


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_softmax(logits):
    """Of one list of numbers, by hand."""
    total = math.log(sum(math.exp(float(each)) for each in logits))
    return [float(each) - total for each in logits]


# --------------------------------------------------------------------------------------------------------- alignment


def rows(kind, seed=0):
    """Unit rows whose positives have nearly all of the softmax ("aligned"), or what falls to them ("apart")."""
    image = F.normalize(drawn(6, D, seed=seed), dim=1)
    text = image if kind == "aligned" else F.normalize(drawn(6, D, seed=seed + 1), dim=1)
    return image.float(), text.float(), torch.arange(6)


def trained(alignment, batches, kind):
    """(itc's weight, sdm's weight) at each of the batches."""
    found = []
    for batch in batches:
        terms = alignment(*rows(kind, batch), batch)
        weights = alignment.weights()
        assert set(terms) == {"itc_loss", "sdm_loss"}
        found.append((float(weights["itc_loss"]), float(weights["sdm_loss"])))
    return found


def test_itc_is_trained_until_positives_have_enough_of_the_softmax_and_then_sdm_for_good():
    alignment = Alignment(weights={"itc_loss": 2.0, "sdm_loss": 3.0})
    assert set(trained(alignment, range(40), "apart")) == {(2.0, 0.0)}
    found = trained(alignment, range(40, 80), "aligned")
    switch = found.index((0.0, 3.0))
    assert 5 < switch < 30  # the mean over about 20 batches has to follow
    assert set(found[:switch]) == {(2.0, 0.0)}
    assert set(found[switch:]) == {(0.0, 3.0)}
    assert set(trained(alignment, range(80, 140), "apart")) == {(0.0, 3.0)}
    assert float(alignment.positive) < 0.5


def test_the_switch_comes_at_a_batch_if_that_is_asked_for():
    assert trained(Alignment(switch_by=3), range(5), "apart") == [(1, 0)] * 3 + [(0, 1)] * 2


def test_the_switch_is_in_the_state():
    alignment, again = Alignment(switch_by=1), Alignment()
    trained(alignment, range(2), "aligned")
    again.load_state_dict(alignment.state_dict())
    assert again.weights() == alignment.weights()
    assert float(again.positive) == float(alignment.positive) > 0


@pytest.mark.parametrize(
    ("kind", "names"), [("itc", {"itc_loss"}), ("sdm", {"sdm_loss"}), ("both", {"itc_loss", "sdm_loss"})]
)
def test_the_pure_forms_and_both_at_once_stay_available(kind, names):
    alignment = Alignment(kind)
    assert set(alignment(*rows("apart"))) == names
    assert all(alignment.weights()[name] == 1.0 for name in names)


# ----------------------------------------------------------------------------------------------------------- persons


def test_naming_persons_is_the_mean_of_both_sides_cross_entropies():
    persons = IdentityHead(D, 4).double()
    torch.nn.init.normal_(persons.linear.weight)
    image, text, pids = drawn(B, D), drawn(B, D, seed=1), torch.tensor([2, 0, 3])
    weight, bias = persons.linear.weight.detach(), persons.linear.bias.detach()
    sides = []
    for vectors in (image, text):
        each = [log_softmax(weight @ vectors[b] + bias)[int(pids[b])] for b in range(B)]
        sides.append(-sum(each) / B)
    expected = sum(sides) / 2
    assert float(persons(image, text, pids).detach()) == pytest.approx(expected, rel=1e-6)


def test_persons_start_as_good_as_unknown_and_those_outside_are_refused():
    persons = IdentityHead(D, 50)
    image, text = drawn(B, D).float(), drawn(B, D, seed=1).float()
    start = persons(image, text, torch.tensor([0, 9, 49]))
    assert float(start.detach()) == pytest.approx(math.log(50), abs=0.02)
    with pytest.raises(ValueError, match=r"person 50 is none of the 50 of the identity loss\. Set system\.num_ids"):
        persons(image, text, torch.tensor([0, 50, 1]))


# ------------------------------------------------------------------------------------------------------ hidden words


def test_the_masked_language_loss_by_hand_and_of_nothing_hidden_nothing():
    logits, labels = drawn(B, L, V), torch.full((B, L), -100)
    labels[0, 1], labels[2, 4], labels[2, 0] = 3, 0, 10
    each = [log_softmax(logits[0, 1])[3], log_softmax(logits[2, 4])[0], log_softmax(logits[2, 0])[10]]
    assert float(masked_language_loss(logits, labels)) == pytest.approx(-sum(each) / 3, rel=1e-12)
    assert float(masked_language_loss(logits, torch.full_like(labels, -100))) == 0


def attention(weights, name, queries, keys, heads, mask=None):
    """Multi-head attention as Vaswani et al. 2017 write it, equation 1, with torch's names of its weights."""
    wide = f"{name}.in_proj_weight"
    projections = (
        weights[wide].chunk(3) if wide in weights else [weights[f"{name}.{kind}_proj_weight"] for kind in "qkv"]
    )
    biases = weights[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (
        (x @ w.T + b).unflatten(-1, (heads, -1)).transpose(1, 2)
        for x, w, b in zip((queries, keys, keys), projections, biases, strict=True)
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return mixed @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


def norm(weights, name, x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


@pytest.mark.parametrize("image_width", [D, 6])
@torch.no_grad()
def test_the_masked_language_head_is_the_published_one(image_width):
    torch.manual_seed(0)
    head = MaskedLanguage(D, image_width, V, layers=2, heads=2).double()
    for parameter in head.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # zeros and ones hide mistakes
    weights = dict(head.named_parameters())
    text, image, mask = drawn(B, L, D), drawn(B, N, image_width, seed=1), torch.ones(B, L, dtype=torch.bool)
    mask[1, 3:] = False
    keys = norm(weights, "image_norm", image)
    x = attention(weights, "cross", norm(weights, "text_norm", text), keys, 2)
    for block in ("blocks.0", "blocks.1"):
        normed = norm(weights, f"{block}.attention_norm", x)
        x = x + attention(weights, f"{block}.attention", normed, normed, 2, mask)
        up = linear(weights, f"{block}.up", norm(weights, f"{block}.mlp_norm", x))
        x = x + linear(weights, f"{block}.down", up * torch.sigmoid(1.702 * up))
    x = linear(weights, "dense", norm(weights, "norm", x))
    expected = linear(weights, "words", norm(weights, "dense_norm", x * torch.sigmoid(1.702 * x)))
    torch.testing.assert_close(head(text, mask, image), expected)


def test_only_hidden_words_are_compared_with_the_vocabulary_and_the_loss_is_that_of_all_logits():
    torch.manual_seed(0)
    head = MaskedLanguage(D, D, V, layers=1, heads=2).double()
    text, image, labels = drawn(B, L, D), drawn(B, N, D, seed=1), torch.full((B, L), -100)
    labels[0, 1], labels[2, 4] = 3, 0
    rows = []
    head.words.register_forward_hook(lambda module, given, found: rows.append(found.shape))
    torch.testing.assert_close(
        head.loss(text, None, image, labels), masked_language_loss(head(text, None, image), labels)
    )
    assert rows == [(2, V), (B, L, V)]
    nothing = head.loss(text, None, image, torch.full_like(labels, -100))
    nothing.backward()
    assert nothing == 0
    assert all(p.grad is not None for p in head.parameters())  # or two ranks would wait for each other


def test_hidden_words_start_unknown_and_are_read_off_the_image():
    torch.manual_seed(0)
    head = MaskedLanguage(64, 64, 500)
    text, image = drawn(B, L, 64).float(), drawn(B, N, 64, seed=1).float().requires_grad_()
    labels = torch.randint(0, 500, (B, L))
    loss = head.loss(text, None, image, labels)
    assert float(loss.detach()) == pytest.approx(math.log(500), abs=0.4)
    loss.backward()
    assert image.grad.abs().sum() > 0


def test_heads_that_do_not_divide_are_refused_and_quick_gelu_is_openais():
    with pytest.raises(ValueError, match=r"system\.mlm_heads=3 does not divide"):
        MaskedLanguage(D, D, V, heads=3)
    assert float(quick_gelu(torch.tensor(1.0))) == pytest.approx(1 / (1 + math.exp(-1.702)))
    assert Block(D, 2, 1)(drawn(B, L, D).float(), None).shape == (B, L, D)
