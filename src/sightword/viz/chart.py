"""Charts by matplotlib: bars, curves, matrices, the terms of a sum.

Every chart is a `Figure` of its own, of one pixel per point; pyplot and the caller's rcParams are not used. matplotlib
is imported when the first chart is drawn.
"""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, NamedTuple, ParamSpec

import numpy as np
from PIL import Image, ImageFont

from sightword.viz.font import cut, font_file, plain_file
from sightword.viz.style import AGAINST, FAINT, FOR, GREY, INK, OTHER, PALETTE, Array, as_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]
Given = ParamSpec("Given")

TEXT, HEAD = 11, 13  # text sizes in pixels; DejaVu Sans looks larger than Pillow's font
MARGIN = 10  # pixels around a chart that is as large as its content
SLANT = 50  # degrees, of the names of columns
WIDEST_NAME = 230  # pixels; longer names of classes are cut
BAR, UNUSED, UNUSED_INK = PALETTE[7], "#fbe9e7", "#b3402a"
RIGHT_CELL, WRONG_CELL = (31, 111, 184), (214, 60, 40)  # full colours on and off the diagonal
EMPTY_CELL = 0.955  # grey


def _styled(draw: Callable[Given, Image.Image]) -> Callable[Given, Image.Image]:
    """Draw in the style of charts, whatever rcParams the caller has; they are the same afterwards."""

    @wraps(draw)
    def drawn(*args: Given.args, **named: Given.kwargs) -> Image.Image:
        import matplotlib

        with matplotlib.rc_context():
            _set_style()
            return draw(*args, **named)

    return drawn


def _set_style() -> None:
    import matplotlib

    matplotlib.rcdefaults()
    matplotlib.rcParams.update(
        {
            "figure.dpi": 72,  # a point is a pixel
            "figure.constrained_layout.w_pad": MARGIN / 72,
            "figure.constrained_layout.h_pad": 0.5 * MARGIN / 72,
            "savefig.dpi": 72,
            "font.size": TEXT,
            "text.color": INK,
            "text.parse_math": False,  # a name may contain "$"
            "axes.titlesize": HEAD,
            "axes.titlelocation": "left",
            "axes.labelsize": TEXT,
            "axes.labelcolor": GREY,
            "axes.edgecolor": GREY,
            "axes.spines.left": False,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.axisbelow": True,
            "axes.formatter.useoffset": False,
            "axes.formatter.limits": (-4, 7),
            "grid.color": FAINT,
            "grid.linewidth": 1,
            "xtick.labelsize": TEXT,
            "xtick.color": GREY,
            "ytick.labelsize": TEXT,
            "ytick.color": GREY,
            "ytick.major.size": 0,
            "legend.frameon": False,
            "legend.handlelength": 1.5,
            "legend.fontsize": TEXT,
        }
    )


