"""From vocabularies to explanations by the command line, on the synthetic data."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine import run as runs
from sightword.miniature import scene
from sightword.miniature.contents import write_vocabulary
from sightword.miniature.intent import write_intents
from sightword.systems.intent import show
from sightword.systems.intent.intentonomy import CLASSES, annotation_file, read_annotations

SPLITS = {"train": 240, "val": 80, "test": 40}


@pytest.fixture(scope="module")
def world(tmp_path_factory, small_clip):
    """A small Intentonomy, and what the commands make of it."""
    root = tmp_path_factory.mktemp("intent")
    write_intents(root, **SPLITS)
    write_vocabulary(root / "vocabulary")
    for words in (
        ["check", "dataset=intentonomy", f"root={root}"],
        ["anchors", f"tower={small_clip}", f"out={root / 'anchors'}", f"vocabulary={root / 'vocabulary'}"],
        ["cache", f"tower={small_clip}", f"images={root}", f"out={root / 'tokens'}", "token_type=value,joint"],
        ["ids", f"anchors={root / 'anchors'}", f"tokens={root / 'tokens'}", f"out={root / 'ids'}"],
    ):
        assert main(words) == 0
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
    values |= {"data.root": world, "data.cache": "", "data.ids": "", "out": out, "trainer.accelerator": "cpu"}
    return ["scale=mini", *(f"{name}={value}" for name, value in (values | more).items())]


SOURCES = {"stage1": "ids", "stage2": "tokens", "baseline": "tokens"}
FIELD = {"ids": "data.ids", "tokens": "data.cache"}


@pytest.fixture(scope="module")
def trained(world, small_clip, tmp_path_factory):
    """Experiment → its run's folder."""
    out, found = tmp_path_factory.mktemp("runs"), {}
    for name, source in SOURCES.items():
        more = {FIELD[source]: world / source, "name": "it"}
        assert main(["train", f"experiment=intent/{name}", *words_of(world, small_clip, out, **more)]) == 0
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


def test_images_and_ids_give_the_same_metrics(world, small_clip, trained, tmp_path, capsys):
    fields = ["data.ids=", f"data.images={world}"]
    assert main(["evaluate", f"run={trained['stage1']}", f"out={tmp_path / 'it.json'}", *fields]) == 0
    by_tower = json.loads((tmp_path / "it.json").read_text())["metrics"]
    for name, value in measured(trained["stage1"]).items():
        if name != "batches":
            assert by_tower[f"val/{name}" if f"val/{name}" in by_tower else name] == pytest.approx(value, abs=0.02)


