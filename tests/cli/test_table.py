"""`sightword table`: what it says of runs, and which runs it refuses to compare."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from worlds import arguments_of

from sightword.cli.main import main
from sightword.cli.table.comparison import Difference
from sightword.cli.table.make import _judged, make_table
from sightword.cli.table.write import as_dict, markdown
from sightword.engine.config import Run
from sightword.engine.contract import Evaluator
from sightword.engine.evaluation import Source, write_evaluation
from sightword.engine.item_result import ItemResults
from sightword.engine.split import Entry, Record
from sightword.engine.system import system_of
from sightword.errors import SightwordError
from sightword.metrics.bootstrap import Interval
from sightword.storage.writer import write_json

ITEMS, CLASSES = 60, 4
TARGETS = np.random.default_rng(0).random((ITEMS, CLASSES)) < 0.4
NAMES = [f"{number:02}.jpg" for number in range(ITEMS)]


class Measured(Evaluator[object]):
    """What an evaluator of intents leaves after `compute`, for predictions of which a fraction is wrong."""

    def __init__(self, seed: int, wrong: float, names: list[str], protocol: dict[str, str]) -> None:
        flips = np.random.default_rng([1, seed, round(1000 * wrong)]).random(TARGETS.shape) < wrong
        scores = np.where(TARGETS ^ flips, 0.9, 0.1)[: len(names)].astype(np.float32)
        arrays = {"scores": scores, "targets": TARGETS[: len(names)], "predicted": scores > 0.5}
        classes = {"classes": np.array(["a", "b", "c", "d"])}
        self.found, self.text = ItemResults.of("images", names, names, arrays, classes), protocol

    def metric_names(self):
        return frozenset()

    def update(self, batch):
        pass

    def compute(self):
        once, measures = np.ones((1, len(self.found.id))), system_of("intent").measures
        return {name: float(each.values(self.found.given, once)[0]) for name, each in measures.items()}

    def protocol(self):
        return {"split": "test: 60 images", "classes": "4"} | self.text

    def items(self, loader):
        return self.found


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a finished run of intents and its evaluation; returns its directory."""

    def write(name, seed=0, wrong=0.2, names=NAMES, protocol=None, split="test", content="x", digest="d", **settings):
        folder = tmp_path / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        system = system_of("intent")
        config = Run(
            "intent/stage1", seed=seed, name=folder.name, system=system.Config(model="baseline"), data=system.Data()
        )
        config.trainer.monitor = "val/macro_f1"
        for key, value in settings.items():
            *parts, last = key.split("__")
            place = config
            for part in parts:
                place = getattr(place, part)
            setattr(place, last, value)
        (folder / "config.yaml").write_text(yaml.safe_dump(config.plain()))
        write_json(folder / "summary.json", {"cost": {"seconds": 90.0, "batches": 3, "from_batch": 0}})
        Record({}, {"train": {"a": Entry(content, "", "")}, "val": {"b": Entry("y", "", "")}}).write(folder)
        checkpoint = folder / "checkpoints" / "best.ckpt"
        checkpoint.write_bytes(b"weights")
        if split:
            evaluator = Measured(seed, wrong, names, protocol or {})
            file = folder / f"evaluation_{split}.json"
            source = Source(folder, checkpoint, split, digest)
            write_evaluation(file, evaluator, None, evaluator.compute(), source)
        return folder

    return write


def table(root, by="optim.lr", measures=("test/macro_f1",), baseline="", out=None):
    return make_table([root], by, measures, baseline, out)


@pytest.fixture
def three(make, tmp_path):
    """Three rates with three seeds each: 0.1 and 0.2 are equally good, 0.3 is better."""
    for seed in range(3):
        for rate, wrong in ((0.1, 0.3), (0.2, 0.301), (0.3, 0.1)):
            make(f"r{rate}_{seed}", seed, wrong, optim__lr=rate)
    return tmp_path / "runs"


# ------------------------------------------------------------------------------------------------------------- numbers


def test_a_row_has_the_mean_and_deviation_of_its_seeds(three):
    made = table(three, baseline="0.1")
    row = made.rows[0]
    assert [each.label for each in made.rows] == ["0.1", "0.2", "0.3"]
    cell = row.cells["test/macro_f1"]
    told = [json.loads((Path(run) / "evaluation_test.json").read_text())["metrics"]["macro_f1"] for run in row.runs]
    assert list(cell.seeds.values()) == pytest.approx(told)
    assert cell.interval.value == pytest.approx(np.mean(told))
    assert cell.deviation == pytest.approx(np.std(told, ddof=1))
    assert cell.interval.low < cell.interval.value < cell.interval.high
    assert row.minutes == pytest.approx(1.5)


