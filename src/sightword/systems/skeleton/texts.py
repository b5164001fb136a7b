"""Classes and the words they are recognised by: a file of labels → prompts → ids → one vector a class.

    {"drinking water": ["a person drinking water", …], …}     JSON; or CSV with columns id,name; or .txt, a name a line

Legend: L classes; P prompts of all classes; W tokens of a prompt; D width of the tower; E of the common space.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.towers.base import Encoded, TextTower
from sightword.towers.tokenizer import TextTokenizer

AT_ONCE = 256  # prompts that the tower reads together


class Labels(NamedTuple):
    """Classes in the order of their numbers, each with one prompt or more."""

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    source: str  # where they were read, for messages

    @classmethod
    def of(cls, prompts: Mapping[str, Sequence[str]], source: str) -> "Labels":
        """ValueError unless there is a class, and words for each."""
        if not prompts:
            raise ValueError(f"{source} names no class")
        for name, texts in prompts.items():
            whole = isinstance(texts, list | tuple) and all(isinstance(text, str) and text.strip() for text in texts)
            if not whole or not texts:
                raise ValueError(f"{source}: class {name!r} has to have a list of prompts, none of them empty")
        return cls(tuple(prompts), tuple(tuple(texts) for texts in prompts.values()), source)


def read_labels(path: str | Path) -> Labels:
    """A file of labels, by its ending: .json {class: [prompts]}, .csv with columns id and name, .txt a name a line.

    Names of a CSV or text file are their own prompts. ValueError or FileNotFoundError, one line.
    """
    if not str(path):
        raise ValueError(
            "system.labels is not set: it names the classes, as JSON {class: [prompts]}, CSV id,name, or text, a name "
            "a line"
        )
    path = Path(path).expanduser()
    readers = {".json": _read_json, ".csv": _read_csv, ".txt": lambda text: text.splitlines()}
    if path.suffix not in readers:
        raise ValueError(f"{path} is no file of labels: they are {', '.join(readers)}")
    try:
        found = readers[path.suffix](path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist, or is a folder; system.labels is a file of labels") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # JSON's and Unicode's are ValueErrors
        raise ValueError(f"{path} cannot be read as labels: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        names = [name.strip() for name in found if name.strip()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{path} has {sorted(twice)[0]!r} twice: a class has a name of its own")
        found = {name: [name] for name in names}
    return Labels.of(found, str(path))


def _read_json(text: str) -> dict[str, Any]:
    found = json.loads(text, object_pairs_hook=_without_twins)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not {{class: [prompts]}}")
    return {name: [texts] if isinstance(texts, str) else texts for name, texts in found.items()}


def _without_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    if len(pairs) > len(found := dict(pairs)):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in found if names.count(name) > 1)!r} stands in it twice")
    return found


def _read_csv(text: str) -> list[str]:
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    if not rows or not {"id", "name"} <= set(rows[0]):
        raise ValueError(f"its first line is {text.partition(chr(10))[0]!r}, not id,name")
    names = {int(row["id"]): row["name"] for row in rows}
    if sorted(names) != list(range(len(rows))):
        raise ValueError(f"its ids are not 0 to {len(rows) - 1}, each once")
    if nameless := [number for number, name in names.items() if not (name or "").strip()]:
        raise ValueError(f"it has no name beside the id {nameless[0]}")
    if cut := [row["name"] for row in rows if None in row]:
        raise ValueError(f"{cut[0]!r} is followed by more columns than there are: a name with a comma stands in quotes")
    return [names[number] for number in range(len(rows))]


class Read(NamedTuple):
    """What a tower and a projection made of classes' prompts."""

    unit: Tensor  # (L, E) float32, a class: the mean of its prompts' unit vectors, at length one
    tokens: Tensor  # (L, W, D), of its first prompt
    mask: Tensor  # (L, W) bool


class ClassTexts(nn.Module):
    """The prompts of all classes as ids, and their vectors. What a frozen tower makes of them is computed once."""

    ids: Tensor  # (P, W) int64
    mask: Tensor  # (P, W) bool
    owner: Tensor  # (P,) int64, ascending: the class of each prompt
    first: Tensor  # (L,) int64: which prompt is a class's first

    def __init__(self, labels: Labels, tokenizer: TextTokenizer) -> None:
        """ValueError, one line, where a prompt is longer than the tokenizer allows."""
        super().__init__()
        self.labels = labels
        texts = [text for prompts in labels.prompts for text in prompts]
        self._check_lengths(tokenizer)
        ids, mask = tokenizer(texts)
        counts = torch.tensor([len(prompts) for prompts in labels.prompts])
        parts = {"ids": ids, "mask": mask, "owner": torch.arange(len(counts)).repeat_interleave(counts)}
        parts["first"] = counts.cumsum(0) - counts
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)
        self._kept: Encoded | None = None  # of a frozen tower: pooled of all prompts, tokens of the first ones

    def _check_lengths(self, tokenizer: TextTokenizer) -> None:
        for name, prompts in zip(self.labels.classes, self.labels.prompts, strict=True):
            for text, ids in zip(prompts, tokenizer.ids_of(prompts), strict=True):
                if len(ids) > tokenizer.length:
                    raise ValueError(
                        f"{self.labels.source}: {text!r:.60}, of class {name!r}, has {len(ids)} tokens and the tower "
                        f"reads {tokenizer.length}: shorten it, or raise system.text_length"
                    )

    def read(self, tower: TextTower, head: nn.Module, classes: Tensor | None = None) -> Read:
        """Some classes (L,), each once and ascending, or all. head: from the tower's pooled vectors to E."""
        chosen = torch.arange(len(self.first), device=self.ids.device) if classes is None else classes
        number = torch.full_like(self.first, -1)
        number[chosen] = torch.arange(len(chosen), device=chosen.device)
        rows = (number[self.owner] >= 0).nonzero()[:, 0]  # the prompts of these classes
        if tower.frozen:
            kept = self._keep(tower)
            pooled, tokens, mask = kept.pooled[rows], kept.tokens[chosen], self.mask[self.first[chosen]]
        else:
            encoded = self._encode(tower, rows)
            firsts = torch.searchsorted(rows, self.first[chosen])
            pooled, tokens, mask = encoded.pooled, encoded.tokens[firsts], self.mask[self.first[chosen]]
        each = F.normalize(head(pooled).float(), dim=-1)
        total = each.new_zeros(len(chosen), each.shape[1]).index_add(0, number[self.owner[rows]], each)
        return Read(F.normalize(total, dim=-1), tokens, mask)

    def _encode(self, tower: TextTower, rows: Tensor) -> Encoded:
        parts = [tower(self.ids[some], self.mask[some]) for some in rows.split(AT_ONCE)]
        return Encoded(torch.cat([part.tokens for part in parts]), torch.cat([part.pooled for part in parts]))

    @torch.no_grad()
    def _keep(self, tower: TextTower) -> Encoded:
        if self._kept is None or self._kept.pooled.device != self.ids.device:
            encoded = self._encode(tower, torch.arange(len(self.ids), device=self.ids.device))
            self._kept = Encoded(encoded.tokens[self.first], encoded.pooled)
        return self._kept
