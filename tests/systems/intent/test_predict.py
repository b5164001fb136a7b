"""The classifier as its user holds it: the same numbers as the task, results that plot and convert themselves."""

import json
import os
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from exported import moved_and_loaded
from PIL import Image

import sightword
from sightword.engine.predictor import Training
from sightword.errors import SightwordError
from sightword.miniature.scene import OBJECTS, PLACES
from sightword.storage.checkpoint import read_weights, write_weights
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.predict import ANCHORS, IntentClassifier
from sightword.systems.intent.task import make_task
from sightword.towers.clip import encoder as clip
from sightword.towers.factory import text_tower
from sightword.towers.prompt import class_embeddings


@pytest.fixture(scope="module")
def anchors(small_clip, tmp_path_factory):
    """Codebooks of the synthetic data's words."""
    text, books = text_tower(small_clip), {}
    for stream, words in {"coco": list(OBJECTS), "places": list(PLACES)}.items():
        ids = list(range(len(words)))
        books[stream] = Book(class_embeddings(text, words), words, ids, [0] * len(ids), words)
    return str(Anchors(books).write(tmp_path_factory.mktemp("anchors") / ANCHORS))


def classifier_of(anchors, tower, **more):
    """A head drawn at random, a threshold as validation would choose one."""
    torch.manual_seed(0)
    task = make_task(IntentConfig(semantic_anchors_path=anchors, tower=str(tower), **more))
    torch.nn.init.normal_(task.model.head.weight)
    task.threshold.fill_(0.45)
    return IntentClassifier.from_task(task)


@pytest.fixture(scope="module")
def classifier(anchors, small_clip):
    return classifier_of(anchors, small_clip)


@pytest.fixture(scope="module")
def baseline(small_clip):
    torch.manual_seed(0)
    return IntentClassifier.from_task(make_task(IntentConfig(model="baseline", tower=str(small_clip), hidden=8)))


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def batch_of(image):
    images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    return IntentBatch(torch.zeros(1, 28), ["x"], images)


# ------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("kind", ["classifier", "baseline"])
def test_scores_are_those_of_the_task_by_the_intents_names(kind, image, request):
    predictor = request.getfixturevalue(kind)
    found = predictor(image)
    with torch.no_grad():
        logits = predictor.task.logits(batch_of(image))[0]
    assert list(found.scores) == list(CLASSES)
    assert list(found.scores.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)


def test_an_image_of_any_kind_gives_the_same_result(classifier, image, tmp_path):
    image.save(tmp_path / "image.png")
    pixels = np.array(image)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [image, image.convert("RGBA"), tmp_path / "image.png", str(tmp_path / "image.png")]
    kinds += [pixels, pixels / 255, tensor, tensor / 255]
    alone = [classifier(one) for one in kinds]
    assert len({tuple(one.scores.values()) for one in (*alone, *classifier(kinds))}) == 1
    batches = [*classifier(pixels[None]), *classifier(torch.stack([tensor, tensor]))]
    assert {tuple(one.scores.values()) for one in batches} == {tuple(alone[0].scores.values())}
    assert classifier([]) == []


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("nowhere.png", "nowhere.png is not readable as an image .no such file"),
        (np.zeros((3, 64, 64), np.uint8), r"array of an image is \(H, W, 3\) or \(H, W\), got \(3, 64, 64\)"),
        (np.full((8, 8, 3), 255.0), r"floats of an image are in \[0, 1\], got 255 to 255"),
        (torch.zeros(64, 64, 3), r"tensor of an image is \(3, H, W\), got \(64, 64, 3\)"),
        (np.zeros((8, 8, 3), np.int64), "uint8 or floats in .0, 1., got int64"),
    ],
)
def test_what_is_not_an_image_is_one_line(classifier, mistake, line):
    with pytest.raises(SightwordError, match=line) as error:
        classifier(mistake)
    assert "\n" not in str(error.value)


def test_a_result_has_the_threshold_the_intents_above_it_and_a_word_per_patch(classifier, image):
    found = classifier(image)
    assert found.threshold == pytest.approx(0.45)
    above = [name for name, score in found.scores.items() if score > found.threshold]
    assert found.intents == sorted(above, key=lambda name: -found.scores[name])
    assert 0 < len(found.intents) < 28
    assert set(found.words) == {"coco", "places"}
    for stream, known in (("coco", OBJECTS), ("places", PLACES)):
        words = np.array(found.words[stream])
        assert words.shape == (8, 8)
        assert set(words.flatten()) <= set(known)
    for number, name in enumerate(CLASSES):
        total = sum(found.explanation.terms(number).values()) + float(found.explanation.bias[number])
        assert 1 / (1 + np.exp(-total)) == pytest.approx(found.scores[name], abs=1e-5)
    with pytest.raises(FrozenInstanceError):
        found.threshold = 0.5


def test_without_a_validation_there_is_no_threshold_and_no_intent(baseline, image):
    found = baseline(image)
    assert (found.threshold, found.intents, dict(found.words)) == (None, [], {})
    assert repr(found).endswith(", …; no threshold)")
    assert max(found.scores, key=found.scores.get) in repr(found)


