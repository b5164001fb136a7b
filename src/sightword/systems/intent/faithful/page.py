"""The page of the trust protocol: for each question what the number means, what a good value is, and a control.

`page.html.jinja` is its template; its style is the demo's. The page requests nothing from a network.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from sightword.errors import SightwordError
from sightword.storage.writer import png_data_uri
from sightword.systems.intent.config import STREAMS
from sightword.systems.intent.faithful.deletion import Deletion, by_stream, summed_up
from sightword.systems.intent.faithful.intervention import Point
from sightword.systems.intent.faithful.protocol import SPEAKS, Example, Report, Right
from sightword.systems.intent.hierarchy import titles
from sightword.systems.intent.show import stream_title
from sightword.version import VERSION
from sightword.viz import page as demo_page
from sightword.viz import style

SIDE = 160  # pixels of an example
MOST = 15  # words of an example
PLOT = 320  # of a side of the scatter plot
NO_TRUTH = "Not measured: it needs to know which words the images really show. Pass truth=, a file with them."
Cells = tuple[str, ...]


class Table(NamedTuple):
    """Rows of texts below their heads."""

    heads: Cells
    rows: Sequence[Cells]


class Dot(NamedTuple):
    """A point of a plot, in its pixels."""

    x: float
    y: float
    title: str


class Plot(NamedTuple):
    """Dots, and the line on which fall and contribution are equal."""

    dots: Sequence[Dot]
    line: tuple[float, float, float, float]  # x, y of both ends
    zero: tuple[float, float]
    low: str
    high: str


class Question(NamedTuple):
    """A section of the page."""

    title: str
    means: str  # what the numbers mean
    good: str  # what a good value is
    table: Table | None
    plot: Plot | None = None
    missing: str = ""  # why there is no answer


class Shown(NamedTuple):
    """An example, ready to draw."""

    image: str  # data URI
    words: Sequence[tuple[str, str]]  # word, mark: right, wrong, unknown
    others: int  # words that are not listed
    missed: str
    intents: Sequence[tuple[str, str, bool]]


def page_of(report: Report, run: str) -> str:
    """Return the page as HTML."""
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    css = (Path(demo_page.__file__).parent / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        run=run,
        report=report,
        score=_percent(report.macro_f1),
        constant=_percent(report.constant_f1),
        summary=summary(report),
        questions=questions(report),
        examples=[_shown(example, report.classes) for example in report.examples],
        judged=report.right is not None,
        style=css,
        plot=PLOT,
        colour=style.PALETTE[0],
        version=VERSION,
    )


def summary(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of the numbers at the top."""
    found = [
        ("macro F1", _percent(report.macro_f1), f"of the model; saying yes to all: {_percent(report.constant_f1)}")
    ]
    if report.right is not None:
        stream = next(iter(_sorted(report.right.by_image)))
        own = report.right.by_image[stream]
        found.append((f"{stream_title(stream)}: precision", _percent(own.precision), "of the words said of an image"))
        found.append((f"{stream_title(stream)}: recall", _percent(own.recall), "of the words that the image shows"))
        found.append(("from absent words", _percent(report.right.absent["all"]), "of what all words add"))
    if report.deletion is not None and report.deletion.rank_correlation is not None:
        found.append(("deletion", f"{report.deletion.rank_correlation:.2f}", "rank correlation with what words add"))
    return found


