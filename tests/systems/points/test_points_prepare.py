"""What training needs first: CLIP's maps of the frames that the cache is missing, once."""

import dataclasses
import shlex

import pytest
from lift_fakes import write_rooms

from sightword.engine import run as runs
from sightword.engine.config import Run
from sightword.errors import SightwordError
from sightword.storage.segments import SegmentedCache
from sightword.systems.points import prepare
from sightword.systems.points.config import PointsConfig, PointsData
from sightword.systems.points.system import SYSTEM

NAMES = ["scene0000_00", "scene0001_00", "scene0002_00"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    assert write_rooms(root, (0, 1, 2)) == NAMES
    return root


@pytest.fixture
def run(root, random_clip, tmp_path):
    clip = {"clip": str(random_clip[0]), "clip_tag": "", "clip_size": [32, 40], "clip_dtype": "fp32"}
    data = PointsData(root=str(root), frames=2, cache=str(tmp_path / "clip"), hold_out=0.3, num_workers=0)
    return Run("points/bifusion", system=PointsConfig(**clip, token_type="value"), data=data)


def changed(run, part, **values):
    return dataclasses.replace(run, **{part: dataclasses.replace(getattr(run, part), **values)})


def test_the_step_fills_the_cache_and_is_then_done(run, capsys):
    (step,) = SYSTEM.prepare(run)
    assert step.name == "CLIP maps of 9 frames"
    assert str(step.out) == run.data.cache
    assert not step.is_done()
    step.execute()
    assert "3 scenes to do" in capsys.readouterr().err
    assert step.is_done()
    assert set(SegmentedCache(run.data.cache)) == {f"{name}/{at}" for name in NAMES for at in (0, 20, 40)}
    assert runs.prepare(run) == []


def test_only_what_is_missing_is_computed(run, capsys):
    assert len(runs.prepare(changed(run, "data", pool=2))) == 1
    capsys.readouterr()
    (step,) = SYSTEM.prepare(run)
    assert not step.is_done()
    step.execute()
    assert sorted(map(len, SegmentedCache(run.data.cache).segments)) == [3, 6]


def test_a_step_that_was_stopped_resumes(run, monkeypatch):
    from sightword.systems.points.lift import features

    rows, left = features.FrameEncoder.rows, [1]

    def stopped(self, pictures):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return rows(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(features.FrameEncoder, "rows", stopped)
        with pytest.raises(KeyboardInterrupt):
            runs.prepare(run)
    seen = []
    monkeypatch.setattr(features.FrameEncoder, "rows", lambda self, pictures: seen.append(1) or rows(self, pictures))
    runs.prepare(run)
    assert len(seen) == 2


def test_frames_of_the_test_split_are_prepared_too(run, tmp_path):
    (tmp_path / "test.txt").write_text(f"{NAMES[2]}\n")
    runs.prepare(changed(run, "data", test_scenes=str(tmp_path / "test.txt"), hold_out=0.5))
    assert f"{NAMES[2]}/0" in SegmentedCache(run.data.cache)


def test_without_a_cache_there_is_nothing_to_prepare(run):
    assert SYSTEM.prepare(changed(run, "data", cache="")) == []


def test_offline_nothing_is_computed_and_what_is_missing_is_named(run):
    offline = changed(run, "data", offline_clip_feat=True)
    with pytest.raises(SightwordError, match=r"9 frames, scene000\d_00/0 the first"):
        SYSTEM.prepare(offline)
    assert not len(SegmentedCache(run.data.cache))
    runs.prepare(run)
    assert SYSTEM.prepare(offline) == []


def test_a_cache_of_another_clip_is_refused_before_training(run):
    runs.prepare(run)
    (step,) = SYSTEM.prepare(changed(run, "system", token_type="qq"))
    with pytest.raises(SightwordError, match="written by a different CLIP"):
        step.is_done()


def test_under_torchrun_the_command_to_run_first_is_named(run, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SightwordError, match="Before torchrun, run: sightword prepare experiment=points/bifusion"):
        runs.prepare(run)


def test_the_command_has_every_field_that_decides_the_maps(run):
    told = prepare.command(run.experiment, run.system, changed(run, "data", root="a b").data)
    arguments = shlex.split(told)
    assert arguments[:3] == ["sightword", "prepare", "experiment=points/bifusion"]
    assert "data.root=a b" in arguments
    assert "system.clip_size=[32,40]" in arguments
    assert "system.clip_tag=" in arguments
    assert not any(argument.startswith(("data.frames", "system.dim")) for argument in arguments)
