import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sightword.miniature.intent import ANNOTATORS, IMAGINED, INTENTS, MISSED, annotated, intents_of, write_intents
from sightword.miniature.scene import HELD_OUT, OBJECTS, PLACES, draw
from sightword.systems.intent.intentonomy import CLASSES, check_intentonomy, read_annotations

SIZES = {"train": 30, "val": 12, "test": 10}


@pytest.fixture(scope="module")
def scenes():
    return [draw(1, number, (8, 8)) for number in range(2000)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("intentonomy")
    write_intents(out, **SIZES)
    return out


def _content(folder, split):
    return json.loads((folder / f"intentonomy_{split}2020.json").read_text())


def test_the_intents_are_intentonomys_in_its_order():
    assert tuple(INTENTS) == CLASSES


def test_every_rule_fires_for_3_to_40_scenes_of_100(scenes):
    counts = Counter(intent for scene in scenes for intent in intents_of(scene))
    shares = {name: counts[id_] / len(scenes) for id_, name in enumerate(INTENTS)}
    assert min(shares.values()) > 0.03, shares
    assert max(shares.values()) < 0.4, shares


def test_every_scene_has_an_intent_and_many_have_several(scenes):
    counts = np.array([len(intents_of(scene)) for scene in scenes])
    assert counts.min() == 1
    assert 1.5 < counts.mean() < 3
    assert (counts > 1).mean() > 0.5


def test_most_intents_are_told_by_no_stream_alone(scenes):
    """For most rules, neither the place, nor the things, nor the action decides: the same one goes with and without."""
    streams = [lambda s: s.place, lambda s: frozenset(s.objects), lambda s: s.action]

    def decided(rule, stream):
        answers = {}
        for scene in scenes:
            answers.setdefault(stream(scene), set()).add(rule(scene))
        return all(len(both) == 1 for both in answers.values())

    needs_two = [name for name, rule in INTENTS.items() if not any(decided(rule, stream) for stream in streams)]
    assert len(needs_two) >= 20


def test_annotators_miss_what_is_there_now_and_then_and_seldom_see_what_is_not():
    rng = np.random.default_rng(0)
    votes = np.array([annotated((0, 19), rng) for _ in range(2000)])
    assert votes[:, [0, 19]].mean() / ANNOTATORS == pytest.approx(1 - MISSED, abs=0.02)
    imagined = np.delete(votes, [0, 19], 1)
    assert imagined.mean() / ANNOTATORS == pytest.approx(IMAGINED, rel=0.2)
    assert ((2 * votes > ANNOTATORS).sum(1) > 0).all()


def test_the_files_have_the_published_form(folder):
    for split, count in SIZES.items():
        content = _content(folder, split)
        assert list(content) == ["info", "categories", "images", "annotations"]
        assert set(content["info"]) == {"year", "version", "description", "date_created"}
        assert content["categories"] == [{"id": id_, "name": name} for id_, name in enumerate(CLASSES)]
        assert len(content["images"]) == len(content["annotations"]) == count
        assert [note["id"] for note in content["annotations"]] == list(range(count))
        assert [note["image_id"] for note in content["annotations"]] == [image["id"] for image in content["images"]]
        for image in content["images"]:
            assert list(image) == ["id", "filename", "original_id", "unsplash_url"]
            assert re.fullmatch("[0-9a-f]{32}", image["id"])
            assert image["filename"] == f"low/{image['id']}.jpg"
            assert f"photo-{image['original_id']}?ixid=" in image["unsplash_url"]
            assert Image.open(folder / image["filename"]).format == "JPEG"


def test_train_has_the_shares_of_three_annotators_and_the_others_what_most_said(folder):
    for note in _content(folder, "train")["annotations"]:
        assert set(note) == {"id", "image_id", "category_ids_softprob"}
        assert len(note["category_ids_softprob"]) == 28
    shares = [share for note in _content(folder, "train")["annotations"] for share in note["category_ids_softprob"]]
    assert set(shares) == {0.0, 1 / 3, 2 / 3, 1.0}
    for split in ("val", "test"):
        for note in _content(folder, split)["annotations"]:
            assert set(note) == {"id", "image_id", "category_ids"}
            assert note["category_ids"]
            assert set(note["category_ids"]) <= set(range(28))


def test_the_real_reader_and_its_check_find_it_whole(folder):
    report = check_intentonomy(str(folder))
    assert report.errors == []
    assert report.count == sum(SIZES.values())
    targets = read_annotations(folder / "intentonomy_train2020.json").targets
    assert targets.shape == (SIZES["train"], 28)


def test_no_picture_is_in_two_splits_and_each_can_be_drawn_again(folder):
    ids = [image["id"] for split in SIZES for image in _content(folder, split)["images"]]
    drawn = json.loads((folder / "drawn.json").read_text())
    assert list(drawn) == ids
    assert len(set(ids)) == len(ids) == len(list((folder / "low").iterdir()))
    for id_, said in list(drawn.items())[::7]:
        scene = draw(said["seed"], said["index"])
        assert (scene.place, list(scene.objects), scene.action) == (said["place"], said["objects"], said["action"])
        assert list(intents_of(scene)) == said["intents"]
        pixels = np.asarray(Image.open(folder / "low" / f"{id_}.jpg"), int)
        assert np.abs(pixels - scene.image).mean() < 4
        assert said["place"] in PLACES
        assert set(said["objects"]) <= set(OBJECTS)


def test_it_is_written_the_same_each_time_and_another_seed_is_another_world(folder, tmp_path):
    def files(root):
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.*")}

    write_intents(tmp_path / "again", **SIZES)
    assert files(folder) == files(tmp_path / "again")
    write_intents(tmp_path / "other", 3, 2, 1, seed=9)
    assert not set(files(folder)) & {name for name in files(tmp_path / "other") if name.endswith("jpg")}


@pytest.mark.parametrize("seed", [0, HELD_OUT])
def test_scenes_that_the_tiny_clip_has_seen_are_refused(tmp_path, seed):
    with pytest.raises(ValueError, match=f"seed {seed} draws scenes"):
        write_intents(tmp_path, 1, 1, 1, seed=seed)
