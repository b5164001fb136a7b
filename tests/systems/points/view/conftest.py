"""A room in six frames, and a stage of its points."""

from importlib.util import find_spec

import pytest

from sightword.miniature import room
from sightword.systems.points.predict import SceneQuery
from sightword.systems.points.scannet.reader import read_scene
from sightword.systems.points.view.stage import Stage

#: Without the extra `view` these cannot be imported; `[dev]` brings it, so that CI always tests the window.
collect_ignore = [] if find_spec("viser") else ["test_view_window.py", "test_view_browser.py"]


@pytest.fixture(scope="session")
def small_room(tmp_path_factory):
    root = tmp_path_factory.mktemp("viewed")
    room.write_scene(root, 0, frames=6, color=(48, 64), depth=(60, 80), voxel=0.2)
    return root / "2D" / "scene0000_00"


@pytest.fixture(scope="session")
def model(random_clip):
    return SceneQuery.from_tower(random_clip[0], token_type="value", size=(32, 32), dtype="fp32")


@pytest.fixture(scope="session")
def found(model, small_room):
    return model.features(read_scene(small_room), trust=True)


@pytest.fixture
def stage(model, found):
    def asked(texts):
        return model.answer(found, texts, ["wall", "floor"])

    return Stage("room", found.points, found.scene.frames, asked, model.text_encoder)
