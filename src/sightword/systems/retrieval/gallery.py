"""A gallery: every image of a folder as one vector, and which of them a sentence describes.

    out/gallery.json             the run that made the vectors, to ask it for those of sentences
    out/index.json, out/<hex>/   the vectors by the bytes of their images, kept as `towers.token_cache` keeps rows

So of images that are added, moved or there twice only the new ones are computed, and vectors of other weights never
mix. A search is exact: every vector is compared, shard by shard, and no more than a shard is in memory.

Legend: B images; H, W pixels; D width of the embedding.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sightword.metrics.ranking import best
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import digest
from sightword.systems.retrieval.data import read_person
from sightword.towers.base import Encoded, ImageTower
from sightword.towers.preprocess import Preprocess
from sightword.towers.token_cache import Opener, TokenCache, cache_tokens, read_index

NOTE, WRITER = "gallery.json", "sightword index"
HALF = (0.5, 0.5, 0.5)  # mean and deviation that bring [0, 1] to [-1, 1], which the encoder takes


class Embedder(ImageTower):
    """A dual encoder as a tower: of an image it gives its embedding, as the only token and as the pooled vector.

    Its weights are those of both sides, since a sentence is only comparable with what the same network saw.
    """

    model: Any

    def __init__(self, model: nn.Module, name: str) -> None:
        """model: has `encode_image` and `image.preprocess`, as `model.DualEncoder`. name: for messages, its run."""
        super().__init__()
        self.model, self.name = model, name
        height, width = self.model.image.preprocess.size
        self.preprocess = Preprocess((int(height), int(width)), HALF, HALF, "squash")
        self.architecture = {"encoder": type(model).__name__}

    def forward(self, images: Tensor) -> Encoded:
        """(B, 3, H, W) in [-1, 1]"""
        vectors = self.model.encode_image(images)
        return Encoded(vectors[:, None].float(), vectors.float(), None)

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """One vector for the whole image."""
        return 1, 1

    def embed(self, sentences: Sequence[str], batch_size: int = 256) -> Tensor:
        """Unit rows (n, D) of sentences, on the CPU. Those that are too long are cut off, and said to be."""
        if any(not sentence.strip() for sentence in sentences):
            raise ValueError('the sentence is empty: sightword search index=… "a woman in a red coat"')
        tokenizer, rows = self.model.tokenizer, []
        before = tokenizer.truncated
        with torch.no_grad():
            for start in range(0, len(sentences), batch_size):
                ids, mask = tokenizer(list(sentences[start : start + batch_size]), truncate=True)
                rows.append(self.model.encode_text(ids.to(self.device), mask.to(self.device)).float().cpu())
        if cut := tokenizer.truncated - before:
            shards.say(f"{cut} of {len(sentences)} sentences cut to the {tokenizer.length} tokens that this run reads")
        return torch.cat(rows)

    def embed_files(self, files: Sequence[Path], batch_size: int = 32) -> Tensor:
        """Unit rows (N, D) of a set's images, on the CPU."""
        starts, rows = tqdm(range(0, len(files), batch_size), desc="encoding", unit=" batches", disable=None), []
        with torch.no_grad():
            for start in starts:
                pictures = [read_person(file) for file in files[start : start + batch_size]]
                rows.append(self(self.preprocess.batch(pictures).to(self.device)).pooled.cpu())
        return torch.cat(rows)


class Hit(NamedTuple):
    """One image that a search found."""

    path: Path
    score: float  # cosine
    copies: int  # other files of the same bytes


class Gallery:
    """Reads what `write_gallery` wrote."""

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out).expanduser()
        self.note = _read_note(self.out)
        self.rows = TokenCache(self.out)
        self.root = Path(read_index(self.out).root)
        self.paths: dict[str, list[str]] = {}  # content → files that have it, of the folder as it was last indexed
        for path, key in self.rows.index.items():
            self.paths.setdefault(key, []).append(path)

    def __len__(self) -> int:
        """Images of the folder that have a vector; their copies not counted."""
        return len(self.rows.keys() & self.paths.keys())

    def check(self, embedder: Embedder) -> None:
        """ValueError unless these are the weights, and the preprocessing, that made the vectors."""
        found = {name: self.rows.header[name] for name in ("weights", "preprocessing")}
        wanted = {"weights": digest(embedder.state_dict()), "preprocessing": embedder.preprocess.as_dict()}
        if other := [name for name in found if found[name] != wanted[name]]:
            name = other[0]
            raise ValueError(
                f"{self.out} was made with other {name} ({found[name]}) than {embedder.name} has ({wanted[name]}): "
                f"give the run= that made it, or write another with sightword index run={embedder.name} out=…"
            )

    def search(self, vector: Tensor, top: int) -> list[Hit]:
        """The images nearest to a unit vector (1, D), best first; of equals in the order of their paths."""
        found: list[tuple[float, str]] = []
        for part in self.rows.segments:
            for keys, rows in part.stacks("pooled"):
                live = [row for row, key in enumerate(keys) if key in self.paths]
                if not live:
                    continue
                scores, places = best(vector, torch.from_numpy(rows)[live], top)
                pairs = zip(scores[0].tolist(), places[0].tolist(), strict=True)
                found += [(score, keys[live[place]]) for score, place in pairs]
                found = sorted(found, key=lambda pair: (-pair[0], self.paths[pair[1]][0]))[:top]
        return [Hit(self.root / self.paths[key][0], score, len(self.paths[key]) - 1) for score, key in found]


def write_gallery(
    source: Opener,
    images: str | Path,
    out: str | Path,
    note: Mapping[str, Any],
    batch_size: int = 32,
    shard_size: int = 1024,
    on_error: str = "raise",
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> Gallery:
    """Compute the vectors of a folder of images that are not there yet; killed and started again, it does the rest.

    source: opens the `Embedder`. note: its run and checkpoint, to open it another time. The other arguments and what is
    refused are those of `sightword.towers.token_cache.cache_tokens`.
    """
    cache_tokens(
        source,
        images,
        out,
        [],
        "float32",
        batch_size,
        shard_size,
        on_error,
        engine=engine,
        workers=workers,
        gpus=gpus,
        writer=WRITER,
    )
    with write_atomically(Path(out).expanduser() / NOTE) as part:
        part.write_text(json.dumps(dict(note), indent=1) + "\n", encoding="utf-8")
    return Gallery(out)


def _read_note(out: Path) -> dict[str, Any]:
    try:
        found = json.loads((out / NOTE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{out} holds no gallery: sightword index run=… images=… out={out} writes one") from None
    except ValueError as error:
        raise ValueError(f"{out / NOTE} is damaged ({error}): sightword index writes it anew") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("run", "checkpoint")):
        raise ValueError(f"{out / NOTE} is damaged (it names no run and checkpoint): sightword index writes it anew")
    return found
