"""Vocabularies: the classes that a patch can be assigned to. Five are built in; a user's files add or replace some.

A vocabulary is a JSON file that describes one stream:

    {"stream": "coco",                                  name of the codebook
     "size": 256,                                       default number of codes
     "source": "…",                                     where the names are from (optional)
     "expand": "words",                                 a class always gets one code per word (optional); if there
                                                        are fewer codes than words, parts of speech take turns
     "templates": {"noun": ["a photo of {}", …]},       by part of speech; the first one is the default
     "classes": [{"id": 1, "name": "person"}, …],
     "spare": […]}                                      classes that are added only if `extra` names them (optional)

A class is a name, or {"id", "name", "raw", "words"}:
    id      default: one more than the class before
    raw     the name in the data set's own files; default: the name
    words   {part of speech: [word, …]}, for the prompts; default: the name, as the first part of speech in "templates"
Names and words are compared without case. Underscores are read as spaces.

A vocabulary may also be a text file in UTF-8, called <stream>.txt: a word or phrase a line, each with one code. Behind
a tab a line may say how the class is described in its prompt. A line that begins with # is ignored.

    dog
    ThingsInOrder<TAB>a tidy room
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from sightword.errors import SightwordError
from sightword.storage.fields import Fields, Items
from sightword.storage.reader import MIB, read_json, read_text
from sightword.systems.intent.config import STREAMS

TEXT = ".txt"
FOLDER = Path(__file__).parent / "vocabularies"


class Word(NamedTuple):
    """A word or phrase that a prompt contains."""

    text: str
    pos: str  # part of speech: a key of the vocabulary's templates


class Entry(NamedTuple):
    """A class that a patch can be assigned to."""

    id: int  # as the data set counts: COCO's go to 90, with gaps
    name: str
    raw: str  # the name as the data set writes it
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The classes of one stream, their words, and the prompts to encode these with."""

    stream: str
    size: int
    templates: dict[str, tuple[str, ...]]
    classes: tuple[Entry, ...]
    by_words: bool = False  # codes are the classes' own words, whatever expansion the others get
    spare: tuple[Entry, ...] = ()
    source: str = ""

    @property
    def digest(self) -> str:
        """16 hex digits over everything that codes depend on: size, templates and words."""
        parts = (self.size, sorted(self.templates.items()), self.classes, self.by_words, self.spare)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def __post_init__(self) -> None:
        _refuse_doubles(self)

    def prompt(self, entry: Entry) -> str:
        """Return the prompt of a class: "a photo of car", "a photo of a person riding a horse"."""
        return self.word_prompts(entry)[0]

    def word_prompts(self, entry: Entry) -> list[str]:
        """Return one prompt for each word of a class, in the word's first template; parts of speech take turns."""
        return [with_article(self.templates[word.pos][0], word.text) for word in in_turns(entry.words)]

    def template_prompts(self, entry: Entry) -> list[str]:
        """Return each word in all its templates: first templates before second ones, parts of speech in turns."""
        most = max(len(self.templates[word.pos]) for word in entry.words)
        pairs = [(word, self.templates[word.pos][i : i + 1]) for i in range(most) for word in in_turns(entry.words)]
        return [with_article(template, word.text) for word, some in pairs for template in some]

    def extended(self, names: Iterable[str]) -> "Vocabulary":
        """Return the vocabulary with more classes, which get the next ids; a spare class has its own words."""
        spare = {_key(entry.name): entry for entry in self.spare}
        classes = list(self.classes)
        for name in names:
            plain = _plain(name, lambda told: SightwordError(f"{self.stream}: a name to add, {told}"))
            new = spare.get(_key(plain), Entry(0, plain, name, (Word(plain, next(iter(self.templates))),)))
            classes.append(new._replace(id=max(entry.id for entry in classes) + 1))
        return replace(self, classes=tuple(classes))


