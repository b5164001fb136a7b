"""Words that are present: exact sums, where words are, patches that are nothing, and pairs."""

import pytest
import torch

from sightword.errors import SightwordError
from sightword.ops.nearest import unit
from sightword.systems.intent.calibration import Calibration, Moments, Presence
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.nothing import NothingMultiStream
from sightword.systems.intent.pair import best_pairs, named_pairs
from sightword.systems.intent.presence import PresenceModel, stream_words

WORDS = {"actions": ["riding a horse", "pushing a cart"], "coco": ["dog", "car", "bed"], "places": ["beach", "street"]}
TYPES = {"actions": "value", "coco": "value", "places": "joint"}
PAIRS = ["coco:dog & places:beach", "actions:riding a horse & coco:dog"]


def calibration(labelled=True):
    still = lambda size: Moments(torch.zeros(size), torch.full((size,), 0.3))  # noqa: E731
    moments = {s: {kind: still(len(w)) for kind in ("value", "joint", "pooled")} for s, w in WORDS.items()}
    curves = {s: Presence(torch.full((len(w),), 3.0), torch.full((len(w),), 0.5)) for s, w in WORDS.items()}
    return Calibration(moments, curves if labelled else {}, WORDS)


@pytest.fixture
def words():
    generator = torch.Generator().manual_seed(0)
    vectors = {s: unit(torch.randn(len(w), 16, generator=generator)) for s, w in WORDS.items()}
    return stream_words(vectors, calibration(), TYPES)


@pytest.fixture
def seen():
    generator = torch.Generator().manual_seed(1)
    value, joint = (torch.randn(4, 9, 16, generator=generator) for _ in range(2))
    return {"actions": value, "coco": value, "places": joint}, torch.randn(4, 16, generator=generator)


def model_of(words, **options):
    model = PresenceModel(words, 5, named_pairs(options.pop("pairs", PAIRS), WORDS), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(2))
    return model


@pytest.mark.parametrize("options", [{}, {"hard": True}, {"sharpness": 1.75}, {"pairs": []}])
@torch.no_grad()
def test_a_logit_is_the_sum_over_terms_and_the_sum_over_patches(words, seen, options):
    model, (tokens, pooled) = model_of(words, **options), seen
    logits, presence = model(pooled), model.presence(pooled)
    assert torch.allclose(model.contributions(presence).sum(1) + model.bias(), logits, atol=1e-5)
    parts = model.attribute(tokens, pooled)
    assert set(parts) == {*WORDS, *(["pairs"] if options.get("pairs", PAIRS) else [])}
    assert all(part.shape == (4, 9, 5) for part in parts.values())
    assert torch.allclose(sum(part.sum(1) for part in parts.values()) + model.bias(), logits, atol=1e-5)


@torch.no_grad()
def test_the_map_of_each_term_sums_to_one_and_a_pair_is_where_its_words_are(words, seen):
    model, (tokens, _) = model_of(words), seen
    where = model.attention(tokens)
    assert torch.allclose(where.sum(1), torch.ones(4, 9), atol=1e-5)
    pair = where[..., 7]  # dog & beach
    assert torch.allclose(pair, (where[..., 2] + where[..., 5]) / 2)


@torch.no_grad()
def test_presence_is_zero_or_one_if_hard_and_doubt_counts_less_if_sharp(words, seen):
    _, pooled = seen
    presence = model_of(words).presence(pooled)
    assert set(model_of(words, hard=True).strength(presence).unique().tolist()) <= {0.0, 1.0}
    assert (model_of(words, sharpness=2.0).strength(presence) <= presence).all()


@torch.no_grad()
def test_a_correction_of_a_word_changes_its_terms_alone(words, seen):
    model, (_, pooled) = model_of(words), seen
    presence = model.presence(pooled)
    corrected = presence.clone()
    corrected[:, 2] = 1.0  # a dog
    changed = (model.terms(corrected) - model.terms(presence)).abs().sum(0) > 1e-6
    assert changed.nonzero().flatten().tolist() == [2, 7, 8]


