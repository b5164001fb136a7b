"""Text queries find the points they fit, and none that no frame shows."""

import json

import numpy as np
import pytest
import torch
from lift_fakes import ColourText
from PIL import Image

from sightword.storage.ply import Cloud
from sightword.systems.points import ask
from sightword.systems.points.ask import PointFeatures, answer
from sightword.systems.points.lift.cloud import read_cloud

RED, GREEN, NOTHING = (1.0, -1, -1, 0.1), (-1.0, 1, -1, 0.1), (0.0, 0, 0, 0)
GREY_ONE = (0.0, 0, 0, 1)


def lifted(rows, label=None):
    features = torch.nn.functional.normalize(torch.tensor(rows), dim=-1)
    n = len(rows)
    xyz = torch.stack([torch.arange(n).float(), torch.arange(n).float() % 2, torch.zeros(n)], 1)
    cloud = Cloud(xyz, torch.full((n, 3), 90, dtype=torch.uint8), label)
    seen = features.abs().amax(1) > 0
    return PointFeatures(cloud, features, seen, seen, [0, 0, 1], torch.tensor([0, 0, 1.0]).expand(n, 3), "lifted")


def asked(scene, queries, against=("wall",)):
    return answer("room", scene, ColourText(), queries, against)


def test_each_point_answers_what_it_is_most_like():
    found = asked(lifted([RED, GREEN, GREY_ONE, NOTHING]), ["a red", "green"])
    assert found.texts == ("a red", "green", "wall")
    assert found.best.tolist() == [0, 1, 2, -1]
    assert found.scores[:3].sum(1).allclose(torch.ones(3))
    assert found.scores[3].tolist() == [0, 0, 0]
    assert torch.equal(found.scores.argmax(1)[:3], found.best[:3])


def test_cosines_are_of_the_words_and_the_features():
    found = asked(lifted([RED]), ["red"], ["green"])
    red, green = (torch.nn.functional.normalize(torch.tensor(row), dim=-1) for row in (RED, GREEN))
    assert found.cosines[0].tolist() == pytest.approx([1.0, float(red @ green)], abs=1e-6)


def test_a_query_does_not_compete_with_itself():
    assert asked(lifted([RED]), ["a  Red "], ["red", "blue"]).texts == ("a Red", "blue")


def test_words_get_an_article_and_what_has_one_keeps_it():
    said = []

    class Listening(ColourText):
        def encode(self, texts):
            said.extend(texts)
            return super().encode(texts)

    answer("room", lifted([RED]), Listening(), ["chair", "the bed", "An oven"], [])
    assert said == ["a photo of a chair", "a photo of the bed", "a photo of An oven"]


def test_no_query_is_one_line():
    with pytest.raises(ValueError, match="there is no text query"):
        asked(lifted([RED]), [" ", ""])


def test_what_is_told_says_how_many_where_and_how_right():
    scene = lifted([RED, RED, GREEN, GREEN, NOTHING], torch.tensor([5, 5, 5, 7, 5]))
    found = asked(scene, ["a red"])
    lines = ask.summary_lines(found, {5: "red", 7: "green"})
    assert lines[0].startswith("a red: 2 of 4 points (50.0 %), cosine up to 1.000")
    assert lines[-1] == "  by the cloud's labels: recall 67 %, precision 100 %"
    assert not any("labels" in line for line in ask.summary_lines(found, {7: "green"}))


def test_a_few_classes_compete_and_many_do_not():
    assert ask.competitors(["chair", "bed", "chair"]) == ["chair", "bed"]
    assert ask.competitors([]) == list(ask.AGAINST)
    assert ask.competitors([str(number) for number in range(600)]) == list(ask.AGAINST)


def test_the_answer_is_written_as_a_picture_a_cloud_and_numbers(tmp_path):
    rng = torch.Generator().manual_seed(0)
    rows = [RED if number % 3 == 0 else GREEN for number in range(300)]
    scene = lifted(rows)
    scene = scene._replace(cloud=scene.cloud._replace(xyz=torch.rand(300, 3, generator=rng)))
    found = asked(scene, ["red", "blue"])
    files = ask.write(found, tmp_path / "out")
    assert [file.name for file in files] == ["answer.png", "answer.ply", "scores.npz", "answer.json"]
    with Image.open(files[0]) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    colours = ask.query_colours(found.queries)
    assert (pixels == colours["red"]).all(1).sum() > 80, "in the legend"
    cloud = read_cloud(files[1])
    assert torch.equal(cloud.xyz, scene.cloud.xyz)
    assert len({tuple(rgb) for rgb in cloud.rgb[found.best == 0].tolist()}) == 1
    assert tuple(cloud.rgb[0].tolist()) == colours["red"] != tuple(cloud.rgb[1].tolist()), "as in the picture's legend"
    scores = np.load(files[2])
    assert scores["texts"].tolist() == ["red", "blue", "wall"]
    assert np.array_equal(scores["best"], found.best.numpy())
    told = json.loads(files[3].read_text())
    assert told == json.loads(json.dumps(found.to_dict()))
    assert [told["best"].count(number) for number in (0, 1)] == [one["points"] for one in told["found"]]


