"""Anchors: how codebooks are filled, that rows and labels agree, the two files, and the command that writes them."""

import json
import math
import warnings
from collections import Counter

import pytest
import torch
from made import write_clip
from safetensors.torch import load_file, save_file

from sightword.cli.main import main
from sightword.ops.nearest import unit
from sightword.systems.intent.anchors import Anchors, Book, generate_semantic_anchors
from sightword.systems.intent.vocabulary import vocabularies, with_article
from sightword.towers.factory import image_tower, text_tower

SMALL = {"coco": 90, "places": 370, "emotion": 30, "ava": 20, "actions": 50}


@pytest.fixture(scope="module")
def tower(random_clip):
    return text_tower(random_clip[0]).freeze()


@pytest.fixture(scope="module")
def anchors(tower):
    return made(tower)


def made(tower, streams=(), **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # networks of random weights hardly tell words apart
        return generate_semantic_anchors(tower, streams, **options)


def encoded(tower, prompts):
    with torch.no_grad():
        return unit(tower.encode(list(prompts)).pooled)


def test_the_file_has_the_documents_literal_shape(anchors, tower, tmp_path):
    file = anchors.write(tmp_path / "anchors")
    assert file == tmp_path / "anchors" / "semantic_anchors.pth"
    plain = torch.load(file, weights_only=True)
    assert type(plain) is dict
    assert {stream: tuple(codes.shape) for stream, codes in plain.items()} == {
        "coco": (256, 24),
        "places": (512, 24),
        "emotion": (128, 24),
        "ava": (256, 24),
        "actions": (256, 24),
    }
    for codes in plain.values():
        assert codes.dtype == torch.float32
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(len(codes)))
    assert sum(codes.untyped_storage().nbytes() for codes in plain.values()) == 1408 * 24 * 4


def test_every_class_has_its_share_and_the_rest_goes_by_the_seed(anchors, tower):
    rest = {}
    for seed, one in ((0, anchors), (1, made(tower, seed=1))):
        for stream, book in one.books.items():
            counts = Counter(book.class_ids)
            fair, left = divmod(len(book.codes), len(counts))
            assert len(counts) == len(vocabularies([stream])[stream].classes)
            assert Counter(counts.values()) == {fair: len(counts) - left, fair + 1: left}
            rest[stream, seed] = [id_ for id_, count in counts.items() if count > fair]
    for stream in anchors.books:
        ids = sorted(set(anchors[stream].class_ids))
        assert rest[stream, 0] != ids[: len(rest[stream, 0])]  # not those that come first in the alphabet
    assert any(rest[stream, 0] != rest[stream, 1] for stream in anchors.books)


def test_the_first_code_of_a_class_is_its_prompts_vector_and_copies_are_turned_by_the_noise(anchors, tower):
    for stream in ("coco", "places", "ava", "actions"):
        one, book = vocabularies([stream])[stream], anchors[stream]
        prompts = {entry.id: one.prompt(entry) for entry in one.classes}
        assert book.prompts == [prompts[id_] for id_ in book.class_ids]
        cosines = (book.codes * encoded(tower, book.prompts)).sum(1)
        clean = torch.tensor(book.copies) == 0
        torch.testing.assert_close(cosines[clean], torch.ones(int(clean.sum())))
        turned = torch.full((int((~clean).sum()),), 1 / math.sqrt(1 + 0.1**2))
        torch.testing.assert_close(cosines[~clean], turned, rtol=0, atol=1e-5)
        assert len(book.codes.unique(dim=0)) == len(book.codes)


@pytest.mark.parametrize("noise", [0.05, 0.5, 2.0])
def test_the_noise_is_relative(tower, noise):
    book = made(tower, streams=["ava"], noise=noise)["ava"]
    cosines = (book.codes * encoded(tower, book.prompts)).sum(1)[torch.tensor(book.copies) > 0]
    torch.testing.assert_close(cosines, torch.full_like(cosines, 1 / math.sqrt(1 + noise**2)), rtol=0, atol=1e-5)


def test_copies_are_numbered_from_zero_and_stand_together(anchors):
    for book in anchors.books.values():
        for row, copy in enumerate(book.copies):
            if copy:
                assert (book.class_ids[row - 1], book.copies[row - 1]) == (book.class_ids[row], copy - 1)


