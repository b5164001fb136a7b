"""The ids of a folder of images, computed once with a tokenizer and kept in an `ImageCache`; resumable.

Images that are added or replaced later are all that is computed later.

Legend: B images of a batch; h, w ids of an image.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sightword.data.check import find_passed_over
from sightword.data.image import ImageFolder, Transform, center_crop, list_images, squash
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.cache import FeatureCache, Header, digest, header_for, id_dtype
from sightword.storage.job import ImageJobOptions
from sightword.storage.segments import ImageCache, plan_images
from sightword.towers.vq.image import VQImage, inference_weights

WRITER = "sightword tokenize"
RECIPE = ("weights", "num_codes", "preprocessing", "dtypes", "shapes")  # of a header: what rows that mix share


@dataclass(frozen=True)
class View:
    """The resizing of images for the tokenizer."""

    height: int  # pixels
    width: int = 0  # pixels: the whole image is resized to height × width; 0: a square crop from its centre

    def transform(self) -> Transform:
        """Return the function from a PIL image to a tensor (3, H, W) in [-1, 1]."""
        return squash(self.height, self.width) if self.width else center_crop(self.height)

    def preprocessing(self) -> dict[str, object]:
        """Return the same in the words of a cache's header, which readers of the ids compare."""
        if self.width:
            return {"resize": f"{self.height}x{self.width}, bicubic", "crop": "none", "range": [-1, 1]}
        return {"resize": f"shorter side to {self.height}, bicubic", "crop": "centre", "range": [-1, 1]}

    @classmethod
    def of(cls, preprocessing: Mapping[str, object]) -> "View":
        """Return the view of a cache's header. Raises SightwordError if the header states no such view."""
        found = re.fullmatch(
            r"(?:shorter side to )?(\d{1,6})(?:x(\d{1,6}))?, bicubic", str(preprocessing.get("resize"))
        )
        view = cls(int(found[1]), int(found[2] or 0)) if found else None
        if view is None or view.preprocessing() != dict(preprocessing):
            raise SightwordError(f"its header does not state the size of the images, got {dict(preprocessing)}")
        return view

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the resized image, in pixels."""
        return self.height, self.width or self.height

    def grid(self, factor: int) -> tuple[int, int]:
        """Return (h, w), the ids of an image. factor: pixels of a side for one id."""
        height, width = self.size
        return -(-height // factor), -(-width // factor)


@dataclass(frozen=True)
class Job(ImageJobOptions):
    """Options of the job, with the defaults of a tokenizer."""

    batch_size: int = 16
    shard_size: int = 1024


class IdCache(ImageCache):
    """The cache that `write_ids` wrote: `cache[path]["ids"]` is (h, w)."""

    what = "ids"


class Written(NamedTuple):
    """The result of a job: the cache, and the amount of work done."""

    cache: IdCache
    images: int  # of the folder, those that could not be read included
    done: int  # images encoded now; copies count once


def write_ids(
    opener: Callable[[], VQImage], images: str | Path, out: str | Path, view: View, job: ImageJobOptions
) -> Written:
    """Write the ids of every image below a folder that are not there yet.

    opener: loads the tokenizer; called again in each process of Ray. Raises SightwordError if the folder has no
    images, or `out` has ids of another tokenizer or of another size.
    """
    root, out = Path(images).expanduser(), Path(out).expanduser()
    paths = list_images(root)
    for finding in find_passed_over(root):
        shards.say(f"{finding.level}: {finding}")
    model = opener()

    def header_of(keys: Sequence[str]) -> Header:
        return header_for(
            keys,
            {"ids": (id_dtype(model.num_codes), view.grid(model.factor))},
            writer=WRITER,
            weights=digest(inference_weights(model)),  # the same from a run and from its export
            shard_size=job.shard_size,
            num_codes=model.num_codes,
            preprocessing=view.preprocessing(),
        )

    addition = plan_images(root, paths, out, job.on_error, header_of([]), RECIPE, "tokenizer or size")
    shards.say(f"{len(paths)} images, {len(addition.plan.todo)} to encode")
    cache = addition.begin(header_of)
    if cache is None:
        return Written(IdCache(out), len(paths), 0)
    keys, files, before = addition.plan.keys, addition.files, len(cache)
    ours = model if job.engine == "inline" else None  # not sent to Ray's workers: they load it where they are

    def worker() -> "_Writer":
        return _Writer(cache, opener() if ours is None else ours, files, keys, view, job)

    shards.execute(
        worker, cache.shards, cache.missing, engine=job.engine, desc="tokenizing", workers=job.workers, gpus=job.gpus
    )
    return Written(IdCache(out), len(paths), len(cache) - before)


def tokenize_command(weights: str, layout: str, images: str | Path, out: str | Path, view: View) -> str:
    """Return the command line that does the same as `write_ids`."""
    size = f"{view.height}x{view.width}" if view.width else str(view.height)
    known = {"model": weights or "…", "layout": layout, "images": str(images), "out": str(out), "size": size}
    return " ".join(["sightword tokenize", *(shlex.quote(f"{key}={value}") for key, value in known.items() if value)])


class _Writer:
    """Turns shard number i into the ids of keys[i·S : (i+1)·S]."""

    def __init__(
        self,
        cache: FeatureCache,
        model: VQImage,
        paths: Sequence[Path],
        keys: Sequence[str],
        view: View,
        job: ImageJobOptions,
    ) -> None:
        self.cache, self.keys, self.batch_size = cache, keys, job.batch_size
        self.device = shards.device()
        self.model = model.to(self.device).eval()
        self.folder = ImageFolder(list(paths), view.transform(), on_error=job.on_error, cache_mb=0)

    def __call__(self, shard: int) -> None:
        header: Mapping[str, int] = self.cache.header
        first = shard * header["shard_size"]
        last = min(first + header["shard_size"], len(self.keys))
        ids, keys = [], []
        for start in range(first, last, self.batch_size):
            numbers = range(start, min(start + self.batch_size, last))
            read = [(self.keys[n], item) for n in numbers if (item := self.folder[n]) is not None]
            if not read:
                continue
            images = torch.stack([item.image for _, item in read]).to(self.device)  # (B, 3, H, W)
            ids.append(self.model.encode(images).cpu().numpy())  # (B, h, w)
            keys += [key for key, _ in read]
        dtype, shape = self.cache.header["dtypes"]["ids"], self.cache.header["shapes"]["ids"]
        rows = np.concatenate(ids) if ids else np.empty((0, *shape))
        self.cache.write_shard(shard, keys, {"ids": rows.astype(dtype)})
