"""The verbs only a tokenizer has. Nothing heavy is imported before one runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightword.data.check import Report


def tokenize(
    images: str,
    out: str,
    run: str = "",
    weights: str = "",
    layout: str = "",
    size: int = 256,
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
    size: images are resized and centre-cropped to size × size. on_error: raise, or skip unreadable images.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    from sightword import job
    from sightword.cache import FeatureCache, digest, header_for, id_dtype
    from sightword.data.image import list_images
    from sightword.towers.vq_image import inference_weights

    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is raise or skip, got {on_error!r}")
    paths = list_images(images)
    keys = [path.relative_to(Path(images).expanduser()).as_posix() for path in paths]
    model = _tokenizer(run, weights, layout)
    side = -(-size // model.factor)
    header = header_for(
        keys,
        {"ids": (id_dtype(model.num_codes), (side, side))},
        writer="sightword tokenize",
        weights=digest(inference_weights(model)),  # the same from a run and from its export
        shard_size=shard_size,
        num_codes=model.num_codes,
        preprocessing={"resize": f"shorter side to {size}, bicubic", "crop": "centre", "range": [-1, 1]},
    )
    cache = FeatureCache.create(out, header)

    def worker() -> Callable[[int], None]:
        return _Tokenizer(cache, _tokenizer(run, weights, layout), paths, keys, size, batch_size, on_error)

    summary = job.run(worker, cache.shards, cache.missing, engine=engine, desc="tokenizing", workers=workers, gpus=gpus)
    skipped = f", {len(keys) - len(cache)} unreadable images skipped" if cache.done and len(cache) < len(keys) else ""
    print(
        f"{len(cache)} of {len(keys)} images in {out} ({side}×{side} ids of {model.num_codes} codes; "
        f"{summary.done} shards done now, {summary.skipped} before{skipped})"
    )
    print(f"read it: FeatureCache({out!r})[{keys[0]!r}]['ids']")


class _Tokenizer:
    """Turns shard number i into the ids of keys[i·S : (i+1)·S]."""

    def __init__(
        self, cache: Any, model: Any, paths: list[Path], keys: list[str], size: int, batch_size: int, on_error: str
    ) -> None:
        import torch

        from sightword.data.image import ImageFolder, center_crop

        self.cache, self.paths, self.keys, self.batch_size = cache, paths, keys, batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.folder = ImageFolder(paths, center_crop(size), on_error=on_error, cache_mb=0)

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


def _tokenizer(run: str, weights: str, layout: str) -> Any:
    """The network that one of the three sources describes, in eval mode."""
    from sightword.towers.vq_image import VQImage
    from sightword.towers.vq_published import load_published

    if bool(run) == bool(weights):
        raise ValueError("say which tokenizer: run=<run folder>, or weights=<file or exported folder>")
    if run:
        from sightword.cli import load_run

        return load_run(run)[0].model.eval()
    return load_published(weights, layout) if layout else VQImage.from_pretrained(weights)


def check_images(root: str) -> "Report":
    """A folder of images: every file is decoded once."""
    from sightword.data import check

    return check.check_images(root)


VERBS = [tokenize]
CHECKS = {"images": check_images}
