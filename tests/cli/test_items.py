"""Every system's metrics, computed from the items that `evaluate` wrote, are those of its evaluator."""

import json

import numpy as np
import pytest
from worlds import arguments_of

from sightword.cli.main import main
from sightword.engine.evaluation import read_evaluation
from sightword.engine.item_result import read_items
from sightword.engine.system import system_of
from sightword.errors import SightwordError

RUNS = {
    "intent/stage1": ("test", "images", ["macro_f1", "hard_f1", "map_voc"]),
    "retrieval/irra_mini": ("test", "people", ["rank1", "i2t_map"]),
    "skeleton/visece_mini": ("test", "recordings of one person", ["top1", "mean_class"]),
    "points/bifusion_mini": ("val", "rooms", ["clip_miou", "text_miou"]),
    "tokenizer/mini": ("val", "images", ["psnr", "psnr_gain"]),
}


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """Each system, trained for a batch, and evaluated."""
    out, found = tmp_path_factory.mktemp("runs"), {}
    for experiment, (split, _, _) in RUNS.items():
        argv = [*arguments_of(experiment, world), "trainer.steps=1", f"out={out}", "name=it"]
        assert main(["train", *argv]) == 0
        found[experiment] = out / experiment / "it"
        assert main(["evaluate", f"run={found[experiment]}", "checkpoint=last", f"split={split}"]) == 0
    return found


@pytest.mark.parametrize("experiment", RUNS)
def test_metrics_of_items_are_those_of_the_evaluator(experiment, runs):
    split, unit, named = RUNS[experiment]
    evaluation = read_evaluation(runs[experiment], split)
    assert evaluation.items.unit == unit
    once = np.ones((1, len(evaluation.items.id)))
    measures = system_of(experiment).measures
    compared = [name for name in measures if name in evaluation.metrics]
    assert set(named) <= set(compared)
    for name in compared:
        found = measures[name].values(evaluation.items.given, once)
        assert found == pytest.approx([evaluation.metrics[name]], abs=1e-6), name


@pytest.mark.parametrize("experiment", RUNS)
def test_ids_say_nothing_of_this_machine_and_are_sorted(experiment, runs):
    items = read_evaluation(runs[experiment], RUNS[experiment][0]).items
    assert not any(name.startswith("/") for name in items.id.tolist())
    assert items.id.tolist() == sorted(set(items.id.tolist()))


def test_all_captions_and_images_of_a_person_are_one_cluster(runs):
    items = read_evaluation(runs["retrieval/irra_mini"], "test").items
    images = items.arrays["is_image"]
    assert 0 < images.sum() < len(images)
    persons = dict(zip(items.id[images], items.cluster[images], strict=True))
    for name, person in zip(items.id[~images].tolist(), items.cluster[~images].tolist(), strict=True):
        assert persons[name.rpartition("/")[0]] == person


def test_an_evaluation_of_a_checkpoint_that_changed_since_is_none(runs, tmp_path):
    run = runs["tokenizer/mini"]
    assert read_evaluation(run, "val") is not None
    assert read_evaluation(run, "test") is None
    file, checkpoint = run / "evaluation.json", run / "checkpoints" / "last.ckpt"
    before, whole = file.read_text(), checkpoint.read_bytes()
    checkpoint.write_bytes(whole + b"\0")
    assert read_evaluation(run, "val") is None
    checkpoint.write_bytes(whole)
    report = json.loads(before)
    del report["items"]  # as of a system without any
    file.write_text(json.dumps(report))
    with pytest.raises(SightwordError, match="has no results of single items"):
        read_evaluation(run, "val")
    del report["checkpoint_digest"]  # as earlier versions wrote it
    file.write_text(json.dumps(report))
    assert read_evaluation(run, "val") is None
    file.write_text(before)


def test_items_lie_beside_the_report_wherever_it_is(runs, tmp_path):
    assert main(["evaluate", f"run={runs['tokenizer/mini']}", "checkpoint=last", f"out={tmp_path / 'mine.json'}"]) == 0
    assert len(read_items(tmp_path / "mine_items.npz").id)
