"""A scene is queried by whoever holds a predictor: of a run, of what it saved, or of a CLIP alone."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from lift_fakes import write_rooms
from made import SMALL_CLIP, write_clip
from points_fakes import batch_for, task_for
from safetensors.torch import save_file

import sightword
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.systems.points.clip import FrozenClip, clip_of
from sightword.systems.points.config import PointsConfig, PointsData
from sightword.systems.points.predict import SceneQuery
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import read_scene
from sightword.systems.points.task import PointsTask, make_encoder
from sightword.towers.frozen import FrozenModel

QUERIES = ["a chair", "a bed"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    (name,) = write_rooms(root, (0,))
    return root / "2D" / name


def system_of(clip, **values):
    small = {"dim": 16, "heads": 2, "radius": 0.3, "use_amp": False}
    seeing = {"clip_tag": "", "token_type": "value", "clip_size": [32, 40], "clip_dtype": "fp32"}
    return PointsConfig(**{"clip": str(clip), **seeing, **small, **values})


@pytest.fixture(scope="module")
def system(random_clip):
    return system_of(random_clip[0])


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Make open_clip publish a small CLIP, Small-1 with the tag release, whose weights depend on the seed."""
    import open_clip

    def publish(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights = open_clip.CLIP(**SMALL_CLIP).state_dict()
        file = tmp_path / f"published {seed}.safetensors"
        save_file({name: value.clone() for name, value in weights.items()}, file)
        monkeypatch.setattr(open_clip, "download_pretrained", lambda found: str(file))

    monkeypatch.setattr(open_clip, "get_model_config", lambda name: json.loads(json.dumps(SMALL_CLIP)))
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["release"])
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda name, tag: {"hf_hub": "someone/small"})
    return publish


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


def test_a_clip_alone_answers_by_its_lifted_features(query, random_clip, scene, tmp_path):
    alone = SceneQuery.from_tower(random_clip[0], token_type="value", size=(32, 40), dtype="fp32")
    found, same = (
        alone(scene, "a chair", against="a bed"),
        query(scene, "a chair", against=["a bed"], features="lifted"),
    )
    assert torch.equal(found.cosines, same.cosines)
    assert found.against == ("a bed",)
    with pytest.raises(SightwordError, match="no trained encoder"):
        alone(scene, "a chair", features="fused")
    with pytest.raises(SightwordError, match="no trained encoder"):
        alone.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    assert "\n" not in repr(found)
    assert "'a chair' " in repr(found)
    assert found._repr_html_().startswith('<figure><img src="data:image/png;base64,')


def test_a_list_of_scenes_gives_a_list_and_one_scene_one_answer(query, scene):
    read = read_scene(scene)
    assert isinstance(read, tuple)  # and nevertheless one scene
    one = query(read, "a chair", voxel=0.1)
    several = query([str(scene), str(scene)], "a chair", voxel=0.1)
    assert [torch.equal(each.cosines, one.cosines) for each in several] == [True, True]
    assert query([], "a chair") == []


def test_the_points_are_as_far_apart_as_in_training_if_nothing_is_said(system, scene):
    data = PointsData(root="rooms", voxel=0.2)
    query = SceneQuery.from_task(trained(system), data)
    assert torch.equal(query(scene, "a chair").points, query(scene, "a chair", voxel=0.2).points)
    assert len(query(scene, "a chair").points) < len(query(scene, "a chair", voxel=0.1).points)


def test_no_query_and_no_scene_are_one_line(query, scene, tmp_path):
    with pytest.raises(SightwordError, match="there is no text query"):
        query(scene, [" "])
    with pytest.raises(SightwordError, match="does not exist"):
        query(tmp_path / "no", "a chair")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"queries": [3]}, "queries: 3 is not a text. Pass one text, or a list of them"),
        ({"queries": None}, "there is no text query"),
        ({"against": ["wall", 7]}, "against: 7 is not a text"),
        ({"voxel": 0}, "voxel=0 is not a length in metres"),
        ({"frames": 0}, "frames=0 is too small"),
        ({"scene": 7}, "expected the folder of a scene, or a list of them; got int"),
    ],
)
def test_mistakes_are_one_line(query, scene, given, line):
    given = {"scene": scene, "queries": "a chair", **given}
    with pytest.raises(SightwordError, match=re.escape(line)) as error:
        query(given.pop("scene"), given.pop("queries"), **given)
    assert "\n" not in str(error.value)


def test_a_folder_of_scenes_is_not_a_scene(query, scene, tmp_path):
    for name in ("scene0099_00", "scene0099_01"):
        shutil.copytree(scene, tmp_path / name)
    with pytest.raises(SightwordError, match="has 2 scenes, scene0099_00, scene0099_01. Name one"):
        query(tmp_path, "a chair")


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


