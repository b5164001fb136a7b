"""From words to reasons by the command line, on the small world: what it shows stands for an intent each."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sightword import cli
from sightword import run as runs
from sightword.miniature import scene
from sightword.miniature.contents import write_vocabulary
from sightword.miniature.intent import write_intents
from sightword.systems.intent import show
from sightword.systems.intent.intentonomy import annotation_file, read_annotations

SPLITS = {"train": 240, "val": 80, "test": 40}


@pytest.fixture(scope="module")
def world(tmp_path_factory, small_clip):
    """A small Intentonomy, and what the verbs make of it."""
    root = tmp_path_factory.mktemp("intent")
    write_intents(root, **SPLITS)
    write_vocabulary(root / "vocabulary")
    files = sorted((root / "vocabulary").iterdir())
    streams, vocabulary = (",".join(map(str, parts)) for parts in ([file.stem for file in files], files))
    for words in (
        ["check", "dataset=intentonomy", f"root={root}"],
        ["anchors", f"tower={small_clip}", f"out={root / 'anchors'}", f"streams={streams}", f"vocabulary={vocabulary}"],
        ["cache", f"tower={small_clip}", f"images={root}", f"out={root / 'tokens'}", "tokens=value,joint"],
        ["codes", f"anchors={root / 'anchors'}", f"tokens={root / 'tokens'}", f"out={root / 'codes'}"],
    ):
        assert cli.main(words) == 0
    return root


def drawn_test_pictures(world):
    """(picture, scene, ids of its intents) of the test split."""
    told = json.loads((world / "drawn.json").read_text())
    notes = read_annotations(annotation_file(world, "test"))
    for file in notes.files:
        said = told[Path(file).stem]
        yield Image.open(world / file), scene.draw(said["seed"], said["index"]), said["intents"]


def words_of(world, small_clip, out, **more):
    values = {"system.tower": small_clip, "system.semantic_anchors_path": world / "anchors"}
    values |= {"data.root": world, "out": out, "trainer.accelerator": "cpu"}
    return ["scale=mini", *(f"{name}={value}" for name, value in (values | more).items())]


SOURCES = {"stage1": "codes", "stage2": "tokens", "baseline": "tokens"}
FIELD = {"codes": "data.codes", "tokens": "data.cache"}


@pytest.fixture(scope="module")
def trained(world, small_clip, tmp_path_factory):
    """Experiment → its run's folder."""
    out, found = tmp_path_factory.mktemp("runs"), {}
    for name, source in SOURCES.items():
        more = {FIELD[source]: world / source, "name": "it"}
        assert cli.main(["train", f"experiment=intent/{name}", *words_of(world, small_clip, out, **more)]) == 0
        found[name] = out / "intent" / name / "it"
    return found


def measured(run):
    return {
        name.removeprefix("val/"): value
        for name, value in json.loads((run / "summary.json").read_text())["best"].items()
    }


@pytest.mark.parametrize("name", SOURCES)
def test_each_experiment_learns_more_than_twice_what_saying_yes_to_all_gives(trained, name):
    measures = measured(trained[name])
    assert measures["macro_f1"] > 2 * measures["all_ones_macro_f1"]
    assert measures["map"] > 0.3


def test_pictures_and_codes_give_the_same_measures(world, small_clip, trained, tmp_path, capsys):
    fields = ["data.codes=''", f"data.images={world}"]
    assert cli.main(["evaluate", f"run={trained['stage1']}", f"out={tmp_path / 'it.json'}", *fields]) == 0
    by_tower = json.loads((tmp_path / "it.json").read_text())["measures"]
    for name, value in measured(trained["stage1"]).items():
        if name != "batches":
            assert by_tower[f"val/{name}" if f"val/{name}" in by_tower else name] == pytest.approx(value, abs=0.02)


def test_a_run_says_why(world, trained):
    """The words of a picture add up to its logit, and what speaks most for a true intent is what its scene shows."""
    task, _, _ = runs.restore(trained["stage1"])
    right, total = 0, 0
    for picture, drawn, intents in drawn_test_pictures(world):
        inside = show.look(task, picture)
        shown = {f"{drawn.place} (places)", f"{drawn.action} (actions)", *(f"{word} (coco)" for word in drawn.objects)}
        for intent in intents:
            terms = show.words_for(task, inside, intent)
            assert sum(terms.values()) + float(inside.bias[intent]) == pytest.approx(
                float(inside.logits[intent]), abs=1e-4
            )
            right, total = right + (max(terms, key=terms.__getitem__) in shown), total + 1
    assert right > 0.6 * total


def test_the_words_of_patches_are_those_that_are_there(world, trained):
    """The document's check by eye, on words that exist: 0.8 of the patches of each stream."""
    task, _, _ = runs.restore(trained["stage1"])
    right = {"coco": [], "places": [], "actions": []}
    for picture, drawn, _ in drawn_test_pictures(world):
        found = show.look(task, picture).classes
        (things, of_thing), (doings, of_doing) = (
            map(torch.from_numpy, scene.patch_labels(labels, 8)) for labels in (drawn.labels, drawn.action_labels)
        )
        bare = (things + doings == 0) & (of_thing + of_doing == 2)
        thing, doing = (things > 0) & (of_thing >= 0.5), (doings > 0) & (of_doing >= 0.5)
        right["coco"].append((found["coco"] == things.long() - 1)[thing])
        right["actions"].append((found["actions"] == doings.long() - 1)[doing])
        right["places"].append((found["places"] == list(scene.PLACES).index(drawn.place))[bare])
    for stream, parts in right.items():
        assert torch.cat(parts).float().mean() >= 0.8, stream


def test_stage_two_moves_codes_a_little_and_says_how_far(trained):
    before = runs.restore(trained["stage1"])[0].model
    task, config, _ = runs.restore(trained["stage2"])
    assert config.optim.lr_scale["vq_coco"] == 0.1
    stats = task.stats()
    assert 0.5 < stats["coco_cosine"] < 0.99999
    assert torch.equal(task.model.book("coco").anchors, before.book("coco").anchors)


def test_a_mistake_gets_one_line(world, small_clip, tmp_path, capsys):
    def said(*words, **more):
        assert cli.main(["train", *words, *words_of(world, small_clip, tmp_path, **more)]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert err.count("sightword: ") == 1  # a bar may stand before it
        return err[err.index("sightword: ") :]

    stage2 = "experiment=intent/stage2"
    assert "set data.cache" in said(stage2, **{"data.codes": world / "codes"})
    nowhere = {"system.semantic_anchors_path": world / "nowhere"}
    assert "nowhere does not exist" in said("experiment=intent/stage1", **nowhere)
    assert "has no scale 'huge'" in said("experiment=intent/stage1", "scale=huge")


def test_the_full_scale_is_the_documents():
    words = ["experiment=intent/stage1", "scale=full", "system.semantic_anchors_path=x", "data.root=y"]
    config = cli._compose(words)
    assert (config.system.tower, config.system.embed_dim, config.system.freeze_codebook) == ("vit_h14", 1024, True)
    assert (config.system.gamma_neg, config.system.gamma_pos, config.system.clip) == (2.0, 0.0, 0.05)
