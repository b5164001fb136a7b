"""Words that an encoder cannot know: unknown tokens, vectors that were never trained, other scripts."""

import pytest
import torch

from sightword.errors import SightwordError
from sightword.miniature import tower as tiny
from sightword.towers.bert import BertText
from sightword.towers.clip.byte_pair import BytePairs
from sightword.towers.clip.encoder import CLIP
from sightword.towers.tokenizer import CLIPTokenizer, is_foreign, split_words, unknown_line

CAPTIONS = ["a man in a red coat", "a dog on the beach"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    tiny.write_bert(folder, CAPTIONS)
    return BertText.load(folder)


@pytest.fixture(scope="module")
def clip():
    return CLIPTokenizer(BytePairs(), 77)


def test_words_are_what_stands_between_spaces_without_punctuation():
    assert split_words(" A man's coat, red… (old)! + 一把椅子。 🪑 ") == [
        "A",
        "man's",
        "coat",
        "red",
        "old",
        "一把椅子",
        "🪑",
    ]
    assert [is_foreign(word) for word in ("椅子", "стул", "brûlée", "T恤", "42", "🪑")] == [True, True, *[False] * 4]


def test_unknown_tokens_and_words_spelt_letter_by_letter_are_told(bert):
    assert bert.unknown_words("a man in a red coat") == ()
    assert bert.unknown_words(["a red 椅子!", "hamster on the beach", "a red 椅子"]) == ("椅子", "hamster")


def test_a_text_of_which_no_word_is_known_is_refused_articles_aside(bert):
    assert bert.check_words("a red hamster") == ("hamster",)
    for text in ("a hamster", "一把椅子"):
        with pytest.raises(SightwordError, match=f"no word of '{text}' is in the vocabulary of") as caught:
            bert.check_words(["a man", text])
        assert "\n" not in str(caught.value)


def test_byte_pairs_know_every_word_but_those_without_a_latin_letter(clip):
    assert clip.unknown_words("a crème brûlée, a unicorn and a 🪑") == ()
    assert clip.unknown_words("a red 椅子 или стул") == ("椅子", "или", "стул")
    assert not clip.is_unknown("一把椅子")  # a warning, not an error: a large CLIP has read some


def test_words_whose_vectors_were_never_trained_are_unknown_to_a_clip(random_clip):
    text = CLIP.load(random_clip[0]).text
    assert text.unknown_words("a red chair") == ()
    (chair,) = text.tokenizer.bpe.encode("chair")
    with torch.no_grad():
        text.text.token_embedding.weight[chair] = 0
    assert text.untrained() == {chair}
    assert text.unknown_words("a red chair") == ("chair",)
    with pytest.raises(SightwordError, match="no word of 'a chair' is in"):
        text.check_words("a chair")


def test_the_line_counts_the_words_and_names_the_first_of_them():
    assert unknown_line(()) == ""
    assert unknown_line(("unicorn",)) == "1 word not known: unicorn"
    assert unknown_line(("unicorn", "mauve")) == "2 words not known: unicorn, mauve"
    assert unknown_line([f"w{n}" for n in range(12)]).endswith("w9 and 2 more")
    assert "use the language of its captions" in unknown_line(("一把椅子",))
