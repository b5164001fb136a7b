"""`sightword faithful` on the small world, as it is typed: with truth and maps, with a CSV, and without truth."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from sightword.cli.main import main
from sightword.miniature.contents import write_vocabulary
from sightword.miniature.intent import write_intents, write_maps
from sightword.miniature.scene import write as write_scenes
from sightword.systems.intent.faithful import head


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Fit heads for a few steps: what they reach is measured elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "STEPS", 40)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory, small_clip, few_steps):
    """A small Intentonomy with label maps, and a run of each kind of model: (root, experiment → run)."""
    root = tmp_path_factory.mktemp("faithful")
    write_intents(root / "data", train=120, val=40, test=24)
    write_maps(root / "maps", root / "data")
    write_vocabulary(root / "vocabulary")
    write_scenes(root / "scenes", 40, 7)
    runs = {}
    for name in ("stage1", "pairs"):
        fields = {"system.tower": small_clip, "system.vocabulary": root / "vocabulary", "data.root": root / "data"}
        fields |= {"system.semantic_anchors_path": root / "anchors", "data.cache": root / "tokens", "data.ids": ""}
        fields |= {"system.calibration_labels": root / "scenes" / "captions.json", "trainer.epochs": 6}
        given = [f"{key}={value}" for key, value in {**fields, "out": root / "runs", "name": "it"}.items()]
        assert main(["train", f"experiment=intent/{name}", "scale=mini", *given]) == 0
        runs[name] = root / "runs" / "intent" / name / "it"
    return root, runs


@pytest.fixture(scope="module")
def judged(world, tmp_path_factory):
    """Experiment → (report, page)."""
    root, runs = world
    found = {}
    for name, run in runs.items():
        out = tmp_path_factory.mktemp("judged") / name
        words = [f"run={run}", f"truth={root / 'data' / 'drawn.json'}", f"maps={root / 'maps'}", f"out={out}"]
        assert main(["faithful", *words, "deletions=12"]) == 0
        found[name] = json.loads((out / "faithful.json").read_text()), (out / "faithful.html").read_text()
    return found


def test_words_are_right_far_above_shuffled_names_and_presence_is_righter_than_area(judged):
    area, presence = (judged[name][0]["right"] for name in ("stage1", "pairs"))
    for right in (area, presence):
        assert right["by_image"]["places"]["precision"] > 2 * right["shuffled"]["image/places"]
    assert presence["by_image"]["coco"]["precision"] > 2 * area["by_image"]["coco"]["precision"]
    assert presence["by_patch"]["coco"]["visible"] > 1.5 * area["by_patch"]["coco"]["visible"]
    assert presence["absent"]["all"] < area["absent"]["all"] < area["shuffled"]["absent"]
    assert area["by_patch"]["places"]["visible"] is None  # the maps do not speak of places


def test_sums_are_exact_and_every_control_is_there(judged):
    for name, (report, _) in judged.items():
        assert report["sum_error"] < 1e-4, name
        controls = {control["name"]: control for control in report["controls"]}
        assert ("other_stream" in controls) == (name == "stage1")
        assert {"own words", "random vectors", "no words, linear", "no words, network"} <= controls.keys()
        assert [point["words"] for point in report["right"]["curve"]] == [0, 1, 2, 4, -1]
        assert report["right"]["independent"][-1]["macro_f1"] > report["right"]["independent"][0]["macro_f1"]
        assert report["right"]["curve"][0]["macro_f1"] == pytest.approx(report["macro_f1"])
        assert report["completeness"].keys() == {"linear", "network"}
        assert 0 < report["speaking"] <= report["terms"]


def test_removing_a_words_pixels_lowers_the_score_more_than_removing_others(judged):
    found = judged["pairs"][0]["deletion"]
    assert found["mean_fall"] > found["mean_random_fall"]
    assert found["rank_correlation"] > 0
    assert len(found["removed"]) > 12
    for each in found["removed"]:
        assert each["contribution"] > 0
        assert 0 < each["patches"] < 64


def test_the_page_says_what_each_number_means_and_shows_images(judged):
    for _, page in judged.values():
        for number in range(1, 7):
            assert f"<h2>{number}. " in page
        assert page.count('class="good"') == 6
        assert page.count("data:image/png;base64,") == 12
        assert "Be happy" in page or "Beauty of nature" in page
        assert "http://" not in page.replace("http://www.w3.org", "")


def test_without_truth_the_first_questions_stay_open(world, tmp_path, capsys):
    _, runs = world
    assert main(["faithful", f"run={runs['pairs']}", f"out={tmp_path}", "deletions=2", "split=val"]) == 0
    assert capsys.readouterr().out.count("Not measured: it needs to know which words") == 3
    report = json.loads((tmp_path / "faithful.json").read_text())
    assert (report["right"], len(report["controls"]), len(report["examples"])) == (None, 5, 12)
    page = (tmp_path / "faithful.html").read_text()
    assert "There is no truth, so look" in page
    assert "on which the threshold was chosen" in page


def test_a_table_of_ones_own_words_is_a_truth(world, tmp_path, capsys):
    root, runs = world
    drawn = json.loads((root / "data" / "drawn.json").read_text())
    notes = json.loads((root / "data" / "intentonomy_test2020.json").read_text())
    with open(tmp_path / "words.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "dog", "Person", "unicorn"])
        for image in notes["images"][:10]:
            shown = drawn[image["id"]]["objects"]
            writer.writerow([root / "data" / image["filename"], int("dog" in shown), int("person" in shown), 0])
    words = [f"run={runs['pairs']}", f"truth={tmp_path / 'words.csv'}", f"out={tmp_path / 'out'}", "deletions=1"]
    assert main(["faithful", *words]) == 0
    report = json.loads((tmp_path / "out" / "faithful.json").read_text())
    assert report["right"]["images"] == 10
    assert report["right"]["by_image"].keys() == {"coco"}
    assert report["right"]["independent"] is None  # the training images have no truth
    assert "1 of its words are none of the model's: unicorn" in report["truth"]
    assert "16 of the model's words are never listed" in report["truth"]


def test_what_does_not_fit_is_one_line(world, tmp_path, capsys):
    root, runs = world
    run, truth = runs["pairs"], root / "data" / "drawn.json"

    def said(*words):
        assert main(["faithful", f"run={run}", f"out={tmp_path / 'no'}", *words]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert not (tmp_path / "no").exists()
        return error[-1]

    (tmp_path / "other.json").write_text(json.dumps({"x": {"objects": ["dog"], "place": "beach", "action": None}}))
    assert "the truth speaks of none of the 24 images of test; it has x" in said(f"truth={tmp_path / 'other.json'}")
    assert "does not exist" in said(f"truth={tmp_path / 'none.json'}")
    assert "need truth=" in said(f"maps={root / 'maps'}")
    assert "has no words.txt" in said(f"truth={truth}", f"maps={root / 'data'}")
    assert "split=train was trained on" in said("split=train")
    small = tmp_path / "small"
    small.mkdir()
    (small / "words.txt").write_text("dog\n")
    notes = json.loads((root / "data" / "intentonomy_test2020.json").read_text())
    file = small / f"{notes['images'][0]['id']}.png"
    Image.fromarray(np.ones((8, 8), np.uint8)).save(file)
    assert "8x8 pixels, its image 64x64" in said(f"truth={truth}", f"maps={small}")
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(file)
    assert "has the value 9; words.txt has 1 lines" in said(f"truth={truth}", f"maps={small}")
    Image.fromarray(np.ones((64, 64, 3), np.uint8)).save(file)
    assert "is an image of mode RGB" in said(f"truth={truth}", f"maps={small}")


def test_the_baseline_has_no_words(world, tmp_path, capsys):
    root, runs = world
    fields = [f"data.root={root / 'data'}", f"data.cache={root / 'tokens'}", "data.ids=", "trainer.epochs=1"]
    fields += [f"system.tower={runs['pairs'] / 'none'}", "system.embed_dim=64", f"out={root / 'runs'}", "name=base"]
    assert main(["train", "experiment=intent/baseline", "scale=mini", *fields]) == 0
    assert main(["faithful", f"run={root / 'runs/intent/baseline/base'}", f"out={tmp_path}"]) == 2
    assert "the baseline has no words to judge" in capsys.readouterr().err
