"""The five vocabularies as they are shipped, and those that users bring."""

import json

import pytest

from sightword.systems.intent import vocabulary
from sightword.systems.intent.config import STREAMS
from sightword.systems.intent.vocabulary import in_turns, read_folder, read_vocabulary, vocabularies

SPORTS = {
    "stream": "sports",
    "size": 8,
    "templates": {"noun": ["a photo of {}", "{} on a poster"], "action": "a photo of a person {}"},
    "classes": [
        "Chess",
        {"id": 7, "name": "ice_hockey", "raw": "Ice_Hockey", "words": {"noun": ["ice hockey", "puck"]}},
        {"name": "sailing", "words": {"action": ["sailing"]}},
    ],
}


@pytest.fixture
def write(tmp_path):
    def write(told, name="mine.json"):
        (tmp_path / name).write_text(told if isinstance(told, str) else json.dumps(told))
        return tmp_path / name

    return write


def test_the_five_have_the_counts_and_sizes_of_the_document():
    found = vocabularies()
    assert tuple(found) == STREAMS
    assert {stream: (len(one.classes), one.size) for stream, one in found.items()} == {
        "coco": (80, 256),
        "places": (365, 512),
        "emotion": (7, 128),
        "ava": (14, 256),
        "actions": (40, 256),
    }
    assert all(len(entry.words) == 28 for entry in found["emotion"].classes)
    assert [stream for stream, one in found.items() if one.by_words] == ["emotion"]


def test_classes_keep_the_ids_and_names_of_their_data_sets():
    found = vocabularies()
    coco = [entry.id for entry in found["coco"].classes]
    assert (coco[0], coco[-1], coco == sorted(set(coco))) == (1, 90, True)
    assert [entry.id for entry in found["places"].classes] == list(range(365))
    assert found["places"].classes[8][:3] == (8, "outdoor apartment building", "/a/apartment_building/outdoor")
    assert next(entry for entry in found["actions"].classes if entry.id == 6).raw == "cutting_trees"
    assert [entry.raw for entry in found["ava"].classes if entry.id == 3] == ["HDR"]
    assert len({entry.name.casefold() for entry in found["places"].classes}) == 365


@pytest.mark.parametrize("stream", STREAMS)
def test_every_prompt_has_the_documents_form(stream):
    one = vocabularies([stream])[stream]
    for entry in one.classes:
        for word, prompt in zip(in_turns(entry.words), one.word_prompts(entry), strict=True):
            start = {"noun": "a photo of ", "quality": "a photo with ", "action": "a photo of a person "}
            if word.pos == "adjective":
                article = "an" if word.text[0] in "aeiou" else "a"
                assert prompt == f"a photo of {article} {word.text} person"
            else:
                assert prompt == start[word.pos] + word.text
        assert one.prompt(entry) == one.word_prompts(entry)[0]
        assert not set("_/{}") & set("".join(one.template_prompts(entry)))


def test_the_prompts_are_what_a_person_would_write():
    found = vocabularies()
    prompts = {stream: [one.prompt(entry) for entry in one.classes] for stream, one in found.items()}
    assert prompts["coco"][0] == "a photo of person"
    assert prompts["places"][0] == "a photo of airfield"
    assert prompts["ava"][2] == "a photo of High Dynamic Range"
    assert "a photo of a person talking on the phone" in prompts["actions"]
    assert found["emotion"].word_prompts(found["emotion"].classes[0])[:4] == [
        "a photo of joy",
        "a photo of a happy person",
        "a photo of delight",
        "a photo of a cheerful person",
    ]


@pytest.mark.parametrize("stream", [stream for stream in STREAMS if stream != "emotion"])
def test_there_are_wordings_enough_for_every_code_and_none_is_said_of_two_classes(stream):
    one = vocabularies([stream])[stream]
    prompts = [prompt for entry in one.classes for prompt in one.template_prompts(entry)]
    assert len(prompts) >= one.size
    assert len(set(prompts)) == len(prompts)
    for entry in one.classes:
        assert one.template_prompts(entry)[0] == one.prompt(entry)


def test_extra_names_become_classes_with_the_next_ids():
    found = vocabularies(["coco", "actions"], extra={"actions": ["surfing", "riding_wave"], "coco": ["umbrella stand"]})
    *_, surfing, wave = found["actions"].classes
    assert (surfing.id, surfing.name, wave.id, wave.name) == (40, "surfing", 41, "riding wave")
    assert found["actions"].prompt(wave) == "a photo of a person riding wave"
    assert found["coco"].classes[-1].id == 91


def test_a_spare_class_brings_its_words():
    assert "contempt" not in {entry.name for entry in vocabularies(["emotion"])["emotion"].classes}
    last = vocabularies(["emotion"], extra={"emotion": ["Contempt"]})["emotion"].classes[-1]
    assert (last.id, last.name, len(last.words)) == (7, "contempt", 18)


