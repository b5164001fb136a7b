"""People and sentences as batches: pairs to train on, then all images and all captions apart to measure on.

Legend: B batch; H, W pixels; L tokens; h·w image codes; M images and C captions of a split; P identities of a batch
with K captions each.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightword.data.image import read_image, squash
from sightword.data.loader import Draw, Loaders, Shuffled, Stream, generator_of, mix, ordered
from sightword.storage import shards
from sightword.systems.retrieval.caption import Captions, Masking
from sightword.systems.retrieval.codes import Codes
from sightword.systems.retrieval.config import RetrievalData
from sightword.systems.retrieval.pedes import Split, annotation_file, image_folder, read_pedes
from sightword.systems.retrieval.view import Augmentation, Cells
from sightword.towers.tokenizer import TextTokenizer

VIEW, WORDS, HIDE = 1, 2, 3  # what a draw's generator is for, so that none disturbs another


class PedesBatch(NamedTuple):
    """Captions, each with its image. What nobody asked for is None."""

    images: Tensor  # (B, 3, H, W) float32 in [-1, 1]; a tower's own `preprocess.normalise` makes its input of them
    pids: Tensor  # (B,) int64: 0 to P - 1 over the training identities; as read elsewhere
    caption_ids: Tensor  # (B, L) int64, padded on the right to the longest, or to the tokenizer's fixed length
    caption_attn_mask: Tensor  # (B, L) bool
    index: Tensor  # type: ignore[assignment]  # (B,) int64, which image of the split
    masked_ids: Tensor | None = None  # (B, L) int64, caption_ids of which some are hidden
    masked_labels: Tensor | None = None  # (B, L) int64, the hidden ids; -100 elsewhere
    masked_images: Tensor | None = None  # (B, 3, H, W) generation view, hidden cells at 0
    vq_target_ids: Tensor | None = None  # (B, h·w) int64, image codes of the generation view, rows first
    vq_target_attn_mask: Tensor | None = None  # (B, h·w) bool, True where hidden, so to be predicted
    vq_images: Tensor | None = None  # (B, 3, H, W) generation view, nothing hidden: only where no cache has its codes


class ImageRows(NamedTuple):
    """Images of a split, to be encoded once."""

    images: Tensor  # (B, 3, H, W) float32 in [-1, 1]
    pids: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, which image of the split
    split: str = "val"


class TextRows(NamedTuple):
    """Captions of a split, to be encoded once; those of a batch are about as long."""

    caption_ids: Tensor  # (B, L) int64
    caption_attn_mask: Tensor  # (B, L) bool
    pids: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, which caption of the split


# ---------------------------------------------------------------------------------------------------------- loaders


def make_loaders(
    data: RetrievalData,
    tokenizer: TextTokenizer,
    patch: tuple[int, int] | int = 1,
    seed: int = 0,
    expect: Mapping[str, Any] | None = None,
    factor: int = 0,
) -> Loaders:
    """Training gives `PedesBatch`. Validation gives all images once as `ImageRows`, then all captions once as
    `TextRows`, then, where cells are hidden, each image with its first caption as `PedesBatch`, undisturbed.

    tokenizer, patch: of the text and the image tower of the run. expect: what the header of data.vq_codes must say, as
    {"num_codes": 1024, "weights": digest}. factor: pixels of a code, where data.hide has no data.vq_codes and the
    network encodes `vq_images` itself, slowly.
    """
    size, view = _sizes(data), _view(data, patch, expect, factor)
    held = _measured(data, "val", tokenizer, view)
    split = read_pedes(data.root, data.dataset, "train", data.hold_out)
    captions = _captions(split, tokenizer, data, mirrored=data.flip == "swap")
    augmentation = Augmentation(size, data.flip == "swap", data.pad, data.erase)
    masking = Masking.of(tokenizer, data.mask_text) if data.mask_text else None
    pairs = Pairs(split, captions, augmentation, masking, view and view.of(split, data), seed)
    shuffled = None
    if data.sampler == "identity":
        shuffled = Identities(split.caption_pids, data.batch_size, data.instances, seed)
    return Loaders(Stream(pairs, data.batch_size, seed, shuffled=shuffled, **_options(data)), held)


def split_loader(
    data: RetrievalData,
    split: str,
    tokenizer: TextTokenizer,
    patch: tuple[int, int] | int = 1,
    expect: Mapping[str, Any] | None = None,
    factor: int = 0,
) -> DataLoader:
    """A split to measure on, train, val or test; what it gives and what it is told is as `make_loaders` has it."""
    return _measured(data, split, tokenizer, _view(data, patch, expect, factor))


def _measured(data: RetrievalData, split: str, tokenizer: TextTokenizer, view: "Generation | None") -> DataLoader:
    known = read_pedes(data.root, data.dataset, split, data.hold_out)
    measured = Measured(known, _captions(known, tokenizer, data), _sizes(data), view and view.of(known, data))
    return ordered(measured, data.batch_size, shuffled=Kinds(measured.kinds(), data.batch_size), **_options(data))


def _sizes(data: RetrievalData) -> tuple[int, int]:
    return data.image_size[0], data.image_size[1]


def _view(
    data: RetrievalData, patch: tuple[int, int] | int, expect: Mapping[str, Any] | None, factor: int
) -> "Generation | None":
    patches = (patch, patch) if isinstance(patch, int) else patch
    return _generation(data, patches, expect, factor) if data.hide else None


def _captions(split: Split, tokenizer: TextTokenizer, data: RetrievalData, mirrored: bool = False) -> Captions:
    captions = Captions(split.captions, tokenizer, data.text_length, mirrored)
    if captions.truncated:
        length = data.text_length or tokenizer.length
        shards.say(
            f"{split.name}: {captions.truncated} of {len(captions.starts) - 1} captions are cut to {length} tokens"
        )
    return captions


def _options(data: RetrievalData) -> dict[str, Any]:
    return {"collate_fn": _as_it_is, "num_workers": data.num_workers, "pin_memory": torch.cuda.is_available()}


def _as_it_is(batch: Any) -> Any:
    """The data sets here give whole batches."""
    return batch


# --------------------------------------------------------------------------------------------------------- samplers


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
            raise ValueError(f"batch_size {batch_size} is no multiple of {instances} instances of an identity")
        self.instances = instances
        _, inverse, counts = np.unique(pids, return_inverse=True, return_counts=True)
        self.members = np.split(np.argsort(inverse, kind="stable"), counts.cumsum()[:-1])  # of each identity
        self.groups = np.maximum(counts // instances, 1)  # each identity's in an epoch
        super().__init__(int(self.groups.sum()) * instances, batch_size, seed, rank=rank, world=world)

    def order(self, epoch: int) -> np.ndarray:
        """Captions, batch after batch of all ranks."""
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
            raise ValueError(
                f"a batch of {persons} identities with {self.instances} captions each, and there are "
                f"{len(self.members)} identities: lower data.batch_size, or raise data.instances"
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


# -------------------------------------------------------------------------------------------------------- data sets


class Generation(NamedTuple):
    """What the generator is shown and asked: which cells are hidden, and the codes of all."""

    cells: Cells
    share: float  # of the cells that are hidden
    codes: Codes | None  # None: the network encodes `vq_images` itself
    ids: Tensor | None = None  # (M, h·w) int32, the codes of a split's images

    def of(self, split: Split, data: RetrievalData) -> "Generation":
        """With the codes of a split."""
        if self.codes is None:
            return self
        return self._replace(ids=self.codes.rows(split.images, image_folder(annotation_file(data.root, data.dataset))))

    def batch(self, whole: Tensor, rows: Sequence[int], draws: Sequence[Draw], seed: int) -> dict[str, Tensor]:
        """Images (B, 3, H, W) and their rows in the split to the fields of a `PedesBatch`."""
        hidden = torch.stack([self.cells.draw(self.share, generator_of(mix(seed, HIDE), draw)) for draw in draws])
        fields = {
            "masked_images": self.cells.hide(whole, hidden),
            "vq_target_attn_mask": self.cells.hidden_codes(hidden),
        }
        return fields | ({"vq_images": whole} if self.ids is None else {"vq_target_ids": self.ids[list(rows)].long()})


def _generation(
    data: RetrievalData, patch: tuple[int, int], expect: Mapping[str, Any] | None, factor: int
) -> Generation:
    size = (data.image_size[0], data.image_size[1])
    if data.vq_codes:
        codes = Codes(data.vq_codes, size, expect)
        return Generation(Cells.of(size, patch, codes.grid), data.hide, codes)
    command = f"sightword tokenize images=…/imgs size={size[0]} width={size[1]} out=…"
    if not factor:
        raise ValueError(
            f"data.hide={data.hide} asks for image codes and data.vq_codes is not set: {command} writes them"
        )
    shards.say(f"image codes are computed anew for each batch, which is slow: {command} and data.vq_codes=… do it once")
    if size[0] % factor or size[1] % factor:
        raise ValueError(f"codes of {factor} pixels do not divide images of {size[0]}x{size[1]}: set data.image_size")
    return Generation(Cells.of(size, patch, (size[0] // factor, size[1] // factor)), data.hide, None)


class Pairs(Dataset[PedesBatch]):
    """Captions by number, each with its image, a batch at a time; a function of (seed, epoch, caption) alone."""

    def __init__(
        self,
        split: Split,
        captions: Captions,
        augmentation: Augmentation,
        masking: Masking | None = None,
        generation: Generation | None = None,
        seed: int = 0,
    ) -> None:
        self.split, self.captions, self.seed = split, captions, seed
        self.augmentation, self.masking, self.generation = augmentation, masking, generation

    def __len__(self) -> int:
        return len(self.split.captions)

    def __getitem__(self, draw: Draw | int) -> PedesBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> PedesBatch:
        draws = _as_draws(draws)
        rows = self.split.caption_image[[draw.index for draw in draws]]
        pictures = [read_person(self.split.images[row]) for row in rows]
        seed = mix(self.seed, VIEW)
        seen = [
            self.augmentation(picture, generator_of(seed, draw)) for picture, draw in zip(pictures, draws, strict=True)
        ]
        ids, mask = self.captions.batch([draw.index for draw in draws], [mirrored for _, mirrored in seen])
        batch = PedesBatch(
            torch.stack([image for image, _ in seen]),
            torch.from_numpy(self.split.pids[rows]),
            ids,
            mask,
            torch.from_numpy(rows),
        )
        if self.masking is not None:
            hidden, labels = self.masking(ids, mask, draws, mix(self.seed, WORDS))
            batch = batch._replace(masked_ids=hidden, masked_labels=labels)
        if self.generation is not None:
            whole = torch.stack([squash(*self.augmentation.size)(picture, None) for picture in pictures])
            batch = batch._replace(**self.generation.batch(whole, rows.tolist(), draws, self.seed))
        return batch


class Measured(Dataset[Any]):
    """A split as it is measured, a batch of one kind at a time; nothing is drawn but what is hidden, always the same.

    Items 0 to M - 1 are images, the next C are captions, and with `generation` the next M are pairs.
    """

    def __init__(
        self, split: Split, captions: Captions, size: tuple[int, int], generation: Generation | None = None
    ) -> None:
        self.split, self.captions, self.size, self.generation = split, captions, size, generation
        self.first = np.unique(split.caption_image, return_index=True)[1]  # (M,) each image's first caption

    def kinds(self) -> list[np.ndarray]:
        """Items kind after kind: images, captions from the shortest to the longest, pairs."""
        images, captions = len(self.split.images), len(self.split.captions)
        texts = images + np.argsort(self.captions.lengths, kind="stable")
        pairs = images + captions + np.arange(images if self.generation else 0)
        return [np.arange(images), texts, pairs]

    def __len__(self) -> int:
        return sum(map(len, self.kinds()))

    def __getitem__(self, draw: Draw | int) -> ImageRows | TextRows | PedesBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> ImageRows | TextRows | PedesBatch:
        numbers = np.array([draw.index for draw in _as_draws(draws)])
        images, captions = len(self.split.images), len(self.split.captions)
        kind = np.searchsorted([images, images + captions], numbers, side="right")
        assert kind.min() == kind.max(), "a batch is of one kind"
        if kind[0] == 0:
            pids = torch.from_numpy(self.split.pids[numbers])
            return ImageRows(self._images(numbers), pids, torch.from_numpy(numbers), self.split.name)
        if kind[0] == 1:
            rows = numbers - images
            return TextRows(
                *self.captions.batch(rows), torch.from_numpy(self.split.caption_pids[rows]), torch.from_numpy(rows)
            )
        return self._pairs(numbers - images - captions)

    def _images(self, rows: np.ndarray) -> Tensor:
        return torch.stack([squash(*self.size)(read_person(self.split.images[row]), None) for row in rows])

    def _pairs(self, rows: np.ndarray) -> PedesBatch:
        assert self.generation is not None
        whole = self._images(rows)
        ids, mask = self.captions.batch(self.first[rows])
        fields = self.generation.batch(whole, rows.tolist(), [Draw(0, int(row)) for row in rows], 0)
        return PedesBatch(whole, torch.from_numpy(self.split.pids[rows]), ids, mask, torch.from_numpy(rows))._replace(
            **fields
        )


def _as_draws(draws: Sequence[Draw | int]) -> list[Draw]:
    return [draw if isinstance(draw, Draw) else Draw(0, int(draw)) for draw in draws]


def read_person(path: Path) -> Image.Image:
    """`read_image`, and of one that cannot be read what to do about a set's."""
    try:
        return read_image(path)
    except ValueError as error:  # whose own advice is about options that are not here
        raise ValueError(
            f"{str(error).rpartition(': ')[0]}: sightword check names all such files of the set"
        ) from error
