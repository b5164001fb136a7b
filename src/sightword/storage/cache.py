"""Cache of keyed arrays in a folder, written by one program and read by others.

    header.json          writer, digest of the weights, dtypes and shapes of a row, number of rows
    00000.safetensors    the first shard_size rows, stacked, one tensor per array; their keys in the metadata
    00001.safetensors    …

A shard is written atomically, so a file with a final name is complete. Any number of readers may use the cache while it
grows, and a killed writer leaves at worst a temporary file that is never read.
With backend="lmdb" in the header the rows are in one LMDB file instead (`cache_lmdb`); all else is the same.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.cache_lmdb import Rows, import_lmdb
from sightword.storage.reader import parse_json_list, read_json

FORMAT = 1
BACKENDS = ("safetensors", "lmdb")
#: The content of header.json: the fields of `header_for`, and any others that its writer added.
Header: TypeAlias = dict[str, Any]

SHARD = re.compile(r"(\d{5,})\.safetensors")


class MissingRowError(SightwordError, KeyError):
    """A cache contains no row of this key."""

    __str__ = Exception.__str__  # that of KeyError would print the message in quotes


class FeatureCache:
    """A cache, read by key; `create` opens it for writing, too.

    A row is a dict of arrays with the names, shapes and dtypes of the header; each read returns new arrays.
    A key that is not found makes the cache look for new shards before it raises MissingRowError. A pickled cache is its
    path and header, and each process opens the shards itself. So a cache can be the data set of a loader:
    `DataLoader(cache, sampler=list(cache))`.
    """

    def __init__(self, path: str | Path, expect: Mapping[str, object] | None = None) -> None:
        """Open for reading. expect: header fields that must have these values, as {"shapes": {"ids": [256]}}."""
        self.path = Path(path)
        self.header = read_header(self.path)
        self._forget()
        expected = flatten(plain(expect or {}))
        if found := differences(flatten(self.header), expected, expected):
            writer = self.header.get("writer")
            raise SightwordError(f"{path} does not fit: {found}. Read another cache, or write it again with {writer}")

    def _opened(self) -> "Store":
        """Return the store of the rows: files, or LMDB."""
        if self.header.get("backend") != "lmdb":
            return Files(self.path, self.header)
        return Rows(self.path, self.header["dtypes"], self.header["shapes"], self.header["items"])

    @classmethod
    def create(cls, path: str | Path, header: Mapping[str, object]) -> Self:
        """Open for writing, to begin or to resume, with a header from `header_for`.

        Raises SightwordError if the folder contains another cache or other files.
        """
        path, header = Path(path), plain(header)
        if header.get("backend") == "lmdb":
            import_lmdb()  # before anything is written
        others = _others(path)  # listed first: if another rank begins the cache meanwhile, there is a header now
        if (path / "header.json").exists():
            old, new = flatten(read_header(path)), flatten(header)
            if found := differences(old, new, sorted(old | new)):
                raise SightwordError(
                    f"{path} already contains another cache: {found}. Give another out=, or delete the folder"
                )
        elif others:
            raise SightwordError(
                f"{path} contains other files ({others}) and no header.json: give out= a folder of its own"
            )
        else:
            path.mkdir(parents=True, exist_ok=True)
            with write_atomically(path / "header.json") as part:
                part.write_text(json.dumps(header, indent=1, sort_keys=True) + "\n")
        return cls(path, expect=header)

    def write_shard(self, number: int, keys: Sequence[str], arrays: Mapping[str, np.ndarray]) -> None:
        """Write `arrays`, name → (n, *row shape), as the rows of the n `keys`. Same rows, same bytes."""
        keys, path = list(keys), self._store.where(number)
        if not 0 <= number < self.shards:
            raise SightwordError(f"{path}: the header announces shards 0 to {self.shards - 1}")
        if len(set(keys)) < len(keys):
            raise SightwordError(f"{path}: key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
        found = {name: (array.dtype.name, [*array.shape]) for name, array in arrays.items()}
        expected = {name: (dtype, self._stacked(name, keys)) for name, dtype in self.header["dtypes"].items()}
        if found != expected:
            raise SightwordError(f"{path}: arrays are {found}; expected {expected} for the header and {len(keys)} keys")
        rows = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._store.write(number, keys, rows)
        if number in self._shards:
            self._forget()

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        shard, row = self._find(key)
        return {name: rows[row] for name, rows in self._shards[shard].items()}

    def get(self, key: str, name: str) -> np.ndarray:
        """Return one array of a row without reading the others. Raises MissingRowError if there is no such row."""
        shard, row = self._find(key)
        found: np.ndarray = self._shards[shard][name][row]
        return found

    def stacks(self, name: str, shards: Container[int] | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield (keys, rows of one array, stacked) of each shard, or of some: the fast way to read very many rows."""
        keys: dict[int, list[str]] = {}
        for key in self:
            keys.setdefault(self._rows[key][0], []).append(key)
        for shard, own in keys.items():
            if shards is None or shard in shards:
                yield own, self._shards[shard][name][:]

    def __contains__(self, key: object) -> bool:
        return key in self._rows or (self._scan() and key in self._rows)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys of all written shards, in the order of the files."""
        self._scan()
        return iter(sorted(self._rows, key=self._rows.__getitem__))

    def __len__(self) -> int:
        self._scan()
        return len(self._rows)

    @property
    def shards(self) -> int:
        """Number of shards when the cache is complete."""
        return int(self.header["shards"])

    @property
    def done(self) -> bool:
        return not self.missing()

    def missing(self) -> list[int]:
        """Return the shards that are not yet written. Opens the others, so that a damaged one raises an error."""
        self._scan()
        return [number for number in range(self.shards) if number not in self._shards]

    def _find(self, key: str) -> tuple[int, int]:
        if key not in self:
            count, writer = f"{len(self)} of {self.header['items']} rows", self.header.get("writer")
            raise MissingRowError(f"no row {key!r} in {self.path}, which has {count}, written by {writer}")
        return self._rows[key]

    def _scan(self) -> bool:
        """Open the shards that were written since the last scan. Return whether there were any."""
        if len(self._shards) == self.shards:
            return False
        new = sorted(self._store.numbers() - self._shards.keys())
        for number in new:
            self._open(number)
        return bool(new)

    def _open(self, number: int) -> None:
        path = self._store.where(number)
        try:
            keys, slices = self._store.open(number)
            rows = {key: (number, row) for row, key in enumerate(keys)}
            for name, stack in slices.items():
                if stack.get_shape() != self._stacked(name, keys):
                    raise SightwordError(f"{name} is {stack.get_shape()}, not {self._stacked(name, keys)}")
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise SightwordError(f"{path} is damaged ({error}): delete it and start the job again") from error
        if twice := self._rows.keys() & rows.keys():
            key = min(twice)
            other = self._store.where(self._rows[key][0])
            raise SightwordError(f"{path}: key {key!r} is in {Path(other).name}, too: delete the wrong one of the two")
        self._rows |= rows
        self._shards[number] = slices

    def _stacked(self, name: str, keys: Iterable[str]) -> list[int]:
        return [len(list(keys)), *self.header["shapes"][name]]

    def _forget(self) -> None:
        self._store: Store = self._opened()
        self._rows: dict[str, tuple[int, int]] = {}  # key → (shard, row)
        self._shards: dict[int, Mapping[str, Stacked]] = {}  # shard → name → its stacked rows, still in the file

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path.absolute(), "header": self.header}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()


class Stacked(Protocol):
    """One array of all rows of a shard. The file is read on indexing, with a row's number or [:]."""

    def get_shape(self) -> list[int]: ...
    def __getitem__(self, which: int | slice, /) -> np.ndarray: ...


