"""Charts: bars, curves, matrices, the terms of a sum.

Charts are drawn three times too large and reduced, which smooths their lines; their text is drawn afterwards.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightword.viz.style import (
    AGAINST,
    FAINT,
    FOR,
    GREY,
    INK,
    LABEL,
    LINES,
    SMOOTH,
    TITLE,
    Array,
    Point,
    as_numpy,
    cut,
    font_of,
    inverse,
    slanted_text,
)


def terms(values: Mapping[str, float], width: int = 300, total: str = "") -> Image.Image:
    """Draw the terms of a sum, one per line: its name, its value, and a bar, right if positive, else left.

    width: of the figure in pixels. total: text of a last line below a rule.
    """
    line, middle, reach = LABEL + 8, round(width * 0.7), round(width * 0.14)
    page = Image.new("RGB", (width, line * (len(values) + bool(total)) + 4), "white")
    pen, largest = ImageDraw.Draw(page), max(map(abs, values.values()), default=0.0) or 1.0
    for number, (name, value) in enumerate(values.items()):
        y, end = line * number, middle + round(reach * value / largest)
        pen.rectangle((min(middle, end), y + 3, max(middle, end), y + LABEL + 1), FOR if value > 0 else AGAINST)
        pen.text((0, y), name, INK, font_of(LABEL))
        pen.text((width - 1, y), f"{value:+.2f}", GREY, font_of(LABEL), anchor="ra")
    if total:
        y = line * len(values)
        pen.line((0, y, width, y), FAINT)
        pen.text((0, y + 3), total, INK, font_of(LABEL))
    return page


def matrix(values: Array, rows: Sequence[str], columns: Sequence[str], cell: int = 18) -> Image.Image:
    """Draw signed values (R, C) as cells of `cell` pixels: red positive, blue negative; columns named above."""
    signed = as_numpy(values).astype(np.float64)
    if signed.shape != (len(rows), len(columns)):
        raise ValueError(f"values are {signed.shape}, for {len(rows)} rows and {len(columns)} columns")
    share = np.clip(signed / (np.abs(signed).max() or 1.0), -1, 1)[..., None]
    colours = np.rint(255 + np.abs(share) * (np.where(share > 0, FOR, AGAINST) - 255.0)).astype(np.uint8)
    slanted = [slanted_text(name) for name in columns]
    left = max(round(font_of(LABEL).getlength(name)) for name in rows) + 10
    above, after = max(label.height for label in slanted) + 4, max(label.width for label in slanted)
    page = Image.new("RGB", (left + cell * len(columns) + after, above + cell * len(rows) + 2), "white")
    for number, label in enumerate(slanted):
        where = (left + cell * number + 2, above - label.height - 2)
        page.paste(label, where, Image.eval(label.convert("L"), inverse))
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(rows):
        pen.text((left - 6, above + cell * i + 2), name, INK, font_of(LABEL), anchor="ra")
        for j in range(len(columns)):
            x, y = left + cell * j, above + cell * i
            pen.rectangle((x, y, x + cell - 2, y + cell - 2), tuple(colours[i, j].tolist()))
    return page


RIGHT_CELL, WRONG_CELL = (31, 111, 184), (214, 60, 40)  # full colours on and off the diagonal
WIDEST_NAME = 230  # pixels; longer class names are cut


def confusion(counts: Array, names: Sequence[str], title: str = "", worst: int = 5) -> Image.Image:
    """Draw a confusion matrix: counts (C, C), rows the true class, columns the predicted one, in per cent of the row.

    Correct predictions are blue, wrong ones red; a cell under half a per cent has no number. At the right stands the
    number of items of each class; below, the `worst` most frequent confusions, by their fraction of the class.
    Readable up to 60 classes and more: cells shrink to 22 pixels, and long names are cut.
    """
    values = as_numpy(counts).astype(np.float64)
    if values.shape != (len(names), len(names)) or not len(names):
        raise ValueError(f"a confusion matrix of {len(names)} classes is (C, C), this is {values.shape}")
    totals = values.sum(1, keepdims=True)
    share = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
    cell, small = (34, 12) if len(names) <= 20 else (26, 11) if len(names) <= 40 else (22, 10)
    shown, label = [cut(name, WIDEST_NAME) for name in names], font_of(LABEL)
    slanted, mistakes = [slanted_text(name) for name in shown], _mistakes(share, names, worst)
    left = 12 + math.ceil(max(label.getlength(name) for name in shown)) + 8
    head = 12 + (TITLE + 10 if title else 0) + 2 * (LABEL + 6)
    above, side = head + max(image.height for image in slanted) + 4, cell * len(names)
    longest = max([label.getlength(line) for line in (*mistakes, _READING[1])] + [font_of(TITLE).getlength(title)])
    width = max(left + side + max(64, slanted[-1].width + 8), math.ceil(longest) + 24)
    page = Image.new("RGB", (width, above + side + 14 + (LABEL + 7) * len(mistakes) + 8), "white")
    for number, image in enumerate(slanted):
        where = (left + cell * number + cell // 3, above - image.height - 4)
        page.paste(image, where, Image.eval(image.convert("L"), inverse))
    pen = ImageDraw.Draw(page)
    _write_lines(pen, title, head)
    _cells(pen, share, (left, above), cell, font_of(small))
    for number, name in enumerate(shown):
        y = above + cell * number + cell / 2
        pen.text((left - 8, y), name, INK, label, anchor="rm")
        count = int(totals[number, 0])
        pen.text((left + side + 6, y), f"{count:,}" if count else "none", GREY, label, anchor="lm")
    for number, line in enumerate(mistakes):
        pen.text((12, above + side + 14 + number * (LABEL + 7)), line, INK if number else GREY, label)
    return page


_READING = (
    "rows: true class, columns: predicted class",
    "per cent of the row: blue correct, red wrong; at the right the number of items",
)


def _write_lines(pen: ImageDraw.ImageDraw, title: str, head: int) -> None:
    """Write the title and how to read the matrix; `head` pixels high."""
    if title:
        pen.text((12, 12), title, INK, font_of(TITLE))
    for number, line in enumerate(_READING):
        pen.text((12, head - (2 - number) * (LABEL + 6)), line, GREY, font_of(LABEL))


def _cells(
    pen: ImageDraw.ImageDraw,
    share: np.ndarray,
    corner: tuple[int, int],
    cell: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw the cells of a confusion matrix. share: (C, C), fractions of each row."""
    full = np.where(np.eye(len(share), dtype=bool)[..., None], RIGHT_CELL, WRONG_CELL)
    strength = np.where(share > 0, 0.08 + 0.92 * share, 0)[..., None]
    colours = np.rint(255 + strength * (full - 255.0)).astype(int)
    for i, j in np.ndindex(*share.shape):
        x, y = corner[0] + cell * j, corner[1] + cell * i
        empty = "#f4f5f7" if i != j else "#eaf1f8"
        pen.rectangle((x, y, x + cell - 2, y + cell - 2), tuple(colours[i, j].tolist()) if share[i, j] else empty)
        if share[i, j] >= 0.005:
            ink = "white" if share[i, j] > 0.5 else INK
            pen.text((x + cell / 2 - 1, y + cell / 2 - 1), f"{100 * share[i, j]:.0f}", ink, font, anchor="mm")