def test_emotions_are_words_whatever_the_others_are(tower, anchors):
    one = vocabularies(["emotion"])["emotion"]
    words = {entry.id: one.word_prompts(entry) for entry in one.classes}
    for book in (anchors["emotion"], made(tower, streams=["emotion"], expand="none")["emotion"]):
        assert len(set(book.prompts)) == 128
        assert all(
            words[id_][copy] == p for id_, copy, p in zip(book.class_ids, book.copies, book.prompts, strict=True)
        )
        for id_ in words:
            own = [" person" in p for p, other in zip(book.prompts, book.class_ids, strict=True) if other == id_]
            assert abs(2 * sum(own) - len(own)) <= 1  # as many adjectives as nouns, of each emotion
        torch.testing.assert_close(book.codes, encoded(tower, book.prompts))


def test_the_emotions_of_the_document_are_in_their_codebook(anchors):
    """The specification lists these words, and 128 codes."""
    listed = {
        "happiness": ("joy", "delight", "cheerful", "happy", "pleased", "glad"),
        "sadness": ("sorrow", "grief", "melancholy", "unhappy"),
    }
    book = anchors["emotion"]
    said = set(zip(book.names, book.prompts, strict=True))
    for emotion, words in listed.items():
        for word in words:
            assert {(emotion, f"a photo of {word}"), (emotion, with_article("a photo of a {} person", word))} & said


def test_anchors_of_nouns_alone_that_were_written_before_still_open(tower, anchors, tmp_path):
    one = vocabularies(["emotion"])["emotion"]
    nouns = [(e, w.text) for e in one.classes for w in e.words if w.pos == "noun"]
    prompts = [f"a photo of {text}" for _, text in nouns]
    copies = [number % 18 for number in range(len(nouns))]
    book = Book(encoded(tower, prompts), [e.name for e, _ in nouns], [e.id for e, _ in nouns], copies, prompts)
    read = Anchors.read(Anchors({"emotion": book}, anchors.meta).write(tmp_path))
    assert read["emotion"].prompts == prompts
    assert read.check(tower) == []


def test_the_same_seed_gives_the_same_codes_whatever_else_is_made(tower, anchors):
    alone = made(tower, streams=["ava"])["ava"]
    assert torch.equal(alone.codes, anchors["ava"].codes)
    other = made(tower, streams=["ava"], seed=1)["ava"]
    assert not torch.equal(alone.codes, other.codes)


def test_no_expansion_is_one_code_a_class(tower):
    one = made(tower, streams=["coco", "actions"], expand="none")
    assert [len(book.codes) for book in one.books.values()] == [80, 40]
    assert set(one["coco"].copies) == {0}


def test_templates_are_other_wordings_of_the_class(tower):
    one = made(tower, streams=["ava", "actions"], expand="templates", sizes={"ava": 100})
    for stream, size in (("ava", 100), ("actions", 256)):
        book, words = one[stream], vocabularies([stream])[stream]
        assert len(book.codes) == len(set(book.prompts)) == size
        wordings = {entry.id: words.template_prompts(entry) for entry in words.classes}
        assert all(p == wordings[id_][n] for id_, n, p in zip(book.class_ids, book.copies, book.prompts, strict=True))
        torch.testing.assert_close(book.codes, encoded(tower, book.prompts))


def test_synonyms_need_words_enough(tower):
    book = made(tower, streams=["coco"], expand="synonyms", sizes={"coco": 80})["coco"]
    assert len(set(book.prompts)) == 80
    with pytest.raises(
        ValueError, match=r"coco has 80 words for 256 codes\. Pass sizes=coco:80 at most, or expand=noise"
    ):
        made(tower, streams=["coco"], expand="synonyms")


def test_a_class_with_few_words_leaves_its_share_to_the_others(tower):
    book = made(tower, streams=["emotion"], extra={"emotion": ["boredom"]})["emotion"]
    counts = Counter(book.names)
    assert len(book.codes) == 128
    assert counts.pop("boredom") == 1
    assert set(counts.values()) <= {18, 19}


