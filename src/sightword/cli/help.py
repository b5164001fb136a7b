"""Help texts, made from the signatures and dataclasses themselves: types, defaults, and the comments beside them."""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

from sightword.cli.arguments import Option, options_of, words_of
from sightword.cli.override import ConfigField, config_fields
from sightword.data.size import size_text
from sightword.engine.argument import PLAIN
from sightword.engine.config import Optim, Run, Trainer
from sightword.engine.system import system_of
from sightword.version import VERSION


class Written(NamedTuple):
    """A field or parameter as it stands in the source."""

    number: str  # its default, if that is a number: 2e-4 there is 0.0002 in Python
    comment: str


@cache
def written(thing: type | Callable[..., object]) -> Mapping[str, Written]:
    """Return the fields of a class, its bases included, or the parameters of a function, as they stand in the source.

    Empty where the source is not there.
    """
    found: dict[str, Written] = {}
    for part in reversed(thing.__mro__) if isinstance(thing, type) else [thing]:
        if part is not object and (isinstance(thing, type) is dataclasses.is_dataclass(part)):
            found |= _written(part)
    return found


def _written(part: type | Callable[..., object]) -> dict[str, Written]:
    try:
        source = textwrap.dedent(inspect.getsource(part))
    except (OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("#").strip() for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for name, default, line in _declared(ast.parse(source).body[0]):
        text = ast.get_source_segment(source, default) if default else None
        number = text if isinstance(default, ast.Constant) and type(default.value) in (int, float) else None
        found[name] = Written(number or "", comments.get(line, ""))
    return found


def _declared(node: ast.stmt) -> Iterable[tuple[str, ast.expr | None, int]]:
    """(name, default, last line) of each field or parameter."""
    if isinstance(node, ast.ClassDef):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, field.value, field.end_lineno or 0
    elif isinstance(node, ast.FunctionDef):
        plain, named = node.args.args, node.args.kwonlyargs
        missing: list[ast.expr | None] = [None] * (len(plain) - len(node.args.defaults))
        defaults = [*missing, *node.args.defaults, *node.args.kw_defaults]
        for parameter, default in zip([*plain, *named], defaults, strict=True):
            yield parameter.arg, default, (default or parameter).end_lineno or 0


# ------------------------------------------------------------------------------------------------------------ commands


def overview(commands: Mapping[str, Callable[..., object]]) -> str:
    """Return the help of the program: a line for each command."""
    width = max(map(len, commands))
    return "\n".join(
        [
            f"sightword {VERSION}: tie what is seen to words",
            "",
            "usage: sightword <command> [key=value ...]",
            "",
            *(f"  {name:<{width}}  {summary(command)}" for name, command in commands.items()),
            "",
            "sightword <command> --help explains a command; --debug shows the traceback of an error.",
            "config=<file> takes arguments from a YAML file, key: value; what is typed beside it wins.",
            "Exit status: 0 done; 1 stopped, or something is left undone; 2 an error in what was given; 3 a defect.",
        ]
    )


def summary(command: Callable[..., object]) -> str:
    """Return the first sentence of a command's docstring."""
    return (inspect.getdoc(command) or "").split("\n")[0]


def usage(name: str, command: Callable[..., object]) -> str:
    """Return the help of a command: its docstring, and each key with its type, default and comment."""
    rows = [(name, "words", written(command)[name].comment) for name in words_of(command)]
    rows += [_option_row(option) for option in options_of(command).values()]
    return "\n".join([f"sightword {name}: {inspect.getdoc(command)}", "", *_table(rows)])


def _option_row(option: Option) -> tuple[str, str, str]:
    number, comment = written(option.owner).get(option.key, ("", ""))
    default = "…" if option.required else _shown(option.default, number)
    needed = "required" if option.required else ""
    known = option.parser.choices if option.parser.name == "choice" else ()
    if not all(choice in comment for choice in known):
        comment = f"{' | '.join(known)}: {comment}"
    return f"{option.key}={default}", option.parser.name, ", ".join(part for part in (needed, comment) if part)


def _table(rows: Iterable[tuple[str, str, str]], least: int = 0) -> list[str]:
    rows = list(rows)
    widths = [min(44, max([least, *(len(row[column]) for row in rows)])) for column in (0, 1)]
    return [f"  {key:<{widths[0]}}  {kind:<{widths[1]}}  {comment}".rstrip() for key, kind, comment in rows]


def _shown(value: object, number: str = "") -> str:
    """Return a default as it is typed. number: the way it is written in the source, if it is that number."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return number if number and float(number.replace("_", "")) == value else f"{value:g}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, tuple):
        pair = len(value) == 2 and all(type(item) is int for item in value)
        return size_text(value) if pair else ",".join(map(_shown, value))
    return str(value)


# --------------------------------------------------------------------------------------------------------------- train


def config_help(systems: Iterable[str]) -> str:
    """Return every field of a run's config, for these systems."""
    lines = _config_rows("", Run)
    for name in systems:
        system = system_of(name)
        lines += ["", f"{name}:", *_config_rows("system.", system.Config), *_config_rows("data.", system.Data)]
    return "\n".join([*lines, "", *_config_rows("optim.", Optim), "", *_config_rows("trainer.", Trainer)])


def _config_rows(prefix: str, kind: type) -> list[str]:
    return _table([_field_row(field) for field in config_fields(kind, prefix)], least=6)


def _field_row(field: ConfigField) -> tuple[str, str, str]:
    number, comment = written(field.owner).get(field.name, ("", ""))
    default = "…" if field.default is dataclasses.MISSING else _shown(field.default, number)
    return f"{field.key}={default}", kind_name(field.kind), comment


def kind_name(kind: object) -> str:
    """Return the name of a field's type, as the parsers have it: text, int, list of float."""
    if kind in PLAIN:
        return PLAIN[kind].name
    arguments = [kind_name(argument) for argument in typing.get_args(kind) if argument is not type(None)]
    if typing.get_origin(kind) is list:
        return f"list of {arguments[0]}"
    if typing.get_origin(kind) is dict:
        return f"{arguments[0]}:{arguments[1]}"
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    return " or ".join(arguments) or getattr(kind, "__name__", str(kind))
