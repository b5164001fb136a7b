"""Disk cache of tokens from a frozen image encoder: an image cache, so each image is encoded once.

A row contains the pooled vector and the tokens of each type that was asked for. An image that is moved, renamed or
there twice is encoded once; images that are added or replaced later are all that is encoded later. A segment of
on_error=raise has every row in its shards, so that only images that were skipped can be missing.

Legend: B batch; N tokens; D token width; E pooled width.
"""

import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.data.check import find_passed_over
from sightword.data.image import list_images, read_image
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.cache import FeatureCache, Header, digest, header_for
from sightword.storage.segments import ImageCache, Plan, plan_images
from sightword.towers.base import ImageTower

WRITER = "sightword cache"
RECIPE = ("weights", "architecture", "preprocessing", "dtypes", "shapes")  # of a header: what rows that mix share
AHEAD = 4  # batches of images that are read while the tower computes


class TokenCache(ImageCache):
    """The cache that `cache_tokens` wrote: `cache[path]["value"]` is (N, D), `cache[path]["pooled"]` (E,), as on disk.

    A path is below the folder that was cached last, or is one of a file anywhere, which is found by its bytes. Raises
    SightwordError for a file whose bytes have no row, as of an image that was replaced since.
    """

    what = "tokens"

    def __init__(
        self, out: str | Path, expect: Mapping[str, object] | None = None, command: str = "sightword cache tower=…"
    ) -> None:
        """Open all segments. expect: as for FeatureCache. command: the one that writes the cache, for messages."""
        super().__init__(out, expect, command)

    def types(self) -> list[str]:
        """Return the types of patch tokens of a row."""
        return [name for name in self.header["shapes"] if name != "pooled"]

    def again(self) -> str:
        found = ",".join(self.types())
        return super().again() + (f" token_type={found}" if found else "")


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
    files = list_images(root)  # reports a mistake before an encoder is opened
    for finding in find_passed_over(root):
        shards.say(f"{finding.level}: {finding}")
    tower = source.open()
    recipe = _recipe(tower, token_types, disk, writer)
    expected = recipe.header_of([], shard_size=1)
    addition = plan_images(root, files, out, on_error, expected, RECIPE, "image encoder or recipe")
    shards.say(_announce(len(addition.scan.files()), addition.plan, recipe, out))
    cache = addition.begin(lambda keys: recipe.header_of(keys, shard_size))
    if cache is None:
        return TokenCache(out)
    keys, places = addition.plan.keys, addition.files
    ours = tower if engine == "inline" else None  # not sent to Ray's workers: they open it where they are

    def worker() -> Callable[[int], None]:
        return _Encoder(cache, ours or source.open(), places, keys, batch_size, on_error)

    shards.execute(worker, cache.shards, cache.missing, engine=engine, desc="encoding", workers=workers, gpus=gpus)
    if cache.done and (unread := [place for key, place in zip(keys, places, strict=True) if key not in cache]):
        first = min(place.relative_to(root).as_posix() for place in unread)
        shards.say(f"{len(unread)} of {len(addition.scan.files())} images could not be read, {first} the first")
    return TokenCache(out)


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


def _announce(images: int, plan: Plan, recipe: _Recipe, out: Path) -> str:
    """Return a line on what will be computed. Raises SightwordError if the disk has no room for it."""
    left = plan.todo
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
