"""Make a run's config of YAML files and the values given on the command line. Nothing else knows Hydra."""

import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightword.engine.system import closest, config_folders, experiments, presets, scales, system_of

if TYPE_CHECKING:
    from sightword.engine.config import Run


def without_preset(words: list[str]) -> list[str]:
    """preset=<name> as the words that it stands for, before all others."""
    named = [word.removeprefix("preset=") for word in words if word.startswith("preset=")]
    if not named:
        return words
    known = {name: arguments for rows in presets().values() for name, arguments in rows.items()}
    if named[-1] not in known:
        raise ValueError(f"there is no preset {named[-1]!r}{closest(named[-1], known)}; sightword list names them")
    others = [word for word in words if not word.startswith("preset=")]
    if any(word.startswith(("experiment=", "resume=")) for word in others):
        raise ValueError(f"preset={named[-1]} knows its experiment: leave experiment= and resume= away")
    return [*known[named[-1]], *others]


def compose_config(words: list[str]) -> "Run":
    """The config of an experiment, with the words' values in it."""
    from hydra import compose, initialize_config_module

    name = _experiment(words)
    _register_schemas(name.split("/")[0])
    with _hydra_says(), initialize_config_module("sightword.configs", version_base=None):
        config = compose("train", overrides=[*_groups(name), *_search_path(), *map(_quoted, _scaled(name, words))])
        return _as_run(config, name)


def change_config(config: "Run", words: Sequence[str]) -> "Run":
    """A config with the words' values in it."""
    from omegaconf import OmegaConf

    with _hydra_says():
        words = [f"{word}''" if word.endswith("=") else word for word in words]  # nothing is a text, as for Hydra
        parsed = OmegaConf.from_dotlist([word.replace("=~/", f"={Path.home()}/", 1) for word in words])
        return _as_run(OmegaConf.merge(OmegaConf.structured(config), parsed), config.experiment)


def _as_run(config: Any, name: str) -> "Run":
    from omegaconf import OmegaConf

    config.experiment = name
    return typing.cast("Run", OmegaConf.to_object(config))


def _quoted(word: str) -> str:
    """A word in Hydra's grammar, in which most signs of a path mean something: ~ ( ) , and spaces."""
    key, equals, value = word.partition("=")
    if not equals or re.fullmatch(r"[\w\-./:+%@]*", value) or value[0] in "[{'\"$":
        return word
    value = str(Path(value).expanduser()) if value.startswith("~/") else value
    return f"{key}='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def _hydra_says() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_hydra_line(error)) from error


def _experiment(words: Sequence[str]) -> str:
    names = [word.removeprefix("experiment=") for word in words if word.startswith("experiment=")]
    known = [name for name, _ in experiments()]
    if not names:
        raise ValueError(f"name what to train, experiment=…: {', '.join(known)}")
    if names[-1] not in known:
        raise ValueError(f"there is no experiment {names[-1]!r}{closest(names[-1], known)}; sightword list shows them")
    return names[-1]


def _register_schemas(system: str) -> None:
    from hydra.core.config_store import ConfigStore

    from sightword.engine.config import Run

    found = system_of(system)
    store = ConfigStore.instance()
    store.store(name="run", node=Run)
    store.store(group="system", name=system, node=found.Config)
    store.store(group="data", name=system, node=found.Data)


def _scaled(experiment: str, words: Sequence[str]) -> list[str]:
    """scale=mini as the file configs/scale/<system>/mini.yaml."""
    system, found = experiment.split("/")[0], []
    for word in words:
        key, _, scale = word.partition("=")
        known = scales(system)
        if key == "scale" and scale not in known:
            raise ValueError(f"{system} has no scale {scale!r}; it has {', '.join(known) or 'one only'}")
        found.append(f"scale={system}/{scale}" if key == "scale" else word)
    return found


def _groups(experiment: str) -> list[str]:
    system = experiment.split("/")[0]
    return [f"system={system}", f"data={system}"]


def _search_path() -> list[str]:
    others = [str(folder) for folder in config_folders()[1:]]
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in others)}]"] if others else []


def _hydra_line(error: Exception) -> str:
    """The sentence of a Hydra error that a user can act on."""
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    lines = [line.strip() for cause in reversed(causes) for line in str(cause).splitlines() if line.strip()]
    told = next((line for line in lines if "Key '" in line or "could not be converted" in line.lower()), lines[0])
    if "not in struct" in told or told.startswith("Key "):
        told = f"{told}; sightword train experiment=… --cfg job shows every key"
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    if "not in struct" in told and "." in key:
        told = f"{told}, +{key}=… adds one"
    return f"{key}: {told}" if key and key not in told else told


def train_by_hydra(words: list[str], start: Callable[["Run"], object]) -> int:
    """Start what the words say through Hydra's own front, which knows its flags. start: given each config."""
    import hydra

    flags = [word for word in words if word.startswith("-") or "=" not in word]
    values = [word for word in words if word not in flags]
    sweep = any(word in ("-m", "--multirun") for word in flags)
    if sweep and any("ddp" in word or word.startswith("trainer.devices=") for word in values):
        raise ValueError("a sweep cannot start several processes, each would sweep again: run them one at a time")
    name = _experiment(values)
    words = _scaled(name, values)
    if sweep:
        _register_schemas(name.split("/")[0])
    else:
        compose_config(values)  # Hydra's own words on a mistake are a page

    def job(config: Any) -> None:
        sys.argv = before  # from which Lightning starts the other processes of a DDP run
        start(_as_run(config, name))

    before = list(sys.argv)
    sys.argv = [before[0], *flags, *(words if sweep else map(_quoted, words)), *_groups(name), *_search_path()]
    try:
        hydra.main(version_base=None, config_path="pkg://sightword.configs", config_name="train")(job)()
    finally:
        sys.argv = before
    return 0
