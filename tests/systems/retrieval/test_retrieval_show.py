"""Strips of the best images, and what one changed word does to a score."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sightword.systems.retrieval import sensitivity as swaps
from sightword.systems.retrieval import strip as strips
from sightword.systems.retrieval.sensitivity import CONTROL, KINDS, probes_of, sensitivity, spread
from sightword.systems.retrieval.show import search
from sightword.systems.retrieval.split import Split
from sightword.systems.retrieval.strip import Shown, strip, wrapped
from sightword.viz.font import length
from sightword.viz.write import write_picture

CAPTION = "A man in an orange T-shirt and black trousers carries a red handbag in his left hand."


def tile(colour):
    return Image.new("RGB", (40, 120), colour)


def pixels(image, colour):
    wanted = np.array(Image.new("RGB", (1, 1), colour))[0, 0]
    return int((np.asarray(image) == wanted).all(-1).sum())


# ------------------------------------------------------------------------------------------------------------- strips


def test_right_is_green_and_wrong_is_red():
    right, wrong = (strip("a person", [Shown(tile("blue"), 0.5, known)]) for known in (True, False))
    assert pixels(right, strips.RIGHT) > 100 > pixels(right, strips.WRONG)
    assert pixels(wrong, strips.WRONG) > 100 > pixels(wrong, strips.RIGHT)
    unknown = strip("a person", [Shown(tile("blue"), 0.5)])
    assert pixels(unknown, strips.RIGHT) == pixels(unknown, strips.WRONG) == 0


def test_the_mark_tells_right_from_wrong_without_colour():
    right, wrong = (strips._tile(tile("blue"), "#000000", known) for known in (True, False))
    assert (np.asarray(right) != np.asarray(wrong)).any()


def test_a_long_sentence_is_wrapped_inside_the_strip():
    found = [Shown(tile("blue"), 0.5, True)] * 10
    short, long = strip("a person", found), strip(" ".join([CAPTION] * 4), found)
    assert long.width == short.width
    assert long.height > short.height
    lines = wrapped(" ".join([CAPTION] * 4), 300, 15)
    assert " ".join(lines).split() == " ".join([CAPTION] * 4).split()
    assert max(length(line, 15) for line in lines) <= 300


def test_a_word_wider_than_the_strip_is_cut():
    lines = wrapped("x" * 200, 100, 15)
    assert "".join(lines) == "x" * 200
    assert max(length(line, 15) for line in lines) <= 100


def test_an_unreadable_image_is_a_grey_tile(tmp_path):
    missing = Shown.of(tmp_path / "none.png", 0.3)
    assert missing.image is None
    assert strip("a person", [missing, Shown(tile("blue"), 0.2)]).height > strips.HEIGHT


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (300, 300)])
def test_any_shape_of_image_fits_the_strip(size):
    page = strip("a person", [Shown(Image.new("RGB", size, "blue"), 0.1, True)])
    assert page.width < 600
    assert pixels(page, "blue")


def test_queries_tell_the_right_images_and_have_a_json_twin(tmp_path):
    pids = np.array([1, 1, 2, 3])
    images = torch.eye(4)
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        tile("blue").save(file)
    texts = F.normalize(torch.tensor([[1.0, 0.5, 0.2, 0.1], [0, 0.1, 1.0, 0.9]]), dim=1)
    queries = search(Split("test", files, pids, ["one", "two"], np.array([0, 2])), texts, images, [1, 0], top=3)
    assert [query.caption for query in queries] == ["two", "one"]
    assert [right for _, _, right in queries[0].found] == [True, False, False]
    assert [right for _, _, right in queries[1].found] == [True, True, False]
    assert queries[1].found[0][0] == files[0]
    picture = strips.stacked([query.strip() for query in queries])
    written = write_picture(picture, tmp_path / "out" / "strips.png", [query.as_dict() for query in queries])
    assert json.loads(written[1].read_text())[1]["found"][2]["right"] is False
    assert Image.open(written[0]).size == picture.size


def test_captions_are_taken_evenly():
    assert spread(10, 3) == [0, 3, 6]
    assert spread(2, 5) == [0, 1]


# --------------------------------------------------------------------------------------------------------- word swaps


def test_each_kind_changes_one_word_and_nothing_else():
    for probe in probes_of([CAPTION] * 40):
        old, new = CAPTION.split(), probe.text.split()
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        words = [(a, b) for a, b in changed if a.lower() not in ("a", "an")]
        assert len(words) == 1, probe
        assert words[0][0].lower().strip(".") == probe.before
        assert words[0][1].lower().strip(".") == probe.after


def test_every_kind_is_found_and_a_synonym_is_no_change():
    probes = probes_of([CAPTION] * 60)
    assert {probe.kind for probe in probes} == {*KINDS, CONTROL}
    seen = {(probe.before, probe.after) for probe in probes if probe.kind == CONTROL}
    assert ("trousers", "pants") in seen
    assert not {("red", "crimson"), ("trousers", "pants")} & {(p.before, p.after) for p in probes if p.kind != CONTROL}
    assert {(p.before, p.after) for p in probes if p.kind == "side"} == {("left", "right")}


@pytest.mark.parametrize(
    ("caption", "word", "after", "told"),
    [
        ("An orange coat.", "orange", "red", "A red coat."),
        ("wears a red coat", "red", "orange", "wears an orange coat"),
        ("Red shoes", "Red", "blue", "Blue shoes"),
        ("a panda red", "red", "orange", "a panda orange"),
    ],
)
def test_articles_and_capitals_follow_the_new_word(caption, word, after, told):
    start = caption.index(word)
    assert swaps._replaced(caption, start, start + len(word), after) == told


@pytest.mark.parametrize("caption", ["a redhead with leftovers", "an off-white-ish, x-red thing", ""])
def test_parts_of_words_are_left_alone(caption):
    assert probes_of([caption]) == []


def test_probes_are_a_function_of_seed_and_caption():
    captions = [CAPTION] * 5
    assert probes_of(captions) == probes_of(captions)
    assert probes_of(captions, 1) != probes_of(captions)
    assert probes_of(captions)[: len(probes_of(captions[:3]))] == probes_of(captions[:3])


def reader(*weights):
    """Encodes a text by the words it has: one axis a word."""
    words = ["orange", "black", "red", "t-shirt", "trousers", "handbag", "left"]

    def encode(texts):
        rows = [[*(w * (word in text.lower()) for word, w in zip(words, weights, strict=True)), 1.0] for text in texts]
        return F.normalize(torch.tensor(rows), dim=1)

    return encode


def test_a_network_that_reads_colours_falls_by_colours_alone():
    encode = reader(1, 1, 1, 0, 0, 0, 0)
    found = sensitivity(encode, [CAPTION] * 30, encode([CAPTION] * 30))
    falls = {row["kind"]: row["fall"] for row in found.rows()}
    assert falls["side"] == falls["garment"] == falls["bag"] == pytest.approx(0, abs=1e-6)
    assert falls["colour"] == pytest.approx(1 - 3 / 12**0.5, abs=1e-6)
    row = found.rows()[0]
    assert (row["kind"], row["captions"], row["fell"]) == ("colour", 30, 1.0)
    assert found.metrics()["fall_colour"] == row["fall"]


def test_replacements_are_words_of_the_captions():
    captions = ["A man with a rucksack and pants.", "A woman with a purse and trousers."] * 20
    words = {kind: {probe.after for probe in probes_of(captions) if probe.kind == kind} for kind in ("bag", CONTROL)}
    assert words == {"bag": {"purse", "rucksack"}, CONTROL: {"trousers", "pants", "backpack", "handbag"}}


def test_only_what_is_read_falls_more_than_the_control_and_persons_are_drawn_not_captions():
    encode = reader(1, 1, 1, 0, 0, 0, 0)
    rows = {row["kind"]: row for row in sensitivity(encode, [CAPTION] * 30, encode([CAPTION] * 30)).rows()}
    control = rows["same meaning"]["fall"]  # "crimson" is none of the words that this network reads
    assert rows["colour"]["above"] == pytest.approx(rows["colour"]["fall"] - control, abs=1e-6)
    assert rows["colour"]["low"] > 0.01
    assert rows["garment"]["low"] <= 1e-6 >= rows["same meaning"]["low"]
    texts = [CAPTION, "A man in a red coat and sneakers."] * 15
    own = encode(texts) + 0.3 * torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    widths = []
    for persons in (np.arange(30), np.arange(30) // 15):  # thirty, and two with fifteen captions each
        row = sensitivity(encode, texts, own, persons=persons).rows()[0]
        widths.append(row["high"] - row["low"])
    assert widths[0] != widths[1]
    plain = ["a black coat"] * 3  # neither word has a synonym
    assert sensitivity(encode, plain, encode(plain)).rows()[0]["above"] is None


def test_the_twin_has_what_the_picture_shows():
    encode = reader(1, 1, 1, 1, 1, 1, 1)
    found = sensitivity(encode, [CAPTION, "A woman."] * 20, encode([CAPTION, "A woman."] * 20), most=10)
    twin = json.loads(json.dumps(found.as_dict()))
    assert [row["kind"] for row in twin["kinds"]] == [row["kind"] for row in found.rows()]
    assert sum(pair["captions"] for pair in twin["pairs"]) == len(twin["probes"]) == len(found.probes)
    assert {probe["caption"] for probe in twin["probes"]} == {CAPTION}
    picture = found.plot()
    assert picture.width == 860
    assert pixels(picture, strips.RIGHT) > 100


def test_captions_without_such_words_are_one_line():
    with pytest.raises(ValueError, match="none of 2 captions has a word to change"):
        sensitivity(reader(1, 1, 1, 1, 1, 1, 1), ["a person", "somebody"], torch.ones(2, 8))
