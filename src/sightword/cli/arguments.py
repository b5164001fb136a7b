"""Read `key=value` arguments as the keyword arguments of a command, which is a Python function.

The annotations of its parameters say how: see `sightword.engine.argument`.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sightword.engine.argument import ARGUMENTS, PLAIN, Parser, Rest, choice, read_value
from sightword.engine.system import closest
from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_yaml


@dataclass(frozen=True)
class Option:
    """A key that a command takes."""

    key: str
    parser: Parser[object]
    default: object
    required: bool
    optional: bool  # whether nothing after the = means none
    parameter: str  # of the function
    owner: type | Callable[..., object]  # in whose source its comment stands


def options_of(command: Callable[..., object]) -> dict[str, Option]:
    """Return the keys of a command, in the order of its parameters."""
    found: list[Option] = []
    for parameter in inspect.signature(command).parameters.values():
        kind, optional = _kind(command, parameter)
        if isinstance(kind, Rest):
            continue
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            found += _fields(parameter, kind)
            continue
        required = parameter.default is parameter.empty
        parser = _parser(kind, f"{command.__name__}({parameter.name})")
        found.append(Option(parameter.name, parser, parameter.default, required, optional, parameter.name, command))
    return {option.key: option for option in found}


def words_of(command: Callable[..., object]) -> list[str]:
    """Return the parameters of a command that take what is typed without key=."""
    parameters = inspect.signature(command).parameters.values()
    return [parameter.name for parameter in parameters if _kind(command, parameter)[0] is Rest.POSITIONAL]


def read_arguments(name: str, command: Callable[..., object], argv: Sequence[str]) -> dict[str, object]:
    """Return a command's keyword arguments. Raises SightwordError for one that is unknown, missing or of another type.

    name: the command's, as typed, for messages.
    """
    options = options_of(command)
    given, argv = _collected(command, _with_file(argv, options), options)
    nested: dict[str, dict[str, object]] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals:
            raise SightwordError(f"{argument!r} is not key=value. sightword {name} --help lists the keys")
        if key not in options:
            near = closest(key, options)
            raise SightwordError(f"{name} has no key {key!r}{near}; its keys are {', '.join(options)}")
        option = options[key]
        value = None if option.optional and not text else read_value(key, text, option.parser)
        place = given if option.owner is command else nested.setdefault(option.parameter, {})
        place[key] = value
    _require(name, options.values(), given)
    for parameter, values in nested.items():
        given[parameter] = _changed(inspect.signature(command).parameters[parameter], values)
    return given


def _with_file(argv: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """Return the arguments with those of the YAML file that config= names before them, so that what is typed wins."""
    own = next((key for key, option in options.items() if option.parser is ARGUMENTS), None)
    found: list[str] = []
    for argument in argv:
        key, _, text = argument.partition("=")
        if own is None or key != own:
            continue
        fields = read_yaml(str(read_value(key, text, ARGUMENTS)), missing="It lists keys as key: value")
        found += [f"{name}={_as_typed(fields, name)}" for name in fields]
    return [*found, *(argument for argument in argv if argument.partition("=")[0] != own)]


def _as_typed(fields: Fields, name: str) -> str:
    """A value of a YAML file as it would be typed."""
    value = fields.value(name)
    if isinstance(value, Mapping):
        raise fields.error("expected one value, or a list of them", name)
    parts = value if isinstance(value, list) else [value]
    texts = {None: "", True: "true", False: "false"}
    return ",".join(texts[part] if part is None or isinstance(part, bool) else str(part) for part in parts)


def _collected(
    command: Callable[..., object], argv: Sequence[str], options: Mapping[str, Option]
) -> tuple[dict[str, object], list[str]]:
    """Return the parameters that collect arguments, filled, and the arguments that are left."""
    given: dict[str, object] = {}
    left = list(argv)
    for parameter in inspect.signature(command).parameters.values():
        kind, _ = _kind(command, parameter)
        if isinstance(kind, Rest):
            taken = [argument for argument in left if _is_rest(argument, kind, options)]
            given[parameter.name] = taken
            left = [argument for argument in left if argument not in taken]
    return given, left


def _is_rest(argument: str, kind: Rest, options: Mapping[str, Option]) -> bool:
    key = argument.partition("=")[0]
    if kind is Rest.POSITIONAL:
        return not re.match(r"[\w.]+=", argument)
    if kind is Rest.OVERRIDES:
        return "=" in argument and "." in key
    return "=" in argument and key not in options


def _require(name: str, options: typing.Iterable[Option], given: Mapping[str, object]) -> None:
    for option in options:
        if option.required and option.key not in given:
            raise SightwordError(f"sightword {name} needs {option.key}=…; sightword {name} --help says more")


def _changed(parameter: inspect.Parameter, values: Mapping[str, object]) -> object:
    """Return the default of a parameter, a dataclass, with other values."""
    change: Callable[..., object] = dataclasses.replace
    return change(parameter.default, **values)


# --------------------------------------------------------------------------------------------------------- annotations


def _kind(command: Callable[..., object], parameter: inspect.Parameter) -> tuple[object, bool]:
    """Return what a parameter takes, a type, a Parser or a Rest, and whether it can be None."""
    annotation: object = parameter.annotation
    if isinstance(annotation, str):  # the module postpones annotations
        annotation = eval(annotation, vars(inspect.getmodule(command)))
    return _read_kind(annotation)


def _read_kind(annotation: object) -> tuple[object, bool]:
    """Return the same of an annotation."""
    arguments, optional = typing.get_args(annotation), False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and type(None) in arguments:
        (annotation,), optional = [kind for kind in arguments if kind is not type(None)], True
    if typing.get_origin(annotation) is typing.Annotated:
        return typing.get_args(annotation)[1], optional
    if typing.get_origin(annotation) is Sequence:
        return Rest.POSITIONAL, optional
    return annotation, optional


def _parser(kind: object, where: str) -> Parser[object]:
    if isinstance(kind, Parser):
        return kind
    if typing.get_origin(kind) is typing.Literal:
        return choice("choice", typing.get_args(kind))
    if kind not in PLAIN:
        raise TypeError(f"{where}: the command line cannot read a {kind}. Use a type of sightword.engine.argument")
    return PLAIN[kind]


def _fields(parameter: inspect.Parameter, kind: type) -> list[Option]:
    """Return the keys of a parameter whose type is a dataclass."""
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        taken, optional = _read_kind(hints[field.name])
        parser, default = _parser(taken, f"{kind.__name__}.{field.name}"), getattr(parameter.default, field.name)
        found.append(Option(field.name, parser, default, False, optional, parameter.name, kind))
    return found
