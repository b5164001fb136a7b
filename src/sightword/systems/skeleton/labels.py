"""The classes and their prompts, from a file of labels.

{"drinking water": ["a person drinking water", …], …}     JSON; or CSV with columns id,name; or .txt, a name a line
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sightword.errors import SightwordError
from sightword.storage.reader import read_csv, read_json, read_text

MISSING = "system.labels is a file of labels"


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


def read_labels(path: str | Path) -> Labels:
    """Return the labels in a file, by its ending: .json {class: [prompts]}, .csv with columns id and name, .txt.

    Names of a CSV or text file are their own prompts. Raises SightwordError.
    """
    if not str(path):
        raise SightwordError(
            "system.labels is not set. Name the file of the classes: JSON {class: [prompts]}, CSV id,name, or text, a "
            "name a line"
        )
    path = Path(path).expanduser()
    if path.suffix == ".json":
        fields = read_json(path, missing=MISSING)
        return Labels.of({name: fields.texts(name, alone=True) for name in fields}, str(path))
    if path.suffix not in (".csv", ".txt"):
        raise SightwordError(f"{path} is not a file of labels. Give one that ends in .json, .csv or .txt")
    names = _names_of_csv(path) if path.suffix == ".csv" else read_text(path, missing=MISSING).splitlines()
    names = [name.strip() for name in names if name.strip()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SightwordError(f"{path} has {sorted(twice)[0]!r} twice. Give each class a name of its own")
    return Labels.of({name: [name] for name in names}, str(path))


def _names_of_csv(path: Path) -> list[str]:
    rows = read_csv(path, ["id", "name"], missing=MISSING).rows
    names = {row.integer("id"): row.text("name") for row in rows}
    if sorted(names) != list(range(len(rows))):
        raise SightwordError(f"{path}: its ids are not 0 to {len(rows) - 1}, each once")
    return [names[number] for number in range(len(rows))]
