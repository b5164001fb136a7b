"""Loaders of pairs to train on and of a split to measure: which items make which batch, and how the parts are made.

Legend: M images, C captions of a split; h·w VQ ids of an image; P identities of a batch with K captions each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sightword.data.loader import Draw, LoaderOptions, Loaders, Shuffled, Stream, mix, ordered
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.systems.retrieval.alike import Alike, nearest_people
from sightword.systems.retrieval.config import RetrievalData
from sightword.systems.retrieval.data import (
    Augmentation,
    Batch,
    Captions,
    Cells,
    Hiding,
    Masking,
    Measured,
    Pairs,
    Paraphrases,
    whole_batch,
)
from sightword.systems.retrieval.split import Source, Split, read_paraphrases, read_split
from sightword.systems.retrieval.truth import Truth, read_truth
from sightword.towers.tokenizer import TextTokenizer
from sightword.towers.vq.ids import IdCache, View, tokenize_command


@dataclass(frozen=True)
class Inputs:
    """Facts about the networks that the batches are for, which the loaders need."""

    tokenizer: TextTokenizer  # of the text encoder
    patch: tuple[int, int] = (1, 1)  # pixels of the image encoder's patch
    ids: Mapping[str, object] = field(default_factory=dict)  # what data.vq_ids' header must say, as {"num_codes": 64}
    factor: int = 0  # pixels of a side of a VQ id, if the network can encode `vq_images` itself; 0: it cannot


def make_loaders(data: RetrievalData, inputs: Inputs, seed: int = 0, names: Names | None = None) -> Loaders[Batch]:
    """Return the training and the validation loader.

    Training gives `PedesBatch`. Validation gives all images once as `ImageRows`, then all captions once as
    `TextRows`, then, if cells are hidden, each image with its first caption as `PedesBatch`, not augmented, for each of
    `HIDE_WAYS`.
    names: the images of each split that are used, below imgs/; None or a missing split: all.
    """
    hiding = _hiding(data, inputs) if data.hide else None
    held = _measured(data, "val", inputs, hiding, names)
    split = read_split(_source(data), "train", data.hold_out, names)
    others = read_paraphrases(_source(data), split) if data.paraphrase else []
    pairs = Pairs(
        split,
        _captions(split, data, inputs.tokenizer, data.flip == "swap", [text for each in others for text in each]),
        Augmentation(_size(data), data.flip == "swap", data.pad, data.erase),
        Masking.of(inputs.tokenizer, data.mask_text) if data.mask_text else None,
        hiding and _with_ids(hiding, split, data),
        seed,
        Paraphrases(data.paraphrase, len(split.captions) + np.cumsum([0, *map(len, others)])) if others else None,
        data.keep_images,
    )
    shuffled = _sampler(data, split.caption_pids, pairs.captions, seed)
    return Loaders(Stream(pairs, data.batch_size, seed, shuffled=shuffled, **_options(data)), held)


def split_loader(data: RetrievalData, split: str, inputs: Inputs, names: Names | None = None) -> DataLoader[Batch]:
    """Return the loader of a split to measure: train, val or test. Batches as validation's in `make_loaders`."""
    return _measured(data, split, inputs, _hiding(data, inputs) if data.hide else None, names)


def _measured(
    data: RetrievalData, split: str, inputs: Inputs, hiding: Hiding | None, names: Names | None
) -> DataLoader[Batch]:
    known = read_split(_source(data), split, data.hold_out, names)
    captions = _captions(known, data, inputs.tokenizer)
    truth = partial(_truth, data, known)
    measured = Measured(known, captions, _size(data), hiding and _with_ids(hiding, known, data), truth)
    return ordered(measured, data.batch_size, shuffled=Kinds(measured.kinds(), data.batch_size), **_options(data))


def _sampler(data: RetrievalData, pids: np.ndarray, captions: Captions, seed: int) -> Shuffled | None:
    """Return the sampler of training batches; None for the usual one. pids: (C,) of the captions."""
    if data.sampler == "identity":
        return Identities(pids, data.batch_size, data.instances, seed)
    if data.sampler == "alike":
        lengths = captions.lengths[: len(pids)]
        nearest = nearest_people(captions.flat[: lengths.sum()], lengths, pids)
        return Alike(pids, nearest, data.batch_size, data.instances, data.alike, data.alike_after, seed)
    return None


def _truth(data: RetrievalData, split: Split) -> Truth | None:
    """Return what is known of a split; nothing of train, whose ids are renumbered."""
    return None if split.name == "train" else read_truth(_source(data).read(), split)


