"""One's own labelled photos as the annotations that intent trains on: CSV, JSONL, JSON, COCO's categories, or folders.

    image,Happy,Health,split        CSV with a column for each class: 1, 0 or empty, or a number between
    image,labels                    CSV, JSONL or JSON with the names: a;b or a|b, "a,b", a list, or {name: number}
    <root>/<class>/1.jpg            one folder a class; also below train/, val/ and test/
    categories, annotations         COCO's: category_id or category_ids of images; columns in the order of the ids

The classes are those of all splits together, in the order of the columns, the ids, the folders' names, or else in which
they first occur. A photo without a label has none of them. −1, which elsewhere means unknown, is refused.

Legend: N images; C classes.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from sightword.data.image import list_images
from sightword.data.located import IMAGE_FIELDS, Located, locate
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.fields import Fields, Row
from sightword.storage.reader import find_delimiter, parse_json, read_csv, read_json, read_json_list, read_text
from sightword.systems.intent.intentonomy import SPLITS, Annotations, annotation_file, read_annotations

LABELS = ("labels", "label", "classes", "class", "tags", "intents", "intent", "categories", "category", "words")
#: Columns of a CSV file that are no class, in small letters.
OTHERS = ("split", "id", "image_id", "index", "width", "height", "url", "caption", "text", "title", "description", "")
SEPARATORS = (";", "|", ",")
TABLES, LINES = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson")
EXPECTED = (
    "intentonomy_{train,val,test}2020.json; or a CSV, JSONL or JSON file with an image and its labels in each record; "
    "or one folder of images for each class"
)


class Marked(NamedTuple):
    """A photo and its classes, as a record states them."""

    path: str  # as written, with slashes
    values: dict[str, float]  # class → a number in [0, 1]
    split: str  # empty: none is stated
    place: str  # in the file, for messages


class Labels(NamedTuple):
    """Labelled photos of all splits."""

    source: Path  # the file, or the folder
    located: Located
    photos: tuple[Marked, ...]  # with a split each
    names: tuple[str, ...]  # C
    how: str  # they were read
    divided: bool  # into train and val by us, as the file states no split

    @property
    def assumed(self) -> str:
        """One line: how a file that does not describe itself was read."""
        few = ", ".join(self.names[:6]) + (", …" if len(self.names) > 6 else "")
        split = "no split: a fifth is held out as val" if self.divided else "split as stated"
        return f"{self.source} read as: {self.how}; {len(self.names)} classes ({few}); {split}; {self.located}"

    def annotations(self, split: str) -> Annotations:
        """Return a split. Raises SightwordError if there is no photo of it."""
        photos = [photo for photo in self.photos if photo.split == split]
        if not photos:
            have = ", ".join(dict.fromkeys(photo.split for photo in self.photos))
            raise SightwordError(f"{self.source} has no photo of split {split}, only of {have}")
        files = [self.located.name(photo.path) for photo in photos]
        rows = [[photo.values.get(name, 0.0) for name in self.names] for photo in photos]
        return Annotations(files, files, torch.tensor(rows, dtype=torch.float32), list(self.names))


def is_own(root: str | Path) -> bool:
    """Return whether data are one's own labels and not files of Intentonomy."""
    place = Path(root).expanduser()
    return bool(str(root)) and place.exists() and not any(annotation_file(root, split).exists() for split in SPLITS)


def read_split(root: str | Path, split: str, images: str | Path = "") -> Annotations:
    """Return a split of Intentonomy, or of one's own labels. root: a folder, or the file of the labels.

    images: the folder that paths of images are below; empty: it is looked for.
    """
    if not is_own(root):
        return read_annotations(annotation_file(root, split))
    if split not in SPLITS:
        raise SightwordError(f"split={split!r} is none of {', '.join(SPLITS)}")
    return read_labels(root, images).annotations(split)


def has_split(root: str | Path, split: str, images: str | Path = "") -> bool:
    """Return whether a split exists."""
    if not is_own(root):
        return annotation_file(root, split).exists()
    return any(photo.split == split for photo in read_labels(root, images).photos)


