"""Images and texts as vectors of one space, each encoded alone: an embedding never depends on what it is paired with.

    DualEncoder     images → image tower → its vector ───────────→ linear → unit (B, E)
                    ids    → text tower  → its vector ───────────→ linear → unit (B, E)
                    with slots: its tokens → SlotPool ───────────────────→ unit (B, E), of either side
    SharedEncoder   images → image tower → tokens → words (B, N, D) ┐
                                                                    ├ each alone → T5 → pooled → linear → unit (B, E)
                    ids    → word embeddings (B, L, D) ─────────────┘
                    masked images and ids, both at once → T5 → condition of the generator (B, N + L, D)

These are phases 1 to 3; what phase 4 adds stands in loss.py, and encoding never uses it.

Legend: B batch; H, W pixels; N image tokens; L text tokens; C width of the image encoder's tokens; D of the text
encoder's; E of the common space; S slots.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.ops.init import init_linear
from sightword.storage.cache import digest
from sightword.towers.base import Encoded, ImageTower, TextTower
from sightword.towers.t5 import T5Text


class Features(NamedTuple):
    """Images or texts, encoded."""

    vector: Tensor  # (B, E), before it is brought to length one
    tokens: Tensor  # (B, N, C) of images, (B, L, D) of texts
    mask: Tensor | None = None  # (B, L) bool, True where a token is real

    @property
    def unit(self) -> Tensor:
        """The embedding, (B, E) float32."""
        return F.normalize(self.vector.float(), dim=-1)


class DualEncoder(nn.Module):
    """An image encoder, a text encoder, and the projection of their vectors into one space."""

    image: ImageTower
    text: TextTower

    def __init__(
        self, image: ImageTower, text: TextTower, embed_dim: int = 512, project: str = "separate", slots: int = 0
    ) -> None:
        """project: a layer for each side (separate), one for both (shared), or no layer (none).

        slots: each layer is a `SlotPool` of a tower's tokens, with so many slots; 0: linear, of its vector.
        """
        super().__init__()
        self.image, self.text = image, text
        self.tokenizer = text.tokenizer
        self.slots = slots
        sides = (self._image_dim(), text.width if slots else text.embed_dim)
        if project != "separate" and sides[0] != sides[1]:
            raise SightwordError(
                f"system.project={project} needs vectors of one width: {image.name} has {sides[0]}, {text.name} has "
                f"{sides[1]}. Set system.project=separate"
            )
        layers = {"none": 0, "shared": 1, "separate": 2}[project]
        self.heads = nn.ModuleList([make_head(width, embed_dim, slots) for width in sides[:layers]])
        self.embed_dim = embed_dim if layers else sides[0]
        _freeze_unused(image, self._of_image)

    def encode_image(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to unit rows (B, E)."""
        return self.image_features(images).unit

    def encode_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, L), padded on the right, and their mask to unit rows (B, E)."""
        return self.text_features(ids, mask).unit

    def text_side(self) -> "TextEncoder":
        """Return the text side, with the same weights."""
        return TextEncoder(self.text, self.heads[-1] if len(self.heads) else None)

    def image_features(self, images: Tensor) -> Features:
        """Encode images (B, 3, H, W) in [-1, 1]. The encoder's own vector is the first token, if it has their width."""
        encoded = self.image(self.image.normalise(images))
        tokens = encoded.tokens
        if self.image.embed_dim == self.image.width:
            tokens = torch.cat([encoded.pooled[:, None], tokens], 1)  # (B, 1 + N, C)
        return Features(self._projected(encoded, 0), tokens)

    def text_features(self, ids: Tensor, mask: Tensor | None = None) -> Features:
        """Encode ids (B, L), padded on the right, with their mask."""
        encoded = self.text(ids, mask)
        return Features(self._projected(encoded, -1), encoded.tokens, encoded.mask)

    def _projected(self, encoded: Encoded, side: int) -> Tensor:
        return project_onto(self.heads[side] if len(self.heads) else None, encoded)

    def _image_dim(self) -> int:
        """Width of the vector or the tokens that images are projected from."""
        return self.image.width if self.slots else self.image.embed_dim

    def _of_image(self, encoded: Encoded) -> Tensor:
        """The part of the image encoder's output that is used; parameters that it does not depend on are frozen."""
        return encoded.tokens if self.slots else encoded.pooled


class SlotPool(nn.Module):
    """Pools tokens into S slots and joins these to one vector, (B, N, D) to (B, E).

        weights (B, S, N) = softmax over tokens of linear(LN(tokens)); slot s = (weights_s · LN(tokens)) W_s (B, E/S)

    A slot can attend to one part, as the shoes of an image and their words in a text, where a mean of all tokens mixes
    them. What a text does not mention can get a short slot, which then has little part in the cosine.
    """

    def __init__(self, width: int, embed_dim: int, slots: int) -> None:
        """width: D. embed_dim: E. Raises SightwordError if slots do not divide it."""
        super().__init__()
        if embed_dim % slots:
            raise SightwordError(f"system.slots={slots} does not divide system.embed_dim={embed_dim}. Choose a divisor")
        self.norm, self.attention = nn.LayerNorm(width), nn.Linear(width, slots)
        self.weight = nn.Parameter(torch.randn(slots, width, embed_dim // slots) * width**-0.5)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D), with their mask (B, N) bool, to (B, E)."""
        tokens = self.norm(tokens)
        logits = self.attention(tokens)  # (B, N, S)
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], torch.finfo(logits.dtype).min)
        pooled = logits.softmax(1).transpose(1, 2) @ tokens  # (B, S, D)
        return (pooled.transpose(0, 1) @ self.weight).transpose(0, 1).flatten(1)


