"""A table as Markdown, CSV, JSON and a forest plot."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.cli.table.comparison import Cell, Difference, Table, TableRow
from sightword.engine.argument import folder_in
from sightword.errors import SightwordError
from sightword.metrics.bootstrap import Interval
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json, write_png
from sightword.version import VERSION
from sightword.viz.chart import ForestRow, forest

if TYPE_CHECKING:
    from PIL.Image import Image

WRITER = "sightword table"
FILES = ("table.md", "table.csv", "table.json", "table.png")


def write(table: Table, out: Path) -> list[Path]:
    """Write table.md, .csv, .json and .png to a folder. Raises SightwordError if it has files of another writer."""
    folder = folder_in(out)
    files = [folder / name for name in FILES]
    _refuse_others(files)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files[:2], (markdown(table), _csv(table)), strict=True):
        with write_atomically(file) as part:
            part.write_text(text, encoding="utf-8")
    write_json(files[2], as_dict(table))
    write_png(plot(table), files[3])
    return files


def _refuse_others(files: Sequence[Path]) -> None:
    there = [file for file in files if file.exists()]
    if there:
        record = files[2]
        if not record.is_file() or read_json(record).text("writer", "") != WRITER:
            raise SightwordError(f"{there[0]} was not written by sightword table. Give another out=")


# ----------------------------------------------------------------------------------------------------------- Markdown


def markdown(table: Table) -> str:
    """Return the table with its caption and notes."""
    digits = {name: _digits(table, name) for name in table.measures}
    head = [_escaped(table.by), "seeds"]
    for name in table.measures:
        head += [name, *(["difference", "p", ""] if table.baseline else [])]
    head.append("minutes a run")
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in table.rows:
        line = [_escaped(row.label), str(max(len(cell.seeds) for cell in row.cells.values()))]
        for name in table.measures:
            line += _cells(row.cells[name], digits[name], bool(table.baseline))
        lines.append([*line, _minutes(row.minutes)])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "".join(f"\n- {note}" for note in table.notes)
    return f"{body}\n\n{table.caption}\n{notes}\n".rstrip() + "\n"


def _cells(cell: Cell, digits: int, compared: bool) -> list[str]:
    spread = "" if math.isnan(cell.deviation) else f" ± {cell.deviation:.{digits}f}"
    found = [f"{cell.interval.value:.{digits}f}{spread}{_ends(cell.interval, digits)}"]
    if not compared:
        return found
    if (difference := cell.difference) is None:
        return [*found, "baseline", "", ""]
    shown = f"{_signed(difference.interval.value, digits)}{_ends(difference.interval, digits, signed=True)}"
    return [*found, shown, f"{difference.adjusted:.3f}", difference.word]


def _minutes(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _ends(interval: Interval, digits: int, signed: bool = False) -> str:
    if math.isnan(interval.low):
        return ""
    low, high = (_signed(end, digits) if signed else f"{end:.{digits}f}" for end in interval[1:])
    return f" [{low}, {high}]"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _digits(table: Table, name: str) -> int:
    """Return how many decimals a metric has: one of per cent, three of fractions."""
    largest = max((abs(row.cells[name].interval.value) for row in table.rows), default=0)
    return 1 if largest > 10 else 2 if largest > 1.5 else 3


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


# ------------------------------------------------------------------------------------------------------- CSV and JSON


def _csv(table: Table) -> str:
    """Return a line for each row and metric; seeds of a row are columns."""
    seeds = sorted({seed for row in table.rows for cell in row.cells.values() for seed in cell.seeds})
    names = [table.by, "measure", "seeds", "mean", "deviation", "low", "high"]
    names += ["difference", "difference_low", "difference_high", "p", "p_holm", "word"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, "minutes", *(f"seed_{seed}" for seed in seeds)])
    for row in table.rows:
        for name, cell in row.cells.items():
            own = [*_plain([*cell.interval[:1], cell.deviation, *cell.interval[1:]]), *_difference_row(cell.difference)]
            each = _plain([cell.seeds.get(seed, math.nan) for seed in seeds])
            minutes = _plain([math.nan if row.minutes is None else row.minutes])
            writer.writerow([row.label, name, len(cell.seeds), *own, *minutes, *each])
    return buffer.getvalue()


def _difference_row(difference: Difference | None) -> list[str]:
    if difference is None:
        return [""] * 6
    return [*_plain([*difference.interval, difference.p, difference.adjusted]), difference.word]


def _plain(values: Sequence[float]) -> list[str]:
    return ["" if math.isnan(value) else f"{value:.6g}" for value in values]


def as_dict(table: Table) -> dict[str, object]:
    """Return plain values, fit for JSON."""
    return {
        "writer": WRITER,
        "version": VERSION,
        "by": table.by,
        "measures": list(table.measures),
        "baseline": table.baseline,
        "caption": table.caption,
        "notes": list(table.notes),
        "rows": [_row_dict(row) for row in table.rows],
    }


def _row_dict(row: TableRow) -> dict[str, object]:
    cells = {name: _cell_dict(cell) for name, cell in row.cells.items()}
    return {"label": row.label, "runs": list(row.runs), "minutes": row.minutes, "metrics": cells}


def _cell_dict(cell: Cell) -> dict[str, object]:
    found: dict[str, object] = {**cell.interval._asdict(), "deviation": cell.deviation, "seeds": _by_text(cell.seeds)}
    if (difference := cell.difference) is not None:
        found["difference"] = {
            **difference.interval._asdict(),
            "p": difference.p,
            "p_holm": difference.adjusted,
            "word": difference.word,
            "seeds": _by_text(difference.seeds),
        }
    return found


def _by_text(seeds: Mapping[int, float]) -> dict[str, float]:
    return {str(seed): value for seed, value in seeds.items()}


# ------------------------------------------------------------------------------------------------------------- figure


def plot(table: Table) -> "Image":
    """Return the forest plot: a panel for each metric."""
    panels = {
        name: [
            ForestRow(row.label, cell.interval.value, cell.interval.low, cell.interval.high, tuple(cell.seeds.values()))
            for row in table.rows
            for cell in (row.cells[name],)
        ]
        for name in table.measures
    }
    return forest(panels, table.baseline if table.baseline in [row.label for row in table.rows] else "")
