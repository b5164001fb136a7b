"""Rows or records with a field for the image and one for its caption: CSV, TSV, JSONL, or a JSON list.

So one's own files, Hugging Face's imagefolder (metadata.csv, metadata.jsonl), MALS and UFine6926. The names of the
fields are looked for in the first record, whatever their capitals.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sightword.data.located import IMAGE_FIELDS
from sightword.errors import SightwordError
from sightword.storage.fields import Fields, Items, Row
from sightword.storage.reader import find_delimiter, parse_json, read_csv, read_text
from sightword.systems.retrieval.formats.pair import MOST, Pair, Pairs

TEXT = ("captions", "caption", "text", "title", "sentences", "sentence", "description", "raw")
PERSON = ("pid", "person_id", "id", "image_id")
NUMBERED = re.compile(r"(?:caption|sentence|text)[ _]?\d+")


class Columns(NamedTuple):
    """Which fields of a record are used, as they are written."""

    image: str
    texts: tuple[str, ...]  # one, or caption_1, caption_2 …
    person: str | None
    split: str | None

    @classmethod
    def of(cls, names: Iterable[str], file: Path) -> "Columns":
        """Raises SightwordError if there is none for the image or none for its caption."""
        names = list(names)
        known = {name.strip().casefold(): name for name in names}
        image = next((known[name] for name in IMAGE_FIELDS if name in known), None)
        numbered = tuple(name for name in names if NUMBERED.fullmatch(name.strip().casefold()))
        texts = next(((known[name],) for name in TEXT if name in known), numbered)
        if image is None or not texts:
            lacking = "image" if image is None else "caption"
            wanted = IMAGE_FIELDS if image is None else TEXT
            raise SightwordError(
                f"{file} has no field for the {lacking}: its fields are {', '.join(map(repr, names[:12]))}. Name one "
                f"{', '.join(wanted[:-1])} or {wanted[-1]}"
            )
        person = next((known[name] for name in PERSON if name in known), None)
        return cls(image, texts, person, known.get("split"))

    def __str__(self) -> str:
        person = f"person = {self.person}" if self.person else "each image another person"
        split = f"split = {self.split}" if self.split else "no split"
        return f"image = {self.image}, captions = {' + '.join(self.texts)}, {person}, {split}"


def read_table(file: Path) -> Pairs:
    """Return the rows of a CSV or TSV file whose first row names the columns; the separator is looked for."""
    table = read_csv(file, delimiter=find_delimiter(file, _fits), most=MOST)
    if not table.rows:
        raise SightwordError(f"{file} has names of columns and no row below them")
    columns = Columns.of(table.columns, file)
    pairs, problems = [], []
    for row in table.rows:
        try:
            texts = [text for column in columns.texts for text in _cell(row, column)]
            person = row.text(columns.person, "") if columns.person else ""
            split = row.text(columns.split, "") if columns.split else ""
            pairs.append(Pair(_path(row.text(columns.image)), texts, f"row {row.position}: ", person, split))
        except SightwordError as error:
            problems.append(error)
    return Pairs(file, pairs, str(columns), problems)


def _fits(names: Sequence[str]) -> bool:
    try:
        Columns.of(names, Path())
    except SightwordError:
        return False
    return True


def _cell(row: Row, column: str) -> list[str]:
    """The texts of a cell: one, or those of a JSON list."""
    text = row.text(column, "")
    if not text.startswith("["):
        return [text]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        if text.startswith(("['", '["', "[ ")):
            raise row.error('begins as a list of texts and is no JSON list: quote the texts with "', column)
        return [text]  # a caption in brackets
    return found


def read_lines(file: Path) -> Pairs:
    """Return the records of a JSONL file: one JSON object a line; empty lines are skipped."""
    columns: Columns | None = None
    pairs, problems = [], []
    for number, line in enumerate(read_text(file, most=MOST).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, f"{file}: line {number}", nan=True)
            if columns is None:
                columns = Columns.of(record, file)
            pairs.append(_pair(record, columns, f"line {number}: "))
        except SightwordError as error:
            if columns is None:
                raise
            problems.append(error)
    if columns is None:
        raise SightwordError(f"{file} is empty: expected a JSON object in each line")
    return Pairs(file, pairs, str(columns), problems)


def read_records(file: Path, records: Items) -> Pairs:
    """Return the records of a JSON list of objects."""
    if not len(records):
        raise SightwordError(f"{file} is an empty list: expected a list of records, one an image")
    columns = Columns.of(records.mapping(0), file)
    pairs, problems = [], []
    for number in range(len(records)):
        try:
            pairs.append(_pair(records.mapping(number), columns, f"[{number}]."))
        except SightwordError as error:
            problems.append(error)
    return Pairs(file, pairs, str(columns), problems)


def _pair(record: Fields, columns: Columns, place: str) -> Pair:
    person = ""
    if columns.person and columns.person in record:
        value = record.value(columns.person)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise record.error(f"expected a number or a text, got {value!r}", columns.person)
        person = str(value).strip()
    split = record.text(columns.split) if columns.split and columns.split in record else ""
    return Pair(_path(record.text(columns.image)), _texts(record, columns.texts), place, person, split)


def _texts(record: Fields, columns: Sequence[str]) -> list[str]:
    return [
        text
        for column in columns
        if column in record and record.value(column) is not None
        for text in record.texts(column, alone=True)
    ]


def _path(text: str) -> str:
    """Return a path with slashes. Raises SightwordError for an address, which nothing is fetched from."""
    if "://" in text[:12]:
        raise SightwordError(f"{text!r} is an address and no file. Download the images first, as with img2dataset")
    if not text:
        raise SightwordError("the path of an image is empty")
    return text.replace("\\", "/")
