import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    MT5Config,
    MT5EncoderModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.utils import logging

from sightword.towers.factory import text_tower
from sightword.towers.t5 import GridBias, T5Decoder, T5Text, draw, run_blocks

WORDS = ["a", "man", "woman", "in", "with", "red", "blue", "coat", "bag", "and", "the"]
SIZES = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
TEXTS = ["a man in a red coat", "the woman", "a man and a woman with the blue bag and a coat"]
K, GRID, N = 11, (3, 4), 12


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def write_tokenizer(folder, words=WORDS):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *[(f"▁{word}", -2.0) for word in words]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write(folder, kind=T5ForConditionalGeneration, config=T5Config, **options):
    """A folder as Hugging Face has it, of random weights; T5's own start leaves the biases too small to matter."""
    model = kind(config(vocab_size=20, **{**SIZES, **options})).eval()
    for name, weight in model.named_parameters():
        weight.data *= 4 if "relative_attention_bias" in name else 1
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return write(tmp_path_factory.mktemp("t5"))


def stock(folder, kind=T5EncoderModel):
    return kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()


def refused(error, call):
    """The one line that a user reads."""
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The tower.


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (T5ForConditionalGeneration, T5Config),
        (T5EncoderModel, T5Config),
        (MT5EncoderModel, MT5Config),
        (UMT5EncoderModel, UMT5Config),
    ],
)
def test_tokens_are_the_librarys_own_bit_for_bit(tmp_path, kind, config):
    write(tmp_path, kind, config)
    tower = T5Text.load(tmp_path)
    ids, mask = tower.tokenizer(TEXTS)
    theirs = stock(tmp_path, T5EncoderModel if kind is T5ForConditionalGeneration else kind)
    out = tower(ids, mask)
    assert torch.equal(out.tokens, theirs(input_ids=ids, attention_mask=mask).last_hidden_state)
    assert (tower.width, tower.embed_dim, tower.training, tower.dtype) == (16, 16, False, torch.float32)
    assert torch.equal(out.mask, mask)
    assert torch.equal(tower.encode(TEXTS).pooled, out.pooled)


def test_loading_leaves_generator_stderr_logger_and_network_alone(folder, capfd, caplog, monkeypatch):
    calls, state, level = [], torch.random.get_rng_state(), logging.get_verbosity()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: calls.append(args))
    monkeypatch.setattr("socket.socket.connect", lambda *args: calls.append(args))
    logging.set_verbosity_info()
    logging.get_logger().addHandler(caplog.handler)
    try:
        T5Text.load(folder, grid=(2, 3))
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.get_logger().removeHandler(caplog.handler)
        logging.set_verbosity(level)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (capfd.readouterr(), caplog.messages, calls) == (("", ""), [], [])
    assert type(text_tower(folder)) is T5Text


def test_half_on_disk_is_float32_in_memory_unless_asked(tmp_path):
    write(tmp_path)
    T5EncoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in T5Text.load(tmp_path).parameters()} == {torch.float32}
    tower = T5Text.load(tmp_path, grid=(2, 2), dtype=torch.bfloat16)
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}
    out = tower(*tower.tokenizer(TEXTS), image_tokens=torch.randn(3, 4, 16))
    assert out.tokens.dtype == out.pooled.dtype == torch.float32
    assert torch.equal(out.pooled, tower.pool(out.tokens, out.mask))  # the mean is taken in float32


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_moves_nothing_and_pooling_is_over_real_tokens(folder, pooling):
    tower = T5Text.load(folder, pooling=pooling)
    together = tower.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        ids, mask = tower.tokenizer(text)
        alone = tower(ids, mask)
        real = alone.tokens.shape[1]
        torch.testing.assert_close(together.tokens[row, :real], alone.tokens[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], rtol=0, atol=1e-5)
        wanted = alone.tokens[0].mean(0) if pooling == "mean" else alone.tokens[0, -1]
        torch.testing.assert_close(alone.pooled[0], wanted)
        torch.testing.assert_close(tower(ids).pooled, alone.pooled)
    assert len({len(text.split()) for text in TEXTS}) > 1


def test_ids_and_their_vectors_give_the_same(folder):
    tower = T5Text.load(folder)
    ids, mask = tower.tokenizer(TEXTS)
    one, other = tower(ids, mask), tower(mask=mask, inputs_embeds=tower.embed(ids))
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.pooled, other.pooled)


