"""Phase 4: what the generator may see, what counts, and what it costs the encoder to know."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import GRID, PHASE4, SIZE, K, batch_for, hidden_cells, pixels_of, system, write_towers

from sightword.miniature.tower import write_vq
from sightword.systems.retrieval.config import RetrievalData
from sightword.systems.retrieval.data import ImageRows, PedesBatch
from sightword.systems.retrieval.evaluate import RetrievalEvaluator
from sightword.systems.retrieval.loss import Generator, other_texts
from sightword.systems.retrieval.system import _inputs
from sightword.systems.retrieval.task import make_task
from sightword.systems.retrieval.vq import FrozenTokenizer
from sightword.towers.t5 import T5Decoder

N, D = GRID[0] * GRID[1], 16
WAYS = [
    {},
    {"show_ids": False},
    {"gen_target": "whole"},
    {"gen_way": "autoregressive"},
    {"gen_way": "autoregressive", "gen_target": "whole"},
]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return write_towers(tmp_path_factory.mktemp("towers"))


def task_of(towers, **values):
    torch.manual_seed(0)
    return make_task(system(towers, **{**PHASE4, **values})).eval()


def generator_of(**options):
    torch.manual_seed(0)
    decoder = T5Decoder(K, GRID, width=D, layers=1, heads=2, head_width=8, hidden_width=24, dropout=0.0)
    return Generator(decoder, **options).eval()


def given(seed=0, rows=3):
    """memory, ids, hidden"""
    generator = torch.Generator().manual_seed(seed)
    hidden = hidden_cells(rows, generator)
    return torch.randn(rows, 5, D, generator=generator), torch.randint(0, K, (rows, N), generator=generator), hidden


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_no_gradient_of_the_generation_loss_reaches_a_hidden_pixel(towers, way):
    """Of the clean image, handed over as the retrieval view too: visible pixels are seen, hidden ones are not."""
    task = task_of(towers, **way)
    batch = batch_for(task.model.tokenizer)
    clean = batch.images.clone().requires_grad_()
    pixels = pixels_of(batch.vq_target_attn_mask)
    losses = task.losses(batch._replace(images=clean, masked_images=clean * ~pixels))
    (slope,) = torch.autograd.grad(losses["gen_loss"], clean)
    pixels = pixels.expand_as(slope)
    assert torch.count_nonzero(slope[pixels]) == 0
    assert torch.count_nonzero(slope[~pixels]) > 0.9 * (~pixels).sum()


def test_the_condition_is_the_masked_image_and_the_text(towers):
    task = task_of(towers)
    batch = batch_for(task.model.tokenizer)
    loss = task.losses(batch)["gen_loss"]
    assert torch.equal(task.losses(batch._replace(images=-batch.images))["gen_loss"], loss)
    assert not torch.equal(task.losses(batch._replace(masked_images=-batch.masked_images))["gen_loss"], loss)
    assert not torch.equal(task.losses(batch._replace(caption_ids=batch.caption_ids.flip(0)))["gen_loss"], loss)
    torch.autograd.backward(loss)
    for part in (task.model.image.network.embeddings.patch_embedding.weight, task.model.words.linear.weight):
        assert part.grad.abs().sum() > 0  # the encoder has to do with it


def test_the_loss_is_the_cross_entropy_of_hidden_cells_by_hand():
    generator = generator_of()
    memory, ids, hidden = given()
    with torch.no_grad():
        logits = generator.decoder.parallel(memory, None, ids, hidden).double()
        found = generator(memory, None, ids, hidden)
    chances = [-math.log(logits[b, n].softmax(0)[ids[b, n]]) for b, n in hidden.nonzero().tolist()]
    assert float(found) == pytest.approx(sum(chances) / len(chances) / math.log(K), rel=1e-5)


@pytest.mark.parametrize("way", ["parallel", "autoregressive"])
@torch.no_grad()
def test_it_starts_near_one_whatever_is_asked_of_it(way):
    for target in ("hidden", "whole"):
        assert float(generator_of(way=way, target=target)(*_with_mask(given()))) == pytest.approx(1, abs=0.02)


def test_code_zero_is_trained():
    """An ignore_index of T5's padding, which is 0, would drop it without a word."""
    generator = generator_of()
    memory, ids, hidden = given()
    ids = torch.zeros_like(ids)
    start = float(generator(memory, None, ids, hidden).detach())
    assert start > 0.5
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = generator(memory, None, ids, hidden)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * start
    assert generator.decoder.head.bias[0] > generator.decoder.head.bias[1:].max()


