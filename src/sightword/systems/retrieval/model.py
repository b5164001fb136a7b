"""Images and sentences as vectors of one space, each by itself: an embedding never depends on what it is paired with.

    DualEncoder     images → image tower → its vector ───────────→ linear → unit (B, E)
                    ids    → text tower  → its vector ───────────→ linear → unit (B, E)
    SharedEncoder   images → image tower → tokens → words (B, N, D) ┐
                                                                    ├ each alone → T5 → pooled → linear → unit (B, E)
                    ids    → word vectors (B, L, D) ────────────────┘
                    masked images and ids, both at once → T5 → condition of the generator (B, N + L, D)

Document 001, phases 1 to 3; what phase 4 adds stands in generation.py, and encoding never touches it.

Legend: B batch; H, W pixels; N image tokens; L text tokens; C width of the image tower's tokens; D of the text tower's;
E of the common space.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.towers.base import Encoded, ImageTower, TextTower
from sightword.towers.t5 import T5Text
from sightword.towers.tokenizer import TextTokenizer


class Seen(NamedTuple):
    """What was made of images or of texts."""

    vector: Tensor  # (B, E), before it is brought to length one
    tokens: Tensor  # (B, N, C), or (B, L, D)
    mask: Tensor | None = None  # (B, L) bool, True where a token is real

    @property
    def unit(self) -> Tensor:
        """The embedding, (B, E) float32."""
        return F.normalize(self.vector.float(), dim=-1)


class DualEncoder(nn.Module):
    """An image tower, a text tower, and what brings their vectors into one space."""

    image: ImageTower
    text: TextTower

    def __init__(self, image: ImageTower, text: TextTower, embed_dim: int = 512, project: str = "separate") -> None:
        """project: a linear layer for each side (separate), one for both (shared), or no layer (none)."""
        super().__init__()
        self.image, self.text = image, text
        sides = (self._image_dim(), text.embed_dim)
        if project != "separate" and sides[0] != sides[1]:
            raise ValueError(
                f"project={project} needs vectors of one width; {image.name} has {sides[0]}, {text.name} {sides[1]}: "
                "say project=separate"
            )
        layers = {"none": 0, "shared": 1, "separate": 2}[project]
        self.heads = nn.ModuleList([nn.Linear(width, embed_dim) for width in sides[:layers]])
        self.embed_dim = embed_dim if layers else sides[0]
        _freeze_unused(image, self._of_image)

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.text.tokenizer

    def encode_image(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to unit rows (B, E)."""
        return self.see(images).unit

    def encode_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, L), padded on the right, and their mask to unit rows (B, E)."""
        return self.read(ids, mask).unit

    def see(self, images: Tensor) -> Seen:
        """Images (B, 3, H, W) in [-1, 1]. Tokens have the tower's own vector first, where it is of their width."""
        seen = self.image(self.image.normalise(images))
        tokens = seen.tokens
        if self.image.embed_dim == self.image.width:
            tokens = torch.cat([seen.pooled[:, None], tokens], 1)  # (B, 1 + N, C)
        return Seen(self._projected(seen.pooled, 0), tokens)

    def read(self, ids: Tensor, mask: Tensor | None = None) -> Seen:
        """Ids (B, L) and their mask."""
        read = self.text(ids, mask)
        return Seen(self._projected(read.pooled, -1), read.tokens, read.mask)

    def _projected(self, vectors: Tensor, side: int) -> Tensor:
        return self.heads[side](vectors) if len(self.heads) else vectors

    def _image_dim(self) -> int:
        """Width of the vector that images are projected from."""
        return self.image.embed_dim

    def _of_image(self, encoded: Encoded) -> Tensor:
        """Of what the image tower gives, what is made use of."""
        return encoded.pooled


class SharedEncoder(DualEncoder):
    """Image tokens are words to the text tower: one T5 encodes both, in a pass each. Document 001, phase 3."""

    text: T5Text

    def __init__(
        self, image: ImageTower, text: T5Text, embed_dim: int = 512, project: str = "shared", pooling: str = "mean"
    ) -> None:
        """pooling: of the image's tokens, mean or cls (of a learned token that stands behind them)."""
        super().__init__(image, text, embed_dim, project)
        self.words = ImageWords(image.width, text)
        self.cls = nn.Parameter(self.words.scale * torch.randn(1, 1, text.width)) if pooling == "cls" else None

    def see(self, images: Tensor) -> Seen:
        words = self.image_words(images)
        # Behind the cells, as the one word of a text: it then stands equally far from all of them.
        cls = None if self.cls is None else self.cls.expand(len(words), -1, -1)
        tokens = self.text(inputs_embeds=cls, image_tokens=words).tokens  # (B, N, D), with cls one more
        pooled = tokens.mean(1) if cls is None else tokens[:, -1]
        return Seen(self._projected(pooled, 0), tokens)

    def image_words(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to what stands for words, (B, N, D)."""
        return self.words(self.image(self.image.normalise(images)).tokens)

    def condition(self, words: Tensor, ids: Tensor, mask: Tensor | None) -> Encoded:
        """Image words (B, N, D) and ids (B, L) read together, the image first; for the generator alone.

        Behind the image, the padding of a text moves nothing.
        """
        return self.text(ids, mask, image_tokens=words)

    def _image_dim(self) -> int:
        return self.text.width

    def _of_image(self, encoded: Encoded) -> Tensor:
        return encoded.tokens


class ImageWords(nn.Module):
    """Image tokens (B, N, C) to the width and the size of a T5's word vectors, (B, N, D): T5 normalises neither."""

    scale: Tensor  # (), root mean square of the word vectors as they were loaded

    def __init__(self, width: int, text: T5Text) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, text.width)
        nn.init.normal_(self.linear.weight, std=width**-0.5)
        nn.init.zeros_(self.linear.bias)
        table = text.model.get_input_embeddings().weight.detach().float()
        self.register_buffer("scale", table.square().mean().sqrt())

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scale * self.linear(self.norm(tokens))


def make_encoder(
    image: ImageTower,
    text: TextTower,
    embed_dim: int = 512,
    project: str = "separate",
    shared: bool = False,
    image_pooling: str = "mean",
) -> DualEncoder:
    """The encoder of phase 3 if `shared`, of phases 1 and 2 otherwise; arguments as of their classes."""
    if not shared:
        return DualEncoder(image, text, embed_dim, project)
    if not isinstance(text, T5Text):
        raise ValueError(f"image tokens are read by a T5, {text.name} is a {type(text).__name__}")
    return SharedEncoder(image, text, embed_dim, project, image_pooling)


def _freeze_unused(tower: ImageTower, used: Callable[[Encoded], Tensor]) -> None:
    """No gradients for parameters that what is used does not depend on (SigLIP's pooling, where tokens are read).

    They would stay as they are anyway, and DistributedDataParallel waits for a gradient of each.
    """
    images = torch.zeros(1, 3, *tower.patch, device=tower.device)
    parameters = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    if not parameters:
        return
    with torch.enable_grad():
        slopes = torch.autograd.grad(used(tower(images)).sum(), parameters, allow_unused=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.requires_grad_(slope is not None)