def test_a_users_file_is_one_more_stream(write):
    found = vocabularies(files=[write(SPORTS)])
    assert tuple(found) == (*STREAMS, "sports")
    sports = found["sports"]
    assert [(entry.id, entry.name, entry.raw) for entry in sports.classes] == [
        (0, "Chess", "Chess"),
        (7, "ice hockey", "Ice_Hockey"),
        (8, "sailing", "sailing"),
    ]
    assert [sports.prompt(entry) for entry in sports.classes] == [
        "a photo of Chess",
        "a photo of ice hockey",
        "a photo of a person sailing",
    ]
    assert sports.template_prompts(sports.classes[1]) == [
        "a photo of ice hockey",
        "a photo of puck",
        "ice hockey on a poster",
        "puck on a poster",
    ]


def test_a_users_file_replaces_a_stream_of_its_name(write):
    found = vocabularies(["ava", "coco"], [write({**SPORTS, "stream": "coco"})])
    assert list(found) == ["ava", "coco"]
    assert found["coco"].classes[0].name == "Chess"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["Ice hockey", "sailing", "ice  HOCKEY"]}, ["'Ice hockey' (id 0)", "'ice HOCKEY' (id 2)"]),
        ({"classes": [{"id": 1, "name": "one"}, {"id": 1, "name": "two"}]}, ["'one' (id 1)", "'two' (id 1)"]),
        (
            {"classes": ["joy", {"name": "glee", "words": {"noun": ["glee", "Joy"]}}]},
            ["noun 'Joy' twice", "'joy' (id 0)", "'glee' (id 1)"],
        ),
    ],
)
def test_doubles_are_refused_with_both_names(write, change, words):
    with pytest.raises(ValueError) as refused:
        read_vocabulary(write({**SPORTS, **change}))
    assert all(word in str(refused.value) for word in ["mine.json", "sports", *words])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ('{"stream": ', "ends in the middle of its JSON"),
        ([1], "expected an object, got a list"),
        ({key: value for key, value in SPORTS.items() if key != "classes"}, "no classes"),
        ({**SPORTS, "stream": "My Sports"}, "'My Sports'"),
        ({**SPORTS, "size": "many"}, 'size: expected a whole number from 1 on, got "many"'),
        ({**SPORTS, "size": True}, "size: expected a whole number from 1 on, got true"),
        ({**SPORTS, "expand": "noise"}, 'expand: expected one of words, got "noise"'),
        ({**SPORTS, "template": "x"}, "template: unknown field; did you mean templates?"),
        ({**SPORTS, "templates": {}}, "templates"),
        ({**SPORTS, "templates": {"noun": ["a photo of it"]}}, "'a photo of it'"),
        (
            {**SPORTS, "templates": {"noun": "a photo of {}"}},
            "classes[2].words.action: there are templates for noun only",
        ),
        ({**SPORTS, "classes": []}, "empty"),
        ({**SPORTS, "classes": [" _ "]}, "' _ '"),
        ({**SPORTS, "classes": [3]}, "classes[0]: expected an object, got 3"),
        (
            {**SPORTS, "classes": [{"id": "x", "name": "y"}]},
            'classes[0].id: expected a whole number from 0 on, got "x"',
        ),
        ({**SPORTS, "classes": [{"name": "y", "words": ["z"]}]}, "words"),
        (
            {**SPORTS, "classes": [{"name": "y", "words": {"noun": []}}]},
            "classes[0].words.noun: expected a list of at least 1",
        ),
        ({**SPORTS, "classes": "chess"}, "chess"),
    ],
)
def test_a_damaged_vocabulary_is_one_line(write, told, words):
    with pytest.raises(ValueError) as refused:
        read_vocabulary(write(told))
    assert "mine.json" in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_or_unreadable_vocabulary_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        read_vocabulary(tmp_path / "none.json")
    (tmp_path / "coco.json").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(vocabulary, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"coco\.json: is UTF-16, expected UTF-8"):
        vocabularies(["coco"])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"streams": ["coco", "paces"]}, "'paces'; the streams are coco, places"),
        ({"streams": ["coco", "coco"]}, "'coco' twice"),
        ({"extra": {"sport": ["chess"]}}, "'sport'"),
        ({"streams": ["coco"], "extra": {"actions": ["surfing"]}}, "leaves out"),
        ({"extra": {"actions": ["Running"]}}, "'running' .*'Running'"),
        ({"extra": {"actions": [" "]}}, "a name to add"),
    ],
)
def test_wrong_requests_are_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        vocabularies(**asked)


def test_two_files_of_one_stream_are_refused(write):
    with pytest.raises(ValueError, match="stream 'sports'"):
        vocabularies(files=[write(SPORTS), write(SPORTS, "other.json")])


def test_a_folder_of_vocabularies_is_read_whole(tmp_path):
    with pytest.raises(ValueError, match="has no JSON or text file"):
        read_folder(tmp_path)
    for stream in ("tools", "fruit"):
        told = {"stream": stream, "size": 2, "templates": {"word": ["a {}"]}, "classes": [f"{stream} one"]}
        (tmp_path / f"{stream}_of_mine.json").write_text(json.dumps(told))
    assert read_folder(tmp_path) == {name: tmp_path / f"{name}_of_mine.json" for name in ("fruit", "tools")}
