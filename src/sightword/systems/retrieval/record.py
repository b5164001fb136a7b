"""Records of a data set of images and captions, whatever its format, and what in them does not fit together."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from sightword.data.finding import Finding
from sightword.errors import SightwordError

SPLITS = ("train", "val", "test")


class Record(NamedTuple):
    """One image and what describes it."""

    split: str  # as written, which may be none of the three; empty: the data set states none
    id: int
    path: str  # below the folder of the images, with slashes
    captions: list[str]  # without the blank ones
    blank: int  # captions without a word
    place: str = ""  # in the file, for messages: "[3]." or "row 4: "
    person: str = ""  # the id as it is written, if it is no number

    @property
    def called(self) -> str:
        """The person's id as the file has it."""
        return self.person or str(self.id)


class Listing(NamedTuple):
    """A data set as its files state it, before a split is chosen."""

    file: Path  # the file, or the folder of several, that the records are read from
    folder: Path  # of the images
    records: list[Record]
    problems: tuple[SightwordError, ...] = ()  # one for each record that cannot be read
    assumed: str = ""  # one line: how a format that does not describe itself was read
    findings: tuple[Finding, ...] = ()  # what the format itself shows, as pairs that were not fetched


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


def unknown_split(name: str) -> str:
    """Return what is wrong with a split of this name, and what to do."""
    near = {"gallery": "test", "query": "test", "dev": "val", "valid": "val", "validation": "val"}.get(name.lower())
    near = near or (name.lower() if name.lower() in SPLITS else None)
    meant = f'Write "{near}" for it if that is meant, or' if near else f"Write one of {', '.join(SPLITS)} for it, or"
    return f"{name!r} is none of {', '.join(SPLITS)}. {meant} leave such records out"


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
