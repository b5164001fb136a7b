"""Disk cache of tokens from a frozen image encoder. The key is a hash of the image file, so each is encoded once.

    out/index.json              the folder of images, and of each path below it: size, times of change, content key
    out/<16 hex>-<on_error>/    a segment, see `storage.segments`; rows by content key

A row contains the pooled vector and the tokens of each type that was asked for. An image that is moved, renamed or
there twice is encoded once; images that are added later are all that is encoded later. A segment of on_error=raise
has every row in its shards, so that only images that were skipped can be missing.

Legend: B batch; N tokens; D token width; E pooled width.
"""

import hashlib
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.data.image import list_images, read_image
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import FeatureCache, Header, MissingRowError, digest, header_for
from sightword.storage.reader import read_json
from sightword.storage.segments import Plan, SegmentedCache
from sightword.towers.base import ImageTower

INDEX = "index.json"
WRITER = "sightword cache"
RECIPE = ("weights", "architecture", "preprocessing", "dtypes", "shapes")  # of a header: what rows that mix share
AHEAD = 4  # batches of images that are read while the tower computes


class TokenCache:
    """The cache that `cache_tokens` wrote: `cache[path]["value"]` is (N, D), `cache[path]["pooled"]` (E,), as on disk.

    A path is looked up as the index has it (below the folder of the last run), or else by the bytes of its file.
    """

    def __init__(
        self, out: str | Path, expect: Mapping[str, object] | None = None, command: str = "sightword cache tower=…"
    ) -> None:
        """Open all segments. expect: as for FeatureCache. command: the one that writes the cache, for messages."""
        self.rows = SegmentedCache(out, expect)
        self.out = self.rows.out
        self.segments = self.rows.segments  # the caches that have the rows, by content key
        if not self.segments:
            raise SightwordError(
                f"{str(out)!r} contains no cached tokens. Create them with: {command} images=… out={out}"
            )
        self.index = {path: entry[-1] for path, entry in read_index(self.out).images.items()}

    @property
    def header(self) -> Header:
        """Header of the first segment; the other segments have the same recipe."""
        return self.rows.header

    def __getitem__(self, path: str | Path) -> dict[str, np.ndarray]:
        segment, key = self._find(path)
        return segment[key]

    def get(self, path: str | Path, name: str) -> np.ndarray:
        """Return one array of a row without reading the others."""
        segment, key = self._find(path)
        return segment.get(key, name)

    def __contains__(self, path: str | PurePath) -> bool:
        return self._key(path) in self.rows

    def __iter__(self) -> Iterator[str]:
        """Iterate over the paths that have a row, in the order of the index."""
        there = self.keys()
        return (path for path, key in self.index.items() if key in there)

    def __len__(self) -> int:
        """Return the number of images, without copies."""
        return len(self.keys())

    def keys(self) -> set[str]:
        """Return the content keys that have a row."""
        return set(self.rows)

    def _key(self, path: str | PurePath) -> str:
        return self.index.get(PurePath(path).as_posix()) or (content_key(Path(path)) if Path(path).is_file() else "")

    def _find(self, path: str | Path) -> tuple[FeatureCache, str]:
        key = self._key(path)
        try:
            return self.rows.segment_of(key), key
        except MissingRowError:
            raise MissingRowError(
                f"{path} has no tokens in {self.out}, which has {len(self)} images: run sightword cache again"
            ) from None