def test_what_was_found_is_numbers_a_line_and_plain_values():
    found = asked(lifted([RED, RED, GREEN, NOTHING]), ["a red"])
    (one,) = found.found
    assert (one.query, one.points, one.percent) == ("a red", 2, pytest.approx(200 / 3))
    assert one.cosine == pytest.approx(1, abs=1e-6)
    assert one.place in ((0, 0, 0), (1, 1, 0))  # of two that are as likely
    assert repr(found) == "SceneAnswer(room: 'a red' 2 of 3 points; lifted features)"
    values = json.loads(json.dumps(found.to_dict()))
    assert values["best"] == [0, 0, 1, -1]
    assert values["visible"] == [True, True, True, False]
    assert values["points"][1] == [1, 1, 0]
    assert values["scores"][3] == [0]
    assert values["features"] == "lifted"


def test_which_features_answered_is_told_with_the_points_that_no_frame_shows():
    scene = lifted([RED, GREEN, NOTHING])
    assert ask.coverage_line(asked(scene, ["red"])) == (
        "answered by lifted CLIP's features: 3 points, 1 of them seen by no frame and without an answer"
    )
    assert ask.coverage_line(asked(lifted([RED]), ["red"])).endswith(": 1 points, all seen by a frame")
    fused = scene._replace(known=torch.ones(3).bool(), kind="fused")
    assert ask.coverage_line(asked(fused, ["red"])) == (
        "answered by the trained encoder's fused features: 3 points, 1 of them seen by no frame and with an answer too"
    )


def test_what_answers_has_the_colour_of_its_query_and_the_rest_is_pale():
    scene = lifted([RED, GREEN])
    colours = ask.coloured(asked(scene, ["red"], ["green"]), 0).astype(int)
    assert abs(colours[0] - ask.query_colours(["red"])["red"]).max() < 12
    assert np.ptp(colours[1]) < 3
    assert colours[1].min() > 180


def test_queries_beyond_ten_share_one_grey_of_the_legend():
    colours = ask.query_colours([str(number) for number in range(12)])
    assert len(set(colours.values())) == 11
    assert colours["10"] == colours["11"]


def test_a_query_under_the_threshold_does_not_fit_and_is_said_drawn_and_written_as_unsure():
    scene = lifted([RED, RED, GREEN, GREY_ONE])
    known = ask.Calibration(0.9, "on validation 0 % of 5 absent classes reach it")
    fits, unfit = (
        answer("room", scene, ColourText(), ["a red", "a blue"], ("wall",), known._replace(threshold=limit))
        for limit in (0.9, 1.1)
    )
    assert fits.fits == (True, False)
    assert unfit.fits == (False, False)
    assert (fits.threshold, unfit.to_dict()["threshold"]) == (0.9, 1.1)
    assert fits.found[0].fit == pytest.approx(1, abs=0.02)
    told = ask.summary_lines(fits, {})
    assert told[1] == "  here: score 1.00, the threshold is 0.90"
    assert told[-2:] == [
        "  not here: score 0.06, the threshold is 0.90",
        "the threshold: on validation 0 % of 5 absent classes reach it",
    ]
    assert not any("confidence" in line for line in ask.summary_lines(unfit, {}))  # what is not here is not listed
    assert "'a blue' 0 (not here)" in repr(fits)
    strong, pale = (np.abs(ask.coloured(one, 0).astype(int) - 207).sum() for one in (fits, unfit))
    assert pale < strong


def test_without_a_run_the_best_generic_text_is_the_threshold_if_enough_of_them_are_known():
    class Knows(ColourText):
        def unknown_words(self, texts):
            return ()

    scene = lifted([RED, RED, GREEN, GREY_ONE])
    found = answer("room", scene, Knows(), ["a red", "a unicorn"], ("wall",))
    assert found.fits == (True, True)  # the generic texts and the unicorn are alike to it
    assert "the best of 19 generic texts here, about 5 % of unrelated texts reach it" in found.calibration.told
    assert found.threshold == pytest.approx(found.found[1].fit)
    assert asked(scene, ["a red"]).fits == (None,)  # which knows none of them


def test_objects_are_named_with_their_sizes_and_numbered_over_all_queries(tmp_path):
    rows = [RED] * 12 + [GREEN] * 4 + [RED] * 13
    scene = lifted(rows)
    scene.cloud.xyz[:] = torch.tensor([[number // 2 + 0.1 * (number % 2), 0, 0] for number in range(len(rows))])
    answered = asked(scene, ["a red", "a green"])
    red, green = answered.found
    assert red.points == 25
    assert len(red.objects) == 12  # pairs of points, a metre apart; the last has no partner, and a point is no object
    assert red.place == red.objects[0].centre
    assert sorted(answered.object_of.tolist()) == sorted([0, *2 * list(range(1, 15))])
    told = ask.summary_lines(answered, {})
    assert sum("confidence" in line for line in told) == ask.OBJECTS + len(green.objects)
    assert f"  … and {12 - ask.OBJECTS} more" in told
    assert sum("confidence" in line for line in ask.summary_lines(answered, {}, most=1)) == 2
    first = answered.to_dict()["found"][0]["objects"][0]
    assert set(first) == {"centre", "low", "high", "size", "points", "score", "confidence"}
    _, ply, *_ = ask.write(answered, tmp_path)
    assert torch.equal(read_cloud(ply).instance, answered.object_of)
    assert b"property float score" in ply.read_bytes()[:600]
