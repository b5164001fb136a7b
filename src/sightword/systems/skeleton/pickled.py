"""Arrays, texts and numbers out of a pickle, without trusting it.

A pickle is a program: it names callables and has them called. Here no name that a file asks for is imported. A few
names, by which numpy writes arrays, dtypes and numbers (numpy 1 and 2, protocols 0 to 5), stand for the small classes
below, which check their arguments before numpy gets them. Any other name ends the reading.
"""

import pickle
import re
from pathlib import Path
from typing import Literal, cast

import numpy as np

from sightword.errors import MissingFileError, SightwordError, printable
from sightword.systems.skeleton.foreign import describe_file

PLAIN = re.compile(r"[<>|=]?([fiu][1248]|b1|[SU]\d{1,5})")  # numbers, truth values, texts: no objects, no records


def read_plain(path: str | Path) -> object:
    """Return what a pickle contains: dictionaries, lists, texts, numbers and arrays.

    Raises SightwordError if the file names anything else, is truncated, or is not a pickle.
    """
    path = Path(path)
    if path.is_dir():
        raise SightwordError(f"{path} is a folder. Name the file in it")
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file, encoding="latin1").load())  # latin1: texts and arrays written by Python 2
    except _ForeignName as error:
        raise SightwordError(
            f"{path} asks for {printable(str(error))}, and nothing that a file asks for is called. Save it again as "
            "dictionaries, lists and plain numpy arrays"
        ) from None
    except Exception as error:  # bytes of unknown origin can fail in any way that an unpickler has
        if what := describe_file(path):
            raise SightwordError(f"{path} is not a pickle of annotations but {printable(what)}") from None
        reason = printable(str(error).partition("\n")[0][:120]) or type(error).__name__
        raise SightwordError(f"{path} is not a complete pickle of plain arrays ({reason}). Download it again") from None


def _plain(value: object, depth: int = 4) -> object:
    """The value with arrays in the place of what stands for them; in annotations none is nested deeper."""
    if isinstance(value, _Array):
        return value.array
    if depth and isinstance(value, dict):
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list):
        return [_plain(item, depth - 1) for item in value]
    if depth and isinstance(value, tuple):
        return tuple(_plain(item, depth - 1) for item in value)
    return value


class _ForeignName(Exception):
    """A name that is none of numpy's."""


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, kind: object, *_: object) -> None:
        if not isinstance(kind, str) or not PLAIN.fullmatch(kind):
            raise _ForeignName(f"an array of dtype {kind!r:.40}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or state[1] not in ("<", ">", "=", "|"):
            raise ValueError("a dtype without a byte order")
        self.dtype = self.dtype.newbyteorder(cast("Literal['<', '>', '=', '|']", state[1]))


class _Array:
    """Stands for numpy's _reconstruct, which makes an empty array; its content comes as the state."""

    array: np.ndarray | None = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple):
            raise ValueError("an array without a state")
        _, shape, dtype, fortran, raw = state
        self.array = _filled(raw, dtype, shape, "F" if fortran else "C")


class _FromBuffer(_Array):
    """Stands for numpy's _frombuffer, by which protocol 5 writes arrays."""

    def __init__(self, raw: object, dtype: object, shape: object, order: object) -> None:
        self.array = _filled(raw, dtype, shape, order)


class _Scalar:
    """Stands for numpy's scalar: a number of Python's."""

    def __new__(cls, dtype: object, raw: object) -> object:  # type: ignore[misc]  # a pickle calls it as a function
        return _filled(raw, dtype, (), "C").item()

    def __setstate__(self, state: object) -> None: ...


class _Bytes:
    """Stands for _codecs.encode, by which protocol 2 writes bytes, and for bytes(), by which it writes none."""

    def __new__(cls, text: object = "", _: object = None) -> bytes:  # type: ignore[misc]
        return _bytes(text)

    def __setstate__(self, state: object) -> None: ...


def _filled(raw: object, dtype: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise ValueError("an array without a dtype or an order")
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"an array of the shape {shape!r:.40}")
    made = np.frombuffer(_bytes(raw), dtype.dtype)
    return made.reshape(shape, order="F" if order == "F" else "C")


def _bytes(raw: object) -> bytes:
    if isinstance(raw, bytearray | bytes):
        return bytes(raw)
    if isinstance(raw, str):
        return raw.encode("latin1")
    raise ValueError(f"bytes in a {type(raw).__name__}")


# each of them has __setstate__, so that a file cannot set an attribute of a class
KNOWN: dict[str, type] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _Scalar,
    "numeric._frombuffer": _FromBuffer,
    "_codecs.encode": _Bytes,
    "builtins.bytes": _Bytes,
    "__builtin__.bytes": _Bytes,
    "collections.OrderedDict": dict,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        known = KNOWN.get(f"{re.sub(r'^numpy[.]_?core[.]', '', module)}.{name}")
        if known is None:
            raise _ForeignName(f"{module}.{name}")
        return known
