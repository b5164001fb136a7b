"""The words that patches are read as: five vocabularies as data, more from a user's own files.

A vocabulary is a JSON file that describes one stream:

    {"stream": "coco",                                  what the codebook will be called
     "size": 256,                                       codes it gets if nobody says otherwise
     "source": "…",                                     where the names are from (optional)
     "expand": "words",                                 its codes are always its words (optional)
     "templates": {"noun": ["a photo of {}", …]},       by part of speech; the first of each is *the* prompt
     "classes": [{"id": 1, "name": "person"}, …],
     "spare": […]}                                      classes that are there only when `extra` names them (optional)

A class is {"id", "name", "raw", "words"}, or only a name. "id" left out: one more than the class before. "raw", the
name in the data set's own files: the name. "words", {part of speech: [word, …]}, what the prompts say: the name, with
the first part of speech that "templates" has. Names and words may have capitals, which do not tell them apart, and
underscores, which are spaces.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sightword.systems.intent.config import STREAMS

FOLDER = Path(__file__).parent / "vocabularies"


class Word(NamedTuple):
    """What a prompt says."""

    text: str
    pos: str  # part of speech: a key of the vocabulary's templates


class Entry(NamedTuple):
    """A class of things that a patch can be read as."""

    id: int  # as the data set counts: COCO's go to 90, with gaps
    name: str
    raw: str  # the name as the data set writes it
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The words of one stream."""

    stream: str
    size: int
    templates: dict[str, tuple[str, ...]]
    classes: tuple[Entry, ...]
    by_words: bool = False  # codes are the classes' own words, whatever expansion the others get
    spare: tuple[Entry, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        _refuse_doubles(self)

    def prompt(self, entry: Entry) -> str:
        """What stands for a class: "a photo of car", "a photo of a person riding a horse"."""
        return self.word_prompts(entry)[0]

    def word_prompts(self, entry: Entry) -> list[str]:
        """One for each word, in its first template."""
        return [_fill(self.templates[word.pos][0], word.text) for word in entry.words]

    def template_prompts(self, entry: Entry) -> list[str]:
        """Each word in all its templates; what comes first in a list of them comes first here."""
        most = max(len(self.templates[word.pos]) for word in entry.words)
        pairs = [(word, self.templates[word.pos][i : i + 1]) for i in range(most) for word in entry.words]
        return [_fill(template, word.text) for word, some in pairs for template in some]

    def extended(self, names: Iterable[str]) -> "Vocabulary":
        """With more classes, which get the next ids; a spare class brings its words along."""
        spare = {_key(entry.name): entry for entry in self.spare}
        classes = list(self.classes)
        for name in names:
            plain = _plain(name, f"{self.stream}: a name to add")
            new = spare.get(_key(plain), Entry(0, plain, name, (Word(plain, next(iter(self.templates))),)))
            classes.append(new._replace(id=max(entry.id for entry in classes) + 1))
        return replace(self, classes=tuple(classes))


def vocabularies(
    streams: Sequence[str] = (), files: Sequence[str | Path] = (), extra: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Vocabulary]:
    """Stream → vocabulary: the five of document 000, then those of `files`.

    streams: only these, in this order. files: JSON as above; a stream that is among the five replaces it there.
    extra: names to add as new classes, {"actions": ["surfing"]}.
    """
    own = [read_vocabulary(file) for file in files]
    if double := _first_double([vocabulary.stream for vocabulary in own]):
        raise ValueError(f"two of {', '.join(map(str, files))} are a stream {double!r}: name one of them otherwise")
    given = {vocabulary.stream: vocabulary for vocabulary in own}
    every = [*STREAMS, *(stream for stream in given if stream not in STREAMS)]
    for what, asked in (("streams", streams), ("extra", extra or {})):
        if unknown := [stream for stream in asked if stream not in every]:
            raise ValueError(f"{what} names {unknown[0]!r}; the streams are {', '.join(every)}")
    if double := _first_double(streams):
        raise ValueError(f"streams names {double!r} twice")
    chosen = list(streams) or every
    if left := [stream for stream in extra or {} if stream not in chosen]:
        raise ValueError(f"extra adds names to {left[0]!r}, which streams leaves out: {', '.join(chosen)}")
    found = {name: given[name] if name in given else read_vocabulary(FOLDER / f"{name}.json") for name in chosen}
    return {name: vocabulary.extended((extra or {}).get(name, ())) for name, vocabulary in found.items()}


def read_vocabulary(file: str | Path) -> Vocabulary:
    """A file of the form above. FileNotFoundError or ValueError, one line, if it is none."""
    file = Path(file).expanduser()
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist; a vocabulary is a JSON file") from None
    except ValueError as error:
        raise ValueError(f"{file} is no whole JSON: {error}") from error
    try:
        return _parse(told)
    except ValueError as error:
        raise ValueError(f"{file} is no vocabulary: {error}") from error


def read_folder(folder: str | Path) -> dict[str, Path]:
    """Stream → its file, of all JSON files in a folder. ValueError if there is none, or one is no vocabulary."""
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise ValueError(f"{folder} has no JSON file; a vocabulary is one a stream")
    return {read_vocabulary(file).stream: file for file in files}


def _parse(told: Any) -> Vocabulary:
    told = _fields(told, "it", {"stream", "size", "templates", "classes"}, {"source", "expand", "spare"})
    if not isinstance(told["stream"], str) or not re.fullmatch(r"[a-z][a-z0-9_]*", told["stream"]):
        raise ValueError(f"stream is lowercase letters, digits and _, got {told['stream']!r}")
    if type(told["size"]) is not int or told["size"] < 1:
        raise ValueError(f"size is a whole number of codes, got {told['size']!r}")
    if told.get("expand", "words") != "words":
        raise ValueError(f"expand is words or not there, got {told['expand']!r}")
    templates = {str(pos): tuple(_template(text, pos) for text in some) for pos, some in _lists(told, "templates")}
    classes = _entries(told["classes"], templates)
    if not classes:
        raise ValueError("classes is empty")
    spare = _entries(told.get("spare", []), templates)
    source = str(told.get("source", ""))
    return Vocabulary(told["stream"], told["size"], templates, classes, "expand" in told, spare, source)


def _entries(told: Any, templates: Mapping[str, Any]) -> tuple[Entry, ...]:
    if not isinstance(told, list):
        raise ValueError(f"its classes are a list, got {_short(told)}")
    entries: list[Entry] = []
    for one in told:
        one = _fields(
            {"name": one} if isinstance(one, str) else one, f"class {_short(one)}", {"name"}, set(Entry._fields)
        )
        name = _plain(one["name"], f"the name of class {_short(one)}")
        id_ = one.get("id", entries[-1].id + 1 if entries else 0)
        if type(id_) is not int or id_ < 0:
            raise ValueError(f"the id of {name!r} is a whole number from 0, got {id_!r}")
        given = _lists(one, "words") if "words" in one else [(next(iter(templates)), [name])]
        if unknown := [pos for pos, _ in given if pos not in templates]:
            raise ValueError(f"{name!r} has words as {unknown[0]!r}, there are templates for {', '.join(templates)}")
        words = tuple(Word(_plain(text, f"a word of {name!r}"), pos) for pos, some in given for text in some)
        entries.append(Entry(id_, name, str(one.get("raw", one["name"])), words))
    return tuple(entries)


def _fields(told: Any, what: str, needed: set[str], more: set[str]) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise ValueError(f"{what} is {{…}} with {', '.join(sorted(needed))}, got {_short(told)}")
    if missing := needed - told.keys():
        raise ValueError(f"{what} has no {', '.join(sorted(missing))}")
    if unknown := told.keys() - needed - more:
        raise ValueError(f"{what} has an unknown {sorted(unknown)[0]!r}; there is {', '.join(sorted(needed | more))}")
    return told


def _lists(told: Mapping[str, Any], key: str) -> list[tuple[str, list[Any]]]:
    """{part of speech: a text or several} as pairs; nothing of it is empty."""
    if not isinstance(told[key], dict) or not told[key]:
        raise ValueError(f"{key} is {{part of speech: [text, …]}}, got {_short(told[key])}")
    pairs = [(pos, [some] if isinstance(some, str) else some) for pos, some in told[key].items()]
    for pos, some in pairs:
        if not isinstance(some, list) or not some:
            raise ValueError(f"{key} of {pos!r} is a list of texts, got {_short(some)}")
    return pairs


def _template(text: Any, pos: str) -> str:
    if not isinstance(text, str) or text.count("{}") != 1:
        raise ValueError(f"a template has one {{}} for the word to stand in, that of {pos!r} is {text!r}")
    return text


def _fill(template: str, word: str) -> str:
    """The word in the template's place, after "an" where "a" cannot be said."""
    if word[0].lower() in "aeiou":
        template = re.sub(r"\b([aA]) \{\}", r"\1n {}", template)
    return template.replace("{}", word)


def _refuse_doubles(vocabulary: Vocabulary) -> None:
    """Two classes of a name, an id or a word would be two codes that mean the same."""
    names: dict[Any, Entry] = {}
    words: dict[tuple[str, str], Entry] = {}
    for entry in vocabulary.classes:
        for key in (entry.id, _key(entry.name)):
            if other := names.get(key):
                raise ValueError(
                    f"{vocabulary.stream} has {_told(other)} and {_told(entry)}: every class has its own name and id"
                )
            names[key] = entry
        for word in entry.words:
            said = (_key(word.text), word.pos)
            if other := words.get(said):
                raise ValueError(
                    f"{vocabulary.stream} has the {word.pos} {word.text!r} twice, in {_told(other)} and {_told(entry)}"
                )
            words[said] = entry


def _told(entry: Entry) -> str:
    return f"{entry.raw!r} (id {entry.id})"


def _plain(text: Any, what: str) -> str:
    if not isinstance(text, str) or not text.replace("_", " ").split():
        raise ValueError(f"{what} is a text, got {text!r}")
    return " ".join(text.replace("_", " ").split())


def _key(text: str) -> str:
    return text.casefold()


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[:most] + "…"


def _first_double(names: Sequence[str]) -> str:
    return next((name for i, name in enumerate(names) if name in names[:i]), "")
