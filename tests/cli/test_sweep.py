"""Sweeps: a run for each combination of values, each a process of its own."""

import json

import pytest

from sightword.cli.main import main
from sightword.cli.sweep import Plan, job_name, monitored
from sightword.engine.run import read_config
from sightword.engine.system import presets, tables


def planned(tmp_path, *argv):
    """The runs of a sweep: name → arguments of train."""
    return {job.name: job.overrides for job in Plan.of([*argv, f"out={tmp_path}"]).jobs()}


def mistake(capsys, *argv):
    assert main(["sweep", *argv]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


def test_every_combination_of_values_is_a_run_in_a_folder_named_by_them(tmp_path):
    found = planned(tmp_path, "experiment=tokenizer/mini", "optim.lr=1e-3,1e-4", "seed=range(0,2)", "data.root=2024_01")
    assert list(found) == ["lr0.001_seed0", "lr0.001_seed1", "lr0.0001_seed0", "lr0.0001_seed1"]
    assert found["lr0.001_seed1"] == (
        "experiment=tokenizer/mini",
        "optim.lr=0.001",
        "seed=1",
        "data.root=2024_01",
    )


def test_presets_and_experiments_are_swept_and_those_that_hold_devices_too(tmp_path):
    found = planned(tmp_path, "preset=visece/debug1,43090/visece/itmdebug1", "seed=0,1")
    assert list(found) == [
        "visece-debug1_seed0",
        "visece-debug1_seed1",
        "43090-visece-itmdebug1_seed0",
        "43090-visece-itmdebug1_seed1",
    ]
    found = planned(tmp_path, "experiment=retrieval/phase1,retrieval/phase3", "optim.lr=1e-3")
    assert list(found) == ["retrieval-phase1", "retrieval-phase3"]


def test_keys_of_one_short_name_are_told_apart_in_names():
    assert job_name(["optim.lr=1", "optim.lr_scale.text=2"], ["optim.lr", "optim.lr_scale.text"]) == "lr1_text2"
    typed = ["data.size=1", "system.size=2"]
    assert job_name(typed, ["data.size", "system.size"]) == "data.size1_system.size2"


@pytest.mark.parametrize("table", [name for rows in tables().values() for name in rows])
def test_every_row_of_every_table_is_a_config(table, tmp_path):
    rows = planned(tmp_path, f"table={table}", "seed=0,1", *(["scale=mini"] if table == "stages" else []))
    assert len({name.rpartition("_seed")[0] for name in rows}) == len(rows) / 2 >= 2


def test_the_table_of_document_002_has_every_preset_of_it(tmp_path):
    swept = {override for row in planned(tmp_path, "table=visece").values() for override in row}
    published = {name for name in presets()["skeleton"] if not name.startswith("msr/")}
    assert {f"preset={name}" for name in published} <= swept


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["optim.lr=1,2"], "a sweep needs experiment=…"),
        (["experiment=tokenizer/mini", "optm.lr=1,2"], "there is no key 'optm'"),
        (["experiment=tokenizer/mini", "seed=1,many"], "could not be converted"),
        (["experiment=tokenizer/mini", "seed=1,1"], "two runs of the sweep are the same"),
        (["experiment=tokenizer/mini,skeleton/msr"], "of one system"),
        (["experiment=tokenizer/mini", "-m"], "takes no -m"),
        (["experiment=tokenizer/mini", "resume=x", "seed=1,2"], "sightword train resume=x"),
        (["table=visec"], "did you mean 'visece'"),
        (["preset=visece/debug1,visece/debugg", "seed=0,1"], "there is no"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(argv, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in mistake(capsys, *argv)
    assert not list(tmp_path.iterdir())


TINY = [
    "experiment=tokenizer/mini",
    "system.encoder_channels=[8,8]",
    "system.decoder_channels=[8,8]",
    "system.latent_channels=8",
    "system.num_embeddings=16",
    "system.embedding_dim=8",
    "data.image_size=16",
    "data.batch_size=2",
    "data.val_crops=1",
    "trainer.steps=2",
    "trainer.threads=1",
]


def test_a_run_that_fails_does_not_end_a_sweep_and_the_same_command_does_what_is_missing(photos, tmp_path, capfd):
    argv = [
        "sweep",
        *TINY,
        "optim.warmup=0",
        f"data.root={photos}",
        f"out={tmp_path}",
        "name=first",
        "measure=val/psnr",
    ]
    assert main([*argv, "optim.lr=1e-3,1e30"]) == 1
    folder = tmp_path / "sweeps" / "first" / "tokenizer" / "mini"
    said = capfd.readouterr()
    assert "1 of 2 runs are not finished: lr1e+30" in said.err
    assert "diverged" in said.err
    assert (folder / "lr0.001" / "evaluation.json").exists()
    assert read_config(folder / "lr0.001").optim.lr == 1e-3
    assert "evaluate" in (tmp_path / "sweeps" / "first" / "logs" / "lr0.001.log").read_text()

    before = (folder / "lr0.001" / "summary.json").stat().st_mtime_ns
    (folder / "lr0.001" / "evaluation.json").unlink()
    assert main([*argv, "optim.lr=1e-3,1e-3"]) == 2
    assert main([*argv, "optim.lr=choice(1e-3)"]) == 0
    assert (folder / "lr0.001" / "summary.json").stat().st_mtime_ns == before
    assert (folder / "lr0.001" / "evaluation.json").exists()

    assert main([*argv, "optim.lr=1e-3,1e-4", "data.flip=false"]) == 2
    assert "has a sweep with other values: data.flip=false. Give name=" in capfd.readouterr().err


def test_a_run_returns_the_best_value_of_what_it_monitors(photos, tmp_path):
    assert main(["train", *TINY, f"data.root={photos}", f"out={tmp_path}", "name=one"]) == 0
    run = tmp_path / "tokenizer" / "mini" / "one"
    best = json.loads((run / "summary.json").read_text())["best"]
    assert monitored(run) == ("val/psnr", best["val/psnr"])
