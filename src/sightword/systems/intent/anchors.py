"""Codebooks whose codes are words: text vectors of class names, several a class, and what each of them says.

Two files are written beside each other: `semantic_anchors.pth`, the plain dictionary {stream: tensor (K, D)} that
document 000 describes, and `semantic_anchors.safetensors`, the same tensors with the names of the codes and how they
were made in its metadata.

Legend: K codes of a stream; C its classes; P prompts; D width, the joint space of the tower.
"""

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sightword.ops.nearest import nearest, unit
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import digest
from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.intent.vocabulary import Vocabulary, vocabularies
from sightword.towers.base import TextTower, Tower
from sightword.version import VERSION

NAME, FORMAT = "semantic_anchors", 1
EXPANSIONS = ("noise", "synonyms", "templates", "none")
SAME = 1e-5  # distance of unit vectors below which two are one; what rounding leaves of 0
ROUNDING = 1e-3  # of a cosine, between devices and precisions
CLOSE = 0.98  # cosine of two classes that patches will hardly tell apart


class Book(NamedTuple):
    """The codes of one stream, and a row's own words in each list."""

    codes: Tensor  # (K, D) float32, rows of length one; the codes of a class stand together
    names: list[str]  # of the class
    class_ids: list[int]
    copies: list[int]  # which of its class; number 0 is exactly the vector of its prompt
    prompts: list[str]  # empty where the file does not say


@dataclass
class Anchors:
    """The codebooks of all streams. `meta` says how they were made, `source` where they were read."""

    books: dict[str, Book]
    meta: dict[str, Any] = field(default_factory=dict)
    source: str = "these anchors"

    def __post_init__(self) -> None:
        if not self.books:
            raise ValueError(f"{self.source} holds no codebook")
        for stream, book in self.books.items():
            _check_book(f"{stream} of {self.source}", book)
        widths = {stream: book.codes.shape[1] for stream, book in self.books.items()}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{stream} {width}" for stream, width in widths.items())
            raise ValueError(f"the codebooks of {self.source} differ in width, {told}: they are of different towers")

    def __getitem__(self, stream: str) -> Book:
        if stream not in self.books:
            raise ValueError(f"{self.source} has no stream {stream!r}; it has {', '.join(self.books)}")
        return self.books[stream]

    @property
    def dim(self) -> int:
        """D"""
        return next(iter(self.books.values())).codes.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Stream → codes (K, D), as document 000 has them."""
        return {stream: book.codes for stream, book in self.books.items()}

    def write(self, out: str | Path) -> Path:
        """Both files, into the folder `out` or under the name of a file; the path of the .pth."""
        out = Path(out).expanduser()
        file = out.with_suffix(".pth") if out.suffix in (".pth", ".safetensors") else out / f"{NAME}.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {stream: codes.contiguous().clone() for stream, codes in self.tensors().items()}
        lists = {stream: book._asdict() for stream, book in self.books.items()}
        for book in lists.values():
            del book["codes"]
        told = json.dumps({**self.meta, "format": FORMAT, "books": lists}, ensure_ascii=False)
        with write_atomically(file.with_suffix(".safetensors")) as beside:
            save_file(tensors, beside, metadata={"anchors": told})
        with write_atomically(file) as beside:
            torch.save(tensors, beside)
        return file

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """What `write` wrote: the folder, or either file.

        A .pth with no .safetensors of the same codes beside it, as other people have it, is read too. It does not say
        what its codes mean: they are called "coco 0", "coco 1", …, each its own class, with no prompts.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: sightword anchors tower=… out={path} writes it")
        if path.is_dir():
            files = [path / f"{NAME}{suffix}" for suffix in (".safetensors", ".pth")]
            found = [file for file in files if file.is_file()]
            if not found:
                raise FileNotFoundError(f"{path} has no {NAME}.pth: sightword anchors tower=… out={path} writes it")
            path = found[0]
        tensors = _tensors(path)
        beside = path.with_suffix(".safetensors")
        meta = _metadata(beside) if beside.is_file() and (beside == path or _same(tensors, _tensors(beside))) else {}
        lists = meta.pop("books", None) or {stream: _unnamed(stream, len(rows)) for stream, rows in tensors.items()}
        if lists.keys() != tensors.keys():
            raise ValueError(f"{path} has the codes of {', '.join(tensors)} and the names of {', '.join(lists)}")
        try:
            books = {stream: Book(_unit_rows(tensors[stream]), **lists[stream]) for stream in lists}
        except TypeError as error:
            raise ValueError(f"the names in {path} are damaged: {error}") from error
        return cls(books, meta, str(path))

    def check_fits(self, tower: Tower | int, name: str = "") -> None:
        """ValueError unless the codes can be compared with what a tower sees; the message has both sides.

        tower: an image tower, which must have the width and, where both are published ones, the name of the tower that
        made these; a text tower, which must have its very weights; or only a width. name: for the message.
        """
        width, known = (tower, "") if isinstance(tower, int) else (tower.embed_dim, tower.name)
        made, digest_ = self.meta.get("tower", "a tower it does not name"), self.meta.get("digest", "")
        name, remedy = name or known or "the tower", "write anchors for this tower with sightword anchors tower=…"
        if width != self.dim:
            raise ValueError(f"{self.source} is {self.dim} wide, made by {made}; {name} is {width} wide: {remedy}")
        if known and not self.meta.get("local", True) and not _is_local(known) and known != made:
            raise ValueError(f"{self.source} was made by {made}, this is {known}: {remedy}")
        if digest_ and isinstance(tower, TextTower) and digest_ != (weights := _weights(tower)):
            raise ValueError(
                f"{self.source} was made by {made} with the weights {digest_}, those of {name} are {weights}: {remedy}"
            )

    def check_named(self, tower: str, tag: str = "") -> None:
        """ValueError if these were made by another published tower than one that is only named yet, and not opened."""
        from sightword.towers.clip import encoder as clip
        from sightword.towers.hub import plain

        made, usual = self.meta.get("tower", ""), clip.presets.get(tower, (plain(tower), ""))
        full = ":".join(filter(None, (usual[0], tag or usual[1])))
        if not made or self.meta.get("local", True) or _is_local(tower) or _is_local(full):
            return
        if made not in (tower, usual[0], full):  # a SigLIP's name has no tag
            told = f"{tower} ({full})" if full != tower else tower
            raise ValueError(
                f"{self.source} was made by {made}, system.tower is {told}: set system.tower and system.tag to those "
                "of the anchors, or write anchors for this tower with sightword anchors tower=…"
            )

    def check(self, tower: TextTower, batch_size: int = 256) -> list[str]:
        """Codes that do not stand for what they say, one line each.

        Every prompt is encoded anew. Its nearest code must be one of its own class, and its own code no further from it
        than the noise took it. Labels out of step with the rows show up here, even by a single row.
        """
        self.check_fits(tower)
        unsaid = [stream for stream, book in self.books.items() if not all(book.prompts)]
        if unsaid:
            raise ValueError(
                f"{self.source} does not say what its codes mean ({', '.join(unsaid)}): no check is possible"
            )
        vectors = _encode(tower, [prompt for book in self.books.values() for prompt in book.prompts], batch_size)
        noise = self.meta.get("noise", math.inf)
        return [line for stream, book in self.books.items() for line in _strangers(stream, book, vectors, noise)]


