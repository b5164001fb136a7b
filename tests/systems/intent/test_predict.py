"""The classifier as its user holds it: the same numbers as the task, results that plot and convert themselves."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.engine.run import load_predictor
from sightword.errors import SightwordError
from sightword.miniature.scene import OBJECTS, PLACES
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.predict import ANCHORS, IntentClassifier
from sightword.systems.intent.task import make_task
from sightword.towers.factory import text_tower
from sightword.towers.prompt import class_embeddings


@pytest.fixture(scope="module")
def classifier(small_clip, tmp_path_factory):
    """Codebooks of the synthetic data's words, a head drawn at random, a threshold as validation would choose one."""
    text, books = text_tower(small_clip), {}
    for stream, words in {"coco": list(OBJECTS), "places": list(PLACES)}.items():
        ids = list(range(len(words)))
        books[stream] = Book(class_embeddings(text, words), words, ids, [0] * len(ids), words)
    file = Anchors(books).write(tmp_path_factory.mktemp("anchors") / ANCHORS)
    torch.manual_seed(0)
    task = make_task(IntentConfig(semantic_anchors_path=str(file), tower=str(small_clip)))
    torch.nn.init.normal_(task.model.head.weight)
    task.threshold.fill_(0.45)
    return IntentClassifier.from_task(task)


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


@pytest.mark.parametrize("kind", ["classifier", "baseline"])
def test_scores_are_those_of_the_task_by_the_intents_names(kind, image, request):
    predictor = request.getfixturevalue(kind)
    (found,) = predictor([image])
    with torch.no_grad():
        logits = predictor.task.logits(batch_of(image))[0]
    assert list(found.scores) == list(CLASSES)
    assert list(found.scores.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)


def test_files_and_images_of_any_mode_give_the_same_result(classifier, image, tmp_path):
    image.save(tmp_path / "image.png")
    image.convert("RGBA").save(tmp_path / "rgba.png")
    found = classifier([image, tmp_path / "image.png", str(tmp_path / "rgba.png"), image.convert("RGBA")])
    assert len({tuple(one.scores.values()) for one in found}) == 1
    assert classifier([]) == []
    with pytest.raises(ValueError, match="nowhere"):
        classifier([tmp_path / "nowhere.png"])


def test_a_result_has_the_threshold_the_intents_above_it_and_a_word_per_patch(classifier, image):
    (found,) = classifier([image])
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
    (found,) = baseline([image])
    assert (found.threshold, found.intents, dict(found.words)) == (None, [], {})
    assert repr(found).endswith(", …; no threshold)")
    assert max(found.scores, key=found.scores.get) in repr(found)


@pytest.mark.parametrize("kind", ["classifier", "baseline"])
def test_results_plot_themselves_and_are_plain_values(kind, image, request):
    (found,) = request.getfixturevalue(kind)([image])
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["scores"] == found.scores
    assert plain["intents"] == found.intents
    assert plain["words"] == found.words
    picture = found.plot()
    assert min(picture.size) > 64
    assert len(picture.convert("L").getcolors()) > 10  # something is drawn


@pytest.mark.parametrize("kind", ["classifier", "baseline"])
def test_a_saved_classifier_predicts_the_same_where_the_anchors_are_gone(kind, image, request, tmp_path):
    predictor = request.getfixturevalue(kind)
    predictor.save_pretrained(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "moved")
    again = load_predictor(IntentClassifier, tmp_path / "moved")
    assert again([image])[0].scores == predictor([image])[0].scores
    assert again([image])[0].threshold == predictor([image])[0].threshold


def test_only_codebooks_can_be_explained(classifier, baseline):
    assert min(classifier.table().size) > 100
    with pytest.raises(SightwordError, match="the baseline has no codebooks to explain"):
        baseline.table()
