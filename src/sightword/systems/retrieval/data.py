"""Images and captions as batches: what makes an item, and how it is augmented, masked and hidden.

Everything random about an item is a function of (seed, epoch, index), whatever batch and process it is in.

Legend: B batch; H, W pixels; L tokens of a batch's longest caption; V vocabulary; M images and C captions of a split;
u×v cells, the units that are hidden of an image; h×w VQ ids of an image. Images are float32 in [-1, 1].
"""

import copy
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sightword.data.image import read_image, resized, squash
from sightword.data.loader import Draw, generator_of, mix
from sightword.errors import SightwordError
from sightword.systems.retrieval.config import HIDE_WAYS, MIX
from sightword.systems.retrieval.split import Split
from sightword.systems.retrieval.truth import Truth
from sightword.towers.tokenizer import Texts, TextTokenizer

IGNORED = -100  # the label that cross-entropy passes over
SIDES = {"left": "right", "right": "left"}
VIEW, WORDS, HIDE, OTHER = 1, 2, 3, 4  # what a draw's generator is for, so that one use does not change another


# ------------------------------------------------------------------------------------------------------------ batches


class PedesBatch(NamedTuple):
    """Captions, each with its image. A field that the config does not ask for is None."""

    images: Tensor  # (B, 3, H, W) float32 in [-1, 1]; an encoder's own `preprocess.normalise` makes its input of them
    pids: Tensor  # (B,) int64: 0 to P - 1 over the training identities; as read elsewhere
    caption_ids: Tensor  # (B, L) int64, padded on the right to the longest, or to the tokenizer's fixed length
    caption_attn_mask: Tensor  # (B, L) bool
    index: Tensor  # type: ignore[assignment]  # (B,) int64, which image of the split
    masked_ids: Tensor | None = None  # (B, L) int64, caption_ids of which some are masked
    masked_labels: Tensor | None = None  # (B, L) int64, the ids that were masked; -100 elsewhere
    masked_images: Tensor | None = None  # (B, 3, H, W) generation view, hidden cells at 0
    vq_target_ids: Tensor | None = None  # (B, h·w) int64, VQ ids of the generation view, rows first
    vq_target_attn_mask: Tensor | None = None  # (B, h·w) bool, True where hidden, so to be predicted
    vq_images: Tensor | None = None  # (B, 3, H, W) generation view, nothing hidden: only without data.vq_ids
    hide_way: Tensor | None = None  # (B,) int64, in evaluation: which of config.HIDE_WAYS, one for all rows
    generated: Tensor | None = (
        None  # (G,) int64: the rows that the four fields of the generation view are of; None: all
    )


def generated_rows(batch: PedesBatch) -> PedesBatch:
    """Return the rows of a batch that have a generation view, for the generator alone."""
    if (rows := batch.generated) is None:
        return batch
    return batch._replace(
        images=batch.images[rows],
        pids=batch.pids[rows],
        caption_ids=batch.caption_ids[rows],
        caption_attn_mask=batch.caption_attn_mask[rows],
        index=batch.index[rows],
        generated=None,
    )


class ImageRows(NamedTuple):
    """Images of a split, to be encoded once."""

    images: Tensor  # (B, 3, H, W) float32 in [-1, 1]
    pids: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, which image of the split
    split: str = "val"
    families: Tensor | None = None  # (B,) int64, see `truth.Truth`


class TextRows(NamedTuple):
    """Captions of a split, to be encoded once; those of a batch are of similar lengths."""

    caption_ids: Tensor  # (B, L) int64
    caption_attn_mask: Tensor  # (B, L) bool
    pids: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, which caption of the split
    ceiling: Tensor | None = None  # (B,) float64, see `truth.Truth`


Batch = PedesBatch | ImageRows | TextRows


# ----------------------------------------------------------------------------------------------------------- captions