def test_words_say_better_only_where_the_interval_excludes_zero(three):
    cells = [row.cells["test/macro_f1"] for row in table(three, baseline="0.1").rows]
    assert cells[0].difference is None
    assert [cell.difference.word for cell in cells[1:]] == ["no difference", "better"]
    assert cells[1].difference.interval.low < 0 < cells[1].difference.interval.high
    assert cells[2].difference.adjusted >= cells[2].difference.p
    worse = table(three, baseline="0.3").rows[0].cells["test/macro_f1"].difference
    assert worse.word == "worse"


def test_a_table_is_the_same_each_time_and_whatever_rows_stand_in_it(three):
    first = table(three, baseline="0.1")
    assert table(three, baseline="0.1") == first
    shutil.rmtree(three / "r0.2_0")
    shutil.rmtree(three / "r0.2_1")
    shutil.rmtree(three / "r0.2_2")
    assert (
        table(three, baseline="0.1").rows[1].cells["test/macro_f1"].interval
        == first.rows[2].cells["test/macro_f1"].interval
    )


def test_a_row_can_be_compared_with_its_own_other_metric(three):
    made = table(three, baseline="test/micro_f1")
    row = made.rows[0]
    assert [each.label for each in made.rows] == ["0.1", "0.2", "0.3"]  # micro F1 differs, so it has no row of its own
    difference = row.cells["test/macro_f1"].difference
    report = json.loads((Path(row.runs[0]) / "evaluation_test.json").read_text())["metrics"]
    assert difference.seeds[0] == pytest.approx(report["macro_f1"] - report["micro_f1"])


def test_seeds_without_a_counterpart_are_left_out_of_the_difference_and_named(three):
    shutil.rmtree(three / "r0.1_2")
    made = table(three, baseline="0.1")
    assert list(made.rows[2].cells["test/macro_f1"].difference.seeds) == [0, 1]
    assert len(made.rows[2].cells["test/macro_f1"].seeds) == 3
    assert any("0.3: the difference is of the seeds 0, 1 alone; 2 have no counterpart" in note for note in made.notes)


def test_items_of_one_cluster_give_an_interval_over_seeds_and_no_verdict(make, tmp_path):
    for seed in (0, 1):
        for rate, wrong in ((0.1, 0.3), (0.2, 0.1)):
            make(f"r{rate}_{seed}", seed, wrong, names=NAMES[:1], optim__lr=rate)
    made = table(tmp_path / "runs", baseline="0.1")
    cell = made.rows[1].cells["test/macro_f1"]
    assert cell.interval.low < min(cell.seeds.values())  # as two seeds have, by Student's t
    assert cell.difference.word == ""
    assert any("there is no verdict" in note for note in made.notes)
    assert "draws of seeds" in made.caption


def test_less_is_better_of_losses():
    assert [name for name, each in system_of("tokenizer").measures.items() if each.less_is_better] == [
        "recon_loss",
        "perc_loss",
        "lpips_vgg",
        "lpips_alex",
    ]
    pair = Difference(Interval(-0.2, -0.3, -0.1), 0.001, 0.001, "", {})
    assert _judged(pair, 0.001, less_is_better=True).word == "better"
    assert _judged(pair, 0.001, less_is_better=False).word == "worse"
    assert _judged(pair, 0.2, less_is_better=False).word == "no difference"  # after Holm


def test_one_seed_is_said_and_has_no_deviation(make, tmp_path):
    make("a", optim__lr=0.1)
    made = table(tmp_path / "runs")
    assert np.isnan(made.rows[0].cells["test/macro_f1"].deviation)
    assert any("one seed" in note for note in made.notes)
    assert "±" not in markdown(made).partition("\n\n")[0]


# ------------------------------------------------------------------------------------------------------------- groups


