"""The demo's page holds what the sections say, in one file that requests nothing."""

import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from sightword.errors import SightwordError
from sightword.viz.page import Figure, Section, logged, make_page, page_of, seconds

SECTION = Section(
    title="toy: a < b & c",
    lead="It “draws” <nothing>.",
    figures=[Figure(Image.new("RGB", (40, 20), "red"), 'a "red" one')],
    metrics={"PSNR": ("21.50 dB", "higher is better"), "a<b": ("7 %", "of <all>")},
    commands=[("Type:", 'sightword ask "a dog" <here>')],
    page_note="Measured on 3 < 4 images.",
)


class Reader(HTMLParser):
    """Texts, addresses and open tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts, self.addresses, self.open = "", list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts += data


def test_every_text_of_a_section_is_on_the_page_as_it_was_written() -> None:
    read = Reader(page_of([SECTION], 90))
    texts = [SECTION.lead, SECTION.page_note, "A < b & c", "toy", SECTION.figures[0].caption, "1.5 minutes"]
    texts += [text for name, pair in SECTION.metrics.items() for text in (name, *pair)]
    texts += [text for pair in SECTION.commands for text in pair]
    for text in texts:
        assert text in read.texts
    assert not read.open, "every tag is closed"


def test_a_command_is_shown_line_by_line_and_nothing_of_a_section_is_executed() -> None:
    command = "sightword lift \\\n  out={{ 7 * 7 }}  # two  spaces"
    read = Reader(page_of([SECTION._replace(commands=[("{% raw %}", command)])], 0))
    assert command in read.texts
    assert "{% raw %}" in read.texts


@pytest.mark.parametrize(("count", "columns"), [(0, 3), (2, 3), (5, 5), (6, 3), (7, 4), (11, 4), (15, 5)])
def test_metrics_stand_in_rows_of_about_equally_many(count: int, columns: int) -> None:
    metrics = {str(number): ("1", "one") for number in range(count)}
    assert f'<dl style="--columns: {columns}">' in page_of([SECTION._replace(metrics=metrics)], 0)


def test_the_page_requests_nothing() -> None:
    page = page_of([SECTION, SECTION], 0)
    assert all(re.match(r"data:|#s[01]$", address) for address in Reader(page).addresses)
    assert not re.search(r"url\(|@import|<script", page)


def test_the_links_lead_to_the_sections() -> None:
    page = page_of([SECTION, SECTION._replace(title="without a name")], 0)
    for number, name in enumerate(("toy", "without a name")):
        assert f'<a href="#s{number}">{name}</a>' in page
        assert f'<section id="s{number}">' in page


def test_each_package_gets_a_folder_of_its_own_and_the_page_is_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    demo = ModuleType("toys.line.demo")
    demo.section = lambda out, train: (folders.append(out), SECTION)[1]  # type: ignore[attr-defined]
    for module in (ModuleType("toys"), ModuleType("toys.line"), demo):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    tmp_path = tmp_path / "out"
    tmp_path.mkdir()
    page = make_page(tmp_path, ["toys.line"], lambda folder, overrides: True)
    assert folders == [tmp_path / "line"]
    assert page == tmp_path / "index.html"
    assert "21.50 dB" in page.read_text(encoding="utf-8")
    assert str(page) in capsys.readouterr().out


def test_a_series_has_the_batches_at_which_it_was_logged(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/psnr\n10,0.5,\n20,nan,21.5\n")
    series = logged(tmp_path)
    assert series["val/psnr"] == [(20, 21.5)]
    assert series["train/loss"][0] == (10, 0.5)
    assert math.isnan(series["train/loss"][1][1])


def test_a_run_without_its_files_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SightwordError, match=r"metrics\.csv"):
        logged(tmp_path)
    with pytest.raises(SightwordError, match=r"summary\.json"):
        seconds(tmp_path)
    (tmp_path / "summary.json").write_text('{"cost": {"seconds": 12.5}}')
    assert seconds(tmp_path) == 12.5
