"""LMDB backend of a FeatureCache: all rows in one file, rows.mdb, instead of many small safetensors files.

    b"s" + number        the keys of a shard, as JSON; exists once all its rows do
    b"r" + number + row  one row: the bytes of its arrays in the order of their names

A shard is one transaction, so a killed writer leaves the file as it was. LMDB does not allow an environment to be used
across a fork, and py-lmdb does not allow a process to open one twice. So all caches of a process share one environment
per file, and all are closed before a fork: parent and child each open them again. Not for network file systems, where
LMDB's locks do not work.
"""

import json
import math
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, Self

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.reader import parse_json_list

FILE = "rows.mdb"
PAGE, SPARE = (
    4096,
    1 << 26,
)  # bytes; the memory map must be larger than the rows, which alone decide the size of the file
READERS = 1024  # processes and threads at once; LMDB's default of 126 is too few for loaders on a large machine


class _Cursor(Protocol):
    """The part of lmdb.Cursor that is used here."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def set_range(self, key: bytes) -> bool: ...
    def key(self) -> bytes: ...
    def next(self) -> bool: ...


class _Transaction(Protocol):
    """The part of lmdb.Transaction that is used here."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def cursor(self) -> _Cursor: ...
    def get(self, key: bytes) -> memoryview | None: ...
    def put(self, key: bytes, value: bytes) -> bool: ...
    def delete(self, key: bytes) -> bool: ...


class _Environment(Protocol):
    """The part of lmdb.Environment that is used here."""

    def begin(self, *, buffers: bool, write: bool) -> _Transaction: ...
    def info(self) -> Mapping[str, int]: ...
    def stat(self) -> Mapping[str, int]: ...
    def set_mapsize(self, size: int) -> None: ...
    def reader_check(self) -> int: ...
    def close(self) -> None: ...


_lock = threading.RLock()
_open: dict[str, tuple[tuple[int, int], _Environment]] = {}  # file → ((device, inode), environment)


class Rows:
    """The store of a cache in one LMDB file; see `cache.Store`."""

    def __init__(
        self, folder: Path, dtypes: Mapping[str, str], shapes: Mapping[str, Sequence[int]], items: int
    ) -> None:
        """Describe the file. dtypes, shapes: of each array of a row. items: number of rows in all."""
        self.file = folder / FILE
        self.kinds = {name: (np.dtype(dtype), shapes[name]) for name, dtype in dtypes.items()}
        self.row_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.kinds.values())
        self.room = 2 * items * (self.row_bytes + 2 * PAGE) + SPARE

    def where(self, number: int) -> str:
        return f"shard {number} of {self.file}"

    def numbers(self) -> set[int]:
        """Return the numbers of the shards that are written."""
        if not self.file.exists():
            return set()
        found = set()
        with self._reading() as txn, txn.cursor() as cursor:
            there = cursor.set_range(b"s")
            while there:
                found.add(struct.unpack(">Q", bytes(cursor.key())[1:])[0])
                there = cursor.next()
        return found

    def open(self, number: int) -> tuple[list[str], dict[str, "Stack"]]:
        """Return the keys of a shard, and name → its rows of that array, read on indexing."""
        with self._reading() as txn:
            keys = parse_json_list(bytes(txn.get(_shard(number)) or b""), "keys").all_texts()
            for row in {0, len(keys) - 1} if keys else ():
                if (size := len(txn.get(_row(number, row)) or b"")) != self.row_bytes:
                    raise ValueError(f"row {row} has {size} bytes, not {self.row_bytes}")
        stacks, offset = {}, 0
        for name in sorted(self.kinds):
            dtype, shape = self.kinds[name]
            stacks[name] = Stack(self, number, len(keys), offset, dtype, shape)
            offset += dtype.itemsize * math.prod(shape)
        return keys, stacks

    def write(self, number: int, keys: Sequence[str], rows: Mapping[str, np.ndarray]) -> None:
        """Write a shard, or replace it, in one transaction."""
        lmdb = import_lmdb()
        with _lock:
            env = _environment(self.file, self.room)
            try:
                self._put(env, number, keys, rows)
            except lmdb.MapFullError:  # old rows stay as long as readers use them, so a rewrite needs more room
                env.set_mapsize(2 * env.info()["map_size"])
                self._put(env, number, keys, rows)
            _reach(self.file, env)

    def _put(self, env: _Environment, number: int, keys: Sequence[str], rows: Mapping[str, np.ndarray]) -> None:
        names = sorted(self.kinds)
        with _begin(env, write=True) as txn:
            before = len(parse_json_list(bytes(txn.get(_shard(number)) or b"[]"), "keys"))
            for row in range(len(keys)):
                txn.put(_row(number, row), b"".join(rows[name][row].tobytes() for name in names))
            for row in range(len(keys), before):
                txn.delete(_row(number, row))
            txn.put(_shard(number), json.dumps(list(keys)).encode())

    def read(self, number: int, row: int, offset: int, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        """Return one array of a row, copied."""
        with self._reading() as txn:
            data = txn.get(_row(number, row)) or b""
            return np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape).copy()

    @contextmanager
    def _reading(self) -> Iterator[_Transaction]:
        lmdb = import_lmdb()
        with _lock:
            env = _environment(self.file, self.room)
            try:
                with _begin(env) as txn:
                    yield txn
            except lmdb.Error as error:
                raise SightwordError(f"{self.file} cannot be read ({error}): if it is damaged, delete it") from error


