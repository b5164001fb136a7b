"""Classes are matched by name: in files of labels, in checkpoints, and in weights from elsewhere."""

import json
import shutil

import pytest
import torch
import worlds

from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine.class_name import columns_of, difference, rows_by_name
from sightword.engine.init import initialise, origin_of
from sightword.engine.predictor import load
from sightword.engine.run import complete, make_task, read_config, restore
from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_checkpoint

# ------------------------------------------------------------------------------------------------------------- by hand


def test_columns_are_matched_by_name_whatever_their_order():
    assert columns_of(["sun", "rain", "snow"], ["snow", "sun", "rain"], "x.json") == [1, 2, 0]


def test_names_that_do_not_fit_are_named_with_the_nearest():
    with pytest.raises(SightwordError, match=r"^x.json: 'rian' \(did you mean 'rain'\?\) is none of the 2 classes"):
        columns_of(["sun", "rain"], ["sun", "rian"], "x.json")
    assert difference(["sun", "rain"], ["sun"]) == "'rain' is missing"
    assert difference("abcdefg", "abc") == "'d', 'e', 'f' and 1 more are missing"
    assert difference(["sun"], ["sun"]) == ""


def test_rows_of_shared_classes_are_taken_and_the_others_stay():
    own, other = {"head": torch.zeros(3, 2)}, {"head": torch.tensor([[1.0, 1.0], [2.0, 2.0]]), "body": torch.ones(1)}
    found = rows_by_name(other, ["rain", "sun"], own, ["sun", "wind", "rain"])
    assert list(found.weights) == ["body"]
    assert found.partial["head"].tolist() == [[2, 2], [0, 0], [1, 1]]
    assert found.shared == {"head": "2 of 3 classes are among the 2 there"}


def test_a_source_without_names_is_said_to_be_taken_in_order():
    weights = {"head": torch.ones(2, 2)}
    assert rows_by_name(weights, [], {"head": torch.zeros(2, 2)}, ["a", "b"]).note.startswith("it does not name its")


# ---------------------------------------------------------------------------------------------------------------- runs

SHORT = ["trainer.steps=1", "trainer.epochs=1"]


@pytest.fixture
def intents(world, tmp_path):
    """The synthetic intents, as a copy that a test may change."""
    return shutil.copytree(world["root"] / "intent", tmp_path / "intents")


def renamed(root, names, split="*"):
    """Give the categories other names, by a function of the name."""
    for file in root.glob(f"intentonomy_{split}2020.json"):
        content = json.loads(file.read_text())
        content["categories"] = [{**one, "name": names(one["name"])} for one in content["categories"]]
        file.write_text(json.dumps(content))


def turned(root):
    """Number the categories of every split backwards; the labels say the same."""
    for file in root.glob("intentonomy_*2020.json"):
        content = json.loads(file.read_text())
        last = len(content["categories"]) - 1
        for category in content["categories"]:
            category["id"] = last - category["id"]
        for entry in content["annotations"]:
            if "category_ids" in entry:
                entry["category_ids"] = [last - number for number in entry["category_ids"]]
            else:
                entry["category_ids_softprob"] = entry["category_ids_softprob"][::-1]
        file.write_text(json.dumps(content))


def arguments(world, out, root, *more):
    found = [one for one in worlds.arguments_of("intent/stage1", world) if not one.startswith("data.root=")]
    return [*found, f"data.root={root}", f"data.images={world['root'] / 'intent'}", f"out={out}", *SHORT, *more]


def train(world, out, root, *more):
    return main(["train", *arguments(world, out, root, *more)])


def test_a_run_has_the_names_of_its_data_and_measures_a_set_that_numbers_them_otherwise(world, intents, tmp_path):
    assert train(world, tmp_path, intents, "name=it") == 0
    run = tmp_path / "intent" / "stage1" / "it"
    names = read_config(run).system.classes
    assert names == read_checkpoint(run / "checkpoints" / "last.ckpt")["classes"]
    assert tuple(names) == load(run, "last").classes
    found = []
    for number in range(2):
        out = tmp_path / f"{number}.json"
        assert main(["evaluate", f"run={run}", "checkpoint=last", "split=val", f"out={out}"]) == 0
        found.append(json.loads(out.read_text())["metrics"])
        turned(intents)
    assert found[0] == found[1]


def test_a_run_is_neither_measured_nor_resumed_on_other_classes(world, intents, tmp_path, capsys):
    assert train(world, tmp_path, intents, "name=it") == 0
    run, before = tmp_path / "intent" / "stage1" / "it", read_config(tmp_path / "intent" / "stage1" / "it")
    backwards = ",".join(before.system.classes[::-1])
    assert main(["train", f"resume={run}", "trainer.steps=2", f"system.classes=[{backwards}]"]) == 2
    assert "trained with other classes than the config names: they are the same in another order" in (
        capsys.readouterr().err
    )
    renamed(intents, lambda name: "Hapy" if name == "Happy" else name)
    for words in (["train", f"resume={run}", "trainer.steps=2"], ["evaluate", f"run={run}", "checkpoint=last"]):
        assert main(words) == 2
        assert "'Hapy' (did you mean 'Happy'?) is none of the 28 classes of the model" in capsys.readouterr().err


