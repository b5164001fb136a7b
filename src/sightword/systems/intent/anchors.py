"""Anchors: codebooks whose codes are the text embeddings of class names, and the names of the codes.

Two files are written beside each other: `semantic_anchors.pth`, a plain dictionary {stream: tensor (K, D)}, and
`semantic_anchors.safetensors`, the same tensors; its metadata contain the names of the codes and how they were made.

Legend: K codes of a stream; D dimension of the encoder's joint space.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sightword.errors import MissingFileError, SightwordError
from sightword.ops.nearest import nearest, unit
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import digest
from sightword.storage.checkpoint import read_checkpoint
from sightword.storage.reader import parse_json
from sightword.systems.intent.expansion import Book as Book
from sightword.systems.intent.expansion import fill, plan
from sightword.systems.intent.vocabulary import digests
from sightword.towers.base import TextTower, Tower
from sightword.towers.tokenizer import unknown_line
from sightword.version import VERSION

NAME, FORMAT = "semantic_anchors", 1
ROUNDING = 1e-3  # of a cosine, between devices and precisions
CLOSE = 0.98  # cosine of two classes above which patches can hardly be told apart
REMEDY = "write anchors for this encoder with sightword anchors tower=…"


@dataclass
class Anchors:
    """The codebooks of all streams."""

    books: dict[str, Book]
    meta: Mapping[str, object] = field(default_factory=dict)  # how they were made; empty if unknown
    source: str = "these anchors"  # the file that they were read from, for messages

    def __post_init__(self) -> None:
        if not self.books:
            raise SightwordError(f"{self.source} contains no codebook")
        for stream, book in self.books.items():
            _check_book(f"{stream} of {self.source}", book)
        widths = {stream: book.codes.shape[1] for stream, book in self.books.items()}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{stream} {width}" for stream, width in widths.items())
            raise SightwordError(f"the codebooks of {self.source} differ in dimension ({told}): of different encoders")

    def __getitem__(self, stream: str) -> Book:
        if stream not in self.books:
            raise SightwordError(f"{self.source} has no stream {stream!r}; it has {', '.join(self.books)}")
        return self.books[stream]

    @property
    def dim(self) -> int:
        """D"""
        return next(iter(self.books.values())).codes.shape[1]

    @property
    def tower(self) -> str:
        """The name of the encoder that made them; empty if unknown."""
        return str(self.meta.get("tower", ""))

    @property
    def is_local(self) -> bool:
        """Whether that encoder was read from a user's own files, or is unknown: then its name says little."""
        return bool(self.meta.get("local", True))

    def tensors(self) -> dict[str, Tensor]:
        """Return stream → codes (K, D)."""
        return {stream: book.codes for stream, book in self.books.items()}

    def write(self, out: str | Path) -> Path:
        """Write both files, into the folder `out` or under the name of a file. Return the path of the .pth."""
        out = Path(out).expanduser()
        file = out.with_suffix(".pth") if out.suffix in (".pth", ".safetensors") else out / f"{NAME}.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = self.write_named(file.with_suffix(".safetensors"))
        with write_atomically(file) as beside:
            torch.save(tensors, beside)
        return file

    def write_named(self, file: Path) -> dict[str, Tensor]:
        """Write the .safetensors alone, which has the codes with their names. Return its tensors."""
        tensors = {stream: codes.contiguous().clone() for stream, codes in self.tensors().items()}
        lists = {stream: book._asdict() for stream, book in self.books.items()}
        for book in lists.values():
            del book["codes"]
        told = json.dumps({**self.meta, "format": FORMAT, "books": lists}, ensure_ascii=False)
        with write_atomically(file) as beside:
            save_file(tensors, beside, metadata={"anchors": told})
        return tensors

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote: the folder, or either file.

        A .pth without a .safetensors of the same codes beside it is read too. Its codes have no names: they are called
        "coco 0", "coco 1", …, each a class of its own, without prompts. Raises SightwordError for other files.
        """
        path = find(path)
        tensors = _tensors(path)
        beside = path.with_suffix(".safetensors")
        meta: dict[str, object] = {}
        books: dict[str, Book] = {}
        if beside.is_file() and (beside == path or _same(tensors, _tensors(beside))):
            books, meta = _named_books(beside, path, tensors)
        return cls(books or {stream: _unnamed(stream, codes) for stream, codes in tensors.items()}, meta, str(path))

    def check_fits(self, tower: Tower | int, name: str = "") -> None:
        """Raise SightwordError unless the codes can be compared with the output of an encoder.

        tower: an image encoder, which must have the dimension and, if both are published ones, the name of the encoder
        that made the anchors; a text encoder, which must have exactly its weights; or only a dimension. name: for the
        message.
        """
        width, known = (tower, "") if isinstance(tower, int) else (tower.embed_dim, tower.name)
        made, digest_ = self.tower or "an unknown encoder", self.meta.get("digest", "")
        name = name or known or "the encoder"
        if width != self.dim:
            raise SightwordError(
                f"{self.source} has dimension {self.dim}, made by {made}; {name} has dimension {width}: {REMEDY}"
            )
        if known and not self.is_local and not _is_local(known) and known != self.tower:
            raise SightwordError(f"{self.source} was made by {made}, this is {known}: {REMEDY}")
        if digest_ and isinstance(tower, TextTower) and digest_ != (weights := _weights(tower)):
            raise SightwordError(
                f"{self.source} was made by {made} with the weights {digest_}, those of {name} are {weights}: {REMEDY}"
            )

    def check_vocabularies(self, files: Sequence[str | Path]) -> None:
        """Raise SightwordError if these were made of vocabulary files that have changed since.

        files: as they are now. Streams whose file is not known are not compared.
        """
        made = self.meta.get("vocabularies", {})
        known = made if isinstance(made, Mapping) else {}
        if changed := [name for name, now in digests(files).items() if known.get(name, now) != now]:
            raise SightwordError(
                f"{self.source} was made of other words than the vocabulary of {', '.join(changed)} has now. Write "
                "other anchors with sightword anchors vocabulary=…, or pass the vocabulary that made these"
            )

    def check_named(self, tower: str, tag: str = "") -> None:
        """Raise SightwordError if these were made by another published encoder than the one named. Opens none."""
        from sightword.towers.clip import encoder as clip
        from sightword.towers.hub import plain

        usual = clip.presets.get(tower, (plain(tower), ""))
        full = ":".join(filter(None, (usual[0], tag or usual[1])))
        if not self.tower or self.is_local or _is_local(tower) or _is_local(full):
            return
        if self.tower not in (tower, usual[0], full):  # a SigLIP's name has no tag
            told = f"{tower} ({full})" if full != tower else tower
            raise SightwordError(
                f"{self.source} was made by {self.tower}, system.tower is {told}. Set system.tower and system.tag to "
                f"those of the anchors, or {REMEDY}"
            )

    def check(self, tower: TextTower, batch_size: int = 256) -> list[str]:
        """Return a line for each code that does not match its prompt.

        Encodes every prompt again. Its nearest code must belong to its class, and its own code must not be further from
        it than the noise moved it. Rows and names that are shifted against each other are found, even by a single row.
        """
        self.check_fits(tower)
        unsaid = [stream for stream, book in self.books.items() if not all(book.prompts)]
        if unsaid:
            raise SightwordError(f"{self.source} contains no prompts ({', '.join(unsaid)}), so it cannot be checked")
        vectors = _encode(tower, [prompt for book in self.books.values() for prompt in book.prompts], batch_size)
        noise = self.meta.get("noise", math.inf)
        assert isinstance(noise, float | int)
        return [line for stream, book in self.books.items() for line in _mismatches(stream, book, vectors, noise)]


def find(path: str | Path) -> Path:
    """Return the file of anchors that a folder contains, or the file itself. Raises MissingFileError if there is none.

    A folder's .safetensors is preferred, as it contains the names.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise MissingFileError(f"{path} does not exist: sightword anchors tower=… out={path} writes it")
    if not path.is_dir():
        return path
    files = [path / f"{NAME}{suffix}" for suffix in (".safetensors", ".pth")]
    found = [file for file in files if file.is_file()]
    if not found:
        raise MissingFileError(f"{path} has no {NAME}.pth: sightword anchors tower=… out={path} writes it")
    return found[0]


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
    """Return codebooks of unit vectors: coco 256, places 512, emotion 128, ava 256, actions 256, unless told otherwise.

    streams, files, extra: the vocabularies, as `vocabularies` takes them. sizes: other numbers of codes, by stream.
    expand: how a class gets several codes.
        noise      its vector, then copies at the angle arctan(noise) to it, in random directions
        synonyms   the vectors of its own words
        templates  the vectors of prompts in several wordings
        none       one code per class, K = C
    A vocabulary with "expand": "words" (emotion) always uses its words. A remainder of codes goes to the first classes
    of a random permutation. seed: of permutation and noise, drawn for each stream separately. tag: of the encoder's
    weights, kept in the metadata. Warns of words that the encoder does not know, which the metadata list too, and of
    classes that it hardly tells apart.
    """
    _refuse_text_only(tower)
    plans = plan(streams, files, extra, sizes, expand, noise)
    vectors = _encode(tower, [prompt for one in plans.values() for some in one.prompts for prompt in some], batch_size)
    books: dict[str, Book] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    for stream, one in plans.items():
        books[stream] = fill(one, vectors, noise, seed)
        unknown[stream] = tower.unknown_words(books[stream].prompts)
        if unknown[stream]:
            warnings.warn(f"{stream}: {unknown_line(unknown[stream])}", stacklevel=2)
        for line in _doubts(stream, books[stream], vectors):
            warnings.warn(line, stacklevel=2)
    words = {stream: one.vocabulary for stream, one in plans.items()}
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
        "unknown_words": {name: list(found) for name, found in unknown.items() if found},
        "vocabularies": {name: given for name, given in digests(files).items() if name in words},
    }
    return Anchors(books, meta)