def generate_semantic_anchors(
    tower: TextTower,
    streams: Sequence[str] = (),
    files: Sequence[str | Path] = (),
    extra: Mapping[str, Sequence[str]] | None = None,
    sizes: Mapping[str, int] | None = None,
    expand: str = "noise",
    noise: float = 0.1,
    seed: int = 0,
    tag: str = "",
    batch_size: int = 256,
) -> Anchors:
    """Codebooks of document 000: coco 256, places 512, emotion 128, ava 256, actions 256 unit vectors.

    streams, files, extra: which words, as `vocabularies` takes them. sizes: other numbers of codes, by stream.
    expand: how a class gets several codes. noise: its vector, then copies at the angle arctan(noise) to it, in random
    directions. synonyms: its own words. templates: prompts in several wordings. none: one code a class, K = C.
    A vocabulary that says so (emotion) always goes by its words. What does not divide evenly goes to the first classes
    of a permutation. seed: of permutation and noise, which are a stream's own, whatever else is made. tag: of the
    tower's weights, to be noted. Warns of classes that the tower hardly tells apart.
    """
    _check_tower(tower)
    plans = plan(streams, files, extra, sizes, expand, noise)
    words = {stream: one.vocabulary for stream, one in plans.items()}
    vectors = _encode(tower, [prompt for one in plans.values() for some in one.prompts for prompt in some], batch_size)
    books = {}
    for stream, one in plans.items():
        books[stream] = _book(one, vectors, noise, _generator(seed, stream))
        for line in _doubts(stream, books[stream], vectors):
            warnings.warn(line, stacklevel=2)
    meta = {
        "writer": "sightword anchors",
        "version": VERSION,
        "tower": tower.name,
        "tag": tag,
        "local": _is_local(tower.name),
        "dim": tower.embed_dim,
        "digest": _weights(tower),
        "expand": expand,
        "noise": noise if expand == "noise" else 0.0,
        "seed": seed,
        "templates": {name: {pos: list(t) for pos, t in v.templates.items()} for name, v in words.items()},
        "sources": {name: vocabulary.source for name, vocabulary in words.items()},
    }
    return Anchors(books, meta)


