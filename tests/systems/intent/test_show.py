"""What is shown is what was summed, and stands where it was seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.cli.main import main
from sightword.miniature.scene import OBJECTS, PLACES
from sightword.systems.intent import show
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.predict import ANCHORS, IntentClassifier
from sightword.systems.intent.task import make_task
from sightword.towers.factory import text_tower
from sightword.towers.prompt import class_embeddings

GREY, RED = (120, 118, 120), tuple(OBJECTS["car"].colour)


@pytest.fixture(scope="module")
def task(small_clip, tmp_path_factory):
    """The words of the small world, a head drawn at random."""
    text, books = text_tower(small_clip), {}
    for stream, words in {"coco": list(OBJECTS), "places": list(PLACES)}.items():
        codes = class_embeddings(text, words).repeat(2, 1)  # each word twice: copies are merged where words are shown
        ids = list(range(len(words)))
        books[stream] = Book(codes, words * 2, ids * 2, [0] * len(ids) + [1] * len(ids), words * 2)
    file = Anchors(books).write(tmp_path_factory.mktemp("anchors") / ANCHORS)
    torch.manual_seed(0)
    made = make_task(IntentConfig(semantic_anchors_path=str(file), tower=str(small_clip)))
    torch.nn.init.normal_(made.model.head.weight)
    made.model.norm.running_var.uniform_(0.1, 1)
    return made.eval()


@pytest.fixture(scope="module")
def picture():
    """Grey, with a red quarter at the top left."""
    pixels = np.full((64, 64, 3), GREY, np.uint8)
    pixels[:24, :24] = RED
    return Image.fromarray(pixels)


def test_the_parts_sum_to_the_logits(task, picture):
    inside = show.explain(task, picture)
    total = inside.bias + sum(part.sum((0, 1)) for part in inside.parts.values())
    torch.testing.assert_close(total, inside.logits, rtol=0, atol=1e-5)
    for intent in (0, 17):
        words = inside.terms(intent)
        assert sum(words.values()) + float(inside.bias[intent]) == pytest.approx(float(inside.logits[intent]), abs=1e-5)


def test_what_is_at_the_top_left_is_shown_at_the_top_left(task, picture):
    inside = show.explain(task, picture)
    car = inside.classes["coco"] == list(OBJECTS).index("car")
    assert car[:2, :2].all()
    assert not car[4:, 4:].any()
    turned = show.explain(task, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).classes["coco"]
    assert (turned == list(OBJECTS).index("car"))[:2, -2:].all()


def test_what_a_patch_adds_stands_where_its_word_does(task, picture):
    inside = show.explain(task, picture)
    for stream, codes in inside.codes.items():
        assert not torch.equal(codes, codes.T)
        torch.testing.assert_close(inside.parts[stream], task.model.table(stream)[codes] / codes.numel())
    places = show.as_json(inside)["intents"]["Happy"]["places"]
    total = sum(task.model.table(stream)[codes] / codes.numel() for stream, codes in inside.codes.items())
    torch.testing.assert_close(torch.tensor(places), total[..., CLASSES.index("Happy")])


def test_get_code_indices_has_the_same_maps(task, picture):
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    found = show.get_code_indices(task, images)
    inside = show.explain(task, picture)
    for stream in ("coco", "places"):
        assert torch.equal(found[stream]["codes"][0], inside.codes[stream])
        assert torch.equal(found[stream]["classes"][0], inside.classes[stream])
        words = {"coco": OBJECTS, "places": PLACES}[stream]
        assert torch.equal(found[stream]["classes"], found[stream]["codes"] % len(words))


def test_with_adapters_the_words_shown_are_those_that_were_summed(task, picture):
    """One adapter is drawn at random, so that its words are not the nearest of the tower's own tokens."""
    torch.manual_seed(1)
    system = replace(task.config, adapter=True)
    adapted = make_task(system)
    torch.nn.init.normal_(adapted.model.adapters["coco"].weight)
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    before = adapted.model.norm.running_mean.clone()
    found = show.get_code_indices(adapted, images)
    assert torch.equal(adapted.model.norm.running_mean, before)
    inside = show.explain(adapted.eval(), picture)
    assert torch.equal(found["coco"]["codes"][0], inside.codes["coco"])
    assert not torch.equal(inside.codes["coco"], show.explain(task, picture).codes["coco"])
    assert inside.margins["coco"].min() >= -1e-6  # the word is the nearest of what it was looked up in


