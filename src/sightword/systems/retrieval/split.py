"""The splits of a data set of images and captions: train, val and test, as a training and a measurement read them.

Legend: M images, C captions of a split.
"""

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from sightword.data.archive import archive_of, is_there, read_member
from sightword.data.content import Item
from sightword.data.finding import Finding
from sightword.engine.contract import Names
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json, read_json_list
from sightword.systems.retrieval.formats.layout import read_own
from sightword.systems.retrieval.formats.published import FORMATS, foreign, instead
from sightword.systems.retrieval.record import SPLITS, Listing, Record, unknown_split

USUAL_PATH = re.compile(r"[\w\-.]+(/[\w\-.]+)*", re.ASCII)
PARAPHRASES = "paraphrases.json"
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
        return read_listing(self.root, self.dataset)

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
    if missing := [path for path in found.images if not path.is_file() and not is_there(path)]:
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


def read_paraphrases(source: Source, split: Split) -> list[list[str]]:
    """Return further texts on each image of a split, (M lists), from paraphrases.json beside the annotations.

    The file is an object: an image's path, as the annotations have it, to a list of texts. An image may be missing.
    Raises SightwordError if the file is, or has texts on none of the images.
    """
    listing = source.read()
    file = listing.file.parent / PARAPHRASES
    missing = "data.paraphrase reads it: path of an image → other texts on it. Write it, or set data.paraphrase=0"
    content = read_json(file, missing=missing)
    paths = [image.relative_to(listing.folder).as_posix() for image in split.images]
    found = [[text for text in content.texts(path, optional=True) if text.strip()] for path in paths]
    if not any(found):
        raise SightwordError(f"{file} has no text on any of the {len(paths)} images of {split.name}, as {paths[0]}")
    return found


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

    So nearly all stay on their side when others are added.
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


# ------------------------------------------------------------------------------------------ what can be used, what fits


def usable(listing: Listing, check: str) -> tuple[list[Record], list[Finding]]:
    """Return the records that a training can use, and what to say of the others.

    A record without a caption is left out. check: the command that names all problems.
    Raises SightwordError for the first record that cannot be read, or has a split of another name.
    """
    if listing.problems:
        raise SightwordError(f"{listing.problems[0]}. {check} names all such records")
    stated = any(record.split for record in listing.records)
    kept: list[Record] = []
    silent: list[Record] = []
    for record in listing.records:
        if record.split not in SPLITS and (record.split or stated):
            what = unknown_split(record.split) if record.split else "is empty, while other records state a split"
            raise SightwordError(f"{listing.file}: {record.place}split: {what}. {check} names all such records")
        (kept if record.captions else silent).append(record)
    if not kept:
        raise SightwordError(f"none of the {len(silent)} records of {listing.file} has a caption. {check} names them")
    if not silent:
        return kept, []
    of = f"{len(silent)} of {len(listing.records)} records"
    message = f"{of} have no caption with a word and are left out, {silent[0].path} the first"
    files = tuple(record.path for record in silent)
    return kept, [
        Finding("warning", "records without a caption", message, files, len(silent), f"{check} names all such records")
    ]


def find_misfits(records: Sequence[Record]) -> list[Finding]:
    """Return what records say that does not fit together; readers and checks report the same.

    Errors: identities in two splits, images that are listed twice. Warnings: paths that differ in their spelling
    alone, captions that several people share.
    """
    return [*_repeated_images(records), *_spread_identities(records), *_shared_captions(records)]


def _repeated_images(records: Sequence[Record]) -> list[Finding]:
    counts = Counter(record.path for record in records)
    found = []
    if twice := [path for path, count in counts.items() if count > 1]:
        message = f"{len(twice)} of {len(counts)} images are listed twice, {twice[0]} the first"
        found.append(Finding("error", "images listed twice", message, tuple(twice), len(twice)))
    spelt: dict[str, list[str]] = {}
    for path in counts:
        spelt.setdefault(normalize("NFC", path).casefold(), []).append(path)
    if several := [paths for paths in spelt.values() if len(paths) > 1]:
        one, other = several[0][:2]
        message = f"{len(several)} paths are spelt in several ways, {one!r} and {other!r} the first"
        files = tuple(path for paths in several for path in paths)
        found.append(Finding("warning", "paths spelt in several ways", message, files, len(several)))
    return found


def _spread_identities(records: Sequence[Record]) -> list[Finding]:
    splits: dict[int, set[str]] = {}
    for record in records:
        splits.setdefault(record.id, set()).add(record.split)
    spread = [id_ for id_, found in splits.items() if len(found) > 1]
    if not spread:
        return []
    both = " and in ".join(sorted(splits[spread[0]], key=lambda name: (name not in SPLITS, name)))
    name = next(record.called for record in records if record.id == spread[0])
    message = f"{len(spread)} of {len(splits)} identities are in two splits, identity {name} in {both} the first"
    return [Finding("error", "identities in two splits", message, (), len(spread))]


