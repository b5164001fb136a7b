"""The classes and their prompts, from a file of labels.

{"drinking water": ["a person drinking water", …], …}     JSON; or CSV with columns id,name; or .txt, a name a line

msr_actions     a list that is built in, the 20 actions of MSR-Action3D: any file in `actions`, without its ending
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sightword.errors import SightwordError
from sightword.storage.reader import read_csv, read_json, read_text

MISSING = "system.labels is a file of labels"
ENDINGS = (".json", ".csv", ".txt")
FOLDER = Path(__file__).parent / "actions"  # of the lists that are built in


class Labels(NamedTuple):
    """Classes in the order of their numbers, each with one prompt or more."""

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    source: str  # where they were read, for messages

    @classmethod
    def of(cls, prompts: Mapping[str, Sequence[str]], source: str) -> "Labels":
        """Return labels of {class: prompts}. Raises SightwordError unless there is a class, and a prompt for each."""
        if not prompts:
            raise SightwordError(f"{source} names no class")
        for name, texts in prompts.items():
            if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
                raise SightwordError(f"{source}: class {name!r} needs a list of prompts, none of them empty")
        return cls(tuple(prompts), tuple(tuple(texts) for texts in prompts.values()), source)


def built_in() -> dict[str, Path]:
    """Return the lists of labels that are built in, by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.json"))}


def named_labels(text: str) -> Labels:
    """Return the labels that somebody typed: a file, a list that is built in, or the names themselves with commas.

    A name is its own prompt. A text without commas that looks like a path is a file. Raises SightwordError.
    """
    alone = "," not in text
    if (
        text in built_in()
        or _is_file(text)
        or (alone and (Path(text).suffix in ENDINGS or "/" in text or "\\" in text))
    ):
        return read_labels(text)
    names = [name for part in text.split(",") if (name := " ".join(part.split()))]
    if len(names) < 2:
        raise SightwordError(
            f"labels={text!r:.60} is not a file and names {len(names) or 'no'} action. Pass two or more with commas "
            'between them, as labels="waving, sitting down", or a file of labels'
        )
    return _named(names, "the names in labels=")


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, RuntimeError):  # too long for a path; no home directory
        return False


def read_labels(path: str | Path) -> Labels:
    """Return the labels in a file, by its ending: .json {class: [prompts]}, .csv with columns id and name, .txt.

    Names of a CSV or text file are their own prompts. path: or the name of a list that is built in. Raises
    SightwordError.
    """
    if not str(path):
        raise SightwordError(
            "system.labels is not set. Name the file of the classes: JSON {class: [prompts]}, CSV id,name, or text, a "
            "name a line"
        )
    path = built_in().get(str(path), Path(path).expanduser())
    if path.suffix == ".json":
        fields = read_json(path, missing=MISSING)
        return Labels.of({name: fields.texts(name, alone=True) for name in fields}, str(path))
    if path.suffix not in ENDINGS:
        raise SightwordError(
            f"{path} is not a file of labels. Give one that ends in .json, .csv or .txt, or {', '.join(built_in())}"
        )
    names = _names_of_csv(path) if path.suffix == ".csv" else read_text(path, missing=MISSING).splitlines()
    return _named([name.strip() for name in names if name.strip()], str(path))


def _named(names: Sequence[str], source: str) -> Labels:
    """Labels whose names are their prompts."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise SightwordError(f"{source} has {sorted(twice)[0]!r} twice. Give each class a name of its own")
    return Labels.of({name: [name] for name in names}, source)


def _names_of_csv(path: Path) -> list[str]:
    rows = read_csv(path, ["id", "name"], missing=MISSING).rows
    names = {row.integer("id"): row.text("name") for row in rows}
    if sorted(names) != list(range(len(rows))):
        raise SightwordError(f"{path}: its ids are not 0 to {len(rows) - 1}, each once")
    return [names[number] for number in range(len(rows))]