def test_a_tower_that_the_anchors_are_not_of_is_refused_where_pictures_are_read(task, picture, random_clip):
    system = replace(task.config, tower=str(random_clip[0]))
    images = torch.zeros(1, 3, 64, 64)
    for read in (lambda other: show.explain(other, picture), lambda other: show.get_code_indices(other, images)):
        with pytest.raises(ValueError, match=r"dimension 64, made by .* dimension 24: write anchors for this encoder"):
            read(make_task(system).eval())


def test_every_stream_has_its_panel_and_its_sum(task, picture, monkeypatch):
    inside = show.explain(task, picture)
    five = {f: {**value, **dict.fromkeys(("emotion", "ava", "actions"), value["coco"])} for f, value in _maps(inside)}
    inside = inside._replace(**five)
    assert inside.streams == ["coco", "places", "emotion", "ava", "actions"]
    assert show.reasons(inside).height > show.reasons(show.explain(task, picture)).height  # a line for each stream
    panels = []
    monkeypatch.setattr(show, "titled", lambda shown, **_: panels.append([*shown]) or Image.new("RGB", (9, 9)))
    show.maps(inside)
    assert [name.split(":")[0] for name in panels[0]] == [
        "input of the encoder",
        *("things", "places", "emotions", "styles", "actions"),
    ]
    intent = CLASSES.index("Happy")
    total = sum(inside.by_stream(intent).values())
    assert total == pytest.approx(float(inside.places(intent).sum()), abs=1e-4)
    assert show.as_json(inside)["intents"]["Happy"]["title"] == "Be happy"


def _maps(inside):
    return [(name, getattr(inside, name)) for name in ("codes", "classes", "names", "margins", "parts")]


def test_red_and_blue_are_of_reasons_and_never_of_the_picture(task, picture):
    inside = show.explain(task, picture)
    nothing = {stream: torch.zeros_like(part) for stream, part in inside.parts.items()}
    page = np.asarray(show.reasons(inside._replace(parts=nothing), intents=1)).astype(int)
    assert np.ptp(page[40 : show.SIDE, : show.SIDE], axis=2).max() <= 3  # below the title: grey where the car is red


def test_words_that_are_all_listed_leave_no_line_for_others(task, picture, monkeypatch):
    lines = []
    monkeypatch.setattr(show.chart, "terms", lambda listed, *_: lines.append(listed) or Image.new("RGB", (300, 40)))
    show.reasons(show.explain(task, picture), intents=1, words=50)
    show.reasons(show.explain(task, picture), intents=1, words=1)
    assert not any("other word" in name for name in lines[0])
    assert sum("other word" in name for name in lines[2]) == 1  # after words and streams of the first


def test_pictures_train_as_their_tokens_do(task, picture):
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    tower = task.tower.on("cpu")
    tokens = {
        name: each.tokens for name, each in tower.token_types(tower.normalise(images), ["value", "joint"]).items()
    }
    targets = torch.zeros(1, 28)
    by_tower = task.logits(IntentBatch(targets, ["x"], images))
    by_cache = task.logits(IntentBatch(targets, ["x"], tokens=tokens, pooled=torch.zeros(1, 64)))
    torch.testing.assert_close(by_tower, by_cache)


def test_copies_of_a_word_are_one_word_and_margins_are_between_words(task, picture):
    inside = show.explain(task, picture)
    for margins in inside.margins.values():
        assert margins.min() >= -1e-6
        assert margins.max() > 0.01  # not between copies, which are equal


def test_the_command_writes_figures_and_their_numbers(task, picture, tmp_path, capsys):
    IntentClassifier.from_task(task).save_pretrained(tmp_path / "model")
    picture.save(tmp_path / "picture.png")
    words = [f"model={tmp_path / 'model'}", f"image={tmp_path / 'picture.png'}", f"out={tmp_path / 'show'}"]
    assert main(["show", *words]) == 0
    said = capsys.readouterr().out
    for name in (f"{each}.{kind}" for each in ("table", "maps", "reasons") for kind in ("png", "json")):
        assert (tmp_path / "show" / name).exists()
        assert name in said
    seen = json.loads((tmp_path / "show" / "maps.json").read_text())
    assert seen["streams"]["coco"]["words"][0][0] == "car"
    twin = json.loads((tmp_path / "show" / "reasons.json").read_text())
    for intent in twin["intents"].values():
        assert sum(intent["words"].values()) + intent["bias"] == pytest.approx(intent["logit"], abs=1e-5)
        assert np.sum(intent["places"]) + intent["bias"] == pytest.approx(intent["logit"], abs=1e-5)
    table = json.loads((tmp_path / "show" / "table.json").read_text())
    assert len(table["intents"]) == 28
    assert list(table["words"]["coco"]) == list(OBJECTS)


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["show", f"model={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
