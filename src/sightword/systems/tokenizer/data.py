"""Loaders of a folder of images: random training crops and fixed validation crops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sightword.data.image import ImageBatch, ImageFolder, center_crop, collate_images, list_images, random_crop
from sightword.data.loader import LoaderOptions, Loaders, Stream, ordered
from sightword.errors import SightwordError
from sightword.systems.tokenizer.config import TokenizerData


def make_loaders(data: TokenizerData, seed: int = 0) -> Loaders[ImageBatch]:
    """Return the loaders of training and validation. Batches are `ImageBatch`: images (B, 3, S, S) in [-1, 1].

    With data.on_error=skip an unreadable file is omitted in validation, where a batch may then be empty. In training
    another file replaces it, so that all batches of all ranks have one size. Both are counted.
    """
    if not data.root:
        raise SightwordError("data.root is not set: give a folder of images, data.root=/path/to/images")
    train, val = split(data, seed)
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


def split(data: TokenizerData, seed: int) -> tuple[list[Path], list[Path]]:
    """Return (training, validation) files. They are disjoint, also if val_root lies inside root."""
    found = list_images(data.root)
    if data.val_root:
        held_out = list_images(data.val_root)
        seen = {path.resolve() for path in held_out}
        rest = [path for path in found if path.resolve() not in seen]
        if not rest:
            raise SightwordError(
                f"every image of data.root={data.root} is in data.val_root={data.val_root}: none is left to train on"
            )
        return rest, held_out
    if len(found) < 2:
        raise SightwordError(f"{data.root} contains one image, which cannot be split: add images, or set data.val_root")
    held = min(max(1, round(data.val_split * len(found))), len(found) - 1)
    order = np.random.default_rng(seed).permutation(len(found))
    return _pick(found, order[held:]), _pick(found, order[:held])


def _pick(paths: Sequence[Path], indices: np.ndarray) -> list[Path]:
    return [paths[index] for index in sorted(indices.tolist())]


def pin_memory() -> bool:
    """Return whether to pin memory: only if there is a GPU to copy to."""
    import torch

    return torch.cuda.is_available()
