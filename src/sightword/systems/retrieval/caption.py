"""Captions as ids, tokenised once for a whole run, and what is done to them: cut, padded, mirrored, hidden.

Legend: B batch; C captions; L tokens of the longest caption of a batch.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightword.data.loader import Draw, generator_of
from sightword.towers.tokenizer import Texts, TextTokenizer

IGNORED = -100  # what cross-entropy passes over
SIDES = {"left": "right", "right": "left"}


class Captions:
    """Captions by number. `mirrored` ones have left for right; of most captions they are the same."""

    def __init__(self, texts: Sequence[str], tokenizer: TextTokenizer, length: int = 0, mirrored: bool = False) -> None:
        """length: the most tokens of a caption, more are cut off and counted in `truncated`; 0: the tokenizer's own.

        mirrored: tokenise the mirrored captions, too.
        """
        if length > tokenizer.length:
            raise ValueError(f"data.text_length={length} is more than the {tokenizer.length} tokens the tower reads")
        cutter = copy.copy(tokenizer)  # the tower's own keeps its length and its count
        cutter.length, cutter.truncated = length or tokenizer.length, 0
        swapped = [number for number, text in enumerate(texts) if mirrored and sides_swapped(text) != text]
        self.pad, self.fixed = tokenizer.pad, tokenizer.length if tokenizer.fixed else 0  # it reads padding, too
        self.flat, self.starts = _tokenised([*texts, *(sides_swapped(texts[number]) for number in swapped)], cutter)
        self.count = len(texts)
        self.mirror_of = np.arange(self.count)
        self.mirror_of[swapped] = self.count + np.arange(len(swapped))
        self.truncated = cutter.truncated

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> np.ndarray:
        """(C,) int64, tokens of each."""
        return np.diff(self.starts)[: self.count]

    def __getitem__(self, number: int) -> Tensor:
        """The ids of one caption, without padding, int64."""
        return torch.from_numpy(self.flat[self.starts[number] : self.starts[number + 1]].astype(np.int64))

    def batch(self, numbers: Sequence[int] | np.ndarray, mirrored: Sequence[bool] | None = None) -> Texts:
        """Ids and mask, (B, L): padded to the longest, or to the tokenizer's fixed length."""
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
    """A caption as it is true of the mirrored image: left for right and right for left, capitals kept."""
    return re.sub(r"\b(left|right)\b", lambda found: _like(found[0], SIDES[found[0].lower()]), text, flags=re.I)


def _like(old: str, new: str) -> str:
    return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new


# ------------------------------------------------------------------------------------------------------ hidden tokens


class Masking(NamedTuple):
    """Hides tokens as BERT was trained (Devlin 2019, 3.1): of those chosen 80 % are masked, 10 % are any token, 10 %
    stay. Special tokens and padding are never chosen; one token always is, so that there is something to learn.
    """

    share: float
    mask: int  # the id that stands for a hidden token
    ordinary: Tensor  # (V,) int64: ids that a word may have
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
        """(B, L) ids and mask to (ids with some hidden, labels): the hidden tokens' own ids, IGNORED elsewhere.

        What is hidden of a caption is a function of (seed, epoch, index), whatever batch it is in.
        """
        lot = torch.ones(3, *ids.shape)  # (3, B, L): chosen?, how hidden?, by which token?
        for row, (draw, length) in enumerate(zip(draws, real.sum(1).tolist(), strict=True)):
            lot[:, row, :length] = torch.rand(length, 3, generator=generator_of(seed, draw)).T
        open_ = real & ~torch.isin(ids, self.special)
        lot[0].masked_fill_(~open_, 2.0)
        chosen = (lot[0] < self.share) | (lot[0] == lot[0].amin(1, keepdim=True))
        chosen &= open_
        other = self.ordinary[(lot[2] * len(self.ordinary)).long().clamp(max=len(self.ordinary) - 1)]
        hidden = torch.where(lot[1] < 0.8, torch.full_like(ids, self.mask), torch.where(lot[1] < 0.9, other, ids))
        return torch.where(chosen, hidden, ids), ids.masked_fill(~chosen, IGNORED)


def mask_id(tokenizer: TextTokenizer) -> int:
    """The id that stands for a hidden token: the tokenizer's own mask, T5's first sentinel, or its unknown token.

    CLIP has none of these: as in IRRA its last piece (before the two special ones) is given up for it.
    """
    hf: Any = getattr(tokenizer, "hf", None)
    if hf is None:
        return tokenizer.vocab_size - 3
    if hf.mask_token_id is not None:
        return int(hf.mask_token_id)
    sentinel = hf.get_vocab().get("<extra_id_0>")
    if sentinel is None and tokenizer.unknown is None:
        raise ValueError("this tokenizer has no token for what is hidden (mask, <extra_id_0>, unknown): mask_text=0")
    return int(tokenizer.unknown if sentinel is None else sentinel)  # type: ignore[arg-type]
