"""Fill codebooks from vocabularies: how many codes a class gets, and which vectors they are.

Legend: K codes of a stream; C its classes; P prompts; D dimension of the joint space.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.ops.nearest import unit
from sightword.systems.intent.vocabulary import Vocabulary, vocabularies

EXPANSIONS = ("noise", "synonyms", "templates", "none")
SAME = 1e-5  # distance below which two unit vectors count as equal; rounding leaves that much


class Book(NamedTuple):
    """The codebook of one stream: its codes, and for each code the class that it stands for."""

    codes: Tensor  # (K, D) float32, rows of length one; the codes of a class are consecutive
    names: list[str]  # K, of the class
    class_ids: list[int]  # K
    copies: list[int]  # K, number within the class; number 0 is exactly the vector of its prompt
    prompts: list[str]  # K; empty where the file does not contain them

    def by_word(self) -> "Book":
        """Return the book with one code per class: the unit mean of its prompts' vectors, without noisy copies."""
        rows: dict[int, dict[str, int]] = {}  # class → prompt → its first code, which is not moved
        for row, (class_id, prompt) in enumerate(zip(self.class_ids, self.prompts, strict=True)):
            rows.setdefault(class_id, {}).setdefault(prompt, row)
        first = [next(iter(own.values())) for own in rows.values()]
        codes = [self.codes[list(own.values())] for own in rows.values()]
        vectors = [own[0] if len(own) == 1 else unit(own.mean(0)) for own in codes]  # one alone stays bit for bit
        names, prompts = ([texts[row] for row in first] for texts in (self.names, self.prompts))
        return Book(torch.stack(vectors), names, list(rows), [0] * len(rows), prompts)


class Plan(NamedTuple):
    """What a codebook will contain, known without a text encoder."""

    vocabulary: Vocabulary
    size: int  # K
    prompts: list[list[str]]  # of each class: those whose vectors may become its codes
    copied: bool  # whether a class gets its first prompt's vector and noisy copies; otherwise each prompt once


def plan(
    streams: Sequence[str] = (),
    files: Sequence[str | Path] = (),
    extra: Mapping[str, Sequence[str]] | None = None,
    sizes: Mapping[str, int] | None = None,
    expand: str = "noise",
    noise: float = 0.1,
) -> dict[str, Plan]:
    """Return stream → what `generate_semantic_anchors` will make. Raises SightwordError for a wrong argument."""
    if expand not in EXPANSIONS:
        raise SightwordError(f"expand={expand!r} is none of {', '.join(EXPANSIONS)}")
    if expand == "noise" and not (math.isfinite(noise) and noise > 0):
        raise SightwordError(
            f"noise={noise} is not a fraction of the vector's length above 0. To make no copies, pass expand=none"
        )
    words = vocabularies(streams, files, extra)
    if unknown := [stream for stream in sizes or {} if stream not in words]:
        raise SightwordError(f"sizes names {unknown[0]!r}; the streams are {', '.join(words)}")
    return {stream: _plan(vocabulary, (sizes or {}).get(stream), expand) for stream, vocabulary in words.items()}


def _plan(vocabulary: Vocabulary, asked: int | None, expand: str) -> Plan:
    stream, classes = vocabulary.stream, vocabulary.classes
    if vocabulary.by_words or expand == "synonyms":
        what, prompts = "words", [vocabulary.word_prompts(entry) for entry in classes]
    elif expand == "templates":
        what, prompts = "prompts", [vocabulary.template_prompts(entry) for entry in classes]
    else:
        what, prompts = "classes", [[vocabulary.prompt(entry)] for entry in classes]
    copied = what == "classes" and expand == "noise"
    size = asked if asked is not None else len(classes) if what == "classes" and not copied else vocabulary.size
    if size < len(classes):
        raise SightwordError(f"{stream} has {len(classes)} classes, more than sizes={stream}:{size} codes")
    most = sum(map(len, prompts))
    if size > most and not copied:
        other = "" if vocabulary.by_words else ", or expand=noise"
        raise SightwordError(f"{stream} has {most} {what} for {size} codes. Pass sizes={stream}:{most} at most{other}")
    return Plan(vocabulary, size, prompts, copied)


