"""Write tables as CSV, for programs, and as aligned text, for people."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightword.storage.atomic import write_atomically

Cell = str | int | float | None
Row = Mapping[str, Cell]  # all rows of a table have the same columns


def write_table(report: Path, name: str, rows: Sequence[Row], protocol: Mapping[str, str]) -> list[Path]:
    """Write rows as <report>_<name>.csv and, below the protocol, as aligned .txt. Return the files."""
    files = [report.with_name(f"{report.stem}_{name}{suffix}") for suffix in (".csv", ".txt")]
    with write_atomically(files[0]) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    head = [f"{what}: {text}" for what, text in protocol.items()]
    with write_atomically(files[1]) as part:
        part.write_text("\n".join([*head, "", *columns(rows)]) + "\n", encoding="utf-8")
    return files


def columns(rows: Sequence[Row]) -> list[str]:
    """Return rows as lines with aligned columns: numbers to the right, those with a fraction to three digits."""
    cells = [[_cell(value) for value in row.values()] for row in rows]
    names = list(rows[0])
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    widths = [max(len(line[column]) for line in [names, *cells]) for column in range(len(names))]
    aligned = [
        [f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(line, widths, right, strict=True)]
        for line in [names, *cells]
    ]
    return ["  ".join(line).rstrip() for line in aligned]


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