def test_extra_names_and_a_users_stream_have_codes(tower, tmp_path):
    told = {
        "stream": "sports",
        "size": 7,
        "templates": {"noun": "a photo of {}"},
        "classes": ["chess", "ice hockey", "sailing"],
    }
    (tmp_path / "mine.json").write_text(json.dumps(told))
    one = made(
        tower,
        ["actions", "sports"],
        files=[tmp_path / "mine.json"],
        extra={"actions": ["surfing"], "sports": ["golf"]},
        sizes={"actions": 82},
    )
    assert Counter(one["actions"].names)["surfing"] == 2
    assert one["actions"].prompts[-1] == "a photo of a person surfing"
    assert one["actions"].class_ids[-1] == 40
    assert set(one["sports"].names) == {"chess", "ice hockey", "sailing", "golf"}
    assert len(one["sports"].codes) == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"expand": "copies"}, "expand='copies' is none of noise, synonyms, templates, none"),
        ({"noise": 0.0}, "noise=.* is not a fraction of the vector's length above 0"),
        ({"noise": float("nan")}, "noise=.* is not a fraction of the vector's length above 0"),
        ({"sizes": {"scenes": 4}}, "sizes names 'scenes'"),
        ({"streams": ["coco"], "sizes": {"places": 400}}, "sizes names 'places'; the streams are coco"),
        ({"sizes": {"coco": 79}}, "coco has 80 classes, more than sizes=coco:79 codes"),
        ({"sizes": {"coco": 0}}, "80 classes"),
        ({"sizes": {"emotion": 256}}, "emotion has 196 words for 256 codes\\. Pass sizes=emotion:196 at most$"),
        ({"expand": "none", "sizes": {"coco": 256}}, "coco has 80 classes for 256 codes"),
        ({"expand": "templates", "sizes": {"ava": 1000}}, "ava has 280 prompts for 1000 codes"),
    ],
)
def test_wrong_requests_are_refused(tower, options, words):
    with pytest.raises(ValueError, match=words):
        generate_semantic_anchors(tower, **options)


def test_texts_that_the_tower_cannot_tell_apart_are_refused_between_classes(tower, tmp_path):
    told = {"stream": "signs", "size": 2, "templates": {"noun": "a photo of {}"}, "classes": ["&amp;", "&"]}
    (tmp_path / "signs.json").write_text(json.dumps(told))  # CLIP's tokenizer reads HTML
    with pytest.raises(
        ValueError, match="signs: the text encoder gives 'a photo of &amp;' and 'a photo of &' the same vector"
    ):
        made(tower, ["signs"], files=[tmp_path / "signs.json"])


def test_and_given_once_within_a_class(tower, tmp_path):
    classes = [{"name": "and", "words": {"noun": ["&amp;", "&", "plus"]}}, {"name": "or"}]
    told = {"stream": "signs", "size": 3, "expand": "words", "templates": {"noun": "a photo of {}"}, "classes": classes}
    (tmp_path / "signs.json").write_text(json.dumps(told))
    book = made(tower, ["signs"], files=[tmp_path / "signs.json"])["signs"]
    assert book.prompts == ["a photo of &amp;", "a photo of plus", "a photo of or"]
    with pytest.raises(ValueError, match=r"signs has 3 prompts that the text encoder tells apart, for 4 codes"):
        made(tower, ["signs"], files=[tmp_path / "signs.json"], sizes={"signs": 4})


class Given:
    """A text tower of three words with chosen vectors."""

    name, embed_dim = "given", 3

    def __init__(self, *rows):
        self.rows = torch.tensor(rows)

    def encode(self, texts):
        order = ["chess", "golf", "polo"]
        rows = self.rows[[next(i for i, word in enumerate(order) if word in text) for text in texts]]
        return type("Encoded", (), {"pooled": 5 * rows})

    def unknown_words(self, texts):
        return ()

    def state_dict(self):
        return {"rows": self.rows}


@pytest.fixture
def games(tmp_path):
    told = {
        "stream": "games",
        "size": 60,
        "templates": {"noun": "a photo of {}"},
        "classes": ["chess", "golf", "polo"],
    }
    (tmp_path / "games.json").write_text(json.dumps(told))
    return {"streams": ["games"], "files": [tmp_path / "games.json"]}


def test_near_classes_and_too_much_noise_are_told(games):
    close = Given([1.0, 0, 0], [1.0, 0.1, 0], [0, 0, 1.0])
    with pytest.warns(UserWarning, match="games") as told:
        generate_semantic_anchors(close, noise=0.2, **games)
    lines = [str(line.message) for line in told]
    assert lines[0].startswith("games: 1 pairs of classes have a cosine above 0.98, the nearest 0.995")
    assert "'a photo of chess' and 'a photo of golf'" in lines[0]
    assert "codes are nearer to another class's words: take less noise" in lines[1]