@torch.no_grad()
def test_a_patch_has_a_word_that_is_present_or_is_nothing(words, seen):
    tokens, pooled = seen
    coco = words["coco"]
    named = coco.named(tokens["coco"], pooled)
    present = coco.presence(pooled) > 0.5
    z = coco.z(tokens["coco"])
    for image in range(4):
        for patch in range(9):
            word = int(named[image, patch])
            if word < 3:
                assert present[image, word]
                assert z[image, patch, word] > 1.5
            else:
                assert not (present[image] & (z[image, patch] > 1.5)).any()
    assert (named == 3).any()


@torch.no_grad()
def test_without_labels_a_patch_is_named_by_the_sum_of_both_z(seen):
    tokens, pooled = seen
    vectors = {s: unit(torch.randn(len(w), 16, generator=torch.Generator().manual_seed(3))) for s, w in WORDS.items()}
    coco = stream_words(vectors, calibration(labelled=False), TYPES)["coco"]
    score = coco.z(tokens["coco"]) + 0.5 * coco.pooled_z(pooled)[:, None]
    best, word = score.max(-1)
    assert torch.equal(coco.named(tokens["coco"], pooled), torch.where(best > 2.0, word, 3))


@torch.no_grad()
def test_nothing_adds_nothing_and_the_area_sum_stays_exact(words, seen):
    tokens, pooled = seen
    model = NothingMultiStream(words, 5).eval()
    read = model(tokens, pooled)
    assert model.table("coco").shape == (4, 5)
    assert not model.table("coco")[3].any()
    assert (read.ids["coco"] == 3).any()
    parts = model.attribute(read)
    assert not parts["coco"][read.ids["coco"] == 3].any()
    assert torch.allclose(sum(part.sum(1) for part in parts.values()) + model.bias(), read.logits, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- pairs


def test_a_pair_is_named_with_its_place_last():
    found = named_pairs(["places:beach & coco:dog", "actions:riding a horse & coco:dog"], WORDS)
    assert [pair.name for pair in found] == ["dog and beach", "riding a horse and dog"]
    assert found[0][:2] == (5, 2)


@pytest.mark.parametrize("written", ["coco:dog", "coco:dog & places:moon", "dog & beach", "a & b & c"])
def test_a_pair_of_other_words_is_refused(written):
    with pytest.raises(SightwordError, match="is no pair of words of the anchors"):
        named_pairs([written], WORDS)


def test_the_pair_that_decides_a_class_is_chosen_first():
    generator = torch.Generator().manual_seed(0)
    strength = (torch.rand(300, 7, generator=generator) < 0.4).float()
    noise = (torch.rand(300, 1, generator=generator) < 0.1).float()
    targets = torch.cat([strength[:, 2:3] * strength[:, 6:7], strength[:, :1], noise], 1)
    assert best_pairs(strength, targets, WORDS, 3)[0] == "coco:dog & places:street"


def test_words_that_never_meet_and_words_of_one_stream_are_no_pair():
    strength = torch.zeros(50, 7)
    strength[:25, 2], strength[25:, 5], strength[:, 6] = 1, 1, 0.5
    found = best_pairs(strength, torch.rand(50, 2), WORDS, 100)
    assert "coco:dog & places:beach" not in found
    assert "places:beach & places:street" not in found
    assert set(found) == {"coco:dog & places:street"}


# -------------------------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"read": "presence", "freeze_codebook": False}, "system.freeze_codebook=false moves"),
        ({"nothing": "gate", "adapter": True}, "system.adapter moves"),
        ({"pairs": 5}, "system.pairs and system.l1 are of system.read=presence"),
        ({"read": "presence", "sharpness": 0.0}, "system.sharpness=0.0 is not above 0"),
        ({"read": "presence", "temperature": -1.0}, "system.temperature=-1.0 is not above 0"),
        ({"read": "sum"}, "system.read='sum' is none of area, presence, presence01"),
        ({"nothing": "yes"}, "system.nothing='yes' is none of none, z, gate"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, told):
    with pytest.raises(SightwordError, match=told):
        IntentConfig(semantic_anchors_path="anchors", **options)
