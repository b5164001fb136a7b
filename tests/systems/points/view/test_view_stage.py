"""Colours, boxes and words of a window, without the window."""

import numpy as np
import pytest
import torch
from lift_fakes import ColourText

from sightword.errors import SightwordError
from sightword.storage.ply import Cloud
from sightword.systems.points import ask
from sightword.systems.points.ask import Calibration, PointFeatures
from sightword.systems.points.view.stage import COLOURINGS, Stage, open_height, outside, spacing

RED, GREEN, GREY = (1.0, -1, -1, 0.1), (-1.0, 1, -1, 0.1), (0.0, 0, 0, 1)
BLUE_INK, OCHRE = (0, 45, 198), (202, 130, 14)  # of the first two queries


class StrictText(ColourText):
    """Knows the colours alone, and says so."""

    def check_words(self, texts):
        for text in texts:
            if self.unknown_words(text):
                raise SightwordError(f"no word of {text!r} is known")
        return ()


def blocks(threshold=None, text=ColourText, **options):
    """Three rows of points, ten metres apart: red, green, grey."""
    features = torch.nn.functional.normalize(torch.tensor([RED, GREEN, GREY]).repeat_interleave(20, 0), dim=1)
    xyz = torch.stack([torch.arange(60) // 20 * 10.0, torch.arange(60) % 20 * 0.1, torch.zeros(60)], 1)
    seen = torch.ones(60, dtype=torch.bool)
    cloud = Cloud(xyz, torch.full((60, 3), 90, dtype=torch.uint8))
    points = PointFeatures(cloud, features, seen, seen, [0.0, 0, 1], torch.zeros(60, 3), "lifted")
    calibration = None if threshold is None else Calibration(threshold, "by hand")

    def asked(texts):
        return ask.answer("blocks", points, text(), texts, ["wall"], calibration)

    return Stage("blocks", points, [], asked, text, **options)


def test_points_have_the_photos_colours_until_something_is_asked():
    stage = blocks()
    for colouring in COLOURINGS:
        assert (stage.colours(colouring) == 90).all()
    assert stage.boxes("query") == []
    assert "60 of 60 points" in stage.told()


def test_each_query_colours_the_points_that_it_fits_best():
    stage = blocks()
    stage.ask("red, green")
    colours = stage.colours("query").astype(int)
    assert np.abs(colours[:20] - BLUE_INK).max() < 30
    assert np.abs(colours[20:40] - OCHRE).max() < 30
    assert (colours[40:] == colours[40, 0]).all()
    assert (stage.colours("photo") == 90).all()


def test_the_score_is_red_where_a_query_fits_and_pale_where_none_does():
    stage = blocks()
    stage.ask("red")
    colours = stage.colours("score").astype(int)
    assert (colours[:20, 0] - colours[:20, 1] > 100).all()
    assert (np.abs(colours[40:, 0] - colours[40:, 1]) < 40).all()


def test_each_object_has_its_colour_and_a_box_with_its_size_and_confidence():
    stage = blocks()
    stage.ask("red, green")
    boxes = stage.boxes("object")
    assert [box.label.split(" · ")[0] for box in boxes] == ["red 1.00", "green 1.00"]
    assert boxes[0].label.endswith("0.00 × 1.82 × 0.00 m")
    assert boxes[0].low[0] == 0
    assert boxes[1].low[0] == 10
    colours = stage.colours("object")
    assert {tuple(row) for row in colours[:20].tolist()} == {boxes[0].colour}
    assert {tuple(row) for row in colours[20:40].tolist()} == {boxes[1].colour}


def test_a_query_that_does_not_fit_is_named_and_paler():
    stage, sure = blocks(threshold=2.0), blocks()
    stage.ask("red")
    sure.ask("red")
    assert "not here: score 1.00, the threshold is 2.00; nearest:" in stage.told()
    assert " unsure " in stage.boxes("query")[0].label
    assert (stage.colours("query")[:20, 0] > sure.colours("query")[:20, 0]).all()


def test_an_empty_question_takes_the_answer_away():
    stage = blocks()
    stage.ask("red")
    stage.ask(" , ")
    assert stage.answer is None
    assert (stage.colours("query") == 90).all()


def test_a_text_without_a_known_word_is_told_and_does_not_stop_the_others():
    stage = blocks(text=StrictText)
    stage.ask("red, unicorn")
    assert "no word of &#x27;unicorn&#x27;" in stage.told()
    assert stage.answer.queries == ("red",)
    stage.ask("unicorn")
    assert stage.answer is None
    assert "unicorn" in stage.told()


def test_a_question_that_is_too_long_is_refused():
    stage = blocks()
    stage.ask(",".join(f"red {number}" for number in range(11)))
    assert "11 texts" in stage.told()
    stage.ask("red " * 60)
    assert "characters" in stage.told()


def test_words_of_a_question_are_no_html():
    stage = blocks()
    stage.ask("<img src=x> red")
    assert "<img" not in stage.told()
    assert "&lt;img src=x&gt; red" in stage.told()


def test_of_many_points_some_are_shown_and_all_answer():
    stage = blocks(most=15)
    stage.ask("red")
    assert len(stage.xyz) == len(stage.colours("query")) == 15
    assert stage.answer.find(0)[0].points == 20


def test_a_camera_contributes_what_it_sees_and_what_no_other_does(stage):
    seen = [stage.seen(number) for number in range(len(stage.frames))]
    total = torch.stack([each.points for each in seen]).sum(0)
    for each in seen:
        assert torch.equal(each.alone, each.points & (total == 1))
        assert f"{int(each.points.sum()):,} of {len(total):,} points" in each.told
    photo = stage.colours("photo")
    shared = (seen[0].points & ~seen[0].alone).numpy()
    lit = stage.lit(seen[0])
    assert (lit[shared] == photo[shared]).all()
    unseen = ~seen[0].points.numpy()
    assert (lit[unseen] == lit[unseen][:, :1]).all()


def test_a_room_is_opened_below_its_ceiling_and_a_table_is_not():
    generator = np.random.default_rng(0)
    walls = generator.uniform(0, 2.5, 600)
    assert open_height(np.concatenate([walls, np.full(300, 2.5), np.zeros(300)])) == pytest.approx(2.3, abs=0.02)
    table = np.concatenate([np.full(300, 0.7), generator.uniform(0, 0.7, 100)])
    assert open_height(table) == pytest.approx(0.7)


def test_the_first_look_is_from_the_side_of_the_cameras_and_from_above():
    cloud = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    place, middle = outside(cloud, [0, 0, 1], np.array([[3.0, 0, 0]]))
    assert place[0] > 1
    assert abs(place[1]) < 0.2
    assert place[2] > middle[2] + 1
    around, _ = outside(cloud, [0, 0, 1], np.array([[3.0, 0, 0], [-3.0, 0, 0]]))
    assert np.isfinite(around).all()
    assert around[2] > 1


def test_points_are_drawn_about_as_wide_as_they_are_apart():
    grid = np.stack(np.meshgrid(*[np.arange(20) * 0.02] * 2, [0.0]), -1).reshape(-1, 3)
    assert 0.01 < spacing(grid) <= 0.02
