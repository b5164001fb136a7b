"""Search some of a gallery, and one image a person: by the columns of a CSV file that describes its images.

    image,camera,time,person
    a/0001.jpg,3,2024-05-01T10:02,17

`image` is a path below the gallery's folder, or a whole path. Conditions compare a column with a value; numbers are
compared as numbers, and other values as text, so that times in ISO 8601 are in their order.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage.reader import read_csv
from sightword.systems.retrieval.gallery import Gallery, Hit, Identity

IMAGE = ("image", "file_name", "file_path", "path")  # names of the column that tells whose row it is
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
        one, other = _number(cell), _number(self.value)
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


class Selection:
    """A gallery, of which images are searched whose rows in a table fulfil conditions. With `by`, one hit a group."""

    def __init__(self, gallery: Gallery, table: str | Path, where: Sequence[Condition] = (), by: str = "") -> None:
        """table: the CSV file. by: a column; of the images that share its value only the best is a hit.

        Raises SightwordError for a column that the table lacks, and if no image of the gallery has a row in it.
        """
        self.gallery, self.by = gallery, by
        self.root = gallery.root
        rows = read_csv(table)
        column = next((name for name in IMAGE if name in rows.columns), "")
        for name in [*(each.column for each in where), *([by] if by else []), *([] if column else [IMAGE[0]])]:
            if name not in rows.columns:
                raise SightwordError(f"{table} has no column {name!r}: its columns are {', '.join(rows.columns)}")
        content = {path: key for key, paths in gallery.paths.items() for path in paths}
        self.group_of: dict[str, str] = {}
        chosen, known = set(), 0
        for row in rows.rows:
            key = content.get(_below(row.text(column), gallery.root))
            if key is None:
                continue
            known += 1
            if by:
                self.group_of[key] = row.text(by, "")
            if all(each.holds(row.text(each.column, "")) for each in where):
                chosen.add(key)
        if not known:
            raise SightwordError(
                f"none of the {len(rows.rows)} images of {table} is in the gallery. Its column {column} has paths "
                f"below {gallery.root}"
            )
        self.keys = frozenset(chosen)

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, identity: Identity) -> None:
        self.gallery.check(identity)

    def search(self, vector: Tensor, top: int) -> list[Hit]:
        """Return the nearest of the chosen images, best first; with `by` the best of each of `top` groups."""
        if not self.by:
            return self.gallery.search(vector, top, self.keys)
        wanted = top
        while True:
            hits = self.gallery.search(vector, wanted, self.keys)
            best = {self.group_of[hit.content]: hit for hit in reversed(hits)}
            if len(best) >= top or len(hits) < wanted:
                return sorted(best.values(), key=lambda hit: -hit.score)[:top]
            wanted *= 4

    def moments(self, vectors: Tensor) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the cosines of each unit vector (n, E) with the chosen images."""
        return self.gallery.moments(vectors, self.keys)


def _below(path: str, root: Path) -> str:
    """Return a path of a table as the gallery has it: below its folder, with slashes."""
    whole = Path(path).expanduser()
    if whole.is_absolute() and whole.is_relative_to(root):
        return whole.relative_to(root).as_posix()
    return Path(path.replace("\\", "/")).as_posix()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
