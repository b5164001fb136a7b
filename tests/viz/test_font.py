"""Texts are drawn with a font that has their characters: checked on pixels."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from sightword.viz import font
from sightword.viz.chart import terms
from sightword.viz.font import cut, draw_text, font_file, font_of, length

CHINESE = any({ord("人"), ord("红")} <= font.characters(file) for file in font._files())
with_chinese = pytest.mark.skipif(not CHINESE, reason="no font with Chinese: pip install 'sightword[cjk]'")
BOX = "\U0010fffd"  # of private use: no font has it, so that it is drawn as the box of missing characters


def label(text, size=24):
    """The ink of a text, without the white around it."""
    page = Image.new("RGB", (400, 60), "white")
    draw_text(ImageDraw.Draw(page), (10, 10), text, "black", size)
    return inked(page)


def charted(text):
    """The ink of a text as a chart's first term."""
    return inked(terms({text: 1.0}, width=300).crop((0, 0, 60, 22)))


def inked(page):
    dark = 255 - np.asarray(page.convert("L")).astype(int)
    rows, columns = dark.max(1).nonzero()[0], dark.max(0).nonzero()[0]
    return dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def same(one, other):
    return one.shape == other.shape and np.abs(one - other).max() < 16


def boxes(size):
    """The boxes of missing characters of all fonts that texts may be drawn with."""
    for file in [None, *font._files()]:
        page = Image.new("RGB", (100, 100), "white")
        ImageDraw.Draw(page).text((20, 20), BOX, "black", font._opened(file, size))
        if np.asarray(page).min() < 255:
            yield inked(page)


@with_chinese
@pytest.mark.parametrize("drawn", [label, charted])
def test_chinese_characters_differ_from_each_other_and_from_the_missing_glyph(drawn):
    person, red = drawn("人"), drawn("红")
    assert min(person.shape) >= 7
    assert not same(person, red)
    assert same(person, drawn("人"))
    for size in (11, 24):
        for box in boxes(size):
            assert not same(person, box)
            assert not same(red, box)


@with_chinese
def test_a_mixed_text_has_one_font_for_all_its_characters():
    file = font_file("a person 人")
    assert file is not None
    assert {ord(letter) for letter in "a person人"} <= font.characters(file)
    assert length("a person 人", 20) > length("a person", 20) + 15


@with_chinese
def test_a_cut_chinese_text_fits_and_ends_with_an_ellipsis():
    text = "一个穿红色上衣的人" * 9
    found = cut(text, 200, 15)
    assert found.endswith("…")
    assert text.startswith(found[:-1])
    assert 160 < length(found, 15) <= 200


@with_chinese
def test_chinese_stands_on_the_line_of_latin_text():
    def bottom(text):
        page = Image.new("L", (80, 60), 0)
        draw_text(ImageDraw.Draw(page), (5, 10), text, 255, 30)
        return np.asarray(page).max(1).nonzero()[0].max()

    assert abs(bottom("H") - bottom("H田")) <= 5


def test_latin_text_keeps_pillows_own_font():
    assert font_file("a “quoted” word…") is None
    assert isinstance(font_of("plain", 12), ImageFont.FreeTypeFont)
    assert font_of("plain", 12).getname() == ImageFont.load_default(12).getname()


def test_accents_and_cyrillic_come_from_the_font_that_matplotlib_carries():
    assert font_file("Łódź, 16×16, кот") == font.plain_file()
    assert not same(label("é"), label("к"))


def test_a_broken_font_file_has_no_characters(tmp_path):
    (tmp_path / "notosanscjk.ttc").write_bytes(b"no font at all")
    assert font.characters(tmp_path / "notosanscjk.ttc") == frozenset()


def test_fonts_of_the_system_are_found_by_family_the_best_first(tmp_path, monkeypatch):
    names = (
        "msyh.ttc",
        "wqy-zenhei.ttc",
        "DejaVuSans.ttf",
        "NotoSansCJK-Bold.ttc",
        "NotoSansCJK-Regular.ttc",
        "notosanssc.txt",
    )
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_bytes(b"")
    monkeypatch.setattr(font, "FOLDERS", (str(tmp_path),))
    found = [file.name for file in font._system_files.__wrapped__()]
    assert found == ["NotoSansCJK-Regular.ttc", "NotoSansCJK-Bold.ttc", "wqy-zenhei.ttc", "msyh.ttc"]


def test_what_no_font_has_is_reported_once_in_one_line_that_names_the_extra():
    code = """
from PIL import Image, ImageDraw
from sightword.viz import chart, font
pen = ImageDraw.Draw(Image.new("RGB", (50, 50)))
for text in ("\U00012345", "\U00012345", "a \U00012346"):
    font.draw_text(pen, (0, 0), text, "white")
    chart.terms({text: 1.0})
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr
    assert told.count("\n") == 1
    assert "pip install 'sightword[cjk]'" in told
