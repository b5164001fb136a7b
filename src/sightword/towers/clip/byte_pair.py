"""CLIP's byte-pair encoding of texts: open_clip's vocabulary, read from its file without importing open_clip.

The encoding is OpenAI's: a text is cleaned and cut into words by a pattern, a word is UTF-8 bytes and an end mark, and
the pair of pieces that is earliest in the list of merges is joined until none is in it.
"""

import gzip
import html
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import regex

from sightword.errors import MissingFileError
from sightword.towers.tokenizer import CLEANING

VOCABULARY, MERGES = "bpe_simple_vocab_16e6.txt.gz", 49152 - 256 - 2
START, END, OF_WORD = "<start_of_text>", "<end_of_text>", "</w>"
WORDS = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)


class BytePairs:
    """Texts to ids and back. The ids of START and END are the last two."""

    def __init__(self, clean: str = "lower") -> None:
        """clean: one of `CLEANING`, done to a text after its broken Unicode and its HTML entities are repaired."""
        self.clean = CLEANING[clean]
        self.ranks, self.ids = _vocabulary()
        self.texts = {number: piece for piece, number in self.ids.items()}
        self.vocab_size = len(self.ids)
        self.all_special_ids = [self.ids[START], self.ids[END]]
        self.sot_token_id, self.eot_token_id = self.all_special_ids
        self.known: dict[str, list[int]] = {special: [self.ids[special]] for special in (START, END)}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end."""
        words = (_as_letters(word) for word in WORDS.findall(self.clean(_repaired(text))))
        return [number for word in words for number in self._of_word(word)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, a space after each word."""
        values = {letter: value for value, letter in _letters().items()}
        pieces = "".join(self.texts[number] for number in ids)
        return bytes(values[letter] for letter in pieces).decode("utf-8", errors="replace").replace(OF_WORD, " ")

    def _of_word(self, word: str) -> list[int]:
        if word not in self.known:
            self.known[word] = [self.ids[piece] for piece in self._merged([*word[:-1], word[-1] + OF_WORD])]
        return self.known[word]

    def _merged(self, pieces: list[str]) -> list[str]:
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, MERGES))
            if best not in self.ranks:
                break
            merged: list[str] = []
            place = 0
            while place < len(pieces):
                joined = place < len(pairs) and pairs[place] == best
                merged.append("".join(best) if joined else pieces[place])
                place += 2 if joined else 1
            pieces = merged
        return pieces


def _repaired(text: str) -> str:
    """Return a text with single spaces and as it was meant. ftfy changes no printable ASCII but HTML entities."""
    if not (text.isascii() and text.isprintable()) or "&" in text:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def _as_letters(word: str) -> str:
    letters = _letters()
    return "".join(letters[value] for value in word.encode())


@cache
def _letters() -> dict[int, str]:
    """Return a printable letter for each byte: itself if it is one, or else one beyond the first 256."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in own]
    return {value: chr(value) for value in own} | {value: chr(256 + n) for n, value in enumerate(others)}


@cache
def _vocabulary() -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """Return the rank of each pair that is joined, and the id of each piece."""
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec else None
    file = Path(folders[0]) / VOCABULARY if folders else Path(VOCABULARY)
    if not file.is_file():
        raise MissingFileError(f"{file}, CLIP's vocabulary, does not exist. Install open_clip_torch again")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    letters = list(_letters().values())
    pieces = [*letters, *(letter + OF_WORD for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {pair: rank for rank, pair in enumerate(merges)}, {piece: number for number, piece in enumerate(pieces)}
