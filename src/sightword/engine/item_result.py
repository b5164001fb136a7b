"""Results of an evaluation, item by item, as runs are compared by: `evaluation_items.npz` beside the metrics.

    id        (N) the items, in their order
    cluster   (N) the independent unit of each: the person of a caption, the room of a scan
    unit      what the clusters are: people, images, recordings, rooms
    item/…    (N, …) the arrays that the system's measures are computed from

Arrays of numbers and texts, never pickles.
"""

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.atomic import write_atomically

MOST_BYTES = 2**31  # of all arrays together, uncompressed
MOST_ARRAYS = 64
PREFIX = "item/"


@dataclass(frozen=True)
class ItemResults:
    """What an evaluator found for each item of a split."""

    unit: str  # what the clusters are, in the plural
    id: np.ndarray  # (N,) str, each once, sorted
    cluster: np.ndarray  # (N,) str
    arrays: Mapping[str, np.ndarray]  # name → (N, …)

    def __post_init__(self) -> None:
        rows = {"cluster": len(self.cluster), **{name: len(each) for name, each in self.arrays.items()}}
        if wrong := {name: count for name, count in rows.items() if count != len(self.id)}:
            raise ValueError(f"there are {len(self.id)} items; other numbers of rows: {wrong}")

    @classmethod
    def of(
        cls, unit: str, ids: Sequence[str], clusters: Sequence[str], arrays: Mapping[str, np.ndarray]
    ) -> "ItemResults":
        """Return the results in the order of the ids. An id that stands there again gets a number: a.png, a.png#2."""
        seen: Counter[str] = Counter()
        names = []
        for name in ids:
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
        found = np.array(names, dtype=np.str_)
        order = np.argsort(found, kind="stable")
        ordered = {name: np.asarray(each)[order] for name, each in arrays.items()}
        return cls(unit, found[order], np.array(clusters, dtype=np.str_)[order], ordered)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits for the ids and their clusters."""
        text = "\0".join([*self.id.tolist(), "", *self.cluster.tolist()])
        return hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=16).hexdigest()

    def write(self, file: Path) -> None:
        """Write an .npz, compressed, atomically. Raises SightwordError if that fails, as on a full disk."""
        named = {f"{PREFIX}{name}": each for name, each in self.arrays.items()}
        given = {"unit": np.array(self.unit), "id": self.id, "cluster": self.cluster, **named}
        try:
            with write_atomically(file) as beside, beside.open("wb") as opened:
                np.savez_compressed(opened, **given)  # type: ignore[arg-type]
        except OSError as error:
            raise SightwordError(f"{file} cannot be written: {error.strerror or error}") from error


def read_items(file: Path) -> ItemResults:
    """Return what `ItemResults.write` wrote. Raises SightwordError if the file is missing, damaged or too large."""
    try:
        _refuse_size(file)
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
        named = {name.removeprefix(PREFIX): each for name, each in arrays.items() if name.startswith(PREFIX)}
        if any(each.dtype.kind not in "biuf" for each in named.values()):
            raise ValueError("an array is not of numbers")
        if any(arrays[name].dtype.kind != "U" or arrays[name].ndim != 1 for name in ("id", "cluster")):
            raise ValueError("ids are not texts")
        return ItemResults(str(arrays["unit"]), arrays["id"], arrays["cluster"], named)
    except FileNotFoundError:
        raise MissingFileError(f"{file} does not exist. sightword evaluate run=… writes it") from None
    except (ValueError, KeyError, TypeError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise SightwordError(f"{file} is not a whole file of items ({reason}). sightword evaluate writes it") from None


def _refuse_size(file: Path) -> None:
    """Raise ValueError for an archive whose arrays would take too much memory, before any is read."""
    with zipfile.ZipFile(file) as archive:
        sizes = [member.file_size for member in archive.infolist()]
    if len(sizes) > MOST_ARRAYS or sum(sizes) > MOST_BYTES:
        raise ValueError(f"{len(sizes)} arrays of {sum(sizes):,} bytes, at most {MOST_BYTES:,} are read")