@pytest.mark.parametrize("grid", [None, (2, 3)])
def test_gradients_pass_through_a_frozen_tower(folder, grid):
    tower = T5Text.load(folder, grid=grid).freeze()
    ids, mask = tower.tokenizer(TEXTS)
    images = torch.randn(3, 6, 16, requires_grad=True)
    vectors = tower.embed(ids).requires_grad_()
    tower(mask=mask, inputs_embeds=vectors, image_tokens=images).pooled.square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert vectors.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_a_frozen_tower_has_no_dropout_whatever_its_parent_does(folder):
    parent = nn.ModuleList([T5Text.load(folder)])
    tower = parent[0]
    assert tower.model.config.dropout_rate > 0
    parent.train()
    assert not torch.equal(tower.encode(TEXTS).tokens, tower.encode(TEXTS).tokens)
    quiet = tower.freeze().encode(TEXTS).tokens
    parent.train()
    assert torch.equal(tower.encode(TEXTS).tokens, quiet)
    assert not quiet.requires_grad


def test_what_is_saved_is_a_stock_folder(folder, tmp_path):
    tower = T5Text.load(folder, grid=(2, 3))
    nn.init.normal_(tower.grid_bias.weight)
    tower.save(tmp_path / "new")
    ids, mask = tower.tokenizer(TEXTS)
    wanted = tower(ids, mask).tokens
    assert torch.equal(stock(tmp_path / "new")(input_ids=ids, attention_mask=mask).last_hidden_state, wanted)
    again = T5Text.load(tmp_path / "new", grid=(2, 3))
    assert torch.equal(again.encode(TEXTS).tokens, wanted)
    assert AutoTokenizer.from_pretrained(tmp_path / "new")(TEXTS[0])["input_ids"] == ids[0][mask[0]].tolist()
    assert not [name for name in load_file(tmp_path / "new" / "model.safetensors") if "grid" in name]
    again.load_state_dict(tower.state_dict())
    images = torch.randn(3, 6, 16)
    assert torch.equal(again(ids, mask, image_tokens=images).tokens, tower(ids, mask, image_tokens=images).tokens)


# Image tokens and words.


def test_without_a_grid_image_tokens_are_a_text_to_the_stock_encoder(folder):
    tower = T5Text.load(folder)
    (ids, mask), images = tower.tokenizer(TEXTS), torch.randn(3, 6, 16)
    out = tower(ids, mask, image_tokens=images)
    vectors, real = torch.cat([images, tower.embed(ids)], 1), torch.cat([mask.new_ones(3, 6), mask], 1)
    assert torch.equal(out.tokens, stock(folder)(inputs_embeds=vectors, attention_mask=real).last_hidden_state)
    assert torch.equal(out.mask, real)


def test_blocks_run_with_the_stock_bias_are_the_stock_encoder(folder):
    model, vectors = stock(folder), torch.randn(2, 9, 16)
    bias = model.encoder.block[0].layer[0].SelfAttention.compute_bias(9, 9)
    assert torch.equal(run_blocks(model.encoder, vectors, bias, None), model(inputs_embeds=vectors).last_hidden_state)


def test_with_a_grid_a_text_alone_is_still_the_stock_encoders(folder):
    tower = T5Text.load(folder, grid=GRID)
    nn.init.normal_(tower.grid_bias.weight)
    ids, mask = tower.tokenizer(TEXTS)
    assert torch.equal(tower(ids, mask).tokens, stock(folder)(input_ids=ids, attention_mask=mask).last_hidden_state)


def test_the_bias_of_image_and_text_has_four_parts(folder):
    tower = T5Text.load(folder, grid=GRID)
    nn.init.normal_(tower.grid_bias.weight)
    attention = tower.model.encoder.block[0].layer[0].SelfAttention
    bias = tower._bias(5)[0]
    assert bias.shape == (4, N + 5, N + 5)
    assert torch.equal(bias[:, :N, :N], tower.grid_bias())
    assert torch.equal(bias[:, N:, N:], attention.compute_bias(5, 5)[0])
    far = attention.compute_bias(1000, 1000)[0]
    assert (bias[:, :N, N:] == far[:, 0, -1, None, None]).all()
    assert (bias[:, N:, :N] == far[:, -1, 0, None, None]).all()
    assert not torch.equal(far[:, 0, -1], far[:, -1, 0])
    assert torch.equal(tower._bias(0)[0], tower.grid_bias())