def read_labels(root: str | Path, images: str | Path = "") -> Labels:
    """Return one's own labels. Raises SightwordError, with the place in the file, for what cannot be read.

    A file that did not change is not read again.
    """
    place = Path(root).expanduser()
    if not place.exists():
        raise MissingFileError(f"{place} does not exist. Pass {EXPECTED}")
    files = _files(place) if place.is_dir() else [(place, "")]
    if not files:
        return _of_folders(place)
    stamps = tuple((str(file), split, file.stat().st_size, file.stat().st_mtime_ns) for file, split in files)
    return _read(place, str(images), stamps)


@lru_cache(maxsize=4)
def _read(root: Path, images: str, stamps: tuple[tuple[str, str, int, int], ...]) -> Labels:
    given = Path(images).expanduser() if images else None
    read = [(Path(file), split, *_of_file(Path(file))) for file, split, *_ in stamps]
    source = read[0][0] if len(read) == 1 else root
    photos = [p._replace(split=p.split or split) for _, split, found, _, _ in read for p in found]
    names = tuple(dict.fromkeys(name for _, _, _, own, _ in read for name in own))
    return _whole(source, locate(read[0][0], [photo.path for photo in photos], given), photos, names, read[0][4])


def _files(folder: Path) -> list[tuple[Path, str]]:
    """Return the files of labels in a folder, each with the split that its name says. None: classes are folders."""
    files = [file for file in sorted(folder.glob("*")) if file.suffix.lower() in (".csv", ".tsv", *LINES, ".json")]
    files = [file for file in files if file.stem.lower() not in ("readme", "license", "classes", "requirements")]
    if len(files) <= 1:
        return [(file, "") for file in files]
    named = [(file, split) for file in files if (split := _split_of(file))]
    if len(named) < len(files) or len({split for _, split in named}) < len(named):
        raise SightwordError(
            f"{folder} has {len(files)} files of labels ({', '.join(file.name for file in files[:4])}), which are not "
            "called train, val and test. Pass one as root="
        )
    return named


def _split_of(file: Path) -> str:
    found = set(re.findall(r"(?:^|[^a-z])(train|val|test)(?=[^a-z]|$)", file.stem.lower()))
    return found.pop() if len(found) == 1 else ""


def _of_file(file: Path) -> tuple[list[Marked], list[str], str]:
    """Return photos, names of classes in their order, and how the file was read."""
    suffix = file.suffix.lower()
    if suffix in TABLES:
        return _of_table(file)
    if suffix in LINES:
        lines = enumerate(read_text(file).split("\n"), 1)
        records = [parse_json(line, f"{file}: line {n}", nan=True) for n, line in lines if line.strip()]
        return _of_records(file, records)
    if suffix != ".json":
        raise SightwordError(f"{file} is not read as labels. Expected {EXPECTED}")
    if read_text(file).lstrip()[:1] == "[":
        return _of_records(file, list(read_json_list(file, nan=True).all_mappings()))
    content = read_json(file, nan=True)
    if "categories" not in content:
        some = ", ".join([*content][:3]) + (", …" if len(content) > 3 else "")
        raise SightwordError(
            f"{file} is one object ({some}) without COCO's categories, and no list of records. Write "
            '[{"image": "a.jpg", "labels": ["x"]}, …], or COCO'
        )
    return _of_coco(content)


# ------------------------------------------------------------------------------------------------------------- tables