def content_key(path: str | Path) -> str:
    """Return a digest of a file's bytes, 32 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class Source(NamedTuple):
    """How to open a tower again, in another process or on another machine."""

    name: str
    options: Mapping[str, object]

    def open(self) -> ImageTower:
        from sightword.towers.factory import image_tower

        load: Callable[..., ImageTower] = image_tower
        return load(self.name, **self.options).freeze()


class Opener(Protocol):
    """The arguments to open a tower, in this or another process."""

    def open(self) -> ImageTower: ...


def cache_tokens(
    source: Opener,
    images: str | Path,
    out: str | Path,
    token_types: Sequence[str],
    disk: str = "float16",
    batch_size: int = 32,
    shard_size: int = 256,
    on_error: str = "raise",
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
    writer: str = WRITER,
) -> TokenCache:
    """Encode the images of a folder whose tokens are not there yet, shard by shard; resumable, see `shards.execute`.

    token_types: the tokens to keep, each (N, D) a row; without any, a row is the pooled vector alone. disk: the dtype
    of the rows. shard_size: rows a file; a segment that was begun keeps its own. writer: the program, as the header
    names it. on_error: for images that cannot be read, raise, or skip them until a run with raise.
    Prints how large the rows will be, and refuses what does not fit on the disk. Raises SightwordError, too, if `out`
    contains rows of another recipe, or a row has numbers that are not finite or that `disk` cannot represent.
    """
    _check(images, out, disk, on_error, batch_size=batch_size, shard_size=shard_size)
    shards.check_engine(engine)
    root, out = Path(images).expanduser(), Path(out).expanduser()
    pictures, known = list_images(root), read_index(out)
    tower = source.open()
    recipe, rows = _recipe(tower, token_types, disk, writer), SegmentedCache(out)
    rows.refuse_other_recipe(recipe.header_of([], shard_size=1), RECIPE, "image encoder or recipe", "out")
    index = index_images(root, pictures, known)
    files = index.files()
    kind = f"-{on_error}"
    plan = rows.plan(sorted(files), kind)
    shards.say(_announce(len(files), plan, recipe, out))
    if index != known:  # not earlier: what is refused leaves the index as it was
        write_index(index, out)
    if not _todo(plan):
        return TokenCache(out)
    keys, places = plan.keys, [root / files[key] for key in plan.keys]
    cache = plan.segment if plan.segment is not None else rows.begin(keys, recipe.header_of(keys, shard_size), kind)
    ours = tower if engine == "inline" else None  # not sent to Ray's workers: they open it where they are

    def worker() -> Callable[[int], None]:
        return _Encoder(cache, ours or source.open(), places, keys, batch_size, on_error)

    shards.execute(worker, cache.shards, cache.missing, engine=engine, desc="encoding", workers=workers, gpus=gpus)
    if cache.done and (unread := [key for key in keys if key not in cache]):
        first = min(files[key] for key in unread)
        shards.say(f"{len(unread)} of {len(files)} images could not be read, {first} the first")
    return TokenCache(out)


# ------------------------------------------------------------------------------------------------------------- index


class Index(NamedTuple):
    """The content of a folder of images at its last scan."""

    root: str  # resolved
    images: dict[str, tuple[int, int, int, str]]  # path below it → size, mtime and ctime in ns, content key

    def files(self) -> dict[str, str]:
        """Return content key → the first path that has this content."""
        return {entry[-1]: path for path, entry in reversed(self.images.items())}


def index_images(root: Path, files: Sequence[Path], known: Index) -> Index:
    """Return the index of `files`, all below `root`. Reads only those that are not in `known` or changed since."""
    index = Index(root.resolve().as_posix(), {})
    before = known.images if known.root == index.root else {}
    for file in files:
        path, stat = file.relative_to(root).as_posix(), file.stat()
        state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)  # two files that swap names keep size and mtime
        entry = before.get(path)
        index.images[path] = (*state, entry[-1] if entry and entry[:-1] == state else content_key(file))
    return index


def read_index(out: Path) -> Index:
    """Return the index of a cache as it was written; an empty one if there is none."""
    file = out / INDEX
    if not file.exists():
        return Index("", {})
    fields = read_json(file, damaged="Delete it: it is rebuilt")
    images: dict[str, tuple[int, int, int, str]] = {}
    found = fields.mapping("images")
    for path, entry in found.plain().items():
        match entry:
            case [int(size), int(mtime), int(ctime), str(key)]:
                images[path] = (size, mtime, ctime, key)
            case _:
                raise found.error("expected [size, mtime, ctime, content key]", path)
    return Index(fields.text("root"), images)


def write_index(index: Index, out: Path) -> None:
    """Write the index of a cache."""
    out.mkdir(parents=True, exist_ok=True)
    with write_atomically(out / INDEX) as beside:
        beside.write_text(json.dumps(index._asdict(), indent=0) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- planning


class _Recipe(NamedTuple):
    """The recipe of a row: everything it depends on besides the image."""

    rows: dict[str, tuple[str, tuple[int, ...]]]  # name → dtype, shape
    architecture: dict[str, object]
    grid: list[int]
    weights: str
    preprocessing: dict[str, object]
    writer: str

    def header_of(self, keys: Sequence[str], shard_size: int) -> Header:
        """Return the header of a segment of these keys."""
        return header_for(
            keys,
            self.rows,
            writer=self.writer,
            weights=self.weights,
            preprocessing=self.preprocessing,
            shard_size=shard_size,
            architecture=self.architecture,
            grid=self.grid,
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in self.rows.values())


def _recipe(tower: ImageTower, token_types: Sequence[str], disk: str, writer: str) -> _Recipe:
    probe = _encode(tower, torch.zeros(1, 3, *tower.preprocess.size, device=tower.device), token_types)
    rows = {name: (disk, tuple(values.shape[1:])) for name, values in probe.items()}
    weights, preprocessing = digest(tower.state_dict()), tower.preprocess.as_dict()
    return _Recipe(rows, tower.architecture, list(tower.grid()), weights, preprocessing, writer)


@torch.no_grad()
def _encode(tower: ImageTower, images: Tensor, token_types: Sequence[str]) -> dict[str, Tensor]:
    """Return the arrays of rows: the tokens (B, N, D) of each type, and pooled (B, E)."""
    if not token_types:
        return {"pooled": tower(images).pooled}
    found = tower.token_types(images, token_types)
    return {name: encoded.tokens for name, encoded in found.items()} | {"pooled": next(iter(found.values())).pooled}


def _todo(plan: Plan) -> list[str]:
    """Return the keys of a plan whose shards are missing."""
    if plan.segment is None:
        return plan.keys
    size = plan.segment.header["shard_size"]
    return [key for shard in plan.segment.missing() for key in plan.keys[shard * size : (shard + 1) * size]]


def _announce(images: int, plan: Plan, recipe: _Recipe, out: Path) -> str:
    """Return a line on what will be computed. Raises SightwordError if the disk has no room for it."""
    left = _todo(plan)
    written = plan.keys if plan.segment is None else plan.segment
    skipped = set(plan.keys) - set(written) - set(left)  # those that are missing in a shard that is there
    shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, (_, shape) in recipe.rows.items())
    todo, dtype = len(left), recipe.rows["pooled"][0]
    needed = todo * recipe.row_bytes
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if needed > (free := shutil.disk_usage(place).free):
        raise SightwordError(
            f"{todo} images need {_size(needed)} and {place} has {_size(free)}: fewer token_type=, or another out="
        )
    unread = f"; {len(skipped)} could not be read, on_error=raise reports why" if skipped else ""
    each = f"{shapes} in {dtype}, {_size(recipe.row_bytes)} each"
    return f"{images} images, {todo} to encode: {each}, {_size(needed)} in all{unread}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


# --------------------------------------------------------------------------------------------------------- computing


class _Encoder:
    """Worker that computes shard i: the rows of keys[i·S : (i+1)·S]."""

    def __init__(
        self,
        cache: FeatureCache,
        tower: ImageTower,
        files: Sequence[Path],
        keys: Sequence[str],
        batch_size: int,
        on_error: str,
    ) -> None:
        self.cache, self.files, self.keys = cache, files, keys
        self.batch_size, self.on_error = batch_size, on_error
        self.device = shards.device()
        self.tower = tower.to(self.device)
        self.token_types = [name for name in cache.header["shapes"] if name != "pooled"]

    def __call__(self, shard: int) -> None:
        size = self.cache.header["shard_size"]
        numbers = range(shard * size, min((shard + 1) * size, len(self.keys)))
        keys: list[str] = []
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self.cache.header["shapes"]}
        for read in self._batches(numbers):
            keys += [self.keys[number] for number, _ in read]
            files = [self.files[number] for number, _ in read]
            for name, values in self._encode(torch.stack([image for _, image in read])).items():
                rows[name].append(self._on_disk(name, values, files))
        empty = {name: np.empty((0, *shape), self._dtype(name)) for name, shape in self.cache.header["shapes"].items()}
        self.cache.write_shard(shard, keys, {name: np.concatenate([empty[name], *rows[name]]) for name in rows})

    def _batches(self, numbers: Sequence[int]) -> Iterator[list[tuple[int, Tensor]]]:
        """Yield batches of (number, image) of the readable images. Threads read and resize ahead of the tower."""
        with ThreadPoolExecutor(AHEAD) as pool:
            starts = list(range(0, len(numbers), self.batch_size))
            waiting: deque[Future[list[tuple[int, Tensor]]]] = deque()
            while starts or waiting:
                while starts and len(waiting) < AHEAD:
                    start = starts.pop(0)
                    waiting.append(pool.submit(self._read, numbers[start : start + self.batch_size]))
                if read := waiting.popleft().result():
                    yield read

    def _read(self, numbers: Sequence[int]) -> list[tuple[int, Tensor]]:
        found = []
        for number in numbers:
            try:
                picture: Image.Image = read_image(self.files[number])
            except SightwordError:
                if self.on_error == "raise":
                    raise
                continue
            found.append((number, self.tower.preprocess(picture)))
        return found

    def _encode(self, images: Tensor) -> dict[str, Tensor]:
        return _encode(self.tower, images.to(self.device), self.token_types)

    def _dtype(self, name: str) -> np.dtype[np.floating]:
        return np.dtype(self.cache.header["dtypes"][name])

    def _on_disk(self, name: str, values: Tensor, files: Sequence[Path]) -> np.ndarray:
        """Return (B, …) in the dtype of the disk. Raises SightwordError, with the image's name, if it does not fit."""
        dtype, peaks = self._dtype(name), values.abs().flatten(1).amax(1)  # (B,); NaN is above all
        worst = int(peaks.argmax())
        if not (peak := float(peaks[worst])) < math.inf:
            advice = "are its weights complete?" if self.tower.dtype == torch.float32 else "compute in dtype=float32"
            raise SightwordError(f"{files[worst]}: {self.tower.name} gives {name} that is {peak}: {advice}")
        if peak > float(np.finfo(dtype).max):
            raise SightwordError(
                f"{files[worst]}: {name} reaches {peak:.3g}, more than {dtype} can represent: disk=float32"
            )
        return values.cpu().numpy().astype(dtype)


def _check(images: str | Path, out: str | Path, disk: str, on_error: str, **counts: int) -> None:
    """Raise SightwordError for an argument that `cache_tokens` cannot use."""
    for name, folder in (("images", images), ("out", out)):
        if not str(folder):
            raise SightwordError(f"{name} is empty: give a folder ({name}=. is this one)")
    if disk not in ("float16", "float32"):
        raise SightwordError(f"disk is float16 or float32, got {disk!r}")
    if on_error not in ("raise", "skip"):
        raise SightwordError(f"on_error is raise or skip, got {on_error!r}")
    for name, value in counts.items():
        if value < 1:
            raise SightwordError(f"{name} is at least 1, got {value}")
