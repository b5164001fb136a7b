"""The contract of a format: how its files are recognised, what a reader is given, what it returns.

Readers return key points as pyskl has them: 2-D in pixels, y downwards; 3-D in the frame of a Kinect, x to the sensor's
left, y upwards, z away from it. What a file leaves open, and what was assumed, is in the notes.

Legend: M persons, T frames, V joints of a recording; P persons of a frame.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.fields import Fields, Items
from sightword.storage.reader import read_json, read_json_list
from sightword.systems.skeleton.joints import JOINT_SETS, JointSet
from sightword.systems.skeleton.sequence import UNKNOWN

BEGINNING = 2**16  # bytes that are looked at to recognise a file
BODIES = {136: 26, 133: 17}  # joints of sets with face and hands (Halpe, COCO) → of the body, which comes first


@dataclass(frozen=True)
class Options:
    """What a user states of files that do not state it themselves."""

    size: tuple[int, int] | None = None  # h, w of the images
    people: int = 2  # most persons that are kept of a recording
    world: bool = False  # MediaPipe's world landmarks instead of those in the image
    joints: JointSet | None = None  # the joint set, if it is not the format's


class Start(NamedTuple):
    """The beginning of a file."""

    path: Path
    raw: bytes

    @property
    def is_json(self) -> bool:
        return self.raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")

    @property
    def is_list(self) -> bool:
        return self.raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["

    @property
    def keys(self) -> set[str]:
        """The keys of JSON in it, of any depth."""
        return set(re.findall(r'"([A-Za-z_]\w*)"\s*:', self.raw.decode("utf-8", "replace"))) if self.is_json else set()

    @property
    def lines(self) -> list[str]:
        """The lines of a text, the last one left out if it may be cut short; nothing for what is no text."""
        if b"\0" in self.raw:
            return []
        lines = self.raw.decode("utf-8", "replace").splitlines()
        return lines[:-1] if len(self.raw) == BEGINNING else lines


class Source(NamedTuple):
    """A recording in files: one, or a file for each frame, in order."""

    name: str
    files: tuple[Path, ...]


class Made(NamedTuple):
    """One recording that was read."""

    name: str
    points: np.ndarray  # (M, T, V, 2 or 3) float32; M is 0 if nobody is in it
    scores: np.ndarray | None  # (M, T, V) float32, 0 to 1, of 2-D
    shape: tuple[int, int] | None  # h, w of the images, of 2-D
    joints: JointSet | None  # None: not known
    notes: tuple[str, ...] = ()  # what was assumed, each the same text for all recordings that it is true of
    label: int = UNKNOWN


@dataclass(frozen=True)
class Format:
    """A format, and the functions that read it."""

    name: str  # as format= takes it
    what: str  # completes "this is …"
    suffixes: tuple[str, ...]
    recognises: Callable[[Start], bool]
    read: Callable[[Source, Options], Sequence[Made]]
    frames: bool = False  # a file is a frame, not a recording
    stem: str = ""  # what follows the number of the frame in a file's name
    takes: tuple[str, ...] = ("people",)  # keys of `Options` that it uses
    unsized: bool = False  # size= has to be given, since no file of it states the size of the images


def read_start(path: Path) -> Start:
    """Return the beginning of a file; of one that cannot be read, nothing."""
    try:
        with path.open("rb") as file:
            return Start(path, file.read(BEGINNING))
    except OSError:
        return Start(path, b"")


def read_any_json(path: Path) -> Fields | Items:
    """Return the object or the list in a JSON file."""
    return read_json_list(path, nan=True) if read_start(path).is_list else read_json(path, nan=True)


def needed_size(options: Options, path: Path, who: str) -> tuple[int, int]:
    """Return the size of the images. Raises SightwordError if it was not given."""
    if options.size is None:
        raise SightwordError(f"{path}: {who} does not state the size of the images. Add size=<height>x<width>")
    return options.size


def joints_of_count(count: int, options: Options, names: Sequence[str], path: Path) -> JointSet:
    """Return the set of so many joints: the one that was given, or the one of these names that has as many.

    Raises SightwordError if there is none.
    """
    if options.joints is not None and len(options.joints.joints) == count:
        return options.joints
    for name in names if options.joints is None else ():
        if len(JOINT_SETS[name].joints) == count:
            return JOINT_SETS[name]
    if options.joints is not None:
        has = f"joints={options.joints.name} has {len(options.joints.joints)}"
        raise SightwordError(f"{path} has {count} joints and {has}. Pass the set of the file")
    listed = ", ".join(f"{len(JOINT_SETS[name].joints)} ({name})" for name in names)
    raise SightwordError(f"{path} has {count} joints, expected {listed}. Pass another set by joints=, or a JSON file")
