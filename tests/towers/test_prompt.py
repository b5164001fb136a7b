"""Words and their tokenizers, on towers and tokenizers of a few lines."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sightword.towers.base import Encoded
from sightword.towers.prompt import class_embeddings
from sightword.towers.tokenizer import HFTokenizer, TextTokenizer


def test_word_vectors_are_of_length_one_though_the_prompts_differ():
    vectors = {"a red": [3.0, 0.0], "the red": [0.0, 0.5], "a blue": [1.0, 0.0], "the blue": [-0.6, 0.8]}
    encode = lambda texts: Encoded(torch.empty(0), torch.tensor([vectors[text] for text in texts]))  # noqa: E731
    for batch_size in (1, 3, 256):
        found = class_embeddings(SimpleNamespace(encode=encode), ["red", "blue"], ["a {}", "the {}"], batch_size)
        blue = torch.tensor([0.4, 0.8])  # the sum of the unit vectors, of length 0.9
        torch.testing.assert_close(found, torch.stack([torch.tensor([0.5, 0.5]).sqrt(), blue / blue.norm()]))


@pytest.mark.parametrize("length", [0, -3])
def test_a_tokenizer_has_a_positive_length(length):
    with pytest.raises(ValueError, match=f"length is {length}: a text has at least one token"):
        TextTokenizer(0, 1, length, 10)


@pytest.mark.parametrize(("pieces", "known"), [([], False), (["▁"], False), (["▁a"], True), (["▁", "a"], True)])
def test_a_tokenizer_that_knows_no_word_is_refused_by_whoever_makes_it(pieces, known):
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *[(piece, -1.0) for piece in pieces]]
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(vocabulary, unk_id=2)), **names)
    if known:
        assert HFTokenizer(made, 5).vocab_size == 3 + len(pieces)
    else:
        with pytest.raises(ValueError, match="knows no word; is its vocabulary file there"):
            HFTokenizer(made, 5)
