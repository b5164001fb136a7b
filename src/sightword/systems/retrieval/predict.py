"""A trained retrieval model as its user holds it: images and texts to vectors, a gallery, and searches in it.

Legend: N images; n texts; E width of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload

from PIL import Image
from torch import Tensor

from sightword.data.image import list_images
from sightword.engine.contract import BatchT, Predictor, Result
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage.cache import digest
from sightword.systems.retrieval.gallery import Embedder, Hit, MemoryGallery, Searchable
from sightword.systems.retrieval.model import DualEncoder
from sightword.systems.retrieval.pretrained import Origin, load_encoder, save_encoder
from sightword.systems.retrieval.strip import Shown, strip
from sightword.systems.retrieval.task import RetrievalTask

DRAWN = 20  # images of a search's figure, at most: as many as a screen shows


@dataclass(frozen=True)
class SearchResult(Result):
    """The images of a gallery that a text describes best, best first."""

    text: str
    hits: tuple[Hit, ...]

    @property
    def paths(self) -> list[Path]:
        """The images' files."""
        return [hit.path for hit in self.hits]

    @property
    def scores(self) -> list[float]:
        """Cosines of the text and the images, in [-1, 1]."""
        return [hit.score for hit in self.hits]

    def plot(self) -> Image.Image:
        """Return the text above the first 20 images; a file that cannot be read any more is a grey tile."""
        return strip(self.text, [Shown.of(hit.path, hit.score) for hit in self.hits[:DRAWN]])

    def to_dict(self) -> dict[str, object]:
        hits = [{"path": str(hit.path), "score": hit.score, "copies": hit.copies} for hit in self.hits]
        return {"text": self.text, "hits": hits}


class PersonRetriever(Predictor):
    """Encodes images and texts as unit vectors of one space, and searches images by text."""

    def __init__(self, model: DualEncoder, origin: Origin | None = None, name: str = "this model") -> None:
        """origin: how the model was made; without it, `save_pretrained` is refused. name: for messages, its run."""
        self.origin = origin
        self.embedder = Embedder(model, name).freeze()

    @classmethod
    def from_task(cls, task: Task[BatchT]) -> Self:
        if not isinstance(task, RetrievalTask):
            raise SightwordError(f"PersonRetriever is made of a run of retrieval, got a {type(task).__name__}")
        return cls(task.model, task.origin)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        return cls(*load_encoder(folder), name=str(folder))

    def save_pretrained(self, folder: Path) -> None:
        if self.origin is None:
            raise SightwordError("this model was made without a config, which its folder would have to state")
        save_encoder(self.embedder.model, self.origin, folder)

    def to(self, device: str) -> Self:
        """Move the model to a device, in place."""
        self.embedder.to(device)
        return self

    def encode_image(self, images: Sequence[str | Path | Image.Image]) -> Tensor:
        """Return unit rows (N, E) float32 on the CPU, of files or PIL images of any size."""
        return self.embedder.encode_image(
            [image if isinstance(image, Image.Image) else Path(image) for image in images]
        )

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Return unit rows (n, E) float32 on the CPU. Raises SightwordError if a text is empty."""
        return self.embedder.encode_text([texts] if isinstance(texts, str) else list(texts))

    def index(self, images: str | Path | Sequence[str | Path]) -> MemoryGallery:
        """Return a gallery in memory, of files or of every image below a folder. `write_gallery` keeps one on disk."""
        files = list_images(images) if isinstance(images, str | Path) else [Path(image) for image in images]
        if not files:
            raise SightwordError("there are no images to index. Pass one file or more")
        return MemoryGallery(tuple(files), self.encode_image(files), digest(self.embedder.state_dict()))

    @overload
    def __call__(self, query: str, gallery: Searchable, top: int = 10) -> SearchResult: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, query: Sequence[str], gallery: Searchable, top: int = 10) -> list[SearchResult]: ...
    def __call__(
        self, query: str | Sequence[str], gallery: Searchable, top: int = 10
    ) -> SearchResult | list[SearchResult]:
        """Return the `top` best images for a text, or for each of several.

        Raises SightwordError if a text is empty, the gallery is empty, or other weights made it.
        """
        if top < 1:
            raise SightwordError(f"top={top} is too small. Pass at least 1")
        if not len(gallery):
            raise SightwordError("the gallery has no image with a vector. Index the images again")
        gallery.check(self.embedder)
        texts = [query] if isinstance(query, str) else list(query)
        vectors = self.encode_text(texts)
        found = [
            SearchResult(text, tuple(gallery.search(vector[None], top)))
            for text, vector in zip(texts, vectors, strict=True)
        ]
        return found[0] if isinstance(query, str) else found
