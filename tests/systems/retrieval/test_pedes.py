"""Three published sets of people: what is read, what is refused, what a check finds."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightword.data.finding import CheckReport
from sightword.errors import SightwordError
from sightword.miniature.person import Sizes, write_cuhk, write_icfg, write_rstp
from sightword.systems.retrieval.check import check_pairs
from sightword.systems.retrieval.formats.published import FORMATS
from sightword.systems.retrieval.split import Source, Split, annotation_file, read_split

WRITERS = {"cuhk_pedes": write_cuhk, "icfg_pedes": write_icfg, "rstpreid": write_rstp}
SIZES = Sizes(8, 4, 4)


def read_pedes(root: Path | str, dataset: str, split: str, hold_out: int = 100) -> Split:
    return read_split(Source(dataset, root), split, hold_out)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three sets, under one folder."""
    root = tmp_path_factory.mktemp("worlds")
    for write in WRITERS.values():
        write(root, SIZES, 2, size=(48, 16))
    return root


def record(number: int, split: str, id_: int, **more: Any) -> dict[str, Any]:
    return {"split": split, "id": id_, "file_path": f"cam_a/{number}.png", "captions": [f"person {number}"]} | more


RECORDS = [
    record(0, "train", 9),
    record(1, "train", 4),
    record(2, "train", 9),
    record(3, "val", 7),
    record(4, "test", 5),
]


def write_set(root: Path, records: Any = RECORDS, name: str = "reid_raw.json", folder: str = "CUHK-PEDES") -> Path:
    """A set by hand: its JSON, and the images that records name."""
    (root / folder / "imgs" / "cam_a").mkdir(parents=True, exist_ok=True)
    (root / folder / name).write_text(records if isinstance(records, str) else json.dumps(records))
    for number in range(8):
        Image.new("RGB", (16, 48), (30 * number, 0, 0)).save(root / folder / "imgs" / "cam_a" / f"{number}.png")
    return root


# ----------------------------------------------------------------------------------------------------------- reading


def test_a_split_is_read_by_hand(tmp_path: Path) -> None:
    records = [RECORDS[0] | {"captions": ["one", " two "]}, *RECORDS[1:]]
    split = read_pedes(write_set(tmp_path), "cuhk_pedes", "train")
    assert [path.name for path in split.images] == ["0.png", "1.png", "2.png"]
    assert split.pids.tolist() == [1, 0, 1]  # 9 and 4 in their order, without the gap
    assert split.pids.dtype == np.int64
    assert split.captions == ["person 0", "person 1", "person 2"]
    split = read_pedes(write_set(tmp_path, records), "cuhk_pedes", "train")
    assert split.captions == ["one", "two", "person 1", "person 2"]
    assert split.caption_image.tolist() == [0, 0, 1, 2]
    assert split.caption_pids.tolist() == [1, 1, 0, 1]
    assert read_pedes(tmp_path, "cuhk_pedes", "val").pids.tolist() == [7]  # as read


@pytest.mark.parametrize(("dataset", "captions"), [("cuhk_pedes", 2), ("icfg_pedes", 1), ("rstpreid", 2)])
def test_every_format_is_read_from_its_folder_and_from_the_one_above(worlds: Path, dataset: str, captions: int) -> None:
    found = {split: read_pedes(worlds, dataset, split, hold_out=4) for split in ("train", "val", "test")}
    assert [len(set(split.pids.tolist())) for split in found.values()] == [8, 4, 4]
    for split in found.values():
        assert len(split.captions) == captions * len(split.images)
        assert len(split.images) == len(set(split.images)) == 2 * len(set(split.pids.tolist()))
        assert all(path.is_file() for path in split.images)
    assert sorted(set(found["train"].pids.tolist())) == list(range(8))
    inside = read_pedes(worlds / FORMATS[dataset].folder, dataset, "test")
    assert inside.images == found["test"].images
    assert inside.captions == found["test"].captions


def test_ids_of_cuhk_begin_with_one_and_those_of_training_with_zero(worlds: Path) -> None:
    train, test = (read_pedes(worlds, "cuhk_pedes", split) for split in ("train", "test"))
    truth = json.loads((worlds / "CUHK-PEDES" / "reid_raw.json").read_text())
    assert train.pids.tolist() == [record["id"] - 1 for record in truth if record["split"] == "train"]
    assert test.pids.tolist() == [record["id"] for record in truth if record["split"] == "test"]


