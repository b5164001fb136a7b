"""A folder of PNG files, decoded from a cache of ids; resumable.

Each file states in its PNG text `sightword` what it was decoded from: the digests of the weights and of the ids, and
the size. So a file of this job is known from any other, and no other is overwritten.

Legend: n grids; h, w ids of an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from sightword.errors import MissingFileError, SightwordError
from sightword.storage import shards
from sightword.storage.cache import digest
from sightword.storage.job import JobOptions
from sightword.storage.segments import ImageCache
from sightword.storage.writer import write_png
from sightword.systems.tokenizer.predict import ImageTokenizer
from sightword.towers.vq.ids import IdCache, View
from sightword.towers.vq.image import VQImage, inference_weights
from sightword.version import MARK


@dataclass(frozen=True)
class Grids:
    """Grids of ids by their keys: a cache of `sightword tokenize`, or an array."""

    path: Path
    rows: ImageCache | np.ndarray  # or (n, h, w)
    keys: Sequence[str]  # n

    def __getitem__(self, number: int) -> np.ndarray:
        """Return a grid (h, w), int64."""
        rows = self.rows
        key = self.keys[number]
        found = rows.rows.get(rows.index[key], "ids") if isinstance(rows, ImageCache) else rows[number]
        return np.asarray(found).astype(np.int64)

    def size(self) -> tuple[int, int] | None:
        """Return height and width of the images that were encoded; None: unknown, they are not cropped."""
        if not isinstance(self.rows, ImageCache):
            return None
        try:
            return View.of(self.rows.header["preprocessing"]).size
        except SightwordError as error:
            raise SightwordError(f"ids={self.path} was not written by sightword tokenize: {error}") from error

    def check(self, model: VQImage, weights: str) -> None:
        """Raise SightwordError unless a cache has the ids of this tokenizer. weights: its digest.

        An array does not state its codebook: only whether each id is in the codebook is checked, as it is decoded.
        """
        if not isinstance(self.rows, ImageCache):
            return
        header = self.rows.header
        for name, found, expected in (
            ("num_codes", header.get("num_codes"), model.num_codes),
            ("weights", header.get("weights"), weights),
        ):
            if found != expected:
                raise SightwordError(
                    f"ids={self.path} was written with another tokenizer ({name} is {found} in the cache and "
                    f"{expected} in the model). Pass the model= that wrote it"
                )


class Decoded(NamedTuple):
    """The result of a job."""

    done: int  # images decoded now, by this process
    there: int  # images in the folder at the end
    size: tuple[int, int]  # their height and width, in pixels


def open_grids(path: Path) -> Grids:
    """Return the ids in a cache of `sightword tokenize`, or in a .npy file (h, w) or (n, h, w).

    Raises SightwordError if there are none.
    """
    if path.is_file():
        array = _read_array(path)
        width = len(str(len(array) - 1))
        return Grids(path, array, [f"{number:0{width}d}.png" for number in range(len(array))])
    if not (path / "header.json").is_file() and not any(path.glob("*/header.json")):
        raise MissingFileError(
            f"ids={path} is neither a cache of ids nor a .npy file. Pass the folder that sightword tokenize wrote"
        )
    cache = IdCache(path)
    if len(cache.header["shapes"].get("ids", ())) != 2:
        raise SightwordError(f"ids={path} is a cache without grids of ids. Pass one that sightword tokenize wrote")
    keys = list(cache)
    if not keys:
        raise SightwordError(f"ids={path} has no rows yet. Run its sightword tokenize command again")
    if changed := cache.compare().changed:
        shards.say(f"{len(changed)} of {len(keys)} images changed since they were encoded, {changed[0]} the first")
    return Grids(path, cache, keys)


def decode_grids(opener: Callable[[], VQImage], grids: Grids, out: Path, job: JobOptions) -> Decoded:
    """Write each grid that is not there yet as a PNG file named after its key, at the size that was encoded.

    opener: loads the tokenizer; called again in each process of Ray. Raises SightwordError, before anything is
    written, if the ids are of another tokenizer, a key leads out of the folder, or a file there is not of this job.
    """
    files = files_of(grids, out)
    model = opener()
    weights, size = digest(inference_weights(model)), grids.size()
    grids.check(model, weights)
    writer = _Writer(grids, files, f"weights {weights}, size {size}", opener if job.engine == "ray" else model)
    for number, file in enumerate(files):
        if file.exists() and _mark_of(file) != writer.mark(number):
            raise SightwordError(
                f"{file} exists and was not decoded from these ids by this model. Pass another out=, or move it away"
            )

    def missing() -> list[int]:
        return [number for number, file in enumerate(files) if not file.is_file()]

    summary = shards.execute(
        lambda: writer,
        len(files),
        missing,
        engine=job.engine,
        desc="decoding",
        unit="image",
        workers=job.workers,
        gpus=job.gpus,
    )
    height, width = grids[0].shape
    there = len(files) - len(missing())
    return Decoded(summary.done, there, size or (height * model.factor, width * model.factor))


def files_of(grids: Grids, out: Path) -> list[Path]:
    """Return the file of each key, below `out`: the key itself, with .png behind it unless it ends so.

    A key is data and may come from anyone. Raises SightwordError if one is not a path below `out`, if a link leads one
    out of `out`, or if two have the same file.
    """
    files: dict[Path, str] = {}
    folders = set()
    for key in grids.keys:
        path = PurePath(key if key.lower().endswith(".png") else f"{key}.png")
        if not key or key.endswith(("/", "\0")) or path.anchor or ".." in path.parts or "\0" in key:
            raise SightwordError(
                f"ids={grids.path} has the key {key!r}, which is not the path of a file below a folder"
            )
        file = out / path
        if file in files:
            raise SightwordError(f"ids={grids.path} has keys {files[file]!r} and {key!r}, both of which are {file}")
        files[file] = key
        folders.add(file.parent)
    if away := next((folder for folder in folders if not folder.resolve().is_relative_to(out.resolve())), None):
        raise SightwordError(f"{away} is a link that leads out of {out}. Pass another out=")
    return list(files)


class _Writer:
    """Decodes grid number i and writes its file."""

    def __init__(
        self, grids: Grids, files: Sequence[Path], origin: str, source: VQImage | Callable[[], VQImage]
    ) -> None:
        """origin: what each file was decoded with. source: the network, or its opener in a process of Ray."""
        self.grids, self.files, self.origin, self.source = grids, files, origin, source
        self.pixels = grids.size()

    @cached_property
    def tokenizer(self) -> ImageTokenizer:
        model = self.source if isinstance(self.source, VQImage) else self.source()
        return ImageTokenizer(model).to(shards.device())

    def mark(self, number: int) -> str:
        """Return what the file of a grid states as its origin."""
        return f"{self.origin}, ids {digest({'ids': self.grids[number]})}"

    def __call__(self, number: int) -> None:
        try:
            (image,) = self.tokenizer.decode([self.grids[number]], self.pixels)
        except SightwordError as error:
            raise SightwordError(f"ids={self.grids.path}, {self.grids.keys[number]!r}: {error}") from error
        write_png(image, self.files[number], self.mark(number))


def _mark_of(file: Path) -> str | None:
    """Return the origin that an existing file states; None for a file of another program."""
    try:
        with Image.open(file) as image:
            mark: object = image.info.get(MARK) if file.is_file() else None
            return mark if isinstance(mark, str) else None
    except Exception:  # a file of unknown origin can fail in any way
        return None


def _read_array(path: Path) -> np.ndarray:
    """Return a .npy file of ids as (n, h, w)."""
    try:
        array: object = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SightwordError(f"ids={path} is not a .npy file of numbers. Pass one, or a cache of ids") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim not in (2, 3) or not array.size:
        told = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise SightwordError(f"ids={path} has {told}. Pass whole numbers (h, w) or (n, h, w)")
    return array[None] if array.ndim == 2 else array
