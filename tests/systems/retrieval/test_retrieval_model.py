"""Encoders of every phase on tiny towers: an embedding is of its own image or text, and of nothing else."""

import pytest
import torch
import torch.nn.functional as F
from fakes import CAPTIONS, GRID, IRRA, PHASE3, PHASES, SIZE, batch_for, system, write_towers

from sightword.systems.retrieval.model import ImageWords, SharedEncoder, SlotPool
from sightword.systems.retrieval.task import make_task, open_towers
from sightword.towers.factory import image_tower

ENCODERS = {
    **PHASES,
    "phase3 with a learned token": {**PHASE3, "image_pooling": "cls"},
    "phase3 by lines": {**PHASE3, "grid_bias": False},
    "phase1 by the last word": {**PHASES["phase1"], "text_pooling": "last"},
}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return write_towers(tmp_path_factory.mktemp("towers"))


def encoder_of(towers, **values):
    torch.manual_seed(0)
    return make_task(system(towers, **values)).eval().model


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request, towers):
    return encoder_of(towers, **ENCODERS[request.param])


@torch.no_grad()
def test_embeddings_are_unit_rows_of_one_width(encoder):
    batch = batch_for(encoder.tokenizer)
    image, text = encoder.encode_image(batch.images), encoder.encode_text(batch.caption_ids, batch.caption_attn_mask)
    assert image.shape == text.shape == (6, encoder.embed_dim)
    for rows in (image, text):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(6))
        assert (rows @ rows.T).fill_diagonal_(0).max() < 0.99999  # of different things, different ones


@torch.no_grad()
def test_a_text_is_encoded_without_the_images_it_comes_with_and_an_image_without_its_texts(encoder):
    batch = batch_for(encoder.tokenizer)
    image, text = (
        encoder.image_features(batch.images).unit,
        encoder.text_features(batch.caption_ids, batch.caption_attn_mask).unit,
    )
    for row in range(3):  # also alone, in a batch of one
        ids, mask = encoder.tokenizer(CAPTIONS[row])
        torch.testing.assert_close(encoder.encode_text(ids, mask)[0], text[row], rtol=0, atol=2e-5)
        torch.testing.assert_close(encoder.encode_image(batch.images[row : row + 1])[0], image[row], rtol=0, atol=2e-5)
    other = batch_for(encoder.tokenizer, seed=1)  # the same texts with other images
    assert not torch.equal(other.images, batch.images)
    assert torch.equal(encoder.text_features(other.caption_ids, other.caption_attn_mask).unit, text)


@torch.no_grad()
def test_padding_does_not_change_an_embedding(encoder):
    batch = batch_for(encoder.tokenizer)
    if encoder.tokenizer.fixed:  # it reads its padding, which is always as long
        assert batch.caption_ids.shape[1] == encoder.tokenizer.length
        return
    expected = encoder.encode_text(batch.caption_ids, batch.caption_attn_mask)
    longer = F.pad(batch.caption_ids, (0, 7), value=encoder.tokenizer.pad)
    found = encoder.encode_text(longer, F.pad(batch.caption_attn_mask, (0, 7), value=False))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_padding_of_a_text_does_not_change_the_condition(towers):
    encoder = encoder_of(towers, **PHASE3)
    batch = batch_for(encoder.tokenizer)
    words = encoder.image_words(batch.images)
    expected = encoder.condition(words, batch.caption_ids, batch.caption_attn_mask)
    longer, mask = (F.pad(part, (0, 5)) for part in (batch.caption_ids, batch.caption_attn_mask))
    found = encoder.condition(words, longer, mask)
    real = expected.mask
    assert real.shape[1] == GRID[0] * GRID[1] + batch.caption_ids.shape[1]
    torch.testing.assert_close(found.tokens[:, : real.shape[1]][real], expected.tokens[real], rtol=0, atol=2e-5)


@torch.no_grad()
def test_positions_are_resampled_to_a_standing_person(towers):
    encoder = encoder_of(towers, **IRRA)
    own = image_tower(towers["clip"])
    before, after = own.visual.positional_embedding, encoder.image.visual.positional_embedding
    assert (before.shape[0], after.shape[0]) == (1 + 4 * 4, 1 + 6 * 2)
    assert torch.equal(before[0], after[0])  # the class token's
    square = before[1:].T.unflatten(1, (4, 4))[None]
    expected = F.interpolate(square, size=GRID, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(after[1:], expected[0].flatten(1).T)
    assert encoder.image.grid() == GRID
    assert encoder.image.preprocess.size == SIZE


@torch.no_grad()
def test_images_come_in_our_range_and_leave_in_the_towers(towers):
    """What DualEncoder does to pixels is what the tower's own preprocessing does to pictures."""
    encoder = encoder_of(towers, **PHASES["phase1"])
    batch = batch_for(encoder.tokenizer)
    pixels = (batch.images + 1) / 2
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.image.preprocess.mean, encoder.image.preprocess.std))
    expected = F.normalize(encoder.heads[0](encoder.image((pixels - mean) / std).pooled), dim=1)
    torch.testing.assert_close(encoder.encode_image(batch.images), expected)


def test_no_text_weights_stand_beside_a_t5_and_no_parameter_goes_unused(towers):
    for phase in ("phase1", "phase2", "phase3"):
        encoder = encoder_of(towers, **PHASES[phase])
        assert not [name for name, _ in encoder.named_parameters() if name.startswith(("image.text", "image.logit"))]
        batch = batch_for(encoder.tokenizer)
        image, text = (
            encoder.image_features(batch.images),
            encoder.text_features(batch.caption_ids, batch.caption_attn_mask),
        )
        (image.unit * text.unit).sum().backward()
        unused = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused, phase


