"""From annotations to named actions by the command line: every experiment, stopped and resumed, and new classes."""

import csv
import json
import shutil

import pytest
import torch
from made import assert_same

from sightword.cli.main import main
from sightword.engine.run import restore
from sightword.miniature import motion, tower
from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.skeleton.data import split_loader
from sightword.systems.skeleton.ensemble import ensemble_of
from sightword.systems.skeleton.evaluate import SkeletonEvaluator
from sightword.systems.skeleton.predict import ActionRecognizer

EXPERIMENTS = ["slowonly", "visece", "visece_itm", "visece_mo", "visece_pacl", "visece_mean"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("motion")
    motion.write_motion(root / "motion", motion.Sizes(train=2, val=1, test=1, clips=1))
    tower.write_bert(root / "bert", [" ".join(motion.vocabulary())])
    return root


def words_of(world, out, name, **more):
    values = {"system.text": world / "bert", "system.labels": world / "motion" / "labels.json"}
    values |= {"data.annotations": world / "motion" / "annotations.pkl", "data.frames": 8, "data.batch_size": 4}
    values |= {"optim.warmup": 2, "trainer.steps": 4, "trainer.val_every": 4, "trainer.log_every": 1}
    values |= {"trainer.accelerator": "cpu", "out": out, "name": "it"}
    return [f"experiment=skeleton/{name}", "scale=mini", *(f"{key}={value}" for key, value in (values | more).items())]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Experiment → its run's folder."""
    out = tmp_path_factory.mktemp("runs")
    for name in EXPERIMENTS:
        assert main(["train", *words_of(world, out, name)]) == 0
    return {name: out / "skeleton" / name / "it" for name in EXPERIMENTS}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_and_says_how_it_was_measured(trained, name):
    summary = json.loads((trained[name] / "summary.json").read_text())
    assert all(0 <= summary["best"][f"val/{measure}"] <= 100 for measure in ("top1", "top5", "mean_class"))
    assert ("val/key_auc" in summary["best"]) == (name == "visece_pacl")
    assert "12 recordings, 1 view each at 20×20" in summary["protocol"]["views"]


@pytest.mark.parametrize("name", ["visece_itm", "visece_mo"])
def test_a_run_that_goes_on_ends_as_if_it_had_not_been_stopped(world, trained, tmp_path, name):
    assert main(["train", *words_of(world, tmp_path, name, **{"trainer.steps": 2})]) == 0
    run = tmp_path / "skeleton" / name / "it"
    assert main(["train", f"resume={run}", "trainer.steps=4"]) == 0
    straight, resumed = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (trained[name], run))
    for key in ("state_dict", "optimizer_states", "batches"):
        assert_same(straight[key], resumed[key])


def test_the_test_split_is_measured_in_more_views_and_drawn(trained, capsys):
    assert main(["evaluate", f"run={trained['visece_pacl']}", "split=test"]) == 0
    assert "nothing was chosen on it" in capsys.readouterr().out
    report = json.loads((trained["visece_pacl"] / "evaluation_test.json").read_text())
    assert "4 views each" in report["protocol"]["views"]  # two draws of frames, each mirrored too
    drawn = {file.name for file in (trained["visece_pacl"] / "evaluation_test_images").iterdir()}
    assert drawn >= {"strips.png", "confusion.png"}


def test_actions_never_trained_are_named_by_their_words_and_a_classifier_cannot(world, trained, tmp_path, capsys):
    words = [f"labels={world / 'motion' / 'unseen.json'}", "split=unseen", f"out={tmp_path}"]
    assert main(["recognise", f"model={trained['visece']}", *words]) == 0
    rows = list(csv.DictReader((tmp_path / "recognised.csv").open()))
    assert len(rows) == 2 * len(motion.UNSEEN)  # of the two people whom it was not trained on
    assert {row["class_1"] for row in rows} <= set(motion.UNSEEN)
    capsys.readouterr()
    assert main(["recognise", f"model={trained['slowonly']}", *words]) == 2
    assert "Other classes need a model with system.recognise_by=text" in capsys.readouterr().err


def test_converted_annotations_measure_the_same_and_are_whole(world, trained, tmp_path, capsys):
    file = world / "motion" / "annotations.pkl"
    assert main(["check", "dataset=pyskl", f"path={file}"]) == 0
    assert main(["convert", f"annotations={file}", f"out={tmp_path}/it.npz"]) == 0
    run, found = f"run={trained['visece_mean']}", []
    for annotations in (file, tmp_path / "it.npz"):
        out = tmp_path / f"{annotations.suffix}.json"
        assert main(["evaluate", run, f"out={out}", f"data.annotations={annotations}"]) == 0
        found.append(json.loads(out.read_text())["metrics"])
    assert found[0] == found[1]


