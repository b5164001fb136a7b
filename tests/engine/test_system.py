"""A sixth system is a folder and a YAML file, or another package's entry point: a toy trains by the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sightword
from sightword.engine import system as registry
from sightword.engine.contract import System
from sightword.errors import SightwordError

SYSTEM = '''
"""A line through the origin, as a system."""

from dataclasses import dataclass

from sightword.engine.config import DataConfig, SystemConfig
from sightword.engine.contract import System


@dataclass
class ToyConfig(SystemConfig):
    slope: float = 3.0  # of the line


@dataclass
class ToyData(DataConfig):
    count: int = 64  # points


def slope(of: float = 1.0) -> None:
    """Say a slope."""
    print("slope", of)


class Toy(System):
    name = "toy"
    Config, Data = ToyConfig, ToyData
    CONFIGS
    def task(self, config):
        from PACKAGE.task import Slope
        return Slope(config.slope)

    def loaders(self, data, seed, task, names):
        from PACKAGE.task import Line
        from sightword.data.loader import Loaders, Stream, ordered
        return Loaders(Stream(Line(data.count), 8, seed), ordered(Line(data.count), 8))

    def held_out(self, data, seed, split, task, names):
        return self.loaders(data, seed, task, names).val

    def evaluator(self, task):
        from PACKAGE.task import Error
        return Error(task)

    @property
    def commands(self):
        return [slope]


SYSTEM = Toy()
'''

TASK = """
import torch
from torch.utils.data import Dataset
from sightword.engine.contract import Evaluator
from sightword.engine.task import Task


class Line(Dataset):
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, draw): return torch.tensor([draw.index / self.count])


class Slope(Task):
    def __init__(self, slope):
        super().__init__()
        self.slope, self.layer = slope, torch.nn.Linear(1, 1)
    def losses(self, x): return {"squared": (self.layer(x) - self.slope * x).square().mean()}


class Error(Evaluator):
    def __init__(self, task): self.task, self.errors = task, []
    def metric_names(self): return frozenset({"error"})
    def update(self, x): self.errors.append(float(self.task.losses(x)["squared"]))
    def compute(self):
        errors, self.errors = self.errors, []
        return {"error": sum(errors) / len(errors)}
"""

YAML = """# @package _global_
# sightword train experiment=toy/line
# A line.
system: {slope: 2.0}
optim: {lr: 0.5}
trainer: {steps: 60, val_every: 20, accelerator: cpu, threads: 1, monitor: val/error, mode: min}
"""


def write_toy(folder, package, configs=""):
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""A toy."""')
    text = SYSTEM.replace("PACKAGE", package).replace("    CONFIGS\n", configs)
    (folder / "system.py").write_text(text)
    (folder / "task.py").write_text(TASK)


def write_yaml(folder):
    (folder / "experiment" / "toy").mkdir(parents=True)
    (folder / "experiment" / "toy" / "line.yaml").write_text(YAML)


@pytest.fixture
def beside(tmp_path):
    """A folder beside the package: found by looking."""
    write_toy(tmp_path / "sightword" / "systems" / "toy", "sightword.systems.toy")
    write_yaml(tmp_path / "sightword" / "configs")
    return tmp_path


@pytest.fixture
def installed(tmp_path):
    """A package of another name, with an entry point."""
    configs = "    from pathlib import Path\n    configs = Path(__file__).parent / 'configs'\n"
    write_toy(tmp_path / "toylab", "toylab", configs)
    write_yaml(tmp_path / "toylab" / "configs")
    metadata = tmp_path / "toylab-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toylab\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[sightword.systems]\ntoy = toylab.system:SYSTEM\n")
    return tmp_path


def sightword_in(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "sightword.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("way", ["beside", "installed"])
def test_a_system_is_found_listed_trained_and_measured(way, request):
    folder = request.getfixturevalue(way)
    assert not (Path(sightword.__file__).parent / "systems" / "toy").exists()
    assert "toy/line" in sightword_in(folder, "list").stdout
    assert "slope" in sightword_in(folder, "--help").stdout
    assert sightword_in(folder, "slope", "of=2").stdout == "slope 2.0\n"
    done = sightword_in(folder, "train", "experiment=toy/line", "system.slope=5.0")
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (folder / "runs" / "toy" / "line").iterdir()
    assert "slope: 5.0" in (run / "config.yaml").read_text()
    losses = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    errors = [float(row[losses[0].index("val/error")]) for row in losses[1:] if row[losses[0].index("val/error")]]
    assert errors[-1] < errors[0] / 2
    measured = sightword_in(folder, "evaluate", f"run={run}")
    assert (measured.returncode, "error" in measured.stdout) == (0, True), measured.stderr[-2000:]
    wrong = sightword_in(folder, "train", "experiment=toy/line", "system.slop=5.0")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    exported = sightword_in(folder, "export", f"run={run}", "out=model")
    assert (exported.returncode, exported.stderr.count("\n")) == (2, 1)
    assert "without a predictor" in exported.stderr


def test_every_system_of_this_package_is_found_by_its_folder():
    folders = {file.parent.name for file in (Path(sightword.__file__).parent / "systems").glob("*/system.py")}
    assert folders == {name for name, system in registry.systems().items() if isinstance(system, System)}
    assert {"tokenizer", "intent", "retrieval", "skeleton", "points"} == folders


def test_a_misspelt_system_is_told_with_the_nearest():
    with pytest.raises(SightwordError, match=r"no system 'tokeniser' \(did you mean 'tokenizer'\?\)"):
        registry.system_of("tokeniser/mini")
