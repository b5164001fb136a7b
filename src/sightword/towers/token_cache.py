"""What frozen towers see in images, computed once: tokens on disk, found by the image's own bytes.

    out/index.json              the folder of images, and of each path below it: size, times of change, content key
    out/<16 hex>-<on_error>/    a part: one FeatureCache for each time that images were added, rows by content key

A row holds the pooled vector and each form of tokens that was asked for. Rows of another network, another preprocessing
or other forms never mix: they differ in the header, and the folder is refused. An image that is moved, renamed or there
twice is computed once; images that are added later are all that is computed later. A key has one row in all parts
together, and a part of on_error=raise lacks none in its shards, so that only images that were skipped can be missing.

Legend: B batch; N tokens; D token width; E pooled width.
"""

import hashlib
import json
import math
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.data.image import list_images, read_image
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import FeatureCache, differences, digest, flatten, header_for, items_digest
from sightword.towers.base import ImageTower

INDEX = "index.json"
WRITER = "sightword cache"
RECIPE = ("weights", "architecture", "preprocessing", "dtypes", "shapes")  # of a header: what rows that mix share
AHEAD = 4  # batches of pictures read while the tower works


class TokenCache:
    """Reads what `cache_tokens` wrote: `cache[path]["value"]` is (N, D), `cache[path]["pooled"]` (E,), as on disk.

    A path is looked up as the index has it (below the folder of the last run), or else by the bytes of its file.
    """

    def __init__(self, out: str | Path, expect: Mapping[str, Any] | None = None) -> None:
        """expect: what a reader relies on of the header, as for FeatureCache."""
        self.out = Path(out).expanduser()
        self.parts = _parts(self.out, expect)
        if not self.parts:
            raise ValueError(f"{out} holds no tokens: sightword cache tower=… images=… out={out} writes them")
        self.index = {path: entry[-1] for path, entry in read_index(self.out).images.items()}

    @property
    def header(self) -> dict[str, Any]:
        return self.parts[0].header

    def __getitem__(self, path: str | Path) -> dict[str, np.ndarray]:
        part, key = self._find(path)
        return part[key]

    def get(self, path: str | Path, name: str) -> np.ndarray:
        """One array of a row, the others left unread."""
        part, key = self._find(path)
        return part.get(key, name)

    def __contains__(self, path: str | Path) -> bool:
        try:
            self._find(path)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        """The paths that have a row, in the index's order."""
        there = self.keys()
        return (path for path, key in self.index.items() if key in there)

    def __len__(self) -> int:
        """How many images; their copies not counted."""
        return len(self.keys())

    def keys(self) -> set[str]:
        """The content keys that have a row."""
        return {key for part in self.parts for key in part}

    def _find(self, path: str | Path) -> tuple[FeatureCache, str]:
        key = self.index.get(str(path)) or (content_key(path) if Path(path).is_file() else "")
        for part in self.parts:
            if key in part:
                return part, key
        raise KeyError(f"{path} has no tokens in {self.out}, which has {len(self)} images: run sightword cache again")


def content_key(path: str | Path) -> str:
    """32 hex digits of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def size_of(text: str) -> tuple[int, int] | None:
    """(H, W) of "224x304"; None of nothing. ValueError for anything else."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if text and not found:
        raise ValueError(f"size is height x width, as 224x304; got {text!r}")
    return (int(found[1]), int(found[2])) if found else None


class Source(NamedTuple):
    """How to open a tower again, in another process or on another machine."""

    name: str
    options: Mapping[str, Any]

    def open(self) -> ImageTower:
        from sightword.towers.factory import image_tower

        return image_tower(self.name, **self.options).freeze()


