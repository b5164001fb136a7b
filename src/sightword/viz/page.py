"""The page of `sightword demo`: one HTML file with the figures, metrics and commands of every demo.

A package takes part in the demo by a module `demo` with `section(out: Path, train: Train) -> Section`. The page holds
its images and its style itself and requests nothing from a network.
"""

import html
import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image

from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_csv, read_json
from sightword.storage.writer import png_data_uri
from sightword.version import VERSION

Train = Callable[[Path, list[str]], bool]  # (run directory, overrides as on the command line) → whether it finished


class Figure(NamedTuple):
    """An image of the page and its caption."""

    image: Image
    caption: str


class Section(NamedTuple):
    """The demo of one system."""

    title: str  # "name: what it does"; the page shows the name above the rest
    lead: str  # two sentences for readers who do not know the system
    figures: Sequence[Figure]
    metrics: Mapping[str, tuple[str, str]]  # name → (value with its unit, what it means)
    commands: Sequence[tuple[str, str]]  # (purpose, command line)
    page_note: str  # data, split and duration behind the numbers


def make_page(out: Path, packages: Sequence[str], train: Train) -> Path:
    """Run the demos of the named packages, each in a folder below `out`, and write out/index.html."""
    began = time.perf_counter()
    sections = []
    for package in packages:
        demo = importlib.import_module(f"{package}.demo")
        sections.append(demo.section(out / package.rpartition(".")[2], train))
    page = out / "index.html"
    with write_atomically(page) as part:
        part.write_text(page_of(sections, time.perf_counter() - began), encoding="utf-8")
    print(f"\nWrote {page}: open it in a browser.")
    return page


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the columns of a run's metrics.csv: name → [(batch, value)], empty cells left out.

    Raises SightwordError if the file does not exist or is damaged.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    columns, rows = read_csv(run / "metrics.csv", ["step"])
    for row in rows:
        for name in columns:
            if name != "step" and name in row:
                series.setdefault(name, []).append((row.integer("step"), row.number(name, finite=False)))
    return series


def seconds(run: Path) -> float:
    """Return the duration of a run's training in seconds. Raises SightwordError if its summary.json is missing."""
    return read_json(run / "summary.json").mapping("cost").number("seconds")


def page_of(sections: Sequence[Section], seconds: float) -> str:
    """Return the page as HTML. seconds: how long it took to compute."""
    links = "".join(
        f'<a href="#s{number}">{html.escape(_name(section)[0] or section.title)}</a>'
        for number, section in enumerate(sections)
    )
    body = "\n".join(_section(section, number) for number, section in enumerate(sections))
    return _PAGE.format(style=_STYLE, version=VERSION, minutes=f"{seconds / 60:.1f}", links=links, body=body)


def _name(section: Section) -> tuple[str, str]:
    """Return the name of a system and the rest of its title; the name is empty if the title has no colon."""
    name, colon, rest = section.title.partition(": ")
    return (name, rest[:1].upper() + rest[1:]) if colon else ("", section.title)


def _section(section: Section, number: int) -> str:
    """Return a section as HTML."""
    name, title = _name(section)
    figures = "\n".join(
        f'<figure><div class="scroll"><img src="{png_data_uri(figure.image)}" width="{figure.image.width}" '
        f'height="{figure.image.height}" alt="{html.escape(figure.caption)}"></div>'
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
        for figure in section.figures
    )
    metrics = "\n".join(
        f"<div><dt>{html.escape(name)}</dt><dd><b>{html.escape(value)}</b>{html.escape(meaning)}</dd></div>"
        for name, (value, meaning) in section.metrics.items()
    )
    rows = math.ceil(len(section.metrics) / 5)
    columns = max(3, math.ceil(len(section.metrics) / max(1, rows)))  # rows of about equally many
    commands = "\n".join(
        f"<p>{html.escape(what)}</p><pre><code>{html.escape(command)}</code></pre>"
        for what, command in section.commands
    )
    return (
        f'<section id="s{number}"><p class="name">{html.escape(name)}</p><h2>{html.escape(title)}</h2>'
        f'<p class="lead">{html.escape(section.lead)}</p><dl style="--columns: {columns}">{metrics}</dl>'
        f'<p class="note">{html.escape(section.page_note)}</p>{figures}'
        f'<div class="next"><h3>What to run next</h3>{commands}</div></section>'
    )