def vocabularies(
    streams: Sequence[str] = (), files: Sequence[str | Path] = (), extra: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Vocabulary]:
    """Return stream → vocabulary: the five built-in ones, then those of `files`.

    streams: only these, in this order. files: JSON as above; one that describes a built-in stream replaces it.
    extra: names to add as new classes, {"actions": ["surfing"]}. Raises SightwordError for unknown or repeated names.
    """
    given = {stream: read_vocabulary(file) for stream, file in _by_stream([Path(file) for file in files]).items()}
    every = [*STREAMS, *(stream for stream in given if stream not in STREAMS)]
    for what, asked in (("streams", streams), ("extra", extra or {})):
        if unknown := [stream for stream in asked if stream not in every]:
            raise SightwordError(f"{what} names {unknown[0]!r}; the streams are {', '.join(every)}")
    if double := _first_double(streams):
        raise SightwordError(f"streams names {double!r} twice")
    chosen = list(streams) or every
    if left := [stream for stream in extra or {} if stream not in chosen]:
        raise SightwordError(f"extra adds names to {left[0]!r}, which streams leaves out: {', '.join(chosen)}")
    found = {name: given[name] if name in given else read_vocabulary(FOLDER / f"{name}.json") for name in chosen}
    return {name: vocabulary.extended((extra or {}).get(name, ())) for name, vocabulary in found.items()}


def read_vocabulary(file: str | Path) -> Vocabulary:
    """Read a JSON or text file of the forms above. Raises SightwordError, with the place, if it has another form."""
    if Path(file).suffix.lower() == TEXT:
        return _read_lines(Path(file).expanduser())
    fields = read_json(Path(file).expanduser(), most=16 * MIB, missing="A vocabulary is a JSON file")
    fields.refuse_unknown(("stream", "size", "source", "expand", "templates", "classes", "spare"))
    stream = _check_stream(fields.text("stream"), partial(fields.error, key="stream"))
    size, by_words = fields.integer("size", least=1), "expand" in fields
    if by_words:
        fields.choice("expand", ("words",))
    given = fields.mapping("templates")
    templates = {
        part: tuple(_template(given, part, text) for text in given.texts(part, least=1, alone=True)) for part in given
    }
    if not templates:
        raise fields.error("expected one part of speech or more, each with its templates", "templates")
    classes = _entries(fields.sequence("classes", least=1), templates)
    spare = _entries(fields.sequence("spare", optional=True), templates)
    try:
        return Vocabulary(stream, size, templates, classes, by_words, spare, fields.text("source", ""))
    except SightwordError as error:
        raise fields.error(str(error)) from None


