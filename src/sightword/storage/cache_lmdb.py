"""The rows of a FeatureCache in one LMDB file, rows.mdb, where there would be many small safetensors files.

    b"s" + number        the shard's keys, as JSON: there once all its rows are
    b"r" + number + row  one row, its arrays' bytes in the order of their names

One transaction a shard: a killed writer leaves what was there before. LMDB forbids an environment to cross a fork, and
py-lmdb to open one twice in a process, so all caches of a process share what is open, and a fork finds it closed:
parent and child each open it again. Not for network file systems, on which LMDB's locks do not hold.
"""

import json
import math
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FILE = "rows.mdb"
PAGE, SPARE = 4096, 1 << 26  # bytes; the file is as large as its rows, the map only has to be larger
READERS = 1024  # processes and threads at once; LMDB's own 126 are few for loaders on a large machine

_lock = threading.RLock()
_open: dict[str, tuple[tuple[int, int], Any]] = {}  # file → (device, inode), its environment
os.register_at_fork(before=lambda: _before_fork(), after_in_parent=_lock.release, after_in_child=_lock.release)


class Rows:
    """What FeatureCache asks of a backend, see `cache.Files`."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.file = folder / FILE
        self.kinds = {name: (np.dtype(header["dtypes"][name]), header["shapes"][name]) for name in header["dtypes"]}
        self.row_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.kinds.values())
        self.room = 2 * header["items"] * (self.row_bytes + 2 * PAGE) + SPARE

    def where(self, number: int) -> str:
        return f"shard {number} of {self.file}"

    def numbers(self) -> set[int]:
        """The shards that are there."""
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
        """A shard's keys, and each array's rows, still in the file."""
        with self._reading() as txn:
            keys = json.loads(bytes(txn.get(_shard(number)) or b""))
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
        """A shard in one transaction, in the place of what it was before."""
        lmdb = import_lmdb()
        with _lock:
            env = _environment(self.file, self.room)
            try:
                self._put(env, number, keys, rows)
            except lmdb.MapFullError:  # readers hold old rows for as long as they read: rewriting takes room
                env.set_mapsize(2 * env.info()["map_size"])
                self._put(env, number, keys, rows)
            _reach(self.file, env)

    def _put(self, env: Any, number: int, keys: Sequence[str], rows: Mapping[str, np.ndarray]) -> None:
        names = sorted(self.kinds)
        with _begin(env, write=True) as txn:
            before = json.loads(bytes(txn.get(_shard(number)) or b"[]"))
            for row in range(len(keys)):
                txn.put(_row(number, row), b"".join(rows[name][row].tobytes() for name in names))
            for row in range(len(keys), len(before)):
                txn.delete(_row(number, row))
            txn.put(_shard(number), json.dumps(list(keys)).encode())

    def read(self, number: int, row: int, offset: int, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        """One array of a row, a copy."""
        with self._reading() as txn:
            data = txn.get(_row(number, row))
            return np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape).copy()

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        lmdb = import_lmdb()
        with _lock:
            env = _environment(self.file, self.room)
            try:
                with _begin(env) as txn:
                    yield txn
            except lmdb.Error as error:
                raise ValueError(f"{self.file} cannot be read ({error}): if it is damaged, delete it") from error


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

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            each = [self._row(row) for row in range(*which.indices(self.length))]
            return np.stack(each) if each else np.empty((0, *self.shape), self.dtype)
        return self._row(which)

    def _row(self, row: int) -> np.ndarray:
        return self.rows.read(self.number, row, self.offset, self.dtype, self.shape)


def import_lmdb() -> Any:
    """The library, or how to get it."""
    try:
        import lmdb
    except ImportError:
        raise ValueError("a cache in LMDB needs py-lmdb: pip install 'sightword[lmdb]'") from None
    return lmdb


def _shard(number: int) -> bytes:
    return struct.pack(">cQ", b"s", number)


def _row(number: int, row: int) -> bytes:
    return struct.pack(">cQI", b"r", number, row)


def _environment(file: Path, room: int) -> Any:
    """The open environment of a file; anew, if another file has taken its place. Call it with the lock held."""
    path = os.path.realpath(file)
    known = _open.get(path)
    if known and os.path.exists(path) and _identity(path) == known[0]:
        return known[1]
    if known:
        _open.pop(path)[1].close()
    env = _opened(path, room)
    _open[path] = (_identity(path), env)
    return env


def _opened(path: str, room: int) -> Any:
    lmdb = import_lmdb()
    # Who may not write there can hold no lock, either: it is for finished caches on read-only disks.
    writable = os.access(os.path.dirname(path), os.W_OK) and (not os.path.exists(path) or os.access(path, os.W_OK))
    options = {"subdir": False, "readonly": not writable, "lock": writable, "readahead": False, "meminit": False}
    try:
        env = lmdb.open(path, map_size=room, max_readers=READERS, **options)
    except lmdb.Error as error:
        raise ValueError(f"{path} is damaged or no LMDB file ({error}): delete it and start the job again") from error
    size, wanted = os.path.getsize(path), _extent(env)
    if size < wanted:  # reading beyond a file's end kills the process
        env.close()
        raise ValueError(
            f"{path} is damaged ({size:,} bytes, {wanted:,} are wanted): delete it and start the job again"
        )
    if writable:
        env.reader_check()  # of processes that were killed while they read
    return env


def _extent(env: Any) -> int:
    """Bytes up to the last page in use."""
    info = env.info()
    return (info["last_pgno"] + 1) * env.stat()["psize"] if info["last_txnid"] else 0


def _reach(file: Path, env: Any) -> None:
    """Make the file as long as its last page: LMDB leaves away a last one that it has no use for."""
    if os.path.getsize(file) < (extent := _extent(env)) and hasattr(os, "posix_fallocate"):
        descriptor = os.open(file, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, extent)
        finally:
            os.close(descriptor)


def _begin(env: Any, **options: Any) -> Any:
    """A transaction; if another process has made the map larger, in that size."""
    lmdb = import_lmdb()
    try:
        return env.begin(buffers=True, **options)
    except lmdb.MapResizedError:
        env.set_mapsize(0)
        return env.begin(buffers=True, **options)


def _identity(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _before_fork() -> None:
    """Nothing is read while a process forks, and nothing is open."""
    _lock.acquire()
    while _open:
        _open.popitem()[1][1].close()
