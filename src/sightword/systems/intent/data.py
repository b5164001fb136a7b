"""Photos with their intent labels, as batches of images, of cached patch tokens, or of counts of codes.

Batches contain images unless a cache is configured: tokens with data.cache, counts of codes with data.ids. Labels and
their order are the same for all three. Nothing is computed here: `prepare.py` writes caches.

Legend: B batch; M images of a split that exist; C classes; N patches; D token dimension; E pooled dimension; K codes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightword.data.content import Item
from sightword.data.image import ImageFolder, ImageItem, Transform, collate_images, read_image
from sightword.data.loader import Draw, Loaders, Stream, ordered
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.segments import ImageCache
from sightword.systems.intent.config import IntentData
from sightword.systems.intent.intentonomy import Annotations, annotation_file
from sightword.systems.intent.labels import is_own, read_labels, read_split
from sightword.towers.preprocess import Preprocess
from sightword.towers.token_cache import TokenCache


class IntentBatch(NamedTuple):
    """Labels, and one of: images; tokens with the pooled vector; counts of codes. The others are None.

    In evaluation a batch of images has B = 0 if none of its files could be read.
    """

    targets: Tensor  # (B, C) float32 in [0, 1]
    image_ids: list[str]  # B
    images: Tensor | None = None  # (B, 3, H, W) float32 in [-1, 1], of the image encoder's size
    tokens: dict[str, Tensor] | None = None  # token type → (B, N, D), in the cache's dtype
    pooled: Tensor | None = None  # (B, E), in the cache's dtype
    counts: dict[str, Tensor] | None = None  # stream → (B, K) float32, how many patches have each code
    anchors: str = ""  # digest of the codebooks that the counts are of; empty if unknown
    token_types: dict[str, str] | None = None  # stream → the type of the tokens that were looked up; None if unknown
    skipped: int = 0  # unreadable files of this batch: replaced in training, left out in evaluation
    missing: int = 0  # annotated images of the whole split that do not exist; the same in each batch
    split: str = "val"  # train, val or test; only validation may choose a threshold
    classes: Sequence[str] = ()  # C names of the columns of `targets`; empty if they are not known


class Inputs(NamedTuple):
    """Facts about the model that the batches are for, which the loaders need."""

    classes: Sequence[str] = ()  # names of the columns, in their order; empty: those of the annotations
    token_types: Sequence[str] = ()  # of patch tokens, to read from the cache; empty: all that it has
    pooled_only: bool = False  # read no patch tokens from the cache, only the pooled vectors
    preprocess: Callable[[], Preprocess] | None = None  # opens the image encoder's own, which batches of images need


# ------------------------------------------------------------------------------------------------------------ a split


class Split(NamedTuple):
    """A split, and which of its images exist."""

    annotations: Annotations  # all that are annotated
    available: list[int]  # M rows of the annotations
    keys: list[str]  # M: paths of images, or or content keys in a cache of tokens or ids
    missing: list[str]  # annotated files that do not exist or cannot be read
    name: str = "val"


def items(data: IntentData, splits: Sequence[str]) -> dict[str, list[Item]]:
    """Return the annotated images of some splits that exist, as files or as rows of a cache."""
    return {split: _items_of(data, split) for split in splits}


def _items_of(data: IntentData, split: str) -> list[Item]:
    notes, keys = find_keys(data, split)
    folder = images_of(data)
    found = []
    for row, key in keys.items():
        path = folder / notes.files[row]
        marked = zip(notes.names, notes.targets[row].tolist(), strict=True)
        facts = " ".join(sorted(f"{name}={value:g}" for name, value in marked if value))
        known = {"files": (path,)} if path.is_file() else {"content": key}
        found.append(Item(notes.files[row], facts=facts, **known))
    return found


def load_split(data: IntentData, split: str, classes: Sequence[str] = (), names: Names | None = None) -> Split:
    """Return which images of train, val or test exist; prints how many do not.

    classes: of the model, which the columns are matched with by name; empty: as in the file.
    names: the files of each split that are used; None or a missing split: all.

    With a cache an image exists if the cache has its row, whether or not its file is still on this disk. Raises
    SightwordError if a readable file has no row: then the cache is incomplete; or if the file has other classes.
    """
    notes, keys = find_keys(data, split)
    if classes:
        notes = notes.for_classes(classes, source_of(data, split))
    missing = [file for row, file in enumerate(notes.files) if row not in keys]
    if (data.cache or data.ids) and (left := without_row(data, missing)):
        raise _incomplete(data, left)
    if not keys:
        raise SightwordError(
            f"{data.ids or data.cache or images_of(data)} has none of the {len(notes.files)} images of {split}; the "
            f"first is {notes.files[0]}. Set data.images to the folder that contains these files, also if they are "
            "cached"
        )
    if names and split in names:
        used = set(names[split])
        keys = {row: key for row, key in keys.items() if notes.files[row] in used}
    if missing:
        shards.say(f"{split}: {len(missing)} of {len(notes.files)} images do not exist, the first is {missing[0]}")
    return Split(notes, list(keys), list(keys.values()), missing, split)


def find_keys(data: IntentData, split: str) -> tuple[Annotations, dict[int, str]]:
    """Return the annotations of a split, and row → key of those whose image, tokens or ids exist."""
    notes = read_split(root_of(data), split, data.images)
    find = finder(data)
    return notes, {row: key for row, file in enumerate(notes.files) if (key := find(file)) is not None}


def root_of(data: IntentData) -> Path:
    """Return the folder of the annotations. Raises SightwordError if it is not set."""
    if not data.root:
        raise SightwordError(
            "data.root is not set. Pass the folder with intentonomy_{train,val,test}2020.json, or one's own labels: a "
            "CSV or JSON file, or a folder with one folder for each class"
        )
    return Path(data.root).expanduser()


def source_of(data: IntentData, split: str) -> Path:
    """Return the file or folder that a split's labels are read from, for messages."""
    return root_of(data) if is_own(root_of(data)) else annotation_file(root_of(data), split)