@torch.no_grad()
def test_only_hidden_cells_count_and_their_codes_are_never_given():
    memory, ids, hidden = given()
    each, counted = generator_of().each(memory, None, ids, hidden)
    assert torch.equal(counted, hidden)
    assert not each[~hidden].any()
    swapped = torch.where(hidden, (ids + 1) % K, ids)  # other targets, the same inputs
    logits, other = (generator_of().decoder.parallel(memory, None, codes, hidden) for codes in (ids, swapped))
    assert torch.equal(logits, other)


@torch.no_grad()
def test_the_whole_image_as_target_is_told_no_code_in_parallel_and_those_before_one_by_one():
    memory, ids, hidden = given()
    generator = generator_of(target="whole")
    each, counted = generator.each(memory, None, ids, hidden)
    assert counted.all()
    expected = generator.decoder.parallel(memory, None, ids, torch.ones_like(hidden))
    torch.testing.assert_close(each, F.cross_entropy(expected.mT, ids, reduction="none"))
    sequence = generator_of(way="autoregressive", target="hidden")
    each, counted = sequence.each(memory, None, ids, hidden)
    expected = F.cross_entropy(sequence.decoder.autoregressive(memory, None, ids).mT, ids, reduction="none")
    torch.testing.assert_close(each, expected * hidden)


@torch.no_grad()
def test_the_decoder_need_not_be_shown_visible_codes():
    memory, ids, hidden = given()
    other = torch.where(hidden, ids, (ids + 1) % K)
    blind, seeing = generator_of(show_ids=False), generator_of()
    assert torch.equal(blind(memory, None, ids, hidden), blind(memory, None, other, hidden))
    assert not torch.equal(seeing(memory, None, ids, hidden), seeing(memory, None, other, hidden))


def test_codes_of_another_grid_than_the_masks_or_the_configs_are_refused():
    memory, ids, hidden = given()
    with pytest.raises(ValueError, match=r"\(8,\) ids in data\.vq_ids and 6 × 2 in system\.vq_grid"):
        generator_of()(memory, None, ids[:, :8], hidden[:, :8])
    with pytest.raises(ValueError, match=r"the mask has \(3, 8\) cells and there are \(3, 12\) ids"):
        generator_of()(memory, None, ids, hidden[:, :8])
    with pytest.raises(ValueError, match=f"id {K} is not one of {K} codes"):
        generator_of()(memory, None, torch.full_like(ids, K), torch.zeros_like(hidden))


# ------------------------------------------------------------------------------------------------- codes without cache


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq") / "vq"
    write_vq(folder)  # 8 pixels a code, or fewer; 64 codes
    return folder


def test_where_no_cache_has_them_codes_are_made_of_the_whole_view_by_the_tokenizer(towers, tokenizer_folder):
    codes = FrozenTokenizer(str(tokenizer_folder), "", 64, GRID)
    side = codes.factor
    view = torch.rand(6, 3, GRID[0] * side, GRID[1] * side) * 2 - 1
    ids = codes(view)
    assert ids.shape == (6, N)
    task = task_of(towers, num_codes=64, vq_weights=str(tokenizer_folder))
    inputs = _inputs(task, RetrievalData(image_size=list(task.model.image.preprocess.size)))
    assert (inputs.factor, inputs.ids["weights"]) == (side, codes.digest)
    batch = batch_for(task.model.tokenizer)
    by_cache = task.losses(batch._replace(vq_target_ids=ids))["gen_loss"]
    by_network = task.losses(batch._replace(vq_target_ids=None, vq_images=view))["gen_loss"]
    assert torch.equal(by_network, by_cache)
    assert not [name for name in task.state_dict() if name.startswith(("codes", "generation"))]


