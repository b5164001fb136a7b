"""Whether a scene contains what a text names: by the text's own fits elsewhere."""

import pytest
import torch
from lift_fakes import ColourText

from sightword.errors import SightwordError
from sightword.storage.ply import Cloud
from sightword.systems.points import ask
from sightword.systems.points.ask import PointFeatures
from sightword.systems.points.background import measured
from sightword.systems.points.predict import SceneFeatures, is_metric
from sightword.systems.points.presence import (
    Accepted,
    Background,
    chosen,
    distribution,
    fit_of,
    fits_of,
    read_background,
    sampled,
)
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import Scene

RED, GREEN, BLUE, WHITE = 1, 2, 3, 4
COLOURS = torch.tensor([[1.0, -1, -1, 0.1], [-1, 1, -1, 0.1], [-1, -1, 1, 0.1], [1, 1, 1, 0.1]])
LABELS = LabelSet(("red", "green", "blue"), (RED, GREEN, BLUE), "three colours")


class Predictor:
    def text_encoder(self):
        return ColourText()


def room(tmp_path, labels, seed=0):
    """Blocks of 60 points, a metre apart, each of a colour that is a little off."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.tensor(labels).repeat_interleave(60)
    xyz = torch.rand(len(label), 3, generator=generator) * 0.2
    xyz[:, 0] += torch.arange(len(labels)).repeat_interleave(60)
    rows = COLOURS[label - 1] + 0.25 * torch.randn(len(label), 4, generator=generator)
    known = torch.ones(len(label), dtype=torch.bool)
    cloud = Cloud(xyz, torch.zeros(len(label), 3, dtype=torch.uint8), label)
    features = torch.nn.functional.normalize(rows, dim=1)
    points = PointFeatures(cloud, features, known, known, [0, 0, 1.0], torch.zeros_like(xyz), "lifted")
    return SceneFeatures(Scene(f"room {seed}", tmp_path, [], []), points)


def background(tmp_path, count=5):
    rooms = [[RED, GREEN, WHITE], [RED, BLUE, WHITE], [GREEN, WHITE], [WHITE, BLUE], [RED, GREEN, BLUE]]
    scenes = [room(tmp_path, labels, seed) for seed, labels in enumerate(rooms[:count])]
    return measured(Predictor(), scenes, LABELS)


def asked(found, scene, queries, **options):
    return ask.answer("room", scene.points, ColourText(), queries, ("white",), found, **options)


def test_what_is_in_a_scene_is_here_and_what_is_not_is_not(tmp_path):
    found = background(tmp_path)
    for labels in ([RED, WHITE], [WHITE, GREEN], [BLUE, RED, WHITE]):
        answered = asked(found, room(tmp_path, labels, 9), ["red", "a green", "blue"])
        assert answered.fits == tuple(colour in labels for colour in (RED, GREEN, BLUE))
        for each in answered.found:
            assert each.fits == (each.score >= answered.threshold)


def test_scores_are_standard_deviations_of_the_words_own_fits(tmp_path):
    found = background(tmp_path)
    (red,) = asked(found, room(tmp_path, [RED, WHITE], 9), ["red"]).found
    assert red.score == pytest.approx(float((red.fit - found.mean[0]) / found.spread[0]), rel=1e-4)


def test_a_text_that_is_no_class_is_compared_with_all_scenes_and_has_two_thresholds(tmp_path):
    found = background(tmp_path)
    answered = asked(found, room(tmp_path, [WHITE, RED], 9), ["red", "black"])
    said = answered.calibration
    vector = ask.query_embeddings(ColourText(), ["black"])[0]
    fits = torch.tensor([fit_of(scene.float() @ vector) for scene in found.samples])
    assert said.mean[1] == pytest.approx(float(fits.mean()), abs=1e-5)
    assert said.spread[1] == pytest.approx(max(float(fits.std()), 0.25 * float(found.spread.median())), rel=1e-3)
    assert said.low == (said.threshold, min(said.threshold, found.other.threshold))
    assert "black: not among its classes" in said.told
    twice = said._replace(threshold=2.0, low=(2.0, 1.0))
    assert [twice.fits(1, score) for score in (0.5, 1.5, 2.5)] == [False, None, True]
    assert [twice.fits(0, score) for score in (0.5, 1.5, 2.5)] == [False, False, True]


def test_the_points_around_a_class_do_not_count_where_it_is_taken_out():
    features = torch.nn.functional.normalize(torch.cat([COLOURS[:1], COLOURS[1:2]]).repeat_interleave(50, 0), dim=1)
    near = torch.zeros(100, 1, dtype=torch.bool)
    near[:50] = True
    whole, rest = fits_of(features, features[:1], near)
    assert whole[0] == pytest.approx(1)
    assert rest[0] < 0
    assert fits_of(features, features[:1], torch.ones_like(near))[1] == -1  # nothing is left


def test_a_distribution_is_that_of_the_scenes_which_leave_points():
    without = torch.tensor([[0.1, 0.5], [0.3, -1.0], [0.5, -1.0], [0.3, -1.0]])
    mean, spread = distribution(without)
    assert mean[0] == pytest.approx(0.3)
    assert spread[0] == pytest.approx(without[:, 0].std())
    assert (mean[1], spread[1]) == (mean[0], spread[0])  # one scene is none
    plain = distribution(without[:2])
    assert (plain[0].tolist(), plain[1].tolist()) == ([0, 0], [1, 1])


def test_at_most_one_in_twenty_of_what_was_taken_out_reaches_the_threshold():
    generator = torch.Generator().manual_seed(0)
    without = torch.randn(12, 10, generator=generator) * torch.linspace(0.01, 0.1, 10) + torch.linspace(0, 1, 10)
    found = chosen(without + 1, without, torch.ones(12, 10, dtype=torch.bool))
    assert found.wrong <= 0.05
    assert found.right == 1
    assert found.count == 120


def test_too_few_scenes_and_scenes_without_labels_are_refused(tmp_path):
    with pytest.raises(SightwordError, match="2 labelled scenes say nothing"):
        background(tmp_path, 2)
    scene = room(tmp_path, [WHITE])
    with pytest.raises(SightwordError, match="room 0: its cloud has no labels of three colours"):
        measured(Predictor(), [scene], LABELS)


def test_a_background_is_read_as_it_was_written_and_refused_for_other_features(tmp_path):
    found = background(tmp_path)
    files = found.save(tmp_path / "made", "lifted", "clip 1")
    read = read_background(tmp_path / "made", "lifted", "clip 1")
    assert read.classes == found.classes
    assert (*read.accepted, *read.other) == pytest.approx((*found.accepted, *found.other))
    assert all(torch.equal(getattr(read, name), getattr(found, name).float()) for name in ("mean", "spread", "samples"))
    with pytest.raises(SightwordError, match="of clip 'clip 1', and the query uses 'clip 2'"):
        read_background(tmp_path / "made", "lifted", "clip 2")
    with pytest.raises(SightwordError, match="of features 'lifted', and the query uses 'fused'"):
        read_background(tmp_path / "made", "fused", "clip 1")
    files[0].unlink()
    with pytest.raises(SightwordError, match="is missing"):
        read_background(tmp_path / "made", "lifted", "clip 1")


def test_few_scenes_of_a_run_give_cosines_a_threshold():
    said = Background(("red",), torch.zeros(1), torch.ones(1), torch.zeros(0, 4, 4), *2 * [Accepted(0.4, 1, 0, 1)])
    calibration = said.calibration(["red", "black"], torch.eye(4)[:2])
    assert calibration.mean == ()
    assert calibration.score(1, 0.5) == 0.5
    assert calibration.least(1) == 0.4


def test_a_sample_of_a_scene_is_spread_evenly():
    values = torch.arange(1000.0)[:, None]
    assert sampled(values)[[0, -1], 0].tolist() == [0, 999]
    assert not sampled(values[:0]).any()


def test_a_guessed_scale_is_no_metres(tmp_path):
    assert is_metric(tmp_path)
    (tmp_path / "imported.json").write_text('{"assumed": {"scale": "2 metres per unit: the source has no scale"}}')
    assert not is_metric(tmp_path)
    scene = room(tmp_path, [RED, WHITE])
    told = ask.summary_lines(asked(None, scene, ["red"], metric=False), {})
    assert told[0].startswith("the source has no scale: lengths are in units")
    assert not any(line.endswith(" m") for line in told)
    assert asked(None, scene, ["red"], metric=False).to_dict()["unit"] == "units"
