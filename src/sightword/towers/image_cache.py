"""Rows computed from image files, kept on disk, each known by the bytes that it was computed from.

    out/index.json       the folder of images, and of each path below it: size, times of change, content key
    out/<16 hex>-<…>/    a segment, see `storage.segments`; rows by content key

An image that is moved, renamed or there twice has one row. A file whose size and times are those of the index has the
bytes of the index; any other file is read, so that a replaced image never gives the row of the one before. If a file
is gone, its row is still found by its path: rows are of use without images.

A folder with header.json itself is a cache of an earlier version: its rows have paths for keys and know no bytes.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from sightword.data.image import list_images
from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import FeatureCache, Header, MissingRowError
from sightword.storage.reader import read_json
from sightword.storage.segments import Plan, SegmentedCache

INDEX = "index.json"
NOTES = (INDEX, "gallery.json")  # files of a cache besides its segments
ON_ERROR = ("raise", "skip")  # what the writer of a segment did with unreadable images; the suffix of its name


class Compared(NamedTuple):
    """The images of an index as they are now."""

    current: dict[str, str]  # path below the root → content key, which has a row; with images that were moved
    changed: list[str]  # paths whose bytes have no row
    gone: list[str]  # paths without a file, whose bytes are not under another path either
    absent: bool = False  # the whole folder is not there; then `current` is as it was indexed

    def __str__(self) -> str:
        """Return what changed, with counts and the first of each; "" if nothing did."""
        total = len(self.current) + len(self.changed) + len(self.gone)
        said = [
            f"{len(paths)} of {total} images {what}, {paths[0]} the first"
            for paths, what in ((self.changed, "changed since"), (self.gone, "are gone"))
            if paths
        ]
        return "; ".join(said)


class ImageCache:
    """A cache of rows by image: `cache["x.png"]["ids"]`, as on disk.

    A path is below the folder that was cached last, or is one of a file anywhere, which is found by its bytes.
    """

    what = "rows"  # for messages

    def __init__(
        self, out: str | Path, expect: Mapping[str, object] | None = None, command: str = "sightword tokenize model=…"
    ) -> None:
        """Open all segments. expect: as for FeatureCache. command: the one that writes the cache, for messages."""
        self.rows = SegmentedCache(out, expect)
        self.out = self.rows.out
        self.command = command
        self.is_old = (self.out / "header.json").is_file()
        if self.is_old:
            self.rows.segments = [FeatureCache(self.out, expect)]
        self.segments = self.rows.segments  # the caches that have the rows, by content key
        if not self.segments:
            raise SightwordError(
                f"{str(out)!r} contains no cached {self.what}. Create them with: {command} images=… out={out}"
            )
        self.files = read_index(self.out)
        self.root = self.files.place(self.out)
        self.index = {path: entry[-1] for path, entry in self.files.images.items()}
        if self.is_old:
            self.index = {key: key for key in self.rows}
        self._read: dict[str, tuple[State, str]] = {}  # file → its state and content key when it was read
        self._places: dict[Path, bool] = {}  # folder → whether it is the root
        self._below: dict[Path, Path | None] = {}  # folder → its path below the root

    @property
    def header(self) -> Header:
        """Header of the first segment; the other segments have the same recipe."""
        return self.rows.header

    @property
    def done(self) -> bool:
        """Whether every image of the index has a row, or could not be read when images were skipped."""
        if self.is_old:
            return self.segments[0].done
        keys = sorted(set(self.index.values()))
        return any(not self.rows.plan(keys, f"-{on_error}").todo for on_error in ON_ERROR)

    @property
    def announced(self) -> int:
        """How many images were to be cached."""
        return int(self.header["items"]) if self.is_old else len(self.index)

    def __getitem__(self, path: str | Path) -> dict[str, np.ndarray]:
        return self.rows[self._find(path)]

    def get(self, path: str | Path, name: str) -> np.ndarray:
        """Return one array of a row without reading the others."""
        return self.rows.get(self._find(path), name)

    def __contains__(self, path: str | PurePath) -> bool:
        return self.key_of(path) in self.rows

    def __iter__(self) -> Iterator[str]:
        """Iterate over the indexed paths that had a row when they were indexed, in the order of the index."""
        there = self.keys()
        return (path for path, key in self.index.items() if key in there)

    def __len__(self) -> int:
        """Return the number of images, without copies."""
        return len(self.keys())

    def keys(self) -> set[str]:
        """Return the content keys that have a row."""
        return set(self.rows)

    def key_of(self, path: str | PurePath, folder: Path | None = None) -> str:
        """Return the content key of an image as it is now; of a file that is gone, as it was indexed; "" if unknown.

        folder: where the image is expected, if it need not be the folder that was indexed.
        """
        name = PurePath(path).as_posix()
        if folder is None and name not in self.index and (below := self._below_root(path)):
            name = below
        if self.is_old:
            return self.index.get(name, "")
        known = self.files.images.get(name)
        file = Path(folder or self.root) / name if known or folder else Path(path).expanduser()
        try:
            state = state_of(file)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return known[-1] if known else ""
        if known and known[:-1] == state and (folder is None or self._is_root(folder)):
            return known[-1]
        return self._key_of_bytes(file, state)

    def compare(self) -> Compared:
        """Compare the index with its folder. Reads only files whose state changed, and those that may have moved.

        Shows progress on a terminal where many have to be read, as after the folder was copied.
        """
        if self.is_old or not self.root.is_dir():
            return Compared({path: self.index[path] for path in self}, [], [], absent=True)
        there, current, changed, gone = self.keys(), dict[str, str](), list[str](), list[str]()
        for path, known in tqdm(self.files.images.items(), "comparing images", disable=None, delay=2, leave=False):
            key = self.key_of(path)
            if not (self.root / path).is_file():
                gone += [path] * (known[-1] in there)
            elif key in there:
                current[path] = key
            elif key != known[-1]:  # if equal, it could not be read when it was indexed
                changed.append(path)
        moved = self._moved(gone)
        found = {*moved.values(), *current.values()}
        gone = [path for path in gone if self.index[path] not in found]
        return Compared(current | moved, changed, gone)

    def refuse_earlier(self) -> None:
        """Raise SightwordError if the rows know no bytes, because an earlier version wrote them."""
        if self.is_old:
            raise SightwordError(
                f"{self.out} was written by an earlier version, whose rows do not know their images. Write another "
                f"cache: {self.command} images=… out=…"
            )

    def again(self) -> str:
        """Return the command that computes what is missing, and only that."""
        return f"{self.command} {shlex.quote(f'images={self.root}')} {shlex.quote(f'out={self.out}')}"

    def missing(self, key: str, path: str | PurePath) -> MissingRowError:
        """Return the error for an image without a row. key: its content key; "" if its file does not exist."""
        name = PurePath(path).as_posix()
        known = self.index.get(name) or self.index.get(self._below_root(path) or "")
        if known and key != known:
            return MissingRowError(f"{path} changed since it was cached in {self.out}. Run again: {self.again()}")
        return MissingRowError(
            f"{path} has no {self.what} in {self.out}, which has {len(self)} images. Add it: {self.again()}"
        )

    def _find(self, path: str | Path) -> str:
        key = self.key_of(path)
        if key not in self.rows:
            raise self.missing(key, path)
        return key

    def is_indexed(self, path: str | PurePath) -> bool:
        """Whether the index has this path, with whatever bytes."""
        return PurePath(path).as_posix() in self.index or self._below_root(path) is not None

    def _below_root(self, path: str | PurePath) -> str | None:
        """Return the path below the root of a file in it, as the index has it; None if the index does not have it."""
        file = Path(os.path.abspath(path))
        if (parent := file.parent) not in self._below:  # resolved, as the root is: a link may lead there
            resolved = parent.resolve()
            inside = resolved.is_relative_to(self.root)
            self._below[parent] = resolved.relative_to(self.root) if inside else None
        below = self._below[parent]
        name = "" if below is None else (below / file.name).as_posix()
        return name if name in self.index else None

    def _is_root(self, folder: Path) -> bool:
        if folder not in self._places:
            self._places[folder] = folder.resolve() == self.root
        return self._places[folder]

    def _key_of_bytes(self, file: Path, state: "State") -> str:
        read = self._read.get(str(file))
        if read is None or read[0] != state:
            read = self._read[str(file)] = state, content_key(file)
        return read[1]

    def _moved(self, gone: Sequence[str]) -> dict[str, str]:
        """Return the files that are not in the index and have the bytes of one that is gone: path → content key."""
        keys = {self.index[path] for path in gone}
        sizes = {self.files.images[path][0] for path in gone if len(self.files.images[path]) > 1}
        if not keys:
            return {}
        try:
            listed = list_images(self.root)
        except SightwordError:  # no image is left
            return {}
        found = {}
        for file in listed:
            path = file.relative_to(self.root).as_posix()
            if path in self.index or file.stat().st_size not in sizes:
                continue
            if (key := self._key_of_bytes(file, state_of(file))) in keys:
                found[path] = key
        return found


# ------------------------------------------------------------------------------------------------------------- index

State = tuple[int, int, int]  # of a file: size, mtime and ctime in ns. Two files that swap names keep size and mtime
Entry = tuple[int, int, int, str] | tuple[str]  # state and content key; the key alone if the state is not known


class Index(NamedTuple):
    """The content of a folder of images at its last scan."""

    root: str  # resolved
    images: dict[str, Entry]  # path below it → state, content key
    relative: str = ""  # the root as seen from the cache, to be found when both are copied; "" if unknown

    def files(self) -> dict[str, str]:
        """Return content key → the first path that has this content."""
        return {entry[-1]: path for path, entry in reversed(self.images.items())}

    def place(self, out: Path) -> Path:
        """Return where the folder is: at its root; or beside the cache `out`, if both were copied elsewhere."""
        root = Path(self.root)
        if self.relative and not root.is_dir() and (beside := out / self.relative).is_dir():
            return beside.resolve()
        return root


def content_key(path: str | Path) -> str:
    """Return a digest of a file's bytes, 32 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def state_of(file: Path) -> State:
    """Return a file's state, which changes with its bytes. Raises OSError if it does not exist."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def index_images(root: Path, files: Sequence[Path], known: Index) -> Index:
    """Return the index of `files`, all below `root`. Reads only those that are not in `known` or changed since."""
    index = Index(root.resolve().as_posix(), {})
    before = known.images if known.root == index.root else {}
    for file in tqdm(files, "reading new images", disable=None, delay=2, leave=False):
        path, state = file.relative_to(root).as_posix(), state_of(file)
        entry = before.get(path)
        index.images[path] = (*state, entry[-1] if entry and entry[:-1] == state else content_key(file))
    return index


def read_index(out: Path) -> Index:
    """Return the index of a cache as it was written; an empty one if there is none."""
    file = out / INDEX
    if not file.exists():
        return Index("", {})
    fields = read_json(file, damaged="Delete it: it is rebuilt")
    images: dict[str, Entry] = {}
    found = fields.mapping("images")
    for path, entry in found.plain().items():
        match entry:
            case [int(size), int(mtime), int(ctime), str(key)]:
                images[path] = (size, mtime, ctime, key)
            case str(key) | [*_, str(key)]:  # of another version: the state is not known, so files are read
                images[path] = (key,)
            case _:
                raise found.error("expected [size, mtime, ctime, content key]", path)
    return Index(fields.text("root"), images, fields.text("relative", ""))


def write_index(index: Index, out: Path) -> None:
    """Write the index of a cache."""
    out.mkdir(parents=True, exist_ok=True)
    with write_atomically(out / INDEX) as beside:
        beside.write_text(json.dumps(index._asdict(), indent=0) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- writing


class Addition(NamedTuple):
    """What a job has to compute: the rows of images that a cache does not have yet."""

    root: Path  # the folder, as it was given
    index: Index
    plan: Plan
    rows: SegmentedCache
    kind: str
    known: Index  # as it was written before

    @property
    def files(self) -> list[Path]:
        """The files of the keys of the plan, in their order."""
        files = self.index.files()
        return [self.root / files[key] for key in self.plan.keys]

    def begin(self, header_of: Callable[[Sequence[str]], Header]) -> FeatureCache | None:
        """Write the index, and return the segment to fill; None if there is nothing to compute."""
        if self.index != self.known:
            write_index(self.index, self.rows.out)
        if not self.plan.todo:
            return None
        if self.plan.segment is not None:
            return self.plan.segment
        return self.rows.begin(self.plan.keys, header_of(self.plan.keys), self.kind)


def plan_images(
    root: Path, files: Sequence[Path], out: Path, on_error: str, expected: Header, fields: Sequence[str], what: str
) -> Addition:
    """Return what has to be computed for `files`, all below `root`. Writes nothing.

    expected: a header of the rows; fields: those on which rows depend; what: the source of the rows, for the message.
    Raises SightwordError if `out` contains rows of another recipe, or files of others.
    """
    rows, known = open_for_writing(out), read_index(out)
    rows.refuse_other_recipe(expected, fields, what, "out")
    index = index_images(root, files, known)._replace(relative=relative_root(root, out))
    return plan_index(root, index, known, rows, on_error)


def plan_index(root: Path, index: Index, known: Index, rows: SegmentedCache, on_error: str = "raise") -> Addition:
    """Return what has to be computed for the images of an index. known: the one that was written before."""
    kind = f"-{on_error}"
    return Addition(root, index, rows.plan(sorted(index.files()), kind), rows, kind, known)


def open_for_writing(out: Path) -> SegmentedCache:
    """Return the segments of a folder. Raises SightwordError if it contains files of others, or an earlier format."""
    if (out / "header.json").is_file():
        raise SightwordError(
            f"{out} was written by an earlier version, whose rows do not know their images. Pass another out="
        )
    if out.exists() and not out.is_dir():
        raise SightwordError(f"{out} contains other files (it is a file itself). Give out= a folder of its own")
    rows = SegmentedCache(out)
    if not rows.segments and out.is_dir() and not any((out / name).exists() for name in NOTES):
        names = sorted(name for name in os.listdir(out) if not name.startswith("."))
        if names:
            listed = ", ".join([*names[:3], "…"] if len(names) > 3 else names)
            raise SightwordError(f"{out} contains other files ({listed}). Give out= a folder of its own")
    return rows


def relative_root(root: Path, out: Path) -> str:
    """Return a folder as seen from another, with slashes; "" if there is no way from one to the other."""
    try:
        return Path(os.path.relpath(root.resolve(), out.resolve())).as_posix()
    except ValueError:  # on another drive
        return ""