def fill(wanted: Plan, vectors: Mapping[str, Tensor], noise: float, seed: int) -> Book:
    """Return the codebook of a plan. vectors: prompt → unit vector (D,). seed: of the noise and of the codes per class.

    Raises SightwordError if the text encoder does not tell two classes apart.
    """
    vocabulary = wanted.vocabulary
    generator = _generator(seed, vocabulary.stream)
    prompts = _distinct(vocabulary, wanted.prompts, vectors)
    room = [wanted.size if wanted.copied else len(own) for own in prompts]
    if sum(room) < wanted.size:
        raise SightwordError(
            f"{vocabulary.stream} has {sum(room)} prompts that the text encoder tells apart, for {wanted.size} codes. "
            f"Pass sizes={vocabulary.stream}:{sum(room)}"
        )
    rows: list[Tensor] = []
    book = Book(torch.empty(0), [], [], [], [])
    for entry, own, count in zip(vocabulary.classes, prompts, _share(wanted.size, room, generator), strict=True):
        said = own[:1] * count if wanted.copied else own[:count]
        base = torch.stack([vectors[prompt] for prompt in said])  # (count, D)
        rows.append(torch.cat([base[:1], _noisy(base[1:], noise, generator)]) if wanted.copied else base)
        book.names.extend([entry.name] * count)
        book.class_ids.extend([entry.id] * count)
        book.copies.extend(range(count))
        book.prompts.extend(said)
    return book._replace(codes=torch.cat(rows))


def _generator(seed: int, stream: str) -> torch.Generator:
    """The generator of a stream: its codes do not depend on which other streams there are."""
    number = int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


def _share(size: int, room: Sequence[int], generator: torch.Generator) -> list[int]:
    """How many of `size` codes each class gets: in rounds, in one random order, at most as many as it has room for."""
    order = torch.randperm(len(room), generator=generator).tolist()
    counts = [0] * len(room)
    left = size
    while left:
        for number in order:
            if left and counts[number] < room[number]:
                counts[number] += 1
                left -= 1
    return counts


def _noisy(base: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Unit vectors (n, D) turned by arctan(noise) in random directions: normalize(b + noise · |b| · n / |n|), n ⟂ b.

    Noise along b would only change the length, which is normalised away; so the cosine is exactly 1/√(1 + noise²).
    """
    n = torch.randn(base.shape, generator=generator, dtype=torch.float64)
    b = base.double()
    n = n - (n * b).sum(1, keepdim=True) * b
    return unit(b + noise * unit(n)).float()


def _distinct(
    vocabulary: Vocabulary, prompts: Sequence[Sequence[str]], vectors: Mapping[str, Tensor]
) -> list[list[str]]:
    """Each class's prompts without those whose vector equals an earlier one's; an error if that is another class's.

    A tokenizer may map two texts to the same ids, and two equal codes could not be told apart.
    """
    owners = [(number, prompt) for number, own in enumerate(prompts) for prompt in own]
    rows = torch.stack([vectors[prompt] for _, prompt in owners])  # (P, D)
    same = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") < SAME
    kept: list[list[str]] = [[] for _ in prompts]
    shared: list[tuple[str, str]] = []
    for row, (number, prompt) in enumerate(owners):
        before = [owners[i] for i in same[row, :row].nonzero().flatten().tolist()]
        shared += [(other, prompt) for owner, other in before[:1] if owner != number]
        if not before:
            kept[number].append(prompt)
    if shared:
        one, other = shared[0]
        more = f", and so for {len(shared) - 1} more" if len(shared) > 1 else ""
        raise SightwordError(
            f"{vocabulary.stream}: the text encoder gives {one!r} and {other!r} the same vector{more}. Leave the "
            "stream out of streams=, or pass other words with vocabulary="
        )
    return kept
