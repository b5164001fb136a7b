"""A run that was stopped, by a signal or by kill -9, ends as if it had not been: bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
from made import assert_same

from sightword.cli.main import main
from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.tokenizer.task import TokenizerTask

PLAIN = ["experiment=tokenizer/mini", "system.kmeans=true", "system.restart_after=2", "optim.ema=0.9"]
ADVERSARIAL = [
    "experiment=tokenizer/vqgan",
    "system.disc_start=1",
    "system.disc_warmup=1",
    "system.disc_channels=4",
    "system.disc_layers=1",
    "optim.accumulate=2",
]
LENGTH = ["trainer.steps=9", "trainer.val_every=4", "trainer.save_every=2", "data.val_crops=1", "optim.warmup=3"]


def folder_of(out):
    (folder,) = (path.parent for path in out.rglob("config.yaml"))
    return folder


def assert_same_run(straight, resumed):
    assert (straight / "metrics.csv").read_text() == (resumed / "metrics.csv").read_text()
    for name in ("last", "best"):
        one, other = (read_checkpoint(folder / "checkpoints" / f"{name}.ckpt") for folder in (straight, resumed))
        assert one["batches"] == other["batches"]
        for key in ("state_dict", "optimizer_states", "current_model_state", "averaging_state", "callbacks"):
            assert_same(one.get(key), other.get(key))
        assert one["global_step"] == other["global_step"]


@pytest.fixture
def at_batch(monkeypatch):
    """Do something in the middle of a training batch, once."""

    def arrange(number, action):
        losses, done = TokenizerTask.losses, []

        def losses_and_action(self, batch):
            if self.batches == number and not done:
                done.append(number)
                action()
            return losses(self, batch)

        monkeypatch.setattr(TokenizerTask, "losses", losses_and_action)

    return arrange


@pytest.mark.parametrize("words", [PLAIN, ADVERSARIAL], ids=["one optimiser", "two optimisers"])
@pytest.mark.parametrize(("number", "kind"), [(4, signal.SIGINT), (3, signal.SIGTERM)], ids=["between", "validating"])
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_result(words, number, kind, tiny, tmp_path, at_batch, capsys):
    words = [*words, *tiny, *LENGTH]
    assert main(["train", *words, f"out={tmp_path / 'straight'}"]) == 0
    at_batch(number, lambda: os.kill(os.getpid(), kind))
    assert main(["train", *words, f"out={tmp_path / 'stopped'}"]) == 1
    stopped = folder_of(tmp_path / "stopped")
    accumulate = 2 if "optim.accumulate=2" in words else 1
    assert (
        read_checkpoint(stopped / "checkpoints" / "last.ckpt")["batches"] == -(-(number + 1) // accumulate) * accumulate
    )
    assert f"sightword train resume={stopped}" in capsys.readouterr().out
    assert main(["train", f"resume={stopped}"]) == 0
    assert_same_run(folder_of(tmp_path / "straight"), stopped)


def test_a_run_killed_with_9_goes_on_to_the_same_result(tiny, tmp_path):
    words = [*PLAIN, *tiny, *LENGTH]
    assert main(["train", *words, f"out={tmp_path / 'straight'}"]) == 0
    killer = (
        "import os, signal, sys\nfrom sightword.cli.main import main\n"
        "from sightword.systems.tokenizer.task import TokenizerTask\n"
        "losses = TokenizerTask.losses\n"
        "def deadly(self, batch):\n"
        "    if self.batches == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return losses(self, batch)\n"
        "TokenizerTask.losses = deadly\nmain(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", killer, "train", *words, f"out={tmp_path / 'killed'}"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    killed = folder_of(tmp_path / "killed")
    assert not (killed / "summary.json").exists()
    assert read_checkpoint(killed / "checkpoints" / "last.ckpt")["batches"] == 6
    assert main(["train", f"resume={killed}"]) == 0
    assert_same_run(folder_of(tmp_path / "straight"), killed)


def test_a_finished_run_says_how_to_train_longer(tiny, tmp_path, capsys):
    assert main(["train", *PLAIN, *tiny, "trainer.steps=2", "data.val_crops=1", f"out={tmp_path}"]) == 0
    folder = folder_of(tmp_path)
    assert main(["train", f"resume={folder}"]) == 2
    assert "Raise trainer.steps" in capsys.readouterr().err
    assert main(["train", f"resume={folder}", "trainer.steps=3"]) == 0
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["batches"] == 3


def test_a_second_signal_ends_a_run_at_once(tiny, tmp_path):
    words = [*PLAIN, *tiny, "trainer.steps=100000", "trainer.val_every=100000", f"out={tmp_path}"]
    process = subprocess.Popen([sys.executable, "-m", "sightword.cli", "train", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1
    assert read_checkpoint(folder_of(tmp_path) / "checkpoints" / "last.ckpt")["batches"] > 0
