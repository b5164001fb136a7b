"""Which of some words fits each patch of a photo best, by a plain CLIP: no training, no labels.

The photo keeps its shape: its short side becomes that of the CLIP's images, and positions are resampled. Beside the
words stand a few that name nothing in particular; where one of these fits better, the patch has none of the words.

Legend: h, w patches; K words; E width of the joint space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.data.image import ImageLike, open_image, to_tensor
from sightword.engine.contract import Result
from sightword.errors import SightwordError
from sightword.systems.intent.vocabulary import Vocabulary, read_vocabulary, with_article
from sightword.towers.prompt import class_embeddings
from sightword.viz import overlay
from sightword.viz.grid import titled

if TYPE_CHECKING:
    from sightword.towers.clip.encoder import CLIP

LOGIT_SCALE = 40.0  # factor on cosines, as SCLIP and NACLIP have it for patches
GENERIC = ("object", "thing", "texture", "background")  # what a patch may be besides the words
LONGEST = 3  # times the short side that the long one may be
SIDE, HEAT = 420, 200  # pixels of the long side in a figure, of the map and of a word alone
MARGIN = 12
SHOWN = 5  # words that have a map of their own


@dataclass(frozen=True, eq=False)
class PatchWords(Result):
    """How well each word fits each patch of a photo. Rows first, in the photo's orientation."""

    image: Image.Image
    words: tuple[str, ...]  # K
    scores: Tensor  # (h, w, K + 1) in [0, 1], sum 1: of each word, and last of anything else
    unknown_words: tuple[str, ...] = ()  # that the text encoder does not know, and that are left out

    @property
    def best(self) -> Tensor:
        """The word that fits each patch best, whatever else does, (h, w) int64."""
        return self.scores[..., :-1].argmax(-1)

    @property
    def sure(self) -> Tensor:
        """How far the best word is ahead of the others, (h, w) in [0, 1]; 0 where anything else fits better."""
        top = self.scores.topk(2, dim=-1)
        ahead = top.values[..., 0] - top.values[..., 1]
        return torch.where(top.indices[..., 0] < len(self.words), ahead.clamp(min=0.02), torch.zeros(()))

    @property
    def areas(self) -> dict[str, float]:
        """The fraction of the photo of each word, the largest first."""
        return overlay.areas(self.best, self.words, self.sure)

    def plot(self) -> Image.Image:
        """Return the photo, the map of the words, and below maps of the first words alone: red where one fits."""
        photo, areas = _fitted(self.image, SIDE), self.areas
        strength = (self.sure / self.sure.quantile(0.75).clamp(min=0.05)).clamp(max=1) * (self.sure > 0)
        strength = strength.clamp(min=0.35) * (self.sure > 0)
        grey = photo.convert("L").convert("RGB")
        none = f" ({100 * (1 - sum(areas.values())):.0f} % none of them)" if areas else " (none of them fits)"
        colours = overlay.shared_colours([areas])
        painted = overlay.class_map(self.best, self.words, grey, strength, colours)
        shown = {"photo": photo, f"the word of each patch{none}": painted}
        first = sorted(self.words, key=lambda word: -areas.get(word, 0.0))[:SHOWN]
        small = _fitted(self.image, HEAT)
        alone = {word: overlay.heat_map(self.scores[..., self.words.index(word)], small, 1.0) for word in first}
        rows = [titled(shown), titled(alone)]
        size = (max(row.width for row in rows) + 2 * MARGIN, sum(row.height for row in rows) + 3 * MARGIN)
        page = Image.new("RGB", size, "white")
        page.paste(rows[0], (MARGIN, MARGIN))
        page.paste(rows[1], (MARGIN, rows[0].height + 2 * MARGIN))
        return page

    def to_dict(self) -> dict[str, object]:
        named = [[self.words[word] for word in row] for row in self.best.tolist()]
        sure = [[round(value, 4) for value in row] for row in self.sure.tolist()]
        return {"areas": self.areas, "words": named, "sure": sure, "unknown_words": list(self.unknown_words)}

    def __repr__(self) -> str:
        told = ", ".join(f"{word} {100 * share:.0f} %" for word, share in list(self.areas.items())[:4])
        return f"PatchWords({told or 'none of the words fits'})"


def prompts_of(words: Sequence[str], vocabulary: str | Path | None = None) -> dict[str, str]:
    """Return word → prompt, of words or of a vocabulary file. Raises SightwordError without either, or with both."""
    if bool(words) == bool(vocabulary):
        raise SightwordError(
            'pass words="dog, grass, sky", or vocabulary=, a file with a word in each line: one of both'
        )
    if vocabulary:
        read: Vocabulary = read_vocabulary(vocabulary)
        return {entry.name: read.prompt(entry) for entry in read.classes}
    return {word: with_article("a photo of a {}", word) for word in words}


@torch.no_grad()
def read_patches(clip: "CLIP", image: ImageLike, prompts: dict[str, str], token_type: str = "qq") -> PatchWords:
    """Return which word fits each patch of a photo.

    prompts: word → the text that the CLIP is given. token_type: of the patch tokens; post is not comparable with texts.
    Raises SightwordError if the CLIP knows none of the words.
    """
    if token_type == "post":
        raise SightwordError("token_type=post is not in the space of texts. Pass qq, kk, value or joint")
    unknown = tuple(word for word in prompts if clip.text.unknown_words(word))
    words = [word for word in prompts if word not in unknown]
    if not words:
        raise SightwordError(
            f"{clip.text.name} knows none of the words {', '.join(map(repr, unknown[:6]))}. Use others"
        )
    photo = open_image(image)
    pixels = to_tensor(photo.resize(_size(photo, clip), Image.Resampling.BICUBIC))[None]
    found = clip.image.token_types(clip.image.normalise(pixels.to(clip.image.device)), (token_type,))[token_type]
    others = [word for word in GENERIC if not clip.text.unknown_words(word)]
    every = [*(prompts[word] for word in words), *(with_article("a photo of a {}", word) for word in others)]
    texts = class_embeddings(clip.text, every, ("{}",)).float()
    cosines = (F.normalize(found.tokens[0].float(), dim=-1) @ texts.T).cpu()  # (N, K + generic words)
    own, rest = cosines[:, : len(words)], cosines[:, len(words) :]
    rest = rest.amax(1, keepdim=True) if others else torch.full((len(own), 1), -1.0)
    scores = (LOGIT_SCALE * torch.cat([own, rest], 1)).softmax(-1)

    grid = (pixels.shape[2] // clip.image.patch[0], pixels.shape[3] // clip.image.patch[1])
    return PatchWords(photo, tuple(words), scores.unflatten(0, grid), unknown)


def _size(photo: Image.Image, clip: "CLIP") -> tuple[int, int]:
    """Return width and height in pixels, whole patches: the short side that of the CLIP's images."""
    height, width = clip.image.preprocess.size
    short, (rows, columns) = min(height, width), clip.image.patch
    scale = short / min(photo.size)
    longest = LONGEST * short
    w, h = (min(round(side * scale), longest) for side in photo.size)
    return max(1, round(w / columns)) * columns, max(1, round(h / rows)) * rows


def _fitted(photo: Image.Image, side: int) -> Image.Image:
    """Return the photo with a long side of so many pixels."""
    scale = side / max(photo.size)
    size = tuple(max(1, round(length * scale)) for length in photo.size)
    return photo.resize((size[0], size[1]), Image.Resampling.BICUBIC)
