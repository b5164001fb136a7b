"""What frozen towers see in images, computed once: tokens on disk, found by the image's own bytes.

    out/index.json          path below the folder of images → (size, time of change, content key)
    out/<16 hex>/           one FeatureCache for each time that images were added, its rows by content key

A row holds the pooled vector and each form of tokens that was asked for. Rows of other weights, another preprocessing
or other forms never mix: they differ in the header, and the folder is refused. An image that is moved, renamed or there
twice is computed once; images that are added later are all that is computed later.

Legend: B batch; N tokens; D token width; E pooled width.
"""

import hashlib
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword import job
from sightword.atomic import write_atomically
from sightword.cache import FeatureCache, digest, header_for
from sightword.data.image import list_images, read_image
from sightword.towers.tower import ImageTower

INDEX = "index.json"
RECIPE = ("weights", "preprocessing", "dtypes", "shapes")  # of a header: what rows that mix must share
AHEAD = 4  # batches of pictures read while the tower works


class TokenCache:
    """Reads what `cache_tokens` wrote: `cache[path]["value"]` is (N, D), `cache[path]["pooled"]` (E,), as on disk.

    A path is looked up as the index has it (below the folder of images), or else by the bytes of the file it names.
    """

    def __init__(self, out: str | Path, expect: Mapping[str, Any] | None = None) -> None:
        """expect: what a reader relies on of the header, as for FeatureCache."""
        self.out = Path(out)
        self.parts = [FeatureCache(folder.parent, expect) for folder in sorted(self.out.glob("*/header.json"))]
        if not self.parts:
            raise ValueError(f"{out} holds no tokens: sightword cache tower=… images=… out={out} writes them")
        self.index = {path: key for path, (_, _, key) in read_index(self.out).items()}

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


class Source(NamedTuple):
    """How to open a tower again, in another process or on another machine."""

    name: str
    options: Mapping[str, Any]

    def open(self) -> ImageTower:
        from sightword.towers import image_tower

        return image_tower(self.name, **self.options).freeze()


