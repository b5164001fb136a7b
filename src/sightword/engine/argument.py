"""Types of a command's parameters: one parser for each concept, so that a key means the same in every command.

    def cache(tower: str, images: Path, out: Out, size: Size | None = None, job: ImageJobOptions = …) -> None:

For Python and type checkers each is a plain type: a `Size` is an int or a pair of them. The command line finds the
parser in the annotation. A parameter whose type is a dataclass takes one key for each of its fields. No torch here.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeAlias

from sightword.data.dtype import DTYPES, LISTED, DtypeName, dtype_name
from sightword.data.size import LISTED as SIZES
from sightword.data.size import read_size
from sightword.errors import SightwordError
from sightword.storage.job import ImageJobOptions as ImageJobOptions
from sightword.storage.job import JobOptions as JobOptions
from sightword.storage.parser import Amount as Amount
from sightword.storage.parser import Count as Count
from sightword.storage.parser import Parser as Parser
from sightword.storage.parser import Positive as Positive
from sightword.storage.parser import from_least, whole_number
from sightword.storage.parser import read_value as read_value

# ------------------------------------------------------------------------------------------------------ plain values


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
    int: Parser("int", "an int", "a whole number, for example 32", whole_number),
    float: Parser("float", "a number", "a number, for example 0.5", float),
    bool: Parser("bool", "true or false", "true or false", _flag, ("true", "false")),
    Path: Parser("path", "a path", "a file or folder; . is this folder", _path, is_path=True),
}


# ------------------------------------------------------------------------------------------------------ size and dtype


SIZE = Parser("size", "a size in pixels", SIZES, read_size)
DTYPE = Parser("dtype", "a dtype", LISTED, dtype_name, tuple(DTYPES))

#: Pixels: one side of a square, or (height, width). `data.size.height_width` makes it two.
Size: TypeAlias = Annotated[int | tuple[int, int], SIZE]
#: A floating-point type, by torch's name for it; fp32 is float32. `data.dtype.torch_dtype` makes it torch's.
Dtype: TypeAlias = Annotated[DtypeName, DTYPE]


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


def _intrinsics(text: str) -> tuple[float, float, float, float]:
    fx, fy, cx, cy = (float(part) for part in text.split(","))
    if not (0 < fx < float("inf") and 0 < abs(fy) < float("inf") and abs(cx) + abs(cy) < float("inf")):
        raise ValueError
    return fx, fy, cx, cy


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(part.strip() for part in pair.split(":", 1)) for pair in _names(text)]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError
    return tuple((name, value) for name, value in pairs)


def _counts(text: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, from_least(1)(value)) for name, value in _pairs(text))


def _named_types(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, _token_type(value)) for name, value in _pairs(text))


NAMES = Parser("names", "a list of names", "names with commas", _names)
INTRINSICS = Parser("intrinsics", "intrinsics", "fx,fy,cx,cy in pixels, for example 525,525,319.5,239.5", _intrinsics)
PAIRS = Parser("name:value", "a list of name:value", "pairs with commas, for example a:1,b:2", _pairs)
COUNTS = Parser("name:count", "a list of name:count", "pairs with commas, for example a:256,b:512", _counts)
NAMED_TYPES = Parser("name:token type", "a list of name:token type", f"a:value,b:joint; {_LISTED}", _named_types)

#: Names with commas between them.
Names: TypeAlias = Annotated[tuple[str, ...], NAMES]
#: A pinhole camera: focal lengths and principal point, in pixels; fy is below 0 in ICL-NUIM's.
Intrinsics: TypeAlias = Annotated[tuple[float, float, float, float], INTRINSICS]
#: name:value pairs with commas between them; a name can stand there several times.
Pairs: TypeAlias = Annotated[tuple[tuple[str, str], ...], PAIRS]
#: The same, where each value is a whole number from 1 on.
Counts: TypeAlias = Annotated[tuple[tuple[str, int], ...], COUNTS]
#: The same, where each value is a token type.
NamedTokenTypes: TypeAlias = Annotated[tuple[tuple[str, str], ...], NAMED_TYPES]


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
    """Return the file to write: `out` itself if it has a suffix and is no folder, else `name` in the folder `out`."""
    return out if out.suffix and not out.is_dir() else out / name


def folder_in(out: Path) -> Path:
    """Return the folder to write, for a command that writes several files. Raises SightwordError if it is a file."""
    if out.exists() and not out.is_dir():
        raise SightwordError(f"out={out} is a file. Pass a folder")
    return out


# ------------------------------------------------------------------------------------------- arguments without one key


class Rest(Enum):
    """Arguments that are not the keys of a command, collected as they were typed."""

    POSITIONAL = "arguments that are not key=value"
    OVERRIDES = "key=value of a config's fields, whose keys have a dot"
    OTHERS = "key=value of any other key"


#: Arguments without key=, such as the sentence of a query.
Positional: TypeAlias = Annotated[Sequence[str], Rest.POSITIONAL]
#: Fields of a run's config, as data.root=photos.
Overrides: TypeAlias = Annotated[Sequence[str], Rest.OVERRIDES]
#: Any other key=value.
Others: TypeAlias = Annotated[Sequence[str], Rest.OTHERS]