def test_presets_and_what_else_differs_are_named(make, tmp_path):
    make("a", preset="visece/debug2", optim__lr=0.1)
    make("b", preset="visece/debug1", optim__lr=0.2, trainer__threads=3)
    make("c", optim__lr=0.3)
    made = table(tmp_path / "runs", by="preset")
    assert [row.label for row in made.rows] == ["visece/debug1", "visece/debug2", "intent/stage1"]
    assert "Besides preset, rows differ in optim.lr." in made.notes


def test_runs_of_several_systems_are_refused(make, tmp_path):
    make("a")
    system = system_of("tokenizer")
    other = Run("tokenizer/mini", system=system.Config(), data=system.Data()).plain()
    (make("b") / "config.yaml").write_text(yaml.safe_dump(other))
    assert "a of intent and " in refused(tmp_path / "runs")


def test_several_keys_make_a_row(make, tmp_path):
    make("a", optim__lr=0.1, trainer__epochs=2)
    make("b", optim__lr=0.1, trainer__epochs=3)
    made = table(tmp_path / "runs", by="optim.lr,trainer.epochs")
    assert [row.label for row in made.rows] == ["0.1 · 2", "0.1 · 3"]


def test_runs_that_were_started_from_runs_of_their_own_seed_are_one_row(make, tmp_path):
    for seed in (0, 1):
        before = make(f"before/{seed}", seed, optim__lr=0.5)
        make(f"after/{seed}", seed, init_from=str(before))
    made = make_table([tmp_path / "runs" / "after"], "experiment", ["test/macro_f1"])
    assert len(made.rows[0].runs) == 2
    (tmp_path / "runs" / "before" / "1" / "config.yaml").write_text(
        (tmp_path / "runs" / "before" / "1" / "config.yaml").read_text().replace("lr: 0.5", "lr: 0.6")
    )
    with pytest.raises(SightwordError, match="differ in init_from"):
        make_table([tmp_path / "runs" / "after"], "experiment", ["test/macro_f1"])


# ------------------------------------------------------------------------------------------------------------ refusals


