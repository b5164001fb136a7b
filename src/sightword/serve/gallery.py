"""The galleries of a server: vectors of pictures in memory, with the files or the pictures that they are of."""

from pathlib import Path
from typing import NamedTuple

import torch

from sightword.data.image import list_images
from sightword.errors import SightwordError
from sightword.systems.retrieval.gallery import NOTE, Gallery, MemoryGallery
from sightword.systems.retrieval.predict import PersonRetriever


class OpenGallery(NamedTuple):
    """A gallery, and where its pictures come from."""

    vectors: MemoryGallery
    root: Path | None  # of the files; None: pictures that were sent

    def folder_of(self, number: int) -> str:
        """Return the folder of a picture below the root, such as a camera; empty for pictures that were sent."""
        image = self.vectors.images[number]
        if self.root is None or not isinstance(image, str | Path):
            return ""
        try:
            return Path(image).parent.relative_to(self.root).as_posix().removeprefix(".")
        except ValueError:
            return ""


def open_gallery(retriever: PersonRetriever, folder: Path, most: int) -> OpenGallery:
    """Return the gallery of a folder of pictures, or of one that `sightword index` wrote.

    most: pictures of a folder that are encoded. Raises SightwordError if there are more, or if other weights encoded.
    """
    if (folder / NOTE).is_file():
        return _indexed(retriever, Gallery(folder))
    if not folder.is_dir():
        raise SightwordError(f"gallery={folder} is not a folder. Pass one of images, or one that sightword index wrote")
    count = len(list_images(folder))
    if count > most:
        raise SightwordError(
            f"gallery={folder} has {count:,} images, more than the {most:,} that are encoded at the start. Encode them "
            f"once with sightword index model=… images={folder} out=gallery, and pass gallery=gallery"
        )
    return OpenGallery(retriever.index(folder), folder)


def _indexed(retriever: PersonRetriever, gallery: Gallery) -> OpenGallery:
    """Return all vectors of a gallery on disk, in the order of their files."""
    gallery.check(retriever.identity)
    found: list[tuple[Path, torch.Tensor]] = []
    for part in gallery.rows.segments:
        for keys, rows in part.stacks("pooled"):
            known = [(row, key) for row, key in enumerate(keys) if key in gallery.paths]
            vectors = torch.from_numpy(rows.copy())
            found += [(gallery.root / gallery.paths[key][0], vectors[row].float()) for row, key in known]
    if not found:
        raise SightwordError(f"gallery={gallery.out} has no image with a vector. Index the images again")
    found.sort(key=lambda pair: pair[0])
    stacked = torch.stack([vector for _, vector in found])
    images = tuple(path for path, _ in found)
    return OpenGallery(MemoryGallery(images, stacked, retriever.identity.weights), gallery.root)
