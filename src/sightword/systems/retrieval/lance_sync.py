"""Bring a gallery's table in LanceDB in line with the gallery on disk, and measure what its index finds.

In transactions: a job that is killed is resumed, and a reader keeps the rows that it opened. Up to `EXACT` rows there
is no index. Above, IVF_HNSW_SQ is searched with the least effort that finds enough of the exact answers.

Legend: E width of the embedding; Q queries.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.writer import write_json
from sightword.systems.retrieval.gallery import Gallery
from sightword.systems.retrieval.lance import NOTE, refuse_other
from sightword.systems.retrieval.lance_table import (
    ALL,
    EFFORTS,
    TABLE,
    Effort,
    Rows,
    Table,
    column_name,
    connect,
    csv_columns,
    nearest,
    open_table,
    place_of,
    quoted,
    read,
    reported,
    stated,
)
from sightword.systems.retrieval.selection import Described, number

ROWS = 8192  # in one transaction
EXACT = 100_000  # rows that are searched without an index
TOP, QUERIES, ENOUGH = 10, 32, 0.95  # of the measured recall
SIXTEENTH = "key < '1'"  # a filter: keys are digests
Cells: TypeAlias = tuple[str | None, ...]  # path and CSV cells of an image; None: it has no row there


class Recall(NamedTuple):
    """Which share of the ten best of exact answers is found; of images near others of the gallery."""

    all: float
    filtered: float  # where a filter leaves a sixteenth


class Synced(NamedTuple):
    """What `sync` did."""

    place: str
    rows: int
    added: int
    removed: int
    changed: int  # in path or cells
    recall: Recall
    effort: Effort

    def __str__(self) -> str:
        index = f"IVF_HNSW_SQ, ef {self.effort.ef}, refined {self.effort.refine}×" if self.effort.ef else "all compared"
        return (
            f"{self.rows} rows in {self.place}: {self.added} added, {self.removed} removed, {self.changed} changed; "
            f"{index}; recall@{TOP} {self.recall.all:.3f}, filtered {self.recall.filtered:.3f}"
        )


def sync(gallery: Gallery, uri: str, described: Described | None = None) -> Synced:
    """Bring the table at `uri` in line with a gallery; killed and called again, it does the rest.

    described: the rows of a CSV file, whose cells are stored; None: cells are kept as they are. Raises SightwordError
    for a table of other weights or of another gallery.
    """
    gallery.rows.refuse_earlier()
    place = place_of(uri)
    with reported(place):
        done = _synced(gallery, place, described)
    write_json(gallery.out / NOTE, {"uri": place, **done.effort._asdict(), "recall": done.recall._asdict()})
    return done


def _synced(gallery: Gallery, place: str, described: Described | None) -> Synced:
    table = open_table(place) or _created(gallery, place)
    refuse_other(table, gallery)
    columns = csv_columns(table) if described is None else list(described.columns)
    _fit_columns(table, columns)
    there, twice = _rows_there(table, columns)
    wanted = _rows_wanted(gallery, columns, described, there)
    gone, new = there.keys() - wanted.keys(), wanted.keys() - there.keys()
    if 2 * len(gone) > len(there) and (root := stated(table).get("root")) != str(gallery.root):
        raise SightwordError(f"uri={place} has the gallery of {root}, not of {gallery.root}. Pass another uri=")
    changed = {key for key in there if key in wanted and there[key] != wanted[key]}
    _delete(table, twice)
    for rows in _batches(gallery, new, wanted, columns, table):
        table.add(rows)
    for rows in _batches(gallery, changed, wanted, columns, table):
        table.merge_insert("key").when_matched_update_all().execute(rows)
    _delete(table, sorted(gone))
    if new or gone or changed:
        table.optimize()
    effort, recall = _tuned(gallery, table)
    return Synced(place, table.count_rows(), len(new.difference(twice)), len(gone), len(changed), recall, effort)


def _created(gallery: Gallery, place: str) -> Table:
    import pyarrow as pa

    (width,) = gallery.rows.header["shapes"]["pooled"]
    note = {name: gallery.rows.header.get(name) for name in ("weights", "preprocessing")} | {"root": str(gallery.root)}
    vector = pa.field("vector", pa.list_(pa.float32(), width))
    schema = pa.schema([("key", pa.string()), ("path", pa.string()), vector], metadata={TABLE: json.dumps(note)})
    return connect(place).create_table(TABLE, schema=schema)


def _fit_columns(table: Table, columns: Sequence[str]) -> None:
    """Add and drop columns, so that the table has those of a CSV file."""
    kinds = {"t": "string", "n": "double"}
    wanted = {column_name(kind, name): type_ for name in columns for kind, type_ in kinds.items()}
    present = [name for name in table.schema.names if name[:2] in ("t_", "n_")]
    if new := {name: f"CAST(NULL AS {type_})" for name, type_ in wanted.items() if name not in present}:
        table.add_columns(new)
    if old := [name for name in present if name not in wanted]:
        table.drop_columns(old)


def _rows_there(table: Table, columns: Sequence[str]) -> tuple[dict[str, Cells], list[str]]:
    """Return path and cells of each key in the table, and the keys that are there twice, which are left out."""
    found: dict[str, Cells] = {}
    twice = set()
    for key, *row in read(table, ["key", "path", *(column_name("t", name) for name in columns)]):
        if str(key) in found:
            twice.add(str(key))
        found[str(key)] = tuple(row)
    return {key: row for key, row in found.items() if key not in twice}, sorted(twice)


def _rows_wanted(
    gallery: Gallery,
    columns: Sequence[str],
    described: Described | None,
    there: Mapping[str, Cells],
) -> dict[str, Cells]:
    """Return path and cells of each image that the gallery has now."""
    none = (None,) * len(columns)
    cells: dict[str, Cells] = {}
    unlike = set()
    if described is None:
        cells = {key: row[1:] for key, row in there.items()}
    for key, row in described.rows if described else ():
        found = tuple(row.text(name, "") for name in columns)
        if cells.setdefault(key, found) != found:
            unlike.add(key)
    if unlike:
        shards.say(
            f"{len(unlike)} images have copies with other cells in the CSV file: the first row of each is stored"
        )
    own = gallery.rows.keys()
    return {key: (paths[0], *cells.get(key, none)) for key, paths in gallery.paths.items() if key in own}


def _batches(
    gallery: Gallery, keys: set[str], wanted: Mapping[str, Cells], columns: Sequence[str], table: Table
) -> Iterator[Rows]:
    """Yield the rows of keys, as many as one transaction has."""
    import pyarrow as pa

    names: list[str] = []
    parts: list[Tensor] = []

    def taken() -> Rows:
        values: dict[str, Sequence[object]] = {"key": names, "path": [wanted[name][0] for name in names]}
        for at, column in enumerate(columns, 1):
            cells = [wanted[name][at] for name in names]
            values[column_name("t", column)] = cells
            values[column_name("n", column)] = [None if cell is None else number(cell) for cell in cells]
        flat = torch.cat(parts).numpy().astype(np.float32)
        arrays = {name: pa.array(value, table.schema.field(name).type) for name, value in values.items()}
        arrays["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
        rows: Rows = pa.table({name: arrays[name] for name in table.schema.names}, schema=table.schema)
        return rows

    if not keys:
        return
    for found, vectors in gallery.stacks(frozenset(keys)):
        names, parts = names + found, [*parts, vectors]
        if len(names) >= ROWS:
            yield taken()
            names, parts = [], []
    if names:
        yield taken()


def _delete(table: Table, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), 1000):
        table.delete(f"key IN ({', '.join(map(quoted, keys[start : start + 1000]))})")


def _tuned(gallery: Gallery, table: Table) -> tuple[Effort, Recall]:
    """Make the index of a large table, and return the least effort that finds enough of the exact answers."""
    count = table.count_rows()
    if count > EXACT and not table.list_indices():
        from lancedb.index import HnswSq

        shards.say(f"making the index of {count} rows")
        table.create_index("vector", config=HnswSq(distance_type="dot", m=20, ef_construction=200))
    queries = _queries(gallery)
    exact = [_exact(gallery, queries, limit) for limit in ("", "1")]
    for effort in (*EFFORTS, ALL) if table.list_indices() else (ALL,):
        shares = [
            _share(table, queries, answers, where, effort)
            for answers, where in zip(exact, ("", SIXTEENTH), strict=True)
        ]
        if min(shares) >= ENOUGH:
            break
    return effort, Recall(*shares)


def _queries(gallery: Gallery) -> Tensor:
    """Return unit rows (Q, E) near vectors of the gallery."""
    keys = sorted(gallery.rows.keys() & gallery.paths.keys())
    chosen = [keys[len(keys) * at // QUERIES] for at in range(min(QUERIES, len(keys)) if keys else 0)]
    rows = torch.from_numpy(np.stack([gallery.rows.rows.get(key, "pooled") for key in chosen]))
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    return F.normalize(rows + 0.7 * noise / rows.shape[1] ** 0.5, dim=1)


def _exact(gallery: Gallery, queries: Tensor, below: str) -> Tensor:
    """Return the highest products (Q, up to 10) of each query with the gallery. below: a limit of the keys."""
    found = torch.empty(len(queries), 0)
    for keys, rows in gallery.stacks():
        kept = [at for at, key in enumerate(keys) if not below or key < below]
        found = torch.cat([found, queries @ rows[kept].T], 1)
        found = found.topk(min(TOP, found.shape[1])).values
    return found


def _share(table: Table, queries: Tensor, exact: Tensor, where: str, effort: Effort) -> float:
    """Return which share of the exact answers is found: of scores, so that equal ones are as good."""
    if not (count := exact.shape[1]):
        return 1.0
    right = 0
    for query, scores in zip(queries, exact, strict=True):
        found = nearest(table, query, count, where, effort).values()
        right += sum(score >= float(scores[-1]) - 1e-6 for score in found)
    return right / (len(queries) * count)