def _read_lines(file: Path) -> Vocabulary:
    """Read a text file of one stream, whose name is the file's."""
    stream = _check_stream(file.stem, lambda told: SightwordError(f"{file}: {told}"))
    classes: list[Entry] = []
    for number, line in enumerate(read_text(file, most=16 * MIB).split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        raw, _, described = (normalize("NFC", part).strip() for part in line.partition("\t"))
        try:
            name = _plain(raw)
            word = Word(_plain(described), "described") if described else Word(name, "phrase")
        except SightwordError as error:
            raise SightwordError(f"{file}: line {number}: {error}") from None
        classes.append(Entry(len(classes), name, raw, (word,)))
    if not classes:
        raise SightwordError(f"{file} is empty: expected a word or phrase in each line")
    templates: dict[str, tuple[str, ...]] = {"phrase": ("a photo of a {}",), "described": ("a photo of {}",)}
    try:
        return Vocabulary(stream, len(classes), templates, tuple(classes), source=file.name)
    except SightwordError as error:
        raise SightwordError(f"{file}: {error}") from None


def _check_stream(name: str, error: Callable[[str], SightwordError]) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise error(f"{name!r} is not a name of a stream. Use lowercase letters, digits and _")
    return name


def chosen_vocabularies(given: Sequence[str], streams: Sequence[str] = ()) -> tuple[list[str], list[Path]]:
    """Return (streams, files), as `vocabularies` takes them, of several files, or of one folder.

    Files add to the built-in vocabularies. A folder replaces these: its streams are all, unless `streams` names others.
    """
    if len(given) == 1 and Path(given[0]).expanduser().is_dir():
        found = read_folder(given[0])
        return list(streams) or list(found), list(found.values())
    return list(streams), [Path(file).expanduser() for file in given]


def digests(files: Sequence[str | Path]) -> dict[str, str]:
    """Return stream → digest of its vocabulary, of JSON files as they are now."""
    return {stream: read_vocabulary(file).digest for stream, file in _by_stream([Path(file) for file in files]).items()}


def read_folder(folder: str | Path) -> dict[str, Path]:
    """Stream → its file, of all JSON and text files in a folder, but for readmes and licences.

    Raises SightwordError if there is none, or one is damaged.
    """
    every = sorted(Path(folder).expanduser().glob("*"))
    aside = ("readme", "license", "licence")
    files = [file for file in every if file.suffix in (".json", TEXT) and file.stem.lower() not in aside]
    if not files:
        raise SightwordError(f"{folder} has no JSON or text file. A vocabulary is a file that describes one stream")
    return _by_stream(files)


def _by_stream(files: Sequence[Path]) -> dict[str, Path]:
    """Raises SightwordError if two files describe the same stream."""
    found: dict[str, Path] = {}
    for file in files:
        stream = read_vocabulary(file).stream
        if stream in found:
            raise SightwordError(f"{found[stream]} and {file} both describe the stream {stream!r}. Rename one of them")
        found[stream] = file
    return found


def _entries(items: Items, templates: Mapping[str, object]) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for number in range(len(items)):
        value = items.value(number)
        if isinstance(value, str):
            raw, following = value, entries[-1].id + 1 if entries else 0
            name = _plain(raw, partial(items.error, key=number))
            entries.append(Entry(following, name, raw, (Word(name, next(iter(templates))),)))
        else:
            entries.append(_entry(items.mapping(number), entries, templates))
    return tuple(entries)


def _entry(fields: Fields, before: Sequence[Entry], templates: Mapping[str, object]) -> Entry:
    """A class that is described by an object."""
    fields.refuse_unknown(Entry._fields)
    raw = fields.text("name")
    name = _plain(raw, partial(fields.error, key="name"))
    id_ = fields.integer("id", before[-1].id + 1 if before else 0, least=0)
    words: tuple[Word, ...] = (Word(name, next(iter(templates))),)
    if "words" in fields:
        given = fields.mapping("words")
        if unknown := [part for part in given if part not in templates]:
            raise given.error(f"there are templates for {', '.join(templates)} only", unknown[0])
        words = tuple(
            Word(_plain(text, partial(given.error, key=part)), part)
            for part in given
            for text in given.texts(part, least=1, alone=True)
        )
        if not words:
            raise fields.error("expected one part of speech or more, each with its words", "words")
    return Entry(id_, name, fields.text("raw", raw), words)


def _template(fields: Fields, part: str, text: str) -> str:
    if text.count("{}") != 1:
        raise fields.error(f"{text!r} has not exactly one {{}}, which stands for the word", part)
    return text


def in_turns(words: Sequence[Word]) -> list[Word]:
    """Return the words in rounds: the first of each part of speech, then the second of each, and so on.

    A codebook with fewer codes than words takes the first words of a class: so not nouns alone.
    """
    parts: dict[str, list[Word]] = {}
    for word in words:
        parts.setdefault(word.pos, []).append(word)
    return [word for turn in zip_longest(*parts.values()) for word in turn if word is not None]


def with_article(template: str, word: str) -> str:
    """The word in the template's place; "a" before it becomes "an" before a vowel."""
    if word[0].lower() in "aeiou":
        template = re.sub(r"\b([aA]) \{\}", r"\1n {}", template)
    return template.replace("{}", word)


def _refuse_doubles(vocabulary: Vocabulary) -> None:
    """Two classes of a name, an id or a word would be two codes that mean the same."""
    names: dict[str | int, Entry] = {}
    words: dict[tuple[str, str], Entry] = {}
    for entry in vocabulary.classes:
        for key in (entry.id, _key(entry.name)):
            if other := names.get(key):
                raise SightwordError(
                    f"{vocabulary.stream} has {_told(other)} and {_told(entry)}: every class has its own name and id"
                )
            names[key] = entry
        for word in entry.words:
            said = (_key(word.text), word.pos)
            if other := words.get(said):
                raise SightwordError(
                    f"{vocabulary.stream} has the {word.pos} {word.text!r} twice, in {_told(other)} and {_told(entry)}"
                )
            words[said] = entry


def _told(entry: Entry) -> str:
    return f"{entry.raw!r} (id {entry.id})"


def _plain(text: str, error: Callable[[str], SightwordError] = SightwordError) -> str:
    """The text with single spaces and without underscores. error: makes the error to raise if nothing is left."""
    if not text.replace("_", " ").split():
        raise error(f"{text!r} contains no letter")
    return " ".join(text.replace("_", " ").split())


def _key(text: str) -> str:
    return text.casefold()


def _first_double(names: Sequence[str]) -> str:
    return next((name for i, name in enumerate(names) if name in names[:i]), "")