# ------------------------------------------------------------------------------------------------------- expansion


class Plan(NamedTuple):
    """What a stream is going to be, before any tower is asked."""

    vocabulary: Vocabulary
    size: int  # K
    prompts: list[list[str]]  # of each class: those whose vectors it can have as codes
    copied: bool  # the first prompt's vector and noisy copies of it; else each prompt once


def plan(
    streams: Sequence[str] = (),
    files: Sequence[str | Path] = (),
    extra: Mapping[str, Sequence[str]] | None = None,
    sizes: Mapping[str, int] | None = None,
    expand: str = "noise",
    noise: float = 0.1,
) -> dict[str, Plan]:
    """What `generate_semantic_anchors` would make; ValueError for whatever it would refuse before it has a tower."""
    if expand not in EXPANSIONS:
        raise ValueError(f"expand is one of {', '.join(EXPANSIONS)}; got {expand!r}")
    if expand == "noise" and not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"noise is above 0, a share of the vector's length; got {noise} (expand=none makes no copies)")
    words = vocabularies(streams, files, extra)
    if unknown := [stream for stream in sizes or {} if stream not in words]:
        raise ValueError(f"sizes names {unknown[0]!r}; the streams are {', '.join(words)}")
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
        raise ValueError(f"{stream} has {len(classes)} classes, more than the {size} codes of sizes={stream}:{size}")
    most = sum(map(len, prompts))
    if size > most and not copied:
        other = "" if vocabulary.by_words else ", or expand=noise"
        raise ValueError(f"{stream} has {most} {what} for {size} codes: sizes={stream}:{most} at most{other}")
    return Plan(vocabulary, size, prompts, copied)


def _check_tower(tower: TextTower) -> None:
    from sightword.towers.bert import BertText
    from sightword.towers.t5 import T5Text

    if isinstance(tower, BertText | T5Text):
        raise ValueError(f"{tower.name} only knows texts: anchors are compared with images, take a CLIP or a SigLIP")


