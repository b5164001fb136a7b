"""The floating-point types by name, short and long. `import torch` happens on the first call of `torch_dtype`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from sightword.errors import SightwordError

if TYPE_CHECKING:
    import torch

#: A floating-point type, by PyTorch's and NumPy's name for it.
DtypeName: TypeAlias = Literal["float32", "bfloat16", "float16"]

#: Every name that is understood → PyTorch's.
DTYPES: Mapping[str, DtypeName] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    **{name: name for name in get_args(DtypeName)},
}
LISTED = "fp32, bf16 or fp16 (or float32, bfloat16, float16)"


def dtype_name(name: str, key: str = "dtype") -> DtypeName:
    """Return PyTorch's name of "fp32", "float32", … key: of the argument or config field, for the message.

    Raises SightwordError if there is no such type.
    """
    if name not in DTYPES:
        raise SightwordError(f"{key}={name!r} is not a dtype. Pass {LISTED}")
    return DTYPES[name]


def torch_dtype(name: str) -> "torch.dtype":
    """Return PyTorch's dtype of "fp32", "float32", "bf16", … Raises SightwordError if there is no such type."""
    import torch

    found = getattr(torch, dtype_name(name))
    assert isinstance(found, torch.dtype)
    return found