def test_the_test_split_is_judged_by_the_runs_own_threshold(world, trained, tmp_path, capsys):
    run = trained["baseline"]
    assert main(["evaluate", f"run={run}", "split=test", f"out={tmp_path / 'it.json'}"]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "it.json").read_text())
    assert report["metrics"]["threshold"] == pytest.approx(measured(run)["threshold"])
    assert report["protocol"]["split"] in said
    for name in report["metrics"]:
        assert report["protocol"]["metrics"][name] in next(line for line in said.splitlines() if f" {name} " in line)
    with open(tmp_path / "it_classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(CLASSES)
    assert sum(float(row["f1"]) for row in rows) / 28 == pytest.approx(report["metrics"]["macro_f1"])
    assert rows[3] == {name: "" if v is None else str(v) for name, v in report["tables"]["classes"][3].items()}
    text = (tmp_path / "it_classes.txt").read_text()
    assert len([line for line in text.splitlines() if line.split()[1:2] in [[name] for name in CLASSES]]) == 28
    assert report["protocol"]["split"] in text


def test_the_codebooks_of_a_run_are_told_by_what_was_measured(world, trained, tmp_path):
    found = {}
    for source in ("codes", "cache"):
        fields = {"codes": [], "cache": ["data.ids=", f"data.cache={world / 'tokens'}"]}[source]
        assert main(["evaluate", f"run={trained['stage1']}", f"out={tmp_path / 'it.json'}", *fields]) == 0
        found[source] = json.loads((tmp_path / "it.json").read_text())["tables"]["codebooks"]
    assert [row["stream"] for row in found["codes"]] == ["actions", "coco", "places"]
    for row in found["codes"]:
        assert 0 < row["used"] <= row["codes"]
        assert row["usage"] == pytest.approx(row["used"] / row["codes"])
        assert 1 < row["perplexity"] <= row["used"]
    assert [row["used"] for row in found["codes"]] == [row["used"] for row in found["cache"]]
    assert (tmp_path / "it_codebooks.csv").exists()


def test_averaged_weights_are_kept_with_their_own_threshold(world, small_clip, tmp_path, capsys):
    more = {"data.ids": world / "ids", "trainer.epochs": 3, "optim.ema": 0.9, "name": "it"}
    assert main(["train", "experiment=intent/stage1", *words_of(world, small_clip, tmp_path, **more)]) == 0
    run = tmp_path / "intent" / "stage1" / "it"
    for checkpoint in ("best", "last"):
        assert main(["evaluate", f"run={run}", "split=test", f"checkpoint={checkpoint}"]) == 0
        report = json.loads((run / "evaluation_test.json").read_text())
        kept = json.loads((run / "summary.json").read_text())[checkpoint]
        assert report["metrics"]["threshold"] == pytest.approx(kept["val/threshold"])


def test_evaluating_what_cannot_be_is_one_line(world, trained, tmp_path, capsys):
    def said(*words):
        assert main(["evaluate", f"run={trained['stage1']}", f"out={tmp_path / 'no.json'}", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("sightword: ") == 1
        return err

    assert "split='tests' is none of train, val, test" in said("split=tests")
    other = trained["baseline"] / "checkpoints" / "best.ckpt"
    assert "was written by intent/baseline" in said("split=test", f"checkpoint={other}")
    empty = tmp_path / "intentonomy_test2020.json"
    content = json.loads((world / empty.name).read_text())
    empty.write_text(json.dumps(content | {"annotations": []}))
    assert "test2020.json: annotations: expected a list of at least 1" in said("split=test", f"data.root={tmp_path}")
    assert "nowhere does not exist: sightword anchors tower=… out=" in said("system.semantic_anchors_path=nowhere")
    assert not (tmp_path / "no.json").exists()


def test_anchors_that_were_written_anew_do_not_name_an_old_runs_words(world, small_clip, trained, tmp_path, capsys):
    words = [f"tower={small_clip}", f"out={tmp_path}", f"vocabulary={world / 'vocabulary'}", "seed=1"]
    assert main(["anchors", *words]) == 0
    capsys.readouterr()
    field = f"system.semantic_anchors_path={tmp_path}"
    assert main(["evaluate", f"run={trained['stage1']}", f"out={tmp_path / 'it.json'}", field]) == 2
    assert "were trained with other anchors" in capsys.readouterr().err


def test_the_check_is_told_where_the_pictures_lie(world, tmp_path, capsys):
    for split in SPLITS:
        file = f"intentonomy_{split}2020.json"
        (tmp_path / file).write_text((world / file).read_text())
    assert main(["check", "dataset=intentonomy", f"root={tmp_path}", f"images={world}"]) == 0
    assert f"{sum(SPLITS.values())} images, all readable" in capsys.readouterr().out
    assert main(["check", "dataset=intentonomy", f"root={tmp_path}", f"imags={world}"]) == 2
    assert "has no key 'imags' (did you mean 'images'?); its keys are root, images" in capsys.readouterr().err


def test_a_run_says_why(world, trained):
    """The words of a picture add up to its logit, and what speaks most for a true intent is what its scene shows."""
    task, _, _ = runs.restore(trained["stage1"])
    right, total = 0, 0
    for picture, drawn, intents in drawn_test_pictures(world):
        inside = show.explain(task, picture)
        shown = {f"{drawn.place} (places)", f"{drawn.action} (actions)", *(f"{word} (coco)" for word in drawn.objects)}
        for intent in intents:
            terms = inside.terms(intent)
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
        found = show.explain(task, picture).classes
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
        assert main(["train", *words, *words_of(world, small_clip, tmp_path, **more)]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert err.count("sightword: ") == 1  # a bar may stand before it
        return err[err.index("sightword: ") :]

    stage2 = "experiment=intent/stage2"
    assert "set data.cache" in said(stage2, "init_from=", **{"data.ids": world / "ids", "data.cache": ""})
    assert "+system.token_types.weather=… adds one" in said(
        "experiment=intent/stage1", "system.token_types.weather=value"
    )
    assert "has no scale 'huge'" in said("experiment=intent/stage1", "scale=huge")


def test_the_full_scale_is_the_documents():
    words = ["experiment=intent/stage1", "scale=full", "system.semantic_anchors_path=x", "data.root=y"]
    config = compose_config(words)
    assert (config.system.tower, config.system.embed_dim, config.system.freeze_codebook) == ("vit_h14", 1024, True)
    assert (config.system.gamma_neg, config.system.gamma_pos, config.system.margin) == (2.0, 0.0, 0.05)
