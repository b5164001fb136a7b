"""Typed access to values that were read from a file. Every error names the file and the field's path in it.

    fields = read_json("annotations.json")              Fields: a JSON object or a YAML mapping
    fields.text("name")                                 str
    for image in fields.mappings("images"):             Fields, created one at a time
        image.text("caption")                           annotations.json: images[3].caption: expected a text, got a list
    fields.mapping("system").into(Config)               a dataclass; unknown keys and wrong types are refused

`Fields` (looked up by name) and `Items` (looked up by position) share the methods of `Values`. Neither copies the
values; both are created on access, so that a list of 300,000 records costs nothing until it is iterated.
"""

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, NoReturn, TypeAlias, TypeVar, Union

from sightword.errors import SightwordError, printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Parent: TypeAlias = "Fields | Items | None"

DEEPEST = 64  # levels of nested lists and objects in a plain value

Key = TypeVar("Key", str, int)
Kind = TypeVar("Kind", bound="DataclassInstance")


class Source(NamedTuple):
    """The origin of values, for messages."""

    name: str  # the file's path
    advice: str = ""  # what to do if it is damaged, as a sentence

    def error(self, problem: str, path: str = "") -> SightwordError:
        """Return the error to raise: `<file>: <path>: <problem>. <advice>`."""
        text = ": ".join(part for part in (self.name, path, problem) if part)
        return SightwordError(printable(f"{text}. {self.advice}" if self.advice else text))


class _Absent:
    """Marks a missing field, as None is the value null."""


_ABSENT = _Absent()


class Values(Generic[Key]):
    """Base of `Fields` and `Items`: returns one value by its key, of the type that the method names.

    Raises SightwordError if the value has another type, or is missing and there is no default. A default of None means
    that the value is required. Test `key in fields` for an optional field.
    """

    __slots__ = ("_key", "_parent", "source")

    def __init__(self, source: Source, parent: "Parent" = None, key: str | int = "") -> None:
        self.source, self._parent, self._key = source, parent, key

    @property
    def path(self) -> str:
        """The place in the file, as images[3].size; empty for the whole file."""
        steps: list[str | int] = []
        here: Values[str] | Values[int] = self
        while here._parent is not None:
            steps.append(here._key)
            here = here._parent
        return _path(reversed(steps))

    def error(self, problem: str, key: Key | None = None) -> SightwordError:
        """Return the error to raise for this place, or for the field `key` of it."""
        path = self.path
        return self.source.error(problem, path if key is None else _path([key], path))

    def text(self, key: Key, default: str | None = None) -> str:
        """Return a text."""
        value = self._find(key, default)
        if isinstance(value, str) and (value.isascii() or _is_unicode(value)):
            return value
        return self._expected("a text", value, key)

    def integer(self, key: Key, default: int | None = None, least: int | None = None, most: int | None = None) -> int:
        """Return a whole number within least ≤ value ≤ most; 3.0 and true are refused."""
        value = self._find(key, default)
        if type(value) is int and (least is None or value >= least) and (most is None or value <= most):
            return value
        return self._expected(f"a whole number{_bounds(least, most)}", value, key)

    def number(
        self,
        key: Key,
        default: float | None = None,
        least: float | None = None,
        most: float | None = None,
        finite: bool = True,
    ) -> float:
        """Return a number within least ≤ value ≤ most; infinity and NaN only with finite=False."""
        value = self._find(key, default)
        if type(value) is int or type(value) is float:
            number = _as_float(value)
            allowed = math.isfinite(number) or (not finite and type(value) is float)
            if allowed and (least is None or number >= least) and (most is None or number <= most):
                return number
        return self._expected(f"a number{_bounds(least, most)}", value, key)

    def flag(self, key: Key, default: bool | None = None) -> bool:
        """Return true or false; 0 and 1 are refused."""
        value = self._find(key, default)
        return value if isinstance(value, bool) else self._expected("true or false", value, key)

    def choice(self, key: Key, options: Collection[str], default: str | None = None) -> str:
        """Return a text that is one of the options."""
        value = self._find(key, default)
        if isinstance(value, str) and value in options:
            return value
        return self._expected(f"one of {', '.join(options)}", value, key)

    def mapping(self, key: Key, optional: bool = False) -> "Fields":
        """Return the fields of an object; empty if it is optional and missing."""
        value = self._find(key, {} if optional else None)
        if isinstance(value, dict):
            return Fields(value, self.source, self._as_parent(), key)
        return self._expected("an object", value, key)

    def sequence(self, key: Key, optional: bool = False, least: int = 0) -> "Items":
        """Return a list of at least `least` items; empty if it is optional and missing."""
        value = self._find(key, [] if optional else None)
        if isinstance(value, list) and len(value) >= least:
            return Items(value, self.source, self._as_parent(), key)
        return self._expected(f"a list{f' of at least {least}' if least else ''}", value, key)

    def texts(self, key: Key, optional: bool = False, least: int = 0, alone: bool = False) -> list[str]:
        """Return a list of texts. alone: a single text is accepted as a list of one."""
        if alone and isinstance(self._find(key, [] if optional else None), str):
            return [self.text(key)]
        return self.sequence(key, optional, least).all_texts()

    def integers(self, key: Key, optional: bool = False, least: int = 0) -> list[int]:
        """Return a list of whole numbers."""
        return self.sequence(key, optional, least).all_integers()

    def numbers(self, key: Key, optional: bool = False, least: int = 0) -> list[float]:
        """Return a list of finite numbers."""
        return self.sequence(key, optional, least).all_numbers()

    def mappings(self, key: Key, optional: bool = False, least: int = 0) -> Iterator["Fields"]:
        """Iterate over a list of objects."""
        return self.sequence(key, optional, least).all_mappings()

    def value(self, key: Key) -> object:
        """Return a value of any type. Raises SightwordError if it is nested more than 64 deep."""
        value = self._find(key, None)
        if _too_deep(value):
            raise self.error(f"nested more than {DEEPEST} deep", key)
        return value

    def _find(self, key: Key, default: object) -> object:
        """Return the value of a key, or `default` if it is missing and the default is not None."""
        value = self._look_up(key)
        if value is not _ABSENT:
            return value
        if default is None:
            raise self._missing(key)
        return default

    def _look_up(self, key: Key) -> object:
        raise NotImplementedError

    def _missing(self, key: Key) -> SightwordError:
        raise NotImplementedError

    def _as_parent(self) -> "Parent":
        raise NotImplementedError

    def _expected(self, what: str, value: object, key: Key) -> NoReturn:
        raise self.error(f"expected {what}, got {shown(value)}", key)