class Captions:
    """Captions as ids, tokenised once for a whole run. Mirrored captions have left for right; most are the same."""

    def __init__(self, texts: Sequence[str], tokenizer: TextTokenizer, length: int = 0, mirrored: bool = False) -> None:
        """length: the most tokens of a caption, more are cut off and counted in `truncated`; 0: the tokenizer's own.

        mirrored: tokenise the mirrored captions, too.
        """
        if length > tokenizer.length:
            raise SightwordError(
                f"data.text_length={length} is more than the {tokenizer.length} tokens that the text encoder takes"
            )
        cutter = copy.copy(tokenizer)  # the encoder's own keeps its length and its count
        cutter.length, cutter.truncated = length or tokenizer.length, 0
        swapped = [number for number, text in enumerate(texts) if mirrored and sides_swapped(text) != text]
        # a tokenizer of fixed length belongs to an encoder that was trained on padding
        self.pad, self.fixed = tokenizer.pad, tokenizer.length if tokenizer.fixed else 0
        self.flat, self.starts = _tokenised([*texts, *(sides_swapped(texts[number]) for number in swapped)], cutter)
        self.count = len(texts)
        self.mirror_of = np.arange(self.count)
        self.mirror_of[swapped] = self.count + np.arange(len(swapped))
        self.truncated = cutter.truncated

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each caption, (C,) int64."""
        return np.diff(self.starts)[: self.count]

    def __getitem__(self, number: int) -> Tensor:
        """The ids of one caption, without padding, int64."""
        return torch.from_numpy(self.flat[self.starts[number] : self.starts[number + 1]].astype(np.int64))

    def batch(self, numbers: Sequence[int] | np.ndarray, mirrored: Sequence[bool] | None = None) -> Texts:
        """Return ids and mask, (B, L): padded to the longest, or to the tokenizer's fixed length."""
        rows = np.asarray(numbers, dtype=np.int64)
        if mirrored is not None:
            rows = np.where(mirrored, self.mirror_of[rows], rows)
        starts, ends = self.starts[rows], self.starts[rows + 1]
        width = self.fixed or int((ends - starts).max(initial=0))
        places = starts[:, None] + np.arange(width)  # (B, L)
        real = places < ends[:, None]
        ids = np.where(real, self.flat[np.minimum(places, len(self.flat) - 1)], self.pad).astype(np.int64)
        return Texts(torch.from_numpy(ids), torch.from_numpy(real))


def _tokenised(texts: Sequence[str], tokenizer: TextTokenizer, chunk: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """All ids one after another, int32, and where each text starts: (C + 1,)."""
    flat, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(texts), chunk):
        ids, mask = tokenizer(texts[start : start + chunk], truncate=True)
        flat.append(ids[mask].numpy().astype(np.int32))
        lengths.append(mask.sum(1).numpy())
    return np.concatenate(flat), np.concatenate(lengths).cumsum()


def sides_swapped(text: str) -> str:
    """Return a caption as it describes the mirrored image: left for right and right for left, capitals kept."""
    return re.sub(r"\b(left|right)\b", lambda found: _like(found[0], SIDES[found[0].lower()]), text, flags=re.I)


def _like(old: str, new: str) -> str:
    return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new


class Paraphrases(NamedTuple):
    """Replaces some captions by other texts on the same image, which stand behind the captions in a `Captions`."""

    share: float  # probability that a caption is replaced
    starts: np.ndarray  # (M + 1,) int64: texts starts[m] to starts[m + 1] - 1 are on image m

    def __call__(self, numbers: np.ndarray, rows: np.ndarray, draws: Sequence[Draw], seed: int) -> np.ndarray:
        """Return the numbers of captions, some of them replaced, (B,) int64. rows: (B,), the images."""
        found = numbers.copy()
        for place, (row, draw) in enumerate(zip(rows, draws, strict=True)):
            coin, which = torch.rand(2, generator=generator_of(seed, draw), dtype=torch.float64).tolist()
            first, end = self.starts[row], self.starts[row + 1]
            if coin < self.share and first < end:
                found[place] = first + int(which * (end - first))
        return found


