"""Figures of a split: captions with their best images, and what one changed word does to a score.

Legend: C captions; N images; D width of the embedding.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from sightword.errors import SightwordError
from sightword.metrics.ranking import best
from sightword.storage import shards
from sightword.systems.retrieval.sensitivity import sensitivity, spread
from sightword.systems.retrieval.split import Split
from sightword.systems.retrieval.strip import Shown, stacked, strip
from sightword.viz.write import write_picture


class Query(NamedTuple):
    """A caption, and the best images for it."""

    caption: str
    own: Path  # the image that the caption describes
    found: list[tuple[Path, float, bool]]  # path, cosine, whether it shows the same person

    def strip(self) -> Image.Image:
        """Return the caption above its best images."""
        return strip(self.caption, [Shown.of(*one) for one in self.found], Shown.of(self.own, 1.0).image)

    def as_dict(self) -> dict[str, object]:
        """Return plain values, fit for JSON."""
        found = [{"image": path.as_posix(), "score": score, "right": right} for path, score, right in self.found]
        return {"caption": self.caption, "written_of": self.own.as_posix(), "found": found}


def search(split: Split, texts: Tensor, images: Tensor, numbers: Sequence[int], top: int = 10) -> list[Query]:
    """Return the `top` images for the captions of these numbers.

    texts, images: the embeddings (C, D) and (N, D) of the split's captions and images, unit rows.
    """
    chosen = list(numbers)
    scores, rows = best(texts[chosen], images, top)
    queries = []
    for number, values, places in zip(chosen, scores.tolist(), rows.tolist(), strict=True):
        own, pairs = int(split.caption_image[number]), zip(values, places, strict=True)
        found = [(split.images[row], value, bool(split.pids[row] == split.pids[own])) for value, row in pairs]
        queries.append(Query(split.captions[number], split.images[own], found))
    return queries


def draw(
    encode: Callable[[list[str]], Tensor],
    split: Split,
    texts: Tensor,
    images: Tensor,
    folder: Path,
    strips: int = 6,
    captions: int = 1000,
) -> list[Path]:
    """Write strips.png and word_swaps.png of a split, each with its values as JSON. Return the files.

    Captions without a word to change, as of other things than people, have no word_swaps.png: said on stderr.

    encode: texts to unit rows (n, E). texts, images: the unit rows (C, E) and (M, E) of the split.
    strips: how many captions are shown with their best images. captions: how many have a word changed.
    """
    chosen = spread(len(split.captions), strips)
    queries = search(split, texts, images, chosen)
    page = stacked([query.strip() for query in queries])
    files = write_picture(page, folder / "strips.png", [query.as_dict() for query in queries])
    try:
        own = images[split.caption_image]
        swaps = sensitivity(encode, split.captions, own, captions, persons=split.caption_pids)
    except SightwordError as error:  # captions of other things than people
        shards.say(f"word_swaps.png is not drawn: {error}")
        return files
    return [*files, *write_picture(swaps.plot(), folder / "word_swaps.png", swaps.as_dict())]
