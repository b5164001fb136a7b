"""The commands only a tokenizer has. Nothing heavy is imported before one runs."""

from typing import TYPE_CHECKING, NamedTuple

from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.towers.vq.image import VQImage


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
    from sightword.towers.vq.ids import Job, View, write_ids

    for name, value in (("size", size), ("width", width or size)):
        if value < 1:
            raise SightwordError(f"{name} is at least 1, got {value}")
    source, view = _Source(run, weights, layout), View(size, width)
    job = Job(batch_size, shard_size, on_error, engine, workers, gpus)
    cache, count, summary = write_ids(source.load, images, out, view, job)
    height, width = cache.header["shapes"]["ids"]
    skipped = f", {count - len(cache)} unreadable images skipped" if cache.done and len(cache) < count else ""
    print(
        f"{len(cache)} of {count} images in {out} ({height}×{width} ids of {cache.header['num_codes']} codes; "
        f"{summary.done} shards done now, {summary.skipped} before{skipped})"
    )
    if (key := next(iter(cache), None)) is not None:
        print(f"read it: FeatureCache({out!r})[{key!r}]['ids']")


class _Source(NamedTuple):
    """Where a tokenizer comes from: a run, or weights with the layout of a published file."""

    run: str
    weights: str
    layout: str

    def load(self) -> "VQImage":
        """Return the network, in eval mode."""
        from sightword.towers.vq.published import open_tokenizer

        if bool(self.run) == bool(self.weights):
            raise SightwordError("say which tokenizer: run=<run folder>, or weights=<file or exported folder>")
        if self.run:
            from sightword.engine.run import load_predictor
            from sightword.systems.tokenizer.predict import ImageTokenizer

            return load_predictor(ImageTokenizer, self.run).model
        return open_tokenizer(self.weights, self.layout)


def check_images(root: str) -> "CheckReport":
    """A folder of images: every file is decoded once."""
    from sightword.data import check

    return check.check_images(root)
