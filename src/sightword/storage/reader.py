"""Read JSON, YAML, CSV and text files within bounds. Any problem in a file raises a SightwordError that names it.

    read_json(file)        Fields     read_json_list(file)   Items      parse_json(raw, name)  Fields, of bytes
    read_yaml(file)        Fields     read_csv(file)         Table      read_text(file)        str
    read_dataclass(file, Kind)        an instance of Kind, from .json, .yaml or .yml

The bounds are checked before memory is allocated: size of the file, depth of nesting, aliases in YAML, width of a CSV
row. Files are UTF-8, with or without a byte order mark. A duplicate field is refused. All functions take

    most        the greatest size of the file in bytes
    missing     a sentence for the message if there is no such file: which command writes it, or which option names it
    damaged     a sentence for the message of any other error in the file: how to repair or replace it
"""

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import yaml

from sightword.errors import MissingFileError, SightwordError, printable
from sightword.storage.fields import DEEPEST, Fields, Items, Row, Source, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MIB = 1 << 20
DELIMITERS = (",", ";", "\t", "|")
HEAD = 2**16  # bytes of a CSV's first row that are looked at for its separator
MOST_ALIASES = 100  # in a YAML file
LONGEST_NUMBER = 400  # characters of a number in a YAML file

Kind = TypeVar("Kind", bound="DataclassInstance")


def read_json(
    file: str | Path, *, most: int = 256 * MIB, missing: str = "", damaged: str = "", nan: bool = False
) -> Fields:
    """Return the object in a JSON file. nan: NaN, Infinity and -Infinity, which are no JSON, are accepted."""
    source = Source(str(file), damaged)
    return _fields(_json(_decoded(_bytes(file, most, missing, source), source), source, nan), source)


def read_json_list(
    file: str | Path, *, most: int = 256 * MIB, missing: str = "", damaged: str = "", nan: bool = False
) -> Items:
    """Return the list in a JSON file. nan: NaN, Infinity and -Infinity, which are no JSON, are accepted."""
    source = Source(str(file), damaged)
    return _items(_json(_decoded(_bytes(file, most, missing, source), source), source, nan), source)


def parse_json(raw: str | bytes, name: str, *, damaged: str = "", nan: bool = False) -> Fields:
    """Return the object in a JSON text, such as the metadata of a weights file. name: for messages."""
    source = Source(name, damaged)
    return _fields(_json(raw if isinstance(raw, str) else _decoded(raw, source), source, nan), source)


def parse_json_list(raw: str | bytes, name: str, *, damaged: str = "") -> Items:
    """Return the list in a JSON text. name: for messages."""
    source = Source(name, damaged)
    return _items(_json(raw if isinstance(raw, str) else _decoded(raw, source), source, False), source)


def read_yaml(file: str | Path, *, most: int = MIB, missing: str = "", damaged: str = "") -> Fields:
    """Return the mapping in a YAML file of one document. Dates stay texts.

    Keys are texts. A tuple of Python is a list. Other tags beyond plain values, merge keys (<<) and aliases of aliases
    are refused.
    """
    source = Source(str(file), damaged)
    return _fields(_yaml(_decoded(_bytes(file, most, missing, source), source), source), source)


def read_dataclass(
    file: str | Path, kind: type[Kind], *, most: int = MIB, missing: str = "", damaged: str = "", **given: object
) -> Kind:
    """Return the dataclass `kind`, filled from a .json, .yaml or .yml file; see `Fields.into`."""
    read = read_yaml if Path(file).suffix in (".yaml", ".yml") else read_json
    return read(file, most=most, missing=missing, damaged=damaged).into(kind, **given)


class Table(NamedTuple):
    """A CSV file."""

    columns: tuple[str, ...]
    rows: list[Row]


def read_csv(
    file: str | Path,
    needed: Sequence[str] = (),
    *,
    delimiter: str = ",",
    most: int = 256 * MIB,
    missing: str = "",
    damaged: str = "",
) -> Table:
    """Return the rows of a CSV file whose first row names the columns; empty lines are skipped.

    needed: required columns. Rows are numbered from 1, the first being the names, as a spreadsheet does.
    Raises SightwordError for a row with too few or too many cells, and for quotes that are not closed.
    """
    source = Source(str(file), damaged)
    rows = _csv_rows(_decoded(_bytes(file, most, missing, source), source), delimiter, source)
    columns = next(rows, (0, []))[1]
    names = {name.strip(): number for number, name in enumerate(columns)}
    if not columns:
        raise source.error("is empty: expected a first row with the names of the columns")
    if len(names) < len(columns):
        twice = next(name for number, name in enumerate(columns) if names[name.strip()] != number)
        raise source.error(f"names the column {shown(twice.strip())} twice", "row 1")
    if absent := [name for name in needed if name not in names]:
        raise source.error(
            f"expected the columns {', '.join(needed)}; {absent[0]} is missing in {_head(names)}", "row 1"
        )
    found = []
    for number, cells in rows:
        if len(cells) != len(columns):
            few = "too few" if len(cells) < len(columns) else "too many: quote a text that contains the separator"
            raise source.error(f"has {len(cells)} cells for {len(columns)} columns, {few}", f"row {number}")
        found.append(Row(cells, names, source, number))
    return Table(tuple(names), found)