def images_of(data: IntentData) -> Path:
    """Return the folder that contains the files of the annotations."""
    if is_own(data.root):
        return read_labels(root_of(data), data.images).located.folder
    return Path(data.images or data.root).expanduser()


def labels_of(annotations: Annotations, kind: str) -> Tensor:
    """Return (N, C) float32: soft, the fractions of annotators; any, 1 where above 0; majority, 1 for 2 of 3."""
    if kind == "soft":
        return annotations.targets
    return (annotations.targets > {"any": 0.0, "majority": 0.5}[kind]).float()


def without_row(data: IntentData, files: Sequence[str]) -> list[Path]:
    """Return those of these files that exist, from the first readable one on: a cache should have their rows."""
    existing = (path for file in files if (path := images_of(data) / file).is_file())
    return list(dropwhile(_is_unreadable, existing))


def finder(data: IntentData) -> Callable[[str], str | None]:
    """Return a function from an annotated file to the key of its image, tokens or ids; to None if there is none.

    A file that was replaced since it was cached has none. One that is gone is found by its path.
    """
    folder = images_of(data)
    cache = open_cache(data)
    if cache is None:
        return lambda file: str(folder / file) if (folder / file).is_file() else None
    if cache.is_old:
        shards.say(
            f"{cache.out} was written by an earlier version: whether images changed since is not known. Write it again "
            "to be sure"
        )
    rows, there = cache, cache.keys()

    def find(file: str) -> str | None:
        key = rows.key_of(file, folder)
        return key if key in there else None

    return find


def _incomplete(data: IntentData, left: Sequence[Path]) -> SightwordError:
    """The error for readable images without a row, of which some may have been replaced since they were cached."""
    cache = open_cache(data)
    known = cache.index if cache is not None else {}
    replaced = sum(path.relative_to(images_of(data)).as_posix() in known for path in left)
    told = f", the first is {left[0]}" + (f" ({replaced} changed since they were cached)" if replaced else "")
    if not isinstance(cache, TokenCache):
        return SightwordError(
            f"{len(left)} images have no ids in data.ids={data.ids}{told}. Look them up with "
            "sightword ids, from a complete cache of the tokens of this folder of images"
        )
    return SightwordError(
        f"{len(left)} images have no tokens in data.cache={data.cache}{told}. Compute them with "
        f"sightword cache tower=… images={images_of(data)} token_type={','.join(cache.types())} out={data.cache}"
    )


def _is_unreadable(path: Path) -> bool:
    try:
        read_image(path)
    except ValueError:
        return True
    return False


# ------------------------------------------------------------------------------------------------------------ loaders


