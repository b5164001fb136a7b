"""The predictor of retrieval: encodes images and texts as vectors of one space, and searches images by text.

Legend: N images; n texts; E width of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.data.image import ImageLike, as_sequence, list_images
from sightword.engine.config import DataConfig
from sightword.engine.contract import BatchT, Result
from sightword.engine.predictor import Predictor
from sightword.engine.task import Task
from sightword.errors import MissingFileError, SightwordError
from sightword.metrics.acceptance import GENERIC, LEAST, Acceptance, highest, standardised
from sightword.storage import shards
from sightword.storage.fields import Fields
from sightword.systems.retrieval import irra
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.gallery import (
    NOTE,
    Embedder,
    Gallery,
    Hit,
    Identity,
    MemoryGallery,
    Searchable,
    encode_texts,
)
from sightword.systems.retrieval.model import DualEncoder, TextEncoder
from sightword.systems.retrieval.pretrained import Exported, Origin, save_encoder
from sightword.systems.retrieval.selection import Selection
from sightword.systems.retrieval.strip import Shown, strip
from sightword.systems.retrieval.task import RetrievalTask
from sightword.towers.base import TextTower
from sightword.towers.factory import tower_pair

DRAWN = 20  # images of a search's figure, at most: as many as a screen shows

#: Images to search: a gallery; a folder that `sightword index` wrote, or one of images; or images of any kind.
GalleryLike: TypeAlias = Searchable | str | Path | Image.Image | np.ndarray | Tensor | Sequence[ImageLike]


@dataclass(frozen=True)
class SearchResult(Result):
    """The images of a gallery that a text describes best, best first."""

    text: str
    hits: tuple[Hit, ...]
    unknown_words: tuple[str, ...] = ()  # of the text, that the text encoder does not know
    threshold: float | None = None  # cosine that the best image has to reach in this gallery; None: not calibrated
    calibration: str = ""  # how the threshold was chosen, and how often it is reached

    @property
    def paths(self) -> list[Path | None]:
        """The images' files; None for an image that was given without one."""
        return [hit.path for hit in self.hits]

    @property
    def scores(self) -> list[float]:
        """Cosines of the text and the images, in [-1, 1]."""
        return [hit.score for hit in self.hits]

    @property
    def fits(self) -> bool | None:
        """Whether the best image reaches the threshold; None: not calibrated."""
        return None if self.threshold is None else self.hits[0].score >= self.threshold

    def is_unsure(self, hit: Hit) -> bool:
        """Return whether an image is below the threshold."""
        return self.threshold is not None and hit.score < self.threshold

    def fit_line(self) -> str:
        """Return what a user is told of the threshold; empty where there is none."""
        if self.threshold is None:
            return ""
        best = f"best {self.hits[0].score:.3f}"
        if self.fits:
            unsure = sum(map(self.is_unsure, self.hits))
            rest = f"; {unsure} of {len(self.hits)} are below it, unsure" if unsure else ""
            return f"{best}, the threshold is {self.threshold:.3f} ({self.calibration}){rest}"
        return f"nothing fits: {best} under the threshold {self.threshold:.3f} ({self.calibration}); all are unsure"

    def plot(self) -> Image.Image:
        """Return the text above the first 20 images; a file that cannot be read any more is a grey tile.

        Images below the threshold are marked as unsure.
        """
        shown = [Shown.of(hit.image, hit.score, unsure=self.is_unsure(hit)) for hit in self.hits[:DRAWN]]
        return strip(self.text if self.fits is not False else f"{self.text} (nothing fits)", shown)

    def to_dict(self) -> dict[str, object]:
        hits = [
            {
                "path": hit.path and str(hit.path),
                "number": hit.number,
                "score": hit.score,
                "copies": hit.copies,
                "unsure": self.is_unsure(hit),
            }
            for hit in self.hits
        ]
        return {
            "text": self.text,
            "unknown_words": list(self.unknown_words),
            "threshold": self.threshold,
            "fits": self.fits,
            "calibration": self.calibration,
            "hits": hits,
        }

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 40 else f"{self.text[:39]}…"
        first = self.hits[0]
        told = " (nothing fits)" if self.fits is False else ""
        return f"SearchResult({text!r}: {len(self.hits)} images, first {_named(first)} with {first.score:.3f}{told})"