def test_a_tokenizer_of_other_sizes_is_refused(tokenizer_folder):
    with pytest.raises(ValueError, match=r"has 64 codes, and system\.num_codes is 16"):
        _ = FrozenTokenizer(str(tokenizer_folder), "", K, GRID).factor
    codes = FrozenTokenizer(str(tokenizer_folder), "", 64, (5, 5))
    with pytest.raises(ValueError, match=r"system\.vq_grid is \[5, 5\]"):
        codes(torch.zeros(1, 3, 8 * codes.factor, 4 * codes.factor))


# --------------------------------------------------------------------------------------------------------- text gain


def test_another_persons_text_is_the_next_one_of_another_person():
    rows, there = other_texts(torch.tensor([4, 4, 7, 4]))
    assert rows.tolist()[:3] == [2, 2, 3]
    assert rows.tolist()[3] == 2
    assert there.tolist() == [True] * 4
    assert not other_texts(torch.tensor([5, 5]))[1].any()


def test_generation_takes_the_rows_that_have_a_view(towers):
    task = task_of(towers, **PHASE4).eval()
    batch = batch_for(task.model.tokenizer)
    rows = torch.tensor([1, 4])
    view = {name: getattr(batch, name)[rows] for name in ("masked_images", "vq_target_ids", "vq_target_attn_mask")}
    some = batch._replace(**view, generated=rows)
    loss = task.losses(some)["gen_loss"]
    alone = PedesBatch._make(None if part is None else part[rows] for part in batch)
    torch.testing.assert_close(loss, task.losses(alone)["gen_loss"])
    torch.testing.assert_close(task.text_gain(some), task.text_gain(alone))


def test_text_gain_is_how_much_worse_another_persons_text_is(towers):
    task = task_of(towers)
    batch = batch_for(task.model.tokenizer, pids=(0, 0, 1, 2, 2, 2))
    rows, there = other_texts(batch.pids)
    assert there.all()
    entropies = []
    for ids, mask in (batch[2:4], (batch.caption_ids[rows], batch.caption_attn_mask[rows])):
        condition = task.encoder.condition(task.encoder.image_words(batch.masked_images), ids, mask)
        logits = task.generator.decoder.parallel(
            condition.tokens, condition.mask, batch.vq_target_ids, batch.vq_target_attn_mask
        )
        each = F.cross_entropy(logits.mT, batch.vq_target_ids, reduction="none")
        entropies.append(torch.stack([row[hidden].mean() for row, hidden in zip(each, batch[9], strict=True)]))
    torch.testing.assert_close(task.text_gain(batch), entropies[1] - entropies[0], rtol=1e-4, atol=1e-6)
    assert len(task.text_gain(batch._replace(pids=torch.zeros_like(batch.pids)))) == 0


def test_a_generator_that_learns_codes_from_texts_gains_by_them_and_not_before(towers):
    """The codes of each image say which caption it has, and the masked images say nothing."""
    task = task_of(towers, gen_ramp=0, gen_weight=1.0)
    batch = batch_for(task.model.tokenizer, pids=range(6))
    codes = torch.arange(6)[:, None].expand(6, N).contiguous()
    batch = batch._replace(
        vq_target_ids=codes,
        masked_images=torch.zeros_like(batch.images),
        vq_target_attn_mask=torch.ones_like(codes, dtype=torch.bool),
    )
    before = float(task.text_gain(batch).mean())
    optimizer = torch.optim.Adam(task.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        task.losses(batch)["gen_loss"].backward()
        optimizer.step()
    assert abs(before) < 0.05
    assert float(task.text_gain(batch).mean()) > 1
    assert task.stats()["text_gain"] > 1
    picture = RetrievalEvaluator(task).images(batch)["text_gain"]
    assert picture.width > 2 * 6 * SIZE[1]
    maps = np.asarray(picture)[24:, picture.width // 2 :].reshape(-1, 3).astype(int)
    red, blue = (maps[:, 0] - maps[:, 2] > 60).sum(), (maps[:, 2] - maps[:, 0] > 60).sum()
    assert red > 5 * blue  # the texts help
    assert RetrievalEvaluator(task).images(ImageRows(batch.images, batch.pids, batch.index)) == {}


def _with_mask(values):
    memory, ids, hidden = values
    return memory, torch.ones(memory.shape[:2], dtype=torch.bool), ids, hidden