def make_loaders(data: IntentData, inputs: Inputs, seed: int = 0, names: Names | None = None) -> Loaders[IntentBatch]:
    """Return loaders of `IntentBatch`: counts with `data.ids`, tokens with `data.cache`, else images.

    Training has the labels of `data.labels`; validation has 0 and 1, also if the training labels are soft.
    inputs: of the model; without its classes the columns are those of the training annotations.
    names: as for `load_split`.
    """
    train = load_split(data, "train", inputs.classes, names)
    val = load_split(data, "val", train.annotations.names, names)
    items = _items(data, train, labels_of(train.annotations, data.labels), seed, inputs, training=True)
    stream = Stream[IntentBatch](
        items.dataset,
        data.batch_size,
        seed,
        collate_fn=items.collate,
        num_workers=data.num_workers if items.slow else 0,
        pin_memory=torch.cuda.is_available(),
    )
    return Loaders(stream, _held_out(data, val, inputs))


def split_loader(data: IntentData, split: str, inputs: Inputs, names: Names | None = None) -> DataLoader[IntentBatch]:
    """Return the loader of one split for evaluation: each image once, in order, labels 0 and 1."""
    return _held_out(data, load_split(data, split, inputs.classes, names), inputs)


def _held_out(data: IntentData, split: Split, inputs: Inputs) -> DataLoader[IntentBatch]:
    labels = labels_of(split.annotations, "any" if data.labels == "soft" else data.labels)
    items = _items(data, split, labels, 0, inputs, training=False)
    return ordered(
        items.dataset,
        data.batch_size,
        collate_fn=items.collate,
        num_workers=data.num_workers if items.slow else 0,
        pin_memory=torch.cuda.is_available(),
    )


class _Items(NamedTuple):
    """A data set, how its items become a batch, and whether worker processes help."""

    dataset: "Dataset[IntentBatch] | ImageFolder"
    collate: "Callable[[IntentBatch], IntentBatch] | Callable[[Sequence[ImageItem | None]], IntentBatch]"
    slow: bool = True


def _items(data: IntentData, split: Split, labels: Tensor, seed: int, inputs: Inputs, training: bool) -> _Items:
    ids = [split.annotations.ids[row] for row in split.available]
    known = Labelled(labels[split.available], ids, split.missing, split.name, tuple(split.annotations.names))
    if data.ids:
        cache = open_ids(data)
        header = cache.header
        counts = Counts(known, count_ids(cache, split.keys), header["anchors"], header["token_types"])
        return _Items(counts, _same, slow=False)
    if data.cache:
        tokens = Tokens(known, TokenCache(data.cache), split.keys, inputs.token_types, inputs.pooled_only)
        return _Items(tokens, _same)
    on_error = "replace" if training else "skip"
    folder = ImageFolder(split.keys, _view(data, inputs), seed, on_error, cache_mb=0)
    row_of = {path: row for row, path in enumerate(split.keys)}
    return _Items(folder, partial(_collate_images, known=known, row_of=row_of))


def _same(batch: IntentBatch) -> IntentBatch:
    return batch


class Labelled(NamedTuple):
    """The labels of the M images of a split that exist."""

    targets: Tensor  # (M, C) float32
    image_ids: list[str]  # M
    missing: list[str]  # files that do not exist
    split: str = "val"
    classes: Sequence[str] = ()  # C, names of the columns

    def batch(self, rows: Sequence[int]) -> IntentBatch:
        """Return a batch with labels and image ids only."""
        ids = [self.image_ids[row] for row in rows]
        targets, missing = self.targets[list(rows)], len(self.missing)
        return IntentBatch(targets, ids, missing=missing, split=self.split, classes=self.classes)


def _rows(draws: Sequence[Draw | int]) -> list[int]:
    return [draw.index if isinstance(draw, Draw) else int(draw) for draw in draws]


# ------------------------------------------------------------------------------------------------------------- images


def _view(data: IntentData, inputs: Inputs) -> Transform:
    """The image encoder's own preprocessing, but in [-1, 1]: its `normalise` does the rest."""
    if inputs.preprocess is None:
        raise TypeError("without data.cache and data.ids the loaders need inputs.preprocess, the image encoder's own")
    preprocess = inputs.preprocess().signed()
    if data.image_size:
        preprocess = preprocess.to((data.image_size, data.image_size))
    return partial(_preprocessed, preprocess=preprocess)


def _preprocessed(image: Image.Image, generator: torch.Generator | None = None, *, preprocess: Preprocess) -> Tensor:
    return preprocess(image)