def test_distinct_classes_are_not_warned_of(games):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = generate_semantic_anchors(Given([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]), **games)
    assert one["games"].copies.count(0) == 3


# ------------------------------------------------------------------------------------------------------ self-check


def test_rows_and_labels_agree(tower, anchors):
    assert anchors.check(tower) == []


@pytest.mark.parametrize("shift", [1, -3])
def test_the_check_names_labels_out_of_step(tower, anchors, shift):
    book = anchors["coco"]
    names, ids, said = (values[shift:] + values[:shift] for values in (book.names, book.class_ids, book.prompts))
    copies = book.copies[shift:] + book.copies[:shift]
    broken = Anchors({"ava": anchors["ava"], "coco": Book(book.codes, names, ids, copies, said)}, anchors.meta)
    failures = broken.check(tower)
    assert len(failures) >= 80
    assert all(line.startswith("coco ") and "\n" not in line for line in failures)
    assert any("a photo of bicycle" in line for line in failures)


def test_the_check_names_one_code_of_another_word(tower, anchors):
    book = anchors["emotion"]
    said = list(book.prompts)
    said[3], said[4] = said[4], said[3]  # of one class: only the vectors can tell
    failures = Anchors({"emotion": book._replace(prompts=said)}, anchors.meta).check(tower)
    assert [line.split()[:2] for line in failures] == [["emotion", "3"], ["emotion", "4"]]
    assert "is not the vector of" in failures[0]


def test_the_check_names_a_prompt_of_two_classes(tower, anchors):
    book = anchors["ava"]
    ids = [*book.class_ids[:-1], 99]
    failures = Anchors({"ava": book._replace(class_ids=ids)}).check(tower)
    assert len(failures) == 1
    assert failures[0].startswith("ava 255 ")


def test_codes_without_names_cannot_be_checked(tower):
    codes = unit(torch.randn(4, 24, generator=torch.Generator().manual_seed(0)))
    book = Book(codes, list("abcd"), [0, 1, 2, 3], [0] * 4, [""] * 4)
    with pytest.raises(ValueError, match="contains no prompts"):
        Anchors({"mine": book}).check(tower)


# ----------------------------------------------------------------------------------------------------------- files


def equal(one, other):
    assert list(one.books) == list(other.books)
    for stream, book in one.books.items():
        assert torch.equal(book.codes, other[stream].codes)
        assert book[1:] == other[stream][1:]