def make_head(width: int, embed_dim: int, slots: int = 0) -> nn.Module:
    """Return the projection onto the common space: a `SlotPool`, or without slots a linear layer."""
    return SlotPool(width, embed_dim, slots) if slots else nn.Linear(width, embed_dim)


def project_onto(head: nn.Module | None, encoded: Encoded) -> Tensor:
    """Return what a tower gives, in the common space, (B, E); its vector as it is if there is no head."""
    if head is None:
        return encoded.pooled
    vectors: Tensor = head(encoded.tokens, encoded.mask) if isinstance(head, SlotPool) else head(encoded.pooled)
    return vectors


class TextEncoder(nn.Module):
    """The text side of a `DualEncoder` alone, which is all that a search in a gallery needs."""

    def __init__(self, text: TextTower, head: nn.Module | None) -> None:
        """head: the projection of its vectors, if there is one."""
        super().__init__()
        self.text, self.head, self.tokenizer = text, head, text.tokenizer

    def encode_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, L), padded on the right, and their mask to unit rows (B, E)."""
        encoded = self.text(ids, mask)
        return Features(project_onto(self.head, encoded), encoded.tokens).unit

    def digest(self) -> str:
        """Return the digest of all weights that a text passes through."""
        weights = self.state_dict()
        return digest({name: weights[name] for name in weights if not name.startswith("text.grid_bias.")})


class SharedEncoder(DualEncoder):
    """Phase 3: image tokens enter the text encoder like word embeddings; one T5 encodes both, in a pass each."""

    text: T5Text

    def __init__(
        self,
        image: ImageTower,
        text: T5Text,
        embed_dim: int = 512,
        project: str = "shared",
        pooling: str = "mean",
        slots: int = 0,
    ) -> None:
        """pooling: of the image's tokens, mean or cls (of a learned token that stands behind them); slots have none."""
        super().__init__(image, text, embed_dim, project, slots)
        self.words = ImageWords(image.width, text)
        self.cls = nn.Parameter(self.words.scale * torch.randn(1, 1, text.width)) if pooling == "cls" else None

    def image_features(self, images: Tensor) -> Features:
        words = self.image_words(images)
        # Behind the image tokens, as the only word of a text: it then is equally far from all of them.
        cls = None if self.cls is None else self.cls.expand(len(words), -1, -1)
        tokens = self.text(inputs_embeds=cls, image_tokens=words).tokens  # (B, N, D), with cls one more
        pooled = tokens.mean(1) if cls is None else tokens[:, -1]
        return Features(self._projected(Encoded(tokens, pooled), 0), tokens)

    def image_words(self, images: Tensor) -> Tensor:
        """Return what stands for word embeddings, (B, N, D). images: (B, 3, H, W) in [-1, 1]."""
        return self.words(self.image(self.image.normalise(images)).tokens)

    def condition(self, words: Tensor, ids: Tensor, mask: Tensor | None) -> Encoded:
        """Encode image words (B, N, D) and ids (B, L) together, the image first; for the generator alone.

        Behind the image, the padding of a text changes no position.
        """
        return self.text(ids, mask, image_tokens=words)

    def _image_dim(self) -> int:
        return self.text.width

    def _of_image(self, encoded: Encoded) -> Tensor:
        return encoded.tokens


class ImageWords(nn.Module):
    """Brings image tokens (B, N, C) to the width and the size of a T5's word embeddings, (B, N, D).

    The size matters because T5 normalises neither.
    """

    scale: Tensor  # (), root mean square of the word embeddings as they were loaded

    def __init__(self, width: int, text: T5Text) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, text.width)
        init_linear(self.linear, width**-0.5)
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
    slots: int = 0,
) -> DualEncoder:
    """Return the encoder of phase 3 if `shared`, of phases 1 and 2 otherwise; arguments as of their classes."""
    if not shared:
        return DualEncoder(image, text, embed_dim, project, slots)
    if not isinstance(text, T5Text):
        raise SightwordError(f"image tokens need a T5, and {text.name} is a {type(text).__name__}. Set system.text=t5")
    return SharedEncoder(image, text, embed_dim, project, image_pooling, slots)


def _freeze_unused(tower: ImageTower, used: Callable[[Encoded], Tensor]) -> None:
    """Freeze parameters that what is used does not depend on (SigLIP's pooling, if its tokens are used).

    They would not change anyway, and DistributedDataParallel waits for a gradient of each.
    """
    images = torch.zeros(1, 3, *tower.patch, device=tower.device)
    parameters = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    if not parameters:
        return
    with torch.enable_grad():
        slopes = torch.autograd.grad(used(tower(images)).sum(), parameters, allow_unused=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.requires_grad_(slope is not None)
