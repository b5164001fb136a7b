"""A gallery: every image of a folder as one vector on disk, and which of the images a text describes.

    out/gallery.json             the run that made the vectors, to encode texts with
    out/index.json, out/<hex>/   the vectors by the bytes of their images, kept as `towers.token_cache` keeps rows

So only new images are computed when images are added, moved or there twice, and vectors of other weights never mix.
A search leaves out images that were replaced or deleted since, with their count on stderr, and finds moved ones.
A search is exact. After the first one the vectors stay in memory; if they need more than `HELD` bytes, they are read
each time, shard by shard.

Legend: B images; H, W pixels; N images of a gallery; E width of the embedding.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sightword.data.image import ImageLike, open_image
from sightword.errors import SightwordError
from sightword.metrics.ranking import best
from sightword.metrics.shortlist import Shortlist
from sightword.storage import shards
from sightword.storage.cache import digest
from sightword.storage.job import ImageJobOptions
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json
from sightword.systems.retrieval.data import read_person
from sightword.systems.retrieval.model import DualEncoder
from sightword.towers.base import Encoded, ImageTower
from sightword.towers.preprocess import Preprocess
from sightword.towers.token_cache import Opener, TokenCache, cache_tokens
from sightword.towers.tokenizer import TextTokenizer

NOTE, WRITER = "gallery.json", "sightword index"
HELD = 2**32  # bytes of vectors, in single and half precision, that a gallery keeps in memory
SELECTIONS = 16  # whose rows are kept
HALF = (0.5, 0.5, 0.5)  # mean and deviation that bring [0, 1] to [-1, 1], which the encoder takes


class Identity(NamedTuple):
    """What the vectors of a gallery depend on, and so those of its queries."""

    weights: str  # digest of both sides
    preprocessing: Mapping[str, object]  # of images
    name: str  # of the model, for messages


class TextSide(Protocol):
    """A `DualEncoder` or its text side alone."""

    tokenizer: TextTokenizer

    def encode_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, L) and their mask to unit rows (B, E)."""
        ...


class Embedder(ImageTower):
    """A dual encoder as a tower: an image's embedding is its only token, and its pooled vector.

    Its weights are those of both sides, since a text is only comparable with images that the same network encoded.
    """

    model: DualEncoder

    def __init__(self, model: DualEncoder, name: str, interpolation: str = "bicubic") -> None:
        """name: for messages, the run of the model. interpolation: of images, as the weights were trained."""
        super().__init__()
        self.model, self.name = model, name
        height, width = self.model.image.preprocess.size
        self.preprocess = Preprocess((int(height), int(width)), HALF, HALF, "squash", interpolation)
        self.architecture = {"encoder": type(model).__name__}

    def forward(self, images: Tensor) -> Encoded:
        """(B, 3, H, W) in [-1, 1]"""
        vectors = self.model.encode_image(images)
        return Encoded(vectors[:, None].float(), vectors.float(), None)

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return one by one: the whole image has one vector."""
        return 1, 1

    @cached_property
    def digest(self) -> str:
        """The digest of the weights as they are when it is first asked for."""
        return digest(self.state_dict())

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return unit rows (n, E) of texts, on the CPU; see `encode_texts`."""
        return encode_texts(self.model, texts, self.device)

    @torch.no_grad()
    def encode_image(self, images: Sequence[ImageLike], batch_size: int = 32) -> Tensor:
        """Return unit rows (N, E) of images, on the CPU. They are opened batch by batch."""
        starts = range(0, len(images), batch_size)
        shown = None if len(starts) > 1 else True  # no bar for a single batch, none where stderr is no terminal
        rows = [torch.empty(0, self.model.embed_dim)]
        for start in tqdm(starts, desc="encoding", unit=" batches", disable=shown):
            pictures = [_opened(image) for image in images[start : start + batch_size]]
            rows.append(self(self.preprocess.batch(pictures).to(self.device)).pooled.cpu())
        return torch.cat(rows)


@torch.no_grad()
def encode_texts(encoder: TextSide, texts: Sequence[str], device: torch.device | str, batch_size: int = 256) -> Tensor:
    """Return unit rows (n, E) of one text or more, on the CPU. Texts that are too long are cut, with a line on stderr.

    device: of the encoder. Raises SightwordError if a text is empty.
    """
    if any(not text.strip() for text in texts):
        raise SightwordError('the text is empty. Pass a sentence, as in sightword search index=… "a red coat"')
    tokenizer, rows = encoder.tokenizer, []
    before = tokenizer.truncated
    for start in range(0, len(texts), batch_size):
        ids, mask = tokenizer(list(texts[start : start + batch_size]), truncate=True)
        rows.append(encoder.encode_text(ids.to(device), mask.to(device)).float().cpu())
    if cut := tokenizer.truncated - before:
        shards.say(f"{cut} of {len(texts)} sentences cut to the {tokenizer.length} tokens that this run takes")
    return torch.cat(rows)


