"""Every YAML composes, builds tiny, and takes one step; those of `intent` in tests/systems/intent/test_intent_train."""

import pytest

from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine.system import experiments

EXPERIMENTS = [name for name, _ in experiments()]


def test_there_are_experiments():
    assert {"tokenizer/vqvae", "tokenizer/vqgan", "tokenizer/lowdim", "tokenizer/mini"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(("name", "file"), list(experiments()))
def test_a_yaml_opens_with_its_command_and_says_what_data_cost_and_score(name, file):
    lines = file.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# sightword train experiment={name} ")
    assert all(line.startswith("# ") and len(line) > 15 for line in lines[2:6])


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("tokenizer/")])
def test_an_experiment_builds_tiny_and_takes_one_step(name, tiny, tmp_path, capsys):
    words = [f"experiment={name}", *tiny, f"out={tmp_path}", "trainer.steps=1", "data.val_crops=1"]
    assert main(["train", *words]) == 0
    (folder,) = (tmp_path / name).iterdir()
    for file in ("config.yaml", "metrics.csv", "summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (folder / file).exists(), file
    assert str(folder) in capsys.readouterr().out


def test_the_defaults_are_the_documents():
    config = compose_config(["experiment=tokenizer/vqvae", "data.root=x"])
    system = config.system
    assert (system.num_embeddings, system.embedding_dim, system.decay) == (1024, 256, 0.99)
    assert (system.encoder_channels, system.decoder_channels) == ([128, 256, 256, 256], [256, 256, 256, 128])
    assert (system.lambda_rec, system.lambda_vq, system.lambda_commit, system.lambda_perc) == (1.0, 1.0, 0.25, 0.5)
    assert (config.optim.lr, config.optim.betas) == (2e-4, [0.9, 0.99])