@pytest.mark.parametrize("kind", ["classifier", "baseline"])
def test_results_plot_themselves_and_are_plain_values(kind, image, request):
    found = request.getfixturevalue(kind)(image)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["scores"] == found.scores
    assert plain["intents"] == found.intents
    assert plain["words"] == found.words
    picture = found.plot()
    assert min(picture.size) > 64
    assert len(picture.convert("L").getcolors()) > 10  # something is drawn
    html = found._repr_html_()
    assert "data:image/png;base64," in html
    assert max(found.scores, key=found.scores.get).split("/")[0] in html


def test_only_codebooks_can_be_explained(classifier, baseline):
    assert min(classifier.table().size) > 100
    with pytest.raises(SightwordError, match="the baseline has no codebooks to explain"):
        baseline.table()


# -------------------------------------------------------------------------------------------------------------- export


@pytest.fixture
def own_clip(small_clip, tmp_path):
    """A copy of the small CLIP that a test may take away."""
    folder = tmp_path / "own" / "clip"
    clip.CLIP.load(small_clip).save(folder)
    return folder


@pytest.mark.parametrize("kind", ["multistream", "baseline"])
def test_an_export_elsewhere_predicts_the_same_bits_without_the_files_it_was_made_of(
    kind, anchors, own_clip, image, tmp_path, monkeypatch
):
    if kind == "multistream":
        file = Anchors.read(anchors).write(tmp_path / "own" / "anchors")
        predictor = classifier_of(str(file), own_clip)
    else:
        config = IntentConfig(model="baseline", tower=str(own_clip), hidden=8)
        predictor = IntentClassifier.from_task(make_task(config))
    expected = predictor(image)
    predictor.training = Training("intent/stage1", "best", {"val/macro_f1": 0.25}, {"threshold": "chosen on val"})
    again = moved_and_loaded(predictor, tmp_path, monkeypatch)
    found = again(image)
    assert isinstance(again, IntentClassifier)
    assert (found.scores, found.threshold, found.words) == (expected.scores, expected.threshold, expected.words)
    assert again.training == predictor.training
    content = (tmp_path / "moved" / "config.json").read_text()
    assert str(tmp_path) not in content
    card = (tmp_path / "moved" / "README.md").read_text()
    assert "| val/macro_f1 | 0.25 |" in card
    assert "- **threshold**: chosen on val" in card
    assert pickle.loads(pickle.dumps(again))(image).scores == expected.scores
    again.save_pretrained(tmp_path / "second")  # an export of an export
    assert sightword.load(tmp_path / "second")(image).scores == expected.scores
    again.save_pretrained(tmp_path / "moved")  # over the files that it reads
    assert sightword.load(tmp_path / "moved")(image).scores == expected.scores


def test_the_weights_of_an_export_are_those_of_the_task(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "model")
    found, expected = sightword.load(tmp_path / "model").task_weights(), classifier.task.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_on_the_hub_is_read_from_the_cache_by_its_id(classifier, image, tmp_path, monkeypatch):
    commit = "0" * 40
    place = tmp_path / "hub" / "models--owner--intent"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    classifier.save_pretrained(place / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    found = sightword.load("owner/intent", cache_dir=tmp_path / "hub")
    assert found(image).scores == classifier(image).scores
    again = IntentClassifier.from_pretrained("owner/intent", cache_dir=tmp_path / "hub")
    assert again(image).scores == classifier(image).scores


def test_a_published_encoder_stays_a_name_and_other_weights_are_refused(
    anchors, own_clip, image, tmp_path, monkeypatch
):
    """The preset stands for a model of open_clip whose published weights are in a folder of the test."""
    monkeypatch.setitem(clip.presets, "vit_test", (str(own_clip), ""))
    predictor = classifier_of(anchors, "vit_test")
    expected = predictor(image)
    predictor.save_pretrained(tmp_path / "model")
    told = json.loads((tmp_path / "model" / "config.json").read_text())["tower"]
    assert (told["name"], told["tag"], len(told["weights"])) == ("vit_test", "", 16)
    assert sorted(os.listdir(tmp_path / "model")) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "semantic_anchors.safetensors",
    ]
    assert sightword.load(tmp_path / "model")(image).scores == expected.scores
    file = own_clip / "open_clip_model.safetensors"
    weights = read_weights(file)
    write_weights(file, weights | {"visual.proj": weights["visual.proj"] * 1.001})
    with pytest.raises(SightwordError, match=f"has the weights .*, and the model was exported with {told['weights']}"):
        sightword.load(tmp_path / "model")(image)


def test_a_file_of_weights_as_tag_is_the_users_own_and_is_written(small_clip, anchors, image, tmp_path):
    file = tmp_path / "weights.safetensors"
    write_weights(file, read_weights(small_clip / "open_clip_model.safetensors"))
    predictor = classifier_of(anchors, small_clip, tag=str(file))
    predictor.save_pretrained(tmp_path / "model")
    file.unlink()
    assert sightword.load(tmp_path / "model")(image).scores == predictor(image).scores


def test_a_model_whose_encoder_cannot_be_opened_is_not_exported(anchors, image, tmp_path):
    predictor = classifier_of(anchors, tmp_path / "misspelt")
    with pytest.raises(SightwordError, match="there is no folder .*misspelt"):
        predictor.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "config.json").exists()