def test_what_is_saved_predicts_the_same_elsewhere_without_the_clip_it_was_made_of(scene, tmp_path, monkeypatch):
    write_clip(tmp_path / "clip")
    system = system_of(tmp_path / "clip")
    query = SceneQuery.from_task(trained(system), PointsData(root="rooms", voxel=0.1))
    wanted = query(scene, QUERIES)
    query.save_pretrained(tmp_path / "out")
    (tmp_path / "clip").rename(tmp_path / "clip that was")
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "here").mkdir()
    for place in (tmp_path / "moved", "../moved"):
        monkeypatch.chdir(tmp_path / "here")
        again = sightword.load(place)
        monkeypatch.chdir(tmp_path)  # the CLIP is opened from another working directory than the model
        assert isinstance(again, SceneQuery)
        assert torch.equal(again(scene, QUERIES).cosines, wanted.cosines)
        assert again.task.labels[:2] == query.task.labels[:2]
    assert str(tmp_path) not in (tmp_path / "moved" / "config.json").read_text()
    again.save_pretrained(tmp_path / "second")
    assert torch.equal(sightword.load(tmp_path / "second")(scene, QUERIES).cosines, wanted.cosines)


def test_a_model_on_the_hub_predicts_the_same_offline(query, scene, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--someone--rooms"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    query.save_pretrained(cache / "snapshots" / commit)
    again = sightword.load("someone/rooms", cache_dir=tmp_path, local_files_only=True)
    assert torch.equal(again(scene, QUERIES, voxel=0.1).cosines, query(scene, QUERIES, voxel=0.1).cosines)


def test_a_published_clip_is_kept_by_name_and_other_weights_are_refused(published, scene, tmp_path):
    published(seed=0)
    query = SceneQuery.from_task(trained(system_of("Small-1", clip_tag="release")))
    wanted = query(scene, QUERIES, voxel=0.1)
    query.save_pretrained(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["config"]["clip"] == "Small-1"
    assert config["clip_weights"].keys() == {"image", "text"}
    again = sightword.load(tmp_path / "out")
    assert torch.equal(again(scene, QUERIES, voxel=0.1).cosines, wanted.cosines)
    again.save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text()) == config
    published(seed=1)
    other = sightword.load(tmp_path / "out")
    line = r"the weights of Small-1 release on this machine are not those .*\({} encoder {}, expected {}\)"
    with pytest.raises(SightwordError, match=line.format("image", "[0-9a-f]+", config["clip_weights"]["image"])):
        other(scene, "a chair")
    with pytest.raises(SightwordError, match=line.format("text", "[0-9a-f]+", config["clip_weights"]["text"])):
        other.clip.text_encoder()


def test_a_digest_is_of_the_weights_whatever_size_the_frames_have(random_clip):
    one, other = (FrozenClip(str(random_clip[0]), size=size, dtype="fp32") for size in ((32, 40), (64, 48)))
    assert one.digests() == other.digests()


def test_only_the_sides_that_answer_are_opened(system, scene, tmp_path):
    query = SceneQuery.from_tower(system.clip, token_type="value", size=(32, 40), dtype="fp32")
    query(scene, "a chair", frames=2, cache=tmp_path / "clip")
    again = SceneQuery.from_tower(system.clip, token_type="value", size=(32, 40), dtype="fp32")
    again.clip._image = FrozenModel(lambda: pytest.fail("the image encoder was opened, and the maps are cached"))
    again(scene, "a chair", frames=2, cache=tmp_path / "clip")


def test_what_is_saved_encodes_the_same(tmp_path, random_clip):
    task = task_for(seed=3, clip=str(random_clip[0]), clip_tag="").eval()
    task.clip = clip_of(task.system)
    SceneQuery.from_task(task).save_pretrained(tmp_path)
    again, batch = SceneQuery.from_pretrained(tmp_path), batch_for()
    assert torch.equal(again.task.encode(batch)[0].text, task.encode(batch)[0].text)
    assert again.task_weights().keys() == task.state_dict().keys()


def test_a_folder_that_is_no_whole_export_is_one_line(query, tmp_path):
    query.save_pretrained(tmp_path / "out")
    for name, line in {
        "model.safetensors": "out/model.safetensors does not exist",
        "clip/open_clip_model.safetensors": "open_clip_model.safetensors is missing. Copy the whole folder",
        "clip/open_clip_config.json": "open_clip_config.json is missing. Copy the whole folder",
        "config.json": "config.json is missing",
    }.items():
        (tmp_path / "out" / name).unlink()
        with pytest.raises(SightwordError, match=line):
            SceneQuery.from_pretrained(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text('{"system": "points"}')
    with pytest.raises(SightwordError, match=r"config\.json.* has no config"):
        SceneQuery.from_pretrained(tmp_path / "out")


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
