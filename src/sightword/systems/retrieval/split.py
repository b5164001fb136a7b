"""The splits of a data set of images and captions: train, val and test, as a training and a measurement read them.

Legend: M images, C captions of a split.
"""

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.data.archive import archive_of, is_there, read_member
from sightword.data.content import Item
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.systems.retrieval import pedes
from sightword.systems.retrieval.formats.layout import read_own
from sightword.systems.retrieval.record import SPLITS, Listing, Record, find_misfits, usable

FEW = 20  # identities of a validation split, below which it is said to tell little


class Source(NamedTuple):
    """Where a data set is."""

    dataset: str  # cuhk_pedes | icfg_pedes | rstpreid; captions: one's own, in any of the formats of `formats`
    root: str | Path
    images: str | Path = ""  # captions: the folder that its paths are below; empty: it is looked for

    def read(self) -> Listing:
        """Return what the data set's files state. Raises SightwordError if a file is missing or not read at all."""
        if self.dataset == "captions":
            return read_own(self.root, self.images)
        return pedes.read_listing(self.root, self.dataset)

    @property
    def check(self) -> str:
        """The command that names everything that is wrong with the data set."""
        given = [f"root={self.root}", *([f"images={self.images}"] if self.images else [])]
        return f"sightword check dataset={self.dataset} {shlex.join(given)}"


class Split(NamedTuple):
    """The images of a split and their captions, in the order of the file."""

    name: str
    images: list[Path]  # M
    pids: np.ndarray  # (M,) int64: in train 0 to P - 1, without gaps and in the order of the file's ids; else as read
    captions: list[str]  # C
    caption_image: np.ndarray  # (C,) int64, the row of `images` that a caption describes

    @property
    def caption_pids(self) -> np.ndarray:
        """The person of each caption, (C,) int64."""
        return self.pids[self.caption_image]


def read_split(source: Source, split: str, hold_out: int = 100, names: Names | None = None) -> Split:
    """Return one split: train, val or test.

    hold_out: if the data set has no validation split, this many of its training identities become it: always the same
    ones, whatever the run's seed, and none of them is in train. Of one's own captions a fifth at most.
    names: the images of each split that are used, as paths below the images' folder; None or a missing split: all.
    Raises SightwordError if a file is missing, damaged or of another data set, and if images are missing.
    """
    if split not in SPLITS:
        raise SightwordError(f"split={split!r} is none of {', '.join(SPLITS)}")
    listing = source.read()
    records, findings = usable(listing, source.check)
    if split != "val":  # a training reads val and train: said once
        if listing.assumed:
            shards.say(listing.assumed)
        for finding in [*listing.findings, *findings, *find_misfits(records)]:
            shards.say(f"{finding.level}: {finding}")
    records = _of_split(records, split, source.dataset, hold_out, names or {})
    if (
        split == "val"
        and source.dataset == "captions"
        and 0 < (persons := len({record.id for record in records})) < FEW
    ):
        shards.say(f"warning: validation has {persons} identities only: its figures tell little")
    if not records:
        raise SightwordError(f"{listing.file} has no record of split {split}. {source.check} counts what there is")
    found = _split(split, records, listing.folder)
    if missing := [path for path in found.images if not is_there(path)]:
        raise SightwordError(
            f"{len(missing)} of {len(found.images)} images of {split} are missing, the first is {missing[0]}. "
            f"{source.check} names all of them"
        )
    return found


def _of_split(records: Sequence[Record], split: str, dataset: str, hold_out: int, names: Names) -> list[Record]:
    if not any(record.split for record in records):
        records = [record._replace(split="train") for record in records]
    if split in names:
        used = set(names[split])
        sides = {split} if split == "test" or _has_validation(records) else {"train"}
        return [record for record in records if record.split in sides and record.path in used]
    if split != "test" and not _has_validation(records):
        records = _held_out_own(records, hold_out) if dataset == "captions" else _held_out(records, hold_out)
    return [record for record in records if record.split == split]


def items(source: Source, splits: Sequence[str], hold_out: int = 100) -> dict[str, list[Item]]:
    """Return the images of some splits that exist, with their persons and captions as facts."""
    listing = source.read()
    records = usable(listing, source.check)[0]
    return {
        split: [
            _item(listing.folder / record.path, record)
            for record in _of_split(records, split, source.dataset, hold_out, {})
            if is_there(listing.folder / record.path)
        ]
        for split in splits
    }


def _item(path: Path, record: Record) -> Item:
    facts = "\n".join([str(record.id), *record.captions])
    if path.is_file() or (inside := archive_of(path)) is None:
        return Item(record.path, (path,), facts)
    return Item(record.path, (), facts, hashlib.blake2b(read_member(*inside), digest_size=16).hexdigest())


def has_validation(source: Source) -> bool:
    """Return whether the files of a data set state a validation split."""
    return _has_validation(source.read().records)


def _has_validation(records: Sequence[Record]) -> bool:
    return any(record.split == "val" for record in records)


def _held_out(records: Sequence[Record], hold_out: int) -> list[Record]:
    """Return the records of a published data set, `hold_out` of its training identities as validation split."""
    ids = _training_ids(records, hold_out)
    held = set(np.random.default_rng(0).choice(np.unique(ids), hold_out, replace=False).tolist())
    return [_moved(record, held) for record in records]


def _held_out_own(records: Sequence[Record], hold_out: int) -> list[Record]:
    """The same of one's own captions: a fifth of the identities at most, chosen by a hash of what they are called.

    So an identity stays on its side when others are added.
    """
    ids = _training_ids(records, 1)
    called = {record.id: record.called if record.person else record.path for record in reversed(records)}
    order = sorted(set(ids), key=lambda id_: hashlib.blake2b(called[id_].encode(errors="surrogatepass")).digest())
    held = set(order[: min(hold_out, max(1, len(order) // 5))])
    return [_moved(record, held) for record in records]


def _training_ids(records: Sequence[Record], hold_out: int) -> list[int]:
    ids = [record.id for record in records if record.split == "train"]
    if not 0 < hold_out < len(set(ids)):
        raise SightwordError(
            f"data.hold_out={hold_out} of {len(set(ids))} training identities: the data set has no validation split. "
            "Hold out at least one identity and leave at least one"
        )
    return ids


def _moved(record: Record, held: set[int]) -> Record:
    return record._replace(split="val") if record.split == "train" and record.id in held else record


def _split(name: str, records: Sequence[Record], folder: Path) -> Split:
    pids = np.array([record.id for record in records], dtype=np.int64)
    if name == "train":
        pids = np.unique(pids, return_inverse=True)[1].astype(np.int64)
    counts = [len(record.captions) for record in records]
    return Split(
        name,
        [folder / record.path for record in records],
        pids,
        [caption for record in records for caption in record.captions],
        np.repeat(np.arange(len(records)), counts),
    )