def _opened(image: ImageLike) -> Image.Image:
    return read_person(Path(image).expanduser()) if isinstance(image, str | Path) else open_image(image)


class Hit(NamedTuple):
    """One image that a search found."""

    image: ImageLike  # its file, or the image as it was given
    score: float  # cosine
    copies: int = 0  # other files of the same bytes
    number: int | None = None  # of the image among those that were indexed in memory, from 0
    content: str = ""  # a digest of the file's bytes, in a gallery on disk

    @property
    def path(self) -> Path | None:
        """The image's file; None for an image that was given without one."""
        return Path(self.image) if isinstance(self.image, str | Path) else None


class Searchable(Protocol):
    """A gallery, on disk or in memory."""

    def __len__(self) -> int:
        """Return how many images can be found."""
        ...

    def check(self, identity: Identity) -> None:
        """Raise SightwordError unless it was made by these weights and this preprocessing."""
        ...

    def search(self, vector: Tensor, top: int) -> list[Hit]:
        """Return the images nearest to a unit vector (1, E), best first."""
        ...

    def moments(self, vectors: Tensor) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the cosines of each unit vector (n, E) with all images."""
        ...


@dataclass(frozen=True, eq=False)
class MemoryGallery:
    """Images and their vectors, in memory."""

    images: tuple[ImageLike, ...]  # N
    vectors: Tensor  # (N, E) unit rows
    weights: str  # digest of the encoder's

    def __len__(self) -> int:
        return len(self.images)

    def check(self, identity: Identity) -> None:
        if self.weights != identity.weights:
            raise SightwordError("the gallery was made with other weights. Use the model that made it, or index again")

    @cached_property
    def index(self) -> Shortlist:
        """What searches the vectors."""
        return Shortlist(self.vectors)

    def search(self, vector: Tensor, top: int) -> list[Hit]:
        """Return the images nearest to a unit vector (1, E), best first; equal scores in their order in the gallery."""
        scores, rows = self.index.search(vector[0], top)
        return [Hit(self.images[row], score, 0, row) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]

    def moments(self, vectors: Tensor) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the cosines of each unit vector (n, E) with all images."""
        return self.index.moments(vectors)


class Held(NamedTuple):
    """The vectors of a gallery in memory."""

    shortlist: Shortlist
    keys: list[str]  # content of the image of each row
    chosen: dict[frozenset[str], Tensor]  # rows of the selections that were searched lately

    def rows_of(self, among: frozenset[str] | None) -> Tensor | None:
        """Return the rows of a selection, ascending; None for no selection."""
        if among is None:
            return None
        if among not in self.chosen:
            if len(self.chosen) >= SELECTIONS:
                self.chosen.pop(next(iter(self.chosen)))
            self.chosen[among] = torch.tensor([row for row, key in enumerate(self.keys) if key in among])
        return self.chosen[among]


