"""One's own images and captions, whatever the format: which files they are in, and where the images lie.

A format is told by the first record. Everything that a file does not state is said in one line: which fields were
taken, what stands for a person, which folder the images are in.
"""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from sightword.data.archive import is_there
from sightword.data.located import PROBED, Located, locate, most_found
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.fields import Fields, Items
from sightword.storage.reader import read_json, read_json_list
from sightword.systems.retrieval.formats import flickr
from sightword.systems.retrieval.formats.coco import read_coco
from sightword.systems.retrieval.formats.mapping import is_mapping, joined, read_mapping
from sightword.systems.retrieval.formats.pair import MOST, Pair, Pairs
from sightword.systems.retrieval.formats.rows import read_lines, read_records, read_table
from sightword.systems.retrieval.formats.shards import find_shards, read_files, read_shards
from sightword.systems.retrieval.record import Listing, Record

TABLES, LINES, TOKENS = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson"), (".token",)
KNOWN = (*TABLES, *LINES, *TOKENS, ".json")
PHOTOS = (".jpg", ".jpeg", ".png", ".webp")  # beside which a .txt or .json is of one image
SPLIT_WORD = re.compile(r"(?:^|[^a-z])(train|val|test)(?=[^a-z]|$)")
EXPECTED = (
    "a CSV, JSONL or JSON file with an image and a caption in each record, COCO's or Flickr30k's captions, tar shards "
    "of img2dataset, or images with a .txt beside each"
)


def read_own(root: str | Path, images: str | Path = "") -> Listing:
    """Return the records of a file of captions, or of a folder that contains them.

    images: the folder that paths of images are below; empty: it is looked for.
    Raises SightwordError if there is no such file, or several that do not belong together.
    """
    if not str(root):
        raise SightwordError(f"data.root is not set. Pass {EXPECTED}, or the folder of these")
    place = Path(root).expanduser()
    if not place.exists():
        raise MissingFileError(f"{place} does not exist. Pass {EXPECTED}, or the folder of these")
    own = read_shards(place.parent, [place]) if place.suffix == ".tar" else None
    if own is None and place.is_dir() and (shards := find_shards(place)):
        own = read_shards(place, shards)
    if own is not None:
        return _listing(place, [(own, Located(own.file))])
    files = _files(place) if place.is_dir() else [(place, "")]
    if not files:
        found = read_files(place)
        if found is None:
            raise SightwordError(f"{place} has no file of captions. Expected {EXPECTED}")
        return _listing(place, [(found, Located(place))])
    read = [_with_split(read_file(file), split) for file, split in files]
    if len(read) > 1 and not any(split for _, split in files):
        read = [_joined(place, read)]
    given = Path(images).expanduser() if str(images) else None
    located = [(one, locate(one.file, _paths(one), given, _split_of(one.file))) for one in read]
    return _listing(place if len(files) > 1 else files[0][0], located)


def _paths(content: Pairs) -> list[str]:
    return [pair.path for pair in content.pairs]


# -------------------------------------------------------------------------------------------------------------- files


def _files(folder: Path) -> list[tuple[Path, str]]:
    """Return the files of captions in a folder, each with the split that its name says, if it says one.

    COCO has its files in a folder annotations/, with others beside them.
    """
    for place in (folder, folder / "annotations"):
        names = [file for file in sorted(place.glob("*")) if file.suffix.lower() in KNOWN and file.is_file()]
        files = [file for file in names if not _is_beside(file)]
        coco = [file for file in files if file.name.startswith("captions_") and file.suffix == ".json"]
        if files := coco or files:
            break
    else:
        return []
    named = [(file, _split_of(file)) for file in files]
    if any(split for _, split in named):
        named = [(file, split) for file, split in named if split]
        splits = [split for _, split in named]
        if len(set(splits)) < len(splits):
            raise SightwordError(
                f"{_several(folder, [file for file, _ in named])}: two of one split. Pass one as root="
            )
    return named


def _is_beside(file: Path) -> bool:
    """Whether a file is one that lies beside captions: img2dataset's statistics, a text about the data."""
    if any(file.with_suffix(suffix).exists() for suffix in PHOTOS) or file.name.endswith("_stats.json"):
        return True
    return file.suffix == ".txt" and file.stem.lower() in ("readme", "license", "licence", "requirements", "classes")


def _split_of(file: Path) -> str:
    found = set(SPLIT_WORD.findall(file.stem.lower()))
    return found.pop() if len(found) == 1 else ""


def _with_split(content: Pairs, split: str) -> Pairs:
    """Return the pairs of a file whose name says a split, for those that state none."""
    if not split:
        return content
    pairs = [pair if pair.split else pair._replace(split=split) for pair in content.pairs]
    return content._replace(pairs=pairs, how=f"{content.how.removesuffix(', no split')}, split = {split} by its name")