def _shared_captions(records: Sequence[Record]) -> list[Finding]:
    people: dict[str, set[int]] = {}
    for record in records:
        for caption in record.captions:
            people.setdefault(caption.casefold(), set()).add(record.id)
    shared = {caption: len(ids) for caption, ids in people.items() if len(ids) > 1}
    if not shared:
        return []
    concerned = sum(any(caption.casefold() in shared for caption in record.captions) for record in records)
    most = max(shared, key=lambda caption: shared[caption])
    told = most if len(most) <= 60 else f"{most[:59]}…"
    message = (
        f"{len(shared)} of {len(people)} captions are of several people each, most of all {told!r} of {shared[most]}"
    )
    fix = f"a search cannot tell these apart, {100 * concerned / len(records):.0f} % of the images"
    return [Finding("warning", "captions of several people", message, (), len(shared), fix)]


# ------------------------------------------------------------------------------------------------- a published data set


def annotation_file(root: str | Path, dataset: str) -> Path:
    """Return the JSON file of a data set. Raises SightwordError that names what the folder has instead."""
    if dataset not in FORMATS:
        raise SightwordError(f"dataset={dataset!r} is none of {', '.join(FORMATS)}")
    if not str(root):
        raise SightwordError("data.root is not set. Pass the folder with imgs/ and the JSON file, or the one above it")
    layout, root = FORMATS[dataset], Path(root).expanduser()
    for folder in (root, root / layout.folder):
        for name in layout.files:
            if (folder / name).is_file():
                return folder / name
    raise SightwordError(
        f"{root} has no {' or '.join(layout.files)}, nor has {layout.folder} in it{instead(root, dataset)}. Set "
        "data.root to the folder that has this file and imgs/"
    )


def image_folder(file: Path) -> Path:
    """Return the folder with the images of a data set. file: its JSON file."""
    return file.parent / "imgs"


def read_listing(root: str | Path, dataset: str) -> Listing:
    """Return all records of a data set, and an error for each that cannot be read.

    Raises SightwordError if the file is missing or of another data set, or no record can be read.
    """
    file = annotation_file(root, dataset)
    entries, records, problems = read_json_list(file), [], []
    if not len(entries):
        raise SightwordError(f"{file} is an empty list: expected a list of records, one an image")
    for number, values in enumerate(entries.plain()):
        try:
            record = _usual_record(values, FORMATS[dataset].path) or read_record(entries.mapping(number), dataset)
        except SightwordError as error:
            problems.append(error)
            continue
        records.append(record._replace(place=f"[{number}]."))
    if not records:
        raise problems[0]
    return Listing(file, image_folder(file), records, tuple(problems))


def _usual_record(values: object, path_field: str) -> Record | None:
    """The record of ASCII values of the right types, five times as fast as `read_record`; None for any other."""
    if not isinstance(values, dict):
        return None
    path, captions, id_, split = (values.get(name) for name in (path_field, "captions", "id", "split"))
    if not (isinstance(path, str) and isinstance(captions, list) and split in SPLITS and type(id_) is int):
        return None
    if not (0 <= id_ < 2**63 and USUAL_PATH.fullmatch(path) and ".." not in path):
        return None
    kept = [caption.strip() for caption in captions if isinstance(caption, str) and caption.isascii()]
    if len(kept) < len(captions) or not all(kept):
        return None
    return Record(split, id_, path, kept, 0)


def read_record(entry: Fields, dataset: str) -> Record:
    """Return one record in the data set's format; captions without a word are counted and left out."""
    for name in (FORMATS[dataset].path, "captions", "id", "split"):
        if name not in entry:
            raise entry.error(f"is missing{foreign(entry, name, dataset)}; there are {', '.join(entry)}", name)
    path = _path(entry, FORMATS[dataset].path)
    captions = entry.texts("captions")
    id_ = entry.integer("id", least=0, most=2**63 - 1)
    split = entry.text("split")
    kept = [caption.strip() for caption in captions if caption.strip()]
    return Record(split, id_, path, kept, len(captions) - len(kept))


def _path(entry: Fields, name: str) -> str:
    """Below imgs/, whatever slashes it was written with."""
    path = entry.text(name)
    parts = PurePosixPath(path.replace("\\", "/"))
    if not path or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise entry.error(f"{path!r} is not a path below imgs/", name)
    return parts.as_posix()