class Masking(NamedTuple):
    """Masks tokens as for BERT (Devlin 2019, 3.1): 80 % of the chosen ones become the mask token, 10 % any token, 10 %
    stay. Special tokens and padding are never chosen; at least one token always is, so that there is a target.
    """

    share: float
    mask: int  # id of the mask token
    ordinary: Tensor  # (V,) int64: ids of words
    special: Tensor  # (S,) int64: ids that are never chosen

    @classmethod
    def of(cls, tokenizer: TextTokenizer, share: float) -> "Masking":
        mask = mask_id(tokenizer)
        special = {*tokenizer.special, tokenizer.eos, mask}
        special |= {id_ for id_ in (tokenizer.unknown, getattr(tokenizer, "start", None)) if id_ is not None}
        known = torch.arange(tokenizer.vocab_size)
        barred = torch.tensor(sorted(special))
        return cls(share, mask, known[~torch.isin(known, torch.cat([barred, torch.tensor([tokenizer.pad])]))], barred)

    def __call__(self, ids: Tensor, real: Tensor, draws: Sequence[Draw], seed: int) -> tuple[Tensor, Tensor]:
        """(B, L) ids and mask to (ids with some masked, labels): the masked tokens' own ids, IGNORED elsewhere."""
        lot = torch.ones(3, *ids.shape)  # (3, B, L): chosen?, masked how?, replaced by which token?
        for row, (draw, length) in enumerate(zip(draws, real.sum(1).tolist(), strict=True)):
            lot[:, row, :length] = torch.rand(length, 3, generator=generator_of(seed, draw)).T
        open_ = real & ~torch.isin(ids, self.special)
        lot[0].masked_fill_(~open_, 2.0)
        chosen = (lot[0] < self.share) | (lot[0] == lot[0].amin(1, keepdim=True))
        chosen &= open_
        other = self.ordinary[(lot[2] * len(self.ordinary)).long().clamp(max=len(self.ordinary) - 1)]
        masked = torch.where(lot[1] < 0.8, torch.full_like(ids, self.mask), torch.where(lot[1] < 0.9, other, ids))
        return torch.where(chosen, masked, ids), ids.masked_fill(~chosen, IGNORED)


def mask_id(tokenizer: TextTokenizer) -> int:
    """Return the id of the mask token: the tokenizer's own, T5's first sentinel, or its unknown token.

    CLIP has none of these: as in IRRA its last piece (before the two special ones) is used.
    """
    hf = getattr(tokenizer, "hf", None)
    if hf is None:
        return tokenizer.vocab_size - 3
    if hf.mask_token_id is not None:
        return int(hf.mask_token_id)
    found = hf.get_vocab().get("<extra_id_0>", tokenizer.unknown)
    if found is None:
        raise SightwordError(
            "the text encoder's tokenizer has no mask token, <extra_id_0> or unknown token. Set data.mask_text=0"
        )
    return int(found)


# ------------------------------------------------------------------------------------------------------------- images


class Augmentation(NamedTuple):
    """Augments a training image: mirrored, shifted, a rectangle erased (as in IRRA, datasets/build.py).

    The result is a function of the generator alone, and always takes as many numbers from it.
    """

    size: tuple[int, int]  # H, W
    mirror: bool = False  # half of the time
    pad: int = 10  # pixels of black all around, of which a crop of H×W is taken
    erase: float = 0.5  # probability

    def __call__(self, picture: Image.Image, generator: torch.Generator) -> tuple[Tensor, bool]:
        """Return (3, H, W), and whether it is mirrored: then left and right change places in its caption."""
        coin, left, top, *rest = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
        image = squash(*self.size)(picture, None)
        mirrored = self.mirror and coin < 0.5
        if mirrored:
            image = image.flip(-1)
        if self.pad:
            image = _shifted(image, self.pad, left, top)
        if rest[0] < self.erase:
            _erase(image, *rest[1:])
        return image, mirrored


def _shifted(image: Tensor, pad: int, left: float, top: float) -> Tensor:
    height, width = image.shape[1:]
    x, y = int(left * (2 * pad + 1)), int(top * (2 * pad + 1))
    return F.pad(image, (pad, pad, pad, pad), value=-1.0)[:, y : y + height, x : x + width].contiguous()


def _erase(image: Tensor, area: float, shape: float, left: float, top: float) -> None:
    """Fill 2 to 40 % of the image with mid grey, height to width as 0.3 to 3.3 (Zhong 2020).

    A rectangle that does not fit is cut where torchvision would draw another.
    """
    height, width = image.shape[1:]
    pixels = (0.02 + 0.38 * area) * height * width
    ratio = math.exp(math.log(0.3) + shape * (math.log(3.3) - math.log(0.3)))
    h, w = min(round(math.sqrt(pixels * ratio)), height), min(round(math.sqrt(pixels / ratio)), width)
    y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
    image[:, y : y + h, x : x + w] = 0.0


