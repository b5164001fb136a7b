"""The page of `sightword demo`: one HTML file with the figures, metrics and commands of every demo.

A package takes part in the demo by a module `demo` with `section(out: Path, train: Train) -> Section`. The page holds
its images and its style itself and requests nothing from a network. `page.html.jinja` is its template, `page.css` its
style.
"""

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

MOST = 5  # metrics of a row
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

    @property
    def name(self) -> str:
        """Return the name of the system; empty if the title has no colon."""
        name, colon, _ = self.title.partition(": ")
        return name if colon else ""

    @property
    def heading(self) -> str:
        """Return the title without the name."""
        rest = self.title.removeprefix(f"{self.name}: ")
        return rest[:1].upper() + rest[1:] if self.name else self.title

    @property
    def columns(self) -> int:
        """Return how many metrics a row has room for: three to five, so that the rows are about equally long."""
        rows = max(1, math.ceil(len(self.metrics) / MOST))
        return max(3, math.ceil(len(self.metrics) / rows))


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
    import jinja2  # here: only `sightword demo` needs it, and other modules of the demos import this one

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["data_uri"] = png_data_uri
    style = (folder / "page.css").read_text(encoding="utf-8")
    template = environment.get_template("page.html.jinja")
    return template.render(sections=sections, style=style, version=VERSION, minutes=f"{seconds / 60:.1f}")