# ------------------------------------------------------------------------------------------- made by a named encoder


@dataclass(frozen=True)
class Recipe:
    """How to make anchors; arguments as of `generate_semantic_anchors`. The encoder is named, not opened."""

    tower: str
    tag: str = ""
    streams: Sequence[str] = ()
    files: Sequence[str | Path] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    expand: str = "noise"
    noise: float = 0.1
    seed: int = 0
    batch_size: int = 256


class Written(NamedTuple):
    """Anchors that were made, checked and written."""

    anchors: Anchors
    file: Path
    notes: list[str]  # words that the encoder does not know, and classes that it hardly tells apart


def write_anchors(recipe: Recipe, out: str | Path) -> Written:
    """Open the text encoder, make anchors, check and write them. Raises SightwordError before anything is written."""
    from sightword.storage import shards
    from sightword.towers.factory import text_tower

    r = recipe
    plan(r.streams, r.files, r.extra, r.sizes, r.expand, r.noise)  # reports a mistake before an encoder is fetched
    text = text_tower(r.tower, tag=r.tag).freeze().to(shards.device())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        made = generate_semantic_anchors(
            text, r.streams, r.files, r.extra, r.sizes, r.expand, r.noise, r.seed, tag=r.tag, batch_size=r.batch_size
        )
    if wrong := made.check(text, r.batch_size):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise SightwordError(f"nothing is written, codes do not match their prompts: {'; '.join(wrong[:3])}{more}")
    return Written(made, made.write(out), [str(line.message) for line in caught if line.category is UserWarning])


