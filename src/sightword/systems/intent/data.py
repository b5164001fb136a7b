"""Photos with the reasons why they were posted: pictures, the tokens a tower saw in them, or the words found there.

Pictures if nothing else is said (the tower runs each time), tokens with data.cache, counts of words with data.codes.
Labels and their order are the same whichever it is.

Legend: B batch; M images of a split that are there; C classes; N patches; D token width; E pooled width; K codes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sightword.data.image import ImageFolder, ImageItem, collate_images, read_image
from sightword.data.loader import Draw, Loaders, Stream, ordered
from sightword.storage import shards
from sightword.storage.cache import FeatureCache
from sightword.systems.intent.config import IntentData
from sightword.systems.intent.intentonomy import Annotations, annotation_file, read_annotations
from sightword.towers.preprocess import Preprocess
from sightword.towers.token_cache import TokenCache, content_key


class IntentBatch(NamedTuple):
    """Labels and one of: pictures, tokens with the pooled vector, counts. What it has not is None.

    In evaluation a batch of pictures has B = 0 where not one file of it could be read.
    """

    targets: Tensor  # (B, C) float32 in [0, 1]
    image_ids: list[str]  # B
    images: Tensor | None = None  # (B, 3, S, S) float32 in [-1, 1]
    tokens: dict[str, Tensor] | None = None  # form → (B, N, D), in the cache's dtype
    pooled: Tensor | None = None  # (B, E), in the cache's dtype
    counts: dict[str, Tensor] | None = None  # stream → (B, K) float32
    anchors: str = ""  # digest of the codebooks that the counts are of, where a file says so
    token_types: dict[str, str] | None = None  # stream → the tokens whose words were counted, where a file says so
    skipped: int = 0  # unreadable files of this batch: replaced in training, left out of evaluation
    missing: int = 0  # annotated images of the whole split that are not there; in each batch the same
    split: str = "val"  # where it is from; only validation may choose a threshold


class TokenRows(NamedTuple):
    """What a tower saw in some images, and which."""

    rows: Tensor  # (B,) int64, their numbers in the list that was asked for
    tokens: dict[str, Tensor]  # form → (B, N, D), in the cache's dtype
    pooled: Tensor  # (B, E)


Count = Callable[[TokenRows], Mapping[str, Tensor]]  # tokens to name → (B, K), numbers that stand for each image


# ----------------------------------------------------------------------------------------------------------- a split


class Split(NamedTuple):
    """A split and what of it there is."""

    annotations: Annotations  # all that is annotated, whether there or not
    available: list[int]  # M rows of the annotations
    keys: list[str]  # M: the paths of pictures; of tokens the content keys; of codes their keys
    missing: list[str]  # files that are annotated and not there, or not readable
    name: str = "val"


def load_split(data: IntentData, split: str) -> Split:
    """Which images of train, val or test are there; says how many are not.

    With a cache, an image is there if its row is, whether or not the picture still lies on this disk. ValueError if a
    picture is there and its row is not: that cache is not finished.
    """
    if not data.root:
        raise ValueError("data.root is not set: give the folder with intentonomy_{train,val,test}2020.json")
    notes = read_annotations(annotation_file(data.root, split))
    find = _finder(data)
    keys = {row: key for row, file in enumerate(notes.files) if (key := find(file)) is not None}
    missing = [file for row, file in enumerate(notes.files) if row not in keys]
    if data.cache or data.codes:
        _refuse_unfinished(data, missing)
    if not keys:
        raise ValueError(
            f"{data.codes or data.cache or images_of(data)} has not one of the {len(notes.files)} images of {split}, "
            f"the first is {notes.files[0]}: data.images is the folder that these lie below, also when they are cached"
        )
    if missing:
        shards.say(f"{split}: {len(missing)} of {len(notes.files)} images are not there, the first is {missing[0]}")
    return Split(notes, list(keys), list(keys.values()), missing, split)


def images_of(data: IntentData) -> Path:
    """The folder that the files of the annotations lie below."""
    return Path(data.images or data.root).expanduser()


def labels_of(annotations: Annotations, kind: str) -> Tensor:
    """(N, C) float32: soft, the shares of annotators themselves; any, 1 where a share is above 0; majority, 2 of 3."""
    if kind == "soft":
        return annotations.targets
    return (annotations.targets > {"any": 0.0, "majority": 0.5}[kind]).float()


def _finder(data: IntentData) -> Callable[[str], str | None]:
    """From a file of the annotations to the key of its row; None if there is none."""
    folder = images_of(data)
    if data.codes:
        codes = _open_codes(data)
        return lambda file: file if file in codes else None
    if not data.cache:
        return lambda file: str(folder / file) if (folder / file).is_file() else None
    cache = TokenCache(data.cache)
    there = cache.keys()

    def find(file: str) -> str | None:
        key = cache.index.get(file)
        if key not in there and (folder / file).is_file():
            key = content_key(folder / file)
        return key if key in there else None

    return find


def _refuse_unfinished(data: IntentData, files: Sequence[str]) -> None:
    """ValueError if a readable picture has no row: a missing or broken one is not to blame on the cache."""
    paths = [path for file in files if (path := images_of(data) / file).is_file()]
    first = next(filter(_readable, paths), None)
    if first is None:
        return
    if data.codes:
        raise ValueError(
            f"{len(paths)} images have no words in data.codes={data.codes}, the first is {first}: sightword codes "
            "finds them in a whole cache of tokens that is made of this folder of images"
        )
    token_types = ",".join(forms_of(TokenCache(data.cache)))
    raise ValueError(
        f"{len(paths)} images have no tokens in data.cache={data.cache}, the first is {first}: sightword cache tower=… "
        f"images={images_of(data)} tokens={token_types} out={data.cache} computes them"
    )


def _readable(path: Path) -> bool:
    try:
        read_image(path)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------- loaders


def make_loaders(
    data: IntentData, seed: int = 0, count: Count | None = None, token_types: Sequence[str] = ()
) -> Loaders:
    """Batches are `IntentBatch`: counts if `data.codes` or `count` says how, tokens with `data.cache`, else pictures.

    Training has the labels of `data.labels`; validation has 0 and 1, also where the labels trained on are soft.
    count: makes numbers of all tokens in `data.cache` once, before the first batch. forms: of the tokens, all if empty.
    """
    train, val = load_split(data, "train"), load_split(data, "val")
    if train.annotations.names != val.annotations.names:
        raise ValueError(f"train and val in {data.root} differ in their categories: they are of two sets")
    items = _items(data, train, labels_of(train.annotations, data.labels), seed, count, token_types, training=True)
    stream = Stream(items.dataset, data.batch_size, seed, **_options(data, items))
    return Loaders(stream, _held_out(data, val, count, token_types))


def split_loader(
    data: IntentData, split: str, count: Count | None = None, token_types: Sequence[str] = ()
) -> DataLoader:
    """One split for evaluation: each image once, in order, labels 0 and 1."""
    return _held_out(data, load_split(data, split), count, token_types)


def _held_out(data: IntentData, split: Split, count: Count | None, token_types: Sequence[str]) -> DataLoader:
    labels = labels_of(split.annotations, "any" if data.labels == "soft" else data.labels)
    items = _items(data, split, labels, 0, count, token_types, training=False)
    return ordered(items.dataset, data.batch_size, **_options(data, items))


class _Items(NamedTuple):
    """A data set, how its items make a batch, and whether workers help."""

    dataset: Dataset[Any]
    collate: Callable[[Any], IntentBatch]
    slow: bool = True


def _items(
    data: IntentData,
    split: Split,
    labels: Tensor,
    seed: int,
    count: Count | None,
    token_types: Sequence[str],
    training: bool,
) -> _Items:
    ids = [split.annotations.ids[row] for row in split.available]
    known = Labelled(labels[split.available], ids, split.missing, split.name)
    if data.codes:
        codes = _open_codes(data)
        said = codes.header
        counted = Counts(known, count_codes(codes, split.keys), said["anchors"], said["forms"])
        return _Items(counted, _as_it_is, slow=False)
    if count is not None:
        if not data.cache:
            raise ValueError("counts are of tokens, and data.cache is not set: sightword cache writes them")
        counts = count_tokens(TokenCache(data.cache), split.keys, count, token_types)
        return _Items(Counts(known, counts), _as_it_is, slow=False)
    if data.cache:
        return _Items(Tokens(known, TokenCache(data.cache), split.keys, token_types), _as_it_is)
    on_error = "replace" if training else "skip"
    folder = ImageFolder(split.keys, _view(data.image_size), seed, on_error, cache_mb=0)
    row_of = {path: row for row, path in enumerate(split.keys)}
    return _Items(folder, partial(_collate_pictures, known=known, row_of=row_of))


def _options(data: IntentData, items: _Items) -> dict[str, Any]:
    return {
        "collate_fn": items.collate,
        "num_workers": data.num_workers if items.slow else 0,
        "pin_memory": torch.cuda.is_available(),
    }


def _as_it_is(batch: IntentBatch) -> IntentBatch:
    return batch


class Labelled(NamedTuple):
    """The M images of a split that are there."""

    targets: Tensor  # (M, C) float32
    image_ids: list[str]  # M
    missing: list[str]  # files that are not there
    split: str = "val"

    def batch(self, rows: Sequence[int]) -> IntentBatch:
        """Their labels and names only."""
        ids = [self.image_ids[row] for row in rows]
        return IntentBatch(self.targets[list(rows)], ids, missing=len(self.missing), split=self.split)


def _rows(draws: Sequence[Draw | int]) -> list[int]:
    return [draw.index if isinstance(draw, Draw) else int(draw) for draw in draws]


# --------------------------------------------------------------------------------------------------------- pictures


def _view(size: int) -> Callable[[Image.Image, torch.Generator | None], Tensor]:
    """What a CLIP sees of a photo, (3, S, S), but in [-1, 1]; a tower's `preprocess.normalise` does the rest."""
    return partial(_preprocessed, preprocess=Preprocess((size, size), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def _preprocessed(picture: Image.Image, generator: torch.Generator | None = None, *, preprocess: Preprocess) -> Tensor:
    return preprocess(picture)


def _collate_pictures(items: Sequence[ImageItem | None], *, known: Labelled, row_of: Mapping[str, int]) -> IntentBatch:
    pictures = collate_images(items)
    batch = known.batch([row_of[path] for path in pictures.paths])  # a picture that stands in brings its own labels
    return batch._replace(images=pictures.images, skipped=pictures.skipped)


# ----------------------------------------------------------------------------------------------------------- tokens


def forms_of(cache: TokenCache) -> list[str]:
    """The forms of patch tokens that a cache has."""
    return [name for name in cache.header["shapes"] if name != "pooled"]


class Tokens(Dataset[IntentBatch]):
    """Rows of a TokenCache, a batch at a time; workers open its files themselves."""

    def __init__(
        self, known: Labelled, cache: TokenCache, keys: Sequence[str], token_types: Sequence[str] = ()
    ) -> None:
        self.known, self.cache, self.keys = known, cache, list(keys)
        self.token_types = _chosen(cache, token_types)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, draw: Draw | int) -> IntentBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> IntentBatch:
        rows = _rows(draws)
        tokens = _read(self.cache, [self.keys[row] for row in rows], [*self.token_types, "pooled"])
        return self.known.batch(rows)._replace(pooled=tokens.pop("pooled"), tokens=tokens)


def each_tokens(
    cache: TokenCache, keys: Sequence[str], token_types: Sequence[str] = (), batch: int = 64
) -> Iterator[TokenRows]:
    """All images of a split, each once, in the order in which they lie on the disk; `batch` of them in memory.

    keys: content keys, as `Split` has them. `rows` says which an image is, so `out[rows] = …` puts it in its place.
    forms: all that the cache has if empty. ValueError if a key has no row.
    """
    token_types = _chosen(cache, token_types)
    numbers: dict[str, list[int]] = {}  # a picture may be in a set twice
    for number, key in enumerate(keys):
        numbers.setdefault(key, []).append(number)
    stored = [key for part in cache.segments for key in part if key in numbers]
    if len(set(stored)) < len(numbers):
        raise ValueError(f"{cache.out} has no tokens of {len(numbers) - len(set(stored))} of {len(numbers)} images")
    rows = [number for key in dict.fromkeys(stored) for number in numbers[key]]
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        tokens = _read(cache, [keys[row] for row in some], [*token_types, "pooled"])
        yield TokenRows(torch.tensor(some), pooled=tokens.pop("pooled"), tokens=tokens)


def _chosen(cache: TokenCache, token_types: Sequence[str]) -> list[str]:
    there = forms_of(cache)
    if lacking := sorted(set(token_types) - set(there)):
        raise ValueError(
            f"{cache.out} has {', '.join(there)} tokens and no {', '.join(lacking)}: sightword cache "
            f"tokens={','.join([*there, *lacking])} out=… writes another cache"
        )
    return list(dict.fromkeys(token_types)) or there


def _read(cache: TokenCache, keys: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
    """Name → (B, …). By content key: a path that the index does not know would be read and hashed each time."""
    parts = [next(part for part in cache.segments if key in part) for key in keys]
    return {
        name: torch.from_numpy(np.stack([part.get(key, name) for part, key in zip(parts, keys, strict=True)]))
        for name in names
    }


# ----------------------------------------------------------------------------------------------------------- counts


class Counts(Dataset[IntentBatch]):
    """A few numbers for each image, all in memory: how often each word was found, or whatever else `Count` made."""

    def __init__(
        self,
        known: Labelled,
        counts: Mapping[str, Tensor],
        anchors: str = "",
        token_types: Mapping[str, str] | None = None,
    ) -> None:
        """counts: stream → (M, K), of any dtype; batches are float32. anchors, forms: as `IntentBatch` has them."""
        if wrong := {name: len(values) for name, values in counts.items() if len(values) != len(known.image_ids)}:
            raise ValueError(f"there are {len(known.image_ids)} images and counts of {wrong}")
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


def count_tokens(
    cache: TokenCache, keys: Sequence[str], count: Count, token_types: Sequence[str] = (), batch: int = 64
) -> dict[str, Tensor]:
    """Name → (M, K), on the CPU, in the dtype that `count` gives: each batch of tokens is read, counted, forgotten."""
    found: dict[str, Tensor] = {}
    progress = tqdm(total=len(keys), desc="counting words", unit=" images", disable=None)
    for some in each_tokens(cache, keys, token_types, batch):
        with torch.no_grad():
            counted = count(some)
        for name, values in counted.items():
            if name not in found:
                found[name] = torch.empty(len(keys), *values.shape[1:], dtype=values.dtype)
            found[name][some.rows] = values.detach().cpu()
        progress.update(len(some.rows))
    progress.close()
    return found


def count_codes(codes: FeatureCache, keys: Sequence[str]) -> dict[str, Tensor]:
    """Stream → (M, K) int32: how many patches of an image take each code, from the ids that `sightword codes` wrote."""
    ids = np.stack([codes.get(key, "ids") for key in keys])  # (M, S, N)
    found = {}
    for number, (stream, size) in enumerate(sorted(codes.header["streams"].items())):
        each = torch.from_numpy(ids[:, number].astype(np.int64))  # (M, N)
        found[stream] = torch.zeros(len(keys), size, dtype=torch.int32)
        found[stream].scatter_add_(1, each, torch.ones_like(each, dtype=torch.int32))
    return found


def _open_codes(data: IntentData) -> FeatureCache:
    codes = FeatureCache(data.codes)
    if lacking := [name for name in ("streams", "anchors", "forms") if name not in codes.header]:
        raise ValueError(
            f"data.codes={data.codes} says no {' and no '.join(lacking)}: sightword codes did not write it"
        )
    return codes