def test_a_set_of_its_own_classes_is_named_in_every_output(world, intents, tmp_path, capsys):
    renamed(intents, lambda name: f"my {name}")
    assert train(world, tmp_path, intents, "name=it") == 0
    run = tmp_path / "intent" / "stage1" / "it"
    assert main(["evaluate", f"run={run}", "checkpoint=last", "split=val"]) == 0
    assert "easy_f1" not in capsys.readouterr().out
    rows = (run / "evaluation_classes.csv").read_text()
    assert "my Happy" in rows
    assert "hardness" not in rows
    image = next((world["root"] / "intent" / "low").iterdir())
    load(run, "last").save_pretrained(tmp_path / "model")
    for model in (load(run, "last"), load(tmp_path / "model")):
        assert set(model.classes) == set(model(image).scores)
        assert all(name.startswith("my ") for name in model.classes)


def test_rows_of_a_head_from_another_run_are_matched_by_name(world, intents, tmp_path, capfd):
    assert train(world, tmp_path, intents, "name=first") == 0
    first = tmp_path / "intent" / "stage1" / "first"
    before = restore(first, "last").task
    turned(intents)
    load(first, "last").save_pretrained(tmp_path / "model")
    for source in (first / "checkpoints" / "last.ckpt", tmp_path / "model"):
        config = complete(compose_config(arguments(world, tmp_path, intents, f"init_from={source}")))
        task = make_task(config)
        assert task.classes == before.classes[::-1]
        report = initialise(task, origin_of(config), config)
        assert report.fits
        assert "matched by the names of the classes" in report.note
        assert torch.equal(task.model.head.weight, before.model.head.weight.flip(0))
    renamed(intents, lambda name: name if name in before.classes[:9] else f"my {name}")
    assert train(world, tmp_path, intents, "name=second", f"init_from={first / 'checkpoints' / 'last.ckpt'}") == 2
    assert "model.head.weight (9 of 28 classes are among the 28 there)" in capfd.readouterr().err
    config = complete(compose_config(arguments(world, tmp_path, intents, f"init_from={source}", "init_strict=false")))
    task = make_task(config)
    new = task.model.head.weight.detach().clone()
    initialise(task, origin_of(config), config)
    for row, name in enumerate(task.classes):
        known = name in before.classes
        wanted = before.model.head.weight[before.classes.index(name)] if known else new[row]
        assert torch.equal(task.model.head.weight[row], wanted)


@pytest.fixture
def actions(world, tmp_path):
    """The file of labels of the synthetic motions, which a test may change."""
    file = tmp_path / "labels.json"
    shutil.copy(world["root"] / "motion" / "labels.json", file)
    return file


def backwards(file):
    file.write_text(json.dumps(dict(reversed(json.loads(file.read_text()).items()))))


@pytest.mark.parametrize("experiment", ["slowonly", "visece"])
def test_a_run_keeps_its_own_labels_where_their_file_changes_and_is_not_resumed_with_others(
    world, actions, tmp_path, capsys, experiment
):
    words = [one for one in worlds.arguments_of(f"skeleton/{experiment}", world) if "labels" not in one]
    words += [f"system.labels={actions}", f"out={tmp_path}", *SHORT, "name=it", "init_from="]
    assert main(["train", *words]) == 0
    run = tmp_path / "skeleton" / experiment / "it"
    names = restore(run, "last").task.classes
    backwards(actions)
    assert restore(run, "last").task.classes == load(run, "last").classes == names
    capsys.readouterr()
    assert main(["train", f"resume={run}", "trainer.steps=2"]) == 2
    assert "they are the same in another order" in capsys.readouterr().err
    again = main(["evaluate", f"run={run}", "checkpoint=last", f"system.labels={actions.rename(tmp_path / 'x.json')}"])
    assert again == (2 if experiment == "slowonly" else 0)  # a text encoder recognises what its labels say


def test_the_persons_of_another_run_are_never_taken_for_ones_own(world, tmp_path):
    words = [*worlds.arguments_of("retrieval/irra_mini", world), f"out={tmp_path}", *SHORT, "name=it"]
    assert main(["train", *words]) == 0
    config = compose_config([*words, f"init_from={tmp_path / 'retrieval' / 'irra_mini' / 'it'}", "seed=5"])
    task = make_task(config)
    new = task.identity.linear.weight.detach().clone()
    assert initialise(task, origin_of(config), config).fits
    assert torch.equal(task.identity.linear.weight, new)


def test_a_run_on_rooms_keeps_the_table_of_its_labels_and_not_the_rooms(world, tmp_path):
    words = [*worlds.arguments_of("points/bifusion", world), f"out={tmp_path}", *SHORT, "name=it"]
    assert main(["train", *words]) == 0
    run = tmp_path / "points" / "bifusion" / "it"
    assert [file.name for file in (run / "inputs" / "labels").iterdir()] == ["scannetv2-labels.combined.tsv"]
    assert restore(run, "last").task.classes == tuple(read_checkpoint(run / "checkpoints" / "last.ckpt")["classes"])
