"""CLIP's byte pairs are open_clip's, id for id."""

import pickle

import open_clip
import pytest

from sightword.towers.clip.byte_pair import BytePairs

TEXTS = [
    "a photo of a cat",
    "  Two DOGS,\ta couch\nand it's 2,500 cm long!!  ",
    "naïve café — “quoted” ﬁne…",
    "schÃ¶n &amp;amp; gut &lt;b&gt;",
    "狗和猫 собака 🐕‍🦺 ½ ٣",
    "<start_of_text> in the middle <END_OF_TEXT>",
    "under_score don't y'all've",
    "tab\x0bform\x0cfeed\x1funit\x00nul",
    "antidisestablishmentarianism floccinaucinihilipilification aaaaaaaaaaaa",
    "",
]


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_encoded_as_open_clip_encodes_them(text, clean):
    ours, theirs = BytePairs(clean), open_clip.SimpleTokenizer(clean=clean)
    ids = theirs.encode(text)
    assert ours.encode(text) == ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)


def test_the_special_ids_are_open_clips_and_a_copy_in_another_process_is_the_same():
    ours, theirs = BytePairs(), open_clip.SimpleTokenizer()
    assert (ours.vocab_size, ours.all_special_ids) == (theirs.vocab_size, theirs.all_special_ids)
    assert (ours.sot_token_id, ours.eot_token_id) == (theirs.sot_token_id, theirs.eot_token_id)
    assert pickle.loads(pickle.dumps(ours)).encode(TEXTS[1]) == theirs.encode(TEXTS[1])
