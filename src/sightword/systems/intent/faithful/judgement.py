"""Open a run and its data for the trust protocol, and write what it says."""

from collections.abc import Mapping
from copy import copy
from dataclasses import is_dataclass
from pathlib import Path
from typing import NamedTuple, cast

from sightword.engine import run as runs
from sightword.engine.contract import Names
from sightword.engine.split import choose
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.writer import write_json
from sightword.systems.intent.config import IntentData
from sightword.systems.intent.data import Inputs, images_of, load_split, split_loader
from sightword.systems.intent.faithful.control import probes_of
from sightword.systems.intent.faithful.page import page_of
from sightword.systems.intent.faithful.protocol import SPLITS, Given, Report, judge
from sightword.systems.intent.faithful.reading import Reading, read_batches, words_of
from sightword.systems.intent.faithful.truth import Maps, read_truth
from sightword.systems.intent.task import IntentTask


class Request(NamedTuple):
    """What to judge, and by which truth."""

    run: Path
    truth: Path | None = None
    maps: Path | None = None
    split: str = "test"
    checkpoint: str = "best"
    deletions: int = 100  # images that words are removed from
    seed: int = 0


def judge_run(request: Request) -> tuple[Report, Path]:
    """Return the report on a run, and the checkpoint that was judged."""
    if request.maps is not None and request.truth is None:
        raise SightwordError("maps= say where words are, and need truth=, which words the images show. Pass both")
    if request.split == "train":
        raise SightwordError("split=train was trained on. Pass split=test or split=val")
    truth = None if request.truth is None else read_truth(request.truth)
    maps = None if request.maps is None else Maps.read(request.maps)
    config = runs.read_config(request.run)
    if config.experiment.split("/")[0] != "intent":
        raise SightwordError(f"run={request.run} is of {config.experiment}. Pass a run of intent/stage1 or presence")
    runs.set_threads(config.trainer.threads, 1)
    restored = runs.restore(request.run, request.checkpoint, config)
    task = cast(IntentTask, restored.task)
    words = words_of(task)
    task.to(shards.device())
    data, splits = _with_tokens(cast(IntentData, config.data)), [*SPLITS, request.split]
    names = choose(config, request.run, list(dict.fromkeys(splits))).names
    readings, files = dict[str, Reading](), dict[str, Path]()
    probes = probes_of(words, request.seed)
    inputs = Inputs(task.classes, task.reads, False, lambda: task.tower.on().preprocess)
    for split in dict.fromkeys(splits):
        shards.say(f"reading {split}")
        readings[split] = read_batches(words, split_loader(data, split, inputs, names), probes)
        files |= _files(data, split, task, names)
    return judge(
        Given(words, readings, request.split, files, truth, maps, request.deletions, request.seed)
    ), restored.checkpoint


def _with_tokens(data: IntentData) -> IntentData:
    """Return the data with tokens or images instead of ids: other words are looked for in the same patches."""
    found = copy(data)
    found.ids = ""
    beside = Path(f"{data.ids}_tokens").expanduser()
    if data.ids and not data.cache and beside.is_dir():
        found.cache = str(beside)
    return found


def _files(data: IntentData, split: str, task: IntentTask, names: Names) -> dict[str, Path]:
    notes = load_split(data, split, task.classes, names).annotations
    return {name: images_of(data) / file for name, file in zip(notes.ids, notes.files, strict=True)}


def write_report(report: Report, request: Request, checkpoint: Path, out: Path) -> list[Path]:
    """Write faithful.json and faithful.html into a folder. Return the files."""
    out.mkdir(parents=True, exist_ok=True)
    told = {
        "run": request.run.as_posix(),
        "checkpoint": checkpoint.as_posix(),
        "seed": request.seed,
        **cast(Mapping[str, object], plain(report)),
    }
    write_json(out / "faithful.json", told)
    with write_atomically(out / "faithful.html") as part:
        part.write_text(page_of(report, request.run.as_posix()), encoding="utf-8")
    return [out / "faithful.json", out / "faithful.html"]


def plain(value: object) -> object:
    """Return plain values, fit for JSON, of dataclasses and named tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value
