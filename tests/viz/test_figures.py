"""Figures show what the arrays hold, checked pixel by pixel where possible."""

import math
import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from sightword.viz.chart import BAR, UNUSED, ForestRow, _mistakes, bars, confusion, curve, forest, matrix, terms
from sightword.viz.grid import grid, pairs
from sightword.viz.overlay import areas, class_map, code_colours, code_map, heat_map, shared_colours
from sightword.viz.style import OTHER, PALETTE, category_colours, rgb


def flat(*levels: float, height: int = 4, width: int = 6) -> torch.Tensor:
    """One image of a single grey for each level: (N, 3, height, width)."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, height, width)


def close(image: Image.Image, colour: str) -> np.ndarray:
    """(H, W) bool: where an image has about this colour."""
    return (np.abs(np.asarray(image).astype(int) - rgb(colour)) < 8).all(-1)


# ----------------------------------------------------------------------------------------------------------- images


def test_a_grid_puts_each_image_in_its_place_on_white() -> None:
    image = grid(flat(-1.0, 0.0, 1.0, -0.5, 0.5), columns=3, pad=2)
    assert image.size == (3 * 8 + 2, 2 * 6 + 2)
    levels = [[image.getpixel((2 + 8 * x, 2 + 6 * y))[0] for x in range(3)] for y in range(2)]
    assert levels == [[0, 128, 255], [64, 191, 255]]
    assert all(image.getpixel(at) == (255, 255, 255) for at in ((0, 0), (1, 5), (8, 3), (25, 13)))


def test_a_grid_of_fewer_images_than_columns_is_no_wider_than_they_are() -> None:
    assert grid(flat(0.0, 0.0), columns=9, pad=1).size == (2 * 7 + 1, 4 + 2)


def test_scale_repeats_pixels_and_values_are_rounded_and_clamped() -> None:
    images = np.zeros((1, 3, 1, 3), np.float32)
    images[0, :, 0] = [-7, 100.6 / 127.5 - 1, 7]
    image = np.asarray(grid(images, 1, pad=0, scale=3))
    assert image.shape == (3, 9, 3)
    assert image[1, :, 0].tolist() == [0] * 3 + [101] * 3 + [255] * 3


@pytest.mark.parametrize("wrong", [torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(0, 3, 4, 4)])
def test_what_is_not_a_batch_of_rgb_images_is_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        grid(wrong, 2)


def test_each_reconstruction_stands_right_under_its_input() -> None:
    levels = {"in": (0, 26, 51), "out": (102, 128, 153)}
    inputs, outputs = (flat(*[v / 127.5 - 1 for v in row], height=64, width=64) for row in levels.values())
    image = np.asarray(pairs(inputs, outputs, columns=2))
    where = {}
    for name, row in levels.items():
        for number, level in enumerate(row):
            rows, columns = np.nonzero((image == level).all(-1))
            block = image[rows.min() : rows.min() + 64, columns.max() - 63 : columns.max() + 1]
            assert (block == level).all()
            where[name, number] = (rows.min(), columns.max())
    for number in range(3):
        (top, left), (below, same) = where["in", number], where["out", number]
        assert left == same
        assert 64 <= below - top < 72
    assert where["in", 1][0] == where["in", 0][0] < where["in", 2][0]
    assert (image[:, :80].min(axis=(1, 2)) < 200).any(), "the rows are labelled at the left"


def test_small_pairs_are_enlarged_and_unlike_shapes_refused() -> None:
    small = pairs(flat(0.0, height=16, width=16), flat(0.0, height=16, width=16), 4)
    assert small.height > 2 * 64
    with pytest.raises(ValueError, match="inputs are"):
        pairs(flat(0.0), flat(0.0, 1.0), 2)


# ------------------------------------------------------------------------------------------------------------ codes


@pytest.mark.parametrize(("num_codes", "least"), [(16, 25), (64, 15), (256, 5), (1024, 2)])
def test_the_colours_of_a_book_are_distinct(num_codes: int, least: float) -> None:
    colours = code_colours(np.arange(num_codes)).astype(float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + np.eye(num_codes) * 1e3
    assert distances.min() >= least


def test_a_code_has_the_same_colour_in_every_book_and_map() -> None:
    assert code_colours(np.array([0, 1, 1023])).tolist() == [[74, 164, 148], [110, 115, 84], [82, 226, 210]]
    one = np.asarray(code_map(torch.tensor([[3, 7], [7, 3]]), 8, scale=2))
    two = np.asarray(code_map(np.array([[7]]), 16384, scale=1))
    assert (one[:2, 2:] == two[0, 0]).all()
    assert (one[2:, :2] == two[0, 0]).all()
    assert (one[:2, :2] == one[2:, 2:]).all()
    assert (one[0, 0] != two[0, 0]).any()


def test_a_map_takes_the_size_of_its_image_and_refuses_foreign_ids() -> None:
    ids = torch.arange(6).view(2, 3)
    assert code_map(ids, 6, scale=5).size == (15, 10)
    assert code_map(ids, 6, size=(48, 32)).size == (48, 32)
    with pytest.raises(ValueError, match="ids run from 0 to 5, the codebook has 5"):
        code_map(ids, 5)
    with pytest.raises(ValueError, match=r"\(6,\)"):
        code_map(ids.flatten(), 6)


# ----------------------------------------------------------------------------------------------------------- charts


def test_bars_fall_from_left_to_right_whatever_the_order_and_shade_what_is_unused() -> None:
    counts = np.array([3, 0, 400, 0, 20, 0, 1, 0])
    image = bars(counts, size=(400, 240))
    assert np.array_equal(np.asarray(image), np.asarray(bars(torch.tensor(counts[::-1].copy()), size=(400, 240))))
    heights = close(image, BAR).sum(0)
    columns = np.nonzero(heights > 2)[0]
    tops = heights[columns]
    assert all(a >= b - 2 for a, b in pairwise(tops))
    shaded = np.nonzero(close(image, UNUSED).sum(0) > 60)[0]
    assert shaded.min() >= columns.max()
    assert len(shaded) == pytest.approx(len(columns), rel=0.1), "half of the codes are unused"


def test_an_evenly_used_book_is_flat_and_not_shaded() -> None:
    image = bars(np.full(1000, 7), size=(400, 240))
    heights = close(image, BAR).sum(0)
    columns = heights[heights > 2]
    assert len(columns) > 300
    assert np.ptp(columns[5:-60]) <= 2
    assert close(image, UNUSED).sum() < 20


@pytest.mark.parametrize("counts", [np.zeros(4), np.array([5]), np.arange(20000)])
def test_bars_of_any_book_can_be_drawn(counts: np.ndarray) -> None:
    assert bars(counts).size == (640, 280)


def test_a_curve_runs_through_its_points() -> None:
    image = curve({"up": [(0, 0), (100, 1)], "down": [(0, 1), (100, 0)]}, "lines", size=(400, 300))
    for colour, sign in ((PALETTE[0], -1), (PALETTE[1], 1)):
        rows, columns = np.nonzero(close(image, colour)[:220])  # above the legend
        assert np.corrcoef(rows, columns)[0, 1] * sign > 0.9
        assert np.ptp(columns) > 300
        assert np.ptp(rows) > 100


def test_a_curve_leaves_out_what_is_not_finite_and_shows_a_lone_point() -> None:
    line = [(0, 1.0), (1, 2.0), (2, 3.0)]
    broken = [line[0], (0.5, math.nan), line[1], (1.5, math.inf), line[2]]
    assert np.array_equal(np.asarray(curve({"a": line})), np.asarray(curve({"a": broken})))
    dot = close(curve({"a": [(5, 5.0)]}), PALETTE[0])[60:]
    assert 20 < dot.sum() < 100


@pytest.mark.parametrize(
    "points",
    [[], [(0, math.nan)], [(0, 0.0)], [(0, 7), (9, 7)], [(1, 1e-12), (2, 3e-12)], [(1, -1e12), (1e9, 1e12)]],
)
def test_any_series_can_be_drawn(points: list[tuple[float, float]]) -> None:
    assert curve({"a": points, "b": []}, "title", size=(300, 200)).size == (300, 200)
    assert curve({}).size == (640, 320)


# ------------------------------------------------------------------------------------------------------------ words


def test_a_class_map_lays_each_words_colour_over_its_patch_and_names_words_by_area() -> None:
    words, image = ["sea", "sand", "dog"], Image.new("RGB", (60, 40), "white")
    figure = class_map(np.array([[0, 0, 1], [0, 0, 2]]), words, image, opacity=1)
    colours = [rgb(colour) for colour in PALETTE]
    for x, y, word in [(10, 10, 0), (50, 10, 1), (50, 30, 2), (30, 30, 0)]:
        assert figure.getpixel((x, y)) == colours[word]
    legend = [figure.getpixel((6, 40 + 8 + 20 * line + 7)) for line in range(3)]
    assert legend == colours[:3]


def test_an_unsure_patch_lets_the_image_shine_through() -> None:
    image = Image.new("RGB", (20, 10), (10, 200, 30))
    figure = class_map(np.array([[0, 0]]), ["sea"], image, strength=np.array([[0.0, 1.0]]), opacity=1)
    assert figure.getpixel((5, 5)) == (10, 200, 30)
    assert figure.getpixel((15, 5)) == rgb(PALETTE[0])


def test_the_legend_leaves_out_words_that_are_not_seen() -> None:
    image = Image.new("RGB", (100, 10), "white")
    figure = class_map(np.array([[0, 1]]), ["sea", "sand"], image, strength=np.array([[0.0, 1.0]]))
    assert figure.getpixel((6, 10 + 8 + 7)) == rgb(PALETTE[0])
    assert figure.getpixel((6, 10 + 8 + 20 + 7)) == (255, 255, 255)


def test_the_legend_counts_area_however_sure_a_patch_is() -> None:
    image, ids = Image.new("RGB", (100, 10), "white"), np.array([[0, 0, 0, 1]])
    sure = class_map(ids, ["sea", "sand"], image, strength=np.ones((1, 4)))
    unsure = class_map(ids, ["sea", "sand"], image, strength=np.array([[0.2, 0.2, 0.2, 1.0]]))
    assert np.array_equal(np.asarray(sure)[10:], np.asarray(unsure)[10:])


def test_a_word_has_one_colour_in_all_panels_of_a_figure() -> None:
    panels = [areas(np.array([[0, 0, 1]]), ["sea", "dog"]), areas(np.array([[1, 1, 1, 0]]), ["sand", "dog"])]
    assert list(panels[1].items()) == [("dog", 0.75), ("sand", 0.25)]
    colours = shared_colours(panels, top=2)
    assert list(colours) == ["dog", "sea", "sand"], "by area in all panels"
    image = Image.new("RGB", (12, 4), "white")
    left = class_map(np.array([[0, 0, 1]]), ["sea", "dog"], image, colours=colours, opacity=1)
    right = class_map(np.array([[1, 1, 1, 0]]), ["sand", "dog"], image, colours=colours, opacity=1)
    assert left.getpixel((10, 2)) == right.getpixel((1, 2)) == rgb(PALETTE[0])
    assert left.getpixel((1, 2)) == rgb(PALETTE[1])


def test_ten_words_have_a_colour_however_many_are_wanted_and_the_others_share_one_grey() -> None:
    words, image = [f"word {number}" for number in range(14)], Image.new("RGB", (140, 10), "white")
    figure = class_map(np.arange(14)[None], words, image, top=12, opacity=1)
    painted = [figure.getpixel((10 * number + 5, 5)) for number in range(14)]
    assert painted == [*map(rgb, PALETTE), *[rgb(OTHER)] * 4]
    legend = [figure.getpixel((6, 10 + 8 + 20 * line + 7)) for line in range(11)]
    assert legend == [*map(rgb, PALETTE), rgb(OTHER)]
    assert len(category_colours(words)) == 10


def test_words_past_the_legend_are_counted_together() -> None:
    words, image = [str(number) for number in range(9)], Image.new("RGB", (90, 10), "white")
    all_words = class_map(np.arange(9)[None], words, image, top=5)
    few_words = class_map(np.arange(9)[None] % 3, words, image, top=5)
    assert all_words.size == few_words.size
    below = np.asarray(all_words)[10 + 8 + 5 * 20 :]
    assert (below < 128).any()
    assert (np.asarray(few_words)[10 + 8 + 3 * 20 :] == 255).all()


def test_ids_without_a_word_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        class_map(np.array([[2]]), ["a", "b"], Image.new("RGB", (8, 8)))


def test_a_heat_map_is_red_where_it_speaks_for_and_blue_where_against():
    figure = np.array(heat_map(np.array([[1.0, -1.0], [0.0, 0.5]]), Image.new("RGB", (8, 8), "white")), int)
    red, blue, clear, faint = figure[0, 0], figure[0, 7], figure[7, 0], figure[7, 7]
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100
    assert clear.tolist() == [255, 255, 255]
    assert red[1] < faint[1] < 255
    half = np.array(heat_map(np.array([[1.0]]), Image.new("RGB", (8, 8), "white"), limit=2.0), int)
    assert abs(half[0, 0] - faint).max() <= 1
    with pytest.raises(ValueError, match=r"\(h, w\)"):
        heat_map(np.zeros(3), Image.new("RGB", (8, 8)))


def test_terms_are_drawn_to_the_side_of_their_sign_and_as_long_as_they_are():
    figure = np.array(terms({"for": 2.0, "against": -1.0}, width=300), int)
    assert figure.shape[1] == 300
    red = (figure[..., 0] > figure[..., 2] + 100).any(0).nonzero()[0]
    blue = (figure[..., 2] > figure[..., 0] + 100).any(0).nonzero()[0]
    assert blue.max() <= red.min() + 1
    assert len(red) == pytest.approx(2 * len(blue), rel=0.06)


def test_a_long_term_is_cut_before_its_bar():
    short, long = (np.asarray(terms({name: -1.0}, width=300)).astype(int) for name in ("x", "word " * 40))
    assert np.array_equal(short[:, 165:], long[:, 165:])
    assert (long[:, 100:160].min(axis=(1, 2)) < 128).any()


def test_a_matrix_has_a_cell_for_each_pair():
    figure = np.array(matrix(np.array([[1.0, -1.0, 0.0]]), ["row"], ["a", "b", "c"], cell=20), int)
    red = (figure[..., 0] > figure[..., 2] + 100).sum(1).max()
    blue = (figure[..., 2] > figure[..., 0] + 100).sum(1).max()
    assert {red, blue} <= {19, 20}, "a cell and the line beside it"
    with pytest.raises(ValueError, match="1 rows and 2 columns"):
        matrix(np.zeros((1, 3)), ["row"], ["a", "b"])


def test_a_chart_is_the_same_again_and_in_every_style_of_the_caller():
    """Neither the caller's rcParams change a chart, nor the chart them; "$" is no formula."""
    series = {"cost in $ or in $^2": [(0, 1.0), (1, 2.0)]}
    before = np.asarray(curve(series))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "text.usetex": True, "lines.marker": "x"}):
        theirs = dict(matplotlib.rcParams)
        assert np.array_equal(np.asarray(curve(series)), before)
        assert dict(matplotlib.rcParams) == theirs


