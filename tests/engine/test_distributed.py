"""Two processes train as one process with twice the batch."""

import os
import subprocess
import sys

import pytest
import torch

from sightword.cli.main import main
from sightword.storage.checkpoint import read_checkpoint


def train(words, cwd):
    command = [sys.executable, "-m", "sightword.cli", "train", *words]
    environment = {name: value for name, value in os.environ.items() if name != "SIGHTWORD_RUN"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=tokenizer/mini", "system.kmeans=false", "system.restart_after=0"],
        ["experiment=tokenizer/vqgan", "system.disc_start=1", "system.disc_warmup=0", "system.disc_channels=4"],
    ],
    ids=["one optimiser", "two optimisers"],
)
def test_two_ranks_train_as_one_with_twice_the_batch(words, tiny, tmp_path):
    words = [*words, *tiny, "optim.name=sgd", "optim.lr=0.01", "optim.ema=0", "optim.schedule=constant"]
    words += ["trainer.steps=3", "data.val_crops=1", "data.val_split=0.3", "system.disc_layers=1"]
    adversarial = "experiment=tokenizer/vqgan" in words
    train([*words, "trainer.devices=2", f"out={tmp_path / 'two'}"], tmp_path)
    assert main(["train", *words, "data.batch_size=4", f"out={tmp_path / 'one'}"]) == 0
    one, two = (read_checkpoint(next((tmp_path / side).rglob("last.ckpt"))) for side in ("one", "two"))
    assert one["batches"] == two["batches"] == 3
    for name, weight in one["state_dict"].items():
        # Batch norm and the adaptive weight are each rank's own, so a VQ-GAN's networks differ a little.
        if isinstance(weight, torch.Tensor) and not (adversarial and "quantizer" not in name):
            torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-4, atol=1e-5, msg=name)
    assert len(list((tmp_path / "two").rglob("config.yaml"))) == 1
