"""Read and write files of weights, safely even for files from untrusted sources.

A torch checkpoint is a pickle, and a pickle may execute any code. `torch.load(weights_only=True)` refuses unknown
classes, and therefore every old Lightning checkpoint, which contains its callbacks. Such files are read by an unpickler
that accepts tensors, containers and numbers, and replaces every other object by an inert one. Nothing that a file names
is imported or called.
"""

import errno
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._utils import _rebuild_tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.atomic import write_atomically

Loaded = TypeVar("Loaded")
#: The content of a file, by name: tensors, numbers, texts, and containers of these.
Checkpoint: TypeAlias = dict[str, Any]

ZIP, PICKLE, TORCH_PICKLE = b"PK\x03\x04", b"\x80", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read_weights(path: str | Path, under: Sequence[str] = ("state_dict", "model")) -> dict[str, Tensor]:
    """Return name → tensor of any checkpoint: the mapping at the first of the keys `under`, or the whole file."""
    checkpoint = read_checkpoint(path)
    try:
        return weights_in(checkpoint, under)
    except SightwordError as error:
        raise SightwordError(f"{path} {error}") from None


def write_weights(file: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors from any device as one safetensors file, atomically.

    Raises OSError with the name of the file, for example on a full disk.
    """
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    with write_atomically(file) as beside:
        try:
            save_file(tensors, beside, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:  # a failed write; its text has the system's error number
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(int(found[1]) if found else errno.EIO, str(error), str(file)) from error


def weights_in(checkpoint: Mapping[str, object], under: Sequence[str] = ("state_dict", "model")) -> dict[str, Tensor]:
    """Return the tensors in a checkpoint from `read_checkpoint`. Raises SightwordError if there are none."""
    found = next((inner for key in under if isinstance(inner := checkpoint.get(key), Mapping)), checkpoint)
    weights = {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise SightwordError(f"contains no weights, neither itself nor under {', '.join(under)}; it has {_few(found)}")
    return weights


class Comparison(NamedTuple):
    """Names of weights, by how those of a file fit those expected."""

    matched: list[str]
    missing: list[str]  # expected, and not in the file
    unexpected: list[str]  # in the file, and not expected
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]  # name → its shape in the file and the one expected


def compare(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Comparison:
    """Return how names and shapes of a file's `weights` fit the expected."""
    both = [name for name in expected if name in weights]
    pairs = {name: (tuple(weights[name].shape), tuple(expected[name].shape)) for name in both}
    shapes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return Comparison(
        matched=[name for name in both if name not in shapes],
        missing=[name for name in expected if name not in weights],
        unexpected=[name for name in weights if name not in expected],
        shapes=shapes,
    )


def differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Return a line on how names and shapes of a file's `weights` differ from the expected; "" if they agree."""
    found = compare(expected, weights)
    shapes = [f"{name} is {there} in the file and {here} in the model" for name, (there, here) in found.shapes.items()]
    parts = [("other shapes", shapes), ("missing", found.missing), ("unexpected", found.unexpected)]
    return "; ".join(f"{len(names)} {what}: {_few(names, 3)}" for what, names in parts if names)


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load a file's `weights` into a module, on the "meta" device or not, in the module's dtypes.

    source: the file, for the message. Raises SightwordError with the names that do not fit, and both shapes.
    """
    expected = module.state_dict()
    if found := differences(expected, weights):
        raise SightwordError(f"{source} does not fit {type(module).__name__}: {found}")
    module.load_state_dict({name: weights[name].to(expected[name].dtype) for name in expected}, assign=True)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Return the content of a safetensors or torch file (zip or older), on the CPU. Unknown objects are inert.

    Raises MissingFileError if there is no such file, and SightwordError if it is of another format, truncated, or not a
    dictionary.
    """
    path = Path(path)
    if not path.is_file():
        why = "is a folder; name the file in it" if path.is_dir() else "does not exist"
        raise MissingFileError(f"{path} {why}")
    with path.open("rb") as file:
        head = file.read(48)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    if not head.startswith((ZIP, PICKLE)):
        raise SightwordError(f"{path} is not a checkpoint, it begins with {head[:24]!r}; was the real file downloaded?")
    checkpoint = _read_torch(path, head)
    if not isinstance(checkpoint, dict):
        raise SightwordError(f"{path} contains {_kind(checkpoint)}, not a dictionary of weights; save a state_dict()")
    return checkpoint


def _read_safetensors(path: Path) -> Checkpoint:
    """Copies of the file's tensors. Views of the mapped file would change with it, and their alignment is the file's:
    with another alignment some processors sum in another order, so that results differ in the last bit."""
    try:
        return {name: weight.clone() for name, weight in load_file(path).items()}
    except SafetensorError as error:
        raise SightwordError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error


def _read_torch(path: Path, head: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they advise the writer of the file; failures are reported below
            try:
                checkpoint: object = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                # Archives of code (TorchScript) or files (.tar) raise another error, so they never get here.
                checkpoint = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TensorPickle)
            return checkpoint
    except Exception as error:  # torch's readers raise errors of many classes for bytes of unknown origin
        reason = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        if head.startswith((ZIP, TORCH_PICKLE)):
            raise SightwordError(f"{path} cannot be read, it is damaged or not a checkpoint: {reason}") from error
        raise SightwordError(f"{path} is a pickle, but not one that torch.save wrote: {reason}") from error


class _Inert:
    """Placeholder for an object of a class that is not accepted. Ignores everything that a pickle does to it."""

    def __new__(cls, *args: object, **kwargs: object) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"<inert {type(self).__module__}.{type(self).__name__}>"

    def _ignore(self, *args: object, **kwargs: object) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = update = _ignore

    def __call__(self, *args: object, **kwargs: object) -> "_Inert":
        return self


class _TensorUnpickler(pickle.Unpickler):
    """Unpickler of tensors and their containers. Any other name gives a new inert class.

    Functions and classes are created again for each mention, as a pickle may also set attributes on them.
    """

    def find_class(self, module: str, name: str, /) -> object:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch", "Size":
                return torch.Size
            case "torch", _ if isinstance(dtype := vars(torch).get(name), torch.dtype):
                return dtype
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return _rebuilt
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
        return type(name, (_Inert,), {"__module__": module})

    def __setattr__(self, name: str, value: object) -> None:
        # torch sets its reader of storages here. That reader would also compare the source code of pickled modules,
        # and might write a .patch file that the checkpoint names. So only storages are passed to it.
        super().__setattr__(name, _only_storages(value) if name == "persistent_load" and callable(value) else value)


def _rebuilt(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    tensor: Tensor = _rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]
    return tensor


def _only_storages(load: Callable[[object], Loaded]) -> Callable[[object], Loaded]:
    def persistent_load(saved: object) -> Loaded:
        if not isinstance(saved, tuple) or saved[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("it pickles a whole module, not its weights")
        return load(saved)

    return persistent_load


class _TensorPickle:
    """The part of the module `pickle` that torch.load uses of its `pickle_module`."""

    Unpickler = _TensorUnpickler

    @staticmethod
    def load(file: IO[bytes], *, encoding: str = "utf-8", **_: object) -> object:
        loaded: object = _TensorUnpickler(file, encoding=encoding).load()
        return loaded


def _kind(value: object) -> str:
    return repr(value) if isinstance(value, _Inert) else f"a {type(value).__name__}"


def _few(names: Collection[object], most: int = 6) -> str:
    shown = [str(name) for name in list(names)[:most]]
    return ", ".join([*shown, "…"] if len(names) > most else shown) or "nothing"
