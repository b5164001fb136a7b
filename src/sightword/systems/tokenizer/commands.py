"""The commands only a tokenizer has. Nothing heavy is imported before one runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.data.image import Transform


def tokenize(
    images: str,
    out: str,
    run: str = "",
    weights: str = "",
    layout: str = "",
    size: int = 256,
    width: int = 0,
    batch_size: int = 16,
    shard_size: int = 1024,
    on_error: str = "raise",
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> None:
    """Turn a folder of images into a cache of code ids; started again, it does only what is missing.

    images: the folder. out: the cache; its key for an image is the path below `images`.
    run: a run whose best checkpoint to use, or weights: a published file with its layout=, or an exported folder.
    size: images are resized and centre-cropped to size × size. width: bent to size (height) × width instead, whole.
    on_error: raise, or skip unreadable images.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    from sightword.data.image import list_images
    from sightword.storage import shards
    from sightword.storage.cache import FeatureCache

    _check(on_error, size=size, width=width or size, batch_size=batch_size, shard_size=shard_size)
    shards.check_engine(engine)
    paths = list_images(images)
    keys = [path.relative_to(Path(images).expanduser()).as_posix() for path in paths]
    source = _Source(run, weights, layout)
    model = source.load()
    view, preprocessing = _view(size, width)
    grid = tuple(-(-side // model.factor) for side in (size, width or size))
    cache = FeatureCache.create(out, _header(keys, model, grid, preprocessing, shard_size))
    ours = model if engine == "inline" else None  # not sent to Ray's workers: they load it where they are

    def worker() -> Callable[[int], None]:
        return _Tokenizer(cache, source.load() if ours is None else ours, paths, keys, view, batch_size, on_error)

    summary = shards.execute(
        worker, cache.shards, cache.missing, engine=engine, desc="tokenizing", workers=workers, gpus=gpus
    )
    skipped = f", {len(keys) - len(cache)} unreadable images skipped" if cache.done and len(cache) < len(keys) else ""
    print(
        f"{len(cache)} of {len(keys)} images in {out} ({grid[0]}×{grid[1]} ids of {model.num_codes} codes; "
        f"{summary.done} shards done now, {summary.skipped} before{skipped})"
    )
    if (key := next(iter(cache), None)) is not None:
        print(f"read it: FeatureCache({out!r})[{key!r}]['ids']")


def _check(on_error: str, **counts: int) -> None:
    if on_error not in ("raise", "skip"):
        raise SightwordError(f"on_error is raise or skip, got {on_error!r}")
    for name, value in counts.items():
        if value < 1:
            raise SightwordError(f"{name} is at least 1, got {value}")


class _Source(NamedTuple):
    """Where a tokenizer comes from: a run, or weights with the layout of a published file."""

    run: str
    weights: str
    layout: str

    def load(self) -> Any:
        """The network, in eval mode."""
        from sightword.towers.vq.published import open_tokenizer

        if bool(self.run) == bool(self.weights):
            raise SightwordError("say which tokenizer: run=<run folder>, or weights=<file or exported folder>")
        if self.run:
            from sightword.engine.run import load_predictor
            from sightword.systems.tokenizer.predict import ImageTokenizer

            return load_predictor(ImageTokenizer, self.run).model
        return open_tokenizer(self.weights, self.layout)


def _view(size: int, width: int) -> tuple["Transform", dict[str, Any]]:
    """How an image is brought to its size, and the same in the words of the header, which retrieval asks for."""
    from sightword.data.image import center_crop, squash

    if width:
        return squash(size, width), {"resize": f"{size}x{width}, bicubic", "crop": "none", "range": [-1, 1]}
    square = {"resize": f"shorter side to {size}, bicubic", "crop": "centre", "range": [-1, 1]}
    return center_crop(size), square


def _header(
    keys: list[str], model: Any, grid: tuple[int, ...], preprocessing: dict[str, Any], shard_size: int
) -> dict[str, Any]:
    from sightword.storage.cache import digest, header_for, id_dtype
    from sightword.towers.vq.image import inference_weights

    return header_for(
        keys,
        {"ids": (id_dtype(model.num_codes), grid)},
        writer="sightword tokenize",
        weights=digest(inference_weights(model)),  # the same from a run and from its export
        shard_size=shard_size,
        num_codes=model.num_codes,
        preprocessing=preprocessing,
    )


class _Tokenizer:
    """Turns shard number i into the ids of keys[i·S : (i+1)·S]."""

    def __init__(
        self,
        cache: Any,
        model: Any,
        paths: list[Path],
        keys: list[str],
        view: "Transform",
        batch_size: int,
        on_error: str,
    ) -> None:
        from sightword.data.image import ImageFolder
        from sightword.storage import shards

        self.cache, self.paths, self.keys, self.batch_size = cache, paths, keys, batch_size
        self.device = shards.device()
        self.model = model.to(self.device).eval()
        self.folder = ImageFolder(paths, view, on_error=on_error, cache_mb=0)

    def __call__(self, shard: int) -> None:
        import numpy as np
        import torch

        first = shard * self.cache.header["shard_size"]
        last = min(first + self.cache.header["shard_size"], len(self.keys))
        ids, keys = [], []
        for start in range(first, last, self.batch_size):
            numbers = range(start, min(start + self.batch_size, last))
            read = [(self.keys[n], item) for n in numbers if (item := self.folder[n]) is not None]
            if not read:
                continue
            images = torch.stack([item.image for _, item in read]).to(self.device)
            ids.append(self.model.encode(images).cpu().numpy())
            keys += [key for key, _ in read]
        dtype, shape = self.cache.header["dtypes"]["ids"], self.cache.header["shapes"]["ids"]
        rows = np.concatenate(ids) if ids else np.empty((0, *shape))
        self.cache.write_shard(shard, keys, {"ids": rows.astype(dtype)})


def check_images(root: str) -> "CheckReport":
    """A folder of images: every file is decoded once."""
    from sightword.data import check

    return check.check_images(root)
