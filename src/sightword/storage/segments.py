"""Caches that can grow: a folder of segments, each a FeatureCache with the rows of one addition.

    out/<16 hex>/         a segment; its name is the digest of its keys, and a suffix for its kind
    out/<16 hex>/         …
    out/index.json        of a cache of images: their folder, and of each path below it: size, times, content key

A key has one row in all segments together. Rows of different recipes never mix: their headers differ in the fields of
the recipe, and the folder is refused. A segment has the same bytes in the end however often its writer was stopped.
Processes that plan the same keys at the same time plan the same segment.

The rows of a cache of images have the digests of their files' bytes for keys. So an image that is moved, renamed or
there twice has one row, and an image that was replaced never gives the row of the one before. A file whose size and
times are those of the index has the bytes of the index; any other file is read. If a file is gone, its row is still
found by its path: rows are of use without images. A folder with header.json itself is a cache of images of an earlier
version: its rows have paths for keys and know no bytes.
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

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import FeatureCache, Header, MissingRowError, differences, flatten, items_digest
from sightword.storage.reader import read_json

INDEX = "index.json"
NOTES = (INDEX, "gallery.json")  # files of a cache besides its segments
ON_ERROR = ("raise", "skip")  # what the writer of a segment did with unreadable images; the suffix of its name


class Plan(NamedTuple):
    """The rows to add to a cache."""

    segment: FeatureCache | None  # begun before, to resume; None: `SegmentedCache.begin` begins one
    keys: list[str]  # of the segment, in its order

    @property
    def todo(self) -> list[str]:
        """The keys whose shards are missing."""
        if self.segment is None:
            return self.keys
        size = self.segment.header["shard_size"]
        return [key for shard in self.segment.missing() for key in self.keys[shard * size : (shard + 1) * size]]


class SegmentedCache:
    """The segments of a folder, read as one. Pickles, and serves DataLoader workers."""

    def __init__(self, out: str | Path, expect: Mapping[str, object] | None = None) -> None:
        """Open all segments. expect: header fields that must have these values, as for FeatureCache."""
        self.out = Path(out).expanduser()
        self.segments = [FeatureCache(file.parent, expect) for file in sorted(self.out.glob("*/header.json"))]

    @property
    def header(self) -> Header:
        """Header of the first segment; the other segments have the same recipe."""
        if not self.segments:
            raise SightwordError(f"{self.out} contains no cached features")
        return self.segments[0].header

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        files = (file for segment in self.segments for file in segment.path.iterdir())
        return sum(file.stat().st_size for file in files if file.is_file())

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        return self.segment_of(key)[key]

    def get(self, key: str, name: str) -> np.ndarray:
        """Return one array of a row without reading the others."""
        return self.segment_of(key).get(key, name)

    def __contains__(self, key: object) -> bool:
        return any(key in segment for segment in self.segments)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys that have a row, segment by segment."""
        return (key for segment in self.segments for key in segment)

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def segment_of(self, key: str) -> FeatureCache:
        """Return the segment with the row of a key. Raises MissingRowError if there is none."""
        for segment in self.segments:
            if key in segment:
                return segment
        raise MissingRowError(f"no row {key!r} in {self.out}, which has {len(self)}")

    def refuse_other_recipe(self, header: Mapping[str, object], fields: Sequence[str], what: str, option: str) -> None:
        """Raise SightwordError unless the present rows have the recipe of `header`.

        fields: the header fields of the recipe. what: the source of the rows, and option: the key that names the
        folder, both for the message.
        """
        expected = flatten({name: header[name] for name in fields})
        for segment in self.segments:
            found = flatten({name: segment.header.get(name, {}) for name in fields})
            if difference := differences(found, expected, sorted(found | expected)):
                raise SightwordError(
                    f"{self.out} was written by a different {what}: {difference}. Give another {option}="
                )

    def plan(self, keys: Sequence[str], kind: str = "") -> Plan:
        """Return which of these keys the cache does not contain, in their order.

        Resumes a segment if it was begun for exactly the keys that the other segments do not contain; otherwise plans a
        new one. So no key gets two rows, and no row is computed again when keys are added or removed. kind: a suffix of
        the segment's name, for anything else that decides which rows are missing.
        """
        rows = [set(segment) for segment in self.segments]
        written = set().union(*rows)
        for segment, own in zip(self.segments, rows, strict=True):
            others = written - own
            missing = [key for key in keys if key not in others]
            if segment.path.name == items_digest(missing) + kind:
                return Plan(segment, missing)
        return Plan(None, [key for key in keys if key not in written])

    def begin(self, keys: Sequence[str], header: Mapping[str, object], kind: str = "") -> FeatureCache:
        """Return a new segment for the keys of a plan. header: from `header_for`."""
        segment = FeatureCache.create(self.out / (items_digest(keys) + kind), header)
        self.segments.append(segment)
        return segment


# ------------------------------------------------------------------------------------------------------ image cache


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
        found = {}
        for path in self._unknown_files():
            file = self.root / path
            if file.stat().st_size in sizes and (key := self._key_of_bytes(file, state_of(file))) in keys:
                found[path] = key
        return found

    def _unknown_files(self) -> Iterator[str]:
        """Iterate over the paths of files below the root that the index does not have, without hidden ones."""
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = Path(folder).relative_to(self.root)
            paths = ((below / name).as_posix() for name in sorted(names) if not name.startswith("."))
            yield from (path for path in paths if path not in self.index and (self.root / path).is_file())


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
    scan: Index  # of the folder now
    plan: Plan
    rows: SegmentedCache
    kind: str
    known: Index  # as it was written before

    @property
    def files(self) -> list[Path]:
        """The files of the keys of the plan, in their order."""
        files = self.scan.files()
        return [self.root / files[key] for key in self.plan.keys]

    def begin(self, header_of: Callable[[Sequence[str]], Header]) -> FeatureCache | None:
        """Write the index, and return the segment to fill; None if there is nothing to compute."""
        if self.scan != self.known:
            write_index(self.scan, self.rows.out)
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
