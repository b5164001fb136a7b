"""Find systems, their commands, experiments and presets by looking into folders. Imports no system by name."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def module_of(experiment: str, name: str) -> Any:
    """A module (config, data, task, commands …) of an experiment's system; a system's own name will do."""
    return importlib.import_module(f"sightword.systems.{experiment.split('/')[0]}.{name}")


def system_names() -> list[str]:
    """A folder under `systems` with a config.py is a system."""
    names = [module.name for module in pkgutil.iter_modules(map(str, _system_folders())) if module.ispkg]
    return [name for name in names if has_file(name, "config.py")]


def has_file(system: str, file: str) -> bool:
    return any((folder / system / file).exists() for folder in _system_folders())


def _system_folders() -> list[Path]:
    return [place / "systems" for place in _places()]


def demo_parts() -> list[str]:
    """The packages that take part in the demo: the small world, and the systems with a demo.py."""
    found = [f"sightword.systems.{name}" for name in system_names() if has_file(name, "demo.py")]
    return ["sightword.miniature", *found]


def system_commands() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for system in system_names():
        if has_file(system, "commands.py"):
            found |= {verb.__name__: verb for verb in module_of(system, "commands").COMMANDS}
    return found


def experiments() -> list[tuple[str, Path]]:
    """(name, YAML file) of every experiment, as `experiment=name` takes it; the first of a name counts."""
    files = [file for folder in config_folders() for file in sorted((folder / "experiment").glob("*/*.yaml"))]
    return list({f"{file.parent.name}/{file.stem}": file for file in reversed(files)}.items())[::-1]


def presets(system: str) -> dict[str, list[str]]:
    """Name → words of every preset of a system, from configs/preset/<system>.yaml: the rows of a document's tables."""
    import yaml

    files = [file for folder in config_folders() if (file := folder / "preset" / f"{system}.yaml").exists()]
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in reversed(files)]
    return {name: line.split() for each in found for name, line in each.items()}


def _places() -> list[Path]:
    """Where the package lies; others may add folders to it, with systems and configs of their own."""
    return list(map(Path, importlib.import_module("sightword").__path__))


def config_folders() -> list[Path]:
    return [folder for place in _places() if (folder := place / "configs").is_dir()]