def _of_table(file: Path) -> tuple[list[Marked], list[str], str]:
    def fits(names: Sequence[str]) -> bool:
        return any(name.strip().casefold() in IMAGE_FIELDS for name in names) and len(names) > 1

    table = read_csv(file, delimiter=find_delimiter(file, fits))
    known = {name.casefold(): name for name in table.columns}
    image = _image_field(known, file)
    split = known.get("split")
    if listed := next((known[name] for name in LABELS if name in known), None):
        separator = next((s for s in SEPARATORS if any(s in row.text(listed, "") for row in table.rows)), ";")

        def values(row: Row) -> dict[str, float]:
            return dict.fromkeys(_listed(row, listed, separator), 1.0)

        how = f"image = {image}, labels = {listed}, names separated by {separator!r}"
        return _of_rows(table.rows, image, split, values), _seen(table.rows, values), how
    columns = [name for name in table.columns if name != image and name.casefold() not in OTHERS]
    if not columns:
        raise SightwordError(
            f"{file} has no column of labels: its columns are {', '.join(table.columns)}. Name one `labels`, with "
            "names separated by ;, or give each class a column of 0 and 1"
        )
    ignored = [name for name in table.columns if name not in (image, *columns, split)]
    how = f"image = {image}, a class for each column" + (f", without {', '.join(ignored)}" if ignored else "")

    def marks(row: Row) -> dict[str, float]:
        return {name: value for name in columns if (value := _share(row, name))}

    return _of_rows(table.rows, image, split, marks), columns, how


def _of_rows(
    rows: Sequence[Row], image: str, split: str | None, values: Callable[[Row], dict[str, float]]
) -> list[Marked]:
    return [
        Marked(
            row.text(image).replace("\\", "/"),
            values(row),
            row.text(split, "") if split else "",
            f"row {row.position}",
        )
        for row in rows
    ]


def _seen(rows: Sequence[Row], values: Callable[[Row], dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in values(row)))


def _image_field(known: Mapping[str, str], source: Path) -> str:
    for name in IMAGE_FIELDS:
        if name in known:
            return known[name]
    raise SightwordError(
        f"{source} has no field for the image: its fields are {', '.join(list(known)[:12])}. Name one image, file_name "
        "or path"
    )


def _listed(row: Row, column: str, separator: str) -> list[str]:
    text = row.text(column, "")
    if text.startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise row.error('begins as a list and is no JSON list of names: quote them with "', column)
        return [name.strip() for name in names if name.strip()]
    return [name.strip() for name in text.split(separator) if name.strip()]


def _share(row: Row, column: str) -> float:
    text = row.text(column, "0")
    try:
        value = float(text)
    except ValueError:
        raise row.error(
            f"{text!r} is not a number from 0 to 1. If the column is no class, remove it or call it one of "
            f"{', '.join(name for name in OTHERS if name)}",
            column,
        ) from None
    if not 0 <= value <= 1:
        raise row.error(_outside(value), column)
    return value


def _outside(value: float) -> str:
    if value == -1:
        return "-1, unknown, is not trained with. Write 0 or 1, or remove the row or the column"
    return f"{value:g} is not a number from 0 to 1"


# --------------------------------------------------------------------------------------------------------------- JSON


def _of_records(file: Path, records: Sequence[Fields]) -> tuple[list[Marked], list[str], str]:
    if not records:
        raise SightwordError(f"{file} is empty: expected a record for each image")
    known = {name.strip().casefold(): name for name in records[0]}
    image = _image_field(known, file)
    listed = next((known[name] for name in LABELS if name in known), None)
    if listed is None:
        raise SightwordError(f"{file} has no field for the labels: its fields are {', '.join(known)}. Name one labels")
    photos = []
    for number, record in enumerate(records, 1):
        split = record.text("split", "") if "split" in record else ""
        path = record.text(image).replace("\\", "/")
        photos.append(Marked(path, _marks(record, listed), split, f"record {number}"))
    names = list(dict.fromkeys(name for photo in photos for name in photo.values))
    return photos, names, f"image = {image}, labels = {listed}"


def _marks(record: Fields, name: str) -> dict[str, float]:
    """A list of names, one name or number, or an object of names and numbers."""
    value = record.value(name) if name in record else None
    if value is None:
        return {}
    if isinstance(value, dict):
        shares = record.mapping(name)
        found = {label: shares.number(label) for label in shares}
        if wrong := [label for label, share in found.items() if not 0 <= share <= 1]:
            raise shares.error(_outside(found[wrong[0]]), wrong[0])
        return found
    labels = value if isinstance(value, list) else [value]
    if any(isinstance(label, float | bool) or not isinstance(label, str | int) for label in labels):
        raise record.error("expected names of classes, a list of them, or an object {name: number}", name)
    return dict.fromkeys((str(label).strip() for label in labels if str(label).strip()), 1.0)


