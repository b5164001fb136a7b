"""The command line: quick, and a mistake gets one line."""

import subprocess
import sys

import pytest

from sightword.cli.main import main
from sightword.engine import run as runs

QUICK = (
    "import sys; from sightword.cli.main import main; code = main({argv}); "
    "assert 'torch' not in sys.modules; sys.exit(code)"
)


@pytest.mark.parametrize("argv", [["--help"], ["list"], ["tokenize", "--help"], ["train", "--help"], ["--version"]])
def test_help_and_list_do_not_import_torch(argv):
    assert subprocess.run([sys.executable, "-c", QUICK.format(argv=argv)], capture_output=True).returncode == 0


@pytest.mark.parametrize("override", ["system.num_embedings=3", "optm.lr=1", "system.metric=cosin", "optim.lr=fast"])
def test_a_mistake_in_the_config_fails_before_torch_is_imported(override):
    argv = ["train", "experiment=tokenizer/mini", override]
    done = subprocess.run([sys.executable, "-c", QUICK.format(argv=argv)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    key = override.split("=")[0].split(".")
    assert key[-1] in done.stderr or key[0] in done.stderr


def mistake(capsys, *argv):
    """The one line that a mistake prints."""
    assert main(list(argv)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("sightword: ")
    return err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["evalute"], ["evalute", "did you mean 'evaluate'"]),
        (["train"], ["experiment=", "tokenizer/mini"]),
        (["train", "experiment=tokenizer/min"], ["tokenizer/min", "did you mean 'tokenizer/mini'"]),
        (["train", "experiment=tokenizer/mini"], ["data.root"]),
        (["train", "experiment=tokenizer/mini", "system.encoder_channels=[8]"], ["1 stages", "2", "encoder_channels"]),
        (["train", "experiment=tokenizer/mini", "system.num_embeddings=many"], ["system.num_embeddings", "many"]),
        (["train", "experiment=tokenizer/mini", "data.rot=x"], ["'data.rot'", "did you mean 'data.root'"]),
        (["train", "experiment=tokenizer/mini", "trainer.stpes=3"], ["did you mean 'trainer.steps'"]),
        (["train", "experiment=tokenizer/mini", "photos"], ["'photos' is not key=value"]),
        (["train", "experiment=tokenizer/mini", "optim.betas=0.9"], ["optim.betas", "list", "in brackets"]),
        (["train", "experiment=tokenizer/mini", "optim.lr=nan"], ["optim.lr=nan", "not finite"]),
        (["train", "experiment=tokenizer/mini", "system.lambda_rec=inf"], ["system.lambda_rec=inf", "not finite"]),
        (["train", "experiment=tokenizer/mini", "optim.betas=[0.9,nan]"], ["optim.betas", "not finite"]),
        (["train", "experiment=tokenizer/mini", "data.num_workers=-1"], ["data.num_workers=-1", "at least 0"]),
        (["train", "experiment=tokenizer/mini", "data.batch_size=0"], ["data.batch_size=0", "at least 1"]),
        (["train", "resume=nowhere"], ["nowhere", "config.yaml"]),
        (["evaluate"], ["run="]),
        (["evaluate", "run=nowhere"], ["nowhere"]),
        (["export", "rnu=x", "out=y"], ["rnu", "did you mean 'run'"]),
        (["check", "dataset=image", "root=."], ["image", "did you mean 'images'"]),
        (
            ["check", "dataset=images", "root=.", "images=x"],
            ["dataset=images", "has no key 'images'", "its keys are root"],
        ),
        (["check", "dataset=images", "root"], ["'root' is not key=value"]),
        (["tokenize", "images=nowhere", "out=x", "model=y"], ["nowhere", "does not exist"]),
        (["tokenize", "images"], ["'images' is not key=value"]),
        (["tokenize", "images=x", "out=y", "size=large"], ["size='large' is not a size", "384x128"]),
        (["show", "model=x", "image=no.jpg"], ["image=no.jpg does not exist", "Pass an image file"]),
        (["mini", "out="], ["out='' is not a path", "out=. is this folder"]),
    ],
)
def test_a_mistake_gets_one_helpful_line(argv, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = mistake(capsys, *argv)
    for part in told:
        assert part in line
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no command"):
        main(["evalute", "--debug"])


def test_a_folder_without_images_is_named_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "empty" in mistake(capsys, "train", "experiment=tokenizer/mini", "data.root=empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A finished tiny run."""
    out = tmp_path_factory.mktemp("runs")
    argv = ["system.encoder_channels=[8,8]", "system.decoder_channels=[8,8]", "system.latent_channels=8"]
    argv += ["system.num_embeddings=16", "system.embedding_dim=8", "data.image_size=16", "data.batch_size=2"]
    argv += [f"data.root={photos}", f"out={out}", "trainer.steps=2", "data.val_crops=1", "trainer.threads=1"]
    assert main(["train", "experiment=tokenizer/mini", *argv]) == 0
    (folder,) = (out / "tokenizer" / "mini").iterdir()
    return folder


def test_evaluate_repeats_the_runs_own_metrics_and_writes_the_protocol(run, capsys):
    import json

    assert main(["evaluate", f"run={run}"]) == 0
    report = json.loads((run / "evaluation.json").read_text())
    best = json.loads((run / "summary.json").read_text())["best"]
    assert report["metrics"]["psnr"] == pytest.approx(best["val/psnr"], abs=1e-6)
    assert report["protocol"]["split"]
    assert "psnr" in capsys.readouterr().out


def test_export_holds_inference_only_and_loads_back(run, tmp_path):
    import torch

    from sightword import VQImage
    from sightword.storage.checkpoint import read_weights

    assert main(["export", f"run={run}", f"out={tmp_path / 'model'}"]) == 0
    model = VQImage.from_pretrained(tmp_path / "model")
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    task, _, _ = runs.restore(run)
    assert torch.equal(model.encode(x), task.model.encode(x))
    assert not [name for name in read_weights(tmp_path / "model" / "model.safetensors") if "cluster" in name]


def test_a_run_of_another_system_and_a_misspelt_checkpoint_are_named(run, capsys):
    line = mistake(capsys, "show", f"model={run}")
    assert f"{run} is a model of tokenizer" in line
    assert "Pass one of intent" in line
    line = mistake(capsys, "evaluate", f"run={run}", "checkpoint=bst")
    assert "checkpoint=bst is none of best, last (did you mean 'best'?)" in line


def test_a_checkpoint_of_another_experiment_is_refused(run, tmp_path, capsys):
    import torch

    torch.save({"state_dict": {}, "config": {"experiment": "points/fuse"}}, tmp_path / "other.ckpt")
    line = mistake(capsys, "evaluate", f"run={run}", f"checkpoint={tmp_path / 'other.ckpt'}")
    assert "points/fuse" in line
    assert "tokenizer/mini" in line


def test_a_mistake_that_shows_late_leaves_no_run_behind(photos, tmp_path, capsys):
    argv = ["experiment=tokenizer/mini", f"data.root={photos}", f"out={tmp_path}", "trainer.threads=1"]
    argv += ["system.encoder_channels=[8,8]", "system.decoder_channels=[8,8]", "data.val_crops=1", "trainer.steps=1"]
    assert "csvv" in mistake(capsys, "train", *argv, "logger=[csvv]")
    assert main(["train", *argv, "trainer.monitor=val/pnsr"]) == 2
    assert "val/pnsr is not measured" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_checkpoint_of_other_sizes_is_refused_in_one_line(run, tmp_path, capsys):
    import torch

    from sightword.storage.checkpoint import read_checkpoint

    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")
    saved["state_dict"]["task.model.quantizer.weight"] = torch.zeros(3, 8)
    torch.save(saved, tmp_path / "small.ckpt")
    line = mistake(capsys, "evaluate", f"run={run}", f"checkpoint={tmp_path / 'small.ckpt'}")
    assert "quantizer.weight" in line
    assert "[3, 8]" in line
    assert "[16, 8]" in line


def test_check_names_the_broken_file_and_fails(photos, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes((photos / "0.png").read_bytes()[:60])
    (tmp_path / "b.png").write_bytes((photos / "1.png").read_bytes())
    with pytest.raises(SystemExit) as exit_:
        main(["check", "dataset=images", f"root={tmp_path}"])
    assert exit_.value.code == 1
    out = capsys.readouterr().out
    assert "a.png" in out
    assert "b.png" not in out
    assert main(["check", "dataset=images", f"root={photos}"]) == 0


def test_a_runs_name_is_its_folder_and_is_not_given_twice(run, photos, capsys):
    argv = ["experiment=tokenizer/mini", f"out={run.parents[2]}", f"name={run.name}", f"data.root={photos}"]
    line = mistake(capsys, "train", *argv)
    assert f"resume={run}" in line


def test_a_resume_that_cannot_be_leaves_the_run_as_it_was(run, photos, tmp_path, capsys):
    before = (run / "config.yaml").read_text()
    assert "quantizer.weight" in mistake(capsys, "train", f"resume={run}", "system.num_embeddings=32")
    assert "is finished" in mistake(capsys, "train", f"resume={run}", "optim.lr=1")
    assert "experiment=" in mistake(capsys, "train", f"resume={run}", "experiment=tokenizer/vqgan")
    assert (run / "config.yaml").read_text() == before


def test_a_system_of_one_split_says_so(run, capsys):
    assert "split=test: a tokenizer has the split val alone" in mistake(capsys, "evaluate", f"run={run}", "split=test")


def test_a_checkpoint_that_is_not_there_is_not_replaced_by_another(run, capsys):
    assert "typo.ckpt" in mistake(capsys, "evaluate", f"run={run}", "checkpoint=typo.ckpt")


def test_export_and_tokenize_do_not_need_the_training_images(run, photos, tmp_path, capsys):
    import shutil

    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(photos), "/nowhere"))
    assert main(["export", f"run={other}", f"out={tmp_path / 'model'}"]) == 0
    assert main(["tokenize", f"model={other}", f"images={photos}", f"out={tmp_path / 'cache'}", "size=16"]) == 0
    capsys.readouterr()
    assert "nowhere" in mistake(capsys, "evaluate", f"run={other}")
    assert main(["evaluate", f"run={other}", f"data.root={photos}"]) == 0


def test_a_damaged_config_is_one_line(run, tmp_path, capsys):
    for text in ("a: [", "", "experiment: tokenizer/mini\nsystem: {nonsense: 1}"):
        (tmp_path / "config.yaml").write_text(text)
        assert "config.yaml" in mistake(capsys, "evaluate", f"run={tmp_path}")


@pytest.mark.parametrize("root", ["~/none (1), [x]/a=b", "it's", "$x"])
def test_a_path_may_hold_any_sign(root, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    line = mistake(capsys, "train", "experiment=tokenizer/mini", f"data.root={root}")
    assert f"{root.replace('~', str(tmp_path))} does not exist" in line


@pytest.mark.parametrize(
    "override",
    ["trainer.log_every=0", "optim.betas=[0.9]", "data.image_size=8", "trainer.precision=32bit", "trainer.devices=0"],
)
def test_a_value_out_of_range_is_one_line_and_leaves_nothing(override, photos, tmp_path, capsys):
    argv = ["train", "experiment=tokenizer/mini", f"data.root={photos}", f"out={tmp_path}", override]
    assert override.partition("=")[2].strip("[]") in mistake(capsys, *argv)
    assert not list(tmp_path.iterdir())


def test_two_runs_of_one_second_have_two_folders(photos, tmp_path):
    from sightword.engine.config import Run
    from sightword.engine.start import _claim

    folders = {_claim(Run(experiment="tokenizer/mini", out=str(tmp_path))) for _ in range(3) if _forget_run()}
    assert len(folders) == 3
    _forget_run()


def _forget_run():
    import os

    os.environ.pop("SIGHTWORD_RUN", None)
    return True


def test_torchrun_and_the_config_agree_on_the_number_of_processes(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = mistake(capsys, "train", "experiment=tokenizer/mini", f"data.root={photos}", f"out={tmp_path}", "name=a")
    assert "2 processes" in line
    assert "trainer.devices" in line


def test_trains_help_names_every_field_with_its_comment(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for field in ("system.num_embeddings=1024", "data.root=", "optim.lr=2e-4", "trainer.devices=1", "logger=[]"):
        assert field in out
    assert "raise | skip: unreadable images are omitted in validation" in out


def test_under_torchrun_a_run_wants_a_name(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert "name=" in mistake(capsys, "train", "experiment=tokenizer/mini", f"data.root={photos}", f"out={tmp_path}")


def test_hydras_flags_work(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["experiment=tokenizer/mini", f"data.root={photos}"]
    monkeypatch.setattr(sys, "argv", ["sightword", "train", *argv, "--cfg", "job"])
    assert main(["train", *argv, "--cfg", "job"]) == 0
    assert "num_embeddings: 512" in capsys.readouterr().out
    assert sys.argv[1] == "train"
    assert not list(tmp_path.iterdir())


def test_train_takes_no_lists_of_values(capsys):
    assert "sightword sweep" in mistake(capsys, "train", "experiment=tokenizer/mini", "optim.lr=1e-3,1e-4", "-m")


def test_what_is_evaluated_lies_in_the_run_although_its_name_has_a_dot(run, tmp_path):
    import shutil

    moved = tmp_path / "lr0.001"
    shutil.copytree(run, moved)
    assert main(["evaluate", f"run={moved}"]) == 0
    assert (moved / "evaluation.json").is_file()


def test_prepare_executes_what_is_not_done_and_says_what_to_type_next(tmp_path, monkeypatch, capsys):
    from sightword.engine.contract import Step
    from sightword.engine.system import systems

    done = {"tokens": True, "ids": False}

    def step(name):
        return Step(f"{name} of 3 images", tmp_path / name, lambda: done[name], lambda: done.update({name: True}), "…")

    monkeypatch.setattr(type(systems()["tokenizer"]), "prepare", lambda self, run: [step("tokens"), step("ids")])
    argv = ["experiment=tokenizer/mini", "data.root=a b"]
    assert main(["prepare", *argv]) == 0
    said = capsys.readouterr()
    assert done == {"tokens": True, "ids": True}
    assert said.err == f"preparing {tmp_path / 'ids'}: ids of 3 images\n"
    assert said.out.splitlines() == [
        f"{tmp_path / 'tokens'}: tokens of 3 images, was there already",
        f"{tmp_path / 'ids'}: ids of 3 images",
        "next: sightword train experiment=tokenizer/mini 'data.root=a b'",
    ]


def test_prepare_of_an_experiment_that_needs_nothing_says_so(capsys):
    assert main(["prepare", "experiment=tokenizer/mini", "data.root=x"]) == 0
    assert "needs nothing to be computed before training" in capsys.readouterr().out
