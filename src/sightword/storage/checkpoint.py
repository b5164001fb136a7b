"""Weights in and out of files, without trusting the file.

A torch checkpoint is a pickle, and a pickle may run anything. `torch.load(weights_only=True)` refuses what it does not
know, and so refuses every old Lightning checkpoint, which carries its callbacks along. Those are read by an unpickler
that accepts tensors, containers and numbers, and makes an inert object of whatever else a file names; nothing that a
file asks for is imported or called.
"""

import errno
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._utils import _rebuild_tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.atomic import write_atomically

Loaded = TypeVar("Loaded")
#: What a file contains, by name: tensors, numbers, texts, and containers of these.
Checkpoint: TypeAlias = dict[str, Any]

ZIP, PICKLE, TORCH_PICKLE = b"PK\x03\x04", b"\x80", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read_weights(path: str | Path, under: Sequence[str] = ("state_dict", "model")) -> dict[str, Tensor]:
    """Return name → tensor of any checkpoint: what lies `under` the first of these keys, or else the whole file."""
    checkpoint = read_checkpoint(path)
    try:
        return weights_in(checkpoint, under)
    except SightwordError as error:
        raise SightwordError(f"{path} {error}") from None


def write_weights(file: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, on any device, as one safetensors file, whole or not at all.

    Raises OSError with the name of the file, as on a full disk.
    """
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    with write_atomically(file) as beside:
        try:
            save_file(tensors, beside, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:  # of the disk, with the system's number in the text
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(int(found[1]) if found else errno.EIO, str(error), str(file)) from error


def weights_in(checkpoint: Mapping[str, object], under: Sequence[str] = ("state_dict", "model")) -> dict[str, Tensor]:
    """Return the tensors of what `read_checkpoint` gave. Raises SightwordError if there are none."""
    found = next((inner for key in under if isinstance(inner := checkpoint.get(key), Mapping)), checkpoint)
    weights = {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise SightwordError(f"contains no weights, neither itself nor under {', '.join(under)}; it has {_few(found)}")
    return weights


def differences(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Return how the names and shapes of `weights`, a file's, differ from those `wanted`, in a line; "" if they fit."""
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(wanted[name].shape)} in the model"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    parts = [("other shapes", shapes), ("missing", missing), ("unexpected", unexpected)]
    return "; ".join(f"{len(names)} {what}: {_few(names, 3)}" for what, names in parts if names)


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load a file's `weights` into a module, on the "meta" device or not, in the module's dtypes.

    source: the file, for the message. Raises SightwordError that names whatever does not fit, with both shapes.
    """
    wanted = module.state_dict()
    if found := differences(wanted, weights):
        raise SightwordError(f"{source} does not fit {type(module).__name__}: {found}")
    module.load_state_dict({name: weights[name].to(wanted[name].dtype) for name in wanted}, assign=True)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Return all that a safetensors or torch file (zip or older) contains, on the CPU; unknown objects are inert.

    Raises MissingFileError, or SightwordError if it is something else, was cut short, or is not a dictionary.
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
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise SightwordError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error


def _read_torch(path: Path, head: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice for who may change the file; what fails is said below
            try:
                checkpoint: object = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                # Only here: an archive of code (TorchScript) or files (.tar) fails with another error, and stays out.
                checkpoint = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TensorPickle)
            return checkpoint
    except Exception as error:  # bytes of unknown origin can fail in any way that the readers of torch have
        reason = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        if head.startswith((ZIP, TORCH_PICKLE)):
            raise SightwordError(f"{path} cannot be read, it is damaged or no checkpoint: {reason}") from error
        raise SightwordError(f"{path} is a pickle, but not one that torch.save wrote: {reason}") from error


class _Inert:
    """Stands for an object of a class that was not let in. Takes whatever a pickle does to it, and does nothing."""

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
    """Knows tensors and their containers by name; any other name gives a new inert class.

    Functions and classes are created again for every mention, as a pickle may also set attributes of what it names.
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
        # torch hangs its own reader of storages in here. That one also compares the source code of pickled modules,
        # and may write a .patch file named by the checkpoint: let only storages through.
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
    """As much of the module `pickle` as torch.load asks of its `pickle_module`."""

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