def _book(wanted: Plan, vectors: Mapping[str, Tensor], noise: float, generator: torch.Generator) -> Book:
    vocabulary = wanted.vocabulary
    prompts = _distinct(vocabulary, wanted.prompts, vectors)
    room = [wanted.size if wanted.copied else len(own) for own in prompts]
    if sum(room) < wanted.size:
        raise ValueError(
            f"{vocabulary.stream} has {sum(room)} prompts that the tower tells apart, for {wanted.size} codes: "
            f"sizes={vocabulary.stream}:{sum(room)}"
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
    """A stream's own, so that its codes do not depend on which others are made."""
    number = int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


def _share(size: int, room: Sequence[int], generator: torch.Generator) -> list[int]:
    """How many of `size` codes each class gets: a round after another, in one random order, as far as it has room."""
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

    Noise along b would only change the length, which is taken away again; so the cosine is 1/√(1 + noise²) exactly.
    """
    n = torch.randn(base.shape, generator=generator, dtype=torch.float64)
    b = base.double()
    n = n - (n * b).sum(1, keepdim=True) * b
    return unit(b + noise * unit(n)).float()


def _distinct(
    vocabulary: Vocabulary, prompts: Sequence[Sequence[str]], vectors: Mapping[str, Tensor]
) -> list[list[str]]:
    """Each class's prompts without those that have the vector of one before; ValueError if that is another class's.

    A tokenizer may not see what tells two texts apart, and two codes that are the same would be one with two names.
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
        raise ValueError(
            f"{vocabulary.stream}: the tower has one vector for {one!r} and {other!r}{more}; does it know these words? "
            "streams= leaves a stream out, vocabulary= gives it other words"
        )
    return kept


def _encode(tower: TextTower, prompts: Sequence[str], batch_size: int) -> dict[str, Tensor]:
    """Prompt → unit vector (D,), each computed once, with a progress bar on a terminal."""
    texts, vectors = list(dict.fromkeys(prompts)), []
    with torch.no_grad(), tqdm(total=len(texts), desc="encoding", unit=" prompts", disable=None) as bar:
        for start in range(0, len(texts), batch_size):
            pooled = tower.encode(texts[start : start + batch_size]).pooled
            vectors.append(unit(pooled.float()).cpu())
            bar.update(len(vectors[-1]))
    return dict(zip(texts, torch.cat(vectors), strict=True))


# ---------------------------------------------------------------------------------------------------------- checks


def _doubts(stream: str, book: Book, vectors: Mapping[str, Tensor]) -> list[str]:
    """What is allowed and worth a line: classes that are nearly the same, copies that have left their class."""
    ids = torch.tensor(book.class_ids)
    clean = torch.stack([vectors[prompt] for prompt in book.prompts])  # (K, D)
    lines = []
    cosines = (clean @ clean.T).masked_fill(ids[:, None] == ids, -1)
    pairs = {tuple(sorted((book.names[i], book.names[j]))) for i, j in (cosines > CLOSE).nonzero().tolist()}
    if pairs:
        i, j = divmod(int(cosines.argmax()), len(ids))
        lines.append(
            f"{stream}: {len(pairs)} pairs of classes have a cosine above {CLOSE}, the nearest {cosines[i, j]:.3f}: "
            f"{book.prompts[i]!r} and {book.prompts[j]!r}"
        )
    stray = int((ids[nearest(book.codes, clean, "cosine")] != ids).sum())
    if stray:
        lines.append(f"{stream}: {stray} of {len(ids)} codes are nearer to another class's words: take less noise")
    return lines


def _strangers(stream: str, book: Book, vectors: Mapping[str, Tensor], noise: float) -> list[str]:
    said = torch.stack([vectors[prompt] for prompt in book.prompts])  # (K, D)
    times = Counter(book.prompts)
    noisy = torch.tensor([copy > 0 and times[p] > 1 for copy, p in zip(book.copies, book.prompts, strict=True)])
    least = torch.where(noisy, 1 / math.sqrt(1 + noise**2), 1.0) - ROUNDING
    apart = ((said * book.codes).sum(1) < least).tolist()
    meant: dict[str, int] = {}
    lines = []
    for row, found in enumerate(nearest(said, book.codes, "cosine").tolist()):
        prompt, id_ = book.prompts[row], book.class_ids[row]
        if book.class_ids[found] != id_:
            lines.append(f"{stream} {row} {prompt!r} is nearest to {found} {book.names[found]!r}")
        elif apart[row]:
            lines.append(f"{stream} {row} is not the vector of {prompt!r}")
        elif meant.setdefault(prompt, id_) != id_:
            lines.append(f"{stream} {row} {prompt!r} is said of the classes {meant[prompt]} and {id_}")
    return lines


def _check_book(what: str, book: Book) -> None:
    codes = book.codes
    if not isinstance(codes, Tensor) or codes.ndim != 2 or not codes.is_floating_point() or not codes.numel():
        told = f"{codes.dtype} {tuple(codes.shape)}" if isinstance(codes, Tensor) else f"a {type(codes).__name__}"
        raise ValueError(f"{what} is not (K, D) of numbers but {told}")
    if not codes.isfinite().all():
        raise ValueError(f"{what} has {int((~codes.isfinite()).any(1).sum())} rows that are not finite")
    if zero := int((codes == 0).all(1).sum()):
        raise ValueError(f"{what} has {zero} rows of zeros, which are near to nothing")
    for name, values in book._asdict().items():
        if name != "codes" and len(values) != len(codes):
            raise ValueError(f"{what} has {len(codes)} codes and {len(values)} {name}")


# ----------------------------------------------------------------------------------------------------------- files


def _tensors(file: Path) -> dict[str, Tensor]:
    tensors = {str(key): value for key, value in read_checkpoint(file).items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{file} holds no tensors; anchors are {{stream: tensor (K, D)}}")
    return tensors


def _metadata(file: Path) -> dict[str, Any]:
    """What `write` noted; nothing if another program wrote the file."""
    try:
        with safe_open(file, "pt") as tensors:
            told = json.loads((tensors.metadata() or {}).get("anchors", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"the metadata of {file} is damaged: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"the metadata of {file} is damaged: no dictionary but a {type(told).__name__}")
    if told.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{file} has the format {told['format']}, this sightword reads {FORMAT}: update it")
    return told


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _unnamed(stream: str, size: int) -> dict[str, list[Any]]:
    names = [f"{stream} {number}" for number in range(size)]
    return {"names": names, "class_ids": list(range(size)), "copies": [0] * size, "prompts": [""] * size}


def _unit_rows(codes: Tensor) -> Tensor:
    """float32 rows of length one; those that have it stay as they are, bit for bit."""
    if codes.ndim != 2 or not codes.is_floating_point():
        return codes  # refused with its stream's name
    codes = codes.float()
    off = (codes.norm(dim=1, keepdim=True) - 1).abs() > 1e-5
    return torch.where(off, unit(codes), codes)


def _weights(tower: TextTower) -> str:
    return digest(tower.state_dict())


def _is_local(name: str) -> bool:
    """Whether a tower was read from the user's own files, whose names say little."""
    return any(Path(part).expanduser().exists() for part in name.split(":", 1))