def _joined(folder: Path, read: Sequence[Pairs]) -> Pairs:
    if not all(content.joins for content in read):
        files = [content.file for content in read]
        raise SightwordError(
            f"{_several(folder, files)}, and their names say no split (train, val, test). Pass one as root="
        )
    by_disk = sorted(read, key=lambda content: -most_found(content.file, _paths(content)))
    return joined(by_disk)  # the first is the one whose paths are those on disk


def _several(folder: Path, files: Sequence[Path]) -> str:
    return f"{folder} has {len(files)} files of captions ({', '.join(file.name for file in files[:4])})"


def read_file(file: Path) -> Pairs:
    """Return what a file of captions contains. Its suffix says JSON or not, its first record the rest."""
    suffix = file.suffix.lower()
    if suffix in LINES:
        return read_lines(file)
    if suffix == ".json":
        return _read_json(file)
    if suffix not in (*TABLES, *TOKENS):
        raise SightwordError(f"{file} is not read as captions. Expected {EXPECTED}")
    head = _head(file)
    if flickr.is_tokens(head):
        return flickr.read_tokens(file)
    return flickr.read_results(file) if flickr.is_results(head) else read_table(file)


def _read_json(file: Path) -> Pairs:
    content: Fields | Items
    if _head(file).lstrip("\ufeff \t\r").startswith("["):
        content = read_json_list(file, most=MOST, nan=True)
        return read_records(file, content)
    content = read_json(file, most=MOST, nan=True)
    if "images" in content and "annotations" in content:
        return read_coco(file, content)
    if "images" in content:
        return flickr.read_karpathy(file, content)
    if is_mapping(content):
        return read_mapping(file, content)
    raise SightwordError(f"{file} is not read as captions: its fields are {', '.join(islice(content, 8))}")


def _head(file: Path) -> str:
    """Return the first line of a file that is not blank, or the beginning of it."""
    try:
        with file.open("rb") as opened:
            lines = (opened.readline(2**16).decode("utf-8", errors="replace") for _ in range(100))
            return next((line.rstrip("\r\n") for line in lines if line.strip()), "")
    except OSError as error:
        raise SightwordError(f"{file} cannot be read: {error.strerror or error}") from error


# ------------------------------------------------------------------------------------------------------------ listing


def _listing(file: Path, read: Sequence[tuple[Pairs, Located]]) -> Listing:
    """Return the records of all files below one folder: rows of one image joined, persons numbered."""
    folders = [images.folder for _, images in read]
    common = folders[0] if len(set(folders)) == 1 else Path(os.path.commonpath(folders))
    named = [
        pair._replace(path=_below(common, images, pair.path)) for content, images in read for pair in content.pairs
    ]
    problems = [problem for content, _ in read for problem in content.problems]
    records = _records(named, file, problems)
    if not records:
        raise problems[0] if problems else SightwordError(f"{file} has no record of an image")
    how = "; ".join(dict.fromkeys(content.how for content, _ in read))
    inside = any(is_there(common / record.path) for record in records[:PROBED])
    flat = any(images.flat for _, images in read)
    findings = tuple(finding for content, _ in read for finding in content.findings)
    return Listing(
        file, common, records, tuple(problems), f"{file} read as: {how}; {Located(common, flat, inside)}", findings
    )


def _below(common: Path, images: Located, path: str) -> str:
    name = images.name(path)
    return name if images.folder == common else (images.folder.relative_to(common) / name).as_posix()


def _records(pairs: Iterable[Pair], file: Path, problems: list[SightwordError]) -> list[Record]:
    """Join the rows of one image. An image of two persons or splits is a problem, told by its second row."""
    found: dict[str, Pair] = {}
    for pair in pairs:
        before = found.setdefault(pair.path, pair._replace(captions=[]))
        for name, one, other in (("person", before.person, pair.person), ("split", before.split, pair.split)):
            if one != other:
                advice = ". If its column numbers the rows, rename it" if name == "person" else ""
                problems.append(
                    SightwordError(
                        f"{file}: {pair.place}{pair.path} has the {name} {other!r} here and {one!r} before{advice}"
                    )
                )
        before.captions.extend(pair.captions)
    numbers = _numbers(found.values())
    return [_record(pair, numbers) for pair in found.values()]


def _numbers(pairs: Iterable[Pair]) -> dict[str, int]:
    """Return the number of each person, or of each image whose person is not stated.

    Persons keep their own if all are whole numbers.
    """
    keys = list(dict.fromkeys(_key(pair) for pair in pairs))
    own = all(re.fullmatch("=(?:0|[1-9][0-9]{0,17})", key) for key in keys)
    return {key: int(key[1:]) if own else number for number, key in enumerate(keys)}


def _key(pair: Pair) -> str:
    return f"={pair.person}" if pair.person else f"/{pair.path}"


def _record(pair: Pair, numbers: dict[str, int]) -> Record:
    kept = [" ".join(text.split()) for text in pair.captions if text.strip()]
    return Record(
        pair.split, numbers[_key(pair)], pair.path, kept, len(pair.captions) - len(kept), pair.place, pair.person
    )