def test_icfg_holds_the_same_identities_out_each_time_and_none_of_them_is_trained_on(worlds: Path) -> None:
    once, again = (read_pedes(worlds, "icfg_pedes", "val", hold_out=3) for _ in range(2))
    assert once.images == again.images
    assert len(set(once.pids.tolist())) == 3
    train = read_pedes(worlds, "icfg_pedes", "train", hold_out=3)
    assert not set(train.images) & set(once.images)
    assert len(train.images) + len(once.images) == 2 * (SIZES.train + SIZES.val)
    assert len(set(train.pids.tolist())) == 9
    assert once.pids.tolist() != sorted(set(once.pids.tolist()))  # ids as read, two images each
    larger = read_pedes(worlds, "icfg_pedes", "val", hold_out=5)
    assert len(set(larger.pids.tolist())) == 5
    with pytest.raises(ValueError, match="hold_out=12 of 12 training identities"):
        read_pedes(worlds, "icfg_pedes", "train", hold_out=12)


def test_a_set_with_a_validation_split_holds_nothing_out(worlds: Path) -> None:
    for hold_out in (1, 100):
        assert len(read_pedes(worlds, "rstpreid", "train", hold_out).images) == 16


def test_icfg_goes_by_either_name(tmp_path: Path) -> None:
    root = write_set(tmp_path, [r for r in RECORDS if r["split"] != "val"], "ICFG_PEDES.json", "ICFG-PEDES")
    assert annotation_file(root, "icfg_pedes").name == "ICFG_PEDES.json"
    assert len(read_pedes(root, "icfg_pedes", "test").images) == 1


def test_a_split_of_another_name_is_refused_with_the_name_that_may_be_meant(tmp_path: Path) -> None:
    root = write_set(tmp_path, [*RECORDS[:3], record(3, "gallery", 7)])
    for split in ("train", "val", "test"):
        with pytest.raises(
            SightwordError,
            match=r"\[3\]\.split: 'gallery' is none of train, val, test\. Write \"test\" for it if that is meant, or "
            r"leave such records out\. sightword check dataset=cuhk_pedes root=\S+ names all such records$",
        ):
            read_pedes(root, "cuhk_pedes", split)


def test_a_reader_says_what_a_check_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = [entry | {"captions": ["A person"]} for entry in RECORDS]
    root = write_set(tmp_path, [*shared, record(5, "train", 4), record(4, "test", 9)])
    read_pedes(root, "cuhk_pedes", "train")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "error", "warning"]
    checked = [str(finding) for finding in check_pairs(Source("cuhk_pedes", root)).findings]
    assert [line.split(": ", 1)[1] for line in said] == [line for line in checked if line in "\n".join(said)]
    assert "captions are of several people each, most of all 'a person' of 4" in said[-1]


def test_a_check_names_equal_images_of_two_splits_of_several_people_and_paths_that_differ_in_case(
    tmp_path: Path,
) -> None:
    root = write_set(tmp_path, [*RECORDS, record(6, "train", 4) | {"file_path": "cam_a/0.PNG"}])
    images = root / "CUHK-PEDES" / "imgs" / "cam_a"
    shutil.copy(images / "0.png", images / "4.png")
    report = check_pairs(Source("cuhk_pedes", root))
    kinds = {finding.kind for finding in report.findings}
    assert {"equal images in two splits", "paths spelt in several ways"} <= kinds
    assert "2 of 6 images are there" not in str(report)


def test_a_check_of_a_set_whose_images_are_elsewhere_is_one_line(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "CUHK-PEDES" / "imgs").rename(tmp_path / "elsewhere")
    (error,) = check_pairs(Source("cuhk_pedes", root)).errors
    assert str(error).startswith(f"0 of {len(RECORDS)} images are there; ")
    assert str(error).endswith("is missing, the first: is root= right?")
    assert error.count == len(error.files) == len(RECORDS)


