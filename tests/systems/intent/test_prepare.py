"""One command from photos to a trained model: anchors, tokens and ids are made once, resumed, and left alone after."""

import json
import shutil

import pytest
from PIL import Image

from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine import run as runs
from sightword.errors import SightwordError
from sightword.miniature.contents import write_vocabulary
from sightword.miniature.intent import write_intents
from sightword.storage.segments import ImageCache
from sightword.systems.intent import prepare
from sightword.systems.intent.anchors import Anchors
from sightword.towers.token_cache import TokenCache


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, small_clip):
    """What `sightword mini` writes of this system, smaller: a folder `mini` with photos, vocabularies and a CLIP."""
    root = tmp_path_factory.mktemp("world")
    write_intents(root / "mini" / "intentonomy", train=24, val=8, test=4)
    write_vocabulary(root / "mini" / "vocabulary")
    (root / "mini" / "towers").mkdir()
    shutil.copytree(small_clip, root / "mini" / "towers" / "clip")
    return root


@pytest.fixture
def world(fresh, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(fresh, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def config_of(experiment, *words):
    few = ["trainer.epochs=2", "data.batch_size=8", "trainer.accelerator=cpu"]
    return compose_config([f"experiment=intent/{experiment}", "scale=mini", *few, *words])


def times(*folders):
    return {file: file.stat().st_mtime_ns for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()}


def test_one_command_trains_from_photos(world, capsys):
    words = ["scale=mini", "trainer.epochs=2", "data.batch_size=8", "name=it", "trainer.accelerator=cpu"]
    assert main(["train", "experiment=intent/stage1", *words]) == 0
    assert (world / "runs/intent/stage1/it/checkpoints/best.ckpt").exists()
    made = [world / "mini" / name for name in ("anchors", "tokens", "ids")]
    assert list(Anchors.read(made[0]).books) == ["actions", "coco", "places"]
    assert len(list(ImageCache(made[2]))) == len(list(TokenCache(made[1]))) == 36
    before = times(*made)
    capsys.readouterr()
    for experiment in ("stage1", "stage2", "baseline"):
        words[3] = "name=again"
        assert main(["train", f"experiment=intent/{experiment}", *words]) == 0
    assert times(*made) == before
    assert "preparing" not in capsys.readouterr().err


@pytest.mark.parametrize("first", ["stage2", "baseline"])
def test_the_cache_of_any_experiment_serves_the_others(world, first):
    made = [step.out.name for step in runs.prepare(config_of(first))]
    assert made == {"stage2": ["anchors", "tokens"], "baseline": ["tokens"]}[first]
    rest = [step.out.name for step in runs.prepare(config_of("stage1"))]
    assert sorted(made + rest) == ["anchors", "ids", "tokens"]
    for experiment in ("stage1", "stage2", "baseline"):
        config = config_of(experiment)
        task = runs.make_task(config)
        batch = next(iter(runs.make_loaders(config, task).train))
        assert (batch.counts is not None) == (experiment == "stage1")
        assert task.losses(batch)["asl_loss"].isfinite()


def test_prepared_files_are_those_of_the_commands(world):
    steps = runs.steps(config_of("stage1"))
    for step in steps:
        assert not step.is_done()
        program, *words = step.command.split()
        assert program == "sightword"
        assert main(words) == 0
        assert step.is_done()
    by_commands = {step.out: step.out.rename(step.out.with_name(f"other_{step.out.name}")) for step in steps}
    assert [step.out for step in runs.prepare(config_of("stage1"))] == list(by_commands)
    for ours, theirs in by_commands.items():
        files = sorted(
            file.relative_to(ours) for file in ours.rglob("*") if file.is_file() and file.name != "index.json"
        )
        assert files
        for file in files:
            assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


def test_anchors_of_a_vocabulary_that_changed_since_are_refused(world):
    runs.prepare(config_of("stage1"))
    assert runs.prepare(config_of("stage1")) == []
    file = next((world / "mini" / "vocabulary").glob("*coco*.json"))
    content = json.loads(file.read_text())
    content["classes"][0] = "unicorn"
    file.write_text(json.dumps(content))
    with pytest.raises(SightwordError, match="was made of other words than the vocabulary of coco has now"):
        runs.prepare(config_of("stage1"))


def test_a_photo_that_was_replaced_is_encoded_and_looked_up_again(world):
    runs.prepare(config_of("stage1"))
    photo = min((world / "mini/intentonomy/low").iterdir())
    Image.new("RGB", (40, 40), "red").save(photo)
    assert [step.out.name for step in runs.prepare(config_of("stage1"))] == ["tokens", "ids"]
    assert len(ImageCache(world / "mini/ids")) == 37
    assert runs.prepare(config_of("stage1")) == []


def test_what_was_stopped_is_resumed_where_it_was(world, monkeypatch):
    look_up = prepare.write_ids
    monkeypatch.setattr(prepare, "write_ids", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        runs.prepare(config_of("stage1"))
    kept = times(world / "mini" / "anchors", world / "mini" / "tokens")
    assert kept
    monkeypatch.setattr(prepare, "write_ids", look_up)
    assert [step.out.name for step in runs.prepare(config_of("stage1"))] == ["ids"]
    assert times(world / "mini" / "anchors", world / "mini" / "tokens") == kept


def test_photos_that_are_added_are_encoded_and_broken_ones_are_left_out(world):
    photos = sorted((world / "mini/intentonomy/low").iterdir())
    late, broken = photos[0], photos[1]
    late.rename(world / "late.jpg")
    broken.write_bytes(b"no image")
    runs.prepare(config_of("baseline"))
    assert len(TokenCache(world / "mini/tokens")) == 34
    assert runs.prepare(config_of("baseline")) == []
    (world / "late.jpg").rename(late)
    assert [step.out.name for step in runs.prepare(config_of("baseline"))] == ["tokens"]
    assert len(TokenCache(world / "mini/tokens")) == 35
    assert runs.prepare(config_of("baseline")) == []


def test_ids_that_exist_need_no_tokens_and_tokens_lie_beside_them_without_a_cache(world):
    runs.prepare(config_of("stage1", "data.cache=", "data.ids=somewhere/ids"))
    assert len(TokenCache(world / "somewhere/ids_tokens")) == 36
    shutil.rmtree(world / "somewhere/ids_tokens")
    assert runs.prepare(config_of("stage1", "data.cache=", "data.ids=somewhere/ids")) == []


def test_nothing_is_prepared_that_a_config_does_not_name(world):
    names = {
        experiment: [step.out.name for step in runs.steps(config_of(experiment, "data.cache=", "data.ids="))]
        for experiment in ("stage1", "stage2", "baseline")
    }
    assert names == {"stage1": ["anchors"], "stage2": ["anchors"], "baseline": []}
    assert not (world / "mini" / "anchors").exists()


def test_a_mistake_is_told_before_anything_is_computed(world):
    with pytest.raises(SightwordError, match="intentonomy_train2020.json does not exist"):
        runs.prepare(config_of("stage1", "data.root=nowhere"))
    with pytest.raises(SightwordError, match=r"none\.json does not exist"):
        runs.prepare(config_of("stage1", "system.vocabulary=none.json"))
    assert not (world / "mini" / "anchors").exists()


def test_the_vocabularies_are_the_builtin_ones_unless_others_are_named(world):
    anchors, tokens, _ = runs.steps(config_of("stage1", "system.vocabulary="))
    assert "vocabulary" not in anchors.command
    assert "vocabulary=mini/vocabulary" in runs.steps(config_of("stage1"))[0].command
    assert tokens.command.endswith("images=mini/intentonomy token_type=joint,value on_error=skip out=mini/tokens")