class Opener(Protocol):
    """What opens a tower, here or in another process."""

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
    """Compute the tokens of a folder of images that are not there yet, shard by shard; resumable, see `shards.run`.

    forms: the tokens to keep, each (N, D) a row; without any, a row is the pooled vector alone. disk: the dtype of the
    rows. shard_size: rows a file; a part that was begun keeps its own. writer: the program, as the header names it.
    on_error: of images that cannot be read, raise, or skip them until a run with raise.
    Says how large the rows will be first, and refuses what does not fit on the disk. ValueError, too, if `out` holds
    rows of another recipe, or a row has numbers that are not finite or that `disk` cannot hold.
    """
    _check(images, out, disk, on_error, batch_size=batch_size, shard_size=shard_size)
    shards.check_engine(engine)
    root, out = Path(images).expanduser(), Path(out).expanduser()
    pictures, known = list_images(root), read_index(out)
    tower = source.open()
    recipe = _recipe(tower, token_types, disk, writer)
    parts = _parts(out)
    _check_recipe(parts, recipe)
    index = index_images(root, pictures, known)
    files = index.files()
    plan = _plan(parts, set(files), on_error)
    shards.say(_announce(len(files), plan, recipe, out))
    if index != known:  # not earlier: what is refused leaves the index as it was
        write_index(index, out)
    if not plan.todo:
        return TokenCache(out)
    cache = _begin(out, plan.keys, recipe, shard_size, on_error) if plan.begun is None else plan.begun
    keys, places = plan.keys, [root / files[key] for key in plan.keys]
    ours = tower if engine == "inline" else None  # not sent to Ray's workers: they open it where they are

    def worker() -> Callable[[int], None]:
        return _Encoder(cache, ours or source.open(), places, keys, batch_size, on_error)

    shards.run(worker, cache.shards, cache.missing, engine=engine, desc="encoding", workers=workers, gpus=gpus)
    if cache.done and (unread := [key for key in keys if key not in cache]):
        first = min(files[key] for key in unread)
        shards.say(f"{len(unread)} of {len(files)} images could not be read, {first} the first")
    return TokenCache(out)


# ------------------------------------------------------------------------------------------------------------- index


class Index(NamedTuple):
    """What a folder of images held when it was last looked through."""

    root: str  # resolved
    images: dict[str, tuple[int, int, int, str]]  # path below it → size, mtime and ctime in ns, content key

    def files(self) -> dict[str, str]:
        """Content key → the first path that has this content."""
        return {entry[-1]: path for path, entry in reversed(self.images.items())}


def index_images(root: Path, files: Sequence[Path], known: Index) -> Index:
    """The index of `files`, all below `root`. Reads only those that `known` lacks or that changed since."""
    index = Index(str(root.resolve()), {})
    before = known.images if known.root == index.root else {}
    for file in files:
        path, stat = file.relative_to(root).as_posix(), file.stat()
        state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)  # two files that swap names keep size and mtime
        entry = before.get(path)
        index.images[path] = (*state, entry[-1] if entry and entry[:-1] == state else content_key(file))
    return index


def read_index(out: Path) -> Index:
    """As it was written; an empty one if there is none."""
    try:
        found = json.loads((out / INDEX).read_text(encoding="utf-8"))
        images = {path: (size, mtime, ctime, key) for path, (size, mtime, ctime, key) in found["images"].items()}
        return Index(found["root"], images)
    except FileNotFoundError:
        return Index("", {})
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{out / INDEX} is damaged ({error}): delete it, it is made anew") from error


