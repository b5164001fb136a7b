"""What every format of images and captions is read as, before images are looked for and rows of one image joined."""

from pathlib import Path
from typing import NamedTuple

from sightword.data.finding import Finding
from sightword.errors import SightwordError

MOST = 2**30  # bytes of a file of captions: MALS, the largest of those that are published, has 0.6 GB


class Pair(NamedTuple):
    """An image and captions of it, as one row or record states them."""

    path: str  # as written, with slashes
    captions: list[str]  # as written, blank ones too
    place: str  # in the file, for messages: "[3]." or "row 4: "
    person: str = ""  # empty: the file states none
    split: str = ""  # empty: the file states none


class Pairs(NamedTuple):
    """What a file contains."""

    file: Path
    pairs: list[Pair]
    how: str  # it was read, as "image = file_name, captions = text"
    problems: list[SightwordError] = []  # one for each row that cannot be read
    findings: list[Finding] = []
    joins: bool = False  # by the last part of a path, one image may be in several such files (LUPerson-MLLM)