class Gallery:
    """A gallery on disk: reads what `write_gallery` wrote."""

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out).expanduser()
        note = read_json(
            self.out / NOTE,
            missing=f"{out} contains no gallery. sightword index model=… images=… out={out} writes one",
            damaged="It is damaged: sightword index writes it again",
        )
        self.run, self.checkpoint = note.text("run"), note.text("checkpoint")
        self.tower, self.tag = note.text("tower", ""), note.text("tag", "")
        self.rows = TokenCache(self.out, command="sightword index model=…")
        self.rows.command = f"sightword index {shlex.quote(f'model={self.run or self.tower}')}"
        if self.tag:
            self.rows.command += f" {shlex.quote(f'tag={self.tag}')}"
        self.root = self.rows.root
        self.look()

    def look(self) -> None:
        """Compare the gallery with its folder, and say on stderr which images can no longer be found."""
        now = self.rows.compare()
        self._held: Held | None = None
        self.absent = now.absent
        self.paths: dict[str, list[str]] = {}  # content → files that have it now
        for path, key in now.current.items():
            self.paths.setdefault(key, []).append(path)
        if now.absent and now.current:
            shards.say(
                f"the images of {self.out} are no longer in {self.root}: paths are as they were indexed. "
                f"If they moved: {self.rows.command} images=… out={self.out}"
            )
        elif str(now):
            shards.say(f"{now}: left out. To add what is new: {self.rows.again()}")

    def __len__(self) -> int:
        """Return how many images of the folder have a vector, without their copies."""
        return len(self.rows.keys() & self.paths.keys())

    @property
    def unread(self) -> int:
        """How many indexed images have no vector, because they could not be read."""
        return len(set(self.rows.index.values()) - self.rows.keys())

    def check(self, identity: Identity) -> None:
        found = {name: self.rows.header.get(name) for name in ("weights", "preprocessing")}
        wanted = {"weights": identity.weights, "preprocessing": identity.preprocessing}
        if other := [name for name in found if found[name] != wanted[name]]:
            name = other[0]
            raise SightwordError(
                f"{self.out} was made with other {name} ({found[name]}) than {identity.name} has ({wanted[name]}). "
                f"Pass the model= that made it, or write another with sightword index model={identity.name} out=…"
            )

    def search(self, vector: Tensor, top: int, among: frozenset[str] | None = None) -> list[Hit]:
        """Return the images nearest to a unit vector (1, E), best first; equal scores in the order of their paths.

        among: contents of the images that are searched; None: all. If an image that is found was replaced or deleted
        since the gallery was opened, the folder is compared again.
        """
        hits = self._search(vector, top, among)
        if not self.absent and not all(self._is_current(*hit) for hit in hits):
            self.look()
            hits = self._search(vector, top, among)
        return [
            Hit(self.root / self.paths[key][0], score, len(self.paths[key]) - 1, content=key) for score, key in hits
        ]

    def _is_current(self, score: float, key: str) -> bool:
        path = self.root / self.paths[key][0]
        return path.is_file() and self.rows.key_of(path) == key

    def _search(self, vector: Tensor, top: int, among: frozenset[str] | None) -> list[tuple[float, str]]:
        """Return (score, content) of the nearest images."""
        if held := self.held():
            scores, rows = held.shortlist.search(vector[0], top, held.rows_of(among))
            return [(score, held.keys[row]) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]
        found: list[tuple[float, str]] = []
        for keys, rows in self._live(among):
            scores, places = best(vector, rows, top)
            pairs = zip(scores[0].tolist(), places[0].tolist(), strict=True)
            found += [(score, keys[place]) for score, place in pairs]
            found = sorted(found, key=lambda pair: (-pair[0], self.paths[pair[1]][0]))[:top]
        return found

    def moments(self, vectors: Tensor, among: frozenset[str] | None = None) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the cosines of each unit vector (n, E) with all images, or some."""
        if held := self.held():
            return held.shortlist.moments(vectors, held.rows_of(among))
        return _moments((vectors @ rows.T).double() for _, rows in self._live(among))

    def held(self) -> "Held | None":
        """The vectors in memory, ordered by the paths of their images; None if they are too many."""
        width = sum(self.rows.header["shapes"]["pooled"])  # (E,)
        if self._held is None and 6 * width * len(self) <= HELD:
            parts = list(self._live())
            keys = [key for own, _ in parts for key in own]
            order = sorted(range(len(keys)), key=lambda at: self.paths[keys[at]][0])
            rows = torch.cat([rows for _, rows in parts])[order] if keys else torch.empty(0, width)
            self._held = Held(Shortlist(rows), [keys[at] for at in order], {})
        return self._held

    def _live(self, among: frozenset[str] | None = None) -> Iterator[tuple[list[str], Tensor]]:
        """The vectors on disk, shard by shard, of those images that the folder has: their keys, and the rows (n, E)."""
        allowed = self.paths if among is None else among & self.paths.keys()
        for part in self.rows.segments:
            for keys, rows in part.stacks("pooled"):
                if live := [row for row, key in enumerate(keys) if key in allowed]:
                    yield [keys[row] for row in live], torch.from_numpy(rows)[live]


def _moments(blocks: Iterable[Tensor]) -> list[tuple[float, float]]:
    """Return mean and standard deviation of each row of (n, N), given in blocks of columns."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for block in blocks:
        count += block.shape[1]
        total, squares = total + block.sum(1), squares + block.square().sum(1)
    mean = total / max(1, count)
    deviation = (squares / max(1, count) - mean.square()).clamp_min(0).sqrt()
    return list(zip(mean.tolist(), deviation.tolist(), strict=True)) if count else []


def write_gallery(
    source: Opener, images: str | Path, out: str | Path, note: Mapping[str, str], job: ImageJobOptions | None = None
) -> Gallery:
    """Compute the missing vectors of a folder of images; killed and started again, it computes the rest.

    source: opens the `Embedder`. note: its run and checkpoint, to open it another time. Raises SightwordError if the
    folder has no images or `out` has vectors of other weights.
    """
    job = job or ImageJobOptions(shard_size=1024)
    cache_tokens(
        source,
        images,
        out,
        [],
        "float32",
        job.batch_size,
        job.shard_size,
        job.on_error,
        engine=job.engine,
        workers=job.workers,
        gpus=job.gpus,
        writer=WRITER,
    )
    write_json(Path(out).expanduser() / NOTE, dict(note))
    return Gallery(out)
