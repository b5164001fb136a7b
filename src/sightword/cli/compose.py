"""Make a run's config from YAML files and the overrides of the command line. Nothing else imports Hydra."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from sightword.cli.override import for_hydra, is_for, literal_fields, values_of
from sightword.engine.system import closest, config_folders, experiments, presets, scales, system_of
from sightword.errors import SightwordError
from sightword.storage.reader import read_yaml

SCALE = (
    "scale@_global_"  # the name by which an experiment's defaults list brings a scale; train.yaml has `scale` itself
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sightword.engine.config import Run


def without_preset(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with those that preset=<name> stands for before all others."""
    named = values_of(overrides, "preset")
    if not named:
        return list(overrides)
    known = {name: arguments for rows in presets().values() for name, arguments in rows.items()}
    if named[-1] not in known:
        raise SightwordError(f"there is no preset {named[-1]!r}{closest(named[-1], known)}; sightword list names them")
    others = [override for override in overrides if not is_for(override, "preset")]
    if any(is_for(override, "experiment", "resume") for override in others):
        raise SightwordError(f"preset={named[-1]} sets the experiment. Remove experiment= and resume=")
    return [*known[named[-1]], f"preset={named[-1]}", *others]


def compose_config(overrides: Sequence[str]) -> "Run":
    """Return the config of an experiment, with the overrides' values."""
    from hydra import compose, initialize_config_module

    name = _experiment(overrides)
    preset, overrides = _preset_of(overrides)
    system = name.split("/")[0]
    _refuse_bare(overrides)
    _register_schemas(system)
    with _short_errors(), initialize_config_module("sightword.configs", version_base=None):
        typed = [for_hydra(override, system) for override in _scaled(name, _with_length(overrides))]
        config = compose("train", overrides=[*_groups(name), *_search_path(), *typed])
        return _as_run(config, name, preset)


def change_config(config: "Run", overrides: Sequence[str]) -> "Run":
    """Return a copy of a config with the overrides' values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    with _short_errors():
        changed = OmegaConf.structured(literal_fields(config))
        _refuse_bare(overrides)
        parser = OverridesParser.create()
        for override in _with_length(overrides):
            parsed = parser.parse_override(for_hydra(override, config.experiment))
            OmegaConf.update(changed, parsed.key_or_group, parsed.value())
        return _as_run(changed, config.experiment, config.preset)


def _with_length(overrides: Sequence[str]) -> list[str]:
    """Return the overrides; where epochs are typed and steps are not, those of the experiment no longer decide."""
    epochs = values_of(overrides, "trainer.epochs") and not values_of(overrides, "trainer.steps")
    return [*overrides, *(["trainer.steps=0"] if epochs else [])]


def _refuse_bare(overrides: Sequence[str]) -> None:
    """Raise SightwordError for what is not key=value, nor ~key, which removes one."""
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise SightwordError(f"{override!r} is not key=value. sightword train --help lists the keys")


def _preset_of(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the preset and the other overrides: Hydra would look for a group of configs of that name."""
    others = [override for override in overrides if not is_for(override, "preset")]
    return next(iter(values_of(overrides, "preset")[-1:]), ""), others


def _as_run(config: "DictConfig", name: str, preset: str = "") -> "Run":
    from omegaconf import OmegaConf

    config.experiment, config.preset = name, preset
    return cast("Run", OmegaConf.to_object(config))


@contextmanager
def _short_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into SightwordError, in one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise SightwordError(_one_line(error)) from error


def _experiment(overrides: Sequence[str]) -> str:
    names, known = values_of(overrides, "experiment"), [name for name, _ in experiments()]
    if not names:
        raise SightwordError(f"experiment= is missing. Pass one of {', '.join(known)}")
    if names[-1] not in known:
        near = closest(names[-1], known)
        raise SightwordError(f"there is no experiment {names[-1]!r}{near}; sightword list shows them")
    return names[-1]


def _register_schemas(system: str) -> None:
    from hydra.core.config_store import ConfigStore

    from sightword.engine.config import Run

    found = system_of(system)
    store = ConfigStore.instance()
    store.store(name="run", node=Run)
    store.store(group="system", name=system, node=found.Config)
    store.store(group="data", name=system, node=found.Data)


