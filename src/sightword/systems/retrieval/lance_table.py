"""Tables of LanceDB: what is used of the package, the conditions of a search in SQL, and the nearest rows of a vector.

Queries: https://lancedb.github.io/lancedb/. Legend: E width of the embedding; n rows.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.systems.retrieval.selection import Condition, number

TABLE, SCHEMES = "sightword", ("s3", "gs", "az")


class Effort(NamedTuple):
    """How thoroughly the index is searched; 0: it is not used."""

    ef: int  # candidates of HNSW
    refine: int  # times as many rows as are asked for are compared in single precision


EFFORTS = (Effort(200, 5), Effort(400, 10), Effort(1000, 20))  # in the order in which they are tried
ALL = Effort(0, 0)  # all rows are compared


class Flat(Protocol):
    """An array of pyarrow."""

    def flatten(self) -> Self: ...
    def to_numpy(self, zero_copy_only: bool) -> np.ndarray: ...


class Column(Protocol):
    """A column of `Rows`."""

    def to_pylist(self) -> list[str | None]: ...
    def combine_chunks(self) -> Flat: ...


class Rows(Protocol):
    """A table of pyarrow."""

    num_rows: int

    def column(self, name: str) -> Column: ...


class Query(Protocol):
    """A search of LanceDB, before it is executed."""

    def distance_type(self, name: str) -> Self: ...
    def where(self, sql: str, prefilter: bool) -> Self: ...
    def nprobes(self, count: int) -> Self: ...
    def ef(self, count: int) -> Self: ...
    def refine_factor(self, times: int) -> Self: ...
    def bypass_vector_index(self) -> Self: ...
    def limit(self, count: int) -> Self: ...
    def select(self, columns: list[str]) -> Self: ...
    def to_arrow(self) -> Rows: ...


class Field(Protocol):
    """A column of a schema; `type` is given back to pyarrow."""

    type: object


class Schema(Protocol):
    """The columns of a table."""

    names: list[str]
    metadata: Mapping[bytes, bytes] | None

    def field(self, name: str) -> Field: ...


class Merge(Protocol):
    """A replacement of rows, before it is executed."""

    def when_matched_update_all(self) -> Self: ...
    def execute(self, rows: Rows) -> object: ...


class Table(Protocol):
    """A table of LanceDB, at the version that was opened."""

    schema: Schema

    def checkout_latest(self) -> None: ...
    def count_rows(self, filter: str | None = None) -> int: ...
    def search(self, query: np.ndarray | None = None) -> Query: ...
    def add(self, rows: Rows) -> object: ...
    def merge_insert(self, on: str) -> Merge: ...
    def delete(self, where: str) -> object: ...
    def add_columns(self, columns: Mapping[str, str]) -> object: ...
    def drop_columns(self, columns: list[str]) -> object: ...
    def list_indices(self) -> Sequence[object]: ...
    def create_index(self, column: str, /, *, config: object) -> object: ...
    def optimize(self) -> object: ...


class Database(Protocol):
    """A folder of tables."""

    def open_table(self, name: str) -> Table: ...
    def create_table(self, name: str, *, schema: Schema) -> Table: ...


def place_of(uri: str) -> str:
    """Return where a table is: an address of an object store as it is, a path as an absolute one."""
    scheme, address, _ = uri.partition("://")
    if not uri or (address and scheme not in SCHEMES):
        known = ", ".join(f"{name}://…" for name in SCHEMES)
        raise SightwordError(f"uri={uri!r} is no place of a LanceDB table. Pass a path, or {known}")
    return uri if address else str(Path(uri).expanduser().resolve())


def connect(place: str) -> Database:
    """Raises SightwordError if LanceDB is not installed or the place cannot be used."""
    try:
        import lancedb
    except ImportError as error:
        raise SightwordError("gallery=lancedb needs LanceDB: pip install 'sightword[gallery]'") from error
    with reported(place):
        found: Database = lancedb.connect(place)
    return found


@contextmanager
def reported(place: str) -> Iterator[None]:
    """Raise SightwordError, in one line, where LanceDB cannot read or write a place."""
    try:
        yield
    except SightwordError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SightwordError(
            f"uri={place} cannot be used: {why}. Check the address, the access to it and its free space; if it is "
            "damaged, delete it, and sightword index writes it again"
        ) from error


def open_table(place: str) -> Table | None:
    """Return the table at a place; None if there is none. Raises SightwordError if it is another program's."""
    if "://" not in place and not Path(place, f"{TABLE}.lance").is_dir():
        return None
    with reported(place):
        try:
            table = connect(place).open_table(TABLE)
        except ValueError as error:
            if "not found" in str(error):
                return None
            raise
    if TABLE.encode() not in (table.schema.metadata or {}):
        raise SightwordError(f"uri={place} contains a table {TABLE!r} of another program. Pass another uri=")
    return table