class Fields(Values[str]):
    """A JSON object or YAML mapping, field by field. Iterates over its keys, in the file's order."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, object], source: Source, parent: "Parent" = None, key: str | int = "") -> None:
        self._values = values
        super().__init__(source, parent, key)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Raise SightwordError if there is a field besides the known ones."""
        known = list(known)
        for key in self._values:
            if key not in known:
                near = difflib.get_close_matches(key[:100], known, n=1)
                allowed = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known) or 'none'}"
                raise self.error(f"unknown field; {allowed}", key)

    def plain(self) -> dict[str, object]:
        """Return everything as plain values, not copied; nested at most 64 deep."""
        if _too_deep(self._values):
            raise self.error(f"nested more than {DEEPEST} deep")
        return self._values

    def into(self, kind: type[Kind], **given: object) -> Kind:
        """Return the dataclass `kind`, filled from the fields; those not in the file keep their defaults.

        given: fields of the dataclass that the caller sets; the file's values of these are ignored.
        Raises SightwordError for an unknown or missing field, for a value of another type (a whole number is accepted
        for a float), and if `__post_init__` raises a ValueError.
        """
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        self.refuse_unknown(fields)
        hints, values = _hints(kind), dict(given)
        for name, field in fields.items():
            if name in self and name not in given:
                values[name] = _read(self, name, hints[name])
            elif name not in given and _is_required(field):
                raise self._missing(name)
        make: Callable[..., Kind] = kind
        try:
            return make(**values)
        except ValueError as error:
            path, text = self.path, str(error)
            raise self.source.error(text, "" if text.startswith(f"{path}.") else path) from error

    def _look_up(self, key: str) -> object:
        return self._values.get(key, _ABSENT)

    def _missing(self, key: str) -> SightwordError:
        there = ", ".join(_step(name) for name in list(self._values)[:12])
        return self.error(
            f"has no {_step(key)}; its fields are {there}" if there else f"has no {_step(key)}; it is empty"
        )

    def _as_parent(self) -> "Fields":
        return self


class Items(Values[int]):
    """A JSON or YAML list, item by item, counted from 0."""

    __slots__ = ("_values",)

    def __init__(self, values: list[object], source: Source, parent: "Parent" = None, key: str | int = "") -> None:
        self._values = values
        super().__init__(source, parent, key)

    def __len__(self) -> int:
        return len(self._values)

    def all_texts(self) -> list[str]:
        """Return the items, which must all be texts."""
        return [self.text(number) for number in range(len(self._values))]

    def all_integers(self) -> list[int]:
        """Return the items, which must all be whole numbers."""
        return [self.integer(number) for number in range(len(self._values))]

    def all_numbers(self) -> list[float]:
        """Return the items, which must all be finite numbers."""
        return [self.number(number) for number in range(len(self._values))]

    def all_mappings(self) -> Iterator[Fields]:
        """Iterate over the items, which must all be objects."""
        source = self.source
        for number, value in enumerate(self._values):
            if not isinstance(value, dict):
                self._expected("an object", value, number)
            yield Fields(value, source, self, number)

    def plain(self) -> list[object]:
        """Return everything as plain values, not copied; nested at most 64 deep."""
        if _too_deep(self._values):
            raise self.error(f"nested more than {DEEPEST} deep")
        return self._values

    def _look_up(self, key: int) -> object:
        return self._values[key] if 0 <= key < len(self._values) else _ABSENT

    def _missing(self, key: int) -> SightwordError:
        return self.error(f"has {len(self._values)} items, none at [{key}]")

    def _as_parent(self) -> "Items":
        return self