def _source(data: RetrievalData) -> Source:
    return Source(data.dataset, data.root, data.images)


def _size(data: RetrievalData) -> tuple[int, int]:
    return data.image_size[0], data.image_size[1]


def _captions(
    split: Split, data: RetrievalData, tokenizer: TextTokenizer, mirrored: bool = False, others: Sequence[str] = ()
) -> Captions:
    captions = Captions([*split.captions, *others], tokenizer, data.text_length, mirrored)
    if captions.truncated:
        length = data.text_length or tokenizer.length
        shards.say(
            f"{split.name}: {captions.truncated} of {len(captions.starts) - 1} captions are cut to {length} tokens"
        )
    return captions


def _hiding(data: RetrievalData, inputs: Inputs) -> Hiding:
    """Which cells can be hidden, and where VQ ids come from."""
    size, factor = _size(data), inputs.factor
    if data.vq_ids:
        source = ImageIds(data.vq_ids, size, inputs.ids)
        return Hiding(Cells.of(size, inputs.patch, source.grid), data.hide, source, data.hide_way, data.hide_rows)
    command = tokenizing(size)
    if not factor:
        raise SightwordError(f"data.hide={data.hide} needs VQ ids, and data.vq_ids is not set. Write them: {command}")
    shards.say(f"VQ ids are computed again for each batch, which is slow: {command} and data.vq_ids=… do it once")
    if size[0] % factor or size[1] % factor:
        raise SightwordError(
            f"VQ ids of {factor} pixels do not divide images of {size[0]}x{size[1]}. Set data.image_size"
        )
    cells = Cells.of(size, inputs.patch, (size[0] // factor, size[1] // factor))
    return Hiding(cells, data.hide, None, data.hide_way, data.hide_rows)


def _with_ids(hiding: Hiding, split: Split, data: RetrievalData) -> Hiding:
    if hiding.source is None:
        return hiding
    return hiding._replace(ids=hiding.source.rows(split.images, _source(data).read().folder))


def _options(data: RetrievalData) -> LoaderOptions:
    return {"collate_fn": whole_batch, "num_workers": data.num_workers, "pin_memory": torch.cuda.is_available()}


# ----------------------------------------------------------------------------------------------------------- samplers


class Identities(Shuffled):
    """Batches of P identities with K captions each, no identity twice; the ranks' batches together are such a one.

    An epoch has as many batches as whole groups of K captions fill; an identity with fewer than K captions gives some
    of them twice. The more groups of an identity are left, the likelier it is next, and near an epoch's end, when too
    few have any left, others come again.
    """

    def __init__(
        self,
        pids: np.ndarray,
        batch_size: int,
        instances: int,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """pids: (C,) of the captions. batch_size: of one rank, a multiple of `instances`."""
        if batch_size % instances:
            raise SightwordError(f"batch_size={batch_size} is not a multiple of instances={instances}")
        self.instances = instances
        _, inverse, counts = np.unique(pids, return_inverse=True, return_counts=True)
        self.members = np.split(np.argsort(inverse, kind="stable"), counts.cumsum()[:-1])  # of each identity
        self.groups = np.maximum(counts // instances, 1)  # each identity's in an epoch
        super().__init__(int(self.groups.sum()) * instances, batch_size, seed, rank=rank, world=world)

    def order(self, epoch: int) -> np.ndarray:
        """Return captions, batch after batch of all ranks, (N,) int64."""
        rng, (_, world) = np.random.default_rng(mix(self.seed, epoch)), self.place()
        persons = self.batch_size * world // self.instances  # P
        left, waiting = self.groups.copy(), [rng.permutation(self._filled(own)) for own in self.members]
        chosen = []
        for _ in range(self.size // (self.batch_size * world)):
            # exponentials divided by weights, the least ones: a draw without replacement (Efraimidis 2006)
            lot = rng.exponential(size=len(left)) / np.where(left > 0, left, 1e-9)
            for person in np.argpartition(lot, persons - 1)[:persons].tolist():
                left[person] = max(left[person] - 1, 0)
                group, waiting[person] = np.split(waiting[person], [self.instances])
                chosen.append(group)
                if len(waiting[person]) < self.instances:
                    waiting[person] = rng.permutation(self._filled(self.members[person]))
        return np.concatenate(chosen)

    def _filled(self, own: np.ndarray) -> np.ndarray:
        """An identity's captions, over again until there are K."""
        return np.resize(own, max(len(own), self.instances))

    def _refuse_empty(self) -> None:
        super()._refuse_empty()
        persons = self.batch_size * self.place()[1] // self.instances
        if persons > len(self.members):
            raise SightwordError(
                f"a batch needs {persons} identities with {self.instances} captions each, and there are "
                f"{len(self.members)} identities. Lower data.batch_size, or raise data.instances"
            )


class Kinds(Shuffled):
    """Batches for evaluation, no batch of two kinds: the items of the first kind in the order given, then the next.

    Every item comes exactly once; a batch is shared among the ranks as evenly as it can be.
    """

    def __init__(
        self, kinds: Sequence[np.ndarray], batch_size: int, rank: int | None = None, world: int | None = None
    ) -> None:
        self.kinds = [np.asarray(kind) for kind in kinds]
        super().__init__(sum(map(len, self.kinds)), batch_size, shuffle=False, drop_last=False, rank=rank, world=world)

    def __len__(self) -> int:
        return sum(1 for _ in self._shares())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        for number, share in enumerate(self._shares()):
            if number >= start:
                yield [Draw(epoch, int(index)) for index in share]

    def order(self, epoch: int) -> np.ndarray:
        return np.concatenate(self.kinds)

    def _shares(self) -> Iterator[np.ndarray]:
        rank, world = self.place()
        step = self.batch_size * world
        for kind in self.kinds:
            for start in range(0, len(kind), step):
                if len(share := np.array_split(kind[start : start + step], world)[rank]):
                    yield share


# ------------------------------------------------------------------------------------------------------------ VQ ids


def tokenizing(size: tuple[int, int], images: str | Path = "…/imgs", out: str | Path = "…") -> str:
    """Return the command that writes the ids of whole images, resized to size (H, W)."""
    return tokenize_command("", "", images, out, View(*size))


class ImageIds:
    """VQ ids of the whole images of a data set, resized to one size, as `sightword tokenize` keeps them.

    The whole image, without a crop, because the image encoder is given the whole image, too.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], expect: Mapping[str, object] | None = None) -> None:
        """size: H, W of the images that the encoder is given. expect: more of the cache's header, as {"num_codes": 64}.

        Raises SightwordError if the cache is of images of another size, of crops, or by another tokenizer.
        """
        self.cache = IdCache(path, expect)
        header = self.cache.header
        shape = header["shapes"].get("ids", [])
        if len(shape) != 2 or not header["num_codes"]:
            raise SightwordError(
                f"{path} contains no ids of images but {', '.join(header['shapes'])}. Write them with "
                f"{tokenizing(size)}"
            )
        found, wanted = header["preprocessing"], {"resize": f"{size[0]}x{size[1]}, bicubic", "crop": "none"}
        if any(found.get(name) != value for name, value in wanted.items()):
            raise SightwordError(
                f"{path} has ids of images resized to {found.get('resize')} (crop: {found.get('crop')}), expected "
                f"whole images of {size[0]}x{size[1]}. Write them with {tokenizing(size)}, or change data.image_size"
            )
        self.size = size
        self.grid: tuple[int, int] = (shape[0], shape[1])  # h, w

    def rows(self, images: Sequence[Path], folder: Path) -> Tensor:
        """Return the ids of images, (M, h·w) int32, rows of the grid first; a batch converts them to int64.

        folder: the images' own, imgs/. Raises SightwordError, with the first image's name, if images have no ids, as
        those that were replaced since.
        """
        keys = self._keys_of_paths(images, folder) if self.cache.is_old else list(map(self._key, images))
        there = self.cache.keys()
        if missing := [path for path, key in zip(images, keys, strict=True) if key not in there]:
            replaced = sum(map(self.cache.is_indexed, missing))
            told = f" ({replaced} changed since they were encoded)" if replaced else ""
            raise SightwordError(
                f"{len(missing)} of {len(images)} images have no ids in {self.cache.out}, as "
                f"{missing[0].relative_to(folder)}{told}. "
                f"This computes them, and only them: {tokenizing(self.size, folder, self.cache.out)}"
            )
        rows = [self.cache.rows.get(key, "ids").reshape(-1) for key in keys]
        return torch.from_numpy(np.stack(rows).astype(np.int32))

    def _key(self, image: Path) -> str:
        return self.cache.key_of(image.absolute())

    def _keys_of_paths(self, images: Sequence[Path], folder: Path) -> list[str]:
        """The keys in a cache of an earlier version: paths below imgs/, or below one of the two folders above."""
        for above in (folder, folder.parent, folder.parent.parent):
            keys = [path.relative_to(above).as_posix() for path in images]
            if keys[0] in self.cache or keys[-1] in self.cache:
                break
        return keys
