"""A gallery in LanceDB, for more vectors than one machine has memory: a table at a path or in an object store.

    key      content of the image, as in the gallery on disk     t_<column>   a cell of the CSV file, as text
    path     below the gallery's folder                          n_<column>   the same as a number; null if it is none
    vector   (E,) float32, unit length

`lance_sync` writes it. Without an index a search compares all rows. An index finds candidates, which are ranked by
exact products, and `lance_sync` measures how many of the exact answers are among them.

Legend: E width of the embedding; n rows.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.storage import shards
from sightword.storage.reader import read_json
from sightword.systems.retrieval.gallery import Gallery, Hit
from sightword.systems.retrieval.lance_table import (
    ALL,
    EFFORTS,
    Effort,
    Table,
    column_name,
    csv_columns,
    nearest,
    open_table,
    place_of,
    read,
    reported,
    sql,
    stated,
    vectors_of,
)
from sightword.systems.retrieval.selection import Condition, best_of_groups

NOTE = "lancedb.json"  # in the gallery's folder: the table, and how thoroughly its index is searched
SPARE = 16  # candidates beyond those that are asked for
SAMPLE = 16_384  # rows that mean and deviation are of, about; of fewer rows they are exact
WEAKEST = 16  # a filter that leaves less than one row of so many is searched without the index


class LanceGallery(Gallery):
    """A gallery whose vectors are searched in LanceDB; the folder of `sightword index` has the paths and the model."""

    def __init__(self, out: str | Path, uri: str, where: Sequence[Condition] = (), by: str = "") -> None:
        """where: conditions on the CSV file's columns. by: a column; only the best hit of each of its values is one."""
        self.place, self.by = place_of(uri), by
        table = open_table(self.place)
        if table is None:
            raise MissingFileError(f"uri={uri} has no gallery. sightword index … gallery=lancedb uri={uri} writes it")
        self.table = table
        known = csv_columns(table)
        for name in [*(each.column for each in where), *([by] if by else [])]:
            if name not in known:
                told = f"its columns are {', '.join(known)}" if known else "sightword index … table= adds a CSV file's"
                raise SightwordError(f"{self.place} has no column {name!r}: {told}")
        self.group = f"`{column_name('t', by)}`" if by else ""
        self.filter = " AND ".join([*map(sql, where), *([f"{self.group} IS NOT NULL"] if by else [])])
        self._sample: Tensor | None = None
        self.effort = _noted(Path(out).expanduser() / NOTE, self.place)
        super().__init__(out)
        refuse_other(table, self)

    def look(self) -> None:
        """Compare table, gallery and folder, and say on stderr what is left out."""
        if "gallery=lancedb" not in self.rows.command:
            self.rows.command += f" gallery=lancedb {shlex.quote(f'uri={self.place}')}"
        super().look()
        with reported(self.place):
            self.table.checkout_latest()
            there = read(self.table, ["key", *([self.group.strip("`")] if self.by else [])], self.filter)
            total, indexed = self.table.count_rows(), bool(self.table.list_indices())
        rows = {str(key): str(rest[0]) if rest else "" for key, *rest in there}
        self.found = {key: value for key, value in rows.items() if key in self.paths}
        own = self.rows.keys()
        if unknown := len(rows.keys() - own):
            shards.say(f"{unknown} of {len(rows)} rows of {self.place} are of images that {self.out} does not have")
        if not self.filter and (lacking := len((own & self.paths.keys()) - rows.keys())):
            shards.say(f"{lacking} images of {self.out} are not in {self.place}. To add them: {self.rows.again()}")
        weak = len(rows) * WEAKEST >= total
        self.used = self.effort if weak and indexed else ALL

    def __len__(self) -> int:
        return len(self.found)

    def search(self, vector: Tensor, top: int, among: frozenset[str] | None = None) -> list[Hit]:
        """Return the images nearest to a unit vector (1, E), best first; with `by` the best of each of `top` groups."""
        if not self.by:
            return super().search(vector, top, among)
        return best_of_groups(lambda most: super(LanceGallery, self).search(vector, most, among), self.found, top)

    def _search(self, vector: Tensor, top: int, among: frozenset[str] | None) -> list[tuple[float, str]]:
        allowed = self.found.keys() if among is None else self.found.keys() & among
        wanted, used = top + SPARE, self.used
        while True:
            with reported(self.place):
                rows = nearest(self.table, vector[0], wanted, self.filter, used)
            found = [(score, key) for key, score in rows.items() if key in allowed]
            if len(found) >= min(top, len(allowed)) or (len(rows) < wanted and not used.ef):
                return sorted(found, key=lambda pair: (-pair[0], self.paths[pair[1]][0]))[:top]
            wanted, used = (wanted, ALL) if len(rows) < wanted else (4 * wanted, used)

    def moments(self, vectors: Tensor, among: frozenset[str] | None = None) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the cosines of each unit vector (n, E) with the chosen images.

        Of more than `SAMPLE` images they are those of a sample, of about so many rows: keys are digests.
        """
        if self._sample is None:
            share = SAMPLE / max(1, len(self.found))
            part = [f"key < '{int(share * 16**8):08x}'"] if share < 1 else []
            query = self.table.search().select(["key", "vector"])
            where = " AND ".join([*([self.filter] if self.filter else []), *part])
            with reported(self.place):
                rows = (query.where(where, prefilter=True) if where else query).to_arrow()
            kept = [at for at, key in enumerate(rows.column("key").to_pylist()) if key in self.found]
            self._sample = vectors_of(rows)[kept]
        found = (vectors @ self._sample.T).double()
        return list(zip(found.mean(1).tolist(), found.std(1, correction=0).tolist(), strict=True))


def _noted(file: Path, place: str) -> Effort:
    """Return the effort that was enough when the table at a place was written; if that is not known, a high one."""
    if file.is_file() and (note := read_json(file)).text("uri") == place:
        return Effort(note.integer("ef", least=0), note.integer("refine", least=0))
    return EFFORTS[-1]


def refuse_other(table: Table, gallery: Gallery) -> None:
    """Raise SightwordError unless a table was made with a gallery's weights and preprocessing."""
    found = stated(table)
    for name in ("weights", "preprocessing"):
        if found.get(name) != (own := gallery.rows.header.get(name)):
            raise SightwordError(
                f"the table was made with other {name} ({found.get(name)}) than {gallery.out} ({own}). Pass another "
                "uri=, or the gallery of its model"
            )