def _mistakes(share: np.ndarray, names: Sequence[str], worst: int) -> list[str]:
    """Return the largest cells off the diagonal as sentences, below a heading."""
    wrong = share * (1 - np.eye(len(share)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:worst]
    cells = [divmod(int(place), len(share)) for place in order]
    lines = [
        f"{100 * wrong[i, j]:.0f} % of “{names[i]}” predicted as “{names[j]}”" for i, j in cells if wrong[i, j] > 0
    ]
    return ["most frequent confusions", *lines] if lines else []


def bars(counts: Array, title: str = "", size: tuple[int, int] = (640, 280)) -> Image.Image:
    """Draw how often each code of a codebook is used: counts (K,), most used first, on a log axis.

    A flat top that reaches the right edge means that all codes are used about equally; the dashed line is the count of
    exactly equal use. The shaded part at the right marks codes that were never used.
    """
    values = np.sort(as_numpy(counts).astype(np.float64))[::-1]
    used, total, num_codes = int((values > 0).sum()), values.sum(), len(values)
    top = max(10.0, values.max())
    chart = _Chart(title or _usage_title(values, used), "codes, most used first", "times used (log scale)", size)
    chart.scale((0, num_codes), (math.log10(0.5), math.log10(top) + 0.08))
    chart.axes(_ticks(0, num_codes, 6, least_step=1), _decades(top))

    floor = chart.bottom
    edges = np.unique(np.linspace(0, used, min(used, chart.right - chart.left) + 1).astype(int))
    for first, last in pairwise(edges):  # codes that share a pixel are drawn as their mean
        y = chart.y(math.log10(values[first:last].mean()))
        gap = min(2.0, (chart.x(last) - chart.x(first)) // 4)
        chart.block(chart.x(first), y, chart.x(last) - gap, floor, LINES[0])
    if used < num_codes:
        chart.block(chart.x(used), chart.top, chart.x(num_codes), floor, "#fbe9e7")
        if chart.x(num_codes) - chart.x(used) > 90:
            middle = ((chart.x(used) + chart.x(num_codes)) / 2, (chart.top + floor) / 2)
            chart.text(middle, f"{num_codes - used:,} never used", "mm", "#b3402a")
    if total > 0:
        level = chart.y(math.log10(max(total / num_codes, 0.5)))
        chart.dashes(level, INK)
        chart.text((chart.right - 4, level - 3), "even use", "rb", INK)
    return chart.finish()


def curve(
    series: Mapping[str, Sequence[Point]],
    title: str = "",
    size: tuple[int, int] = (640, 320),
    x_label: str = "step",
    y_label: str = "",
    y_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Draw lines over steps, with a dot at each last point. series: name → points (step, value); non-finite skipped.

    size: (width, height) in pixels. y_range: ends of the value axis; None fits it to the lines, which magnifies small
    changes.
    """
    finite = {name: _finite(points) for name, points in series.items()}
    points = [point for line in finite.values() for point in line]
    chart = _Chart(title, x_label, y_label, size, legend=list(finite))
    if not points:
        chart.scale((0, 1), (0, 1))
        chart.axes([], [])
        chart.text(((chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2), "no data yet", "mm", GREY)
        return chart.finish()
    xs, ys = [x for x, _ in points], [y for _, y in points]
    chart.scale(_widened(min(xs), max(xs), 0.0), y_range or _widened(min(ys), max(ys), 0.06))
    chart.axes(_ticks(*chart.x_range, 8, least_step=1), _ticks(*chart.y_range, 6))
    for number, line in enumerate(finite.values()):
        chart.line([(chart.x(x), chart.y(y)) for x, y in line], LINES[number % len(LINES)])
    return chart.finish()


def _usage_title(values: np.ndarray, used: int) -> str:
    """Return the title of `bars`: codes in use, and perplexity."""
    share = values[values > 0] / max(values.sum(), 1)
    even = math.exp(-(share * np.log(share)).sum()) if used else 0
    return f"{used:,} of {len(values):,} codes used · perplexity {even:,.0f}"


def _finite(points: Sequence[Point]) -> list[Point]:
    """Return the points without NaN or infinity."""
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """Return an interval widened by a fraction of its length at both ends; never empty."""
    if low == high:
        half = abs(low) * 0.1 or 1.0
        return low - half, high + half
    return low - (high - low) * share, high + (high - low) * share


def _ticks(low: float, high: float, most: int, least_step: float = 0.0) -> list[tuple[float, str]]:
    """Return about `most` round values within [low, high] or fewer, with their labels."""
    rough = max((high - low) / most, least_step)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    places = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return [(float(place), _short(float(place), step)) for place in places]


def _decades(top: float) -> list[tuple[float, str]]:
    """Return the powers of ten up to `top` as ticks of a log axis; every second or third if there are many."""
    last = math.floor(math.log10(top))
    return [(float(power), _short(10.0**power, 10.0**power)) for power in range(0, last + 1, 1 + last // 6)]


def _short(value: float, step: float) -> str:
    """Return a tick's label, with no more digits than the step between ticks needs."""
    if abs(value) < step / 2:
        return "0"
    if abs(value) >= 1e9 or step < 1e-4:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if step >= unit:
            return f"{value / unit:g}{letter}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}"


class _Chart:
    """A frame with axes. Lines and blocks are drawn in pixels; `scale` sets how `x` and `y` map values to pixels."""

    def __init__(
        self, title: str, x_label: str, y_label: str, size: tuple[int, int], legend: Sequence[str] = ()
    ) -> None:
        self.size, self.x_label, self.y_label = size, x_label, y_label
        self.page = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), "white")
        self.pen = ImageDraw.Draw(self.page)
        self.texts: list[Callable[[ImageDraw.ImageDraw], None]] = []
        self.left, self.right = 16, size[0] - 20
        self.top, self.bottom = 16, size[1] - 46
        if title:
            self.text((self.left, self.top), title, "lt", INK, TITLE)
            self.top += 26
        self._legend(legend)
        if y_label:
            self.text((self.left, self.top), y_label, "lt", GREY)
            self.top += 20

    def _legend(self, names: Sequence[str]) -> None:
        """Draw the legend, in as many rows as it needs."""
        x, y = self.left, self.top
        for number, name in enumerate(names):
            width = 24 + font_of(LABEL).getlength(name) + 16
            if x > self.left and x + width > self.right:
                x, y = self.left, y + 18
            colour = LINES[number % len(LINES)]
            self.block(x, y + 4, x + 16, y + 7, colour)
            self.text((x + 22, y + 6), name, "lm", INK)
            x += int(width)
        if names:
            self.top = y + 24

    def scale(self, x_range: Point, y_range: Point) -> None:
        """Set the values at the ends of both axes."""
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        """Return the pixel of a value on the x axis."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Return the pixel of a value on the y axis."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def axes(self, x_ticks: list[tuple[float, str]], y_ticks: list[tuple[float, str]]) -> None:
        """Draw rules at the y ticks, a base line with the x ticks, and the labels of both."""
        self.left += math.ceil(max([font_of(LABEL).getlength(label) for _, label in y_ticks], default=0)) + 8
        for value, label in y_ticks:
            y = self.y(value)
            self.block(self.left, y - 0.5, self.right, y + 0.5, FAINT)
            self.text((self.left - 8, y), label, "rm", GREY)
        self.block(self.left, self.bottom - 0.5, self.right, self.bottom + 0.5, "#8c959f")
        for value, label in x_ticks:
            x = self.x(value)
            self.block(x - 0.5, self.bottom, x + 0.5, self.bottom + 5, "#8c959f")
            self.text((x, self.bottom + 8), label, "mt", GREY)
        self.text(((self.left + self.right) / 2, self.size[1] - 8), self.x_label, "mb", GREY)

    def block(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Draw a filled rectangle."""
        x0, y0, x1, y1 = (round(value * SMOOTH) for value in (left, top, right, bottom))
        if x1 > x0 and y1 > y0:
            self.pen.rectangle((x0, y0, x1 - 1, y1 - 1), colour)

    def line(self, points: Sequence[Point], colour: str, width: float = 2) -> None:
        """Draw a line, `width` pixels wide, with a dot at its end; a larger dot for a single point."""
        large = [(x * SMOOTH, y * SMOOTH) for x, y in points]
        if len(large) > 1:
            self.pen.line(large, colour, round(width * SMOOTH), joint="curve")
        for x, y in large if len(large) < 2 else (large[-1],):
            radius = (4 if len(large) < 2 else 3) * SMOOTH
            self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

    def dashes(self, y: float, colour: str) -> None:
        """Draw a dashed horizontal line."""
        for x in range(self.left, self.right, 8):
            self.block(x, y - 0.5, min(x + 4, self.right), y + 0.5, colour)

    def text(self, at: Point, text: str, anchor: str, colour: str, size: int = LABEL) -> None:
        """Write a text when the chart is finished; anchor as in PIL."""
        self.texts.append(lambda pen: pen.text(at, text, colour, font_of(size), anchor=anchor))

    def finish(self) -> Image.Image:
        """Return the chart in its own size, with its texts."""
        page = self.page.resize(self.size, Image.Resampling.BOX)
        pen = ImageDraw.Draw(page)
        for text in self.texts:
            text(pen)
        return page
