"""Overrides of a config, `data.root=photos`, by the types of the config's dataclasses.

A field whose type is str gets the text exactly as typed: 2024_01_15, 1e3, true and [x] are texts there. Only a leading
`~/` is replaced by the home directory, as a shell does. In lists and mappings of texts this holds for each item.
Hydra and OmegaConf would read YAML's types from them, so texts are quoted first.
"""

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sightword.engine.argument import expanded
from sightword.engine.config import Run
from sightword.engine.system import system_of


@dataclass(frozen=True)
class ConfigField:
    """A field of a run's config."""

    key: str  # as typed: data.root
    kind: object  # its type
    default: object
    owner: type  # the dataclass that declares it, in whose source its comment stands
    name: str  # there


def config_fields(kind: type = Run, prefix: str = "") -> Iterator[ConfigField]:
    """Iterate over the fields of a config's dataclass, those of nested dataclasses left out."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if not dataclasses.is_dataclass(hints[field.name]):
            made = field.default_factory() if callable(field.default_factory) else field.default
            yield ConfigField(f"{prefix}{field.name}", hints[field.name], made, kind, field.name)


def kind_of(key: str, system: str) -> object:
    """Return the type of a config's key, as data.root, for a system; None if there is no such key."""
    found = system_of(system)
    kind: object = Run
    for name in key.lstrip("+").split("."):
        if kind is Run and name in ("system", "data"):
            kind = found.Config if name == "system" else found.Data
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind).get(name)
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        else:
            return None
    return kind


def typed_value(text: str, kind: object) -> str | list[str] | dict[str, str] | None:
    """Return the value of a text, a list or a mapping of texts, exactly as typed; None if the type is another one."""
    if _is_text(kind):
        return None if text == "null" and kind is not str else _at_home(text)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is list and _is_text(arguments[0]):
        return [_at_home(item) for item in _split(text, "[]")]
    if typing.get_origin(kind) is dict and _is_text(arguments[1]) and text.startswith("{"):
        pairs = [item.partition(":") for item in _split(text, "{}")]
        return {key.strip(): _unquoted(value.strip()) for key, _, value in pairs}
    return None


def _is_text(kind: object) -> bool:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return str in typing.get_args(kind)
    return kind is str


def _at_home(text: str) -> str:
    return str(expanded(text)) if text.startswith("~/") else text


def _split(text: str, brackets: str) -> list[str]:
    inner = text.strip()
    if inner[:1] == brackets[0] and inner[-1:] == brackets[1]:
        inner = inner[1:-1]
    return [_unquoted(item.strip()) for item in inner.split(",")] if inner.strip() else []


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


# ------------------------------------------------------------------------------------- Hydra's and OmegaConf's grammar


def for_hydra(override: str, system: str, sweep: bool = False) -> str:
    """Return an override in Hydra's grammar. sweep: commas part the values of several runs."""
    key, equals, text = override.partition("=")
    if not equals:
        return override
    kind = kind_of(key, system)
    if sweep and _is_text(kind) and "," in text:
        return f"{key}={','.join(_hydra_text(_at_home(part)) for part in text.split(','))}"
    value = None if sweep and not _is_text(kind) else typed_value(text, kind)
    if value is None:
        return override if kind is not None or sweep else f"{key}={_hydra_other(text)}"
    if isinstance(value, str):
        return f"{key}={_hydra_text(value)}"
    if isinstance(value, list):
        return f"{key}=[{','.join(map(_hydra_text, value))}]"
    return f"{key}={{{','.join(f'{name}:{_hydra_text(item)}' for name, item in value.items())}}}"


def _hydra_text(text: str) -> str:
    """A quoted text: backslashes before a quote are halved by Hydra, others are not."""
    inner = re.sub(r"(\\*)'", r"\1\1\\'", literal(text))
    return "'" + re.sub(r"(\\+)$", r"\1\1", inner) + "'"


def _hydra_other(text: str) -> str:
    """The value of a key that no dataclass has: Hydra's own, a group, or a mistake that Hydra names."""
    plain = re.fullmatch(r"[\w\-./:+%@]*", text) or text[0] in "[{'\"$"
    return text if plain else _hydra_text(_at_home(text))


def literal(text: str) -> str:
    """Return a text in which OmegaConf finds no interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def literal_fields(config: Run) -> Run:
    """Return a copy of a config in whose texts OmegaConf finds no interpolation."""
    found = copy.deepcopy(config)
    for part in (found, found.system, found.data, found.optim, found.trainer):
        for field in dataclasses.fields(part):
            setattr(part, field.name, _literal_value(getattr(part, field.name)))
    return found


def _literal_value(value: object) -> object:
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, list):
        return [_literal_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _literal_value(item) for key, item in value.items()}
    return value


def is_for(override: str, *keys: str) -> bool:
    """Return whether an override is for one of these keys."""
    return override.partition("=")[0] in keys


def values_of(overrides: Sequence[str], key: str) -> list[str]:
    """Return the values that are given for a key, in their order."""
    return [override.removeprefix(f"{key}=") for override in overrides if is_for(override, key)]
