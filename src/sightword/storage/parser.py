"""Parsers of command-line values, and the types of numbers that use them. No torch here.

The other parameter types are in `sightword.engine.argument`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeAlias, TypeVar

from sightword.errors import SightwordError

ValueT = TypeVar("ValueT", covariant=True)


@dataclass(frozen=True)
class Parser(Generic[ValueT]):
    """Parser of one type of command-line value, with its texts for help and messages."""

    name: str  # as help shows it
    what: str  # completes "… is not "
    example: str  # completes "Pass "
    read: Callable[[str], ValueT]  # raises ValueError, without a message, for a text that is not one
    choices: tuple[str, ...] = ()  # values that shell completion offers
    is_path: bool = False  # whether shell completion offers files


def read_value(key: str, text: str, parser: Parser[ValueT]) -> ValueT:
    """Return a text as a parser's value. Raises SightwordError, which names the key, if it is not one."""
    try:
        return parser.read(text)
    except ValueError:
        raise SightwordError(f"{key}={text!r} is not {parser.what}. Pass {parser.example}") from None


def whole_number(text: str) -> int:
    """Return a text as an int. Raises ValueError, without a message, if it is not one."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError
    return int(text)


def from_least(least: int) -> Callable[[str], int]:
    """Return a function that reads a whole number from `least` on, and raises ValueError for any other text."""

    def read(text: str) -> int:
        if (value := whole_number(text)) < least:
            raise ValueError
        return value

    return read


def _above_zero(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise ValueError
    return value


COUNT = Parser("count", "a whole number from 1 on", "1 or more", from_least(1))
AMOUNT = Parser("count or 0", "a whole number from 0 on", "0 or more", from_least(0))
POSITIVE = Parser("number", "a number above 0", "a number above 0, for example 0.5", _above_zero)

#: A whole number from 1 on.
Count: TypeAlias = Annotated[int, COUNT]
#: A whole number from 0 on, where 0 is none.
Amount: TypeAlias = Annotated[int, AMOUNT]
#: A number above 0, such as a length in metres.
Positive: TypeAlias = Annotated[float, POSITIVE]