def _of_coco(content: Fields) -> tuple[list[Marked], list[str], str]:
    """COCO's: an annotation for each box or image; a photo has the classes of all of its annotations."""
    names = {entry.integer("id"): entry.text("name") for entry in content.mappings("categories", least=1)}
    photos: dict[object, Marked] = {}
    for number, image in enumerate(content.mappings("images", least=1)):
        path = image.text("file_name" if "file_name" in image else "filename").replace("\\", "/")
        split = image.text("split") if "split" in image else ""
        photos[image.value("id")] = Marked(path, {}, split, f"images[{number}]")
    for note in content.mappings("annotations"):
        image_id = note.value("image_id")
        if not isinstance(image_id, str | int) or image_id not in photos:
            raise note.error(f"{image_id!r} is the id of no image", "image_id")
        several = "category_ids" in note
        for category in note.integers("category_ids") if several else [note.integer("category_id")]:
            if category not in names:
                raise note.error(f"there is no category {category}", "category_ids" if several else "category_id")
            photos[image_id].values[names[category]] = 1.0
    return list(photos.values()), [names[id_] for id_ in sorted(names)], "COCO's categories, in the order of their ids"


# ------------------------------------------------------------------------------------------------------------ folders


def _of_folders(root: Path) -> Labels:
    """One folder a class, perhaps below train, val and test."""
    below = {folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
    deep = bool(below) and below <= set(SPLITS)
    photos = []
    for path in list_images(root):
        parts = path.relative_to(root).parts
        if len(parts) < 2 + deep:
            raise SightwordError(
                f"{root} has no file of labels, and {'/'.join(parts)} is in no folder of a class. Expected {EXPECTED}"
            )
        split, label = (parts[0], parts[1]) if deep else ("", parts[0])
        photos.append(Marked("/".join(parts), {label: 1.0}, split, "/".join(parts)))
    names = tuple(sorted({label for photo in photos for label in photo.values}))
    if len(names) < 2:
        raise SightwordError(f"{root} has no file of labels and one folder only, {names[0]}. Expected {EXPECTED}")
    return _whole(root, Located(root), photos, names, "one class a folder, in the order of their names")


# -------------------------------------------------------------------------------------------------------------- whole


def _whole(source: Path, located: Located, photos: Sequence[Marked], names: tuple[str, ...], how: str) -> Labels:
    if not names:
        raise SightwordError(f"{source} gives no photo a label")
    alike: dict[str, str] = {}
    for name in names:
        if (other := alike.setdefault(" ".join(name.casefold().split()), name)) != name:
            raise SightwordError(f"{source} has the classes {other!r} and {name!r}, spelt in two ways. Choose one")
    stated = any(photo.split for photo in photos)
    seen: dict[str, Marked] = {}
    for photo in photos:
        if photo.path in seen:
            raise SightwordError(
                f"{source}: {photo.place}: {photo.path} is listed twice, first at {seen[photo.path].place}. Give each "
                "photo one record with all of its labels"
            )
        seen[photo.path] = photo
        if stated and photo.split not in SPLITS:
            near = {"gallery": "test", "query": "test", "dev": "val", "valid": "val", "validation": "val"}
            meant = near.get(photo.split.lower(), "one of these")
            raise SightwordError(
                f"{source}: {photo.place}: split {photo.split!r} is none of {', '.join(SPLITS)}. Write {meant}"
            )
    divided = tuple(photos) if stated else tuple(_divided(photos))
    return Labels(source, located, divided, names, how, not stated)


def _divided(photos: Sequence[Marked]) -> Iterator[Marked]:
    """Give a fifth of the photos to val, by a hash of their paths: nearly all stay there when others are added."""
    order = sorted(photos, key=lambda p: hashlib.blake2b(p.path.encode(errors="surrogatepass")).digest())
    held = {photo.path for photo in order[: max(1, len(order) // 5)]}
    for photo in photos:
        yield photo._replace(split="val" if photo.path in held else "train")