# ---------------------------------------------------------------------------------------------------------- encoding


def _refuse_text_only(tower: TextTower) -> None:
    from sightword.towers.bert import BertText
    from sightword.towers.t5 import T5Text

    if isinstance(tower, BertText | T5Text):
        raise SightwordError(
            f"{tower.name} encodes texts only. Anchors are compared with images: pass a CLIP or a SigLIP"
        )


def _encode(tower: TextTower, prompts: Sequence[str], batch_size: int) -> dict[str, Tensor]:
    """Prompt → unit vector (D,), each computed once, with a progress bar on a terminal."""
    texts, vectors = list(dict.fromkeys(prompts)), []
    with torch.no_grad(), tqdm(total=len(texts), desc="encoding", unit=" prompts", disable=None) as bar:
        for start in range(0, len(texts), batch_size):
            pooled = tower.encode(texts[start : start + batch_size]).pooled
            vectors.append(unit(pooled.float()).cpu())
            bar.update(len(vectors[-1]))
    return dict(zip(texts, torch.cat(vectors), strict=True))


def _weights(tower: TextTower) -> str:
    return digest(tower.state_dict())


def _is_local(name: str) -> bool:
    return any(Path(part).expanduser().exists() for part in name.split(":", 1))


# ------------------------------------------------------------------------------------------------------------- checks