def find_delimiter(file: str | Path, fits: Callable[[Sequence[str]], bool]) -> str:
    """Return the separator of a CSV file: the first of , ; tab | that makes columns of its first row that fit.

    fits: tells whether these names have what is needed. If none does, the commonest character of the four.
    """
    source = Source(str(file))
    try:
        with Path(file).open("rb") as opened:
            head = opened.readline(HEAD).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise source.error(f"cannot be read: {error.strerror or error}") from error
    for delimiter in DELIMITERS:
        with suppress(csv.Error):
            if fits(next(csv.reader([head], delimiter=delimiter, skipinitialspace=True), [])):
                return delimiter
    return max(DELIMITERS, key=head.count)


def read_text(file: str | Path, *, most: int = 256 * MIB, missing: str = "", damaged: str = "") -> str:
    """Return a text file's text, without a byte order mark."""
    source = Source(str(file), damaged)
    return _decoded(_bytes(file, most, missing, source), source)


# ------------------------------------------------------------------------------------------------------------- bytes


def _bytes(file: str | Path, most: int, missing: str, source: Source) -> bytes:
    """Return the content of a regular file of at most `most` bytes."""
    if "\0" in str(file) or not _is_path(file):
        raise source.error("is not a file name")
    try:
        state = Path(file).stat()
        if stat.S_ISDIR(state.st_mode):
            raise source.error("is a folder, expected a file")
        if not stat.S_ISREG(state.st_mode):
            raise source.error("is not a regular file")  # a pipe may block, and a device may have no end
        _refuse_size(state.st_size, most, source)
        with Path(file).open("rb") as opened:
            raw = opened.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(printable(f"{file} does not exist{f'. {missing}' if missing else ''}")) from None
    except OSError as error:
        raise source.error(f"cannot be read: {error.strerror or error}") from error
    _refuse_size(len(raw), most, source)  # it may have grown
    return raw


def _is_path(file: str | Path) -> bool:
    try:
        os.fsencode(file)
    except UnicodeError:
        return False
    return True


def _refuse_size(size: int, most: int, source: Source) -> None:
    if size > most:
        raise source.error(f"has {size:,} bytes, at most {most:,} are read")