class Store(Protocol):
    """The backend of a cache: reads and writes whole shards."""

    def where(self, number: int) -> str: ...
    def numbers(self) -> set[int]: ...
    def open(self, number: int) -> tuple[list[str], Mapping[str, Stacked]]: ...
    def write(self, number: int, keys: Sequence[str], rows: Mapping[str, np.ndarray]) -> None: ...


class _SafeFile(Protocol):
    def metadata(self) -> Mapping[str, str]: ...
    def get_slice(self, name: str, /) -> Stacked: ...


class Files:
    """The store with one safetensors file per shard."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder, self.names = folder, list(header["dtypes"])

    def where(self, number: int) -> str:
        return str(self.folder / f"{number:05d}.safetensors")

    def numbers(self) -> set[int]:
        return {int(match[1]) for name in os.listdir(self.folder) if (match := SHARD.fullmatch(name))}

    def open(self, number: int) -> tuple[list[str], Mapping[str, Stacked]]:
        path = self.where(number)
        file: _SafeFile = safe_open(path, framework="numpy")  # maps the file and keeps no descriptor
        keys = parse_json_list(file.metadata()["keys"], "keys").all_texts()
        return keys, {name: file.get_slice(name) for name in self.names}

    def write(self, number: int, keys: Sequence[str], rows: Mapping[str, np.ndarray]) -> None:
        path = Path(self.where(number))
        # One metadata entry only: safetensors writes several in no fixed order, and equal rows must give equal bytes.
        data = save(dict(rows), metadata={"keys": json.dumps(list(keys))})
        for leftover in self.folder.glob(f".{path.name}.*"):  # of killed writers
            leftover.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another writer began this shard and removed our temporary file
            with write_atomically(path) as part:
                part.write_bytes(data)


def header_for(
    keys: Sequence[str],
    rows: Mapping[str, tuple[str, Sequence[int]]],
    *,
    writer: str,
    weights: str,
    shard_size: int,
    num_codes: int | None = None,
    preprocessing: Mapping[str, object] | None = None,
    shards: int | None = None,
    backend: str = "safetensors",
    **extra: object,
) -> Header:
    """Return the header of a cache of `keys`; its shard i is for `keys[i * shard_size : (i + 1) * shard_size]`.

    shards: the number of shards, if they have unlike numbers of rows (at most `shard_size`).
    backend: one of BACKENDS; the default is not written to the header.

    rows: each array's dtype and one row's shape, {"ids": ("uint16", (16, 16))}. weights: the `digest` of the network
    that computes the rows. writer: the program. extra: any other field on which the rows depend.
    """
    header: Header = {
        "format": FORMAT,
        "writer": writer,
        "weights": weights,
        "dtypes": {name: np.dtype(dtype).name for name, (dtype, _) in rows.items()},
        "shapes": {name: list(shape) for name, (_, shape) in rows.items()},
        "num_codes": num_codes,
        "preprocessing": preprocessing or {},
        "items": len(keys),
        "items_digest": items_digest(keys),
        "shards": -(-len(keys) // shard_size) if shards is None else shards,
        "shard_size": shard_size,
    }
    if backend not in BACKENDS:
        raise SightwordError(f"backend={backend!r} is none of {', '.join(BACKENDS)}")
    return plain(extra | header | ({} if backend == BACKENDS[0] else {"backend": backend}))


def items_digest(keys: Sequence[str]) -> str:
    """Return a digest of a list of keys and their order, 16 hex digits."""
    return hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()[:16]


def id_dtype(num_codes: int) -> str:
    """Return the dtype to keep ids 0 .. num_codes - 1 in: "uint16" up to 65 536 codes, else "uint32"."""
    return "uint16" if num_codes <= 2**16 else "uint32"


def digest(arrays: Mapping[str, object]) -> str:
    """Return a digest of a state dict, 16 hex digits, that identifies a network.

    It covers names, dtypes, shapes and values, and does not depend on the order of the entries.

    Torch tensors of any dtype, on any device, and numpy arrays of the same values have the same digest.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        shape: Sequence[int]
        if hasattr(value, "detach"):  # a torch tensor: by its bytes, as numpy has no bfloat16
            import torch

            assert isinstance(value, torch.Tensor)
            dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        else:
            data = np.asarray(value)
            dtype, shape = data.dtype.name, data.shape
            if data.dtype.hasobject:  # its bytes would be addresses
                raise TypeError(f"{name} is not an array but a {type(value).__name__}: remove it from the digest")
        total.update(json.dumps([name, dtype, list(shape)]).encode())
        total.update(data.tobytes())
    return total.hexdigest()[:16]


