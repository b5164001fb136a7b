"""Calibration of words: moments, presence from few labels, the file, and what does not fit it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sightword.errors import MissingFileError, SightwordError
from sightword.ops.nearest import unit
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.calibration import (
    Calibration,
    Moments,
    Presence,
    Sums,
    calibration_file,
    described,
    fit_presence,
    word_anchors,
    words_digest,
)
from sightword.systems.intent.concept import read_concepts


def book(names, copies=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = unit(torch.randn(len(names), 8, generator=generator)).repeat_interleave(copies, 0)
    noise = torch.randn(first.shape, generator=generator) * 0.1
    noise[::copies] = 0
    rows = [(name, number, copy) for number, name in enumerate(names) for copy in range(copies)]
    return Book(
        unit(first + noise),
        [r[0] for r in rows],
        [r[1] for r in rows],
        [r[2] for r in rows],
        [f"a {r[0]}" for r in rows],
    )


@pytest.fixture
def anchors():
    return Anchors({"coco": book(["dog", "car", "bed"], 4), "places": book(["beach", "street"], 1, 1)})


@pytest.fixture
def calibration(anchors):
    words = {"coco": ("dog", "car", "bed"), "places": ("beach", "street")}
    size = {stream: len(own) for stream, own in words.items()}
    of = {stream: Moments(torch.full((n,), 0.2), torch.full((n,), 0.1)) for stream, n in size.items()}
    moments = {stream: dict.fromkeys(("value", "joint", "pooled"), each) for stream, each in of.items()}
    curves = {s: Presence(torch.full((len(w),), 4.0), torch.full((len(w),), 1.0)) for s, w in words.items()}
    return Calibration(moments, curves, words, described("abc", {"size": [8, 8]}, anchors, ["x", "y"], ["z"]))


def test_a_word_has_one_code_the_one_that_was_not_moved(anchors):
    words = word_anchors(anchors)
    assert words["coco"].names == ["dog", "car", "bed"]
    assert torch.equal(words["coco"].codes, anchors["coco"].codes[::4])
    assert words_digest(words) == words_digest(anchors)


def test_a_word_of_several_prompts_is_their_unit_mean():
    several = Book(unit(torch.randn(2, 8)), ["joy", "joy"], [0, 0], [0, 1], ["a smile", "a laugh"])
    assert torch.allclose(several.by_word().codes, unit(several.codes.mean(0, keepdim=True)))


def test_calibrated_cosines_have_mean_zero_and_deviation_one():
    words, tokens = unit(torch.randn(3, 8)), torch.randn(40, 5, 8)
    sums = Sums(words)
    sums.add(tokens[:15])
    sums.add(tokens[15:])
    z = sums.moments(["a", "b", "c"], "tokens").z(unit(tokens) @ words.T).flatten(0, 1)
    assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(z.std(0, correction=0), torch.ones(3), atol=1e-4)


def test_a_word_whose_cosine_never_changes_is_named():
    sums = Sums(unit(torch.ones(1, 8)))
    sums.add(torch.ones(4, 2, 8))
    with pytest.raises(SightwordError, match="'dog'.*is the same in all 8"):
        sums.moments(["dog"], "value tokens")


def test_forty_labels_find_where_a_word_begins():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 2, generator=generator)
    targets = (z > torch.tensor([0.8, 1.4])).float()
    curve = fit_presence(z, targets, torch.tensor([True, True]))
    fresh = torch.randn(2000, 2, generator=generator)
    agrees = ((curve.logits(fresh) > 0) == (fresh > torch.tensor([0.8, 1.4]))).float().mean(0)
    assert agrees.min() > 0.9
    assert curve.slope.min() > 0


def test_a_word_without_labels_has_the_curve_that_all_share():
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    curve = fit_presence(z, (z > 1).float(), torch.tensor([True, False, True]))
    lowest, highest = sorted((float(curve.middle[0]), float(curve.middle[2])))
    assert lowest - 0.1 <= float(curve.middle[1]) <= highest + 0.1


def test_a_word_never_seen_is_not_sure_to_be_absent_everywhere():
    z = torch.randn(30, 2, generator=torch.Generator().manual_seed(2))
    targets = torch.stack([(z[:, 0] > 1).float(), torch.zeros(30)], 1)
    curve = fit_presence(z, targets, torch.tensor([True, True]))
    assert float(curve.middle[1]) > float(curve.middle[0])
    assert float(curve.logits(torch.tensor([0.0, 6.0]))[1]) > 0


def test_a_file_has_everything(calibration, anchors, tmp_path):
    calibration.write(tmp_path / "calibration.safetensors")
    read = Calibration.read(tmp_path / "calibration.safetensors")
    assert read.labelled
    assert torch.equal(read.presence("coco").slope, calibration.presence("coco").slope)
    assert torch.equal(read.of("places", "joint").std, calibration.of("places", "joint").std)
    assert (read.meta["images"], read.meta["labelled"], read.tower) == (2, 1, "abc")
    read.check_fits(anchors)
    read.check_tower("abc", "the encoder")


def test_without_labels_the_file_says_which_rule_holds(calibration, tmp_path):
    calibration.curves = {}
    calibration.write(tmp_path / "calibration.safetensors")
    read = Calibration.read(tmp_path / "calibration.safetensors")
    assert not read.labelled
    assert read.rule.startswith("z + 0.5·z_pooled > 2.0")
    assert read.meta["rule"] == read.rule


def test_other_anchors_encoders_and_token_types_are_refused(calibration, anchors):
    other = Anchors({**anchors.books, "places": book(["beach", "street"], 1, 5)})
    with pytest.raises(SightwordError, match="made for other anchors"):
        calibration.check_fits(other)
    with pytest.raises(SightwordError, match="weights abc; data.cache=t is of def"):
        calibration.check_tower("def", "data.cache=t")
    with pytest.raises(SightwordError, match="no kk tokens of coco, only value, joint, pooled"):
        calibration.of("coco", "kk")
    with pytest.raises(SightwordError, match="no stream 'ava'"):
        calibration.of("ava", "joint")


def test_files_of_others_are_refused(calibration, tmp_path):
    file = tmp_path / "calibration.safetensors"
    with pytest.raises(MissingFileError, match="sightword calibrate anchors="):
        Calibration.read(file)
    save_file({"x": torch.zeros(2)}, file)
    with pytest.raises(SightwordError, match="sightword calibrate did not write it"):
        Calibration.read(file)
    words = json.dumps({"format": 1, "streams": {"coco": ["dog"]}})
    save_file(
        {"coco/value/mean": torch.zeros(2), "coco/value/std": torch.ones(2)}, file, metadata={"calibration": words}
    )
    with pytest.raises(SightwordError, match="coco/value does not fit its words"):
        Calibration.read(file)
    bad = {"coco/value/mean": torch.full((1,), torch.nan), "coco/value/std": torch.ones(1)}
    save_file(bad, file, metadata={"calibration": words})
    with pytest.raises(SightwordError, match="not finite"):
        Calibration.read(file)


def test_a_calibration_lies_beside_its_anchors(anchors, tmp_path):
    anchors.write(tmp_path)
    assert calibration_file(tmp_path) == tmp_path / "calibration.safetensors"
    assert calibration_file(tmp_path / "semantic_anchors.pth") == tmp_path / "calibration.safetensors"
    assert calibration_file(tmp_path, tmp_path / "own.safetensors") == tmp_path / "own.safetensors"


# ---------------------------------------------------------------------------------------------------- labels of words


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / "images" / name).write_bytes(b"x")
    return tmp_path


WORDS = {"coco": ["dog", "potted plant"], "places": ["beach"]}


def test_scenes_are_read_as_their_objects_place_and_action(pictures):
    scenes = [{"image": f"images/{i}.png", "objects": o, "place": "beach", "action": None} for i, o in
              enumerate([["dog"], ["dog", "potted plant"], []])]  # fmt: skip
    (pictures / "captions.json").write_text(json.dumps(scenes))
    found = read_concepts(pictures / "captions.json")
    table = found.table(WORDS)
    assert table.targets.tolist() == [[1, 0, 1], [1, 1, 1], [0, 0, 1]]
    assert table.known.all()
    assert "objects, place, action" in found.how


def test_a_table_of_words_is_read_and_a_word_of_no_column_is_unknown(pictures):
    (pictures / "words.csv").write_text(
        "image,Potted_Plant,beach,boat\nimages/0.png,1,0,1\nimages/1.png,0,1,0\nimages/2.png,0,0,0\n"
    )
    table = read_concepts(pictures / "words.csv").table(WORDS)
    assert table.known.tolist() == [False, True, True]
    assert table.targets[:, 1].tolist() == [1, 0, 0]
    assert table.unused == ["boat"]


def test_labels_without_any_word_of_the_anchors_are_refused(pictures):
    (pictures / "words.csv").write_text("image,boat,tree\nimages/0.png,1,0\nimages/1.png,0,1\n")
    with pytest.raises(SightwordError, match=r"none of the labels \(boat, tree, …\) is a word of the anchors"):
        read_concepts(pictures / "words.csv").table(WORDS)


def test_a_labelled_image_that_does_not_exist_is_named(pictures):
    (pictures / "images" / "1.png").unlink()
    scenes = [{"image": f"images/{i}.png", "place": "beach"} for i in range(3)]
    (pictures / "captions.json").write_text(json.dumps(scenes))
    with pytest.raises(MissingFileError, match="1 of the 3 images .* the first is .*1.png"):
        read_concepts(pictures / "captions.json")


def test_an_image_listed_twice_is_refused(pictures):
    (pictures / "captions.json").write_text(json.dumps([{"image": "images/0.png", "place": "beach"}] * 2))
    with pytest.raises(SightwordError, match=r"lists images/0.png twice"):
        read_concepts(pictures / "captions.json")


def test_many_labels_are_thinned_evenly(pictures):
    scenes = [{"image": f"images/{i}.png", "place": "beach"} for i in range(3)]
    (pictures / "captions.json").write_text(json.dumps(scenes))
    some = read_concepts(pictures / "captions.json").some(2)
    assert [file.name for file in some.files] == ["0.png", "1.png"]
    assert "2 of 3 images" in some.how