def _decoded(raw: bytes, source: Source) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise source.error("is UTF-16, expected UTF-8: save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise source.error(f"line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8: save it as UTF-8") from None


def _items(value: object, source: Source) -> Items:
    if not isinstance(value, list):
        raise source.error(f"expected a list, got {shown(value)}")
    return Items(value, source)


def _fields(value: object, source: Source) -> Fields:
    if not isinstance(value, dict):
        raise source.error(f"expected an object, got {shown(value)}")
    return Fields(value, source)


# -------------------------------------------------------------------------------------------------------------- JSON


def _json(text: str, source: Source, nan: bool) -> object:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _twice([name for name, _ in pairs], source)
        return found

    def constant(name: str) -> object:
        raise source.error(f"contains {name}, which is not JSON")

    try:
        if nan:
            return json.loads(text, object_pairs_hook=once)
        return json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise source.error("is empty, expected JSON") from None
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise source.error(f"ends in the middle of its JSON (line {error.lineno}): it was cut short") from None
        place = f"line {error.lineno}, column {error.colno}"
        raise source.error(f"is not JSON: {error.msg} ({place})") from None
    except SightwordError:
        raise
    except ValueError:  # an integer of more digits than Python converts
        raise source.error("contains a number of too many digits") from None
    except RecursionError:
        raise source.error("is nested too deep") from None
    except MemoryError:
        raise source.error("needs more memory than there is") from None


def _twice(names: Sequence[str], source: Source) -> SightwordError:
    """Return the error that names the first repeated field."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return source.error(f"the field {shown(name)} stands twice in one object")
        seen.add(name)
    raise AssertionError("no name stands twice")


# -------------------------------------------------------------------------------------------------------------- YAML

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX = "tag:yaml.org,2002:"
_AS_LIST = {f"{_PREFIX}{name}" for name in ("seq", "python/tuple")}  # a tuple is how PyYAML dumps options of a training
_AS_TEXT = {f"{_PREFIX}{name}" for name in ("str", "timestamp", "value")}
_CONVERTED = {f"{_PREFIX}{name}" for name in ("bool", "float", "int", "null")}


def _yaml(text: str, source: Source) -> object:
    try:
        _bound_events(text, source)
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _value(loader, node, source, {})
        finally:
            loader.dispose()
    except SightwordError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise source.error(f"is not YAML: {error.problem or error.context}{place}") from None
    except yaml.YAMLError as error:
        raise source.error(f"is not YAML: {error}") from None
    except RecursionError:
        raise source.error("is nested too deep") from None
    except MemoryError:
        raise source.error("needs more memory than there is") from None


def _bound_events(text: str, source: Source) -> None:
    """Refuse deep nesting, and aliases that multiply, before anything is built: PyYAML composes by recursion."""
    open_anchors: list[str | None] = []  # of the lists and mappings around the event
    with_alias: list[bool] = []  # whether each of these contains an alias
    multiplying: set[str] = set()  # anchors of what contains an alias
    aliases = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append(event.anchor)
            with_alias.append(False)
            if len(open_anchors) > DEEPEST:
                raise source.error(f"line {event.start_mark.line + 1}: nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor = open_anchors.pop()
            if with_alias.pop() and anchor is not None:
                multiplying.add(anchor)
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            with_alias = [True] * len(with_alias)
            if aliases > MOST_ALIASES or event.anchor in multiplying or event.anchor in open_anchors:
                what = f"more than {MOST_ALIASES} aliases" if aliases > MOST_ALIASES else "an alias of what has aliases"
                raise source.error(f"line {event.start_mark.line + 1}: {what}; write the values out")


def _value(loader: yaml.SafeLoader, node: yaml.Node, source: Source, made: dict[int, object]) -> object:
    """Return the plain value of a node. made: id of a node → its value, which its aliases share."""
    if id(node) in made:
        return made[id(node)]
    value: object
    if isinstance(node, yaml.ScalarNode):
        value = _scalar(loader, node, source)
    elif isinstance(node, yaml.SequenceNode) and node.tag in _AS_LIST:
        value = [_value(loader, item, source, made) for item in node.value]
    elif isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
        names = [_name(key, source) for key, _ in node.value]
        if len(set(names)) < len(names):
            raise _twice(names, source)
        value = {name: _value(loader, item, source, made) for name, (_, item) in zip(names, node.value, strict=True)}
    else:
        raise _unknown_tag(node, source)
    made[id(node)] = value
    return value


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, source: Source) -> object:
    if node.tag in _AS_TEXT:
        return str(node.value)
    if node.tag not in _CONVERTED:
        raise _unknown_tag(node, source)
    if len(node.value) <= LONGEST_NUMBER:
        try:
            value: object = loader.construct_object(node)
            return value
        except (ValueError, KeyError, IndexError, OverflowError, AttributeError):  # an explicit tag on another text
            pass
    kind = node.tag.removeprefix(_PREFIX)
    raise source.error(f"line {node.start_mark.line + 1}: {shown(node.value)} is not of type {kind}")


def _name(node: yaml.Node, source: Source) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _AS_TEXT:
        what = shown(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise source.error(f"line {node.start_mark.line + 1}: a field's name is a text, got {what}; quote it")
    return str(node.value)


def _unknown_tag(node: yaml.Node, source: Source) -> SightwordError:
    return source.error(f"line {node.start_mark.line + 1}: the tag {node.tag} is not read: values are plain")


# --------------------------------------------------------------------------------------------------------------- CSV


def _csv_rows(text: str, delimiter: str, source: Source) -> Iterator[tuple[int, list[str]]]:
    """Yield (row number from 1, cells) of each row that is not an empty line."""
    if "\0" in text:
        raise source.error("contains a zero byte: it is not a text file")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    number = 0
    try:
        for cells in reader:
            number += 1
            if cells:
                yield number, cells
    except csv.Error as error:
        raise source.error(f"is not CSV: {error}", f"row {number + 1}") from None


def _head(names: Iterable[str]) -> str:
    return ", ".join(shown(name) for name in list(names)[:8])
