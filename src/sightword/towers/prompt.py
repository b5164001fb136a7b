"""Text embeddings of class names, averaged over prompt templates.

Legend: K words; E pooled width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.towers.base import TextTower


def class_embeddings(
    tower: "TextTower", words: Sequence[str], templates: Sequence[str] = ("a photo of a {}",), batch_size: int = 256
) -> Tensor:
    """(K, E) unit vectors of words, to compare tokens or images with.

    Each word in every template, the unit vectors averaged and brought back to length 1 (CLIP, Radford 2021, 3.1.4).
    """
    for template in templates:
        if "{}" not in template:
            raise SightwordError(f"template {template!r} has no {{}} for the word to stand in")
    texts = [template.format(word) for word in words for template in templates]
    with torch.no_grad():
        parts = [tower.encode(texts[start : start + batch_size]).pooled for start in range(0, len(texts), batch_size)]
    vectors = F.normalize(torch.cat(parts), dim=-1).unflatten(0, (len(words), len(templates)))  # (K, templates, E)
    return F.normalize(vectors.mean(1), dim=-1)
