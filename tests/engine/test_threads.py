"""Who decides on torch's threads: the user, then the caller; Sightword only in a process that trains or evaluates."""

import json
import os
import subprocess
import sys

import pytest
import torch

from sightword.data.loader import Stream
from sightword.storage import shards

UNSET = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def run(code, *arguments, **variables):
    """Return what a program prints as JSON, in a process without variables of OpenMP but these."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET} | variables
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


ENVIRONMENT = """
import json, os
before = dict(os.environ)
import sightword
from sightword.cli.main import main
from sightword.engine import run
imported = dict(os.environ) == before
main(["--version"])
print(json.dumps([imported, {name: os.environ[name] for name in os.environ if "OMP" in name}]))
"""


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "1000"}, {"GOMP_SPINCOUNT": "1000"}),
    ],
    ids=["nothing set", "a policy set", "a count set"],
)
def test_the_command_line_lets_idle_threads_sleep_unless_the_user_chose_and_an_import_sets_nothing(variables, kept):
    assert run(ENVIRONMENT, **variables) == [True, kept]


THREADS = """
import json, os, torch
from sightword.engine.run import set_threads
found = []
for threads, processes in [(0, 1), (3, 1), (0, 1), (0, 10**6)]:
    set_threads(threads, processes)
    found.append(torch.get_num_threads())
print(json.dumps([found, os.environ.get("OMP_NUM_THREADS")]))
"""


def test_trainer_threads_win_then_what_the_user_set_then_what_the_caller_set():
    assert run(THREADS, OMP_NUM_THREADS="2") == [[2, 3, 3, 3], "2"]


def test_without_a_word_of_the_user_processes_divide_the_cores():
    (alone, *others), variable = run(THREADS)
    assert alone >= 1
    assert others == [3, 3, 1]
    assert variable == "1"  # for the processes that this one starts


COMMANDS = """
import json, sys, torch
from pathlib import Path
from sightword.cli.main import main
from sightword.engine.run import restore
out, arguments, found = Path(sys.argv[1]), sys.argv[2:], []
def note(*argv):
    torch.set_num_threads(2)
    assert main(argv) == 0
    found.append(torch.get_num_threads())
note("train", "experiment=tokenizer/mini", *arguments, "trainer.steps=1", "data.val_crops=1", f"out={out}", "name=it")
folder = out / "tokenizer" / "mini" / "it"
note("evaluate", f"run={folder}")
torch.set_num_threads(2)
restore(folder, "last")
found.append(torch.get_num_threads())
print(json.dumps(found))
"""


def test_training_and_evaluation_take_the_threads_of_the_config_and_to_restore_a_run_changes_none(tiny, tmp_path):
    assert run(COMMANDS, tmp_path, *tiny) == [1, 1, 2]


class Threads(torch.utils.data.Dataset):
    """The threads of the process that reads an item."""

    def __len__(self):
        return 2

    def __getitem__(self, draw):
        return torch.get_num_threads()


def test_workers_of_loaders_and_of_jobs_take_one_thread():
    torch.set_num_threads(2)
    assert [batch.tolist() for batch in Stream(Threads(), 2, num_workers=1)] == [[1, 1]]
    assert torch.get_num_threads() == 2
    found = []

    def factory():
        found.append(torch.get_num_threads())
        return found.append

    shards.in_one_thread(factory)
    assert found == [1]