def _collate_images(items: Sequence[ImageItem | None], *, known: Labelled, row_of: Mapping[str, int]) -> IntentBatch:
    images = collate_images(items)
    batch = known.batch([row_of[path] for path in images.paths])  # a replacement comes with its own labels
    return batch._replace(images=images.images, skipped=images.skipped)


# ------------------------------------------------------------------------------------------------------------- tokens


class Tokens(Dataset[IntentBatch]):
    """Rows of a TokenCache, a batch at a time; workers open its files themselves."""

    def __init__(
        self,
        known: Labelled,
        cache: TokenCache,
        keys: Sequence[str],
        token_types: Sequence[str] = (),
        pooled_only: bool = False,
    ) -> None:
        """keys: M content keys. token_types: empty for all that the cache has. pooled_only: no patch tokens."""
        self.known, self.cache, self.keys = known, cache, list(keys)
        self.token_types = [] if pooled_only else _chosen(cache, token_types)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, draw: Draw | int) -> IntentBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> IntentBatch:
        rows = _rows(draws)
        tokens = _read(self.cache, [self.keys[row] for row in rows], [*self.token_types, "pooled"])
        return self.known.batch(rows)._replace(pooled=tokens.pop("pooled"), tokens=tokens)


def _chosen(cache: TokenCache, token_types: Sequence[str]) -> list[str]:
    found = cache.types()
    if lacking := sorted(set(token_types) - set(found)):
        raise SightwordError(
            f"{cache.out} has {', '.join(found)} tokens and no {', '.join(lacking)}. Write another cache with "
            f"sightword cache token_type={','.join([*found, *lacking])} out=…"
        )
    return list(dict.fromkeys(token_types)) or found


def _read(cache: TokenCache, keys: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
    """Name → (B, …). By content key: a path that is not in the index would be read and hashed each time."""
    parts = [next(part for part in cache.segments if key in part) for key in keys]
    return {
        name: torch.from_numpy(np.stack([part.get(key, name) for part, key in zip(parts, keys, strict=True)]))
        for name in names
    }


# ------------------------------------------------------------------------------------------------------------- counts


class Counts(Dataset[IntentBatch]):
    """How often each code occurs in each image, all in memory."""

    def __init__(
        self,
        known: Labelled,
        counts: Mapping[str, Tensor],
        anchors: str = "",
        token_types: Mapping[str, str] | None = None,
    ) -> None:
        """counts: stream → (M, K), of any dtype; batches are float32. Others: as `IntentBatch` has them."""
        if wrong := {name: len(values) for name, values in counts.items() if len(values) != len(known.image_ids)}:
            raise ValueError(f"expected counts of {len(known.image_ids)} images, got {wrong}")
        self.known, self.counts, self.anchors = known, dict(counts), anchors
        self.token_types = None if token_types is None else dict(token_types)

    def __len__(self) -> int:
        return len(self.known.image_ids)

    def __getitem__(self, draw: Draw | int) -> IntentBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> IntentBatch:
        rows = _rows(draws)
        counts = {name: values[rows].float() for name, values in self.counts.items()}
        return self.known.batch(rows)._replace(counts=counts, anchors=self.anchors, token_types=self.token_types)


def count_ids(cache: ImageCache, keys: Sequence[str]) -> dict[str, Tensor]:
    """Return stream → (M, K) int32, how many patches of an image have each code, of what `sightword ids` wrote.

    keys: M content keys.
    """
    ids = np.stack([cache.rows.get(key, "ids") for key in keys])  # (M, S, N)
    found = {}
    for number, (stream, size) in enumerate(sorted(cache.header["streams"].items())):
        each = torch.from_numpy(ids[:, number].astype(np.int64))  # (M, N)
        found[stream] = torch.zeros(len(keys), size, dtype=torch.int32)
        found[stream].scatter_add_(1, each, torch.ones_like(each, dtype=torch.int32))
    return found


def open_cache(data: IntentData) -> ImageCache | None:
    """Open the cache that batches are read from: of ids, or of tokens; None without."""
    if data.ids:
        return open_ids(data)
    return TokenCache(data.cache) if data.cache else None


def open_ids(data: IntentData) -> ImageCache:
    """Open data.ids. Raises SightwordError if another program wrote it."""
    cache = ImageCache(Path(data.ids).expanduser(), command="sightword ids anchors=… tokens=…")
    if lacking := [name for name in ("streams", "anchors", "token_types") if name not in cache.header]:
        raise SightwordError(
            f"the header of data.ids={data.ids} has no {' and no '.join(lacking)}: sightword ids did not write it"
        )
    return cache