class Stack(NamedTuple):
    """One array of a shard's rows, read when it is indexed by a row's number or by [:]."""

    rows: Rows
    number: int
    length: int
    offset: int
    dtype: np.dtype
    shape: Sequence[int]

    def get_shape(self) -> list[int]:
        return [self.length, *self.shape]

    def __getitem__(self, which: int | slice) -> np.ndarray:  # type: ignore[override]  # not indexed as a tuple
        if isinstance(which, slice):
            each = [self._row(row) for row in range(*which.indices(self.length))]
            return np.stack(each) if each else np.empty((0, *self.shape), self.dtype)
        return self._row(which)

    def _row(self, row: int) -> np.ndarray:
        return self.rows.read(self.number, row, self.offset, self.dtype, self.shape)


def import_lmdb() -> ModuleType:
    """Return the module lmdb. Raises SightwordError with the command to install it."""
    try:
        import lmdb
    except ImportError:
        raise SightwordError("a cache in LMDB needs py-lmdb: pip install 'sightword[lmdb]'") from None
    found: ModuleType = lmdb
    return found


def _shard(number: int) -> bytes:
    return struct.pack(">cQ", b"s", number)


def _row(number: int, row: int) -> bytes:
    return struct.pack(">cQI", b"r", number, row)


def _environment(file: Path, room: int) -> _Environment:
    """Return the open environment of a file, opened again if another file took its place. Call with the lock held."""
    path = os.path.realpath(file)
    known = _open.get(path)
    if known and os.path.exists(path) and _identity(path) == known[0]:
        return known[1]
    if known:
        _open.pop(path)[1].close()
    env = _opened(path, room)
    _open[path] = (_identity(path), env)
    return env


def _opened(path: str, room: int) -> _Environment:
    lmdb = import_lmdb()
    _close_before_forks()
    # Without write access no lock is possible. That is safe for finished caches on read-only disks.
    writable = os.access(os.path.dirname(path), os.W_OK) and (not os.path.exists(path) or os.access(path, os.W_OK))
    options = {"subdir": False, "readonly": not writable, "lock": writable, "readahead": False, "meminit": False}
    try:
        env: _Environment = lmdb.open(path, map_size=room, max_readers=READERS, **options)
    except lmdb.Error as error:
        raise SightwordError(
            f"{path} is damaged or not an LMDB file ({error}): delete it and start the job again"
        ) from error
    size, expected = os.path.getsize(path), _extent(env)
    if size < expected:  # reading beyond a file's end kills the process
        env.close()
        raise SightwordError(
            f"{path} is damaged (expected {expected:,} bytes, got {size:,}): delete it and start the job again"
        )
    if writable:
        env.reader_check()  # of processes that were killed while they read
    return env


def _extent(env: _Environment) -> int:
    """Return the number of bytes up to the last used page."""
    info = env.info()
    return (info["last_pgno"] + 1) * env.stat()["psize"] if info["last_txnid"] else 0


def _reach(file: Path, env: _Environment) -> None:
    """Extend the file to the end of its last page, which LMDB does not write if it is unused."""
    if os.path.getsize(file) < (extent := _extent(env)) and hasattr(os, "posix_fallocate"):
        descriptor = os.open(file, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, extent)
        finally:
            os.close(descriptor)


def _begin(env: _Environment, write: bool = False) -> _Transaction:
    """Begin a transaction. If another process has enlarged the map, take over its size first."""
    lmdb = import_lmdb()
    try:
        return env.begin(buffers=True, write=write)
    except lmdb.MapResizedError:
        env.set_mapsize(0)
        return env.begin(buffers=True, write=write)


def _identity(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


@cache
def _close_before_forks() -> None:
    """Register `_before_fork`, once in a process and its children. Windows has no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)


def _before_fork() -> None:
    """Wait until no read is in progress, then close all environments. The lock is released after the fork."""
    _lock.acquire()
    while _open:
        _open.popitem()[1][1].close()
