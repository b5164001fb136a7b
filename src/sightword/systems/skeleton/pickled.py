"""Arrays, texts and numbers out of a pickle, without trusting it.

A pickle is a program: it names callables and has them called. Here no name that a file asks for is imported; a few, by
which numpy writes arrays, dtypes and numbers (1 and 2, protocols 0 to 5), stand for the small classes below, which
look at what they are given before numpy sees it. Any other name ends the reading.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = re.compile(r"[<>|=]?([fiu][1248]|b1|[SU]\d{1,5})")  # numbers, truth values, texts: no objects, no records


def read_plain(path: str | Path) -> Any:
    """What a pickle holds: dictionaries, lists, texts, numbers and arrays.

    Raises ValueError, one line, where it names anything else, or is cut short or no pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} {'is a folder: name the file in it' if path.is_dir() else 'is not there'}")
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file, encoding="latin1").load())  # latin1: texts and arrays written by Python 2
    except _ForeignName as error:
        raise ValueError(
            f"{path} asks for {error}, and nothing that a file asks for is called: have it saved again as "
            "dictionaries, lists and plain numpy arrays"
        ) from None
    except Exception as error:  # bytes of unknown origin can fail in any way that an unpickler has
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise ValueError(f"{path} is no whole pickle of plain arrays ({reason}): download it again") from None


def _plain(value: Any, depth: int = 4) -> Any:
    """With arrays instead of what stands for them; in annotations none lies deeper."""
    if isinstance(value, _Array):
        return value.array
    if depth and isinstance(value, dict):
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return type(value)(_plain(item, depth - 1) for item in value)
    return value


class _ForeignName(Exception):
    """A name that is none of numpy's."""


class _Dtype:
    """For numpy.dtype."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if not isinstance(kind, str) or not PLAIN.fullmatch(kind):
            raise _ForeignName(f"an array of dtype {kind!r:.40}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """For numpy's _reconstruct, which makes an empty array; what it holds comes as its state."""

    array: np.ndarray | None = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _filled(raw, dtype, shape, "F" if fortran else "C")


class _FromBuffer(_Array):
    """For numpy's _frombuffer, by which protocol 5 writes arrays."""

    def __init__(self, raw: Any, dtype: Any, shape: Any, order: Any) -> None:
        self.array = _filled(raw, dtype, shape, order)


class _Scalar:
    """For numpy's scalar: a number of Python's."""

    def __new__(cls, dtype: Any, raw: Any) -> Any:
        return _filled(raw, dtype, (), "C").item()

    def __setstate__(self, state: Any) -> None: ...


class _Bytes:
    """For _codecs.encode, by which protocol 2 writes bytes; and for bytes(), by which it writes none."""

    def __new__(cls, text: Any = "", _: Any = None) -> Any:
        return _bytes(text)

    def __setstate__(self, state: Any) -> None: ...


def _filled(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(_bytes(raw), dtype.dtype).reshape(shape, order=order)


def _bytes(raw: Any) -> bytes:
    if isinstance(raw, bytearray | bytes):
        return bytes(raw)
    return raw.encode("latin1")


# every one has __setstate__, so that a file can set no attribute of a class
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
