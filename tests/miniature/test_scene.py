import json
import re

import numpy as np
import pytest
from PIL import Image

from sightword.miniature.scene import ACTIONS, OBJECTS, PLACES, draw, patch_labels, write


@pytest.fixture(scope="module")
def scenes():
    return [draw(0, number) for number in range(300)]


def test_a_scene_is_the_same_each_time_and_leaves_the_global_generator_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    one, again, other = draw(3, 5), draw(3, 5), draw(3, 6)
    assert (np.random.get_state()[1] == before).all()
    assert (one.image == again.image).all()
    assert one[3:] == again[3:]
    assert (one.image != other.image).any()
    assert (draw(4, 5).image != one.image).any()


def test_every_word_has_scenes_and_every_scene_its_words(scenes):
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {word for scene in scenes for word in scene.objects} == set(OBJECTS)
    assert {scene.action for scene in scenes} == {None, *ACTIONS}
    for scene in scenes:
        named = {word for word in OBJECTS if re.search(rf"\ban? {word}\b", scene.caption)}
        assert named == set(scene.objects)
        assert f"a {scene.place}" in scene.caption
        assert [phrase for phrase in ACTIONS if f"a person {phrase}" in scene.caption] == [scene.action][
            : bool(scene.action)
        ]
        assert {list(OBJECTS)[label - 1] for label in np.unique(scene.labels) if label} <= set(scene.objects)


def test_a_label_stands_where_its_things_colour_is(scenes):
    """The hue of what is labelled is nearer to the thing's own colour than to any other thing's, nearly everywhere."""
    colours = np.array([thing.colour for thing in OBJECTS.values()], float)
    right, total = 0, 0
    for scene in scenes:
        pixels, labels = scene.image[scene.labels > 0].astype(float), scene.labels[scene.labels > 0]
        nearest = np.square(pixels[:, None] - colours).sum(-1).argmin(1) + 1
        right, total = right + (nearest == labels).sum(), total + len(labels)
    assert total > 100_000
    assert right / total > 0.8


def test_things_have_colours_that_no_other_has():
    colours = np.array([thing.colour for thing in OBJECTS.values()], float)
    apart = np.sqrt(np.square(colours[:, None] - colours).sum(-1)) + 1e3 * np.eye(len(colours))
    assert apart.min() > 90


def test_an_implement_is_seen_only_where_somebody_does_something_and_is_no_thing(scenes):
    for scene in scenes:
        assert set(np.unique(scene.action_labels)) <= {0, 1 + list(ACTIONS).index(scene.action) if scene.action else 0}
        assert not (scene.labels.astype(bool) & scene.action_labels.astype(bool)).any()
    assert np.mean([scene.action_labels.any() for scene in scenes if scene.action]) > 0.95


def test_a_scene_has_no_size_of_its_own():
    for number in range(10):
        small, large = draw(1, number, (64, 64)), draw(1, number, (256, 256))
        assert small[3:] == large[3:]
        assert (small.labels == large.labels[2::4, 2::4]).mean() > 0.95
        wide = draw(1, number, (64, 96))
        assert wide.image.shape == (64, 96, 3)
        assert (wide.labels[:, 16:80] == small.labels).mean() > 0.95


def test_patch_labels_are_the_majority_and_its_share():
    labels = np.zeros((4, 8), np.uint8)
    labels[:, :3] = 2
    labels[0, 4:8] = 1
    found, shares = patch_labels(labels, 4)
    assert found.tolist() == [[2, 0]]
    assert shares.tolist() == [[0.75, 0.75]]


def test_what_is_written_is_what_was_drawn(tmp_path):
    write(tmp_path, 4, seed=9, size=(32, 48))
    entries = json.loads((tmp_path / "captions.json").read_text())
    assert len(entries) == 4
    for number, entry in enumerate(entries):
        scene = draw(9, number, (32, 48))
        assert (np.asarray(Image.open(tmp_path / entry["image"])) == scene.image).all()
        labels = Image.open(tmp_path / entry["image"].replace("images", "labels"))
        assert labels.mode == "P"
        assert (np.asarray(labels) == scene.labels).all()
        labels = Image.open(tmp_path / entry["image"].replace("images", "action_labels"))
        assert (np.asarray(labels) == scene.action_labels).all()
        assert (entry["caption"], entry["place"], entry["objects"]) == (scene.caption, scene.place, list(scene.objects))
        assert entry["action"] == scene.action
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    write(tmp_path, 4, seed=9, size=(32, 48))
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