class Cells(NamedTuple):
    """The units that are hidden of an image: as large as the larger of an encoder's patch and the pixels of a VQ id.

    So no visible pixel shares a patch or an id with a hidden one.
    """

    size: tuple[int, int]  # H, W
    grid: tuple[int, int]  # u, v
    ids: tuple[int, int]  # h, w

    @classmethod
    def of(cls, size: tuple[int, int], patch: tuple[int, int], ids: tuple[int, int]) -> "Cells":
        """Raises SightwordError if patches, ids and image do not fit into each other."""
        if any(side % number for side, number in zip(size, ids, strict=True)):
            raise SightwordError(f"{_by(ids)} ids do not divide an image of {_by(size)} pixels. Set data.image_size")
        pixels = (size[0] // ids[0], size[1] // ids[1])
        unit = (max(patch[0], pixels[0]), max(patch[1], pixels[1]))
        for name, part in (("a patch", patch), ("an id", pixels), ("the image", unit)):
            whole = size if name == "the image" else unit
            if any(side % other for side, other in zip(whole, part, strict=True)):
                raise SightwordError(
                    f"cells of {_by(unit)} pixels are hidden, the larger of a patch ({_by(patch)}) and an id "
                    f"({_by(pixels)}): {name} does not fit an image of {_by(size)} that way. Choose a tokenizer whose "
                    "factor divides the patch, or is a multiple of it"
                )
        return cls(size, (size[0] // unit[0], size[1] // unit[1]), ids)

    @property
    def number(self) -> int:
        """u·v"""
        return self.grid[0] * self.grid[1]

    def draw(self, share: float, generator: torch.Generator, way: str = "random") -> Tensor:
        """Return which cells are hidden, (u·v,) bool: at least one, and at least one is visible if there are two.

        random: exactly this share. band: a third of the rows, such as one garment. person: the middle half of the
        columns, without the top twelfth of the rows. all: all but one cell. mix: one of `MIX`, drawn.
        """
        if way == "mix":
            way = MIX[int(torch.randint(len(MIX), (), generator=generator))]
        if way in ("random", "all"):
            hidden = torch.zeros(self.number, dtype=torch.bool)
            many = round(share * self.number) if way == "random" else self.number
            many = min(max(many, 1), max(self.number - 1, 1))
            hidden[torch.randperm(self.number, generator=generator)[:many]] = True
            return hidden
        return self._block(way, generator).flatten()

    def _block(self, way: str, generator: torch.Generator) -> Tensor:
        """Return the cells of a band or of where a person stands, (u, v) bool."""
        (u, v), hidden = self.grid, torch.zeros(self.grid, dtype=torch.bool)
        if way == "band":
            rows = max(1, u // 3)
            top = int(torch.randint(u - rows + 1, (), generator=generator))
            hidden[top : top + rows] = True
        else:
            hidden[max(1, u // 12) if u > 1 else 0 :, v // 4 : v - v // 4] = True
        if hidden.all() and self.number > 1:
            hidden[0, 0] = False
        return hidden

    def hide(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Return images (B, 3, H, W) with hidden cells (B, u·v) at 0, mid grey."""
        return images.masked_fill(self._spread(hidden, self.size)[:, None], 0.0)

    def hidden_ids(self, hidden: Tensor) -> Tensor:
        """Return hidden cells (B, u·v) as a mask over ids (B, h·w) bool, rows first."""
        return self._spread(hidden, self.ids).flatten(1)

    def _spread(self, hidden: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, u·v) → (B, *size)"""
        rows, columns = (side // number for side, number in zip(size, self.grid, strict=True))
        cells = hidden.unflatten(1, self.grid)
        return cells.repeat_interleave(rows, 1).repeat_interleave(columns, 2)


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}×{pair[1]}"


class IdSource(Protocol):
    """Where the VQ ids of images are read, as `loader.ImageIds`."""

    def rows(self, images: Sequence[Path], folder: Path) -> Tensor:
        """Return the ids of images of a folder, (M, h·w) int32."""
        ...


class Hiding(NamedTuple):
    """The generation view: which cells are hidden, and the VQ ids of all."""

    cells: Cells
    share: float  # of the cells that are hidden, if they are drawn one by one
    source: IdSource | None  # None: the network encodes `vq_images` itself
    way: str = "random"  # in which they are drawn, see `Cells.draw`
    rows: int = 0  # most of a training batch that have a generation view; 0: any number
    ids: Tensor | None = None  # (M, h·w) int32, the ids of a split's images

    def choose(self, mirrored: Sequence[bool]) -> list[int]:
        """Return the rows of a batch to generate: none that is mirrored, as its ids are unknown; or else the first."""
        return [row for row, is_mirrored in enumerate(mirrored) if not is_mirrored][: self.rows or None] or [0]

    def fill(
        self, batch: PedesBatch, whole: Tensor, draws: Sequence[Draw], seed: int, rows: Sequence[int] | None = None
    ) -> PedesBatch:
        """Return a batch with its fields for generation. whole: (G, 3, H, W), the images without augmentation.

        draws: G. rows: which of the batch they are; None: all.
        """
        generators = [generator_of(mix(seed, HIDE), draw) for draw in draws]
        hidden = torch.stack([self.cells.draw(self.share, generator, self.way) for generator in generators])
        batch = batch._replace(
            masked_images=self.cells.hide(whole, hidden), vq_target_attn_mask=self.cells.hidden_ids(hidden)
        )
        index = batch.index
        if rows is not None:
            generated = torch.tensor(rows)
            batch, index = batch._replace(generated=generated), batch.index[generated]
        if self.ids is None:
            return batch._replace(vq_images=whole)
        return batch._replace(vq_target_ids=self.ids[index].long())


# -------------------------------------------------------------------------------------------------------------- items


class Pairs(Dataset[PedesBatch]):
    """Captions by number, each with its image, a batch at a time: for training."""

    def __init__(
        self,
        split: Split,
        captions: Captions,
        augmentation: Augmentation,
        masking: Masking | None = None,
        hiding: Hiding | None = None,
        seed: int = 0,
        paraphrases: Paraphrases | None = None,
        keep: bool = False,
    ) -> None:
        """captions: of the split, and behind them those of `paraphrases`. keep: resized images stay in memory."""
        self.split, self.captions, self.seed = split, captions, seed
        self.augmentation, self.masking, self.hiding, self.paraphrases = augmentation, masking, hiding, paraphrases
        self.kept: dict[int, Image.Image] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.split.captions)

    def __getitem__(self, draw: Draw | int) -> PedesBatch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> PedesBatch:
        draws = _as_draws(draws)
        rows = self.split.caption_image[[draw.index for draw in draws]]
        pictures = [self._picture(row) for row in rows.tolist()]
        seed = mix(self.seed, VIEW)
        views = [
            self.augmentation(picture, generator_of(seed, draw)) for picture, draw in zip(pictures, draws, strict=True)
        ]
        numbers = np.array([draw.index for draw in draws])
        if self.paraphrases is not None:
            numbers = self.paraphrases(numbers, rows, draws, mix(self.seed, OTHER))
        ids, mask = self.captions.batch(numbers, [mirrored for _, mirrored in views])
        batch = PedesBatch(
            torch.stack([image for image, _ in views]),
            torch.from_numpy(self.split.pids[rows]),
            ids,
            mask,
            torch.from_numpy(rows),
        )
        if self.masking is not None:
            masked, labels = self.masking(ids, mask, draws, mix(self.seed, WORDS))
            batch = batch._replace(masked_ids=masked, masked_labels=labels)
        if self.hiding is not None:
            batch = self._with_cells_hidden(batch, pictures, draws, [mirrored for _, mirrored in views])
        return batch

    def _with_cells_hidden(
        self, batch: PedesBatch, pictures: Sequence[Image.Image], draws: Sequence[Draw], mirrored: Sequence[bool]
    ) -> PedesBatch:
        """Return a batch with its generation view, of the rows that `Hiding.choose` gives."""
        assert self.hiding is not None
        rows = self.hiding.choose(mirrored)
        whole = torch.stack([squash(*self.augmentation.size)(pictures[row], None) for row in rows])
        every = len(rows) == len(pictures)
        batch = self.hiding.fill(batch, whole, [draws[row] for row in rows], self.seed, None if every else rows)
        if mirrored[rows[0]]:  # all rows are: nothing counts
            assert batch.vq_target_attn_mask is not None
            batch = batch._replace(vq_target_attn_mask=torch.zeros_like(batch.vq_target_attn_mask))
        return batch

    def _picture(self, row: int) -> Image.Image:
        """Return an image of the split, already resized if images are kept."""
        if self.kept is None:
            return read_person(self.split.images[row])
        if row not in self.kept:
            self.kept[row] = resized(read_person(self.split.images[row]), *self.augmentation.size)
        return self.kept[row]


class Measured(Dataset[Batch]):
    """A split for evaluation, a batch of one kind at a time. Only hidden cells are drawn, and always the same.

    Items 0 to M - 1 are images, the next C are captions, and with `hiding` the next M are pairs, M for each of
    `HIDE_WAYS`.
    """

    def __init__(
        self,
        split: Split,
        captions: Captions,
        size: tuple[int, int],
        hiding: Hiding | None = None,
        truth: Callable[[], Truth | None] | None = None,
    ) -> None:
        """truth: reads what is known of the split; called when it is first needed."""
        self.split, self.captions, self.size, self.hiding, self._read_truth = split, captions, size, hiding, truth
        self.first = np.unique(split.caption_image, return_index=True)[1]  # (M,) each image's first caption

    @cached_property
    def truth(self) -> Truth | None:
        """What is known of the split beyond its captions."""
        return self._read_truth() if self._read_truth else None

    def kinds(self) -> list[np.ndarray]:
        """Return items kind after kind: images, captions from the shortest to the longest, pairs."""
        images, captions = len(self.split.images), len(self.split.captions)
        texts = images + np.argsort(self.captions.lengths, kind="stable")
        pairs = [images + captions + images * way + np.arange(images) for way in range(len(HIDE_WAYS))]
        return [np.arange(images), texts, *(pairs if self.hiding else [])]

    def __len__(self) -> int:
        return sum(map(len, self.kinds()))

    def __getitem__(self, draw: Draw | int) -> Batch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> Batch:
        numbers = np.array([draw.index for draw in _as_draws(draws)])
        images, captions = len(self.split.images), len(self.split.captions)
        kind = np.searchsorted([images, images + captions], numbers, side="right")
        assert kind.min() == kind.max(), "a batch is of one kind"
        if kind[0] == 0:
            pids = torch.from_numpy(self.split.pids[numbers])
            families = None if self.truth is None else torch.from_numpy(self.truth.families[numbers])
            return ImageRows(self._images(numbers), pids, torch.from_numpy(numbers), self.split.name, families)
        if kind[0] == 1:
            rows = numbers - images
            pids = torch.from_numpy(self.split.caption_pids[rows])
            ceiling = None if self.truth is None else torch.from_numpy(self.truth.ceiling[rows])
            return TextRows(*self.captions.batch(rows), pids, torch.from_numpy(rows), ceiling)
        way, rows = np.divmod(numbers - images - captions, images)
        assert way.min() == way.max(), "a batch is of one way"
        return self._pairs(rows, int(way[0]))

    def _images(self, rows: np.ndarray) -> Tensor:
        return torch.stack([squash(*self.size)(read_person(self.split.images[row]), None) for row in rows])

    def _pairs(self, rows: np.ndarray, way: int) -> PedesBatch:
        assert self.hiding is not None
        whole = self._images(rows)
        ids, mask = self.captions.batch(self.first[rows])
        batch = PedesBatch(whole, torch.from_numpy(self.split.pids[rows]), ids, mask, torch.from_numpy(rows))
        draws = [Draw(0, int(row)) for row in rows]
        batch = batch._replace(hide_way=torch.full((len(rows),), way))
        return self.hiding._replace(way=HIDE_WAYS[way]).fill(batch, whole, draws, 0)


def whole_batch(batch: Batch) -> Batch:
    """Return a batch as it is: the data sets above make whole batches, so a loader has nothing to collate."""
    return batch


def _as_draws(draws: Sequence[Draw | int]) -> list[Draw]:
    return [draw if isinstance(draw, Draw) else Draw(0, int(draw)) for draw in draws]


def read_person(path: Path) -> Image.Image:
    """Return an image of a data set. Raises SightwordError that names the command that finds all unreadable ones."""
    try:
        return read_image(path)
    except ValueError as error:  # whose own advice is about options that do not apply here
        raise SightwordError(
            f"{str(error).rpartition(': ')[0]}: sightword check names all such files of the data set"
        ) from error