def _doubts(stream: str, book: Book, vectors: Mapping[str, Tensor]) -> list[str]:
    """A line for classes that are nearly the same, and for copies that are nearer to another class."""
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
    nearer = int((ids[nearest(book.codes, clean, "cosine")] != ids).sum())
    if nearer:
        lines.append(f"{stream}: {nearer} of {len(ids)} codes are nearer to another class's words: take less noise")
    return lines


def _mismatches(stream: str, book: Book, vectors: Mapping[str, Tensor], noise: float) -> list[str]:
    """A line for each code that does not match its prompt."""
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
            lines.append(f"{stream} {row} {prompt!r} stands for the classes {meant[prompt]} and {id_}")
    return lines


def _check_book(what: str, book: Book) -> None:
    codes = book.codes
    if codes.ndim != 2 or not codes.is_floating_point() or not codes.numel():
        raise SightwordError(f"{what}: expected floats (K, D), got {codes.dtype} {tuple(codes.shape)}")
    if not codes.isfinite().all():
        raise SightwordError(f"{what} has {int((~codes.isfinite()).any(1).sum())} rows that are not finite")
    if zero := int((codes == 0).all(1).sum()):
        raise SightwordError(f"{what} has {zero} rows of zeros, which have no direction")
    for name, values in book._asdict().items():
        if name != "codes" and len(values) != len(codes):
            raise SightwordError(f"{what} has {len(codes)} codes and {len(values)} {name}")


# -------------------------------------------------------------------------------------------------------------- files


def _tensors(file: Path) -> dict[str, Tensor]:
    tensors = {str(key): value for key, value in read_checkpoint(file).items() if isinstance(value, Tensor)}
    if not tensors:
        raise SightwordError(f"{file} contains no tensors; anchors are {{stream: tensor (K, D)}}")
    return tensors


def _named_books(file: Path, path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Book], dict[str, object]]:
    """(books, metadata) of a .safetensors that `write` wrote; without books if another program wrote it."""
    try:
        with safe_open(file, "pt") as opened:
            told = (opened.metadata() or {}).get("anchors", "{}")
    except SafetensorError as error:
        raise SightwordError(f"the metadata of {file} are damaged: {error}") from error
    fields = parse_json(told, f"the metadata of {file}", damaged="They are damaged: write the anchors again")
    if (version := fields.integer("format", FORMAT)) != FORMAT:
        raise SightwordError(f"{file} has the format {version}, this sightword reads {FORMAT}: update it")
    meta = {key: value for key, value in fields.plain().items() if key != "books"}
    if "books" not in fields:
        return {}, meta
    lists = fields.mapping("books")
    if set(lists) != set(tensors):
        raise SightwordError(f"{path} has the codes of {', '.join(tensors)} and the names of {', '.join(lists)}")
    books = {}
    for stream in lists:
        named = lists.mapping(stream)
        named.refuse_unknown(Book._fields[1:])
        ids, copies = named.integers("class_ids"), named.integers("copies")
        books[stream] = Book(_unit_rows(tensors[stream]), named.texts("names"), ids, copies, named.texts("prompts"))
    return books, meta


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _unnamed(stream: str, codes: Tensor) -> Book:
    size = len(codes)
    names = [f"{stream} {number}" for number in range(size)]
    return Book(_unit_rows(codes), names, list(range(size)), [0] * size, [""] * size)


def _unit_rows(codes: Tensor) -> Tensor:
    """float32 rows of length one; rows that have it already stay the same, bit for bit."""
    if codes.ndim != 2 or not codes.is_floating_point():
        return codes  # `_check_book` refuses it, with the name of its stream
    codes = codes.float()
    off = (codes.norm(dim=1, keepdim=True) - 1).abs() > 1e-5
    return torch.where(off, unit(codes), codes)