def lines_of(report: Report) -> list[str]:
    """Return the answers as lines for a terminal."""
    lines = [f"{name:<24} {value:>8}   {meaning}" for name, value, meaning in summary(report)]
    for question in questions(report):
        lines += ["", question.title]
        if question.table is None:
            lines.append(f"  {question.missing}")
            continue
        rows = [question.table.heads, *question.table.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(question.table.heads))]
        lines += ["  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in lines]


def questions(report: Report) -> list[Question]:
    """Return the sections of the page."""
    return [
        *_about_words(report),
        _about_corrections(report),
        _about_controls(report),
        _about_deletion(report.deletion),
        _about_size(report),
    ]


# ----------------------------------------------------------------------------------------------------------- with truth


def _about_words(report: Report) -> list[Question]:
    right = report.right
    means = (
        "Precision is the share of the words said of an image that it really shows; recall is the share of the words "
        "that it shows that are said. The control gives each word the name of another word of its stream."
    )
    words = Question(
        "1. Are the words right?",
        means,
        "Good: precision above 90 % and far above the control, at a recall above 75 %. "
        "A patch may name what is elsewhere in the image; “in the patch” counts only what the patch itself shows. "
        "Recall in patches is of those that a word covers to half or more.",
        None if right is None else _word_table(right),
        missing=NO_TRUTH,
    )
    absent = Question(
        "2. How much do words add that the image does not show?",
        "Each score is a sum of what words add. The number is the share of that sum, without signs and for the three "
        "likeliest intents, that comes from words that the image does not show.",
        "Good: below 10 %. Shuffled names say what a model without any sense of its words has.",
        None if right is None else _absent_table(right),
        missing=NO_TRUTH,
    )
    return [words, absent]


def _word_table(right: Right) -> Table:
    heads: Cells = (
        "words of",
        "images",
        "precision",
        "shuffled names",
        "recall",
        "patches with a word",
        "in the image",
    )
    heads += ("shuffled names", "in the patch", "recall in patches")
    rows = []
    for stream in _sorted(right.by_image):
        own = right.by_image[stream]
        patch = right.by_patch[stream]
        rows.append(
            (
                stream_title(stream),
                str(right.images),
                _percent(own.precision),
                _percent(right.shuffled.get(f"image/{stream}")),
                _percent(own.recall),
                _percent(patch.named),
                _percent(patch.in_image),
                _percent(right.shuffled.get(f"patch/{stream}")),
                _percent(patch.visible) if right.mapped else "needs maps=",
                _percent(patch.recall) if right.mapped else "needs maps=",
            )
        )
    return Table(heads, rows)


def _absent_table(right: Right) -> Table:
    rows = [
        ("all words" if name == "all" else "pairs of words" if name == "pairs" else stream_title(name), _percent(value))
        for name, value in ((name, right.absent[name]) for name in _sorted(right.absent))
    ]
    return Table(
        ("of what these add", "from absent words"),
        [*rows, ("all words, shuffled names", _percent(right.shuffled.get("absent")))],
    )


def _about_corrections(report: Report) -> Question:
    right = report.right
    return Question(
        "3. Does a person's correction help?",
        "The words that the model is least certain of are replaced by the truth, and the macro F1 is measured again. "
        f"A word of this model counts as: {report.kind}. Certainty: {report.certainty}.",
        "Good: the curve rises. If it falls, the model reads something else from its words than whether they are "
        "there, such as how sure the encoder is. The second row is a head that was learned on true words (0 or 1).",
        None if right is None else _curve_table(right),
        missing=NO_TRUTH,
    )


def _curve_table(right: Right) -> Table:
    heads = ("words corrected", *("all" if point.words < 0 else str(point.words) for point in right.curve))
    rows = [("this model", *_points(right.curve))]
    if right.independent is not None:
        rows.append(("learned on true words", *_points(right.independent)))
    else:
        rows.append(("learned on true words", *("needs the truth of training images" for _ in right.curve)))
    return Table(heads, rows)


def _points(curve: Sequence[Point]) -> Cells:
    return tuple(_percent(point.macro_f1) for point in curve)


# -------------------------------------------------------------------------------------------------------- without truth

CONTROLS = {
    "own words": "this model's words",
    "own words and pairs": "this model's words and pairs of words",
    "random vectors": "random vectors instead of words (mean of 3)",
    "other_stream": "words of another stream (things look for places, and so on)",
    "no words, linear": "the encoder's features, without words",
    "no words, network": "the same, with a small network",
}


def _about_controls(report: Report) -> Question:
    rows = [(CONTROLS[each.name], str(each.features), _percent(each.macro_f1)) for each in report.controls]
    if not any(each.name == "other_stream" for each in report.controls):
        rows.append((CONTROLS["other_stream"], "–", "does not apply: all streams read one vector"))
    return Question(
        "4. What do words reach that mean nothing?",
        "The same small head is fitted on the training images for each row, on features made in the same way. "
        "It shows how much of the score needs the meaning of the words, and not only many numbers from the encoder.",
        "Good: this model's words are far above random vectors, and near the encoder's features.",
        Table(("features", "how many", "macro F1"), rows),
    )


def _about_deletion(deletion: Deletion | None) -> Question:
    means = (
        "The patches where a word was found are painted in the image's mean colour, and the image goes through the "
        "encoder again. The score of the likeliest intent should fall by what the word was said to add."
    )
    good = (
        "Good: a slope near 1, a rank correlation near 1, and a fall well above that of random patches. "
        "In the plot each dot is a word of an image; on the line the fall equals what the word adds."
    )
    title = "5. Does a score fall when a word's pixels are removed?"
    if deletion is None:
        return Question(title, means, good, None, missing="Not measured: the images themselves do not exist here.")
    if deletion.slope is None:
        return Question(title, means, good, None, missing="Not measured: fewer than three words add to an intent.")
    groups = by_stream(deletion.removed)
    whole = {"all words": deletion, **{stream_title(name): summed_up(groups[name]) for name in _sorted(groups)}}
    rows = [
        (
            name,
            str(len(each.removed)),
            _number(each.slope),
            _number(each.rank_correlation),
            _number(each.mean_contribution),
            _number(each.mean_fall),
            _number(each.mean_random_fall),
        )
        for name, each in whole.items()
    ]
    heads = ("words of", "removed", "slope", "rank correlation", "mean of what they add", "mean fall", "random patches")
    return Question(title, means, good, Table(heads, rows), _plot(deletion))


def _plot(deletion: Deletion) -> Plot:
    values = [value for each in deletion.removed for value in (each.contribution, each.fall)]
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round((value - low) / span * PLOT, 1)

    dots = [
        Dot(
            place(each.contribution),
            PLOT - place(each.fall),
            f"{each.word}: adds {each.contribution:+.2f}, fall {each.fall:+.2f}",
        )
        for each in deletion.removed
    ]
    return Plot(dots, (0, PLOT, PLOT, 0), (place(0), PLOT - place(0)), f"{low:.1f}", f"{high:.1f}")


def _about_size(report: Report) -> Question:
    rows = [
        ("words, or pairs of words, that the model has", str(report.terms)),
        (f"of these speak for or against an intent by more than {SPEAKS} (mean)", f"{report.speaking:.1f}"),
        ("completeness against a linear head without words", _percent(report.completeness.get("linear"))),
        ("completeness against a network without words", _percent(report.completeness.get("network"))),
        ("largest difference between a score and the sum of its words", _rounding(report.sum_error)),
    ]
    return Question(
        "6. How many words speak for an intent, and what is lost?",
        "An explanation of a few words can be read; one of hundreds cannot. Completeness is how much of the macro F1 "
        "that the encoder's features give, above saying yes to all, the words give too.",
        "Good: few words an intent, a completeness near or above 100 %, and a difference that is only rounding.",
        Table(("", ""), rows),
    )


# ------------------------------------------------------------------------------------------------------------- examples


def _shown(example: Example, classes: Sequence[str]) -> Shown:
    from sightword.data.image import read_image

    try:
        image = ImageOps.contain(read_image(example.file), (SIDE, SIDE), Image.Resampling.BICUBIC)
    except SightwordError:
        image = Image.new("RGB", (SIDE, SIDE), "white")
    marks = {True: "right", False: "wrong", None: "unknown"}
    named = titles(list(classes))
    return Shown(
        png_data_uri(image),
        [(word, marks[true]) for word, true in example.words[:MOST]],
        len(example.words[MOST:]),
        ", ".join(example.missed),
        [(named[name], f"{score:.2f}", labelled) for name, score, labelled in example.intents],
    )


def _sorted(names: Iterable[str]) -> list[str]:
    """Return streams in the order in which figures show them; other names first or last, as they are."""
    return sorted(names, key=lambda name: -1 if name == "all" else STREAMS.index(name) if name in STREAMS else 99)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _rounding(error: float) -> str:
    return "less than 0.0001" if error < 1e-4 else f"{error:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