@pytest.mark.parametrize("file", ["", "semantic_anchors.pth", "semantic_anchors.safetensors"])
def test_both_files_and_the_folder_read_back_exactly(anchors, tmp_path, file):
    anchors.write(tmp_path)
    read = Anchors.read(tmp_path / file)
    equal(anchors, read)
    assert {key: read.meta[key] for key in anchors.meta} == anchors.meta
    assert read.source == str(tmp_path / (file or "semantic_anchors.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["semantic_anchors.pth", "semantic_anchors.safetensors"]


def test_what_made_them_is_noted(anchors, random_clip, tmp_path):
    anchors.write(tmp_path / "mine.pth")
    meta = Anchors.read(tmp_path / "mine.pth").meta
    assert (meta["tower"], meta["dim"], meta["expand"], meta["noise"], meta["seed"]) == (
        str(random_clip[0]),
        24,
        "noise",
        0.1,
        0,
    )
    assert meta["templates"]["coco"]["noun"][0] == "a photo of {}"
    assert len(meta["digest"]) == 16


def test_a_plain_file_of_other_people_is_read_without_names(tmp_path):
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).half()
    torch.save({"coco": rows, "places": 2 * rows}, tmp_path / "semantic_anchors.pth")
    read = Anchors.read(tmp_path)
    assert list(read.books) == ["coco", "places"]
    assert read["coco"].names == ["coco 0", "coco 1", "coco 2"]
    assert read["coco"].class_ids == [0, 1, 2]
    torch.testing.assert_close(read["places"].codes, unit(rows.float()))
    assert read.dim == 8
    assert read.meta == {}
    read.check_fits(8)


def test_names_of_other_codes_are_not_taken(anchors, tmp_path):
    anchors.write(tmp_path)
    codes = dict(anchors.tensors()) | {"coco": anchors["coco"].codes.flip(0)}
    torch.save(codes, tmp_path / "semantic_anchors.pth")
    assert Anchors.read(tmp_path / "semantic_anchors.pth")["coco"].names[0] == "coco 0"


def test_safetensors_of_others_are_read_too(tmp_path):
    save_file({"coco": torch.eye(3)}, tmp_path / "codes.safetensors")
    assert Anchors.read(tmp_path / "codes.safetensors")["coco"].names[2] == "coco 2"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"coco": torch.tensor([[1.0, float("nan")], [1.0, 0.0]])}, "coco of .* has 1 rows that are not finite"),
        ({"coco": torch.tensor([[1.0, float("inf")]])}, "not finite"),
        ({"coco": torch.ones(3)}, r"coco of .*: expected floats \(K, D\), got torch.float32 \(3,\)"),
        ({"coco": torch.ones(2, 3, 4)}, r"\(2, 3, 4\)"),
        ({"coco": torch.ones(2, 3, dtype=torch.int64)}, "torch.int64"),
        ({"coco": torch.ones(0, 3)}, r"\(0, 3\)"),
        ({"coco": torch.eye(3)[:2] * torch.tensor([[1.0], [0.0]])}, "1 rows of zeros"),
        ({"coco": torch.ones(2, 3), "places": torch.ones(2, 4)}, r"differ in dimension \(coco 3, places 4\)"),
        ({"coco": "words"}, "contains no tensors"),
        ([torch.ones(2, 3)], "not a dictionary"),
    ],
)
def test_files_that_are_no_anchors_are_refused_in_one_line(tmp_path, content, words):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=words) as refused:
        Anchors.read(tmp_path / "bad.pth")
    assert "bad.pth" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("{", "metadata of .*ends in the middle of its JSON.*are damaged"),
        ("[]", "metadata of .*expected an object.*are damaged"),
        (json.dumps({"format": 2}), "format 2, this sightword reads 1"),
        (json.dumps({"books": {"places": {}}}), "codes of coco and the names of places"),
        (json.dumps({"books": {"coco": {"labels": []}}}), "are damaged"),
        (
            json.dumps({"books": {"coco": {"names": ["a"], "class_ids": [0], "copies": [0], "prompts": ["a"]}}}),
            "3 codes and 1 names",
        ),
    ],
)
def test_damaged_names_are_refused(tmp_path, told, words):
    save_file({"coco": torch.eye(3)}, tmp_path / "bad.safetensors", metadata={"anchors": told})
    with pytest.raises(ValueError, match=words) as refused:
        Anchors.read(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(refused.value)


def test_missing_and_cut_files_are_refused(anchors, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has no semantic_anchors\.pth: sightword anchors tower=… out=.* writes it"
    ):
        Anchors.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Anchors.read(tmp_path / "none.pth")
    file = anchors.write(tmp_path)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged"):
        Anchors.read(file)
    with pytest.raises(ValueError, match="has no stream 'scenes'; it has coco, places"):
        anchors["scenes"]


def test_anchors_fit_only_the_tower_that_made_them(anchors, tower, random_clip, tmp_path):
    anchors.check_fits(tower)
    anchors.check_fits(image_tower(random_clip[0]))
    with pytest.raises(
        ValueError, match=r"has dimension 24, made by .*small; vit_l14 has dimension 768: .*sightword anchors"
    ):
        anchors.check_fits(768, "vit_l14")
    write_clip(tmp_path / "wide", embed_dim=32)
    with pytest.raises(ValueError, match=rf"dimension 24, made by .*small; {tmp_path / 'wide'} has dimension 32"):
        anchors.check_fits(image_tower(tmp_path / "wide"))
    other = text_tower(random_clip[0])
    other.text.ln_final.bias.data += 1
    with pytest.raises(ValueError, match=rf"with the weights {anchors.meta['digest']}, those of .* are [0-9a-f]{{16}}"):
        anchors.check_fits(other)


def test_published_towers_are_told_apart_by_name_and_folders_are_not(anchors, random_clip):
    seen = image_tower(random_clip[0])
    published = Anchors(anchors.books, {**anchors.meta, "tower": "ViT-H-14:laion2b_s32b_b79k", "local": False})
    published.check_fits(seen)
    seen.name = "ViT-H-14-quickgelu:dfn5b"
    with pytest.raises(ValueError, match="made by ViT-H-14:laion2b_s32b_b79k, this is ViT-H-14-quickgelu:dfn5b"):
        published.check_fits(seen)
    seen.name = "ViT-H-14:laion2b_s32b_b79k"
    published.check_fits(seen)
    anchors.check_fits(seen)


# ------------------------------------------------------------------------------------------------------------ command


def command(*words):
    return main(["anchors", *words])


def test_the_command_writes_both_files_and_says_what_and_what_next(random_clip, tmp_path, capsys):
    sizes = ",".join(f"{stream}:{size}" for stream, size in SMALL.items())
    words = [f"tower={random_clip[0]}", f"out={tmp_path / 'anchors'}", f"sizes={sizes}", "extra=actions:riding wave"]
    assert command(*words) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith("  ")]
    assert rows == [
        ["stream", "classes", "codes", "dimension"],
        ["coco", "80", "90", "24"],
        ["places", "365", "370", "24"],
        ["emotion", "7", "30", "24"],
        ["ava", "14", "20", "24"],
        ["actions", "41", "50", "24"],
    ]
    file = tmp_path / "anchors" / "semantic_anchors.pth"
    assert "every prompt's nearest code is of its own class" in said
    assert f"written to {file}" in said
    assert f"next: sightword cache tower={random_clip[0]} images=" in said
    assert f"sightword ids anchors={file} tokens=" in said
    assert {stream: len(codes) for stream, codes in load_file(file.with_suffix(".safetensors")).items()} == SMALL
    assert "riding wave" in Anchors.read(file)["actions"].names


