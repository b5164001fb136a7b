"""The commands of the tokenizer. Nothing heavy is imported before one is executed."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sightword.data.size import size_text
from sightword.engine.argument import ImageJobOptions, JobOptions, Model, Out, Size, folder_in
from sightword.errors import Unfinished

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.towers.vq.image import VQImage


def tokenize(
    images: Path,  # a folder of images
    out: Out,  # the folder of the cache, read by the path of an image below images=
    model: Model,  # a run directory, an exported folder, a hub id, or with layout= a published file
    layout: str = "",  # of a published file: taming_f16_1024, llamagen_vq16, …
    size: Size = 256,  # 256: shorter side resized, centre crop; 384x128: the whole image resized to height x width
    job: ImageJobOptions = ImageJobOptions(batch_size=16, shard_size=1024),
) -> None:
    """Encode a folder of images as code ids, into a cache that other programs can read; only new images are computed.

    After Ctrl-C, run the same command again to encode the rest.
    """
    from sightword.towers.vq.ids import View, write_ids

    view = View(size) if isinstance(size, int) else View(*size)
    cache, count, done = write_ids(_Source(model, layout).load, images, out, view, job)
    there = list(cache)
    height, width = cache.header["shapes"]["ids"]
    skipped = f"; {count - len(there)} unreadable images skipped" if cache.done and len(there) < count else ""
    print(
        f"{len(there)} of {count} images of size {size_text(size)} in {out} ({height}×{width} ids of "
        f"{cache.header['num_codes']} codes; {done} encoded now{skipped})"
    )
    if there:
        print(f"read it: IdCache({str(out)!r})[{there[0]!r}]['ids']")


def detokenize(
    ids: Path,  # the cache that `sightword tokenize` wrote, or a .npy file of ids (h, w) or (n, h, w)
    model: Model,  # the one that wrote the ids: a run directory, an exported folder, a hub id, or a published file
    out: Out,  # the folder of the images
    layout: str = "",  # of a published file: taming_f16_1024, llamagen_vq16, …
    job: JobOptions = JobOptions(),
) -> None:
    """Decode a cache of code ids to a folder of PNG files, each named after the image that was encoded.

    A name that does not end in .png gets .png appended. After Ctrl-C, run the same command again to decode the rest.
    """
    from sightword.storage.segments import ImageCache
    from sightword.systems.tokenizer.decode import decode_grids, open_grids

    grids = open_grids(ids)
    found = decode_grids(_Source(model, layout).load, grids, folder_in(out), job)
    height, width = found.size
    size = size_text(height if height == width else found.size)
    print(f"{found.there} of {len(grids.keys)} images of size {size} in {out} ({found.done} decoded now)")
    cache = grids.rows
    if isinstance(cache, ImageCache) and not cache.done:
        raise Unfinished(
            f"{ids} is not finished: {len(grids.keys)} of {cache.announced} rows. Run its sightword tokenize command "
            "again, then this one"
        )


class _Source(NamedTuple):
    """The source of a tokenizer, which Ray's workers load again."""

    model: str
    layout: str

    def load(self) -> "VQImage":
        """Return the network, in eval mode."""
        from sightword.systems.tokenizer.predict import ImageTokenizer
        from sightword.towers.vq.published import load_published

        if self.layout:
            return load_published(self.model, self.layout)
        return ImageTokenizer.from_pretrained(self.model).model


def check_images(root: Path) -> "CheckReport":
    """Check a folder of images: decode every file once."""
    from sightword.data import check

    return check.check_images(root)
