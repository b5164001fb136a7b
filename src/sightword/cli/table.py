"""Measures and tables as text and as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sightword.engine.contract import Cell, Row


def measured(metrics: Mapping[str, float], notes: Mapping[str, str]) -> list[str]:
    """Return a line for each metric, with the note on it."""
    return [f"  {name:<20} {value:<10.4g} {notes.get(name, '')}".rstrip() for name, value in metrics.items()]


def write_table(report: Path, name: str, rows: Sequence[Row], protocol: Mapping[str, str]) -> list[Path]:
    """Write rows as <report>_<name>.csv, for programs, and .txt, for eyes, below the protocol. Return the files."""
    import csv

    from sightword.storage.atomic import write_atomically

    files = [report.with_name(f"{report.stem}_{name}{suffix}") for suffix in (".csv", ".txt")]
    with write_atomically(files[0]) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    told = [f"{what}: {text}" for what, text in protocol.items()]
    with write_atomically(files[1]) as part:
        part.write_text("\n".join([*told, "", *_columns(rows)]) + "\n", encoding="utf-8")
    return files


def _columns(rows: Sequence[Row]) -> list[str]:
    """Rows in columns as wide as they need be: numbers to the right, those with a fraction to three digits."""
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
