"""Names of floating-point formats, short and long. `import torch` happens on the first call."""

from typing import TYPE_CHECKING

from sightword.errors import SightwordError

if TYPE_CHECKING:
    import torch

#: Short names → PyTorch's and NumPy's.
LONG_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def dtype_name(name: str) -> str:
    """Return the long name of "fp32", "float32", … Raises SightwordError for a format that there is not."""
    long = LONG_NAMES.get(name, name)
    if long not in LONG_NAMES.values():
        known = ", ".join(f"{short} ({long})" for short, long in LONG_NAMES.items())
        raise SightwordError(f"dtype={name!r} is not a dtype. Pass one of {known}")
    return long


def dtype_of(name: str) -> "torch.dtype":
    """Return PyTorch's dtype of "fp32", "float32", "bf16", … Raises SightwordError for a format that there is not."""
    import torch

    found = getattr(torch, dtype_name(name))
    assert isinstance(found, torch.dtype)
    return found