def test_padding_behind_image_and_text_moves_nothing(folder):
    tower, images = T5Text.load(folder, grid=GRID), torch.randn(3, N, 16)
    together = tower(*tower.tokenizer(TEXTS), image_tokens=images)
    ids, mask = tower.tokenizer(TEXTS[1])
    for alone in (tower(ids, mask, image_tokens=images[1:2]), tower(ids, image_tokens=images[1:2])):
        torch.testing.assert_close(together.tokens[1, : N + ids.shape[1]], alone.tokens[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.pooled[1], alone.pooled[0], rtol=0, atol=1e-5)


def test_an_image_alone_knows_which_cells_are_neighbours(folder):
    plain, tower = T5Text.load(folder), T5Text.load(folder, grid=GRID)
    images = torch.randn(1, N, 16)
    out = tower(image_tokens=images)
    assert out.mask is None
    torch.testing.assert_close(out.pooled, out.tokens.mean(1))
    assert not torch.allclose(out.tokens, plain(image_tokens=images).tokens, atol=1e-3)
    swapped = images.unflatten(1, GRID).flip(1, 2).flatten(1, 2)  # upside down and mirrored is another picture
    assert not torch.allclose(tower(image_tokens=swapped).pooled, out.pooled, atol=1e-4)


def test_a_grid_of_24_by_8_has_435_numbers_for_705_offsets():
    bias = GridBias((24, 8), 2)
    assert bias.weight.shape == (435, 2)
    place = torch.cartesian_prod(torch.arange(24), torch.arange(8))
    offsets = (place[None] - place[:, None]).flatten(0, 1)
    pairs = torch.cat([offsets, bias.cells.reshape(-1, 1)], 1).unique(dim=0)
    assert len(pairs) == len(offsets.unique(dim=0)) == 705  # an offset has one number, wherever it is
    assert pairs[:, 2].bincount().max() == 4
    assert pairs[:, 2].unique().tolist() == list(range(435))
    assert GridBias((40, 40), 1).weight.shape == (31 * 31, 1)


def test_a_right_neighbour_is_not_the_next_rows_first():
    bias, (_, w) = GridBias(GRID, 4), GRID
    right, wrap, below = bias.cells[0, 1], bias.cells[w - 1, w], bias.cells[0, w]
    assert len({int(right), int(wrap), int(below)}) == 3
    assert right == bias.cells[N - 2, N - 1]
    assert right != bias.cells[1, 0]


def test_a_grid_begins_with_what_t5_knows_of_distances(folder):
    tower = T5Text.load(folder, grid=GRID)
    line = tower.model.encoder.block[0].layer[0].SelfAttention.compute_bias(4, 4)[0]
    bias = tower.grid_bias().unflatten(2, GRID).unflatten(1, GRID)  # (A, h, w, h, w)
    torch.testing.assert_close(bias[:, 1, 1, 2, 3], (line[:, 1, 2] + line[:, 1, 3]) / 2)
    torch.testing.assert_close(bias[:, 2, 0, 2, 0], line[:, 0, 0])
    long = GridBias((24, 1), 4)
    line = torch.randn(4, 24, 24)
    line = torch.stack([line[:, 0, (torch.arange(24) - at).abs()] for at in range(24)], 1)  # by distance alone
    long.start(line)
    share = (torch.arange(24) >= 16) & (torch.arange(24) < 20)  # these four share a number
    same = long()[:, 0, share]
    assert torch.equal(same, same[:, :1].expand_as(same))


def test_the_grid_is_trained(folder):
    tower = T5Text.load(folder, grid=GRID)
    tower(*tower.tokenizer(TEXTS), image_tokens=torch.randn(3, N, 16)).pooled.square().sum().backward()
    assert (tower.grid_bias.weight.grad.abs().sum(1) > 0).all()


# What is refused.


def test_inputs_that_do_not_fit_are_named(folder):
    tower = T5Text.load(folder, grid=GRID, length=8)
    ids, mask = tower.tokenizer(TEXTS[:2])
    assert "13 tokens" in refused(ValueError, lambda: tower.encode(TEXTS))
    assert tower.encode(TEXTS, truncate=True).tokens.shape[1] == 8
    assert "one of the two" in refused(ValueError, lambda: tower())
    assert "one of the two" in refused(ValueError, lambda: tower(ids, inputs_embeds=tower.embed(ids)))
    assert "(B, L, 16)" in refused(ValueError, lambda: tower(inputs_embeds=torch.zeros(1, 3, 5)))
    assert "5 image tokens do not fill the grid 3 × 4" in refused(
        ValueError, lambda: tower(ids, mask, image_tokens=torch.zeros(2, 5, 16))
    )
    assert "(2, 12, 3)" in refused(ValueError, lambda: tower(ids, mask, image_tokens=torch.zeros(2, 12, 3)))
    assert "3 images and 2 texts" in refused(ValueError, lambda: tower(ids, mask, image_tokens=torch.zeros(3, 12, 16)))
    assert "neither ids nor inputs_embeds" in refused(
        ValueError, lambda: tower(mask=mask, image_tokens=torch.zeros(2, 12, 16))
    )
    assert "'cls' is not known; T5Text has mean, max" in refused(ValueError, lambda: T5Text.load(folder, "cls"))
    assert "(0, 4)" in refused(ValueError, lambda: T5Text.load(folder, grid=(0, 4)))


@pytest.mark.parametrize("length", [0, -3])
def test_a_length_is_positive(folder, length):
    assert f"length is {length}: a text has at least one token" in refused(
        ValueError, lambda: T5Text.load(folder, length=length)
    )


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_what_is_no_text_is_said_in_a_line(folder, pooling):
    tower = T5Text.load(folder, pooling=pooling)
    ids, mask = tower.tokenizer(TEXTS)
    assert "give one text or more" in refused(ValueError, lambda: tower.encode([]))
    assert "ids are (2, 0)" in refused(ValueError, lambda: tower(torch.zeros(2, 0, dtype=torch.long)))
    for wrong in (10**6, 20, -1):
        assert f"id {wrong} is not one of the 20 tokens" in refused(
            ValueError, lambda wrong=wrong: tower(ids * 0 + wrong)
        )
    empty = mask.clone()
    empty[1] = False
    assert "text 1 of 3 is all padding by its mask" in refused(ValueError, lambda: tower(ids, empty))
    assert tower(ids, empty, image_tokens=torch.randn(3, 4, 16)).pooled.isfinite().all()
    assert torch.equal(tower(ids, mask.int()).pooled, tower(ids, mask).pooled)
    assert tower(ids, mask.int()).mask.dtype == torch.bool


def test_a_save_that_is_stopped_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    tower = T5Text.load(write(tmp_path))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    nn.init.normal_(tower.model.get_input_embeddings().weight)

    def stop(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tower.tokenizer, "save", stop)
        tower.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    tower.save(tmp_path)
    assert torch.equal(T5Text.load(tmp_path).encode(TEXTS).tokens, tower.encode(TEXTS).tokens)


def test_a_umt5_has_no_grid(tmp_path):
    write(tmp_path, UMT5EncoderModel, UMT5Config)
    assert "grid= needs a T5" in refused(ValueError, lambda: T5Text.load(tmp_path, grid=GRID))


def test_a_name_that_is_nowhere_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("t5_small", "nobody/nothing"):
        assert "hf download " in refused(FileNotFoundError, lambda name=name: T5Text.load(name))
    assert "does not exist" in refused(FileNotFoundError, lambda: T5Text.load(tmp_path / "nowhere"))
    assert "has no config.json" in refused(FileNotFoundError, lambda: T5Text.load(tmp_path))
    (tmp_path / "file.txt").touch()
    assert "is a file" in refused(FileNotFoundError, lambda: T5Text.load(tmp_path / "file.txt"))


def test_a_folder_that_is_not_whole_is_said_to_be(tmp_path):
    write(tmp_path)
    weights, load = load_file(tmp_path / "model.safetensors"), lambda: T5Text.load(tmp_path)
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    assert "decoder.final_layer_norm.weight" in weights

    def save(**change):
        save_file({**weights, **change}, tmp_path / "model.safetensors", {"format": "pt"})

    save(**{name: torch.zeros(16, 9)})
    assert f"{name} is (16, 9) in the file and (16, 16) in the model" in refused(ValueError, load)
    save(**{name.replace("block.1", "block.2"): torch.zeros(16, 16)})
    assert "1 unexpected: encoder.block.2" in refused(ValueError, load)
    weights.pop(name)
    save()
    assert refused(ValueError, load).endswith(f"1 missing: {name}")
    (tmp_path / "model.safetensors").write_bytes(b"<html>")
    assert "no weights that can be read" in refused(ValueError, load)
    (tmp_path / "model.safetensors").unlink()
    assert "no file named model.safetensors" in refused(FileNotFoundError, load)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (tmp_path / "evil").touch, ()

    torch.save({"shared.weight": Evil()}, tmp_path / "pytorch_model.bin")
    assert "saved as model.safetensors" in refused(ValueError, lambda: T5Text.load(tmp_path))
    assert not (tmp_path / "evil").exists()


def test_an_old_checkpoint_of_tensors_is_read(folder, tmp_path):
    write(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(T5Text.load(tmp_path).encode(TEXTS).tokens, T5Text.load(folder).encode(TEXTS).tokens)


def test_a_tokenizer_of_another_model_or_without_words_is_refused(tmp_path):
    write(tmp_path)
    load = lambda: T5Text.load(tmp_path)  # noqa: E731
    write_tokenizer(tmp_path, [f"word{number}" for number in range(40)])
    assert "has 43 tokens, the model's table 20" in refused(ValueError, load)
    write_tokenizer(tmp_path, [])
    assert "knows no word" in refused(ValueError, load)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in refused(FileNotFoundError, load)
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer that is not read" in refused(ValueError, load)


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "nothing"}', '{"model_type": "t5", "d_model": "wide"}'])
def test_a_config_that_cannot_be_read_is_said_in_a_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert str(tmp_path) in refused(ValueError, lambda: T5Text.load(tmp_path))


def test_other_families_are_sent_elsewhere(tmp_path):
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    assert "is a gpt2; T5Text reads t5, mt5, umt5" in refused(ValueError, lambda: T5Text.load(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5gemma"}))
    assert "is a t5gemma" in refused(ValueError, lambda: T5Text.load(tmp_path))


# The decoder.


def decoder(**options) -> T5Decoder:
    sizes = {"width": 16, "heads": 4, "head_width": 4, "hidden_width": 24, "layers": 2}
    made = T5Decoder(K, GRID, **{**sizes, **options}).eval()
    nn.init.normal_(made.grid_bias.weight)  # it starts at zero, and the head close to it, where mistakes do not show
    nn.init.normal_(made.head.weight)
    return made


def given(batch=2, tokens=5, width=16):
    """A memory whose last token is padding in the first row, and ids."""
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[0, -1] = False
    return torch.randn(batch, tokens, width), mask, torch.randint(K, (batch, N))


def test_an_untrained_decoder_knows_nothing():
    fresh = T5Decoder(1024, (4, 4), width=64, heads=4, head_width=16, hidden_width=64).eval()
    memory, ids = torch.randn(8, 5, 64), torch.randint(1024, (8, 16))
    for logits in (
        fresh.autoregressive(memory, None, ids),
        fresh.parallel(memory, None, ids, torch.rand(8, 16) < 0.5),
    ):
        assert logits.shape == (8, 16, 1024)
        assert F.cross_entropy(logits.mT, ids).item() == pytest.approx(math.log(1024), abs=0.05)


def test_start_and_mask_are_beyond_the_codes_and_never_predicted():
    made, (memory, mask, ids) = decoder(), given()
    assert (made.start, made.mask) == (K, K + 1)
    assert made.stack.embed_tokens.weight.shape == (K + 2, 16)
    assert made.autoregressive(memory, mask, ids).shape[2] == K
    for bad in (K, K + 1, -1):
        wrong = ids.clone()
        wrong[0, 3] = bad
        for call in (
            lambda wrong=wrong: made.autoregressive(memory, mask, wrong),
            lambda wrong=wrong: made.parallel(memory, mask, wrong, torch.zeros(2, N, dtype=torch.bool)),
        ):
            assert f"id {bad} is not one of {K} codes" in refused(ValueError, call)


def test_logits_do_not_see_their_own_code_or_a_later_one():
    made, (memory, mask, ids) = decoder(), given()
    before = made.autoregressive(memory, mask, ids)
    for step in range(N):
        changed = ids.clone()
        changed[:, step:] = (ids[:, step:] + 1) % K
        after = made.autoregressive(memory, mask, changed)
        assert torch.equal(after[:, : step + 1], before[:, : step + 1])
        assert step == N - 1 or not torch.equal(after[:, step + 1 :], before[:, step + 1 :])


def test_the_cached_steps_are_the_full_pass():
    made, (memory, mask, ids) = decoder(), given()
    steps = iter(ids.T)
    chosen, logits = made.decode(memory, mask, lambda _: next(steps))
    assert torch.equal(chosen, ids)
    torch.testing.assert_close(logits, made.autoregressive(memory, mask, ids), rtol=0, atol=1e-4)
    greedy = made.generate(memory, mask, temperature=0)
    assert torch.equal(made.autoregressive(memory, mask, greedy).argmax(2), greedy)
    assert len(greedy.unique()) > 1


def test_the_bias_of_a_step_is_from_the_code_it_is_given_to_the_cell_it_predicts():
    made = decoder()
    cells, steps = made.grid_bias(), made._bias_of_steps()
    assert torch.equal(steps[:, 7, 0], cells[:, 7, 7])  # START
    assert torch.equal(steps[:, 7, 7], cells[:, 7, 6])  # the left neighbour
    assert torch.equal(steps[:, 7, 4], cells[:, 7, 3])  # the one above


def test_hidden_codes_do_not_reach_the_logits_and_visible_ones_do_from_all_sides():
    made, (memory, mask, ids) = decoder(), given()
    hidden = torch.zeros(2, N, dtype=torch.bool)
    hidden[:, 3:7] = True
    before = made.parallel(memory, mask, ids, hidden)
    assert torch.equal(made.parallel(memory, mask, ids.masked_fill(hidden, -100), hidden), before)
    for seen in (0, N - 1):
        changed = ids.clone()
        changed[:, seen] = (ids[:, seen] + 1) % K
        assert (made.parallel(memory, mask, changed, hidden) - before)[:, 3:7].abs().amin(1).max() > 1e-4


def test_a_hidden_code_is_the_mask_and_no_code():
    made, (memory, mask, _) = decoder(), given()
    hidden = torch.arange(N).expand(2, N) % 2 == 0
    ids = torch.full((2, N), 4)
    before = made.parallel(memory, mask, ids, hidden)
    for id_ in range(K + 2):
        table = made.stack.embed_tokens.weight.detach().clone()
        made.stack.embed_tokens.weight.data[id_] += 1
        assert torch.equal(made.parallel(memory, mask, ids, hidden), before) == (id_ not in (4, made.mask))
        made.stack.embed_tokens.weight.data = table


def test_cells_that_are_all_hidden_are_still_told_apart():
    made, (memory, mask, ids) = decoder(), given()
    logits = made.parallel(memory, mask, ids, torch.ones(2, N, dtype=torch.bool))
    assert torch.pdist(logits[0]).min() > 1e-2


def test_what_is_masked_in_the_memory_is_not_read():
    made, (memory, mask, ids) = decoder(), given()
    before = made.autoregressive(memory, mask, ids)
    memory[0, -1] = 9
    assert torch.equal(made.autoregressive(memory, mask, ids), before)
    memory[1, -1] = 9
    assert not torch.equal(made.autoregressive(memory, mask, ids)[1], before[1])


def test_both_ways_train_every_parameter():
    made, (memory, mask, ids) = decoder(memory_width=6), given(width=6)
    hidden = torch.rand(2, N) < 0.5
    for logits in (made.parallel(memory, mask, ids, hidden), made.autoregressive(memory, mask, ids)):
        made.zero_grad()
        F.cross_entropy(logits.mT, ids).backward()
        still = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        assert not still


def test_filling_is_repeatable_and_changes_no_visible_code():
    made, (memory, mask, ids) = decoder().train(), given()
    hidden = torch.rand(2, N) < 0.7
    state = torch.random.get_rng_state()

    def fill(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return made.fill(memory, mask, ids.masked_fill(hidden, -100), hidden, generator=generator, **options)

    filled = fill(3)
    assert torch.equal(fill(3), filled)
    assert not torch.equal(fill(4), filled)
    assert torch.equal(filled[~hidden], ids[~hidden])
    assert filled.min() >= 0
    assert filled.max() < K
    assert torch.equal(fill(3, temperature=0), fill(4, temperature=0))
    sampled = made.generate(memory, mask, torch.Generator().manual_seed(3))
    assert torch.equal(made.generate(memory, mask, torch.Generator().manual_seed(3)), sampled)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert made.training
    assert made.stack.training


def test_filling_in_one_step_is_the_parallel_prediction_and_in_more_keeps_the_surest(monkeypatch):
    made, (memory, mask, ids) = decoder(), given()
    hidden = torch.ones(2, N, dtype=torch.bool)
    once = made.parallel(memory, mask, ids, hidden)
    assert torch.equal(made.fill(memory, mask, ids, hidden, steps=1, temperature=0), once.argmax(2))
    left, parallel = [], made.parallel
    monkeypatch.setattr(made, "parallel", lambda *args: (left.append(args[3]), parallel(*args))[1])
    made.fill(memory, mask, ids, hidden, steps=4, temperature=0)
    wanted = [math.floor(N * math.cos(math.pi / 2 * step / 4)) for step in range(4)]
    assert [part.sum(1).tolist() for part in left] == [[number] * 2 for number in wanted]
    surest = once.softmax(2).amax(2).topk(N - wanted[1]).indices
    assert not left[1].gather(1, surest).any()


def test_draws_follow_the_chances():
    logits = torch.tensor([0.0, math.log(3)]).expand(4000, 2)
    ids = draw(logits, 1.0, torch.Generator().manual_seed(0))
    assert ids.float().mean() == pytest.approx(0.75, abs=0.03)
    assert draw(logits, 0.2, torch.Generator().manual_seed(0)).float().mean() > 0.97
    assert "seeded generator" in refused(ValueError, lambda: draw(logits, 1.0, None))


def test_a_decoder_like_a_tower_reads_its_tokens(folder):
    tower = T5Text.load(folder, grid=GRID)
    before = tower.model.config.to_dict()
    made = T5Decoder.like(tower, K, GRID, layers=1)
    assert tower.model.config.to_dict() == before
    assert isinstance(made.from_memory, nn.Identity)
    assert (made.stack.config.num_heads, made.stack.config.d_kv, len(made.stack.block)) == (4, 4, 1)
    seen = tower(*tower.tokenizer(TEXTS), image_tokens=torch.randn(3, N, 16))
    assert made.autoregressive(seen.tokens, seen.mask, torch.randint(K, (3, N))).shape == (3, N, K)
    narrow = T5Decoder.like(tower, K, GRID, width=8)
    assert narrow.from_memory.weight.shape == (8, 16)
    assert narrow.parallel(seen.tokens, seen.mask, torch.zeros(3, N).long(), torch.ones(3, N).bool()).shape == (3, N, K)


def test_a_decoder_comes_back_from_its_state_exactly():
    made, (memory, mask, ids) = decoder(), given()
    again = decoder()
    assert not torch.equal(again.autoregressive(memory, mask, ids), made.autoregressive(memory, mask, ids))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.autoregressive(memory, mask, ids), made.autoregressive(memory, mask, ids))


def test_a_decoder_in_bfloat16_gives_float32():
    made, (memory, mask, ids) = decoder().to(torch.bfloat16), given()
    logits = made.parallel(memory, mask, ids, torch.rand(2, N) < 0.5)
    assert logits.dtype == made.autoregressive(memory, mask, ids).dtype == torch.float32
    assert made.generate(memory, mask, temperature=0).shape == (2, N)


def test_what_a_decoder_cannot_use_is_named():
    made, (memory, mask, ids) = decoder(), given()
    hidden = torch.zeros(2, N, dtype=torch.bool)
    for call, said in [
        (lambda: made.autoregressive(memory, mask, ids[:, :5]), "(B, 3 · 4), these are torch.int64 (2, 5)"),
        (lambda: made.autoregressive(memory, mask, ids.float()), "these are torch.float32"),
        (lambda: made.autoregressive(memory, mask[:, :2], ids), "mask is (2, 2), the memory (2, 5, 16)"),
        (lambda: made.parallel(memory, mask, ids, hidden.long()), "this is torch.int64"),
        (lambda: made.fill(memory, mask, ids, hidden[:, :2]), "this is torch.bool (2, 2)"),
        (lambda: made.fill(memory, mask, ids, hidden, steps=0), "not 0"),
    ]:
        assert said in refused(ValueError, call)