def test_siglips_pooling_is_frozen_where_its_tokens_are_read_and_trained_where_its_vector_is(towers):
    pooling = {
        phase: [
            p.requires_grad for name, p in encoder_of(towers, **PHASES[phase]).named_parameters() if ".head." in name
        ]
        for phase in ("phase2", "phase3")
    }
    assert all(pooling["phase2"])
    assert len(pooling["phase3"]) == len(pooling["phase2"]) > 0
    assert not any(pooling["phase3"])


def test_one_encoder_and_one_head_serve_both_sides_of_phase_three(towers):
    encoder = encoder_of(towers, **PHASE3)
    assert isinstance(encoder, SharedEncoder)
    assert len(encoder.heads) == 1
    encoder.image_features(batch_for(encoder.tokenizer).images).unit.sum().backward()
    assert encoder.text.model.encoder.block[0].layer[0].SelfAttention.q.weight.grad.abs().sum() > 0
    assert encoder.text.grid_bias.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("phase", ["phase1", "phase2", "phase3"])
def test_slots_pool_tokens_and_padding_has_no_part_in_them(towers, phase):
    encoder = encoder_of(towers, **PHASES[phase], slots=4).eval()
    assert {type(head) for head in encoder.heads} == {SlotPool}
    batch = batch_for(encoder.tokenizer)
    image, text = encoder.image_features(batch.images), encoder.text_features(*batch[2:4])
    assert image.unit.shape == text.unit.shape == (6, 24)
    assert torch.equal(encoder.text_side().encode_text(*batch[2:4]), text.unit)
    alone = encoder.encode_text(*encoder.tokenizer([CAPTIONS[0]]))
    torch.testing.assert_close(alone[0], text.unit[0])
    (image.unit * text.unit).sum().backward()
    assert not [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]


def test_a_slot_is_the_weighted_mean_of_tokens_by_its_own_matrix():
    torch.manual_seed(0)
    pool, tokens = SlotPool(8, 6, 3), torch.randn(2, 5, 8)
    normed = pool.norm(tokens)
    weights = pool.attention(normed).softmax(1)  # (2, 5, 3)
    slots = [(weights[..., s, None] * normed).sum(1) @ pool.weight[s] for s in range(3)]
    torch.testing.assert_close(pool(tokens), torch.cat(slots, 1))
    with pytest.raises(ValueError, match=r"system\.slots=4 does not divide system\.embed_dim=6"):
        SlotPool(8, 6, 4)


def test_image_words_are_as_large_as_words(towers):
    encoder = encoder_of(towers, **PHASE3)
    table = encoder.text.model.get_input_embeddings().weight
    tokens = 37.0 * torch.randn(8, 20, encoder.image.width)  # whatever their size was
    with torch.no_grad():
        words = ImageWords(encoder.image.width, encoder.text)(tokens)
    size = float(words.square().mean().sqrt() / table.detach().square().mean().sqrt())
    assert size == pytest.approx(1, abs=0.2)


def test_the_two_dimensional_bias_is_on_by_default_and_can_be_left_out(towers):
    assert encoder_of(towers, **PHASE3).text.grid_bias.grid == GRID
    assert encoder_of(towers, **PHASE3, grid_bias=False).text.grid_bias is None


def test_a_tower_can_be_left_as_it_is(towers):
    image, text, _ = open_towers(system(towers, **PHASE3, freeze_image=True))
    assert image.frozen
    assert not text.frozen
    encoder = encoder_of(towers, **PHASE3, freeze_image=True)
    assert not any(p.requires_grad for p in encoder.image.parameters())
    encoder = encoder_of(towers, **PHASE3, freeze_text=True)
    assert [name for name, p in encoder.text.named_parameters() if p.requires_grad] == ["grid_bias.weight"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image": "clip", "text": "siglip"}, "one half of a pair"),
        ({"image": "siglip", "project": "none"}, "Set system.project=separate, or shared"),
        ({"image": "siglip", "text": "siglip", "shared": True}, "needs a T5"),
        ({"enable_gen": True}, r"Set system\.shared=true"),
        ({"image": "clip", "text": "clip", "slots": 4}, r"Set system\.text=t5"),
        ({"mask_global_text": True}, r"Set system\.mlm_weight above 0"),
        ({"align": "infonce"}, "align='infonce' is none of itc_then_sdm, itc, sdm, both"),
        ({"image_size": [384]}, "a height and a width"),
        ({"switch_at": 0.0}, r"fraction in \(0, 1\]"),
    ],
)
def test_what_two_settings_owe_each_other_is_said_in_a_line(towers, values, words):
    with pytest.raises(ValueError, match=words):
        system(towers, **values)


def test_what_the_towers_cannot_do_is_said_in_a_line(towers):
    with pytest.raises(ValueError, match="Set system.project=separate"):
        make_task(system(towers, image="clip", project="shared"))
    with pytest.raises(ValueError, match=r"system\.text_length=16: a SigLIP"):
        make_task(system(towers, **PHASES["control"], text_length=16))
    with pytest.raises(ValueError, match="is a siglip"):
        make_task(system({**towers, "t5": towers["siglip"]}, **PHASES["phase2"]))
    with pytest.raises(ValueError, match="multiples of the patch"):
        make_task(system(towers, **PHASES["phase2"] | {"image_size": [50, 16]}))


@torch.no_grad()
def test_a_texts_most_tokens_can_be_set(towers):
    for values in (IRRA, PHASES["phase1"]):
        encoder = encoder_of(towers, **values, text_length=9)
        ids, mask = encoder.tokenizer(CAPTIONS, truncate=True)
        assert ids.shape[1] == 9
        assert encoder.tokenizer.truncated > 0
        assert encoder.encode_text(ids, mask).shape == (6, 24)
