"""Labels of words: which things, places and actions some images show. They calibrate when a word is present.

    [{"image": "1.png", "objects": ["dog"], "place": "beach", "action": null}, …]     as `sightword mini` has scenes
    any layout of one's own labels (`labels.py`) whose classes are words: CSV, JSONL, JSON, COCO's categories, folders

A word that the labels never speak of is unknown, not absent.

Legend: B images; K words of all streams.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.data.located import IMAGE_FIELDS, locate
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json_list, read_text
from sightword.systems.intent.labels import read_labels

SCENE = ("objects", "place", "action")  # fields of a record of a scene


class Concepts(NamedTuple):
    """Images with the words that each shows."""

    files: list[Path]  # B
    shown: list[frozenset[str]]  # B, names as written
    names: tuple[str, ...]  # that the labels speak of
    how: str  # the file was read, one line

    def some(self, most: int) -> "Concepts":
        """Return at most so many of the images, evenly spaced in the file."""
        rows = [number * len(self.files) // most for number in range(most)]
        if len(self.files) <= most:
            return self
        how = f"{self.how}; {most} of {len(self.files)} images, evenly spaced"
        return Concepts([self.files[row] for row in rows], [self.shown[row] for row in rows], self.names, how)

    def table(self, words: Mapping[str, Sequence[str]]) -> "WordTable":
        """Return the labels as a table. words: stream → its words, matched without regard to case and underscores.

        Raises SightwordError if no name is a word.
        """
        columns = [plain(word) for own in words.values() for word in own]
        spoken = {plain(name): name for name in self.names}
        if not spoken.keys() & set(columns):
            some, known = ", ".join(self.names[:4]), ", ".join(word for own in words.values() for word in own[:2])
            raise SightwordError(
                f"none of the labels ({some}, …) is a word of the anchors ({known}, …). Label with their words, or "
                "write anchors with your words: sightword anchors vocabulary=…"
            )
        shown = [{plain(name) for name in own} for own in self.shown]
        rows = [[float(word in own) for word in columns] for own in shown]
        unused = [name for word, name in spoken.items() if word not in set(columns)]
        return WordTable(torch.tensor(rows), torch.tensor([word in spoken for word in columns]), unused)


class WordTable(NamedTuple):
    """Labels of the words of all streams, in the order of the streams."""

    targets: Tensor  # (B, K) float32, 0 or 1
    known: Tensor  # (K,) bool: whether the labels speak of the word
    unused: list[str]  # labels that are no word


def read_concepts(file: Path, images: Path | None = None) -> Concepts:
    """Return the labels of words in a file or folder. images: the folder that paths are below; None: it is looked for.

    Raises SightwordError, with the place in the file, for what cannot be read, and if an image does not exist.
    """
    scenes = _scenes(file, images)
    if scenes is None:
        labels = read_labels(file, str(images or ""))
        files = [labels.located.folder / labels.located.name(photo.path) for photo in labels.photos]
        shown = [frozenset(name for name, share in photo.values.items() if share >= 0.5) for photo in labels.photos]
        scenes = Concepts(files, shown, labels.names, f"{file} read as: {labels.how}; {labels.located}")
    if missing := [place for place in scenes.files if not place.is_file()]:
        raise MissingFileError(
            f"{len(missing)} of the {len(scenes.files)} images of {file} do not exist, the first is {missing[0]}. Pass "
            "images=, the folder that their paths are below"
        )
    return scenes


def _scenes(file: Path, images: Path | None) -> Concepts | None:
    """Return the scenes of a JSON list of them; None if the file is none."""
    if file.suffix.lower() != ".json" or not file.is_file() or read_text(file).lstrip()[:1] != "[":
        return None
    records = list(read_json_list(file, nan=True).all_mappings())
    if not records or not any(name in records[0] for name in SCENE):
        return None
    image = next((name for name in records[0] if name.casefold() in IMAGE_FIELDS), None)
    if image is None:
        raise SightwordError(f"{file} has no field for the image: name one image, file_name or path")
    paths = [record.text(image).replace("\\", "/") for record in records]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise SightwordError(f"{file} lists {twice} twice. Give each image one record")
    located = locate(file, paths, images)
    shown = [_shown(record) for record in records]
    names = tuple(dict.fromkeys(name for own in shown for name in sorted(own)))
    fields = ", ".join(name for name in SCENE if name in records[0])
    how = f"{file} read as: image = {image}, words = {fields}; {located}"
    return Concepts([located.folder / located.name(path) for path in paths], shown, names, how)


def _shown(record: Fields) -> frozenset[str]:
    found = set(record.texts("objects")) if "objects" in record else set()
    for name in ("place", "action"):
        if name in record and record.value(name) is not None:
            found.add(record.text(name))
    return frozenset(found)


def plain(name: str) -> str:
    """Return a word as words are compared: small letters, single spaces, no underscores."""
    return " ".join(name.replace("_", " ").casefold().split())
