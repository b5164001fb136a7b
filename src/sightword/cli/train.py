"""The command `train`: start a run, or go on with one, and say how it ended."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.cli.compose import change_config, compose_config, train_by_hydra, without_preset
from sightword.engine import run as runs
from sightword.engine.system import system_of, systems

if TYPE_CHECKING:
    from sightword.engine.fit import Fitted


def train(words: list[str]) -> int:
    """Train an experiment: sightword train experiment=tokenizer/mini data.root=photos

    Any field of the config can be given as key=value. preset=<name> stands for an experiment and some values, which
    those given besides it overrule; sightword list names them. resume=<run folder> goes on with a run that was stopped,
    to the result it would have had. Hydra's flags work as well: --cfg job prints the config, -m sweeps over lists of
    values.
    """
    if any(word in ("-h", "--help") for word in words):
        print(_train_usage(words))
        return 0
    words = without_preset(words)
    if any(word.startswith("-") for word in words):
        return train_by_hydra(words, lambda config: _tell(runs.start(config)))
    resumed = [word.removeprefix("resume=") for word in words if word.startswith("resume=")]
    others = [word for word in words if not word.startswith("resume=")]
    if resumed:
        folder = Path(resumed[-1])
        if any(word.startswith("experiment=") for word in others):
            raise ValueError(f"resume={folder} knows its experiment: leave experiment= away")
        return _tell(runs.start(change_config(runs.read_config(folder), others), folder))
    return _tell(runs.start(compose_config(others)))


def train_in(folder: Path, words: list[str]) -> bool:
    """`train` in a folder of the caller's choice; whether it was finished."""
    saved = (folder / "checkpoints" / "last.ckpt").exists()
    config = change_config(runs.read_config(folder), []) if saved else compose_config(words)
    return _tell(runs.start(config, folder)) == 0


def _tell(result: "Fitted") -> int:
    """Say how a run ended and what to type next. Exit status."""
    if runs.is_first_process():
        print(_ending(result))
    return 0 if result.finished else 1


def _ending(result: "Fitted") -> str:
    if not result.finished:
        return f"stopped; go on with: sightword train resume={result.folder}"
    shown = result.best or result.metrics
    shown_plain = {name.removeprefix("val/"): value for name, value in shown.items() if name != "batches"}
    lines = measured(shown_plain, result.notes)
    at = f"best, batch {shown['batches']:.0f}" if result.best else "last"
    return "\n".join(
        [f"validation ({at})", *lines, f"written to {result.folder}", f"next: sightword evaluate run={result.folder}"]
    )


def _train_usage(words: Sequence[str]) -> str:
    """Every field a run can be told, with the comment that stands beside it in its dataclass."""
    from sightword.engine.config import Optim, Run, Trainer

    named = [word.removeprefix("experiment=") for word in words if word.startswith("experiment=")]
    systems_told = [name.split("/")[0] for name in named] or list(systems())
    lines = [f"sightword train: {inspect.getdoc(train)}", "", *_fields("", Run)]
    for name in systems_told:
        system = system_of(name)
        lines += ["", f"{name}:", *_fields("system.", system.Config), *_fields("data.", system.Data)]
    return "\n".join([*lines, "", *_fields("optim.", Optim), "", *_fields("trainer.", Trainer)])


def _fields(prefix: str, kind: type) -> list[str]:
    found = re.findall(r"^    (\w+): ([^=\n]+) = (.+?)(?:  # (.*))?$", inspect.getsource(kind), re.MULTILINE)
    plain = [
        (name, value, told) for name, hint, value, told in found if name not in ("system", "data", "optim", "trainer")
    ]
    shown = [(f"{prefix}{name}={_default(value)}", told) for name, value, told in plain]
    return [f"  {field:<44} {told}".rstrip() for field, told in shown]


def _default(value: str) -> str:
    return re.sub(r"field\(default_factory=(?:lambda: )?(.*)\)", r"\1", value).replace("list", "[]").replace('"', "")


def measured(metrics: Mapping[str, float], notes: Mapping[str, str]) -> list[str]:
    """Return a line for each metric, with the note on it."""
    return [f"  {name:<20} {value:<10.4g} {notes.get(name, '')}".rstrip() for name, value in metrics.items()]
