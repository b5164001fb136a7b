"""A scene is queried by whoever holds a predictor: of a run, of what it saved, or of a CLIP alone."""

import dataclasses
import json
import shutil

import pytest
import torch
from lift_fakes import write_rooms
from points_fakes import batch_for, task_for

from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.systems.points.clip import FrozenClip, clip_of
from sightword.systems.points.config import PointsConfig
from sightword.systems.points.predict import SceneQuery
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import read_scene
from sightword.systems.points.task import PointsTask, make_encoder

QUERIES = ["a chair", "a bed"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    (name,) = write_rooms(root, (0,))
    return root / "2D" / name


@pytest.fixture(scope="module")
def system(random_clip):
    return PointsConfig(
        clip=str(random_clip[0]),
        clip_tag="",
        token_type="value",
        clip_size=[32, 40],
        clip_dtype="fp32",
        dim=16,
        heads=2,
        radius=0.3,
        use_amp=False,
    )


@pytest.fixture(scope="module")
def query(system):
    return SceneQuery.from_task(trained(system))


def trained(system):
    torch.manual_seed(0)
    clip = clip_of(system)
    labels = LabelSet(("chair", "bed", "wall"), (1, 2, 3), "three names")
    return PointsTask(system, make_encoder(system, clip.width), clip, labels)


def test_fused_features_answer_at_every_point_and_lifted_ones_where_a_frame_looks(query, scene):
    fused, lifted = (query(scene, QUERIES, features=kind, voxel=0.1) for kind in ("fused", "lifted"))
    assert fused.queries == ("a chair", "a bed")
    assert fused.against == ("wall",)  # of the run's classes; the others are queries
    assert fused.points.shape == (len(fused.best), 3)
    assert fused.cosines.shape == fused.scores.shape == (len(fused.best), 3)
    assert 0 < int(fused.visible.sum()) < len(fused.best)
    assert (fused.best >= 0).all()
    assert torch.equal(lifted.best >= 0, lifted.visible)
    assert not lifted.scores[~lifted.visible].any()
    assert torch.allclose(fused.scores.sum(1), torch.ones(len(fused.best)))


def test_fused_is_what_a_trained_predictor_answers_with(query, scene):
    assert torch.equal(
        query(scene, QUERIES, voxel=0.1).cosines, query(scene, QUERIES, features="fused", voxel=0.1).cosines
    )
    with pytest.raises(SightwordError, match="features='seen' is neither lifted nor fused"):
        query(scene, QUERIES, features="seen")


def test_without_a_3d_branch_an_unseen_point_has_no_answer(system, scene):
    flat = SceneQuery.from_task(trained(dataclasses.replace(system, layers=0)))
    found = flat(scene, QUERIES, voxel=0.1)
    assert torch.equal(found.best >= 0, found.visible)
    assert not found.visible.all()


def test_a_clip_alone_answers_by_its_lifted_features(query, system, scene):
    alone = SceneQuery(clip_of(system))(scene, "a chair", against=["a bed"])
    same = query(scene, "a chair", against=["a bed"], features="lifted")
    assert torch.equal(alone.cosines, same.cosines)
    with pytest.raises(SightwordError, match="no trained encoder"):
        SceneQuery(clip_of(system))(scene, "a chair", features="fused")
    with pytest.raises(SightwordError, match="no trained encoder"):
        SceneQuery(clip_of(system)).save_pretrained(scene)


def test_a_scene_may_be_read_before_and_its_maps_kept(query, scene, tmp_path):
    online = query(read_scene(scene, frames=2), QUERIES)
    for _ in range(2):
        kept = query(scene, QUERIES, frames=2, cache=tmp_path / "clip")
        assert torch.equal(online.cosines, kept.cosines)


def test_an_answer_is_a_picture_plain_values_and_a_line_a_query(query, scene):
    found = query(scene, QUERIES, voxel=0.1)
    assert found.plot().width > 2 * 560
    values = json.loads(json.dumps(found.to_dict()))
    assert values["queries"] == QUERIES
    assert len(values["points"]) == len(values["best"]) == len(values["scores"]) == len(found.best)
    assert len(values["scores"][0]) == 2
    assert repr(found).count("\n") == 2
    assert "a chair: " in repr(found)


def test_no_query_and_no_scene_are_one_line(query, scene, tmp_path):
    with pytest.raises(SightwordError, match="there is no text query"):
        query(scene, [" "])
    with pytest.raises(SightwordError, match="does not exist"):
        query(tmp_path / "no", "a chair")


def test_frames_that_show_no_point_are_an_error_whatever_answers(query, scene, tmp_path):
    shutil.copytree(scene.parent.parent, tmp_path / "rooms")
    moved = tmp_path / "rooms" / "2D" / scene.name
    for file in (moved / "pose").iterdir():
        rows = [line.split() for line in file.read_text().splitlines()]
        rows[0][3] = "900"
        file.write_text("\n".join(" ".join(row) for row in rows))
    for kind in ("fused", "lifted"):
        with pytest.raises(SightwordError, match="none of its .* points is visible"):
            query(moved, "a chair", features=kind)


def test_what_is_saved_predicts_the_same(query, scene, tmp_path):
    query.save_pretrained(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    again = SceneQuery.from_folder(tmp_path / "out")
    assert torch.equal(again(scene, QUERIES, voxel=0.1).cosines, query(scene, QUERIES, voxel=0.1).cosines)
    assert again.task.labels[:2] == query.task.labels[:2]


def test_what_is_saved_encodes_the_same(tmp_path, random_clip):
    task = task_for(seed=3, clip=str(random_clip[0]), clip_tag="").eval()
    SceneQuery.from_task(task).save_pretrained(tmp_path)
    again, batch = SceneQuery.from_folder(tmp_path).task, batch_for()
    assert torch.equal(again.encode(batch)[0].text, task.encode(batch)[0].text)


def test_a_folder_that_is_no_export_is_one_line(tmp_path):
    with pytest.raises(SightwordError, match=r"config\.json does not exist.*sightword export"):
        SceneQuery.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SightwordError, match=r"config\.json.* has no system"):
        SceneQuery.from_folder(tmp_path)


def test_a_task_of_another_system_is_refused():
    with pytest.raises(SightwordError, match="made of a run of points, got a Task"):
        SceneQuery.from_task(Task())


def test_the_clip_of_a_predictor_is_opened_once(system, scene, monkeypatch):
    opened = []
    clip = clip_of(system)
    encoder = clip.text_encoder
    monkeypatch.setattr(clip, "text_encoder", lambda *args: opened.append(1) or encoder(*args))
    query = SceneQuery(clip)
    for text in ("a chair", "a bed"):
        query(scene, text)
    assert opened == [1]
    assert isinstance(clip, FrozenClip)
