"""A sixth system is a folder and a YAML file: a toy dropped beside the package trains through the command line."""

import os
import subprocess
import sys
from pathlib import Path

import sightword

CONFIG = """
from dataclasses import dataclass

@dataclass
class System:
    slope: float = 3.0

@dataclass
class Data:
    count: int = 64
"""

DATA = """
import torch
from torch.utils.data import Dataset
from sightword.data.loader import Loaders, Stream, ordered

class Line(Dataset):
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, draw): return torch.tensor([draw.index / self.count])

def make_loaders(data, seed):
    return Loaders(Stream(Line(data.count), 8, seed), ordered(Line(data.count), 8))
"""

TASK = """
import torch
from sightword.engine.contract import Task

class Slope(Task):
    def __init__(self, slope):
        super().__init__()
        self.slope, self.layer, self.errors = slope, torch.nn.Linear(1, 1), []
    def losses(self, x): return {"squared": (self.layer(x) - self.slope * x).square().mean()}
    def evaluate(self, x): self.errors.append(float(self.losses(x)["squared"]))
    def measures(self): return {"error": sum(self.errors) / len(self.errors)}

def make_task(system): return Slope(system.slope)
"""

COMMANDS = '''
def slope(of: float = 1.0) -> None:
    """Say a slope."""
    print("slope", of)

COMMANDS = [slope]
'''

YAML = """# @package _global_
# sightword train experiment=toy/line
# A line.
system: {slope: 2.0}
optim: {lr: 0.5}
trainer: {steps: 60, val_every: 20, accelerator: cpu, threads: 1, monitor: val/error, mode: min}
"""


def sightword_in(folder, *words):
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "sightword.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_folder_and_a_yaml_file_are_a_system(tmp_path):
    system = tmp_path / "sightword" / "systems" / "toy"
    system.mkdir(parents=True)
    for name, text in {
        "__init__": '"""A toy."""',
        "config": CONFIG,
        "data": DATA,
        "task": TASK,
        "commands": COMMANDS,
    }.items():
        (system / f"{name}.py").write_text(text)
    experiment = tmp_path / "sightword" / "configs" / "experiment" / "toy"
    experiment.mkdir(parents=True)
    (experiment / "line.yaml").write_text(YAML)

    assert not (Path(sightword.__file__).parent / "systems" / "toy").exists()
    assert "toy/line" in sightword_in(tmp_path, "list").stdout
    assert "slope" in sightword_in(tmp_path, "--help").stdout
    assert sightword_in(tmp_path, "slope", "of=2").stdout == "slope 2.0\n"
    done = sightword_in(tmp_path, "train", "experiment=toy/line", "system.slope=5.0")
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "runs" / "toy" / "line").iterdir()
    assert "slope: 5.0" in (folder / "config.yaml").read_text()
    losses = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    errors = [float(row[losses[0].index("val/error")]) for row in losses[1:] if row[losses[0].index("val/error")]]
    assert errors[-1] < errors[0] / 2
    wrong = sightword_in(tmp_path, "train", "experiment=toy/line", "system.slop=5.0")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