def _others(path: Path) -> str:
    """Return up to three names that a folder contains, without temporary headers, or that the path is a file."""
    if path.exists() and not path.is_dir():
        return "it is a file itself"
    names = sorted(name for name in os.listdir(path) if not name.startswith(".header.json.")) if path.exists() else []
    return ", ".join([*names[:3], "…"] if len(names) > 3 else names)


def read_header(path: Path) -> Header:
    """Return the header of a cache. Raises SightwordError if the folder contains no cache of this format."""
    file = path / "header.json"
    if not file.is_file():
        if (path / "index.json").is_file():
            raise SightwordError(f"{path} is a cache of images in segments: read it with TokenCache or IdCache")
        raise MissingFileError(f"{path} contains no cache (no header.json): start the job that writes it first")
    header = read_json(file, damaged="Delete the folder and start again").plain()
    if header.get("format") != FORMAT:
        raise SightwordError(f"{path} has format {header.get('format')}, expected {FORMAT}: write it again")
    return header


def plain(header: Mapping[str, object]) -> Header:
    """Return a header as JSON gives it back, with lists for tuples. Raises TypeError for values that are not JSON."""
    read: Header = json.loads(json.dumps(header))
    return read


def flatten(header: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a header with nested names joined by dots: {"shapes": {"ids": [256]}} → {"shapes.ids": [256]}."""
    flat: dict[str, object] = {}
    for name, value in header.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def differences(found: Mapping[str, object], expected: Mapping[str, object], names: Iterable[str]) -> str:
    """Return a line with each field in which two flattened headers differ, and both values; "" if they agree."""
    pairs = ((name, found.get(name), expected.get(name)) for name in names)
    return "; ".join(f"{name} is {old!r}, expected {new!r}" for name, old, new in pairs if old != new)