def test_the_command_gives_the_same_bytes_again(random_clip, tmp_path):
    for name in ("one", "two"):
        out = f"out={tmp_path / name / 'semantic_anchors.pth'}"
        assert command(f"tower={random_clip[0]}", out, "streams=coco,emotion", "expand=templates", "seed=3") == 0
    for suffix in ("pth", "safetensors"):
        one, two = ((tmp_path / name / f"semantic_anchors.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two


def test_the_command_takes_a_users_vocabulary(random_clip, tmp_path, games, capsys):
    file = games["files"][0]
    assert command(f"tower={random_clip[0]}", f"out={tmp_path}", "streams=games", f"vocabulary={file}") == 0
    assert ["games", "3", "60", "24"] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sizes=coco"], "sizes='coco' is not a list of name:count"),
        (["sizes=coco:many"], "sizes='coco:many' is not a list of name:count"),
        (["sizes=coco:4"], "coco has 80 classes"),
        (["extra=surfing"], "extra='surfing' is not a list of name:value"),
        (["extra=sports:surfing"], "extra names 'sports'"),
        (["extra=actions:running"], "'running'"),
        (["streams=coco,scenes"], "streams names 'scenes'"),
        (["vocabulary=none.json"], "none.json does not exist"),
        (["expand=copy"], "expand='copy' is not one of noise, synonyms"),
        (["noise=-1"], "noise=-1.0 is not a fraction"),
        (["batch_size=0"], "batch_size='0' is not a whole number from 1 on"),
        (["size=4"], "did you mean 'sizes'?"),
    ],
)
def test_a_mistake_is_one_line_before_a_tower_is_opened(tmp_path, capsys, words, said):
    assert command("tower=vit_h14", f"out={tmp_path / 'out'}", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_encoder_of_texts_alone_is_refused(tower):
    from sightword.towers.bert import BertText

    lonely = BertText.__new__(BertText)
    torch.nn.Module.__init__(lonely)
    lonely.name = "bert_base"
    with pytest.raises(ValueError, match="bert_base encodes texts only"):
        generate_semantic_anchors(lonely)


def test_the_command_writes_nothing_that_fails_its_check(random_clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Anchors, "check", lambda *_: [f"coco {row} is wrong" for row in range(5)])
    assert command(f"tower={random_clip[0]}", f"out={tmp_path / 'out'}", "streams=coco") == 2
    assert "coco 0 is wrong; coco 1 is wrong; coco 2 is wrong and 2 more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