def refused(root, **given):
    with pytest.raises(SightwordError) as caught:
        table(root, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_row_of_two_configs_is_refused_with_what_differs(make, tmp_path):
    make("a", 0, optim__lr=0.1)
    make("b", 1, optim__lr=0.1, optim__warmup=7)
    told = refused(tmp_path / "runs")
    assert "runs/a" in told
    assert "runs/b" in told
    assert "optim.warmup (0 and 7)" in told
    assert "by=optim.lr,optim.warmup" in told


def test_one_seed_twice_and_one_run_twice_are_refused(make, tmp_path):
    run = make("a", optim__lr=0.1)
    with pytest.raises(SightwordError, match="named twice"):
        make_table([run, tmp_path / "runs" / "*"], "optim.lr", ["test/macro_f1"])
    make("b", optim__lr=0.1)
    assert "are both optim.lr=0.1 with seed=0" in refused(tmp_path / "runs")


def test_missing_evaluations_are_named_with_the_command(make, tmp_path):
    make("a", optim__lr=0.1)
    run = make("b", optim__lr=0.2, split="")
    assert f"Type: sightword evaluate run={run} split=test" in refused(tmp_path / "runs")
    (tmp_path / "runs" / "a" / "checkpoints" / "best.ckpt").write_bytes(b"trained further")
    assert refused(tmp_path / "runs").count("sightword evaluate") == 2


def test_unfinished_runs_are_left_out_and_named(make, tmp_path):
    make("a", optim__lr=0.1)
    (make("b", optim__lr=0.2) / "summary.json").unlink()
    made = table(tmp_path / "runs")
    assert [row.label for row in made.rows] == ["0.1"]
    assert any("runs/b" in note for note in made.notes)
    assert "Tried: 2 runs" in made.caption
    (tmp_path / "runs" / "a" / "summary.json").unlink()
    assert "none of the 2 runs has finished" in refused(tmp_path / "runs")


@pytest.mark.parametrize(
    ("unlike", "told"),
    [
        ({"names": NAMES[:-1]}, "60 and 59 items, and 1 are not in both, as 59.jpg"),
        ({"protocol": {"classes": "5"}}, "unlike protocols, classes: '4' and '5'"),
        ({"digest": "e"}, "changed between the evaluations"),
        ({"content": "z"}, "trained on different items"),
    ],
)
def test_unlike_data_and_protocols_are_refused(make, tmp_path, unlike, told):
    make("a", optim__lr=0.1)
    make("b", optim__lr=0.2, **unlike)
    message = refused(tmp_path / "runs")
    assert told in message
    assert "runs/a and " in message


def test_runs_trained_on_other_data_are_compared_where_their_configs_say_so(make, tmp_path):
    make("a", data__root="small")
    make("b", content="z", data__root="large")
    made = table(tmp_path / "runs", by="data.root")
    assert [row.label for row in made.rows] == ["large", "small"]
    assert "Besides data.root, rows differ in data." in made.notes


def test_seeds_with_other_splits_are_refused(make, tmp_path):
    make("a", 0)
    make("b", 1, content="z")
    assert "Give every seed the same split" in refused(tmp_path / "runs", by="experiment")


def test_mistakes_in_arguments_are_told(three):
    assert "<split>/<metric>" in refused(three, measures=("macro_f1",))
    assert "did you mean 'macro_f1'?" in refused(three, measures=("test/macro_f",))
    assert "no run's config has the key 'optim.l' (did you mean 'optim.lr'?)" in refused(three, by="optim.l")
    assert "rows are 0.1, 0.2, 0.3" in refused(three, baseline="0.4")
    assert "by='seed'" in refused(three, by="seed")
    with pytest.raises(SightwordError, match="there is no run"):
        table(three.parent / "nothing")


def test_items_that_do_not_give_the_metrics_are_refused(make, tmp_path):
    run = make("a")
    report = json.loads((run / "evaluation_test.json").read_text())
    report["metrics"]["macro_f1"] += 0.01
    (run / "evaluation_test.json").write_text(json.dumps(report))
    assert "Evaluate the run again" in refused(tmp_path / "runs")
    make("b", seed=1, wrong=0.4)
    shutil.copy(run / "evaluation_test_items.npz", tmp_path / "runs" / "b")
    report["items"]["digest"] = "0"
    (run / "evaluation_test.json").write_text(json.dumps(report))
    assert "Write both again: sightword evaluate" in refused(tmp_path / "runs")


# --------------------------------------------------------------------------------------------------------------- files


def test_files_have_every_seed_and_say_how_they_were_made(three, tmp_path, capsys):
    out = tmp_path / "table"
    argv = [f"runs={three}", "by=optim.lr", "measure=test/macro_f1,test/map", "baseline=0.1", f"out={out}"]
    assert main(["table", *argv]) == 0
    printed = capsys.readouterr().out
    assert (out / "table.md").read_text() in printed
    assert "2,000 draws of 60 images of test" in printed
    assert "Checkpoints: best by val/macro_f1 (max). Tried: 9 runs of 3 settings." in printed
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert len(rows) == 6
    assert float(rows[0]["seed_2"]) > 0
    content = json.loads((out / "table.json").read_text())
    assert content["rows"][2]["metrics"]["test/macro_f1"]["difference"]["word"] == "better"
    assert (out / "table.png").stat().st_size > 1000
    assert main(["table", *argv]) == 0  # its own files are written again


def test_files_of_others_stay(three, tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "table.md").write_text("mine")
    assert "was not written by sightword table" in refused(three, out=tmp_path / "table")
    assert (tmp_path / "table" / "table.md").read_text() == "mine"


def test_a_table_as_json_has_plain_values(three):
    assert json.loads(json.dumps(as_dict(table(three, baseline="0.1"))))["by"] == "optim.lr"


def test_real_runs_of_a_preset_are_compared(world, tmp_path, capsys):
    """Train, evaluate and compare, as a user does; a preset is recorded in the run, and resuming keeps it."""
    small = [value for value in arguments_of("skeleton/visece", world) if not value.startswith("experiment=")]
    for name in ("visecemod3", "visecemod4"):
        argv = [f"preset={name}", *small, "trainer.steps=1", f"out={tmp_path}", f"name={name}"]
        assert main(["train", *argv]) == 0
        run = tmp_path / "skeleton" / "visece" / name
        assert yaml.safe_load((run / "config.yaml").read_text())["preset"] == name
        assert main(["evaluate", f"run={run}", "checkpoint=last", "split=test"]) == 0
    assert main(["train", f"resume={run}", "trainer.steps=2"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["preset"] == "visecemod4"
    capsys.readouterr()
    assert main(["table", f"runs={tmp_path}/skeleton", "by=preset", "measure=test/top1"]) == 2
    assert f"sightword evaluate run={run} split=test" in capsys.readouterr().err
