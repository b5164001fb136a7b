"""WebDataset and img2dataset: files of one key belong together, in tar shards or (img2dataset's `files`) in folders.

    00000.tar   000000000.jpg  000000000.txt  000000000.json        one sample: image, caption, what is known of both

The caption is the .txt, or else "caption" in the .json. Images are read where they lie in the archive. Shards below
train/, val/ and test/ are of that split; otherwise there is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from sightword.data.archive import read_index, read_member
from sightword.data.finding import Finding
from sightword.data.image import SUFFIXES, list_images
from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import parse_json, read_json, read_text
from sightword.systems.retrieval.formats.pair import Pair, Pairs
from sightword.systems.retrieval.record import SPLITS

LONGEST = 2**20  # bytes of a caption's file
TEXTS = (".txt", ".caption", ".text")
FIELDS = ("caption", "text", "title")


def find_shards(root: Path) -> list[Path]:
    """Return the tar files of a folder and of its folders train, val and test, in the order of their names."""
    places = [root, *(root / split for split in SPLITS)]
    return [file for place in places for file in sorted(place.glob("*.tar"))]


def read_shards(root: Path, shards: Sequence[Path]) -> Pairs:
    """Return the samples of tar shards below a folder."""
    pairs, problems, unpaired = [], [], []
    for shard in shards:
        name = shard.relative_to(root).as_posix()
        split = shard.parent.name if shard.parent != root else ""
        for key, parts in _samples(read_index(shard)):
            image = next((parts[suffix] for suffix in parts if suffix in SUFFIXES), None)
            if image is None:
                unpaired.append(f"{name}/{key}")
                continue
            try:
                texts = _texts_of(shard, parts)
            except SightwordError as error:
                problems.append(error)
                continue
            pairs.append(Pair(f"{name}/{image}", texts, f"{name}/{key}: ", "", split))
    findings = []
    if unpaired:
        message = f"{len(unpaired)} samples have no image that is read and are left out, {unpaired[0]} the first"
        findings.append(Finding("warning", "samples without an image", message, tuple(unpaired), len(unpaired)))
    how = f"{len(shards)} tar shards, captions = .txt or the .json's caption, each image another person"
    split = "split = the shard's folder" if any(pair.split for pair in pairs) else "no split"
    return Pairs(root, pairs, f"{how}, {split}", problems, findings)


def _samples(index: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (key, suffix → name in the archive). A key ends at the first dot of a name's last part.

    Names that lead out of the archive's own folder are nobody's sample.
    """
    found: dict[str, dict[str, str]] = {}
    for name in index:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.name.startswith("."):
            continue
        stem, _, suffix = path.name.partition(".")
        found.setdefault((path.parent / stem).as_posix(), {})[f".{suffix.lower()}"] = name
    yield from found.items()


def _texts_of(shard: Path, parts: Mapping[str, str]) -> list[str]:
    for suffix in TEXTS:
        if suffix in parts:
            raw = read_member(shard, parts[suffix])[:LONGEST]
            try:
                return [raw.decode("utf-8-sig")]
            except UnicodeDecodeError:
                raise SightwordError(f"{shard}: {parts[suffix]} is not UTF-8: save it as UTF-8") from None
    if ".json" not in parts:
        return []
    return _stated(parse_json(read_member(shard, parts[".json"])[:LONGEST], f"{shard}: {parts['.json']}", nan=True))


def _stated(content: Fields) -> list[str]:
    """The captions in a sample's JSON."""
    for name in FIELDS:
        if name in content and content.value(name) is not None:
            return content.texts(name, alone=True)
    return []


def read_files(root: Path) -> Pairs | None:
    """Return the images below a folder, each with the text of the .txt beside it; None if there is not one .txt."""
    pairs, problems = [], []
    for image in list_images(root):
        path = image.relative_to(root).as_posix()
        text, known = image.with_suffix(".txt"), image.with_suffix(".json")
        try:
            if text.is_file():
                texts = [read_text(text, most=LONGEST)]
            else:
                texts = _stated(read_json(known, most=LONGEST, nan=True)) if known.is_file() else []
        except SightwordError as error:
            problems.append(error)
            continue
        pairs.append(Pair(path, texts, f"{path}: "))
    if not any(pair.captions for pair in pairs):
        return None
    how = "captions = the .txt beside an image or its .json's caption, each image another person, no split"
    return Pairs(root, pairs, how, problems)