@pytest.mark.parametrize("room", ["grid", "overlay", "cloud", "chart", "font"])
def test_matplotlib_is_not_imported_before_a_chart_is_drawn(room):
    code = f"import sys, sightword.viz.{room}; assert not {{'matplotlib', 'fontTools'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pyplot_is_never_imported():
    code = "import sys; from sightword.viz.chart import terms; terms({'a': 1}); assert 'matplotlib.pyplot' not in "
    code += "sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------------------------------------------- confusion


def tinted(image: Image.Image, colour: str) -> int:
    """Pixels that are clearly blue, or clearly red."""
    pixels = np.asarray(image).astype(int)
    red, blue = pixels[..., 0], pixels[..., 2]
    return int(((blue > red + 60) if colour == "blue" else (red > blue + 60)).sum())


def test_right_answers_are_blue_and_wrong_ones_red_by_the_share_of_the_class() -> None:
    names = ["sit", "stand"]
    right, wrong = confusion(np.diag([5, 9]), names), confusion(np.array([[0, 5], [9, 0]]), names)
    assert tinted(right, "blue") > 1000 > 50 > tinted(right, "red")
    assert tinted(wrong, "red") > 1000 > 50 > tinted(wrong, "blue")
    few, many = (confusion(torch.tensor([[3, 1], [0, 1]]) * times, names) for times in (1, 25))
    assert tinted(few, "blue") == tinted(many, "blue")
    assert tinted(few, "red") == tinted(many, "red")
    assert (np.asarray(few) != np.asarray(many)).any(), "the numbers of items"


