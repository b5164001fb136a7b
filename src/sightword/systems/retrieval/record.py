"""Records of a data set of images and captions, whatever its format."""

from pathlib import Path
from typing import NamedTuple

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


def unknown_split(name: str) -> str:
    """Return what is wrong with a split of this name, and what to do."""
    near = {"gallery": "test", "query": "test", "dev": "val", "valid": "val", "validation": "val"}.get(name.lower())
    near = near or (name.lower() if name.lower() in SPLITS else None)
    meant = f'Write "{near}" for it if that is meant, or' if near else f"Write one of {', '.join(SPLITS)} for it, or"
    return f"{name!r} is none of {', '.join(SPLITS)}. {meant} leave such records out"