def test_windows_slashes_name_the_same_file(tmp_path: Path) -> None:
    root = write_set(tmp_path, [*RECORDS[:4], RECORDS[4] | {"file_path": "cam_a\\4.png"}])
    assert read_pedes(root, "cuhk_pedes", "test").images[0].name == "4.png"


def test_captions_that_say_nothing_are_left_out_where_others_are(tmp_path: Path) -> None:
    root = write_set(tmp_path, [RECORDS[0] | {"captions": ["", "a person", "  "]}, *RECORDS[1:]])
    assert read_pedes(root, "cuhk_pedes", "train").captions[:2] == ["a person", "person 1"]


# ----------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": "a person"}, r"\[1\]\.captions: expected a list, got \"a person\""),
        ({"captions": [7]}, r"\[1\]\.captions\[0\]: expected a text, got 7"),
        ({"id": "4"}, r"\[1\]\.id: expected a whole number .*, got \"4\""),
        ({"id": -1}, r"\[1\]\.id: expected a whole number .*, got -1"),
        ({"id": 10**30}, r"\[1\]\.id: expected a whole number .*, got 1000"),
        ({"file_path": "../1.png"}, r"\[1\]\.file_path: '../1.png' is not a path below imgs/"),
        ({"file_path": "/etc/1.png"}, r"not a path below imgs/"),
        ({"file_path": "C:\\1.png"}, r"not a path below imgs/"),
        ({"file_path": ""}, r"not a path below imgs/"),
    ],
)
def test_a_record_that_is_not_right_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    root = write_set(tmp_path, [RECORDS[0], RECORDS[1] | change, *RECORDS[2:]])
    with pytest.raises(ValueError, match=message) as error:
        read_pedes(root, "cuhk_pedes", "train")
    assert "\n" not in str(error.value)
    assert "reid_raw.json" in str(error.value)


@pytest.mark.parametrize("captions", [[], ["", " "]])
def test_a_record_without_a_caption_is_left_out_with_a_count(
    tmp_path: Path, captions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path, [RECORDS[0], RECORDS[1] | {"captions": captions}, *RECORDS[2:]])
    assert [path.name for path in read_pedes(root, "cuhk_pedes", "train").images] == ["0.png", "2.png"]
    assert (
        "warning: 1 of 5 records have no caption with a word and are left out, cam_a/1.png the first: sightword check "
        "dataset=cuhk_pedes"
    ) in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "", "[]", '{"images": []}', "[1, 2]", "\ufeff\x00", "null"])
def test_a_file_that_is_no_list_of_records_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match="reid_raw.json") as error:
        read_pedes(write_set(tmp_path, content), "cuhk_pedes", "train")
    assert "\n" not in str(error.value)


def test_records_of_another_set_are_recognised(tmp_path: Path, worlds: Path) -> None:
    foreign = (worlds / "RSTPReid" / "data_captions.json").read_text()
    with pytest.raises(ValueError, match=r"\.file_path: is missing \(as in dataset=rstpreid\)"):
        read_pedes(write_set(tmp_path, foreign), "cuhk_pedes", "train")
    without = [{key: value for key, value in r.items() if key != "split"} for r in RECORDS]
    with pytest.raises(ValueError, match=r"\.split: is missing \(as in caption_all.json"):
        read_pedes(write_set(tmp_path, without), "cuhk_pedes", "train")


def test_a_missing_file_is_told_with_what_lies_there_instead(tmp_path: Path, worlds: Path) -> None:
    with pytest.raises(ValueError, match=r"has no data_captions.json.*\(it has reid_raw.json, which is dataset=cuhk"):
        read_pedes(worlds / "CUHK-PEDES", "rstpreid", "train")
    with pytest.raises(ValueError, match=r"has no reid_raw.json.*it has caption_all.json, which has no splits"):
        read_pedes(write_set(tmp_path, RECORDS, "caption_all.json"), "cuhk_pedes", "train")
    with pytest.raises(ValueError, match="the folder does not exist"):
        read_pedes(tmp_path / "nowhere", "cuhk_pedes", "train")
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        read_pedes("", "cuhk_pedes", "train")
    with pytest.raises(ValueError, match="dataset='cuhk' is none of"):
        read_pedes(tmp_path, "cuhk", "train")
    with pytest.raises(ValueError, match="split='dev' is none of train, val, test"):
        read_pedes(worlds, "cuhk_pedes", "dev")


