"""Search some of a gallery, and one image a person: by the columns of a CSV file that describes its images.

    image,camera,time,person
    a/0001.jpg,3,2024-05-01T10:02,17

`image` is a path below the gallery's folder, or a whole path. Conditions compare a column with a value; numbers are
compared as numbers, and other values as text, so that times in ISO 8601 are in their order.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sightword.data.located import IMAGE_FIELDS
from sightword.errors import SightwordError
from sightword.storage.fields import Row
from sightword.storage.reader import read_csv
from sightword.systems.retrieval.gallery import Gallery, Hit, Identity

CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|=|<|>)(?!\s*[<>=!])\s*(.*?)\s*")
COMPARED: Mapping[str, Callable[[int, int], bool]] = {  # of the order of two values, −1, 0 or 1, with 0
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition(NamedTuple):
    """One comparison that a row has to fulfil."""

    column: str
    relation: str
    value: str

    def holds(self, cell: str) -> bool:
        """Return whether a cell fulfils it. An empty cell fulfils only = and != with an empty value."""
        one, other = number(cell), number(self.value)
        if one is not None and other is not None:
            order = (one > other) - (one < other)
        elif not cell and self.value and self.relation != "!=":
            return False
        else:
            order = (cell > self.value) - (cell < self.value)
        return COMPARED[self.relation](order, 0)


def read_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Return conditions as they are typed, such as camera=3 or time>=2024-05-01. Raises SightwordError."""
    found = []
    for text in texts:
        match = CONDITION.fullmatch(text)
        if match is None:
            raise SightwordError(
                f"where={text!r} is no condition. Pass a column, one of {' '.join(COMPARED)} and a value: "
                'where="camera=3,time>=2024-05-01"'
            )
        found.append(Condition(*match.groups()))
    return tuple(found)


class Described(NamedTuple):
    """What a CSV file says of the images of a gallery."""

    columns: tuple[str, ...]  # without the one of the image
    rows: list[tuple[str, Row]]  # content of an image, and its row; copies of an image may have several


def read_rows(gallery: Gallery, table: str | Path, needed: Sequence[str] = ()) -> Described:
    """Return the rows of a gallery's images. needed: columns.

    Raises SightwordError for a column that the table lacks, and if no image of the gallery has a row in it.
    """
    found = read_csv(table)
    named = {name.casefold(): name for name in reversed(found.columns)}
    column = next((named[name] for name in IMAGE_FIELDS if name in named), "")
    for name in [*needed, *([] if column else [IMAGE_FIELDS[0]])]:
        if name not in found.columns:
            raise SightwordError(f"{table} has no column {name!r}: its columns are {', '.join(found.columns)}")
    content = {path: key for key, paths in gallery.paths.items() for path in paths}
    keys = [(content.get(_below(row.text(column), gallery.root)), row) for row in found.rows]
    rows = [(key, row) for key, row in keys if key is not None]
    if not rows:
        raise SightwordError(
            f"none of the {len(found.rows)} images of {table} is in the gallery. Its column {column} has paths "
            f"below {gallery.root}"
        )
    return Described(tuple(name for name in found.columns if name != column), rows)


class Selection:
    """A gallery, of which images are searched whose rows in a table fulfil conditions. With `by`, one hit a group."""

    def __init__(self, gallery: Gallery, table: str | Path, where: Sequence[Condition] = (), by: str = "") -> None:
        """table: the CSV file. by: a column; of the images that share its value only the best is a hit.

        Raises SightwordError for a column that the table lacks, and if no image of the gallery has a row in it.
        """
        self.gallery, self.by = gallery, by
        self.root = gallery.root
        described = read_rows(gallery, table, [*(each.column for each in where), *([by] if by else [])])
        self.group_of = {key: row.text(by, "") for key, row in described.rows} if by else {}
        self.keys = frozenset(
            key for key, row in described.rows if all(each.holds(row.text(each.column, "")) for each in where)
        )

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, identity: Identity) -> None:
        self.gallery.check(identity)

    def search(self, vector: Tensor, top: int) -> list[Hit]:
        """Return the nearest of the chosen images, best first; with `by` the best of each of `top` groups."""
        if not self.by:
            return self.gallery.search(vector, top, self.keys)
        return best_of_groups(lambda most: self.gallery.search(vector, most, self.keys), self.group_of, top)

    def moments(self, vectors: Tensor) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the cosines of each unit vector (n, E) with the chosen images."""
        return self.gallery.moments(vectors, self.keys)


def best_of_groups(search: Callable[[int], list[Hit]], group_of: Mapping[str, str], top: int) -> list[Hit]:
    """Return the best hit of each of `top` groups, best first. search: returns as many hits as it is asked for."""
    wanted = top
    while True:
        hits = search(wanted)
        best = {group_of[hit.content]: hit for hit in reversed(hits)}
        if len(best) >= top or len(hits) < wanted:
            return sorted(best.values(), key=lambda hit: -hit.score)[:top]
        wanted *= 4


def _below(path: str, root: Path) -> str:
    """Return a path of a table as the gallery has it: below its folder, with slashes."""
    whole = Path(path).expanduser()
    if whole.is_absolute() and whole.is_relative_to(root):
        return whole.relative_to(root).as_posix()
    return Path(path.replace("\\", "/")).as_posix()


def number(text: str) -> float | None:
    """Return the number that a cell or a value is, if it is a finite one; other texts are compared as texts."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
