import shutil

import numpy as np
import pytest
from PIL import Image

from sightword.miniature import demo
from sightword.miniature.clip import measure
from sightword.miniature.demo import SHOWN, SIDE, _scenes, patch_figure
from sightword.miniature.scene import OBJECTS, PLACES
from sightword.towers.clip.encoder import CLIP


def test_the_scenes_shown_are_of_three_places_and_have_two_objects():
    assert tuple(scene.place for scene in _scenes()) == SHOWN
    assert {len(scene.objects) for scene in _scenes()} == {2}


def _looks(part, image, colour, opacity):
    """Which pixels of a map are this colour, laid over the image."""
    return np.abs(part - (opacity * np.array(colour) + (1 - opacity) * image)).max(-1) < 3


def test_predicted_objects_are_drawn_where_they_are_and_the_place_everywhere(small_clip):
    clip = CLIP.load(small_clip)
    painted, right, wanted, placed = 0, 0, 0, []
    for scene in _scenes():
        page = patch_figure(clip, scene)
        step = (page.width - SIDE) // 3
        top = next(y for y in range(20, page.height) if page.getpixel((0, y)) != (255, 255, 255))
        things, places = (np.array(page.crop((i * step, top, i * step + SIDE, top + SIDE)), int) for i in (2, 3))
        labels, image = (
            np.array(Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.NEAREST), int)
            for part in (scene.labels, scene.image)
        )
        for label, (word, thing) in enumerate(OBJECTS.items(), 1):
            if word in scene.objects:
                found = _looks(things, image, thing.colour, 0.9)
                painted, right = painted + found.sum(), right + (found & (labels == label)).sum()
                wanted += (labels == label).sum()
        placed.append(_looks(places, image, PLACES[scene.place].colour, 0.65).mean())
    assert np.mean(placed) > 0.6
    assert right > 0.5 * wanted
    assert right > 0.6 * painted


def test_the_section_has_an_accuracy_for_each_kind_of_word(tmp_path, small_clip, monkeypatch):
    monkeypatch.setattr(demo.contents, "write_all", lambda out: shutil.copytree(small_clip, out / "towers" / "clip"))
    monkeypatch.setattr(demo, "measure", lambda clip: measure(clip, 60))
    section = demo.section(tmp_path, lambda folder, overrides: pytest.fail("nothing but the CLIP is trained"))
    assert list(section.metrics) == ["place", "object", "action", "object of a patch", "place of a patch"]
    assert all(int(value.removesuffix(" %")) >= 60 for value, _ in section.metrics.values())
    assert len(section.figures) == len(SHOWN)
    assert section.title.partition(": ")[0] == "synthetic data"