class Row:
    """A row of a CSV file. Cells are texts, which the methods convert; an empty cell counts as missing."""

    __slots__ = ("_cells", "_columns", "position", "source")

    def __init__(self, cells: Sequence[str], columns: Mapping[str, int], source: Source, position: int) -> None:
        self._cells, self._columns, self.source, self.position = cells, columns, source, position

    def __contains__(self, column: object) -> bool:
        """Return whether there is such a column and its cell is not empty."""
        return column in self._columns and bool(self._cells[self._columns[str(column)]].strip())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all columns."""
        return iter(self._columns)

    def error(self, problem: str, column: str = "") -> SightwordError:
        """Return the error to raise for this row, or for its cell in `column`."""
        return self.source.error(problem, f"row {self.position}" + (f": {_step(column)}" if column else ""))

    def text(self, column: str, default: str | None = None) -> str:
        """Return the cell without white space around it."""
        if column in self:
            return self._cells[self._columns[column]].strip()
        if default is not None:
            return default
        raise self.error("the cell is empty" if column in self._columns else "there is no such column", column)

    def integer(
        self, column: str, default: int | None = None, least: int | None = None, most: int | None = None
    ) -> int:
        """Return the cell as a whole number within least ≤ value ≤ most."""
        if default is not None and column not in self:
            return default
        text = self.text(column)
        if re.fullmatch(r"[+-]?[0-9]{1,30}", text):
            value = int(text)
            if (least is None or value >= least) and (most is None or value <= most):
                return value
        raise self.error(f"expected a whole number{_bounds(least, most)}, got {shown(text)}", column)

    def number(self, column: str, default: float | None = None, finite: bool = True) -> float:
        """Return the cell as a number; infinity and NaN only with finite=False."""
        if default is not None and column not in self:
            return default
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"expected a number, got {shown(text)}", column) from None
        if finite and not math.isfinite(value):
            raise self.error(f"expected a finite number, got {shown(text)}", column)
        return value


# --------------------------------------------------------------------------------------------------- types of a field


@cache
def _hints(kind: type) -> dict[str, object]:
    return dict(typing.get_type_hints(kind))


def _is_required(field: "dataclasses.Field[object]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _read(place: Values[Key], key: Key, kind: object) -> object:
    """Return a value as the type of a dataclass field. Raises TypeError for a type that files cannot have."""
    simple: dict[object, Callable[[Key], object]] = {
        str: place.text,
        int: place.integer,
        bool: place.flag,
        float: lambda key: place.number(key, finite=False),
        object: place.value,
    }
    if kind in simple:
        return simple[kind](key)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return place.mapping(key).into(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        fields = place.mapping(key)
        return {name: _read(fields, name, arguments[1]) for name in fields}
    if origin is list:
        items = place.sequence(key)
        return [_read(items, number, arguments[0]) for number in range(len(items))]
    if origin is tuple:
        return _read_tuple(place, key, arguments)
    if origin in (Union, types.UnionType):
        return _read_union(place, key, arguments)
    if origin is Literal:
        return place.choice(key, [str(option) for option in arguments])
    raise TypeError(f"{kind} is not a type that a file's field can have")


def _read_tuple(place: Values[Key], key: Key, kinds: tuple[object, ...]) -> tuple[object, ...]:
    items = place.sequence(key)
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        raise place.error(f"expected a list of {len(kinds)}, got {len(items)} items", key)
    return tuple(_read(items, number, kind) for number, kind in enumerate(kinds))


def _read_union(place: Values[Key], key: Key, kinds: tuple[object, ...]) -> object:
    """Return the value as the first of the types that fits. null becomes None if that is one of them."""
    if type(None) in kinds and place.value(key) is None:
        return None
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        try:
            return _read(place, key, kind)
        except SightwordError:
            continue
    return _read(place, key, last)


# ----------------------------------------------------------------------------------------------------------- messages


def shown(value: object) -> str:
    """Return a value as a message shows it: short texts and numbers themselves, anything else by its type."""
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value[:60] + "…" if len(value) > 60 else value, ensure_ascii=not _is_unicode(value))
    if isinstance(value, int) and value.bit_length() > 200:
        return "a whole number of more than 60 digits"
    return str(value)


def _path(steps: Iterable[str | int], start: str = "") -> str:
    path = start
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{_step(step)}" if path else _step(step)
    return path if len(path) <= 200 else f"{path[:100]} … {path[-90:]}"


def _step(name: str) -> str:
    """Return the name of a field as a step of a path; quoted unless it is a plain word."""
    return name if re.fullmatch(r"[\w/-]{1,60}", name) else shown(name)


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if most is not None:
        return f" up to {most}"
    return "" if least is None else f" from {least} on"


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded. JSON can contain half a surrogate pair, which UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _too_deep(value: object) -> bool:
    """Return whether lists and objects are nested more than 64 deep. Does not recurse."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True
