"""The demo: every system in miniature, offline, on one page.

A package takes part by having a `demo.py` with `section(out: Path, train: Train) -> Section`; `train` trains in a
folder, by the words of the command line. The page is one file: pictures are inside it, and it asks nothing of the
network.
"""

import csv
import html
import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image

from sightword.storage.atomic import write_atomically
from sightword.version import VERSION
from sightword.viz.grid import to_data_uri

Train = Callable[[Path, list[str]], bool]  # (folder, words as on the command line) → whether it was finished


class Figure(NamedTuple):
    """A picture and what to see in it."""

    image: Image
    caption: str


class Section(NamedTuple):
    """What a system shows."""

    title: str
    lead: str  # two sentences for somebody who has never heard of it
    figures: Sequence[Figure]
    measures: Mapping[str, tuple[str, str]]  # name → (value, what it means)
    commands: Sequence[tuple[str, str]]  # (what for, what to type)
    page_note: str  # how the numbers came about


def make_page(out: Path, packages: Sequence[str], train: Train) -> Path:
    """Run the demos of the packages named and write <out>/index.html."""
    began = time.perf_counter()
    sections = []
    for package in packages:
        part = importlib.import_module(f"{package}.demo")
        sections.append(part.section(out / package.rpartition(".")[2], train))
    page = out / "index.html"
    with write_atomically(page) as beside:
        beside.write_text(_page(sections, time.perf_counter() - began), encoding="utf-8")
    print(f"\nthe page: {page}")
    return page


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Name → [(batch, value)] of everything in a run's metrics.csv."""
    series: dict[str, list[tuple[int, float]]] = {}
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    series.setdefault(name, []).append((int(row["step"]), float(value)))
    return series


def seconds(run: Path) -> float:
    """How long a run trained."""
    return float(json.loads((run / "summary.json").read_text(encoding="utf-8"))["cost"]["seconds"])


def _page(sections: Sequence[Section], seconds: float) -> str:
    body = "\n".join(_section(section) for section in sections)
    return _TEMPLATE.format(version=VERSION, minutes=f"{seconds / 60:.1f}", body=body)


def _section(section: Section) -> str:
    figures = "\n".join(
        f'<figure><img src="{to_data_uri(figure.image)}" width="{figure.image.width}" '
        f'alt="{html.escape(figure.caption)}"><figcaption>{html.escape(figure.caption)}</figcaption></figure>'
        for figure in section.figures
    )
    rows = "\n".join(
        f"<tr><th>{html.escape(name)}<td class=number>{html.escape(value)}<td>{html.escape(meaning)}</tr>"
        for name, (value, meaning) in section.measures.items()
    )
    commands = "\n".join(
        f"<p>{html.escape(what)}</p><pre>{html.escape(command)}</pre>" for what, command in section.commands
    )
    return (
        f"<section><h2>{html.escape(section.title)}</h2><p class=lead>{html.escape(section.lead)}</p>{figures}"
        f"<table>{rows}</table><p class=note>{html.escape(section.page_note)}</p>"
        f"<h3>What to type next</h3>{commands}</section>"
    )


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sightword demo</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 17px/1.55 system-ui, sans-serif; color: #1d2530; background: #f4f5f7; margin: 0; }}
header, section, footer {{ max-width: 1080px; margin: 0 auto; padding: 0 28px; }}
header {{ padding-top: 40px; }}
h1 {{ font-size: 40px; margin: 0; letter-spacing: -0.02em; }}
header p {{ font-size: 20px; color: #4a5563; margin: 6px 0 28px; }}
section {{ background: #fff; border-radius: 14px; padding: 28px; box-shadow: 0 1px 3px #0002;
  margin-bottom: 28px; }}
h2 {{ margin: 0 0 6px; font-size: 26px; }}
h3 {{ margin: 28px 0 4px; }}
.lead {{ font-size: 18px; max-width: 46em; margin-top: 0; }}
figure {{ margin: 26px 0; }}
img {{ max-width: 100%; height: auto; display: block; }}
figcaption {{ color: #4a5563; font-size: 15px; margin-top: 8px; max-width: 50em; }}
table {{ border-collapse: collapse; width: 100%; font-size: 16px; }}
th, td {{ text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }}
th {{ font-weight: 600; white-space: nowrap; }}
.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
.note {{ color: #4a5563; font-size: 15px; }}
pre {{ background: #1d2530; color: #e8edf3; padding: 11px 15px; border-radius: 8px; white-space: pre-wrap;
  margin: 4px 0 14px; }}
section p:has(+ pre) {{ margin-bottom: 4px; }}
footer {{ color: #6b7683; font-size: 14px; padding-bottom: 40px; }}
</style></head><body>
<header><h1>Sightword</h1><p>Tie what is seen to words: research systems on one small core.</p></header>
{body}
<footer>Sightword {version}. Everything on this page was computed here in {minutes} minutes, without a network.</footer>
</body></html>
"""
