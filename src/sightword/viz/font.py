"""Text in figures: a font that has its characters, its width, and how it is drawn.

Pillow's own font has few letters besides ASCII. A text that it cannot draw takes the first font that has all characters
of the text: DejaVu Sans, which matplotlib carries; the Chinese font of the extra `cjk`; then fonts of the system.
"""

import io
import os
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageDraw, ImageFont

LABEL, TITLE = 12, 14  # text sizes in pixels
EXTRA = ("pylopdf_fonts_zh_cn", "NotoSansSC-Regular.otf")  # package of the extra `cjk`, and its file
FOLDERS = (  # of fonts, on Linux, macOS and Windows
    "~/.local/share/fonts",
    "~/.fonts",
    "/usr/local/share/fonts",
    "/usr/share/fonts",
    "~/Library/Fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "~/AppData/Local/Microsoft/Windows/Fonts",
    "C:/Windows/Fonts",
)
FAMILIES = (  # how names of font files with Chinese begin, without "-", "_" and spaces; the best first
    "notosanscjksc",
    "notosanscjk",
    "notosanssc",
    "sourcehansanssc",
    "sourcehansans",
    "wqyzenhei",
    "wqymicrohei",
    "droidsansfallback",
    "pingfang",
    "hiraginosansgb",
    "stheiti",
    "msyh",
    "simhei",
    "simsun",
    "arialunicode",
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_of(text: str, size: int = LABEL) -> Font:
    """Return a font for a text, `size` pixels large: Pillow's own if that has the text's characters."""
    return _opened(font_file(text), size)


def length(text: str, size: int = LABEL) -> float:
    """Return the width of a text in pixels."""
    return font_of(text, size).getlength(text)


def cut(text: str, width: float, size: int = LABEL, font: Font | None = None) -> str:
    """Return the text, shortened with an ellipsis to at most `width` pixels. font: if it is not `font_of`."""
    face = font or font_of(text, size)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def draw_text(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: str | tuple[int, ...],
    size: int = LABEL,
    anchor: str = "la",
) -> None:
    """Write a text at a pixel. anchor: as in Pillow; a text of another font has the base line of Pillow's own font."""
    font, own = font_of(text, size), _opened(None, size)
    if font is not own and isinstance(own, ImageFont.FreeTypeFont) and anchor[1] in "amd" and "\n" not in text:
        ascent, descent = own.getmetrics()
        down = {"a": ascent, "m": (ascent - descent) / 2, "d": -descent}[anchor[1]]
        at, anchor = (at[0], round(at[1] + down)), anchor[0] + "s"
    pen.text(at, text, colour, font, anchor=anchor)


@lru_cache(1024)
def font_file(text: str) -> Path | None:
    """Return the file of a font that has all characters of a text, or None if Pillow's own font is to draw the text.

    If no font has all characters, the font with the most of them is chosen, and the first such text is reported on
    stderr.
    """
    wanted = frozenset(ord(letter) for letter in text if letter.isprintable() and not letter.isspace())
    if text.isascii() or wanted <= _own_characters():
        return None
    best, most = None, len(wanted & _own_characters())
    for file in _files():
        found = len(wanted & characters(file))
        if found > most:
            best, most = file, found
        if found == len(wanted):
            return best
    known = _own_characters() if best is None else characters(best)
    _report("".join(sorted(map(chr, wanted - known))))
    return best


def plain_file() -> Path:
    """Return the file of DejaVu Sans, the font of charts. Does not import matplotlib."""
    return _packaged("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf")[0]


@cache
def characters(file: Path) -> frozenset[int]:
    """Return the code points that a font file has; none if the file cannot be read."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(file, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, ValueError, AssertionError):
        return frozenset()


@cache
def _own_characters() -> frozenset[int]:
    from fontTools.ttLib import TTFont

    own = _opened(None, LABEL)
    if not isinstance(own, ImageFont.FreeTypeFont) or not isinstance(own.path, io.BytesIO):
        return frozenset(range(128))
    return frozenset(TTFont(io.BytesIO(own.path.getvalue())).getBestCmap())


@cache
def _opened(file: Path | None, size: int) -> Font:
    return ImageFont.load_default(size=size) if file is None else ImageFont.truetype(file, size)


def _files() -> Iterator[Path]:
    """Yield the fonts to try, best first. The system's fonts are listed only if they are needed."""
    yield plain_file()
    yield from _packaged(*EXTRA)
    yield from _system_files()


def _packaged(package: str, name: str) -> list[Path]:
    """Return a file of an installed package, which is not imported; nothing if it is not installed."""
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    return [file for folder in folders if (file := Path(folder, name)).is_file()]


@cache
def _system_files() -> list[Path]:
    """Return the system's files of known families that have Chinese, in the order of `FAMILIES`."""
    found: list[tuple[int, str, Path]] = []
    for folder in FOLDERS:
        for parent, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                plain = name.lower().translate({ord(letter): None for letter in "-_ "})
                family = next((n for n, family in enumerate(FAMILIES) if plain.startswith(family)), None)
                if family is not None and plain.endswith((".ttf", ".otf", ".ttc")):
                    found.append((2 * family + ("regular" not in plain), name, Path(parent, name)))
    return [file for _, _, file in sorted(found)]


_reported: list[str] = []  # what was missing, once a line has been printed


def _report(missing: str) -> None:
    """Print one line to stderr, once per process."""
    if not _reported:
        _reported.append(missing)
        print(
            f"no font here has {missing[:20]!r}: figures show boxes. Install a font that has them, for Chinese: "
            "pip install 'sightword[cjk]'",
            file=sys.stderr,
        )