def test_what_is_exported_gives_the_runs_own_probabilities(trained, tmp_path):
    assert main(["export", f"run={trained['visece_pacl']}", f"out={tmp_path}"]) == 0
    task, config, _ = restore(trained["visece_pacl"])
    batch = next(iter(split_loader(config.data, "val", task.joints, task.labels.classes)))
    own, again = SkeletonEvaluator(task).score(batch).scores, ActionRecognizer.from_pretrained(tmp_path)
    assert torch.equal(own, again.scores(batch.points, batch.scores, batch.size).scores)
    assert (again.data.frames, again.data.test_size, again.data.test_views) == (8, [20, 20], 2)


def test_a_run_and_its_export_elsewhere_name_recordings_alike(world, trained, tmp_path, monkeypatch):
    assert main(["export", f"run={trained['visece_pacl']}", f"out={tmp_path / 'model'}"]) == 0
    found = []
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for model in (trained["visece_pacl"], "../model"):
        argv = [f"annotations={world / 'motion' / 'annotations.pkl'}", "split=xsub_test", f"out={tmp_path / 'out'}"]
        assert main(["recognise", f"model={model}", *argv]) == 0
        found.append((tmp_path / "out" / "recognised.csv").read_text())
    assert found[0] == found[1]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Experiment `skeleton/visece_pacl`" in card
    assert "| val/top1 |" in card
    assert "- **views**: 12 recordings, 1 view each" in card


def test_a_preset_stands_for_its_words_and_others_overrule_it(world, tmp_path, capsys):
    words = [word for word in words_of(world, tmp_path, "visece") if not word.startswith("experiment=")]
    assert main(["train", "preset=visecemod1", *words, "system.base=4", "trainer.steps=1"]) == 0
    config = restore(tmp_path / "skeleton" / "visece" / "it")[1]
    assert (config.system.projector, config.system.pool, config.system.base) == ("residual", "before", 4)
    assert main(["train", "preset=visecemod9", *words]) == 2
    assert "did you mean 'visecemod" in capsys.readouterr().err


def test_classes_of_another_number_are_a_line_and_a_run_is_left_as_it_was(world, trained, tmp_path, capsys):
    classes = json.loads((world / "motion" / "labels.json").read_text()) | {"dancing": ["dancing"]}
    (tmp_path / "more.json").write_text(json.dumps(classes))
    for name, words in (
        ("slowonly", ["evaluate", "run="]),
        ("slowonly", ["train", "resume="]),
        ("visece", ["train", "resume="]),
    ):
        run = shutil.copytree(trained[name], tmp_path / f"{name}_{words[0]}")
        before = (run / "config.yaml").read_bytes()
        more = ["trainer.steps=5"] if words[0] == "train" else []
        assert main([words[0], f"{words[1]}{run}", f"system.labels={tmp_path / 'more.json'}", *more]) == 2
        error = capsys.readouterr().err
        assert "'dancing'" in error
        assert "is none of the 12 classes of the model" in error
        assert (run / "config.yaml").read_bytes() == before


def test_an_ensemble_averages_the_probabilities_of_runs_and_lists_each(trained, tmp_path, capsys):
    runs = [trained["slowonly"], trained["visece_mean"]]
    assert main(["ensemble", f"runs={','.join(map(str, runs))}", "split=test", f"out={tmp_path}"]) == 0
    report = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert report["runs"] == [str(run) for run in runs]
    assert "the mean of the probabilities of 2 runs" in report["protocol"]["ensemble"]
    for number, run in enumerate(runs, 1):
        assert main(["evaluate", f"run={run}", "split=test", f"out={tmp_path / str(number)}"]) == 0
        alone = json.loads((tmp_path / str(number) / "evaluation_test.json").read_text())["metrics"]["top1"]
        assert report["metrics"][f"top1/{number}_{run.name}"] == pytest.approx(alone)
    made = ensemble_of(runs, "test")
    torch.testing.assert_close(made.scores, (made.members[0].scores + made.members[1].scores) / 2)
    torch.testing.assert_close(made.scores.sum(1), torch.ones(len(made.scores)))


def test_runs_that_cannot_be_averaged_are_refused(trained, capsys):
    for runs, part in (([trained["slowonly"]] * 2, "not two different runs"), ([trained["slowonly"]], "Pass two")):
        assert main(["ensemble", f"runs={','.join(map(str, runs))}"]) == 2
        assert part in capsys.readouterr().err
