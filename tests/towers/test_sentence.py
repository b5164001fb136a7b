"""Folders of sentence-transformers: their pooling and the layers behind it, compared with sums written out."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

from sightword.errors import SightwordError
from sightword.miniature import tower as tiny
from sightword.towers.bert import BertText
from sightword.towers.factory import text_tower
from sightword.towers.t5 import T5Text

TEXTS = ["a dog", "a red car in the street"]
FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
KIND = "sentence_transformers.models."


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A BERT as transformers keeps it."""
    folder = tmp_path_factory.mktemp("bert")
    tiny.write_bert(folder, TEXTS)
    return folder


@pytest.fixture
def folder(plain, tmp_path):
    for file in plain.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def state(folder, *names, **dense):
    """Write 1_Pooling/config.json with the flags of these names, and modules.json with what else is given."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flags = {f"pooling_mode_{flag}": flag in names for flag in FLAGS}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **flags}))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", **dict(dense.items())}
    entries = [
        {"idx": n, "name": str(n), "path": path, "type": KIND + kind} for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def write_dense(folder, activation="torch.nn.modules.activation.Tanh"):
    (folder / "2_Dense").mkdir()
    weights = {
        "linear.weight": torch.randn(24, 64, generator=torch.Generator().manual_seed(0)),
        "linear.bias": torch.ones(24),
    }
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    config = {"in_features": 64, "out_features": 24, "bias": True, "activation_function": activation}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    return weights


def by_hand(folder, text, pooling):
    """One text, alone and so without padding, pooled as sentence-transformers' formulas have it."""
    ids = torch.tensor([transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]])
    with torch.no_grad():
        rows = transformers.AutoModel.from_pretrained(folder).eval()(ids).last_hidden_state[0]
    steps = torch.arange(1, len(rows) + 1)[:, None]
    return {
        "cls_token": rows[0],
        "mean_tokens": rows.sum(0) / len(rows),
        "max_tokens": rows.max(0).values,
        "mean_sqrt_len_tokens": rows.sum(0) / len(rows) ** 0.5,
        "weightedmean_tokens": (steps * rows).sum(0) / steps.sum(),
        "lasttoken": rows[-1],
    }[pooling]


@pytest.mark.parametrize("pooling", FLAGS)
def test_the_pooling_that_a_folder_states_is_applied_and_padding_has_no_part_in_it(folder, plain, pooling):
    state(folder, pooling)
    with torch.no_grad():
        found = text_tower(folder).encode(TEXTS).pooled
    expected = torch.stack([by_hand(plain, text, pooling) for text in TEXTS])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_cosine_of_two_words_is_that_of_the_mean_and_not_of_the_first_token(folder, plain):
    state(folder, "mean_tokens")
    with torch.no_grad():
        found = F.cosine_similarity(*BertText.load(folder).encode(TEXTS).pooled, dim=0)
    mean, first = (
        F.cosine_similarity(*(by_hand(plain, text, kind) for text in TEXTS), dim=0)
        for kind in ("mean_tokens", "cls_token")
    )
    assert found == pytest.approx(float(mean), abs=1e-5)
    assert abs(float(mean - first)) > 0.01


def test_a_folder_without_such_files_is_read_by_its_first_token_and_pooling_overrides_what_a_folder_states(
    folder, plain
):
    assert BertText.load(plain).pooling == "cls"
    state(folder, "mean_tokens")
    assert BertText.load(folder).pooling == "mean"
    assert BertText.load(folder, pooling="cls").pooling == "cls"
    (folder / "modules.json").unlink()  # 1_Pooling alone is enough
    assert BertText.load(folder).pooling == "mean"
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode": "lasttoken"})
    )  # as newer versions write
    assert BertText.load(folder).pooling == "last"


def test_dense_layers_and_normalisation_follow_and_are_saved_with_the_encoder(folder, plain, tmp_path_factory):
    state(folder, "mean_tokens", **{"2_Dense": "Dense", "3_Normalize": "Normalize"})
    weights = write_dense(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    tower = BertText.load(folder)
    with torch.no_grad():
        found = tower.encode(TEXTS).pooled
    mean = torch.stack([by_hand(plain, text, "mean_tokens") for text in TEXTS])
    expected = F.normalize(torch.tanh(mean @ weights["linear.weight"].T + weights["linear.bias"]), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (tower.width, tower.embed_dim, tower.tokenizer.length) == (64, 24, 16)
    again = tmp_path_factory.mktemp("again")
    tower.save(again)
    read = text_tower(again)
    with torch.no_grad():
        assert torch.equal(read.encode(TEXTS).pooled, found)
    assert read.embed_dim == 24
    assert read.tokenizer.length == 16


def test_a_sentence_t5_is_pooled_and_projected_too(tmp_path):
    tiny.write_t5(tmp_path, TEXTS)
    state(tmp_path, "mean_tokens", **{"2_Dense": "Dense", "3_Normalize": "Normalize"})
    write_dense(tmp_path, "torch.nn.modules.linear.Identity")
    tower = T5Text.load(tmp_path)
    with torch.no_grad():
        pooled = tower.encode(TEXTS).pooled
    assert pooled.shape == (2, 24)
    assert torch.allclose(pooled.norm(dim=1), torch.ones(2))
    assert T5Text.load(tmp_path, pooling="last").pooling == "last"


def test_what_is_not_computed_is_refused_by_name(folder):
    state(folder, "mean_tokens", "max_tokens")
    with pytest.raises(SightwordError, match="1_Pooling/config.json has the pooling mean and max; one of"):
        BertText.load(folder)
    state(folder, "mean_tokens", **{"2_CNN": "CNN"})
    with pytest.raises(SightwordError, match="modules.json has sentence_transformers.models.CNN as module 2"):
        BertText.load(folder)
    state(folder, "mean_tokens", **{"2_Dense": "Dense"})
    write_dense(folder, "torch.nn.modules.activation.Softplus")
    with pytest.raises(SightwordError, match="has the activation Softplus"):
        BertText.load(folder)
    (folder / "2_Dense" / "config.json").unlink()
    with pytest.raises(SightwordError, match="2_Dense.config.json"):
        BertText.load(folder)
