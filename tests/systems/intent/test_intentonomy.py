"""Intentonomy as it is published: what is read, what is refused, what a check finds."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.systems.intent.intentonomy import (
    CLASSES,
    annotation_file,
    check_intentonomy,
    read_annotations,
    subsets_of,
)

CATEGORIES = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
LABELS = {  # split → for each image, class → how many of the three annotators
    "train": [{0: 3, 19: 1}, {4: 2}, {25: 1}, {6: 3, 11: 2}, {8: 1, 19: 3}, {19: 2}],
    "val": [{6: 1, 19: 1}, {4: 1, 9: 1, 12: 1}, {25: 1}],
    "test": [{0: 1}, {19: 1}],
}


def contents(split: str) -> dict:
    """The annotations of a tiny split, as they are published."""
    images, annotations = [], []
    for number, labels in enumerate(LABELS[split]):
        image = f"{split}{number}".encode().hex().zfill(32)
        images.append({"id": image, "filename": f"low/{image}.png", "original_id": "x", "unsplash_url": "y"})
        if split == "train":
            shares = [labels.get(category, 0) / 3 for category in range(28)]
            annotations.append({"id": number, "image_id": image, "category_ids_softprob": shares})
        else:
            annotations.append({"id": number, "image_id": image, "category_ids": sorted(labels)})
    return {"info": {"year": 2020}, "categories": [*CATEGORIES], "images": images, "annotations": annotations}


def write_set(root: Path) -> Path:
    """A tiny Intentonomy: 6, 3 and 2 pictures, each unlike the others."""
    rng = np.random.default_rng(0)
    (root / "low").mkdir(parents=True)
    for split in LABELS:
        content = contents(split)
        annotation_file(root, split).write_text(json.dumps(content))
        for entry in content["images"]:
            coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            coarse.resize((50, 40), Image.Resampling.BICUBIC).save(root / entry["filename"])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "intentonomy")


def test_both_partitions_hold_every_class_once() -> None:
    assert len(CLASSES) == 28
    subsets = subsets_of(CLASSES)
    for names in (("easy", "medium", "hard"), ("object", "context", "other")):
        assert sorted(member for name in names for member in subsets[name]) == sorted(CLASSES)
    assert {name: len(members) for name, members in subsets.items()} == {
        "easy": 3, "medium": 15, "hard": 10, "object": 7, "context": 2, "other": 19
    }  # fmt: skip
    numbers = {name: [CLASSES.index(member) for member in members] for name, members in subsets.items()}
    assert numbers["easy"] == [0, 7, 19]  # the published numbers
    assert numbers["hard"] == [2, 5, 8, 17, 20, 21, 23, 24, 25, 27]
    assert numbers["object"] == [0, 3, 10, 11, 12, 16, 23]
    assert numbers["context"] == [7, 8]


def test_other_classes_have_no_subsets() -> None:
    assert subsets_of([*CLASSES[:27], "another"]) == {}
    assert subsets_of(CLASSES[:27]) == {}
    assert subsets_of(CLASSES[::-1]).keys() == subsets_of(CLASSES).keys()


def test_training_labels_are_shares_and_the_others_are_whole(root: Path) -> None:
    train, val = (read_annotations(annotation_file(root, split)) for split in ("train", "val"))
    assert train.names == list(CLASSES) == val.names
    assert train.targets.shape == (6, 28)
    assert train.targets.dtype == torch.float32
    assert train.targets[0, [0, 19, 1]].tolist() == pytest.approx([1, 1 / 3, 0])
    assert val.targets[1].nonzero().flatten().tolist() == [4, 9, 12]
    assert set(val.targets.unique().tolist()) == {0.0, 1.0}
    assert train.files[2] == f"low/{train.ids[2]}.png"
    assert (root / train.files[2]).is_file()
    assert train.unlabelled == []


def test_classes_are_the_files_own_in_the_order_of_their_ids(tmp_path: Path) -> None:
    content = {
        "categories": [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}],
        "images": [
            {"id": "b", "filename": "b.jpg"},
            {"id": "a", "filename": "a.jpg"},
            {"id": "c", "filename": "c.jpg"},
        ],
        "annotations": [{"image_id": "a", "category_ids": [7]}, {"image_id": "b", "category_ids_softprob": [1, 0.5]}],
    }
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content))
    read = read_annotations(file)
    assert read.names == ["two", "seven"]
    assert read.ids == ["a", "b"]
    assert read.files == ["a.jpg", "b.jpg"]
    assert read.targets.tolist() == [[0, 1], [1, 0.5]]
    assert read.unlabelled == ["c.jpg"]


def shorten(content: dict) -> None:
    content["annotations"][1]["category_ids_softprob"].pop()


def share_of_two(content: dict) -> None:
    content["annotations"][0]["category_ids_softprob"][3] = 2


def strange_category(content: dict) -> None:
    entry = content["annotations"][0]
    del entry["category_ids_softprob"]
    entry["category_ids"] = [3, 28]


def strange_image(content: dict) -> None:
    content["annotations"][0]["image_id"] = "nobody"


def image_annotated_twice(content: dict) -> None:
    content["annotations"].append(copy.deepcopy(content["annotations"][0]))


def image_listed_twice(content: dict) -> None:
    content["images"].append(content["images"][0])


def file_listed_twice(content: dict) -> None:
    content["images"].append(content["images"][0] | {"id": "another"})


def nothing_annotated(content: dict) -> None:
    content["annotations"] = []


def no_categories(content: dict) -> None:
    content["categories"] = []


def no_labels(content: dict) -> None:
    del content["annotations"][0]["category_ids_softprob"]


def no_images(content: dict) -> None:
    del content["images"]


def number_for_id(content: dict) -> None:
    content["images"][0]["id"] = 7


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shorten, "annotations[1].category_ids_softprob: expected 28 fractions, one per category, got 27"),
        (share_of_two, "annotations[0].category_ids_softprob[3]: expected a number from 0 to 1, got 2"),
        (strange_category, "there is no category 28; they are 0 to 27"),
        (strange_image, "annotations[0].image_id: 'nobody' is none of the 6 images"),
        (image_annotated_twice, "is annotated twice"),
        (image_listed_twice, "is listed twice"),
        (file_listed_twice, "is listed twice"),
        (nothing_annotated, "annotations: expected a list of at least 1"),
        (no_categories, "categories: expected a list of at least 1"),
        (no_labels, "annotations[0]: has no category_ids"),
        (no_images, "has no images"),
        (number_for_id, "images[0].id: expected a text, got 7"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(tmp_path: Path, spoil, told: str) -> None:
    content = copy.deepcopy(contents("train"))
    spoil(content)
    file = tmp_path / "intentonomy_train2020.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        read_annotations(file)
    assert str(error.value).startswith(f"{file}: ")
    assert told in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_that_is_not_there_or_not_json_says_so(tmp_path: Path) -> None:
    file = annotation_file(tmp_path, "val")
    with pytest.raises(ValueError, match="does not exist") as error:
        read_annotations(file)
    for split in LABELS:
        assert f"intentonomy_{split}2020.json" in str(error.value)
    file.write_bytes(b"<html>\xff")
    with pytest.raises(ValueError, match=r"val2020\.json: .*UTF-8.* Download the file again"):
        read_annotations(file)
    file.write_text("[]")
    with pytest.raises(ValueError, match="expected an object, got an empty list"):
        read_annotations(file)
    with pytest.raises(ValueError, match="train, val, test"):
        annotation_file(tmp_path, "dev")


# ------------------------------------------------------------------------------------------------------------- check


def test_a_whole_set_has_no_problem_and_tells_its_counts(root: Path) -> None:
    report = check_intentonomy(str(root))
    assert report.errors == []
    assert report.count == 11
    lines = str(report).splitlines()
    assert "train: 6 of 6 images exist, 1.50 labels each" in lines
    assert "19 NatBeauty: train 3, val 1, test 1" in lines
    assert " 0 Attractive: train 1, val 0, test 1" in lines
    assert lines[-1] == "11 images, all readable"


def test_a_check_names_what_is_missing_broken_and_shared(root: Path) -> None:
    train, val = (read_annotations(annotation_file(root, split)) for split in ("train", "val"))
    (root / train.files[0]).unlink()
    (root / val.files[1]).write_bytes(b"no picture")
    content = contents("test")
    content["images"][0] = contents("val")["images"][0]
    content["annotations"][0]["image_id"] = val.ids[0]
    content["images"].append({"id": "extra", "filename": "low/extra.png"})
    content["categories"] = [{"id": 0, "name": "one"}, {"id": 19, "name": "two"}]
    annotation_file(root, "test").write_text(json.dumps(content))
    report = check_intentonomy(str(root))
    told = "\n".join(finding.message for finding in report.errors)
    assert len(report.errors) == 5
    assert len({finding.kind for finding in report.errors}) == 5
    assert f"10 of 11 images are there; {root / train.files[0]} is missing, the first" in told
    assert f"{root / val.files[1]} is not readable" in told
    assert f"image {val.ids[0]} is in val and in test" in told
    assert "low/extra.png is in test without an annotation" in told
    assert "test: 'one', 'two' are none of the 28 classes of train, and 'Attractive', 'BeatCompete'" in told
    assert "train: 5 of 6 images exist, 1.50 labels each" in str(report).splitlines()
    assert str(report).splitlines()[-1] == "11 images, 5 with a problem"


def test_a_check_counts_positives_by_name_where_a_split_numbers_its_classes_otherwise(root: Path) -> None:
    content = contents("test")
    content["categories"] = [{"id": 27 - one["id"], "name": one["name"]} for one in content["categories"]]
    for entry in content["annotations"]:
        entry["category_ids"] = [27 - number for number in entry["category_ids"]]
    annotation_file(root, "test").write_text(json.dumps(content))
    report = check_intentonomy(str(root))
    assert report.errors == []
    assert "19 NatBeauty: train 3, val 1, test 1" in str(report).splitlines()


def test_a_class_that_is_listed_twice_is_refused(root: Path) -> None:
    content = contents("val")
    for field, value, told in (("name", "Attractive", "'Attractive' is listed twice"), ("id", 0, "0 is listed twice")):
        twice = copy.deepcopy(content)
        twice["categories"][4][field] = value
        annotation_file(root, "val").write_text(json.dumps(twice))
        with pytest.raises(ValueError, match=told):
            read_annotations(annotation_file(root, "val"))


def test_a_split_that_cannot_be_read_is_a_problem_and_none_at_all_an_error(root: Path, tmp_path: Path) -> None:
    annotation_file(root, "test").unlink()
    (problem,) = check_intentonomy(str(root)).errors
    assert "intentonomy_test2020.json does not exist" in problem.message
    with pytest.raises(ValueError, match=r"intentonomy_train2020\.json does not exist"):
        check_intentonomy(str(tmp_path))


def test_images_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (root / "low").rename(tmp_path / "pictures" / "low")
    assert check_intentonomy(str(root), str(tmp_path / "pictures")).errors == []
    (error,) = check_intentonomy(str(root)).errors
    assert str(error).startswith("0 of 11 images are there; ")
    assert str(error).endswith("is missing, the first: is images= right?")