@_styled
def terms(values: Mapping[str, float], width: int = 300, total: str = "") -> Image.Image:
    """Draw the terms of a sum, one per line: its name, its value, and a bar, right if positive, else left.

    width: of the figure in pixels. total: text of a last line below a rule.
    """
    line, middle, reach = TEXT + 9, round(width * 0.7), round(width * 0.14)
    height = line * (len(values) + bool(total)) + 4
    figure, axes = _page(width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    largest = max(map(abs, values.values()), default=0.0) or 1.0
    for number, (name, value) in enumerate(values.items()):
        y = line * (number + 0.5)
        colour = np.divide(FOR if value > 0 else AGAINST, 255)
        axes.barh(y, round(reach * value / largest), TEXT, middle, color=colour, antialiased=False)
        axes.text(0, y, _cut(name, middle - reach - 6), va="center_baseline")
        axes.text(width - 1, y, f"{value if round(value, 2) else 0:+.2f}", color=GREY, ha="right", va="center_baseline")
    if total:
        axes.axhline(line * len(values) + 1, color=FAINT, linewidth=1)
        axes.text(0, line * (len(values) + 0.5) + 1, _cut(total, width), va="center_baseline")
    return _picture(figure)


@_styled
def matrix(values: Array, rows: Sequence[str], columns: Sequence[str], cell: int = 18) -> Image.Image:
    """Draw signed values (R, C) as cells of `cell` pixels: red positive, blue negative; columns named above."""
    signed = as_numpy(values).astype(np.float64)
    if signed.shape != (len(rows), len(columns)):
        raise ValueError(f"values are {signed.shape}, for {len(rows)} rows and {len(columns)} columns")
    largest = float(np.abs(signed).max()) or 1.0
    share = np.abs(signed / largest)[..., None]
    figure, axes = _cells(1 + share * (np.where(signed[..., None] > 0, FOR, AGAINST) / 255 - 1), rows, columns, cell)
    _note(axes, (0, 0), (0, -8), f"full red: +{largest:.2g}; full blue: −{largest:.2g}", GREY)
    return _picture(figure, tight=True)


@_styled
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
    cell, small = (34, 11) if len(names) <= 20 else (26, 10) if len(names) <= 40 else (22, 9)
    full = np.where(np.eye(len(names), dtype=bool)[..., None], RIGHT_CELL, WRONG_CELL) / 255
    colours = np.where(share[..., None] > 0, 1 + (0.08 + 0.92 * share[..., None]) * (full - 1), EMPTY_CELL)
    shown = [_cut(name, WIDEST_NAME) for name in names]
    figure, axes = _cells(colours, shown, shown, cell)
    for i, j in np.argwhere(share >= 0.005).tolist():
        ink = "white" if share[i, j] > 0.5 else INK
        inside = axes.text(j, i, f"{100 * share[i, j]:.0f}", color=ink, size=small, ha="center", va="center_baseline")
        inside.set_in_layout(False)  # of the cells: need not be measured
    for i, count in enumerate(totals[:, 0].astype(int).tolist()):
        axes.text(len(names) - 0.5 + 6 / cell, i, f"{count:,}" if count else "none", color=GREY, va="center_baseline")
    above = max(_font(name).getlength(name) for name in shown) * math.sin(math.radians(SLANT)) + TEXT + 12
    for line in reversed(READING):
        _note(axes, (0, 1), (0, above), line, GREY)
        above += TEXT + 6
    _note(axes, (0, 1), (0, above + 4), title, INK, HEAD)
    for number, line in enumerate(_mistakes(share, names, worst)):
        _note(axes, (0, 0), (0, -12 - number * (TEXT + 7)), line, INK if number else GREY)
    return _picture(figure, tight=True)


READING = (
    "rows: true class, columns: predicted class",
    "per cent of the row: blue correct, red wrong; at the right the number of items",
)


def _mistakes(share: np.ndarray, names: Sequence[str], worst: int) -> list[str]:
    """Return the largest cells off the diagonal as sentences, below a heading."""
    wrong = share * (1 - np.eye(len(share)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:worst]
    cells = [divmod(int(place), len(share)) for place in order]
    lines = [
        f"{100 * wrong[i, j]:.0f} % of “{names[i]}” predicted as “{names[j]}”" for i, j in cells if wrong[i, j] > 0
    ]
    return ["most frequent confusions", *lines] if lines else []


@_styled
def bars(counts: Array, title: str = "", size: tuple[int, int] = (640, 280)) -> Image.Image:
    """Draw how often each code of a codebook is used: counts (K,), most used first, on a log axis.

    A flat top that reaches the right edge means that all codes are used about equally; the dashed line is the count of
    exactly equal use. The shaded part at the right marks codes that were never used.
    """
    from matplotlib.ticker import LogLocator

    values = np.sort(as_numpy(counts).astype(np.float64))[::-1]
    used, total, num_codes = int((values > 0).sum()), values.sum(), len(values)
    figure, axes = _axes(size, title or _usage_title(values, used), "codes, most used first", "times used (log scale)")
    top = max(10.0, values.max())
    axes.set(xlim=(0, num_codes), yscale="log", ylim=(0.5, top * 1.3))
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(_short)
    axes.minorticks_off()
    edges = np.unique(np.linspace(0, used, min(used, size[0]) + 1).astype(int))
    if used:  # codes that share a pixel are drawn as their mean
        means = np.add.reduceat(values[:used], edges[:-1]) / np.diff(edges)
        axes.stairs(means, edges, baseline=0.5, fill=True, color=BAR, antialiased=False)
    if used < num_codes:
        axes.axvspan(used, num_codes, color=UNUSED, linewidth=0, antialiased=False)
    if num_codes - used > 0.15 * num_codes:
        text = f"{num_codes - used:,} never used"
        axes.text((used + num_codes) / 2, top, text, color=UNUSED_INK, ha="center", va="top")
    if total > 0:
        level = max(total / num_codes, 0.5)
        axes.axhline(level, color=INK, linewidth=1, linestyle=(0, (4, 4)))
        axes.text(num_codes, level * 1.05, "even use ", ha="right", va="bottom")
    return _picture(figure)


def _usage_title(values: np.ndarray, used: int) -> str:
    """Return the title of `bars`: codes in use, and perplexity."""
    share = values[values > 0] / max(values.sum(), 1)
    even = math.exp(-(share * np.log(share)).sum()) if used else 0
    return f"{used:,} of {len(values):,} codes used · perplexity {even:,.0f}"


@_styled
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
    changes. Lines beyond the palette's ten are grey, and named together.
    """
    figure, axes = _axes(size, title, x_label, y_label)
    empty = True
    for number, (name, points) in enumerate(series.items()):
        finite = np.array([point for point in points if np.isfinite(point).all()], float).reshape(-1, 2)
        beyond = number >= len(PALETTE)
        label = name if not beyond else f"{len(series) - number} others" if number == len(PALETTE) else None
        (line,) = axes.plot(*finite.T, color=OTHER if beyond else PALETTE[number], label=label, linewidth=2)
        line.set(marker="o", markersize=8 if len(finite) == 1 else 6, markevery=[-1] if len(finite) else [])
        line.set(clip_on=False, zorder=3 - beyond, markeredgewidth=0)
        empty &= not len(finite)
    if empty:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no data yet", color=GREY, ha="center", va="center", transform=axes.transAxes)
    elif y_range:
        axes.set_ylim(*y_range)
    if series:
        widest = max(_font(name).getlength(name) for name in series) + 40
        columns = max(1, int((size[0] - 20) // widest))
        figure.legend(loc="outside lower left", ncols=columns)
    return _picture(figure)


class ForestRow(NamedTuple):
    """A row of a forest plot."""

    label: str
    mean: float
    low: float  # ends of its interval; NaN without one
    high: float
    dots: tuple[float, ...] = ()  # single values, as those of seeds


@_styled
def forest(
    panels: Mapping[str, Sequence[ForestRow]], baseline: str = "", note: str = "", panel: int = 300
) -> Image.Image:
    """Draw means with intervals, a row each, and their single values as dots below; a panel for each metric.

    panels: metric → rows, of the same labels in the same order. baseline: the label whose mean is drawn as a line
    through all rows. note: a line below. panel: width of a panel in pixels.
    """
    from matplotlib.figure import Figure

    labels = [_cut(row.label, WIDEST_LABEL) for row in next(iter(panels.values()))]
    numbers = {name: _interval_texts(rows) for name, rows in panels.items()}
    widths = [max(_font(text).getlength(text) for text in texts) for texts in numbers.values()]
    left = 1.05 * max(_font(label).getlength(label) for label in labels) + 2 * MARGIN
    gap, head, foot, line = 2 * MARGIN, HEAD + 2 * MARGIN, TEXT * (3 if note else 1) + 2 * MARGIN, 2 * TEXT + 6
    width = left + sum(panel + MARGIN + wide + gap for wide in widths)
    height = head + line * len(labels) + foot
    figure, at = Figure((width / 72, height / 72)), left
    for (name, rows), wide in zip(panels.items(), widths, strict=True):
        axes = figure.add_axes((at / width, foot / height, panel / width, line * len(labels) / height))
        axes.set(ylim=(len(labels) - 0.5, -0.5))
        axes.set_title(name, pad=MARGIN)
        axes.set_yticks(range(len(labels)), labels if at == left else [], color=INK)
        axes.tick_params(axis="y", pad=MARGIN)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=6)
        _draw_rows(axes, rows, baseline)
        for number, text in enumerate(numbers[name]):
            axes.annotate(
                text, (1, number), (MARGIN, 0), ("axes fraction", "data"), "offset points", va="center_baseline"
            )
        at += panel + MARGIN + wide + gap
    figure.text((width - gap) / width, MARGIN / height, _cut(note, width - 2 * gap), color=GREY, ha="right")
    return _picture(figure)


WIDEST_LABEL = 320  # pixels, of a forest plot's row


def _draw_rows(axes: "Axes", rows: Sequence[ForestRow], baseline: str) -> None:
    for row in rows:
        if row.label == baseline:
            axes.axvline(row.mean, color=GREY, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    for number, row in enumerate(rows):
        colour = INK if row.label == baseline else PALETTE[0]
        if len(row.dots) > 1:
            axes.plot(row.dots, [number + 0.28] * len(row.dots), "o", color=PALETTE[7], markersize=4, clip_on=False)
        if math.isfinite(row.low):
            axes.plot((row.low, row.high), (number, number), color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(row.mean, number, "s", color=colour, markersize=7, markeredgewidth=0, zorder=3, clip_on=False)
    axes.margins(x=0.06)


def _interval_texts(rows: Sequence[ForestRow]) -> list[str]:
    """Return means with the ends of their intervals, all with as many decimals."""
    largest = max(abs(row.mean) for row in rows)
    digits = 1 if largest > 10 else 2 if largest > 1.5 else 3
    return [
        f"{row.mean:.{digits}f}" + (f" [{row.low:.{digits}f}, {row.high:.{digits}f}]" if math.isfinite(row.low) else "")
        for row in rows
    ]


# ------------------------------------------------------------------------------------------------------ with matplotlib


def _page(width: float, height: float) -> "tuple[Figure, Axes]":
    """Return a figure of a size in pixels, and axes that cover all of it."""
    from matplotlib.figure import Figure

    figure = Figure((width / 72, height / 72))
    return figure, figure.add_axes((0, 0, 1, 1))


def _cells(colours: np.ndarray, rows: Sequence[str], columns: Sequence[str], cell: int) -> "tuple[Figure, Axes]":
    """Return a figure of the size of its cells, (R, C, 3) in [0, 1], with names around them that go beyond its edge."""
    figure, axes = _page(cell * len(columns), cell * len(rows))
    axes.imshow(np.clip(colours, 0, 1), interpolation="nearest", aspect="auto")
    shown = [_cut(name, WIDEST_NAME) for name in columns]
    axes.set_xticks(range(len(columns)), shown, rotation=SLANT, ha="left", va="baseline", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [_cut(name, WIDEST_NAME) for name in rows])
    axes.set_xticks(np.arange(len(columns)) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows)) + 0.5, minor=True)
    axes.grid(which="minor", color="white", antialiased=False)
    axes.tick_params(which="both", length=0, labelcolor=INK, top=True, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure, axes


def _axes(size: tuple[int, int], title: str, x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    """Return a figure of a size in pixels, and axes with labels, whole numbers on x and rules at the ticks of y."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((size[0] / 72, size[1] / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.xaxis.set_major_formatter(_short)
    return figure, axes


def _short(value: float, _: object = None) -> str:
    """Return the label of a tick of whole numbers: 500, 1.5k, 20M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _note(axes: "Axes", corner: Point, off: Point, text: str, colour: str, size: int = TEXT) -> None:
    """Write a text `off` pixels from a corner of the axes, (0, 0) at the bottom left; below it if `off` goes down."""
    va = "top" if off[1] < 0 else "bottom"
    axes.annotate(text, corner, off, "axes fraction", "offset points", color=colour, size=size, va=va)


def _font(text: str, size: int = TEXT) -> ImageFont.FreeTypeFont:
    """Return a chart's font for a text, to measure it."""
    return ImageFont.truetype(font_file(text) or plain_file(), size)


def _cut(text: str, width: float) -> str:
    return cut(text, width, font=_font(text))


def _picture(figure: "Figure", tight: bool = False) -> Image.Image:
    """Draw a figure; `tight` grows it by what is outside its edges."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        file = font_file(text.get_text()) or plain_file()
        text.set_fontproperties(FontProperties(fname=str(file), size=text.get_fontsize()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # `font_file` has reported it
        return _drawn(figure, tight)


def _drawn(figure: "Figure", tight: bool) -> Image.Image:
    from matplotlib.transforms import Bbox

    buffer, box = io.BytesIO(), None
    if tight:  # matplotlib's own "tight" would lay out all texts twice; cells are to begin at a whole pixel
        box = Bbox(np.rint(72 * figure.get_tightbbox().padded(MARGIN / 72).get_points()) / 72)
    figure.savefig(buffer, format="png", bbox_inches=box)
    return Image.open(buffer).convert("RGB")
