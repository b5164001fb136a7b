"""Captions as ids: cut, padded, mirrored, hidden."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sightword.data.loader import Draw
from sightword.systems.retrieval.data import IGNORED, Captions, Masking, mask_id, sides_swapped
from sightword.towers.tokenizer import CLIPTokenizer, TextTokenizer

WORDS = ("a", "man", "with", "bag", "in", "his", "left", "right", "hand", "red", "coat")


class Words(TextTokenizer):
    """A word is an id from 4 on; 0 pads, 1 ends, 2 begins, 3 is unknown and stands for what is hidden."""

    hf: "Words"

    def __init__(self, length: int = 12, fixed: bool = False) -> None:
        super().__init__(0, 1, length, 4 + len(WORDS), unknown=3, fixed=fixed)
        self.special, self.hf, self.mask_token_id = frozenset({0, 1, 2}), self, 3

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        return [[2, *(4 + WORDS.index(w) if w in WORDS else 3 for w in text.split()), 1] for text in texts]


TEXTS = ["a man with a bag in his left hand", "a red coat", "a man"]


def test_a_batch_is_what_the_tokenizer_gives() -> None:
    captions, tokenizer = Captions(TEXTS, Words()), Words()
    ids, mask = captions.batch([2, 0, 1])
    expected = tokenizer([TEXTS[2], TEXTS[0], TEXTS[1]])
    assert torch.equal(ids, expected.ids)
    assert torch.equal(mask, expected.mask)
    assert ids.dtype == torch.int64
    assert captions.batch([1, 2]).ids.shape == (2, 5)  # the longest of the batch, not of all
    assert captions.lengths.tolist() == [11, 5, 4]
    assert captions[2].tolist() == [2, 4, 5, 1]


def test_a_fixed_tokenizer_pads_to_its_length() -> None:
    assert Captions(TEXTS, Words(fixed=True)).batch([2]).ids.shape == (1, 12)
    short = Captions(TEXTS, Words(fixed=True), length=6)  # cut, and still as wide as the tower reads
    assert short.batch([0, 2]).mask.tolist() == [[True] * 6 + [False] * 6, [True] * 4 + [False] * 8]


def test_long_captions_are_cut_and_counted_and_end_as_they_should() -> None:
    tokenizer = Words()
    captions = Captions(TEXTS, tokenizer, length=5)
    assert captions.truncated == 1
    assert captions.batch([0]).ids.tolist() == [[2, 4, 5, 6, 1]]
    assert (tokenizer.length, tokenizer.truncated) == (12, 0)  # the tower's own is as it was
    with pytest.raises(ValueError, match=r"data\.text_length=13 is more than the 12 tokens"):
        Captions(TEXTS, tokenizer, length=13)


def test_a_caption_of_a_foreign_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="knows no word of 'ein Mann'"):
        Captions(["a man", "ein Mann"], Words())


def test_mirrored_captions_have_left_for_right_and_only_those() -> None:
    captions = Captions(TEXTS, Words(), mirrored=True)
    ids, _ = captions.batch([0, 1, 0], [True, True, False])
    straight = captions.batch([0, 1, 0]).ids
    assert ids[0].tolist() == Words()(TEXTS[0].replace("left", "right")).ids[0].tolist()
    assert torch.equal(ids[1:], straight[1:])
    assert len(captions) == 3


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("a bag in the left hand and right hand", "a bag in the right hand and left hand"),
        ("Left-handed, LEFT; leftover bright light", "Right-handed, RIGHT; leftover bright light"),
        ("a red coat", "a red coat"),
    ],
)
def test_sides_are_swapped_as_words(text: str, mirrored: str) -> None:
    assert sides_swapped(text) == mirrored
    assert sides_swapped(mirrored) == text


# ------------------------------------------------------------------------------------------------------ hidden tokens


def many(count: int = 4000) -> tuple[torch.Tensor, torch.Tensor, list[Draw]]:
    captions = Captions(TEXTS, Words())
    rows = np.arange(count) % 2
    return (*captions.batch(rows), [Draw(0, number) for number in range(count)])


def test_eight_in_ten_hidden_tokens_are_masks_one_is_any_token_and_one_stays() -> None:
    ids, real, draws = many()
    masking = Masking.of(Words(), 0.3)
    hidden, labels = masking(ids, real, draws, seed=1)
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(hidden[~chosen], ids[~chosen])
    assert not chosen[ids <= 2].any()  # neither special tokens nor padding
    assert chosen[0::2].sum() / (9 * 2000) == pytest.approx(0.3, abs=0.02)
    masked, same = hidden[chosen] == 3, hidden[chosen] == ids[chosen]
    assert masked.float().mean() == pytest.approx(0.8, abs=0.02)
    assert same.float().mean() == pytest.approx(0.1 + 0.1 / len(WORDS), abs=0.02)
    assert set(hidden[chosen][~masked & ~same].tolist()) == set(range(4, 4 + len(WORDS)))


def test_the_whole_caption_is_left_as_it_was() -> None:
    ids, real, draws = many(50)
    before = ids.clone()
    Masking.of(Words(), 0.5)(ids, real, draws, seed=1)
    assert torch.equal(ids, before)  # in IRRA the unmasked caption was overwritten


def test_one_token_is_always_hidden() -> None:
    ids, real, draws = many(200)
    _, labels = Masking.of(Words(), 1e-6)(ids, real, draws, seed=1)
    assert ((labels != IGNORED).sum(1) == 1).all()


def test_what_is_hidden_depends_on_seed_epoch_and_index_and_not_on_the_batch() -> None:
    captions, masking = Captions(TEXTS, Words()), Masking.of(Words(), 0.3)
    together = masking(*captions.batch([0, 1]), [Draw(3, 0), Draw(3, 1)], 7)
    alone = masking(*captions.batch([1]), [Draw(3, 1)], 7)
    assert torch.equal(together[0][1:, :5], alone[0])
    assert torch.equal(together[1][1:, :5], alone[1])
    rows = [masking(*captions.batch([0]), [draw], seed)[1][0].tolist() for draw in (Draw(3, 0), Draw(4, 0)) for seed in
            range(20)]  # fmt: skip
    assert len({tuple(row) for row in rows}) > 20


def test_the_hiding_token_is_the_tokenizers_own(tmp_path: Path) -> None:
    import open_clip

    from sightword.miniature import tower
    from sightword.towers.factory import text_tower

    clip = CLIPTokenizer(open_clip.SimpleTokenizer(), 77)
    assert mask_id(clip) == 49405  # IRRA's <|mask|>
    ordinary = Masking.of(clip, 0.1).ordinary
    assert not {0, 49405, 49406, 49407} & set(ordinary.tolist())
    assert len(ordinary) == 49404
    tower.write_t5(tmp_path / "t5", ["a red coat"])
    tower.write_bert(tmp_path / "bert", ["a red coat"])
    t5, bert = (text_tower(tmp_path / name).tokenizer for name in ("t5", "bert"))
    assert mask_id(t5) == t5.unknown
    assert mask_id(bert) == bert.hf.mask_token_id
    t5.hf.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    assert mask_id(t5) == t5.hf.convert_tokens_to_ids("<extra_id_0>")
