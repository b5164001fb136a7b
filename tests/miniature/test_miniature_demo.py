import shutil

import numpy as np
import pytest

from sightword.miniature import demo
from sightword.miniature.clip import measure
from sightword.miniature.demo import SHOWN, SIDE, _scenes, patch_figure, patch_words
from sightword.miniature.scene import OBJECTS, PLACES
from sightword.towers.clip.encoder import CLIP
from sightword.viz.style import PALETTE, rgb


def test_the_scenes_shown_are_of_three_places_and_have_two_objects():
    assert tuple(scene.place for scene in _scenes()) == SHOWN
    assert {len(scene.objects) for scene in _scenes()} == {2}


def test_predicted_objects_are_where_they_are_and_the_place_everywhere(small_clip):
    clip = CLIP.load(small_clip)
    painted, right, wanted, placed = 0, 0, 0, []
    for scene in _scenes():
        things, is_thing, places = patch_words(clip, scene)
        side = scene.labels.shape[0] // things.shape[0]  # pixels of a patch
        drawn = np.where(is_thing > 0, things + 1, 0).repeat(side, 0).repeat(side, 1)
        for label, word in enumerate(OBJECTS, 1):
            if word in scene.objects:
                found = drawn == label
                painted, right = painted + found.sum(), right + (found & (scene.labels == label)).sum()
                wanted += (scene.labels == label).sum()
        placed.append(float((places == list(PLACES).index(scene.place)).float().mean()))
    assert np.mean(placed) > 0.6
    assert right > 0.5 * wanted
    assert right > 0.6 * painted


def test_an_object_has_one_colour_in_the_label_map_and_where_it_is_predicted(small_clip):
    scene = _scenes()[1]
    page = patch_figure(CLIP.load(small_clip), scene)
    step = (page.width - SIDE) // 3
    left, right = (page.crop((i * step, 24 + SIDE, i * step + SIDE, page.height)) for i in (1, 2))  # the legends
    colours = [{colour for _, colour in part.getcolors(9999)} & {*map(rgb, PALETTE)} for part in (left, right)]
    assert len(colours[0]) == 2
    assert colours[0] & colours[1]


def test_the_section_has_an_accuracy_for_each_kind_of_word(tmp_path, small_clip, monkeypatch):
    monkeypatch.setattr(demo.contents, "write_all", lambda out: shutil.copytree(small_clip, out / "towers" / "clip"))
    monkeypatch.setattr(demo, "measure", lambda clip: measure(clip, 60))
    section = demo.section(tmp_path, lambda folder, overrides: pytest.fail("nothing but the CLIP is trained"))
    assert list(section.metrics) == ["place", "object", "action", "object of a patch", "place of a patch"]
    assert all(int(value.removesuffix(" %")) >= 60 for value, _ in section.metrics.values())
    assert len(section.figures) == len(SHOWN)
    assert section.title.partition(": ")[0] == "synthetic data"