_STYLE = """
:root { color-scheme: light; --ink: #1d2530; --soft: #4a5563; --rule: #e4e7eb; --blue: #1f5fc4; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 64px; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: #f4f5f7;
  margin: 0; }
header, section, footer { max-width: 1080px; margin: 0 auto; padding: 0 32px; }
header { padding-top: 44px; }
h1 { font-size: 40px; line-height: 1.1; margin: 0; letter-spacing: -0.02em; }
header p { font-size: 19px; color: var(--soft); margin: 8px 0 20px; }
nav { position: sticky; top: 0; z-index: 1; background: #f4f5f7ee; border-bottom: 1px solid var(--rule);
  margin-bottom: 28px; }
nav div { max-width: 1080px; margin: 0 auto; padding: 10px 22px; display: flex; flex-wrap: wrap; gap: 4px; }
nav a { color: var(--soft); text-decoration: none; font-size: 15px; padding: 4px 10px; border-radius: 6px; }
nav a:hover, nav a:focus-visible { color: var(--blue); background: #fff; }
section { background: #fff; border-radius: 12px; padding: 30px 32px 8px; box-shadow: 0 1px 3px #0002;
  margin-bottom: 28px; overflow: hidden; }
.name { color: var(--blue); font-size: 13px; font-weight: 600; letter-spacing: 0.08em; text-transform: uppercase;
  margin: 0 0 2px; }
h2 { margin: 0 0 10px; font-size: 26px; line-height: 1.25; letter-spacing: -0.01em; }
h3 { margin: 0 0 8px; font-size: 17px; }
.lead { font-size: 17px; max-width: 44em; margin: 0; }
dl { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 12px; margin: 24px 0 0; }
dl div { border: 1px solid var(--rule); border-radius: 8px; padding: 11px 14px 12px; }
dt { font-size: 13px; font-weight: 600; color: var(--soft); }
dd { margin: 0; font-size: 14px; line-height: 1.4; color: var(--soft); }
dd b { display: block; font-size: 25px; line-height: 1.3; font-weight: 650; color: var(--ink);
  font-variant-numeric: tabular-nums; }
figure { margin: 30px 0; }
.scroll { overflow-x: auto; }
img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 14px; margin-top: 8px; max-width: 54em; }
.note { color: var(--soft); font-size: 14px; margin: 10px 0 0; max-width: 54em; }
.next { background: #f8f9fb; border-top: 1px solid var(--rule); margin: 32px -32px -8px; padding: 22px 32px 16px; }
.next p { margin: 12px 0 4px; font-size: 15px; }
pre { background: var(--ink); color: #e8edf3; padding: 11px 15px; border-radius: 8px; margin: 0; font-size: 14px;
  line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
footer { color: #6b7683; font-size: 14px; padding-bottom: 40px; }
@media (max-width: 600px) { section, header, footer { padding-left: 18px; padding-right: 18px; }
  section { border-radius: 0; }
  .next { margin-left: -18px; margin-right: -18px; padding-left: 18px; padding-right: 18px; }
  dl { grid-template-columns: repeat(2, minmax(0, 1fr)); } img { max-width: none; } }
@media print { nav { display: none; } body { background: #fff; } section { box-shadow: none; } }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sightword demo</title><link rel="icon" href="data:,">
<style>{style}</style></head><body>
<header><h1>Sightword</h1><p>Five research systems that tie what is seen to words, each in miniature.</p></header>
<nav><div>{links}</div></nav>
{body}
<footer>Sightword {version}. Everything on this page was computed on this machine in {minutes} minutes, without a
network.</footer>
</body></html>
"""