def stated(table: Table) -> Mapping[str, object]:
    """Return what the table states of itself: weights, preprocessing, root."""
    try:
        found = json.loads((table.schema.metadata or {})[TABLE.encode()])
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def column_name(kind: str, name: str) -> str:
    """Return the column of a CSV file's: t_ or n_, and its name with other characters than letters and digits coded."""
    return f"{kind}_" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", name)


def csv_columns(table: Table) -> list[str]:
    """Return the names of the CSV file's columns that a table has."""
    coded = (name[2:] for name in table.schema.names if name.startswith("t_"))
    return [re.sub(r"_([0-9a-f]{1,6})_", lambda found: chr(int(found[1], 16)), name) for name in coded]


def quoted(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def sql(condition: Condition) -> str:
    """Return a condition in SQL, which a row fulfils where `Condition.holds`; a row without a cell fulfils none."""
    text, numeric = (f"`{column_name(kind, condition.column)}`" for kind in "tn")
    relation = "<>" if condition.relation == "!=" else condition.relation
    as_text = f"{text} {relation} {quoted(condition.value)}"
    if condition.value and relation != "<>":
        as_text = f"{text} <> '' AND {as_text}"
    value = number(condition.value)
    if value is None:
        return f"({text} IS NOT NULL AND {as_text})"
    as_number = f"{numeric} IS NOT NULL AND {numeric} {relation} {value!r}"
    return f"({text} IS NOT NULL AND (({numeric} IS NULL AND {as_text}) OR ({as_number})))"


def read(table: Table, columns: Sequence[str], where: str = "") -> list[tuple[str | None, ...]]:
    """Return columns of texts of all rows, or of those that a filter leaves."""
    query = table.search().select(list(columns))
    rows = (query.where(where, prefilter=True) if where else query).to_arrow()
    return list(zip(*(rows.column(name).to_pylist() for name in columns), strict=True))


def vectors_of(rows: Rows) -> Tensor:
    """Return the column of vectors (n, E)."""
    flat = rows.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(np.array(flat, np.float32)).reshape(rows.num_rows, -1 if rows.num_rows else 0)


def nearest(table: Table, vector: Tensor, count: int, where: str, effort: Effort) -> dict[str, float]:
    """Return `count` rows whose products with a vector (E,) are highest: their keys and exact products."""
    query = table.search(vector.numpy()).distance_type("dot").limit(count).select(["key", "vector", "_distance"])
    if where:
        query = query.where(where, prefilter=True)
    if effort.ef:
        query = query.nprobes(20).ef(max(effort.ef, 2 * count)).refine_factor(effort.refine)
    else:
        query = query.bypass_vector_index()
    rows = query.to_arrow()
    if not rows.num_rows:
        return {}
    scores = (vectors_of(rows).double() @ vector.double()).float().tolist()
    return dict(zip(map(str, rows.column("key").to_pylist()), scores, strict=True))
