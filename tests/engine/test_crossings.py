"""The way of a batch, from dataset item to losses, is at most nine files, and so is the way of the loaders."""

import sys
from pathlib import Path

import pytest
from worlds import arguments_of

import sightword
from sightword.cli.compose import compose_config
from sightword.engine import run as runs
from sightword.engine.system import experiments, system_of

PACKAGE = Path(sightword.__file__).parent
MOST = 9
LOADER = "data/loader.py"  # hands batches out: the way begins at the data set
FUNCTION = 1  # CO_OPTIMIZED: functions have it, bodies of modules and classes do not


class Crossed:
    """A context that gathers the files of the package whose functions are entered."""

    def __init__(self):
        self.files = set()

    def __enter__(self):
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _event(self, frame, event, arg):
        file = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_flags & FUNCTION and file.startswith(str(PACKAGE)):
            self.files.add(str(Path(file).relative_to(PACKAGE)))


WAYS = [name for name, _ in experiments() if not name.endswith("_mini")]  # a small recipe takes the same way


@pytest.mark.parametrize("experiment", WAYS)
def test_loaders_and_a_batch_cross_at_most_nine_files_each(experiment, world):
    arguments = arguments_of(experiment, world)
    if experiment == "skeleton/msr":  # these skeletons have no depth, which is told once, and data are then read as 2-D
        arguments.append("system.projections=[front]")
    config = compose_config(arguments)
    runs.prepare(config)
    config = runs.complete(config)
    if experiment.startswith("retrieval/phase4"):  # the ids are there: nothing is left to compare with the tokenizer
        config = compose_config([*arguments_of(experiment, world), "system.vq_weights="])
    system, task = system_of(config.experiment), runs.make_task(config).train()
    system.loaders(
        config.data, config.seed, task, {}
    )  # what is opened on first use, as a tokenizer, is no part of the way
    with Crossed() as loading:
        loaders = system.loaders(config.data, config.seed, task, {})
    loaders.train.steps = 3
    stream = iter(loaders.train)
    task.losses(next(stream))
    task.batches = 5  # a discriminator has started
    with Crossed() as batch:
        task.losses(next(stream))
    way = loading.files - {LOADER}
    assert len(way) <= MOST, " ".join(sorted(way))
    way = batch.files - {LOADER}
    assert len(way) <= MOST, " ".join(sorted(way))