def _scaled(experiment: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides with scale=mini as the file configs/scale/<system>/mini.yaml.

    If the experiment brings a scale, that one is replaced, where the experiment has it: its own values come after.
    """
    system, known = experiment.split("/")[0], scales(experiment.split("/")[0])
    chosen = values_of(overrides, "scale")
    for scale in chosen:
        if scale not in known:
            raise SightwordError(f"{system} has no scale {scale!r}; it has {', '.join(known) or 'one only'}")
    group = SCALE if chosen and _brings_scale(experiment) else "scale"
    return [
        f"{group}={system}/{override.removeprefix('scale=')}" if is_for(override, "scale") else override
        for override in overrides
    ]


def _brings_scale(experiment: str) -> bool:
    """Whether an experiment's file, or one that it starts from, names a scale among its defaults."""
    files = dict(experiments())
    if experiment not in files:
        return False
    defaults = read_yaml(files[experiment]).plain().get("defaults")
    entries = defaults if isinstance(defaults, list) else []
    names = [entry.removeprefix("/experiment/") for entry in entries if isinstance(entry, str)]
    return any(isinstance(entry, dict) and f"/{SCALE}" in entry for entry in entries) or any(map(_brings_scale, names))


def _groups(experiment: str) -> list[str]:
    system = experiment.split("/")[0]
    return [f"system={system}", f"data={system}"]


def _search_path() -> list[str]:
    others = [str(folder) for folder in config_folders()[1:]]
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in others)}]"] if others else []


def _one_line(error: Exception) -> str:
    """Return the sentence of a Hydra error that a user can act on."""
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    if (unknown := _unknown_key(causes[-1])) is not None:
        return unknown
    lines = [line.strip() for cause in reversed(causes) for line in str(cause).splitlines() if line.strip()]
    told = next((line for line in lines if "Key '" in line or "could not be converted" in line.lower()), lines[0])
    if "not in struct" in told:
        told = f"{told}; sightword train experiment=… --help shows every key"
    if "is not a ListConfig" in told:
        told = "this is a list. Pass its items in brackets, as [1,2]"
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    if "not in struct" in told and "." in key:
        told = f"{told}, +{key}=… adds one"
    return f"{key}: {told}" if key and key not in told else told


def _unknown_key(error: BaseException) -> str | None:
    """Return the line for a key that a config's dataclass does not have; None for other errors."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    if not isinstance(error, ConfigAttributeError | ConfigKeyError) or not dataclasses.is_dataclass(error.object_type):
        return None
    key = str(error.full_key)
    prefix = key.rpartition(".")[0]
    known = [f"{prefix}.{field.name}".lstrip(".") for field in dataclasses.fields(error.object_type)]
    return f"there is no key {key!r}{closest(key, known)}; sightword train experiment=… --help shows every key"


def train_by_hydra(argv: Sequence[str], start: Callable[["Run"], int]) -> int:
    """Call `start` with each config that Hydra's own front makes of the arguments; it reads its flags.

    Return the worst exit status of `start`. What `start` raises ends a sweep, and is raised here.
    """
    flags = [argument for argument in argv if argument.startswith("-") or "=" not in argument]
    overrides = [argument for argument in argv if argument not in flags]
    sweep = any(flag in ("-m", "--multirun") for flag in flags)
    if sweep and any("ddp" in override or is_for(override, "trainer.devices") for override in overrides):
        raise SightwordError("a sweep cannot start several processes, each would sweep again. Train them one at a time")
    name = _experiment(overrides)
    preset, overrides = _preset_of(overrides)
    system = name.split("/")[0]
    if sweep:
        _register_schemas(system)
    else:
        compose_config(overrides)  # Hydra's own message on a mistake is a page

    before, statuses, failed = list(sys.argv), [0], list[Exception]()

    def job(config: "DictConfig") -> None:
        sys.argv = before  # from which Lightning starts the other processes of a DDP run
        try:
            statuses.extend([] if failed else [start(_as_run(config, name, preset))])
        except Exception as error:  # Hydra would print a line of its own
            failed.append(error)

    typed = [for_hydra(override, system, sweep) for override in _scaled(name, overrides)]
    with _short_errors(), _hydras_argv([*flags, *typed, *_groups(name), *_search_path()]):
        import hydra

        hydra.main(version_base=None, config_path="pkg://sightword.configs", config_name="train")(job)()
        if failed:
            raise failed[0]
    return max(statuses)


@contextmanager
def _hydras_argv(argv: Sequence[str]) -> Iterator[None]:
    """Set what Hydra's front reads. Its errors are raised, instead of a page and an exit."""
    before, full = list(sys.argv), os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [before[0], *argv], "1"
    try:
        yield
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR", None)
        os.environ.update({"HYDRA_FULL_ERROR": full} if full is not None else {})
