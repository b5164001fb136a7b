"""Loaders of a folder of images: random training crops and fixed validation crops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sightword.data.check import find_passed_over
from sightword.data.content import Item, equal_files
from sightword.data.image import ImageBatch, ImageFolder, center_crop, collate_images, list_images, random_crop
from sightword.data.loader import LoaderOptions, Loaders, Stream, ordered
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.systems.tokenizer.config import TokenizerData


def make_loaders(data: TokenizerData, seed: int = 0, names: Names | None = None) -> Loaders[ImageBatch]:
    """Return the loaders of training and validation. Batches are `ImageBatch`: images (B, 3, S, S) in [-1, 1].

    names: the images of train and of val, below their roots; None or a missing split: all that `split` puts there.

    With data.on_error=skip an unreadable file is omitted in validation, where a batch may then be empty. In training
    another file replaces it, so that all batches of all ranks have one size. Both are counted.
    """
    train, val = _chosen(data, seed, names or {})
    for root in dict.fromkeys((data.root, data.val_root or data.root)):
        for finding in find_passed_over(root):
            shards.say(f"{finding.level}: {finding}")
    size, scale = data.image_size, (data.min_scale, data.max_scale)
    options: LoaderOptions = {
        "collate_fn": collate_images,
        "num_workers": data.num_workers,
        "pin_memory": pin_memory(),
    }
    in_training = "replace" if data.on_error == "skip" else data.on_error
    crops = ImageFolder(train * data.crops, random_crop(size, scale, data.flip), seed, in_training, data.cache_mb)
    view = center_crop(size) if data.val_crops == 1 else random_crop(size, scale, flip=False)
    held_out = ImageFolder(val * data.val_crops, view, seed, data.on_error, data.cache_mb)
    return Loaders(
        Stream(crops, data.batch_size, seed, **options),
        ordered(held_out, data.batch_size, **options),
    )


def items(data: TokenizerData, seed: int, splits: Sequence[str]) -> dict[str, list[Item]]:
    """Return the images of train, of val, or of both."""
    sides = dict(zip(("train", "val"), zip(_roots(data), split(data, seed), strict=True), strict=True))
    return {
        name: [Item(path.relative_to(root).as_posix(), (path,)) for path in paths]
        for name, (root, paths) in sides.items()
        if name in splits
    }


def _chosen(data: TokenizerData, seed: int, names: Names) -> tuple[list[Path], list[Path]]:
    """Return (training, validation) files: those named, or all of the split."""
    roots = dict(zip(("train", "val"), _roots(data), strict=True))
    named = {split: [roots[split] / name for name in names[split]] for split in names}
    if len(named) == 2:
        return named["train"], named["val"]
    train, val = split(data, seed)
    return named.get("train", train), named.get("val", val)


def _roots(data: TokenizerData) -> tuple[Path, Path]:
    """Return the folders that training and validation images are named below."""
    return Path(data.root).expanduser(), Path(data.val_root or data.root).expanduser()


def split(data: TokenizerData, seed: int) -> tuple[list[Path], list[Path]]:
    """Return (training, validation) files. They are disjoint by content: equal files and links are on one side.

    Raises SightwordError if data.root is not set, or one side has no image.
    """
    if not data.root:
        raise SightwordError("data.root is not set: give a folder of images, data.root=/path/to/images")
    found = list_images(data.root)
    if data.val_root:
        held_out = list_images(data.val_root)
        first = equal_files([*held_out, *found])[len(held_out) :]
        rest = [path for path, number in zip(found, first, strict=True) if number >= len(held_out)]
        if not rest:
            raise SightwordError(
                f"every image of data.root={data.root} is in data.val_root={data.val_root}: none is left to train on"
            )
        return rest, held_out
    first = equal_files(found)
    unique = sorted(set(first))
    if len(unique) < 2:
        raise SightwordError(f"{data.root} contains one image, which cannot be split: add images, or set data.val_root")
    held = min(max(1, round(data.val_split * len(unique))), len(unique) - 1)
    validated = {unique[number] for number in np.random.default_rng(seed).permutation(len(unique))[:held].tolist()}
    return (
        [path for path, number in zip(found, first, strict=True) if number not in validated],
        [path for path, number in zip(found, first, strict=True) if number in validated],
    )


def pin_memory() -> bool:
    """Return whether to pin memory: only if there is a GPU to copy to."""
    import torch

    return torch.cuda.is_available()