def test_missing_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "CUHK-PEDES" / "imgs" / "cam_a" / "1.png").unlink()
    with pytest.raises(
        ValueError, match=r"1 of 3 images of train are missing, the first is .*1\.png\. sightword check"
    ):
        read_pedes(root, "cuhk_pedes", "train")
    assert len(read_pedes(root, "cuhk_pedes", "test").images) == 1


def test_a_split_without_a_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no record of split test\. sightword check dataset=cuhk_pedes root=.* counts"
    ):
        read_pedes(write_set(tmp_path, RECORDS[:4]), "cuhk_pedes", "test")


# ------------------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize("dataset", list(WRITERS))
def test_a_whole_set_has_no_problem_and_its_counts_stand_beside_the_published_ones(worlds: Path, dataset: str) -> None:
    report = check_pairs(Source(dataset, worlds))
    assert isinstance(report, CheckReport)
    assert report.errors == []
    assert report.count == 32
    train = 12 if dataset == "icfg_pedes" else 8
    captions = 2 * train * (1 if dataset == "icfg_pedes" else 2)
    published = "{} identities, {} images, {} captions".format(*FORMATS[dataset].published["train"])
    notes = [str(finding) for finding in report.findings if finding.level == "note"]
    assert notes[0] == (f"train: {train} identities, {2 * train} images, {captions} captions (published: {published})")
    assert ("val: not in this data set" in notes[1]) == (dataset == "icfg_pedes")


def test_a_check_names_everything_that_is_wrong(tmp_path: Path) -> None:
    records = [
        RECORDS[0] | {"captions": ["a person", ""]},
        RECORDS[1] | {"captions": []},
        RECORDS[2] | {"id": "nine"},
        *RECORDS[3:],
        record(6, "test", 9),
        record(5, "train", 4),
        record(4, "test", 5),
        record(99, "test", 5),
    ]
    root = write_set(tmp_path, records)
    (root / "CUHK-PEDES" / "imgs" / "cam_a" / "3.png").write_bytes(b"no image")
    report = check_pairs(Source("cuhk_pedes", root))
    text = "\n".join(map(str, report.errors))
    assert len(report.errors) == 7, text
    for line in (
        "[0].captions: cam_a/0.png has 1 captions without a word",
        "[1].captions: cam_a/1.png has no caption",
        '[2].id: expected a whole number from 0 to 9223372036854775807, got "nine"',
        "6 of 7 images are there; ",
        "cam_a/99.png is missing, the first",
        "cam_a/3.png is not readable as an image",
        "1 of 7 images are listed twice, cam_a/4.png the first",
        "1 of 4 identities are in two splits, identity 9 in test and in train the first",
    ):
        assert line in text
    assert report.count == 7
    assert str(report.findings[0]).endswith("; ids 4 to 9 with gaps")


def test_a_check_names_splits_that_are_none_of_the_three(tmp_path: Path) -> None:
    root = write_set(tmp_path, [*RECORDS, record(6, "TEST", 8), record(7, "TEST", 8)])
    report = check_pairs(Source("cuhk_pedes", root))
    (error,) = report.errors
    assert "2 records have a split that is unknown: 'TEST' is none of train, val, test. Write \"test\" for" in str(
        error
    )
    assert error.count == 2


def test_a_check_of_what_is_no_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[0\]: expected an object, got 1"):
        check_pairs(Source("cuhk_pedes", write_set(tmp_path, [1, 2])))


def test_counts_as_published_are_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = FORMATS["cuhk_pedes"]._replace(published={"train": (2, 3, 3), "val": (1, 1, 1), "test": (1, 1, 2)})
    monkeypatch.setattr("sightword.systems.retrieval.split.FORMATS", {**FORMATS, "cuhk_pedes": small})
    monkeypatch.setattr("sightword.systems.retrieval.check.FORMATS", {**FORMATS, "cuhk_pedes": small})
    findings = check_pairs(Source("cuhk_pedes", write_set(tmp_path))).findings
    notes = [str(finding) for finding in findings if finding.level == "note"]
    assert ["as published" in note for note in notes] == [True, True, False]
