import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, PreTrainedTokenizerFast

from sightword.towers import bert
from sightword.towers.bert import BertText, positions
from sightword.towers.factory import text_tower

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "man", "in", "red", "coat", "drink", "water", "##s", "wave", "hand"]
SIZES = {
    "vocab_size": 15,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
SMALL = {"embedding_size": 8}
DISTIL = {"vocab_size": 15, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 12}
FAMILIES = {
    "BertForPreTraining": {},
    "DistilBertForMaskedLM": DISTIL,
    "RobertaForMaskedLM": {"pad_token_id": 1, "max_position_embeddings": 14},
    "XLMRobertaForMaskedLM": {"pad_token_id": 1, "max_position_embeddings": 14},
    "MPNetForMaskedLM": {"pad_token_id": 1, "max_position_embeddings": 14},
    "AlbertForPreTraining": SMALL,
    "ElectraForPreTraining": SMALL,
    "ElectraForMaskedLM": SMALL,
    "DebertaV2ForMaskedLM": {},
}
TEXTS = ["a man in a red coat", "drinks", "wave a red hand in water"]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def write_tokenizer(folder, words=WORDS, pad=0):
    special = SPECIAL if pad == 0 else [SPECIAL[1], SPECIAL[0], *SPECIAL[2:]]
    vocabulary = {word: id_ for id_, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write(folder, kind="BertForPreTraining", **options):
    """A folder as Hugging Face has it, of random weights."""
    cls = getattr(transformers, kind)
    sizes = options if options.keys() >= DISTIL.keys() else {**SIZES, **options}
    cls(cls.config_class(**sizes)).save_pretrained(folder)
    write_tokenizer(folder, pad=sizes.get("pad_token_id", 0))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return write(tmp_path_factory.mktemp("bert"))


def refused(error, call):
    """The one line that a user reads."""
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The tower.


@pytest.mark.parametrize(("kind", "options"), FAMILIES.items())
def test_tokens_are_the_librarys_own(tmp_path, kind, options):
    write(tmp_path, kind, **options)
    tower = BertText.load(tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    ids, mask = tower.tokenizer(TEXTS)
    out = tower(ids, mask)
    wanted = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.equal(out.tokens, wanted)
    assert torch.equal(out.pooled, wanted[:, 0])
    assert torch.equal(out.mask, mask)
    assert torch.equal(tower.encode(TEXTS).pooled, out.pooled)
    assert (tower.width, tower.embed_dim, tower.training) == (16, 16, False)
    assert tower.tokenizer.length == positions(tower.model) == 12


@pytest.mark.parametrize(("kind", "options"), FAMILIES.items())
def test_padding_moves_nothing_and_ids_and_their_vectors_give_the_same(tmp_path, kind, options):
    write(tmp_path, kind, **options)
    for pooling in ("cls", "mean"):
        tower = BertText.load(tmp_path, pooling=pooling)
        ids, mask = tower.tokenizer(TEXTS)
        together = tower(ids, mask)
        vectors = tower(mask=mask, inputs_embeds=tower.embed(ids))
        for row, text in enumerate(TEXTS):
            alone = tower(tower.tokenizer(text).ids)
            real = alone.tokens.shape[1]
            torch.testing.assert_close(together.tokens[row, :real], alone.tokens[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(together.pooled[row], alone.pooled[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(vectors.pooled[row], alone.pooled[0], rtol=0, atol=1e-5)
        wanted = alone.tokens[:, 0] if pooling == "cls" else alone.tokens.mean(1)
        torch.testing.assert_close(alone.pooled, wanted)


def test_ids_and_their_vectors_give_the_same_bit_for_bit(folder):
    tower = BertText.load(folder)
    ids, mask = tower.tokenizer(TEXTS)
    assert torch.equal(tower(ids, mask).tokens, tower(mask=mask, inputs_embeds=tower.embed(ids)).tokens)


def test_the_unused_pooler_is_not_built(folder):
    tower = BertText.load(folder)
    assert any("pooler" in name for name in load_file(folder / "model.safetensors"))
    assert not any("pooler" in name for name in tower.state_dict())
    tower.train()
    tower.encode(TEXTS).pooled.square().sum().backward()
    assert not [name for name, parameter in tower.named_parameters() if parameter.grad is None]


def test_loading_leaves_the_global_generator_and_stderr_alone(folder, capfd):
    state = torch.random.get_rng_state()
    BertText.load(folder, special=["[ENC]"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
    assert type(text_tower(folder)) is BertText


def test_a_frozen_bert_is_the_same_to_the_bit_through_its_parents_training(folder):
    parent = nn.ModuleList([BertText.load(folder)])
    tower = parent[0]
    assert tower.model.config.hidden_dropout_prob > 0
    parent.train()
    assert not torch.equal(tower.encode(TEXTS).pooled, tower.encode(TEXTS).pooled)
    quiet = tower.freeze().encode(TEXTS)
    parent.train()
    assert torch.equal(tower.encode(TEXTS).tokens, quiet.tokens)
    assert not quiet.tokens.requires_grad


def test_gradients_pass_through_a_frozen_tower(folder):
    tower = BertText.load(folder).freeze()
    ids, mask = tower.tokenizer(TEXTS)
    vectors = tower.embed(ids).requires_grad_()
    tower(mask=mask, inputs_embeds=vectors).pooled.square().sum().backward()
    assert (vectors.grad[mask].abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_bfloat16_is_float32_at_the_border(folder):
    tower = BertText.load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}
    out = tower.encode(TEXTS)
    assert out.tokens.dtype == out.pooled.dtype == torch.float32
    assert torch.equal(BertText.load(folder).to(torch.bfloat16).encode(TEXTS).tokens, out.tokens)


def test_half_on_disk_is_float32_in_memory_unless_asked(tmp_path):
    write(tmp_path)
    BertModel.from_pretrained(tmp_path, dtype=torch.float16).save_pretrained(tmp_path)
    assert {p.dtype for p in BertText.load(tmp_path).parameters()} == {torch.float32}


# Special tokens.


def test_special_tokens_are_one_id_each_with_a_row_of_their_own(folder):
    plain, tower = BertText.load(folder), BertText.load(folder, special=("[ENC]", "[DEC]"))
    enc, dec = tower.special_id("[ENC]"), tower.special_id("[DEC]")
    assert {enc, dec} == {15, 16}
    assert tower.tokenizer("[ENC] a man").ids.tolist() == [[2, enc, 5, 6, 3]]
    assert tower.tokenizer.words_of([2, enc, 5, 6, 3]) == "a man"
    rows = tower.model.get_input_embeddings().weight
    assert rows.shape == (17, 16)
    assert torch.equal(rows[:15], plain.model.get_input_embeddings().weight)
    assert not torch.equal(rows[enc], rows[dec])
    assert torch.equal(tower.encode(TEXTS).tokens, plain.encode(TEXTS).tokens)
    again = BertText.load(folder, special=("[ENC]", "[DEC]"))
    assert torch.equal(again.model.get_input_embeddings().weight, rows)
    assert "load it with special=('[ENC]',)" in refused(ValueError, lambda: plain.special_id("[ENC]"))
    assert "'man' is not a special token" in refused(ValueError, lambda: tower.special_id("man"))
    assert (tower.special_id("[CLS]"), tower.special_id("[UNK]")) == (2, 1)


def test_a_spare_row_of_the_table_is_taken_before_a_new_one(tmp_path):
    write(tmp_path, vocab_size=16)
    tower = BertText.load(tmp_path, special=["[ENC]"])
    assert tower.model.get_input_embeddings().weight.shape == (16, 16)
    assert tower.encode("[ENC]").tokens.shape[1] == 3


@pytest.mark.parametrize("special", [(), ("[ENC]", "[DEC]")])
def test_what_is_saved_comes_back_exactly_and_is_a_stock_folder(folder, tmp_path, special):
    tower = BertText.load(folder, special=special, pooling="mean")
    nn.init.normal_(tower.model.get_input_embeddings().weight)
    tower.save(tmp_path / "new")
    again = BertText.load(tmp_path / "new", special=special, pooling="mean")
    assert torch.equal(again.encode(TEXTS).pooled, tower.encode(TEXTS).pooled)
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in tower.state_dict().items())
    assert [again.special_id(token) for token in special] == [tower.special_id(token) for token in special]
    more = BertText.load(tmp_path / "new", special=["[MORE]"])
    assert [more.special_id(token) for token in special] == [tower.special_id(token) for token in special]
    stock = BertModel.from_pretrained(tmp_path / "new", add_pooling_layer=False).eval()
    ids, mask = tower.tokenizer(TEXTS)
    assert torch.equal(stock(input_ids=ids, attention_mask=mask).last_hidden_state, tower(ids, mask).tokens)


# What is refused.


def test_vocabulary_file_config_and_weights_are_enough(tmp_path):
    write(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer: none of tokenizer.json, vocab.txt" in refused(
        FileNotFoundError, lambda: BertText.load(tmp_path)
    )
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    tower = BertText.load(tmp_path)
    assert tower.tokenizer("Drinks water").ids.tolist() == [[2, 10, 12, 11, 3]]
    assert "knows no word of 'xyz'" in refused(ValueError, lambda: tower.encode("xyz"))
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL))
    assert "knows no word" in refused(ValueError, lambda: BertText.load(tmp_path))
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "one", "more"]))
    assert "17 tokens, the model's table 15" in refused(ValueError, lambda: BertText.load(tmp_path))


def test_texts_longer_than_the_positions_are_refused(folder, monkeypatch):
    assert "12 positions" in refused(ValueError, lambda: BertText.load(folder, length=13))
    tower = BertText.load(folder, length=4)
    assert "has 8 tokens, this tower reads 4" in refused(ValueError, lambda: tower.encode(TEXTS))
    assert tower.encode(TEXTS, truncate=True).tokens.shape[1] == 4
    with monkeypatch.context() as patch:
        patch.setattr(bert, "positions", lambda model: None)
        assert "no limit of positions" in refused(ValueError, lambda: BertText.load(folder))
        assert BertText.load(folder, length=5).tokenizer.length == 5
    longest = BertText.load(folder)
    assert longest.encode("a " * 10).tokens.shape[1] == 12
    assert "12" in refused(ValueError, lambda: longest(torch.full((1, 13), 5)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model_type": "gpt2"}, "not an encoder that reads both ways"),
        ({"model_type": "t5"}, "load it with towers.t5.T5Text"),
        ({"model_type": "umt5", "is_encoder_decoder": False}, "load it with towers.t5.T5Text"),
        ({"model_type": "bart"}, "an encoder with a decoder"),
        ({"model_type": "bert", "is_decoder": True}, "not an encoder that reads both ways"),
        ({"model_type": "siglip"}, "load it with towers.text_tower"),
        ({"model_type": "vit"}, "not an encoder that reads both ways"),
    ],
)
def test_other_kinds_are_sent_elsewhere(tmp_path, content, said):
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert said in refused(ValueError, lambda: BertText.load(tmp_path))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_texts_padded_on_the_left_are_refused(folder, pooling):
    tower = BertText.load(folder, pooling=pooling)
    ids, mask = tower.tokenizer(TEXTS)
    assert "padded on the right" in refused(ValueError, lambda: tower(ids.flip(1), mask.flip(1)))
    assert tower(ids, mask.long()).mask.dtype == torch.bool


def test_what_is_no_text_is_said_in_a_line(folder):
    tower = BertText.load(folder)
    assert "give one text or more" in refused(ValueError, lambda: tower.encode([]))
    assert "id 15 is not one of the 15 tokens" in refused(ValueError, lambda: tower(torch.tensor([[2, 15]])))
    assert "id -1 is not one of" in refused(ValueError, lambda: tower(torch.tensor([[2, -1]])))
    assert tower(torch.tensor([[2, 14]])).tokens.shape == (1, 2, 16)
    for length in (0, -3):
        assert f"texts of {length} tokens" in refused(
            ValueError, lambda length=length: BertText.load(folder, "cls", (), length)
        )


def test_a_pooling_that_is_not_there_is_named(folder):
    assert "'first' is not known; BertText has cls, max, mean" in refused(
        ValueError, lambda: BertText.load(folder, "first")
    )


def test_a_name_that_is_nowhere_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, real in (("bert_base", "google-bert/bert-base-uncased"), ("nobody/nothing", "nobody/nothing")):
        assert f"hf download {real}" in refused(FileNotFoundError, lambda name=name: BertText.load(name))


def test_the_names_of_old_checkpoints_are_read(folder, tmp_path):
    write(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
        for name, weight in load_file(folder / "model.safetensors").items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(BertText.load(tmp_path).encode(TEXTS).tokens, BertText.load(folder).encode(TEXTS).tokens)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining, BertModel])
def test_weights_that_are_not_there_are_not_made_up(tmp_path, kind):
    write(tmp_path, kind.__name__)
    weights, load = load_file(tmp_path / "model.safetensors"), lambda: BertText.load(tmp_path)
    prefix = "" if kind is BertModel else "bert."
    name = "encoder.layer.1.attention.self.query.weight"

    def save(**change):
        save_file({**weights, **change}, tmp_path / "model.safetensors", {"format": "pt"})

    save(**{prefix + name: torch.zeros(4, 16)})
    assert f"{name} is (4, 16) in the file and (16, 16) in the model" in refused(ValueError, load)
    save(**{prefix + name.replace("layer.1", "layer.2"): torch.zeros(16, 16)})
    assert f"1 unexpected: {prefix}encoder.layer.2" in refused(ValueError, load)
    weights.pop(prefix + name)
    save()
    assert refused(ValueError, load).endswith(f"1 missing: {name}")


def test_a_model_without_its_own_weights_is_refused_as_a_whole(tmp_path):
    write(tmp_path)
    save_file({"visual.proj": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert "37 missing: embeddings.word_embeddings.weight" in refused(ValueError, lambda: BertText.load(tmp_path))
    BertConfig(**SIZES | {"num_hidden_layers": 0}).save_pretrained(tmp_path)
    assert "5 missing" in refused(ValueError, lambda: BertText.load(tmp_path))
