"""Types of a command's parameters: one parser for each concept, so that a key means the same in every command.

    def cache(tower: str, images: Path, out: Out, size: Size | None = None, job: ImageJobOptions = …) -> None:

For Python and type checkers each is a plain type: a `Size` is an int or a pair of them. The command line finds the
parser in the annotation. A parameter whose type is a dataclass takes one key for each of its fields. No torch here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar, get_args

from sightword.errors import SightwordError
from sightword.storage.job import ImageJobOptions as ImageJobOptions
from sightword.storage.job import JobOptions as JobOptions

ValueT = TypeVar("ValueT", covariant=True)


@dataclass(frozen=True)
class Parser(Generic[ValueT]):
    """How the command line reads a value of one concept."""

    name: str  # as help shows it
    what: str  # completes "… is not "
    example: str  # completes "Pass "
    read: Callable[[str], ValueT]  # raises ValueError, without a message, for a text that is not one
    choices: tuple[str, ...] = ()  # what shell completion offers
    is_path: bool = False  # whether shell completion offers files


def read_value(key: str, text: str, parser: Parser[ValueT]) -> ValueT:
    """Return a text as a parser's value. Raises SightwordError, which names the key, if it is not one."""
    try:
        return parser.read(text)
    except ValueError:
        raise SightwordError(f"{key}={text!r} is not {parser.what}. Pass {parser.example}") from None


# ------------------------------------------------------------------------------------------------------ plain values


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError
    return int(text)


def _count(text: str) -> int:
    if _whole(text) < 1:
        raise ValueError
    return int(text)


def _flag(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValueError
    return known[text.lower()]


def _path(text: str) -> Path:
    if not text:
        raise ValueError
    return expanded(text)


def expanded(text: str) -> Path:
    """Return a path with a leading ~ replaced by the home directory, where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no HOME, and no such user
        return Path(text)


def choice(name: str, choices: Sequence[str]) -> Parser[str]:
    """Return the parser of a text that is one of several."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return Parser(name, f"one of {', '.join(choices)}", "one of them", read, tuple(choices))


PLAIN: Mapping[object, Parser[object]] = {
    str: Parser("text", "a text", "a text", str),
    int: Parser("int", "an int", "a whole number, for example 32", _whole),
    float: Parser("float", "a number", "a number, for example 0.5", float),
    bool: Parser("bool", "true or false", "true or false", _flag, ("true", "false")),
    Path: Parser("path", "a path", "a file or folder; . is this folder", _path, is_path=True),
}
COUNT = Parser("count", "a whole number from 1 on", "1 or more", _count)

#: A whole number from 1 on.
Count: TypeAlias = Annotated[int, COUNT]


# ------------------------------------------------------------------------------------------------------ size and dtype


def _size(text: str) -> int | tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})(?:[x×]([0-9]{1,6}))?", text)
    if not found or not int(found[1]) or found[2] == "0":
        raise ValueError
    return (int(found[1]), int(found[2])) if found[2] else int(found[1])


SIZE = Parser("size", "a size in pixels", "one side, 256, or height x width, 384x128", _size)

#: Pixels: one side of a square, or (height, width).
Size: TypeAlias = Annotated[int | tuple[int, int], SIZE]


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return a size as (height, width)."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: int | tuple[int, int]) -> str:
    """Return a size as the command line takes it: 256, or 384x128."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


DtypeName: TypeAlias = Literal["float32", "bfloat16", "float16"]
DTYPES: Mapping[str, DtypeName] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    **{name: name for name in get_args(DtypeName)},
}


def _dtype(text: str) -> DtypeName:
    if text not in DTYPES:
        raise ValueError
    return DTYPES[text]


DTYPE = Parser("dtype", "a dtype", "fp32, bf16 or fp16 (or float32, bfloat16, float16)", _dtype, tuple(DTYPES))

#: A floating-point type, by torch's name for it.
Dtype: TypeAlias = Annotated[DtypeName, DTYPE]


def dtype_name(key: str, text: str) -> DtypeName:
    """Return torch's name of a dtype, for a config whose field `key` is a text. Raises SightwordError if it is none."""
    return read_value(key, text, DTYPE)


# --------------------------------------------------------------------------------------------------------- token types

_TOKEN_TYPE = re.compile(r"post|joint|value|(?:qq|kk)(?:\+gauss(?:[0-9]+(?:\.[0-9]+)?)?)?")
_ALIASES = {"plain": "joint"}  # the papers' name


def _token_type(text: str) -> str:
    name = _ALIASES.get(text.strip(), text.strip())
    if not _TOKEN_TYPE.fullmatch(name):
        raise ValueError
    return name


def _token_types(text: str) -> tuple[str, ...]:
    return tuple(_token_type(part) for part in text.split(","))


_KINDS = ("post", "joint", "value", "qq", "kk", "qq+gauss", "kk+gauss")
_LISTED = f"{', '.join(_KINDS)}, or a width of the Gaussian in patches, as in kk+gauss2.5"
TOKEN_TYPE = Parser("token type", "a token type", f"one of {_LISTED}", _token_type, _KINDS)
TOKEN_TYPES = Parser("token types", "a list of token types", f"with commas: {_LISTED}", _token_types, _KINDS)

#: Which patch tokens an image encoder gives: post, joint, value, qq, kk, qq+gauss, kk+gauss2.5.
TokenType: TypeAlias = Annotated[str, TOKEN_TYPE]
TokenTypes: TypeAlias = Annotated[tuple[str, ...], TOKEN_TYPES]


# ------------------------------------------------------------------------------------------------------ texts and files


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(part.strip() for part in pair.split(":", 1)) for pair in _names(text)]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError
    return tuple((name, value) for name, value in pairs)


NAMES = Parser("names", "a list of names", "names with commas", _names)
PAIRS = Parser("name:value", "a list of name:value", "pairs with commas, for example a:1,b:2", _pairs)

#: Names with commas between them.
Names: TypeAlias = Annotated[tuple[str, ...], NAMES]
#: name:value pairs with commas between them; a name can stand there several times.
Pairs: TypeAlias = Annotated[tuple[tuple[str, str], ...], PAIRS]


def _model(text: str) -> str:
    if not text:
        raise ValueError
    return str(expanded(text)) if text.startswith("~") else text


OUT = Parser("path", "a path", "where to write; out=. is this folder", _path, is_path=True)
MODEL = Parser("model", "a model", "a run directory, an exported folder or a hub id", _model, is_path=True)

#: Where a command writes: a file if the path has a suffix, else a folder. See `file_in`.
Out: TypeAlias = Annotated[Path, OUT]
#: A trained model: a run directory, a folder that `sightword export` wrote, or a hub id.
Model: TypeAlias = Annotated[str, MODEL]


def file_in(out: Path, name: str) -> Path:
    """Return the file to write: `out` itself if it has a suffix, else `name` in the folder `out`."""
    return out if out.suffix else out / name


# ------------------------------------------------------------------------------------------- arguments without one key


class Rest(Enum):
    """Arguments that are not the keys of a command, collected as they were typed."""

    POSITIONAL = "arguments that are not key=value"
    OVERRIDES = "key=value of a config's fields, whose keys have a dot"
    OTHERS = "key=value of any other key"


#: What is typed without key=, as a sentence is.
Positional: TypeAlias = Annotated[Sequence[str], Rest.POSITIONAL]
#: Fields of a run's config, as data.root=photos.
Overrides: TypeAlias = Annotated[Sequence[str], Rest.OVERRIDES]
#: Any other key=value.
Others: TypeAlias = Annotated[Sequence[str], Rest.OTHERS]
