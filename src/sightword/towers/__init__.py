"""Pretrained encoders behind one interface: whatever a tower reads, it returns `Encoded`.

Legend: B batch, N tokens, D token width, E pooled width.
"""

from typing import NamedTuple

from torch import Tensor


class Encoded(NamedTuple):
    """What every tower returns."""

    tokens: Tensor  # (B, N, D)
    pooled: Tensor  # (B, E)
    mask: Tensor | None = None  # (B, N) bool, True where a token is real