def test_the_row_is_the_true_class() -> None:
    """A mistake of the first class is above the diagonal: to the right of its blue cell."""
    figure = np.asarray(confusion(np.array([[1, 3], [0, 4]]), ["sit", "stand"], worst=0)).astype(int)
    red = np.argwhere(figure[..., 0] > figure[..., 2] + 60).mean(0)
    blue = np.argwhere(figure[..., 2] > figure[..., 0] + 120).mean(0)  # the full one, of the second class
    assert abs(red[1] - blue[1]) < 6, "of one column"
    assert red[0] < blue[0] - 20


def test_the_worst_mistakes_are_told_in_words_the_worst_first() -> None:
    counts = np.array([[8, 2, 0], [0, 4, 6], [0, 0, 0]])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    lines = _mistakes(share, ["sit", "stand", "bow"], 5)
    assert lines[1:] == ["60 % of “stand” predicted as “bow”", "20 % of “sit” predicted as “stand”"]
    assert _mistakes(np.eye(3), ["a", "b", "c"], 5) == []
    assert (
        confusion(counts, ["sit", "stand", "bow"], worst=0).height < confusion(counts, ["sit", "stand", "bow"]).height
    )


@pytest.mark.parametrize("classes", [1, 12, 21, 60])
def test_any_number_of_classes_has_a_cell_that_holds_its_number(classes: int) -> None:
    names = [f"doing the thing number {number} with both hands and much more" for number in range(classes)]
    figure = confusion(np.eye(classes, dtype=int), names, "title")
    assert figure.width >= 22 * classes + 230
    assert figure.width < 34 * classes + 700, "names that are too long are cut"
    with pytest.raises(ValueError, match=f"of {classes} classes"):
        confusion(np.zeros((classes, classes + 1)), names)


def test_a_forest_has_a_panel_for_each_metric_and_a_line_for_each_row() -> None:
    rows = [ForestRow(f"row {number}", 60 + number, 57.0 + number, 64.0, (59.0, 61.0)) for number in range(3)]
    one, several = forest({"test/top1": rows}), forest({"test/top1": rows, "test/map": rows}, "row 1", "a note")
    assert several.width > 1.7 * one.width
    assert forest({"test/top1": [*rows, *rows]}).height - one.height == pytest.approx(3 * 28, abs=1)


@pytest.mark.parametrize("low", [math.nan, 0.4])
def test_a_forest_of_one_row_without_interval_or_dots_can_be_drawn(low: float) -> None:
    assert forest({"$m$": [ForestRow("名字", 0.5, low, low + 0.2)]}, "名字").width > 300
