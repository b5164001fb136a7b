"""All tokenizers behind one interface: padding, end token, maximum length, and a count of truncated texts.

Legend: B texts; L tokens; K words; E pooled width.
"""

import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.errors import SightwordError, printable
from sightword.towers.foreign import Foreign

ARTICLES = ("a", "an", "the", "some")
SHOWN = 10  # unknown words that a line names
SPELT = 4  # letters of a word at least, before its spelling letter by letter says that it is unknown


class Texts(NamedTuple):
    """Texts as ids, padded on the right."""

    ids: Tensor  # (B, L) int64
    mask: Tensor  # (B, L) bool, True where a token is real, special ones included


class TextTokenizer:
    """Texts to ids. `ids_of` and `cut` are what kinds of tokenizers differ in.

    pad, eos: their ids. length: the most tokens a text may have, special ones included. fixed: pad to `length` (SigLIP
    was trained on its padding), not only to the longest text of the batch. truncated: how many texts were cut so far.
    """

    def __init__(
        self, pad: int, eos: int, length: int, vocab_size: int, unknown: int | None = None, fixed: bool = False
    ) -> None:
        if length < 1:
            raise SightwordError(f"length is {length}: a text has at least one token; give a positive length")
        self.pad, self.eos, self.length, self.vocab_size = pad, eos, length, vocab_size
        self.unknown, self.fixed = unknown, fixed
        self.special: frozenset[int] = frozenset()
        self.space: int | None = None  # the id that stands for a space alone, where there is one
        self.truncated = 0

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text's ids with the special ones around them, however many."""
        raise NotImplementedError

    def words_of(self, ids: Sequence[int]) -> str:
        """Ids back to a text, special ones left out."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write the files that the tokenizer loads from."""
        raise NotImplementedError

    def cut(self, ids: list[int]) -> list[int]:
        """Too many ids cut to `length`; the end token stays the last."""
        return [*ids[: self.length - 1], self.eos]

    def __call__(self, texts: str | Sequence[str], truncate: bool = False) -> Texts:
        """One row a text. Too long a text raises SightwordError, or cut and counted in `truncated` if `truncate`."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = self.ids_of(texts)
        for number, (text, ids) in enumerate(zip(texts, rows, strict=True)):
            self._check_known(text, ids)
            if len(ids) > self.length:
                if not truncate:
                    raise SightwordError(
                        f"{_short(text)!r} has {len(ids)} tokens, this tower reads {self.length}: shorten it, or "
                        "truncate=True"
                    )
                rows[number] = self.cut(ids)
                self.truncated += 1
        width = self.length if self.fixed else max(map(len, rows), default=0)
        padded = [[*ids, *[self.pad] * (width - len(ids))] for ids in rows]
        real = [[True] * len(ids) + [False] * (width - len(ids)) for ids in rows]
        shape = (len(rows), width)
        return Texts(torch.tensor(padded, dtype=torch.long).view(shape), torch.tensor(real).bool().view(shape))

    def unknown_words(self, texts: str | Iterable[str], untrained: frozenset[int] = frozenset()) -> tuple[str, ...]:
        """Return the words of texts that the encoder cannot know, in their order, each once.

        untrained: ids that no text of the encoder's training had. A misspelt word, or one of another language, may
        still have pieces that are known: then it is not among them.
        """
        words = list(dict.fromkeys(word for text in _several(texts) for word in split_words(text)))
        rows = self.ids_of(words) if words else []
        pieces = [self._pieces(ids) for ids in rows]
        return tuple(word for word, ids in zip(words, pieces, strict=True) if self._is_unknown(word, ids, untrained))

    def is_unknown(self, text: str, untrained: frozenset[int] = frozenset()) -> bool:
        """Return whether a text has words and none of them is known, articles aside."""
        words = [word for word in split_words(text) if word.lower() not in ARTICLES]
        return bool(words) and len(self.unknown_words(words, untrained)) == len(set(words))

    def _is_unknown(self, word: str, pieces: Sequence[int], untrained: frozenset[int]) -> bool:
        """Return whether a word is dropped, or has a piece that is unknown."""
        return not pieces or any(id_ == self.unknown or id_ in untrained for id_ in pieces)

    def _pieces(self, ids: Sequence[int]) -> list[int]:
        return [id_ for id_ in ids if id_ == self.unknown or (id_ not in self.special and id_ != self.space)]

    def _check_known(self, text: str, ids: Sequence[int]) -> None:
        words = self._pieces(ids)
        if words and all(id_ == self.unknown for id_ in words):
            raise SightwordError(f"this tokenizer knows no word of {_short(text)!r}: is it the tower's own vocabulary?")


class CLIPTokenizer(TextTokenizer):
    """CLIP's byte-pair encoding: it lowercases, and encodes every text. <start> … <end>, padded with 0.

    Every byte has a vector, so the vocabulary alone makes no word unknown. It was made of English text, and words
    without a Latin letter are mostly cut into bytes: they count as unknown too.
    """

    def __init__(self, bpe: Foreign, length: int) -> None:
        """bpe: `clip.byte_pair.BytePairs`, or open_clip's `SimpleTokenizer`."""
        super().__init__(0, bpe.eot_token_id, length, bpe.vocab_size)
        self.bpe, self.start = bpe, bpe.sot_token_id
        self.special = frozenset(bpe.all_special_ids)

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.start, *self.bpe.encode(text), self.eos] for text in texts]

    def is_unknown(self, text: str, untrained: frozenset[int] = frozenset()) -> bool:
        """Return whether no word is known; not for the script alone, as a large CLIP has seen some of the others."""
        return bool(untrained) and super().is_unknown(text, untrained)

    def _is_unknown(self, word: str, pieces: Sequence[int], untrained: frozenset[int]) -> bool:
        return is_foreign(word) or super()._is_unknown(word, pieces, untrained)

    def words_of(self, ids: Sequence[int]) -> str:
        end = list(ids).index(self.eos) if self.eos in ids else len(ids)
        return self.bpe.decode([int(id_) for id_ in ids[:end] if id_ != self.start]).strip()

    def save(self, folder: str | Path) -> None:
        """Nothing: the vocabulary is part of open_clip."""