class PersonRetriever(Predictor):
    """Encodes images and texts as unit vectors of one space, and searches images by text.

    Of an exported folder the image encoder is opened when an image is first encoded: a search needs the text side.
    """

    system = "retrieval"
    summary = "Finds the images of people that a sentence describes: images and sentences become vectors of one space."
    usage = 'gallery = model.index("photos")  # a folder of images\nmodel("a woman in a red coat", gallery).plot()'

    def __init__(
        self,
        model: DualEncoder | Exported,
        origin: Origin | None = None,
        name: str = "this model",
        acceptance: Acceptance | None = None,
    ) -> None:
        """origin: how the model was made; without it, `save_pretrained` is refused. name: for messages, its run.
        acceptance: thresholds of validation; without them, generic texts give one for each gallery."""
        self.acceptance = acceptance or Acceptance.unknown()
        self.name, self._device = name, torch.device("cpu")
        self._exported = model if isinstance(model, Exported) else None
        self._text: TextEncoder | None = model.open_text() if isinstance(model, Exported) else None
        self._origin = origin
        self._embedder = None if isinstance(model, Exported) else Embedder(model, name).freeze()

    @classmethod
    def from_task(cls, task: Task[BatchT], data: DataConfig | None = None) -> Self:
        if not isinstance(task, RetrievalTask):
            raise SightwordError(f"PersonRetriever is made of a run of retrieval, got a {type(task).__name__}")
        found = cls(task.model, task.origin, acceptance=Acceptance(*task.acceptance.cpu().clone()))
        found.domain = task.model.image.domain or task.model.text.domain
        return found

    @classmethod
    def from_tower(cls, name: str | Path, tag: str = "") -> Self:
        """Return a plain CLIP or SigLIP, without training. name, tag: as `tower_pair` takes them.

        Images are resized to the tower's size as a whole, as for any model of this system: a crop would cut a person's
        head and feet off.
        """
        pair = tower_pair(name, tag).requires_grad_(False).eval()
        found = cls(DualEncoder(pair.image, pair.text, project="none").eval(), name=str(name))
        found.domain = pair.image.domain
        return found

    @classmethod
    def from_published(cls, path: str | Path) -> Self:
        """Return a published checkpoint of IRRA or RDE. path: its best.pth, or the folder of that.

        Images are resized bilinearly, as those projects do. What is left out of the file is said on stderr.
        """
        file = irra.find(path)
        if file is None:
            raise SightwordError(f"{path} is no checkpoint of IRRA or RDE. Pass best.pth, or its folder")
        clip, note = irra.open_checkpoint(file)
        shards.say(note)
        clip.requires_grad_(False)
        config = RetrievalConfig(image="clip", text="clip", project="none", image_size=list(clip.image.preprocess.size))
        model = DualEncoder(clip.image, clip.text, project="none").eval()
        found = cls(model, Origin(config, clip), name=str(path))
        found._embedder = Embedder(model, str(path), "bilinear").freeze()
        return found

    @classmethod
    def _from_folder(cls, folder: Path, content: Fields) -> Self:
        chosen = content.sequence("acceptance", optional=True)
        rows = [chosen.numbers(number) for number in range(len(chosen))]
        return cls(Exported(folder, content), name=str(folder), acceptance=_padded(rows) if rows else None)

    def _write(self, folder: Path) -> dict[str, object]:
        embedder = self.embedder
        if self._origin is None:
            raise SightwordError("this model was made without a config, which its folder would have to state")
        content = save_encoder(embedder.model, self._origin, folder)
        digests = {"all": embedder.digest, "text": embedder.model.text_side().digest()}
        preprocessing = embedder.preprocess.as_dict()
        known = self.acceptance.sizes > 0
        acceptance = [part[known].tolist() for part in self.acceptance] if self.acceptance.known else []
        return {**content, "digests": digests, "preprocessing": preprocessing, "acceptance": acceptance}

    def task_weights(self) -> dict[str, Tensor]:
        return {f"model.{name}": weight for name, weight in self.embedder.model.state_dict().items()}

    @property
    def embedder(self) -> Embedder:
        """The whole encoder, frozen; opened when it is first needed."""
        if self._embedder is None:
            assert self._exported is not None
            model, self._origin = self._exported.open()
            interpolation = str(self._exported.preprocessing.get("interpolation", "bicubic"))
            self._embedder = Embedder(model, self.name, interpolation).freeze().to(self._device)
            self._text = None  # its weights are part of the whole
        return self._embedder

    @property
    def identity(self) -> Identity:
        """What vectors of this model depend on. A gallery of another identity is refused."""
        if self._embedder is not None:
            return Identity(self._embedder.digest, self._embedder.preprocess.as_dict(), self.name)
        assert self._exported is not None
        return Identity(self._exported.weights, self._exported.preprocessing, self.name)

    def to(self, device: str | torch.device) -> Self:
        self._device = torch.device(device)
        for part in (self._text, self._embedder):
            if part is not None:
                part.to(self._device)
        return self

    def encode_image(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Return the unit vector (E,) float32 of an image, or rows (N, E) of several, on the CPU.

        Images have any size, and are as `sightword.data.image.open_images` takes them: files, PIL images, arrays
        (H, W, 3), tensors (3, H, W), or a batch of these.
        """
        several, alone = as_sequence(images)
        rows = self.embedder.encode_image(several)
        return rows[0] if alone else rows

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Return the unit vector (E,) float32 of a text, or rows (n, E) of several, on the CPU.

        Raises SightwordError if a text is empty.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        if self._text is not None:
            rows = encode_texts(self._text, several, self._device)
        else:
            rows = self.embedder.encode_text(several)
        return rows[0] if isinstance(texts, str) else rows

    def index(self, images: ImageLike | Sequence[ImageLike]) -> MemoryGallery:
        """Return a gallery in memory, of every image below a folder, or of images as `encode_image` takes them.

        `sightword index` keeps a gallery on disk.
        """
        several: Sequence[ImageLike]
        several = list_images(images) if isinstance(images, str | Path) else as_sequence(images)[0]
        if not len(several):
            raise SightwordError("there are no images to index. Pass one or more")
        self.mind_domain([images] if isinstance(images, str | Path) else several, self.name)
        return MemoryGallery(tuple(several), self.encode_image(several), self.identity.weights)

    @overload
    def __call__(self, query: str, gallery: GalleryLike, top: int = 10) -> SearchResult: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, query: Sequence[str], gallery: GalleryLike, top: int = 10) -> list[SearchResult]: ...
    def __call__(
        self, query: str | Sequence[str], gallery: GalleryLike, top: int = 10
    ) -> SearchResult | list[SearchResult]:
        """Return the `top` best images for a text, or for each of several.

        gallery: of `index`; a folder that `sightword index` wrote; or a folder of images, or images of any kind, which
        are then encoded at each call. Raises SightwordError if a text is empty, the gallery is empty, or other weights
        made it.
        """
        if top < 1:
            raise SightwordError(f"top={top} is too small. Pass at least 1")
        texts = [query] if isinstance(query, str) else list(query)
        if not texts:
            return []
        unknown = [self._text_tower().check_words(text) for text in texts]
        vectors = self.encode_text(texts)
        searched = self._gallery(gallery)
        if not len(searched):
            raise SightwordError("the gallery has no image with a vector. Index the images again")
        searched.check(self.identity)
        limits, calibration = self._limits(searched, vectors)
        found = [
            SearchResult(text, tuple(searched.search(vector[None], top)), words, limit, calibration)
            for text, vector, words, limit in zip(texts, vectors, unknown, limits, strict=True)
        ]
        return found[0] if isinstance(query, str) else found

    def _limits(self, gallery: Searchable, vectors: Tensor) -> tuple[list[float | None], str]:
        """Return the cosine that the best image has to reach, for each text (n, E), and how it was chosen."""
        size = len(gallery)
        threshold, told = self.acceptance.at(size), ""
        if size < LEAST:
            threshold = None
        elif threshold is not None:
            told = (
                f"in {size} images {100 * threshold.wrong:.0f} % of validation's searches reach it without the person, "
                f"{100 * threshold.right:.0f} % with"
            )
        elif len(texts := [text for text in GENERIC if not self._text_tower().unknown_words(text)]) >= LEAST:
            generic = self.encode_text(texts)
            moments = gallery.moments(generic)
            best = [gallery.search(vector[None], 1)[0].score for vector in generic]
            threshold = highest([standardised(score, *spread) for score, spread in zip(best, moments, strict=True)])
            rate = 100 / (len(texts) + 1)
            told = f"the best of {len(texts)} generic texts, about {rate:.0f} % of unrelated ones reach it"
        if threshold is None:
            return [None] * len(vectors), ""
        return [mean + threshold.score * deviation for mean, deviation in gallery.moments(vectors)], told

    def _text_tower(self) -> TextTower:
        return self.embedder.model.text if self._text is None else self._text.text

    def _gallery(self, gallery: GalleryLike) -> Searchable:
        """Return a gallery, opened or indexed."""
        if isinstance(gallery, str | Path):
            folder = Path(gallery).expanduser()
            if not folder.is_dir():
                raise MissingFileError(
                    f"gallery={str(gallery)!r} is not a folder. Pass one that sightword index wrote, a folder of "
                    "images, or a list of images"
                )
            if not (folder / NOTE).is_file():
                return self.index(folder)
            return self._minded(Gallery(folder))
        if isinstance(gallery, Image.Image | np.ndarray | Tensor | Sequence):
            return self.index(gallery)
        return self._minded(gallery)

    def _minded(self, gallery: Searchable) -> Searchable:
        if isinstance(gallery, Gallery | Selection):
            self.mind_domain([gallery.root], self.name)
        return gallery


def _padded(rows: Sequence[Sequence[float]]) -> Acceptance:
    """Return thresholds of as many sizes as there are, as `_write` wrote them."""
    found = Acceptance.unknown()
    for part, values in zip(found, rows, strict=True):
        part[: len(values)] = torch.tensor(values)
    return found


def _named(hit: Hit) -> str:
    """Return how a hit is called: its file, or its number among the images that were given."""
    return str(hit.path) if hit.path is not None else f"image {hit.number}"
