"""Registry of systems, experiments, scales and presets: folders of this package and entry points. No torch.

A system is a folder of `systems/` with a `system.py` that offers `SYSTEM`, or an installed package's entry point
`<name> = "package.module:SYSTEM"` in the group `sightword.systems`.
"""

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from sightword.engine.config import DataConfig, SystemConfig
from sightword.engine.contract import Check, Command, System
from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.engine.task import Task

AnySystem: TypeAlias = "System[SystemConfig, DataConfig, Task[object], object]"
GROUP = "sightword.systems"


@cache
def systems() -> dict[str, AnySystem]:
    """Return every system by its name: those of this package first, then those of others."""
    package = importlib.import_module(GROUP)
    folders = [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]
    modules = [f"{GROUP}.{name}.system" for name in folders]
    found = [_offered(importlib.import_module(name)) for name in modules if importlib.util.find_spec(name)]
    found += [_checked(point.load(), point.value) for point in _installed()]
    named = {system.name: system for system in reversed(found)}  # the first of a name counts
    return {system.name: named[system.name] for system in found}


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """Return the entry points of other packages' systems. Cached, as the search takes 15 ms."""
    return tuple(entry_points(group=GROUP))


def _offered(module: object) -> AnySystem:
    return _checked(getattr(module, "SYSTEM", None), str(getattr(module, "__name__", module)))


def _checked(system: object, where: str) -> AnySystem:
    if not isinstance(system, System):
        raise TypeError(f"{where} is not a System: see sightword.engine.contract")
    return cast("AnySystem", system)


def system_of(experiment: str) -> AnySystem:
    """Return the system of an experiment name or of a system's own name. Raises SightwordError if there is none."""
    name = experiment.split("/")[0]
    if name not in systems():
        raise SightwordError(f"there is no system {name!r}{closest(name, systems())}; there are {', '.join(systems())}")
    return systems()[name]


def experiments() -> list[tuple[str, Path]]:
    """Return (name, YAML file) of every experiment. Of several files with one name the first is used."""
    files = [file for folder in config_folders() for file in sorted((folder / "experiment").glob("*/*.yaml"))]
    return list({f"{file.parent.name}/{file.stem}": file for file in reversed(files)}.items())[::-1]


def scales(system: str) -> list[str]:
    """Return the names that `scale=` takes for a system."""
    return sorted({file.stem for place in config_folders() for file in (place / "scale" / system).glob("*.yaml")})


def presets() -> dict[str, dict[str, list[str]]]:
    """Return system → preset → its arguments, from configs/preset/<system>.yaml: the rows of published tables."""
    return _arguments("preset")


def tables() -> dict[str, dict[str, list[str]]]:
    """Return system → table → the arguments of `sightword sweep` for its rows, from configs/table/<system>.yaml."""
    return _arguments("table")


def _arguments(kind: str) -> dict[str, dict[str, list[str]]]:
    """Return system → name → arguments, from configs/<kind>/<system>.yaml."""
    from sightword.storage.reader import read_yaml

    found: dict[str, dict[str, list[str]]] = {}
    for file in (file for place in config_folders() for file in sorted((place / kind).glob("*.yaml"))):
        rows = read_yaml(file)
        found.setdefault(file.stem, {}).update({name: rows.text(name).split() for name in rows})
    return found


def config_folders() -> list[Path]:
    """Return the folders of YAML files: one in each folder of this package's path, then other packages'."""
    package = importlib.import_module(GROUP.partition(".")[0])  # others may add folders to it
    own = [folder for place in package.__path__ if (folder := Path(place) / "configs").is_dir()]
    others = [system.configs for system in systems().values() if system.configs] if _installed() else []
    return [*own, *others]


def closest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for a misspelt word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def system_commands() -> dict[str, Command]:
    """Return the commands of all systems, as name → function. A name that Python reserves ends with _ in the code."""
    return {command.__name__.rstrip("_"): command for system in systems().values() for command in system.commands}


def system_checks() -> dict[str, Check]:
    """Return the checks of all systems, as name of the data set → check."""
    return {name: check for system in systems().values() for name, check in system.checks.items()}


def demo_parts() -> list[str]:
    """Return the packages that take part in the demo: the synthetic data, and the systems with a demo.py."""
    packages = [type(system).__module__.rpartition(".")[0] for system in systems().values()]
    return ["sightword.miniature", *(name for name in packages if importlib.util.find_spec(f"{name}.demo"))]