class HFTokenizer(TextTokenizer):
    """A tokenizer of Hugging Face transformers (SentencePiece of T5 and SigLIP, WordPiece of BERT, …)."""

    def __init__(
        self, tokenizer: Foreign, length: int, fixed: bool = False, clean: Callable[[str], str] | None = None
    ) -> None:
        """clean: done to each text first (SigLIP was trained on lowercase without punctuation)."""
        eos = next(
            (id_ for id_ in (tokenizer.eos_token_id, tokenizer.sep_token_id) if id_ is not None), tokenizer.pad_token_id
        )
        super().__init__(tokenizer.pad_token_id, eos, length, len(tokenizer), tokenizer.unk_token_id, fixed)
        self.hf, self.clean = tokenizer, clean
        self.special = frozenset(tokenizer.all_special_ids)
        self.space = tokenizer.get_vocab().get("▁")  # SentencePiece's
        if len(tokenizer) <= len(self.special) + (self.space is not None):  # T5's own empty one has the space
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise SightwordError(f"the tokenizer of {name} knows no word; is its vocabulary file there, and not empty?")

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text, cleaned, to its ids, with those around them that its own tokenizer puts there."""
        cleaned = [self.clean(text) for text in texts] if self.clean else list(texts)
        return self.hf(cleaned, verbose=False)["input_ids"] if cleaned else []

    def _is_unknown(self, word: str, pieces: Sequence[int], untrained: frozenset[int]) -> bool:
        """As for any tokenizer; and a word that is spelt letter by letter, or byte by byte, is in no vocabulary."""
        cased = len(word) >= SPELT and all(letter.lower() != letter.upper() for letter in word)
        spelt = cased and len(pieces) == len(word)
        in_bytes = len(pieces) > len(unicodedata.normalize("NFKD", word))
        return spelt or in_bytes or super()._is_unknown(word, pieces, untrained)

    def words_of(self, ids: Sequence[int]) -> str:
        """Ids back to a text as the tokenizer writes it: what was cleaned away does not come back."""
        return self.hf.decode([int(id_) for id_ in ids], skip_special_tokens=True).strip()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, or what else the tokenizer is made of."""
        self.hf.save_pretrained(folder)


def split_words(text: str) -> list[str]:
    """Return the words of a text as they stand between spaces, without the punctuation around them.

    A Chinese or Japanese sentence is one word, as it has no spaces.
    """
    words = (word.strip("".join(filter(_is_mark, set(word)))) for word in text.split())
    return [word for word in words if word]


def is_foreign(word: str) -> bool:
    """Return whether a word has letters and none of them is Latin: 椅子, стул."""
    letters = [letter for letter in word if letter.isalpha()]
    return bool(letters) and not any(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)


def unknown_line(words: Sequence[str]) -> str:
    """Return what a user is told of unknown words: "2 words not known: unicorn, purple"; "" without any."""
    if not words:
        return ""
    told = ", ".join(map(printable, words[:SHOWN])) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")
    language = ""
    if all(map(is_foreign, words)):
        language = " (not in Latin letters: unless the encoder is multilingual, use the language of its captions)"
    return f"{len(words)} word{'s' * (len(words) > 1)} not known: {told}{language}"


def _is_mark(letter: str) -> bool:
    """Return whether a character is punctuation, a sign, or invisible. An emoji is none of them."""
    category = unicodedata.category(letter)
    return category[0] in "PZC" or category in ("Sm", "Sc", "Sk")


def _several(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _canonical(text: str) -> str:
    """Return a text as in SigLIP's training (canonicalize_text): lowercase, no punctuation, single spaces."""
    return _single_spaces(text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).lower())


def _single_spaces(text: str) -> str:
    return " ".join(text.split())


#: open_clip's names of what is done to a text before its `HFTokenizer`. It also repairs broken Unicode, which is left
#: to who reads the texts.
CLEANING: dict[str, Callable[[str], str]] = {
    "canonicalize": _canonical,
    "lower": str.lower,  # what SigLIP 2 was trained on
    "whitespace": _single_spaces,
}


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[:most] + "…"