def write_index(index: Index, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with write_atomically(out / INDEX) as part:
        part.write_text(json.dumps(index._asdict(), indent=0) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- planning


class _Recipe(NamedTuple):
    """All that decides a row besides the image."""

    rows: dict[str, tuple[str, tuple[int, ...]]]  # name → dtype, shape
    header: dict[str, Any]
    writer: str

    @property
    def row_bytes(self) -> int:
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in self.rows.values())


def _recipe(tower: ImageTower, token_types: Sequence[str], disk: str, writer: str) -> _Recipe:
    probe = _see(tower, torch.zeros(1, 3, *tower.preprocess.size, device=tower.device), token_types)
    rows = {name: (disk, tuple(values.shape[1:])) for name, values in probe.items()}
    network = {"weights": digest(tower.state_dict()), "architecture": tower.architecture, "grid": list(tower.grid())}
    return _Recipe(rows, network | {"preprocessing": tower.preprocess.as_dict()}, writer)


@torch.no_grad()
def _see(tower: ImageTower, images: Tensor, token_types: Sequence[str]) -> dict[str, Tensor]:
    """The arrays of rows: each form's tokens (B, N, D), and pooled (B, E)."""
    if not token_types:
        return {"pooled": tower(images).pooled}
    found = tower.token_types(images, token_types)
    return {name: encoded.tokens for name, encoded in found.items()} | {"pooled": next(iter(found.values())).pooled}


def _parts(out: Path, expect: Mapping[str, Any] | None = None) -> list[FeatureCache]:
    return [FeatureCache(file.parent, expect) for file in sorted(out.glob("*/header.json"))]


def _check_recipe(parts: Sequence[FeatureCache], recipe: _Recipe) -> None:
    """ValueError unless the rows that are there were made as those to come."""
    header = header_for([], recipe.rows, **recipe.header, writer="", shard_size=1)
    wanted = flatten({name: header[name] for name in RECIPE})
    for part in parts:
        found = flatten({name: part.header.get(name, {}) for name in RECIPE})
        if told := differences(found, wanted, sorted(found | wanted)):
            raise ValueError(f"{part.path.parent} holds tokens of another kind: {told}. Give another out=")


class _Plan(NamedTuple):
    """What a run has to do."""

    begun: FeatureCache | None  # the part to go on with, or None to begin one
    keys: list[str]  # of the part, in its order
    todo: list[str]  # of these, those in shards that are not there
    unread: list[str]  # of these, those that their shard lacks: they were skipped


def _plan(parts: Sequence[FeatureCache], every: set[str], on_error: str) -> _Plan:
    """Go on with a part if it was begun for just what the other parts lack today; otherwise begin one for the rest.

    So a part ends with the same bytes however often it was stopped, late ranks join the part of the first, no key has
    two rows, and no row is computed again when images come and go.
    """
    rows = {part.path: set(part) for part in parts}
    written = set().union(*rows.values())
    for part in parts:
        keys = sorted(every - (written - rows[part.path]))
        if part.path.name == _part_name(keys, on_error):
            size, there = part.header["shard_size"], rows[part.path]
            todo = [key for shard in part.missing() for key in keys[shard * size : (shard + 1) * size]]
            return _Plan(part, keys, todo, sorted(set(keys) - there - set(todo)))
    keys = sorted(every - written)
    return _Plan(None, keys, keys, [])


def _part_name(keys: Sequence[str], on_error: str) -> str:
    return f"{items_digest(keys)}-{on_error}"


def _begin(out: Path, keys: Sequence[str], recipe: _Recipe, shard_size: int, on_error: str) -> FeatureCache:
    header = header_for(keys, recipe.rows, **recipe.header, writer=recipe.writer, shard_size=shard_size)
    return FeatureCache.create(out / _part_name(keys, on_error), header)


def _announce(images: int, plan: _Plan, recipe: _Recipe, out: Path) -> str:
    """What is to come. ValueError if the disk has no room for it."""
    shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, (_, shape) in recipe.rows.items())
    todo, dtype = len(plan.todo), recipe.rows["pooled"][0]
    needed = todo * recipe.row_bytes
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if needed > (free := shutil.disk_usage(place).free):
        raise ValueError(
            f"{todo} images need {_size(needed)} and {place} has {_size(free)}: fewer tokens=, or another out="
        )
    unread = f"; {len(plan.unread)} could not be read, on_error=raise says why" if plan.unread else ""
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
    """Turns shard number i into the rows of keys[i·S : (i+1)·S]."""

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
        """(number, image) of what could be read, in batches; threads read and resize ahead of the tower."""
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
            except ValueError:
                if self.on_error == "raise":
                    raise
                continue
            found.append((number, self.tower.preprocess(picture)))
        return found

    def _encode(self, images: Tensor) -> dict[str, Tensor]:
        return _see(self.tower, images.to(self.device), self.token_types)

    def _dtype(self, name: str) -> np.dtype:
        return np.dtype(self.cache.header["dtypes"][name])

    def _on_disk(self, name: str, values: Tensor, files: Sequence[Path]) -> np.ndarray:
        """(B, …) as the disk keeps it. ValueError, with the image's name, if it cannot."""
        dtype, peaks = self._dtype(name), values.abs().flatten(1).amax(1)  # (B,); NaN is above all
        worst = int(peaks.argmax())
        if not (peak := float(peaks[worst])) < math.inf:
            advice = "are its weights whole?" if self.tower.dtype == torch.float32 else "compute in dtype=float32"
            raise ValueError(f"{files[worst]}: {self.tower.name} gives {name} that is {peak}: {advice}")
        if peak > float(np.finfo(dtype).max):
            raise ValueError(f"{files[worst]}: {name} reaches {peak:.3g}, more than {dtype} holds: disk=float32")
        return values.cpu().numpy().astype(dtype)


def _check(images: str | Path, out: str | Path, disk: str, on_error: str, **counts: int) -> None:
    for name, folder in (("images", images), ("out", out)):
        if not str(folder):
            raise ValueError(f"{name} is empty: give a folder ({name}=. is this one)")
    if disk not in ("float16", "float32"):
        raise ValueError(f"disk is float16 or float32, got {disk!r}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is raise or skip, got {on_error!r}")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
