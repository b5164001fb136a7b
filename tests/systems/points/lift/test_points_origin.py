"""Maps of one data set are not taken for those of another whose scenes have the same names."""

import shutil

import pytest
from lift_fakes import ColourTower, Source, scenes_of, write_rooms
from PIL import Image

from sightword.systems.points.config import PointsData
from sightword.systems.points.data import complete_cache
from sightword.systems.points.lift.features import fill
from sightword.systems.points.lift.origin import FILE


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    return root, write_rooms(root, (0,))


@pytest.fixture
def other(rooms, tmp_path):
    """Scenes of the same names with other colours."""
    root, names = rooms
    shutil.copytree(root, tmp_path / "other")
    for file in (tmp_path / "other").rglob("color/*.jpg"):
        Image.new("RGB", Image.open(file).size, "red").save(file)
    return scenes_of(tmp_path / "other", names)


def test_maps_of_another_recording_of_this_name_are_refused_in_one_line(rooms, other, tmp_path):
    source, cache = Source(ColourTower((8, 16), 4)), tmp_path / "cache"
    fill(source, "qq", scenes_of(*rooms), cache)
    fill(source, "qq", scenes_of(*rooms), cache)  # the same again
    for refused in (
        lambda: fill(source, "qq", other, cache),
        lambda: complete_cache(PointsData(root="r", cache=str(cache)), other),
    ):
        with pytest.raises(ValueError, match=r"has CLIP's maps of another scene0000_00 than .*other") as error:
            refused()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, "{", '["scene0000_00"]'])
def test_a_cache_that_says_nothing_of_its_scenes_is_read(rooms, tmp_path, content):
    source, cache = Source(ColourTower((8, 16), 4)), tmp_path / "cache"
    fill(source, "qq", scenes_of(*rooms), cache)
    (cache / FILE).unlink()
    if content:
        (cache / FILE).write_text(content)
    fill(source, "qq", scenes_of(*rooms), cache)