def cache_tokens(
    source: Source,
    images: str | Path,
    out: str | Path,
    forms: Sequence[str],
    disk: str = "float16",
    batch_size: int = 32,
    shard_size: int = 256,
    on_error: str = "raise",
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> TokenCache:
    """Compute the tokens of a folder of images that are not there yet, shard by shard; resumable, see `job.run`.

    disk: the dtype of the rows. Says how large they will be first, and refuses what does not fit on the disk.
    """
    _check(disk, on_error, batch_size=batch_size, shard_size=shard_size)
    job.check_engine(engine)
    root, out = Path(images).expanduser(), Path(out)
    files = index_images(root, out)
    tower = source.open()
    recipe = _recipe(tower, forms, disk)
    todo = sorted(set(files) - _written(out, recipe))
    job.say(_announce(len(files), len(todo), recipe, out))
    if not todo:
        return TokenCache(out)
    header = header_for(todo, recipe.rows, **recipe.header, writer="sightword cache", shard_size=shard_size)
    cache = FeatureCache.create(out / header["items_digest"], header)
    ours = tower if engine == "inline" else None  # not sent to Ray's workers: they open it where they are

    def worker() -> Callable[[int], None]:
        return _Encoder(cache, ours or source.open(), [root / files[key] for key in todo], todo, batch_size, on_error)

    job.run(worker, cache.shards, cache.missing, engine=engine, desc="encoding", workers=workers, gpus=gpus)
    return TokenCache(out)


# ------------------------------------------------------------------------------------------------------------- index


def index_images(root: Path, out: Path) -> dict[str, str]:
    """Content key → a path below `root` that has this content. Reads only files that changed since the last time."""
    known, found = read_index(out), {}
    for file in list_images(root):
        path, stat = file.relative_to(root).as_posix(), file.stat()
        size, changed, key = known.get(path, (-1, -1, ""))
        if (size, changed) != (stat.st_size, stat.st_mtime_ns):
            key = content_key(file)
        found[path] = (stat.st_size, stat.st_mtime_ns, key)
    if found != known:
        out.mkdir(parents=True, exist_ok=True)
        with write_atomically(out / INDEX) as part:
            part.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
    return {key: path for path, (_, _, key) in reversed(found.items())}


def read_index(out: Path) -> dict[str, tuple[int, int, str]]:
    try:
        return {path: tuple(entry) for path, entry in json.loads((out / INDEX).read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{out / INDEX} is damaged ({error}): delete it, it is made anew") from error


# --------------------------------------------------------------------------------------------------------- computing


class _Recipe(NamedTuple):
    """All that decides a row besides the image."""

    rows: dict[str, tuple[str, tuple[int, ...]]]  # name → dtype, shape
    header: dict[str, Any]

    @property
    def row_bytes(self) -> int:
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in self.rows.values())


def _recipe(tower: ImageTower, forms: Sequence[str], disk: str) -> _Recipe:
    with torch.no_grad():
        probe = tower.forms(torch.zeros(1, 3, *tower.preprocess.size, device=tower.device), forms)
    rows = {name: (disk, tuple(encoded.tokens.shape[1:])) for name, encoded in probe.items()}
    rows["pooled"] = (disk, tuple(next(iter(probe.values())).pooled.shape[1:]))
    grid = list(tower.grid())
    return _Recipe(
        rows, {"weights": digest(tower.state_dict()), "preprocessing": tower.preprocess.as_dict(), "grid": grid}
    )


def _written(out: Path, recipe: _Recipe) -> set[str]:
    """The keys of what is complete. ValueError if it was made by another recipe."""
    wanted = header_for([], recipe.rows, **recipe.header, writer="", shard_size=1)
    expect = {name: wanted[name] for name in RECIPE}
    parts = [FeatureCache(file.parent, expect) for file in out.glob("*/header.json")]
    return {key for part in parts if part.done for key in part}


def _announce(images: int, todo: int, recipe: _Recipe, out: Path) -> str:
    shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, (_, shape) in recipe.rows.items())
    needed, dtype = todo * recipe.row_bytes, recipe.rows["pooled"][0]
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if needed > (free := shutil.disk_usage(place).free):
        raise ValueError(
            f"{todo} images need {_size(needed)} and {place} has {_size(free)}: fewer tokens=, or elsewhere"
        )
    each = f"{shapes} in {dtype}, {_size(recipe.row_bytes)} each"
    return f"{images} images, {todo} to encode: {each}, {_size(needed)} in all"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


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
        self.device = job.device()
        self.tower = tower.to(self.device)
        self.forms = [name for name in cache.header["shapes"] if name != "pooled"]

    def __call__(self, shard: int) -> None:
        size = self.cache.header["shard_size"]
        numbers = range(shard * size, min((shard + 1) * size, len(self.keys)))
        keys: list[str] = []
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self.cache.header["shapes"]}
        for read in self._batches(numbers):
            keys += [self.keys[number] for number, _ in read]
            for name, values in self._encode(torch.stack([image for _, image in read])).items():
                rows[name].append(self._on_disk(name, values))
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
        with torch.no_grad():
            found = self.tower.forms(images.to(self.device), self.forms)
        return {name: encoded.tokens for name, encoded in found.items()} | {"pooled": next(iter(found.values())).pooled}

    def _dtype(self, name: str) -> np.dtype:
        return np.dtype(self.cache.header["dtypes"][name])

    def _on_disk(self, name: str, values: Tensor) -> np.ndarray:
        array = values.cpu().numpy()
        if np.abs(array).max(initial=0) > np.finfo(self._dtype(name)).max:
            raise ValueError(
                f"{name} reaches {np.abs(array).max():.3g}, more than {self._dtype(name)} holds: disk=float32"
            )
        return array.astype(self._dtype(name))


def _check(disk: str, on_error: str, **counts: int) -> None:
    if disk not in ("float16", "float32"):
        raise ValueError(f"disk is float16 or float32, got {disk!r}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is raise or skip, got {on_error!r}")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
